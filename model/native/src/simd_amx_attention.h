// Attention in AMX tiles, for bfloat16 keys and values and heads of a multiple of 32: 16 queries by 16 positions (or by
// 16 dimensions) at once. The three steps are those of simd_attention.h: scores of all positions, weights, sums.
//
// The block's part has a layout of its own, of the same size, in which the two factors that a tile's product takes
// together are side by side: keys [D/2][32 positions][2 dimensions], values [16][D][2 positions].
// Queries (times scale and log2 e) and weights are rounded to bfloat16; what the weights add up to is taken after that.
//
// Why a query has the same bits in every tile: a row of a tile's product is made of that row alone, over 32 dimensions
// or a block of positions in the processor's fixed order. Weights of positions beyond a query's own are zero, which add
// nothing to a sum as long as the values are finite; where they are not, each query is taken alone.
#pragma once
#include "amx_tiles.h"

namespace slotwise::SLOTWISE_ISA {

constexpr float LOG2_E = 1.44269504f;

constexpr bool has_pairs(KVType type, int head_dim) { return type == KVType::BF16 && head_dim % PAIR_COLUMNS == 0; }

// Key and value of one position into a block's part.
SW_INLINE void place_pairs(const uint16_t* key, const uint16_t* value, int head_dim, int offset, uint8_t* block) {
    uint16_t* values = (uint16_t*)block + BLOCK * head_dim + offset / 2 * 2 * head_dim;
    const __mmask32 half = offset % 2 ? 0xaaaaaaaa : 0x55555555;
    for (int d = 0; d < head_dim; d += 2) memcpy(block + 2 * (d * BLOCK + 2 * offset), key + d, 4);
    for (int d = 0; d < head_dim; d += SIDE) {
        const U both = (U)widen_u16(value + d) * 0x10001u;
        _mm512_mask_storeu_epi16(values + 2 * d, half, (__m512i)both);
    }
}

// Tiles 0 to 3 are sums and 4, 5 factors, of as many rows as there are queries; 6 and 7 keys or values.
SW_INLINE void configure_queries(int num_queries) {
    TileConfig config;
    for (int i = 0; i < 8; ++i) config.set(i, i < 6 ? num_queries : SIDE);
    configure(config);
}

// A query tile's rows go through the tiles of the processor in parts of one size; where they are no multiple, the last
// overlaps the one before and computes the same again.
struct Parts {
    int rows, count;
    explicit Parts(const QueryTile& tile)
        : rows(tile.count < SIDE ? tile.count : SIDE), count((tile.count + SIDE - 1) / SIDE),
          last_(tile.count - rows) {}
    int first(int part) const { return part * SIDE < last_ ? part * SIDE : last_; }
    int end(int part) const { return first(part) + rows; }

private:
    int last_;
};

SW_INLINE void prefetch(const uint8_t* p, int64_t num_bytes) {
    for (int64_t i = 0; i < num_bytes; i += 64) __builtin_prefetch(p + i);
}

static void round_queries(const QueryTile& tile) {
    const V factor = all(tile.work.scale * LOG2_E);
    uint16_t* rounded = (uint16_t*)tile.queries;
    for (int i = 0; i < tile.count; ++i) {
        const float* q = tile.work.q + tile.offset(i, tile.work.q_stride);
        for (int d = 0; d < tile.work.head_dim; d += W, rounded += W) {
            const __m256bh half = _mm512_cvtneps_pbh((__m512)(load(q + d) * factor));
            memcpy(rounded, &half, sizeof half);
        }
    }
}

// Scores of one part's queries in a block: [rows, 32].
SW_INLINE void score_part(const uint16_t* queries, const uint8_t* keys, int dim, float* scores, int64_t stride) {
    clear_tile<0>();
    clear_tile<1>();
    for (int d = 0; d < dim; d += PAIR_COLUMNS) {
        const uint8_t* pairs = keys + 2 * d * BLOCK;
        load_tile<4>(queries + d, 2 * dim);
        load_tile<6>(pairs, 4 * BLOCK);
        load_tile<7>(pairs + 4 * SIDE, 4 * BLOCK);
        multiply_bf16<0, 4, 6>();
        multiply_bf16<1, 4, 7>();
    }
    store_tile<0>(scores, 4 * stride);
    store_tile<1>(scores + SIDE, 4 * stride);
}

static void score_by_tiles(const QueryTile& tile, const Parts& parts) {
    const int dim = tile.work.head_dim;
    const int64_t key_bytes = (int64_t)2 * BLOCK * dim;
    for (int block = 0; block < tile.num_blocks(); ++block) {
        const uint8_t* keys = tile.work.blocks[block];
        if (parts.count == 1) {  // with more, memory has time enough
            prefetch(keys + key_bytes, key_bytes);
            if (block + 1 < tile.num_blocks()) prefetch(tile.work.blocks[block + 1], key_bytes);
        }
        for (int part = 0; part < parts.count; ++part) {
            const int first = parts.first(part);
            if (tile.num_in_block(parts.end(part) - 1, block) == 0) continue;
            score_part((const uint16_t*)tile.queries + first * dim, keys, dim,
                       tile.scores + first * tile.score_stride + block * BLOCK, tile.score_stride);
        }
    }
}

// 2^x for x <= 0, with a relative error below 3e-6; NaN stays NaN. 2^(x - floor(x)) by the polynomial of degree 4 whose
// largest relative error is least.
SW_INLINE V power_of_two(V x) {
    const V r = (V)_mm512_reduce_ps((__m512)x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
    V p = fma(all(0.013534170f), r, all(0.052011464f));
    p = fma(p, r, all(0.24144275f));
    p = fma(p, r, all(0.69300384f));
    p = fma(p, r, all(1.0000026f));
    return (V)_mm512_scalef_ps((__m512)p, (__m512)x);
}

// 32 scores, of which the first `count` are a query's own, to weights in the same place; adds those to the total.
SW_INLINE V weigh_block(const float* scores, int count, V maximum, uint16_t* weights, V total) {
    V low = power_of_two(load(scores) - maximum), high = power_of_two(load(scores + W) - maximum);
    if (count < BLOCK) {
        low = select(lane_numbers() < count, low, V{});
        high = select(lane_numbers() < count - W, high, V{});
    }
    const __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
    memcpy(weights, &rounded, sizeof rounded);
    return (V)_mm512_dpbf16_ps((__m512)total, rounded, (__m512bh)_mm512_set1_epi16(0x3f80));
}

// A row of scores to the weights of n positions, as bfloat16 at the row's beginning, and zeros up to the end of the
// tile's blocks. Returns their sum.
static float weigh_row(float* scores, int n, int num_blocks) {
    const V maximum = all(largest(scores, n));
    uint16_t* weights = (uint16_t*)scores;
    V total{};
    int i = 0;
    for (; i + BLOCK <= n; i += BLOCK) total = weigh_block(scores + i, BLOCK, maximum, weights + i, total);
    if (i < n) {
        total = weigh_block(scores + i, n - i, maximum, weights + i, total);
        i += BLOCK;
    }
    memset(weights + i, 0, sizeof(uint16_t) * (num_blocks * BLOCK - i));
    return _mm512_reduce_add_ps((__m512)total);
}

// Values of the last block, with zeros at the positions that nobody sees: those may hold anything.
static const uint8_t* seen_values(const QueryTile& tile) {
    const int dim = tile.work.head_dim, block = tile.num_blocks() - 1, count = tile.num_in_block(tile.count - 1, block);
    const uint8_t* values = tile.work.blocks[block] + 2 * BLOCK * dim;
    if (count == BLOCK) return values;
    const int64_t row = 4 * dim;
    uint8_t* staged = (uint8_t*)tile.staged;
    memcpy(staged, values, (count + 1) / 2 * row);
    if (count % 2)
        for (int64_t i = count / 2 * row; i < (count / 2 + 1) * row; i += 4 * W) {
            I pairs;
            memcpy(&pairs, staged + i, sizeof pairs);
            pairs &= 0xffff;
            memcpy(staged + i, &pairs, sizeof pairs);
        }
    memset(staged + (count + 1) / 2 * row, 0, (BLOCK / 2 - (count + 1) / 2) * row);
    return staged;
}

// Sums [rows, 16 * Columns] of one part over all blocks, from one column on.
template <int Columns>
SW_INLINE void sum_columns(const QueryTile& tile, int first, int num_blocks, const uint8_t* last_values, int column) {
    const int dim = tile.work.head_dim;
    const uint16_t* weights = (const uint16_t*)(tile.scores + first * tile.score_stride);
    clear_tile<0>();
    clear_tile<1>();
    if constexpr (Columns == 4) {
        clear_tile<2>();
        clear_tile<3>();
    }
    for (int block = 0; block < num_blocks; ++block) {
        const bool is_last = block + 1 == tile.num_blocks();
        const uint8_t* values = is_last ? last_values : tile.work.blocks[block] + 2 * BLOCK * dim;
        const uint8_t* pairs = values + 4 * column;
        load_tile<4>(weights + block * BLOCK, 4 * tile.score_stride);
        load_tile<6>(pairs, 4 * dim);
        multiply_bf16<0, 4, 6>();
        load_tile<7>(pairs + 4 * SIDE, 4 * dim);
        multiply_bf16<1, 4, 7>();
        if constexpr (Columns == 4) {
            load_tile<6>(pairs + 8 * SIDE, 4 * dim);
            multiply_bf16<2, 4, 6>();
            load_tile<7>(pairs + 12 * SIDE, 4 * dim);
            multiply_bf16<3, 4, 7>();
        }
    }
    float* sums = tile.sums + first * tile.sum_stride + column;
    store_tile<0>(sums, 4 * tile.sum_stride);
    store_tile<1>(sums + SIDE, 4 * tile.sum_stride);
    if constexpr (Columns == 4) {
        store_tile<2>(sums + 2 * SIDE, 4 * tile.sum_stride);
        store_tile<3>(sums + 3 * SIDE, 4 * tile.sum_stride);
    }
}

static void sum_by_tiles(const QueryTile& tile, const Parts& parts) {
    const int dim = tile.work.head_dim;
    const uint8_t* last_values = seen_values(tile);
    for (int part = 0; part < parts.count; ++part) {
        const int first = parts.first(part), num_blocks = (tile.num_positions(parts.end(part) - 1) + BLOCK - 1) / BLOCK;
        int column = 0;
        for (; column + 4 * SIDE <= dim; column += 4 * SIDE)
            sum_columns<4>(tile, first, num_blocks, last_values, column);
        if (column < dim) sum_columns<2>(tile, first, num_blocks, last_values, column);
    }
}

// Whether the values at the positions that only some of the queries see are all finite.
static bool are_later_values_finite(const QueryTile& tile) {
    const int dim = tile.work.head_dim;
    for (int position = tile.num_positions(0); position < tile.num_positions(tile.count - 1); ++position) {
        const uint8_t* values = tile.work.blocks[position / BLOCK] + 2 * BLOCK * dim + position % BLOCK / 2 * 4 * dim;
        const I exponent = all_int(position % 2 ? 0x7f800000 : 0x7f80);
        I bad{};
        for (int d = 0; d < dim; d += W) {
            const I pairs = load_int((const int32_t*)values + d);
            bad |= (pairs & exponent) == exponent;
        }
        if (max(-bad)) return false;
    }
    return true;
}

static void attend_by_tiles(const QueryTile& tile) {
    const Parts parts(tile);
    float factors[QUERY_TILE];
    round_queries(tile);
    configure_queries(parts.rows);
    score_by_tiles(tile, parts);
    for (int i = 0; i < tile.count; ++i)
        factors[i] = 1 / weigh_row(tile.scores + i * tile.score_stride, tile.num_positions(i), tile.num_blocks());
    sum_by_tiles(tile, parts);
    for (int i = 0; i < tile.count; ++i) write_out(tile, i, factors[i]);
}

static void attend_pairs(const QueryTile& tile) {
    if (are_later_values_finite(tile)) {
        attend_by_tiles(tile);
    } else {
        QueryTile alone{tile};
        alone.count = 1;
        for (int i = 0; i < tile.count; ++i, ++alone.first) attend_by_tiles(alone);
    }
    release_tiles();
}

}  // namespace slotwise::SLOTWISE_ISA

// Attention over the blocks of one slot: a tile of queries takes two passes, scores and softmax first, then values.
// Both passes are the same small matrix product: scores = q [R, D] . keys [D, 32], sums += probabilities [R, 32] .
// values [32, D], lanes being positions in the one and dimensions in the other.
//
// Why a query has the same bits in every tile: each score is one chain of fused multiply-adds in the order of the
// dimensions, each sum one chain in the order of the positions (kept in memory between blocks, which loses nothing),
// and the softmax of a row depends on its number of positions alone. Tiles only choose which chains advance together.
#pragma once
#include <math.h>

#include "attention_tile.h"
#include "kernels.h"
#include "lanes.h"

namespace slotwise::SLOTWISE_ISA {

// Rows of a product kept in registers; the columns are what is left of them (16 accumulators of 32, 8 of 16).
constexpr int MAX_QUERY_ROWS = W == 8 ? 4 : 8;
constexpr int max_columns(int rows) { return 4 * rows <= 2 * MAX_QUERY_ROWS ? 4 : 2; }

SW_INLINE V load_element(const float* p) { return load(p); }
SW_INLINE V load_element(const uint16_t* p) { return load_bf16(p); }
SW_INLINE V load_element(const int8_t* p) { return to_float(widen_i8(p)); }

// c [R, width] = or += a [R, count] . b [count, width]. Reads and writes width rounded up to W.
template <class T>
struct Accumulation {
    const float* a;
    int64_t a_stride;
    const T* b;
    int64_t b_stride;
    float* c;
    int64_t c_stride;
    int count, width;
    bool adds;
    int64_t ahead;  // bytes from a row of b to one that will be wanted soon
};

template <int R, int C, class T>
SW_INLINE void accumulate_columns(const Accumulation<T>& p, int column) {
    V total[R][C];
    constexpr int line = 64 / (W * sizeof(T)) > 1 ? 64 / (W * sizeof(T)) : 1;  // vectors in a line of the cache
    const T* b = p.b + column;
    float* c = p.c + column;
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < C; ++j) total[r][j] = p.adds ? load(c + r * p.c_stride + j * W) : V{};
    for (int k = 0; k < p.count; ++k) {
        V row[C];
        if constexpr (R < MAX_QUERY_ROWS)  // with more, memory has time enough
            for (int j = 0; j < C; j += line) __builtin_prefetch((const char*)(b + k * p.b_stride + j * W) + p.ahead);
        for (int j = 0; j < C; ++j) row[j] = load_element(b + k * p.b_stride + j * W);
        for (int r = 0; r < R; ++r) {
            const V x = all(p.a[r * p.a_stride + k]);
            for (int j = 0; j < C; ++j) total[r][j] = fma(x, row[j], total[r][j]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int j = 0; j < C; ++j) store(c + r * p.c_stride + j * W, total[r][j]);
}

// As many columns at once as registers allow, then half as many, down to one vector.
template <int R, int C, class T>
SW_INLINE void accumulate_from(const Accumulation<T>& p, int column) {
    for (; column + (C - 1) * W < p.width; column += C * W) accumulate_columns<R, C>(p, column);
    if constexpr (C > 1) accumulate_from<R, C / 2>(p, column);
}

template <int R, class T>
static void accumulate_rows(const Accumulation<T>& p, int rows) {
    if constexpr (R > 1)
        if (rows < R) return accumulate_rows<R - 1>(p, rows);
    accumulate_from<R, max_columns(R)>(p, 0);
}

template <class T>
SW_INLINE void accumulate(const Accumulation<T>& p, int rows) {
    if (p.count > 0) accumulate_rows<MAX_QUERY_ROWS>(p, rows);
}

// Up to QUERY_TILE queries (token t, head g is number t*G + g) and where their intermediate results are.
struct QueryTile {
    const AttentionWork& work;
    int first, count;
    float *queries, *sums, *staged, *scores;
    int64_t sum_stride, score_stride;

    // Positions that a query of the tile sees.
    int num_positions(int query) const { return work.first_position + (first + query) / work.group_heads + 1; }
    int num_blocks() const { return (num_positions(count - 1) + BLOCK - 1) / BLOCK; }
    // How many of a block's positions it sees: 0 … 32.
    int num_in_block(int query, int block) const {
        const int n = num_positions(query) - block * BLOCK;
        return n < 0 ? 0 : n < BLOCK ? n : BLOCK;
    }
    int64_t offset(int query, int64_t stride) const {
        const int number = first + query;
        return number / work.group_heads * stride + number % work.group_heads * work.head_dim;
    }
    // Bytes from a block to the next one, which the processor cannot guess; 0 behind the last. It is fetched row by row
    // while this one is used: without that, long contexts are read at half the speed of memory.
    int64_t ahead(int block) const {
        return block + 1 < num_blocks() ? work.blocks[block + 1] - work.blocks[block] : 0;
    }
    // Rows of a product: the queries in equal parts.
    int part() const {
        const int parts = (count + MAX_QUERY_ROWS - 1) / MAX_QUERY_ROWS;
        return (count + parts - 1) / parts;
    }
};

static QueryTile make_query_tile(const AttentionWork& work, int first) {
    const int left = work.num_tokens * work.group_heads - first, count = left < QUERY_TILE ? left : QUERY_TILE;
    const int64_t dim = padded_dim(work.head_dim);
    float* scratch = (float*)(((uintptr_t)work.scratch + 63) & ~(uintptr_t)63);
    float* sums = scratch + count * dim;
    float* staged = sums + count * dim;
    float* scores = staged + BLOCK * dim + 16;
    return {work, first, count, scratch, sums, staged, scores, dim,
            score_stride(work.first_position + work.num_tokens)};
}

static void take_queries(const QueryTile& tile) {
    for (int i = 0; i < tile.count; ++i) {
        const float* q = tile.work.q + tile.offset(i, tile.work.q_stride);
        float* scaled = tile.queries + i * tile.work.head_dim;
        for (int d = 0; d < tile.work.head_dim; ++d) scaled[d] = q[d] * tile.work.scale;
    }
}

// Keys or values of a block as floats. A tile of several parts is worth the copy, which each part would else convert
// anew; and where rows are no whole number of vectors, the last would be read beyond the block.
template <class T>
static bool needs_staging(const QueryTile& tile) {
    return tile.work.head_dim % W != 0 || (sizeof(T) < sizeof(float) && tile.count > MAX_QUERY_ROWS);
}

template <class T>
static const float* stage(const QueryTile& tile, const T* elements) {
    for (int i = 0; i < BLOCK * tile.work.head_dim; i += W) store(tile.staged + i, load_element(elements + i));
    return tile.staged;
}

template <class T>
static void score_block(const QueryTile& tile, const T* keys, int block, int64_t ahead) {
    const int dim = tile.work.head_dim, part = tile.part();
    for (int i = 0; i < tile.count; i += part) {
        const int rows = i + part < tile.count ? part : tile.count - i;
        if (tile.num_in_block(i + rows - 1, block) == 0) continue;
        float* scores = tile.scores + i * tile.score_stride + block * BLOCK;
        accumulate(Accumulation<T>{tile.queries + i * dim, dim, keys, BLOCK, scores, tile.score_stride, dim, BLOCK,
                                   false, ahead}, rows);
    }
}

// The positions that all queries of a part see, then, for each query alone, those that only later ones see: what lies
// beyond a query's own position is never multiplied, not even by zero.
template <class T>
static void add_values(const QueryTile& tile, const T* values, int block, int64_t ahead) {
    const int dim = tile.work.head_dim, part = tile.part();
    for (int i = 0; i < tile.count; i += part) {
        const int rows = i + part < tile.count ? part : tile.count - i, shared = tile.num_in_block(i, block);
        const float* weights = tile.scores + i * tile.score_stride + block * BLOCK;
        float* sums = tile.sums + i * tile.sum_stride;
        const Accumulation<T> together{weights, tile.score_stride, values, dim, sums, tile.sum_stride,
                                       shared, dim, true, ahead};
        accumulate(together, rows);
        for (int r = 0; r < rows; ++r) {
            Accumulation<T> alone = together;
            alone.a += r * tile.score_stride + shared;
            alone.b += shared * dim;
            alone.c += r * tile.sum_stride;
            alone.count = tile.num_in_block(i + r, block) - shared;
            accumulate(alone, 1);
        }
    }
}

// The scores of n positions times their blocks' scales, which stand `offset` bytes into each block.
static void apply_scales(const QueryTile& tile, float* scores, int n, int64_t offset) {
    for (int block = 0; block * BLOCK < n; ++block)
        for (int i = 0; i < BLOCK; i += W) {
            float* p = scores + block * BLOCK + i;
            store(p, load(p) * load((const float*)(tile.work.blocks[block] + offset) + i));
        }
}

// The largest of the first n scores; lanes beyond are replaced before use.
SW_INLINE float largest(const float* scores, int n) {
    V even = all(-INFINITY), odd = even;
    int i = 0;
    for (; i + 2 * W <= n; i += 2 * W) {
        even = max(load(scores + i), even);
        odd = max(load(scores + i + W), odd);
    }
    for (; i < n; i += W) even = max(select(lane_numbers() < n - i, load(scores + i), even), even);
    return max(max(even, odd));
}

// Scores of n positions to exp(score - maximum), in place; returns their sum. A NaN among them is in the sum, too.
static float exponentiate(float* scores, int n) {
    const V maximum = all(largest(scores, n));
    V total{};
    int i = 0;
    for (; i + W <= n; i += W) {
        const V e = exp(load(scores + i) - maximum);
        store(scores + i, e);
        total += e;
    }
    if (i < n) {
        const V e = select(lane_numbers() < n - i, exp(load(scores + i) - maximum), V{});
        store(scores + i, e);
        total += e;
    }
    return sum(total);
}

static void write_out(const QueryTile& tile, int query, float factor) {
    const float* sums = tile.sums + query * tile.sum_stride;
    float* out = tile.work.out + tile.offset(query, tile.work.out_stride);
    for (int d = 0; d < tile.work.head_dim; ++d) out[d] = sums[d] * factor + 0.0f;  // no zero is negative
}

// Scores to weights, which the factors make add up to one. INT8: a key's scale belongs to its score, a value's to its
// weight.
template <class T>
static void weigh(const QueryTile& tile, float (&factors)[QUERY_TILE]) {
    constexpr bool has_scales = sizeof(T) == 1;
    const int64_t key_scales = (int64_t)2 * BLOCK * tile.work.head_dim;  // in bytes
    const int64_t value_scales = key_scales + BLOCK * sizeof(float);
    for (int i = 0; i < tile.count; ++i) {
        float* scores = tile.scores + i * tile.score_stride;
        const int n = tile.num_positions(i);
        if (has_scales) apply_scales(tile, scores, n, key_scales);
        factors[i] = 1 / exponentiate(scores, n);
        if (has_scales) apply_scales(tile, scores, n, value_scales);
    }
}

template <class T>
static void attend_tile(const QueryTile& tile) {
    const uint8_t* const* blocks = tile.work.blocks;
    const bool staging = needs_staging<T>(tile);
    float factors[QUERY_TILE];
    take_queries(tile);
    for (int block = 0; block < tile.num_blocks(); ++block) {
        const T* keys = (const T*)blocks[block];
        staging ? score_block(tile, stage(tile, keys), block, 0) : score_block(tile, keys, block, tile.ahead(block));
    }
    weigh<T>(tile, factors);
    memset(tile.sums, 0, sizeof(float) * tile.count * tile.sum_stride);
    for (int block = 0; block < tile.num_blocks(); ++block) {
        const T* values = (const T*)blocks[block] + BLOCK * tile.work.head_dim;
        staging ? add_values(tile, stage(tile, values), block, 0) : add_values(tile, values, block, tile.ahead(block));
    }
    for (int i = 0; i < tile.count; ++i) write_out(tile, i, factors[i]);
}

#if defined(__AMX_BF16__)
}  // namespace slotwise::SLOTWISE_ISA
#include "simd_amx_attention.h"
namespace slotwise::SLOTWISE_ISA {
static void attend_bf16(const QueryTile& tile) {
    has_pairs(tile.work.kv_type, tile.work.head_dim) ? attend_pairs(tile) : attend_tile<uint16_t>(tile);
}
#else
static void attend_bf16(const QueryTile& tile) { attend_tile<uint16_t>(tile); }
#endif

static void attend(const AttentionWork& work) {
    for (int first = 0; first < work.num_tokens * work.group_heads; first += QUERY_TILE) {
        const QueryTile tile = make_query_tile(work, first);
        switch (work.kv_type) {
            case KVType::F32: attend_tile<float>(tile); break;
            case KVType::BF16: attend_bf16(tile); break;
            case KVType::INT8: attend_tile<int8_t>(tile); break;
        }
    }
}

}  // namespace slotwise::SLOTWISE_ISA

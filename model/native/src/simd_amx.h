// The integer products of simd_matmul.h with AMX tiles, where there are rows enough to fill them: a tile of 16 rows by a
// panel of 16, one group of 32 columns at a time. The dot products are the same integers, and take() adds them up in
// the same order, so that a row's result is the same bits as without tiles.
#pragma once
#include "amx_tiles.h"

namespace slotwise::SLOTWISE_ISA {

constexpr int TILE_ROWS = ROW_TILE;
constexpr int MIN_TILE_ROWS = 5;      // fewer are quicker without tiles
constexpr int MAX_GROUPS = 1024;      // of a panel that is unpacked at once: more columns take the other path

// Tiles 0, 1: dot products; 2, 3: activations; 4, 5: weights.
SW_INLINE void configure_tiles(int rows) {
    TileConfig config;
    for (int i = 0; i < 2; ++i) {
        config.set(i, rows);
        config.set(2 + i, rows, GROUP);
        config.set(4 + i, WORDS);
    }
    configure(config);
}

template <Encoding E>
SW_INLINE void put_codes(I codes, uint8_t* bytes) {
    const __m512i offset = _mm512_set1_epi8((char)offset_of(E));
    _mm512_store_si512(bytes, _mm512_sub_epi8((__m512i)codes, offset));
}

// The codes of a panel as signed bytes [group][8][16][4]: without the offset that unsigned ones need.
template <Encoding E>
SW_INLINE void unpack_panel(const uint8_t* panel, int groups, uint8_t* bytes) {
    for (int g = 0; g < groups; ++g, panel += group_bytes(E), bytes += PANEL * GROUP)
#pragma GCC unroll 8
        for (int i = 0; i < (is_nibbles(E) ? WORDS / 2 : WORDS); ++i) {
            const I codes = load_bytes(panel + i * STEP);
            if constexpr (is_nibbles(E)) {
                put_codes<E>(codes & all_int(0x0f0f0f0f), bytes + i * STEP);
                put_codes<E>((I)((U)codes >> 4) & all_int(0x0f0f0f0f), bytes + (i + WORDS / 2) * STEP);
            } else {
                put_codes<E>(codes, bytes + i * STEP);
            }
        }
}

// Dot products of the rows with a group. There are two sets of tiles, so that one's product can be under way while the
// other's is added up.
template <int Set>
SW_INLINE void dots_by_tile(const int8_t* q, int64_t q_stride, const uint8_t* bytes, int32_t* dots) {
    clear_tile<Set>();
    load_tile<2 + Set>(q, q_stride);
    load_tile<4 + Set>(bytes, 4 * PANEL);
    multiply_i8<Set, 2 + Set, 4 + Set>();
    store_tile<Set>(dots, 4 * PANEL);
}

// step(i) for 0 <= i < N, each a constant, so that arrays of vectors stay in registers.
template <int N, int First = 0, class F>
SW_INLINE void unrolled(const F& step) {
    if constexpr (First < N) {
        step(First);
        unrolled<N, First + 1>(step);
    }
}

// `place`: of the first row's scale of this group; the other rows' are beside it.
template <Encoding E, int R>
SW_INLINE void take_group(const int32_t* dots, const uint8_t* scales, const Activations& x, int64_t place, V (&sums)[R]) {
    V scale = load_f16(scales), minimum = E == Encoding::Q4_1 ? load_f16(scales + 2 * PANEL) : V{};
    const float *row_scale = x.scale + place, *row_shift = x.shift + place;
    unrolled<R>([&](int r) __attribute__((always_inline)) {
        sums[r] = take<E>(sums[r], load_int(dots + r * PANEL), scale, minimum, row_scale[r], row_shift[r]);
    });
}

// R rows from `row`, which begins a tile, by one panel, whose codes are `bytes`. `ahead`: bytes from the panel to what is
// to be fetched meanwhile.
template <Encoding E, int R>
static void tile_by_panel(const Product& product, int64_t row, int panel, const uint8_t* bytes, int64_t ahead) {
    constexpr int64_t stride = PANEL * GROUP;
    alignas(64) int32_t dots[2][TILE_ROWS * PANEL];
    const Activations& x = product.x;
    const uint8_t* packed = product.matrix.panels + panel * product.matrix.panel_bytes;
    const uint8_t* scales = packed + code_bytes(E);
    const int8_t* q = x.q + row * x.columns;
    int groups = x.columns / GROUP;
    int64_t place = group_place(row, groups);
    V sums[R] = {};
    dots_by_tile<0>(q, x.columns, bytes, dots[0]);
    for (int g = 0; g < groups; g += 2) {
        for (int i = 0; i < 2 * group_bytes(E); i += 64) __builtin_prefetch(packed + ahead + g * group_bytes(E) + i, 0, 2);
        if (g + 1 < groups) dots_by_tile<1>(q + (g + 1) * GROUP, x.columns, bytes + (g + 1) * stride, dots[1]);
        take_group<E, R>(dots[0], scales + g * group_bytes(E), x, place + g * ROW_TILE, sums);
        if (g + 2 < groups) dots_by_tile<0>(q + (g + 2) * GROUP, x.columns, bytes + (g + 2) * stride, dots[0]);
        if (g + 1 < groups)
            take_group<E, R>(dots[1], scales + (g + 1) * group_bytes(E), x, place + (g + 1) * ROW_TILE, sums);
    }
    unrolled<R>([&](int r) __attribute__((always_inline)) { put(product.out, row + r, panel, 0, sums[r]); });
}

template <Encoding E>
static void some_rows_by_panel(const Product& product, int row, int rows, int panel, const uint8_t* bytes,
                               int64_t ahead) {
    switch (rows) {
        case 5: return tile_by_panel<E, 5>(product, row, panel, bytes, ahead);
        case 6: return tile_by_panel<E, 6>(product, row, panel, bytes, ahead);
        case 7: return tile_by_panel<E, 7>(product, row, panel, bytes, ahead);
        case 8: return tile_by_panel<E, 8>(product, row, panel, bytes, ahead);
        case 9: return tile_by_panel<E, 9>(product, row, panel, bytes, ahead);
        case 10: return tile_by_panel<E, 10>(product, row, panel, bytes, ahead);
        case 11: return tile_by_panel<E, 11>(product, row, panel, bytes, ahead);
        case 12: return tile_by_panel<E, 12>(product, row, panel, bytes, ahead);
        case 13: return tile_by_panel<E, 13>(product, row, panel, bytes, ahead);
        case 14: return tile_by_panel<E, 14>(product, row, panel, bytes, ahead);
        case 15: return tile_by_panel<E, 15>(product, row, panel, bytes, ahead);
    }
    return tile_by_panel<E, 16>(product, row, panel, bytes, ahead);
}

template <Encoding E>
static void rows_by_tiles(const Product& product, int row, int num_rows, int rows_of_tile, int first_panel,
                          int num_panels) {
    alignas(64) uint8_t unpacked[MAX_GROUPS * PANEL * GROUP];
    configure_tiles(rows_of_tile);
    for (int panel = first_panel; panel < first_panel + num_panels; ++panel) {
        unpack_panel<E>(product.matrix.panels + panel * product.matrix.panel_bytes, product.matrix.columns / GROUP,
                        unpacked);
        for (int r = 0; r < num_rows; r += rows_of_tile)
            some_rows_by_panel<E>(product, row + r, rows_of_tile, panel, unpacked,
                                  r == 0 ? product.matrix.panel_bytes : 0);
    }
    release_tiles();
}

template <Encoding E>
static void all_rows(const Product& product, int num_rows, int first_panel, int num_panels) {
    if (product.row_ids || num_rows < MIN_TILE_ROWS || product.matrix.columns / GROUP > MAX_GROUPS)
        return many_rows<E>(product, 0, num_rows, first_panel, num_panels);
    int full = num_rows / TILE_ROWS * TILE_ROWS, rest = num_rows - full;
    if (full) rows_by_tiles<E>(product, 0, full, TILE_ROWS, first_panel, num_panels);
    if (rest >= MIN_TILE_ROWS) rows_by_tiles<E>(product, full, rest, rest, first_panel, num_panels);
    else if (rest) many_rows<E>(product, full, rest, first_panel, num_panels);
}

}  // namespace slotwise::SLOTWISE_ISA

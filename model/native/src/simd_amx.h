// The integer products of simd_matmul.h with AMX tiles, where there are rows enough to fill them: a tile of 16 rows by a
// panel of 16, one group of 32 columns at a time. The dot products are the same integers, and take() adds them up in
// the same order, so that a row's result is the same bits as without tiles.
#pragma once

namespace slotwise::SLOTWISE_ISA {

constexpr int TILE_ROWS = 16;
constexpr int MIN_TILE_ROWS = 5;      // fewer are quicker without tiles
constexpr int MAX_GROUPS = 1024;      // of a panel that is unpacked at once: more columns take the other path

struct TileConfig {
    uint8_t palette, start_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
};

// Tiles 0, 1: dot products; 2, 3: activations; 4, 5: weights.
SW_INLINE void configure_tiles(int rows) {
    TileConfig config = {};
    config.palette = 1;
    for (int i = 0; i < 2; ++i) {
        config.rows[i] = config.rows[2 + i] = (uint8_t)rows;
        config.rows[4 + i] = WORDS;
        config.row_bytes[i] = config.row_bytes[4 + i] = 4 * PANEL;
        config.row_bytes[2 + i] = GROUP;
    }
    _tile_loadconfig(&config);
}

// The codes of a panel as bytes [group][8][16][4].
template <Encoding E>
SW_INLINE void unpack_panel(const uint8_t* panel, int groups, uint8_t* bytes) {
    for (int g = 0; g < groups; ++g, panel += group_bytes(E), bytes += PANEL * GROUP)
        for (int i = 0; i < WORDS / 2; ++i) {
            I pair = load_bytes(panel + i * STEP);
            I low = pair & all_int(0x0f0f0f0f), high = (I)((U)pair >> 4) & all_int(0x0f0f0f0f);
            memcpy(bytes + i * STEP, &low, STEP);
            memcpy(bytes + (i + WORDS / 2) * STEP, &high, STEP);
        }
}

// Dot products of R rows with a group, of which tile registers do one half of the work while the other is added up.
template <int Half>
SW_INLINE void dots_by_tile(const int8_t* q, int64_t q_stride, const uint8_t* bytes, int32_t* dots) {
    if (Half == 0) {
        _tile_zero(0);
        _tile_loadd(2, q, q_stride);
        _tile_loadd(4, bytes, 4 * PANEL);
        _tile_dpbsud(0, 2, 4);
        _tile_stored(0, dots, 4 * PANEL);
    } else {
        _tile_zero(1);
        _tile_loadd(3, q, q_stride);
        _tile_loadd(5, bytes, 4 * PANEL);
        _tile_dpbsud(1, 3, 5);
        _tile_stored(1, dots, 4 * PANEL);
    }
}

template <Encoding E, int R>
SW_INLINE void take_group(const int32_t* dots, const uint8_t* scales, const Activations& x, int64_t row, int group,
                          V (&sums)[R]) {
    int64_t groups = x.columns / GROUP;
    V scale = load_f16(scales), minimum = E == Encoding::Q4_1 ? load_f16(scales + 2 * PANEL) : V{};
#pragma GCC unroll 16
    for (int r = 0; r < R; ++r) {
        int64_t place = (row + r) * groups + group;
        I dot = load_int(dots + r * PANEL);
        if (offset_of(E)) dot -= all_int(offset_of(E) * x.sum[place]);
        sums[r] = take<E>(sums[r], dot, scale, minimum, x.scale[place], x.shift[place]);
    }
}

// R rows by one panel. `bytes`: the panel's codes; `stride`: from one group's to the next.
template <Encoding E, int R>
static void tile_by_panel(const Product& product, int64_t row, int panel, const uint8_t* bytes, int64_t stride) {
    alignas(64) int32_t dots[2][TILE_ROWS * PANEL];
    const Activations& x = product.x;
    const uint8_t* scales = product.matrix.panels + panel * product.matrix.panel_bytes + code_bytes(E);
    const int8_t* q = x.q + row * x.columns;
    int groups = x.columns / GROUP;
    V sums[R] = {};
    dots_by_tile<0>(q, x.columns, bytes, dots[0]);
    for (int g = 0; g < groups; g += 2) {
        if (g + 1 < groups) dots_by_tile<1>(q + (g + 1) * GROUP, x.columns, bytes + (g + 1) * stride, dots[1]);
        take_group<E, R>(dots[0], scales + g * group_bytes(E), x, row, g, sums);
        if (g + 2 < groups) dots_by_tile<0>(q + (g + 2) * GROUP, x.columns, bytes + (g + 2) * stride, dots[0]);
        if (g + 1 < groups) take_group<E, R>(dots[1], scales + (g + 1) * group_bytes(E), x, row, g + 1, sums);
    }
    for (int r = 0; r < R; ++r) put(product.out, row + r, panel, 0, sums[r]);
}

template <Encoding E>
static void some_rows_by_panel(const Product& product, int row, int rows, int panel, const uint8_t* bytes,
                               int64_t stride) {
    switch (rows) {
        case 5: return tile_by_panel<E, 5>(product, row, panel, bytes, stride);
        case 6: return tile_by_panel<E, 6>(product, row, panel, bytes, stride);
        case 7: return tile_by_panel<E, 7>(product, row, panel, bytes, stride);
        case 8: return tile_by_panel<E, 8>(product, row, panel, bytes, stride);
        case 9: return tile_by_panel<E, 9>(product, row, panel, bytes, stride);
        case 10: return tile_by_panel<E, 10>(product, row, panel, bytes, stride);
        case 11: return tile_by_panel<E, 11>(product, row, panel, bytes, stride);
        case 12: return tile_by_panel<E, 12>(product, row, panel, bytes, stride);
        case 13: return tile_by_panel<E, 13>(product, row, panel, bytes, stride);
        case 14: return tile_by_panel<E, 14>(product, row, panel, bytes, stride);
        case 15: return tile_by_panel<E, 15>(product, row, panel, bytes, stride);
    }
    return tile_by_panel<E, 16>(product, row, panel, bytes, stride);
}

template <Encoding E>
static void rows_by_tiles(const Product& product, int row, int num_rows, int rows_of_tile, int first_panel,
                          int num_panels) {
    alignas(64) uint8_t unpacked[is_nibbles(E) ? MAX_GROUPS * PANEL * GROUP : 64];
    configure_tiles(rows_of_tile);
    for (int panel = first_panel; panel < first_panel + num_panels; ++panel) {
        const uint8_t* codes = product.matrix.panels + (int64_t)panel * product.matrix.panel_bytes;
        if (is_nibbles(E)) unpack_panel<E>(codes, product.matrix.columns / GROUP, unpacked);
        for (int r = 0; r < num_rows; r += rows_of_tile)
            some_rows_by_panel<E>(product, row + r, rows_of_tile, panel, is_nibbles(E) ? unpacked : codes,
                                  is_nibbles(E) ? PANEL * GROUP : group_bytes(E));
    }
    _tile_release();
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

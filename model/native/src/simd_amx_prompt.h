// Products for the rows of prompts: weights, brought to bfloat16, times activations in bfloat16, in AMX tiles from the
// first column to the last. That is several times as fast as integers, whose scales have to be taken in after every
// group, and pays where a panel, once widened, meets many rows.
//
// Why a row has the same bits in every tile: a row of a tile's product is made of that row alone, over 32 columns in
// the processor's fixed order, and tiles of columns follow each other from the first to the last.
#pragma once
#include "amx_tiles.h"

namespace slotwise::SLOTWISE_ISA {

// A code moved to where it is the first bits of a float's fraction: 1 + code / 2^(bits of a code), exactly.
template <Encoding E, int Place>
SW_INLINE V as_fraction(I words) {
    constexpr int BITS = is_nibbles(E) ? 4 : 8, TARGET = 23 - BITS, MASK = ((1 << BITS) - 1) << TARGET;
    const U moved = Place < TARGET ? (U)words << (TARGET - Place) : (U)words >> (Place - TARGET);
    return as_float(((I)moved & all_int(MASK)) | all_int(0x3f800000));
}

// Two columns of 16 rows side by side, each rounded to the nearest bfloat16.
SW_INLINE void put_pairs(V even, V odd, uint16_t* out) {
    const I half = all_int(0x8000);
    const I pairs = (I)((U)(as_int(even) + half) >> 16) | ((as_int(odd) + half) & all_int((int32_t)0xffff0000));
    memcpy(out, &pairs, sizeof pairs);
}

// Four columns, whose codes stand in the words at Place, Place + 8, Place + 16 and Place + 24.
template <Encoding E, int Place>
SW_INLINE void widen_words(I words, V step, V origin, uint16_t* out) {
    put_pairs(fma(as_fraction<E, Place>(words), step, origin), fma(as_fraction<E, Place + 8>(words), step, origin), out);
    put_pairs(fma(as_fraction<E, Place + 16>(words), step, origin),
              fma(as_fraction<E, Place + 24>(words), step, origin), out + 2 * PANEL);
}

// Groups of a panel as bfloat16s [columns/2][16][2], as BF16 has them.
template <Encoding E>
static void widen_groups(const uint8_t* panel, int groups, uint16_t* out) {
    constexpr float NUM_CODES = is_nibbles(E) ? 16 : 256;
    for (int g = 0; g < groups; ++g, panel += group_bytes(E), out += PANEL * GROUP) {
        const V scale = load_f16(panel + code_bytes(E));
        const V minimum = E == Encoding::Q4_1 ? load_f16(panel + code_bytes(E) + 2 * PANEL) : scale * all(-offset_of(E));
        const V step = scale * all(NUM_CODES), origin = minimum - step;  // of 1 + code / NUM_CODES
#pragma GCC unroll 8
        for (int i = 0; i < (is_nibbles(E) ? WORDS / 2 : WORDS); ++i) {
            const I words = load_bytes(panel + i * STEP);
            widen_words<E, 0>(words, step, origin, out + 4 * i * PANEL);
            if constexpr (is_nibbles(E)) widen_words<E, 4>(words, step, origin, out + (4 * i + GROUP / 2) * PANEL);
        }
    }
}

// Columns that are widened at once: two panels of them stay in the nearest cache for all rows.
constexpr int COLUMNS_AT_ONCE = 384;

// Where the sums of 16 * Panels columns are put, and what they begin with: zeros, or rows at `first`.
struct Sums {
    float* out;
    int64_t stride;     // bytes, as the next
    const float* first;
    int64_t first_stride;
};

template <int Tile>
SW_INLINE void begin(const Sums& sums, int row, int column) {
    if (sums.first) load_tile<Tile>((const uint8_t*)(sums.first + column) + row * sums.first_stride, sums.first_stride);
    else clear_tile<Tile>();
}
template <int Tile>
SW_INLINE void end(const Sums& sums, int row, int column) {
    store_tile<Tile>((uint8_t*)(sums.out + column) + row * sums.stride, sums.stride);
}

// 16 * RowTiles rows by 16 * Panels. Tiles 0 to 3 are sums, 4 and 5 activations, 6 and 7 weights. `row_bytes`: from one
// row to the next.
template <int RowTiles, int Panels>
SW_INLINE void sum_tiles(const uint16_t* rows, int64_t row_bytes, int columns, const uint16_t* const* panels,
                         const Sums& sums) {
    const int64_t panel_bytes = 4 * PANEL;
    const uint16_t* more_rows = rows + SIDE * row_bytes / 2;
    begin<0>(sums, 0, 0);
    if constexpr (Panels == 2) begin<1>(sums, 0, PANEL);
    if constexpr (RowTiles == 2) begin<2>(sums, SIDE, 0);
    if constexpr (RowTiles == 2 && Panels == 2) begin<3>(sums, SIDE, PANEL);
    for (int k = 0; k < columns; k += PAIR_COLUMNS) {
        load_tile<6>(panels[0] + k * PANEL, panel_bytes);
        load_tile<4>(rows + k, row_bytes);
        multiply_bf16<0, 4, 6>();
        if constexpr (Panels == 2) {
            load_tile<7>(panels[1] + k * PANEL, panel_bytes);
            multiply_bf16<1, 4, 7>();
        }
        if constexpr (RowTiles == 2) {
            load_tile<5>(more_rows + k, row_bytes);
            multiply_bf16<2, 5, 6>();
        }
        if constexpr (RowTiles == 2 && Panels == 2) multiply_bf16<3, 5, 7>();
    }
    end<0>(sums, 0, 0);
    if constexpr (Panels == 2) end<1>(sums, 0, PANEL);
    if constexpr (RowTiles == 2) end<2>(sums, SIDE, 0);
    if constexpr (RowTiles == 2 && Panels == 2) end<3>(sums, SIDE, PANEL);
}

// Tiles of the rows that are left: up to 32.
SW_INLINE void configure_rows(int num_rows) {
    TileConfig config;
    const int first = num_rows < SIDE ? num_rows : SIDE, second = num_rows > SIDE ? num_rows - SIDE : SIDE;
    for (int i = 0; i < 2; ++i) {
        config.set(i, first);
        config.set(2 + i, second);
        config.set(4 + i, i == 0 ? first : second);
        config.set(6 + i, SIDE);
    }
    configure(config);
}

// What the sums of some rows begin with: what is in their place, or the bias, whose one row is loaded into all of a
// tile's (its stride is zero).
static Sums place_sums(const Output& out, int64_t row, int num_rows, int column, int width, bool continues) {
    float* place = out.data + row * out.stride + column;
    const int64_t stride = out.stride * sizeof(float);
    if (continues) return {place, stride, place, stride};
    if (!out.adds) return {place, stride, out.bias ? out.bias + column : nullptr, 0};
    if (out.bias)
        for (int r = 0; r < num_rows; ++r)
            for (int i = 0; i < width; i += W) {
                float* sum = place + r * out.stride + i;
                store(sum, load(sum) + load(out.bias + column + i));
            }
    return {place, stride, place, stride};
}

// All rows by some columns of one or two panels, which are `panels`.
template <int Panels>
static void add_columns(const Product& product, int first_row, int num_rows, int panel, int first_column,
                        int num_columns, const uint16_t* const* panels) {
    const int64_t stride = product.matrix.columns;
    for (int row = 0; row < num_rows; row += 2 * SIDE) {
        const int count = num_rows - row < 2 * SIDE ? num_rows - row : 2 * SIDE;
        if (row == 0 || count < 2 * SIDE) configure_rows(count);
        const uint16_t* rows = product.x.bf16 + (first_row + row) * stride + first_column;
        const Sums sums =
            place_sums(product.out, first_row + row, count, panel * PANEL, Panels * PANEL, first_column > 0);
        if (count > SIDE) sum_tiles<2, Panels>(rows, 2 * stride, num_columns, panels, sums);
        else sum_tiles<1, Panels>(rows, 2 * stride, num_columns, panels, sums);
    }
}

template <Encoding E, int Panels>
static void some_panels(const Product& product, int first_row, int num_rows, int panel) {
    alignas(64) uint16_t widened[Panels][PANEL * COLUMNS_AT_ONCE];
    const Matrix& m = product.matrix;
    for (int column = 0; column < m.columns; column += COLUMNS_AT_ONCE) {
        const int count = m.columns - column < COLUMNS_AT_ONCE ? m.columns - column : COLUMNS_AT_ONCE;
        const uint16_t* panels[Panels];
        for (int p = 0; p < Panels; ++p) {
            const uint8_t* packed = m.panels + (panel + p) * m.panel_bytes;
            if constexpr (E == Encoding::BF16) {
                panels[p] = (const uint16_t*)packed + PANEL * column;
            } else {
                widen_groups<E>(packed + column / GROUP * group_bytes(E), count / GROUP, widened[p]);
                panels[p] = widened[p];
            }
        }
        add_columns<Panels>(product, first_row, num_rows, panel, column, count, panels);
    }
}

template <Encoding E>
static void prompt_rows(const Product& product, int first_row, int num_rows, int first_panel, int num_panels) {
    const int end = first_panel + num_panels;
    int panel = first_panel;
    for (; panel + 2 <= end; panel += 2) some_panels<E, 2>(product, first_row, num_rows, panel);
    if (panel < end) some_panels<E, 1>(product, first_row, num_rows, panel);
    release_tiles();
}

static void prompt_matmul(const Matrix& matrix, const Activations& x, int first_row, int num_rows, int first_panel,
                          int num_panels, float* out, int64_t out_stride, bool adds) {
    const Product product{matrix, x, nullptr, {out, out_stride, matrix.bias, adds}};
    switch (matrix.encoding) {
        case Encoding::F32: return;  // never asked
        case Encoding::BF16: return prompt_rows<Encoding::BF16>(product, first_row, num_rows, first_panel, num_panels);
        case Encoding::Q8: return prompt_rows<Encoding::Q8>(product, first_row, num_rows, first_panel, num_panels);
        case Encoding::Q4_0: return prompt_rows<Encoding::Q4_0>(product, first_row, num_rows, first_panel, num_panels);
        case Encoding::Q4_1: return prompt_rows<Encoding::Q4_1>(product, first_row, num_rows, first_panel, num_panels);
    }
}

}  // namespace slotwise::SLOTWISE_ISA

// Products of activations with packed weights. A tile is R rows of activations by N panels; its sums go over the groups
// of 32 columns in order, one fused multiply-add a group and row, so that a row's result depends neither on the tile
// nor on the path: the integer dot products inside a group are exact, whichever instruction makes them.
#pragma once
#include "kernels.h"
#include "lanes.h"

namespace slotwise::SLOTWISE_ISA {

constexpr int P = PANEL / W;             // vectors across a panel
constexpr int WORDS = GROUP / 4;         // four bytes of a group at a time
constexpr int STEP = 4 * W;              // bytes of a vector
constexpr int MAX_TILE_ROWS = W == 16 ? 8 : 4;

// Four unsigned bytes of each lane of w times the four signed bytes of a, added up, added to acc.
// `Small`: no byte of w is greater than 15.
template <bool Small>
SW_INLINE I dot4(I acc, I w, I a) {
#if defined(__AVX512VNNI__)
    return (I)_mm512_dpbusd_epi32((__m512i)acc, (__m512i)w, (__m512i)a);
#elif defined(__AVXVNNI__)
    return (I)_mm256_dpbusd_avx_epi32((__m256i)acc, (__m256i)w, (__m256i)a);
#elif defined(__AVX2__)
    if (Small) {  // 2 * 15 * 127 fits the 16 bits in which pairs are added
        __m256i pairs = _mm256_maddubs_epi16((__m256i)w, (__m256i)a);
        return acc + (I)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
    }
    __m256i even_a = _mm256_srai_epi16(_mm256_slli_epi16((__m256i)a, 8), 8);
    __m256i even = _mm256_madd_epi16(_mm256_and_si256((__m256i)w, _mm256_set1_epi16(255)), even_a);
    __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16((__m256i)w, 8), _mm256_srai_epi16((__m256i)a, 8));
    return acc + (I)_mm256_add_epi32(even, odd);
#elif defined(__ARM_FEATURE_MATMUL_INT8)
    return (I)vusdotq_s32((int32x4_t)acc, (uint8x16_t)w, (int8x16_t)a);
#else  // dotprod has no mixed signs: w - 128 is made of w, and 128 * a of the four added again
    if (Small) return (I)vdotq_s32((int32x4_t)acc, (int8x16_t)w, (int8x16_t)a);
    int32x4_t low = vdotq_s32((int32x4_t)acc, (int8x16_t)(w ^ all_int(0x80808080)), (int8x16_t)a);
    return (I)vaddq_s32(low, vshlq_n_s32(vdotq_s32(vdupq_n_s32(0), vdupq_n_s8(1), (int8x16_t)a), 7));
#endif
}

SW_INLINE I load_bytes(const uint8_t* p) { I v; memcpy(&v, p, sizeof v); return v; }
SW_INLINE int32_t word(const void* p) { int32_t v; memcpy(&v, p, 4); return v; }

constexpr bool is_nibbles(Encoding e) { return e == Encoding::Q4_0 || e == Encoding::Q4_1; }
constexpr int offset_of(Encoding e) { return e == Encoding::Q8 ? 128 : e == Encoding::Q4_0 ? 8 : 0; }
constexpr int code_bytes(Encoding e) { return PANEL * GROUP / (is_nibbles(e) ? 2 : 1); }
constexpr int group_bytes(Encoding e) { return code_bytes(e) + 2 * PANEL * (e == Encoding::Q4_1 ? 2 : 1); }

// What is needed of one row of activations.
struct QuantizedRow {
    const int8_t* q;
    const float* scale;
    const int32_t* sum;
    const float* shift;
};

SW_INLINE QuantizedRow quantized_row(const Activations& x, int64_t row) {
    int64_t place = group_place(row, x.columns / GROUP);
    return {x.q + row * x.columns, x.scale + place, x.sum + place, x.shift + place};
}

// Dot products [R][P] of one group of one panel, exact.
template <Encoding E, int R>
SW_INLINE void dots_of_group(const uint8_t* codes, const QuantizedRow (&rows)[R], int group, I (&dots)[R][P]) {
    for (int r = 0; r < R; ++r)
        for (int p = 0; p < P; ++p) dots[r][p] = all_int(-offset_of(E) * (offset_of(E) ? rows[r].sum[group * ROW_TILE] : 0));
    auto add = [&](int i, const I(&w)[P]) __attribute__((always_inline)) {
        for (int r = 0; r < R; ++r) {
            I a = all_int(word(rows[r].q + group * GROUP + 4 * i));
            for (int p = 0; p < P; ++p) dots[r][p] = dot4<is_nibbles(E)>(dots[r][p], w[p], a);
        }
    };
    if (is_nibbles(E)) {
#pragma GCC unroll 4
        for (int i = 0; i < WORDS / 2; ++i) {
            I low[P], high[P];
            for (int p = 0; p < P; ++p) {
                I pair = load_bytes(codes + (i * P + p) * STEP);
                low[p] = pair & all_int(0x0f0f0f0f);
                high[p] = (I)((U)pair >> 4) & all_int(0x0f0f0f0f);
            }
            add(i, low);
            add(i + WORDS / 2, high);
        }
    } else {
#pragma GCC unroll 8
        for (int i = 0; i < WORDS; ++i) {
            I w[P];
            for (int p = 0; p < P; ++p) w[p] = load_bytes(codes + (i * P + p) * STEP);
            add(i, w);
        }
    }
}

// Bytes between what is computed and what is fetched meanwhile, on each panel's way through memory; without it, the
// processor fetches ahead only where it has little to compute.
constexpr int AHEAD = 2560;

// `bytes` of a panel at `offset`, or where that is behind its end, of the panel that follows when these are done.
SW_INLINE void fetch(const uint8_t* panel, int64_t offset, int64_t panel_bytes, int num_panels, int bytes) {
    const uint8_t* place = panel + offset + (offset < panel_bytes ? 0 : (num_panels - 1) * panel_bytes);
    for (int i = 0; i < bytes; i += 64) __builtin_prefetch(place + i);
}

// Takes a group's dot products into the sums of a row. Every path ends here.
template <Encoding E>
SW_INLINE V take(V sum, I dot, V scale, V minimum, float row_scale, float row_shift) {
    sum = fma(to_float(dot), scale * all(row_scale), sum);
    return E == Encoding::Q4_1 ? fma(minimum, all(row_shift), sum) : sum;
}

template <Encoding E, int R, int N>
SW_INLINE void quantized_tile(const uint8_t* const (&panels)[N], int groups, const QuantizedRow (&rows)[R],
                              V (&sums)[N][R][P]) {
    for (int g = 0; g < groups; ++g) {
#pragma GCC unroll 4
        for (int n = 0; n < N; ++n) {
            const int64_t offset = (int64_t)g * group_bytes(E);
            const uint8_t* codes = panels[n] + offset;
            fetch(panels[n], offset + AHEAD, (int64_t)groups * group_bytes(E), N, group_bytes(E));
            I dots[R][P];
            dots_of_group<E, R>(codes, rows, g, dots);
            for (int p = 0; p < P; ++p) {
                const uint8_t* scales = codes + code_bytes(E) + 2 * W * p;
                V scale = load_f16(scales), minimum = E == Encoding::Q4_1 ? load_f16(scales + 2 * PANEL) : V{};
                for (int r = 0; r < R; ++r)
                    sums[n][r][p] = take<E>(sums[n][r][p], dots[r][p], scale, minimum, rows[r].scale[g * ROW_TILE],
                                            rows[r].shift[g * ROW_TILE]);
            }
        }
    }
}

// Where a tile's sums go.
struct Output {
    float* data;
    int64_t stride;
    const float* bias;
    bool adds;
};

SW_INLINE void put(const Output& out, int64_t row, int panel, int p, V sum) {
    int64_t column = (int64_t)panel * PANEL + p * W;
    float* place = out.data + row * out.stride + column;
    if (out.bias) sum += load(out.bias + column);
    if (out.adds) sum += load(place);
    store(place, sum);
}

template <int R, int N>
SW_INLINE void put_tile(const Output& out, int64_t row, int panel, const V (&sums)[N][R][P]) {
    for (int n = 0; n < N; ++n)
        for (int r = 0; r < R; ++r)
            for (int p = 0; p < P; ++p) put(out, row + r, panel + n, p, sums[n][r][p]);
}

SW_INLINE int64_t row_id(const int32_t* row_ids, int64_t row) { return row_ids ? row_ids[row] : row; }

// One tile of the product: R rows from `row`, N panels from `panel`.
template <Encoding E, int R, int N>
struct Tile {
    static void compute(const Matrix& m, const Activations& x, const int32_t* row_ids, int row, int panel,
                        const Output& out) {
        const uint8_t* panels[N];
        for (int n = 0; n < N; ++n) panels[n] = m.panels + (int64_t)(panel + n) * m.panel_bytes;
        QuantizedRow rows[R];
        for (int r = 0; r < R; ++r) rows[r] = quantized_row(x, row_id(row_ids, row + r));
        V sums[N][R][P] = {};
        quantized_tile<E, R, N>(panels, m.columns / GROUP, rows, sums);
        put_tile<R, N>(out, row, panel, sums);
    }
};

template <int R, int N>
struct Tile<Encoding::F32, R, N> {
    static void compute(const Matrix& m, const Activations& x, const int32_t* row_ids, int row, int panel,
                        const Output& out) {
        const float* rows[R];
        for (int r = 0; r < R; ++r) rows[r] = x.f32 + row_id(row_ids, row + r) * x.columns;
        V sums[N][R][P] = {};
        for (int k = 0; k < m.columns; ++k)
#pragma GCC unroll 4
            for (int n = 0; n < N; ++n) {
                const float* w = (const float*)(m.panels + (int64_t)(panel + n) * m.panel_bytes) + (int64_t)k * PANEL;
#pragma GCC unroll 4
                for (int p = 0; p < P; ++p)
#pragma GCC unroll 8
                    for (int r = 0; r < R; ++r) sums[n][r][p] = fma(load(w + p * W), all(rows[r][k]), sums[n][r][p]);
            }
        put_tile<R, N>(out, row, panel, sums);
    }
};

// A pair of columns: the products of the two, added to acc.
SW_INLINE V dot2(V acc, I w, int32_t a) {
#if defined(__AVX512BF16__)
    return (V)_mm512_dpbf16_ps((__m512)acc, (__m512bh)w, (__m512bh)all_int(a));
#else
    acc = fma(as_float(w << 16), as_float(all_int((int32_t)((uint32_t)a << 16))), acc);
    return fma(as_float(w & (int32_t)0xffff0000), as_float(all_int(a & (int32_t)0xffff0000)), acc);
#endif
}

template <int R, int N>
struct Tile<Encoding::BF16, R, N> {
    static void compute(const Matrix& m, const Activations& x, const int32_t* row_ids, int row, int panel,
                        const Output& out) {
        const uint16_t* rows[R];
        for (int r = 0; r < R; ++r) rows[r] = x.bf16 + row_id(row_ids, row + r) * x.columns;
        V sums[N][R][P] = {};
        for (int k = 0; k < m.columns / 2; ++k)
            for (int n = 0; n < N; ++n) {
                const uint8_t* w = m.panels + (int64_t)(panel + n) * m.panel_bytes + (int64_t)k * 4 * PANEL;
                for (int p = 0; p < P; ++p)
                    for (int r = 0; r < R; ++r)
                        sums[n][r][p] = dot2(sums[n][r][p], load_bytes(w + p * STEP), word(rows[r] + 2 * k));
            }
        put_tile<R, N>(out, row, panel, sums);
    }
};

// Panels that are computed together for R rows: with few rows, several, so that as many sums are under way as it takes
// to hide the latency of an instruction, and as many streams as it takes to fill the memory's pipe.
constexpr int panels_for(int rows) { return W < 16 ? 1 : rows == 1 ? 4 : rows <= 4 ? 2 : 1; }

struct Product {
    const Matrix& matrix;
    const Activations& x;
    const int32_t* row_ids;
    Output out;
};

template <Encoding E, int R, int N>
SW_INLINE void rows_by_panels(const Product& product, int row, int first_panel, int num_panels) {
    int panel = first_panel, end = first_panel + num_panels;
    for (; panel + N <= end; panel += N)
        Tile<E, R, N>::compute(product.matrix, product.x, product.row_ids, row, panel, product.out);
    for (; N > 1 && panel < end; ++panel)
        Tile<E, R, 1>::compute(product.matrix, product.x, product.row_ids, row, panel, product.out);
}

template <Encoding E, int R>
static void tile_rows(const Product& product, int row, int first_panel, int num_panels) {
    rows_by_panels<E, R, panels_for(R)>(product, row, first_panel, num_panels);
}

template <Encoding E>
static void last_rows(const Product& product, int row, int num_rows, int first_panel, int num_panels) {
    switch (num_rows) {
        case 1: return tile_rows<E, 1>(product, row, first_panel, num_panels);
        case 2: return tile_rows<E, 2>(product, row, first_panel, num_panels);
        case 3: return tile_rows<E, 3>(product, row, first_panel, num_panels);
        case 4: return tile_rows<E, 4>(product, row, first_panel, num_panels);
#if defined(__AVX512F__)
        case 5: return tile_rows<E, 5>(product, row, first_panel, num_panels);
        case 6: return tile_rows<E, 6>(product, row, first_panel, num_panels);
        case 7: return tile_rows<E, 7>(product, row, first_panel, num_panels);
        case 8: return tile_rows<E, 8>(product, row, first_panel, num_panels);
#endif
    }
}

// Rows from `row` on. Where there are more rows than a tile has, a panel stays in the nearest cache for all of them.
template <Encoding E>
static void many_rows(const Product& product, int row, int num_rows, int first_panel, int num_panels) {
    if (num_rows <= MAX_TILE_ROWS) return last_rows<E>(product, row, num_rows, first_panel, num_panels);
    for (int panel = first_panel; panel < first_panel + num_panels; ++panel)
        for (int r = 0; r < num_rows; r += MAX_TILE_ROWS) {
            int rows = num_rows - r < MAX_TILE_ROWS ? num_rows - r : MAX_TILE_ROWS;
            last_rows<E>(product, row + r, rows, panel, 1);
        }
}

#if defined(__AMX_INT8__)
}  // namespace slotwise::SLOTWISE_ISA
#include "simd_amx.h"
namespace slotwise::SLOTWISE_ISA {
#else
template <Encoding E>
static void all_rows(const Product& product, int num_rows, int first_panel, int num_panels) {
    many_rows<E>(product, 0, num_rows, first_panel, num_panels);
}
#endif

static void matmul(const Matrix& matrix, const Activations& x, const int32_t* row_ids, int num_rows, int first_panel,
                   int num_panels, float* out, int64_t out_stride, bool adds) {
    Product product{matrix, x, row_ids, {out, out_stride, matrix.bias, adds}};
    switch (matrix.encoding) {
        case Encoding::F32: return many_rows<Encoding::F32>(product, 0, num_rows, first_panel, num_panels);
        case Encoding::BF16: return many_rows<Encoding::BF16>(product, 0, num_rows, first_panel, num_panels);
        case Encoding::Q8: return all_rows<Encoding::Q8>(product, num_rows, first_panel, num_panels);
        case Encoding::Q4_0: return all_rows<Encoding::Q4_0>(product, num_rows, first_panel, num_panels);
        case Encoding::Q4_1: return all_rows<Encoding::Q4_1>(product, num_rows, first_panel, num_panels);
    }
}

#if defined(__AMX_BF16__)
}  // namespace slotwise::SLOTWISE_ISA
#include "simd_amx_prompt.h"
namespace slotwise::SLOTWISE_ISA {
#else
constexpr decltype(Kernels::prompt_matmul) prompt_matmul = nullptr;
#endif

}  // namespace slotwise::SLOTWISE_ISA

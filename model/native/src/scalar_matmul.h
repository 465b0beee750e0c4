// The product of activations with packed weights, one number at a time: the specification of simd_matmul.h.
#pragma once
#include <cmath>
#include <cstring>

#include "kernels.h"
#include "matrix.h"

namespace slotwise::scalar {

static float as_f16(const uint8_t* p) {
    uint16_t bits;
    memcpy(&bits, p, 2);
    return from_f16(bits);
}

static float as_bf16(const void* p) {
    uint16_t half;
    memcpy(&half, p, 2);
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, 4);
    return value;
}

// One group of 32 columns: the dot product of integers is exact, then one fused multiply-add, and one for the minimum.
template <int CodeBytes, int Offset, bool HasMinimum>
static float quantized_dot(const Matrix& m, const uint8_t* panel, int lane, const Activations& x, int64_t row) {
    int64_t groups = m.columns / GROUP, first = group_place(row, groups);
    float sum = 0;
    for (int64_t g = 0; g < groups; ++g) {
        const uint8_t* codes = panel + g * (m.panel_bytes / groups);
        const int8_t* q = x.q + row * x.columns + g * GROUP;
        int32_t dot = 0;
        for (int i = 0; i < GROUP; ++i) {
            int place = i % CodeBytes, code = codes[(place / 4 * PANEL + lane) * 4 + place % 4];
            if (CodeBytes < GROUP) code = i < CodeBytes ? code & 15 : code >> 4;
            dot += (code - Offset) * q[i];
        }
        const uint8_t* scales = codes + CodeBytes * PANEL + 2 * lane;
        float scale = as_f16(scales) * x.scale[first + g * ROW_TILE];
        sum = std::fma((float)dot, scale, sum);
        if (HasMinimum) sum = std::fma(as_f16(scales + 2 * PANEL), x.shift[first + g * ROW_TILE], sum);
    }
    return sum;
}

static float bf16_dot(const Matrix& m, const uint8_t* panel, int lane, const uint16_t* x) {
    float sum = 0;
    for (int k = 0; k < m.columns; ++k)
        sum = std::fma(as_bf16(panel + ((k / 2 * PANEL + lane) * 2 + k % 2) * 2), as_bf16(x + k), sum);
    return sum;
}

static float f32_dot(const Matrix& m, const uint8_t* panel, int lane, const float* x) {
    float sum = 0, w;
    for (int k = 0; k < m.columns; ++k) {
        memcpy(&w, panel + (k * PANEL + lane) * 4, 4);
        sum = std::fma(w, x[k], sum);
    }
    return sum;
}

static float dot(const Matrix& m, int panel, int lane, const Activations& x, int64_t row) {
    const uint8_t* data = m.panels + panel * m.panel_bytes;
    switch (m.encoding) {
        case Encoding::F32: return f32_dot(m, data, lane, x.f32 + row * x.columns);
        case Encoding::BF16: return bf16_dot(m, data, lane, x.bf16 + row * x.columns);
        case Encoding::Q8: return quantized_dot<32, 128, false>(m, data, lane, x, row);
        case Encoding::Q4_0: return quantized_dot<16, 8, false>(m, data, lane, x, row);
        case Encoding::Q4_1: return quantized_dot<16, 0, true>(m, data, lane, x, row);
    }
    return 0;
}

static void matmul(const Matrix& m, const Activations& x, const int32_t* row_ids, int num_rows, int first_panel,
                   int num_panels, float* out, int64_t out_stride, bool adds) {
    for (int64_t t = 0; t < num_rows; ++t)
        for (int panel = first_panel; panel < first_panel + num_panels; ++panel)
            for (int lane = 0; lane < PANEL; ++lane) {
                float* place = out + t * out_stride + panel * PANEL + lane;
                float sum = dot(m, panel, lane, x, row_ids ? row_ids[t] : t);
                if (m.bias) sum += m.bias[panel * PANEL + lane];
                *place = adds ? sum + *place : sum;
            }
}

}  // namespace slotwise::scalar

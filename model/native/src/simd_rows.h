// What is computed for one row at a time: norms, quantisation, activation, rotary embedding, writes to the KV cache.
// Each element, and each sum, has its own fixed order of operations, whatever the vector's width leaves at the end.
#pragma once
#include <float.h>
#include <math.h>

#include "attention_tile.h"
#include "kernels.h"
#include "lanes.h"
#if defined(__AMX_BF16__)
#include "simd_attention.h"
#endif

namespace slotwise::SLOTWISE_ISA {

SW_INLINE int lanes_left(int i, int n) { return n - i < W ? n - i : W; }

// Four chains of sums, so that the additions need not wait for each other.
SW_INLINE float sum_of_squares(const float* x, int n) {
    V chains[4] = {};
    int i = 0;
    for (; i + 4 * W <= n; i += 4 * W)
        for (int j = 0; j < 4; ++j) {
            const V v = load(x + i + j * W);
            chains[j] = fma(v, v, chains[j]);
        }
    for (; i < n; i += W) {
        const V v = load_some(x + i, lanes_left(i, n));
        chains[0] = fma(v, v, chains[0]);
    }
    return sum((chains[0] + chains[1]) + (chains[2] + chains[3]));
}

static void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
    const V factor = all(1 / sqrtf(sum_of_squares(x, n) / n + eps));
    for (int i = 0; i < n; i += W) {
        const int count = lanes_left(i, n);
        store_some(out + i, load_some(x + i, count) * factor * load_some(weight + i, count), count);
    }
}

// As integers, magnitudes have the order of the floats, and a NaN is above them all.
SW_INLINE float largest_magnitude(const float* x, int n) {
    I largest{};
    for (int i = 0; i < n; i += W) {
        const I magnitude = as_int(load_some(x + i, lanes_left(i, n))) & 0x7fffffff;
        largest = max(magnitude, largest);
    }
    const int32_t bits = max(largest);
    float x_max;
    memcpy(&x_max, &bits, sizeof x_max);
    return x_max;
}

// The scale, which stays as it is where it is no normal number and is not used: see scalar_rows.h.
SW_INLINE float quantize_values(const float* x, int n, int8_t* q, I& total) {
    const float scale = largest_magnitude(x, n) / 127;
    const bool is_normal = scale >= FLT_MIN && scale <= FLT_MAX;
    const V inverse = all(1 / scale);
    total = I{};
    for (int i = 0; i < n; i += W) {
        const int count = lanes_left(i, n);
        const I rounded = is_normal ? round_to_int(load_some(x + i, count) * inverse) : I{};
        store_i8_some(q + i, rounded, count);
        total += rounded;
    }
    return scale < FLT_MIN ? 0 : scale;
}

static void quantize(const float* x, int n, int8_t* q, float* scale, int32_t* sums) {
    for (int group = 0; group < n / GROUP; ++group) {
        I total;
        scale[group] = quantize_values(x + group * GROUP, GROUP, q + group * GROUP, total);
        sums[group] = sum(total);
    }
}

static void to_bf16(const float* x, int n, uint16_t* out) {
    int i = 0;
    for (; i + W <= n; i += W) store_bf16(out + i, load(x + i));
    if (i < n) {
        uint16_t last[W];
        store_bf16(last, load_some(x + i, n - i));
        memcpy(out + i, last, sizeof(uint16_t) * (n - i));
    }
}

static void silu_mul(const float* gate, const float* up, int n, float* out) {
    for (int i = 0; i < n; i += W) {
        const int count = lanes_left(i, n);
        const V g = load_some(gate + i, count);
        store_some(out + i, g / (1.0f + exp(-g)) * load_some(up + i, count), count);
    }
}

// N rows of a, each a chain of its own, which none of the others changes.
template <int N>
SW_INLINE void shrink_rows(const float* a, int columns, const float* x, float* sums) {
    V chains[N] = {};
    for (int k = 0; k < columns; k += W) {
        const int count = lanes_left(k, columns);
        const V v = load_some(x + k, count);
        for (int r = 0; r < N; ++r) chains[r] = fma(load_some(a + (int64_t)r * columns + k, count), v, chains[r]);
    }
    for (int r = 0; r < N; ++r) sums[r] = sum(chains[r]);
}

static void shrink(const float* a, int rank, int columns, const float* x, float* sums) {
    int r = 0;
    for (; r + 8 <= rank; r += 8) shrink_rows<8>(a + (int64_t)r * columns, columns, x, sums + r);
    for (; r < rank; ++r) shrink_rows<1>(a + (int64_t)r * columns, columns, x, sums + r);
}

// N vectors of out at once, so that the additions need not wait for each other.
template <int N>
SW_INLINE void expand_columns(const float* b, int64_t stride, int rank, const float* sums, int count, float* out) {
    V chains[N];
    for (int j = 0; j < N; ++j) chains[j] = load_some(out + j * W, N == 1 ? count : W);
    for (int r = 0; r < rank; ++r)
        for (int j = 0; j < N; ++j)
            chains[j] = fma(all(sums[r]), load_some(b + r * stride + j * W, N == 1 ? count : W), chains[j]);
    for (int j = 0; j < N; ++j) store_some(out + j * W, chains[j], N == 1 ? count : W);
}

static void expand(const float* b, int64_t stride, int rank, const float* sums, int count, float* out) {
    int i = 0;
    for (; i + 8 * W <= count; i += 8 * W) expand_columns<8>(b + i, stride, rank, sums, W, out + i);
    for (; i < count; i += W) expand_columns<1>(b + i, stride, rank, sums, lanes_left(i, count), out + i);
}

static void rotate(float* x, const float* cosine, const float* sine, int head_dim) {
    const int half = head_dim / 2;
    for (int i = 0; i < half; i += W) {
        const int count = lanes_left(i, half);
        const V a = load_some(x + i, count), b = load_some(x + half + i, count);
        const V c = load_some(cosine + i, count), s = load_some(sine + i, count);
        store_some(x + i, a * c - b * s, count);
        store_some(x + half + i, b * c + a * s, count);
    }
}

// Elements of T: keys transposed [D][32], then values [32][D].
template <class T>
static void place(const T* key, const T* value, int head_dim, int offset, uint8_t* block) {
    T* keys = (T*)block;
    for (int d = 0; d < head_dim; ++d) keys[d * BLOCK + offset] = key[d];
    memcpy(keys + (BLOCK + offset) * head_dim, value, sizeof(T) * head_dim);
}

static void write_bf16(int head_dim, const float* key, const float* value, int offset, uint8_t* block) {
    uint16_t keys[MAX_HEAD_DIM], values[MAX_HEAD_DIM];
    to_bf16(key, head_dim, keys);
    to_bf16(value, head_dim, values);
#if defined(__AMX_BF16__)
    if (has_pairs(KVType::BF16, head_dim)) return place_pairs(keys, values, head_dim, offset, block);
#endif
    place(keys, values, head_dim, offset, block);
}

static void write_int8(int head_dim, const float* key, const float* value, int offset, uint8_t* block) {
    int8_t keys[MAX_HEAD_DIM], values[MAX_HEAD_DIM];
    float* scales = (float*)(block + 2 * BLOCK * head_dim);
    I total;  // of no use here
    scales[offset] = quantize_values(key, head_dim, keys, total);
    scales[BLOCK + offset] = quantize_values(value, head_dim, values, total);
    place(keys, values, head_dim, offset, block);
}

static void write_kv(KVType type, int head_dim, const float* key, const float* value, int offset, uint8_t* block) {
    switch (type) {
        case KVType::F32: return place(key, value, head_dim, offset, block);
        case KVType::BF16: return write_bf16(head_dim, key, value, offset, block);
        case KVType::INT8: return write_int8(head_dim, key, value, offset, block);
    }
}

}  // namespace slotwise::SLOTWISE_ISA

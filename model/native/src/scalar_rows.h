// What is computed for one row at a time, as the specification has it.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstring>

#include "attention_tile.h"
#include "kernels.h"

namespace slotwise::scalar {

static void rms_norm(const float* x, const float* weight, float eps, int n, float* out) {
    float squares = 0;
    for (int i = 0; i < n; ++i) squares += x[i] * x[i];
    const float factor = 1 / std::sqrt(squares / n + eps);
    for (int i = 0; i < n; ++i) out[i] = x[i] * factor * weight[i];
}

static float largest_magnitude(const float* x, int n) {
    float largest = 0;
    for (int i = 0; i < n; ++i) {
        if (std::isnan(x[i])) return x[i];
        largest = std::fmax(largest, std::fabs(x[i]));
    }
    return largest;
}

// q = x * (1 / scale), rounded to even; returns the scale, max|x| / 127. Where that is no normal number, all q are 0: the
// scale of values below 1.5e-36 becomes 0, that of an infinity or a NaN stays, so that whoever uses it sees it.
static float quantize_values(const float* x, int n, int8_t* q) {
    const float scale = largest_magnitude(x, n) / 127;
    const bool is_normal = std::isnormal(scale);
    const float inverse = 1 / scale;
    for (int i = 0; i < n; ++i) q[i] = is_normal ? int8_t(std::nearbyint(x[i] * inverse)) : int8_t(0);
    return scale < FLT_MIN ? 0 : scale;
}

static void quantize(const float* x, int n, int8_t* q, float* scale, int32_t* sum) {
    for (int group = 0; group < n / GROUP; ++group, x += GROUP, q += GROUP) {
        scale[group] = quantize_values(x, GROUP, q);
        sum[group] = 0;
        for (int i = 0; i < GROUP; ++i) sum[group] += q[i];
    }
}

static uint16_t bf16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return std::isnan(x) ? uint16_t(bits >> 16 | 0x7fc0) : uint16_t((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static void to_bf16(const float* x, int n, uint16_t* out) {
    for (int i = 0; i < n; ++i) out[i] = bf16(x[i]);
}

static void silu_mul(const float* gate, const float* up, int n, float* out) {
    for (int i = 0; i < n; ++i) out[i] = gate[i] / (1 + std::exp(-gate[i])) * up[i];
}

static void shrink(const float* a, int rank, int columns, const float* x, float* sums) {
    for (int r = 0; r < rank; ++r, a += columns) {
        sums[r] = 0;
        for (int k = 0; k < columns; ++k) sums[r] = std::fma(a[k], x[k], sums[r]);
    }
}

static void expand(const float* b, int64_t stride, int rank, const float* sums, int count, float* out) {
    for (int r = 0; r < rank; ++r, b += stride)
        for (int i = 0; i < count; ++i) out[i] = std::fma(sums[r], b[i], out[i]);
}

static void rotate(float* x, const float* cosine, const float* sine, int head_dim) {
    const int half = head_dim / 2;
    for (int i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * cosine[i] - b * sine[i];
        x[i + half] = b * cosine[i] + a * sine[i];
    }
}

// Elements of T: keys transposed [D][32], then values [32][D].
template <class T>
static void place(const T* key, const T* value, int head_dim, int offset, uint8_t* block) {
    T* keys = reinterpret_cast<T*>(block);
    for (int d = 0; d < head_dim; ++d) keys[d * BLOCK + offset] = key[d];
    memcpy(keys + (BLOCK + offset) * head_dim, value, sizeof(T) * head_dim);
}

static void write_bf16(int head_dim, const float* key, const float* value, int offset, uint8_t* block) {
    uint16_t keys[MAX_HEAD_DIM], values[MAX_HEAD_DIM];
    to_bf16(key, head_dim, keys);
    to_bf16(value, head_dim, values);
    place(keys, values, head_dim, offset, block);
}

static void write_int8(int head_dim, const float* key, const float* value, int offset, uint8_t* block) {
    int8_t keys[MAX_HEAD_DIM], values[MAX_HEAD_DIM];
    float* scales = reinterpret_cast<float*>(block + 2 * BLOCK * head_dim);
    scales[offset] = quantize_values(key, head_dim, keys);
    scales[BLOCK + offset] = quantize_values(value, head_dim, values);
    place(keys, values, head_dim, offset, block);
}

static void write_kv(KVType type, int head_dim, const float* key, const float* value, int offset, uint8_t* block) {
    switch (type) {
        case KVType::F32: return place(key, value, head_dim, offset, block);
        case KVType::BF16: return write_bf16(head_dim, key, value, offset, block);
        case KVType::INT8: return write_int8(head_dim, key, value, offset, block);
    }
}

}  // namespace slotwise::scalar

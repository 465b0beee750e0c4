// A vector of W floats or ints of the instruction set that this file is compiled for, and the few operations that the
// kernels are written in. Included by simd.cpp alone, once for each set; W is 16, 8 or 4. Multiplications and additions
// are contracted nowhere but in fma(), so that the same source gives the same bits wherever it is inlined.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__x86_64__)
#if defined(__GNUC__) && !defined(__clang__)  // GCC 12 takes its own _mm512_undefined_ps() for a mistake (bug 105593)
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop
#else
#include <immintrin.h>
#endif
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace slotwise::SLOTWISE_ISA {

#if defined(__AVX512F__)
constexpr int W = 16;
#elif defined(__AVX2__)
constexpr int W = 8;
#else
constexpr int W = 4;
#endif

typedef float V __attribute__((vector_size(4 * W)));
typedef int32_t I __attribute__((vector_size(4 * W)));
typedef uint32_t U __attribute__((vector_size(4 * W)));

#define SW_INLINE static inline __attribute__((always_inline))

SW_INLINE V load(const float* p) { V v; memcpy(&v, p, sizeof v); return v; }
SW_INLINE void store(float* p, V v) { memcpy(p, &v, sizeof v); }
SW_INLINE I load_int(const int32_t* p) { I v; memcpy(&v, p, sizeof v); return v; }
SW_INLINE void store_int(int32_t* p, I v) { memcpy(p, &v, sizeof v); }
// The first `count` lanes, up to W; the others zero, and not written.
SW_INLINE V load_some(const float* p, int count) {
    if (count == W) return load(p);
    V v{};
    memcpy(&v, p, sizeof(float) * count);
    return v;
}
SW_INLINE void store_some(float* p, V v, int count) {
    if (count == W) return store(p, v);
    memcpy(p, &v, sizeof(float) * count);
}
SW_INLINE V all(float x) { return x - V{}; }
SW_INLINE I all_int(int32_t x) { return x - I{}; }
SW_INLINE V as_float(I v) { V r; memcpy(&r, &v, sizeof r); return r; }
SW_INLINE I as_int(V v) { I r; memcpy(&r, &v, sizeof r); return r; }
SW_INLINE V select(I mask, V yes, V no) { return mask ? yes : no; }
SW_INLINE I lane_numbers() { I v; for (int i = 0; i < W; ++i) v[i] = i; return v; }

#if defined(__AVX512F__)

SW_INLINE V fma(V a, V b, V c) { return (V)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
SW_INLINE V max(V a, V b) { return (V)_mm512_max_ps((__m512)a, (__m512)b); }  // b where either is NaN
SW_INLINE V min(V a, V b) { return (V)_mm512_min_ps((__m512)a, (__m512)b); }
SW_INLINE V to_float(I v) { return (V)_mm512_cvtepi32_ps((__m512i)v); }
SW_INLINE I round_to_int(V v) { return (I)_mm512_cvtps_epi32((__m512)v); }  // to nearest, ties to even
SW_INLINE V load_f16(const void* p) { return (V)_mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
SW_INLINE I widen_u16(const void* p) { return (I)_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)); }
SW_INLINE I widen_i8(const void* p) { return (I)_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i*)p)); }
SW_INLINE void narrow_to_u16(void* p, I v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtepi32_epi16((__m512i)v)); }
SW_INLINE void narrow_to_i8(void* p, I v) { _mm_storeu_si128((__m128i*)p, _mm512_cvtepi32_epi8((__m512i)v)); }

#elif defined(__AVX2__)

SW_INLINE V fma(V a, V b, V c) { return (V)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
SW_INLINE V max(V a, V b) { return (V)_mm256_max_ps((__m256)a, (__m256)b); }
SW_INLINE V min(V a, V b) { return (V)_mm256_min_ps((__m256)a, (__m256)b); }
SW_INLINE V to_float(I v) { return (V)_mm256_cvtepi32_ps((__m256i)v); }
SW_INLINE I round_to_int(V v) { return (I)_mm256_cvtps_epi32((__m256)v); }
SW_INLINE V load_f16(const void* p) { return (V)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
SW_INLINE I widen_u16(const void* p) { return (I)_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)); }
SW_INLINE I widen_i8(const void* p) { return (I)_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
SW_INLINE void narrow_to_u16(void* p, I v) {  // each value 0 … 65535
    __m256i packed = _mm256_packus_epi32((__m256i)v, (__m256i)v);
    _mm_storeu_si128((__m128i*)p, _mm256_castsi256_si128(_mm256_permute4x64_epi64(packed, 0x08)));
}
SW_INLINE void narrow_to_i8(void* p, I v) {  // each value -128 … 127
    __m256i halves = _mm256_permute4x64_epi64(_mm256_packs_epi32((__m256i)v, (__m256i)v), 0x08);
    __m128i half = _mm256_castsi256_si128(halves);
    _mm_storel_epi64((__m128i*)p, _mm_packs_epi16(half, half));
}

#elif defined(__aarch64__)

SW_INLINE V fma(V a, V b, V c) { return (V)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b); }
SW_INLINE V max(V a, V b) { return (V)vbslq_f32(vcgtq_f32((float32x4_t)a, (float32x4_t)b), (float32x4_t)a, (float32x4_t)b); }
SW_INLINE V min(V a, V b) { return (V)vbslq_f32(vcltq_f32((float32x4_t)a, (float32x4_t)b), (float32x4_t)a, (float32x4_t)b); }
SW_INLINE V to_float(I v) { return (V)vcvtq_f32_s32((int32x4_t)v); }
SW_INLINE I round_to_int(V v) { return (I)vcvtnq_s32_f32((float32x4_t)v); }
SW_INLINE V load_f16(const void* p) { return (V)vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16((const uint16_t*)p))); }
SW_INLINE I widen_u16(const void* p) { return (I)vreinterpretq_s32_u32(vmovl_u16(vld1_u16((const uint16_t*)p))); }
SW_INLINE I widen_i8(const void* p) {
    int32_t word;
    memcpy(&word, p, 4);
    return (I)vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_s32(vdup_n_s32(word)))));
}
SW_INLINE void narrow_to_u16(void* p, I v) { vst1_u16((uint16_t*)p, vmovn_u32(vreinterpretq_u32_s32((int32x4_t)v))); }
SW_INLINE void narrow_to_i8(void* p, I v) {
    int16x4_t half = vmovn_s32((int32x4_t)v);
    int32_t word = vget_lane_s32(vreinterpret_s32_s8(vmovn_s16(vcombine_s16(half, half))), 0);
    memcpy(p, &word, 4);
}

#endif

SW_INLINE V load_bf16(const void* p) { return as_float(widen_u16(p) << 16); }

// To nearest, ties to even; NaN stays NaN.
SW_INLINE void store_bf16(void* p, V v) {
    U bits = (U)as_int(v);
    U rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    I is_nan = v != v;
    narrow_to_u16(p, (I)rounded | (is_nan & 0x7fc0));
}

SW_INLINE void store_i8_some(int8_t* p, I v, int count) {
    if (count == W) return narrow_to_i8(p, v);
    int8_t all_lanes[W];
    narrow_to_i8(all_lanes, v);
    memcpy(p, all_lanes, count);
}

// Sums and maxima over the lanes, always in the same order: halves are added until one is left.
SW_INLINE float sum(V v) {
    float lanes[W];
    memcpy(lanes, &v, sizeof v);
#pragma GCC unroll 4
    for (int n = W / 2; n; n /= 2)
        for (int i = 0; i < n; ++i) lanes[i] += lanes[i + n];
    return lanes[0];
}
SW_INLINE float max(V v) {
    float lanes[W];
    memcpy(lanes, &v, sizeof v);
#pragma GCC unroll 4
    for (int n = W / 2; n; n /= 2)
        for (int i = 0; i < n; ++i) lanes[i] = lanes[i] > lanes[i + n] ? lanes[i] : lanes[i + n];
    return lanes[0];
}

SW_INLINE I max(I a, I b) { return a > b ? a : b; }
#if defined(__AVX512F__)
SW_INLINE int32_t sum(I v) { return _mm512_reduce_add_epi32((__m512i)v); }
SW_INLINE int32_t max(I v) { return _mm512_reduce_max_epi32((__m512i)v); }
#else
SW_INLINE int32_t sum(I v) {
    int32_t lanes[W], total = 0;
    memcpy(lanes, &v, sizeof v);
    for (int i = 0; i < W; ++i) total += lanes[i];
    return total;
}
SW_INLINE int32_t max(I v) {
    int32_t lanes[W], largest = INT32_MIN;
    memcpy(lanes, &v, sizeof v);
    for (int i = 0; i < W; ++i) largest = lanes[i] > largest ? lanes[i] : largest;
    return largest;
}
#endif

// e^x: x = n ln 2 + r with |r| <= ln 2 / 2, and e^r by the Taylor polynomial of degree 7 (error below 1e-8 relative,
// less than float32's own rounding), in pairs of terms to keep the chain short. n is what rounding leaves in the last
// bits of a number near 1.5 * 2^23. 0 below -87.3, so that no result is subnormal; a NaN comes through every step.
SW_INLINE V exp(V x) {
    const V low = all(-87.33654f), high = all(88.37626f), shift = all(12582912.0f);
    V inside = max(low, min(high, x));
    V shifted = fma(inside, all(1.44269504f), shift);
    V n = shifted - shift;
    V r = fma(n, all(-0.693145752f), inside);
    r = fma(n, all(-1.42860677e-6f), r);
    V square = r * r;
    V e23 = fma(r, all(1.0f / 6), all(0.5f));
    V e45 = fma(r, all(1.0f / 120), all(1.0f / 24)), e67 = fma(r, all(1.0f / 5040), all(1.0f / 720));
    V e = fma(fma(fma(e67, square, e45), square, e23), square, r) + 1.0f;
    V power = as_float((as_int(shifted) << 23) + (127 << 23));
    return select((I)(x < low), V{}, e * power);
}

}  // namespace slotwise::SLOTWISE_ISA

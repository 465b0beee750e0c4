#include "matrix.h"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace slotwise {

namespace {

constexpr int64_t HUGE_PAGE = 2 << 20;

bool is_quantized(Encoding e) { return e != Encoding::F32 && e != Encoding::BF16; }

// Bytes of the codes of one block of 32 weights, in GGML's layout and in ours alike.
int code_bytes(Encoding e) { return e == Encoding::Q8 ? GROUP : GROUP / 2; }

int head_bytes(Encoding e) { return e == Encoding::Q4_1 ? 4 : 2; }  // scale, minimum

int64_t group_bytes(Encoding e) { return PANEL * (int64_t)(code_bytes(e) + head_bytes(e)); }

int64_t panel_bytes(Encoding e, int64_t columns) {
    if (e == Encoding::F32) return columns * PANEL * 4;
    if (e == Encoding::BF16) return columns * PANEL * 2;
    return columns / GROUP * group_bytes(e);
}

// Words of `size` bytes of a row become words of lane `lane`: [i] -> [i][lane].
void scatter(const uint8_t* from, int64_t num_words, int size, int lane, uint8_t* to) {
    for (int64_t i = 0; i < num_words; ++i) memcpy(to + (i * PANEL + lane) * size, from + i * size, size);
}

void pack_block(Encoding e, const uint8_t* block, int lane, uint8_t* group) {
    const uint8_t* codes = block + head_bytes(e);
    scatter(codes, code_bytes(e) / 4, 4, lane, group);
    if (e == Encoding::Q8)
        for (int i = 0; i < GROUP / 4; ++i)
            for (int j = 0; j < 4; ++j) group[(i * PANEL + lane) * 4 + j] ^= 128;  // q + 128, of a signed q
    uint8_t* heads = group + PANEL * code_bytes(e);
    for (int i = 0; i < head_bytes(e); i += 2) memcpy(heads + i * PANEL + 2 * lane, block + i, 2);
}

void pack_row(Encoding e, const uint8_t* row, int64_t columns, int lane, uint8_t* panel) {
    if (e == Encoding::F32) return scatter(row, columns, 4, lane, panel);
    if (e == Encoding::BF16) return scatter(row, columns / 2, 4, lane, panel);
    int block_bytes = code_bytes(e) + head_bytes(e);
    for (int64_t g = 0; g < columns / GROUP; ++g) pack_block(e, row + g * block_bytes, lane, panel + g * group_bytes(e));
}

float read_f16(const uint8_t* p) {
    uint16_t bits;
    memcpy(&bits, p, 2);
    return from_f16(bits);
}

void unpack_group(Encoding e, const uint8_t* group, int lane, float* out) {
    const uint8_t* heads = group + PANEL * code_bytes(e) + 2 * lane;
    float scale = read_f16(heads), minimum = e == Encoding::Q4_1 ? read_f16(heads + 2 * PANEL) : 0.0f;
    for (int i = 0; i < GROUP; ++i) {
        int place = e == Encoding::Q8 ? i : i % 16;
        int code = group[(place / 4 * PANEL + lane) * 4 + place % 4];
        if (e != Encoding::Q8) code = i < 16 ? code & 15 : code >> 4;
        int offset = e == Encoding::Q8 ? 128 : e == Encoding::Q4_0 ? 8 : 0;
        out[i] = scale * (float)(code - offset) + minimum;
    }
}

// The value whose magnitude is largest, with its sign.
float extreme(const float* x) {
    float best = 0;
    for (int i = 0; i < GROUP; ++i)
        if (std::fabs(x[i]) > std::fabs(best)) best = x[i];
    return best;
}

int clamp(float x, int low, int high) {
    int i = (int)std::nearbyint(x);
    return i < low ? low : i > high ? high : i;
}

void put_f16(float value, uint8_t* out) {
    uint16_t bits = to_f16(value);
    memcpy(out, &bits, 2);
}

void quantize_q8(const float* x, uint8_t* block) {
    put_f16(std::fabs(extreme(x)) / 127, block);
    float scale = read_f16(block), inverse = scale > 0 ? 1 / scale : 0;
    for (int i = 0; i < GROUP; ++i) block[2 + i] = (uint8_t)(int8_t)clamp(x[i] * inverse, -127, 127);
}

void put_nibbles(const float* x, float scale, float zero, uint8_t* codes) {
    float inverse = scale != 0 ? 1 / scale : 0;
    for (int i = 0; i < GROUP / 2; ++i) {
        int low = clamp((x[i] - zero) * inverse, 0, 15), high = clamp((x[i + GROUP / 2] - zero) * inverse, 0, 15);
        codes[i] = (uint8_t)(low | high << 4);
    }
}

// As GGML: the extreme value gets the code 0, which reaches one step further than 15.
void quantize_q4_0(const float* x, uint8_t* block) {
    put_f16(extreme(x) / -8, block);
    float scale = read_f16(block);
    put_nibbles(x, scale, -8 * scale, block + 2);
}

void quantize_q4_1(const float* x, uint8_t* block) {
    float low = x[0], high = x[0];
    for (int i = 1; i < GROUP; ++i) low = std::fmin(low, x[i]), high = std::fmax(high, x[i]);
    put_f16((high - low) / 15, block);
    put_f16(low, block + 2);
    put_nibbles(x, read_f16(block), read_f16(block + 2), block + 4);
}

}  // namespace

Buffer::Buffer(int64_t num_bytes) : size_(num_bytes) {
    int64_t alignment = num_bytes >= HUGE_PAGE ? HUGE_PAGE : 64;
    int64_t rounded = (num_bytes + alignment - 1) / alignment * alignment;
    void* p = nullptr;
    if (posix_memalign(&p, alignment, rounded ? rounded : alignment)) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == HUGE_PAGE) madvise(p, rounded, MADV_HUGEPAGE);  // fewer misses of the address cache; may be refused
#endif
    data_.reset(static_cast<uint8_t*>(p));
}

void Buffer::Free::operator()(uint8_t* p) const { free(p); }

int64_t row_bytes(Encoding e, int64_t columns) {
    if (e == Encoding::F32) return columns * 4;
    if (e == Encoding::BF16) return columns * 2;
    return columns / GROUP * (code_bytes(e) + head_bytes(e));
}

PackedMatrix::PackedMatrix(Encoding e, int32_t rows, int32_t columns, const uint8_t* data) {
    if (rows < 1 || columns < 1) throw std::invalid_argument("a matrix has at least one row and one column");
    if (is_quantized(e) && columns % GROUP) throw std::invalid_argument("columns must be a multiple of 32");
    if (e == Encoding::BF16 && columns % 2) throw std::invalid_argument("columns must be even");
    matrix_ = {e, rows, columns, nullptr, panel_bytes(e, columns), nullptr};
    panels_ = Buffer(matrix_.num_panels() * matrix_.panel_bytes);
    memset(panels_.as<uint8_t>(), 0, panels_.size());  // rows that fill up the last panel are zeros
    for (int32_t row = 0; row < rows; ++row) {
        uint8_t* panel = panels_.as<uint8_t>() + row / PANEL * matrix_.panel_bytes;
        pack_row(e, data + row * row_bytes(e, columns), columns, row % PANEL, panel);
    }
    matrix_.panels = panels_.as<uint8_t>();
}

void PackedMatrix::set_bias(const float* bias) {
    bias_ = Buffer(matrix_.num_panels() * PANEL * 4);
    memset(bias_.as<float>(), 0, bias_.size());
    memcpy(bias_.as<float>(), bias, matrix_.rows * sizeof(float));
    matrix_.bias = bias_.as<float>();
}

void PackedMatrix::row(int32_t row, float* out) const {
    const uint8_t* panel = matrix_.panels + row / PANEL * matrix_.panel_bytes;
    int lane = row % PANEL;
    Encoding e = matrix_.encoding;
    if (is_quantized(e)) {
        for (int64_t g = 0; g < matrix_.columns / GROUP; ++g)
            unpack_group(e, panel + g * group_bytes(e), lane, out + g * GROUP);
        return;
    }
    for (int64_t k = 0; k < matrix_.columns; ++k) {
        if (e == Encoding::F32) {
            memcpy(out + k, panel + (k * PANEL + lane) * 4, 4);
        } else {
            uint32_t bits = 0;
            memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, panel + ((k / 2 * PANEL + lane) * 2 + k % 2) * 2, 2);
            memcpy(out + k, &bits, 4);
        }
    }
}

Vector::Vector(int32_t size, const float* values) : values_(size * (int64_t)sizeof(float)) {
    memcpy(values_.as<float>(), values, size * sizeof(float));
}

void quantize_rows(Encoding e, int64_t rows, int32_t columns, const float* values, uint8_t* out) {
    if (e == Encoding::BF16) {
        for (int64_t i = 0; i < rows * columns; ++i) {
            uint16_t bits = to_bf16(values[i]);
            memcpy(out + 2 * i, &bits, 2);
        }
        return;
    }
    if (!is_quantized(e) || columns % GROUP) throw std::invalid_argument("columns must be a multiple of 32");
    int block_bytes = code_bytes(e) + head_bytes(e);
    auto quantize = e == Encoding::Q8 ? quantize_q8 : e == Encoding::Q4_0 ? quantize_q4_0 : quantize_q4_1;
    for (int64_t i = 0; i < rows * columns / GROUP; ++i) quantize(values + i * GROUP, out + i * block_bytes);
}

float from_f16(uint16_t bits) {
    uint32_t sign = (uint32_t)(bits & 0x8000) << 16, exponent = bits >> 10 & 31, mantissa = bits & 1023, result;
    if (exponent == 0) {  // zero and subnormals: mantissa * 2^-24, exact in float32
        float value = (float)mantissa * 0x1p-24f;
        memcpy(&result, &value, 4);
        result |= sign;
    } else {
        result = sign | (exponent == 31 ? 255u : exponent + 112) << 23 | mantissa << 13;
    }
    float value;
    memcpy(&value, &result, 4);
    return value;
}

uint16_t to_f16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint16_t sign = (uint16_t)(bits >> 16 & 0x8000);
    float size = std::fabs(value);
    if (!(size < 65520.0f)) return sign | (uint16_t)(size != size ? 0x7e00 : 0x7c00);
    if (size < 0x1p-14f) return sign | (uint16_t)std::nearbyint(size * 0x1p24f);
    memcpy(&bits, &size, 4);
    bits += 0xfff + (bits >> 13 & 1);
    return sign | (uint16_t)((bits >> 13) - (112u << 10));
}

uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    if (value != value) return (uint16_t)(bits >> 16 | 0x40);
    return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

}  // namespace slotwise

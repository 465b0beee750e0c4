// Weight matrices as the kernels want them (kernels.h has the layout), made from blocks as GGML lays them out.
#pragma once
#include <cstdint>
#include <memory>

#include "kernels.h"

namespace slotwise {

// Memory aligned to a cache line (and to a huge page where it is large), not initialised, freed with its owner.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(int64_t num_bytes);
    template <class T> T* as() const { return reinterpret_cast<T*>(data_.get()); }
    int64_t size() const { return size_; }

private:
    struct Free { void operator()(uint8_t* p) const; };
    std::unique_ptr<uint8_t[], Free> data_;
    int64_t size_ = 0;
};

// Bytes of a row of K columns in GGML's layout.
int64_t row_bytes(Encoding encoding, int64_t columns);

class PackedMatrix {
public:
    PackedMatrix() = default;
    // N rows of K columns at `data`; throws std::invalid_argument where K does not fit the encoding.
    PackedMatrix(Encoding encoding, int32_t rows, int32_t columns, const uint8_t* data);
    void set_bias(const float* bias);
    bool is_set() const { return matrix_.panels != nullptr; }
    const Matrix& get() const { return matrix_; }
    int64_t num_bytes() const { return panels_.size() + bias_.size(); }
    // Row `row` as floats [K].
    void row(int32_t row, float* out) const;

private:
    Buffer panels_, bias_;
    Matrix matrix_{};
};

// A vector of floats kept as it is.
class Vector {
public:
    Vector() = default;
    Vector(int32_t size, const float* values);
    bool is_set() const { return values_.size() > 0; }
    const float* get() const { return values_.as<float>(); }
    int64_t num_bytes() const { return values_.size(); }

private:
    Buffer values_;
};

// N*K floats into GGML's blocks, or rounded to BF16.
void quantize_rows(Encoding encoding, int64_t rows, int32_t columns, const float* values, uint8_t* out);

float from_f16(uint16_t bits);
uint16_t to_f16(float value);   // to nearest, ties to even
uint16_t to_bf16(float value);  // likewise

}  // namespace slotwise

// Low-rank adapters (LoRA): what is added to a layer's products for the rows of some slots.
#pragma once
#include <cstdint>
#include <vector>

#include "matrix.h"
#include "slotwise.h"

namespace slotwise {

// B A beside a matrix [N, K], of rank R; whatever scale there is, is in B. B lies transposed, so that its columns are added
// up one after the other, as vectors.
struct LowRank {
    int32_t rank = 0;             // 0: the adapter leaves the matrix alone
    int32_t rows = 0, columns = 0;  // N, K
    Vector a;                     // [R, K]
    Vector b;                     // [R, N]

    LowRank() = default;
    // a [R, K], b [N, R]
    LowRank(int32_t rank, int32_t rows, int32_t columns, const float* a, const float* b);
    int64_t num_bytes() const { return a.num_bytes() + b.num_bytes(); }
};

struct AdaptedLayer {
    LowRank q, k, v, o, gate, up, down;
    // Null where no adapter reaches that role.
    LowRank* at(int role);
};

struct Adapter {
    std::vector<AdaptedLayer> layers;  // [L]
};

// A row of a step whose slot has an adapter.
struct AdaptedRow {
    const Adapter* adapter;
    int32_t row;
};

// One product of many of a row: x [T, columns] → added to out [T, stride].
struct AdaptedProduct {
    LowRank AdaptedLayer::*matrix;
    const float* x;
    float* out;
    int64_t stride;
};

}  // namespace slotwise

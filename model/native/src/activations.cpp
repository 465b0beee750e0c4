#include "activations.h"

namespace slotwise {

void Needs::add(const PackedMatrix& matrix) {
    switch (matrix.get().encoding) {
        case Encoding::F32: f32 = true; break;
        case Encoding::BF16: bf16 = true; break;
        default: quantized = true;
    }
}

Forms::Forms(int64_t max_rows, int64_t max_columns)
    : q_(max_rows * max_columns), scale_(round_up(max_rows, ROW_TILE) * (max_columns / GROUP + 1) * 4),
      sum_(scale_.size()), shift_(scale_.size()), bf16_(max_rows * max_columns * 2) {}

void Forms::fill(const Kernels& kernels, const Needs& needs, const float* x, int32_t columns, int64_t row) {
    const float* from = x + row * columns;
    if (needs.bf16) kernels.to_bf16(from, columns, bf16_.as<uint16_t>() + row * columns);
    if (!needs.quantized) return;
    int64_t groups = columns / GROUP, place = group_place(row, groups);
    thread_local std::vector<float> scales;
    thread_local std::vector<int32_t> sums;
    scales.resize(groups);
    sums.resize(groups);
    kernels.quantize(from, columns, q_.as<int8_t>() + row * columns, scales.data(), sums.data());
    for (int64_t g = 0; g < groups; ++g, place += ROW_TILE) {
        scale_.as<float>()[place] = scales[g];
        sum_.as<int32_t>()[place] = sums[g];
        shift_.as<float>()[place] = scales[g] * (float)sums[g];
    }
}

Activations Forms::view(const float* x, int32_t columns) const {
    return {columns,           x, bf16_.as<uint16_t>(), q_.as<int8_t>(), scale_.as<float>(), sum_.as<int32_t>(),
            shift_.as<float>()};
}

void multiply(Team& team, const Kernels& kernels, const Activations& x, int num_rows,
              std::initializer_list<Product> products, bool adds) {
    int total = 0;
    for (const Product& p : products) total += p.matrix->get().num_panels();
    team.run(total, PANELS_AT_ONCE, [&](int, int first, int end) {
        for (const Product& p : products) {
            const Matrix& matrix = p.matrix->get();
            int last = std::min(end, matrix.num_panels());
            if (first < last) kernels.matmul(matrix, x, nullptr, num_rows, first, last - first, p.out, p.stride, adds);
            first = std::max(first - matrix.num_panels(), 0);
            end -= matrix.num_panels();
        }
    });
}

}  // namespace slotwise

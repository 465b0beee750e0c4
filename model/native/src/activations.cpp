#include "activations.h"

#include <algorithm>

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

int panels_per_item(int total, int num_rows, int num_threads) {
    constexpr int ITEMS_PER_THREAD = 8, MOST = 32;
    int panels = std::min(std::max(total / (ITEMS_PER_THREAD * num_threads), 1), MOST);
    int together = num_rows == 1 ? 4 : num_rows <= 4 ? 2 : 1;  // what the kernels like to have at once
    return (int)round_up(panels, std::min(together, std::max(total / (4 * num_threads), 1)));
}

void multiply(Team& team, const Kernels& kernels, const Activations& x, int num_rows,
              std::initializer_list<Product> products, bool adds) {
    int total = 0, num_items = 0;
    for (const Product& p : products) total += p.matrix->get().num_panels();
    int chunk = panels_per_item(total, num_rows, team.size());
    for (const Product& p : products) num_items += (p.matrix->get().num_panels() + chunk - 1) / chunk;
    team.run(num_items, [&](int, int item) {
        for (const Product& p : products) {
            const Matrix& matrix = p.matrix->get();
            int num_chunks = (matrix.num_panels() + chunk - 1) / chunk;
            if (item >= num_chunks) {
                item -= num_chunks;
                continue;
            }
            int first = item * chunk, count = std::min(chunk, matrix.num_panels() - first);
            kernels.matmul(matrix, x, nullptr, num_rows, first, count, p.out, p.stride, adds);
            return;
        }
    });
}

}  // namespace slotwise

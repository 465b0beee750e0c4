#include "activations.h"

namespace slotwise {

bool has_prompt_product(const Kernels& kernels, const Matrix& matrix) {
    return kernels.prompt_matmul && matrix.encoding != Encoding::F32 && matrix.columns % GROUP == 0;
}

void Needs::add(const Kernels& kernels, const PackedMatrix& packed) {
    const Matrix& matrix = packed.get();
    Form form;
    switch (matrix.encoding) {
        case Encoding::F32: form.f32 = true; break;
        case Encoding::BF16: form.bf16 = true; break;
        default: form.quantized = true;
    }
    auto merge = [](Form& to, const Form& from) {
        to.f32 |= from.f32;
        to.bf16 |= from.bf16;
        to.quantized |= from.quantized;
    };
    merge(generated, form);
    merge(prompt, has_prompt_product(kernels, matrix) ? Form{false, true, false} : form);
}

Forms::Forms(int64_t max_rows, int64_t max_columns)
    : q_(max_rows * max_columns), scale_(round_up(max_rows, ROW_TILE) * (max_columns / GROUP + 1) * 4),
      sum_(scale_.size()), shift_(scale_.size()), bf16_(max_rows * max_columns * 2) {}

void Forms::fill_part(const Kernels& kernels, const Form& form, const float* x, int32_t columns, int64_t row,
                      int32_t first, int32_t count) {
    constexpr int AT_ONCE = 64;
    if (form.bf16) kernels.to_bf16(x, count, bf16_.as<uint16_t>() + row * columns + first);
    if (!form.quantized) return;
    int64_t place = group_place(row, columns / GROUP) + first / GROUP * ROW_TILE;
    int8_t* q = q_.as<int8_t>() + row * columns + first;
    float scales[AT_ONCE];
    int32_t sums[AT_ONCE];
    for (int g = 0; g < count / GROUP; ++g, place += ROW_TILE) {
        if (g % AT_ONCE == 0)
            kernels.quantize(x + g * GROUP, std::min(count - g * GROUP, AT_ONCE * GROUP), q + g * GROUP, scales, sums);
        scale_.as<float>()[place] = scales[g % AT_ONCE];
        sum_.as<int32_t>()[place] = sums[g % AT_ONCE];
        shift_.as<float>()[place] = scales[g % AT_ONCE] * (float)sums[g % AT_ONCE];
    }
}

Activations Forms::view(const float* x, int32_t columns) const {
    return {columns,           x, bf16_.as<uint16_t>(), q_.as<int8_t>(), scale_.as<float>(), sum_.as<int32_t>(),
            shift_.as<float>()};
}

void multiply_panels(const Kernels& kernels, const Matrix& matrix, const Activations& x, const RowCounts& rows,
                     int first_panel, int num_panels, float* out, int64_t out_stride, bool adds) {
    const bool splits = has_prompt_product(kernels, matrix);
    const int num_rows = splits ? rows.generated : rows.total();
    if (num_rows) kernels.matmul(matrix, x, nullptr, num_rows, first_panel, num_panels, out, out_stride, adds);
    if (splits && rows.prompt)
        kernels.prompt_matmul(matrix, x, rows.generated, rows.prompt, first_panel, num_panels, out, out_stride, adds);
}

void multiply(Team& team, const Kernels& kernels, const Activations& x, const RowCounts& rows,
              std::initializer_list<Product> products, bool adds) {
    int total = 0;
    for (const Product& p : products) total += p.matrix->get().num_panels();
    team.run(total, PANELS_AT_ONCE, [&](int, int first, int end) {
        for (const Product& p : products) {
            const Matrix& matrix = p.matrix->get();
            int last = std::min(end, matrix.num_panels());
            if (first < last)
                multiply_panels(kernels, matrix, x, rows, first, last - first, p.out, p.stride, adds);
            first = std::max(first - matrix.num_panels(), 0);
            end -= matrix.num_panels();
        }
    });
}

}  // namespace slotwise

// For tests/model/native/test_matmul.py: a product with one instruction set, through the packing and the activations'
// forms that a step uses. 0: done; -1: not an instruction set of this processor, or the sizes do not fit.
#include <stdexcept>

#include "activations.h"
#include "slotwise.h"

using namespace slotwise;

// weights [N, K] in GGML's layout of the encoding; x [rows, K]; row_ids [M] or null (M = rows); out [rows, stride]. Rows
// from `num_generated` on are rows of prompts, where they have products of their own.
SW_API int sw_test_matmul(const char* isa, int encoding, int32_t n, int32_t k, const void* weights, const float* bias,
                          const float* x, int rows, int num_generated, const int32_t* row_ids, int m, int first_panel,
                          int num_panels, float* out, int64_t stride, int adds) {
    const Kernels *kernels = choose_kernels(isa), *same_for_all = choose_kernels("scalar");
    if (!kernels) return -1;
    try {
        PackedMatrix matrix((Encoding)encoding, n, k, static_cast<const uint8_t*>(weights));
        if (bias) matrix.set_bias(bias);
        const RowCounts counts{num_generated, rows - num_generated};
        Needs needs;
        needs.add(*kernels, matrix);
        Forms forms(rows, k);
        for (int row = 0; row < rows; ++row)
            forms.fill(*same_for_all, needs.of(row, counts), x + (int64_t)row * k, k, row);
        const Activations view = forms.view(x, k);
        if (row_ids) kernels->matmul(matrix.get(), view, row_ids, m, first_panel, num_panels, out, stride, adds);
        else multiply_panels(*kernels, matrix.get(), view, counts, first_panel, num_panels, out, stride, adds);
        return 0;
    } catch (const std::invalid_argument&) {
        return -1;
    }
}

// Row `row` of a matrix as floats [K].
SW_API int sw_test_row(int encoding, int32_t n, int32_t k, const void* weights, int32_t row, float* out) {
    PackedMatrix((Encoding)encoding, n, k, static_cast<const uint8_t*>(weights)).row(row, out);
    return 0;
}

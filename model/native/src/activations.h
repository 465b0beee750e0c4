// Rows of activations in the forms that weight matrices ask for, and products with those matrices by the whole team.
#pragma once
#include <algorithm>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "kernels.h"
#include "matrix.h"
#include "rows.h"
#include "team.h"

namespace slotwise {

// The forms that a row is needed in.
struct Form {
    bool f32 = false, bf16 = false, quantized = false;
};

// Whether rows of prompts have a product of their own with that matrix.
bool has_prompt_product(const Kernels& kernels, const Matrix& matrix);

// Which forms of its input a set of matrices needs, for either kind of row.
struct Needs {
    Form generated, prompt;
    void add(const Kernels& kernels, const PackedMatrix& matrix);
    const Form& of(int64_t row, const RowCounts& rows) const { return row < rows.generated ? generated : prompt; }
};

// Memory for rows of at most `max_columns`, one form each; filled row by row, from any thread.
class Forms {
public:
    Forms(int64_t max_rows, int64_t max_columns);
    // Row `row`, which is [columns] floats at x, is brought into the forms that are needed; the float32 form is x itself.
    void fill(const Kernels& kernels, const Form& form, const float* x, int32_t columns, int64_t row) {
        fill_part(kernels, form, x, columns, row, 0, columns);
    }
    // As much of it as lies at `count` columns from `first` on, a multiple of 32; x is that part.
    void fill_part(const Kernels& kernels, const Form& form, const float* x, int32_t columns, int64_t row,
                   int32_t first, int32_t count);
    // All rows that were filled, of `columns` each. `x`: the float32 form.
    Activations view(const float* x, int32_t columns) const;

private:
    Buffer q_, scale_, sum_, shift_, bf16_;
};

// Some panels of the matrix by all rows; as Kernels::matmul otherwise.
void multiply_panels(const Kernels& kernels, const Matrix& matrix, const Activations& x, const RowCounts& rows,
                     int first_panel, int num_panels, float* out, int64_t out_stride, bool adds);

// One product of many that share their input: the matrix's output goes to out [T, stride].
struct Product {
    const PackedMatrix* matrix;
    float* out;
    int64_t stride;
};

// Products of rows of x, shared out by panels. `adds`: to what is in `out`.
void multiply(Team& team, const Kernels& kernels, const Activations& x, const RowCounts& rows,
              std::initializer_list<Product> products, bool adds = false);

constexpr int PANELS_AT_ONCE = 8;  // that a thread takes: what the kernels like, and few enough to share out evenly

inline int64_t round_up(int64_t n, int64_t multiple) { return (n + multiple - 1) / multiple * multiple; }

// work(thread, row) for each row: by the team where there are enough of them, else by the caller. Waking the others takes
// longer than a few rows, and rows of a tile have their scales in the same lines of the cache, which then go to and fro.
template <class F>
void for_rows(Team& team, int num_rows, const F& work) {
    if (num_rows <= ROW_TILE) {
        for (int row = 0; row < num_rows; ++row) work(0, row);
        return;
    }
    team.run(num_rows, std::max(num_rows / (4 * team.size()), 1), [&](int thread, int first, int end) {
        for (int row = first; row < end; ++row) work(thread, row);
    });
}

}  // namespace slotwise

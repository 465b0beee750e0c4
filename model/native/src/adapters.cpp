// What the adapters of a step's slots add to its products: row by row, so that a row's result is its own.
#include "adapters.h"

#include <algorithm>

#include "runner.h"

namespace slotwise {

LowRank::LowRank(int32_t rank, int32_t rows, int32_t columns, const float* a, const float* b)
    : rank(rank), rows(rows), columns(columns), a(rank * columns, a) {
    std::vector<float> transposed((size_t)rank * rows);
    for (int32_t n = 0; n < rows; ++n)
        for (int32_t r = 0; r < rank; ++r) transposed[(size_t)r * rows + n] = b[(size_t)n * rank + r];
    this->b = Vector(rank * rows, transposed.data());
}

LowRank* AdaptedLayer::at(int role) {
    switch (role) {
        case SW_Q: return &q;
        case SW_K: return &k;
        case SW_V: return &v;
        case SW_O: return &o;
        case SW_GATE: return &gate;
        case SW_UP: return &up;
        case SW_DOWN: return &down;
    }
    return nullptr;
}

// Those of one adapter stand side by side: a thread that has read its matrices uses them again.
void Runner::place_adapted() {
    adapted_.clear();
    for (const Span& span : rows_.spans())
        if (span.slot->adapter > 0)
            for (int32_t t = 0; t < span.num_tokens; ++t)
                adapted_.push_back({&model_.adapters[span.slot->adapter - 1], span.first_row + t});
    std::stable_sort(adapted_.begin(), adapted_.end(),
                     [](const AdaptedRow& a, const AdaptedRow& b) { return a.adapter < b.adapter; });
}

// work(row) for each row that has an adapter. One or two of them are done sooner than the others are told.
template <class F>
void Runner::for_adapted(const F& work) {
    const int count = (int)adapted_.size();
    if (count <= 2) {
        for (const AdaptedRow& row : adapted_) work(row);
        return;
    }
    team_.run(count, std::max(count / (4 * team_.size()), 1), [&](int, int first, int end) {
        for (int i = first; i < end; ++i) work(adapted_[i]);
    });
}

void Runner::add_adapted(int layer, std::initializer_list<AdaptedProduct> products) {
    for_adapted([&](const AdaptedRow& row) {
        float* sums = low_rank_sums_.as<float>() + row.row * low_rank_stride_;
        for (const AdaptedProduct& product : products) {
            const LowRank& pair = row.adapter->layers[layer].*product.matrix;
            if (pair.rank == 0) continue;
            const float* x = product.x + (int64_t)row.row * pair.columns;
            kernels_.shrink(pair.a.get(), pair.rank, pair.columns, x, sums);
            kernels_.expand(pair.b.get(), pair.rows, pair.rank, sums, pair.rows, product.out + row.row * product.stride);
        }
    });
}

// A x of the gate and of the matrix beside it, which are multiplied part by part: kept until then.
void Runner::shrink_gate_and_up(int layer) {
    for_adapted([&](const AdaptedRow& row) {
        const AdaptedLayer& adapted = row.adapter->layers[layer];
        float* sums = low_rank_sums_.as<float>() + row.row * low_rank_stride_;
        const float* x = normed_.as<float>() + (int64_t)row.row * config_.hidden_size;
        for (const LowRank* pair : {&adapted.gate, &adapted.up}) {
            if (pair->rank) kernels_.shrink(pair->a.get(), pair->rank, pair->columns, x, sums);
            sums += pair->rank;
        }
    });
}

// B of that, for `count` columns from `first` on; gate and up hold these columns of every row.
void Runner::expand_gate_and_up(int layer, int32_t first, int32_t count, float* gate, float* up, int64_t stride) {
    for (const AdaptedRow& row : adapted_) {
        const AdaptedLayer& adapted = row.adapter->layers[layer];
        const float* sums = low_rank_sums_.as<float>() + row.row * low_rank_stride_;
        float* out = gate + row.row * stride;
        for (const LowRank* pair : {&adapted.gate, &adapted.up}) {
            if (pair->rank) kernels_.expand(pair->b.get() + first, pair->rows, pair->rank, sums, count, out);
            sums += pair->rank;
            out = up + row.row * stride;
        }
    }
}

}  // namespace slotwise

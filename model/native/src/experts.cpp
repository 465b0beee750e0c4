// A mixture of experts: each token's few experts are chosen, and those added that are every token's; tokens are grouped by
// expert, so that an expert's weights are read once for all of its tokens; what the experts give is added up by token, in
// the order of their weight, the shared ones last.
#include <algorithm>
#include <cmath>

#include "runner.h"

namespace slotwise {

void Runner::routed_mlp(const Layer& layer) {
    const RowCounts rows{num_tokens_, 0};  // those of prompts, too: an expert meets too few of them to widen weights for
    Needs needs;
    needs.add(kernels_, layer.router);
    for (const GatedMLP& expert : layer.experts) {
        needs.add(kernels_, expert.gate);
        needs.add(kernels_, expert.up);
    }
    for_rows(team_, num_tokens_, [&](int, int row) { normalise_row(layer.mlp_norm, needs.generated, row, row); });
    profile_.end(NORMS);
    Activations normed = forms_.view(normed_.as<float>(), config_.hidden_size);
    multiply(team_, kernels_, normed, rows,
             {{&layer.router, router_logits_.as<float>(), round_up(config_.num_experts, PANEL)}});
    for_rows(team_, num_tokens_, [&](int, int row) { choose_experts(row); });
    group_by_expert();
    profile_.end(ROUTING);
    int32_t size = config_.expert_intermediate_size;
    for_experts((size + GROUP - 1) / GROUP, GROUPS_AT_ONCE, [&](int expert, int first, int end, int thread) {
        const Rows rows = group_of(expert, normed);
        for (; first < end; ++first)
            gate_and_up(layer.experts[expert], rows, size, first * GROUP, std::min((first + 1) * GROUP, size), thread);
    });
    profile_.end(GATE_UP);
    Activations inner = inner_forms_.view(inner_.as<float>(), size);
    for_experts((config_.hidden_size + PANEL - 1) / PANEL, PANELS_AT_ONCE, [&](int expert, int first, int end, int) {
        const Rows rows = group_of(expert, inner);
        kernels_.matmul(layer.experts[expert].down.get(), inner, grouped_rows_.data() + rows.first,
                        rows.counts.total(), first, end - first,
                        expert_outputs_.as<float>() + rows.first * hidden_stride_, hidden_stride_, false);
    });
    for_rows(team_, num_tokens_, [&](int, int row) { combine_experts(row); });
    profile_.end(DOWN);
}

// The tokens that have the expert.
Rows Runner::group_of(int expert, const Activations& x) const {
    int first = first_of_expert_[expert];
    return {x, grouped_tokens_.data() + first, first, {first_of_expert_[expert + 1] - first, 0}, -1};
}

// The experts of the largest router probabilities, the first of equals; their probabilities are their weights. Then the
// shared ones.
void Runner::choose_experts(int row) {
    int num_experts = config_.num_experts, k = config_.num_experts_per_token;
    int32_t* ids = expert_ids_.data() + row * experts_of_token(config_);
    float* weights = expert_weights_.as<float>() + row * experts_of_token(config_);
    for (int shared = 0; shared < config_.num_shared_experts; ++shared) {
        ids[k + shared] = num_experts + shared;
        weights[k + shared] = 1;
    }
    float* probabilities = router_logits_.as<float>() + row * round_up(num_experts, PANEL);
    float largest = *std::max_element(probabilities, probabilities + num_experts), total = 0, chosen = 0;
    for (int x = 0; x < num_experts; ++x) total += probabilities[x] = std::exp(probabilities[x] - largest);
    for (int rank = 0; rank < k; ++rank) {
        int best = (int)(std::max_element(probabilities, probabilities + num_experts) - probabilities);
        ids[rank] = best;
        weights[rank] = probabilities[best] / total;
        chosen += probabilities[best] / total;
        probabilities[best] = -1;
    }
    if (!config_.norm_topk_prob) return;
    for (int rank = 0; rank < k; ++rank) weights[rank] /= chosen;
}

void Runner::group_by_expert() {
    int k = experts_of_token(config_), num_rows = num_tokens_ * k;
    std::fill(first_of_expert_.begin(), first_of_expert_.end(), 0);
    for (int i = 0; i < num_rows; ++i) ++first_of_expert_[expert_ids_[i] + 1];
    for (int x = 0; x < all_experts(config_); ++x) first_of_expert_[x + 1] += first_of_expert_[x];
    std::vector<int32_t> next(first_of_expert_.begin(), first_of_expert_.end() - 1);
    for (int i = 0; i < num_rows; ++i) {
        grouped_places_[i] = next[expert_ids_[i]]++;
        grouped_tokens_[grouped_places_[i]] = i / k;
    }
}

// work(expert, first, end, thread) for stretches of the parts of every expert that a token has.
template <class F>
void Runner::for_experts(int num_parts, int grain, const F& work) {
    team_.run(all_experts(config_) * num_parts, grain, [&](int thread, int first, int end) {
        while (first < end) {
            int expert = first / num_parts, last = std::min(end, (expert + 1) * num_parts);
            if (first_of_expert_[expert] < first_of_expert_[expert + 1])
                work(expert, first % num_parts, last - expert * num_parts, thread);
            first = last;
        }
    });
}

void Runner::combine_experts(int row) {
    int k = experts_of_token(config_);
    float* hidden = hidden_.as<float>() + row * hidden_stride_;
    for (int rank = 0; rank < k; ++rank) {
        float weight = expert_weights_.as<float>()[row * k + rank];
        const float* output = expert_outputs_.as<float>() + grouped_places_[row * k + rank] * hidden_stride_;
        for (int i = 0; i < config_.hidden_size; ++i) hidden[i] += weight * output[i];
    }
}

}  // namespace slotwise

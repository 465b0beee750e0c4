// The routed experts of a mixture: each token's few experts are chosen; tokens are grouped by expert, so that an expert's
// weights are read once for all of its tokens; what the experts give is added up by token, in the order of their weight.
#include <algorithm>
#include <cmath>

#include "runner.h"

namespace slotwise {

void Runner::routed_mlp(const Layer& layer) {
    int k = config_.num_experts_per_token, num_rows = num_tokens_ * k;
    Needs needs, inner_needs;
    needs.add(layer.router);
    for (const GatedMLP& expert : layer.experts) {
        needs.add(expert.gate);
        needs.add(expert.up);
        inner_needs.add(expert.down);
    }
    normalise(layer.mlp_norm, needs, num_tokens_, hidden_.as<float>());
    profile_.end(NORMS);
    Activations normed = forms_.view(normed_.as<float>(), config_.hidden_size);
    multiply(team_, kernels_, normed, num_tokens_,
             {{&layer.router, router_logits_.as<float>(), round_up(config_.num_experts, PANEL)}});
    for_rows(team_, num_tokens_, [&](int, int row) { choose_experts(row); });
    group_by_expert();
    profile_.end(ROUTING);
    multiply_experts(layer.experts, &GatedMLP::gate, normed, false, gate_.as<float>(), inner_stride_);
    multiply_experts(layer.experts, &GatedMLP::up, normed, false, up_.as<float>(), inner_stride_);
    profile_.end(GATE_UP);
    int32_t size = config_.expert_intermediate_size;
    for_rows(team_, num_rows, [&](int, int row) { activate(inner_needs, size, row); });
    profile_.end(SILU);
    Activations inner = forms_.view(inner_.as<float>(), size);
    multiply_experts(layer.experts, &GatedMLP::down, inner, true, expert_outputs_.as<float>(), hidden_stride_);
    for_rows(team_, num_tokens_, [&](int, int row) { combine_experts(row); });
    profile_.end(DOWN);
}

// The experts of the largest router probabilities, the first of equals; their probabilities are their weights.
void Runner::choose_experts(int row) {
    int num_experts = config_.num_experts, k = config_.num_experts_per_token;
    float* probabilities = router_logits_.as<float>() + row * round_up(num_experts, PANEL);
    float largest = *std::max_element(probabilities, probabilities + num_experts), total = 0, chosen = 0;
    for (int x = 0; x < num_experts; ++x) total += probabilities[x] = std::exp(probabilities[x] - largest);
    for (int rank = 0; rank < k; ++rank) {
        int best = (int)(std::max_element(probabilities, probabilities + num_experts) - probabilities);
        expert_ids_[row * k + rank] = best;
        expert_weights_.as<float>()[row * k + rank] = probabilities[best] / total;
        chosen += probabilities[best] / total;
        probabilities[best] = -1;
    }
    if (!config_.norm_topk_prob) return;
    for (int rank = 0; rank < k; ++rank) expert_weights_.as<float>()[row * k + rank] /= chosen;
}

void Runner::group_by_expert() {
    int k = config_.num_experts_per_token, num_rows = num_tokens_ * k;
    std::fill(first_of_expert_.begin(), first_of_expert_.end(), 0);
    for (int i = 0; i < num_rows; ++i) ++first_of_expert_[expert_ids_[i] + 1];
    for (int x = 0; x < config_.num_experts; ++x) first_of_expert_[x + 1] += first_of_expert_[x];
    std::vector<int32_t> next(first_of_expert_.begin(), first_of_expert_.end() - 1);
    for (int i = 0; i < num_rows; ++i) {
        grouped_places_[i] = next[expert_ids_[i]]++;
        grouped_tokens_[grouped_places_[i]] = i / k;
    }
}

// One matrix of each expert times the rows of its group. `x_is_grouped`: x has a row for each token and rank already,
// in the order of the groups; else one for each token.
void Runner::multiply_experts(const std::vector<GatedMLP>& experts, PackedMatrix GatedMLP::*matrix,
                              const Activations& x, bool x_is_grouped, float* out, int64_t stride) {
    int num_panels = (experts[0].*matrix).get().num_panels();
    auto multiply_stretch = [&](int expert, int first, int count) {
        int row = first_of_expert_[expert], num_rows = first_of_expert_[expert + 1] - row;
        if (!num_rows) return;
        const int32_t* row_ids = (x_is_grouped ? grouped_rows_ : grouped_tokens_).data() + row;
        kernels_.matmul((experts[expert].*matrix).get(), x, row_ids, num_rows, first, count, out + row * stride, stride,
                        false);
    };
    team_.run((int)experts.size() * num_panels, PANELS_AT_ONCE, [&](int, int first, int end) {
        while (first < end) {
            int expert = first / num_panels, last = std::min(end, (expert + 1) * num_panels);
            multiply_stretch(expert, first % num_panels, last - first);
            first = last;
        }
    });
}

void Runner::combine_experts(int row) {
    int k = config_.num_experts_per_token;
    float* hidden = hidden_.as<float>() + row * hidden_stride_;
    for (int rank = 0; rank < k; ++rank) {
        float weight = expert_weights_.as<float>()[row * k + rank];
        const float* output = expert_outputs_.as<float>() + grouped_places_[row * k + rank] * hidden_stride_;
        for (int i = 0; i < config_.hidden_size; ++i) hidden[i] += weight * output[i];
    }
}

}  // namespace slotwise

// How the next token is chosen: the rule of model/torch_backend/sampling.py, step by step, with sorts where it says so.
#pragma once
#include <algorithm>
#include <cfloat>
#include <cmath>
#include <functional>
#include <numeric>
#include <vector>

#include "kernels.h"
#include "philox.h"
#include "slotwise.h"

namespace slotwise::scalar {

// Of the first of the largest; -1 where there is a NaN, or no finite largest.
static int largest_id(const float* logits, int n) {
    if (std::any_of(logits, logits + n, [](float x) { return std::isnan(x); })) return -1;
    const float* largest = std::max_element(logits, logits + n);
    return std::isfinite(*largest) ? int(largest - logits) : -1;
}

static float penalized(float logit, float num_output, const SamplingWork& work) {
    logit = logit > 0 ? logit / work.repetition_penalty : logit * work.repetition_penalty;
    logit -= work.presence_penalty * (num_output > 0 ? 1.0f : 0.0f);
    return logit - work.frequency_penalty * num_output;
}

static std::vector<float> edited_logits(const SamplingWork& work) {
    std::vector<float> logits(work.logits, work.logits + work.vocab_size);
    for (int i = 0; i < work.num_suppressed; ++i) logits[work.suppressed[i]] = -INFINITY;
    for (int i = 0; i < work.num_seen; ++i) {
        float& logit = logits[work.seen[i]];
        logit = penalized(logit, float(work.num_output[i]), work);
    }
    return logits;
}

static std::vector<float> weights_of(const std::vector<float>& logits, float largest, float temperature) {
    const float divisor = std::max(temperature, FLT_MIN);  // below it a float has no reciprocal
    std::vector<float> weights;
    for (float logit : logits) weights.push_back(std::exp((logit - largest) / divisor));
    return weights;
}

static double total(const std::vector<float>& weights) { return std::accumulate(weights.begin(), weights.end(), 0.0); }

static void drop_below(std::vector<float>& weights, float least) {
    for (float& weight : weights)
        if (weight < least) weight = 0;
}

// The last of the weights, from the largest down, with which their sum reaches `goal`.
static float last_taken(const std::vector<float>& descending, double goal) {
    double taken = 0;
    for (float weight : descending)
        if ((taken += weight) >= goal) return weight;
    return descending.back();
}

static void apply_filters(std::vector<float>& weights, const SamplingWork& work) {
    std::vector<float> descending = weights;
    std::sort(descending.begin(), descending.end(), std::greater<float>());
    if (0 < work.top_k && work.top_k < work.vocab_size) {
        drop_below(weights, descending[work.top_k - 1]);
        drop_below(descending, descending[work.top_k - 1]);
    }
    if (work.top_p < 1) drop_below(weights, last_taken(descending, work.top_p * total(descending)));
    drop_below(weights, work.min_p);
}

static int draw(const std::vector<float>& weights, double uniform) {
    const double whole = total(weights);
    const double aim = std::min(uniform * whole, std::nextafter(whole, 0.0));  // the product may round up to the whole
    double running = 0;
    size_t id = 0;
    while (id + 1 < weights.size() && !((running += weights[id]) > aim)) ++id;
    return int(id);
}

// The chosen token's own log-probability and the largest ones, of the model's own distribution.
static void report_logprobs(const SamplingWork& work, Sampled& result) {
    const std::vector<float> logits(work.logits, work.logits + work.vocab_size);
    const double largest = *std::max_element(logits.begin(), logits.end());
    const double log_total = std::log(total(weights_of(logits, float(largest), 1)));
    const auto logprob = [&](int id) { return float(logits[id] - largest - log_total); };
    std::vector<int> ids(logits.size());
    std::iota(ids.begin(), ids.end(), 0);
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return logits[a] > logits[b]; });
    result.logprob = logprob(result.token_id);
    result.num_top = std::min(work.num_logprobs, work.vocab_size);
    for (int i = 0; i < result.num_top; ++i) {
        result.top_ids[i] = ids[i];
        result.top_logprobs[i] = logprob(ids[i]);
    }
}

static void sample(const SamplingWork& work, Sampled& result) {
    result.token_id = -1;
    result.error = SW_NOT_FINITE;
    result.logprob = 0;
    result.num_top = 0;
    if (largest_id(work.logits, work.vocab_size) < 0) return;
    const std::vector<float> logits = edited_logits(work);
    result.token_id = largest_id(logits.data(), work.vocab_size);
    result.error = result.token_id < 0 ? SW_NO_CHOICE : SW_OK;
    if (result.token_id < 0) return;
    if (work.temperature > 0) {
        std::vector<float> weights = weights_of(logits, logits[result.token_id], work.temperature);
        apply_filters(weights, work);
        result.token_id = draw(weights, philox_uniform(work.seed, work.position));
    }
    if (work.num_logprobs >= 0) report_logprobs(work, result);
}

}  // namespace slotwise::scalar

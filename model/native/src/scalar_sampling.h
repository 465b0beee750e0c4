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

static bool is_allowed(const SamplingWork& work, int id) {
    return id / 8 < work.num_allowed && (work.allowed[id / 8] >> id % 8 & 1);
}

static std::vector<float> edited_logits(const SamplingWork& work) {
    std::vector<float> logits(work.logits, work.logits + work.vocab_size);
    for (int i = 0; i < work.num_suppressed; ++i) logits[work.suppressed[i]] = -INFINITY;
    if (work.allowed)
        for (int id = 0; id < work.vocab_size; ++id)
            if (!is_allowed(work, id)) logits[id] = -INFINITY;
    for (const Biases& biases : work.biases)
        for (int i = 0; i < biases.num; ++i) logits[biases.first[i].token_id] += biases.first[i].amount;
    for (int i = 0; i < work.num_seen; ++i) {
        float& logit = logits[work.seen[i]];
        logit = penalized(logit, float(work.num_output[i]), work);
    }
    return logits;
}

// Logits more than n standard deviations below the largest; the deviation is that of the finite ones.
static void drop_tail(std::vector<float>& logits, float largest, double n) {
    std::vector<double> finite;
    for (float logit : logits)
        if (std::isfinite(logit)) finite.push_back(logit);
    const double mean = std::accumulate(finite.begin(), finite.end(), 0.0) / double(finite.size());
    double squares = 0;
    for (double logit : finite) squares += (logit - mean) * (logit - mean);
    const double least = largest - n * std::sqrt(squares / double(finite.size()));
    for (float& logit : logits)
        if (logit < least) logit = -INFINITY;
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

static std::vector<float> descending(std::vector<float> weights) {
    std::sort(weights.begin(), weights.end(), std::greater<float>());
    return weights;
}

// Those stay whose surprise, -ln p, is nearest the entropy, until they make up that share of the whole; at least one.
static void keep_typical(std::vector<float>& weights, double share) {
    const double whole = total(weights);
    std::vector<double> distances(weights.size());
    std::vector<int> ids;
    double entropy = 0;
    for (size_t id = 0; id < weights.size(); ++id) {
        if (weights[id] == 0) continue;
        distances[id] = -std::log(weights[id] / whole);
        entropy += weights[id] / whole * distances[id];
        ids.push_back(int(id));
    }
    for (int id : ids) distances[id] = std::fabs(distances[id] - entropy);
    std::stable_sort(ids.begin(), ids.end(), [&](int a, int b) { return distances[a] < distances[b]; });
    double taken = 0;
    size_t num_taken = 0;
    while (num_taken < ids.size() && (num_taken == 0 || taken < share * whole)) taken += weights[ids[num_taken++]];
    for (; num_taken < ids.size(); ++num_taken) weights[ids[num_taken]] = 0;
}

// Of those with at least that share of the whole all go but the smallest, and what is equal to it.
static void drop_likeliest(std::vector<float>& weights, double share) {
    const double least = share * total(weights);
    std::vector<float> likeliest;
    for (float weight : weights)
        if (weight > 0 && weight >= least) likeliest.push_back(weight);
    if (likeliest.size() < 2) return;
    const float smallest = *std::min_element(likeliest.begin(), likeliest.end());
    for (float& weight : weights)
        if (weight > smallest) weight = 0;
}

static void apply_filters(std::vector<float>& weights, const SamplingWork& work) {
    if (0 < work.top_k && work.top_k < work.vocab_size) drop_below(weights, descending(weights)[work.top_k - 1]);
    if (work.typical_p < 1) keep_typical(weights, work.typical_p);
    if (work.top_p < 1) drop_below(weights, last_taken(descending(weights), work.top_p * total(descending(weights))));
    drop_below(weights, work.min_p * *std::max_element(weights.begin(), weights.end()));
    const bool excludes = work.xtc_probability > 0;  // else no second number is needed
    if (excludes && philox_uniform(work.seed, work.position, FOR_XTC) < work.xtc_probability)
        drop_likeliest(weights, work.xtc_threshold);
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
    std::vector<float> logits = edited_logits(work);
    result.token_id = largest_id(logits.data(), work.vocab_size);
    result.error = result.token_id < 0 ? SW_NO_CHOICE : SW_OK;
    if (result.token_id < 0) return;
    if (work.temperature > 0) {
        if (work.top_n_sigma > 0) drop_tail(logits, logits[result.token_id], work.top_n_sigma);
        std::vector<float> weights = weights_of(logits, logits[result.token_id], work.temperature);
        apply_filters(weights, work);
        result.token_id = draw(weights, philox_uniform(work.seed, work.position, FOR_THE_DRAW));
    }
    if (work.num_logprobs >= 0) report_logprobs(work, result);
}

static void report(const SamplingWork& work, Sampled& result) {
    result.error = largest_id(work.logits, work.vocab_size) < 0 ? SW_NOT_FINITE : SW_OK;
    if (result.error == SW_OK) report_logprobs(work, result);
}

}  // namespace slotwise::scalar

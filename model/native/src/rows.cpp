#include "rows.h"

#include <algorithm>
#include <stdexcept>

namespace slotwise {

namespace {

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

// Tokens of the chunk that are the prompt's.
int32_t num_prompt_tokens(const sw_chunk& chunk, const Slot& slot) {
    return std::min(std::max(slot.num_prompt_tokens - slot.num_tokens, 0), chunk.num_tokens);
}

// `num_left`: tokens that the step may still have.
void check_chunk(const sw_chunk& chunk, const Slot& slot, int32_t num_left, int32_t vocab_size) {
    require(chunk.token_ids || (slot.last_token_id >= 0 && chunk.num_tokens == 1),
            "the slot has sampled no token to feed");
    require(chunk.num_tokens > 0 && chunk.num_tokens <= num_left, "the step has too many tokens");
    require(slot.num_tokens + chunk.num_tokens <= (int64_t)slot.block_ids.size() * BLOCK,
            "the slot was not grown enough");
    check_ids(tokens_of(chunk, slot), chunk.num_tokens, vocab_size);
    require(!chunk.allowed || chunk.num_allowed >= 0, "what is allowed has fewer than no bytes");
    check_biases(chunk.biases, chunk.num_biases, vocab_size);
    require(chunk.num_targets <= chunk.num_tokens, "there are more targets than tokens");
    check_ids(chunk.targets, chunk.num_targets, vocab_size);
}

}  // namespace

const int32_t* tokens_of(const sw_chunk& chunk, const Slot& slot) {
    return chunk.token_ids ? chunk.token_ids : &slot.last_token_id;
}

void StepRows::place(const sw_batch& batch, const sw_result* results, SlotTable& slots, bool splits,
                     int32_t max_num_tokens, int32_t vocab_size) {
    spans_.clear();
    prompts_.clear();
    sampled_.clear();
    targets_.clear();
    pooled_.clear();
    counts_ = {};
    most_positions_ = 0;
    int64_t num_generated = 0;
    for (int32_t i = 0; i < batch.num_chunks; ++i) {
        if (results[i].error) continue;
        const sw_chunk& chunk = batch.chunks[i];
        num_generated += chunk.num_tokens - (splits ? num_prompt_tokens(chunk, slots.at(chunk.slot)) : 0);
    }
    for (int32_t i = 0; i < batch.num_chunks; ++i) {
        if (results[i].error) continue;
        Slot& slot = slots.at(batch.chunks[i].slot);
        check_chunk(batch.chunks[i], slot, max_num_tokens - counts_.total(), vocab_size);
        place_chunk(batch.chunks[i], i, slot, splits, static_cast<int32_t>(num_generated));
    }
    spans_.insert(spans_.end(), prompts_.begin(), prompts_.end());
}

void StepRows::place_chunk(const sw_chunk& chunk, int32_t index, Slot& slot, bool splits, int32_t first_prompt_row) {
    const int32_t num_of_prompt = num_prompt_tokens(chunk, slot), num_apart = splits ? num_of_prompt : 0;
    const int32_t num_generated = chunk.num_tokens - num_apart;
    const int32_t apart_row = first_prompt_row + counts_.prompt, generated_row = counts_.generated;
    const bool is_whole = num_apart == 0 || num_generated == 0;
    const int32_t* token_ids = tokens_of(chunk, slot);
    add({&slot, token_ids, apart_row, num_apart, slot.num_tokens, is_whole}, true);
    add({&slot, token_ids + num_apart, generated_row, num_generated, slot.num_tokens + num_apart, is_whole}, false);
    const auto row_of = [&](int32_t token) {
        return token < num_apart ? apart_row + token : generated_row + token - num_apart;
    };
    if (chunk.samples) sampled_.push_back({&slot, index, row_of(chunk.num_tokens - 1)});
    for (int32_t i = 0; i < chunk.num_targets; ++i) targets_.push_back({index, i, row_of(i)});
    if (slot.pools && num_of_prompt > 0)
        pooled_.push_back({&slot, index, row_of(0), num_of_prompt,
                           slot.num_tokens + num_of_prompt == slot.num_prompt_tokens});
    most_positions_ = std::max(most_positions_, slot.num_tokens + chunk.num_tokens);
}

void StepRows::add(const Span& span, bool is_prompt) {
    if (span.num_tokens == 0) return;
    (is_prompt ? prompts_ : spans_).push_back(span);
    (is_prompt ? counts_.prompt : counts_.generated) += span.num_tokens;
}

}  // namespace slotwise

#include "rows.h"

#include <algorithm>
#include <stdexcept>

namespace slotwise {

namespace {

void require(bool condition, const char* problem) {
    if (!condition) throw std::invalid_argument(problem);
}

// Tokens of the chunk that are the prompt's; none where rows of prompts are not kept apart.
int32_t num_prompt_tokens(const sw_chunk& chunk, const Slot& slot, bool splits) {
    const int32_t num_left = splits ? std::max(slot.num_prompt_tokens - slot.num_tokens, 0) : 0;
    return std::min(num_left, chunk.num_tokens);
}

}  // namespace

const int32_t* tokens_of(const sw_chunk& chunk, const Slot& slot) {
    return chunk.token_ids ? chunk.token_ids : &slot.last_token_id;
}

void StepRows::place(const sw_batch& batch, SlotTable& slots, bool splits, int32_t max_num_tokens, int32_t vocab_size) {
    spans_.clear();
    prompts_.clear();
    sampled_.clear();
    counts_ = {};
    most_positions_ = 0;
    int64_t first_prompt_row = 0;
    for (const sw_chunk* chunk = batch.chunks; chunk < batch.chunks + batch.num_chunks; ++chunk)
        first_prompt_row += chunk->num_tokens - num_prompt_tokens(*chunk, slots.at(chunk->slot), splits);
    for (int32_t i = 0; i < batch.num_chunks; ++i) {
        const sw_chunk& chunk = batch.chunks[i];
        Slot& slot = slots.at(chunk.slot);
        const int32_t* token_ids = tokens_of(chunk, slot);
        require(chunk.token_ids || (slot.last_token_id >= 0 && chunk.num_tokens == 1),
                "the slot has sampled no token to feed");
        require(chunk.num_tokens > 0 && counts_.total() + chunk.num_tokens <= max_num_tokens,
                "the step has too many tokens");
        const int32_t end = slot.num_tokens + chunk.num_tokens;
        require(end <= (int64_t)slot.block_ids.size() * BLOCK, "the slot was not grown enough");
        for (int32_t t = 0; t < chunk.num_tokens; ++t)
            require(token_ids[t] >= 0 && token_ids[t] < vocab_size, "there is no such token id");
        const int32_t num_prompt = num_prompt_tokens(chunk, slot, splits), num_generated = chunk.num_tokens - num_prompt;
        const auto prompt_row = static_cast<int32_t>(first_prompt_row + counts_.prompt);
        const bool is_whole = num_prompt == 0 || num_generated == 0;
        add({&slot, token_ids, prompt_row, num_prompt, slot.num_tokens, is_whole}, true);
        add({&slot, token_ids + num_prompt, counts_.generated, num_generated, slot.num_tokens + num_prompt, is_whole},
            false);
        const int32_t last_row = num_generated ? counts_.generated - 1 : prompt_row + num_prompt - 1;
        if (chunk.samples) sampled_.push_back({&slot, i, last_row});
        most_positions_ = std::max(most_positions_, end);
    }
    spans_.insert(spans_.end(), prompts_.begin(), prompts_.end());
}

void StepRows::add(const Span& span, bool is_prompt) {
    if (span.num_tokens == 0) return;
    (is_prompt ? prompts_ : spans_).push_back(span);
    (is_prompt ? counts_.prompt : counts_.generated) += span.num_tokens;
}

}  // namespace slotwise

// The rows of a step: which token of which slot is computed where.
#pragma once
#include <cstdint>
#include <vector>

#include "slots.h"
#include "slotwise.h"

namespace slotwise {

// Rows of tokens that were sampled come first, then those of prompts. The two may go through different products
// (kernels.h), so a row's kind is what the slot says of its position: a token that is computed again, or in another
// chunk, is of the same kind as before.
struct RowCounts {
    int generated = 0, prompt = 0;
    int total() const { return generated + prompt; }
};

constexpr int TOKEN_TILE = 16;  // tokens of a span whose attention is one item

// Consecutive tokens of one slot and one kind: a chunk, or a part of it.
struct Span {
    Slot* slot;
    const int32_t* token_ids;
    int32_t first_row, num_tokens, first_position;
    bool is_whole;  // it is all of its chunk: no other span reads its keys and values in this step
    // Its keys and values can wait for the thread that attends for it: they are then in that thread's cache.
    bool is_written_late() const { return num_tokens == 1 && is_whole; }
    int num_tiles() const { return (num_tokens + TOKEN_TILE - 1) / TOKEN_TILE; }
};

// A row that a token is chosen from.
struct SampledRow {
    Slot* slot;
    int32_t chunk, row;
};

// A row behind which the log-probability of a token is wanted: one of a chunk's targets.
struct TargetRow {
    int32_t chunk, target, row;
};

// Rows of a chunk that belong to the pooled vector of its slot's prompt.
struct PooledRows {
    Slot* slot;
    int32_t chunk, first_row, num_rows;
    bool are_last;  // of the prompt
};

class StepRows {
public:
    // `splits`: whether rows of prompts are kept apart. Chunks that have an error already have no rows. Throws
    // std::invalid_argument where a chunk is not what its slot can take.
    void place(const sw_batch& batch, const sw_result* results, SlotTable& slots, bool splits,
               int32_t max_num_tokens, int32_t vocab_size);

    const std::vector<Span>& spans() const { return spans_; }
    const std::vector<SampledRow>& sampled() const { return sampled_; }  // in the order of the chunks
    const std::vector<TargetRow>& targets() const { return targets_; }
    const std::vector<PooledRows>& pooled() const { return pooled_; }
    RowCounts counts() const { return counts_; }
    int32_t most_positions() const { return most_positions_; }  // of a slot

private:
    void place_chunk(const sw_chunk& chunk, int32_t index, Slot& slot, bool splits, int32_t first_prompt_row);
    void add(const Span& span, bool is_prompt);

    std::vector<Span> spans_, prompts_;
    std::vector<SampledRow> sampled_;
    std::vector<TargetRow> targets_;
    std::vector<PooledRows> pooled_;
    RowCounts counts_;
    int32_t most_positions_ = 0;
};

// What the chunk feeds its slot: the tokens that it names, or the one that was sampled last.
const int32_t* tokens_of(const sw_chunk& chunk, const Slot& slot);

}  // namespace slotwise

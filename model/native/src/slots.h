// What the runner knows of each slot, all of it from the batches it was given; and who owns each block.
#pragma once
#include <cstddef>
#include <cstdint>
#include <unordered_map>
#include <vector>

#include "blocks.h"
#include "slotwise.h"

namespace slotwise {

class IsolationChecks;

// The distinct tokens of a slot, prompt and output, and how often each stands in the output: for the penalties.
class TokenCounts {
public:
    void add(int32_t token_id, bool is_output);
    const std::vector<int32_t>& token_ids() const { return token_ids_; }
    const std::vector<int32_t>& num_output() const { return num_output_; }

private:
    std::unordered_map<int32_t, int32_t> places_;
    std::vector<int32_t> token_ids_, num_output_;
};

struct Slot {
    int32_t number;
    int64_t generation;
    sw_sampling sampling;
    std::vector<int32_t> suppressed;
    std::vector<sw_bias> biases;
    int32_t num_prompt_tokens;
    bool pools;
    int32_t adapter;             // of the model's, from 1 on; 0: none
    std::vector<double> pooled;  // [E], sums of the final hidden states of the prompt so far; empty before the first
    std::vector<int32_t> block_ids;
    int32_t num_tokens = 0;      // whose keys and values are written
    int32_t last_token_id = -1;  // sampled, and not yet fed in
    TokenCounts counts;
    std::vector<uint64_t> checksums;  // of the full blocks, where isolation is checked …
    size_t num_checked = 0;           // … and how often one of them was looked at

    explicit Slot(const sw_opened& opened);
    bool has_penalties() const;
    // Their keys and values are written.
    void append(const int32_t* token_ids, int32_t num_tokens);
};

// Both throw std::invalid_argument where a token is not one of the vocabulary, or a bias is no number to add.
void check_ids(const int32_t* token_ids, int32_t num, int32_t vocab_size);
void check_biases(const sw_bias* biases, int32_t num, int32_t vocab_size);

class SlotTable {
public:
    SlotTable(int32_t num_blocks, int32_t vocab_size, int32_t num_adapters)
        : vocab_size_(vocab_size), num_adapters_(num_adapters), owners_(num_blocks, -1) {}

    // Frees (contents destroyed before anything else), opens and grows as the batch says. Throws std::invalid_argument
    // where a block would have two owners or a slot is not what the batch takes it to be.
    void apply(const sw_batch& batch, Blocks& blocks, IsolationChecks& isolation);
    Slot& at(int32_t slot);
    std::vector<Slot*> all();

private:
    void free(const sw_blocks& freed, Blocks& blocks, IsolationChecks& isolation);
    void open(const sw_opened& opened);
    void grow(const sw_blocks& grown, IsolationChecks& isolation);

    int32_t vocab_size_, num_adapters_;
    std::unordered_map<int32_t, Slot> slots_;
    std::vector<int32_t> owners_;  // of each block; -1: nobody
};

}  // namespace slotwise

#include "slots.h"

#include <cmath>
#include <stdexcept>
#include <string>
#include <utility>

#include "isolation.h"

namespace slotwise {

namespace {

[[noreturn]] void refuse(const std::string& problem) { throw std::invalid_argument(problem); }

}  // namespace

void TokenCounts::add(int32_t token_id, bool is_output) {
    auto [place, is_new] = places_.try_emplace(token_id, (int32_t)token_ids_.size());
    if (is_new) {
        token_ids_.push_back(token_id);
        num_output_.push_back(0);
    }
    num_output_[place->second] += is_output;
}

Slot::Slot(const sw_opened& opened)
    : number(opened.slot), generation(opened.generation), sampling(opened.sampling),
      suppressed(opened.sampling.suppressed, opened.sampling.suppressed + opened.sampling.num_suppressed),
      biases(opened.sampling.biases, opened.sampling.biases + opened.sampling.num_biases),
      num_prompt_tokens(opened.num_prompt_tokens), pools(opened.pools), adapter(opened.adapter) {
    sampling.suppressed = nullptr;  // the caller's memory
    sampling.biases = nullptr;
}

bool Slot::has_penalties() const {
    return sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 || sampling.frequency_penalty != 0;
}

void Slot::append(const int32_t* token_ids, int32_t count) {
    if (has_penalties())
        for (int32_t i = 0; i < count; ++i) counts.add(token_ids[i], num_tokens + i >= num_prompt_tokens);
    num_tokens += count;
    last_token_id = -1;
}

void check_ids(const int32_t* token_ids, int32_t num, int32_t vocab_size) {
    for (int32_t i = 0; i < num; ++i)
        if (token_ids[i] < 0 || token_ids[i] >= vocab_size) refuse("there is no such token id");
}

void check_biases(const sw_bias* biases, int32_t num, int32_t vocab_size) {
    for (int32_t i = 0; i < num; ++i) {
        check_ids(&biases[i].token_id, 1, vocab_size);
        if (!(biases[i].amount < INFINITY)) refuse("a bias is a number or -infinity");
    }
}

void SlotTable::apply(const sw_batch& batch, Blocks& blocks, IsolationChecks& isolation) {
    for (int32_t i = 0; i < batch.num_freed; ++i) free(batch.freed[i], blocks, isolation);
    for (int32_t i = 0; i < batch.num_opened; ++i) open(batch.opened[i]);
    for (int32_t i = 0; i < batch.num_grown; ++i) grow(batch.grown[i], isolation);
}

Slot& SlotTable::at(int32_t slot) {
    auto found = slots_.find(slot);
    if (found == slots_.end()) refuse("slot " + std::to_string(slot) + " is not open");
    return found->second;
}

std::vector<Slot*> SlotTable::all() {
    std::vector<Slot*> slots;
    for (auto& [number, slot] : slots_) slots.push_back(&slot);
    return slots;
}

// Known or not: the step that was to open it may have failed. It is forgotten in any case: who is told of a contradiction
// frees it again.
void SlotTable::free(const sw_blocks& freed, Blocks& blocks, IsolationChecks& isolation) {
    for (int32_t i = 0; i < freed.num_blocks; ++i) {
        int32_t id = freed.block_ids[i];
        if (id < 0 || id >= (int32_t)owners_.size()) refuse("there is no block " + std::to_string(id));
        if (owners_[id] != -1 && owners_[id] != freed.slot)
            refuse("slot " + std::to_string(freed.slot) + " frees block " + std::to_string(id) + " of slot " +
                   std::to_string(owners_[id]));
        owners_[id] = -1;
        blocks.destroy(id);
        isolation.after_destroying(freed.slot, id);
    }
    auto found = slots_.find(freed.slot);
    if (found == slots_.end()) return;
    const std::vector<int32_t> block_ids = std::move(found->second.block_ids);
    slots_.erase(found);
    for (int32_t id : block_ids)
        if (owners_[id] != -1) refuse("slot " + std::to_string(freed.slot) + " would keep block " + std::to_string(id));
}

void SlotTable::open(const sw_opened& opened) {
    const sw_sampling& sampling = opened.sampling;
    check_ids(sampling.suppressed, sampling.num_suppressed, vocab_size_);
    check_biases(sampling.biases, sampling.num_biases, vocab_size_);
    if (opened.adapter < 0 || opened.adapter > num_adapters_)
        refuse("there is no adapter " + std::to_string(opened.adapter));
    if (!slots_.try_emplace(opened.slot, opened).second)
        refuse("slot " + std::to_string(opened.slot) + " is open already");
}

void SlotTable::grow(const sw_blocks& grown, IsolationChecks& isolation) {
    Slot& slot = at(grown.slot);
    for (int32_t i = 0; i < grown.num_blocks; ++i) {
        int32_t id = grown.block_ids[i];
        if (id < 0 || id >= (int32_t)owners_.size()) refuse("there is no block " + std::to_string(id));
        if (owners_[id] != -1)
            refuse("slot " + std::to_string(grown.slot) + " is given block " + std::to_string(id) + " of slot " +
                   std::to_string(owners_[id]));
        owners_[id] = grown.slot;
        slot.block_ids.push_back(id);
        isolation.before_using(slot, (int32_t)slot.block_ids.size() - 1);
    }
}

}  // namespace slotwise

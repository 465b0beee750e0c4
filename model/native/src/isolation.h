// The canary of the KV cache: whether each block is still its slot's, and holds what the slot left there. Knows no
// rows and no kernels; what is to be done about a violation is the step's business.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "blocks.h"
#include "slots.h"
#include "slotwise.h"
#include "team.h"

namespace slotwise {

class IsolationChecks {
public:
    IsolationChecks(int mode, Blocks& blocks, Team& team) : mode_(mode), blocks_(blocks), team_(team) {}

    bool is_on() const { return mode_ != SW_CHECKS_OFF; }
    bool is_thorough() const { return mode_ == SW_CHECKS_DEBUG; }

    // The block was the slot's: with debug, whether anything is left in it.
    void after_destroying(int32_t slot, int32_t block_id);
    // Its block there is new: holds it anything (with canary: where the stamp goes)? It is stamped.
    void before_using(const Slot& slot, int32_t index);
    // The stamps of all blocks of these slots, and full blocks against their checksums: with debug all of them, else
    // one, another each time.
    void before_computing(const std::vector<Slot*>& slots);
    // The stamps again, with debug the full blocks too; those that became full have their checksums taken.
    void after_computing(const std::vector<Slot*>& slots);

    // Since it was forgotten.
    const std::vector<sw_violation>& violations() const { return violations_; }
    bool concerns(int32_t slot) const;
    void forget() { violations_.clear(); }

private:
    struct FullBlock {
        Slot* slot;
        size_t index;
    };
    void check_stamps(const std::vector<Slot*>& slots);
    void check_full(const std::vector<FullBlock>& full);
    std::vector<uint64_t> checksums(const std::vector<FullBlock>& full);
    static std::vector<FullBlock> all_of(const std::vector<Slot*>& slots);
    std::vector<FullBlock> next_of(const std::vector<Slot*>& slots);
    bool is_clear(const uint8_t* first, int64_t num_bytes) const;
    void report(int kind, int32_t slot, int32_t index, int32_t block_id, const sw_stamp& expected = {});

    int mode_;
    Blocks& blocks_;
    Team& team_;
    size_t turn_ = 0;  // whose full block is next
    std::vector<sw_violation> violations_;
};

}  // namespace slotwise

#include "isolation.h"

#include <algorithm>
#include <cstring>

#include "activations.h"

namespace slotwise {

namespace {

constexpr int64_t LINE = 64, PIECE = 1 << 15;  // bytes: of a cache line; of a block that one thread sums up

constexpr uint64_t ODD = 0x9E3779B97F4A7C15;  // a product with it can be undone: nothing that was mixed in is lost

sw_stamp stamp_of(const Slot& slot, size_t index) {
    return {SW_STAMP_MARK, slot.generation, slot.number, (int64_t)index, slot.block_ids[index]};
}

bool is_same(const sw_stamp& a, const uint8_t* b) { return memcmp(&a, b, sizeof a) == 0; }

// Fletcher's checksum (IEEE Trans. Commun. 30, 1982) of whole lines, in 16 lanes of 32 bits: as fast as memory is read.
// No single word that changes, and no two words that change places, leave it as it was.
uint64_t checksum(const uint8_t* first, int64_t num_bytes) {
    uint32_t sums[LINE / 4] = {}, sums_of_sums[LINE / 4] = {};
    for (const uint8_t* line = first; line < first + num_bytes; line += LINE) {
        uint32_t words[LINE / 4];
        memcpy(words, line, LINE);
        for (int i = 0; i < LINE / 4; ++i) sums[i] += words[i];
        for (int i = 0; i < LINE / 4; ++i) sums_of_sums[i] += sums[i];
    }
    uint64_t mixed = 0;
    for (int i = 0; i < LINE / 4; ++i)
        mixed = (mixed ^ ((uint64_t)sums[i] << 32 | sums_of_sums[i])) * ODD;
    return mixed;
}

}  // namespace

void IsolationChecks::after_destroying(int32_t slot, int32_t block_id) {
    if (is_thorough() && !is_clear(blocks_.at(block_id), blocks_.block_bytes()))
        report(SW_NOT_DESTROYED, slot, -1, block_id);
}

void IsolationChecks::before_using(const Slot& slot, int32_t index) {
    if (!is_on()) return;
    const sw_stamp stamp = stamp_of(slot, index);
    const int32_t id = slot.block_ids[index];
    bool is_free = is_thorough() ? is_clear(blocks_.at(id), blocks_.block_bytes())
                                 : is_clear(blocks_.stamp(id), sizeof stamp);
    if (!is_free) report(SW_NOT_CLEAR, slot.number, index, id, stamp);
    memcpy(blocks_.stamp(id), &stamp, sizeof stamp);
}

void IsolationChecks::before_computing(const std::vector<Slot*>& slots) {
    check_stamps(slots);
    check_full(is_thorough() ? all_of(slots) : next_of(slots));
}

void IsolationChecks::after_computing(const std::vector<Slot*>& slots) {
    check_stamps(slots);
    if (is_thorough()) check_full(all_of(slots));
    std::vector<FullBlock> full;
    for (Slot* slot : slots)
        for (size_t i = slot->checksums.size(); i < (size_t)slot->num_tokens / BLOCK; ++i) full.push_back({slot, i});
    const std::vector<uint64_t> sums = checksums(full);
    for (size_t i = 0; i < full.size(); ++i) full[i].slot->checksums.push_back(sums[i]);
}

bool IsolationChecks::concerns(int32_t slot) const {
    return std::any_of(violations_.begin(), violations_.end(),
                       [=](const sw_violation& one) { return one.slot == slot && one.kind != SW_NOT_DESTROYED; });
}

// A block has room for one stamp: where all are right, no block is in two slots, or twice in one.
void IsolationChecks::check_stamps(const std::vector<Slot*>& slots) {
    for (const Slot* slot : slots)
        for (size_t i = 0; i < slot->block_ids.size(); ++i) {
            const int32_t id = slot->block_ids[i];
            const sw_stamp stamp = stamp_of(*slot, i);
            const uint8_t* found = blocks_.stamp(id);
            if (!is_same(stamp, found)) report(SW_OTHER_STAMP, slot->number, (int32_t)i, id, stamp);
            else if (is_thorough() && !is_clear(found + sizeof stamp, blocks_.padding_bytes()))
                report(SW_CHANGED, slot->number, (int32_t)i, id, stamp);
        }
}

void IsolationChecks::check_full(const std::vector<FullBlock>& full) {
    const std::vector<uint64_t> sums = checksums(full);
    for (size_t i = 0; i < full.size(); ++i) {
        auto [slot, index] = full[i];
        if (sums[i] != slot->checksums[index])
            report(SW_CHANGED, slot->number, (int32_t)index, slot->block_ids[index], stamp_of(*slot, index));
    }
}

std::vector<uint64_t> IsolationChecks::checksums(const std::vector<FullBlock>& full) {
    const int64_t num_bytes = blocks_.layout().stamp_offset();
    const int pieces = (int)((num_bytes + PIECE - 1) / PIECE), count = (int)full.size() * pieces;
    std::vector<uint64_t> of_pieces(count), sums(full.size());
    if (count == 0) return sums;
    for_rows(team_, count, [&](int, int item) {
        auto [slot, index] = full[item / pieces];
        const int64_t first = item % pieces * PIECE;
        const uint8_t* block = blocks_.at(slot->block_ids[index]);
        of_pieces[item] = checksum(block + first, std::min(PIECE, num_bytes - first));
    });
    for (int item = 0; item < count; ++item) {
        uint64_t& sum = sums[item / pieces];
        sum = sum * ODD + of_pieces[item];
    }
    return sums;
}

std::vector<IsolationChecks::FullBlock> IsolationChecks::all_of(const std::vector<Slot*>& slots) {
    std::vector<FullBlock> full;
    for (Slot* slot : slots)
        for (size_t i = 0; i < slot->checksums.size(); ++i) full.push_back({slot, i});
    return full;
}

// Slot after slot, and of each block after block.
std::vector<IsolationChecks::FullBlock> IsolationChecks::next_of(const std::vector<Slot*>& slots) {
    if (slots.empty()) return {};
    Slot* slot = slots[turn_++ % slots.size()];
    if (slot->checksums.empty()) return {};
    return {{slot, slot->num_checked++ % slot->checksums.size()}};
}

bool IsolationChecks::is_clear(const uint8_t* first, int64_t num_bytes) const {
    const uint8_t clear = blocks_.clear_byte();
    return num_bytes == 0 || (*first == clear && memcmp(first, first + 1, num_bytes - 1) == 0);
}

// One violation of a block is enough: whose stamp is another's is not full of what the slot left, either.
void IsolationChecks::report(int kind, int32_t slot, int32_t index, int32_t block_id, const sw_stamp& expected) {
    for (const sw_violation& one : violations_)
        if (one.slot == slot && one.block_id == block_id) return;
    sw_violation violation{kind, slot, index, block_id, expected, {}};
    memcpy(&violation.found, blocks_.stamp(block_id), sizeof violation.found);
    violations_.push_back(violation);
}

}  // namespace slotwise

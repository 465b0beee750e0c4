// The memory of the KV cache: blocks of 32 token positions in all layers, in one private mapping that the system backs
// where it is written. A block: [layer][kv head][keys, values] (kernels.h: AttentionWork), then perhaps a stamp
// (isolation.h), filled up to whole pages.
#pragma once
#include <cstdint>

#include "kernels.h"
#include "slotwise.h"

namespace slotwise {

struct BlockLayout {
    KVType type;
    int32_t num_layers, num_kv_heads, head_dim;
    bool has_stamp;
    int64_t part_bytes() const { return kv_part_bytes(type, head_dim); }
    int64_t part_offset(int layer, int kv_head) const { return (layer * (int64_t)num_kv_heads + kv_head) * part_bytes(); }
    int64_t stamp_offset() const { return part_offset(num_layers, 0); }
    int64_t padding_offset() const { return stamp_offset() + (has_stamp ? sizeof(sw_stamp) : 0); }
    int64_t block_bytes() const;
};

class Blocks {
public:
    // Throws std::bad_alloc where the system refuses the mapping.
    Blocks(const BlockLayout& layout, int32_t num_blocks, bool poison);
    ~Blocks();
    Blocks(const Blocks&) = delete;
    Blocks& operator=(const Blocks&) = delete;

    const BlockLayout& layout() const { return layout_; }
    int32_t count() const { return num_blocks_; }
    uint8_t* at(int32_t block_id) const { return memory_ + block_id * block_bytes_; }
    uint8_t* stamp(int32_t block_id) const { return at(block_id) + layout_.stamp_offset(); }
    int64_t block_bytes() const { return block_bytes_; }
    int64_t padding_bytes() const { return block_bytes_ - layout_.padding_offset(); }
    uint8_t clear_byte() const { return poisons_ ? 0xff : 0; }  // of which a block is full that nobody owns
    // What the block held is gone, and its memory is the system's again; with poison, it is full of NaN.
    void destroy(int32_t block_id);

private:
    void poison(int32_t block_id);

    BlockLayout layout_;
    int64_t block_bytes_;
    int32_t num_blocks_;
    bool poisons_;
    bool system_clears_;
    uint8_t* memory_;
};

}  // namespace slotwise

// Sizes of what the kernels read and write, for whoever sets the memory aside.
#include "attention_tile.h"
#include "kernels.h"

namespace slotwise {

int64_t attention_scratch(int num_tokens, int group_heads, int head_dim, int num_positions) {
    const int64_t num_queries = int64_t(num_tokens) * group_heads;
    const int64_t rows = num_queries < QUERY_TILE ? num_queries : QUERY_TILE;
    const int64_t alignment = 16, overrun = 16;  // floats lost to the first, and read behind a staged block
    const int64_t staged = int64_t(BLOCK) * padded_dim(head_dim) + overrun;
    return alignment + staged + rows * (2 * padded_dim(head_dim) + score_stride(num_positions));
}

int64_t kv_part_bytes(KVType type, int head_dim) {
    const int64_t values = int64_t(2) * BLOCK * head_dim;
    switch (type) {
        case KVType::F32: return values * 4;
        case KVType::BF16: return values * 2;
        case KVType::INT8: return values + int64_t(2) * BLOCK * 4;
    }
    return -1;
}

}  // namespace slotwise

// How `attend` lays out its scratch: known to the kernels of every instruction set and to attention_scratch().
#pragma once
#include <cstdint>

namespace slotwise {

constexpr int QUERY_TILE = 64;  // queries that share one pass over the blocks
constexpr int MAX_HEAD_DIM = 256;

// Floats from one query's scores to the next's. The 16 beyond whole blocks keep the rows of a tile out of step, or at
// 1024 positions all of them would want the same set of the first-level cache.
static inline int64_t score_stride(int64_t num_positions) { return (num_positions + 31) / 32 * 32 + 16; }

// Floats from one row of sums to the next: D rounded up to the widest vector.
static inline int64_t padded_dim(int64_t head_dim) { return (head_dim + 15) / 16 * 16; }

}  // namespace slotwise

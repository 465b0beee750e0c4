// What an instruction set has to provide: one table of functions, compiled once for each set from the same source
// (simd.cpp), and once in plain scalar code (scalar.cpp), which is the specification of the others. Nothing here
// knows of slots, layers or threads; whoever calls cuts the work into items.
//
// Determinism: whatever a function computes for one row (or one query) depends on that row alone, bit for bit: not on
// how many rows come with it, nor on which panels are asked for together.
#pragma once
#include <cstdint>

#include "slotwise.h"

namespace slotwise {

constexpr int PANEL = 16;   // rows of a weight matrix that are computed together
constexpr int GROUP = 32;   // columns that share a scale
constexpr int BLOCK = 32;   // token positions in a block of the KV cache

enum class Encoding : int32_t { F32 = 0, BF16 = 1, Q8 = 2, Q4_0 = 3, Q4_1 = 4 };
enum class KVType : int32_t { F32 = 0, BF16 = 1, INT8 = 2 };

// A weight matrix [N, K], K a multiple of 32 for all but F32 and BF16 (there of 2). Panel after panel of 16 rows, the
// last filled up with zeros; in a panel, for each group of 32 columns (F32, BF16: for the whole panel):
//   Q8:   bytes [8][16][4] of q + 128 (column 4i + j of row n at [i][n][j]), then fp16 scales [16];
//   Q4_*: bytes [4][16][4], low nibble column 4i + j, high nibble column 16 + 4i + j, q as in GGML (0..15);
//         then fp16 scales [16]; Q4_1: then fp16 minima [16]
//   BF16: [K/2][16][2];  F32: [K][16]
// A weight is scale * q (Q8), scale * (q - 8) (Q4_0), scale * q + minimum (Q4_1).
struct Matrix {
    Encoding encoding;
    int32_t rows, columns;        // N, K
    const uint8_t* panels;        // 64-byte aligned
    int64_t panel_bytes;
    const float* bias;            // [N rounded up to 16], or null
    int32_t num_panels() const { return (rows + PANEL - 1) / PANEL; }
};

// Rows of activations in the forms that the encodings need: Q8 and Q4_*: q, scale, sum, shift; BF16, and prompts where
// they have products of their own: bf16; F32: f32.
// What there is one of for each group of 32 columns lies in tiles of 16 rows: [T/16][K/32][16 rows], see group_place().
struct Activations {
    int32_t columns;              // K; padded to a multiple of 32 with zeros in q and bf16 rows
    const float* f32;             // [T, K]
    const uint16_t* bf16;         // [T, K]
    const int8_t* q;              // [T, K]: x is about scale * q
    const float* scale;
    const int32_t* sum;           // of the q of a group
    const float* shift;           // scale * sum
};

// Where a row's scale, sum and shift of its first group are; those of the next are ROW_TILE further. Static, like every
// function that a kernel may call: one that the linker could share would be compiled for some instruction set.
constexpr int ROW_TILE = 16;
static constexpr int64_t group_place(int64_t row, int64_t num_groups) {
    return row / ROW_TILE * num_groups * ROW_TILE + row % ROW_TILE;
}

// Queries of consecutive tokens of one slot, and the slot's keys and values of one layer and one kv head.
// A block of one layer and kv head: keys transposed [D][32], then values [32][D]; INT8: int8 keys and values so, then
// float scales of keys [32] and of values [32].
// (The amx set keeps BF16 of head sizes that its tiles can take in pairs: simd_amx_attention.h.)
struct AttentionWork {
    KVType kv_type;
    int32_t head_dim;             // D, a multiple of 8
    int32_t group_heads;          // query heads that share this kv head: H/K
    int32_t num_tokens;           // of the chunk here
    int32_t first_position;       // of its first token; token t sees positions 0 .. first_position + t
    const float* q;               // token t, head g of the group at q + t*q_stride + g*D
    int64_t q_stride;
    float* out;                   // likewise
    int64_t out_stride;
    const uint8_t* const* blocks; // each block's part of this layer and kv head
    float scale;                  // of the scores: 1/sqrt(D)
    float* scratch;               // attention_scratch() floats
};

struct Biases {
    const sw_bias* first;
    int32_t num;
};

struct SamplingWork {
    const float* logits;          // [V], not changed
    float* weights;               // [V] scratch
    int32_t vocab_size;
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, num_logprobs;
    double typical_p, top_n_sigma, xtc_probability, xtc_threshold;
    uint64_t seed, position;
    const int32_t* suppressed;    // never chosen
    int32_t num_suppressed;
    int32_t num_allowed;          // bytes of the next, which may lie anywhere; what is behind them is not allowed
    const uint8_t* allowed;       // bits of the tokens that may be chosen, the lowest of a byte first; null: all may
    Biases biases[2];             // one after the other
    const int32_t* seen;          // distinct tokens of prompt and output, for the penalties
    const int32_t* num_output;    // how often each of them stands in the output
    int32_t num_seen;
};

struct Sampled {
    int32_t token_id;             // -1: an error
    int32_t error;                // sw_row_error
    float logprob;
    int32_t num_top;
    int32_t* top_ids;             // room for num_logprobs
    float* top_logprobs;
};

struct Kernels {
    // out[t, panel*16 + i] = x[row_ids ? row_ids[t] : t] . row of the matrix (+ bias) (+ out, where `adds`), for
    // t < num_rows and first_panel <= panel < first_panel + num_panels. out_stride in floats, at least N rounded up.
    void (*matmul)(const Matrix&, const Activations&, const int32_t* row_ids, int num_rows, int first_panel,
                   int num_panels, float* out, int64_t out_stride, bool adds);
    // The same for rows first_row … first_row + num_rows - 1 of prompts, where the set has a faster way for many rows
    // (null: it has none): weights and activations as bfloat16, whatever the encoding, but for F32, and K a multiple of
    // 32. Not the same bits as matmul's, so that a row's kind decides, never how many there are.
    void (*prompt_matmul)(const Matrix&, const Activations&, int first_row, int num_rows, int first_panel,
                          int num_panels, float* out, int64_t out_stride, bool adds);
    // out = x / sqrt(mean(x^2) + eps) * weight, for one row of n.
    void (*rms_norm)(const float* x, const float* weight, float eps, int n, float* out);
    // One row into groups of 32: scale = max|x| / 127, q = round(x * (1 / scale)) to even. n a multiple of 32.
    void (*quantize)(const float* x, int n, int8_t* q, float* scale, int32_t* sum);
    void (*to_bf16)(const float* x, int n, uint16_t* out);  // to nearest, ties to even
    // out[i] = gate[i] / (1 + exp(-gate[i])) * up[i]
    void (*silu_mul)(const float* gate, const float* up, int n, float* out);
    // An adapter's two products for one row. sums[r] = a[r] . x, of a [rank, columns]; and, of b [rank, stride],
    // out[i] += sums[0] * b[0, i] + … in this order, for i < count.
    void (*shrink)(const float* a, int rank, int columns, const float* x, float* sums);
    void (*expand)(const float* b, int64_t stride, int rank, const float* sums, int count, float* out);
    // Half-split rotation of one head in place: pair i is (x[i], x[i + D/2]).
    void (*rotate)(float* x, const float* cosine, const float* sine, int head_dim);
    // Keys and values [D] of one position (0..31) into its block's part of one layer and kv head.
    void (*write_kv)(KVType, int head_dim, const float* key, const float* value, int offset, uint8_t* block);
    void (*attend)(const AttentionWork&);
    void (*sample)(const SamplingWork&, Sampled&);
    // What sample() reports of the token that it has chosen, of any token: the result's token_id. Of the work, logits,
    // weights, vocab_size and num_logprobs are read. The error is SW_OK or SW_NOT_FINITE.
    void (*report)(const SamplingWork&, Sampled&);
};

// Floats of scratch that `attend` needs for work of that size.
int64_t attention_scratch(int num_tokens, int group_heads, int head_dim, int num_positions);

// Bytes of one block's part of one layer and kv head.
int64_t kv_part_bytes(KVType type, int head_dim);

// The table of that instruction set, or (null) the best; null where this library or this processor does not have it.
const Kernels* choose_kernels(const char* name);
const char* runnable_kernels();  // names, best first

}  // namespace slotwise

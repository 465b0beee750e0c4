// The C ABI of the native backend: what Python calls through ctypes, and nothing else. No exception crosses it: a call
// that fails returns null or a negative number, and sw_error() says why, on the calling thread. Sizes that Python gives
// are checked here; letters in shapes as in model/config.py (T tokens, H heads, K kv heads, D head size, E hidden,
// F feed-forward, X routed experts, S shared ones, V vocabulary, L layers).
#pragma once
#include <cstdint>

#if defined(__GNUC__)
#define SW_API extern "C" __attribute__((visibility("default")))
#else
#define SW_API extern "C"
#endif

struct sw_model;   // dimensions and packed weights; immutable once complete
struct sw_runner;  // KV cache, slots, scratch and threads around a model

// Of this ABI: raised with every change to it. Python has the same number in library.py, and refuses another.
constexpr int32_t SW_VERSION = 5;
SW_API int32_t sw_version();
// sizeof of a struct below, by its name, or -1; Python compares it with its own picture of it.
SW_API int64_t sw_sizeof(const char* struct_name);

// Why the last call on this thread failed; never null.
SW_API const char* sw_error();

// Names of the instruction sets that this library has and this processor can run, best first, separated by spaces:
// of "amx avx512 avx512vnni avx2vnni avx2 neoni8mm neondot scalar". The scalar one is always there.
SW_API const char* sw_instruction_sets();

struct sw_config {
    int32_t vocab_size, hidden_size, intermediate_size, num_layers, num_heads, num_kv_heads, head_dim;
    int32_t num_experts;            // X; 0: no layer has experts
    int32_t num_experts_per_token;  // of X
    int32_t num_shared_experts;     // S: for every token, with weight 1; their numbers are X … X + S - 1
    int32_t expert_intermediate_size;
    int32_t norm_topk_prob;         // divide the chosen experts' weights by their sum
    int32_t qk_norm;
    float rms_norm_eps;
    float rope_scale;               // of cosine and sine
    const double* rope_inverse;     // [D/2] radians for one position
    const uint8_t* is_moe_layer;    // [L]
};

// How a matrix is kept. The file's own bits, where it has them.
enum sw_encoding { SW_F32 = 0, SW_BF16 = 1, SW_Q8 = 2, SW_Q4_0 = 3, SW_Q4_1 = 4 };

// What a tensor is.
enum sw_role {
    SW_EMBEDDING = 0, SW_FINAL_NORM, SW_LM_HEAD,                      // layer and expert are 0
    SW_ATTENTION_NORM, SW_Q, SW_K, SW_V, SW_O, SW_Q_NORM, SW_K_NORM,  // of a layer
    SW_MLP_NORM, SW_GATE, SW_UP, SW_DOWN,                             // of a layer, or of one of its experts
    SW_ROUTER, SW_NUM_ROLES
};

// `isa` is one of sw_instruction_sets() or null for the best; Q8 weights and others are packed for it. Null: failed.
SW_API sw_model* sw_model_new(const sw_config* config, const char* isa);
SW_API void sw_model_free(sw_model* model);

// A weight of N rows and K columns in one of the encodings above as GGML lays it out (F32: K floats a row; BF16: K
// halves; Q8: blocks of 34 bytes for 32 weights; Q4_0: of 18; Q4_1: of 20), repacked into the model's memory, so that
// `data` is not needed afterwards. Vectors (norms) have one row. 0: done.
SW_API int sw_model_set(sw_model* model, int role, int layer, int expert, int encoding, int32_t rows, int32_t columns,
                        const void* data, int64_t num_bytes);
// A bias of one of the matrices, N floats. 0: done.
SW_API int sw_model_set_bias(sw_model* model, int role, int layer, int expert, int32_t rows, const float* data);
// What adapter number `adapter` (from 1 on; no number may be left out) adds to one of SW_Q … SW_O, SW_GATE … SW_DOWN of a
// layer without experts: B A, with a [rank, columns] and b [rows, rank]. Before there is a runner. 0: done.
SW_API int sw_model_set_adapter(sw_model* model, int adapter, int role, int layer, int32_t rank, int32_t rows,
                                int32_t columns, const float* a, const float* b);
// N*K floats (row major) quantised into GGML's blocks of `encoding` (Q8, Q4_0, Q4_1) or rounded to BF16, at `out`,
// which has room for `num_bytes`. 0: done.
SW_API int sw_quantize(int encoding, int64_t rows, int32_t columns, const float* values, void* out, int64_t num_bytes);
// Bytes of weights held, or -1 where a tensor that the config asks for has not been set; sw_error() names it.
SW_API int64_t sw_model_bytes(sw_model* model);

enum sw_kv_type { SW_KV_F32 = 0, SW_KV_BF16 = 1, SW_KV_INT8 = 2 };

// How isolation is checked (isolation.h): not; for a stated cost; wherever it can be.
enum sw_checks { SW_CHECKS_OFF = 0, SW_CHECKS_CANARY = 1, SW_CHECKS_DEBUG = 2 };

// Bytes of one block of 32 positions in all layers, and of its stamp where there are checks, a whole number of pages.
SW_API int64_t sw_block_bytes(const sw_model* model, int kv_type, int checks);

struct sw_runner_options {
    int32_t kv_type, num_blocks, num_threads, max_num_tokens;  // max_num_tokens: of one step
    int32_t poison;  // fill free blocks and unused positions with NaN
    int32_t pin;     // each thread to a core of its own
    int32_t checks;  // sw_checks
};
SW_API sw_runner* sw_runner_new(const sw_model* model, const sw_runner_options* options);
SW_API void sw_runner_free(sw_runner* runner);

struct sw_bias { int32_t token_id; float amount; };  // added to a logit: finite or -infinity

// Shares are float64, so that 0.2 is what each of five equal tokens has.
struct sw_sampling {
    uint64_t seed;
    double typical_p, top_n_sigma, xtc_probability, xtc_threshold;
    float temperature, top_p, min_p, repetition_penalty, presence_penalty, frequency_penalty;
    int32_t top_k, num_logprobs, num_prompt_logprobs, min_tokens;  // num_logprobs -1: none wanted
    int32_t num_suppressed, num_biases;
    const int32_t* suppressed;
    const sw_bias* biases;
};
// adapter: 0: none.
struct sw_opened { int32_t slot, num_prompt_tokens, pools, adapter; int64_t generation; sw_sampling sampling; };
struct sw_blocks { int32_t slot, num_blocks; const int32_t* block_ids; };  // grown or freed
struct sw_chunk {
    int32_t slot, num_tokens, samples;
    const int32_t* token_ids;  // null: the sampled one
    // What is seldom asked for; else null and 0.
    const uint8_t* allowed;    // bits of the tokens that may be chosen, the lowest of a byte first; null: all may
    const sw_bias* biases;     // for this one choice, added to the slot's
    const int32_t* targets;    // of the first num_targets tokens: each one's target
    int32_t num_allowed;       // bytes; tokens behind them are not allowed
    int32_t num_biases, num_targets;
};

struct sw_batch {
    const sw_blocks* freed;   int32_t num_freed;
    const sw_opened* opened;  int32_t num_opened;
    const sw_blocks* grown;   int32_t num_grown;
    const sw_chunk* chunks;   int32_t num_chunks;
};

enum sw_row_error { SW_OK = 0, SW_NOT_FINITE = 1, SW_NO_CHOICE = 2, SW_NOT_ISOLATED = 3 };
struct sw_result {
    int32_t token_id;         // -1: the chunk does not sample, or failed
    int32_t error;            // sw_row_error
    float logprob;            // where num_logprobs >= 0
    int32_t num_top;          // how many of the two below are filled
    int32_t* top_ids;         // room for num_logprobs, or null
    float* top_logprobs;
    float* target_logprobs;   // room for num_targets
    int32_t* target_top_ids;  // room for num_targets * num_prompt_logprobs, or null
    float* target_top_logprobs;
    float* pooled;            // room for hidden_size, or null
    int32_t num_target_top;   // the two above are [num_targets, num_target_top]
    int32_t is_pooled;        // whether `pooled` is filled
};
// One step, as model/batch.py's Runner.run has it: frees (contents destroyed), opens, grows, computes, samples. A result
// for each chunk; where a target's logits or a pooled vector are not finite, that is an error of the chunk. `logits`:
// null, or room for [chunks that sample, V] floats. Negative: nothing was computed.
SW_API int sw_step(sw_runner* runner, const sw_batch* batch, sw_result* results, float* logits);

// Whose a block is, in the block itself, behind its keys and values; the mark says that this is a stamp.
constexpr int64_t SW_STAMP_MARK = 0x65736977746f6c73;  // "slotwise"
struct sw_stamp { int64_t mark, generation, slot, index, block_id; };

enum sw_violation_kind {
    SW_OTHER_STAMP = 0,    // a block of the slot is stamped as another's, or overwritten there
    SW_NOT_CLEAR = 1,      // a block that nobody owned held something when the slot was given it
    SW_NOT_DESTROYED = 2,  // a block still holds something after the slot was freed
    SW_CHANGED = 3,        // a full block of the slot is not what it was
};
struct sw_violation {
    int32_t kind, slot, index, block_id;  // index: of the block in its slot, or -1
    sw_stamp expected, found;
};
// What the checks of the last step found, whether it failed or not: writes up to `max`, returns how many there are. But
// for SW_NOT_DESTROYED, whose slot is gone, the slot's chunk has the error SW_NOT_ISOLATED.
SW_API int sw_violations(const sw_runner* runner, sw_violation* violations, int max);
// For tests of the checks: takes that block, whoever owns it, for the slot's at `index`. 0: done.
SW_API int sw_misplace(sw_runner* runner, int32_t slot, int32_t index, int32_t block_id);

// The bytes of a block, for checks; null for a block that is not there.
SW_API const void* sw_block(const sw_runner* runner, int32_t block_id);
// Nanoseconds that each part of the steps so far has taken: up to `max` names and figures; returns how many there are.
SW_API int sw_profile(const sw_runner* runner, const char** names, int64_t* nanoseconds, int max);

// A model that runs steps: the KV cache, the slots, the threads, and the memory that a step works in.
#pragma once
#include <chrono>
#include <cstdint>
#include <initializer_list>
#include <vector>

#include "activations.h"
#include "adapters.h"
#include "blocks.h"
#include "isolation.h"
#include "model.h"
#include "rows.h"
#include "slotwise.h"
#include "team.h"

namespace slotwise {

// Where the time of the steps went.
enum Part { SLOTS, EMBEDDING, NORMS, QKV, ROTATION, ATTENTION, OUTPUT, ROUTING, GATE_UP, DOWN, HEAD, SAMPLING,
            ISOLATION, NUM_PARTS };
extern const char* const PART_NAMES[NUM_PARTS];

class Profile {
public:
    void start() { last_ = now(); }
    // The time since the last call is that part's.
    void end(Part part) {
        int64_t time = now();
        nanoseconds[part] += time - last_;
        last_ = time;
    }
    int64_t nanoseconds[NUM_PARTS] = {};

private:
    static int64_t now() { return std::chrono::steady_clock::now().time_since_epoch().count(); }
    int64_t last_ = 0;
};

// Rows that go through one gated MLP together: those of x, or those that the ids name, all of them then as generated
// ones; and the first of as many rows where what comes of them is put.
struct Rows {
    Activations x;
    const int32_t* ids;
    int first;
    RowCounts counts;
    int adapted_layer;  // whose adapters count; -1: none do
};

constexpr int FEW_ROWS = 8, GROUPS_AT_ONCE = 4;
constexpr int TARGETS_AT_ONCE = 32;  // whose logits there is memory for

class Runner {
public:
    // Throws std::invalid_argument or std::bad_alloc.
    Runner(const Model& model, const sw_runner_options& options);

    // Throws std::invalid_argument where the batch contradicts what came before it; nothing is computed then.
    void step(const sw_batch& batch, sw_result* results, float* logits);

    const Blocks& blocks() const { return blocks_; }
    const IsolationChecks& isolation() const { return isolation_; }
    SlotTable& slots() { return slots_; }  // for tests
    const Profile& profile() const { return profile_; }

private:
    // In step.cpp, in the order in which they are called.
    std::vector<Slot*> checked_slots(const sw_batch& batch, const sw_result* results);
    void check_before(const sw_batch& batch, sw_result* results);
    void check_after(const sw_batch& batch, sw_result* results);
    void fail_concerned(const sw_batch& batch, sw_result* results);
    void append(const sw_batch& batch, const sw_result* results);
    void place(const sw_batch& batch, const sw_result* results);
    void embed();
    void run_layer(int layer);
    void normalise(const Vector& weight, const Needs& needs);
    void normalise_row(const Vector& weight, const Form& form, int64_t from, int64_t row);
    void attention(int layer);
    void write_chunks(int layer);
    void rotate_and_write(int layer, const Span& span, int token, int kv_head);
    void attend(int layer, const Span& span, int kv_head, int tile, int thread, const Needs& needs);
    bool attends_whole_groups() const;
    void gated_mlp(int layer);
    static int groups_at_once(int num_rows);
    void gate_and_up(const GatedMLP& mlp, const Rows& rows, int32_t size, int32_t first, int32_t end, int thread);
    void clear(const sw_batch& batch, sw_result* results);
    void pool(sw_result* results);
    void report_targets(const sw_batch& batch, sw_result* results);
    void report_target(const sw_chunk& chunk, int32_t target, const float* logits, float* weights,
                       sw_result& result) const;
    template <class Row>
    void compute_logits(const Row* rows, int num_rows);
    void sample(const sw_batch& batch, sw_result* results);
    void sample_row(Slot& slot, const sw_chunk& chunk, const float* logits, float* weights, sw_result& result) const;
    SamplingWork work_of(const Slot& slot, const sw_chunk& chunk) const;

    // In adapters.cpp.
    void place_adapted();
    template <class F>
    void for_adapted(const F& work);
    void add_adapted(int layer, std::initializer_list<AdaptedProduct> products);
    void shrink_gate_and_up(int layer);
    void expand_gate_and_up(int layer, int32_t first, int32_t count, float* gate, float* up, int64_t stride);

    // In experts.cpp.
    void routed_mlp(const Layer& layer);
    void choose_experts(int row);
    void group_by_expert();
    template <class F>
    void for_experts(int num_parts, int grain, const F& work);
    Rows group_of(int expert, const Activations& x) const;
    void combine_experts(int row);

    const Model& model_;
    const sw_config& config_;
    const Kernels& kernels_;
    Blocks blocks_;
    SlotTable slots_;
    Team team_;
    IsolationChecks isolation_;
    Profile profile_;

    int32_t max_num_tokens_;
    int64_t hidden_stride_, query_stride_, key_stride_, vocab_stride_;  // floats, whole panels
    Buffer hidden_, normed_, q_, k_, v_, attended_, inner_, cosine_, sine_;
    Buffer logits_, weights_, attention_scratch_, inner_scratch_;
    int64_t inner_scratch_per_thread_;
    Forms forms_, inner_forms_;

    // Of experts: for each token and rank the expert, its weight, and its row among all tokens grouped by expert; for
    // each of those rows its token, and itself; for each expert its first row.
    Buffer router_logits_, expert_outputs_, expert_weights_;
    std::vector<int32_t> expert_ids_, grouped_places_, grouped_tokens_, grouped_rows_, first_of_expert_;

    Buffer low_rank_sums_;         // of each row, [low_rank_stride_]
    int64_t low_rank_stride_ = 0;  // twice the greatest rank of the adapters

    // Of the step under way.
    StepRows rows_;
    std::vector<AdaptedRow> adapted_;
    int num_tokens_ = 0;
    int64_t scratch_per_thread_ = 0;
};

}  // namespace slotwise

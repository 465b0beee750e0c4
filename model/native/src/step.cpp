// One step: free, open, grow; then all tokens of the batch through the model together; then a token for each chunk that
// samples. Every phase is cut into items that the team shares, and ends before the next begins.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>

#include "runner.h"

namespace slotwise {

const char* const PART_NAMES[NUM_PARTS] = {"slots",  "embedding", "norms",   "qkv",  "rotation", "attention", "output",
                                           "routing", "gate_up",  "down", "head", "sampling", "isolation"};

namespace {

int64_t outer_size(const sw_config& c) { return std::max(c.hidden_size, c.num_heads * c.head_dim); }

int64_t inner_size(const sw_config& c) { return std::max(c.intermediate_size, c.expert_intermediate_size); }

int64_t inner_rows(const sw_config& c, int64_t num_tokens) {
    return num_tokens * std::max(experts_of_token(c), 1);
}

// Grows a buffer whose contents nobody needs.
void ensure(Buffer& buffer, int64_t num_bytes) {
    if (buffer.size() < num_bytes) buffer = Buffer(num_bytes);
}

}  // namespace

Runner::Runner(const Model& model, const sw_runner_options& options)
    : model_(model), config_(model.config), kernels_(*model.kernels),
      blocks_({(KVType)options.kv_type, config_.num_layers, config_.num_kv_heads, config_.head_dim,
               options.checks != SW_CHECKS_OFF}, options.num_blocks, options.poison),
      slots_(options.num_blocks, config_.vocab_size, (int32_t)model.adapters.size()), team_(options.num_threads, options.pin),
      isolation_(options.checks, blocks_, team_), max_num_tokens_(options.max_num_tokens),
      forms_(max_num_tokens_, outer_size(config_)),
      inner_forms_(inner_rows(config_, max_num_tokens_), inner_size(config_)) {
    const sw_config& c = config_;
    int64_t tokens = max_num_tokens_, rows = inner_rows(c, tokens);
    hidden_stride_ = round_up(c.hidden_size, PANEL);
    query_stride_ = round_up(c.num_heads * c.head_dim, PANEL);
    key_stride_ = round_up(c.num_kv_heads * c.head_dim, PANEL);
    vocab_stride_ = round_up(c.vocab_size, PANEL);
    hidden_ = Buffer(tokens * hidden_stride_ * 4);
    normed_ = Buffer(tokens * c.hidden_size * 4);
    q_ = Buffer(tokens * query_stride_ * 4);
    k_ = Buffer(tokens * key_stride_ * 4);
    v_ = Buffer(tokens * key_stride_ * 4);
    attended_ = Buffer(tokens * c.num_heads * c.head_dim * 4);
    inner_ = Buffer(rows * inner_size(c) * 4);
    inner_scratch_per_thread_ = 2 * std::max<int64_t>(tokens, FEW_ROWS * GROUPS_AT_ONCE) * GROUP;
    inner_scratch_ = Buffer(inner_scratch_per_thread_ * team_.size() * 4);
    cosine_ = Buffer(tokens * c.head_dim / 2 * 4);
    sine_ = Buffer(tokens * c.head_dim / 2 * 4);
    weights_ = Buffer(team_.size() * vocab_stride_ * 4);
    for (const Adapter& adapter : model.adapters)
        for (const AdaptedLayer& l : adapter.layers)
            for (const LowRank* pair : {&l.q, &l.k, &l.v, &l.o, &l.gate, &l.up, &l.down})
                low_rank_stride_ = std::max<int64_t>(low_rank_stride_, 2 * pair->rank);
    low_rank_sums_ = Buffer(tokens * low_rank_stride_ * 4);
    if (c.num_experts == 0) return;
    router_logits_ = Buffer(tokens * round_up(c.num_experts, PANEL) * 4);
    expert_outputs_ = Buffer(rows * hidden_stride_ * 4);
    expert_weights_ = Buffer(rows * 4);
    for (auto* list : {&expert_ids_, &grouped_places_, &grouped_tokens_}) list->resize(rows);
    grouped_rows_.resize(rows);
    std::iota(grouped_rows_.begin(), grouped_rows_.end(), 0);
    first_of_expert_.resize(all_experts(c) + 1);
}

void Runner::step(const sw_batch& batch, sw_result* results, float* logits) {
    profile_.start();
    isolation_.forget();
    slots_.apply(batch, blocks_, isolation_);
    clear(batch, results);
    profile_.end(SLOTS);
    check_before(batch, results);
    profile_.end(ISOLATION);
    place(batch, results);
    profile_.end(SLOTS);
    if (num_tokens_ == 0) return;
    embed();
    profile_.end(EMBEDDING);
    for (int layer = 0; layer < config_.num_layers; ++layer) run_layer(layer);
    append(batch, results);
    profile_.end(SLOTS);
    check_after(batch, results);
    profile_.end(ISOLATION);
    pool(results);
    report_targets(batch, results);
    compute_logits(rows_.sampled().data(), (int)rows_.sampled().size());
    if (logits)
        for (size_t i = 0; i < rows_.sampled().size(); ++i)
            memcpy(logits + i * config_.vocab_size, logits_.as<float>() + i * vocab_stride_, config_.vocab_size * 4);
    profile_.end(HEAD);
    sample(batch, results);
    profile_.end(SAMPLING);
}

// With debug, of all that are open; of those whose chunks have an error already, nothing more is to be said.
std::vector<Slot*> Runner::checked_slots(const sw_batch& batch, const sw_result* results) {
    if (isolation_.is_thorough()) return slots_.all();
    std::vector<Slot*> slots;
    for (int32_t i = 0; i < batch.num_chunks; ++i)
        if (!results[i].error) slots.push_back(&slots_.at(batch.chunks[i].slot));
    return slots;
}

// What belongs to another is neither read nor written: the chunk is left out.
void Runner::check_before(const sw_batch& batch, sw_result* results) {
    if (!isolation_.is_on()) return;
    isolation_.before_computing(checked_slots(batch, results));
    fail_concerned(batch, results);
}

// What was computed from a block that another wrote to is not told.
void Runner::check_after(const sw_batch& batch, sw_result* results) {
    if (!isolation_.is_on()) return;
    isolation_.after_computing(checked_slots(batch, results));
    fail_concerned(batch, results);
}

void Runner::fail_concerned(const sw_batch& batch, sw_result* results) {
    if (isolation_.violations().empty()) return;
    for (int32_t i = 0; i < batch.num_chunks; ++i)
        if (isolation_.concerns(batch.chunks[i].slot)) results[i].error = SW_NOT_ISOLATED;
}

void Runner::append(const sw_batch& batch, const sw_result* results) {
    for (int32_t i = 0; i < batch.num_chunks; ++i) {
        if (results[i].error) continue;
        Slot& slot = slots_.at(batch.chunks[i].slot);
        slot.append(tokens_of(batch.chunks[i], slot), batch.chunks[i].num_tokens);
    }
}

void Runner::place(const sw_batch& batch, const sw_result* results) {
    rows_.place(batch, results, slots_, kernels_.prompt_matmul != nullptr, max_num_tokens_, config_.vocab_size);
    num_tokens_ = rows_.counts().total();
    place_adapted();
    int group = config_.num_heads / config_.num_kv_heads;
    int64_t floats = attention_scratch(TOKEN_TILE, group, config_.head_dim, rows_.most_positions());
    scratch_per_thread_ = round_up(floats, 16);
    ensure(attention_scratch_, scratch_per_thread_ * team_.size() * 4);
}

// Embeddings, and the angles of each token's position.
void Runner::embed() {
    int half = config_.head_dim / 2;
    for_rows(team_, (int)rows_.spans().size(), [&](int, int i) {
        const Span& span = rows_.spans()[i];
        for (int32_t t = 0; t < span.num_tokens; ++t) {
            int64_t row = span.first_row + t;
            model_.embedding.row(span.token_ids[t], hidden_.as<float>() + row * hidden_stride_);
            for (int j = 0; j < half; ++j) {
                double angle = (span.first_position + t) * model_.rope_inverse[j];
                cosine_.as<float>()[row * half + j] = (float)(std::cos(angle) * config_.rope_scale);
                sine_.as<float>()[row * half + j] = (float)(std::sin(angle) * config_.rope_scale);
            }
        }
    });
}

void Runner::run_layer(int index) {
    const Layer& layer = model_.layers[index];
    Needs needs;
    for (const PackedMatrix* matrix : {&layer.q, &layer.k, &layer.v}) needs.add(kernels_, *matrix);
    normalise(layer.attention_norm, needs);
    profile_.end(NORMS);
    attention(index);
    if (layer.is_moe) routed_mlp(layer);
    else gated_mlp(index);
}

// All rows of the hidden state [T, hidden_stride] → normed_ [T, E], and the forms of it that are needed.
void Runner::normalise(const Vector& weight, const Needs& needs) {
    for_rows(team_, num_tokens_, [&](int, int row) { normalise_row(weight, needs.of(row, rows_.counts()), row, row); });
}

void Runner::normalise_row(const Vector& weight, const Form& form, int64_t from, int64_t row) {
    int32_t size = config_.hidden_size;
    float* normed = normed_.as<float>() + row * size;
    kernels_.rms_norm(hidden_.as<float>() + from * hidden_stride_, weight.get(), config_.rms_norm_eps, size, normed);
    forms_.fill(kernels_, form, normed, size, row);
}

void Runner::attention(int index) {
    const Layer& layer = model_.layers[index];
    Activations normed = forms_.view(normed_.as<float>(), config_.hidden_size);
    multiply(team_, kernels_, normed, rows_.counts(),
             {{&layer.q, q_.as<float>(), query_stride_},
              {&layer.k, k_.as<float>(), key_stride_},
              {&layer.v, v_.as<float>(), key_stride_}});
    add_adapted(index, {{&AdaptedLayer::q, normed_.as<float>(), q_.as<float>(), query_stride_},
                        {&AdaptedLayer::k, normed_.as<float>(), k_.as<float>(), key_stride_},
                        {&AdaptedLayer::v, normed_.as<float>(), v_.as<float>(), key_stride_}});
    profile_.end(QKV);
    write_chunks(index);
    profile_.end(ROTATION);
    Needs needs;
    needs.add(kernels_, layer.o);
    int num_tiles = 0, kv_heads = config_.num_kv_heads;
    for (const Span& span : rows_.spans()) num_tiles += span.num_tiles();
    team_.run(num_tiles * kv_heads, 1, [&](int thread, int item, int) {
        int tile = item / kv_heads, kv_head = item % kv_heads;
        const Span* span = rows_.spans().data();
        for (; tile >= span->num_tiles(); ++span) tile -= span->num_tiles();
        if (span->is_written_late()) rotate_and_write(index, *span, 0, kv_head);
        attend(index, *span, kv_head, tile, thread, needs);
    });
    profile_.end(ATTENTION);
    int32_t columns = config_.num_heads * config_.head_dim;
    if (!attends_whole_groups())
        for_rows(team_, num_tokens_, [&](int, int row) {
            const float* attended = attended_.as<float>() + (int64_t)row * columns;
            forms_.fill(kernels_, needs.of(row, rows_.counts()), attended, columns, row);
        });
    profile_.end(NORMS);
    multiply(team_, kernels_, forms_.view(attended_.as<float>(), columns), rows_.counts(),
             {{&layer.o, hidden_.as<float>(), hidden_stride_}}, true);
    add_adapted(index, {{&AdaptedLayer::o, attended_.as<float>(), hidden_.as<float>(), hidden_stride_}});
    profile_.end(OUTPUT);
}

// Keys and values of all tokens that others of the step will read. The only token of a span is left to the thread that
// attends for it: what it writes is then already in that thread's cache.
void Runner::write_chunks(int layer) {
    for (const Span& span : rows_.spans())
        if (!span.is_written_late())
            for_rows(team_, span.num_tokens, [&](int, int token) {
                for (int h = 0; h < config_.num_kv_heads; ++h) rotate_and_write(layer, span, token, h);
            });
}

// Norms and rotary positions of a token's key of one kv head and of its queries; key and value go into the cache.
void Runner::rotate_and_write(int index, const Span& span, int token, int kv_head) {
    const sw_config& c = config_;
    const Layer& layer = model_.layers[index];
    int d = c.head_dim, group = c.num_heads / c.num_kv_heads;
    int32_t position = span.first_position + token;
    int64_t row = span.first_row + token;
    const float *cosine = cosine_.as<float>() + row * d / 2, *sine = sine_.as<float>() + row * d / 2;
    auto turn = [&](float* head, const Vector& norm) {
        if (c.qk_norm) kernels_.rms_norm(head, norm.get(), c.rms_norm_eps, d, head);
        kernels_.rotate(head, cosine, sine, d);
    };
    float* q = q_.as<float>() + row * query_stride_ + kv_head * group * d;
    float* k = k_.as<float>() + row * key_stride_ + kv_head * d;
    const float* v = v_.as<float>() + row * key_stride_ + kv_head * d;
    for (int g = 0; g < group; ++g) turn(q + g * d, layer.q_norm);
    turn(k, layer.k_norm);
    uint8_t* block = blocks_.at(span.slot->block_ids[position / BLOCK]);
    kernels_.write_kv(blocks_.layout().type, d, k, v, position % BLOCK, block + blocks_.layout().part_offset(index, kv_head));
}

// Whether the heads that share a kv head end where a group of the next matrix's input does, so that whoever attends can
// bring what comes out into the next matrix's form.
bool Runner::attends_whole_groups() const {
    return config_.num_heads / config_.num_kv_heads * config_.head_dim % GROUP == 0;
}

void Runner::attend(int layer, const Span& span, int kv_head, int tile, int thread, const Needs& needs) {
    const sw_config& c = config_;
    int first = tile * TOKEN_TILE, group = c.num_heads / c.num_kv_heads;
    int num_tokens = std::min(TOKEN_TILE, span.num_tokens - first);
    int64_t row = span.first_row + first, part = blocks_.layout().part_offset(layer, kv_head);
    thread_local std::vector<const uint8_t*> parts;
    parts.clear();
    for (int32_t id : span.slot->block_ids) parts.push_back(blocks_.at(id) + part);
    AttentionWork work{};
    work.kv_type = blocks_.layout().type;
    work.head_dim = c.head_dim;
    work.group_heads = group;
    work.num_tokens = num_tokens;
    work.first_position = span.first_position + first;
    work.q = q_.as<float>() + row * query_stride_ + kv_head * group * c.head_dim;
    work.q_stride = query_stride_;
    work.out_stride = c.num_heads * c.head_dim;
    work.out = attended_.as<float>() + row * work.out_stride + kv_head * group * c.head_dim;
    work.blocks = parts.data();
    work.scale = 1.0f / std::sqrt((float)c.head_dim);
    work.scratch = attention_scratch_.as<float>() + thread * scratch_per_thread_;
    kernels_.attend(work);
    if (!attends_whole_groups()) return;
    int32_t width = group * c.head_dim;
    for (int t = 0; t < num_tokens; ++t)
        forms_.fill_part(kernels_, needs.of(row, rows_.counts()), work.out + t * work.out_stride,
                         (int32_t)work.out_stride, row + t, kv_head * width, width);
}

void Runner::gated_mlp(int index) {
    const Layer& layer = model_.layers[index];
    const GatedMLP& mlp = layer.mlp;
    Needs needs;
    needs.add(kernels_, mlp.gate);
    needs.add(kernels_, mlp.up);
    normalise(layer.mlp_norm, needs);
    profile_.end(NORMS);
    int32_t size = config_.intermediate_size;
    Rows rows{forms_.view(normed_.as<float>(), config_.hidden_size), nullptr, 0, rows_.counts(), index};
    shrink_gate_and_up(index);
    team_.run((size + GROUP - 1) / GROUP, groups_at_once(num_tokens_), [&](int thread, int first, int end) {
        gate_and_up(mlp, rows, size, first * GROUP, std::min(end * GROUP, size), thread);
    });
    profile_.end(GATE_UP);
    multiply(team_, kernels_, inner_forms_.view(inner_.as<float>(), size), rows_.counts(),
             {{&mlp.down, hidden_.as<float>(), hidden_stride_}}, true);
    add_adapted(index, {{&AdaptedLayer::down, inner_.as<float>(), hidden_.as<float>(), hidden_stride_}});
    profile_.end(DOWN);
}

// Groups of inner columns that a thread takes: with few rows enough to stream the weights, else what stays in the nearest
// cache.
int Runner::groups_at_once(int num_rows) { return num_rows <= FEW_ROWS ? GROUPS_AT_ONCE : 1; }

// Columns first … end - 1 of the inner activations [., size] of some rows, in the forms that the last matrix needs: what
// comes out of the first two matrices is used while it is in the nearest cache.
void Runner::gate_and_up(const GatedMLP& mlp, const Rows& rows, int32_t size, int32_t first, int32_t end, int thread) {
    int32_t count = end - first, num_rows = rows.counts.total();
    int panels = (count + PANEL - 1) / PANEL;
    int64_t stride = round_up(count, PANEL);
    float *gate = inner_scratch_.as<float>() + thread * inner_scratch_per_thread_, *up = gate + num_rows * stride;
    auto multiply_by = [&](const PackedMatrix& matrix, float* out) {
        if (rows.ids) kernels_.matmul(matrix.get(), rows.x, rows.ids, num_rows, first / PANEL, panels, out, stride, false);
        else multiply_panels(kernels_, matrix.get(), rows.x, rows.counts, first / PANEL, panels, out, stride, false);
    };
    multiply_by(mlp.gate, gate - first);
    multiply_by(mlp.up, up - first);
    const bool is_adapted = rows.adapted_layer >= 0 && !adapted_.empty();
    if (is_adapted) expand_gate_and_up(rows.adapted_layer, first, count, gate, up, stride);
    kernels_.silu_mul(gate, up, (int)(num_rows * stride), gate);
    Needs needs;
    needs.add(kernels_, mlp.down);
    for (int64_t i = 0; i < num_rows; ++i) {
        const Form& form = needs.of(i, rows.counts);
        int64_t row = rows.first + i;
        const float* inner = gate + i * stride;
        if (form.f32 || is_adapted) memcpy(inner_.as<float>() + row * size + first, inner, count * sizeof(float));
        inner_forms_.fill_part(kernels_, form, inner, size, row, first, count);
    }
}

// Throws where a result has no room for what its chunk asks for.
void Runner::clear(const sw_batch& batch, sw_result* results) {
    for (int32_t i = 0; i < batch.num_chunks; ++i) {
        const sw_chunk& chunk = batch.chunks[i];
        sw_result& result = results[i];
        result.token_id = -1;
        result.error = SW_OK;
        result.num_top = result.num_target_top = result.is_pooled = 0;
        if (chunk.num_targets <= 0) continue;
        int32_t num_top = slots_.at(chunk.slot).sampling.num_prompt_logprobs;
        result.num_target_top = std::clamp(num_top, 0, config_.vocab_size);
        bool has_room = result.target_logprobs && (result.num_target_top == 0 || result.target_top_ids);
        if (!has_room) throw std::invalid_argument("there is no room for what is to be said of the targets");
    }
}

// Final hidden states of prompts, added up in float64 in the order of their positions: whatever the chunks, the sums are
// the same bits.
void Runner::pool(sw_result* results) {
    const int32_t size = config_.hidden_size;
    for (const PooledRows& rows : rows_.pooled()) {
        std::vector<double>& sums = rows.slot->pooled;
        sums.resize(size);
        for_rows(team_, rows.num_rows, [&](int, int i) {
            normalise_row(model_.final_norm, {}, rows.first_row + i, rows.first_row + i);
        });
        const float* normed = normed_.as<float>() + (int64_t)rows.first_row * size;
        for (int32_t row = 0; row < rows.num_rows; ++row)
            for (int32_t column = 0; column < size; ++column) sums[column] += normed[(int64_t)row * size + column];
        sw_result& result = results[rows.chunk];
        if (!rows.are_last || !result.pooled) continue;
        for (int32_t column = 0; column < size; ++column) {
            result.pooled[column] = (float)(sums[column] / rows.slot->num_prompt_tokens);
            if (!std::isfinite(result.pooled[column])) result.error = SW_NOT_FINITE;
        }
        result.is_pooled = result.error == SW_OK;
    }
}

// A few rows at a time, so that a long prompt needs no more memory for logits than a full step of answers.
void Runner::report_targets(const sw_batch& batch, sw_result* results) {
    const std::vector<TargetRow>& targets = rows_.targets();
    for (size_t first = 0; first < targets.size(); first += TARGETS_AT_ONCE) {
        const TargetRow* some = targets.data() + first;
        int count = (int)std::min<size_t>(targets.size() - first, TARGETS_AT_ONCE);
        compute_logits(some, count);
        team_.run(count, 1, [&](int thread, int i, int) {
            const float* logits = logits_.as<float>() + i * vocab_stride_;
            report_target(batch.chunks[some[i].chunk], some[i].target, logits,
                          weights_.as<float>() + thread * vocab_stride_, results[some[i].chunk]);
        });
    }
    for (const TargetRow& row : targets)
        if (std::isnan(results[row.chunk].target_logprobs[row.target])) results[row.chunk].error = SW_NOT_FINITE;
}

// NaN where the logits are not finite.
void Runner::report_target(const sw_chunk& chunk, int32_t target, const float* logits, float* weights,
                           sw_result& result) const {
    int64_t place = (int64_t)target * result.num_target_top;
    SamplingWork work{};
    work.logits = logits;
    work.weights = weights;
    work.vocab_size = config_.vocab_size;
    work.num_logprobs = result.num_target_top;
    Sampled sampled{};
    sampled.token_id = chunk.targets[target];
    if (result.num_target_top > 0) {
        sampled.top_ids = result.target_top_ids + place;
        sampled.top_logprobs = result.target_top_logprobs + place;
    }
    kernels_.report(work, sampled);
    result.target_logprobs[target] = sampled.error == SW_OK ? sampled.logprob : NAN;
}

// Of rows of either kind: what they give is to be the same.
template <class Row>
void Runner::compute_logits(const Row* of_rows, int num_rows) {
    const RowCounts rows{num_rows, 0};
    Needs needs;
    needs.add(kernels_, model_.head());
    ensure(logits_, rows.total() * vocab_stride_ * 4);
    for_rows(team_, rows.total(), [&](int, int i) {
        normalise_row(model_.final_norm, needs.generated, of_rows[i].row, i);
    });
    multiply(team_, kernels_, forms_.view(normed_.as<float>(), config_.hidden_size), rows,
             {{&model_.head(), logits_.as<float>(), vocab_stride_}});
}

void Runner::sample(const sw_batch& batch, sw_result* results) {
    team_.run((int)rows_.sampled().size(), 1, [&](int thread, int i, int) {
        const SampledRow& sampled = rows_.sampled()[i];
        const float* logits = logits_.as<float>() + i * vocab_stride_;
        sample_row(*sampled.slot, batch.chunks[sampled.chunk], logits,
                   weights_.as<float>() + thread * vocab_stride_, results[sampled.chunk]);
    });
}

// A chunk that failed already stays so.
void Runner::sample_row(Slot& slot, const sw_chunk& chunk, const float* logits, float* weights,
                        sw_result& result) const {
    SamplingWork work = work_of(slot, chunk);
    work.logits = logits;
    work.weights = weights;
    Sampled sampled{};
    sampled.top_ids = result.top_ids;
    sampled.top_logprobs = result.top_logprobs;
    kernels_.sample(work, sampled);
    if (sampled.error != SW_OK) result.error = sampled.error;
    result.token_id = result.error == SW_OK ? sampled.token_id : -1;
    result.logprob = sampled.logprob;
    result.num_top = sampled.num_top;
    slot.last_token_id = result.token_id;
}

SamplingWork Runner::work_of(const Slot& slot, const sw_chunk& chunk) const {
    const sw_sampling& s = slot.sampling;
    const TokenCounts& counts = slot.counts;
    bool suppresses = slot.num_tokens - slot.num_prompt_tokens < s.min_tokens;
    SamplingWork work{};
    work.vocab_size = config_.vocab_size;
    work.temperature = s.temperature;
    work.top_p = s.top_p;
    work.min_p = s.min_p;
    work.repetition_penalty = s.repetition_penalty;
    work.presence_penalty = s.presence_penalty;
    work.frequency_penalty = s.frequency_penalty;
    work.top_k = s.top_k;
    work.num_logprobs = s.num_logprobs;
    work.typical_p = s.typical_p;
    work.top_n_sigma = s.top_n_sigma;
    work.xtc_probability = s.xtc_probability;
    work.xtc_threshold = s.xtc_threshold;
    work.seed = s.seed;
    work.position = (uint64_t)slot.num_tokens;
    work.suppressed = slot.suppressed.data();
    work.num_suppressed = suppresses ? (int32_t)slot.suppressed.size() : 0;
    work.allowed = chunk.allowed;
    work.num_allowed = chunk.num_allowed;
    work.biases[0] = {slot.biases.data(), (int32_t)slot.biases.size()};
    work.biases[1] = {chunk.biases, chunk.num_biases};
    work.seen = counts.token_ids().data();
    work.num_output = counts.num_output().data();
    work.num_seen = (int32_t)counts.token_ids().size();
    return work;
}

}  // namespace slotwise

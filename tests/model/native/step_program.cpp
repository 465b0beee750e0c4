// Engine steps of tiny random models through the C ABI, with every instruction set of this processor: all encodings,
// types of KV cache and kinds of model. Each set's tokens must be those of the scalar one and its logits near; and a
// request must get the same bits in company and alone, with two threads and with one, its prompt whole and in chunks.
// Prints the sets, then a line for each; the status is 1 where a check failed.
#include <algorithm>

#include "program.h"

namespace {

constexpr int VOCAB = 331, HIDDEN = 64, INNER = 96, LAYERS = 2, EXPERT_INNER = 32;
constexpr int NUM_REQUESTS = 3, NUM_NEW = 6, BLOCKS_PER_SLOT = 2, NUM_TOP = 3;
constexpr int NUM_ADAPTERS = 2;  // request i has number i, the first none

struct Family {
    const char* name;
    int num_heads, num_kv_heads, head_dim, num_experts, num_shared_experts;
    bool has_biases, is_tied, qk_norm;
};
constexpr Family FAMILIES[] = {
    {"qwen2", 6, 2, 16, 0, 0, true, false, false},
    {"qwen3", 4, 1, 40, 0, 0, false, true, true},  // heads that are no whole number of vectors
    {"qwen3moe", 4, 2, 16, 6, 0, false, false, true},
    {"minimind-moe", 4, 2, 16, 4, 2, false, true, false},
};

class Model {
public:
    Model(const Family& family, int encoding, const char* isa) : family_(family), encoding_(encoding) {
        std::vector<double> inverse;
        for (int i = 0; i < family.head_dim / 2; ++i) inverse.push_back(1.0 / (1 << i % 12));
        const uint8_t is_moe_layer[LAYERS] = {1, 0};
        const sw_config config = {
            VOCAB, HIDDEN, INNER, LAYERS, family.num_heads, family.num_kv_heads, family.head_dim,
            family.num_experts, 2, family.num_shared_experts, EXPERT_INNER, 1, family.qk_norm, 1e-6f, 1, inverse.data(), is_moe_layer};
        address = sw_model_new(&config, isa);
        if (!address) stop();
        fill();
    }
    ~Model() { sw_model_free(address); }
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    sw_model* address;

private:
    void fill() {
        const int queries = family_.num_heads * family_.head_dim, keys = family_.num_kv_heads * family_.head_dim;
        matrix(SW_EMBEDDING, 0, 0, VOCAB, HIDDEN);
        if (!family_.is_tied) matrix(SW_LM_HEAD, 0, 0, VOCAB, HIDDEN);
        vector(SW_FINAL_NORM, 0, HIDDEN);
        for (int layer = 0; layer < LAYERS; ++layer) {
            vector(SW_ATTENTION_NORM, layer, HIDDEN);
            vector(SW_MLP_NORM, layer, HIDDEN);
            if (family_.qk_norm) vector(SW_Q_NORM, layer, family_.head_dim);
            if (family_.qk_norm) vector(SW_K_NORM, layer, family_.head_dim);
            matrix(SW_Q, layer, 0, queries, HIDDEN, family_.has_biases);
            matrix(SW_K, layer, 0, keys, HIDDEN, family_.has_biases);
            matrix(SW_V, layer, 0, keys, HIDDEN, family_.has_biases);
            matrix(SW_O, layer, 0, HIDDEN, queries);
            fill_mlp(layer);
        }
        for (int number = 1; number <= NUM_ADAPTERS; ++number) adapt(number, 5 * number);
    }

    // Beside every matrix but the keys', which are left alone, and the experts'.
    void adapt(int number, int rank) {
        struct Shape { int role, rows, columns; };
        const int queries = family_.num_heads * family_.head_dim, keys = family_.num_kv_heads * family_.head_dim;
        for (int layer = 0; layer < LAYERS; ++layer) {
            std::vector<Shape> shapes = {{SW_Q, queries, HIDDEN}, {SW_V, keys, HIDDEN}, {SW_O, HIDDEN, queries}};
            if (family_.num_experts == 0 || layer > 0)
                shapes.insert(shapes.end(), {{SW_GATE, INNER, HIDDEN}, {SW_UP, INNER, HIDDEN}, {SW_DOWN, HIDDEN, INNER}});
            for (const Shape& s : shapes) {
                const float scale = 1 / std::sqrt(static_cast<float>(s.columns));
                const std::vector<float> a = random_.normals(rank * s.columns, scale), b = random_.normals(s.rows * rank, 0.3f);
                if (sw_model_set_adapter(address, number, s.role, layer, rank, s.rows, s.columns, a.data(), b.data()))
                    stop();
            }
        }
    }

    void fill_mlp(int layer) {
        const bool is_moe = family_.num_experts > 0 && layer == 0;
        const int inner = is_moe ? EXPERT_INNER : INNER;
        const int num_experts = is_moe ? family_.num_experts : 1;
        if (is_moe) set(SW_ROUTER, layer, 0, SW_F32, num_experts, HIDDEN, random_.normals(num_experts * HIDDEN));
        const int num_mlps = is_moe ? num_experts + family_.num_shared_experts : 1;
        for (int expert = 0; expert < num_mlps; ++expert) {
            matrix(SW_GATE, layer, expert, inner, HIDDEN);
            matrix(SW_UP, layer, expert, inner, HIDDEN);
            matrix(SW_DOWN, layer, expert, HIDDEN, inner);
        }
    }

    void vector(int role, int layer, int size) { set(role, layer, 0, SW_F32, 1, size, random_.normals(size, 0.2f, 1)); }

    void matrix(int role, int layer, int expert, int rows, int columns, bool has_bias = false) {
        const float scale = role == SW_EMBEDDING ? 1 : 1.5f / std::sqrt(static_cast<float>(columns));
        set(role, layer, expert, encoding_, rows, columns, random_.normals(rows * columns, scale));
        if (has_bias && sw_model_set_bias(address, role, layer, expert, rows, random_.normals(rows).data())) stop();
    }

    void set(int role, int layer, int expert, int encoding, int rows, int columns, const std::vector<float>& values) {
        const std::vector<uint8_t> data = encode(encoding, rows, columns, values);
        const auto num_bytes = static_cast<int64_t>(data.size());
        if (sw_model_set(address, role, layer, expert, encoding, rows, columns, data.data(), num_bytes)) stop();
    }

    const Family& family_;
    int encoding_;
    Random random_{5};
};

struct Request {
    int slot;
    std::vector<int32_t> prompt, block_ids;
    sw_sampling sampling;
    // What came out of it.
    int num_read = 0;
    std::vector<int32_t> tokens = {};
    std::vector<float> logits = {};
    std::vector<float> beside = {};  // log-probabilities of its prompt, and the pooled vector

    bool is_done() const { return static_cast<int>(tokens.size()) == NUM_NEW; }
};
using Requests = std::vector<Request>;

constexpr sw_bias BIASES[] = {{3, 2.5f}, {330, -INFINITY}};
constexpr uint8_t ALLOWED[VOCAB / 8] = {255, 255, 0, 15, 255, 1, 2, 4, 8, 16, 32, 64, 128, 255};  // ends before the last

// The next tokens of its prompt, at most that many, with themselves as targets; or the one that was sampled last. The
// last request's choices are from a few tokens, with biases.
sw_chunk next_chunk(const Request& request, int chunk_size) {
    const int left = static_cast<int>(request.prompt.size()) - request.num_read;
    const int count = left == 0 ? 1 : std::min(left, chunk_size);
    const int32_t* token_ids = left == 0 ? nullptr : request.prompt.data() + request.num_read;
    sw_chunk chunk = {request.slot, count, count >= left, token_ids, nullptr, nullptr, token_ids,
                      0, 0, left == 0 ? 0 : count};
    if (request.slot != NUM_REQUESTS - 1) return chunk;
    chunk.allowed = ALLOWED;
    chunk.num_allowed = sizeof ALLOWED;
    chunk.biases = BIASES;
    chunk.num_biases = 2;
    return chunk;
}

// Room for what is said beside a chunk's token.
struct Beside {
    std::vector<float> logprobs, top_logprobs, pooled = std::vector<float>(HIDDEN);
    std::vector<int32_t> top_ids;

    Beside(const sw_chunk& chunk, sw_result& result)
        : logprobs(chunk.num_targets), top_logprobs(chunk.num_targets * NUM_TOP), top_ids(chunk.num_targets * NUM_TOP) {
        result.target_logprobs = logprobs.data();
        result.target_top_ids = top_ids.data();
        result.target_top_logprobs = top_logprobs.data();
        result.pooled = pooled.data();
    }
    void add_to(std::vector<float>& values, const sw_result& result) const {
        for (size_t i = 0; i < top_ids.size(); ++i) {
            if (i % NUM_TOP == 0) values.push_back(logprobs[i / NUM_TOP]);
            values.push_back(static_cast<float>(top_ids[i]));
            values.push_back(top_logprobs[i]);
        }
        if (result.is_pooled) values.insert(values.end(), pooled.begin(), pooled.end());
    }
};

Requests make_requests() {
    constexpr sw_sampling WAYS[NUM_REQUESTS] = {
        {0, 1, 0, 0, 0, 0, 1, 0, 1, 0, 0, 0, -1, NUM_TOP, 0, 0, 0, nullptr, nullptr},
        {7, 0.99, 3, 0, 0, 0.9f, 0.95f, 0, 1, 0, 0, 0, -1, NUM_TOP, 0, 0, 0, nullptr, nullptr},
        {~0ull, 1, 0, 0.5, 0.1, 0.7f, 1, 0.02f, 1.2f, 0, 0.3f, 40, -1, NUM_TOP, 0, 0, 2, nullptr, BIASES},
    };
    Random random(11);
    Requests requests;
    for (int i = 0; i < NUM_REQUESTS; ++i) {
        Request request = {i, std::vector<int32_t>(3 + 16 * i), {2 * i + 1, 2 * (i + 1) % 6}, WAYS[i]};
        for (int32_t& token : request.prompt) token = random.below(VOCAB);
        requests.push_back(request);
    }
    return requests;
}

class Runner {
public:
    Runner(const Model& model, int kv_type, int num_threads) {
        const sw_runner_options options = {kv_type, NUM_REQUESTS * BLOCKS_PER_SLOT, num_threads, 128, 1, 0, SW_CHECKS_DEBUG};
        address_ = sw_runner_new(model.address, &options);
        if (!address_) stop();
    }
    ~Runner() { sw_runner_free(address_); }
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;

    // Opens the requests, generates all their tokens in steps that they share, and frees them.
    void generate(Request* requests, int count, int chunk_size) {
        std::vector<sw_opened> opened;
        std::vector<sw_blocks> blocks;
        for (Request* request = requests; request < requests + count; ++request) {
            opened.push_back({request->slot, static_cast<int32_t>(request->prompt.size()), 1,
                              request->slot % (NUM_ADAPTERS + 1), request->slot + 1, request->sampling});
            blocks.push_back({request->slot, BLOCKS_PER_SLOT, request->block_ids.data()});
        }
        step({nullptr, 0, opened.data(), count, blocks.data(), count, nullptr, 0}, {}, 0);
        while (!std::all_of(requests, requests + count, [](const Request& one) { return one.is_done(); })) {
            std::vector<Request*> running;
            for (Request* request = requests; request < requests + count; ++request)
                if (!request->is_done()) running.push_back(request);
            step({}, running, chunk_size);
        }
        step({blocks.data(), count, nullptr, 0, nullptr, 0, nullptr, 0}, {}, 0);
    }

    // A request whose results have no room for what is to be said of its targets.
    bool refuses(const Request& request) {
        const auto length = static_cast<int32_t>(request.prompt.size());
        const sw_opened opened = {request.slot, length, 1, 0, request.slot + 1, request.sampling};
        const sw_blocks blocks = {request.slot, BLOCKS_PER_SLOT, request.block_ids.data()};
        const sw_chunk chunk = next_chunk(request, length);
        const sw_batch batch = {nullptr, 0, &opened, 1, &blocks, 1, &chunk, 1};
        sw_result result{};
        const bool is_refused = sw_step(address_, &batch, &result, nullptr) < 0;
        step({&blocks, 1, nullptr, 0, nullptr, 0, nullptr, 0}, {}, 0);
        return is_refused;
    }

private:
    void step(sw_batch batch, const std::vector<Request*>& running, int chunk_size) {
        std::vector<sw_chunk> chunks;
        for (const Request* request : running) chunks.push_back(next_chunk(*request, chunk_size));
        batch.chunks = chunks.data();
        batch.num_chunks = static_cast<int32_t>(chunks.size());
        std::vector<sw_result> results(chunks.size());
        std::vector<float> logits(chunks.size() * VOCAB);
        std::vector<Beside> beside;
        for (size_t i = 0; i < chunks.size(); ++i) beside.emplace_back(chunks[i], results[i]);
        if (sw_step(address_, &batch, results.data(), logits.data())) stop();
        const float* row = logits.data();
        for (size_t i = 0; i < chunks.size(); ++i) {
            if (chunks[i].token_ids) running[i]->num_read += chunks[i].num_tokens;
            if (results[i].error) stop();
            beside[i].add_to(running[i]->beside, results[i]);
            if (!chunks[i].samples) continue;
            running[i]->tokens.push_back(results[i].token_id);
            running[i]->logits.insert(running[i]->logits.end(), row, row + VOCAB);
            row += VOCAB;
        }
    }

    sw_runner* address_ = nullptr;
};

Requests generate_together(const Model& model, int kv_type) {
    Requests requests = make_requests();
    Runner(model, kv_type, 2).generate(requests.data(), NUM_REQUESTS, 64);
    return requests;
}

Requests generate_alone(const Model& model, int kv_type) {
    Requests requests = make_requests();
    Runner runner(model, kv_type, 1);
    for (Request& request : requests) runner.generate(&request, 1, 13);
    return requests;
}

bool same_answers(const Requests& a, const Requests& b) {
    for (int i = 0; i < NUM_REQUESTS; ++i)
        if (a[i].tokens != b[i].tokens || !same_bits(a[i].logits, b[i].logits) || !same_bits(a[i].beside, b[i].beside))
            return false;
    return true;
}

// How far an answer is from what is expected, until it chooses another token: from there on it has read another text.
struct Distance {
    int num_others = 0;
    double difference = 0, size = 0;

    void add(const Request& ours, const Request& expected) {
        size_t same = 0;
        while (same < expected.tokens.size() && ours.tokens[same] == expected.tokens[same]) ++same;
        num_others += same < expected.tokens.size();
        for (size_t i = 0; i < std::min((same + 1) * VOCAB, expected.logits.size()); ++i) {
            difference += (ours.logits[i] - expected.logits[i]) * (ours.logits[i] - expected.logits[i]);
            size += expected.logits[i] * expected.logits[i];
        }
    }
    double relative() const { return std::sqrt(difference / size); }  // roots of the means of squares
};

struct Outcome {
    Tally tally;
    int num_tokens = 0, num_others = 0;
    uint32_t digest = 2166136261;  // FNV-1a of all tokens
    double worst = 0;

    void add_tokens(const Requests& requests) {
        for (const Request& request : requests)
            for (int32_t token : request.tokens) {
                digest = (digest ^ static_cast<uint32_t>(token)) * 16777619;
                ++num_tokens;
            }
    }
};

// How far a set may be from the scalar one. Where numbers are rounded to 8 bits or to bfloat16, a rounding error of
// float32 may make another of them; and a token at the border of two may then be the other one.
struct Bounds {
    double logits = 1e-5;
    int num_others = 0;  // of the requests' answers
};

// The amx set multiplies rows of prompts in bfloat16, whatever the encoding but F32.
bool has_prompt_products(const std::string& set, int encoding) { return set == "amx" && encoding != SW_F32; }

Bounds bounds_of(const std::string& set, int encoding, int kv_type) {
    if (has_prompt_products(set, encoding)) return {5e-2, NUM_REQUESTS};
    if (encoding != SW_F32 || kv_type != SW_KV_F32) return {2e-2, 1};
    return {};
}

void compare(const Requests& ours, const Requests& expected, const Bounds& bounds, const char* name, Outcome& outcome) {
    Distance distance;
    for (int i = 0; i < NUM_REQUESTS; ++i) distance.add(ours[i], expected[i]);
    const double off = distance.relative();
    outcome.tally.check(off <= bounds.logits, "%s: logits are off by %g", name, off);
    outcome.tally.check(distance.num_others <= bounds.num_others, "%s: other tokens are chosen", name);
    outcome.num_others += distance.num_others;
    outcome.worst = std::max(outcome.worst, off);
    outcome.add_tokens(ours);
}

// The best set is taken as a server takes it: without naming it.
void try_model(const Family& family, int encoding, int kv_type, const Sets& sets, std::vector<Outcome>& outcomes) {
    const std::string label = std::string(family.name) + " " + ENCODING_NAMES[encoding] + ", KV " + KV_NAMES[kv_type];
    const char* name = label.c_str();
    const Requests expected = generate_together(Model(family, encoding, "scalar"), kv_type);
    for (size_t i = 0; i < sets.size(); ++i) {
        const Model model(family, encoding, i == 0 ? nullptr : sets[i].c_str());
        const Requests ours = sets[i] == "scalar" ? expected : generate_together(model, kv_type);
        compare(ours, expected, bounds_of(sets[i], encoding, kv_type), name, outcomes[i]);
        const Requests alone = generate_alone(model, kv_type);
        outcomes[i].tally.check(same_answers(ours, alone), "%s: a request does not get the same bits alone", name);
        const bool is_said = ours[0].beside.size() == ours[0].prompt.size() * (1 + 2 * NUM_TOP) + HIDDEN;
        outcomes[i].tally.check(is_said, "%s: targets or a pooled vector are not there", name);
        const bool refuses = Runner(model, kv_type, 1).refuses(make_requests()[0]);
        outcomes[i].tally.check(refuses, "%s: targets without room are not refused", name);
    }
}

}  // namespace

int main() {
    printf("instruction sets: %s\n", sw_instruction_sets());
    const Sets sets = instruction_sets();
    std::vector<Outcome> outcomes(sets.size());
    for (int family = 0; family < 3; ++family)
        for (int encoding = SW_F32; encoding <= SW_Q4_1; ++encoding)  // each with every type of KV cache
            try_model(FAMILIES[family], encoding, (family + encoding) % 3, sets, outcomes);
    int num_failures = 0;
    for (size_t i = 0; i < sets.size(); ++i) {
        Tally& tally = outcomes[i].tally;
        const int most = outcomes[i].num_tokens / (has_prompt_products(sets[i], SW_Q8) ? 20 : 100);
        tally.check(outcomes[i].num_others <= most, "%s: too many others", sets[i].c_str());
        printf("%s: %d tokens %08x, %d others, logits within %.1e, %d of %d checks failed\n", sets[i].c_str(),
               outcomes[i].num_tokens, outcomes[i].digest, outcomes[i].num_others, outcomes[i].worst,
               tally.num_failures, tally.num_checks);
        num_failures += tally.num_failures;
    }
    return num_failures > 0;
}

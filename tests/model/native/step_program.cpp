// Engine steps of tiny random models through the C ABI, with every instruction set of this processor: all encodings,
// types of KV cache and kinds of model. Each set's tokens must be those of the scalar one and its logits near; and a
// request must get the same bits in company and alone, with two threads and with one, its prompt whole and in chunks.
// Prints the sets, then a line for each; the status is 1 where a check failed.
#include <algorithm>

#include "program.h"

namespace {

constexpr int VOCAB = 331, HIDDEN = 64, INNER = 96, LAYERS = 2, EXPERT_INNER = 32;
constexpr int NUM_REQUESTS = 3, NUM_NEW = 6, BLOCKS_PER_SLOT = 2;

struct Family {
    const char* name;
    int num_heads, num_kv_heads, head_dim, num_experts;
    bool has_biases, is_tied, qk_norm;
};
constexpr Family FAMILIES[] = {
    {"qwen2", 6, 2, 16, 0, true, false, false},
    {"qwen3", 4, 1, 40, 0, false, true, true},  // heads that are no whole number of vectors
    {"qwen3moe", 4, 2, 16, 6, false, false, true},
};

class Model {
public:
    Model(const Family& family, int encoding, const char* isa) : family_(family), encoding_(encoding) {
        std::vector<double> inverse;
        for (int i = 0; i < family.head_dim / 2; ++i) inverse.push_back(1.0 / (1 << i % 12));
        const uint8_t is_moe_layer[LAYERS] = {1, 0};
        const sw_config config = {
            VOCAB, HIDDEN, INNER, LAYERS, family.num_heads, family.num_kv_heads, family.head_dim,
            family.num_experts, 2, EXPERT_INNER, 1, family.qk_norm, 1e-6f, 1, inverse.data(), is_moe_layer};
        address = sw_model_new(&config, isa);
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
    }

    void fill_mlp(int layer) {
        const bool is_moe = family_.num_experts > 0 && layer == 0;
        const int inner = is_moe ? EXPERT_INNER : INNER;
        if (is_moe) set(SW_ROUTER, layer, 0, SW_F32, family_.num_experts, HIDDEN, random_.normals(family_.num_experts * HIDDEN));
        for (int expert = 0; expert < (is_moe ? family_.num_experts : 1); ++expert) {
            matrix(SW_GATE, layer, expert, inner, HIDDEN);
            matrix(SW_UP, layer, expert, inner, HIDDEN);
            matrix(SW_DOWN, layer, expert, HIDDEN, inner);
        }
    }

    void vector(int role, int layer, int size) { set(role, layer, 0, SW_F32, 1, size, random_.normals(size, 0.2f, 1)); }

    void matrix(int role, int layer, int expert, int rows, int columns, bool has_bias = false) {
        const float scale = role == SW_EMBEDDING ? 1 : 1.5f / std::sqrt(static_cast<float>(columns));
        set(role, layer, expert, encoding_, rows, columns, random_.normals(rows * columns, scale));
        if (has_bias) sw_model_set_bias(address, role, layer, expert, rows, random_.normals(rows).data());
    }

    void set(int role, int layer, int expert, int encoding, int rows, int columns, const std::vector<float>& values) {
        const std::vector<uint8_t> data = encode(encoding, rows, columns, values);
        const auto num_bytes = static_cast<int64_t>(data.size());
        if (sw_model_set(address, role, layer, expert, encoding, rows, columns, data.data(), num_bytes))
            printf("%s\n", sw_error());
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
    std::vector<int32_t> tokens;
    std::vector<float> logits;

    bool is_done() const { return static_cast<int>(tokens.size()) == NUM_NEW; }
};

// The next tokens of its prompt, at most that many, or the one that was sampled last.
sw_chunk next_chunk(const Request& request, int chunk_size) {
    const int left = static_cast<int>(request.prompt.size()) - request.num_read;
    if (left == 0) return {request.slot, 1, 1, nullptr};
    const int count = std::min(left, chunk_size);
    return {request.slot, count, count == left, request.prompt.data() + request.num_read};
}

std::vector<Request> make_requests() {
    constexpr sw_sampling WAYS[NUM_REQUESTS] = {
        {0, 0, 1, 0, 1, 0, 0, 0, -1, 0, 0, nullptr},
        {7, 0.9f, 0.95f, 0, 1, 0, 0, 0, -1, 0, 0, nullptr},
        {~0ull, 0.7f, 1, 0.02f, 1.2f, 0, 0.3f, 40, -1, 0, 0, nullptr},
    };
    Random random(11);
    std::vector<Request> requests;
    for (int i = 0; i < NUM_REQUESTS; ++i) {
        Request request = {i, std::vector<int32_t>(5 + 15 * i), {2 * i + 1, 2 * (i + 1) % 6}, WAYS[i]};
        for (int32_t& token : request.prompt) token = random.below(VOCAB);
        requests.push_back(request);
    }
    return requests;
}

class Runner {
public:
    Runner(const Model& model, int kv_type, int num_threads) {
        const sw_runner_options options = {kv_type, NUM_REQUESTS * BLOCKS_PER_SLOT, num_threads, 128, 1, 0};
        address_ = sw_runner_new(model.address, &options);
    }
    ~Runner() { sw_runner_free(address_); }
    Runner(const Runner&) = delete;
    Runner& operator=(const Runner&) = delete;

    // Opens the requests, generates all their tokens in steps that they share, and frees them. False: a step failed.
    bool generate(Request* requests, int count, int chunk_size) {
        std::vector<sw_opened> opened;
        std::vector<sw_blocks> blocks;
        for (Request* request = requests; request < requests + count; ++request) {
            opened.push_back({request->slot, static_cast<int32_t>(request->prompt.size()), request->sampling});
            blocks.push_back({request->slot, BLOCKS_PER_SLOT, request->block_ids.data()});
        }
        bool works = step({nullptr, 0, opened.data(), count, blocks.data(), count, nullptr, 0}, {}, 0);
        while (works && !std::all_of(requests, requests + count, [](const Request& one) { return one.is_done(); })) {
            std::vector<Request*> running;
            for (Request* request = requests; request < requests + count; ++request)
                if (!request->is_done()) running.push_back(request);
            works = step({}, running, chunk_size);
        }
        return works && step({blocks.data(), count, nullptr, 0, nullptr, 0, nullptr, 0}, {}, 0);
    }

private:
    bool step(sw_batch batch, const std::vector<Request*>& running, int chunk_size) {
        std::vector<sw_chunk> chunks;
        for (const Request* request : running) chunks.push_back(next_chunk(*request, chunk_size));
        batch.chunks = chunks.data();
        batch.num_chunks = static_cast<int32_t>(chunks.size());
        std::vector<sw_result> results(chunks.size());
        std::vector<float> logits(chunks.size() * VOCAB);
        if (sw_step(address_, &batch, results.data(), logits.data())) return false;
        const float* row = logits.data();
        for (size_t i = 0; i < chunks.size(); ++i) {
            if (chunks[i].token_ids) running[i]->num_read += chunks[i].num_tokens;
            if (!chunks[i].samples) continue;
            running[i]->tokens.push_back(results[i].token_id);
            running[i]->logits.insert(running[i]->logits.end(), row, row + VOCAB);
            row += VOCAB;
        }
        return true;
    }

    sw_runner* address_ = nullptr;
};

struct Answer {
    std::vector<int32_t> tokens;
    std::vector<float> logits;
};

Answer join(const std::vector<Request>& requests) {
    Answer answer;
    for (const Request& request : requests) {
        answer.tokens.insert(answer.tokens.end(), request.tokens.begin(), request.tokens.end());
        answer.logits.insert(answer.logits.end(), request.logits.begin(), request.logits.end());
    }
    return answer;
}

Answer generate_together(const Model& model, int kv_type) {
    std::vector<Request> requests = make_requests();
    if (!Runner(model, kv_type, 2).generate(requests.data(), NUM_REQUESTS, 64)) printf("%s\n", sw_error());
    return join(requests);
}

Answer generate_alone(const Model& model, int kv_type) {
    std::vector<Request> requests = make_requests();
    Runner runner(model, kv_type, 1);
    for (Request& request : requests)
        if (!runner.generate(&request, 1, 13)) printf("%s\n", sw_error());
    return join(requests);
}

// The root of the mean square of the differences, in units of that of the logits.
double distance(const std::vector<float>& a, const std::vector<float>& b) {
    if (a.size() != b.size()) return INFINITY;
    double difference = 0, size = 0;
    for (size_t i = 0; i < a.size(); ++i) {
        difference += (a[i] - b[i]) * (a[i] - b[i]);
        size += b[i] * b[i];
    }
    return std::sqrt(difference / size);
}

// What a rounding error of the one may become: where numbers are rounded to 8 bits, another of them may be taken.
double tolerance(int encoding, int kv_type) { return encoding == SW_F32 && kv_type == SW_KV_F32 ? 1e-5 : 1e-2; }

struct Outcome {
    Tally tally;
    int num_models = 0;
    uint32_t digest = 2166136261;  // FNV-1a of all tokens
    double worst = 0;

    void add_tokens(const std::vector<int32_t>& tokens) {
        for (int32_t token : tokens) digest = (digest ^ static_cast<uint32_t>(token)) * 16777619;
    }
};

void try_model(const Family& family, int encoding, int kv_type, const char* isa, Outcome& outcome) {
    const Answer expected = generate_together(Model(family, encoding, "scalar"), kv_type);
    const Model model(family, encoding, isa);
    const Answer ours = generate_together(model, kv_type), alone = generate_alone(model, kv_type);
    const double off = distance(ours.logits, expected.logits);
    const char *e = ENCODING_NAMES[encoding], *k = KV_NAMES[kv_type];
    outcome.tally.check(ours.tokens.size() == NUM_REQUESTS * NUM_NEW, "%s %s, KV %s: no answer", family.name, e, k);
    outcome.tally.check(ours.tokens == expected.tokens, "%s %s, KV %s: other tokens", family.name, e, k);
    outcome.tally.check(off <= tolerance(encoding, kv_type), "%s %s, KV %s: logits are off by %g", family.name, e, k, off);
    outcome.tally.check(ours.tokens == alone.tokens && same_bits(ours.logits, alone.logits),
                        "%s %s, KV %s: a request does not get the same bits alone", family.name, e, k);
    outcome.add_tokens(ours.tokens);
    outcome.worst = std::max(outcome.worst, off);
    ++outcome.num_models;
}

// The best set is taken as a server takes it: without naming it.
Outcome try_set(const std::string& name, bool is_best) {
    Outcome outcome;
    for (int family = 0; family < 3; ++family)
        for (int encoding = SW_F32; encoding <= SW_Q4_1; ++encoding)  // every pair of two is among them
            try_model(FAMILIES[family], encoding, (family + encoding) % 3, is_best ? nullptr : name.c_str(), outcome);
    return outcome;
}

}  // namespace

int main() {
    const std::vector<std::string> sets = instruction_sets();
    printf("instruction sets: %s\n", sw_instruction_sets());
    int num_failures = 0;
    for (const std::string& name : sets) {
        const Outcome outcome = try_set(name, name == sets[0]);
        printf("%s: %d models, tokens %08x, logits within %.1e, %d of %d checks failed\n", name.c_str(),
               outcome.num_models, outcome.digest, outcome.worst, outcome.tally.num_failures, outcome.tally.num_checks);
        num_failures += outcome.tally.num_failures;
    }
    return num_failures > 0;
}

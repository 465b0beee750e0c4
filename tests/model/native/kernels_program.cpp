// The kernels of every instruction set of this processor against the scalar twins, over odd shapes and rows: what
// test_matmul.py, test_rows.py, test_attention.py, test_sampling.py and test_filters.py do, in short, for processors that
// are only emulated. Prints the sets, then a line for each; the status is 1 where a check failed.
#include <algorithm>
#include <limits>

#include "kernels.h"
#include "program.h"

using namespace slotwise;

// Of testing*.cpp, which say what they do.
SW_API int sw_test_rms_norm(const char* isa, const float* x, const float* weight, float eps, int n, float* out);
SW_API int sw_test_quantize(const char* isa, const float* x, int n, int8_t* q, float* scale, int32_t* sum);
SW_API int sw_test_to_bf16(const char* isa, const float* x, int n, uint16_t* out);
SW_API int sw_test_silu_mul(const char* isa, const float* gate, const float* up, int n, float* out);
SW_API int sw_test_rotate(const char* isa, float* x, const float* cosine, const float* sine, int head_dim);
SW_API int sw_test_write_kv(const char* isa, int type, int head_dim, const float* key, const float* value, int offset,
                            uint8_t* block);
SW_API int sw_test_attend(const char* isa, const AttentionWork* work);
SW_API int64_t sw_test_attention_scratch(int num_tokens, int group_heads, int head_dim, int num_positions);
SW_API int64_t sw_test_kv_part_bytes(int type, int head_dim);
SW_API int sw_test_matmul(const char* isa, int encoding, int32_t n, int32_t k, const void* weights, const float* bias,
                          const float* x, int rows, int num_generated, const int32_t* row_ids, int m, int first_panel,
                          int num_panels, float* out, int64_t stride, int adds);
SW_API int sw_test_sample(const char* isa, const SamplingWork* work, Sampled* result);
SW_API int sw_test_report(const char* isa, const SamplingWork* work, Sampled* result);

namespace {

constexpr const char* SCALAR = "scalar";
constexpr float NOT_A_NUMBER = std::numeric_limits<float>::quiet_NaN();
using Floats = std::vector<float>;

bool near(const Floats& a, const Floats& b, double relative, double absolute) {
    for (size_t i = 0; i < a.size(); ++i)
        if (!(std::fabs(double(a[i]) - b[i]) <= absolute + relative * std::fabs(double(b[i])))) return false;
    return a.size() == b.size();
}

// ---- Matrix products ----

struct Product {
    int encoding, rows, columns;
    std::vector<uint8_t> weights;
    Floats values, bias;

    Product(int encoding, int rows, int columns)
        : encoding(encoding), rows(rows), columns(columns), values(Random(rows).normals(rows * columns)),
          bias(Random(7).normals(rows)) {
        weights = encode(encoding, rows, columns, values);
    }
    int stride() const { return (rows + PANEL - 1) / PANEL * PANEL; }

    // Rows from `first` on of x, all of one kind, added to what is there: 0.5.
    Floats compute(const char* isa, const Floats& x, int first = 0, bool are_prompts = false) const {
        const int count = static_cast<int>(x.size()) / columns - first;
        Floats out(count * stride(), 0.5f);
        sw_test_matmul(isa, encoding, rows, columns, weights.data(), bias.data(), &x[first * columns], count,
                       are_prompts ? 0 : count, nullptr, count, 0, stride() / PANEL, out.data(), stride(), 1);
        return out;
    }
    bool is_near(const Floats& a, const Floats& b, const Floats& x) const {
        for (size_t i = 0; i < a.size(); ++i) {
            double size = 1;  // an error is measured by the terms of the sum
            const size_t row = i / stride(), column = i % stride();
            for (int k = 0; column < size_t(rows) && k < columns; ++k)
                size += std::fabs(double(x[row * columns + k]) * values[column * columns + k]);
            if (!(std::fabs(double(a[i]) - b[i]) <= 1e-5 * size)) return false;
        }
        return true;
    }
};

// With a zero row, a tiny one, a huge one, one of subnormal numbers and one with an outlier.
Floats rows_of_all_sizes(int count, int columns) {
    constexpr float FACTORS[] = {1, 0, 1e-30f, 1e30f, 1e-40f, 8};
    Floats x = Random(count).normals(count * columns);
    for (int i = 0; i < count * columns; ++i) x[i] *= FACTORS[i / columns % 6];
    x[columns / 2] = 300;
    return x;
}

void try_product(const char* isa, const Product& product, int count, Tally& tally) {
    const Floats x = rows_of_all_sizes(count, product.columns);
    const Floats ours = product.compute(isa, x), expected = product.compute(SCALAR, x);
    const bool is_exact = product.encoding >= SW_Q8;
    tally.check(is_exact ? same_bits(ours, expected) : product.is_near(ours, expected, x), "matmul %s %d x %d, %d rows",
                ENCODING_NAMES[product.encoding], product.rows, product.columns, count);
    for (bool are_prompts : {false, true}) {
        const Floats whole = product.compute(isa, x, 0, are_prompts);
        const Floats last = product.compute(isa, x, count - 1, are_prompts);
        tally.check(std::equal(last.begin(), last.end(), whole.end() - product.stride()),
                    "matmul %s %d x %d: row %d alone%s", ENCODING_NAMES[product.encoding], product.rows,
                    product.columns, count - 1, are_prompts ? ", of a prompt" : "");
    }
}

// Every code and every activation at its end: sums of pairs would not fit 16 bits.
void try_largest_codes(const char* isa, int encoding, Tally& tally) {
    Product product(encoding, 16, 512);
    const int block_bytes = static_cast<int>(product.weights.size()) / 16 / (512 / GROUP);
    for (size_t i = 0; i < product.weights.size(); ++i)
        if (i % block_bytes >= (encoding == SW_Q4_1 ? 4 : 2)) product.weights[i] = encoding == SW_Q8 ? 0x80 : 0xff;
    for (float sign : {1.0f, -1.0f}) {
        const Floats x(3 * 512, 127 * sign);
        tally.check(same_bits(product.compute(isa, x), product.compute(SCALAR, x)), "matmul %s: the largest codes",
                    ENCODING_NAMES[encoding]);
    }
}

void try_matmul(const char* isa, Tally& tally) {
    constexpr int SHAPES[][2] = {{16, 32}, {33, 96}, {1, 64}, {150, 160}};
    for (int encoding = SW_F32; encoding <= SW_Q4_1; ++encoding) {
        for (const auto& shape : SHAPES) {
            const Product product(encoding, shape[0], shape[1]);
            for (int count : {1, 2, 3, 4, 5, 7, 8, 9, 16, 21}) try_product(isa, product, count, tally);
        }
        if (encoding >= SW_Q8) try_largest_codes(isa, encoding, tally);
    }
}

// ---- What is computed row by row ----

// AMX has a layout of its own for some caches (kernels.h), and takes numbers as bfloat16 there.
bool has_pairs(const char* isa, int kv_type, int head_dim) {
    return !strcmp(isa, "amx") && kv_type == SW_KV_BF16 && head_dim % 32 == 0;
}

struct Quantized {
    std::vector<int8_t> q;
    std::vector<int32_t> sums;
    Floats scales;

    Quantized(const char* isa, const Floats& x) : q(x.size()), sums(x.size() / GROUP), scales(x.size() / GROUP) {
        sw_test_quantize(isa, x.data(), static_cast<int>(x.size()), q.data(), scales.data(), sums.data());
        for (float& scale : scales)
            if (std::isnan(scale)) scale = NOT_A_NUMBER;  // whatever its sign
    }
    bool operator==(const Quantized& other) const {
        return q == other.q && sums == other.sums && same_bits(scales, other.scales);
    }
};

// Halves, to be rounded to even; and groups with what is not finite.
Floats row_to_quantize() {
    Floats x = rows_of_all_sizes(6, 2 * GROUP);
    for (int i = 0; i < GROUP; ++i) x[i] = static_cast<float>(i) - 15.5f;
    x[0] = 127;
    x[2 * GROUP + 5] = NOT_A_NUMBER;
    x[8 * GROUP + 31] = -INFINITY;
    return x;
}

using RowKernel = int (*)(const char*, const float*, const float*, int, float*);
int rms_norm(const char* isa, const float* x, const float* weight, int n, float* out) {
    return sw_test_rms_norm(isa, x, weight, 1e-5f, n, out);
}

void compare_rows(const char* name, RowKernel kernel, const char* isa, const Floats& x, const Floats& y, Tally& tally) {
    const int n = static_cast<int>(x.size());
    Floats ours(n + 1, 7), expected(n + 1, 7);  // what follows must stay
    kernel(isa, x.data(), y.data(), n, ours.data());
    kernel(SCALAR, x.data(), y.data(), n, expected.data());
    tally.check(near(ours, expected, 3e-6, 1e-30), "%s of %d", name, n);
}

void try_rounding(const char* isa, const Floats& x, Tally& tally) {
    std::vector<uint16_t> ours(x.size() + 1, 7), expected(x.size() + 1, 7);
    sw_test_to_bf16(isa, x.data(), static_cast<int>(x.size()), ours.data());
    sw_test_to_bf16(SCALAR, x.data(), static_cast<int>(x.size()), expected.data());
    tally.check(same_bits(ours, expected), "to_bf16 of %zu", x.size());
}

void try_head(const char* isa, int head_dim, Tally& tally) {
    Random random(head_dim);
    const Floats x = random.normals(head_dim), y = random.normals(head_dim), angles = random.normals(head_dim);
    Floats ours = x, expected = x;
    sw_test_rotate(isa, ours.data(), angles.data(), angles.data() + head_dim / 2, head_dim);
    sw_test_rotate(SCALAR, expected.data(), angles.data(), angles.data() + head_dim / 2, head_dim);
    tally.check(same_bits(ours, expected), "rotate, head size %d", head_dim);
    for (int type = SW_KV_F32; type <= SW_KV_INT8; ++type) {
        std::vector<uint8_t> here(sw_test_kv_part_bytes(type, head_dim), 0xff), there = here;
        for (int offset : {0, 13, 31}) {
            sw_test_write_kv(isa, type, head_dim, x.data(), y.data(), offset, here.data());
            sw_test_write_kv(SCALAR, type, head_dim, x.data(), y.data(), offset, there.data());
        }
        const bool may_differ = has_pairs(isa, type, head_dim);
        tally.check(may_differ || here == there, "write_kv %s, head size %d", KV_NAMES[type], head_dim);
    }
}

void try_rows(const char* isa, Tally& tally) {
    tally.check(Quantized(isa, row_to_quantize()) == Quantized(SCALAR, row_to_quantize()), "quantize");
    for (int n : {1, 2, 3, 7, 8, 15, 16, 17, 33, 100, 577})
        for (float scale : {1e-41f, 1e-30f, 1.0f, 10.0f, 1e6f}) {
            Random random(n);
            const Floats x = random.normals(n, scale), y = random.normals(n);
            compare_rows("rms_norm", rms_norm, isa, x, y, tally);
            compare_rows("silu_mul", sw_test_silu_mul, isa, x, y, tally);
            try_rounding(isa, x, tally);
        }
    for (int head_dim : {8, 24, 64, 72, 80, 96, 128, 256}) try_head(isa, head_dim, tally);
}

// ---- Attention ----

// A slot's keys and values in blocks that lie in another order; what was not written is NaN.
struct Cache {
    const char* isa;
    int type, head_dim;
    std::vector<uint8_t> memory;
    std::vector<const uint8_t*> blocks;

    Cache(const char* isa, int type, int head_dim, int num_positions) : isa(isa), type(type), head_dim(head_dim) {
        const int64_t num_blocks = (num_positions + BLOCK - 1) / BLOCK, bytes = sw_test_kv_part_bytes(type, head_dim);
        memory.assign(num_blocks * bytes, 0xff);
        for (int64_t i = num_blocks - 1; i >= 0; --i) blocks.push_back(memory.data() + i * bytes);
        Random random(3);
        for (int position = 0; position < num_positions; ++position)
            write(position, random.normals(head_dim), random.normals(head_dim));
    }

    void write(int position, const Floats& key, const Floats& value) {
        uint8_t* block = const_cast<uint8_t*>(blocks[position / BLOCK]);
        sw_test_write_kv(isa, type, head_dim, key.data(), value.data(), position % BLOCK, block);
    }

    // Of queries [T, G, D], the first at that position; in chunks of so many tokens.
    Floats attend(const Floats& queries, int group_heads, int first_position, int chunk_size) const {
        const int stride = group_heads * head_dim, num_tokens = static_cast<int>(queries.size()) / stride;
        Floats out(queries.size(), 7);
        for (int t = 0; t < num_tokens; t += chunk_size) {
            const int count = std::min(chunk_size, num_tokens - t), first = first_position + t;
            Floats scratch(sw_test_attention_scratch(count, group_heads, head_dim, first + count), NOT_A_NUMBER);
            const float scale = 1 / std::sqrt(static_cast<float>(head_dim));
            const AttentionWork work = {KVType(type), head_dim, group_heads, count, first, &queries[t * stride], stride,
                                        &out[t * stride], stride, blocks.data(), scale, scratch.data()};
            sw_test_attend(isa, &work);
        }
        return out;
    }
};

struct Queries { int first, num_tokens, heads; };

void try_attend_one(const char* isa, const Queries& shape, int head_dim, int type, Tally& tally) {
    const auto& [first, num_tokens, heads] = shape;
    const Cache cache(isa, type, head_dim, first + num_tokens), scalar(SCALAR, type, head_dim, first + num_tokens);
    const Floats queries = Random(9).normals(num_tokens * heads * head_dim, 2);
    const Floats ours = cache.attend(queries, heads, first, num_tokens);
    const double tolerance = has_pairs(isa, type, head_dim) ? 0.05 : 1e-5;
    tally.check(near(ours, scalar.attend(queries, heads, first, num_tokens), tolerance, tolerance),
                "attend %s: %d tokens at %d, %d heads of %d", KV_NAMES[type], num_tokens, first, heads, head_dim);
    for (int chunk : {1, 3, 8})
        tally.check(same_bits(cache.attend(queries, heads, first, chunk), ours),
                    "attend %s: chunks of %d of %d tokens at %d, %d heads of %d", KV_NAMES[type], chunk, num_tokens,
                    first, heads, head_dim);
}

void try_attend(const char* isa, Tally& tally) {
    constexpr Queries SHAPES[] = {{0, 1, 1}, {31, 1, 7}, {299, 1, 3}, {5, 7, 3}, {17, 39, 2}};
    for (const Queries& shape : SHAPES)
        for (int head_dim : {64, 72, 80, 96, 128})
            for (int type = SW_KV_F32; type <= SW_KV_INT8; ++type) try_attend_one(isa, shape, head_dim, type, tally);
}

// ---- Sampling ----

struct Choice {
    Sampled sampled{};
    std::vector<int32_t> ids = std::vector<int32_t>(8, -1);
    Floats logprobs = Floats(8, 0);

    Choice() = default;
    Choice(const char* isa, const SamplingWork& work) {
        sampled.top_ids = ids.data();
        sampled.top_logprobs = logprobs.data();
        sw_test_sample(isa, &work, &sampled);
    }
};

// The reports of a token that nothing has chosen.
Choice report_of(const char* isa, SamplingWork work, int32_t token_id) {
    Choice report;
    work.num_logprobs = std::max(work.num_logprobs, 0);
    report.sampled = {token_id, 0, 0, 0, report.ids.data(), report.logprobs.data()};
    sw_test_report(isa, &work, &report.sampled);
    return report;
}

// Some of the tokens, or half of them and none behind; in memory that ends where it must.
std::vector<uint8_t> random_mask(Random& random, int vocab_size) {
    std::vector<uint8_t> mask((vocab_size + 7) / 8 / random.one_of({1, 1, 2}));
    for (uint8_t& byte : mask) byte = random.one_of<uint8_t>({0, 0, 255, 0x5a});
    return mask;
}

struct Edits {
    std::vector<uint8_t> allowed;
    std::vector<sw_bias> biases;
};

SamplingWork random_work(Random& random, const Floats& logits, Floats& weights, const std::vector<int32_t>& seen,
                         const Edits& edits) {
    const int vocab_size = static_cast<int>(logits.size());
    const bool has_mask = random.below(3) == 0;
    const auto num_allowed = static_cast<int32_t>(edits.allowed.size());
    const auto num_biases = static_cast<int32_t>(edits.biases.size());
    return {logits.data(), weights.data(), vocab_size,
            random.one_of({0.0f, 0.1f, 0.7f, 1.0f, 2.0f}),
            random.one_of({1.0f, 1.0f, 0.0f, 0.3f, 0.95f, 0.999f}),
            random.one_of({0.0f, 0.0f, 0.05f, 1.0f}),
            random.one_of({1.0f, 1.3f, 0.8f}), random.one_of({0.0f, 0.5f}), random.one_of({0.0f, 0.25f}),
            random.one_of({0, 0, 1, 5, 50, 400}), random.one_of({-1, 0, 5, 8}),
            random.one_of({1.0, 1.0, 1.0, 0.2, 0.9}), random.one_of({0.0, 0.0, 0.3, 2.0}),
            random.one_of({0.0, 0.0, 0.5, 1.0}), random.one_of({0.0, 1e-6, 0.01, 0.1}),
            random.bits(), random.bits(), seen.data(), 1,
            num_allowed, has_mask ? edits.allowed.data() : nullptr,
            {{edits.biases.data(), num_biases}, {edits.biases.data(), random.below(num_biases + 1)}},
            seen.data(), seen.data() + 8, 8};
}

// The tokens may differ where the last bits of weights in float32 decide: seldom.
void try_sample(const char* isa, Tally& tally) {
    for (int vocab_size : {1, 2, 63, 1000, 6400, 49152}) {
        const int num_cases = vocab_size > 6400 ? 8 : 60;
        int num_others = 0;
        Random random(vocab_size);
        for (int i = 0; i < num_cases; ++i) {
            Floats logits = random.normals(vocab_size, random.one_of({0.5f, 3.0f, 8.0f})), weights(vocab_size);
            std::vector<int32_t> seen;  // ids, then how often
            for (int j = 0; j < 8; ++j) seen.push_back(j * vocab_size / 8 % vocab_size);
            for (int j = 0; j < 8; ++j) seen.push_back(random.below(3));
            if (i % 20 == 19) logits[vocab_size / 2] = NOT_A_NUMBER;
            Edits edits = {random_mask(random, vocab_size), std::vector<sw_bias>(random.below(3))};
            for (sw_bias& bias : edits.biases) bias = {random.below(vocab_size), random.normal() * 5};
            const SamplingWork work = random_work(random, logits, weights, seen, edits);
            const Choice ours(isa, work), expected(SCALAR, work);
            const bool same_token = ours.sampled.token_id == expected.sampled.token_id;
            num_others += !same_token;
            tally.check(ours.sampled.error == expected.sampled.error && ours.ids == expected.ids &&
                            near(ours.logprobs, expected.logprobs, 1e-6, 1e-6) &&
                            (!same_token || near({ours.sampled.logprob}, {expected.sampled.logprob}, 1e-6, 1e-6)),
                        "sample of %d, case %d: another report", vocab_size, i);
            const Choice one = report_of(isa, work, random.below(vocab_size));
            const Choice other = report_of(SCALAR, work, one.sampled.token_id);
            tally.check(one.sampled.error == other.sampled.error && one.ids == other.ids &&
                            near(one.logprobs, other.logprobs, 1e-6, 1e-6) &&
                            near({one.sampled.logprob}, {other.sampled.logprob}, 1e-6, 1e-6),
                        "report of %d, case %d: another", vocab_size, i);
        }
        tally.check(num_others <= num_cases / 50, "sample of %d: %d other tokens", vocab_size, num_others);
    }
}

}  // namespace

int main() {
    printf("instruction sets: %s\n", sw_instruction_sets());
    int num_failures = 0;
    for (const std::string& isa : instruction_sets()) {
        Tally tally;
        for (auto* attempt : {try_matmul, try_rows, try_attend, try_sample}) attempt(isa.c_str(), tally);
        printf("%s: %d of %d checks failed\n", isa.c_str(), tally.num_failures, tally.num_checks);
        num_failures += tally.num_failures;
    }
    return num_failures > 0;
}

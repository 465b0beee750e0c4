// How the next token is chosen: the rule of model/torch_backend/sampling.py without a sort of the vocabulary. A row is
// cut into at most 256 blocks, of which maxima and sums are kept, so that most of what follows reads few of them. Sums
// are float64, in 16 lanes within a block and then block after block, whatever the vector's width: every instruction
// set adds in the same order, and so does a row whatever comes with it.
#pragma once
#include <float.h>
#include <math.h>

#include "kernels.h"
#include "lanes.h"
#include "philox.h"
#include "slotwise.h"

namespace slotwise::scalar {
extern const Kernels kernels;
}

namespace slotwise::SLOTWISE_ISA {
namespace sampling {

constexpr int STEP = 16;  // floats that one turn of a loop takes
constexpr int MAX_BLOCKS = 256;
constexpr int ROOM = 8192;  // candidates that are copied out of the row

// Weights are 0 … 1, and so their bits, as integers, have the same order.
constexpr int32_t ABOVE_ONE = 0x3f800001;
constexpr int32_t HALF_OCTAVE = 1 << 22;

SW_INLINE int32_t bits_of(float x) { int32_t bits; memcpy(&bits, &x, sizeof bits); return bits; }
SW_INLINE float float_of(int32_t bits) { float x; memcpy(&x, &bits, sizeof x); return x; }
SW_INLINE int smaller(int a, int b) { return a < b ? a : b; }

// ---- Sixteen floats at a time ----

// Half a vector of floats in float64.
typedef double D __attribute__((vector_size(4 * W)));
#if defined(__AVX512F__)
SW_INLINE D widen(const float* p) { return (D)_mm512_cvtps_pd(_mm256_loadu_ps(p)); }
#elif defined(__AVX2__)
SW_INLINE D widen(const float* p) { return (D)_mm256_cvtps_pd(_mm_loadu_ps(p)); }
#else
SW_INLINE D widen(const float* p) { return D{p[0], p[1]}; }
#endif

// The lanes of `values` where `mask` is set, side by side at `out`, which has room for all; returns how many.
#if defined(__AVX512F__)
SW_INLINE int keep(float* out, V values, I mask) {
    const __mmask16 lanes = _mm512_movepi32_mask((__m512i)mask);
    _mm512_storeu_ps(out, _mm512_maskz_compress_ps(lanes, (__m512)values));
    return __builtin_popcount(lanes);
}
#else
SW_INLINE int keep(float* out, V values, I mask) {
    int num_kept = 0;
    for (int i = 0; i < W; ++i) {
        out[num_kept] = values[i];
        num_kept -= mask[i];
    }
    return num_kept;
}
#endif

// visit(p) for every 16 floats; what the last ones lack is filled up.
template <class Visit>
SW_INLINE void each_step(const float* values, int n, float fill, Visit visit) {
    int i = 0;
    for (; i + STEP <= n; i += STEP) visit(values + i);
    if (i == n) return;
    float last[STEP];
    for (int j = 0; j < STEP; ++j) last[j] = fill;
    memcpy(last, values + i, sizeof(float) * (n - i));
    visit(last);
}

constexpr int PARTS = STEP / (W / 2);
struct Lanes { D parts[PARTS]; };

SW_INLINE double total(const Lanes& lanes) {
    double values[STEP];
    memcpy(values, &lanes, sizeof values);
    for (int n = STEP / 2; n; n /= 2)
        for (int i = 0; i < n; ++i) values[i] += values[i + n];
    return values[0];
}

// Adds up the values of 16 that are at least `least`; or COUNTS them.
template <bool COUNTS>
SW_INLINE void add(Lanes& lanes, const float* p, float least) {
    for (int i = 0; i < PARTS; ++i) {
        const D values = widen(p + i * (W / 2)), amount = COUNTS ? 1 - D{} : values;
        lanes.parts[i] = values >= double(least) - D{} ? lanes.parts[i] + amount : lanes.parts[i];
    }
}

// ---- A row and its blocks ----

struct Row {
    const float* values;
    int size, block_size, num_blocks;
    float maxima[MAX_BLOCKS];
    double sums[MAX_BLOCKS];
};

SW_INLINE void set_values(Row& row, const float* values, int size) {
    row.values = values;
    row.size = size;
    row.block_size = (size + MAX_BLOCKS * STEP - 1) / (MAX_BLOCKS * STEP) * STEP;
    row.num_blocks = (size + row.block_size - 1) / row.block_size;
}

SW_INLINE const float* block_values(const Row& row, int block) { return row.values + int64_t(block) * row.block_size; }
SW_INLINE int block_length(const Row& row, int block) {
    return smaller(row.block_size, row.size - block * row.block_size);
}

// The first index of the largest; what it is in a row with NaN does not matter.
static int largest_index(const float* values, int n) {
    int largest = 0;
    for (int i = 1; i < n; ++i)
        if (values[i] > values[largest]) largest = i;
    return largest;
}

SW_INLINE int largest_id(const Row& row) {
    const int block = largest_index(row.maxima, row.num_blocks);
    return block * row.block_size + largest_index(block_values(row, block), block_length(row, block));
}

// Takes the maxima of the logits; false where there is a NaN, or no finite maximum.
static bool scan_logits(Row& row, const float* logits, int size) {
    set_values(row, logits, size);
    I is_nan{};
    for (int block = 0; block < row.num_blocks; ++block) {
        V largest = all(-INFINITY);
        each_step(block_values(row, block), block_length(row, block), -INFINITY, [&](const float* p) {
            for (int i = 0; i < STEP; i += W) {
                const V x = load(p + i);
                largest = max(largest, x);
                is_nan |= (I)(x != x);
            }
        });
        row.maxima[block] = max(largest);
    }
    const float largest = row.maxima[largest_index(row.maxima, row.num_blocks)];
    return max(as_float(is_nan & 0x3f800000)) == 0 && fabsf(largest) <= FLT_MAX;
}

// ---- Weights ----

// exp((x - largest) / temperature).
struct Softmax {
    float largest, temperature, reciprocal;
};

// a / b, rounded as a division is: Markstein's correction of a product with 1 / b, in a quarter of a division's time.
// It is left out where it could be infinite; the exponential of that is 0 anyway.
SW_INLINE V quotient(V a, float b, float reciprocal) {
    const V near = a * reciprocal;
    const V exact = fma(fma(-near, all(b), a), all(reciprocal), near);
    return near < -1000 ? near : exact;
}

SW_INLINE V weight_of(V logits, const Softmax& softmax) {
    return exp(quotient(logits - softmax.largest, softmax.temperature, softmax.reciprocal));
}

// Weights of a block of logits, maybe in place; returns the largest.
static float exponentials(const float* logits, int n, const Softmax& softmax, float* weights) {
    V largest{};
    int i = 0;
    for (; i + W <= n; i += W) {
        const V weight = weight_of(load(logits + i), softmax);
        store(weights + i, weight);
        largest = max(largest, weight);
    }
    if (i == n) return max(largest);
    V last = all(-INFINITY);
    memcpy(&last, logits + i, sizeof(float) * (n - i));
    last = weight_of(last, softmax);
    memcpy(weights + i, &last, sizeof(float) * (n - i));
    return max(max(largest, last));
}

static double sum_of_block(const Row& row, int block, float least) {
    Lanes lanes{};
    const int length = block_length(row, block);
    each_step(block_values(row, block), length, 0, [&](const float* p) { add<false>(lanes, p, least); });
    return total(lanes);
}

// Weights of logits, maybe in place, their maxima and sums; returns their sum.
static double weigh(const float* logits, int size, float largest, float temperature, float* weights, Row& row) {
    set_values(row, weights, size);
    const Softmax softmax = {largest, temperature, 1 / temperature};
    double whole = 0;
    for (int block = 0; block < row.num_blocks; ++block) {
        const int64_t first = int64_t(block) * row.block_size;
        row.maxima[block] = exponentials(logits + first, block_length(row, block), softmax, weights + first);
        row.sums[block] = sum_of_block(row, block, 0);
        whole += row.sums[block];
    }
    return whole;
}

// Leaves weights below `least` out of the sums; returns what is left.
static double sum_from(Row& row, float least) {
    double whole = 0;
    for (int block = 0; block < row.num_blocks; ++block) {
        row.sums[block] = row.maxima[block] < least ? 0 : sum_of_block(row, block, least);
        whole += row.sums[block];
    }
    return whole;
}

// ---- The least weight that top_k and top_p keep ----

// The weight that is looked for has bits in [low, high): those that reach `high` do not add up to the goal.
struct Bracket {
    int32_t low, high;
    double above;  // what those reach
};

// Three thresholds that cut the bracket into quarters, or into fewer where it is less than four wide.
struct Cuts { int32_t at[3]; };

SW_INLINE Cuts quarters(const Bracket& bracket) {
    const int64_t width = bracket.high - bracket.low;
    Cuts cuts;
    for (int i = 0; i < 3; ++i) cuts.at[i] = bracket.low + int32_t(width * (i + 1) / 4);
    return cuts;
}

// Narrows the bracket, given what the weights reach that are at least each cut.
SW_INLINE void narrow(Bracket& bracket, const Cuts& cuts, const double (&reached)[3], double goal) {
    for (int i = 0; i < 3; ++i) {
        if (reached[i] < goal) {
            bracket.high = cuts.at[i];
            bracket.above = reached[i];
            return;
        }
        bracket.low = cuts.at[i];
    }
}

template <bool COUNTS>
SW_INLINE void add(Lanes (&lanes)[3], const float* values, int n, const Cuts& cuts) {
    each_step(values, n, 0, [&](const float* p) {
        for (int i = 0; i < 3; ++i) add<COUNTS>(lanes[i], p, float_of(cuts.at[i]));
    });
}

// Those of n values that are in the bracket, side by side at `out`, which has room for 16 more and may be the same
// place; returns how many.
static int gather(const float* values, int n, const Bracket& bracket, float* out) {
    int num_kept = 0;
    each_step(values, n, 0, [&](const float* p) {
        for (int i = 0; i < STEP; i += W) {
            const V x = load(p + i);
            const I bits = as_int(x);
            num_kept += keep(out + num_kept, x, (I)(bits >= bracket.low) & (I)(bits < bracket.high));
        }
    });
    return num_kept;
}

// The weight at which values, from the largest down, reach the goal; they are no longer there afterwards.
template <bool COUNTS>
static float settle(float* values, int n, Bracket bracket, double goal) {
    while (bracket.high - bracket.low > 1) {
        const Cuts cuts = quarters(bracket);
        Lanes lanes[3]{};
        add<COUNTS>(lanes, values, n, cuts);
        const double above = bracket.above;
        narrow(bracket, cuts, {above + total(lanes[0]), above + total(lanes[1]), above + total(lanes[2])}, goal);
        n = gather(values, n, bracket, values);
    }
    return float_of(bracket.low);
}

// One pass over the row, but for blocks that have nothing as large as the first cut.
template <bool COUNTS>
static void narrow_in_row(const Row& row, Bracket& bracket, const Cuts& cuts, double goal) {
    Lanes lanes[3]{};
    for (int block = 0; block < row.num_blocks; ++block)
        if (row.maxima[block] >= float_of(cuts.at[0]))
            add<COUNTS>(lanes, block_values(row, block), block_length(row, block), cuts);
    narrow(bracket, cuts, {total(lanes[0]), total(lanes[1]), total(lanes[2])}, goal);
}

// Copies what is in the bracket, if there is room for all of it: returns how many, or -1.
static int gather_from_row(const Row& row, const Bracket& bracket, float* out) {
    int num_kept = 0;
    for (int block = 0; block < row.num_blocks; ++block) {
        if (row.maxima[block] < float_of(bracket.low)) continue;
        const int length = block_length(row, block);
        if (num_kept + length > ROOM) return -1;
        num_kept += gather(block_values(row, block), length, bracket, out + num_kept);
    }
    return num_kept;
}

// Cuts around where the goal is about to be reached, by a sample: the first 32 of each block. It is asked about the
// small weights that are left over, since it cannot know of the few large ones.
template <bool COUNTS>
static Cuts guess(const Row& row, const Bracket& bracket, double goal, double whole, float* room) {
    int n = 0;
    for (int block = 0; block < row.num_blocks; ++block) {
        const int count = smaller(ROOM / MAX_BLOCKS, block_length(row, block));
        memcpy(room + n, block_values(row, block), sizeof(float) * count);
        n += count;
    }
    Lanes lanes{};
    each_step(room, n, -1, [&](const float* p) { add<COUNTS>(lanes, p, float_of(bracket.low)); });
    const double left_over = (whole - goal) * n / row.size;
    const int32_t bits = bits_of(settle<COUNTS>(room, n, bracket, total(lanes) - left_over));
    Cuts cuts = {{bits - HALF_OCTAVE, bits, bits + HALF_OCTAVE}};
    for (int32_t& cut : cuts.at) {
        if (cut <= bracket.low) cut = bracket.low + 1;
        if (cut >= bracket.high) cut = bracket.high - 1;
    }
    return cuts;
}

// The weight at which the row's, from the largest down, reach the goal. It is at least `low`; those that are reach
// `whole`.
template <bool COUNTS>
static float reaching(const Row& row, float low, double goal, double whole) {
    alignas(64) float room[ROOM + STEP];
    Bracket bracket = {bits_of(low), ABOVE_ONE, 0};
    int n = gather_from_row(row, bracket, room);
    if (n < 0) {
        narrow_in_row<COUNTS>(row, bracket, guess<COUNTS>(row, bracket, goal, whole, room), goal);
        n = gather_from_row(row, bracket, room);
    }
    while (n < 0 && bracket.high - bracket.low > 1) {
        narrow_in_row<COUNTS>(row, bracket, quarters(bracket), goal);
        n = gather_from_row(row, bracket, room);
    }
    return settle<COUNTS>(room, n, bracket, goal);
}

// The k-th largest weight is at least the k-th largest of the blocks' maxima: 0 where there are fewer.
static float kth_largest(const Row& row, int k) {
    float maxima[MAX_BLOCKS + STEP];
    memcpy(maxima, row.maxima, sizeof row.maxima);
    const Bracket bracket = {0, ABOVE_ONE, 0};
    return reaching<true>(row, settle<true>(maxima, row.num_blocks, bracket, k), k, row.size);
}

static float larger(float a, float b) { return a > b ? a : b; }

// The least weight that is kept, of a row of weights with that sum. It is not 0: what has no weight is never chosen.
static float least_kept(const SamplingWork& work, Row& row, double whole) {
    float least = FLT_MIN;
    if (0 < work.top_k && work.top_k < work.vocab_size) {
        least = larger(least, kth_largest(row, work.top_k));
        if (work.top_p < 1) whole = sum_from(row, least);
    }
    if (work.top_p < 1) {
        const double goal = work.top_p * whole;
        const float negligible = float((whole - goal) / row.size * 0.999999);  // all below cannot add up to the rest
        least = reaching<false>(row, larger(least, negligible), goal, whole);
    }
    return larger(least, work.min_p);
}

// ---- The choice ----

// The first id at which the running sum of what is at least `least` is greater than u times the whole.
static int draw(const Row& row, double whole, float least, double uniform) {
    double aim = uniform * whole, running = 0;
    if (!(aim < whole)) aim = nextafter(whole, 0.0);
    int block = 0;
    while (block + 1 < row.num_blocks && !(running + row.sums[block] > aim)) running += row.sums[block++];
    const float* weights = block_values(row, block);
    int last = 0;  // of those kept: the block's sum, added in another order, may be a rounding error more than this one
    for (int i = 0; i < block_length(row, block); ++i) {
        if (weights[i] < least) continue;
        last = i;
        if ((running += weights[i]) > aim) break;
    }
    return block * row.block_size + last;
}

static bool is_edited(const SamplingWork& work) {
    const bool counts = work.presence_penalty != 0 || work.frequency_penalty != 0;
    return work.num_suppressed > 0 || work.allowed || work.biases[0].num > 0 || work.biases[1].num > 0 ||
           (work.num_seen > 0 && (counts || work.repetition_penalty != 1));
}

static float penalized(float logit, float num_output, const SamplingWork& work) {
    logit = logit > 0 ? logit / work.repetition_penalty : logit * work.repetition_penalty;
    logit -= work.presence_penalty * (num_output > 0 ? 1.0f : 0.0f);
    return logit - work.frequency_penalty * num_output;
}

// The logits of tokens whose bits are set, and -infinity for the others: 32 at a time.
static void copy_allowed(const SamplingWork& work, float* out) {
    constexpr int BITS = 32;
    for (int id = 0; id < work.vocab_size; id += BITS) {
        const int num_bytes = smaller(work.num_allowed - id / 8, BITS / 8);
        int32_t bits = 0;
        if (num_bytes > 0) memcpy(&bits, work.allowed + id / 8, num_bytes);
        for (int i = id; i < smaller(id + BITS, work.vocab_size); i += W) {
            const int count = smaller(work.vocab_size - i, W);
            const I is_allowed = (I)((all_int(bits) >> (lane_numbers() + (i - id)) & 1) != 0);
            store_some(out + i, select(is_allowed, load_some(work.logits + i, count), all(-INFINITY)), count);
        }
    }
}

static void edit(const SamplingWork& work, float* logits) {
    if (work.allowed) copy_allowed(work, logits);
    else memcpy(logits, work.logits, sizeof(float) * work.vocab_size);
    for (int i = 0; i < work.num_suppressed; ++i) logits[work.suppressed[i]] = -INFINITY;
    for (const Biases& biases : work.biases)
        for (int i = 0; i < biases.num; ++i) logits[biases.first[i].token_id] += biases.first[i].amount;
    for (int i = 0; i < work.num_seen; ++i) {
        const int32_t id = work.seen[i];
        logits[id] = penalized(logits[id], float(work.num_output[i]), work);
    }
}

// Of the finite ones; sums are those of differences from the largest, which are few and small.
static double standard_deviation(const Row& logits, float largest) {
    Lanes nums{}, sums{}, squares{};
    each_step(logits.values, logits.size, -INFINITY, [&](const float* p) {
        for (int i = 0; i < PARTS; ++i) {
            const D logit = widen(p + i * (W / 2)), zero{};
            const auto is_finite = logit >= -DBL_MAX - zero;
            const D difference = is_finite ? logit - double(largest) : zero;
            nums.parts[i] += is_finite ? 1 - zero : zero;
            sums.parts[i] += difference;
            squares.parts[i] += difference * difference;
        }
    });
    const double num = total(nums), mean = total(sums) / num, variance = total(squares) / num - mean * mean;
    return variance > 0 ? sqrt(variance) : 0;  // of equal ones it may be a rounding error
}

// The least float that is at least `bound`.
SW_INLINE float no_less(double bound) {
    const float near = float(bound);
    return near < bound ? nextafterf(near, INFINITY) : near;
}

// The logits at `out`, which may be where they are; those too far below the largest are -infinity.
static void copy_without_tail(const SamplingWork& work, const Row& logits, float largest, float* out) {
    const float least = no_less(largest - work.top_n_sigma * standard_deviation(logits, largest));
    for (int i = 0; i < logits.size; i += W) {
        const int count = smaller(logits.size - i, W);
        const V logit = load_some(logits.values + i, count);
        store_some(out + i, select((I)(logit < least), all(-INFINITY), logit), count);
    }
}

// Of the weights that have at least that share of the whole all go but the smallest, and what is equal to it; returns
// what is left. The row's maxima are no longer those of what is left, but none is too small.
static double drop_likeliest(const SamplingWork& work, Row& row, float least, double whole) {
    const float bound = larger(least, no_less(work.xtc_threshold * whole));
    float smallest = INFINITY;
    int num = 0;
    for (int block = 0; block < row.num_blocks; ++block) {
        if (row.maxima[block] < bound) continue;
        for (int i = 0; i < block_length(row, block); ++i) {
            const float weight = block_values(row, block)[i];
            if (weight < bound) continue;
            ++num;
            smallest = weight < smallest ? weight : smallest;
        }
    }
    if (num < 2) return whole;
    for (int i = 0; i < row.size; ++i)
        if (work.weights[i] > smallest) work.weights[i] = 0;
    return sum_from(row, least);
}

static int choose(const SamplingWork& work, const Row& logits) {
    const int likeliest = largest_id(logits);
    if (!(work.temperature > 0)) return likeliest;
    const float temperature = work.temperature > FLT_MIN ? work.temperature : FLT_MIN;  // below it, no reciprocal
    const float largest = logits.values[likeliest], *left = logits.values;
    if (work.top_n_sigma > 0) {
        copy_without_tail(work, logits, largest, work.weights);
        left = work.weights;
    }
    Row row;
    double whole = weigh(left, logits.size, largest, temperature, work.weights, row);
    const float least = least_kept(work, row, whole);
    if (least > FLT_MIN) whole = sum_from(row, least);
    if (work.xtc_probability > 0 && philox_uniform(work.seed, work.position, FOR_XTC) < work.xtc_probability)
        whole = drop_likeliest(work, row, least, whole);
    return draw(row, whole, least, philox_uniform(work.seed, work.position, FOR_THE_DRAW));
}

// What is typical can only be said of sorted weights: that is left to the specification.
static int choose_typical(const SamplingWork& work) {
    SamplingWork choice = work;
    choice.num_logprobs = -1;
    Sampled result{};
    scalar::kernels.sample(choice, result);
    return result.token_id;
}

// ---- Log-probabilities ----

// The largest values so far, the first of them first; among equals, the lowest ids.
struct Best {
    float* values;
    int32_t* ids;
    int room, num;
};

SW_INLINE bool goes_before(float value, int32_t id, const Best& best, int place) {
    return value > best.values[place] || (value == best.values[place] && id < best.ids[place]);
}

static void offer(Best& best, float value, int32_t id) {
    if (best.num == best.room && !goes_before(value, id, best, best.num - 1)) return;
    int place = best.num < best.room ? best.num++ : best.num - 1;
    for (; place > 0 && goes_before(value, id, best, place - 1); --place) {
        best.values[place] = best.values[place - 1];
        best.ids[place] = best.ids[place - 1];
    }
    best.values[place] = value;
    best.ids[place] = id;
}

// Of the logits, into a result that has room for them. The n largest are in the n blocks with the largest maxima.
static void find_best(const Row& logits, int n, Best& best) {
    float maxima[MAX_BLOCKS];
    int32_t blocks[MAX_BLOCKS];
    Best best_blocks = {maxima, blocks, smaller(n, MAX_BLOCKS), 0};
    if (n == 0) return;
    for (int block = 0; block < logits.num_blocks; ++block) offer(best_blocks, logits.maxima[block], block);
    for (int i = 0; i < best_blocks.num; ++i)
        for (int j = 0; j < block_length(logits, blocks[i]); ++j)
            offer(best, block_values(logits, blocks[i])[j], blocks[i] * logits.block_size + j);
}

static void report_logprobs(const SamplingWork& work, const Row& logits, Sampled& result) {
    const float largest = logits.maxima[largest_index(logits.maxima, logits.num_blocks)];
    Row row;
    const double log_whole = log(weigh(logits.values, logits.size, largest, 1, work.weights, row));
    Best best = {result.top_logprobs, result.top_ids, smaller(work.num_logprobs, work.vocab_size), 0};
    find_best(logits, best.room, best);
    for (int i = 0; i < best.num; ++i) best.values[i] = float(double(best.values[i]) - largest - log_whole);
    result.num_top = best.num;
    result.logprob = float(double(work.logits[result.token_id]) - largest - log_whole);
}

}  // namespace sampling

static void sample(const SamplingWork& work, Sampled& result) {
    using namespace sampling;
    result = {-1, SW_NOT_FINITE, 0, 0, result.top_ids, result.top_logprobs};
    Row raw, edited;
    if (!scan_logits(raw, work.logits, work.vocab_size)) return;
    const bool has_edits = is_edited(work);
    if (has_edits) {
        edit(work, work.weights);
        result.error = SW_NO_CHOICE;
        if (!scan_logits(edited, work.weights, work.vocab_size)) return;
    }
    result.error = SW_OK;
    const bool sorts = work.typical_p < 1 && work.temperature > 0;
    result.token_id = sorts ? choose_typical(work) : choose(work, has_edits ? edited : raw);
    if (work.num_logprobs >= 0) report_logprobs(work, raw, result);
}

static void report(const SamplingWork& work, Sampled& result) {
    sampling::Row row;
    result.error = sampling::scan_logits(row, work.logits, work.vocab_size) ? SW_OK : SW_NOT_FINITE;
    if (result.error == SW_OK) sampling::report_logprobs(work, row, result);
}

}  // namespace slotwise::SLOTWISE_ISA

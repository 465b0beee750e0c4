// Attention as the specification has it: one query after the other, each position once.
#pragma once
#include <cmath>
#include <cstring>

#include "kernels.h"

namespace slotwise::scalar {

// One block's part of a layer and kv head: keys [D][32], values [32][D], INT8: scales of keys [32], of values [32].
struct BlockPart {
    KVType type;
    int head_dim;
    const uint8_t* data;

    float key(int position, int d) const { return element(d * BLOCK + position) * scale(position); }
    float value(int position, int d) const {
        return element((BLOCK + position) * head_dim + d) * scale(BLOCK + position);
    }

private:
    float element(int index) const {
        if (type == KVType::INT8) return float(int8_t(data[index]));
        uint32_t bits = 0;
        if (type == KVType::F32) memcpy(&bits, data + 4 * index, 4);
        else memcpy(reinterpret_cast<uint8_t*>(&bits) + 2, data + 2 * index, 2);
        float x;
        memcpy(&x, &bits, 4);
        return x;
    }
    float scale(int index) const {
        float x = 1;
        if (type == KVType::INT8) memcpy(&x, data + 2 * BLOCK * head_dim + 4 * index, 4);
        return x;
    }
};

static BlockPart part_of(const AttentionWork& work, int position) {
    return {work.kv_type, work.head_dim, work.blocks[position / BLOCK]};
}

static float score(const AttentionWork& work, const float* q, int position) {
    float dot = 0;
    for (int d = 0; d < work.head_dim; ++d) dot += q[d] * part_of(work, position).key(position % BLOCK, d);
    return dot * work.scale;
}

// The mean of the values of n positions, weighted with the softmax of the scores.
static void attend_query(const AttentionWork& work, const float* q, int n, float* out) {
    float highest = -INFINITY, total = 0;
    for (int i = 0; i < n; ++i) {
        work.scratch[i] = score(work, q, i);
        if (work.scratch[i] > highest) highest = work.scratch[i];
    }
    for (int i = 0; i < n; ++i) total += work.scratch[i] = std::exp(work.scratch[i] - highest);
    for (int d = 0; d < work.head_dim; ++d) {
        float mixed = 0;
        for (int i = 0; i < n; ++i) mixed += work.scratch[i] * part_of(work, i).value(i % BLOCK, d);
        out[d] = mixed / total;
    }
}

static void attend(const AttentionWork& work) {
    for (int t = 0; t < work.num_tokens; ++t)
        for (int g = 0; g < work.group_heads; ++g)
            attend_query(work, work.q + t * work.q_stride + g * work.head_dim, work.first_position + t + 1,
                         work.out + t * work.out_stride + g * work.head_dim);
}

}  // namespace slotwise::scalar

// Counter-based random numbers: Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (2011). A
// number is a pure function of a key and a counter, so it does not matter when, where or beside whom it is drawn.
#pragma once
#include <cstdint>

namespace slotwise {

// One of the ten rounds: multiply, swap the halves of the products, mix in the key.
static inline void philox_round(uint32_t counter[4], const uint32_t key[2]) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0], product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter[0] = uint32_t(product1 >> 32) ^ counter[1] ^ key[0];
    counter[2] = uint32_t(product0 >> 32) ^ counter[3] ^ key[1];
    counter[1] = uint32_t(product1);
    counter[3] = uint32_t(product0);
}

// In [0, 1), with 53 random bits: key = seed, counter = position, the first two words of the output, the first of them
// the more significant; or the two behind them.
enum Uniform { FOR_THE_DRAW = 0, FOR_XTC = 2 };
static inline double philox_uniform(uint64_t seed, uint64_t position, Uniform words) {
    uint32_t counter[4] = {uint32_t(position), uint32_t(position >> 32), 0, 0};
    uint32_t key[2] = {uint32_t(seed), uint32_t(seed >> 32)};
    for (int round = 0; round < 10; ++round) {
        philox_round(counter, key);
        key[0] += 0x9E3779B9;  // golden ratio
        key[1] += 0xBB67AE85;  // sqrt(3) - 1
    }
    const uint64_t bits = (uint64_t{counter[words]} << 32 | counter[words + 1]) >> 11;
    return double(bits) * 0x1p-53;
}

}  // namespace slotwise

// What the programs of this folder share: numbers that are the same on every machine, and a count of what failed.
#pragma once
#include <cmath>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <sstream>
#include <string>
#include <vector>

#include "slotwise.h"

// Weyl's sequence through the finaliser of SplitMix64; no library function whose rounding is the machine's own affair.
class Random {
public:
    explicit Random(uint64_t seed) : state_(seed * 0x9E3779B97F4A7C15) {}

    uint64_t bits() {
        uint64_t x = state_ += 0x9E3779B97F4A7C15;
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
        x = (x ^ x >> 27) * 0x94D049BB133111EB;
        return x ^ x >> 31;
    }
    int below(int n) { return static_cast<int>((bits() >> 33) % static_cast<uint64_t>(n)); }
    float uniform() { return static_cast<float>(bits() >> 40) * 0x1p-24f; }
    float normal() {  // near enough: of variance 1
        float sum = -6;
        for (int i = 0; i < 12; ++i) sum += uniform();
        return sum;
    }
    std::vector<float> normals(int64_t n, float scale = 1, float mean = 0) {
        std::vector<float> values(n);
        for (float& value : values) value = mean + scale * normal();
        return values;
    }
    template <class T, size_t N>
    T one_of(const T (&choices)[N]) { return choices[below(N)]; }

private:
    uint64_t state_;
};

class Tally {
public:
    // Counts a check, and prints one that failed, but not more than a few.
    __attribute__((format(printf, 3, 4))) void check(bool holds, const char* format, ...) {
        ++num_checks;
        if (holds || ++num_failures > 10) return;
        va_list arguments;
        va_start(arguments, format);
        vprintf(format, arguments);
        va_end(arguments);
        printf("\n");
    }
    int num_checks = 0, num_failures = 0;
};

template <class T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
    return a.size() == b.size() && (a.empty() || !memcmp(a.data(), b.data(), a.size() * sizeof(T)));
}

// A call that must not fail has failed.
[[noreturn]] inline void stop() {
    printf("%s\n", sw_error());
    exit(2);
}

using Sets = std::vector<std::string>;

// Of this processor, best first.
inline Sets instruction_sets() {
    std::istringstream names(sw_instruction_sets());
    Sets sets;
    for (std::string name; names >> name;) sets.push_back(name);
    return sets;
}

constexpr const char* ENCODING_NAMES[] = {"F32", "BF16", "Q8", "Q4_0", "Q4_1"};
constexpr const char* KV_NAMES[] = {"F32", "BF16", "INT8"};

// A matrix [rows, columns] in GGML's layout.
inline std::vector<uint8_t> encode(int encoding, int rows, int columns, const std::vector<float>& values) {
    constexpr int BYTES_OF_32[] = {128, 64, 34, 18, 20};
    std::vector<uint8_t> data(static_cast<int64_t>(rows) * columns * BYTES_OF_32[encoding] / 32);
    const auto num_bytes = static_cast<int64_t>(data.size());
    if (encoding == SW_F32) memcpy(data.data(), values.data(), data.size());
    else if (sw_quantize(encoding, rows, columns, values.data(), data.data(), num_bytes)) stop();
    return data;
}

// The instructions of AMX tiles. The compiler is told that memory is read and written, which gcc 12's own intrinsics
// forget. Every row of a tile that is used here has 64 bytes, but for the activations of simd_amx.h.
#pragma once
#include <cstdint>

namespace slotwise::SLOTWISE_ISA {

constexpr int SIDE = 16;                // rows of a tile, and its columns of 32 bits
constexpr int PAIR_COLUMNS = 2 * SIDE;  // bfloat16s in a row of a tile: two in each column are multiplied together

// What the processor is told of its eight tiles.
struct TileConfig {
    uint8_t palette = 1, start_row = 0, reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};

    void set(int tile, int num_rows, int bytes = 4 * SIDE) {
        rows[tile] = (uint8_t)num_rows;
        row_bytes[tile] = (uint16_t)bytes;
    }
};

// All tiles are cleared.
SW_INLINE void configure(const TileConfig& config) { asm volatile("ldtilecfg %0" : : "m"(config) : "memory"); }
SW_INLINE void release_tiles() { asm volatile("tilerelease"); }

template <int Tile>
SW_INLINE void clear_tile() {
    asm volatile("tilezero %%tmm%c0" : : "i"(Tile));
}
template <int Tile>
SW_INLINE void load_tile(const void* rows, int64_t stride) {
    asm volatile("tileloadd (%1,%2,1), %%tmm%c0" : : "i"(Tile), "r"(rows), "r"(stride) : "memory");
}
template <int Tile>
SW_INLINE void store_tile(void* rows, int64_t stride) {
    asm volatile("tilestored %%tmm%c0, (%1,%2,1)" : : "i"(Tile), "r"(rows), "r"(stride) : "memory");
}
// Sums += A . B, of bfloat16s.
template <int Sums, int A, int B>
SW_INLINE void multiply_bf16() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}
// Of signed bytes.
template <int Sums, int A, int B>
SW_INLINE void multiply_i8() {
    asm volatile("tdpbssd %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(Sums), "i"(A), "i"(B));
}

}  // namespace slotwise::SLOTWISE_ISA

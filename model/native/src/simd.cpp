// The kernels in vectors: compiled once for each instruction set, into a namespace of that name (build.py has the list).
// No library code is included here but C's: what a header defines inline would be compiled for this set, and the linker
// might choose it for everybody.
#include "kernels.h"
#include "lanes.h"
#include "simd_attention.h"
#include "simd_matmul.h"
#include "simd_rows.h"
#include "simd_sampling.h"

namespace slotwise::SLOTWISE_ISA {

extern const Kernels kernels;
const Kernels kernels = {matmul,  prompt_matmul, rms_norm, quantize, to_bf16,
                         silu_mul, shrink,       expand,   rotate,   write_kv, attend, sample, report};

}  // namespace slotwise::SLOTWISE_ISA

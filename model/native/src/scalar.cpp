// The kernels in plain code: what the others are held to, and what runs where no other set can.
#include "kernels.h"
#include "scalar_attention.h"
#include "scalar_matmul.h"
#include "scalar_rows.h"
#include "scalar_sampling.h"

namespace slotwise::scalar {

extern const Kernels kernels;
const Kernels kernels = {matmul,   nullptr, rms_norm, quantize, to_bf16,
                         silu_mul, shrink,  expand,   rotate,   write_kv, attend, sample, report};

}  // namespace slotwise::scalar

// For tests/model/native/: the kernels of one instruction set, one by one, through ctypes. Sizes are the tests' own
// affair. 0: done; -1: not an instruction set of this processor.
#include "kernels.h"
#include "slotwise.h"

using namespace slotwise;

namespace {

template <class... Parameters, class... Arguments>
int call(const char* isa, void (*Kernels::*kernel)(Parameters...), Arguments... arguments) {
    const Kernels* kernels = choose_kernels(isa);
    if (!kernels) return -1;
    (kernels->*kernel)(arguments...);
    return 0;
}

}  // namespace

SW_API int sw_test_rms_norm(const char* isa, const float* x, const float* weight, float eps, int n, float* out) {
    return call(isa, &Kernels::rms_norm, x, weight, eps, n, out);
}

SW_API int sw_test_quantize(const char* isa, const float* x, int n, int8_t* q, float* scale, int32_t* sum) {
    return call(isa, &Kernels::quantize, x, n, q, scale, sum);
}

SW_API int sw_test_to_bf16(const char* isa, const float* x, int n, uint16_t* out) {
    return call(isa, &Kernels::to_bf16, x, n, out);
}

SW_API int sw_test_silu_mul(const char* isa, const float* gate, const float* up, int n, float* out) {
    return call(isa, &Kernels::silu_mul, gate, up, n, out);
}

SW_API int sw_test_shrink(const char* isa, const float* a, int rank, int columns, const float* x, float* sums) {
    return call(isa, &Kernels::shrink, a, rank, columns, x, sums);
}

SW_API int sw_test_expand(const char* isa, const float* b, int64_t stride, int rank, const float* sums, int count,
                          float* out) {
    return call(isa, &Kernels::expand, b, stride, rank, sums, count, out);
}

SW_API int sw_test_rotate(const char* isa, float* x, const float* cosine, const float* sine, int head_dim) {
    return call(isa, &Kernels::rotate, x, cosine, sine, head_dim);
}

SW_API int sw_test_write_kv(const char* isa, int type, int head_dim, const float* key, const float* value, int offset,
                            uint8_t* block) {
    return call(isa, &Kernels::write_kv, KVType(type), head_dim, key, value, offset, block);
}

SW_API int sw_test_attend(const char* isa, const AttentionWork* work) {
    const Kernels* kernels = choose_kernels(isa);
    if (!kernels) return -1;
    kernels->attend(*work);
    return 0;
}

SW_API int64_t sw_test_attention_scratch(int num_tokens, int group_heads, int head_dim, int num_positions) {
    return attention_scratch(num_tokens, group_heads, head_dim, num_positions);
}

SW_API int64_t sw_test_kv_part_bytes(int type, int head_dim) { return kv_part_bytes(KVType(type), head_dim); }

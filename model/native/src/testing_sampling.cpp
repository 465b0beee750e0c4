// For tests/model/native/test_sampling.py: the sampling kernels of one instruction set, through ctypes.
#include "kernels.h"
#include "slotwise.h"

using namespace slotwise;

// 0: done; -1: not an instruction set of this processor.
SW_API int sw_test_sample(const char* isa, const SamplingWork* work, Sampled* result) {
    const Kernels* kernels = choose_kernels(isa);
    if (!kernels) return -1;
    kernels->sample(*work, *result);
    return 0;
}

SW_API int sw_test_report(const char* isa, const SamplingWork* work, Sampled* result) {
    const Kernels* kernels = choose_kernels(isa);
    if (!kernels) return -1;
    kernels->report(*work, *result);
    return 0;
}

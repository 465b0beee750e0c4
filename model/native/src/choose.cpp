// Which of the compiled instruction sets this processor can run. The compiler's own detection is asked, which also asks
// the operating system whether it keeps the registers; but for AMX, whose tiles Linux gives only on request.
#include <cstring>
#include <string>
#include <vector>

#include "kernels.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#elif defined(__linux__) && defined(__aarch64__)
#include <sys/auxv.h>
#endif

#if !defined(SLOTWISE_SETS)
#define SLOTWISE_SETS(X)
#endif

namespace slotwise {

#define DECLARE(set) namespace set { extern const Kernels kernels; }
SLOTWISE_SETS(DECLARE)
DECLARE(scalar)
#undef DECLARE

namespace {

#if defined(__x86_64__)

bool has_tiles() {
#if defined(__linux__)
    constexpr int REQUEST_PERMISSION = 0x1023, TILE_DATA = 18;  // arch_prctl(ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA)
    unsigned a = 0, b = 0, c = 0, d = 0;
    constexpr unsigned TILE = 1u << 24, INT8 = 1u << 25, BF16 = 1u << 22, ALL = TILE | INT8 | BF16;
    bool has_all = __get_cpuid_count(7, 0, &a, &b, &c, &d) && (d & ALL) == ALL;
    return has_all && syscall(SYS_arch_prctl, REQUEST_PERMISSION, TILE_DATA) == 0;
#else
    return false;
#endif
}

bool has_avx_vnni() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && (a >> 4 & 1);
}

// Not every compiler knows it by name.
bool has_f16c() {
    unsigned a = 0, b = 0, c = 0, d = 0;
    return __get_cpuid(1, &a, &b, &c, &d) && (c >> 29 & 1);
}

bool can_run(const char* set) {
    bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi2") &&
                has_f16c();
    bool avx512vnni = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vnni");
    bool avx512 = avx512vnni && __builtin_cpu_supports("avx512bf16");
    if (!strcmp(set, "amx")) return avx512 && has_tiles();
    if (!strcmp(set, "avx512")) return avx512;
    if (!strcmp(set, "avx512vnni")) return avx512vnni;
    if (!strcmp(set, "avx2vnni")) return avx2 && has_avx_vnni();
    return !strcmp(set, "avx2") && avx2;
}

#elif defined(__aarch64__)

bool can_run(const char* set) {
#if defined(__linux__)
    constexpr unsigned long DOTPROD = 1ul << 20, I8MM = 1ul << 13;  // HWCAP_ASIMDDP, HWCAP2_I8MM
    bool has_dotprod = getauxval(AT_HWCAP) & DOTPROD, has_i8mm = getauxval(AT_HWCAP2) & I8MM;
#else
    bool has_dotprod = true, has_i8mm = false;  // every Apple processor of this kind
#endif
    return !strcmp(set, "neoni8mm") ? has_dotprod && has_i8mm : !strcmp(set, "neondot") && has_dotprod;
}

#else

bool can_run(const char*) { return false; }

#endif

struct Set {
    const char* name;
    const Kernels* kernels;
};

std::vector<Set> runnable_sets() {
    std::vector<Set> sets;
#define ADD(set) \
    if (can_run(#set)) sets.push_back({#set, &set::kernels});
    SLOTWISE_SETS(ADD)
#undef ADD
    sets.push_back({"scalar", &scalar::kernels});
    return sets;
}

}  // namespace

const Kernels* choose_kernels(const char* name) {
    for (const Set& set : runnable_sets())
        if (!name || !strcmp(set.name, name)) return set.kernels;
    return nullptr;
}

const char* runnable_kernels() {
    static const std::string names = [] {
        std::string joined;
        for (const Set& set : runnable_sets()) joined += (joined.empty() ? "" : " ") + std::string(set.name);
        return joined;
    }();
    return names.c_str();
}

}  // namespace slotwise

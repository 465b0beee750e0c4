// What Python checks before it calls anything else: that this library has the ABI that it was written for.
#include <cstring>

#include "slotwise.h"

namespace {

struct NamedSize {
    const char* name;
    int64_t size;
};

constexpr NamedSize SIZES[] = {
    {"sw_config", sizeof(sw_config)},   {"sw_runner_options", sizeof(sw_runner_options)},
    {"sw_bias", sizeof(sw_bias)},
    {"sw_sampling", sizeof(sw_sampling)}, {"sw_opened", sizeof(sw_opened)},
    {"sw_blocks", sizeof(sw_blocks)},   {"sw_chunk", sizeof(sw_chunk)},
    {"sw_batch", sizeof(sw_batch)},     {"sw_result", sizeof(sw_result)},
    {"sw_stamp", sizeof(sw_stamp)},     {"sw_violation", sizeof(sw_violation)},
};

}  // namespace

int32_t sw_version() { return SW_VERSION; }

int64_t sw_sizeof(const char* struct_name) {
    for (const NamedSize& one : SIZES)
        if (std::strcmp(one.name, struct_name) == 0) return one.size;
    return -1;
}

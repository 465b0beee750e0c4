#include "blocks.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <new>

namespace slotwise {

namespace {

uint8_t* map(int64_t num_bytes) {
    int flags = MAP_PRIVATE | MAP_ANONYMOUS;
#if defined(MAP_NORESERVE)
    flags |= MAP_NORESERVE;
#endif
    void* p = mmap(nullptr, num_bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
#if defined(MADV_NOHUGEPAGE)
    // A huge page would be resident from the first position written until all of its blocks are free.
    madvise(p, num_bytes, MADV_NOHUGEPAGE);
#endif
    return static_cast<uint8_t*>(p);
}

// Whether pages that are not needed are taken away at once and come back as zeros, which Linux promises and others, or a
// sandbox, may not: the system is asked by trying.
bool advice_clears() {
#if defined(__linux__)
    int64_t page = sysconf(_SC_PAGESIZE);
    uint8_t* probe = map(page);
    *probe = 1;
    bool clears = madvise(probe, page, MADV_DONTNEED) == 0 && *static_cast<volatile uint8_t*>(probe) == 0;
    munmap(probe, page);
    return clears;
#else
    return false;
#endif
}

}  // namespace

int64_t BlockLayout::block_bytes() const {
    int64_t page = sysconf(_SC_PAGESIZE), bytes = padding_offset();
    return (bytes + page - 1) / page * page;
}

Blocks::Blocks(const BlockLayout& layout, int32_t num_blocks, bool poison)
    : layout_(layout), block_bytes_(layout.block_bytes()), num_blocks_(num_blocks), poisons_(poison),
      system_clears_(advice_clears()), memory_(map(block_bytes_ * num_blocks)) {
    for (int32_t id = 0; poisons_ && id < num_blocks_; ++id) this->poison(id);
}

Blocks::~Blocks() { munmap(memory_, block_bytes_ * num_blocks_); }

void Blocks::destroy(int32_t block_id) {
#if defined(__linux__)
    if (!system_clears_ || madvise(at(block_id), block_bytes_, MADV_DONTNEED)) memset(at(block_id), 0, block_bytes_);
#else
    memset(at(block_id), 0, block_bytes_);
#endif
    if (poisons_) poison(block_id);
}

// All ones is a NaN in float32 and in bfloat16, and so are then the scales of int8.
void Blocks::poison(int32_t block_id) { memset(at(block_id), 0xff, block_bytes_); }

}  // namespace slotwise

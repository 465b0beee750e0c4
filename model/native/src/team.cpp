#include "team.h"

#include <algorithm>
#include <chrono>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace slotwise {

namespace {

using Clock = std::chrono::steady_clock;

constexpr auto SPIN = std::chrono::microseconds(50);  // longer than the leader works alone within a step
constexpr int PAUSES_BEFORE_YIELD = 2000;

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

uint64_t pack(uint32_t epoch, int end, int next) { return (uint64_t)epoch << 32 | (uint64_t)end << 16 | (uint64_t)next; }
uint32_t epoch_of(uint64_t stretch) { return (uint32_t)(stretch >> 32); }
int end_of(uint64_t stretch) { return (int)(stretch >> 16 & 0xffff); }
int next_of(uint64_t stretch) { return (int)(stretch & 0xffff); }

// Each thread to one of the processors that this process may use, counted from the first. Best effort.
void pin_to(int thread) {
#if defined(__linux__)
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed)) return;
    int count = CPU_COUNT(&allowed), skip = count ? thread % count : 0;
    CPU_ZERO(&one);
    for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu)
        if (CPU_ISSET(cpu, &allowed) && skip-- == 0) {
            CPU_SET(cpu, &one);
            break;
        }
    sched_setaffinity(0, sizeof one, &one);
#else
    (void)thread;
#endif
}

}  // namespace

Team::Team(int num_threads, bool pin) : seats_(num_threads) {
    for (int thread = 1; thread < num_threads; ++thread)
        followers_.emplace_back([this, thread, pin] {
            if (pin) pin_to(thread);
            follow(thread);
        });
}

Team::~Team() {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        ends_ = true;
    }
    wake_.notify_all();
    for (std::thread& follower : followers_) follower.join();
}

void Team::run_some(int num_items, int grain, const void* work, Call call) {
    int num_threads = size();
    if (num_items == 1 || num_threads == 1) {
        for (int first = 0; first < num_items; first += grain) call(work, 0, first, std::min(first + grain, num_items));
        return;
    }
    work_.store(work, std::memory_order_relaxed);
    call_.store(call, std::memory_order_relaxed);
    grain_.store(grain, std::memory_order_relaxed);
    num_published_ += num_items;
    ++epoch_;
    for (int thread = num_threads - 1; thread >= 0; --thread) {
        int first = (int)((int64_t)num_items * thread / num_threads);
        int end = (int)((int64_t)num_items * (thread + 1) / num_threads);
        seats_[thread].stretch.store(pack(epoch_, end, first));
    }
    if (num_sleeping_.load()) {
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }
    work_along(0);
    for (int pauses = 0; num_done() < num_published_; ++pauses)
        if (pauses < PAUSES_BEFORE_YIELD) pause();
        else std::this_thread::yield();  // whoever has the last items was put aside
}

uint64_t Team::num_done() const {
    uint64_t total = 0;
    for (const Seat& seat : seats_) total += seat.num_done.load(std::memory_order_acquire);
    return total;
}

void Team::work_along(int thread) {
    for (int i = 0; i < size(); ++i) take_from(seats_[(thread + i) % size()], thread);
}

// The last items of a stretch are taken in smaller and smaller parts, so that all threads end at about the same time.
void Team::take_from(Seat& seat, int thread) {
    uint64_t stretch = seat.stretch.load(std::memory_order_acquire);
    while (next_of(stretch) < end_of(stretch)) {
        const void* work = work_.load(std::memory_order_relaxed);
        Call call = call_.load(std::memory_order_relaxed);
        int grain = grain_.load(std::memory_order_relaxed), left = end_of(stretch) - next_of(stretch);
        int count = std::min(grain, (left + 1) / 2), first = next_of(stretch);
        if (!seat.stretch.compare_exchange_weak(stretch, stretch + count, std::memory_order_acq_rel)) continue;
        call(work, thread, first, first + count);
        seats_[thread].num_done.fetch_add(count, std::memory_order_release);
        stretch = seat.stretch.load(std::memory_order_acquire);
    }
}

void Team::follow(int thread) {
    uint32_t epoch = 0;
    while (wait_for_task(thread, epoch)) {
        epoch = epoch_of(seats_[thread].stretch.load(std::memory_order_acquire));
        work_along(thread);
    }
}

// Until there is a task other than the last one; false: there will be none.
bool Team::wait_for_task(int thread, uint32_t last_epoch) {
    auto is_new = [&] { return epoch_of(seats_[thread].stretch.load()) != last_epoch; };
    auto until = Clock::now() + SPIN;
    while (Clock::now() < until)
        for (int i = 0; i < 32; ++i) {
            if (is_new()) return true;
            pause();
        }
    std::unique_lock<std::mutex> lock(mutex_);
    num_sleeping_.fetch_add(1);
    wake_.wait(lock, [&] { return ends_ || is_new(); });
    num_sleeping_.fetch_sub(1);
    return !ends_;
}

}  // namespace slotwise

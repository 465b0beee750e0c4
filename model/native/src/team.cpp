#include "team.h"

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

uint32_t epoch_of(uint64_t task) { return (uint32_t)(task >> 32); }
int num_items_of(uint64_t task) { return (int)(task >> 16 & 0xffff); }
int next_item_of(uint64_t task) { return (int)(task & 0xffff); }

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

Team::Team(int num_threads, bool pin) {
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

void Team::run_some(int num_items, const void* work, Call call) {
    if (num_items == 1 || followers_.empty()) {
        for (int item = 0; item < num_items; ++item) call(work, 0, item);
        return;
    }
    uint32_t epoch = epoch_of(task_.load(std::memory_order_relaxed)) + 1;
    work_.store(work, std::memory_order_relaxed);
    call_.store(call, std::memory_order_relaxed);
    num_done_.store(0, std::memory_order_relaxed);
    task_.store((uint64_t)epoch << 32 | (uint64_t)num_items << 16);
    if (num_sleeping_.load()) {
        std::lock_guard<std::mutex> lock(mutex_);
        wake_.notify_all();
    }
    take_items(0);
    for (int pauses = 0; num_done_.load(std::memory_order_acquire) < num_items; ++pauses)
        if (pauses < PAUSES_BEFORE_YIELD) pause();
        else std::this_thread::yield();  // whoever has the last item was put aside
}

void Team::take_items(int thread) {
    uint64_t task = task_.load(std::memory_order_acquire);
    while (next_item_of(task) < num_items_of(task)) {
        const void* work = work_.load(std::memory_order_relaxed);
        Call call = call_.load(std::memory_order_relaxed);
        if (!task_.compare_exchange_weak(task, task + 1, std::memory_order_acq_rel)) continue;
        call(work, thread, next_item_of(task));
        num_done_.fetch_add(1, std::memory_order_release);
        task = task_.load(std::memory_order_acquire);
    }
}

void Team::follow(int thread) {
    uint32_t epoch = 0;
    while (wait_for_task(epoch)) {
        epoch = epoch_of(task_.load(std::memory_order_acquire));
        take_items(thread);
    }
}

// Until there is a task other than the last one; false: there will be none.
bool Team::wait_for_task(uint32_t last_epoch) {
    auto is_new = [&] { return epoch_of(task_.load()) != last_epoch; };
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

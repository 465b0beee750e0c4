// The threads of a runner. The thread that calls run() leads and works along; the others follow. Work comes as a number
// of items that whoever is awake takes one after the other, so that a thread which the system has put aside holds up no
// more than the item it is in. A follower without work spins for some microseconds, then sleeps.
#pragma once
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

namespace slotwise {

class Team {
public:
    Team(int num_threads, bool pin);
    ~Team();
    Team(const Team&) = delete;
    Team& operator=(const Team&) = delete;
    int size() const { return (int)followers_.size() + 1; }

    // Calls work(thread, item) for each item in 0 … num_items - 1, and returns when all are done; thread 0 is the
    // caller's. Items may run in any order and beside each other. `work` must not throw.
    template <class F>
    void run(int num_items, const F& work) {
        for (int first = 0; first < num_items; first += MAX_ITEMS) {
            auto part = [&](int thread, int item) { work(thread, first + item); };
            run_some(num_items - first < MAX_ITEMS ? num_items - first : MAX_ITEMS, &part,
                     [](const void* f, int thread, int item) { (*(const decltype(part)*)f)(thread, item); });
        }
    }

private:
    static constexpr int MAX_ITEMS = 0xffff;
    using Call = void (*)(const void*, int thread, int item);
    void run_some(int num_items, const void* work, Call call);
    void follow(int thread);
    bool wait_for_task(uint32_t last_epoch);
    void take_items(int thread);

    // The task that is open. Which one (upper 32 bits), how many items it has (16) and the next of them (16) are one word:
    // who takes an item knows that the task was still open, so that the leader had not begun to write the next one's work.
    alignas(64) std::atomic<uint64_t> task_{0};
    std::atomic<const void*> work_{nullptr};
    std::atomic<Call> call_{nullptr};
    alignas(64) std::atomic<int> num_done_{0};
    alignas(64) std::atomic<int> num_sleeping_{0};
    std::atomic<bool> ends_{false};
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> followers_;
};

}  // namespace slotwise

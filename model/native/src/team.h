// The threads of a runner. The thread that calls run() leads and works along; the others follow. Work is a number of
// items in a row; each thread has a stretch of them as its own, so that it reads memory in one go and meets nobody,
// and helps the others when its own is done, so that a thread which the system has put aside holds up no more than the
// items that it has taken. A follower without work spins for some microseconds, then sleeps.
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
    int size() const { return (int)seats_.size(); }

    // Calls work(thread, first, end) for stretches of at most `grain` items that make up 0 … num_items - 1, and returns
    // when all are done; thread 0 is the caller's. They may run in any order and beside each other. `work` must not
    // throw.
    template <class F>
    void run(int num_items, int grain, const F& work) {
        for (int start = 0; start < num_items; start += MAX_ITEMS) {
            auto part = [&](int thread, int first, int end) { work(thread, start + first, start + end); };
            run_some(num_items - start < MAX_ITEMS ? num_items - start : MAX_ITEMS, grain, &part,
                     [](const void* f, int thread, int first, int end) {
                         (*(const decltype(part)*)f)(thread, first, end);
                     });
        }
    }

private:
    static constexpr int MAX_ITEMS = 0xffff;
    using Call = void (*)(const void*, int thread, int first, int end);

    // What a thread has to do. Which task (upper 32 bits), the end of its stretch (16) and the next item of it (16) are
    // one word: whoever takes items knows that the task was still open, so that the leader had not begun to write the
    // next one's work.
    struct alignas(64) Seat {
        std::atomic<uint64_t> stretch{0};
        alignas(64) std::atomic<uint64_t> num_done{0};  // by this thread, in all tasks
    };

    void run_some(int num_items, int grain, const void* work, Call call);
    void follow(int thread);
    bool wait_for_task(int thread, uint32_t last_epoch);
    void work_along(int thread);
    void take_from(Seat& seat, int thread);
    uint64_t num_done() const;

    alignas(64) std::atomic<const void*> work_{nullptr};
    std::atomic<Call> call_{nullptr};
    std::atomic<int> grain_{1};
    alignas(64) std::atomic<int> num_sleeping_{0};
    std::atomic<bool> ends_{false};
    uint32_t epoch_ = 0;         // the leader's
    uint64_t num_published_ = 0;  // items of all tasks, the leader's
    std::vector<Seat> seats_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::vector<std::thread> followers_;
};

}  // namespace slotwise

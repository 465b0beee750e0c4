// Many tasks for teams of 1 to 4 threads, tiny and large, at once and after the others have gone to sleep: each item is
// to be done exactly once, by a thread of the team, and what the threads wrote must be seen when run() returns. Prints
// how much was done; the status is 1 where a check failed.
#include <chrono>
#include <numeric>

#include "program.h"
#include "team.h"

using slotwise::Team;

namespace {

constexpr int MAX_ITEMS = 70'000;  // more than a team takes at once

struct Load {
    int num_tasks, max_items, max_grain;
    bool lets_sleep;
};
constexpr Load LOADS[] = {
    {20'000, 8, 3, false}, {2000, 300, 40, false}, {20, MAX_ITEMS, 4000, false}, {200, 64, 4, true}};

// Plain numbers, not atomic ones: an item that two threads did, or one not yet seen, is a race.
void run_task(Team& team, int num_items, int grain, std::vector<int>& times_done, Tally& tally) {
    std::vector<int> by_thread(team.size(), 0);
    bool fits = true;
    team.run(num_items, grain, [&](int thread, int first, int end) {
        if (end - first > grain || first >= end || thread < 0 || thread >= team.size()) fits = false;
        for (int item = first; item < end; ++item) ++times_done[item];
        by_thread[thread] += end - first;
    });
    tally.check(fits, "%d items, grain %d: a stretch does not fit", num_items, grain);
    const int num_done = std::accumulate(by_thread.begin(), by_thread.end(), 0);
    tally.check(num_done == num_items, "%d items, grain %d: %d are done", num_items, grain, num_done);
    bool once = true;
    for (int item = 0; item < num_items; ++item) once &= times_done[item] == 1;
    tally.check(once, "%d items, grain %d, %d threads: an item is not done once", num_items, grain, team.size());
    std::fill(times_done.begin(), times_done.begin() + num_items, 0);
}

void run_load(Team& team, const Load& load, Random& random, Tally& tally) {
    std::vector<int> times_done(load.max_items, 0);
    for (int task = 0; task < load.num_tasks; ++task) {
        if (load.lets_sleep) std::this_thread::sleep_for(std::chrono::microseconds(random.below(2) ? 1000 : 45));
        const int num_items = random.below(load.max_items + 1);
        run_task(team, num_items, 1 + random.below(load.max_grain), times_done, tally);
    }
}

}  // namespace

int main() {
    Random random(1);
    Tally tally;
    for (int num_threads = 1; num_threads <= 4; ++num_threads)
        for (const Load& load : LOADS) {
            Team team(num_threads, false);  // ended while its threads spin, or sleep
            run_load(team, load, random, tally);
        }
    printf("%d of %d checks failed\n", tally.num_failures, tally.num_checks);
    return tally.num_failures > 0;
}

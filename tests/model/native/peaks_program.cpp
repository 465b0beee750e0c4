// How fast the threads of this machine read memory together: T threads, M megabytes in all, each its own part of them in
// four streams, as the kernels read panels. Prints GB/s, the best of several passes.
#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

namespace {

typedef uint64_t Line __attribute__((vector_size(64)));
constexpr int STREAMS = 4, PASSES = 30;

void read_all(const Line* lines, size_t count, Line& sum) {
    Line sums[STREAMS] = {};
    for (size_t i = 0; i < count / STREAMS; ++i)
        for (int stream = 0; stream < STREAMS; ++stream) sums[stream] += lines[stream * (count / STREAMS) + i];
    sum = sums[0] + sums[1] + sums[2] + sums[3];
}

}  // namespace

int main(int count, char** arguments) {
    if (count != 3) return 2;
    const size_t num_threads = atoi(arguments[1]), num_lines = atoi(arguments[2]) * size_t(1000000) / sizeof(Line);
    std::vector<Line> lines(num_lines, Line{1}), sums(num_threads);
    double best = 0;
    for (int pass = 0; pass < PASSES; ++pass) {
        const auto start = std::chrono::steady_clock::now();
        std::vector<std::thread> threads;
        for (size_t i = 0; i < num_threads; ++i)
            threads.emplace_back(read_all, &lines[i * (num_lines / num_threads)], num_lines / num_threads, std::ref(sums[i]));
        for (std::thread& thread : threads) thread.join();
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
        best = std::max(best, double(num_lines * sizeof(Line)) / seconds.count() / 1e9);
    }
    uint64_t all = 0;
    for (const Line& sum : sums) all += sum[0];
    printf("%.1f\n", all ? best : 0);
}

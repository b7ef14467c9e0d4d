#include "probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <vector>

#include "threads.hpp"

namespace halfpint {

double read_bandwidth(std::size_t size_bytes, int rounds) {
    const std::size_t words = size_bytes / sizeof(std::uint64_t);
    std::vector<std::uint64_t> memory(words, 1);
    const std::size_t grain = (words + static_cast<std::size_t>(thread_count()) - 1) /
                              static_cast<std::size_t>(thread_count());
    std::atomic<std::uint64_t> sink{0};
    double best = 0;
    for (int round = 0; round < rounds; ++round) {
        const auto started = std::chrono::steady_clock::now();
        parallel_for(words, grain, [&](std::size_t begin, std::size_t end) {
            // Four sums, so that the adds do not wait for each other.
            std::uint64_t sums[4] = {0, 0, 0, 0};
            std::size_t i = begin;
            for (; i + 4 <= end; i += 4)
                for (std::size_t k = 0; k < 4; ++k) sums[k] += memory[i + k];
            for (; i < end; ++i) sums[0] += memory[i];
            sink += sums[0] + sums[1] + sums[2] + sums[3];
        });
        const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - started;
        best = std::max(best, static_cast<double>(words * sizeof(std::uint64_t)) / seconds.count());
    }
    return sink.load() == words * static_cast<std::uint64_t>(rounds) ? best : 0;
}

}  // namespace halfpint

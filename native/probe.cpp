#include "probe.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>

#include "dispatch.hpp"
#include "threads.hpp"

namespace halfpint {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point started) {
    return std::chrono::duration<double>(Clock::now() - started).count();
}

// Steps of a burst on one thread: some 50 us, so that threads come out even.
constexpr std::size_t kBurstSteps = 1 << 14;
// Shorter than the slice of time that a busy system gives a process: some rounds are not interrupted.
constexpr double kRoundSeconds = 0.002;

// A round of `bursts` on every thread; operations a second.
double multiply_round(const ProbeKernels& kernels, std::size_t bursts) {
    std::atomic<std::int32_t> sink{0};
    const auto started = Clock::now();
    parallel_for(bursts, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) sink += kernels.multiply(kBurstSteps);
    });
    const double seconds = seconds_since(started);
    const double products = static_cast<double>(bursts * kBurstSteps * kernels.multiplies_per_step);
    // The products are of zeros: another sum means that they were not made.
    return sink.load() == 0 ? 2 * products / seconds : 0;
}

}  // namespace

double read_bandwidth(std::span<const std::uint64_t> memory, int rounds) {
    const ProbeKernels& kernels = probe_kernels();
    const auto threads = static_cast<std::size_t>(thread_count());
    const std::size_t grain = (memory.size() + threads - 1) / threads;
    std::atomic<std::uint64_t> sink{0};
    double best = 0;
    for (int round = 0; round < rounds; ++round) {
        const auto started = Clock::now();
        parallel_for(memory.size(), grain, [&](std::size_t begin, std::size_t end) {
            sink += kernels.read(memory.data() + begin, end - begin);
        });
        best = std::max(best, static_cast<double>(memory.size_bytes()) / seconds_since(started));
    }
    return sink.load() == memory.size() * static_cast<std::uint64_t>(rounds) ? best : 0;
}

double integer_peak(int rounds) {
    const ProbeKernels& kernels = probe_kernels();
    const auto threads = static_cast<std::size_t>(thread_count());
    const auto started = Clock::now();
    kernels.multiply(kBurstSteps);
    const double burst_seconds = std::max(seconds_since(started), 1e-7);
    const std::size_t bursts = threads * static_cast<std::size_t>(std::max(1.0, kRoundSeconds / burst_seconds));
    double best = 0;
    for (int round = 0; round < rounds; ++round) best = std::max(best, multiply_round(kernels, bursts));
    return best;
}

}  // namespace halfpint

// Asking for memory that will be read soon: a core has more requests on their way than its own prefetchers make.
#pragma once
#include <cstddef>
#include <cstdint>

namespace halfpint {
namespace {

constexpr std::size_t kAskedBytes = 64;

// How far ahead lines are asked for, into the second-level cache. One stream a thread, because more of them have requests
// for more lines on their way than a core has places for, and its loads then wait behind them (q4_k, iq4_xs: .87 of the
// bandwidth with two, .89 with one).
constexpr std::ptrdiff_t kFarBytes = 7168;

// So far ahead lines are asked for a second time, into the first-level cache: what waits for the second one is then a
// request and not a load, behind which a core has no place for more instructions (two threads: q4_k .84 to .90 of the
// bandwidth, q6_k .81 to .94, iq4_xs .85 to .88, q8_0 .93 to .95; from 3 to 4 KiB measure the same, 2 KiB is less).
constexpr std::ptrdiff_t kNearBytes = 3072;

// Ask for what lies `far` behind the bytes that are about to be used, and again for what lies near.
[[maybe_unused]] inline __attribute__((always_inline)) void ask_ahead(const std::uint8_t* place, std::size_t size,
                                                                      std::ptrdiff_t far = kFarBytes) {
    for (std::size_t i = 0; i < size; i += kAskedBytes) {
        __builtin_prefetch(place + far + i, 0, 2);
        __builtin_prefetch(place + kNearBytes + i, 0, 3);
    }
}

}  // namespace
}  // namespace halfpint

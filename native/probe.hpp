// What memory and arithmetic of this machine give, measured on the spot with the threads that kernels use.
#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

namespace halfpint {

// Bytes a second that all threads together read from `memory`, which every word must be 1 of: the best of `rounds`
// sweeps, because a machine is only ever slowed down by others.
double read_bandwidth(std::span<const std::uint64_t> memory, int rounds);

// Operations a second, multiplications and additions counted apart, of 8-bit integer products on all threads
// together, summed in registers: the best of `rounds` bursts of about two thousandths of a second.
double integer_peak(int rounds);

}  // namespace halfpint

// Two things to measure a machine by: reading memory, and multiplying 8-bit integers as fast as it can be done.
#pragma once
#include <cstddef>
#include <cstdint>

namespace halfpint {

struct ProbeKernels {
    // The sum of `count` words, read once from first to last in two streams, as products of weights read them.
    std::uint64_t (*read)(const std::uint64_t* words, std::size_t count);
    // `steps` rounds of products of unsigned with signed 8-bit integers, summed in 32 bits without leaving the
    // registers. Each round is `multiplies_per_step` products. The sum, so that nothing is optimized away.
    std::int32_t (*multiply)(std::size_t steps);
    std::size_t multiplies_per_step;
    // Name of the instruction that multiplies.
    const char* instruction;
};

const ProbeKernels& probe_kernels();

}  // namespace halfpint

// What the memory of this machine gives, measured on the spot.
#pragma once
#include <cstddef>

namespace halfpint {

// Bytes a second that all threads together read from `size_bytes` of memory, far more than any cache: the best of
// `rounds` sweeps, because a machine is only ever slowed down by others.
double read_bandwidth(std::size_t size_bytes, int rounds);

}  // namespace halfpint

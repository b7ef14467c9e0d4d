// Rows in lanes: loading, rounding to levels and storing, for error feedback and refinement alike.
#pragma once

#include <cstdint>
#include <cstring>

#include "isa/lanes.hpp"
#include "isa/solve.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

inline float lane_of(Lanes values, std::size_t lane) { return values[lane]; }

inline Lanes to_bfloat(Lanes values) {
    const IntLanes bits = bits_of(values);
    return from_bits((bits + 0x7fff + ((bits >> 16) & 1)) & ~0xffff);
}

// numerator / denominator, with 0 where the denominator is not above 0.
inline Lanes safe_ratio(Lanes numerator, Lanes denominator) {
    const Mask good = less(zeros(), denominator);
    return select(good, numerator / select(good, denominator, broadcast(1.0f)), zeros());
}

// Columns [0, columns) of up to kLanes rows, [column][lane]; absent rows hold zeros.
inline void load_rows(const float* source, std::size_t columns, std::size_t rows, Lanes* out) {
    float* lanes = reinterpret_cast<float*>(out);
    if (rows < static_cast<std::size_t>(kLanes)) std::memset(lanes, 0, columns * sizeof(Lanes));
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t column = 0; column < columns; ++column)
            lanes[column * kLanes + row] = source[row * columns + column];
}

inline void store_rows(const Lanes* values, std::size_t columns, std::size_t rows, float* out) {
    const float* lanes = reinterpret_cast<const float*>(values);
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t column = 0; column < columns; ++column)
            out[row * columns + column] = lanes[column * kLanes + row];
}

struct Nearest {
    Lanes index;  // as a float
    Lanes level;
};

inline Nearest nearest_level(const SolveLattice& lattice, Lanes scaled) {
    if (lattice.uniform) {
        const Lanes first = broadcast(lattice.levels[0]);
        const Lanes index = round_even(clamp(scaled - first, 0.0f, static_cast<float>(lattice.level_count - 1)));
        return {index, first + index};
    }
    Nearest found{zeros(), broadcast(lattice.levels[0])};
    for (std::size_t i = 0; i + 1 < lattice.level_count; ++i) {
        const Mask above = less(broadcast(lattice.middles[i]), scaled);
        found.index = select(above, broadcast(static_cast<float>(i + 1)), found.index);
        found.level = select(above, broadcast(lattice.levels[i + 1]), found.level);
    }
    return found;
}

inline bool any(Lanes values) {
    const Mask zero = equal(values, zeros());
#if defined(__AVX512F__)
    return zero != 0xffff;
#elif defined(__AVX2__)
    return _mm256_movemask_ps(zero) != 0xff;
#else
    return (zero[0] & zero[1] & zero[2] & zero[3]) == 0;
#endif
}

inline void store_indices(Lanes index, std::size_t column, std::size_t columns, std::size_t rows, std::uint8_t* out) {
    const IntLanes integers = __builtin_convertvector(index, IntLanes);
    std::int32_t each[kLanes];
    std::memcpy(each, &integers, sizeof each);
    for (std::size_t row = 0; row < rows; ++row)
        out[row * columns + column] = static_cast<std::uint8_t>(each[row]);
}

}  // namespace
}  // namespace halfpint::HALFPINT_ISA

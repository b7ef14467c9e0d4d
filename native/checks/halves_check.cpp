// Checks the lanes of isa/floats.hpp against plain C++: conversions of 16-bit floats bit by bit, and the exponential
// against that of the library. Compiled for one instruction set; ends with the number of differences.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <limits>

#if defined(__AVX2__)
#include <immintrin.h>
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace {
#include "isa/floats.hpp"

// By powers and fractions, as IEEE 754 defines it.
float value_of(unsigned half) {
    const unsigned exponent = (half >> 10) & 31u, fraction = half & 1023u;
    const float sign = (half & 0x8000u) != 0 ? -1.0f : 1.0f;
    if (exponent == 31) return fraction != 0 ? std::nanf("") : sign * std::numeric_limits<float>::infinity();
    if (exponent == 0) return sign * std::ldexp(static_cast<float>(fraction), -24);
    return sign * std::ldexp(static_cast<float>(fraction + 1024), static_cast<int>(exponent) - 25);
}

long check_halves() {
    long wrong = 0;
    for (unsigned first = 0; first < 65536; first += 16) {
        std::uint16_t halves[16], back[16];
        float lanes[16];
        for (unsigned i = 0; i < 16; ++i) halves[i] = static_cast<std::uint16_t>(first + i);
        Floats::load_f16(halves).store(lanes);
        Floats::load_f16(halves).store_f16(back);
        for (unsigned i = 0; i < 16; ++i) {
            const float expected = value_of(first + i);
            if (std::isnan(expected)) wrong += !std::isnan(lanes[i]);
            else wrong += lanes[i] != expected || std::signbit(lanes[i]) != std::signbit(expected) || back[i] != halves[i];
        }
    }
    return wrong;
}

// Between two neighbouring halves, in the middle (ties to even), and a little to both sides of it.
long check_rounding() {
    long wrong = 0;
    for (unsigned half = 0; half + 1 < 0x7c00u; ++half) {
        const float low = value_of(half), high = value_of(half + 1), middle = low + (high - low) / 2;
        const float values[3] = {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, high)};
        const unsigned expected[3] = {half, half % 2 == 0 ? half : half + 1, half + 1};
        float lanes[16] = {values[0], values[1], values[2], -values[0], -values[1], -values[2]};
        std::uint16_t halves[16];
        Floats::load(lanes).store_f16(halves);
        for (int i = 0; i < 3; ++i) wrong += halves[i] != expected[i] || halves[i + 3] != (expected[i] | 0x8000u);
    }
    return wrong;
}

long check_exponential() {
    long wrong = 0;
    for (float x = -86.9f; x < 87.9f; x += 0.0625f) {
        float lanes[16];
        exponential(Floats::broadcast(x)).store(lanes);
        const double expected = std::exp(static_cast<double>(x));
        for (const float lane : lanes) wrong += !(std::fabs(lane - expected) <= expected * 0x1p-22);
    }
    return wrong;
}
}  // namespace

int main() {
    const long wrong = check_halves() + check_rounding() + check_exponential();
    std::printf("%ld\n", wrong);
    return wrong == 0 ? 0 : 1;
}

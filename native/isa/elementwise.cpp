// Norms, rotations, gates and sums of a decoder, row by row. Compiled once per instruction set.
#include "isa/elementwise.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__AVX2__)
#include <immintrin.h>
// GCC 12 warns of its own AVX-512 header: _mm512_undefined_ps is meant to be undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace halfpint::HALFPINT_ISA {
namespace {
#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)

#include "isa/floats.hpp"

// Apply a function of vectors to sixteen elements at a time; a short end is filled up with zeros.
template <typename Function>
void for_sixteens(const float* a, const float* b, std::size_t count, float* out, Function function) {
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) function(Floats::load(a + i), Floats::load(b + i)).store(out + i);
    if (i == count) return;
    alignas(64) float lanes[16];
    function(load_some(a + i, count - i, 0.0f), load_some(b + i, count - i, 0.0f)).store(lanes);
    std::copy_n(lanes, count - i, out + i);
}

void rms_norm(const float* x, const float* weight, std::size_t columns, float epsilon, float* out) {
    Floats sums[4] = {Floats::broadcast(0.0f), Floats::broadcast(0.0f), Floats::broadcast(0.0f), Floats::broadcast(0.0f)};
    std::size_t column = 0;
    for (; column + 64 <= columns; column += 64)
        for (std::size_t i = 0; i < 4; ++i) {
            const Floats values = Floats::load(x + column + 16 * i);
            sums[i] = multiply_add(values, values, sums[i]);
        }
    for (std::size_t i = 0; column < columns; column += 16, ++i) {
        const Floats values = load_some(x + column, std::min<std::size_t>(16, columns - column), 0.0f);
        sums[i] = multiply_add(values, values, sums[i]);
    }
    const float squares = sum_of_lanes((sums[0] + sums[2]) + (sums[1] + sums[3]));
    const Floats scale = Floats::broadcast(1.0f / std::sqrt(squares / static_cast<float>(columns) + epsilon));
    for_sixteens(x, weight, columns, out, [scale](Floats value, Floats factor) { return value * scale * factor; });
}

void rotate(float* heads, std::size_t count, std::size_t head_dim, const float* cosines, const float* sines,
            std::size_t half) {
    for (std::size_t head = 0; head < count; ++head, heads += head_dim) {
        std::size_t i = 0;
        for (; i + 16 <= half; i += 16) {
            const Floats first = Floats::load(heads + i), second = Floats::load(heads + half + i);
            const Floats cosine = Floats::load(cosines + i), sine = Floats::load(sines + i);
            (first * cosine - second * sine).store(heads + i);
            (second * cosine + first * sine).store(heads + half + i);
        }
        for (; i < half; ++i) {
            const float first = heads[i], second = heads[half + i];
            heads[i] = first * cosines[i] - second * sines[i];
            heads[half + i] = second * cosines[i] + first * sines[i];
        }
    }
}

void gate(Activation activation, const float* gates, const float* ups, std::size_t count, float* out) {
    const Floats one = Floats::broadcast(1.0f), zero = Floats::broadcast(0.0f);
    if (activation == Activation::silu)
        return for_sixteens(gates, ups, count, out,
                            [=](Floats x, Floats up) { return x / (one + exponential(zero - x)) * up; });
    // GELU by its tanh approximation (arXiv 1606.08415).
    const Floats slope = Floats::broadcast(0.797884561f), cubic = Floats::broadcast(0.044715f);
    const Floats half = Floats::broadcast(0.5f);
    for_sixteens(gates, ups, count, out, [=](Floats x, Floats up) {
        return half * x * (one + hyperbolic_tangent(slope * (x + cubic * x * x * x))) * up;
    });
}

void add(float* into, const float* more, std::size_t count) {
    for_sixteens(into, more, count, into, [](Floats a, Floats b) { return a + b; });
}

constexpr ElementwiseKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA), &rms_norm, &rotate, &gate, &add};
}  // namespace

const ElementwiseKernels& elementwise_kernels();
const ElementwiseKernels& elementwise_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA

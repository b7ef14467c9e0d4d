// The contract of what a decoder does between its products (isa/elementwise.cpp).
#pragma once
#include <cstddef>

namespace halfpint {

enum class Activation : int { silu = 0, gelu_tanh };

struct ElementwiseKernels {
    const char* isa;
    // out = x / sqrt(mean of squares + epsilon) * weight, for one row.
    void (*rms_norm)(const float* x, const float* weight, std::size_t columns, float epsilon, float* out);
    // Rotate dimension i of each head with dimension i + half, in place; the dimensions behind them stay.
    void (*rotate)(float* heads, std::size_t count, std::size_t head_dim, const float* cosines, const float* sines,
                   std::size_t half);
    // out = activation(gate) * up; out may be one of them.
    void (*gate)(Activation activation, const float* gate, const float* up, std::size_t count, float* out);
    // into += more.
    void (*add)(float* into, const float* more, std::size_t count);
};

}  // namespace halfpint

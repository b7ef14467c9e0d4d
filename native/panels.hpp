// Products of packed weights with many tokens, shared among threads.
#pragma once
#include <cstddef>
#include <cstdint>
#include <vector>

#include "isa/elementwise.hpp"
#include "isa/panel.hpp"
#include "lines.hpp"
#include "products.hpp"

namespace halfpint {

// Activations [tokens, columns] in 8 bits, in tiles, one scale per 32 columns. Of the instruction set that was active
// when they were made: another one cannot read them.
class Tiles {
public:
    Tiles(const float* x, std::size_t tokens, std::size_t columns);

    const TileTokens& tokens() const { return tokens_; }
    const PanelKernels& kernels() const { return kernels_; }

private:
    const PanelKernels& kernels_;
    KeptLines memory_;
    TileTokens tokens_;
};

// Multiply the same activations with several weights of as many columns, which are shared among threads as if they were
// one. The same bits for any number of threads and any company of weights and tokens.
void multiply_tiles(const std::vector<Factor>& factors, const Tiles& x);

// out[token * rows + row] = activation(x @ gate.T) * (x @ up.T) for two weights of the same shape: the bits of both
// products and `ElementwiseKernels::gate`.
void multiply_gated(const IntegerWeight& gate, const IntegerWeight& up, Activation activation, const Tiles& x,
                    float* out);

}  // namespace halfpint

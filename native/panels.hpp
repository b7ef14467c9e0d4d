// Products of a packed weight with many tokens, shared among threads.
#pragma once
#include <cstddef>
#include <cstdint>

#include "isa/panel.hpp"
#include "lines.hpp"

namespace halfpint {

// Activations [tokens, columns] in 8 bits, in tiles, one scale per 64 columns. Of the instruction set that was active
// when they were made: another one cannot read them.
class Tiles {
public:
    Tiles(const float* x, std::size_t tokens, std::size_t columns);

    const TileTokens& tokens() const { return tokens_; }
    const PanelKernels& kernels() const { return kernels_; }

private:
    const PanelKernels& kernels_;
    LineMemory memory_;
    TileTokens tokens_;
};

// out[token * weight.rows + row] = x @ weight.T. The same bits for any number of threads and any company of tokens.
void multiply_tiles(const IntegerWeight& weight, const Tiles& x, float* out);

}  // namespace halfpint

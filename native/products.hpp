// Products of packed weights with few tokens, shared among threads.
#pragma once
#include <cstddef>
#include <vector>

#include "isa/integer.hpp"

namespace halfpint {

// Activations [tokens, columns] rounded to 8 bits, one scale per 32 columns.
class RoundedTokens {
public:
    RoundedTokens(const float* x, std::size_t tokens, std::size_t columns);
    IntegerTokens tokens() const {
        return {codes_.data(), scales_.data(), negative_sums_.data(), offsets_.data(), padded_};
    }

private:
    std::size_t padded_;
    std::vector<std::int8_t> codes_;
    std::vector<float> scales_, offsets_;
    std::vector<std::int32_t> negative_sums_;
};

// A weight, and where its product goes: [tokens, weight.rows].
struct Factor {
    const IntegerWeight* weight;
    float* out;
};

// Multiply the same activations with several weights of as many columns, which are shared among threads as if they were
// one. The same bits for any number of threads and any company of weights and tokens.
void multiply(const std::vector<Factor>& factors, const IntegerTokens& x, std::size_t tokens);

// Blocks of rows that a thread takes at a time: `shares` for each thread, but not less than 128 KiB of weights, some 5 us
// of reading.
std::size_t block_grain(std::size_t blocks, std::size_t block_bytes, std::size_t shares);

}  // namespace halfpint

// One block of a decoder for few tokens, in one call: the steps of halfpint.engine.block, with the same kernels in the
// same order, and so the same bits.
#pragma once
#include <cstddef>
#include <vector>

#include "isa/elementwise.hpp"
#include "isa/integer.hpp"
#include "key_values.hpp"

namespace halfpint {

struct BlockShape {
    std::size_t hidden, inner, heads, kv_heads, head_dim;
    float epsilon;       // of the norms
    float query_scale;   // of attention's scores
    float cap;           // of them; none when 0
    std::size_t window;  // of attention; none when 0
    Activation activation;

    std::size_t query_columns() const { return heads * head_dim; }
    std::size_t key_columns() const { return kv_heads * head_dim; }
};

// Factors of each norm; empty where the family has none. Those of queries and keys are as long as a head or all heads.
struct BlockNorms {
    std::vector<float> attention_input, query, key, attention_output, mlp_input, mlp_output;
};

struct Projection {
    const IntegerWeight* weight = nullptr;
    std::vector<float> bias;  // empty, or one for each row
};

// Queries, keys and values come from three weights or from a single one, gate and up from two or one.
struct BlockProjections {
    std::vector<Projection> first, output, gates, down;
};

// The next `tokens` tokens of one text.
struct TextTokens {
    KeyValues* held;
    std::size_t tokens;
};

// Cosines and sines of every token, [tokens][half] each; null where a layer does not rotate.
struct Angles {
    const float* cosines;
    const float* sines;
    std::size_t half;
};

class DecoderBlock {
public:
    // Shapes agree.
    DecoderBlock(const BlockShape& shape, BlockNorms norms, BlockProjections projections);

    const BlockShape& shape() const { return shape_; }

    // Pass hidden states [tokens][hidden] through the block, in place; keys and values go to the texts.
    void forward(float* hidden, const std::vector<TextTokens>& texts, const Angles& angles) const;

private:
    struct Room;
    void attention(const float* hidden, const std::vector<TextTokens>& texts, const Angles& angles, const Room& room) const;
    void mlp(const float* middle, const Room& room) const;

    BlockShape shape_;
    BlockNorms norms_;
    BlockProjections projections_;
};

}  // namespace halfpint

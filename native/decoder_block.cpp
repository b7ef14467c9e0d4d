// Between two products of one token there is so little to do (some 3 us) that calls from Python took longer than the
// work: 33 us of every block.
#include "decoder_block.hpp"

#include <algorithm>
#include <cstring>
#include <utility>

#include "dispatch.hpp"
#include "products.hpp"
#include "scratch.hpp"

namespace halfpint {
namespace {

// Multiply `tokens` rows of x with all weights; the outputs follow each other from `out` on, and are returned.
std::vector<float*> project(const std::vector<Projection>& projections, const float* x, std::size_t tokens, float* out) {
    std::vector<Factor> factors;
    std::vector<float*> outputs;
    for (const Projection& projection : projections) {
        factors.push_back({projection.weight, out});
        outputs.push_back(out);
        out += tokens * projection.weight->rows;
    }
    const RoundedTokens rounded(x, tokens, projections.front().weight->columns);
    multiply(factors, rounded.tokens(), tokens);
    const auto& kernels = elementwise_kernels();
    for (std::size_t i = 0; i < projections.size(); ++i) {
        const std::vector<float>& bias = projections[i].bias;
        for (std::size_t token = 0; token < tokens && !bias.empty(); ++token)
            kernels.add(outputs[i] + token * bias.size(), bias.data(), bias.size());
    }
    return outputs;
}

// Norm `count` numbers in rows as long as the factors. Without factors x is what was to be normed.
const float* normed(const std::vector<float>& factors, const float* x, std::size_t count, float epsilon, float* out) {
    if (factors.empty()) return x;
    const auto& kernels = elementwise_kernels();
    const std::size_t columns = factors.size();
    for (std::size_t at = 0; at < count; at += columns) kernels.rms_norm(x + at, factors.data(), columns, epsilon, out + at);
    return out;
}

}  // namespace

// What a pass works in, for all of its tokens.
struct DecoderBlock::Room {
    static std::size_t floats(const BlockShape& shape, std::size_t tokens) {
        const std::size_t first = shape.query_columns() + 2 * shape.key_columns();
        return tokens * (2 * shape.hidden + 2 * first + shape.query_columns() + 3 * shape.inner);
    }

    Room(const BlockShape& shape, std::size_t count, float* memory) : tokens(count) {
        const auto take = [&](std::size_t columns) { return std::exchange(memory, memory + count * columns); };
        const std::size_t first_columns = shape.query_columns() + 2 * shape.key_columns();
        normed = take(shape.hidden);
        out = take(shape.hidden);
        first = take(first_columns);
        split = take(first_columns);
        mixed = take(shape.query_columns());
        gates = take(2 * shape.inner);
        gated = take(shape.inner);
    }

    std::size_t tokens;
    float *normed, *out;      // [tokens][hidden]
    float *first, *split;     // queries, keys and values: as they come, and taken apart
    float* mixed;             // [tokens][query_columns]
    float *gates, *gated;     // [tokens][2 inner], [tokens][inner]
};

DecoderBlock::DecoderBlock(const BlockShape& shape, BlockNorms norms, BlockProjections projections)
    : shape_(shape), norms_(std::move(norms)), projections_(std::move(projections)) {}

void DecoderBlock::forward(float* hidden, const std::vector<TextTokens>& texts, const Angles& angles) const {
    std::size_t tokens = 0;
    for (const TextTokens& text : texts) tokens += text.tokens;
    const Scratch memory(Room::floats(shape_, tokens));
    const Room room(shape_, tokens, memory.get());
    const std::size_t count = tokens * shape_.hidden;
    const auto& kernels = elementwise_kernels();
    attention(hidden, texts, angles, room);
    kernels.add(hidden, normed(norms_.attention_output, room.out, count, shape_.epsilon, room.normed), count);
    mlp(hidden, room);
    kernels.add(hidden, normed(norms_.mlp_output, room.out, count, shape_.epsilon, room.normed), count);
}

void DecoderBlock::attention(const float* hidden, const std::vector<TextTokens>& texts, const Angles& angles,
                             const Room& room) const {
    const std::size_t tokens = room.tokens, query_columns = shape_.query_columns(), key_columns = shape_.key_columns();
    const std::size_t widths[3] = {query_columns, key_columns, key_columns};
    const float* x = normed(norms_.attention_input, hidden, tokens * shape_.hidden, shape_.epsilon, room.normed);
    std::vector<float*> parts = project(projections_.first, x, tokens, room.first);
    if (parts.size() == 1) {
        const float* from = parts.front();
        parts = {room.split, room.split + tokens * query_columns, room.split + tokens * (query_columns + key_columns)};
        for (std::size_t token = 0; token < tokens; ++token)
            for (std::size_t i = 0; i < 3; from += widths[i], ++i)
                std::memcpy(parts[i] + token * widths[i], from, widths[i] * sizeof(float));
    }
    float *queries = parts[0], *keys = parts[1];
    normed(norms_.query, queries, tokens * query_columns, shape_.epsilon, queries);
    normed(norms_.key, keys, tokens * key_columns, shape_.epsilon, keys);
    const auto& kernels = elementwise_kernels();
    for (std::size_t token = 0; token < tokens && angles.cosines != nullptr; ++token) {
        const float *cosines = angles.cosines + token * angles.half, *sines = angles.sines + token * angles.half;
        kernels.rotate(queries + token * query_columns, shape_.heads, shape_.head_dim, cosines, sines, angles.half);
        kernels.rotate(keys + token * key_columns, shape_.kv_heads, shape_.head_dim, cosines, sines, angles.half);
    }
    std::size_t begin = 0;
    for (const TextTokens& text : texts) {
        text.held->append(keys + begin * key_columns, parts[2] + begin * key_columns, text.tokens);
        text.held->attend({queries + begin * query_columns, text.tokens, shape_.heads, shape_.query_scale, shape_.window,
                           shape_.cap, room.mixed + begin * query_columns});
        begin += text.tokens;
    }
    project(projections_.output, room.mixed, tokens, room.out);
}

void DecoderBlock::mlp(const float* middle, const Room& room) const {
    const std::size_t tokens = room.tokens, inner = shape_.inner;
    const float* x = normed(norms_.mlp_input, middle, tokens * shape_.hidden, shape_.epsilon, room.normed);
    const std::vector<float*> parts = project(projections_.gates, x, tokens, room.gates);
    const std::size_t step = parts.size() == 1 ? 2 * inner : inner;  // a single weight gives rows of both
    const float* ups = parts.size() == 1 ? room.gates + inner : parts[1];
    const auto& kernels = elementwise_kernels();
    for (std::size_t token = 0; token < tokens; ++token)
        kernels.gate(shape_.activation, room.gates + token * step, ups + token * step, inner, room.gated + token * inner);
    project(projections_.down, room.gated, tokens, room.out);
}

}  // namespace halfpint

// halfpint.kernels._native.DecoderBlock and DecoderBlocks: the blocks of a decoder for few tokens; shapes are checked here.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <array>
#include <cstdint>
#include <numeric>
#include <stdexcept>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "decoder_block.hpp"
#include "packed_integers.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_block(nb::module_& module);

namespace {

using Row = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadRows = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Rows = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

std::vector<float> copy_of(nb::handle array) {
    if (array.is_none()) return {};
    const auto row = nb::cast<Row>(array);
    return {row.data(), row.data() + row.shape(0)};
}

// Pairs of a weight and its bias, or None for no bias: one for each of the output's parts, or one for all.
std::vector<Projection> projections_of(const nb::list& pairs, std::size_t columns, std::vector<std::size_t> parts) {
    if (pairs.size() == 1) parts = {std::accumulate(parts.begin(), parts.end(), std::size_t{0})};
    require(pairs.size() == parts.size(), "a product has one weight, or one for each of its parts");
    std::vector<Projection> found;
    for (const nb::handle item : pairs) {
        const auto pair = nb::cast<nb::tuple>(item);
        require(pair.size() == 2, "a weight stands beside its bias");
        const IntegerWeight& weight = nb::cast<const PackedIntegers&>(pair[0]).weight();
        require(weight.columns == columns, "weights have the columns of their input");
        require(weight.rows == parts[found.size()], "weights have the rows of their output");
        found.push_back({&weight, copy_of(pair[1])});
        require(found.back().bias.empty() || found.back().bias.size() == weight.rows, "a bias has a number for each row");
    }
    return found;
}

// An array of a dictionary that may be missing.
std::vector<float> norm_of(const nb::dict& norms, const char* name, std::size_t columns, bool whole) {
    if (!norms.contains(name)) return {};
    std::vector<float> factors = copy_of(norms[name]);
    require(!factors.empty() && columns % factors.size() == 0, "a norm's factors divide its input");
    require(!whole || factors.size() == columns, "a norm has a factor for each column");
    return factors;
}

// A block, and the weights that it points into.
class BoundBlock {
public:
    BoundBlock(const BlockShape& shape, const nb::dict& norms, const std::array<nb::list, 4>& pairs)
        : kept_(pairs), block_(shape, norms_of(shape, norms), all_projections(shape, pairs)) {}

    const DecoderBlock& get() const { return block_; }

private:
    static BlockNorms norms_of(const BlockShape& shape, const nb::dict& norms) {
        return {norm_of(norms, "attention_input", shape.hidden, true),
                norm_of(norms, "query", shape.query_columns(), false),
                norm_of(norms, "key", shape.key_columns(), false),
                norm_of(norms, "attention_output", shape.hidden, true),
                norm_of(norms, "mlp_input", shape.hidden, true),
                norm_of(norms, "mlp_output", shape.hidden, true)};
    }

    static BlockProjections all_projections(const BlockShape& shape, const std::array<nb::list, 4>& pairs) {
        return {projections_of(pairs[0], shape.hidden, {shape.query_columns(), shape.key_columns(), shape.key_columns()}),
                projections_of(pairs[1], shape.query_columns(), {shape.hidden}),
                projections_of(pairs[2], shape.hidden, {shape.inner, shape.inner}),
                projections_of(pairs[3], shape.inner, {shape.hidden})};
    }

    std::array<nb::list, 4> kept_;
    DecoderBlock block_;
};

// `sizes` are those of BlockShape in its order, `numbers` its floats.
void construct(BoundBlock* place, const nb::tuple& sizes, const nb::tuple& numbers, std::size_t window, int activation,
               const nb::dict& norms, const nb::tuple& pairs) {
    require(sizes.size() == 5 && numbers.size() == 3 && pairs.size() == 4, "a block has five sizes, three numbers, four products");
    require(activation == 0 || activation == 1, "no such activation");
    const auto size = [&](std::size_t i) {
        const auto value = nb::cast<std::size_t>(sizes[i]);
        require(value > 0 && value < (std::size_t{1} << 40), "sizes are positive");
        return value;
    };
    const auto number = [&](std::size_t i) { return nb::cast<float>(numbers[i]); };
    const BlockShape shape{size(0),   size(1),   size(2), size(3), size(4), number(0),
                           number(1), number(2), window,  static_cast<Activation>(activation)};
    require(shape.heads % shape.kv_heads == 0, "heads share keys evenly");
    new (place) BoundBlock(shape, norms,
                           {nb::cast<nb::list>(pairs[0]), nb::cast<nb::list>(pairs[1]), nb::cast<nb::list>(pairs[2]),
                            nb::cast<nb::list>(pairs[3])});
}

// All blocks, one after the other. Those that turn queries and keys have one of some kinds of angles each, the others -1.
class BoundBlocks {
public:
    BoundBlocks(const nb::list& blocks, const nb::list& angle_kinds) : kept_(blocks) {
        require(blocks.size() > 0 && blocks.size() == angle_kinds.size(), "every block says how it rotates");
        for (std::size_t i = 0; i < blocks.size(); ++i) {
            blocks_.push_back(&nb::cast<const BoundBlock&>(blocks[i]).get());
            kinds_.push_back(nb::cast<int>(angle_kinds[i]));
            require(blocks_[i]->shape().hidden == blocks_[0]->shape().hidden, "blocks pass on what others take");
        }
    }

    // `texts`: keys and values for each block, and a number of tokens. `angles`: cosines and sines of each kind.
    void forward(Rows hidden, const nb::list& texts, const nb::list& angles) const {
        const std::size_t tokens = hidden.shape(0);
        require(hidden.shape(1) == blocks_[0]->shape().hidden, "hidden states are [tokens, hidden]");
        std::vector<std::vector<TextTokens>> found(blocks_.size());
        std::size_t all = 0;
        for (const nb::handle item : texts) {
            const auto pair = nb::cast<nb::tuple>(item);
            require(pair.size() == 2, "keys and values stand beside a number of tokens");
            const auto layers = nb::cast<nb::list>(pair[0]);
            const auto count = nb::cast<std::size_t>(pair[1]);
            require(layers.size() == blocks_.size(), "a text has keys and values for every block");
            require(count > 0 && count <= tokens, "every text has tokens");
            all += count;
            for (std::size_t i = 0; i < blocks_.size(); ++i) found[i].push_back({held_of(layers[i], i), count});
        }
        require(all == tokens && tokens > 0, "texts have all tokens");
        std::vector<Angles> turns;
        for (std::size_t i = 0; i < blocks_.size(); ++i) turns.push_back(angles_of(i, tokens, angles));
        float* states = hidden.data();
        const nb::gil_scoped_release released;
        for (std::size_t i = 0; i < blocks_.size(); ++i) blocks_[i]->forward(states, found[i], turns[i]);
    }

private:
    KeyValues* held_of(nb::handle layer, std::size_t block) const {
        auto& held = nb::cast<KeyValues&>(layer);
        const BlockShape& shape = blocks_[block]->shape();
        require(held.shape().kv_heads == shape.kv_heads && held.shape().head_dim == shape.head_dim, "heads are those of the block");
        return &held;
    }

    Angles angles_of(std::size_t block, std::size_t tokens, const nb::list& angles) const {
        if (kinds_[block] < 0) return {nullptr, nullptr, 0};
        const auto kind = static_cast<std::size_t>(kinds_[block]);
        require(kind < angles.size(), "there are angles of every kind");
        const auto pair = nb::cast<nb::tuple>(angles[kind]);
        require(pair.size() == 2, "cosines stand beside sines");
        const auto cosine = nb::cast<ReadRows>(pair[0], false), sine = nb::cast<ReadRows>(pair[1], false);
        const std::size_t half = cosine.shape(1);
        require(cosine.shape(0) == tokens && sine.shape(0) == tokens && sine.shape(1) == half, "there is an angle per token");
        require(2 * half <= blocks_[block]->shape().head_dim, "no more is rotated than a head has");
        return {cosine.data(), sine.data(), half};
    }

    nb::list kept_;
    std::vector<const DecoderBlock*> blocks_;
    std::vector<int> kinds_;
};

}  // namespace

void bind_block(nb::module_& module) {
    nb::class_<BoundBlock>(module, "DecoderBlock")
        .def("__init__", &construct, nb::arg("sizes"), nb::arg("numbers"), nb::arg("window"), nb::arg("activation"),
             nb::arg("norms"), nb::arg("projections"));
    nb::class_<BoundBlocks>(module, "DecoderBlocks")
        .def(nb::init<const nb::list&, const nb::list&>(), nb::arg("blocks"), nb::arg("angle_kinds"))
        .def("forward", &BoundBlocks::forward, out("hidden"), nb::arg("texts"), nb::arg("angles"));
}

}  // namespace halfpint

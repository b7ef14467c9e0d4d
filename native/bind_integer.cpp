// halfpint.kernels._native.IntegerWeight and IntegerActivations: weights in the layout of isa/integer.hpp, and
// activations in 8 bits to multiply them with.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <algorithm>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <vector>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "packed_integers.hpp"
#include "panels.hpp"
#include "products.hpp"

namespace nb = nanobind;

namespace halfpint {
namespace {

using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = PackedIntegers::Output;

// Activations [tokens, columns]. They are rounded when a product first wants them; the array is kept for that.
class IntegerActivations {
public:
    explicit IntegerActivations(Floats2 x) : x_(std::move(x)) {}

    std::size_t tokens() const { return x_.shape(0); }
    std::size_t columns() const { return x_.shape(1); }
    const float* values() const { return x_.data(); }

    // One scale per 32 columns, for decoding and small batches: isa/integer.hpp.
    IntegerTokens rounded() {
        const std::lock_guard lock(mutex_);
        if (!rounded_) rounded_.emplace(x_.data(), tokens(), columns());
        return rounded_->tokens();
    }

    // The same in tiles, for many tokens: isa/panel.hpp.
    const Tiles& tiles() {
        const std::lock_guard lock(mutex_);
        if (!tiles_) tiles_.emplace(x_.data(), tokens(), columns());
        return *tiles_;
    }

private:
    Floats2 x_;
    std::mutex mutex_;  // several threads may multiply the same activations
    std::optional<RoundedTokens> rounded_;
    std::optional<Tiles> tiles_;
};

// Copies of what was rounded, so that tests can compare it with the reference.
void copy_rounded(IntegerActivations& x, nb::ndarray<std::int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> codes,
                  Output scales) {
    const IntegerTokens rounded = x.rounded();
    const std::size_t groups = rounded.columns / kGroupColumns;
    require(codes.shape(0) == x.tokens() && codes.shape(1) == rounded.columns, "codes are [tokens, padded columns]");
    require(scales.shape(0) == x.tokens() && scales.shape(1) == groups, "scales are [tokens, groups]");
    std::copy_n(rounded.codes, x.tokens() * rounded.columns, codes.data());
    std::copy_n(rounded.scales, x.tokens() * groups, scales.data());
}

// The same of tiles: codes [tokens, columns padded to 256], scales [tokens, padded columns / 32].
void copy_tiles(IntegerActivations& x, nb::ndarray<std::int8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu> codes,
                Output scales) {
    const Tiles& tiles = x.tiles();
    const std::size_t padded = tiles.tokens().supers() * kSuperColumns, wides = padded / kWideColumns;
    require(codes.shape(0) == x.tokens() && codes.shape(1) == padded, "codes are [tokens, padded columns]");
    require(scales.shape(0) == x.tokens() && scales.shape(1) == wides, "scales are [tokens, groups]");
    for (std::size_t token = 0; token < x.tokens(); ++token)
        tiles.kernels().read(tiles.tokens(), token, codes.data() + token * padded, scales.data() + token * wides);
}

// The weight, to multiply x with into out; shapes are checked here.
const IntegerWeight& to_multiply(const PackedIntegers& packed, const IntegerActivations& x, const Output& out) {
    const IntegerWeight& weight = packed.weight();
    require(x.columns() == weight.columns, "x has the columns of the weight");
    require(out.shape(0) == x.tokens() && out.shape(1) == weight.rows, "out is [tokens, rows]");
    return weight;
}

std::vector<Factor> factors_of(nb::list weights, const IntegerActivations& x, nb::list outs) {
    require(weights.size() == outs.size(), "there is an output for each weight");
    std::vector<Factor> factors;
    factors.reserve(weights.size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
        Output out;
        if (!nb::try_cast(outs[i], out, false)) throw nb::type_error("outputs are float32 [tokens, rows], contiguous");
        factors.push_back({&to_multiply(nb::cast<const PackedIntegers&>(weights[i]), x, out), out.data()});
    }
    return factors;
}

void multiply_integers(nb::list weights, IntegerActivations& x, nb::list outs) {
    const std::vector<Factor> factors = factors_of(weights, x, outs);
    if (factors.empty() || x.tokens() == 0) return;
    const nb::gil_scoped_release released;
    multiply(factors, x.rounded(), x.tokens());
}

// The same with weights rounded to 8 bits, for many tokens.
void multiply_many(nb::list weights, IntegerActivations& x, nb::list outs) {
    const std::vector<Factor> factors = factors_of(weights, x, outs);
    if (factors.empty() || x.tokens() == 0) return;
    const nb::gil_scoped_release released;
    multiply_tiles(factors, x.tiles());
}

// activation(x @ gate.T) * (x @ up.T), for many tokens.
void multiply_gated_many(const PackedIntegers& gate, const PackedIntegers& up, int activation, IntegerActivations& x,
                         Output out) {
    const IntegerWeight &first = to_multiply(gate, x, out), &second = to_multiply(up, x, out);
    require(activation == 0 || activation == 1, "no such activation");
    if (x.tokens() == 0) return;
    float* output = out.data();
    const nb::gil_scoped_release released;
    multiply_gated(first, second, static_cast<Activation>(activation), x.tiles(), output);
}

}  // namespace

void bind_integer(nb::module_& module);
void bind_integer(nb::module_& module) {
    module.def("integer_isa", [] { return integer_kernels().isa; });
    nb::class_<IntegerActivations>(module, "IntegerActivations")
        .def(nb::init<Floats2>(), nb::arg("x"))
        .def_prop_ro("tokens", &IntegerActivations::tokens)
        .def_prop_ro("columns", &IntegerActivations::columns)
        .def("copy_rounded", &copy_rounded, out("codes"), out("scales"))
        .def("copy_tiles", &copy_tiles, out("codes"), out("scales"));
    nb::class_<PackedIntegers>(module, "PackedIntegers")
        .def(nb::init<const std::string&, std::size_t, std::size_t, const std::string&, std::size_t, bool,
                      std::optional<PackedIntegers::Floats>, float>(),
             nb::arg("kind"), nb::arg("rows"), nb::arg("columns"), nb::arg("scale"), nb::arg("scale_columns"),
             nb::arg("zero_points"), nb::arg("levels").none(), nb::arg("outer"))
        .def_prop_ro("nbytes", &PackedIntegers::nbytes)
        .def("pack", &PackedIntegers::pack, nb::arg("data"), nb::arg("scales").none(),
             nb::arg("zero_points").none(), nb::arg("scale_columns"))
        .def("decode", &PackedIntegers::decode, out("out"))
        .def("gather", &PackedIntegers::gather, nb::arg("ids"), out("out"));
    module.def("multiply_integers", &multiply_integers, nb::arg("weights"), nb::arg("x"), nb::arg("outs"));
    module.def("multiply_many", &multiply_many, nb::arg("weights"), nb::arg("x"), nb::arg("outs"));
    module.def("multiply_gated", &multiply_gated_many, nb::arg("gate"), nb::arg("up"), nb::arg("activation"),
               nb::arg("x"), out("out"));
}

}  // namespace halfpint

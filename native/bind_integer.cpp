// halfpint.kernels._native.IntegerWeight and IntegerActivations: weights in the layout of isa/integer.hpp, and
// activations in 8 bits to multiply them with.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <vector>

#include "dispatch.hpp"
#include "lines.hpp"
#include "panels.hpp"
#include "products.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace halfpint {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

constexpr std::array<const char*, static_cast<std::size_t>(IntegerKind::count)> kKindNames{
    "q4_0", "q4_1",   "q5_0",  "q5_1", "q8_0", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq4_xs", "mxfp4", "nvfp4", "nf4", "int2", "int3",   "int4", "int5", "int6", "int7", "int8"};

void require(bool holds, const char* what) {
    if (!holds) throw std::invalid_argument(what);
}

template <std::size_t count>
std::size_t index_of(const std::array<const char*, count>& names, const std::string& name, const char* what) {
    const auto found = std::find_if(names.begin(), names.end(), [&](const char* known) { return name == known; });
    require(found != names.end(), what);
    return static_cast<std::size_t>(found - names.begin());
}

// Activations [tokens, columns]. They are rounded when a product first wants them; the array is kept for that.
class IntegerActivations {
public:
    explicit IntegerActivations(Floats2 x) : x_(std::move(x)) {
        const std::size_t groups = (columns() + kGroupColumns - 1) / kGroupColumns;
        padded_ = groups * kGroupColumns;
    }

    std::size_t tokens() const { return x_.shape(0); }
    std::size_t columns() const { return x_.shape(1); }
    const float* values() const { return x_.data(); }

    // One scale per 32 columns, for decoding and small batches: isa/integer.hpp.
    IntegerTokens rounded() {
        const std::lock_guard lock(mutex_);
        if (codes_.empty()) round();
        return {codes_.data(), scales_.data(), negative_sums_.data(), offsets_.data(), padded_};
    }

    // The same in tiles, for many tokens: isa/panel.hpp.
    const Tiles& tiles() {
        const std::lock_guard lock(mutex_);
        if (!tiles_) tiles_.emplace(x_.data(), tokens(), columns());
        return *tiles_;
    }

private:
    void round() {
        const std::size_t groups = padded_ / kGroupColumns;
        codes_.resize(tokens() * padded_);
        scales_.resize(tokens() * groups);
        offsets_.resize(tokens() * groups);
        negative_sums_.resize(2 * tokens() * groups);
        const auto& kernels = integer_kernels();
        const std::size_t grain = (std::size_t{1} << 16) / (columns() + 1) + 1;  // some 20 us
        parallel_for(tokens(), grain, [&](std::size_t begin, std::size_t end) {
            for (std::size_t token = begin; token < end; ++token)
                kernels.quantize(x_.data() + token * columns(), columns(), codes_.data() + token * padded_,
                                 scales_.data() + token * groups, negative_sums_.data() + 2 * token * groups,
                                 offsets_.data() + token * groups);
        });
    }

    Floats2 x_;
    std::mutex mutex_;  // several threads may multiply the same activations
    std::size_t padded_;
    std::vector<std::int8_t> codes_;
    std::vector<float> scales_, offsets_;
    std::vector<std::int32_t> negative_sums_;
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

class PackedIntegers {
public:
    PackedIntegers(const std::string& kind, std::size_t rows, std::size_t columns, const std::string& scale,
                   std::size_t scale_columns, bool zero_points, std::optional<Floats1> levels, float outer)
        : weight_(describe(kind, rows, columns, scale, scale_columns, zero_points)),
          memory_(weight_.row_blocks() * weight_.block_bytes) {
        weight_.data = memory_.data();
        weight_.levels = levels_.data();
        weight_.outer = outer;
        require(!levels || levels->shape(0) == levels_.size(), "one level per code");
        if (levels) std::copy_n(levels->data(), levels_.size(), levels_.data());
    }
    PackedIntegers(const PackedIntegers&) = delete;  // weight_ points into this
    PackedIntegers& operator=(const PackedIntegers&) = delete;

    std::size_t nbytes() const { return memory_.size(); }

    // The weight, to multiply x with into out; shapes are checked here.
    const IntegerWeight& to_multiply(const IntegerActivations& x, const Output& out) const {
        require(packed_, "a weight is packed first");
        require(x.columns() == weight_.columns, "x has the columns of the weight");
        require(out.shape(0) == x.tokens() && out.shape(1) == weight_.rows, "out is [tokens, rows]");
        return weight_;
    }

    // Sources are read and not kept: GGUF's blocks, or codes of a byte each and the scales beside them.
    void pack(Bytes data, std::optional<Bytes> scales, std::optional<Bytes> zero_points, std::size_t scale_columns) {
        IntegerSource source{data.data(), 0, nullptr, nullptr, 0, scale_columns};
        source.row_bytes = data.shape(0) / weight_.rows;
        require(source.row_bytes * weight_.rows == data.shape(0) && source.row_bytes == row_bytes(),
                "the data do not have the bytes of this shape");
        require(scales.has_value() == has_codes(), "codes have scales beside them");
        require(zero_points.has_value() == weight_.zero_points, "zero points are where the weight says so");
        if (scales) {
            require(scale_columns > 0, "groups are not empty");
            source.scale_groups = (weight_.columns + scale_columns - 1) / scale_columns;
            require(scales->shape(0) == weight_.rows * source.scale_groups * source_scale_width(),
                    "one scale per group");
            source.scales = scales->data();
        }
        if (zero_points) {
            require(zero_points->shape(0) == weight_.rows * source.scale_groups, "one zero point per group");
            source.zero_points = zero_points->data();
        }
        const auto& packers = integer_packers();
        const nb::gil_scoped_release released;
        parallel_for(weight_.row_blocks(), grain(), [&](std::size_t begin, std::size_t end) {
            packers.pack(weight_, begin, end, source);
        });
        packed_ = true;
    }

    void decode(Output out) const {
        require(packed_, "a weight is packed first");
        require(out.shape(0) == weight_.rows && out.shape(1) == weight_.columns, "out is [rows, columns]");
        const auto& packers = integer_packers();
        float* output = out.data();
        const nb::gil_scoped_release released;
        parallel_for(weight_.row_blocks(), grain(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t row = begin * kBlockRows; row < std::min(end * kBlockRows, weight_.rows); ++row)
                packers.decode_row(weight_, row, output + row * weight_.columns);
        });
    }

    void gather(Ids ids, Output out) const {
        require(packed_, "a weight is packed first");
        require(out.shape(0) == ids.shape(0) && out.shape(1) == weight_.columns, "out is [ids, columns]");
        for (std::size_t i = 0; i < ids.shape(0); ++i)
            require(ids.data()[i] >= 0 && static_cast<std::size_t>(ids.data()[i]) < weight_.rows, "ids are rows");
        const auto& packers = integer_packers();
        for (std::size_t i = 0; i < ids.shape(0); ++i)
            packers.decode_row(weight_, static_cast<std::size_t>(ids.data()[i]), out.data() + i * weight_.columns);
    }

private:
    static IntegerWeight describe(const std::string& kind, std::size_t rows, std::size_t columns,
                                  const std::string& scale, std::size_t scale_columns, bool zero_points) {
        constexpr std::array<const char*, 3> scales{"f16", "bf16", "f32"};
        constexpr std::size_t most = std::size_t{1} << 40;
        require(rows > 0 && columns > 0 && rows < most && columns < most, "a weight has rows and columns");
        IntegerWeight weight{};
        weight.kind = static_cast<IntegerKind>(index_of(kKindNames, kind, "no such kind of weight"));
        weight.rows = rows;
        weight.columns = columns;
        weight.scale = static_cast<IntegerScale>(index_of(scales, scale, "no such kind of scale"));
        weight.scale_columns = scale_columns;
        weight.zero_points = zero_points;
        require(!zero_points || is_affine(weight.kind), "only integers have zero points");
        require(scale_columns == 0 || (scale_columns >= 16 && scale_columns <= kSuperColumns &&
                                       (scale_columns & (scale_columns - 1)) == 0),
                "scales are shared by 16, 32, 64, 128 or 256 columns, or by a row");
        require(is_coded(weight.kind) || columns % block_columns(weight.kind) == 0, "columns divide into blocks");
        weight.block_bytes = block_bytes_of(weight);
        return weight;
    }

    static bool is_coded(IntegerKind kind) { return kind >= IntegerKind::mxfp4; }
    bool has_codes() const { return is_coded(weight_.kind); }

    static std::size_t block_columns(IntegerKind kind) { return kind >= IntegerKind::q2_k ? 256 : 32; }

    // Of a row of the source.
    std::size_t row_bytes() const {
        if (has_codes()) return weight_.columns;
        constexpr std::size_t block_bytes[] = {18, 20, 22, 24, 34, 18, 84, 110, 144, 176, 210, 136};
        return weight_.columns / block_columns(weight_.kind) * block_bytes[static_cast<std::size_t>(weight_.kind)];
    }

    std::size_t source_scale_width() const {
        if (is_affine(weight_.kind)) return scale_width(weight_.scale);
        return weight_.kind == IntegerKind::nf4 ? 4 : 1;
    }

    std::size_t grain() const { return block_grain(weight_.row_blocks(), weight_.block_bytes, 8); }

    IntegerWeight weight_;
    LineMemory memory_;
    std::array<float, 16> levels_{};
    bool packed_ = false;
};

std::vector<Factor> factors_of(nb::list weights, const IntegerActivations& x, nb::list outs) {
    require(weights.size() == outs.size(), "there is an output for each weight");
    std::vector<Factor> factors;
    factors.reserve(weights.size());
    for (std::size_t i = 0; i < weights.size(); ++i) {
        const auto out = nb::cast<Output>(outs[i], false);
        factors.push_back({&nb::cast<const PackedIntegers&>(weights[i]).to_multiply(x, out), out.data()});
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
    const IntegerWeight &first = gate.to_multiply(x, out), &second = up.to_multiply(x, out);
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
        .def("copy_rounded", &copy_rounded, nb::arg("codes"), nb::arg("scales"))
        .def("copy_tiles", &copy_tiles, nb::arg("codes"), nb::arg("scales"));
    nb::class_<PackedIntegers>(module, "PackedIntegers")
        .def(nb::init<const std::string&, std::size_t, std::size_t, const std::string&, std::size_t, bool,
                      std::optional<Floats1>, float>(),
             nb::arg("kind"), nb::arg("rows"), nb::arg("columns"), nb::arg("scale"), nb::arg("scale_columns"),
             nb::arg("zero_points"), nb::arg("levels").none(), nb::arg("outer"))
        .def_prop_ro("nbytes", &PackedIntegers::nbytes)
        .def("pack", &PackedIntegers::pack, nb::arg("data"), nb::arg("scales").none(),
             nb::arg("zero_points").none(), nb::arg("scale_columns"))
        .def("decode", &PackedIntegers::decode, nb::arg("out"))
        .def("gather", &PackedIntegers::gather, nb::arg("ids"), nb::arg("out"));
    module.def("multiply_integers", &multiply_integers, nb::arg("weights"), nb::arg("x"), nb::arg("outs"));
    module.def("multiply_many", &multiply_many, nb::arg("weights"), nb::arg("x"), nb::arg("outs"));
    module.def("multiply_gated", &multiply_gated_many, nb::arg("gate"), nb::arg("up"), nb::arg("activation"),
               nb::arg("x"), nb::arg("out").noconvert());
}

}  // namespace halfpint

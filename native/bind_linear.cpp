// halfpint.kernels._native.PackedWeight: a weight in its compact bytes, with products and decoding. The object keeps
// the arrays it was made from alive; they may be maps of a file.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <stdexcept>
#include <string>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace halfpint {
namespace {

using Bytes = nb::ndarray<const std::uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats1 = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using Floats2 = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Output = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Ids = nb::ndarray<const std::int64_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

struct KindRow {
    const char* name;
    std::size_t block_columns;
    std::size_t block_bytes;
};

constexpr std::array<KindRow, static_cast<std::size_t>(WeightKind::count)> kKindRows{{
    {"f32", 1, 4},      {"f16", 1, 2},      {"bf16", 1, 2},     {"q8_0", 32, 34},   {"q4_0", 32, 18},
    {"q4_1", 32, 20},   {"q5_0", 32, 22},   {"q5_1", 32, 24},   {"q2_k", 256, 84},  {"q3_k", 256, 110},
    {"q4_k", 256, 144}, {"q5_k", 256, 176}, {"q6_k", 256, 210}, {"iq4_nl", 32, 18}, {"iq4_xs", 256, 136},
    {"codes4", 2, 1},   {"codes8", 1, 1},
}};

// Rows that one thread takes at a time: at least 256 Ki weights (some 50 us), so that waking
// threads, and waiting for one that the system has put aside, does not cost more than it gains.
constexpr std::size_t kLeastWeights = 1 << 18;

std::size_t row_grain(const Weight& weight, std::size_t tokens) {
    const std::size_t row_work = weight.columns * (1 + tokens / 8);  // tokens are cheap beside decoding
    const std::size_t least = kLeastWeights / row_work + 1;
    const std::size_t shares = 4 * static_cast<std::size_t>(thread_count());
    const std::size_t rows = std::max(least, (weight.rows + shares - 1) / shares);
    return (rows + kScratchRows - 1) / kScratchRows * kScratchRows;
}

LevelKind level_kind(const Floats1& levels) {
    const auto holds = [&](auto code_of) {
        for (std::size_t i = 0; i < levels.shape(0); ++i)
            if (levels.data()[i] != static_cast<float>(code_of(i))) return false;
        return true;
    };
    if (holds([](std::size_t i) { return static_cast<std::int8_t>(i); })) return LevelKind::signed_codes;
    return holds([](std::size_t i) { return i; }) ? LevelKind::unsigned_codes : LevelKind::table;
}

class PackedWeight {
public:
    PackedWeight(const std::string& kind, Bytes data, std::size_t rows, std::size_t columns) : data_(std::move(data)) {
        const auto row = std::find_if(kKindRows.begin(), kKindRows.end(),
                                      [&](const KindRow& known) { return kind == known.name; });
        require(row != kKindRows.end(), "no such kind of weight");
        require(rows > 0 && columns > 0, "a weight has rows and columns");
        require(columns < (std::size_t{1} << 40) && rows < (std::size_t{1} << 40), "a weight is not that large");
        const bool padded = kind == "codes4";  // an odd last column leaves half a byte
        require(padded || columns % row->block_columns == 0, "columns do not divide into blocks");
        const std::size_t blocks = (columns + row->block_columns - 1) / row->block_columns;
        const std::size_t row_bytes = blocks * row->block_bytes;
        require(rows <= std::numeric_limits<std::size_t>::max() / row_bytes && data_.shape(0) == rows * row_bytes,
                "the data do not have the bytes of this shape");
        weight_ = {static_cast<WeightKind>(row - kKindRows.begin()), rows, columns, data_.data(), row_bytes, {}};
    }

    void set_codebook(Floats1 levels, Bytes scales, const std::string& scale_kind, std::size_t group_columns,
                      std::size_t rows_per_scale, std::optional<Bytes> zero_points,
                      std::optional<Floats1> scale_table) {
        const bool narrow = weight_.kind == WeightKind::codes4;
        require(narrow || weight_.kind == WeightKind::codes8, "only codes have a codebook");
        require(levels.shape(0) == (narrow ? 16u : 256u), "one level per code");
        require(group_columns > 0 && rows_per_scale > 0, "groups are not empty");
        const std::size_t groups = (weight_.columns + group_columns - 1) / group_columns;
        const std::size_t scale_rows = (weight_.rows + rows_per_scale - 1) / rows_per_scale;
        const ScaleKind kind = scale_kind == "f32"   ? ScaleKind::f32
                               : scale_kind == "f16" ? ScaleKind::f16
                               : scale_kind == "bf16" ? ScaleKind::bf16
                                                      : ScaleKind::table;
        const std::size_t width = kind == ScaleKind::f32 ? 4 : kind == ScaleKind::table ? 1 : 2;
        require(scales.shape(0) == scale_rows * groups * width, "one scale per group");
        require(!zero_points || zero_points->shape(0) == weight_.rows * groups, "one zero point per group");
        require((kind == ScaleKind::table) == scale_table.has_value(), "a table of scales goes with its kind");
        require(!scale_table || scale_table->shape(0) == 256, "one scale per byte");
        levels_ = std::move(levels);
        scales_ = std::move(scales);
        zero_points_ = std::move(zero_points);
        scale_table_ = std::move(scale_table);
        weight_.codebook = {levels_->data(),
                            scales_->data(),
                            zero_points_ ? zero_points_->data() : nullptr,
                            scale_table_ ? scale_table_->data() : nullptr,
                            level_kind(*levels_),
                            kind,
                            groups,
                            group_columns,
                            rows_per_scale};
    }

    void forward(Floats2 x, Output out) const {
        require_ready();
        require(x.shape(1) == weight_.columns, "x has the columns of the weight");
        require(out.shape(0) == x.shape(0) && out.shape(1) == weight_.rows, "out is [tokens, rows]");
        const auto& kernels = linear_kernels();
        const std::size_t tokens = x.shape(0);
        const float* input = x.data();
        float* output = out.data();
        const nb::gil_scoped_release released;
        parallel_for(weight_.rows, row_grain(weight_, tokens), [&](std::size_t begin, std::size_t end) {
            const Scratch scratch(scratch_floats(weight_, tokens));
            kernels.product(weight_, begin, end, input, tokens, output, scratch.get());
        });
    }

    void decode(std::size_t first_row, Output out) const {
        require_ready();
        const std::size_t rows = out.shape(0);
        require(first_row <= weight_.rows && rows <= weight_.rows - first_row, "rows are in the weight");
        require(out.shape(1) == weight_.columns, "out has the columns of the weight");
        const auto& kernels = linear_kernels();
        float* output = out.data();
        const nb::gil_scoped_release released;
        parallel_for(rows, kLeastWeights / weight_.columns + 1, [&](std::size_t begin, std::size_t end) {
            for (std::size_t row = begin; row < end; ++row)
                kernels.decode_row(weight_, first_row + row, output + row * weight_.columns);
        });
    }

    void gather(Ids ids, Output out) const {
        require_ready();
        require(out.shape(0) == ids.shape(0) && out.shape(1) == weight_.columns, "out is [ids, columns]");
        for (std::size_t i = 0; i < ids.shape(0); ++i)
            require(ids.data()[i] >= 0 && static_cast<std::size_t>(ids.data()[i]) < weight_.rows, "ids are rows");
        const auto& kernels = linear_kernels();
        for (std::size_t i = 0; i < ids.shape(0); ++i)
            kernels.decode_row(weight_, static_cast<std::size_t>(ids.data()[i]), out.data() + i * weight_.columns);
    }

private:
    void require_ready() const {
        const bool coded = weight_.kind == WeightKind::codes4 || weight_.kind == WeightKind::codes8;
        require(!coded || levels_.has_value(), "codes need a codebook first");
    }

    Bytes data_;
    std::optional<Floats1> levels_, scale_table_;
    std::optional<Bytes> scales_, zero_points_;
    Weight weight_;
};

}  // namespace

void bind_linear(nb::module_& module);
void bind_linear(nb::module_& module) {
    module.def("linear_isa", [] { return linear_kernels().isa; });
    nb::class_<PackedWeight>(module, "PackedWeight")
        .def(nb::init<const std::string&, Bytes, std::size_t, std::size_t>(), nb::arg("kind"), nb::arg("data"),
             nb::arg("rows"), nb::arg("columns"))
        .def("set_codebook", &PackedWeight::set_codebook, nb::arg("levels"), nb::arg("scales"), nb::arg("scale_kind"),
             nb::arg("group_columns"), nb::arg("rows_per_scale"), nb::arg("zero_points").none(),
             nb::arg("scale_table").none())
        .def("forward", &PackedWeight::forward, nb::arg("x"), out("out"))
        .def("decode", &PackedWeight::decode, nb::arg("first_row"), out("out"))
        .def("gather", &PackedWeight::gather, nb::arg("ids"), out("out"));
}

}  // namespace halfpint

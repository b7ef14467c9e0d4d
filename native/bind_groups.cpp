// The encoder of codes in groups and their decoder for NumPy: checked here, once.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/tuple.h>

#include <algorithm>
#include <optional>
#include <stdexcept>
#include <tuple>
#include <utility>
#include <vector>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_groups(nb::module_& module);

namespace {

// Weights a thread takes at a time.
constexpr std::size_t kWeightsAtOnce = 65536;

using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using WriteAnyMatrix = nb::ndarray<nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReadFloats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using ReadFloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Bytes = nb::ndarray<std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReadBytes = nb::ndarray<const std::uint8_t, nb::ndim<2>, nb::c_contig, nb::device::cpu>;

// What `halfpint.formats` says of a format with codes in groups, and of the search for its scales.
struct GroupSearch {
    std::size_t group_rows;
    std::size_t group_columns;
    CodeKind code_kind;
    float lowest;
    float highest;
    GroupScale scale_kind;
    float smallest_scale;
    float largest_scale;
    StartKind start_kind;
    std::vector<float> starts;
    std::vector<float> steps;
    int refits;

    std::size_t groups_down(std::size_t rows) const { return (rows + group_rows - 1) / group_rows; }
    std::size_t groups_across(std::size_t columns) const { return (columns + group_columns - 1) / group_columns; }
    std::size_t scale_bytes() const {
        if (scale_kind == GroupScale::f32) return 4;
        return scale_kind == GroupScale::e8m0 || scale_kind == GroupScale::shared_e4m3 ? 1 : 2;
    }

    GroupEncoding encoding() const {
        GroupEncoding made{};
        made.group_rows = group_rows;
        made.group_columns = group_columns;
        made.code_kind = code_kind;
        made.lowest = lowest;
        made.highest = highest;
        made.scale_kind = scale_kind;
        made.smallest_scale = smallest_scale;
        made.largest_scale = largest_scale;
        made.start_kind = start_kind;
        made.starts = reinterpret_cast<const GroupStart*>(starts.data());
        made.start_count = static_cast<int>(starts.size() / 2);
        made.steps = reinterpret_cast<const GroupStep*>(steps.data());
        made.step_count = static_cast<int>(steps.size() / 3);
        made.refits = refits;
        return made;
    }
};
static_assert(sizeof(GroupStart) == 2 * sizeof(float) && sizeof(GroupStep) == 3 * sizeof(float));

void make_search(GroupSearch* self, std::pair<std::size_t, std::size_t> group, std::tuple<int, float, float> levels,
                 std::tuple<int, float, float> scales, int start_kind, const ReadFloatMatrix& starts,
                 const ReadFloatMatrix& steps, int refits) {
    const auto [code_kind, lowest, highest] = levels;
    const auto [scale_kind, smallest, largest] = scales;
    require(group.first > 0 && group.second > 0, "a group has at least one weight");
    require(code_kind >= 0 && code_kind <= 3 && scale_kind >= 0 && scale_kind <= 4, "no such levels or scales");
    require(start_kind >= 0 && start_kind <= 3, "no such starts");
    require(starts.shape(1) == 2 && steps.shape(1) == 3, "starts must be [count, 2] and steps [count, 3]");
    new (self) GroupSearch{group.first,
                           group.second,
                           static_cast<CodeKind>(code_kind),
                           lowest,
                           highest,
                           static_cast<GroupScale>(scale_kind),
                           smallest,
                           largest,
                           static_cast<StartKind>(start_kind),
                           {starts.data(), starts.data() + starts.size()},
                           {steps.data(), steps.data() + steps.size()},
                           refits};
}

void encode_groups(const GroupSearch& search, const AnyMatrix& weight, bool halves,
                   std::optional<ReadFloatMatrix> importance, float shared_scale, Bytes codes, WriteAnyMatrix scales,
                   std::optional<Bytes> zero_points) {
    const std::size_t rows = weight.shape(0), columns = weight.shape(1);
    const std::size_t down = search.groups_down(rows), across = search.groups_across(columns);
    GroupEncoding encoding = search.encoding();
    require(codes.shape(0) == rows && codes.shape(1) == columns, "codes must have the weight's shape");
    require(scales.shape(0) == down && scales.shape(1) == across, "scales must be one for each group");
    require(scales.itemsize() == search.scale_bytes(), "scales have another type");
    require(zero_points.has_value() == (search.start_kind == StartKind::range),
            "codes of a range, and they alone, have zero points");
    if (zero_points) {
        require(zero_points->shape(0) == down && zero_points->shape(1) == across,
                "zero points must be one for each group");
        encoding.zero_points = zero_points->data();
    }
    if (importance) {
        require(importance->shape(1) == columns && (importance->shape(0) == rows || importance->shape(0) == 1),
                "importance must be [1, columns] or [rows, columns]");
        encoding.importance = importance->data();
        encoding.importance_stride = importance->shape(0) == rows && rows > 1 ? columns : 0;
    }
    const bool wide = weight.dtype() == nb::dtype<float>();
    require(wide || weight.dtype() == nb::dtype<std::uint16_t>(),
            "weight must be float32, or uint16 words of 16-bit floats");
    encoding.kind = wide ? FloatKind::f32 : halves ? FloatKind::f16 : FloatKind::bf16;
    encoding.values = weight.data();
    encoding.rows = rows;
    encoding.columns = columns;
    encoding.shared_scale = shared_scale;
    encoding.codes = codes.data();
    encoding.scales = scales.data();
    const GroupKernels& kernels = group_kernels();
    const std::size_t total = down * across, batch_weights = kernels.lanes * search.group_rows * search.group_columns;
    const std::size_t batches = (total + kernels.lanes - 1) / kernels.lanes;
    nb::gil_scoped_release released;
    parallel_for(batches, kWeightsAtOnce / batch_weights + 1, [&](std::size_t begin, std::size_t end) {
        const Scratch scratch(2 * batch_weights);
        kernels.encode(encoding, begin * kernels.lanes, std::min(total, end * kernels.lanes), scratch.get());
    });
}

void decode_codes(const ReadBytes& codes, const ReadFloats& values, const ReadFloatMatrix& scales,
                  std::optional<ReadFloatMatrix> zero_points, std::pair<std::size_t, std::size_t> shared,
                  FloatMatrix out) {
    const std::size_t rows = codes.shape(0), columns = codes.shape(1);
    const auto [group_rows, group_columns] = shared;
    require(values.shape(0) == 256, "every code needs a value");
    require(group_rows > 0 && group_columns > 0, "a scale belongs to at least one weight");
    const std::size_t row_groups = (rows + group_rows - 1) / group_rows;
    const std::size_t groups = (columns + group_columns - 1) / group_columns;
    require(scales.shape(0) == row_groups && scales.shape(1) == groups, "scales have another shape than the codes need");
    require(!zero_points || (zero_points->shape(0) == row_groups && zero_points->shape(1) == groups),
            "zero points have another shape than the scales");
    require(out.shape(0) == rows && out.shape(1) == columns, "out must have the shape of the codes");
    const GroupDecoding decoding{.codes = codes.data(),
                                 .values = values.data(),
                                 .scales = scales.data(),
                                 .zero_points = zero_points ? zero_points->data() : nullptr,
                                 .columns = columns,
                                 .group_rows = group_rows,
                                 .group_columns = group_columns,
                                 .out = out.data()};
    const GroupKernels& kernels = group_kernels();
    nb::gil_scoped_release released;
    parallel_for(rows, 4 * kWeightsAtOnce / (columns + 1) + 1,
                 [&](std::size_t begin, std::size_t end) { kernels.decode(decoding, begin, end); });
}

}  // namespace

void bind_groups(nb::module_& module) {
    nb::class_<GroupSearch>(module, "GroupSearch").def("__init__", &make_search);
    module.def("encode_groups", &encode_groups, nb::arg("search"), nb::arg("weight"), nb::arg("halves"),
               nb::arg("importance").none(), nb::arg("shared_scale"), out("codes"), out("scales"),
               out("zero_points").none());
    module.def("decode_codes", &decode_codes, nb::arg("codes"), nb::arg("values"), nb::arg("scales"),
               nb::arg("zero_points").none(), nb::arg("shared"), out("out"));
}
}  // namespace halfpint

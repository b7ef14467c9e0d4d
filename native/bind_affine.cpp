// The encoder of integers in groups and the decoder of plain codes for NumPy: checked here, once.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <algorithm>
#include <memory>
#include <new>
#include <optional>
#include <stdexcept>
#include <utility>

#include "dispatch.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_affine(nb::module_& module);

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

void require(bool condition, const char* message) {
    if (!condition) throw std::invalid_argument(message);
}

// Floats aligned for vectors of any width.
class Scratch {
public:
    explicit Scratch(std::size_t count)
        : floats_(static_cast<float*>(::operator new(count * sizeof(float), std::align_val_t{64}))) {}
    float* get() const { return floats_.get(); }

private:
    struct Free {
        void operator()(float* floats) const { ::operator delete(floats, std::align_val_t{64}); }
    };
    std::unique_ptr<float, Free> floats_;
};

// What `halfpint.formats.affine` says of a format and of the search for its scales.
struct AffineSearch {
    std::size_t group_columns;
    bool symmetric;
    float lowest;
    float highest;
    int scale_kind;
    float smallest_scale;
    float largest_scale;
    ReadFloatMatrix starts;
    ReadFloatMatrix steps;
    int refits;

    void fill(AffineEncoding& encoding) const {
        encoding.group_columns = group_columns;
        encoding.symmetric = symmetric;
        encoding.lowest = lowest;
        encoding.highest = highest;
        encoding.scale_kind = static_cast<AffineScale>(scale_kind);
        encoding.smallest_scale = smallest_scale;
        encoding.largest_scale = largest_scale;
        encoding.starts = reinterpret_cast<const AffineStart*>(starts.data());
        encoding.start_count = static_cast<int>(starts.shape(0));
        encoding.steps = reinterpret_cast<const AffineStep*>(steps.data());
        encoding.step_count = static_cast<int>(steps.shape(0));
        encoding.refits = refits;
    }
};
static_assert(sizeof(AffineStart) == 2 * sizeof(float) && sizeof(AffineStep) == 3 * sizeof(float));

AffineSearch make_search(std::size_t group_columns, bool symmetric, std::pair<float, float> codes, int scale_kind,
                         std::pair<float, float> scales, ReadFloatMatrix starts, ReadFloatMatrix steps, int refits) {
    require(group_columns > 0 && scale_kind >= 0 && scale_kind <= 2, "no such search");
    require(starts.shape(1) == 2 && steps.shape(1) == 3, "starts must be [count, 2] and steps [count, 3]");
    return {group_columns, symmetric,     codes.first,       codes.second,     scale_kind,
            scales.first,  scales.second, std::move(starts), std::move(steps), refits};
}

void encode_affine(const AffineSearch& search, const AnyMatrix& weight, bool halves,
                   std::optional<ReadFloatMatrix> importance, Bytes codes, WriteAnyMatrix scales,
                   std::optional<Bytes> zero_points) {
    const std::size_t rows = weight.shape(0), columns = weight.shape(1);
    AffineEncoding encoding{};
    search.fill(encoding);
    const std::size_t groups = (columns + search.group_columns - 1) / search.group_columns;
    require(codes.shape(0) == rows && codes.shape(1) == columns, "codes must have the weight's shape");
    require(scales.shape(0) == rows && scales.shape(1) == groups, "scales must be [rows, groups]");
    require(scales.itemsize() == (encoding.scale_kind == AffineScale::f32 ? 4u : 2u), "scales have another type");
    require(zero_points.has_value() != search.symmetric, "asymmetric codes, and they alone, have zero points");
    if (zero_points) {
        require(zero_points->shape(0) == rows && zero_points->shape(1) == groups, "zero points must be [rows, groups]");
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
    encoding.columns = columns;
    encoding.codes = codes.data();
    encoding.scales = scales.data();
    const AffineKernels& kernels = affine_kernels();
    const std::size_t total = rows * groups, batch_weights = kernels.lanes * search.group_columns;
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
    const auto [scale_rows, group_columns] = shared;
    require(values.shape(0) == 256, "every code needs a value");
    require(scale_rows > 0 && group_columns > 0, "a scale belongs to at least one weight");
    const std::size_t row_groups = (rows + scale_rows - 1) / scale_rows;
    const std::size_t groups = (columns + group_columns - 1) / group_columns;
    require(scales.shape(0) == row_groups && scales.shape(1) == groups, "scales have another shape than the codes need");
    require(!zero_points || (zero_points->shape(0) == row_groups && zero_points->shape(1) == groups),
            "zero points have another shape than the scales");
    require(out.shape(0) == rows && out.shape(1) == columns, "out must have the shape of the codes");
    const PlainDecoding decoding{codes.data(),  values.data(), scales.data(), zero_points ? zero_points->data() : nullptr,
                                 columns,       group_columns, scale_rows,    out.data()};
    const AffineKernels& kernels = affine_kernels();
    nb::gil_scoped_release released;
    parallel_for(rows, 4 * kWeightsAtOnce / (columns + 1) + 1,
                 [&](std::size_t begin, std::size_t end) { kernels.decode(decoding, begin, end); });
}

}  // namespace

void bind_affine(nb::module_& module) {
    nb::class_<AffineSearch>(module, "AffineSearch")
        .def("__init__", [](AffineSearch* self, std::size_t group_columns, bool symmetric, std::pair<float, float> codes,
                            int scale_kind, std::pair<float, float> scales, ReadFloatMatrix starts,
                            ReadFloatMatrix steps, int refits) {
            new (self) AffineSearch(make_search(group_columns, symmetric, codes, scale_kind, scales, std::move(starts),
                                                std::move(steps), refits));
        });
    module.def("encode_affine", &encode_affine, nb::arg("search"), nb::arg("weight"), nb::arg("halves"),
               nb::arg("importance").none(), nb::arg("codes"), nb::arg("scales"), nb::arg("zero_points").none());
    module.def("decode_codes", &decode_codes, nb::arg("codes"), nb::arg("values"), nb::arg("scales"),
               nb::arg("zero_points").none(), nb::arg("shared"), nb::arg("out"));
}
}  // namespace halfpint

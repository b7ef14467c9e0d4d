// Encoders and decoders for NumPy: shapes and types are checked here, once.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>

#include <optional>
#include <stdexcept>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "threads.hpp"

namespace nb = nanobind;

namespace halfpint {
void bind_encode(nb::module_& module);

namespace {

// Weights a thread takes at a time: a few tenths of a millisecond.
constexpr std::size_t kWeightsAtOnce = 16384;

using AnyMatrix = nb::ndarray<nb::ro, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Floats = nb::ndarray<const float, nb::ndim<1>, nb::c_contig, nb::device::cpu>;
using FloatMatrix = nb::ndarray<float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using ReadFloatMatrix = nb::ndarray<const float, nb::ndim<2>, nb::c_contig, nb::device::cpu>;
using Blocks = nb::ndarray<std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;
using ReadBlocks = nb::ndarray<const std::uint8_t, nb::ndim<3>, nb::c_contig, nb::device::cpu>;

// Columns and bytes of a block of a ggml type.
struct BlockLayout {
    std::size_t columns;
    std::size_t bytes;
};

BlockLayout block_layout(int type) {
    BlockLayout layout{};
    require(encode_kernels().block_layout(type, layout.columns, layout.bytes), "no such format");
    return layout;
}

// float32, or 16-bit words that are bfloat16 unless `halves`.
FloatKind float_kind(const AnyMatrix& weight, bool halves) {
    if (weight.dtype() == nb::dtype<float>()) return FloatKind::f32;
    require(weight.dtype() == nb::dtype<std::uint16_t>(), "weight must be float32, or uint16 words of 16-bit floats");
    return halves ? FloatKind::f16 : FloatKind::bf16;
}

void encode_blocks(int type, const AnyMatrix& weight, bool halves, std::optional<ReadFloatMatrix> importance,
                   const std::pair<Floats, Floats>& targets, Blocks blocks) {
    const std::size_t rows = weight.shape(0), columns = weight.shape(1);
    const std::size_t count = blocks.shape(0) * blocks.shape(1);
    require(blocks.shape(0) == rows && blocks.shape(1) > 0, "blocks must have the weight's rows");
    const std::size_t block_columns = columns / blocks.shape(1);
    require(block_columns * blocks.shape(1) == columns, "columns must be whole blocks");
    require(block_layout(type).columns == block_columns && block_layout(type).bytes == blocks.shape(2),
            "blocks must have the format's columns and bytes");
    GgmlEncoding encoding{};
    encoding.values = weight.data();
    encoding.kind = float_kind(weight, halves);
    encoding.columns = columns;
    if (importance) {
        require(importance->shape(1) == columns && (importance->shape(0) == rows || importance->shape(0) == 1),
                "importance must be [1, columns] or [rows, columns]");
        encoding.importance = importance->data();
        encoding.importance_stride = importance->shape(0) == rows && rows > 1 ? columns : 0;
    }
    encoding.targets = targets.first.data();
    encoding.target_count = static_cast<int>(targets.first.shape(0));
    encoding.block_targets = targets.second.data();
    encoding.block_target_count = static_cast<int>(targets.second.shape(0));
    encoding.blocks = blocks.data();
    const EncodeKernels& kernels = encode_kernels();
    nb::gil_scoped_release released;
    parallel_for(count, kWeightsAtOnce / block_columns,
                 [&](std::size_t begin, std::size_t end) { kernels.encode_ggml(type, encoding, begin, end); });
}

void decode_blocks(int type, const ReadBlocks& blocks, FloatMatrix out) {
    const std::size_t count = blocks.shape(0) * blocks.shape(1);
    const BlockLayout layout = block_layout(type);
    require(blocks.shape(2) == layout.bytes, "blocks must have the format's bytes");
    require(out.shape(0) == blocks.shape(0) && out.shape(1) == blocks.shape(1) * layout.columns,
            "out must be [rows, columns] of the blocks");
    const EncodeKernels& kernels = encode_kernels();
    const std::uint8_t* source = blocks.data();
    float* target = out.data();
    nb::gil_scoped_release released;
    parallel_for(count, 4 * kWeightsAtOnce / layout.columns, [&](std::size_t begin, std::size_t end) {
        kernels.decode_ggml(type, source + begin * layout.bytes, end - begin, target + begin * layout.columns);
    });
}

float largest_magnitude(const AnyMatrix& weight, bool halves) {
    const FloatKind kind = float_kind(weight, halves);
    const std::size_t count = weight.size();
    const void* values = weight.data();
    const EncodeKernels& kernels = encode_kernels();
    nb::gil_scoped_release released;
    return kernels.largest_magnitude(values, kind, count);
}

}  // namespace

void bind_encode(nb::module_& module) {
    module.def("encode_isa", [] { return encode_kernels().isa; });
    module.def("encode_blocks", &encode_blocks, nb::arg("type_id"), nb::arg("weight"), nb::arg("halves"),
               nb::arg("importance").none(), nb::arg("targets"), out("blocks"));
    module.def("decode_blocks", &decode_blocks, nb::arg("type_id"), nb::arg("blocks"), out("out"));
    module.def("largest_magnitude", &largest_magnitude, nb::arg("weight"), nb::arg("halves"));
}
}  // namespace halfpint

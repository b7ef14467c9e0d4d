// halfpint.kernels._native.PackedIntegers: a weight in the layout of isa/integer.hpp, and the memory that it takes.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>

#include <algorithm>
#include <array>
#include <optional>
#include <stdexcept>
#include <string>

#include "arguments.hpp"
#include "dispatch.hpp"
#include "lines.hpp"
#include "products.hpp"
#include "threads.hpp"

namespace halfpint {

inline constexpr std::array<const char*, static_cast<std::size_t>(IntegerKind::count)> kKindNames{
    "q4_0", "q4_1",   "q5_0",  "q5_1", "q8_0", "iq4_nl", "q2_k", "q3_k", "q4_k", "q5_k", "q6_k",
    "iq4_xs", "mxfp4", "nvfp4", "nf4", "int2", "int3",   "int4", "int5", "int6", "int7", "int8"};

class PackedIntegers {
public:
    template <typename Number, std::size_t dimensions>
    using Numbers = nanobind::ndarray<Number, nanobind::ndim<dimensions>, nanobind::c_contig, nanobind::device::cpu>;
    using Bytes = Numbers<const std::uint8_t, 1>;
    using Floats = Numbers<const float, 1>;
    using Output = Numbers<float, 2>;
    using Ids = Numbers<const std::int64_t, 1>;

    PackedIntegers(const std::string& kind, std::size_t rows, std::size_t columns, const std::string& scale,
                   std::size_t scale_columns, bool zero_points, std::optional<Floats> levels, float outer)
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

    // The weight, once it is packed.
    const IntegerWeight& weight() const {
        require(packed_, "a weight is packed first");
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
        const nanobind::gil_scoped_release released;
        parallel_for(weight_.row_blocks(), grain(), [&](std::size_t begin, std::size_t end) {
            packers.pack(weight_, begin, end, source);
        });
        packed_ = true;
    }

    void decode(Output out) const {
        require(out.shape(0) == weight().rows && out.shape(1) == weight_.columns, "out is [rows, columns]");
        const auto& packers = integer_packers();
        float* output = out.data();
        const nanobind::gil_scoped_release released;
        parallel_for(weight_.row_blocks(), grain(), [&](std::size_t begin, std::size_t end) {
            for (std::size_t row = begin * kBlockRows; row < std::min(end * kBlockRows, weight_.rows); ++row)
                packers.decode_row(weight_, row, output + row * weight_.columns);
        });
    }

    void gather(Ids ids, Output out) const {
        require(out.shape(0) == ids.shape(0) && out.shape(1) == weight().columns, "out is [ids, columns]");
        for (std::size_t i = 0; i < ids.shape(0); ++i)
            require(ids.data()[i] >= 0 && static_cast<std::size_t>(ids.data()[i]) < weight_.rows, "ids are rows");
        const auto& packers = integer_packers();
        for (std::size_t i = 0; i < ids.shape(0); ++i)
            packers.decode_row(weight_, static_cast<std::size_t>(ids.data()[i]), out.data() + i * weight_.columns);
    }

private:
    template <std::size_t count>
    static std::size_t index_of(const std::array<const char*, count>& names, const std::string& name, const char* what) {
        const auto found = std::find_if(names.begin(), names.end(), [&](const char* known) { return name == known; });
        require(found != names.end(), what);
        return static_cast<std::size_t>(found - names.begin());
    }

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

}  // namespace halfpint

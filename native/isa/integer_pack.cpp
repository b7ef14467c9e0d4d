// From file bytes to the layout of integer.hpp, and single rows back. Plain loops that the compiler turns into the
// vectors of each instruction set: 4 GB of weights are packed in a few seconds.
#include <cstring>

#include "formats/ggml_blocks.hpp"
#include "isa/integer.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

#include "isa/integer_header.hpp"
#include "isa/integer_planes.hpp"

// Where super-block `super` of a block of rows begins, and how many groups it has.
struct Super {
    std::size_t offset, groups, column;
};

inline Super super_at(const IntegerWeight& weight, std::size_t super) {
    const std::size_t first = super * kSuperGroups;
    return {row_header_bytes(weight) + super * super_bytes(weight, kSuperGroups),
            std::min(kSuperGroups, weight.groups() - first), super * kSuperColumns};
}

inline std::size_t supers(const IntegerWeight& weight) { return (weight.groups() + kSuperGroups - 1) / kSuperGroups; }

inline void write_codes(const RowFields* rows, const IntegerWeight& weight, const Super& super, std::uint8_t* out) {
    std::uint8_t lines[kGroupLines][kLineBytes];
    for (std::size_t group = 0; group < super.groups; ++group) {
        to_group_lines(rows, group, lines);
        out = write_planes_of(lines, code_bits(weight.kind), out);
    }
}

inline void read_codes(const std::uint8_t* codes, const IntegerWeight& weight, const Super& super, std::size_t row,
                       std::uint8_t* out) {
    const std::size_t step = group_bytes(weight.kind);
    for (std::size_t group = 0; group < super.groups; ++group)
        read_planes_of(codes + group * step, code_bits(weight.kind), row, out + group * kGroupColumns);
}

// GGUF's kinds: F reads and writes blocks of the file, Header the lanes.
template <class F, class Header>
struct Blocks {
    static void read_row(const std::uint8_t* row_data, const Super& super, RowFields& out) {
        Fields fields{};
        const std::uint8_t* block = row_data + super.column / F::kColumns * F::kBytes;
        const std::size_t count = super.groups * kGroupColumns / F::kColumns;
        for (std::size_t i = 0; i < count; ++i, block += F::kBytes) {
            F::read(block, fields);
            out.scale[i] = fields.scale;
            out.minimum[i] = fields.minimum;
            std::memcpy(out.codes + i * F::kColumns, fields.codes, F::kColumns);
        }
        std::memcpy(out.subscale, fields.subscale, sizeof out.subscale);
        std::memcpy(out.submin, fields.submin, sizeof out.submin);
    }

    static void pack(const IntegerWeight& weight, std::size_t index, const IntegerSource& source) {
        std::uint8_t* block = weight.data + index * weight.block_bytes;
        RowFields rows[kBlockRows] = {};
        for (std::size_t s = 0; s < supers(weight); ++s) {
            const Super super = super_at(weight, s);
            std::uint8_t* header = block + super.offset;
            const std::size_t header_size = header_bytes(weight, super.groups);
            std::memset(header, 0, header_size);
            for (std::size_t row = 0; row < kBlockRows && index * kBlockRows + row < weight.rows; ++row) {
                read_row(source.data + (index * kBlockRows + row) * source.row_bytes, super, rows[row]);
                Header::put(rows[row], row, super.groups, header);
            }
            write_codes(rows, weight, super, header + header_size);
        }
    }

    // By way of the file's block: its decoder is the one that every encoder is tested with.
    static void decode(const IntegerWeight& weight, std::size_t row, float* out) {
        const std::uint8_t* block = weight.data + row / kBlockRows * weight.block_bytes;
        for (std::size_t s = 0; s < supers(weight); ++s) {
            const Super super = super_at(weight, s);
            RowFields found;
            Header::get(block + super.offset, row % kBlockRows, super.groups, found);
            read_codes(block + super.offset + header_bytes(weight, super.groups), weight, super, row % kBlockRows,
                       found.codes);
            Fields fields{};
            std::memcpy(fields.subscale, found.subscale, sizeof fields.subscale);
            std::memcpy(fields.submin, found.submin, sizeof fields.submin);
            for (std::size_t i = 0; i < super.groups * kGroupColumns / F::kColumns; ++i) {
                std::uint8_t bytes[F::kBytes];
                fields.scale = found.scale[i];
                fields.minimum = found.minimum[i];
                std::memcpy(fields.codes, found.codes + i * F::kColumns, F::kColumns);
                F::write(fields, bytes);
                decode_block<F>(bytes, out + super.column + i * F::kColumns);
            }
        }
    }
};

inline float float_from(const std::uint8_t* bytes, IntegerScale scale) {
    if (scale == IntegerScale::f16) return half_to_float(read_u16(bytes));
    std::uint32_t bits = static_cast<std::uint32_t>(read_u16(bytes)) << 16;
    if (scale == IntegerScale::f32) std::memcpy(&bits, bytes, sizeof bits);
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Kinds that come as one code per byte with scales beside them: intN, and those with sixteen levels.
struct Codes {
    static std::size_t width(const IntegerWeight& weight) {
        if (is_affine(weight.kind)) return scale_width(weight.scale);
        return weight.kind == IntegerKind::nf4 ? 4 : 1;
    }
    // Columns that share a scale in the layout.
    static std::size_t shared(const IntegerWeight& weight) {
        switch (weight.kind) {
            case IntegerKind::mxfp4: return 32;
            case IntegerKind::nvfp4: return 16;
            case IntegerKind::nf4: return 64;
            default: return weight.scale_columns;
        }
    }
    // Symmetric codes are signed: what is added so that they are not.
    static int bias(const IntegerWeight& weight) {
        return is_affine(weight.kind) && !weight.zero_points ? 1 << (code_bits(weight.kind) - 1) : 0;
    }
    static std::size_t scale_count(const IntegerWeight& weight, const Super& super) {
        const std::size_t columns = shared(weight);
        return columns == 0 ? 0 : (super.groups * kGroupColumns + columns - 1) / columns;
    }

    static void read_row(const IntegerWeight& weight, const IntegerSource& source, const Super& super,
                         std::size_t row, RowFields& out) {
        const std::uint8_t* codes = source.data + row * source.row_bytes + super.column;
        const std::size_t count = std::min(super.groups * kGroupColumns, weight.columns - super.column);
        const int up = bias(weight), mask = (1 << code_bits(weight.kind)) - 1;
        std::memset(out.codes, 0, sizeof out.codes);
        for (std::size_t i = 0; i < count; ++i) out.codes[i] = static_cast<std::uint8_t>((codes[i] + up) & mask);
    }

    static void put_scales(const IntegerWeight& weight, const IntegerSource& source, const Super& super,
                           std::size_t row, std::uint8_t* header) {
        const std::size_t size = width(weight), count = scale_count(weight, super), lane = row % kBlockRows;
        for (std::size_t i = 0; i < count; ++i) {
            const std::size_t column = super.column + i * shared(weight);
            if (column >= weight.columns) break;  // padding within a group
            const std::size_t from = row * source.scale_groups + column / source.scale_columns;
            std::memcpy(header + (i * kBlockRows + lane) * size, source.scales + from * size, size);
            if (weight.zero_points)
                header[count * kBlockRows * size + i * kBlockRows + lane] = source.zero_points[from];
        }
    }

    static void put_row_header(const IntegerWeight& weight, const IntegerSource& source, std::size_t index,
                               std::uint8_t* block) {
        std::memset(block, 0, row_header_bytes(weight));
        for (std::size_t lane = 0; lane < kBlockRows && index * kBlockRows + lane < weight.rows; ++lane) {
            const std::size_t row = index * kBlockRows + lane;
            float factor = 0.5f;  // mxfp4: its table has twice the levels
            if (weight.kind == IntegerKind::nvfp4) factor = 0.5f / weight.outer;
            if (weight.kind == IntegerKind::nf4) factor = 1.0f / (127 * 128);
            if (is_affine(weight.kind)) {
                factor = float_from(source.scales + row * scale_width(weight.scale), weight.scale);
                if (weight.zero_points) block[kLineBytes + lane] = source.zero_points[row];
            }
            std::memcpy(block + 4 * lane, &factor, sizeof factor);
        }
    }

    static void pack(const IntegerWeight& weight, std::size_t index, const IntegerSource& source) {
        std::uint8_t* block = weight.data + index * weight.block_bytes;
        if (row_header_bytes(weight) != 0) put_row_header(weight, source, index, block);
        RowFields rows[kBlockRows] = {};
        for (std::size_t s = 0; s < supers(weight); ++s) {
            const Super super = super_at(weight, s);
            std::uint8_t* header = block + super.offset;
            const std::size_t header_size = header_bytes(weight, super.groups);
            std::memset(header, 0, header_size);
            for (std::size_t lane = 0; lane < kBlockRows && index * kBlockRows + lane < weight.rows; ++lane) {
                read_row(weight, source, super, index * kBlockRows + lane, rows[lane]);
                put_scales(weight, source, super, index * kBlockRows + lane, header);
            }
            write_codes(rows, weight, super, header + header_size);
        }
    }

    static float scale_of(const IntegerWeight& weight, const std::uint8_t* bytes) {
        if (weight.kind == IntegerKind::nf4) return float_from(bytes, IntegerScale::f32);
        if (is_affine(weight.kind)) return float_from(bytes, weight.scale);
        std::uint32_t bits = static_cast<std::uint32_t>(*bytes) << 23;
        if (weight.kind == IntegerKind::nvfp4)
            bits = static_cast<std::uint32_t>(*bytes & 128) << 24 | static_cast<std::uint32_t>(*bytes & 127) << 20;
        else if (bits == 0)
            bits = 1u << 22;  // 2^-127 is below the normal floats
        float value;
        std::memcpy(&value, &bits, sizeof value);
        return weight.kind == IntegerKind::nvfp4 ? value * 0x1p120f / weight.outer : value;
    }

    static void decode(const IntegerWeight& weight, std::size_t row, float* out) {
        const std::size_t lane = row % kBlockRows, size = width(weight);
        const std::uint8_t* block = weight.data + row / kBlockRows * weight.block_bytes;
        const bool whole_row = is_affine(weight.kind) && weight.scale_columns == 0;
        std::uint8_t codes[kSuperColumns];
        for (std::size_t s = 0; s < supers(weight); ++s) {
            const Super super = super_at(weight, s);
            const std::uint8_t* header = block + super.offset;
            const std::size_t count = scale_count(weight, super);
            read_codes(header + header_bytes(weight, super.groups), weight, super, lane, codes);
            const std::size_t columns = std::min(super.groups * kGroupColumns, weight.columns - super.column);
            for (std::size_t i = 0; i < columns; ++i) {
                const std::size_t group = whole_row ? 0 : i / shared(weight);
                const std::uint8_t* zeros = whole_row ? block + kLineBytes : header + (count * size + group) * kBlockRows;
                const float scale = whole_row ? float_from(block + 4 * lane, IntegerScale::f32)
                                              : scale_of(weight, header + (group * kBlockRows + lane) * size);
                const int zero = weight.zero_points ? zeros[lane] : bias(weight);
                const float level = is_affine(weight.kind) ? static_cast<float>(codes[i] - zero) : weight.levels[codes[i]];
                out[super.column + i] = level * scale;
            }
        }
    }
};

template <class F>
void pack_blocks(const IntegerWeight& weight, std::size_t begin, std::size_t end, const IntegerSource& source) {
    for (std::size_t index = begin; index < end; ++index) F::pack(weight, index, source);
}

// Call f.operator()<packer>() for the packer of a kind.
template <class F>
void with_packer(IntegerKind kind, F&& f) {
    switch (kind) {
        case IntegerKind::q4_0: return f.template operator()<Blocks<Q4_0, HalvesHeader>>();
        case IntegerKind::q4_1: return f.template operator()<Blocks<Q4_1, HalfPairsHeader>>();
        case IntegerKind::q5_0: return f.template operator()<Blocks<Q5_0, HalvesHeader>>();
        case IntegerKind::q5_1: return f.template operator()<Blocks<Q5_1, HalfPairsHeader>>();
        case IntegerKind::q8_0: return f.template operator()<Blocks<Q8_0, HalvesHeader>>();
        case IntegerKind::iq4_nl: return f.template operator()<Blocks<Iq4Nl, HalvesHeader>>();
        case IntegerKind::q2_k: return f.template operator()<Blocks<Q2K, NibblePairsHeader>>();
        case IntegerKind::q3_k: return f.template operator()<Blocks<Q3K, SixBitHalvesHeader>>();
        case IntegerKind::q4_k: return f.template operator()<Blocks<Q4K, SixBitPairsHeader>>();
        case IntegerKind::q5_k: return f.template operator()<Blocks<Q5K, SixBitPairsHeader>>();
        case IntegerKind::q6_k: return f.template operator()<Blocks<Q6K, ByteHalvesHeader>>();
        case IntegerKind::iq4_xs: return f.template operator()<Blocks<Iq4Xs, SixBitGroupsHeader>>();
        default: return f.template operator()<Codes>();
    }
}

void pack(const IntegerWeight& weight, std::size_t begin, std::size_t end, const IntegerSource& source) {
    with_packer(weight.kind, [&]<class Packer>() { pack_blocks<Packer>(weight, begin, end, source); });
}

void decode_row(const IntegerWeight& weight, std::size_t row, float* out) {
    with_packer(weight.kind, [&]<class Packer>() { Packer::decode(weight, row, out); });
}

constexpr IntegerPackers kPackers{&pack, &decode_row};
}  // namespace

const IntegerPackers& integer_packers();
const IntegerPackers& integer_packers() { return kPackers; }

}  // namespace halfpint::HALFPINT_ISA

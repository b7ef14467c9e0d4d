// The contract of the integer products (isa/integer.cpp) and of their packers (isa/integer_pack.cpp), and the layout
// that both read: weights in few bits, times activations rounded to 8 bits.
//
// A weight is cut into blocks of 16 rows, a block into super-blocks of 256 columns, these into groups of 32 columns.
// Each block of rows is one stream of bytes, read once from its beginning to its end:
//
//     [row header] then for each super-block: [header: its scales] [codes of group 0] [codes of group 1] ...
//
// Every part is a multiple of 64 bytes. A line is 64 bytes: byte 4 r + b of line z belongs to row r and column 4 z + b
// of its group. Codes of a group are planes of bits, so that n bits take 64 n bytes, whatever n:
//
//     8 bits: 8 lines. Codes are stored as unsigned numbers (a signed code plus 128).
//     4 bits: 4 lines; line z holds columns 4 z + b in the low halves of bytes, columns 16 + 4 z + b in the high ones.
//     2 bits: 2 lines; bits 2 k and 2 k + 1 of line y are those of the columns of line 2 k + y.
//     1 bit: 1 line; bit z is that of the columns of line z.
//     7, 6, 5 and 3 bits: the planes 4 + 2 + 1, 4 + 2, 4 + 1, 2 + 1, lowest bits in the first.
//
// Headers hold lanes: one number for each of the 16 rows, side by side. What they hold is in header_bytes below. Rows
// beyond the last one are codes of zero with scales of zero; the last super-block has only the groups that are there.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace halfpint {

constexpr std::size_t kBlockRows = 16;
constexpr std::size_t kSuperColumns = 256;
constexpr std::size_t kGroupColumns = 32;
constexpr std::size_t kSuperGroups = kSuperColumns / kGroupColumns;
constexpr std::size_t kLineBytes = 64;

// The most tokens that a product takes at once.
constexpr std::size_t kMostTokens = 8;

enum class IntegerKind : int {
    q4_0 = 0,
    q4_1,
    q5_0,
    q5_1,
    q8_0,
    iq4_nl,
    q2_k,
    q3_k,
    q4_k,
    q5_k,
    q6_k,
    iq4_xs,
    mxfp4,
    nvfp4,
    nf4,
    int2,
    int3,
    int4,
    int5,
    int6,
    int7,
    int8,
    count,
};

enum class IntegerScale : int { f16 = 0, bf16, f32 };

// Facts of a kind. GGUF's kinds keep their sub-scales and halves; only their places change.
constexpr int code_bits(IntegerKind kind) {
    switch (kind) {
        case IntegerKind::q2_k:
        case IntegerKind::int2: return 2;
        case IntegerKind::q3_k:
        case IntegerKind::int3: return 3;
        case IntegerKind::q5_0:
        case IntegerKind::q5_1:
        case IntegerKind::q5_k:
        case IntegerKind::int5: return 5;
        case IntegerKind::q6_k:
        case IntegerKind::int6: return 6;
        case IntegerKind::int7: return 7;
        case IntegerKind::q8_0:
        case IntegerKind::int8: return 8;
        default: return 4;
    }
}

constexpr bool is_affine(IntegerKind kind) { return kind >= IntegerKind::int2 && kind <= IntegerKind::int8; }

constexpr std::size_t group_bytes(IntegerKind kind) { return kLineBytes * static_cast<std::size_t>(code_bits(kind)); }

constexpr std::size_t to_lines(std::size_t bytes) { return (bytes + kLineBytes - 1) / kLineBytes * kLineBytes; }

// A weight of shape [rows, columns] in this layout; it does not own its memory.
struct IntegerWeight {
    IntegerKind kind;
    std::size_t rows;
    std::size_t columns;
    std::uint8_t* data;         // aligned to a line
    std::size_t block_bytes;    // of one block of rows
    IntegerScale scale;         // intN: how scales are stored
    std::size_t scale_columns;  // intN: columns that share one: 16, 32, 64, 128 or 256; 0 when a row has a single one
    bool zero_points;           // intN: unsigned codes, with a zero point beside every scale
    float outer;                // nvfp4: what group scales are divided by
    const float* levels;        // mxfp4, nvfp4, nf4: the sixteen levels, for decoding

    constexpr std::size_t row_blocks() const { return (rows + kBlockRows - 1) / kBlockRows; }
    constexpr std::size_t groups() const { return (columns + kGroupColumns - 1) / kGroupColumns; }
};

constexpr std::size_t scale_width(IntegerScale scale) { return scale == IntegerScale::f32 ? 4 : 2; }

// Scales of an intN super-block with `groups` groups; none when rows have one each.
constexpr std::size_t scales_of(const IntegerWeight& weight, std::size_t groups) {
    const std::size_t columns = groups * kGroupColumns;
    return weight.scale_columns == 0 ? 0 : (columns + weight.scale_columns - 1) / weight.scale_columns;
}

// Bytes of a super-block's header.
constexpr std::size_t header_bytes(const IntegerWeight& weight, std::size_t groups) {
    switch (weight.kind) {
        case IntegerKind::q4_0:  // half[16] a group
        case IntegerKind::q5_0:
        case IntegerKind::q8_0:
        case IntegerKind::iq4_nl: return to_lines(32 * groups);
        case IntegerKind::q4_1:  // scale half[16], minimum half[16] a group
        case IntegerKind::q5_1: return 64 * groups;
        case IntegerKind::q4_k:  // scale half[16], minimum half[16]; 16 six-bit fields a row in 3 words[16]
        case IntegerKind::q5_k:  // (see SixBits in integer_scales.hpp): scale 0, minimum 0, scale 1, ...
        case IntegerKind::q3_k: return 256;  // scale half[16], 32 bytes unused; 16 six-bit fields, sub-scale + 32
        case IntegerKind::iq4_xs: return 128;  // scale half[16], field 7's rest u16[16], 5 + 3 six-bit fields
        case IntegerKind::q6_k:  // scale half[16], 32 bytes unused; words[4][16] of four int8 sub-scales each
        case IntegerKind::q2_k: return 320;  // scale half[16], minimum half[16]; words[4][16] of bytes: scale, minimum << 4
        case IntegerKind::mxfp4: return to_lines(16 * groups);  // exponent u8[16] a group
        case IntegerKind::nvfp4: return to_lines(32 * groups);  // e4m3[16] per 16 columns
        case IntegerKind::nf4: return 64 * ((groups + 1) / 2);  // float[16] per 64 columns
        default: break;
    }
    const std::size_t scales = scales_of(weight, groups);  // all scales [16] each, then all zero points u8[16]
    return to_lines(scales * kBlockRows * (scale_width(weight.scale) + (weight.zero_points ? 1 : 0)));
}

// Bytes of a block's row header: factors float[16] of whole rows, and zero points u8[16] of intN whose rows have one.
constexpr std::size_t row_header_bytes(const IntegerWeight& weight) {
    if (is_affine(weight.kind)) return weight.scale_columns != 0 ? 0 : weight.zero_points ? 128 : 64;
    const bool factor = weight.kind == IntegerKind::mxfp4 || weight.kind == IntegerKind::nvfp4 ||
                        weight.kind == IntegerKind::nf4;
    return factor ? 64 : 0;
}

constexpr std::size_t super_bytes(const IntegerWeight& weight, std::size_t groups) {
    return header_bytes(weight, groups) + groups * group_bytes(weight.kind);
}

constexpr std::size_t block_bytes_of(const IntegerWeight& weight) {
    const std::size_t whole = weight.groups() / kSuperGroups, rest = weight.groups() % kSuperGroups;
    return row_header_bytes(weight) + whole * super_bytes(weight, kSuperGroups) +
           (rest != 0 ? super_bytes(weight, rest) : 0);
}

// Where a weight's bytes come from: GGUF's blocks, or one code per byte with scales beside them.
struct IntegerSource {
    const std::uint8_t* data;         // [rows][row_bytes]
    std::size_t row_bytes;
    const std::uint8_t* scales;       // [rows][scale_groups], of the kind's width
    const std::uint8_t* zero_points;  // [rows][scale_groups], or null
    std::size_t scale_groups;
    std::size_t scale_columns;        // columns that share a scale in the source
};

// Activations [tokens, columns] in 8 bits: x = scale * code, one scale per group. Columns are padded with zeros to
// whole groups.
struct IntegerTokens {
    const std::int8_t* codes;           // [tokens][columns]
    const float* scales;                // [tokens][columns / 32]
    const std::int32_t* negative_sums;  // [tokens][columns / 16]: minus the sum of 16 codes
    const float* offsets;               // [tokens][columns / 32]: scale * sum of 32 codes, rounded once
    std::size_t columns;
};

struct IntegerKernels {
    const char* isa;
    // Round one token to codes; outputs as in IntegerTokens, `columns` of x are given, the rest is filled with zeros.
    // A group that holds NaN or infinity gets the scale NaN, one whose values are all below 2^-100 becomes zeros.
    void (*quantize)(const float* x, std::size_t columns, std::int8_t* codes, float* scales,
                     std::int32_t* negative_sums, float* offsets);
    // out[token * weight.rows + row] for all rows of blocks [block_begin, block_end); at most kMostTokens tokens. The
    // same bits for any division of blocks and tokens, on every instruction set. `next` is where the caller will read on
    // after these blocks, of this weight or another; null when that is not known.
    void (*product)(const IntegerWeight& weight, std::size_t block_begin, std::size_t block_end,
                    const IntegerTokens& x, std::size_t tokens, float* out, const std::uint8_t* next);
};

struct IntegerPackers {
    // Write blocks [block_begin, block_end) from the source.
    void (*pack)(const IntegerWeight& weight, std::size_t block_begin, std::size_t block_end,
                 const IntegerSource& source);
    // One row as float32: the same bits as the NumPy reference.
    void (*decode_row)(const IntegerWeight& weight, std::size_t row, float* out);
};

}  // namespace halfpint

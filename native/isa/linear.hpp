// The contract of the matrix products over packed weights (isa/linear.cpp).
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace halfpint {

// How the rows of a weight are stored. The GGUF kinds are ggml's block structs, byte for byte.
enum class WeightKind : int {
    f32 = 0,
    f16,
    bf16,
    q8_0,
    q4_0,
    q4_1,
    q5_0,
    q5_1,
    q2_k,
    q3_k,
    q4_k,
    q5_k,
    q6_k,
    iq4_nl,
    iq4_xs,
    codes4,  // two codes per byte, the even column in the low half; rows begin on whole bytes
    codes8,  // one code per byte
    count,
};

// What the levels of 8-bit codes are: any 256 numbers, or the codes themselves.
enum class LevelKind : int { table = 0, signed_codes, unsigned_codes };

enum class ScaleKind : int { f32 = 0, f16, bf16, table };

// weight[row][column] = (levels[code] - zero_point) * scale, both of the group that holds the column.
struct Codebook {
    const float* levels;               // 16 values, or 256
    const std::uint8_t* scales;        // [rows / rows_per_scale][groups], of scale_kind
    const std::uint8_t* zero_points;   // [rows][groups], or null
    const float* scale_table;          // 256 values when scale_kind is table
    LevelKind level_kind;
    ScaleKind scale_kind;
    std::size_t groups;                // per row
    std::size_t group_columns;
    std::size_t rows_per_scale;
};

// A weight of shape [rows, columns]; nothing here owns memory.
struct Weight {
    WeightKind kind;
    std::size_t rows;
    std::size_t columns;
    const std::uint8_t* data;
    std::size_t row_bytes;
    Codebook codebook;  // for codes4 and codes8
};

constexpr std::size_t kScratchRows = 16;

inline std::size_t blocks_of(std::size_t columns) { return (columns + 15) / 16; }

// Products of more tokens than kFewTokens lay out kScratchRows decoded rows, and so many tokens that they stay in the
// second-level cache until all rows were multiplied with them.
constexpr std::size_t kFewTokens = 4, kTokensStep = 6;
inline std::size_t tokens_at_once(std::size_t columns) {
    constexpr std::size_t floats = 1 << 18, least = 48;
    return std::max(least, floats / columns / kTokensStep * kTokensStep);
}
inline std::size_t scratch_floats(const Weight& weight, std::size_t tokens) {
    if (tokens <= kFewTokens) return 0;
    return (1 + kScratchRows + std::min(tokens, tokens_at_once(weight.columns))) * 16 * blocks_of(weight.columns);
}

struct LinearKernels {
    const char* isa;
    // out[token * weight.rows + row] = sum over columns of weight[row][column] * x[token * columns + column],
    // for rows in [row_begin, row_end), in float32, always in the same order of summation. `scratch` has room for
    // scratch_floats.
    void (*product)(const Weight& weight, std::size_t row_begin, std::size_t row_end, const float* x,
                    std::size_t tokens, float* out, float* scratch);
    // One row as float32: the same bits as the NumPy reference.
    void (*decode_row)(const Weight& weight, std::size_t row, float* out);
};

}  // namespace halfpint

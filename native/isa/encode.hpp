// The contract of the encoders and decoders, one implementation for all instruction sets (isa/encode.cpp).
#pragma once
#include <cstddef>
#include <cstdint>

namespace halfpint {

// How the weights to encode are stored.
enum class FloatKind { f32 = 0, bf16 = 1, f16 = 2 };

// A matrix to put into GGUF blocks; `block_bytes` apart, one per `block_columns` weights.
struct GgmlEncoding {
    const void* values;             // [rows * columns], as `kind` says
    FloatKind kind;
    const float* importance;        // null: all ones
    std::size_t importance_stride;  // floats from one row to the next: 0 or columns
    std::size_t columns;
    const float* targets;  // starts of the search, as SEARCHES in formats/ggml/encoding.py
    int target_count;
    const float* block_targets;
    int block_target_count;
    std::uint8_t* blocks;
};

struct EncodeKernels {
    const char* isa;
    // Columns and bytes of a block; false when there is no format of that ggml type number, here and below.
    bool (*block_layout)(int type, std::size_t& columns, std::size_t& bytes);
    // Encode blocks [begin, end), counted through all rows.
    bool (*encode_ggml)(int type, const GgmlEncoding& encoding, std::size_t begin, std::size_t end);
    // Decode `count` blocks.
    bool (*decode_ggml)(int type, const std::uint8_t* blocks, std::size_t count, float* out);
    // The largest magnitude of `count` values; infinity or NaN if one is not finite.
    float (*largest_magnitude)(const void* values, FloatKind kind, std::size_t count);
};

}  // namespace halfpint

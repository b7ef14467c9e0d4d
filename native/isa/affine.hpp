// The contract of the encoder of integers in groups, and of the decoder of plain codes (isa/affine.cpp).
#pragma once
#include <cstddef>
#include <cstdint>

#include "isa/encode.hpp"

namespace halfpint {

// How scales are stored.
enum class AffineScale { f16 = 0, bf16 = 1, f32 = 2 };

// Two numbers of a search: (divisor of the peak, unused) or (lower part, upper part) of the range.
struct AffineStart {
    float first;
    float second;
};

// One step around the best scale found before its round began.
struct AffineStep {
    float round;
    float factor;
    float offset;
};

// A matrix to put into integer codes; the search is that of formats/affine.py, number by number.
struct AffineEncoding {
    const void* values;  // [rows * columns], as `kind` says
    FloatKind kind;
    const float* importance;        // null: all ones
    std::size_t importance_stride;  // floats from one row to the next: 0 or columns
    std::size_t columns;
    std::size_t group_columns;  // columns that share a scale; the last group of a row may be short
    bool symmetric;
    float lowest;
    float highest;
    AffineScale scale_kind;
    float smallest_scale;
    float largest_scale;
    const AffineStart* starts;
    int start_count;
    const AffineStep* steps;
    int step_count;
    int refits;
    std::uint8_t* codes;        // [rows * columns], signed when symmetric
    void* scales;               // [rows * groups] of scale_kind
    std::uint8_t* zero_points;  // [rows * groups], null when symmetric
};

// Codes to decode: value(code) less the zero point, times the scale.
struct PlainDecoding {
    const std::uint8_t* codes;  // [rows * columns]
    const float* values;        // [256]: what each code stands for
    const float* scales;        // [ceil(rows / scale_rows), groups]
    const float* zero_points;   // null, or as scales
    std::size_t columns;
    std::size_t group_columns;
    std::size_t scale_rows;
    float* out;  // [rows * columns]
};

struct AffineKernels {
    const char* isa;
    // Groups that are encoded together, one to a vector lane.
    std::size_t lanes;
    // Encode groups [begin, end), counted through all rows. `scratch` has 2 * lanes * group_columns floats,
    // aligned to 64 bytes.
    void (*encode)(const AffineEncoding& encoding, std::size_t begin, std::size_t end, float* scratch);
    void (*decode)(const PlainDecoding& decoding, std::size_t first_row, std::size_t last_row);
};

}  // namespace halfpint

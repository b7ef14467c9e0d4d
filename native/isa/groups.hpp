// The contract of the encoder of codes in groups that share a scale, and of the decoder of such codes (isa/groups.cpp).
#pragma once
#include <cstddef>
#include <cstdint>

#include "isa/encode.hpp"

namespace halfpint {

// What a code stands for.
enum class CodeKind { integers = 0, nf4 = 1, e2m1 = 2, e4m3 = 3 };

// How scales are stored; `shared_e4m3` is divided by one float of the whole tensor.
enum class GroupScale { f16 = 0, bf16 = 1, f32 = 2, e8m0 = 3, shared_e4m3 = 4 };

// Where a search starts, for two numbers of its grid:
enum class StartKind {
    peak = 0,   // peak / first
    range = 1,  // the range from minimum * first to maximum * second, under a zero point
    top = 2,    // |peak| / largest level * first
    power = 3,  // the largest power of two not above |peak|, * first
};

struct GroupStart {
    float first;
    float second;
};

// One step around the best scale found before its round began.
struct GroupStep {
    float round;
    float factor;
    float offset;
};

// A matrix to put into codes; the search is that of formats/search.py, number by number.
struct GroupEncoding {
    const void* values;  // [rows * columns], as `kind` says
    FloatKind kind;
    const float* importance;        // null: all ones
    std::size_t importance_stride;  // floats from one row to the next: 0 or columns
    std::size_t rows;
    std::size_t columns;
    std::size_t group_rows;     // rows and columns that share a scale; the last group of each may be short
    std::size_t group_columns;
    CodeKind code_kind;
    float lowest;  // code and level, of integers
    float highest;
    GroupScale scale_kind;
    float smallest_scale;
    float largest_scale;
    float shared_scale;  // of shared_e4m3
    StartKind start_kind;
    const GroupStart* starts;
    int start_count;
    const GroupStep* steps;
    int step_count;
    int refits;
    std::uint8_t* codes;        // [rows * columns]; integers below 0 in two's complement
    void* scales;               // [row groups * column groups] of scale_kind
    std::uint8_t* zero_points;  // as scales; null unless start_kind is range
};

// Codes to decode: value(code) less the zero point, times the scale.
struct GroupDecoding {
    const std::uint8_t* codes;  // [rows * columns]
    const float* values;        // [256]: what each code stands for
    const float* scales;        // [row groups * column groups]
    const float* zero_points;   // null, or as scales
    std::size_t columns;
    std::size_t group_rows;
    std::size_t group_columns;
    float* out;  // [rows * columns]
};

struct GroupKernels {
    const char* isa;
    // Groups that are encoded together, one to a vector lane.
    std::size_t lanes;
    // Encode groups [begin, end), counted along rows. `scratch` has 2 * lanes * group_rows * group_columns floats,
    // aligned to 64 bytes.
    void (*encode)(const GroupEncoding& encoding, std::size_t begin, std::size_t end, float* scratch);
    void (*decode)(const GroupDecoding& decoding, std::size_t first_row, std::size_t last_row);
};

}  // namespace halfpint

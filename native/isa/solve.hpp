// The contract of the solvers' inner loops (isa/solve.cpp): error feedback and refinement on a lattice of values,
//   value = (scale * subscale) * level + minimum * submin,
// as src/halfpint/solvers/scalar_grid.py describes it.
#pragma once
#include <cstddef>
#include <cstdint>

namespace halfpint {

// Where offsets come from: nowhere, a number of the format's own, or the scale.
enum class MinimumKind { none = 0, own = 1, tied = 2 };

// What holds scales and minima; fixed ones stay as they are.
enum class ScaleHolder { fixed = 0, f16 = 1, bf16 = 2, f32 = 3 };

struct SolveLattice {
    const float* levels;   // [level_count], ascending
    const float* middles;  // [level_count - 1]: where the nearest level changes
    std::size_t level_count;
    bool uniform;  // levels are one apart
    const float* subscales;
    std::size_t subscale_count;
    const float* submins;
    std::size_t submin_count;
    MinimumKind minimum;
    ScaleHolder holder;
    float smallest_scale;
    float largest_scale;
    std::size_t group_columns;
    std::size_t block_columns;
};

// Columns to round with error feedback; all arrays are row-major.
struct FeedbackTask {
    std::size_t rows;
    std::size_t columns;
    std::size_t groups;
    const float* weight;   // [rows][columns]
    const float* factor;   // [columns][columns], upper triangular
    const float* scale;    // [rows][groups]: scale * subscale
    const float* offset;   // [rows][groups]: minimum * submin
    std::uint8_t* indices;  // [rows][columns], written
    float* errors;          // [rows][columns], written
};

// Columns to refine: whole blocks.
struct RefineTask {
    std::size_t rows;
    std::size_t columns;
    std::size_t groups;
    std::size_t blocks;
    int rounds;
    const float* gradient;  // [rows][columns]
    const float* moments;   // [columns][columns]
    std::uint8_t* indices;  // [rows][columns], changed in place, as are those below
    float* scale;           // [rows][blocks]
    float* minimum;         // [rows][blocks]
    std::int16_t* subscale;  // [rows][groups]
    std::int16_t* submin;    // [rows][groups]
    float* change;           // [rows][columns], written: what was added to the values
};

struct SolveKernels {
    const char* isa;
    std::size_t lanes;  // rows that are worked on together
    // Rows [begin, end); `scratch` has feedback_floats(lanes, columns), or refine_floats, aligned to 64 bytes.
    void (*feed_back)(const SolveLattice& lattice, const FeedbackTask& task, std::size_t begin, std::size_t end,
                      float* scratch);
    void (*refine)(const SolveLattice& lattice, const RefineTask& task, std::size_t begin, std::size_t end,
                   float* scratch);
};

inline std::size_t feedback_floats(std::size_t lanes, std::size_t columns) { return lanes * columns; }
inline std::size_t refine_floats(std::size_t lanes, const RefineTask& task) {
    return lanes * (9 * task.columns + 2 * task.groups + 2 * task.blocks);
}

}  // namespace halfpint

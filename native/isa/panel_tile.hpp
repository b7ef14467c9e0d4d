// The product of a panel with a tile of tokens: all the arithmetic of reading a prompt. Included by isa/panel.cpp only,
// inside its namespace.
//
// How the codes of panels and of activations lie is private to an instruction set:
//
//     kTileBlocks                blocks of rows that a tile takes at once: their lines alternate in a panel
//     code_index(step, token, column)    where a code is in a record, of 64 steps of four columns
//     add_tile<blocks, tokens>(panel, record, wides, scales, is_first, sums)
//         sums[block][token][row] += scales[block] * (the offset of the token, plus the sum over `wides` groups of 32
//         columns, in order, of the scale of the token times (kSumBase + the sum of products))

// What there is before: nothing, and nothing to be read, for the first columns.
HALFPINT_INLINE Floats sums_before(bool is_first, const float* sums) { return is_first ? floats(0) : load_sums(sums); }

#if defined(__AVX512VNNI__)
#include "isa/panel_tile_avx512.hpp"
#elif defined(__AVXVNNI__)
#include "isa/panel_tile_avxvnni.hpp"
#elif defined(__AVX2__)
#include "isa/panel_tile_avx2.hpp"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "isa/panel_tile_neon.hpp"
#else

constexpr std::size_t kTileBlocks = 1;

constexpr std::size_t code_index(std::size_t step, std::size_t token, std::size_t column) {
    return (step * kTileTokens + token) * 4 + column;
}

template <int blocks, int tokens>
HALFPINT_APART void add_tile(const PanelCode* panel, const Record& record, std::size_t wides, const float* scales,
                             bool is_first, float* sums) {
    for (std::size_t token = 0; token < tokens; ++token, sums += kBlockRows) {
        Floats sum = floats(record.offsets[token]);
        for (std::size_t wide = 0; wide < wides; ++wide) {
            Ints products = ints(kSumBaseBits);
            for (std::size_t step = wide * kWideSteps; step < (wide + 1) * kWideSteps; ++step)
                for (std::size_t i = 0; i < kPanelLine; ++i)
                    products.lane[i / 4] += panel[step * kPanelLine + i] * record.codes[code_index(step, token, i % 4)];
            sum = fma(as_floats(products), floats(record.scales[wide][token]), sum);
        }
        store_floats(fma(sum, load_sums(scales), sums_before(is_first, sums)), sums);
    }
}
#endif

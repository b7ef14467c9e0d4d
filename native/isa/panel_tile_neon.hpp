// panel_tile.hpp for ARM with the dot product instructions: four registers of rows times six tokens.

constexpr std::size_t kTileBlocks = 1;

constexpr std::size_t code_index(std::size_t step, std::size_t token, std::size_t column) {
    return (step * kTileTokens + token) * 4 + column;
}

// Products of four columns with 16 rows; the instruction takes a token's four columns out of a register of them.
template <int tokens>
HALFPINT_INLINE void add_step(const PanelCode* line, const PanelCode* x, int32x4_t (&products)[tokens][4]) {
    int8x16_t rows[4];
    for (int i = 0; i < 4; ++i) rows[i] = vld1q_s8(line + 16 * i);
    const int8x16_t first = vld1q_s8(x);
    const int8x8_t last = vld1_s8(x + 16);
    unrolled<tokens>([&]<int token>() __attribute__((always_inline)) {
        for (int i = 0; i < 4; ++i) {
            if constexpr (token < 4)
                products[token][i] = vdotq_laneq_s32(products[token][i], rows[i], first, token);
            else
                products[token][i] = vdotq_lane_s32(products[token][i], rows[i], last, token - 4);
        }
    });
}

template <int blocks, int tokens>
void add_tile(const PanelCode* panel, const Record& record, std::size_t wides, const float* scales, bool is_first,
              float* sums) {
    alignas(16) float wide_sums[tokens][kBlockRows];  // there are not registers enough for them
    for (int token = 0; token < tokens; ++token) store_floats(floats(record.offsets[token]), wide_sums[token]);
    const PanelCode* x = record.codes;
    for (std::size_t wide = 0; wide < wides; ++wide) {
        int32x4_t products[tokens][4];
        for (auto& token : products)
            for (int32x4_t& quarter : token) quarter = vdupq_n_s32(kSumBaseBits);
        for (std::size_t step = 0; step < kWideSteps; ++step, panel += kPanelLine, x += code_index(1, 0, 0))
            add_step<tokens>(panel, x, products);
        for (int token = 0; token < tokens; ++token) {
            Ints all;
            for (int i = 0; i < 4; ++i) all.quarter[i] = products[token][i];
            store_floats(fma(as_floats(all), floats(record.scales[wide][token]), load_sums(wide_sums[token])),
                         wide_sums[token]);
        }
    }
    for (int token = 0; token < tokens; ++token, sums += kBlockRows)
        store_floats(fma(load_sums(wide_sums[token]), load_sums(scales), sums_before(is_first, sums)), sums);
}

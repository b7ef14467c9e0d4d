// panel_tile.hpp for AVX2: one block of rows, two registers, times six tokens.

constexpr std::size_t kTileBlocks = 1;

// Columns 0 and 2 of all tokens, then columns 1 and 3.
constexpr std::size_t code_index(std::size_t step, std::size_t token, std::size_t column) {
    return ((2 * step + column % 2) * kTileTokens + token) * 2 + column / 2;
}

// Products of two columns with 16 rows.
template <int tokens>
HALFPINT_INLINE void add_two_columns(const PanelCode* low, const PanelCode* high, const PanelCode* x,
                                     __m256i (&products)[tokens][2]) {
    const __m256i rows[2] = {_mm256_load_si256(reinterpret_cast<const __m256i*>(low)),
                             _mm256_load_si256(reinterpret_cast<const __m256i*>(high))};
    for (int token = 0; token < tokens; ++token) {
        std::int32_t two;
        std::memcpy(&two, x + 2 * token, sizeof two);
        const __m256i columns = _mm256_set1_epi32(two);
        for (int half = 0; half < 2; ++half) {
            const __m256i both_columns = _mm256_madd_epi16(rows[half], columns);
            products[token][half] = kept(_mm256_add_epi32(products[token][half], both_columns));
        }
    }
}

template <int blocks, int tokens>
void add_tile(const PanelCode* panel, const Record& record, std::size_t wides, const float* scales, bool is_first,
              float* sums) {
    alignas(32) float wide_sums[tokens][kBlockRows];  // there are not registers enough for them
    for (int token = 0; token < tokens; ++token) store_floats(floats(record.offsets[token]), wide_sums[token]);
    const PanelCode* x = record.codes;
    for (std::size_t wide = 0; wide < wides; ++wide) {
        __m256i products[tokens][2];
        for (auto& token : products) token[0] = token[1] = _mm256_set1_epi32(kSumBaseBits);
        for (std::size_t step = 0; step < kWideSteps; ++step, panel += kPanelLine, x += code_index(1, 0, 0)) {
            add_two_columns<tokens>(panel, panel + 32, x, products);
            add_two_columns<tokens>(panel + 16, panel + 48, x + code_index(0, 0, 1), products);
        }
        for (int token = 0; token < tokens; ++token) {
            const Floats sum = as_floats(Ints{products[token][0], products[token][1]});
            store_floats(fma(sum, floats(record.scales[wide][token]), load_sums(wide_sums[token])), wide_sums[token]);
        }
    }
    for (int token = 0; token < tokens; ++token, sums += kBlockRows)
        store_floats(fma(load_sums(wide_sums[token]), load_sums(scales), sums_before(is_first, sums)), sums);
}

// panel_tile.hpp for AVX-VNNI, the dot products of AVX-512 in registers of 256 bits: one block of rows, two registers,
// times six tokens.

constexpr std::size_t kTileBlocks = 1;

constexpr std::size_t code_index(std::size_t step, std::size_t token, std::size_t column) {
    return (step * kTileTokens + token) * 4 + column;
}

// Assembly: the compiler would copy the accumulators of the intrinsic through memory.
inline void add_products(__m256i (&sums)[2], const __m256i (&rows)[2], __m256i x) {
    asm("%{vex%} vpdpbusd %4, %2, %0\n\t%{vex%} vpdpbusd %4, %3, %1"
        : "+&x"(sums[0]), "+&x"(sums[1])
        : "x"(rows[0]), "x"(rows[1]), "x"(x));
}

// Products of 32 columns with 16 rows. Bytes of panels are stored plus 128: for that sums start lower by 128 times the
// sum of x.
template <int tokens>
HALFPINT_INLINE void wide_products(const PanelCode* panel, const Record& record, std::size_t wide,
                                   __m256i (&products)[tokens][2]) {
    for (int token = 0; token < tokens; ++token)
        products[token][0] = products[token][1] = _mm256_set1_epi32(record.starts[wide][token]);
    panel += wide * kWideSteps * kPanelLine;
    const PanelCode* x = record.codes + code_index(wide * kWideSteps, 0, 0);
#pragma GCC unroll 2
    for (std::size_t step = 0; step < kWideSteps; ++step, panel += kPanelLine, x += code_index(1, 0, 0)) {
        const auto* line = reinterpret_cast<const __m256i*>(panel);
        const __m256i rows[2] = {_mm256_load_si256(line), _mm256_load_si256(line + 1)};
        for (int token = 0; token < tokens; ++token) {
            std::int32_t four;
            std::memcpy(&four, x + 4 * token, sizeof four);
            add_products(products[token], rows, _mm256_set1_epi32(four));
        }
    }
}

template <int blocks, int tokens>
void add_tile(const PanelCode* panel, const Record& record, std::size_t wides, const float* scales, bool is_first,
              float* sums) {
    alignas(32) float wide_sums[tokens][kBlockRows];  // there are not registers enough for them
    for (int token = 0; token < tokens; ++token) store_floats(floats(record.offsets[token]), wide_sums[token]);
    for (std::size_t wide = 0; wide < wides; ++wide) {
        __m256i products[tokens][2];
        wide_products<tokens>(panel, record, wide, products);
        for (int token = 0; token < tokens; ++token) {
            const Floats sum = as_floats(Ints{products[token][0], products[token][1]});
            store_floats(fma(sum, floats(record.scales[wide][token]), load_sums(wide_sums[token])), wide_sums[token]);
        }
    }
    for (int token = 0; token < tokens; ++token, sums += kBlockRows)
        store_floats(fma(load_sums(wide_sums[token]), load_sums(scales), sums_before(is_first, sums)), sums);
}

// panel_tile.hpp for AVX-512 with VNNI: two blocks of rows times six tokens, twelve sums in registers and as many in
// floats.

constexpr std::size_t kTileBlocks = 2;

constexpr std::size_t code_index(std::size_t step, std::size_t token, std::size_t column) {
    return (step * kTileTokens + token) * 4 + column;
}

// Assembly: the compiler would copy the accumulators of the intrinsic through memory, or from register to register.
inline void add_products(__m512i (&sums)[1], const __m512i (&lines)[1], __m512i x) {
    asm("vpdpbusd %2, %1, %0" : "+v"(sums[0]) : "v"(lines[0]), "v"(x));
}
inline void add_products(__m512i (&sums)[2], const __m512i (&lines)[2], __m512i x) {
    asm("vpdpbusd %4, %2, %0\n\tvpdpbusd %4, %3, %1"
        : "+&v"(sums[0]), "+&v"(sums[1])
        : "v"(lines[0]), "v"(lines[1]), "v"(x));
}

// Products of 32 columns with `blocks` times 16 rows. Bytes of panels are stored plus 128: for that sums start lower by
// 128 times the sum of x.
template <int blocks, int tokens>
HALFPINT_INLINE void wide_products(const PanelCode* panel, const Record& record, std::size_t wide,
                                   __m512i (&products)[tokens][blocks]) {
    for (int token = 0; token < tokens; ++token)
        for (int block = 0; block < blocks; ++block)
            products[token][block] = _mm512_set1_epi32(record.starts[wide][token]);
    panel += wide * kWideSteps * blocks * kPanelLine;
    const PanelCode* x = record.codes + code_index(wide * kWideSteps, 0, 0);
#pragma GCC unroll 8
    for (std::size_t step = 0; step < kWideSteps; ++step) {
        __m512i lines[blocks];
        for (int block = 0; block < blocks; ++block) lines[block] = _mm512_load_si512(panel + block * kPanelLine);
        for (int token = 0; token < tokens; ++token) {
            std::int32_t four;
            std::memcpy(&four, x + 4 * token, sizeof four);
            add_products(products[token], lines, _mm512_set1_epi32(four));
        }
        panel += blocks * kPanelLine;
        x += code_index(1, 0, 0);
    }
}

template <int blocks, int tokens>
void add_tile(const PanelCode* panel, const Record& record, std::size_t wides, const float* scales, bool is_first,
              float* sums) {
    Floats wide_sums[tokens][blocks];
    for (int token = 0; token < tokens; ++token)
        for (Floats& sum : wide_sums[token]) sum = floats(record.offsets[token]);
    for (std::size_t wide = 0; wide < wides; ++wide) {
        __m512i products[tokens][blocks];
        wide_products<blocks, tokens>(panel, record, wide, products);
        for (int token = 0; token < tokens; ++token)
            for (int block = 0; block < blocks; ++block)
                wide_sums[token][block] = fma(_mm512_castsi512_ps(products[token][block]),
                                              floats(record.scales[wide][token]), wide_sums[token][block]);
    }
    const __mmask16 held = is_first ? 0 : 0xffff;  // as sums_before
    for (std::size_t block = 0; block < blocks; ++block) {
        const Floats row_scales = load_sums(scales + block * kBlockRows);
        for (int token = 0; token < tokens; ++token) {
            float* at = sums + (block * kTileTokens + static_cast<std::size_t>(token)) * kBlockRows;
            store_floats(fma(wide_sums[token][block], row_scales, _mm512_maskz_loadu_ps(held, at)), at);
        }
    }
}

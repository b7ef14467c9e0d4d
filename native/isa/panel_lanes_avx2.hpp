// panel_lanes.hpp for AVX2: a panel's codes are numbers of 16 bits. vpmaddwd adds their products in 32 bits, two
// columns at once, and cannot overflow; bytes (vpmaddubsw, a sign for each, vpmaddwd) take as many instructions. With
// AVX-VNNI they are bytes, stored plus 128.

#if defined(__AVXVNNI__)
using PanelCode = std::int8_t;
constexpr std::int32_t kPanelOffset = 128 + 0x8000;
#else
using PanelCode = std::int16_t;
constexpr std::int32_t kPanelOffset = 128;
#endif

struct Shorts {
    __m256i low, high;  // rows 0 to 7, and 8 to 15
};
struct Pair {
    Shorts even, odd;
};

inline Ints as_ints(Floats a) { return {_mm256_castps_si256(a.low), _mm256_castps_si256(a.high)}; }

// The same of both halves.
template <class F>
inline Shorts in_halves(Line line, F&& f) { return {f(line.low), f(line.high)}; }

template <int bits>
inline Pair to_shorts(Line codes) {
    const __m256i bias = _mm256_set1_epi16(static_cast<short>(0x8000));
    const __m256i mask = _mm256_set1_epi16(static_cast<short>(0x10000 - (1 << (16 - bits))));
    return {in_halves(codes, [&](__m256i half) { return _mm256_xor_si256(_mm256_slli_epi16(half, 16 - bits), bias); }),
            in_halves(codes, [&](__m256i half) {
                const __m256i moved = bits == 8 ? half : _mm256_slli_epi16(half, 8 - bits);
                return _mm256_xor_si256(_mm256_and_si256(moved, mask), bias);
            })};
}
inline Shorts either(Shorts a, Shorts b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
inline Pair bytes_to_shorts(Line bytes) {
    const __m256i mask = _mm256_set1_epi16(static_cast<short>(0xff00));
    return {in_halves(bytes, [](__m256i half) { return _mm256_slli_epi16(half, 8); }),
            in_halves(bytes, [&](__m256i half) { return _mm256_and_si256(half, mask); })};
}
inline Pair join(Line low, Line high) {
    const __m256i mask = _mm256_set1_epi16(0xff);
    const Pair upper = bytes_to_shorts(high);
    return {either(upper.even, in_halves(low, [&](__m256i half) { return _mm256_and_si256(half, mask); })),
            either(upper.odd, in_halves(low, [](__m256i half) { return _mm256_srli_epi16(half, 8); }))};
}
inline __m256i twice(__m256i a) {
    return _mm256_or_si256(_mm256_and_si256(a, _mm256_set1_epi32(0xffff)), _mm256_slli_epi32(a, 16));
}
inline Shorts twice(Ints a) { return {twice(a.low), twice(a.high)}; }
inline Shorts scaled(Shorts a, Shorts m, Shorts o) {
    return {_mm256_add_epi16(_mm256_mulhrs_epi16(a.low, m.low), o.low),
            _mm256_add_epi16(_mm256_mulhrs_epi16(a.high, m.high), o.high)};
}
#if defined(__AVXVNNI__)
inline __m256i join_columns(__m256i even, __m256i odd) {
    const __m256i mask = _mm256_set1_epi16(static_cast<short>(0xff00));
    return _mm256_or_si256(_mm256_srli_epi16(even, 8), _mm256_and_si256(odd, mask));
}
inline void store_panel(Pair values, PanelCode* line) {
    auto* halves = reinterpret_cast<__m256i*>(line);
    _mm256_store_si256(halves, join_columns(values.even.low, values.odd.low));
    _mm256_store_si256(halves + 1, join_columns(values.even.high, values.odd.high));
}
#else
// Rows 0 to 7 of columns 0 and 2, of columns 1 and 3, then rows 8 to 15.
inline void store_panel(Pair values, PanelCode* line) {
    auto* words = reinterpret_cast<__m256i*>(line);
    _mm256_store_si256(words, _mm256_srai_epi16(values.even.low, 8));
    _mm256_store_si256(words + 1, _mm256_srai_epi16(values.odd.low, 8));
    _mm256_store_si256(words + 2, _mm256_srai_epi16(values.even.high, 8));
    _mm256_store_si256(words + 3, _mm256_srai_epi16(values.odd.high, 8));
}
#endif

// panel_lanes.hpp for AVX-512 with VNNI: a panel's codes are bytes, stored plus 128.

using PanelCode = std::int8_t;
constexpr std::int32_t kPanelOffset = 128 + 0x8000;

struct Shorts {
    __m512i lanes;
};
struct Pair {
    Shorts even, odd;
};

inline Ints as_ints(Floats a) { return {_mm512_castps_si512(a)}; }

template <int bits>
inline Pair to_shorts(Line codes) {
    const __m512i bias = _mm512_set1_epi16(static_cast<short>(0x8000));
    const __m512i mask = _mm512_set1_epi16(static_cast<short>(0x10000 - (1 << (16 - bits))));
    const __m512i even = _mm512_slli_epi16(codes.bytes, 16 - bits);
    const __m512i odd = _mm512_and_si512(bits == 8 ? codes.bytes : _mm512_slli_epi16(codes.bytes, 8 - bits), mask);
    return {{_mm512_xor_si512(even, bias)}, {_mm512_xor_si512(odd, bias)}};
}
inline Pair join(Line low, Line high) {
    const __m512i mask = _mm512_set1_epi16(static_cast<short>(0xff00));
    return {{_mm512_or_si512(_mm512_andnot_si512(mask, low.bytes), _mm512_slli_epi16(high.bytes, 8))},
            {_mm512_or_si512(_mm512_srli_epi16(low.bytes, 8), _mm512_and_si512(mask, high.bytes))}};
}
inline Pair bytes_to_shorts(Line bytes) {
    return {{_mm512_slli_epi16(bytes.bytes, 8)},
            {_mm512_and_si512(bytes.bytes, _mm512_set1_epi16(static_cast<short>(0xff00)))}};
}
inline Shorts twice(Ints a) {
    return {_mm512_or_si512(_mm512_and_si512(a.lanes, _mm512_set1_epi32(0xffff)), _mm512_slli_epi32(a.lanes, 16))};
}
inline Shorts scaled(Shorts a, Shorts m, Shorts o) {
    return {_mm512_add_epi16(_mm512_mulhrs_epi16(a.lanes, m.lanes), o.lanes)};
}
inline void store_panel(Pair values, PanelCode* line) {
    const __m512i even = _mm512_srli_epi16(values.even.lanes, 8);
    _mm512_store_si512(line, _mm512_mask_mov_epi8(even, 0xaaaaaaaaaaaaaaaaull, values.odd.lanes));
}

// integer_lanes.hpp for AVX-512 with VNNI. vpdpbusd takes unsigned bytes times signed ones.

constexpr bool kBiasedDots = true;
constexpr int kTokensAtOnce = 4;

using Floats = __m512;
struct Ints {  // __m512i is also what a Line is made of: types of their own keep overloads apart
    __m512i lanes;
};
struct Line {
    __m512i bytes;
};
using Table = Line;

HALFPINT_INLINE Floats floats(float value) { return _mm512_set1_ps(value); }
HALFPINT_INLINE Ints ints(std::int32_t value) { return {_mm512_set1_epi32(value)}; }
HALFPINT_INLINE Floats load_floats(const std::uint8_t* bytes) { return _mm512_loadu_ps(bytes); }
HALFPINT_INLINE void store_floats(Floats values, float* out) { _mm512_storeu_ps(out, values); }
HALFPINT_INLINE Ints load_words(const std::uint8_t* bytes) { return {_mm512_loadu_si512(bytes)}; }
HALFPINT_INLINE Ints load_shorts(const std::uint8_t* bytes) {
    return {_mm512_cvtepu16_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)))};
}
HALFPINT_INLINE Ints load_bytes(const std::uint8_t* bytes) {
    return {_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes)))};
}
HALFPINT_INLINE Floats load_halves(const std::uint8_t* bytes) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(bytes)));
}
HALFPINT_INLINE Line load_line(const std::uint8_t* bytes) { return {_mm512_loadu_si512(bytes)}; }

HALFPINT_INLINE Floats to_floats(Ints a) { return _mm512_cvtepi32_ps(a.lanes); }
HALFPINT_INLINE Floats as_floats(Ints a) { return _mm512_castsi512_ps(a.lanes); }
HALFPINT_INLINE Floats mul(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
HALFPINT_INLINE Floats fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
HALFPINT_INLINE Floats fnma(Floats a, Floats b, Floats c) { return _mm512_fnmadd_ps(a, b, c); }
HALFPINT_INLINE Ints add(Ints a, Ints b) { return {_mm512_add_epi32(a.lanes, b.lanes)}; }
HALFPINT_INLINE Ints mul(Ints a, Ints b) { return {_mm512_mullo_epi32(a.lanes, b.lanes)}; }
HALFPINT_INLINE Ints larger(Ints a, Ints b) { return {_mm512_max_epi32(a.lanes, b.lanes)}; }
HALFPINT_INLINE Ints both(Ints a, Ints b) { return {_mm512_and_si512(a.lanes, b.lanes)}; }
HALFPINT_INLINE Ints either(Ints a, Ints b) { return {_mm512_or_si512(a.lanes, b.lanes)}; }
template <int bits>
HALFPINT_INLINE Ints shift_up(Ints a) { return {_mm512_slli_epi32(a.lanes, bits)}; }
template <int bits>
HALFPINT_INLINE Ints shift_down(Ints a) { return {_mm512_srli_epi32(a.lanes, bits)}; }
template <int bits>
HALFPINT_INLINE Ints shift_down_signed(Ints a) { return {_mm512_srai_epi32(a.lanes, bits)}; }

template <int from, int width, int to>
HALFPINT_INLINE Line take(Line line) {
    const __m512i mask = _mm512_set1_epi8(static_cast<char>(((1 << width) - 1) << to));
    // Bytes have no shift of their own: what comes in from the neighbour is masked away.
    if constexpr (to > from) return {_mm512_and_si512(_mm512_slli_epi16(line.bytes, to - from), mask)};
    if constexpr (to < from) return {_mm512_and_si512(_mm512_srli_epi16(line.bytes, from - to), mask)};
    return {_mm512_and_si512(line.bytes, mask)};
}
HALFPINT_INLINE Line either(Line a, Line b) { return {_mm512_or_si512(a.bytes, b.bytes)}; }
HALFPINT_INLINE Line signed_bytes(Line stored) { return stored; }
HALFPINT_INLINE Table byte_table(const std::int8_t* levels) {
    return {_mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)))};
}
HALFPINT_INLINE Table signed_table(const std::int8_t* levels) {
    return {_mm512_xor_si512(byte_table(levels).bytes, _mm512_set1_epi8(static_cast<char>(128)))};
}
HALFPINT_INLINE Line look_up(Table table, Line nibbles) { return {_mm512_shuffle_epi8(table.bytes, nibbles.bytes)}; }

template <int most>
HALFPINT_INLINE Ints dot(Ints start, const Line (&lines)[4], const std::int8_t* x) {
    __m512i sum = start.lanes;
    for (int z = 0; z < 4; ++z) {
        std::int32_t four;
        std::memcpy(&four, x + 4 * z, sizeof four);
        sum = _mm512_dpbusd_epi32(sum, lines[z].bytes, _mm512_set1_epi32(four));
    }
    return {sum};
}

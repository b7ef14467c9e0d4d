// integer_lanes.hpp for AVX2: sixteen lanes are two registers, rows 0 to 7 and 8 to 15.
//
// vpmaddubsw adds pairs of products in 16 bits with saturation, so bytes must be small enough: up to 127 never
// saturates (2 * 127 * 127 = 32258). Signed bytes are made unsigned by giving their sign to x.

constexpr bool kBiasedDots = false;
constexpr int kTokensAtOnce = 4;

struct Floats {
    __m256 low, high;
};
struct Ints {
    __m256i low, high;
};
struct Line {
    __m256i low, high;
};
using Table = __m256i;

HALFPINT_INLINE const __m256i* wide(const std::uint8_t* bytes) { return reinterpret_cast<const __m256i*>(bytes); }
HALFPINT_INLINE const __m128i* narrow(const std::uint8_t* bytes) { return reinterpret_cast<const __m128i*>(bytes); }

HALFPINT_INLINE Floats floats(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
HALFPINT_INLINE Ints ints(std::int32_t value) { return {_mm256_set1_epi32(value), _mm256_set1_epi32(value)}; }
HALFPINT_INLINE Floats load_floats(const std::uint8_t* bytes) {
    return {_mm256_loadu_ps(reinterpret_cast<const float*>(bytes)),
            _mm256_loadu_ps(reinterpret_cast<const float*>(bytes + 32))};
}
HALFPINT_INLINE void store_floats(Floats values, float* out) {
    _mm256_storeu_ps(out, values.low);
    _mm256_storeu_ps(out + 8, values.high);
}
HALFPINT_INLINE Ints load_words(const std::uint8_t* bytes) {
    return {_mm256_loadu_si256(wide(bytes)), _mm256_loadu_si256(wide(bytes + 32))};
}
HALFPINT_INLINE Ints load_shorts(const std::uint8_t* bytes) {
    return {_mm256_cvtepu16_epi32(_mm_loadu_si128(narrow(bytes))),
            _mm256_cvtepu16_epi32(_mm_loadu_si128(narrow(bytes + 16)))};
}
HALFPINT_INLINE Ints load_bytes(const std::uint8_t* bytes) {
    return {_mm256_cvtepu8_epi32(_mm_loadl_epi64(narrow(bytes))),
            _mm256_cvtepu8_epi32(_mm_loadl_epi64(narrow(bytes + 8)))};
}
HALFPINT_INLINE Floats load_halves(const std::uint8_t* bytes) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(narrow(bytes))), _mm256_cvtph_ps(_mm_loadu_si128(narrow(bytes + 16)))};
}
HALFPINT_INLINE Line load_line(const std::uint8_t* bytes) {
    return {_mm256_loadu_si256(wide(bytes)), _mm256_loadu_si256(wide(bytes + 32))};
}

HALFPINT_INLINE Floats to_floats(Ints a) { return {_mm256_cvtepi32_ps(a.low), _mm256_cvtepi32_ps(a.high)}; }
HALFPINT_INLINE Floats as_floats(Ints a) { return {_mm256_castsi256_ps(a.low), _mm256_castsi256_ps(a.high)}; }
HALFPINT_INLINE Floats mul(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
HALFPINT_INLINE Floats fma(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
HALFPINT_INLINE Floats fnma(Floats a, Floats b, Floats c) {
    return {_mm256_fnmadd_ps(a.low, b.low, c.low), _mm256_fnmadd_ps(a.high, b.high, c.high)};
}
HALFPINT_INLINE Ints add(Ints a, Ints b) { return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)}; }
HALFPINT_INLINE Ints mul(Ints a, Ints b) { return {_mm256_mullo_epi32(a.low, b.low), _mm256_mullo_epi32(a.high, b.high)}; }
HALFPINT_INLINE Ints larger(Ints a, Ints b) { return {_mm256_max_epi32(a.low, b.low), _mm256_max_epi32(a.high, b.high)}; }
HALFPINT_INLINE Ints both(Ints a, Ints b) { return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)}; }
HALFPINT_INLINE Ints either(Ints a, Ints b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
template <int bits>
HALFPINT_INLINE Ints shift_up(Ints a) { return {_mm256_slli_epi32(a.low, bits), _mm256_slli_epi32(a.high, bits)}; }
template <int bits>
HALFPINT_INLINE Ints shift_down(Ints a) { return {_mm256_srli_epi32(a.low, bits), _mm256_srli_epi32(a.high, bits)}; }
template <int bits>
HALFPINT_INLINE Ints shift_down_signed(Ints a) { return {_mm256_srai_epi32(a.low, bits), _mm256_srai_epi32(a.high, bits)}; }

template <int from, int width, int to>
HALFPINT_INLINE __m256i take_half(__m256i half) {
    const __m256i mask = _mm256_set1_epi8(static_cast<char>(((1 << width) - 1) << to));
    // Bytes have no shift of their own: what comes in from the neighbour is masked away.
    if constexpr (to > from) return _mm256_and_si256(_mm256_slli_epi16(half, to - from), mask);
    if constexpr (to < from) return _mm256_and_si256(_mm256_srli_epi16(half, from - to), mask);
    return _mm256_and_si256(half, mask);
}
template <int from, int width, int to>
HALFPINT_INLINE Line take(Line line) {
    return {take_half<from, width, to>(line.low), take_half<from, width, to>(line.high)};
}
HALFPINT_INLINE Line either(Line a, Line b) { return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)}; }
HALFPINT_INLINE Line signed_bytes(Line stored) {
    const __m256i bias = _mm256_set1_epi8(static_cast<char>(128));
    return {_mm256_xor_si256(stored.low, bias), _mm256_xor_si256(stored.high, bias)};
}
HALFPINT_INLINE Table byte_table(const std::int8_t* levels) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(levels)));
}
HALFPINT_INLINE Table signed_table(const std::int8_t* levels) { return byte_table(levels); }
HALFPINT_INLINE Line look_up(Table table, Line nibbles) {
    return {_mm256_shuffle_epi8(table, nibbles.low), _mm256_shuffle_epi8(table, nibbles.high)};
}

// A register that the compiler may not combine with others: it would re-associate chains of adds and spill.
HALFPINT_INLINE __m256i kept(__m256i value) {
    asm("" : "+x"(value));
    return value;
}

template <int most>
HALFPINT_INLINE __m256i pairs(__m256i bytes, __m256i x) {
    if constexpr (most == kSignedBytes)
        return _mm256_maddubs_epi16(_mm256_abs_epi8(bytes), _mm256_sign_epi8(x, bytes));
    return _mm256_maddubs_epi16(bytes, x);
}

// Products of 16 columns with 8 rows. As many pairs are added in 16 bits as cannot overflow.
template <int most>
HALFPINT_INLINE __m256i dot_half(__m256i start, const __m256i (&bytes)[4], const __m256i (&x)[4]) {
    constexpr int most_pair = 2 * 127 * (most == kSignedBytes ? 128 : most);
    const __m256i one = _mm256_set1_epi16(1);
    __m256i products[4];
    for (int z = 0; z < 4; ++z) products[z] = pairs<most>(bytes[z], x[z]);
    if constexpr (4 * most_pair <= 32767) {
        const __m256i sum = kept(_mm256_add_epi16(kept(_mm256_add_epi16(products[0], products[1])),
                                                  kept(_mm256_add_epi16(products[2], products[3]))));
        return kept(_mm256_add_epi32(start, _mm256_madd_epi16(sum, one)));
    } else if constexpr (2 * most_pair <= 32767) {
        start = kept(_mm256_add_epi32(start, _mm256_madd_epi16(_mm256_add_epi16(products[0], products[1]), one)));
        return kept(_mm256_add_epi32(start, _mm256_madd_epi16(_mm256_add_epi16(products[2], products[3]), one)));
    } else {
        for (int z = 0; z < 4; ++z) start = kept(_mm256_add_epi32(start, _mm256_madd_epi16(products[z], one)));
        return start;
    }
}

template <int most>
HALFPINT_INLINE Ints dot(Ints start, const Line (&lines)[4], const std::int8_t* x) {
    __m256i four[4], low[4], high[4];
    for (int z = 0; z < 4; ++z) {
        std::int32_t columns;
        std::memcpy(&columns, x + 4 * z, sizeof columns);
        four[z] = _mm256_set1_epi32(columns);
        low[z] = lines[z].low;
        high[z] = lines[z].high;
    }
    return {dot_half<most>(start.low, low, four), dot_half<most>(start.high, high, four)};
}

// From small codes to scaled float32, sixteen columns at a time. Included by isa/linear.cpp only, inside its namespace.
//
// Every product and sum is rounded to float32 as in the NumPy reference (the build forbids contraction), so the
// values are the same bits on every instruction set.

inline std::uint16_t load_u16(const std::uint8_t* bytes) {
    std::uint16_t value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

inline float bits_to_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float from_bf16(std::uint16_t bits) { return bits_to_float(static_cast<std::uint32_t>(bits) << 16); }

inline float from_f16(std::uint16_t bits) {
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#else
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude < 0x400u) {  // subnormal: magnitude * 2^-24, exact
        const float value = static_cast<float>(magnitude) * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
#endif
}

// out = step * code, for `count` signed codes; a multiple of 16.
template <int count>
inline void scale_codes(const std::int8_t* codes, float step, float* out) {
#if defined(__AVX512F__)
    for (int i = 0; i < count; i += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i));
        _mm512_storeu_ps(out + i, _mm512_mul_ps(_mm512_set1_ps(step), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes))));
    }
#elif defined(__AVX2__)
    for (int i = 0; i < count; i += 8) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i));
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_set1_ps(step), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))));
    }
#else
    for (int i = 0; i < count; ++i) out[i] = step * static_cast<float>(codes[i]);
#endif
}

// out = step * code - offset, likewise. (x + m and x - (-m) are the same number.)
template <int count>
inline void scale_codes(const std::int8_t* codes, float step, float offset, float* out) {
#if defined(__AVX512F__)
    for (int i = 0; i < count; i += 16) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i));
        const __m512 scaled = _mm512_mul_ps(_mm512_set1_ps(step), _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)));
        _mm512_storeu_ps(out + i, _mm512_sub_ps(scaled, _mm512_set1_ps(offset)));
    }
#elif defined(__AVX2__)
    for (int i = 0; i < count; i += 8) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i));
        const __m256 scaled = _mm256_mul_ps(_mm256_set1_ps(step), _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)));
        _mm256_storeu_ps(out + i, _mm256_sub_ps(scaled, _mm256_set1_ps(offset)));
    }
#else
    for (int i = 0; i < count; ++i) out[i] = step * static_cast<float>(codes[i]) - offset;
#endif
}

// The low and the high halves of `count` bytes, a multiple of 16, each less `bias`.
template <int count, int bias = 0>
inline void split_nibbles(const std::uint8_t* bytes, std::int8_t* low, std::int8_t* high) {
#if defined(__AVX2__)
    const __m128i nibble = _mm_set1_epi8(15), less = _mm_set1_epi8(bias);
    for (int i = 0; i < count; i += 16) {
        const __m128i both = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + i));
        const __m128i first = _mm_and_si128(both, nibble), second = _mm_and_si128(_mm_srli_epi16(both, 4), nibble);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(low + i), _mm_sub_epi8(first, less));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(high + i), _mm_sub_epi8(second, less));
    }
#else
    for (int i = 0; i < count; ++i) low[i] = static_cast<std::int8_t>((bytes[i] & 15) - bias);
    for (int i = 0; i < count; ++i) high[i] = static_cast<std::int8_t>((bytes[i] >> 4) - bias);
#endif
}

// Add 16 to each of 32 codes whose bit is set in four bytes, the lowest bit first.
inline void add_fifth_bits(const std::uint8_t* bytes, std::int8_t* codes) {
#if defined(__AVX2__)
    // In halves of 16, as they were stored: a wider load would wait for both stores to leave the core.
    const __m128i byte_of = _mm_set_epi64x(0x0101010101010101, 0);
    const __m128i bit_of = _mm_set1_epi64x(static_cast<long long>(0x8040201008040201ull));
    for (int half = 0; half < 2; ++half) {
        const __m128i spread = _mm_shuffle_epi8(_mm_set1_epi16(static_cast<short>(load_u16(bytes + 2 * half))), byte_of);
        const __m128i set = _mm_cmpeq_epi8(_mm_and_si128(spread, bit_of), bit_of);
        auto* words = reinterpret_cast<__m128i*>(codes + 16 * half);
        _mm_storeu_si128(words, _mm_add_epi8(_mm_loadu_si128(words), _mm_and_si128(set, _mm_set1_epi8(16))));
    }
#else
    std::uint32_t bits;
    std::memcpy(&bits, bytes, sizeof bits);
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::int8_t>(codes[i] + static_cast<int>(((bits >> i) & 1u) << 4));
#endif
}

// out = (levels[code] - zero) * scale for sixteen levels; `count` codes, any number.
inline void look_up_16(const float* levels, const std::uint8_t* codes, std::size_t count, float zero, float scale,
                       float* out) {
    std::size_t i = 0;
#if defined(__AVX512F__)
    const __m512 table = _mm512_loadu_ps(levels);
    for (; i + 16 <= count; i += 16) {
        const __m512i index = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes + i)));
        const __m512 level = _mm512_sub_ps(_mm512_permutexvar_ps(index, table), _mm512_set1_ps(zero));
        _mm512_storeu_ps(out + i, _mm512_mul_ps(level, _mm512_set1_ps(scale)));
    }
#elif defined(__AVX2__)
    const __m256 low = _mm256_loadu_ps(levels), high = _mm256_loadu_ps(levels + 8);
    for (; i + 8 <= count; i += 8) {
        const __m256i index = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(codes + i)));
        // Bit 3 of the code, moved to the sign, chooses the half of the table.
        const __m256 half = _mm256_castsi256_ps(_mm256_slli_epi32(index, 28));
        const __m256 level =
            _mm256_blendv_ps(_mm256_permutevar8x32_ps(low, index), _mm256_permutevar8x32_ps(high, index), half);
        _mm256_storeu_ps(out + i, _mm256_mul_ps(_mm256_sub_ps(level, _mm256_set1_ps(zero)), _mm256_set1_ps(scale)));
    }
#endif
    for (; i < count; ++i) out[i] = (levels[codes[i]] - zero) * scale;
}

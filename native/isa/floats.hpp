// Sixteen float lanes and what attention, norms and activations do with them. Included by isa/*.cpp only, inside their
// namespace. AVX2 and AVX-512 make the same operations in the same order and give the same bits; elsewhere a product
// and a sum are rounded separately.

#if defined(__AVX512F__)
struct Floats {
    __m512 all;

    static Floats broadcast(float value) { return {_mm512_set1_ps(value)}; }
    static Floats load(const float* values) { return {_mm512_loadu_ps(values)}; }
    static Floats load_f16(const std::uint16_t* halves) {
        return {_mm512_maskz_cvtph_ps(0xffff, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(halves)))};
    }
    static Floats load_i8(const std::int8_t* codes) {
        return {_mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes))))};
    }
    void store(float* out) const { _mm512_storeu_ps(out, all); }
    void store_f16(std::uint16_t* out) const {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_maskz_cvtps_ph(0xffff, all, _MM_FROUND_TO_NEAREST_INT));
    }
};
inline Floats operator+(Floats a, Floats b) { return {_mm512_add_ps(a.all, b.all)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm512_sub_ps(a.all, b.all)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm512_mul_ps(a.all, b.all)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm512_div_ps(a.all, b.all)}; }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return {_mm512_fmadd_ps(a.all, b.all, c.all)}; }
inline Floats larger(Floats a, Floats b) { return {_mm512_maskz_max_ps(0xffff, a.all, b.all)}; }
inline Floats smaller(Floats a, Floats b) { return {_mm512_maskz_min_ps(0xffff, a.all, b.all)}; }
inline Floats magnitude(Floats a) { return {_mm512_abs_ps(a.all)}; }
// `other` in lanes where a < b.
inline Floats where_less(Floats a, Floats b, Floats other, Floats self) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.all, b.all, _CMP_LT_OQ), self.all, other.all)};
}
inline Floats rounded(Floats a) {
    return {_mm512_maskz_roundscale_ps(0xffff, a.all, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// 2^exponents for whole numbers in [-126, 127].
inline Floats power_of_two(Floats exponents) {
    const __m512i biased = _mm512_add_epi32(_mm512_maskz_cvtps_epi32(0xffff, exponents.all), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xffff, biased, 23))};
}
inline float largest_lane(Floats a) {
    const __m256 low = _mm512_castps512_ps256(a.all), high = _mm512_extractf32x8_ps(a.all, 1);
    const __m256 eight = _mm256_max_ps(low, high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
// Lanes are added in halves: 16 to 8 to 4 to 2 to 1.
inline float sum_of_lanes(Floats a) {
    const __m256 low = _mm512_castps512_ps256(a.all), high = _mm512_extractf32x8_ps(a.all, 1);
    const __m256 eight = _mm256_add_ps(low, high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#elif defined(__AVX2__)
struct Floats {
    __m256 low, high;

    static Floats broadcast(float value) { return {_mm256_set1_ps(value), _mm256_set1_ps(value)}; }
    static Floats load(const float* values) { return {_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)}; }
    static Floats load_f16(const std::uint16_t* halves) {
        return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves))),
                _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(halves + 8)))};
    }
    static Floats load_i8(const std::int8_t* codes) {
        const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(bytes, 8)))};
    }
    void store(float* out) const {
        _mm256_storeu_ps(out, low);
        _mm256_storeu_ps(out + 8, high);
    }
    void store_f16(std::uint16_t* out) const {
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm256_cvtps_ph(low, _MM_FROUND_TO_NEAREST_INT));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(out + 8), _mm256_cvtps_ph(high, _MM_FROUND_TO_NEAREST_INT));
    }
};
inline Floats operator+(Floats a, Floats b) { return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)}; }
inline Floats operator-(Floats a, Floats b) { return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)}; }
inline Floats operator*(Floats a, Floats b) { return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)}; }
inline Floats operator/(Floats a, Floats b) { return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)}; }
inline Floats multiply_add(Floats a, Floats b, Floats c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Floats larger(Floats a, Floats b) { return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)}; }
inline Floats smaller(Floats a, Floats b) { return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)}; }
inline Floats magnitude(Floats a) {
    const __m256 sign = _mm256_set1_ps(-0.0f);
    return {_mm256_andnot_ps(sign, a.low), _mm256_andnot_ps(sign, a.high)};
}
inline Floats where_less(Floats a, Floats b, Floats other, Floats self) {
    return {_mm256_blendv_ps(self.low, other.low, _mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ)),
            _mm256_blendv_ps(self.high, other.high, _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ))};
}
inline Floats rounded(Floats a) {
    constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, nearest), _mm256_round_ps(a.high, nearest)};
}
inline __m256 power_of_two(__m256 exponents) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(exponents), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
inline Floats power_of_two(Floats exponents) { return {power_of_two(exponents.low), power_of_two(exponents.high)}; }
inline float largest_lane(Floats a) {
    const __m256 eight = _mm256_max_ps(a.low, a.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}
inline float sum_of_lanes(Floats a) {
    const __m256 eight = _mm256_add_ps(a.low, a.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

#else
typedef float Floats16 __attribute__((vector_size(64)));
typedef std::int32_t Integers16 __attribute__((vector_size(64)));

// float16 bits to float, and back with ties to even.
inline float from_half(std::uint16_t bits) {
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16, rest = bits & 0x7fffu;
    std::uint32_t word = sign | ((rest << 13) + (112u << 23));
    if (rest >= 0x7c00u) word = sign | 0x7f800000u | ((rest & 0x3ffu) << 13);
    float value;
    std::memcpy(&value, &word, sizeof value);
    if (rest >= 0x400u) return value;
    const float small = static_cast<float>(rest) * 0x1p-24f;  // subnormal, exact
    return sign != 0 ? -small : small;
}
inline std::uint16_t to_half(float value) {
    std::uint32_t word;
    std::memcpy(&word, &value, sizeof word);
    const auto sign = static_cast<std::uint16_t>((word >> 16) & 0x8000u);
    word &= 0x7fffffffu;
    if (word >= 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7c00u | (word > 0x7f800000u ? 0x200u : 0u));
    if (word >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
    if (word < 0x38800000u) {  // multiples of 2^-24, which is the spacing of floats in [0.5, 1)
        float small;
        std::memcpy(&small, &word, sizeof small);
        small += 0.5f;
        std::memcpy(&word, &small, sizeof word);
        return static_cast<std::uint16_t>(sign | (word - 0x3f000000u));
    }
    return static_cast<std::uint16_t>(sign | ((word + 0xfffu + ((word >> 13) & 1u) - (112u << 23)) >> 13));
}

struct Floats {
    Floats16 all;

    static Floats broadcast(float value) { return {Floats16{} + value}; }
    static Floats load(const float* values) {
        Floats loaded;
        std::memcpy(&loaded.all, values, sizeof loaded.all);
        return loaded;
    }
    static Floats load_f16(const std::uint16_t* halves) {
#if defined(__aarch64__)
        float lanes[16];
        for (int i = 0; i < 16; i += 4)
            vst1q_f32(lanes + i, vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(halves + i))));
        return load(lanes);
#else
        Floats loaded{};
        for (int i = 0; i < 16; ++i) loaded.all[i] = from_half(halves[i]);
        return loaded;
#endif
    }
    static Floats load_i8(const std::int8_t* codes) {
        Floats loaded{};
        for (int i = 0; i < 16; ++i) loaded.all[i] = codes[i];
        return loaded;
    }
    void store(float* out) const { std::memcpy(out, &all, sizeof all); }
    void store_f16(std::uint16_t* out) const {
#if defined(__aarch64__)
        float lanes[16];
        store(lanes);
        for (int i = 0; i < 16; i += 4) vst1_u16(out + i, vreinterpret_u16_f16(vcvt_f16_f32(vld1q_f32(lanes + i))));
#else
        for (int i = 0; i < 16; ++i) out[i] = to_half(all[i]);
#endif
    }
};
inline Floats operator+(Floats a, Floats b) { return {a.all + b.all}; }
inline Floats operator-(Floats a, Floats b) { return {a.all - b.all}; }
inline Floats operator*(Floats a, Floats b) { return {a.all * b.all}; }
inline Floats operator/(Floats a, Floats b) { return {a.all / b.all}; }
inline Floats multiply_add(Floats a, Floats b, Floats c) { return {a.all * b.all + c.all}; }
inline Floats larger(Floats a, Floats b) { return {a.all > b.all ? a.all : b.all}; }
inline Floats smaller(Floats a, Floats b) { return {a.all < b.all ? a.all : b.all}; }
inline Floats magnitude(Floats a) { return {(Floats16)((Integers16)a.all & 0x7fffffff)}; }
inline Floats where_less(Floats a, Floats b, Floats other, Floats self) {
    return {a.all < b.all ? other.all : self.all};
}
inline Floats rounded(Floats a) {  // below 2^22, where adding 1.5 * 2^23 leaves no fraction
    const Floats16 magic = Floats16{} + 12582912.0f;
    return {(a.all + magic) - magic};
}
inline Floats power_of_two(Floats exponents) {
    return {(Floats16)((__builtin_convertvector(exponents.all, Integers16) + 127) << 23)};
}
inline float largest_lane(Floats a) {
    float largest = a.all[0];
    for (int i = 1; i < 16; ++i) largest = std::max(largest, static_cast<float>(a.all[i]));
    return largest;
}
inline float sum_of_lanes(Floats a) {
    float lanes[16];
    a.store(lanes);
    for (int half = 8; half > 0; half /= 2)
        for (int i = 0; i < half; ++i) lanes[i] += lanes[i + half];
    return lanes[0];
}
#endif

// The same bits as `exponential`, for what is not above 88.
inline Floats limited_exponential(Floats x) {
    const Floats floor = Floats::broadcast(-87.0f);
    const Floats limited = larger(floor, x);  // in this order of operands NaN stays NaN
    const Floats whole = rounded(limited * Floats::broadcast(1.44269504f));
    Floats rest = multiply_add(whole, Floats::broadcast(-0.693145752f), limited);  // ln 2 in two parts
    rest = multiply_add(whole, Floats::broadcast(-1.42860677e-6f), rest);
    Floats sum = Floats::broadcast(1.0f / 720);
    for (const float term : {1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1.0f, 1.0f})
        sum = multiply_add(sum, rest, Floats::broadcast(term));
    return where_less(x, floor, Floats::broadcast(0.0f), sum * power_of_two(whole));
}

// Relative error below 2^-22.5; 0 below -87 and infinity above 88.
inline Floats exponential(Floats x) {
    const Floats ceiling = Floats::broadcast(88.0f), infinity = Floats::broadcast(std::numeric_limits<float>::infinity());
    return where_less(ceiling, x, infinity, limited_exponential(smaller(ceiling, x)));
}

// 1 - 2 / (e^2x + 1): within 2e-7 of tanh.
inline Floats hyperbolic_tangent(Floats x) {
    const Floats one = Floats::broadcast(1.0f), two = Floats::broadcast(2.0f);
    return one - two / (exponential(x * two) + one);
}

// The first `count` of sixteen floats; the other lanes are `rest`.
inline Floats load_some(const float* values, std::size_t count, float rest) {
    alignas(64) float lanes[16];
    for (std::size_t i = 0; i < 16; ++i) lanes[i] = i < count ? values[i] : rest;
    return Floats::load(lanes);
}

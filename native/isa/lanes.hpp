// Vectors whose lanes never meet: every lane makes the same sequence of IEEE float operations whatever the width,
// so results are the same bits on every instruction set, and those of the NumPy reference.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace halfpint::HALFPINT_ISA {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
using Lanes = __m512;
using Mask = __mmask16;
inline Lanes broadcast(float value) { return _mm512_set1_ps(value); }
inline Mask less(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_LT_OQ); }
inline Mask equal(Lanes a, Lanes b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
inline Mask both(Mask a, Mask b) { return static_cast<Mask>(a & b); }
inline Mask neither(Mask a, Mask b) { return static_cast<Mask>(~(a | b)); }
inline Lanes select(Mask mask, Lanes yes, Lanes no) { return _mm512_mask_blend_ps(mask, no, yes); }
// With a mask of all ones: gcc 12 warns of the undefined pass-through of the forms without.
inline Lanes smaller(Lanes a, Lanes b) { return _mm512_maskz_min_ps(0xffff, a, b); }
inline Lanes larger(Lanes a, Lanes b) { return _mm512_maskz_max_ps(0xffff, a, b); }
#elif defined(__AVX2__)
constexpr int kLanes = 8;
using Lanes = __m256;
using Mask = __m256;
inline Lanes broadcast(float value) { return _mm256_set1_ps(value); }
inline Mask less(Lanes a, Lanes b) { return _mm256_cmp_ps(a, b, _CMP_LT_OQ); }
inline Mask equal(Lanes a, Lanes b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
inline Mask both(Mask a, Mask b) { return _mm256_and_ps(a, b); }
inline Mask neither(Mask a, Mask b) {
    return _mm256_andnot_ps(_mm256_or_ps(a, b), _mm256_castsi256_ps(_mm256_set1_epi32(-1)));
}
inline Lanes select(Mask mask, Lanes yes, Lanes no) { return _mm256_blendv_ps(no, yes, mask); }
inline Lanes smaller(Lanes a, Lanes b) { return _mm256_min_ps(a, b); }
inline Lanes larger(Lanes a, Lanes b) { return _mm256_max_ps(a, b); }
#else
constexpr int kLanes = 4;
typedef float Lanes __attribute__((vector_size(16)));
typedef std::int32_t Mask __attribute__((vector_size(16)));
inline Lanes broadcast(float value) { return Lanes{value, value, value, value}; }
inline Mask less(Lanes a, Lanes b) { return a < b; }
inline Mask equal(Lanes a, Lanes b) { return a == b; }
inline Mask both(Mask a, Mask b) { return a & b; }
inline Mask neither(Mask a, Mask b) { return ~(a | b); }
inline Lanes select(Mask mask, Lanes yes, Lanes no) { return (Lanes)((mask & (Mask)yes) | (~mask & (Mask)no)); }
inline Lanes smaller(Lanes a, Lanes b) { return select(a < b, a, b); }
inline Lanes larger(Lanes a, Lanes b) { return select(a > b, a, b); }
#endif

typedef std::int32_t IntLanes __attribute__((vector_size(4 * kLanes)));

inline IntLanes bits_of(Lanes values) { return (IntLanes)values; }
inline Lanes from_bits(IntLanes bits) { return (Lanes)bits; }
inline Lanes zeros() { return broadcast(0.0f); }
inline Lanes magnitude(Lanes values) { return from_bits(bits_of(values) & 0x7fffffff); }
inline Lanes clamp(Lanes values, float low, float high) {
    return smaller(larger(values, broadcast(low)), broadcast(high));
}

// Round half to even; right below 2^22, where adding 1.5 * 2^23 leaves no fraction.
inline Lanes round_even(Lanes values) {
    const Lanes magic = broadcast(12582912.0f);
    return (values + magic) - magic;
}

// a / b, with 0 where b is 0.
inline Lanes ratio(Lanes numerator, Lanes denominator) {
    const Mask zero = equal(denominator, zeros());
    return select(zero, zeros(), numerator / select(zero, broadcast(1.0f), denominator));
}

// 1 / values, with 0 where a value is negligible: it then codes to 0.
inline Lanes inverse(Lanes values) {
    const Mask useful = less(broadcast(1e-30f), magnitude(values));
    return select(useful, broadcast(1.0f) / select(useful, values, broadcast(1.0f)), zeros());
}

// The nearest IEEE half, ties to even, in float; what is too large becomes the largest half.
inline Lanes to_half(Lanes values) {
    const Lanes limited = clamp(values, -65504.0f, 65504.0f);
    const IntLanes sign = bits_of(limited) & static_cast<std::int32_t>(0x80000000u);
    const Lanes positive = magnitude(limited);
    const IntLanes bits = bits_of(positive);
    const Lanes normal = from_bits((bits + 0xfff + ((bits >> 13) & 1)) & ~0x1fff);
    // Halves below 2^-14 are multiples of 2^-24, which is the spacing of floats in [0.5, 1).
    const Lanes subnormal = (positive + broadcast(0.5f)) - broadcast(0.5f);
    const Lanes rounded = select(less(positive, broadcast(0x1p-14f)), subnormal, normal);
    return from_bits(bits_of(rounded) | sign);
}

// As to_half, but what is not zero becomes at least the smallest half above zero.
inline Lanes to_live_half(Lanes values) {
    const Lanes half = to_half(values);
    const IntLanes sign = bits_of(values) & static_cast<std::int32_t>(0x80000000u);
    const Lanes smallest = from_bits(bits_of(broadcast(0x1p-24f)) | sign);
    const Mask lost = both(equal(half, zeros()), less(zeros(), magnitude(values)));
    return select(lost, smallest, half);
}

// The first of `count` values of largest magnitude, with its sign.
inline Lanes peak(const Lanes* values, int count) {
    Lanes found = values[0];
    for (int i = 1; i < count; ++i)
        found = select(less(magnitude(found), magnitude(values[i])), values[i], found);
    return found;
}

inline Lanes smallest_of(const Lanes* values, int count) {
    Lanes found = values[0];
    for (int i = 1; i < count; ++i) found = smaller(found, values[i]);
    return found;
}

inline Lanes largest_of(const Lanes* values, int count) {
    Lanes found = values[0];
    for (int i = 1; i < count; ++i) found = larger(found, values[i]);
    return found;
}

}  // namespace
}  // namespace halfpint::HALFPINT_ISA

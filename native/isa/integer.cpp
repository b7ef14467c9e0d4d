// Products of packed weights with activations in 8 bits. Compiled once per instruction set; every set gives the same
// bits, because sums over codes are exact and every lane rounds the same operations in the same order.
#include "isa/integer.hpp"

#include "isa/asking.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
// GCC 12 warns of its own AVX-512 header: _mm512_undefined_ps is meant to be undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace halfpint::HALFPINT_ISA {
namespace {
#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)

#include "isa/widen.hpp"
#include "isa/integer_lanes.hpp"
#include "isa/integer_codes.hpp"
#include "isa/integer_scales.hpp"
#include "isa/integer_product.hpp"
#include "isa/integer_levels.hpp"

template <IntegerKind kind>
struct KindOf;
template <> struct KindOf<IntegerKind::q4_0> : Flat<Planes<4, 3>, Halves> {};
template <> struct KindOf<IntegerKind::q4_1> : Flat<Planes<4, -1>, HalfPairs, true> {};
template <> struct KindOf<IntegerKind::q5_0> : Flat<Planes<5, 4>, Halves> {};
template <> struct KindOf<IntegerKind::q5_1> : Flat<Planes<5, -1>, HalfPairs, true> {};
template <> struct KindOf<IntegerKind::q8_0> : Flat<Bytes, Halves> {};
template <> struct KindOf<IntegerKind::iq4_nl> : Flat<Looked<kIq4>, Halves> {};
template <> struct KindOf<IntegerKind::mxfp4> : Flat<Looked<kE2m1>, Exponents> {};
template <> struct KindOf<IntegerKind::nf4> : Flat<LookedTwice<kNf4Upper, kNf4Lower>, SharedFloats> {};
template <> struct KindOf<IntegerKind::nvfp4> : FlatHalves<Looked<kE2m1>, Float8s> {};
template <> struct KindOf<IntegerKind::q4_k> : Nested<Planes<4, -1>, SixBitPairs, true> {};
template <> struct KindOf<IntegerKind::q5_k> : Nested<Planes<5, -1>, SixBitPairs, true> {};
template <> struct KindOf<IntegerKind::iq4_xs> : Nested<Looked<kIq4>, SixBitGroups> {};
template <> struct KindOf<IntegerKind::q2_k> : NestedHalves<Planes<2, -1>, NibblePairs, true> {};
template <> struct KindOf<IntegerKind::q3_k> : NestedHalves<Planes<3, 2>, SixBitHalves> {};
template <> struct KindOf<IntegerKind::q6_k> : NestedHalves<Planes<6, 5>, ByteHalves> {};
template <> struct KindOf<IntegerKind::int2> : AffineGroups<Planes<2, -1>> {};
template <> struct KindOf<IntegerKind::int3> : AffineGroups<Planes<3, -1>> {};
template <> struct KindOf<IntegerKind::int4> : AffineGroups<Planes<4, -1>> {};
template <> struct KindOf<IntegerKind::int5> : AffineGroups<Planes<5, -1>> {};
template <> struct KindOf<IntegerKind::int6> : AffineGroups<Planes<6, -1>> {};
template <> struct KindOf<IntegerKind::int7> : AffineGroups<Planes<7, -1>> {};
template <> struct KindOf<IntegerKind::int8> : AffineGroups<Bytes> {};

// What a product needs of one super-block, the same for all blocks of rows.
struct Place {
    std::size_t offset;  // in the block
    std::size_t groups;
};

template <IntegerKind kind, int tokens, bool asks>
HALFPINT_INLINE void add_super(const IntegerWeight& weight, const std::uint8_t* block, Place place, const TokenView& x,
                               Floats (&sums)[tokens], std::ptrdiff_t distance = 0) {
    if constexpr (is_affine(kind))
        KindOf<kind>::template add_super<tokens, asks>(weight, block + place.offset, block, place.groups, x, sums, distance);
    else
        KindOf<kind>::template add_super<tokens, asks>(weight, block + place.offset, place.groups, x, sums, distance);
}

// Multiply by the row header's factors where there are any, and write what are rows of the weight.
inline void finish(const IntegerWeight& weight, std::size_t index, const std::uint8_t* block, Floats sums, float* out) {
    if (row_header_bytes(weight) != 0) sums = mul(sums, load_floats(block));
    const std::size_t row = index * kBlockRows;
    if (row + kBlockRows <= weight.rows) return store_floats(sums, out + row);
    alignas(64) float lanes[kBlockRows];
    store_floats(sums, lanes);
    std::memcpy(out + row, lanes, (weight.rows - row) * sizeof(float));
}

// A super-block that is in the first-level cache, for tokens [first, first + count) of a few. Not a part of the caller:
// gcc would move instructions of one count among those of another, and run out of registers.
template <IntegerKind kind, int count>
__attribute__((noinline)) void some_tokens(const IntegerWeight& weight, const std::uint8_t* block, Place place, const TokenView& x,
                 std::size_t first, Floats* sums) {
    Floats some[count];
    unrolled<count>([&]<int i>() HALFPINT_LAMBDA { some[i] = sums[first + i]; });
    add_super<kind, count, false>(weight, block, place, x.at(first, 0), some);
    unrolled<count>([&]<int i>() HALFPINT_LAMBDA { sums[first + i] = some[i]; });
}

// One token. Behind its end the stream goes on elsewhere: `beyond` is how far that is from there.
template <IntegerKind kind>
void one_token(const IntegerWeight& weight, std::size_t index, const TokenView& x, float* out, std::ptrdiff_t beyond) {
    const std::uint8_t* block = weight.data + index * weight.block_bytes;
    Floats sums[1] = {floats(0)};
    const std::size_t groups = weight.groups(), step = super_bytes(weight, kSuperGroups);
    Place place{row_header_bytes(weight), kSuperGroups};
    std::size_t group = 0;
    for (; group + kSuperGroups <= groups; group += kSuperGroups, place.offset += step) {
        const bool inside = place.offset + static_cast<std::size_t>(kFarBytes) < weight.block_bytes;
        add_super<kind, 1, true>(weight, block, place, x.at(0, group), sums, kFarBytes + (inside ? 0 : beyond));
    }
    if (group < groups) {
        place.groups = groups - group;
        some_tokens<kind, 1>(weight, block, place, x.at(0, group), 0, sums);
    }
    finish(weight, index, block, sums[0], out);
}

template <IntegerKind kind>
void few_tokens(const IntegerWeight& weight, std::size_t index, const TokenView& x, std::size_t tokens, float* out) {
    const std::uint8_t* block = weight.data + index * weight.block_bytes;
    Floats sums[kMostTokens];
    for (Floats& sum : sums) sum = floats(0);
    const std::size_t groups = weight.groups();
    Place place{row_header_bytes(weight), kSuperGroups};
    for (std::size_t group = 0; group < groups; group += kSuperGroups) {
        place.groups = std::min(kSuperGroups, groups - group);
        const TokenView here = x.at(0, group);
        const std::uint8_t* ahead = block + place.offset + kFarBytes;
        for (std::size_t i = 0; i < super_bytes(weight, place.groups); i += kLineBytes) __builtin_prefetch(ahead + i, 0, 2);
        std::size_t token = 0;
        if constexpr (kTokensAtOnce == 4) {
            for (; token + 4 <= tokens; token += 4) some_tokens<kind, 4>(weight, block, place, here, token, sums);
            if (token + 2 <= tokens) some_tokens<kind, 2>(weight, block, place, here, std::exchange(token, token + 2), sums);
        }
        for (; token < tokens; ++token) some_tokens<kind, 1>(weight, block, place, here, token, sums);
        place.offset += super_bytes(weight, place.groups);
    }
    for (std::size_t token = 0; token < tokens; ++token)
        finish(weight, index, block, sums[token], out + token * weight.rows);
}

template <IntegerKind kind>
void any_product(const IntegerWeight& weight, std::size_t begin, std::size_t end, const TokenView& x,
                 std::size_t tokens, float* out, const std::uint8_t* next) {
    const auto last = reinterpret_cast<std::intptr_t>(weight.data + end * weight.block_bytes);
    // Where it is not known, the block's own beginning: it is in the cache, and nothing is read.
    const std::intptr_t beyond = next == nullptr ? -static_cast<std::intptr_t>(weight.block_bytes)
                                                 : reinterpret_cast<std::intptr_t>(next) - last;
    for (std::size_t block = begin; block < end; ++block) {
        if (tokens == 1) one_token<kind>(weight, block, x, out, block + 1 < end ? 0 : beyond);
        else few_tokens<kind>(weight, block, x, tokens, out);
    }
}

constexpr auto kProducts = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array{&any_product<static_cast<IntegerKind>(i)>...};
}(std::make_index_sequence<static_cast<std::size_t>(IntegerKind::count)>{});

void product(const IntegerWeight& weight, std::size_t block_begin, std::size_t block_end, const IntegerTokens& x,
             std::size_t tokens, float* out, const std::uint8_t* next) {
    const TokenView view{x.codes, x.scales, x.negative_sums, x.offsets, x.columns};
    kProducts[static_cast<std::size_t>(weight.kind)](weight, block_begin, block_end, view, tokens, out, next);
}

constexpr float kLeastMagnitude = 0x1p-100f;  // 127 over it is still far from infinity

// What codes of a group are made with, from the bits of its largest magnitude.
struct GroupScale {
    float scale, inverse;
    bool useful;

    explicit GroupScale(std::int32_t largest) {
        const float magnitude = bits_to_float(static_cast<std::uint32_t>(largest));
        const bool finite = largest < 0x7f800000;
        useful = finite && magnitude >= kLeastMagnitude;
        inverse = useful ? 127.0f / magnitude : 0.0f;
        scale = useful ? magnitude / 127.0f : finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    }
};

#if defined(__AVX512F__)
// The plain loops below take 27 ns a group, this 8.
HALFPINT_INLINE void quantize_group(const float* x, std::int8_t* codes, float& scale, std::int32_t* negative_sums,
                                    float& offset) {
    const __m512 halves[2] = {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)};
    const __m512i magnitude = _mm512_set1_epi32(0x7fffffff);
    const __m512i first = _mm512_and_si512(_mm512_castps_si512(halves[0]), magnitude);
    const __m512i second = _mm512_and_si512(_mm512_castps_si512(halves[1]), magnitude);
    const GroupScale found(_mm512_reduce_max_epi32(_mm512_max_epi32(first, second)));
    scale = found.scale;
    const __mmask16 useful = found.useful ? 0xffff : 0;
    for (int half = 0; half < 2; ++half) {
        // Rounded to even, as everywhere.
        const __m512 moved = _mm512_maskz_mul_ps(useful, halves[half], _mm512_set1_ps(found.inverse));
        const __m512i rounded = _mm512_cvt_roundps_epi32(moved, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(codes + 16 * half), _mm512_cvtepi32_epi8(rounded));
        negative_sums[half] = -_mm512_reduce_add_epi32(rounded);
    }
    offset = scale * static_cast<float>(-negative_sums[0] - negative_sums[1]);
}
#else
void quantize_group(const float* x, std::int8_t* codes, float& scale, std::int32_t* negative_sums, float& offset) {
    std::int32_t largest = 0;  // magnitudes order like their bits, infinity and NaN above all
    for (std::size_t i = 0; i < kGroupColumns; ++i) {
        std::int32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        largest = std::max(largest, bits & 0x7fffffff);
    }
    const GroupScale found(largest);
    scale = found.scale;
    constexpr float magic = 12582912.0f;  // 1.5 * 2^23: a sum with it has no fraction, and is rounded to even
    for (std::size_t half = 0; half < 2; ++half) {
        std::int32_t sum = 0;
        for (std::size_t i = 16 * half; i < 16 * half + 16; ++i) {
            const float moved = (found.useful ? x[i] : 0.0f) * found.inverse + magic;
            std::int32_t bits;
            std::memcpy(&bits, &moved, sizeof bits);
            const std::int32_t code = bits - 0x4b400000;
            codes[i] = static_cast<std::int8_t>(code);
            sum += code;
        }
        negative_sums[half] = -sum;
    }
    offset = scale * static_cast<float>(-negative_sums[0] - negative_sums[1]);
}
#endif

void quantize(const float* x, std::size_t columns, std::int8_t* codes, float* scales, std::int32_t* negative_sums,
              float* offsets) {
    const std::size_t whole = columns / kGroupColumns;
    for (std::size_t g = 0; g < whole; ++g)
        quantize_group(x + g * kGroupColumns, codes + g * kGroupColumns, scales[g], negative_sums + 2 * g, offsets[g]);
    if (whole * kGroupColumns == columns) return;
    float padded[kGroupColumns] = {};
    std::memcpy(padded, x + whole * kGroupColumns, (columns - whole * kGroupColumns) * sizeof(float));
    quantize_group(padded, codes + whole * kGroupColumns, scales[whole], negative_sums + 2 * whole, offsets[whole]);
}

constexpr IntegerKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA), &quantize, &product};
}  // namespace

const IntegerKernels& integer_kernels();
const IntegerKernels& integer_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA

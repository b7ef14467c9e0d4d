// What codes stand for: the nearest level of scaled weights, and the codes of a row of them.
#pragma once
#include <cstddef>
#include <cstdint>

#include "isa/lanes.hpp"

namespace halfpint::HALFPINT_ISA {
namespace {

// How the weights of one piece of a group become codes: each divided by the unit, then by the scale.
struct RowCoding {
    const float* values;
    std::size_t count;
    float inverse_unit;
    float inverse_scale;
    float lowest;  // integers only
    float highest;
    float zero;
    std::uint8_t* codes;

    float scaled(std::size_t i) const { return values[i] * inverse_unit * inverse_scale; }
};

// Integers between bounds that move with the zero point; ties to even.
struct Integers {
    static constexpr float kTop = 0;  // not used
    static Lanes nearest(Lanes scaled, Lanes low, Lanes high) { return round_even(smaller(larger(scaled, low), high)); }

    static void code(const RowCoding& row) {
        const float low = row.lowest - row.zero, high = row.highest - row.zero;
        for (std::size_t i = 0; i < row.count; ++i) {
            const float scaled = row.scaled(i);
            const float above = scaled < low ? low : scaled;
            const float within = above > high ? high : above;
            const float level = (within + 12582912.0f) - 12582912.0f;
            row.codes[i] = static_cast<std::uint8_t>(static_cast<std::int32_t>(level + row.zero));
        }
    }
};

// Sixteen levels in rising order, the middles between neighbours (the last one is beyond every weight), and codes.
struct LevelTable {
    float levels[16];
    float middles[16];
    std::uint8_t codes[16];
};

constexpr LevelTable make_table(const float (&levels)[16], const std::uint8_t (&codes)[16]) {
    LevelTable table{};
    for (int i = 0; i < 16; ++i) {
        table.levels[i] = levels[i];
        table.codes[i] = codes[i];
        table.middles[i] = i < 15 && levels[i] < levels[i + 1] ? (levels[i + 1] + levels[i]) / 2 : 3.4e38f;
    }
    return table;
}

// QLoRA's normal floats, as formats/levels.py.
constexpr float kNf4[16] = {
    -1.0f,                 -0.6961928009986877f,  -0.5250730514526367f,  -0.39491748809814453f,
    -0.28444138169288635f, -0.18477343022823334f, -0.09105003625154495f, 0.0f,
    0.07958029955625534f,  0.16093020141124725f,  0.24611230194568634f,  0.33791524171829224f,
    0.44070982933044434f,  0.5626170039176941f,   0.7229568362236023f,   1.0f};
// e2m1 has two zeros, of which the first is used; the last place repeats the largest level and is never reached.
constexpr float kE2m1[16] = {-6, -4, -3, -2, -1.5f, -1, -0.5f, 0, 0.5f, 1, 1.5f, 2, 3, 4, 6, 6};

struct Nf4 {
    static constexpr LevelTable kTable =
        make_table(kNf4, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15});
    static constexpr float kTop = 1;
};

struct E2m1 {
    static constexpr LevelTable kTable = make_table(kE2m1, {15, 14, 13, 12, 11, 10, 9, 0, 1, 2, 3, 4, 5, 6, 7, 7});
    static constexpr float kTop = 6;
};

// The nearest of a table; ties to the smaller level.
template <class Table>
struct TableLevels {
    static constexpr float kTop = Table::kTop;

    static Lanes nearest(Lanes scaled, Lanes, Lanes) {
#if defined(__AVX512F__)
        // Binary search with the middles in one register.
        const __m512 middles = _mm512_loadu_ps(Table::kTable.middles);
        const __m512i one = _mm512_set1_epi32(1);
        __m512i rank = _mm512_maskz_set1_epi32(
            _mm512_cmp_ps_mask(scaled, broadcast(Table::kTable.middles[7]), _CMP_GT_OQ), 8);
        for (int step = 4; step >= 1; step /= 2) {
            const __m512i probe = _mm512_add_epi32(rank, _mm512_set1_epi32(step - 1));
            const Mask above =
                _mm512_cmp_ps_mask(scaled, _mm512_maskz_permutexvar_ps(0xffff, probe, middles), _CMP_GT_OQ);
            rank = _mm512_mask_add_epi32(rank, above, probe, one);
        }
        return _mm512_maskz_permutexvar_ps(0xffff, rank, _mm512_loadu_ps(Table::kTable.levels));
#else
        Lanes level = broadcast(Table::kTable.levels[0]);
        for (int i = 0; i < 15; ++i)
            level = select(less(broadcast(Table::kTable.middles[i]), scaled), broadcast(Table::kTable.levels[i + 1]), level);
        return level;
#endif
    }

    static void code(const RowCoding& row) {
        for (std::size_t i = 0; i < row.count; ++i) {
            const float scaled = row.scaled(i);
            int rank = 0;
            for (int k = 0; k < 15; ++k) rank += scaled > Table::kTable.middles[k];
            row.codes[i] = Table::kTable.codes[rank];
        }
    }
};

// 8-bit floats with 4 exponent bits and 3 of mantissa, up to 448, without infinity; ties to even.
struct E4m3 {
    static constexpr float kTop = 448;

    static Lanes nearest(Lanes scaled, Lanes, Lanes) {
        const Lanes limited = clamp(scaled, -kTop, kTop);
        const IntLanes sign = bits_of(limited) & static_cast<std::int32_t>(0x80000000u);
        const Lanes positive = magnitude(limited);
        const IntLanes bits = bits_of(positive);
        const Lanes normal = from_bits((bits + 0x7ffff + ((bits >> 20) & 1)) & ~0xfffff);
        // Below 2^-6 numbers are multiples of 2^-9, which is the spacing of floats in [2^14, 2^15).
        const Lanes subnormal = (positive + broadcast(0x1p14f)) - broadcast(0x1p14f);
        return from_bits(bits_of(select(less(positive, broadcast(0x1p-6f)), subnormal, normal)) | sign);
    }

    static std::uint8_t code_of(float scaled) {
        const float above = scaled < -kTop ? -kTop : scaled;
        const float limited = above > kTop ? kTop : above;
        std::uint32_t bits;
        std::memcpy(&bits, &limited, sizeof bits);
        const std::uint32_t sign = bits >> 24 & 0x80u;
        bits &= 0x7fffffffu;
        float positive;
        std::memcpy(&positive, &bits, sizeof positive);
        // The exponent's bias goes from 127 to 7.
        const std::uint32_t normal = ((bits + 0x7ffffu + (bits >> 20 & 1u)) >> 20) - (120u << 3);
        const float steps = ((positive + 0x1p14f) - 0x1p14f) * 512.0f;
        const std::uint32_t subnormal = static_cast<std::uint32_t>(static_cast<std::int32_t>(steps));
        return static_cast<std::uint8_t>((positive < 0x1p-6f ? subnormal : normal) | sign);
    }

    static void code(const RowCoding& row) {
        for (std::size_t i = 0; i < row.count; ++i) row.codes[i] = code_of(row.scaled(i));
    }
};

}  // namespace
}  // namespace halfpint::HALFPINT_ISA

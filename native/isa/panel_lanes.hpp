// What panels need besides the operations of integer_lanes.hpp: numbers of 16 bits. Included by isa/panel.cpp only,
// inside its namespace, after integer_lanes.hpp.
//
//     Shorts               32 numbers of 16 bits: two columns for each of sixteen rows
//     Pair                 a line as shorts: columns 0 and 2 of its four, and columns 1 and 3
//     to_shorts<bits>(line)      unsigned codes of `bits`, less 2^(bits - 1), as the high bits of shorts
//     bytes_to_shorts(line)      signed bytes as the high halves of shorts
//     join(low, high)            the shorts whose low and high bytes are in two lines
//     twice(ints)                the low 16 bits of every lane, for both columns
//     scaled(a, m, o)            (a * m + 2^14 >> 15) + o
//     store_panel(pair, bytes)   write a line of a panel; its values are the high bytes of the pair

#if defined(__AVX512VNNI__)
#include "isa/panel_lanes_avx512.hpp"
#elif defined(__AVX2__)
#include "isa/panel_lanes_avx2.hpp"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "isa/panel_lanes_neon.hpp"
#else

using PanelCode = std::int16_t;
// What is added to values in units of 1 / 256 before their low bytes are cut off.
constexpr std::int32_t kPanelOffset = 128;

struct Shorts {
    std::int16_t lane[32];
};
struct Pair {
    Shorts even, odd;
};

inline Ints as_ints(const Floats& a) {
    Ints out;
    std::memcpy(out.lane, a.lane, sizeof out.lane);
    return out;
}

inline std::int16_t short_of(int value) { return static_cast<std::int16_t>(static_cast<std::uint16_t>(value)); }

template <int bits>
HALFPINT_APART Pair to_shorts(const Line& codes) {
    Pair out;
    for (int i = 0; i < 32; ++i) {
        out.even.lane[i] = short_of(((codes.byte[2 * i] << (16 - bits)) & 0xffff) ^ 0x8000);
        out.odd.lane[i] = short_of(((codes.byte[2 * i + 1] << (16 - bits)) & 0xffff) ^ 0x8000);
    }
    return out;
}
HALFPINT_APART Pair join(const Line& low, const Line& high) {
    Pair out;
    for (int i = 0; i < 32; ++i) {
        out.even.lane[i] = short_of(low.byte[2 * i] | high.byte[2 * i] << 8);
        out.odd.lane[i] = short_of(low.byte[2 * i + 1] | high.byte[2 * i + 1] << 8);
    }
    return out;
}
inline Pair bytes_to_shorts(const Line& bytes) { return join(Line{}, bytes); }
inline Shorts twice(const Ints& a) {
    Shorts out;
    for (int i = 0; i < 32; ++i) out.lane[i] = short_of(a.lane[i / 2] & 0xffff);
    return out;
}
HALFPINT_APART Shorts scaled(const Shorts& a, const Shorts& m, const Shorts& o) {
    Shorts out;
    for (int i = 0; i < 32; ++i) out.lane[i] = short_of(((a.lane[i] * m.lane[i] + (1 << 14)) >> 15) + o.lane[i]);
    return out;
}
HALFPINT_APART void store_panel(const Pair& values, PanelCode* line) {
    for (int row = 0; row < 16; ++row)
        for (int i = 0; i < 2; ++i) {
            line[4 * row + 2 * i] = static_cast<std::int16_t>(values.even.lane[2 * row + i] >> 8);
            line[4 * row + 2 * i + 1] = static_cast<std::int16_t>(values.odd.lane[2 * row + i] >> 8);
        }
}
#endif

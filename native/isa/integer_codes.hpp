// Codes of a group of 32 columns, in halves of 16, and their products with activations. Included by isa/integer.cpp
// only, inside its namespace.
//
// A kind of codes has Half half<h>(group) and Ints dot<h>(half, x, negative_sum): exactly the sum over 16 columns of
// (code - bias) * x, or of level * x, where negative_sum points to minus the sum of x.

// Bits [0, bits) of the codes of line `z` of a group, from the planes 4, 2 and 1 of integer.hpp.
template <int bits, int z>
HALFPINT_INLINE Line plane_line(const std::uint8_t* group) {
    constexpr int four = bits & 4, two = bits & 2;
    const std::uint8_t* pairs = group + (four != 0 ? 4 * kLineBytes : 0);
    const std::uint8_t* singles = pairs + (two != 0 ? 2 * kLineBytes : 0);
    if constexpr (bits == 4) return take<z / 4 * 4, 4, 0>(load_line(group + z % 4 * kLineBytes));
    if constexpr (bits == 2) return take<z / 2 * 2, 2, 0>(load_line(group + z % 2 * kLineBytes));
    if constexpr (bits == 1) return take<z, 1, 0>(load_line(group));
    if constexpr (bits == 3 || bits == 5 || bits == 7)
        return either(plane_line<bits - 1, z>(group), take<z, 1, bits - 1>(load_line(singles)));
    if constexpr (bits == 6)
        return either(plane_line<4, z>(group), take<z / 2 * 2, 2, 4>(load_line(pairs + z % 2 * kLineBytes)));
}

// Minus 2^bias times the sum of 16 activations, or zero without a bias.
template <int bias>
HALFPINT_INLINE Ints bias_start(const std::int32_t* negative_sum) {
    if constexpr (bias < 0) return ints(0);
    return shift_up<bias < 0 ? 0 : bias>(ints(*negative_sum));
}

struct FourLines {
    Line lines[4];
};

// Unsigned codes less 2^bias; a bias below 0 is none.
template <int bits, int bias>
struct Planes {
    static constexpr std::size_t kGroupBytes = kLineBytes * bits;
    using Half = FourLines;

    // Where bytes are unsigned, and their sums have 32 bits, codes in the high halves of bytes stay where they are: what is
    // moved is the sum, a sixteenth of which is theirs.
    template <int h>
    static constexpr bool kInPlace = kBiasedDots && bits == 4 && h == 1;

    template <int h>
    static HALFPINT_INLINE Half half(const std::uint8_t* group) {
        return {{line<4 * h>(group), line<4 * h + 1>(group), line<4 * h + 2>(group), line<4 * h + 3>(group)}};
    }
    template <int h>
    static HALFPINT_INLINE Ints dot(const Half& half, const std::int8_t* x, const std::int32_t* negative_sum) {
        if constexpr (kInPlace<h>)
            return shift_down_signed<4>(HALFPINT_ISA::dot<240>(bias_start<bias < 0 ? -1 : bias + 4>(negative_sum), half.lines, x));
        return HALFPINT_ISA::dot<(1 << bits) - 1>(bias_start<bias>(negative_sum), half.lines, x);
    }

private:
    template <int z>
    static HALFPINT_INLINE Line line(const std::uint8_t* group) {
        if constexpr (kInPlace<z / 4>) return take<4, 4, 4>(load_line(group + z % 4 * kLineBytes));
        return plane_line<bits, z>(group);
    }
};

HALFPINT_INLINE Ints signed_dot(const Line (&lines)[4], const std::int8_t* x, const std::int32_t* negative_sum) {
    return dot<kSignedBytes>(bias_start<kBiasedDots ? 7 : -1>(negative_sum), lines, x);
}

// Bytes less 128.
struct Bytes {
    static constexpr std::size_t kGroupBytes = kLineBytes * 8;
    using Half = FourLines;

    template <int h>
    static HALFPINT_INLINE Half half(const std::uint8_t* group) {
        Half out;
        for (std::size_t z = 0; z < 4; ++z) out.lines[z] = signed_bytes(load_line(group + (4 * h + z) * kLineBytes));
        return out;
    }
    template <int>
    static HALFPINT_INLINE Ints dot(const Half& half, const std::int8_t* x, const std::int32_t* negative_sum) {
        return signed_dot(half.lines, x, negative_sum);
    }
};

// Sixteen signed levels.
template <const std::int8_t* levels>
struct Looked {
    static constexpr std::size_t kGroupBytes = kLineBytes * 4;
    using Half = FourLines;

    template <int h>
    static HALFPINT_INLINE Half half(const std::uint8_t* group) {
        const Table table = signed_table(levels);
        return {{look_up(table, plane_line<4, 4 * h>(group)), look_up(table, plane_line<4, 4 * h + 1>(group)),
                 look_up(table, plane_line<4, 4 * h + 2>(group)), look_up(table, plane_line<4, 4 * h + 3>(group))}};
    }
    template <int>
    static HALFPINT_INLINE Ints dot(const Half& half, const std::int8_t* x, const std::int32_t* negative_sum) {
        return signed_dot(half.lines, x, negative_sum);
    }
};

// Levels of 15 bits: 128 times the first table plus the second.
template <const std::int8_t* upper, const std::int8_t* lower>
struct LookedTwice {
    static constexpr std::size_t kGroupBytes = kLineBytes * 4;
    struct Half {
        FourLines upper_half, lower_half;
    };

    template <int h>
    static HALFPINT_INLINE Half half(const std::uint8_t* group) {
        return {Looked<upper>::template half<h>(group), Looked<lower>::template half<h>(group)};
    }
    template <int>
    static HALFPINT_INLINE Ints dot(const Half& half, const std::int8_t* x, const std::int32_t* negative_sum) {
        return add(shift_up<7>(signed_dot(half.upper_half.lines, x, negative_sum)),
                   signed_dot(half.lower_half.lines, x, negative_sum));
    }
};

// Scales of a super-block as factors of 16 bits. Included by isa/panel.cpp only, inside its namespace.
//
// A weight is step * a + centre, where `a` are its code less the middle one. The scale of a row and super-block is the
// least that holds all that its steps and centres can give, in 127 steps to each side; so it does not depend on codes,
// and 6 % are lost at most when the codes at both ends are not used.

// Steps and centres of up to sixteen parts of a super-block: groups, or halves of groups.
struct Parts {
    Floats step[2 * kSuperGroups];
    Floats centre[2 * kSuperGroups];
};

// What kinds of scales there are: each has kHalves (a part is 16 columns), kCentred (there are centres), and
// load(weight, header, row header, groups, parts).
//
// `middle` is 2^(bits - 1), what the codes are less.
template <class Scales, int middle, bool minimum>
struct FlatParts {
    static constexpr bool kHalves = false, kCentred = minimum;

    static HALFPINT_INLINE void load(const IntegerWeight&, const std::uint8_t* header, const std::uint8_t*,
                                     std::size_t groups, Parts& out) {
        for (std::size_t g = 0; g < groups; ++g) {
            out.step[g] = Scales::scale(header, g);
            if constexpr (minimum) out.centre[g] = fma(out.step[g], floats(float{middle}), Scales::minimum(header, g));
        }
    }
};

template <class Scales>
struct FlatHalfParts {
    static constexpr bool kHalves = true, kCentred = false;

    static HALFPINT_INLINE void load(const IntegerWeight&, const std::uint8_t* header, const std::uint8_t*,
                                     std::size_t groups, Parts& out) {
        for (std::size_t half = 0; half < 2 * groups; ++half) out.step[half] = Scales::scale(header, half);
    }
};

template <class Scales, bool halves, int middle, bool minimum>
struct NestedParts {
    static constexpr bool kHalves = halves, kCentred = minimum;

    static HALFPINT_INLINE void load(const IntegerWeight&, const std::uint8_t* header, const std::uint8_t*,
                                     std::size_t, Parts& out) {
        const Scales scales(header);
        unrolled<halves ? 2 * kSuperGroups : kSuperGroups>([&]<int i>() __attribute__((always_inline)) {
            out.step[i] = mul(scales.template scale<i>(), scales.outer);
            if constexpr (minimum)
                out.centre[i] = fnma(scales.template minimum<i>(), scales.outer_minimum,
                                     mul(out.step[i], floats(float{middle})));
        });
    }
};

// intN: zero points are taken off the middle.
template <int bits>
struct AffineParts {
    static constexpr bool kHalves = true, kCentred = true;

    static HALFPINT_INLINE void load(const IntegerWeight& weight, const std::uint8_t* header,
                                     const std::uint8_t* row_header, std::size_t groups, Parts& out) {
        const AffineScales scales(weight, header, row_header, groups);
        for (std::size_t half = 0; half < 2 * groups; ++half) {
            out.step[half] = scales.scale(half);
            const Ints zero = scales.zero(half);
            // AffineScales counts bytes less 128 already.
            const Floats off = to_floats(bits == 8 ? zero : add(zero, ints(-(1 << (bits - 1)))));
            out.centre[half] = fnma(out.step[half], off, floats(0));
        }
    }
};

inline Ints magnitude_bits(Floats a) { return both(as_ints(a), ints(0x7fffffff)); }

// The largest magnitude that parts can give, for each row; infinity and NaN come through.
template <bool centred>
HALFPINT_INLINE Floats largest_of(const Parts& parts, std::size_t count, float middle) {
    Ints largest = ints(0);  // magnitudes order like their bits
    for (std::size_t i = 0; i < count; ++i) {
        largest = larger(largest, magnitude_bits(mul(parts.step[i], floats(middle))));
        if constexpr (centred) {
            largest = larger(largest, magnitude_bits(fnma(parts.step[i], floats(middle), parts.centre[i])));
            largest = larger(largest, magnitude_bits(fma(parts.step[i], floats(middle - 1), parts.centre[i])));
        }
    }
    return as_floats(largest);
}

// For each row: what one of its 254 steps is worth, and 127 * 256 over the largest magnitude. A super-block that holds
// infinity or NaN gets the scale NaN, one of almost nothing becomes zeros.
struct RowSteps {
    Floats scale, inverse;
};

HALFPINT_INLINE RowSteps row_steps(Floats largest, Floats factor) {
    alignas(64) float values[kBlockRows], scales[kBlockRows], inverses[kBlockRows];
    store_floats(largest, values);
    for (std::size_t row = 0; row < kBlockRows; ++row) {
        const bool finite = values[row] <= std::numeric_limits<float>::max();
        const bool useful = finite && values[row] >= kLeastMagnitude;
        inverses[row] = (127 * 256) / (useful ? values[row] : 1.0f);
        scales[row] = (useful ? values[row] : 0.0f) / 127.0f;
        if (!useful) inverses[row] = 0.0f;
        if (!finite) scales[row] = std::numeric_limits<float>::quiet_NaN();
    }
    return {mul(load_floats(reinterpret_cast<const std::uint8_t*>(scales)), factor),
            load_floats(reinterpret_cast<const std::uint8_t*>(inverses))};
}

// Factors and offsets of the parts in 16 bits: (a * factor >> 15) + offset is 256 times the code of a panel.
struct PartFactors {
    Shorts factor[2 * kSuperGroups];
    Shorts offset[2 * kSuperGroups];
};

// The nearest integers, in the low 16 bits, of numbers that are small enough.
inline Ints nearest(Floats a, Floats b) {
    return as_ints(fma(a, b, floats(12582912.0f)));  // 1.5 * 2^23: a sum with it has no fraction
}

template <bool centred>
HALFPINT_INLINE void to_factors(const Parts& parts, std::size_t count, float middle, Floats inverse,
                                PartFactors& out) {
    const Floats step_inverse = mul(inverse, floats(middle));
    for (std::size_t i = 0; i < count; ++i) {
        out.factor[i] = twice(nearest(parts.step[i], step_inverse));
        out.offset[i] = twice(ints(kPanelOffset));
        if constexpr (centred) out.offset[i] = twice(add(nearest(parts.centre[i], inverse), ints(kPanelOffset)));
    }
}

// Sums of a super-block, for every kind; with `asks`, memory is asked for what lies `distance` behind it. Included by
// isa/integer.cpp only, inside its namespace.
//
// For each token and row there is one sum, to which the groups are added in order: this is the order of rounding that
// integer_linear.py states a bound for. Sums over codes are integers, and so exact; so are products of them with the
// small integers of nested scales, all below 2^24.

// Call f.operator()<0>(), f.operator()<1>(), ...
template <int count, class F>
HALFPINT_INLINE void unrolled(F&& f) {
    [&]<int... i>(std::integer_sequence<int, i...>) HALFPINT_LAMBDA {
        (f.template operator()<i>(), ...);
    }(std::make_integer_sequence<int, count>{});
}

// The activations of some tokens, from the first column of a super-block on.
struct TokenView {
    const std::int8_t* codes;
    const float* scales;
    const std::int32_t* negative_sums;
    const float* offsets;
    std::size_t columns;

    HALFPINT_INLINE TokenView at(std::size_t token, std::size_t group) const {
        const std::size_t index = token * (columns / kGroupColumns) + group;
        return {codes + token * columns + group * kGroupColumns, scales + index, negative_sums + 2 * index,
                offsets + index, columns};
    }
};

// Ask for memory at a distance from what is used. Groups of 32 columns are asked for one by one, as they are used, and
// nothing is moved across: gcc would gather the requests of a super-block, which fill the few places where loads wait
// for memory.
template <bool asks>
HALFPINT_INLINE void ask(const std::uint8_t* place, std::size_t size, std::ptrdiff_t distance) {
    if constexpr (asks) {
        ask_ahead(place, size, distance);
        keep_order();
    }
}

template <class Half>
struct Group {
    Half first, second;
};

template <class Codes>
HALFPINT_INLINE Group<typename Codes::Half> load_group(const std::uint8_t* codes) {
    return {Codes::template half<0>(codes), Codes::template half<1>(codes)};
}

template <class Codes>
HALFPINT_INLINE Ints first_dot(const Group<typename Codes::Half>& group, const TokenView& x) {
    return Codes::template dot<0>(group.first, x.codes, x.negative_sums);
}

template <class Codes>
HALFPINT_INLINE Ints second_dot(const Group<typename Codes::Half>& group, const TokenView& x) {
    return Codes::template dot<1>(group.second, x.codes + 16, x.negative_sums + 1);
}

template <class Codes>
HALFPINT_INLINE Floats group_dot(const Group<typename Codes::Half>& group, const TokenView& x) {
    return to_floats(add(first_dot<Codes>(group, x), second_dot<Codes>(group, x)));
}

// One scale a group; with `minimum`, one of them too.
template <class Codes, class Scales, bool minimum = false>
struct Flat {
    template <int tokens, bool asks>
    static HALFPINT_INLINE void add_super(const IntegerWeight&, const std::uint8_t* data, std::size_t groups,
                                          const TokenView& x, Floats (&sums)[tokens], std::ptrdiff_t distance) {
        const std::uint8_t* codes = data + Scales::header(groups);
        ask<asks>(data, Scales::header(groups), distance);
        for (std::size_t g = 0; g < groups; ++g, codes += Codes::kGroupBytes) {
            ask<asks>(codes, Codes::kGroupBytes, distance);
            const auto group = load_group<Codes>(codes);
            const Floats scale = Scales::scale(data, g);
            unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA {
                const TokenView here = x.at(token, g);
                sums[token] = fma(group_dot<Codes>(group, here), mul(scale, floats(*here.scales)), sums[token]);
                if constexpr (minimum)
                    sums[token] = fma(Scales::minimum(data, g), floats(*here.offsets), sums[token]);
            });
        }
    }
};

// One scale per 16 columns.
template <class Codes, class Scales>
struct FlatHalves {
    template <int tokens, bool asks>
    static HALFPINT_INLINE void add_super(const IntegerWeight&, const std::uint8_t* data, std::size_t groups,
                                          const TokenView& x, Floats (&sums)[tokens], std::ptrdiff_t distance) {
        const std::uint8_t* codes = data + Scales::header(groups);
        ask<asks>(data, Scales::header(groups), distance);
        for (std::size_t g = 0; g < groups; ++g, codes += Codes::kGroupBytes) {
            ask<asks>(codes, Codes::kGroupBytes, distance);
            const auto group = load_group<Codes>(codes);
            const Floats first = Scales::scale(data, 2 * g), second = Scales::scale(data, 2 * g + 1);
            unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA {
                const TokenView here = x.at(token, g);
                const Floats product = fma(to_floats(second_dot<Codes>(group, here)), second,
                                           mul(to_floats(first_dot<Codes>(group, here)), first));
                sums[token] = fma(product, floats(*here.scales), sums[token]);
            });
        }
    }
};

// Small integers per group under one scale of the super-block, which is always whole.
template <class Codes, class Scales, bool minimum = false>
struct Nested {
    template <int tokens, bool asks>
    static HALFPINT_INLINE void add_super(const IntegerWeight&, const std::uint8_t* data, std::size_t,
                                          const TokenView& x, Floats (&sums)[tokens], std::ptrdiff_t distance) {
        const Scales scales(data);
        ask<asks>(data, Scales::kHeader, distance);
        Floats inner[tokens], lower[tokens];
        unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA { inner[token] = lower[token] = floats(0); });
        unrolled<kSuperGroups>([&]<int g>() HALFPINT_LAMBDA {
            const std::uint8_t* codes = data + Scales::kHeader + g * Codes::kGroupBytes;
            ask<asks>(codes, Codes::kGroupBytes, distance);
            const auto group = load_group<Codes>(codes);
            const Floats scale = scales.template scale<g>();
            unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA {
                const TokenView here = x.at(token, g);
                inner[token] = fma(mul(group_dot<Codes>(group, here), scale), floats(*here.scales), inner[token]);
                if constexpr (minimum)
                    lower[token] = fma(scales.template minimum<g>(), floats(*here.offsets), lower[token]);
            });
        });
        unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA {
            sums[token] = fma(inner[token], scales.outer, sums[token]);
            if constexpr (minimum) sums[token] = fnma(lower[token], scales.outer_minimum, sums[token]);
        });
    }
};

// The same with an integer per 16 columns.
template <class Codes, class Scales, bool minimum = false>
struct NestedHalves {
    template <int tokens, bool asks>
    static HALFPINT_INLINE void add_super(const IntegerWeight&, const std::uint8_t* data, std::size_t,
                                          const TokenView& x, Floats (&sums)[tokens], std::ptrdiff_t distance) {
        const Scales scales(data);
        ask<asks>(data, Scales::kHeader, distance);
        Floats inner[tokens], lower[tokens];
        unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA { inner[token] = lower[token] = floats(0); });
        unrolled<kSuperGroups>([&]<int g>() HALFPINT_LAMBDA {
            const std::uint8_t* codes = data + Scales::kHeader + g * Codes::kGroupBytes;
            ask<asks>(codes, Codes::kGroupBytes, distance);
            const auto group = load_group<Codes>(codes);
            const Floats first = scales.template scale<2 * g>(), second = scales.template scale<2 * g + 1>();
            unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA {
                const TokenView here = x.at(token, g);
                const Floats product = fma(to_floats(second_dot<Codes>(group, here)), second,
                                           mul(to_floats(first_dot<Codes>(group, here)), first));
                inner[token] = fma(product, floats(*here.scales), inner[token]);
                if constexpr (minimum) {
                    const Floats one = floats(static_cast<float>(here.negative_sums[0]));
                    const Floats two = floats(static_cast<float>(here.negative_sums[1]));
                    const Floats both_sums = fma(scales.template minimum<2 * g + 1>(), two,
                                                 mul(scales.template minimum<2 * g>(), one));
                    lower[token] = fma(both_sums, floats(*here.scales), lower[token]);
                }
            });
        });
        unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA {
            sums[token] = fma(inner[token], scales.outer, sums[token]);
            if constexpr (minimum) sums[token] = fma(lower[token], scales.outer_minimum, sums[token]);
        });
    }
};

// Scales and zero points of intN, whose groups and types are known at run time only.
struct AffineScales {
    const IntegerWeight& weight;
    const std::uint8_t* scales;
    const std::uint8_t* zeros;
    std::size_t width;
    int shift;  // halves of groups that share a scale, as a power of two
    int bias;   // what codes are stored above their value when there are no zero points; of bytes, less 128

    AffineScales(const IntegerWeight& of, const std::uint8_t* header, const std::uint8_t* row_header,
                 std::size_t groups)
        : weight(of), scales(header), zeros(header), width(kBlockRows * scale_width(of.scale)),
          shift(std::countr_zero(of.scale_columns / (kGroupColumns / 2))) {
        const int bits = code_bits(of.kind);
        bias = bits == 8 ? 0 : 1 << (bits - 1);
        zeros += scales_of(of, groups) * width;
        if (of.scale_columns == 0) zeros = row_header + kLineBytes;
    }
    // `half` counts 16 columns.
    std::size_t index(std::size_t half) const { return weight.scale_columns == 0 ? 0 : half >> shift; }
    HALFPINT_INLINE Floats scale(std::size_t half) const {
        if (weight.scale_columns == 0) return floats(1);
        const std::uint8_t* lanes = scales + index(half) * width;
        switch (weight.scale) {
            case IntegerScale::f16: return load_halves(lanes);
            case IntegerScale::bf16: return as_floats(shift_up<16>(load_shorts(lanes)));
            case IntegerScale::f32: break;
        }
        return load_floats(lanes);
    }
    HALFPINT_INLINE Ints zero(std::size_t half) const {
        if (!weight.zero_points) return ints(bias);
        const Ints stored = load_bytes(zeros + index(half) * kBlockRows);
        return weight.kind == IntegerKind::int8 ? add(stored, ints(-128)) : stored;
    }
};

// intN: Codes are without a bias (bytes: less 128), zero points are taken off here.
template <class Codes>
struct AffineGroups {
    template <int tokens, bool asks>
    static HALFPINT_INLINE void add_super(const IntegerWeight& weight, const std::uint8_t* data,
                                          const std::uint8_t* row_header, std::size_t groups, const TokenView& x,
                                          Floats (&sums)[tokens], [[maybe_unused]] std::ptrdiff_t distance) {
        const AffineScales scales(weight, data, row_header, groups);
        const std::uint8_t* codes = data + header_bytes(weight, groups);
        ask<asks>(data, header_bytes(weight, groups), distance);
        const bool halves = weight.scale_columns == kGroupColumns / 2;
        for (std::size_t g = 0; g < groups; ++g, codes += Codes::kGroupBytes) {
            ask<asks>(codes, Codes::kGroupBytes, distance);
            const auto group = load_group<Codes>(codes);
            const Floats scale = scales.scale(2 * g), second_scale = scales.scale(2 * g + 1);
            const Ints zero = scales.zero(2 * g), second_zero = scales.zero(2 * g + 1);
            unrolled<tokens>([&]<int token>() HALFPINT_LAMBDA {
                const TokenView here = x.at(token, g);
                const Ints first = add(first_dot<Codes>(group, here), mul(zero, ints(here.negative_sums[0])));
                const Ints second = add(second_dot<Codes>(group, here), mul(second_zero, ints(here.negative_sums[1])));
                const Floats x_scale = floats(*here.scales);
                if (halves) {
                    const Floats product = fma(to_floats(second), second_scale, mul(to_floats(first), scale));
                    sums[token] = fma(product, x_scale, sums[token]);
                } else {
                    sums[token] = fma(to_floats(add(first, second)), mul(scale, x_scale), sums[token]);
                }
            });
        }
    }
};

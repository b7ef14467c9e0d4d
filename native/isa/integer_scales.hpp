// Scales of a super-block as sixteen lanes. Included by isa/integer.cpp only, inside its namespace. Where each number
// is: header_bytes in integer.hpp; the packers are in integer_pack.cpp.

// Flat kinds: one scale a group, and maybe a minimum.
struct Halves {
    static std::size_t header(std::size_t groups) { return to_lines(32 * groups); }
    static HALFPINT_INLINE Floats scale(const std::uint8_t* header, std::size_t index) { return load_halves(header + 32 * index); }
};

struct HalfPairs {
    static std::size_t header(std::size_t groups) { return 64 * groups; }
    static HALFPINT_INLINE Floats scale(const std::uint8_t* header, std::size_t index) { return load_halves(header + 64 * index); }
    static HALFPINT_INLINE Floats minimum(const std::uint8_t* header, std::size_t index) {
        return load_halves(header + 64 * index + 32);
    }
};

// Powers of two, e8m0: 2^(byte - 127). Byte 0 is below the normal floats, hence the least bits.
struct Exponents {
    static std::size_t header(std::size_t groups) { return to_lines(16 * groups); }
    static HALFPINT_INLINE Floats scale(const std::uint8_t* header, std::size_t index) {
        return as_floats(larger(shift_up<23>(load_bytes(header + 16 * index)), ints(1 << 22)));
    }
};

// One float per two groups.
struct SharedFloats {
    static std::size_t header(std::size_t groups) { return 64 * ((groups + 1) / 2); }
    static HALFPINT_INLINE Floats scale(const std::uint8_t* header, std::size_t index) {
        return load_floats(header + 64 * (index / 2));
    }
};

// e4m3 per 16 columns, `index` counting halves of groups: exponent and mantissa moved to those of a float, times
// 2^(127 - 7). Not-a-number is refused when packing.
struct Float8s {
    static std::size_t header(std::size_t groups) { return to_lines(32 * groups); }
    static HALFPINT_INLINE Floats scale(const std::uint8_t* header, std::size_t index) {
        const Ints bytes = load_bytes(header + 16 * index);
        const Ints sign = shift_up<24>(both(bytes, ints(128)));
        return mul(as_floats(either(sign, shift_up<20>(both(bytes, ints(127))))), floats(0x1p120f));
    }
};

// Nested kinds: small integers under one or two halves. The integers come as floats.

// Sixteen fields of six bits in three words: five in each, the last in the two bits left of each.
struct SixBits {
    Ints words[3];

    HALFPINT_INLINE explicit SixBits(const std::uint8_t* bytes) {
        for (int i = 0; i < 3; ++i) words[i] = load_words(bytes + 64 * i);
    }
    template <int field>
    HALFPINT_INLINE Ints get() const {
        if constexpr (field < 15) return both(shift_down<6 * (field % 5)>(words[field / 5]), ints(63));
        const Ints low = shift_down<30>(words[0]), middle = shift_up<2>(shift_down<30>(words[1]));
        return either(either(low, middle), shift_up<4>(shift_down<30>(words[2])));
    }
};

struct SixBitPairs {  // q4_k, q5_k
    static constexpr std::size_t kHeader = 256;
    Floats outer, outer_minimum;
    SixBits fields;

    HALFPINT_INLINE explicit SixBitPairs(const std::uint8_t* header)
        : outer(load_halves(header)), outer_minimum(load_halves(header + 32)), fields(header + 64) {}
    template <int group>
    HALFPINT_INLINE Floats scale() const { return to_floats(fields.get<2 * group>()); }
    template <int group>
    HALFPINT_INLINE Floats minimum() const { return to_floats(fields.get<2 * group + 1>()); }
};

struct SixBitHalves {  // q3_k
    static constexpr std::size_t kHeader = 256;
    Floats outer;
    SixBits fields;

    HALFPINT_INLINE explicit SixBitHalves(const std::uint8_t* header) : outer(load_halves(header)), fields(header + 64) {}
    template <int half>
    HALFPINT_INLINE Floats scale() const { return to_floats(add(fields.get<half>(), ints(-32))); }
};

struct SixBitGroups {  // iq4_xs: five fields and two bits in a word, two fields and four bits in a short
    static constexpr std::size_t kHeader = 128;
    Floats outer;
    Ints shorts, words;

    HALFPINT_INLINE explicit SixBitGroups(const std::uint8_t* header)
        : outer(load_halves(header)), shorts(load_shorts(header + 32)), words(load_words(header + 64)) {}
    template <int group>
    HALFPINT_INLINE Floats scale() const { return to_floats(add(field<group>(), ints(-32))); }

private:
    template <int group>
    HALFPINT_INLINE Ints field() const {
        if constexpr (group < 5) return both(shift_down<6 * group>(words), ints(63));
        if constexpr (group < 7) return both(shift_down<6 * (group < 5 ? 0 : group - 5)>(shorts), ints(63));
        return either(shift_down<30>(words), shift_up<2>(shift_down<12>(shorts)));
    }
};

struct ByteHalves {  // q6_k
    static constexpr std::size_t kHeader = 320;
    Floats outer;
    const std::uint8_t* words;

    HALFPINT_INLINE explicit ByteHalves(const std::uint8_t* header) : outer(load_halves(header)), words(header + 64) {}
    template <int half>
    HALFPINT_INLINE Floats scale() const {
        return to_floats(shift_down_signed<24>(shift_up<24 - 8 * (half % 4)>(load_words(words + 64 * (half / 4)))));
    }
};

struct NibblePairs {  // q2_k
    static constexpr std::size_t kHeader = 320;
    Floats outer, outer_minimum;
    const std::uint8_t* words;

    HALFPINT_INLINE explicit NibblePairs(const std::uint8_t* header)
        : outer(load_halves(header)), outer_minimum(load_halves(header + 32)), words(header + 64) {}
    template <int half>
    HALFPINT_INLINE Floats scale() const { return nibble<half, 0>(); }
    template <int half>
    HALFPINT_INLINE Floats minimum() const { return nibble<half, 4>(); }

private:
    template <int half, int shift>
    HALFPINT_INLINE Floats nibble() const {
        return to_floats(both(shift_down<8 * (half % 4) + shift>(load_words(words + 64 * (half / 4))), ints(15)));
    }
};

// The few operations that products over the layout of integer.hpp are made of, for one instruction set. Sixteen lanes
// are the sixteen rows of a block; lanes never meet. Included by isa/integer.cpp only, inside its namespace.
//
// Integer operations are exact, float operations are one IEEE operation a lane (fma is one rounding), so a new set of
// these has to give the same bits as the plain one below, and the products then do too.
//
//     Floats, Ints     sixteen lanes of float32 or int32
//     Line             64 bytes: four columns for each of sixteen rows
//     take<from, width, to>(line)    bits [from, from + width) of every byte, moved to bit `to`
//     signed_bytes(line)             codes stored plus 128, as `dot` wants signed bytes
//     signed_table(levels)           sixteen signed levels to look nibbles up in, likewise
//     dot<most>(start, lines, x)     start + sum over 4 lines and their 4 columns of line * x; `most` bounds the bytes
//     kBiasedDots                    whether the signed bytes of `dot` are stored plus 128 (the caller then starts at
//                                    -128 times the sum of x)

constexpr int kSignedBytes = 255;  // as `most`: bytes are signed numbers

// Operations are small; what is not repeated in its place passes vectors through memory.
#define HALFPINT_INLINE inline __attribute__((always_inline))
#define HALFPINT_LAMBDA __attribute__((always_inline))

// Nothing is loaded before this that stands behind it: gcc would load the activations once for two streams of weights,
// for which it has not the registers, and so keep them in memory a second time.
HALFPINT_INLINE void keep_order() { asm volatile("" ::: "memory"); }

#if defined(__AVX512VNNI__)
#include "isa/integer_lanes_avx512.hpp"
#elif defined(__AVX2__)
#include "isa/integer_lanes_avx2.hpp"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "isa/integer_lanes_neon.hpp"
#else

constexpr bool kBiasedDots = false;
constexpr int kTokensAtOnce = 1;

// Not repeated in every product: this set is for truth, not speed, and would take minutes to compile.
#define HALFPINT_APART inline __attribute__((noinline))

struct Floats {
    float lane[16];
};
struct Ints {
    std::int32_t lane[16];
};
struct Line {
    std::uint8_t byte[64];
};
using Table = Line;

template <class To, class From, class F>
inline To by_lane(const From& a, F&& f) {
    To out;
    for (int i = 0; i < 16; ++i) out.lane[i] = f(a.lane[i]);
    return out;
}

inline Floats floats(float value) {
    Floats out;
    for (float& lane : out.lane) lane = value;
    return out;
}
inline Ints ints(std::int32_t value) {
    Ints out;
    for (std::int32_t& lane : out.lane) lane = value;
    return out;
}
inline Floats load_floats(const std::uint8_t* bytes) {
    Floats out;
    std::memcpy(out.lane, bytes, sizeof out.lane);
    return out;
}
inline void store_floats(Floats values, float* out) { std::memcpy(out, values.lane, sizeof values.lane); }
inline Ints load_words(const std::uint8_t* bytes) {
    Ints out;
    std::memcpy(out.lane, bytes, sizeof out.lane);
    return out;
}
inline Ints load_shorts(const std::uint8_t* bytes) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.lane[i] = load_u16(bytes + 2 * i);
    return out;
}
inline Ints load_bytes(const std::uint8_t* bytes) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.lane[i] = bytes[i];
    return out;
}
HALFPINT_APART Floats load_halves(const std::uint8_t* bytes) {
    Floats out;
    for (int i = 0; i < 16; ++i) out.lane[i] = from_f16(load_u16(bytes + 2 * i));
    return out;
}
inline Line load_line(const std::uint8_t* bytes) {
    Line out;
    std::memcpy(out.byte, bytes, sizeof out.byte);
    return out;
}

inline Floats to_floats(const Ints& a) {
    return by_lane<Floats>(a, [](std::int32_t v) { return static_cast<float>(v); });
}
inline Floats as_floats(const Ints& a) {
    return by_lane<Floats>(a, [](std::int32_t v) { return bits_to_float(static_cast<std::uint32_t>(v)); });
}
inline Floats mul(const Floats& a, const Floats& b) {
    Floats out;
    for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] * b.lane[i];
    return out;
}
HALFPINT_APART Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    Floats out;
    for (int i = 0; i < 16; ++i) out.lane[i] = __builtin_fmaf(a.lane[i], b.lane[i], c.lane[i]);
    return out;
}
HALFPINT_APART Floats fnma(const Floats& a, const Floats& b, const Floats& c) {
    Floats out;
    for (int i = 0; i < 16; ++i) out.lane[i] = __builtin_fmaf(-a.lane[i], b.lane[i], c.lane[i]);
    return out;
}
inline Ints add(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] + b.lane[i];
    return out;
}
inline Ints mul(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] * b.lane[i];
    return out;
}
inline Ints larger(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] > b.lane[i] ? a.lane[i] : b.lane[i];
    return out;
}
inline Ints both(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] & b.lane[i];
    return out;
}
inline Ints either(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 16; ++i) out.lane[i] = a.lane[i] | b.lane[i];
    return out;
}
template <int bits>
inline Ints shift_up(const Ints& a) {
    return by_lane<Ints>(a, [](std::int32_t v) {
        return static_cast<std::int32_t>(static_cast<std::uint32_t>(v) << bits);
    });
}
template <int bits>
inline Ints shift_down(const Ints& a) {  // zeros come in
    return by_lane<Ints>(a, [](std::int32_t v) { return static_cast<std::int32_t>(static_cast<std::uint32_t>(v) >> bits); });
}
template <int bits>
inline Ints shift_down_signed(const Ints& a) {
    return by_lane<Ints>(a, [](std::int32_t v) { return v >> bits; });
}

template <int from, int width, int to>
HALFPINT_APART Line take(const Line& line) {
    Line out;
    constexpr int mask = (1 << width) - 1;
    for (int i = 0; i < 64; ++i) out.byte[i] = static_cast<std::uint8_t>((line.byte[i] >> from & mask) << to);
    return out;
}
inline Line either(const Line& a, const Line& b) {
    Line out;
    for (int i = 0; i < 64; ++i) out.byte[i] = a.byte[i] | b.byte[i];
    return out;
}
inline Line signed_bytes(const Line& stored) {
    Line out;
    for (int i = 0; i < 64; ++i) out.byte[i] = stored.byte[i] ^ 128;
    return out;
}
inline Table byte_table(const std::int8_t* levels) {
    Table out;
    for (int i = 0; i < 64; ++i) out.byte[i] = static_cast<std::uint8_t>(levels[i % 16]);
    return out;
}
inline Table signed_table(const std::int8_t* levels) { return byte_table(levels); }
HALFPINT_APART Line look_up(const Table& table, const Line& nibbles) {
    Line out;
    for (int i = 0; i < 64; ++i) out.byte[i] = table.byte[nibbles.byte[i]];
    return out;
}

template <int most>
HALFPINT_APART Ints dot(const Ints& start, const Line (&lines)[4], const std::int8_t* x) {
    Ints out = start;
    for (int z = 0; z < 4; ++z)
        for (int i = 0; i < 64; ++i) {
            const std::uint8_t byte = lines[z].byte[i];
            const int value = most == kSignedBytes ? static_cast<std::int8_t>(byte) : byte;
            out.lane[i / 4] += value * x[4 * z + i % 4];
        }
    return out;
}
#endif

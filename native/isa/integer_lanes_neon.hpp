// integer_lanes.hpp for ARM with the dot product instructions: sixteen lanes are four registers of four rows.

constexpr bool kBiasedDots = false;
constexpr int kTokensAtOnce = 1;  // a group of codes fills half of the registers already

struct Floats {
    float32x4_t quarter[4];
};
struct Ints {
    int32x4_t quarter[4];
};
struct Line {
    uint8x16_t quarter[4];
};
using Table = uint8x16_t;

HALFPINT_INLINE Floats floats(float value) {
    Floats out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vdupq_n_f32(value);
    return out;
}
HALFPINT_INLINE Ints ints(std::int32_t value) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vdupq_n_s32(value);
    return out;
}
HALFPINT_INLINE Floats load_floats(const std::uint8_t* bytes) {
    Floats out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vreinterpretq_f32_u8(vld1q_u8(bytes + 16 * i));
    return out;
}
HALFPINT_INLINE void store_floats(const Floats& values, float* out) {
    for (int i = 0; i < 4; ++i) vst1q_f32(out + 4 * i, values.quarter[i]);
}
HALFPINT_INLINE Ints load_words(const std::uint8_t* bytes) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vreinterpretq_s32_u8(vld1q_u8(bytes + 16 * i));
    return out;
}
HALFPINT_INLINE Ints load_shorts(const std::uint8_t* bytes) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vreinterpretq_s32_u32(vmovl_u16(vreinterpret_u16_u8(vld1_u8(bytes + 8 * i))));
    return out;
}
HALFPINT_INLINE Ints load_bytes(const std::uint8_t* bytes) {
    const uint8x16_t all = vld1q_u8(bytes);
    const uint16x8_t low = vmovl_u8(vget_low_u8(all)), high = vmovl_u8(vget_high_u8(all));
    return {{vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(low))), vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(low))),
             vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(high))),
             vreinterpretq_s32_u32(vmovl_u16(vget_high_u16(high)))}};
}
HALFPINT_INLINE Floats load_halves(const std::uint8_t* bytes) {
    Floats out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(bytes + 8 * i)));
    return out;
}
HALFPINT_INLINE Line load_line(const std::uint8_t* bytes) {
    Line out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vld1q_u8(bytes + 16 * i);
    return out;
}

HALFPINT_INLINE Floats to_floats(const Ints& a) {
    Floats out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vcvtq_f32_s32(a.quarter[i]);
    return out;
}
HALFPINT_INLINE Floats as_floats(const Ints& a) {
    Floats out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vreinterpretq_f32_s32(a.quarter[i]);
    return out;
}
HALFPINT_INLINE Floats mul(const Floats& a, const Floats& b) {
    Floats out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vmulq_f32(a.quarter[i], b.quarter[i]);
    return out;
}
HALFPINT_INLINE Floats fma(const Floats& a, const Floats& b, const Floats& c) {
    Floats out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vfmaq_f32(c.quarter[i], a.quarter[i], b.quarter[i]);
    return out;
}
HALFPINT_INLINE Floats fnma(const Floats& a, const Floats& b, const Floats& c) {
    Floats out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vfmsq_f32(c.quarter[i], a.quarter[i], b.quarter[i]);
    return out;
}
HALFPINT_INLINE Ints add(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vaddq_s32(a.quarter[i], b.quarter[i]);
    return out;
}
HALFPINT_INLINE Ints mul(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vmulq_s32(a.quarter[i], b.quarter[i]);
    return out;
}
HALFPINT_INLINE Ints larger(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vmaxq_s32(a.quarter[i], b.quarter[i]);
    return out;
}
HALFPINT_INLINE Ints both(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vandq_s32(a.quarter[i], b.quarter[i]);
    return out;
}
HALFPINT_INLINE Ints either(const Ints& a, const Ints& b) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vorrq_s32(a.quarter[i], b.quarter[i]);
    return out;
}
// By a register: shifts by zero are no immediates.
template <int bits>
HALFPINT_INLINE Ints shift_up(const Ints& a) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vshlq_s32(a.quarter[i], vdupq_n_s32(bits));
    return out;
}
template <int bits>
HALFPINT_INLINE Ints shift_down(const Ints& a) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a.quarter[i]), vdupq_n_s32(-bits)));
    return out;
}
template <int bits>
HALFPINT_INLINE Ints shift_down_signed(const Ints& a) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vshlq_s32(a.quarter[i], vdupq_n_s32(-bits));
    return out;
}

template <int from, int width, int to>
HALFPINT_INLINE Line take(const Line& line) {
    const uint8x16_t mask = vdupq_n_u8(((1 << width) - 1) << to);
    Line out;
    for (int i = 0; i < 4; ++i) {
        const uint8x16_t moved = to == from ? line.quarter[i] : vshlq_u8(line.quarter[i], vdupq_n_s8(to - from));
        out.quarter[i] = vandq_u8(moved, mask);
    }
    return out;
}
HALFPINT_INLINE Line either(const Line& a, const Line& b) {
    Line out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vorrq_u8(a.quarter[i], b.quarter[i]);
    return out;
}
HALFPINT_INLINE Line signed_bytes(const Line& stored) {
    Line out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = veorq_u8(stored.quarter[i], vdupq_n_u8(128));
    return out;
}
HALFPINT_INLINE Table byte_table(const std::int8_t* levels) { return vreinterpretq_u8_s8(vld1q_s8(levels)); }
HALFPINT_INLINE Table signed_table(const std::int8_t* levels) { return byte_table(levels); }
HALFPINT_INLINE Line look_up(Table table, const Line& nibbles) {
    Line out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vqtbl1q_u8(table, nibbles.quarter[i]);
    return out;
}

// Codes are at most 127 or signed, so the signed dot product serves both; it takes four columns of x by their place.
template <int most>
HALFPINT_INLINE Ints dot(const Ints& start, const Line (&lines)[4], const std::int8_t* x) {
    static_assert(most <= 127 || most == kSignedBytes);
    const int8x16_t columns = vld1q_s8(x);
    Ints out;
    for (int i = 0; i < 4; ++i) {
        int32x4_t sum = vdotq_laneq_s32(start.quarter[i], vreinterpretq_s8_u8(lines[0].quarter[i]), columns, 0);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(lines[1].quarter[i]), columns, 1);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(lines[2].quarter[i]), columns, 2);
        out.quarter[i] = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(lines[3].quarter[i]), columns, 3);
    }
    return out;
}

// panel_lanes.hpp for ARM with the dot product instructions: a panel's codes are signed bytes.

using PanelCode = std::int8_t;
constexpr std::int32_t kPanelOffset = 128;

struct Shorts {
    int16x8_t quarter[4];
};
struct Pair {
    Shorts even, odd;
};

HALFPINT_INLINE Ints as_ints(const Floats& a) {
    Ints out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vreinterpretq_s32_f32(a.quarter[i]);
    return out;
}

template <int bits>
HALFPINT_INLINE Pair to_shorts(const Line& codes) {
    const uint16x8_t bias = vdupq_n_u16(0x8000);
    const uint16x8_t mask = vdupq_n_u16(static_cast<std::uint16_t>(0x10000 - (1 << (16 - bits))));
    Pair out;
    for (int i = 0; i < 4; ++i) {
        const uint16x8_t both_columns = vreinterpretq_u16_u8(codes.quarter[i]);
        const uint16x8_t even = vshlq_n_u16(both_columns, 16 - bits);
        const uint16x8_t odd = vandq_u16(vshlq_n_u16(both_columns, 8 - bits), mask);
        out.even.quarter[i] = vreinterpretq_s16_u16(veorq_u16(even, bias));
        out.odd.quarter[i] = vreinterpretq_s16_u16(veorq_u16(odd, bias));
    }
    return out;
}
HALFPINT_INLINE Pair join(const Line& low, const Line& high) {
    const uint16x8_t mask = vdupq_n_u16(0xff00);
    Pair out;
    for (int i = 0; i < 4; ++i) {
        const uint16x8_t lower = vreinterpretq_u16_u8(low.quarter[i]), upper = vreinterpretq_u16_u8(high.quarter[i]);
        out.even.quarter[i] = vreinterpretq_s16_u16(vsliq_n_u16(lower, upper, 8));
        out.odd.quarter[i] = vreinterpretq_s16_u16(vorrq_u16(vshrq_n_u16(lower, 8), vandq_u16(upper, mask)));
    }
    return out;
}
HALFPINT_INLINE Pair bytes_to_shorts(const Line& bytes) {
    const uint16x8_t mask = vdupq_n_u16(0xff00);
    Pair out;
    for (int i = 0; i < 4; ++i) {
        const uint16x8_t both_columns = vreinterpretq_u16_u8(bytes.quarter[i]);
        out.even.quarter[i] = vreinterpretq_s16_u16(vshlq_n_u16(both_columns, 8));
        out.odd.quarter[i] = vreinterpretq_s16_u16(vandq_u16(both_columns, mask));
    }
    return out;
}
HALFPINT_INLINE Shorts twice(const Ints& a) {
    Shorts out;
    for (int i = 0; i < 4; ++i) out.quarter[i] = vreinterpretq_s16_s32(vsliq_n_s32(a.quarter[i], a.quarter[i], 16));
    return out;
}
HALFPINT_INLINE Shorts scaled(const Shorts& a, const Shorts& m, const Shorts& o) {
    Shorts out;
    for (int i = 0; i < 4; ++i)
        out.quarter[i] = vaddq_s16(vqrdmulhq_s16(a.quarter[i], m.quarter[i]), o.quarter[i]);
    return out;
}
HALFPINT_INLINE void store_panel(const Pair& values, PanelCode* line) {
    for (int i = 0; i < 4; ++i) {
        const uint16x8_t even = vreinterpretq_u16_s16(values.even.quarter[i]);
        const uint16x8_t odd = vreinterpretq_u16_s16(values.odd.quarter[i]);
        vst1q_s8(line + 16 * i, vreinterpretq_s8_u16(vsriq_n_u16(odd, even, 8)));
    }
}

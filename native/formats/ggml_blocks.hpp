// GGUF's blocks: bytes to fields and back. Layouts are those of ggml's block structs (ggml-common.h); the Python
// twin is formats/ggml/block_layout.py. Compiled once per instruction set, hence the namespace.
#pragma once
#include <cstdint>
#include <cstring>

namespace halfpint::HALFPINT_ISA {
namespace {

constexpr int kMostColumns = 256;
constexpr int kMostGroups = 16;
constexpr std::int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// What one block holds. Codes are as stored, 0 to 2^bits - 1; q8_0 adds 128 to its level.
struct Fields {
    std::uint16_t scale;
    std::uint16_t minimum;
    std::int32_t subscale[kMostGroups];
    std::int32_t submin[kMostGroups];
    std::uint8_t codes[kMostColumns];
};

inline std::uint16_t read_u16(const std::uint8_t* bytes) {
    return static_cast<std::uint16_t>(bytes[0] | bytes[1] << 8);
}

inline void write_u16(std::uint8_t* bytes, std::uint16_t value) {
    bytes[0] = static_cast<std::uint8_t>(value);
    bytes[1] = static_cast<std::uint8_t>(value >> 8);
}

inline float half_to_float(std::uint16_t half) {
    const std::uint32_t sign = static_cast<std::uint32_t>(half & 0x8000u) << 16;
    const std::uint32_t rest = half & 0x7fffu;
    std::uint32_t bits;
    if (rest < 0x400u) {  // subnormal: a multiple of 2^-24
        const float value = static_cast<float>(rest) * 0x1p-24f;
        std::memcpy(&bits, &value, sizeof bits);
    } else {
        bits = rest >= 0x7c00u ? 0x7f800000u | (rest & 0x3ffu) << 13 : (rest << 13) + (112u << 23);
    }
    bits |= sign;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

// Exact for values that are halves; minus zero becomes zero, so that equal numbers have equal bytes.
inline std::uint16_t half_bits(float half) {
    std::uint32_t bits;
    std::memcpy(&bits, &half, sizeof bits);
    const std::uint32_t rest = bits & 0x7fffffffu;
    if (rest == 0) return 0;
    const std::uint32_t sign = bits >> 16 & 0x8000u;
    if (rest < 0x38800000u) {
        const float magnitude = half < 0 ? -half : half;
        return static_cast<std::uint16_t>(sign | static_cast<std::uint32_t>(magnitude * 0x1p24f));
    }
    return static_cast<std::uint16_t>(sign | ((rest >> 13) - (112u << 10)));
}

// `count` codes in runs of `run` low nibbles, each followed by the run of the same bytes' high nibbles.
template <int count, int run>
inline void read_nibbles(const std::uint8_t* packed, std::uint8_t* codes) {
    for (int start = 0; start < count / 2; start += run)
        for (int i = 0; i < run; ++i) {
            codes[2 * start + i] = packed[start + i] & 15;
            codes[2 * start + run + i] = packed[start + i] >> 4;
        }
}

template <int count, int run>
inline void write_nibbles(const std::uint8_t* codes, std::uint8_t* packed) {
    for (int start = 0; start < count / 2; start += run)
        for (int i = 0; i < run; ++i)
            packed[start + i] = static_cast<std::uint8_t>((codes[2 * start + i] & 15) | codes[2 * start + run + i] << 4);
}

// 256 codes of two bits: 32 bytes hold four runs of 32. Added to what `codes` holds, shifted up.
template <int shift>
inline void or_crumbs(const std::uint8_t* packed, std::uint8_t* codes) {
    for (int half = 0; half < 2; ++half)
        for (int run = 0; run < 4; ++run)
            for (int i = 0; i < 32; ++i)
                codes[128 * half + 32 * run + i] |=
                    static_cast<std::uint8_t>((packed[32 * half + i] >> 2 * run & 3) << shift);
}

template <int shift>
inline void write_crumbs(const std::uint8_t* codes, std::uint8_t* packed) {
    for (int half = 0; half < 2; ++half)
        for (int i = 0; i < 32; ++i) {
            int byte = 0;
            for (int run = 0; run < 4; ++run) byte |= (codes[128 * half + 32 * run + i] >> shift & 3) << 2 * run;
            packed[32 * half + i] = static_cast<std::uint8_t>(byte);
        }
}

// 256 single bits: bit j of byte i belongs to code 32 j + i.
template <int shift>
inline void or_planes(const std::uint8_t* packed, std::uint8_t* codes) {
    for (int plane = 0; plane < 8; ++plane)
        for (int i = 0; i < 32; ++i)
            codes[32 * plane + i] |= static_cast<std::uint8_t>((packed[i] >> plane & 1) << shift);
}

template <int shift>
inline void write_planes(const std::uint8_t* codes, std::uint8_t* packed) {
    for (int i = 0; i < 32; ++i) {
        int byte = 0;
        for (int plane = 0; plane < 8; ++plane) byte |= (codes[32 * plane + i] >> shift & 1) << plane;
        packed[i] = static_cast<std::uint8_t>(byte);
    }
}

// 32 single bits in order, the fifth bits of q5_0 and q5_1.
inline void or_fifth_bits(const std::uint8_t* packed, std::uint8_t* codes) {
    for (int i = 0; i < 32; ++i) codes[i] |= static_cast<std::uint8_t>((packed[i / 8] >> i % 8 & 1) << 4);
}

inline void write_fifth_bits(const std::uint8_t* codes, std::uint8_t* packed) {
    for (int byte = 0; byte < 4; ++byte) {
        int bits = 0;
        for (int i = 0; i < 8; ++i) bits |= (codes[8 * byte + i] >> 4 & 1) << i;
        packed[byte] = static_cast<std::uint8_t>(bits);
    }
}

// The 12 bytes of q4_k and q5_k, as layout.py describes them.
inline void read_six_bit_pairs(const std::uint8_t* packed, Fields& fields) {
    for (int i = 0; i < 4; ++i) {
        fields.subscale[i] = packed[i] & 63;
        fields.submin[i] = packed[i + 4] & 63;
        fields.subscale[i + 4] = (packed[i + 8] & 15) | packed[i] >> 6 << 4;
        fields.submin[i + 4] = packed[i + 8] >> 4 | packed[i + 4] >> 6 << 4;
    }
}

inline void write_six_bit_pairs(const Fields& fields, std::uint8_t* packed) {
    for (int i = 0; i < 4; ++i) {
        packed[i] = static_cast<std::uint8_t>(fields.subscale[i] | fields.subscale[i + 4] >> 4 << 6);
        packed[i + 4] = static_cast<std::uint8_t>(fields.submin[i] | fields.submin[i + 4] >> 4 << 6);
        packed[i + 8] = static_cast<std::uint8_t>((fields.subscale[i + 4] & 15) | (fields.submin[i + 4] & 15) << 4);
    }
}

// Facts of a format, as in formats/ggml/blocks.py. kLow and kHigh are the levels that encoders write, kZeroCode is
// the level of code 0.
template <int columns, int bytes, int group, int low, int high, int zero_code, int sub_low, int sub_high, bool minimum>
struct Format {
    static constexpr int kColumns = columns;
    static constexpr int kBytes = bytes;
    static constexpr int kGroup = group;
    static constexpr int kGroups = columns / group;
    static constexpr int kLow = low;
    static constexpr int kHigh = high;
    static constexpr int kZeroCode = zero_code;
    static constexpr int kSubLow = sub_low;
    static constexpr int kSubHigh = sub_high;
    static constexpr bool kMinimum = minimum;
    static constexpr bool kNested = sub_low != sub_high;
    static constexpr bool kIq4 = low == kIq4Levels[0] && high == kIq4Levels[15];
};

struct Q8_0 : Format<32, 34, 32, -127, 127, -128, 1, 1, false> {
    static void read(const std::uint8_t* block, Fields& fields) {
        fields.scale = read_u16(block);
        for (int i = 0; i < 32; ++i) fields.codes[i] = block[2 + i] ^ 128;
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_u16(block, fields.scale);
        for (int i = 0; i < 32; ++i) block[2 + i] = fields.codes[i] ^ 128;
    }
};

template <class Facts>
struct FourBits : Facts {
    static void read(const std::uint8_t* block, Fields& fields) {
        fields.scale = read_u16(block);
        read_nibbles<32, 16>(block + 2, fields.codes);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_u16(block, fields.scale);
        write_nibbles<32, 16>(fields.codes, block + 2);
    }
};
struct Q4_0 : FourBits<Format<32, 18, 32, -8, 7, -8, 1, 1, false>> {};
struct Iq4Nl : FourBits<Format<32, 18, 32, -127, 113, 0, 1, 1, false>> {};

struct Q4_1 : Format<32, 20, 32, 0, 15, 0, 1, 1, true> {
    static void read(const std::uint8_t* block, Fields& fields) {
        fields.scale = read_u16(block);
        fields.minimum = read_u16(block + 2);
        read_nibbles<32, 16>(block + 4, fields.codes);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_u16(block, fields.scale);
        write_u16(block + 2, fields.minimum);
        write_nibbles<32, 16>(fields.codes, block + 4);
    }
};

struct Q5_0 : Format<32, 22, 32, -16, 15, -16, 1, 1, false> {
    static void read(const std::uint8_t* block, Fields& fields) {
        fields.scale = read_u16(block);
        read_nibbles<32, 16>(block + 6, fields.codes);
        or_fifth_bits(block + 2, fields.codes);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_u16(block, fields.scale);
        write_fifth_bits(fields.codes, block + 2);
        write_nibbles<32, 16>(fields.codes, block + 6);
    }
};

struct Q5_1 : Format<32, 24, 32, 0, 31, 0, 1, 1, true> {
    static void read(const std::uint8_t* block, Fields& fields) {
        fields.scale = read_u16(block);
        fields.minimum = read_u16(block + 2);
        read_nibbles<32, 16>(block + 8, fields.codes);
        or_fifth_bits(block + 4, fields.codes);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_u16(block, fields.scale);
        write_u16(block + 2, fields.minimum);
        write_fifth_bits(fields.codes, block + 4);
        write_nibbles<32, 16>(fields.codes, block + 8);
    }
};

struct Q2K : Format<256, 84, 16, 0, 3, 0, 0, 15, true> {
    static void read(const std::uint8_t* block, Fields& fields) {
        for (int i = 0; i < 16; ++i) {
            fields.subscale[i] = block[i] & 15;
            fields.submin[i] = block[i] >> 4;
        }
        std::memset(fields.codes, 0, 256);
        or_crumbs<0>(block + 16, fields.codes);
        fields.scale = read_u16(block + 80);
        fields.minimum = read_u16(block + 82);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        for (int i = 0; i < 16; ++i)
            block[i] = static_cast<std::uint8_t>(fields.subscale[i] | fields.submin[i] << 4);
        write_crumbs<0>(fields.codes, block + 16);
        write_u16(block + 80, fields.scale);
        write_u16(block + 82, fields.minimum);
    }
};

struct Q3K : Format<256, 110, 16, -4, 3, -4, -32, 31, false> {
    static void read(const std::uint8_t* block, Fields& fields) {
        std::memset(fields.codes, 0, 256);
        or_planes<2>(block, fields.codes);
        or_crumbs<0>(block + 32, fields.codes);
        for (int i = 0; i < 16; ++i) {
            const int low = i < 8 ? block[96 + i] & 15 : block[88 + i] >> 4;
            fields.subscale[i] = (low | (block[104 + i % 4] >> 2 * (i / 4) & 3) << 4) - 32;
        }
        fields.scale = read_u16(block + 108);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_planes<2>(fields.codes, block);
        write_crumbs<0>(fields.codes, block + 32);
        std::memset(block + 96, 0, 12);
        for (int i = 0; i < 16; ++i) {
            const int biased = fields.subscale[i] + 32;
            block[96 + i % 8] |= static_cast<std::uint8_t>((biased & 15) << 4 * (i / 8));
            block[104 + i % 4] |= static_cast<std::uint8_t>(biased >> 4 << 2 * (i / 4));
        }
        write_u16(block + 108, fields.scale);
    }
};

struct Q4K : Format<256, 144, 32, 0, 15, 0, 0, 63, true> {
    static void read(const std::uint8_t* block, Fields& fields) {
        fields.scale = read_u16(block);
        fields.minimum = read_u16(block + 2);
        read_six_bit_pairs(block + 4, fields);
        read_nibbles<256, 32>(block + 16, fields.codes);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_u16(block, fields.scale);
        write_u16(block + 2, fields.minimum);
        write_six_bit_pairs(fields, block + 4);
        write_nibbles<256, 32>(fields.codes, block + 16);
    }
};

struct Q5K : Format<256, 176, 32, 0, 31, 0, 0, 63, true> {
    static void read(const std::uint8_t* block, Fields& fields) {
        fields.scale = read_u16(block);
        fields.minimum = read_u16(block + 2);
        read_six_bit_pairs(block + 4, fields);
        read_nibbles<256, 32>(block + 48, fields.codes);
        or_planes<4>(block + 16, fields.codes);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_u16(block, fields.scale);
        write_u16(block + 2, fields.minimum);
        write_six_bit_pairs(fields, block + 4);
        write_planes<4>(fields.codes, block + 16);
        write_nibbles<256, 32>(fields.codes, block + 48);
    }
};

struct Q6K : Format<256, 210, 16, -32, 31, -32, -128, 127, false> {
    static void read(const std::uint8_t* block, Fields& fields) {
        read_nibbles<256, 64>(block, fields.codes);
        or_crumbs<4>(block + 128, fields.codes);
        for (int i = 0; i < 16; ++i) fields.subscale[i] = static_cast<std::int8_t>(block[192 + i]);
        fields.scale = read_u16(block + 208);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_nibbles<256, 64>(fields.codes, block);
        write_crumbs<4>(fields.codes, block + 128);
        for (int i = 0; i < 16; ++i) block[192 + i] = static_cast<std::uint8_t>(fields.subscale[i]);
        write_u16(block + 208, fields.scale);
    }
};

struct Iq4Xs : Format<256, 136, 32, -127, 113, 0, -32, 31, false> {
    static void read(const std::uint8_t* block, Fields& fields) {
        fields.scale = read_u16(block);
        const int high = read_u16(block + 2);
        for (int i = 0; i < 8; ++i) {
            const int low = block[4 + i / 2] >> 4 * (i % 2) & 15;
            fields.subscale[i] = (low | (high >> 2 * i & 3) << 4) - 32;
        }
        read_nibbles<256, 16>(block + 8, fields.codes);
    }
    static void write(const Fields& fields, std::uint8_t* block) {
        write_u16(block, fields.scale);
        int high = 0;
        std::memset(block + 4, 0, 4);
        for (int i = 0; i < 8; ++i) {
            const int biased = fields.subscale[i] + 32;
            high |= biased >> 4 << 2 * i;
            block[4 + i / 2] |= static_cast<std::uint8_t>((biased & 15) << 4 * (i % 2));
        }
        write_u16(block + 2, static_cast<std::uint16_t>(high));
        write_nibbles<256, 16>(fields.codes, block + 8);
    }
};

// One block to float32, every product and sum rounded as ggml's dequantizers do.
template <class F>
inline void decode_block(const std::uint8_t* block, float* out) {
    Fields fields;
    F::read(block, fields);
    // Scales first, into arrays of their own: gcc 12 loses the loop below when it reads both from `fields`.
    float scales[F::kGroups];
    [[maybe_unused]] float offsets[F::kGroups];
    for (int group = 0; group < F::kGroups; ++group) {
        scales[group] = half_to_float(fields.scale);
        if constexpr (F::kNested) scales[group] *= static_cast<float>(fields.subscale[group]);
        if constexpr (F::kMinimum) {
            offsets[group] = half_to_float(fields.minimum);
            if constexpr (F::kNested) offsets[group] = -(offsets[group] * static_cast<float>(fields.submin[group]));
        }
    }
    for (int group = 0; group < F::kGroups; ++group)
        for (int i = group * F::kGroup; i < (group + 1) * F::kGroup; ++i) {
            const int level = F::kIq4 ? kIq4Levels[fields.codes[i] & 15] : fields.codes[i] + F::kZeroCode;
            float value = scales[group] * static_cast<float>(level);
            if constexpr (F::kMinimum) value += offsets[group];
            out[i] = value;
        }
}

}  // namespace
}  // namespace halfpint::HALFPINT_ISA

// Columns [begin, begin + count) of one row as float32, for every kind of weight. `begin` is a multiple of
// kChunk, and `count` is kChunk or what is left of the row. Included by isa/linear.cpp only, inside its namespace.
//
// Every product and sum is rounded to float32 as in the NumPy reference (the build forbids contraction), so the
// values are the same bits. Layouts: ggml-common.h of ggml.

constexpr std::size_t kChunk = 256;

inline std::uint16_t load_u16(const std::uint8_t* bytes) {
    std::uint16_t value;
    std::memcpy(&value, bytes, sizeof value);
    return value;
}

inline float bits_to_float(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

inline float from_bf16(std::uint16_t bits) { return bits_to_float(static_cast<std::uint32_t>(bits) << 16); }

inline float from_f16(std::uint16_t bits) {
#if defined(__F16C__)
    return _cvtsh_ss(bits);
#else
    const std::uint32_t sign = static_cast<std::uint32_t>(bits & 0x8000u) << 16;
    const std::uint32_t magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | ((magnitude & 0x3ffu) << 13));
    if (magnitude < 0x400u) {  // subnormal: magnitude * 2^-24, exact
        const float value = static_cast<float>(magnitude) * 0x1p-24f;
        return sign != 0 ? -value : value;
    }
    return bits_to_float(sign | ((magnitude << 13) + (112u << 23)));
#endif
}

template <WeightKind kind>
struct Decoder;

template <>
struct Decoder<WeightKind::f32> {
    static void chunk(const Weight&, const std::uint8_t* row, std::size_t, std::size_t begin, std::size_t count,
                      float* out) {
        std::memcpy(out, row + 4 * begin, 4 * count);
    }
};

template <>
struct Decoder<WeightKind::bf16> {
    static void chunk(const Weight&, const std::uint8_t* row, std::size_t, std::size_t begin, std::size_t count,
                      float* out) {
        for (std::size_t i = 0; i < count; ++i) out[i] = from_bf16(load_u16(row + 2 * (begin + i)));
    }
};

template <>
struct Decoder<WeightKind::f16> {
    static void chunk(const Weight&, const std::uint8_t* row, std::size_t, std::size_t begin, std::size_t count,
                      float* out) {
        const std::uint8_t* bytes = row + 2 * begin;
        std::size_t i = 0;
#if defined(__F16C__)
        for (; i + 8 <= count; i += 8)
            _mm256_storeu_ps(out + i,
                             _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + 2 * i))));
#endif
        for (; i < count; ++i) out[i] = from_f16(load_u16(bytes + 2 * i));
    }
};

// Formats whose blocks have 32 columns: Block::decode(block, out) writes 32 values.
template <class Block>
struct SmallBlocks {
    static void chunk(const Weight&, const std::uint8_t* row, std::size_t, std::size_t begin, std::size_t count,
                      float* out) {
        const std::uint8_t* block = row + begin / 32 * Block::kBytes;
        for (std::size_t i = 0; i < count; i += 32, block += Block::kBytes) Block::decode(block, out + i);
    }
};

// Formats whose blocks have 256 columns: a chunk is a block.
template <class Block>
struct LargeBlocks {
    static void chunk(const Weight&, const std::uint8_t* row, std::size_t, std::size_t begin, std::size_t,
                      float* out) {
        Block::decode(row + begin / 256 * Block::kBytes, out);
    }
};

struct BlockQ8_0 {
    static constexpr std::size_t kBytes = 34;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block));
        const auto* codes = reinterpret_cast<const std::int8_t*>(block + 2);
        for (int i = 0; i < 32; ++i) out[i] = scale * static_cast<float>(codes[i]);
    }
};

struct BlockQ4_0 {
    static constexpr std::size_t kBytes = 18;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block));
        const std::uint8_t* codes = block + 2;
        for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>((codes[i] & 15) - 8);
        for (int i = 0; i < 16; ++i) out[16 + i] = scale * static_cast<float>((codes[i] >> 4) - 8);
    }
};

struct BlockQ4_1 {
    static constexpr std::size_t kBytes = 20;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block)), minimum = from_f16(load_u16(block + 2));
        const std::uint8_t* codes = block + 4;
        for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>(codes[i] & 15) + minimum;
        for (int i = 0; i < 16; ++i) out[16 + i] = scale * static_cast<float>(codes[i] >> 4) + minimum;
    }
};

// The fifth bits of 32 codes, as 0 or 16 each.
inline void fifth_bits(const std::uint8_t* bytes, std::uint8_t* out) {
    std::uint32_t bits;
    std::memcpy(&bits, bytes, sizeof bits);
    for (int i = 0; i < 32; ++i) out[i] = static_cast<std::uint8_t>(((bits >> i) & 1u) << 4);
}

struct BlockQ5_0 {
    static constexpr std::size_t kBytes = 22;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block));
        std::uint8_t high[32];
        fifth_bits(block + 2, high);
        const std::uint8_t* codes = block + 6;
        for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>(((codes[i] & 15) | high[i]) - 16);
        for (int i = 0; i < 16; ++i) out[16 + i] = scale * static_cast<float>(((codes[i] >> 4) | high[16 + i]) - 16);
    }
};

struct BlockQ5_1 {
    static constexpr std::size_t kBytes = 24;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block)), minimum = from_f16(load_u16(block + 2));
        std::uint8_t high[32];
        fifth_bits(block + 4, high);
        const std::uint8_t* codes = block + 8;
        for (int i = 0; i < 16; ++i) out[i] = scale * static_cast<float>((codes[i] & 15) | high[i]) + minimum;
        for (int i = 0; i < 16; ++i)
            out[16 + i] = scale * static_cast<float>((codes[i] >> 4) | high[16 + i]) + minimum;
    }
};

struct BlockQ2K {
    static constexpr std::size_t kBytes = 84;
    static void decode(const std::uint8_t* block, float* out) {
        const std::uint8_t* subscales = block;
        const std::uint8_t* codes = block + 16;
        const float scale = from_f16(load_u16(block + 80)), minimum = from_f16(load_u16(block + 82));
        for (int group = 0; group < 16; ++group) {
            const int half = group / 8, shift = 2 * (group % 8 / 2);
            const std::uint8_t* bytes = codes + 32 * half + 16 * (group % 2);
            const float step = scale * static_cast<float>(subscales[group] & 15);
            const float offset = minimum * static_cast<float>(subscales[group] >> 4);
            for (int i = 0; i < 16; ++i)
                out[16 * group + i] = step * static_cast<float>((bytes[i] >> shift) & 3) - offset;
        }
    }
};

struct BlockQ3K {
    static constexpr std::size_t kBytes = 110;
    static void decode(const std::uint8_t* block, float* out) {
        const std::uint8_t* masks = block;
        const std::uint8_t* codes = block + 32;
        const std::uint8_t* packed = block + 96;
        const float scale = from_f16(load_u16(block + 108));
        for (int group = 0; group < 16; ++group) {
            const int low = group < 8 ? packed[group] & 15 : packed[group - 8] >> 4;
            const int high = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
            const float step = scale * static_cast<float>((low | (high << 4)) - 32);
            const int half = group / 8, shift = 2 * (group % 8 / 2), bit = group / 2;
            const std::uint8_t* bytes = codes + 32 * half + 16 * (group % 2);
            const std::uint8_t* mask = masks + 16 * (group % 2);
            for (int i = 0; i < 16; ++i)
                out[16 * group + i] =
                    step * static_cast<float>(((bytes[i] >> shift) & 3) + (((mask[i] >> bit) & 1) << 2) - 4);
        }
    }
};

// Eight 6-bit scales and eight 6-bit minima in 12 bytes, as q4_k and q5_k have them.
inline void six_bit_pairs(const std::uint8_t* packed, float scale, float minimum, float* steps, float* offsets) {
    for (int i = 0; i < 4; ++i) {
        steps[i] = scale * static_cast<float>(packed[i] & 63);
        offsets[i] = minimum * static_cast<float>(packed[i + 4] & 63);
        steps[i + 4] = scale * static_cast<float>((packed[i + 8] & 15) | ((packed[i] >> 6) << 4));
        offsets[i + 4] = minimum * static_cast<float>((packed[i + 8] >> 4) | ((packed[i + 4] >> 6) << 4));
    }
}

struct BlockQ4K {
    static constexpr std::size_t kBytes = 144;
    static void decode(const std::uint8_t* block, float* out) {
        float steps[8], offsets[8];
        six_bit_pairs(block + 4, from_f16(load_u16(block)), from_f16(load_u16(block + 2)), steps, offsets);
        const std::uint8_t* codes = block + 16;
        for (int pair = 0; pair < 4; ++pair, codes += 32, out += 64) {
            const float step0 = steps[2 * pair], offset0 = offsets[2 * pair];
            const float step1 = steps[2 * pair + 1], offset1 = offsets[2 * pair + 1];
            for (int i = 0; i < 32; ++i) out[i] = step0 * static_cast<float>(codes[i] & 15) - offset0;
            for (int i = 0; i < 32; ++i) out[32 + i] = step1 * static_cast<float>(codes[i] >> 4) - offset1;
        }
    }
};

struct BlockQ5K {
    static constexpr std::size_t kBytes = 176;
    static void decode(const std::uint8_t* block, float* out) {
        float steps[8], offsets[8];
        six_bit_pairs(block + 4, from_f16(load_u16(block)), from_f16(load_u16(block + 2)), steps, offsets);
        const std::uint8_t* high = block + 16;
        const std::uint8_t* codes = block + 48;
        for (int pair = 0; pair < 4; ++pair, codes += 32, out += 64) {
            const float step0 = steps[2 * pair], offset0 = offsets[2 * pair];
            const float step1 = steps[2 * pair + 1], offset1 = offsets[2 * pair + 1];
            for (int i = 0; i < 32; ++i)
                out[i] = step0 * static_cast<float>((codes[i] & 15) | (((high[i] >> (2 * pair)) & 1) << 4)) - offset0;
            for (int i = 0; i < 32; ++i)
                out[32 + i] =
                    step1 * static_cast<float>((codes[i] >> 4) | (((high[i] >> (2 * pair + 1)) & 1) << 4)) - offset1;
        }
    }
};

struct BlockQ6K {
    static constexpr std::size_t kBytes = 210;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block + 208));
        for (int half = 0; half < 2; ++half, out += 128) {
            const std::uint8_t* low = block + 64 * half;
            const std::uint8_t* high = block + 128 + 32 * half;
            const auto* subscales = reinterpret_cast<const std::int8_t*>(block + 192 + 8 * half);
            for (int group = 0; group < 8; ++group) {
                // Group g holds columns [16 g, 16 g + 16): quarter g / 2, part g % 2 of its 32 bytes.
                const int quarter = group / 2, part = 16 * (group % 2);
                const std::uint8_t* nibbles = low + 32 * (quarter % 2) + part;
                const int nibble_shift = 4 * (quarter / 2), high_shift = 2 * quarter;
                const float step = scale * static_cast<float>(subscales[group]);
                for (int i = 0; i < 16; ++i) {
                    const int code = ((nibbles[i] >> nibble_shift) & 15) | (((high[part + i] >> high_shift) & 3) << 4);
                    out[16 * group + i] = step * static_cast<float>(code - 32);
                }
            }
        }
    }
};

constexpr std::int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// 16 bytes hold 32 codes, the low halves first; out = step * level.
inline void decode_iq4(const std::uint8_t* codes, float step, float* out) {
#if defined(__AVX2__)
    const __m128i table = _mm_loadu_si128(reinterpret_cast<const __m128i*>(kIq4Levels));
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    const __m128i nibble = _mm_set1_epi8(15);
    alignas(16) std::int8_t levels[32];
    _mm_store_si128(reinterpret_cast<__m128i*>(levels), _mm_shuffle_epi8(table, _mm_and_si128(bytes, nibble)));
    _mm_store_si128(reinterpret_cast<__m128i*>(levels + 16),
                    _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble)));
    for (int i = 0; i < 32; ++i) out[i] = step * static_cast<float>(levels[i]);
#else
    for (int i = 0; i < 16; ++i) out[i] = step * static_cast<float>(kIq4Levels[codes[i] & 15]);
    for (int i = 0; i < 16; ++i) out[16 + i] = step * static_cast<float>(kIq4Levels[codes[i] >> 4]);
#endif
}

struct BlockIq4Nl {
    static constexpr std::size_t kBytes = 18;
    static void decode(const std::uint8_t* block, float* out) {
        decode_iq4(block + 2, from_f16(load_u16(block)), out);
    }
};

struct BlockIq4Xs {
    static constexpr std::size_t kBytes = 136;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block));
        const int high = load_u16(block + 2);
        const std::uint8_t* low = block + 4;
        for (int group = 0; group < 8; ++group) {
            const int nibble = (low[group / 2] >> (4 * (group % 2))) & 15;
            const int subscale = (nibble | (((high >> (2 * group)) & 3) << 4)) - 32;
            decode_iq4(block + 8 + 16 * group, scale * static_cast<float>(subscale), out + 32 * group);
        }
    }
};

template <> struct Decoder<WeightKind::q8_0> : SmallBlocks<BlockQ8_0> {};
template <> struct Decoder<WeightKind::q4_0> : SmallBlocks<BlockQ4_0> {};
template <> struct Decoder<WeightKind::q4_1> : SmallBlocks<BlockQ4_1> {};
template <> struct Decoder<WeightKind::q5_0> : SmallBlocks<BlockQ5_0> {};
template <> struct Decoder<WeightKind::q5_1> : SmallBlocks<BlockQ5_1> {};
template <> struct Decoder<WeightKind::iq4_nl> : SmallBlocks<BlockIq4Nl> {};
template <> struct Decoder<WeightKind::q2_k> : LargeBlocks<BlockQ2K> {};
template <> struct Decoder<WeightKind::q3_k> : LargeBlocks<BlockQ3K> {};
template <> struct Decoder<WeightKind::q4_k> : LargeBlocks<BlockQ4K> {};
template <> struct Decoder<WeightKind::q5_k> : LargeBlocks<BlockQ5K> {};
template <> struct Decoder<WeightKind::q6_k> : LargeBlocks<BlockQ6K> {};
template <> struct Decoder<WeightKind::iq4_xs> : LargeBlocks<BlockIq4Xs> {};

inline float group_scale(const Codebook& book, std::size_t index) {
    switch (book.scale_kind) {
        case ScaleKind::f16: return from_f16(load_u16(book.scales + 2 * index));
        case ScaleKind::bf16: return from_bf16(load_u16(book.scales + 2 * index));
        case ScaleKind::table: return book.scale_table[book.scales[index]];
        case ScaleKind::f32: break;
    }
    float scale;
    std::memcpy(&scale, book.scales + 4 * index, sizeof scale);
    return scale;
}

// Codes of `width` bits, in runs of columns that share a group.
template <int width>
struct Codes {
    static void chunk(const Weight& weight, const std::uint8_t* row_data, std::size_t row, std::size_t begin,
                      std::size_t count, float* out) {
        const Codebook& book = weight.codebook;
        const std::size_t scale_row = row / book.rows_per_scale * book.groups;
        std::uint8_t codes[kChunk];
        unpack(row_data, begin, count, codes);
        for (std::size_t done = 0; done < count;) {
            const std::size_t group = (begin + done) / book.group_columns;
            const std::size_t end = std::min(count, (group + 1) * book.group_columns - begin);
            const float scale = group_scale(book, scale_row + group);
            const float zero =
                book.zero_points != nullptr ? static_cast<float>(book.zero_points[row * book.groups + group]) : 0.0f;
            for (std::size_t i = done; i < end; ++i) out[i] = (book.levels[codes[i]] - zero) * scale;
            done = end;
        }
    }

private:
    static void unpack(const std::uint8_t* row_data, std::size_t begin, std::size_t count, std::uint8_t* codes) {
        if constexpr (width == 8) {
            std::memcpy(codes, row_data + begin, count);
        } else {
            const std::uint8_t* bytes = row_data + begin / 2;
            for (std::size_t i = 0; i < count; ++i) codes[i] = (bytes[i / 2] >> (4 * (i % 2))) & 15;
        }
    }
};

template <> struct Decoder<WeightKind::codes4> : Codes<4> {};
template <> struct Decoder<WeightKind::codes8> : Codes<8> {};

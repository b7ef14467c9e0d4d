// Columns [begin, begin + count) of one row as float32, for every kind of weight. `begin` is a multiple of
// kChunk, and `count` is kChunk or what is left of the row. Included by isa/linear.cpp only, inside its namespace.
//
// The values are the bits of the NumPy reference (see widen.hpp). Layouts: ggml-common.h of ggml.

constexpr std::size_t kChunk = 256;

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
        scale_codes<32>(reinterpret_cast<const std::int8_t*>(block + 2), from_f16(load_u16(block)), out);
    }
};

struct BlockQ4_0 {
    static constexpr std::size_t kBytes = 18;
    static void decode(const std::uint8_t* block, float* out) {
        std::int8_t codes[32];
        split_nibbles<16, 8>(block + 2, codes, codes + 16);
        scale_codes<32>(codes, from_f16(load_u16(block)), out);
    }
};

struct BlockQ4_1 {
    static constexpr std::size_t kBytes = 20;
    static void decode(const std::uint8_t* block, float* out) {
        std::int8_t codes[32];
        split_nibbles<16>(block + 4, codes, codes + 16);
        scale_codes<32>(codes, from_f16(load_u16(block)), -from_f16(load_u16(block + 2)), out);
    }
};

struct BlockQ5_0 {
    static constexpr std::size_t kBytes = 22;
    static void decode(const std::uint8_t* block, float* out) {
        std::int8_t codes[32];
        split_nibbles<16, 16>(block + 6, codes, codes + 16);
        add_fifth_bits(block + 2, codes);
        scale_codes<32>(codes, from_f16(load_u16(block)), out);
    }
};

struct BlockQ5_1 {
    static constexpr std::size_t kBytes = 24;
    static void decode(const std::uint8_t* block, float* out) {
        std::int8_t codes[32];
        split_nibbles<16>(block + 8, codes, codes + 16);
        add_fifth_bits(block + 4, codes);
        scale_codes<32>(codes, from_f16(load_u16(block)), -from_f16(load_u16(block + 2)), out);
    }
};

// The 2-bit codes of q2_k and q3_k: byte i of each half of 32 holds columns i, i + 32, i + 64 and i + 96 of 128.
template <int quarter>
inline void two_bits(const std::uint8_t* bytes, std::int8_t* codes) {
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::int8_t>((bytes[i] >> (2 * quarter)) & 3);
}

inline void two_bit_codes(const std::uint8_t* bytes, std::int8_t* codes) {
    for (int half = 0; half < 2; ++half, bytes += 32, codes += 128) {
        two_bits<0>(bytes, codes);
        two_bits<1>(bytes, codes + 32);
        two_bits<2>(bytes, codes + 64);
        two_bits<3>(bytes, codes + 96);
    }
}

struct BlockQ2K {
    static constexpr std::size_t kBytes = 84;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block + 80)), minimum = from_f16(load_u16(block + 82));
        std::int8_t codes[256];
        two_bit_codes(block + 16, codes);
        for (int group = 0; group < 16; ++group) {
            const float step = scale * static_cast<float>(block[group] & 15);
            const float offset = minimum * static_cast<float>(block[group] >> 4);
            scale_codes<16>(codes + 16 * group, step, offset, out + 16 * group);
        }
    }
};

// Bit `eighth` of 32 bytes is the third bit of columns [32 * eighth, 32 * eighth + 32); unset means 4 less.
template <int eighth>
inline void add_third_bits(const std::uint8_t* masks, std::int8_t* codes) {
    for (int i = 0; i < 32; ++i)
        codes[32 * eighth + i] =
            static_cast<std::int8_t>(codes[32 * eighth + i] + (((masks[i] >> eighth) & 1) << 2) - 4);
}

struct BlockQ3K {
    static constexpr std::size_t kBytes = 110;
    static void decode(const std::uint8_t* block, float* out) {
        const std::uint8_t* packed = block + 96;
        const float scale = from_f16(load_u16(block + 108));
        std::int8_t codes[256];
        two_bit_codes(block + 32, codes);
        [&]<int... eighth>(std::integer_sequence<int, eighth...>) {
            (add_third_bits<eighth>(block, codes), ...);
        }(std::make_integer_sequence<int, 8>{});
        for (int group = 0; group < 16; ++group) {
            const int low = group < 8 ? packed[group] & 15 : packed[group - 8] >> 4;
            const int high = (packed[8 + group % 4] >> (2 * (group / 4))) & 3;
            const float step = scale * static_cast<float>((low | (high << 4)) - 32);
            scale_codes<16>(codes + 16 * group, step, out + 16 * group);
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
        for (int pair = 0; pair < 4; ++pair) {
            std::int8_t codes[64];
            split_nibbles<32>(block + 16 + 32 * pair, codes, codes + 32);
            scale_codes<32>(codes, steps[2 * pair], offsets[2 * pair], out + 64 * pair);
            scale_codes<32>(codes + 32, steps[2 * pair + 1], offsets[2 * pair + 1], out + 64 * pair + 32);
        }
    }
};

// Bit `eighth` of 32 bytes is the fifth bit of columns [32 * eighth, 32 * eighth + 32).
template <int eighth>
inline void add_high_bits(const std::uint8_t* high, std::int8_t* codes) {
    for (int i = 0; i < 32; ++i)
        codes[32 * eighth + i] = static_cast<std::int8_t>(codes[32 * eighth + i] | (((high[i] >> eighth) & 1) << 4));
}

struct BlockQ5K {
    static constexpr std::size_t kBytes = 176;
    static void decode(const std::uint8_t* block, float* out) {
        float steps[8], offsets[8];
        six_bit_pairs(block + 4, from_f16(load_u16(block)), from_f16(load_u16(block + 2)), steps, offsets);
        std::int8_t codes[256];
        for (int pair = 0; pair < 4; ++pair)
            split_nibbles<32>(block + 48 + 32 * pair, codes + 64 * pair, codes + 64 * pair + 32);
        [&]<int... eighth>(std::integer_sequence<int, eighth...>) {
            (add_high_bits<eighth>(block + 16, codes), ...);
        }(std::make_integer_sequence<int, 8>{});
        for (int group = 0; group < 8; ++group)
            scale_codes<32>(codes + 32 * group, steps[group], offsets[group], out + 32 * group);
    }
};

// Quarter q of 128 columns: a nibble of `low`, and two bits of `high` above it; minus 32.
template <int quarter>
inline void six_bits(const std::uint8_t* low, const std::uint8_t* high, std::int8_t* codes) {
    const std::uint8_t* nibbles = low + 32 * (quarter % 2);
    for (int i = 0; i < 32; ++i)
        codes[32 * quarter + i] = static_cast<std::int8_t>(
            (((nibbles[i] >> (4 * (quarter / 2))) & 15) | (((high[i] >> (2 * quarter)) & 3) << 4)) - 32);
}

struct BlockQ6K {
    static constexpr std::size_t kBytes = 210;
    static void decode(const std::uint8_t* block, float* out) {
        const float scale = from_f16(load_u16(block + 208));
        const auto* subscales = reinterpret_cast<const std::int8_t*>(block + 192);
        std::int8_t codes[256];
        for (int half = 0; half < 2; ++half) {
            const std::uint8_t* low = block + 64 * half;
            const std::uint8_t* high = block + 128 + 32 * half;
            six_bits<0>(low, high, codes + 128 * half);
            six_bits<1>(low, high, codes + 128 * half);
            six_bits<2>(low, high, codes + 128 * half);
            six_bits<3>(low, high, codes + 128 * half);
        }
        for (int group = 0; group < 16; ++group)
            scale_codes<16>(codes + 16 * group, scale * static_cast<float>(subscales[group]), out + 16 * group);
    }
};

alignas(16) constexpr std::int8_t kIq4Levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10,
                                                    1,    13,   25,  38,  53,  69,  89,  113};

// 16 bytes hold 32 codes, the low halves first; out = step * level.
inline void decode_iq4(const std::uint8_t* codes, float step, float* out) {
    std::int8_t levels[32];
#if defined(__AVX2__)
    const __m128i table = _mm_load_si128(reinterpret_cast<const __m128i*>(kIq4Levels));
    const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(codes));
    const __m128i nibble = _mm_set1_epi8(15);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(levels), _mm_shuffle_epi8(table, _mm_and_si128(bytes, nibble)));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(levels + 16),
                     _mm_shuffle_epi8(table, _mm_and_si128(_mm_srli_epi16(bytes, 4), nibble)));
#else
    for (int i = 0; i < 16; ++i) levels[i] = kIq4Levels[codes[i] & 15];
    for (int i = 0; i < 16; ++i) levels[16 + i] = kIq4Levels[codes[i] >> 4];
#endif
    scale_codes<32>(levels, step, out);
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
            widen(book, codes + done, end - done, zero, scale, out + done);
            done = end;
        }
    }

private:
    static void unpack(const std::uint8_t* row_data, std::size_t begin, std::size_t count, std::uint8_t* codes) {
        if constexpr (width == 8) {
            std::memcpy(codes, row_data + begin, count);
        } else {
            const std::uint8_t* bytes = row_data + begin / 2;
            for (std::size_t i = 0; i < count / 2; ++i) {
                codes[2 * i] = bytes[i] & 15;
                codes[2 * i + 1] = bytes[i] >> 4;
            }
            if (count % 2 != 0) codes[count - 1] = bytes[count / 2] & 15;
        }
    }

    static void widen(const Codebook& book, const std::uint8_t* codes, std::size_t count, float zero, float scale,
                      float* out) {
        if constexpr (width == 4) {
            look_up_16(book.levels, codes, count, zero, scale, out);
        } else if (book.level_kind == LevelKind::signed_codes) {
            for (std::size_t i = 0; i < count; ++i)
                out[i] = (static_cast<float>(static_cast<std::int8_t>(codes[i])) - zero) * scale;
        } else if (book.level_kind == LevelKind::unsigned_codes) {
            for (std::size_t i = 0; i < count; ++i) out[i] = (static_cast<float>(codes[i]) - zero) * scale;
        } else {
            for (std::size_t i = 0; i < count; ++i) out[i] = (book.levels[codes[i]] - zero) * scale;
        }
    }
};

template <> struct Decoder<WeightKind::codes4> : Codes<4> {};
template <> struct Decoder<WeightKind::codes8> : Codes<8> {};

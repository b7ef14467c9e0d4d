// The headers of GGUF's super-blocks: from the fields of sixteen rows to lanes, and back. Included by
// isa/integer_pack.cpp only, inside its namespace. Where each number is: header_bytes in integer.hpp.

// What one row has in a super-block. Formats with blocks of 32 columns have a scale and a minimum for each.
struct RowFields {
    std::uint16_t scale[kSuperGroups];
    std::uint16_t minimum[kSuperGroups];
    std::int32_t subscale[kMostGroups];
    std::int32_t submin[kMostGroups];
    std::uint8_t codes[kSuperColumns];
};

inline void put_half(std::uint8_t* lanes, std::size_t row, std::uint16_t value) { write_u16(lanes + 2 * row, value); }
inline std::uint16_t get_half(const std::uint8_t* lanes, std::size_t row) { return read_u16(lanes + 2 * row); }

inline std::uint32_t get_word(const std::uint8_t* lanes, std::size_t row) {
    std::uint32_t word;
    std::memcpy(&word, lanes + 4 * row, sizeof word);
    return word;
}
inline void or_word(std::uint8_t* lanes, std::size_t row, std::uint32_t bits) {
    bits |= get_word(lanes, row);
    std::memcpy(lanes + 4 * row, &bits, sizeof bits);
}

// Field `index` of six bits, of sixteen in three words (SixBits in integer_scales.hpp).
inline void put_six(std::uint8_t* lanes, std::size_t row, int index, std::uint32_t value) {
    if (index < 15) return or_word(lanes + kLineBytes * (index / 5), row, value << 6 * (index % 5));
    for (int i = 0; i < 3; ++i) or_word(lanes + kLineBytes * i, row, (value >> 2 * i & 3) << 30);
}
inline int get_six(const std::uint8_t* lanes, std::size_t row, int index) {
    if (index < 15) return static_cast<int>(get_word(lanes + kLineBytes * (index / 5), row) >> 6 * (index % 5) & 63);
    std::uint32_t value = 0;
    for (int i = 0; i < 3; ++i) value |= get_word(lanes + kLineBytes * i, row) >> 30 << 2 * i;
    return static_cast<int>(value);
}

// Each header: put(fields of a row, row, groups, header), into zeros; get does the reverse.
struct HalvesHeader {
    static void put(const RowFields& fields, std::size_t row, std::size_t groups, std::uint8_t* header) {
        for (std::size_t g = 0; g < groups; ++g) put_half(header + 32 * g, row, fields.scale[g]);
    }
    static void get(const std::uint8_t* header, std::size_t row, std::size_t groups, RowFields& fields) {
        for (std::size_t g = 0; g < groups; ++g) fields.scale[g] = get_half(header + 32 * g, row);
    }
};

struct HalfPairsHeader {
    static void put(const RowFields& fields, std::size_t row, std::size_t groups, std::uint8_t* header) {
        for (std::size_t g = 0; g < groups; ++g) {
            put_half(header + 64 * g, row, fields.scale[g]);
            put_half(header + 64 * g + 32, row, fields.minimum[g]);
        }
    }
    static void get(const std::uint8_t* header, std::size_t row, std::size_t groups, RowFields& fields) {
        for (std::size_t g = 0; g < groups; ++g) {
            fields.scale[g] = get_half(header + 64 * g, row);
            fields.minimum[g] = get_half(header + 64 * g + 32, row);
        }
    }
};

struct SixBitPairsHeader {
    static void put(const RowFields& fields, std::size_t row, std::size_t, std::uint8_t* header) {
        put_half(header, row, fields.scale[0]);
        put_half(header + 32, row, fields.minimum[0]);
        for (int g = 0; g < 8; ++g) {
            put_six(header + 64, row, 2 * g, static_cast<std::uint32_t>(fields.subscale[g]));
            put_six(header + 64, row, 2 * g + 1, static_cast<std::uint32_t>(fields.submin[g]));
        }
    }
    static void get(const std::uint8_t* header, std::size_t row, std::size_t, RowFields& fields) {
        fields.scale[0] = get_half(header, row);
        fields.minimum[0] = get_half(header + 32, row);
        for (int g = 0; g < 8; ++g) {
            fields.subscale[g] = get_six(header + 64, row, 2 * g);
            fields.submin[g] = get_six(header + 64, row, 2 * g + 1);
        }
    }
};

struct SixBitHalvesHeader {
    static void put(const RowFields& fields, std::size_t row, std::size_t, std::uint8_t* header) {
        put_half(header, row, fields.scale[0]);
        for (int i = 0; i < 16; ++i)
            put_six(header + 64, row, i, static_cast<std::uint32_t>(fields.subscale[i] + 32));
    }
    static void get(const std::uint8_t* header, std::size_t row, std::size_t, RowFields& fields) {
        fields.scale[0] = get_half(header, row);
        for (int i = 0; i < 16; ++i) fields.subscale[i] = get_six(header + 64, row, i) - 32;
    }
};

// Fields 0 to 4 and two bits of field 7 in a word, fields 5 and 6 and the rest of 7 in a short.
struct SixBitGroupsHeader {
    static void put(const RowFields& fields, std::size_t row, std::size_t, std::uint8_t* header) {
        std::uint32_t six[8], word = 0;
        for (int g = 0; g < 8; ++g) six[g] = static_cast<std::uint32_t>(fields.subscale[g] + 32);
        for (int g = 0; g < 5; ++g) word |= six[g] << 6 * g;
        put_half(header, row, fields.scale[0]);
        put_half(header + 32, row, static_cast<std::uint16_t>(six[5] | six[6] << 6 | six[7] >> 2 << 12));
        or_word(header + 64, row, word | (six[7] & 3) << 30);
    }
    static void get(const std::uint8_t* header, std::size_t row, std::size_t, RowFields& fields) {
        const std::uint32_t word = get_word(header + 64, row), rest = get_half(header + 32, row);
        fields.scale[0] = get_half(header, row);
        for (int g = 0; g < 5; ++g) fields.subscale[g] = static_cast<int>(word >> 6 * g & 63) - 32;
        fields.subscale[5] = static_cast<int>(rest & 63) - 32;
        fields.subscale[6] = static_cast<int>(rest >> 6 & 63) - 32;
        fields.subscale[7] = static_cast<int>(word >> 30 | rest >> 12 << 2) - 32;
    }
};

struct ByteHalvesHeader {
    static void put(const RowFields& fields, std::size_t row, std::size_t, std::uint8_t* header) {
        put_half(header, row, fields.scale[0]);
        for (std::size_t i = 0; i < 16; ++i)
            header[64 + kLineBytes * (i / 4) + 4 * row + i % 4] = static_cast<std::uint8_t>(fields.subscale[i]);
    }
    static void get(const std::uint8_t* header, std::size_t row, std::size_t, RowFields& fields) {
        fields.scale[0] = get_half(header, row);
        for (std::size_t i = 0; i < 16; ++i)
            fields.subscale[i] = static_cast<std::int8_t>(header[64 + kLineBytes * (i / 4) + 4 * row + i % 4]);
    }
};

struct NibblePairsHeader {
    static void put(const RowFields& fields, std::size_t row, std::size_t, std::uint8_t* header) {
        put_half(header, row, fields.scale[0]);
        put_half(header + 32, row, fields.minimum[0]);
        for (std::size_t i = 0; i < 16; ++i)
            header[64 + kLineBytes * (i / 4) + 4 * row + i % 4] =
                static_cast<std::uint8_t>(fields.subscale[i] | fields.submin[i] << 4);
    }
    static void get(const std::uint8_t* header, std::size_t row, std::size_t, RowFields& fields) {
        fields.scale[0] = get_half(header, row);
        fields.minimum[0] = get_half(header + 32, row);
        for (std::size_t i = 0; i < 16; ++i) {
            const int byte = header[64 + kLineBytes * (i / 4) + 4 * row + i % 4];
            fields.subscale[i] = byte & 15;
            fields.submin[i] = byte >> 4;
        }
    }
};

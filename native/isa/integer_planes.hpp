// Codes of sixteen rows as lines, and lines as planes of bits; the layout is that of integer.hpp. Included by
// isa/integer_pack.cpp only, inside its namespace.

constexpr std::size_t kGroupLines = 8;

// Byte 4 r + b of line z is column 4 z + b of row r: sixteen rows of words, turned.
inline void to_group_lines(const RowFields* rows, std::size_t group, std::uint8_t (&lines)[kGroupLines][kLineBytes]) {
    std::uint32_t words[kGroupLines][kBlockRows];
    for (std::size_t row = 0; row < kBlockRows; ++row)
        for (std::size_t z = 0; z < kGroupLines; ++z)
            std::memcpy(&words[z][row], rows[row].codes + kGroupColumns * group + 4 * z, 4);
    std::memcpy(lines, words, sizeof words);
}

// Write the planes of `bits`; returns what is behind them.
inline std::uint8_t* write_planes_of(const std::uint8_t (&lines)[kGroupLines][kLineBytes], int bits,
                                     std::uint8_t* out) {
    if (bits == 8) {
        std::memcpy(out, lines, sizeof lines);
        return out + sizeof lines;
    }
    int from = 0;
    if ((bits & 4) != 0) {
        for (std::size_t z = 0; z < 4; ++z, out += kLineBytes)
            for (std::size_t i = 0; i < kLineBytes; ++i)
                out[i] = static_cast<std::uint8_t>((lines[z][i] & 15) | lines[z + 4][i] << 4);
        from = 4;
    }
    if ((bits & 2) != 0) {
        for (std::size_t y = 0; y < 2; ++y, out += kLineBytes)
            for (std::size_t i = 0; i < kLineBytes; ++i)
                out[i] = static_cast<std::uint8_t>((lines[y][i] >> from & 3) | (lines[2 + y][i] >> from & 3) << 2 |
                                                   (lines[4 + y][i] >> from & 3) << 4 |
                                                   (lines[6 + y][i] >> from & 3) << 6);
        from += 2;
    }
    if ((bits & 1) != 0) {
        for (std::size_t i = 0; i < kLineBytes; ++i) {
            int byte = 0;
            for (std::size_t z = 0; z < kGroupLines; ++z) byte |= (lines[z][i] >> from & 1) << z;
            out[i] = static_cast<std::uint8_t>(byte);
        }
        out += kLineBytes;
    }
    return out;
}

// The 32 codes of one row of a group.
inline void read_planes_of(const std::uint8_t* group, int bits, std::size_t row, std::uint8_t* codes) {
    for (std::size_t column = 0; column < kGroupColumns; ++column) {
        const std::size_t z = column / 4, byte = 4 * row + column % 4;
        const std::uint8_t* plane = group;
        int code = 0, to = 0;
        if (bits == 8) code = plane[z * kLineBytes + byte];
        if ((bits & 4) != 0) {
            code = plane[z % 4 * kLineBytes + byte] >> 4 * (z / 4) & 15;
            plane += 4 * kLineBytes;
            to = 4;
        }
        if ((bits & 2) != 0) {
            code |= (plane[z % 2 * kLineBytes + byte] >> 2 * (z / 2) & 3) << to;
            plane += 2 * kLineBytes;
            to += 2;
        }
        if ((bits & 1) != 0) code |= (plane[byte] >> z & 1) << to;
        codes[column] = static_cast<std::uint8_t>(code);
    }
}

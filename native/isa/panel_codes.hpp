// Codes of a group of 32 columns as shorts: the code less the middle one, times a power of two that fills 16 bits.
// Included by isa/panel.cpp only, inside its namespace.
//
// A kind of codes has kGroupBytes, kMiddle, and line<z>(group) for its eight lines.

template <int bits>
struct PlaneShorts {
    static constexpr std::size_t kGroupBytes = kLineBytes * bits;
    static constexpr float kMiddle = 1 << (bits - 1);

    template <int z>
    static HALFPINT_INLINE Pair line(const std::uint8_t* group) { return to_shorts<bits>(plane_line<bits, z>(group)); }
};

template <>
struct PlaneShorts<8> {
    static constexpr std::size_t kGroupBytes = kLineBytes * 8;
    static constexpr float kMiddle = 128;

    template <int z>
    static HALFPINT_INLINE Pair line(const std::uint8_t* group) {
        return to_shorts<8>(load_line(group + z * kLineBytes));
    }
};

// Levels of 8 bits; steps are those between levels.
template <const std::int8_t* levels>
struct LevelShorts {
    static constexpr std::size_t kGroupBytes = kLineBytes * 4;
    static constexpr float kMiddle = 128;

    template <int z>
    static HALFPINT_INLINE Pair line(const std::uint8_t* group) {
        return bytes_to_shorts(look_up(byte_table(levels), plane_line<4, z>(group)));
    }
};

// Levels of 16 bits, in two tables of bytes.
template <const std::int8_t* low, const std::int8_t* high>
struct WideLevelShorts {
    static constexpr std::size_t kGroupBytes = kLineBytes * 4;
    static constexpr float kMiddle = 128;

    template <int z>
    static HALFPINT_INLINE Pair line(const std::uint8_t* group) {
        const Line codes = plane_line<4, z>(group);
        return join(look_up(byte_table(low), codes), look_up(byte_table(high), codes));
    }
};

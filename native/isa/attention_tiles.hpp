// Products of queries with the keys of a tile, and the mix of its values. Included by isa/attention.cpp only, inside its
// namespace.
//
// What is read for the next tile is asked for evenly while this one is worked on, because that takes about as long as
// reading it (a text of 600 tokens, 8 heads a group). `ahead` is how far it is from here, in bytes.

inline Floats widen(const float* values) { return Floats::load(values); }
inline Floats widen(const std::uint16_t* values) { return Floats::load_f16(values); }
inline Floats widen(const std::int8_t* values) { return Floats::load_i8(values); }

template <typename Element>
inline void ask_next_tile(const Element* from, std::size_t count, std::ptrdiff_t ahead) {
    if constexpr (sizeof(Element) < sizeof(float)) {  // floats are those that were widened, which lie in the cache
        const auto* bytes = reinterpret_cast<const char*>(from) + ahead;
        for (std::size_t i = 0; i < count * sizeof(Element); i += 64) __builtin_prefetch(bytes + i, 0, 2);
    }
}

// Rows, and vectors of a row, whose sums stay in registers together.
#if defined(__AVX512F__)
constexpr std::size_t kRows = 4, kScoreVectors = 4, kMixVectors = 4;
#else
constexpr std::size_t kRows = 2, kScoreVectors = 2, kMixVectors = 2;
#endif

// scores[row][position] = sum over dimensions of query * key, for the 64 positions of a tile.
template <std::size_t rows, typename Element>
void tile_scores(const Element* keys, std::size_t head_dim, const float* queries, std::size_t query_stride,
                 float* scores, std::ptrdiff_t ahead) {
    for (std::size_t first = 0; first < kLaneBlocks; first += kScoreVectors) {
        Floats sums[rows][kScoreVectors];
        for (auto& row : sums)
            for (auto& sum : row) sum = Floats::broadcast(0.0f);
        const Element* column = keys + first * head_dim * 16;
        for (std::size_t dim = 0; dim < head_dim; ++dim, column += 16) {
            // As many bytes in every dimension: together those of all keys of a tile.
            ask_next_tile(keys + dim * kTilePositions, first == 0 ? kTilePositions : 0, ahead);
            Floats key[kScoreVectors];
            for (std::size_t i = 0; i < kScoreVectors; ++i) key[i] = widen(column + i * head_dim * 16);
            for (std::size_t row = 0; row < rows; ++row) {
                const Floats query = Floats::broadcast(queries[row * query_stride + dim]);
                for (std::size_t i = 0; i < kScoreVectors; ++i) sums[row][i] = multiply_add(query, key[i], sums[row][i]);
            }
        }
        for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t i = 0; i < kScoreVectors; ++i)
                sums[row][i].store(scores + row * kTilePositions + (first + i) * 16);
    }
}

// mixed[row] += sum over `count` positions of share * value, `vectors` vectors of a row at a time.
template <std::size_t rows, std::size_t vectors, typename Element>
void mix_columns(const Element* values, std::size_t columns, std::size_t count, const float* shares, float* mixed,
                 std::ptrdiff_t ahead) {
    Floats sums[rows][vectors];
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t i = 0; i < vectors; ++i) sums[row][i] = Floats::load(mixed + row * columns + 16 * i);
    for (std::size_t position = 0; position < count; ++position, values += columns) {
        ask_next_tile(values, 16 * vectors, ahead);
        Floats value[vectors];
        for (std::size_t i = 0; i < vectors; ++i) value[i] = widen(values + 16 * i);
        for (std::size_t row = 0; row < rows; ++row) {
            const Floats share = Floats::broadcast(shares[row * kTilePositions + position]);
            for (std::size_t i = 0; i < vectors; ++i) sums[row][i] = multiply_add(share, value[i], sums[row][i]);
        }
    }
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t i = 0; i < vectors; ++i) sums[row][i].store(mixed + row * columns + 16 * i);
}

template <std::size_t rows, typename Element>
void tile_mix(const Element* values, std::size_t columns, std::size_t count, const float* shares, float* mixed,
              std::ptrdiff_t ahead) {
    std::size_t column = 0;
    for (; column + 16 * kMixVectors <= columns; column += 16 * kMixVectors)
        mix_columns<rows, kMixVectors>(values + column, columns, count, shares, mixed + column, ahead);
    for (; column < columns; column += 16)
        mix_columns<rows, 1>(values + column, columns, count, shares, mixed + column, ahead);
}

// Products of decoded rows with many tokens, in tiles whose sums stay in registers. Included by isa/linear.cpp only,
// inside its namespace.
//
// Both factors are laid out for it first: sixteen columns of each vector of a tile, then the next sixteen. As they are,
// vectors of 2048 columns would lie a multiple of 4096 bytes apart, where they push each other out of the first-level cache.
//
// Sums run in 64 lanes, lane i taking columns i, i + 64, ...; at the end the lanes are added in halves. This order
// is the same for any number of tokens and threads, and AVX2 and AVX-512 give the same bits.

constexpr std::size_t kLanes = 64;

// Sixteen lanes.
struct Vec16 {
#if defined(__AVX512F__)
    __m512 part = _mm512_setzero_ps();

    static Vec16 load(const float* values) { return {_mm512_loadu_ps(values)}; }
    void add_product(const Vec16& a, const Vec16& b) { part = _mm512_fmadd_ps(a.part, b.part, part); }
    void store(float* out) const { _mm512_storeu_ps(out, part); }
#elif defined(__AVX2__)
    __m256 part[2] = {_mm256_setzero_ps(), _mm256_setzero_ps()};

    static Vec16 load(const float* values) { return {{_mm256_loadu_ps(values), _mm256_loadu_ps(values + 8)}}; }
    void add_product(const Vec16& a, const Vec16& b) {
        part[0] = _mm256_fmadd_ps(a.part[0], b.part[0], part[0]);
        part[1] = _mm256_fmadd_ps(a.part[1], b.part[1], part[1]);
    }
    void store(float* out) const {
        _mm256_storeu_ps(out, part[0]);
        _mm256_storeu_ps(out + 8, part[1]);
    }
#else
    float part[16] = {};

    static Vec16 load(const float* values) {
        Vec16 loaded;
        std::memcpy(loaded.part, values, sizeof loaded.part);
        return loaded;
    }
    void add_product(const Vec16& a, const Vec16& b) {
        for (int i = 0; i < 16; ++i) part[i] += a.part[i] * b.part[i];
    }
    void store(float* out) const { std::memcpy(out, part, sizeof part); }
#endif
};

// The sum of 64 lanes: 64 to 32 to ... to 1.
inline float sum_lanes(const float* lanes) {
#if defined(__AVX2__)
    __m256 eight[4];
    for (int i = 0; i < 4; ++i) eight[i] = _mm256_add_ps(_mm256_loadu_ps(lanes + 8 * i), _mm256_loadu_ps(lanes + 32 + 8 * i));
    const __m256 last = _mm256_add_ps(_mm256_add_ps(eight[0], eight[2]), _mm256_add_ps(eight[1], eight[3]));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(last), _mm256_extractf128_ps(last, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
#else
    float values[kLanes / 2];
    for (std::size_t i = 0; i < kLanes / 2; ++i) values[i] = lanes[i] + lanes[i + kLanes / 2];
    for (std::size_t half = kLanes / 4; half > 0; half /= 2)
        for (std::size_t i = 0; i < half; ++i) values[i] += values[i + half];
    return values[0];
#endif
}

// Rows and tokens of a tile: as many sums as there are registers.
#if defined(__AVX512F__)
constexpr std::size_t kTileRows = 4, kTileTokens = 6;
#elif defined(__AVX2__)
constexpr std::size_t kTileRows = 2, kTileTokens = 3;
#else
constexpr std::size_t kTileRows = 1, kTileTokens = 1;
#endif

// Columns, in blocks of sixteen, that are multiplied at a time: a tile's share of both factors, and its sums, stay in the
// first-level cache.
constexpr std::size_t kTileBlocks = 32;
constexpr std::size_t kLaneBlocks = kLanes / 16;
static_assert(kTileBlocks % kLaneBlocks == 0);

// Put vector `index` of the `count` of a tile where tiles want it; a short end is filled up with zeros: 0 * 0 adds nothing.
inline void lay_out(const float* values, std::size_t columns, std::size_t count, std::size_t index, float* tile) {
    float* out = tile + 16 * index;
    for (; columns >= 16; columns -= 16, values += 16, out += 16 * count) Vec16::load(values).store(out);
    if (columns == 0) return;
    std::memset(out, 0, 16 * sizeof(float));
    std::memcpy(out, values, columns * sizeof(float));
}

// lanes[row][token][kLanes] += products of blocks [begin, end) of a tile of rows and one of tokens.
template <std::size_t rows, std::size_t tokens>
void add_tile(const float* weights, const float* x, std::size_t begin, std::size_t end, float* lanes) {
    for (std::size_t first = 0; first < kLaneBlocks; ++first) {
        Vec16 sums[rows][tokens];
        for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t token = 0; token < tokens; ++token)
                sums[row][token] = Vec16::load(lanes + (row * tokens + token) * kLanes + 16 * first);
        for (std::size_t block = begin + first; block < end; block += kLaneBlocks) {
            const float *row_block = weights + block * 16 * rows, *token_block = x + block * 16 * tokens;
            Vec16 row_values[rows];
            for (std::size_t row = 0; row < rows; ++row) row_values[row] = Vec16::load(row_block + 16 * row);
            for (std::size_t token = 0; token < tokens; ++token) {
                const Vec16 values = Vec16::load(token_block + 16 * token);
                for (std::size_t row = 0; row < rows; ++row) sums[row][token].add_product(row_values[row], values);
            }
        }
        for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t token = 0; token < tokens; ++token)
                sums[row][token].store(lanes + (row * tokens + token) * kLanes + 16 * first);
    }
}

using AddTile = void (*)(const float*, const float*, std::size_t, std::size_t, float*);

template <std::size_t rows>
constexpr std::array<AddTile, kTileTokens> kTiles = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array<AddTile, kTileTokens>{&add_tile<rows, i + 1>...};
}(std::make_index_sequence<kTileTokens>{});

// Vectors of the tile that vector `index` of `count` is in. The last rows, too few for a tile, stand alone.
inline std::size_t rows_of_tile(std::size_t index, std::size_t count) {
    return index / kTileRows * kTileRows + kTileRows <= count ? kTileRows : 1;
}
inline std::size_t tokens_of_tile(std::size_t index, std::size_t count) {
    return std::min(kTileTokens, count - index / kTileTokens * kTileTokens);
}

// out[token * out_stride + row] for up to kScratchRows rows and any number of tokens, both laid out in tiles. Columns of a
// tile of tokens are gone through with all rows before the next ones are.
inline void tiles_product(const float* weights, std::size_t rows, const float* x, std::size_t tokens,
                          std::size_t columns, float* out, std::size_t out_stride) {
    alignas(64) float lanes[kScratchRows * kTileTokens * kLanes];
    const std::size_t blocks = blocks_of(columns);
    for (std::size_t token = 0; token < tokens; token += kTileTokens, x += kTileTokens * blocks * 16) {
        const std::size_t count = tokens_of_tile(token, tokens);
        std::memset(lanes, 0, rows * count * kLanes * sizeof(float));
        for (std::size_t begin = 0; begin < blocks; begin += kTileBlocks) {
            const std::size_t end = std::min(begin + kTileBlocks, blocks);
            for (std::size_t row = 0; row < rows; row += rows_of_tile(row, rows)) {
                const auto& tiles = rows_of_tile(row, rows) == kTileRows ? kTiles<kTileRows> : kTiles<1>;
                tiles[count - 1](weights + row * blocks * 16, x, begin, end, lanes + row * count * kLanes);
            }
        }
        for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t i = 0; i < count; ++i)
                out[(token + i) * out_stride + row] = sum_lanes(lanes + (row * count + i) * kLanes);
    }
}

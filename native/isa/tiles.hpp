// Products of decoded rows with many tokens, in tiles whose sums stay in registers. Included by isa/linear.cpp only,
// inside its namespace.
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

// out[token * out_stride + row] for `rows` decoded rows and `tokens` vectors, each `columns` floats apart.
template <std::size_t rows, std::size_t tokens>
void tile_product(const float* weights, const float* x, std::size_t columns, float* out, std::size_t out_stride) {
    alignas(64) float lanes[rows][tokens][kLanes];
    for (std::size_t first = 0; first < kLanes; first += 16) {
        Vec16 sums[rows][tokens];
        std::size_t column = first;
        for (; column + 16 <= columns; column += kLanes) {
            Vec16 row_values[rows];
            for (std::size_t row = 0; row < rows; ++row) row_values[row] = Vec16::load(weights + row * columns + column);
            for (std::size_t token = 0; token < tokens; ++token) {
                const Vec16 values = Vec16::load(x + token * columns + column);
                for (std::size_t row = 0; row < rows; ++row) sums[row][token].add_product(row_values[row], values);
            }
        }
        if (column < columns) {  // a short end is padded with zeros: 0 * 0 adds nothing
            alignas(64) float padded_row[16] = {}, padded_x[16] = {};
            const std::size_t bytes = 4 * (columns - column);
            for (std::size_t row = 0; row < rows; ++row) {
                std::memcpy(padded_row, weights + row * columns + column, bytes);
                for (std::size_t token = 0; token < tokens; ++token) {
                    std::memcpy(padded_x, x + token * columns + column, bytes);
                    sums[row][token].add_product(Vec16::load(padded_row), Vec16::load(padded_x));
                }
            }
        }
        for (std::size_t row = 0; row < rows; ++row)
            for (std::size_t token = 0; token < tokens; ++token) sums[row][token].store(lanes[row][token] + first);
    }
    for (std::size_t row = 0; row < rows; ++row)
        for (std::size_t token = 0; token < tokens; ++token) out[token * out_stride + row] = sum_lanes(lanes[row][token]);
}

using TileProduct = void (*)(const float*, const float*, std::size_t, float*, std::size_t);

template <std::size_t rows>
constexpr std::array<TileProduct, kTileTokens> kTiles = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array<TileProduct, kTileTokens>{&tile_product<rows, i + 1>...};
}(std::make_index_sequence<kTileTokens>{});

// `rows` (kTileRows, or 1) decoded rows with any number of tokens.
inline void tiles_product(const float* weights, std::size_t rows, const float* x, std::size_t tokens,
                          std::size_t columns, float* out, std::size_t out_stride) {
    const auto& tiles = rows == kTileRows ? kTiles<kTileRows> : kTiles<1>;
    for (std::size_t token = 0; token < tokens; token += kTileTokens)
        tiles[std::min(kTileTokens, tokens - token) - 1](weights, x + token * columns, columns,
                                                         out + token * out_stride, out_stride);
}

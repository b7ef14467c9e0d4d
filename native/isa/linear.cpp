// Matrix products over packed weights: a row is decoded in chunks of 256 columns that stay in the first-level cache,
// and each chunk is multiplied with every token at once. Compiled once per instruction set.
#include "isa/linear.hpp"

#include <algorithm>
#include <array>
#include <cstring>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
// GCC 12 warns of its own AVX-512 header: _mm512_undefined_ps is meant to be undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

namespace halfpint::HALFPINT_ISA {
namespace {
#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)

#include "isa/widen.hpp"  // before decode.hpp, which builds on it
#include "isa/decode.hpp"

// Sums run in 64 lanes, lane i taking columns i, i + 64, ...; AVX2 and AVX-512 therefore give the same bits.
constexpr std::size_t kLanes = 64;
constexpr std::size_t kMostTokens = 8;

struct Lanes {
#if defined(__AVX512F__)
    __m512 part[4] = {_mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps(), _mm512_setzero_ps()};

    void add_products(const float* a, const float* b) {
        for (int i = 0; i < 4; ++i)
            part[i] = _mm512_fmadd_ps(_mm512_loadu_ps(a + 16 * i), _mm512_loadu_ps(b + 16 * i), part[i]);
    }
    void store(float* out) const {
        for (int i = 0; i < 4; ++i) _mm512_storeu_ps(out + 16 * i, part[i]);
    }
#elif defined(__AVX2__)
    __m256 part[8] = {_mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(),
                      _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps(), _mm256_setzero_ps()};

    void add_products(const float* a, const float* b) {
        for (int i = 0; i < 8; ++i)
            part[i] = _mm256_fmadd_ps(_mm256_loadu_ps(a + 8 * i), _mm256_loadu_ps(b + 8 * i), part[i]);
    }
    void store(float* out) const {
        for (int i = 0; i < 8; ++i) _mm256_storeu_ps(out + 8 * i, part[i]);
    }
#else
    float part[kLanes] = {};

    void add_products(const float* a, const float* b) {
        for (std::size_t i = 0; i < kLanes; ++i) part[i] += a[i] * b[i];
    }
    void store(float* out) const { std::memcpy(out, part, sizeof part); }
#endif

    // The lanes are added in halves: 64 to 32 to ... to 1.
    float sum() const {
        float values[kLanes];
        store(values);
        for (std::size_t half = kLanes / 2; half > 0; half /= 2)
            for (std::size_t i = 0; i < half; ++i) values[i] += values[i + half];
        return values[0];
    }
};

// Products of one row with `tokens` vectors that lie `stride` floats apart.
template <WeightKind kind, std::size_t tokens>
void row_product(const Weight& weight, std::size_t row, const float* x, std::size_t stride, float* out) {
    const std::uint8_t* row_data = weight.data + row * weight.row_bytes;
    Lanes sums[tokens];
    alignas(64) float decoded[kChunk];
    for (std::size_t begin = 0; begin < weight.columns; begin += kChunk) {
        const std::size_t count = std::min(kChunk, weight.columns - begin);
        Decoder<kind>::chunk(weight, row_data, row, begin, count, decoded);
        const std::size_t column = count / kLanes * kLanes;
        for (std::size_t token = 0; token < tokens; ++token) {
            Lanes sum = sums[token];  // in registers for the whole chunk
            const float* values = x + token * stride + begin;
            for (std::size_t i = 0; i < column; i += kLanes) sum.add_products(decoded + i, values + i);
            sums[token] = sum;
        }
        if (column < count) {  // a short end is padded with zeros: 0 * 0 adds nothing
            alignas(64) float padded[2][kLanes] = {};
            std::memcpy(padded[0], decoded + column, 4 * (count - column));
            for (std::size_t token = 0; token < tokens; ++token) {
                std::memcpy(padded[1], x + token * stride + begin + column, 4 * (count - column));
                sums[token].add_products(padded[0], padded[1]);
            }
        }
    }
    for (std::size_t token = 0; token < tokens; ++token) out[token * weight.rows] = sums[token].sum();
}

template <WeightKind kind, std::size_t tokens>
void rows_product(const Weight& weight, std::size_t row_begin, std::size_t row_end, const float* x, float* out) {
    for (std::size_t row = row_begin; row < row_end; ++row)
        row_product<kind, tokens>(weight, row, x, weight.columns, out + row);
}

using RowsProduct = void (*)(const Weight&, std::size_t, std::size_t, const float*, float*);

template <WeightKind kind>
void any_product(const Weight& weight, std::size_t row_begin, std::size_t row_end, const float* x, std::size_t tokens,
                 float* out) {
    static constexpr std::array<RowsProduct, kMostTokens> by_tokens = []<std::size_t... i>(std::index_sequence<i...>) {
        return std::array<RowsProduct, kMostTokens>{&rows_product<kind, i + 1>...};
    }(std::make_index_sequence<kMostTokens>{});
    for (std::size_t token = 0; token < tokens; token += kMostTokens)
        by_tokens[std::min(kMostTokens, tokens - token) - 1](weight, row_begin, row_end, x + token * weight.columns,
                                                              out + token * weight.rows);
}

template <WeightKind kind>
void any_decode_row(const Weight& weight, std::size_t row, float* out) {
    const std::uint8_t* row_data = weight.data + row * weight.row_bytes;
    for (std::size_t begin = 0; begin < weight.columns; begin += kChunk)
        Decoder<kind>::chunk(weight, row_data, row, begin, std::min(kChunk, weight.columns - begin), out + begin);
}

constexpr std::size_t kKinds = static_cast<std::size_t>(WeightKind::count);

constexpr auto kProducts = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array{&any_product<static_cast<WeightKind>(i)>...};
}(std::make_index_sequence<kKinds>{});

constexpr auto kDecoders = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array{&any_decode_row<static_cast<WeightKind>(i)>...};
}(std::make_index_sequence<kKinds>{});

void product(const Weight& weight, std::size_t row_begin, std::size_t row_end, const float* x, std::size_t tokens,
             float* out) {
    kProducts[static_cast<std::size_t>(weight.kind)](weight, row_begin, row_end, x, tokens, out);
}

void decode_row(const Weight& weight, std::size_t row, float* out) {
    kDecoders[static_cast<std::size_t>(weight.kind)](weight, row, out);
}

constexpr LinearKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA), &product, &decode_row};
}  // namespace

const LinearKernels& linear_kernels();
const LinearKernels& linear_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA

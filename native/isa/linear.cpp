// Matrix products over packed weights. For few tokens a row is decoded in chunks of 256 columns that stay in the
// first-level cache, and each chunk is multiplied at once. For more, a few whole rows are decoded and multiplied with
// all tokens in tiles. Both sum in the same order and give the same bits. Compiled once per instruction set.
#include "isa/linear.hpp"

#include "isa/asking.hpp"

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
#include "isa/tiles.hpp"

static_assert(kScratchRows % kTileRows == 0 && kTokensStep % kTileTokens == 0);

struct Lanes {
    Vec16 part[4];

    void add_products(const float* a, const float* b) {
        for (int i = 0; i < 4; ++i) part[i].add_product(Vec16::load(a + 16 * i), Vec16::load(b + 16 * i));
    }
    float sum() const {
        alignas(64) float lanes[kLanes];
        for (int i = 0; i < 4; ++i) part[i].store(lanes + 16 * i);
        return sum_lanes(lanes);
    }
};

// Products of one row with `tokens` vectors.
template <WeightKind kind, std::size_t tokens>
void row_product(const Weight& weight, std::size_t row, const float* x, float* out) {
    const std::uint8_t* row_data = weight.data + row * weight.row_bytes;
    Lanes sums[tokens];
    alignas(64) float decoded[kChunk];
    for (std::size_t begin = 0; begin < weight.columns; begin += kChunk) {
        const std::size_t count = std::min(kChunk, weight.columns - begin);
        ask_ahead(row_data + begin * weight.row_bytes / weight.columns, count * weight.row_bytes / weight.columns);
        Decoder<kind>::chunk(weight, row_data, row, begin, count, decoded);
        const std::size_t whole = count / kLanes * kLanes;
        for (std::size_t token = 0; token < tokens; ++token) {
            Lanes sum = sums[token];  // in registers for the whole chunk
            const float* values = x + token * weight.columns + begin;
            for (std::size_t i = 0; i < whole; i += kLanes) sum.add_products(decoded + i, values + i);
            if (whole < count) {  // a short end is padded with zeros: 0 * 0 adds nothing
                alignas(64) float padded[2][kLanes] = {};
                std::memcpy(padded[0], decoded + whole, 4 * (count - whole));
                std::memcpy(padded[1], values + whole, 4 * (count - whole));
                sum.add_products(padded[0], padded[1]);
            }
            sums[token] = sum;
        }
    }
    for (std::size_t token = 0; token < tokens; ++token) out[token * weight.rows] = sums[token].sum();
}

template <WeightKind kind, std::size_t tokens>
void few_tokens(const Weight& weight, std::size_t row_begin, std::size_t row_end, const float* x, float* out) {
    for (std::size_t row = row_begin; row < row_end; ++row) row_product<kind, tokens>(weight, row, x, out + row);
}

template <WeightKind kind>
void any_decode_row(const Weight& weight, std::size_t row, float* out) {
    const std::uint8_t* row_data = weight.data + row * weight.row_bytes;
    for (std::size_t begin = 0; begin < weight.columns; begin += kChunk)
        Decoder<kind>::chunk(weight, row_data, row, begin, std::min(kChunk, weight.columns - begin), out + begin);
}

template <WeightKind kind>
void many_tokens(const Weight& weight, std::size_t row_begin, std::size_t row_end, const float* x, std::size_t tokens,
                 float* out, float* scratch) {
    const std::size_t columns = weight.columns, padded = 16 * blocks_of(columns), most = tokens_at_once(columns);
    float *decoded = scratch, *rows_laid_out = decoded + padded, *tokens_laid_out = rows_laid_out + kScratchRows * padded;
    for (std::size_t first = 0; first < tokens; first += most) {
        const std::size_t count = std::min(most, tokens - first);
        for (std::size_t token = 0; token < count; ++token)
            lay_out(x + (first + token) * columns, columns, tokens_of_tile(token, count), token % kTileTokens,
                    tokens_laid_out + token / kTileTokens * kTileTokens * padded);
        for (std::size_t row = row_begin; row < row_end; row += kScratchRows) {
            const std::size_t rows = std::min(kScratchRows, row_end - row);
            for (std::size_t i = 0; i < rows; ++i) {
                any_decode_row<kind>(weight, row + i, decoded);
                const std::size_t in_tile = rows_of_tile(i, rows), place = i % in_tile;
                lay_out(decoded, columns, in_tile, place, rows_laid_out + (i - place) * padded);
            }
            tiles_product(rows_laid_out, rows, tokens_laid_out, count, columns, out + first * weight.rows + row,
                          weight.rows);
        }
    }
}

using FewTokens = void (*)(const Weight&, std::size_t, std::size_t, const float*, float*);

template <WeightKind kind>
void any_product(const Weight& weight, std::size_t row_begin, std::size_t row_end, const float* x, std::size_t tokens,
                 float* out, float* scratch) {
    static constexpr auto by_tokens = []<std::size_t... i>(std::index_sequence<i...>) {
        return std::array<FewTokens, kFewTokens>{&few_tokens<kind, i + 1>...};
    }(std::make_index_sequence<kFewTokens>{});
    if (tokens == 0) return;
    if (tokens <= kFewTokens) return by_tokens[tokens - 1](weight, row_begin, row_end, x, out);
    many_tokens<kind>(weight, row_begin, row_end, x, tokens, out, scratch);
}

constexpr std::size_t kKinds = static_cast<std::size_t>(WeightKind::count);

constexpr auto kProducts = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array{&any_product<static_cast<WeightKind>(i)>...};
}(std::make_index_sequence<kKinds>{});

constexpr auto kDecoders = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array{&any_decode_row<static_cast<WeightKind>(i)>...};
}(std::make_index_sequence<kKinds>{});

void product(const Weight& weight, std::size_t row_begin, std::size_t row_end, const float* x, std::size_t tokens,
             float* out, float* scratch) {
    kProducts[static_cast<std::size_t>(weight.kind)](weight, row_begin, row_end, x, tokens, out, scratch);
}

void decode_row(const Weight& weight, std::size_t row, float* out) {
    kDecoders[static_cast<std::size_t>(weight.kind)](weight, row, out);
}

constexpr LinearKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA), &product, &decode_row};
}  // namespace

const LinearKernels& linear_kernels();
const LinearKernels& linear_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA

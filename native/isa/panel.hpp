// The contract of products with many tokens (isa/panel.cpp): weights in the layout of isa/integer.hpp, taken apart once
// for many tokens.
//
// Some blocks of rows of one super-block are unpacked into a panel that stays in the first-level cache: codes of 8
// bits, -127 to 127, with one scale for a row and its 256 columns. Then all tokens pass by, six at a time, as
// activations in 8 bits with one scale per 32 columns. Sums over a group of 32 columns are exact; they are added up in
// float32, in the order of columns, for each row and token apart.
//
// Rounding weights to 8 bits again is what makes this fast: an exact product with a scale for each 16 or 32 columns
// spends a quarter of its time on scales.
#pragma once
#include <cstddef>
#include <cstdint>

#include "isa/integer.hpp"

namespace halfpint {

// Columns of activations that share a scale. With 64 products are 3 % faster, and the KL divergence that comes from
// rounding activations is 1.5 times as large (demo model, q8_0).
constexpr std::size_t kWideColumns = 32;
constexpr std::size_t kSuperWides = kSuperColumns / kWideColumns;

// Tokens of a tile: with two registers of rows, their sums in integers and in floats fill the registers of AVX-512.
constexpr std::size_t kTileTokens = 6;

// Tiles that a product takes at once: their sums stay in the second-level cache.
constexpr std::size_t kMostTiles = 86;

// Activations [tokens, columns], rounded: for each super-block one record for each tile, in the order of memory. What
// a record holds is private to an instruction set.
struct TileTokens {
    std::uint8_t* records;     // [super-blocks][tiles][record_bytes], aligned to a line
    std::size_t record_bytes;
    std::size_t tokens;
    std::size_t columns;       // as given; the last record is filled with zeros

    constexpr std::size_t tiles() const { return (tokens + kTileTokens - 1) / kTileTokens; }
    constexpr std::size_t supers() const { return (columns + kSuperColumns - 1) / kSuperColumns; }
    std::uint8_t* record(std::size_t super, std::size_t tile) const {
        return records + (super * tiles() + tile) * record_bytes;
    }
};

// Where a product goes: what the first of its rows gives for the first of its tokens, and floats from token to token.
// `past_caches` where that pays, and can_stream of isa/streaming.hpp allows it.
struct PanelOutput {
    float* first;
    std::size_t stride;
    bool past_caches;
};

struct PanelKernels {
    std::size_t record_bytes;
    // Round the tokens of tiles [tile_begin, tile_end) of x [tokens, columns], each group as `quantize` of
    // isa/integer.hpp does.
    void (*round)(const float* x, const TileTokens& to, std::size_t tile_begin, std::size_t tile_end);
    // The codes and scales of one token: int8 [super-blocks * 256], float [super-blocks * 4].
    void (*read)(const TileTokens& from, std::size_t token, std::int8_t* codes, float* scales);
    // Rows of blocks [block_begin, block_end) with tokens of tiles [tile_begin, tile_end), at most kMostTiles. The same
    // bits for any division, on every instruction set.
    void (*product)(const IntegerWeight& weight, std::size_t block_begin, std::size_t block_end, const TileTokens& x,
                    std::size_t tile_begin, std::size_t tile_end, const PanelOutput& out);
};

}  // namespace halfpint

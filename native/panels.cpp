#include "panels.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "threads.hpp"

namespace halfpint {
namespace {

std::size_t share(std::size_t all, std::size_t parts) { return (all + parts - 1) / parts; }

std::size_t record_count(std::size_t tokens, std::size_t columns) {
    return share(tokens, kTileTokens) * share(columns, kSuperColumns);
}

// Blocks of rows that a thread takes at a time: four share the reading of activations. Fewer where there would not be
// work for all threads.
std::size_t blocks_at_once(std::size_t blocks, std::size_t chunks) {
    constexpr std::size_t most = 4;
    const std::size_t wanted = 2 * static_cast<std::size_t>(thread_count());
    return blocks * chunks >= most * wanted ? most : most / 2;
}

}  // namespace

Tiles::Tiles(const float* x, std::size_t tokens, std::size_t columns)
    : kernels_(panel_kernels()),
      memory_(record_count(tokens, columns) * kernels_.record_bytes),
      tokens_{memory_.data(), kernels_.record_bytes, tokens, columns} {
    const std::size_t grain = (std::size_t{1} << 14) / (columns + 1) + 1;  // some 20 us
    parallel_for(tokens_.tiles(), grain,
                 [&](std::size_t begin, std::size_t end) { kernels_.round(x, tokens_, begin, end); });
}

void multiply_tiles(const IntegerWeight& weight, const Tiles& x, float* out) {
    const TileTokens& tokens = x.tokens();
    const std::size_t chunks = share(tokens.tiles(), kMostTiles), chunk = share(tokens.tiles(), chunks);
    const std::size_t blocks = weight.row_blocks(), step = blocks_at_once(blocks, chunks);
    const std::size_t panels = share(blocks, step);
    parallel_for(panels * chunks, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t item = begin; item < end; ++item) {
            const std::size_t first = item % panels * step, tile = item / panels * chunk;
            x.kernels().product(weight, first, std::min(blocks, first + step), tokens, tile,
                                std::min(tokens.tiles(), tile + chunk), out);
        }
    });
}

}  // namespace halfpint

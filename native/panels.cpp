// What a gate and its partner give are as wide as nothing else in a model: 23 MB for 512 tokens of one with 1.1 billion
// parameters. Gating rows while a second-level cache still holds them saves writing one of the two and reading both.
#include "panels.hpp"

#include <algorithm>

#include "dispatch.hpp"
#include "isa/streaming.hpp"
#include "scratch.hpp"
#include "threads.hpp"

namespace halfpint {
namespace {

std::size_t share(std::size_t all, std::size_t parts) { return (all + parts - 1) / parts; }

std::size_t record_count(std::size_t tokens, std::size_t columns) {
    return share(tokens, kTileTokens) * share(columns, kSuperColumns);
}

// How blocks of rows are dealt out: four at a time, which share the reading of activations, and two at the end, so that
// threads end together; two throughout where there would not be work for all of them.
class Panels {
public:
    static constexpr std::size_t kMostBlocks = 4, kLeastBlocks = 2;

    explicit Panels(std::size_t blocks) : blocks_(blocks) {
        const auto threads = static_cast<std::size_t>(thread_count());
        large_ = blocks >= 2 * threads * kMostBlocks ? blocks / kMostBlocks - threads : 0;
    }
    std::size_t count() const { return large_ + share(blocks_ - large_ * kMostBlocks, kLeastBlocks); }
    std::size_t begin(std::size_t panel) const {
        return panel < large_ ? panel * kMostBlocks : large_ * kMostBlocks + (panel - large_) * kLeastBlocks;
    }
    std::size_t end(std::size_t panel) const { return std::min(blocks_, begin(panel + 1)); }

private:
    std::size_t blocks_, large_;
};

// A result of so many bytes is not in a second-level cache any more when it is read.
constexpr std::size_t kLargeBytes = std::size_t{2} << 20;

bool is_past_caches(const float* out, std::size_t tokens, std::size_t rows) {
    return tokens * rows * sizeof(float) >= kLargeBytes && can_stream(out, rows);
}

// How tokens are cut, so that the sums of a product stay in a cache.
struct Chunks {
    std::size_t tiles, count, size;

    explicit Chunks(const Tiles& x)
        : tiles(x.tokens().tiles()),
          count(share(tiles, kMostTiles)),
          size(share(tiles, std::max<std::size_t>(1, count))) {}
    std::size_t begin(std::size_t chunk) const { return chunk * size; }
    std::size_t end(std::size_t chunk) const { return std::min(tiles, (chunk + 1) * size); }
};

}  // namespace

Tiles::Tiles(const float* x, std::size_t tokens, std::size_t columns)
    : kernels_(panel_kernels()),
      memory_(record_count(tokens, columns) * kernels_.record_bytes),
      tokens_{memory_.data(), kernels_.record_bytes, tokens, columns} {
    const std::size_t grain = (std::size_t{1} << 14) / (columns + 1) + 1;  // some 20 us
    parallel_for(tokens_.tiles(), grain,
                 [&](std::size_t begin, std::size_t end) { kernels_.round(x, tokens_, begin, end); });
}

void multiply_tiles(const std::vector<Factor>& factors, const Tiles& x) {
    const Chunks chunks(x);
    std::size_t count = 0;
    for (const Factor& factor : factors) count += Panels(factor.weight->row_blocks()).count();
    parallel_for(count * chunks.count, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t item = begin; item < end; ++item) {
            std::size_t panel = item % count;
            const std::size_t chunk = item / count, token = chunks.begin(chunk) * kTileTokens;
            const Factor* factor = factors.data();
            for (; panel >= Panels(factor->weight->row_blocks()).count(); ++factor)
                panel -= Panels(factor->weight->row_blocks()).count();
            const IntegerWeight& weight = *factor->weight;
            const Panels panels(weight.row_blocks());
            const std::size_t first = panels.begin(panel);
            const PanelOutput out{factor->out + token * weight.rows + first * kBlockRows, weight.rows,
                                  is_past_caches(factor->out, x.tokens().tokens, weight.rows)};
            x.kernels().product(weight, first, panels.end(panel), x.tokens(), chunks.begin(chunk), chunks.end(chunk),
                                out);
        }
    });
}

void multiply_gated(const IntegerWeight& gate, const IntegerWeight& up, Activation activation, const Tiles& x,
                    float* out) {
    const Chunks chunks(x);
    const auto& elementwise = elementwise_kernels();
    const std::size_t rows = gate.rows;
    const Panels panels(gate.row_blocks());
    const bool past_caches = is_past_caches(out, x.tokens().tokens, rows);
    parallel_for(panels.count() * chunks.count, 1, [&](std::size_t begin, std::size_t end) {
        constexpr std::size_t stride = Panels::kMostBlocks * kBlockRows, most = kMostTiles * kTileTokens * stride;
        thread_local const Scratch scratch(2 * most);  // 264 KB: stacks of threads have 512 KB on some systems
        float *const gates = scratch.get(), *const ups = gates + most;
        for (std::size_t item = begin; item < end; ++item) {
            const std::size_t panel = item % panels.count(), chunk = item / panels.count();
            const std::size_t block = panels.begin(panel), last = panels.end(panel);
            const std::size_t tile = chunks.begin(chunk), tile_end = chunks.end(chunk);
            x.kernels().product(gate, block, last, x.tokens(), tile, tile_end, {gates, stride, false});
            x.kernels().product(up, block, last, x.tokens(), tile, tile_end, {ups, stride, false});
            const std::size_t count = std::min(last * kBlockRows, rows) - block * kBlockRows, token = tile * kTileTokens;
            const std::size_t tokens = std::min(tile_end * kTileTokens, x.tokens().tokens) - token;
            float* to = out + token * rows + block * kBlockRows;
            for (std::size_t i = 0; i < tokens; ++i, to += rows) {
                float* values = gates + i * stride;
                elementwise.gate(activation, values, ups + i * stride, count, values);
                write_row(values, count, to, past_caches);
            }
            if (past_caches) finish_streams();
        }
    });
}

}  // namespace halfpint

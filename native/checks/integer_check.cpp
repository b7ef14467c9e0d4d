// Prints one number per kind of weight and instruction set: a hash of all bits that products give on fixed random
// weights. Every set and every processor has to print the same. Built with the sources of one or two sets, for a
// processor that need not be the one at hand (tests/kernels/test_integer_cross.py).
#include <cstdio>
#include <cstring>
#include <vector>

#include "isa/integer.hpp"
#include "isa/panel.hpp"

namespace halfpint {
namespace portable {
const IntegerKernels& integer_kernels();
const IntegerPackers& integer_packers();
const PanelKernels& panel_kernels();
}  // namespace portable
#if defined(HALFPINT_CHECKED)  // the name of a second set
namespace HALFPINT_CHECKED {
const IntegerKernels& integer_kernels();
const IntegerPackers& integer_packers();
const PanelKernels& panel_kernels();
}  // namespace HALFPINT_CHECKED
#endif

namespace {

constexpr std::size_t kRows = 37, kColumns = 768, kTokens = 7;

struct Random {
    std::uint64_t state = 1;
    std::uint32_t next() {
        state = state * 6364136223846793005u + 1442695040888963407u;
        return static_cast<std::uint32_t>(state >> 33);
    }
};

std::uint64_t hash_of(const void* data, std::size_t size, std::uint64_t hash = 14695981039346656037u) {
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 1099511628211u;
    return hash;
}

struct Example {
    IntegerWeight weight{};
    std::vector<std::uint8_t> memory, data, scales, zero_points;
    IntegerSource source{};
    float levels[16];
};

constexpr std::size_t kBlockBytes[] = {18, 20, 22, 24, 34, 18, 84, 110, 144, 176, 210, 136};
// Where each block has a half that scales it: random bits there would be infinities.
constexpr std::size_t kHalves[] = {0, 0, 0, 0, 0, 0, 80, 108, 0, 0, 208, 0};
constexpr bool kHasMinimum[] = {false, true, false, true, false, false, true, false, true, true, false, false};

void fill_blocks(Example& example, Random& random) {
    const auto kind = static_cast<std::size_t>(example.weight.kind);
    const std::size_t columns = kind >= static_cast<std::size_t>(IntegerKind::q2_k) ? 256 : 32;
    example.source.row_bytes = kColumns / columns * kBlockBytes[kind];
    example.data.resize(kRows * example.source.row_bytes);
    for (auto& byte : example.data) byte = static_cast<std::uint8_t>(random.next());
    for (std::size_t at = kHalves[kind]; at < example.data.size(); at += kBlockBytes[kind])
        for (std::size_t half = 0; half < (kHasMinimum[kind] ? 2u : 1u); ++half)
            example.data[at + 2 * half + 1] = static_cast<std::uint8_t>(0x20 + random.next() % 8);
}

void fill_codes(Example& example, Random& random, std::size_t scale_columns) {
    IntegerWeight& weight = example.weight;
    const std::size_t groups = (kColumns + scale_columns - 1) / scale_columns;
    const std::size_t width = weight.kind == IntegerKind::nf4 || is_affine(weight.kind) ? 4 : 1;
    example.source.row_bytes = kColumns;
    example.source.scale_columns = scale_columns;
    example.source.scale_groups = groups;
    example.data.resize(kRows * kColumns);
    for (auto& byte : example.data) byte = static_cast<std::uint8_t>(random.next() % (1u << code_bits(weight.kind)));
    for (std::size_t i = 0; i < kRows * groups; ++i) {
        const float scale = 0.001f * static_cast<float>(1 + random.next() % 1000);
        std::uint8_t bytes[4] = {static_cast<std::uint8_t>(100 + random.next() % 20)};
        if (width == 4) std::memcpy(bytes, &scale, 4);
        example.scales.insert(example.scales.end(), bytes, bytes + width);
        example.zero_points.push_back(static_cast<std::uint8_t>(random.next() % (1u << code_bits(weight.kind))));
    }
    example.source.scales = example.scales.data();
    if (weight.zero_points) example.source.zero_points = example.zero_points.data();
}

void make(Example& example, IntegerKind kind, bool zero_points, std::size_t scale_columns) {
    Random random{static_cast<std::uint64_t>(kind) + 7};
    IntegerWeight& weight = example.weight;
    weight.kind = kind;
    weight.rows = kRows;
    weight.columns = kColumns;
    weight.scale = IntegerScale::f32;
    weight.scale_columns = is_affine(kind) ? scale_columns : 0;
    weight.zero_points = zero_points;
    weight.outer = 3.0f;
    weight.levels = example.levels;
    for (int i = 0; i < 16; ++i) example.levels[i] = static_cast<float>(i) * 0.25f - 2.0f;
    weight.block_bytes = block_bytes_of(weight);
    example.memory.resize(weight.row_blocks() * weight.block_bytes);
    weight.data = example.memory.data();
    if (kind < IntegerKind::mxfp4)
        fill_blocks(example, random);
    else
        fill_codes(example, random, scale_columns != 0 ? scale_columns : kColumns);
    example.source.data = example.data.data();
}

struct Set {
    const IntegerKernels& kernels;
    const IntegerPackers& packers;
    const PanelKernels& panels;
};

// Of products with the same tokens, as with many.
std::uint64_t hash_of_panels(const PanelKernels& panels, const IntegerWeight& weight, const std::vector<float>& x,
                             std::uint64_t hash) {
    TileTokens tiles{nullptr, panels.record_bytes, kTokens, kColumns};
    std::vector<std::uint8_t> memory(tiles.tiles() * tiles.supers() * panels.record_bytes + kLineBytes);
    const std::size_t beyond = reinterpret_cast<std::uintptr_t>(memory.data()) % kLineBytes;
    tiles.records = memory.data() + (kLineBytes - beyond);
    panels.round(x.data(), tiles, 0, tiles.tiles());
    std::vector<float> out(kTokens * kRows);
    panels.product(weight, 0, weight.row_blocks(), tiles, 0, tiles.tiles(), {out.data(), kRows, false});
    return hash_of(out.data(), out.size() * sizeof(float), hash);
}

void check(const Set& set, IntegerKind kind, bool zero_points, std::size_t scale_columns) {
    const auto& [kernels, packers, panels] = set;
    Example example;
    make(example, kind, zero_points, scale_columns);
    packers.pack(example.weight, 0, example.weight.row_blocks(), example.source);
    Random random{99};
    std::vector<float> x(kTokens * kColumns), scales(x.size() / 32), offsets(scales.size());
    std::vector<std::int8_t> codes(x.size());
    std::vector<std::int32_t> sums(x.size() / 16);
    for (float& value : x) value = static_cast<float>(static_cast<int>(random.next() % 20001) - 10000) * 3e-4f;
    for (std::size_t token = 0; token < kTokens; ++token)
        kernels.quantize(x.data() + token * kColumns, kColumns, codes.data() + token * kColumns,
                         scales.data() + token * kColumns / 32, sums.data() + token * kColumns / 16,
                         offsets.data() + token * kColumns / 32);
    const IntegerTokens rounded{codes.data(), scales.data(), sums.data(), offsets.data(), kColumns};
    std::uint64_t hash = hash_of(example.memory.data(), example.memory.size());
    for (const std::size_t tokens : {std::size_t{1}, kTokens}) {
        std::vector<float> out(tokens * kRows);
        kernels.product(example.weight, 0, example.weight.row_blocks(), rounded, tokens, out.data(), nullptr);
        hash = hash_of(out.data(), out.size() * sizeof(float), hash);
    }
    hash = hash_of_panels(panels, example.weight, x, hash);
    std::vector<float> row(kColumns);
    packers.decode_row(example.weight, kRows - 1, row.data());
    hash = hash_of(row.data(), row.size() * sizeof(float), hash);
    std::printf("%s kind %d scale_columns %zu zero_points %d %016llx\n", kernels.isa, static_cast<int>(kind),
                scale_columns, zero_points ? 1 : 0, static_cast<unsigned long long>(hash));
}

void check_all(const Set& set) {
    for (int i = 0; i < static_cast<int>(IntegerKind::count); ++i) {
        const auto kind = static_cast<IntegerKind>(i);
        if (is_affine(kind)) {
            for (const std::size_t scale_columns : {std::size_t{16}, std::size_t{64}, std::size_t{0}})
                for (const bool zero_points : {false, true}) check(set, kind, zero_points, scale_columns);
        } else {
            const bool nf4 = kind == IntegerKind::nf4;
            check(set, kind, false, nf4 ? 64 : kind == IntegerKind::nvfp4 ? 16 : 32);
        }
    }
}

}  // namespace
}  // namespace halfpint

int main() {
    using namespace halfpint;
    check_all({portable::integer_kernels(), portable::integer_packers(), portable::panel_kernels()});
#if defined(HALFPINT_CHECKED)
    check_all({HALFPINT_CHECKED::integer_kernels(), HALFPINT_CHECKED::integer_packers(),
               HALFPINT_CHECKED::panel_kernels()});
#endif
}

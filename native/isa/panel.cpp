// Products of packed weights with many tokens; what happens is told in panel.hpp. Compiled once per instruction set;
// every set gives the same bits, because codes of panels come from integers, sums over them are exact, and every lane
// rounds the same operations in the same order.
//
// 64 rows at once read activations half as often as 32 do, which tells when those of all columns are more than the
// second-level cache holds.
#include "isa/panel.hpp"

#include "isa/asking.hpp"
#include "isa/streaming.hpp"

#include <array>
#include <bit>
#include <cstring>
#include <limits>
#include <utility>

#if defined(__AVX2__)
#include <immintrin.h>
// GCC 12 warns of its own AVX-512 header: _mm512_undefined_ps is meant to be undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace halfpint::HALFPINT_ISA {
namespace {

constexpr float kLeastMagnitude = 0x1p-100f;  // 32512 over it is still far from infinity
constexpr std::size_t kStepColumns = 4;
constexpr std::size_t kWideSteps = kWideColumns / kStepColumns;
constexpr std::size_t kSuperSteps = kSuperColumns / kStepColumns;
constexpr std::size_t kGroupSteps = kGroupColumns / kStepColumns;
constexpr std::size_t kPanelLine = kBlockRows * kStepColumns;
constexpr std::size_t kPanelBlocks = 4;

#include "isa/widen.hpp"
#include "isa/integer_lanes.hpp"
#include "isa/integer_codes.hpp"
#include "isa/integer_scales.hpp"
#include "isa/integer_product.hpp"
#include "isa/integer_levels.hpp"

inline Floats load_sums(const float* sums) { return load_floats(reinterpret_cast<const std::uint8_t*>(sums)); }

#include "isa/panel_lanes.hpp"
#include "isa/panel_codes.hpp"
#include "isa/panel_scales.hpp"

// The levels in as much of 16 bits as they can have.
template <std::size_t count, class F>
constexpr std::array<std::int8_t, count> table_of(F&& level) {
    std::array<std::int8_t, count> table{};
    for (std::size_t i = 0; i < count; ++i) table[i] = static_cast<std::int8_t>(level(i));
    return table;
}
constexpr int nf4_level(std::size_t i) { return 2 * (128 * kNf4Upper[i] + kNf4Lower[i]); }
alignas(16) constexpr auto kTenE2m1 = table_of<16>([](std::size_t i) { return 10 * kE2m1[i]; });
alignas(16) constexpr auto kNf4Low = table_of<16>([](std::size_t i) { return nf4_level(i) & 255; });
alignas(16) constexpr auto kNf4High = table_of<16>([](std::size_t i) { return nf4_level(i) >> 8; });

// Codes and scales of a kind, and what the factors of its row header are to be multiplied with.
template <class CodesOf, class PartsOf, int numerator = 1, int denominator = 1>
struct PanelKind {
    using Codes = CodesOf;
    using Scales = PartsOf;
    static constexpr float kFactor = static_cast<float>(numerator) / static_cast<float>(denominator);
};

template <IntegerKind kind>
struct PanelOf;
template <int bits>
using AffinePanel = PanelKind<PlaneShorts<bits>, AffineParts<bits>>;
template <> struct PanelOf<IntegerKind::q4_0> : PanelKind<PlaneShorts<4>, FlatParts<Halves, 8, false>> {};
template <> struct PanelOf<IntegerKind::q4_1> : PanelKind<PlaneShorts<4>, FlatParts<HalfPairs, 8, true>> {};
template <> struct PanelOf<IntegerKind::q5_0> : PanelKind<PlaneShorts<5>, FlatParts<Halves, 16, false>> {};
template <> struct PanelOf<IntegerKind::q5_1> : PanelKind<PlaneShorts<5>, FlatParts<HalfPairs, 16, true>> {};
template <> struct PanelOf<IntegerKind::q8_0> : PanelKind<PlaneShorts<8>, FlatParts<Halves, 128, false>> {};
template <> struct PanelOf<IntegerKind::iq4_nl> : PanelKind<LevelShorts<kIq4>, FlatParts<Halves, 128, false>> {};
template <>
struct PanelOf<IntegerKind::mxfp4>
    : PanelKind<LevelShorts<kTenE2m1.data()>, FlatParts<Exponents, 128, false>, 1, 10> {};
template <>
struct PanelOf<IntegerKind::nvfp4> : PanelKind<LevelShorts<kTenE2m1.data()>, FlatHalfParts<Float8s>, 1, 10> {};
template <>
struct PanelOf<IntegerKind::nf4>
    : PanelKind<WideLevelShorts<kNf4Low.data(), kNf4High.data()>, FlatParts<SharedFloats, 128, false>, 128> {};
template <>
struct PanelOf<IntegerKind::q4_k> : PanelKind<PlaneShorts<4>, NestedParts<SixBitPairs, false, 8, true>> {};
template <>
struct PanelOf<IntegerKind::q5_k> : PanelKind<PlaneShorts<5>, NestedParts<SixBitPairs, false, 16, true>> {};
template <>
struct PanelOf<IntegerKind::iq4_xs> : PanelKind<LevelShorts<kIq4>, NestedParts<SixBitGroups, false, 128, false>> {};
template <> struct PanelOf<IntegerKind::q2_k> : PanelKind<PlaneShorts<2>, NestedParts<NibblePairs, true, 2, true>> {};
template <>
struct PanelOf<IntegerKind::q3_k> : PanelKind<PlaneShorts<3>, NestedParts<SixBitHalves, true, 4, false>> {};
template <> struct PanelOf<IntegerKind::q6_k> : PanelKind<PlaneShorts<6>, NestedParts<ByteHalves, true, 32, false>> {};
template <> struct PanelOf<IntegerKind::int2> : AffinePanel<2> {};
template <> struct PanelOf<IntegerKind::int3> : AffinePanel<3> {};
template <> struct PanelOf<IntegerKind::int4> : AffinePanel<4> {};
template <> struct PanelOf<IntegerKind::int5> : AffinePanel<5> {};
template <> struct PanelOf<IntegerKind::int6> : AffinePanel<6> {};
template <> struct PanelOf<IntegerKind::int7> : AffinePanel<7> {};
template <> struct PanelOf<IntegerKind::int8> : AffinePanel<8> {};

// Sums over 32 columns begin with the bits of this number, 1.5 * 2^23. They are less than 2^21, so that their bits then
// are those of this number plus the sum: they are floats without being converted, which took a twentieth of the time.
constexpr float kSumBase = 12582912.0f;
constexpr std::int32_t kSumBaseBits = std::bit_cast<std::int32_t>(kSumBase);
static_assert(kWideColumns * 127 * 128 < std::size_t{1} << 21);
static_assert(kGroupColumns % kWideColumns == 0);

struct Record {
    alignas(kLineBytes) PanelCode codes[kSuperSteps * kTileTokens * kStepColumns];
    std::int32_t starts[kSuperWides][kTileTokens];  // kSumBaseBits less 128 times the sum of the codes
    float scales[kSuperWides][kTileTokens];
    float offsets[kTileTokens];  // minus kSumBase times the sum of the scales
};

#include "isa/panel_tile.hpp"

// A super-block of one block of rows.
struct PanelSource {
    const IntegerWeight* weight;
    const std::uint8_t* block;
    std::size_t offset;  // of the super-block
    std::size_t groups;
};

// Write the lines of a super-block, `stride` codes apart, and the scales of its rows.
template <IntegerKind kind>
void unpack(const PanelSource& from, PanelCode* panel, std::size_t stride, float* scales) {
    using Codes = typename PanelOf<kind>::Codes;
    using Scales = typename PanelOf<kind>::Scales;
    constexpr std::size_t parts_per_group = Scales::kHalves ? 2 : 1;
    const std::uint8_t* header = from.block + from.offset;
    const std::size_t count = from.groups * parts_per_group;
    Parts parts;
    Scales::load(*from.weight, header, from.block, from.groups, parts);
    Floats factor = floats(PanelOf<kind>::kFactor);
    if (row_header_bytes(*from.weight) != 0) factor = mul(factor, load_floats(from.block));
    const RowSteps steps = row_steps(largest_of<Scales::kCentred>(parts, count, Codes::kMiddle), factor);
    store_floats(steps.scale, scales);
    PartFactors factors;
    to_factors<Scales::kCentred>(parts, count, Codes::kMiddle, steps.inverse, factors);
    const std::uint8_t* codes = header + header_bytes(*from.weight, from.groups);
    for (std::size_t g = 0; g < from.groups; ++g, codes += Codes::kGroupBytes)
        unrolled<static_cast<int>(kGroupSteps)>([&]<int z>() __attribute__((always_inline)) {
            const std::size_t part = g * parts_per_group + (Scales::kHalves && z >= 4 ? 1 : 0);
            const Pair line = Codes::template line<z>(codes);
            store_panel({scaled(line.even, factors.factor[part], factors.offset[part]),
                         scaled(line.odd, factors.factor[part], factors.offset[part])},
                        panel);
            panel += stride;
        });
}

constexpr auto kUnpackers = []<std::size_t... i>(std::index_sequence<i...>) {
    return std::array{&unpack<static_cast<IntegerKind>(i)>...};
}(std::make_index_sequence<static_cast<std::size_t>(IntegerKind::count)>{});

using AddTile = void (*)(const PanelCode*, const Record&, std::size_t, const float*, bool, float*);

template <int blocks>
constexpr auto kTilesOf = []<int... i>(std::integer_sequence<int, i...>) {
    return std::array<AddTile, kTileTokens>{&add_tile<blocks, i + 1>...};
}(std::make_integer_sequence<int, static_cast<int>(kTileTokens)>{});

inline AddTile tile_of(std::size_t blocks, std::size_t tokens) {
    if constexpr (kTileBlocks == 2)
        if (blocks == 2) return kTilesOf<2>[tokens - 1];
    return kTilesOf<1>[tokens - 1];
}

// Some blocks of rows and their super-block now.
struct Panel {
    alignas(kLineBytes) PanelCode codes[kPanelBlocks][kSuperSteps * kPanelLine];
    alignas(kLineBytes) float scales[kPanelBlocks][kBlockRows];

    void fill(const IntegerWeight& weight, std::size_t first, std::size_t blocks, std::size_t offset,
              std::size_t groups) {
        const auto unpacker = kUnpackers[static_cast<std::size_t>(weight.kind)];
        for (std::size_t i = 0; i < blocks; ++i) {
            const PanelSource source{&weight, weight.data + (first + i) * weight.block_bytes, offset, groups};
            const std::size_t begin = i / kTileBlocks * kTileBlocks, alternate = std::min(kTileBlocks, blocks - begin);
            unpacker(source, codes[begin] + (i - begin) * kPanelLine, alternate * kPanelLine, scales[i]);
        }
    }
};

constexpr std::size_t kTileSums = kTileTokens * kBlockRows;

// Ask for memory that the next tile needs: its record comes from the second-level cache. To ask for its sums, too, took
// longer than waiting for them.
inline void fetch(const void* memory, std::size_t count) {
    const auto* bytes = static_cast<const std::uint8_t*>(memory);
    for (std::size_t i = 0; i < count; i += kLineBytes) __builtin_prefetch(bytes + i);
}
constexpr std::size_t kRecordPart = to_lines(sizeof(Record)) / kPanelBlocks;

// The rows of a panel in the result. Every token has them on another page.
struct PanelRows {
    const IntegerWeight& weight;
    std::size_t first;   // block of rows
    std::size_t blocks;
    const TileTokens& x;
    PanelOutput out;     // of the panel's first row
    std::size_t tile_begin;

    void write_tile(std::size_t tile, const float* sums) const {
        const std::size_t begin = tile * kTileTokens, end = std::min(begin + kTileTokens, x.tokens);
        for (std::size_t token = begin; token < end; ++token, sums += kBlockRows) {
            float* to = out.first + (token - tile_begin * kTileTokens) * out.stride;
            std::size_t rows = std::min(blocks * kBlockRows, weight.rows - first * kBlockRows);
            const float* from = sums;
            for (; rows >= kBlockRows; rows -= kBlockRows, to += kBlockRows, from += kTileSums)
                write_line(to, from, out.past_caches);
            std::memcpy(to, from, rows * sizeof(float));
        }
    }
};

// The super-block of weights after this one, of some blocks of rows. While tiles pass by it is brought into the
// second-level cache, a part with each: the processor does not guess that it will be read, and waited for memory.
struct NextSuper {
    const std::uint8_t* bytes;
    std::size_t block_bytes;
    std::size_t count;  // 0 after the last one

    void fetch_part(std::size_t blocks, std::size_t part, std::size_t parts) const {
        const std::size_t lines = count / kLineBytes;
        for (std::size_t line = part * lines / parts; line < (part + 1) * lines / parts; ++line)
            for (std::size_t block = 0; block < blocks; ++block)
                __builtin_prefetch(bytes + block * block_bytes + line * kLineBytes, 0, 2);
    }
};

// Add a super-block of columns to the sums of all tiles; after the last one they are written to their places.
void multiply_panel(const Panel& panel, const PanelRows& rows, const NextSuper& after, std::size_t super,
                    std::size_t wides, std::size_t tile_begin, std::size_t tile_end, float* sums) {
    const TileTokens& x = rows.x;
    const bool last = super + 1 == x.supers();
    for (std::size_t tile = tile_begin; tile < tile_end; ++tile, sums += kPanelBlocks * kTileSums) {
        after.fetch_part(rows.blocks, tile - tile_begin, tile_end - tile_begin);
        const auto& record = *reinterpret_cast<const Record*>(x.record(super, tile));
        const std::size_t tokens = std::min(kTileTokens, x.tokens - tile * kTileTokens);
        const auto* next = reinterpret_cast<const std::uint8_t*>(&record + 1);
        for (std::size_t block = 0; block < rows.blocks; block += kTileBlocks) {
            fetch(next + block * kRecordPart, kTileBlocks * kRecordPart);
            tile_of(std::min(kTileBlocks, rows.blocks - block), tokens)(panel.codes[block], record, wides,
                                                                        panel.scales[block], super == 0,
                                                                        sums + block * kTileSums);
        }
        if (last) rows.write_tile(tile, sums);
    }
}

void product(const IntegerWeight& weight, std::size_t block_begin, std::size_t block_end, const TileTokens& x,
             std::size_t tile_begin, std::size_t tile_end, const PanelOutput& out) {
    alignas(kLineBytes) float sums[kMostTiles * kPanelBlocks * kTileSums];
    Panel panel;
    std::memset(panel.codes, 0, sizeof panel.codes);
    for (std::size_t first = block_begin; first < block_end; first += kPanelBlocks) {
        const PanelOutput here{out.first + (first - block_begin) * kBlockRows, out.stride, out.past_caches};
        const PanelRows rows{weight, first, std::min(kPanelBlocks, block_end - first), x, here, tile_begin};
        std::size_t offset = row_header_bytes(weight);
        for (std::size_t super = 0; super < x.supers(); ++super) {
            const std::size_t groups = std::min(kSuperGroups, weight.groups() - super * kSuperGroups);
            panel.fill(weight, first, rows.blocks, offset, groups);
            offset += super_bytes(weight, groups);
            const NextSuper after{weight.data + first * weight.block_bytes + offset, weight.block_bytes,
                                  std::min(super_bytes(weight, groups), weight.block_bytes - offset)};
            multiply_panel(panel, rows, after, super, groups * kGroupColumns / kWideColumns, tile_begin, tile_end, sums);
        }
    }
    if (out.past_caches) finish_streams();
}

// 32 columns of one token; gives Record::starts.
inline std::int32_t round_wide(const float* x, std::int8_t* codes, float& scale) {
    std::int32_t largest = 0;  // magnitudes order like their bits, infinity and NaN above all
    for (std::size_t i = 0; i < kWideColumns; ++i) {
        std::int32_t bits;
        std::memcpy(&bits, x + i, sizeof bits);
        largest = std::max(largest, bits & 0x7fffffff);
    }
    const float magnitude = bits_to_float(static_cast<std::uint32_t>(largest));
    const bool finite = largest < 0x7f800000, useful = finite && magnitude >= kLeastMagnitude;
    const float inverse = useful ? 127.0f / magnitude : 0.0f;
    scale = useful ? magnitude / 127.0f : finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
    std::int32_t sum = 0;
    for (std::size_t i = 0; i < kWideColumns; ++i) {
        const float moved = (useful ? x[i] : 0.0f) * inverse + kSumBase;  // has no fraction: rounded to even
        std::int32_t bits;
        std::memcpy(&bits, &moved, sizeof bits);
        const std::int32_t code = bits - kSumBaseBits;
        codes[i] = static_cast<std::int8_t>(code);
        sum += code;
    }
    return kSumBaseBits - 128 * sum;
}

void round_into(const float* x, std::size_t columns, std::size_t token, Record& record) {
    alignas(kLineBytes) std::int8_t codes[kWideColumns];
    alignas(kLineBytes) float padded[kWideColumns];
    for (std::size_t wide = 0; wide < kSuperWides; ++wide) {
        const std::size_t first = wide * kWideColumns;
        const std::size_t count = columns > first ? std::min(kWideColumns, columns - first) : 0;
        const float* from = x + first;
        if (count < kWideColumns) {
            std::memset(padded, 0, sizeof padded);
            if (count != 0) std::memcpy(padded, from, count * sizeof(float));
            from = padded;
        }
        record.starts[wide][token] = round_wide(from, codes, record.scales[wide][token]);
        for (std::size_t step = 0; step < kWideSteps; ++step)
            for (std::size_t i = 0; i < kStepColumns; ++i)
                record.codes[code_index(wide * kWideSteps + step, token, i)] = codes[step * kStepColumns + i];
    }
    float sum = 0;
    for (const auto& wide : record.scales) sum += wide[token];
    record.offsets[token] = -kSumBase * sum;
}

void round(const float* x, const TileTokens& to, std::size_t tile_begin, std::size_t tile_end) {
    for (std::size_t tile = tile_begin; tile < tile_end; ++tile)
        for (std::size_t super = 0; super < to.supers(); ++super) {
            auto& record = *reinterpret_cast<Record*>(to.record(super, tile));
            for (std::size_t token = 0; token < kTileTokens; ++token) {
                const std::size_t row = tile * kTileTokens + token, first = super * kSuperColumns;
                // Beyond the last token there are zeros.
                const std::size_t columns = row < to.tokens ? to.columns - first : 0;
                round_into(columns != 0 ? x + row * to.columns + first : x, columns, token, record);
            }
        }
}

void read(const TileTokens& from, std::size_t token, std::int8_t* codes, float* scales) {
    for (std::size_t super = 0; super < from.supers(); ++super) {
        const auto& record = *reinterpret_cast<const Record*>(from.record(super, token / kTileTokens));
        for (std::size_t i = 0; i < kSuperColumns; ++i)
            *codes++ = static_cast<std::int8_t>(
                record.codes[code_index(i / kStepColumns, token % kTileTokens, i % kStepColumns)]);
        for (const auto& wide : record.scales) *scales++ = wide[token % kTileTokens];
    }
}

constexpr PanelKernels kKernels{sizeof(Record), &round, &read, &product};
}  // namespace

const PanelKernels& panel_kernels();
const PanelKernels& panel_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA

// Attention that never holds more scores than those of four rows and 64 positions: the softmax is corrected as larger
// scores come (Milakov and Gimelshein, arXiv 1805.02867). The rows of an item are the heads that share keys and values,
// so that these are read once for all of them.
//
// What is computed for a row depends on its own query and position only: tiles and splits lie at fixed positions and
// are gone through in order. So any number of threads, tokens at a time, or texts gives the same bits.
#include "isa/attention.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#if defined(__AVX2__)
#include <immintrin.h>
// GCC 12 warns of its own AVX-512 header: _mm512_undefined_ps is meant to be undefined (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace halfpint::HALFPINT_ISA {
namespace {
#define HALFPINT_STRINGIZE_(x) #x
#define HALFPINT_STRINGIZE(x) HALFPINT_STRINGIZE_(x)
#include "isa/floats.hpp"

constexpr float kLowest = -std::numeric_limits<float>::infinity();
constexpr std::size_t kLaneBlocks = kTilePositions / 16;

#include "isa/attention_tiles.hpp"

// Where a tile lies, and which of its positions are held.
struct Tile {
    std::size_t begin;
    std::size_t count;
    const std::uint16_t* key_scales;  // null unless they are scaled
    const std::uint16_t* value_scales;
    std::ptrdiff_t ahead, values_ahead;  // from its keys and values to those of the next tile, in bytes
};

// The lowest score for positions outside [low, high) of a tile.
inline Floats seen(Floats score, std::size_t vector, std::size_t low, std::size_t high) {
    alignas(64) static constexpr float kLaneNumbers[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const auto all = [](std::size_t value) { return Floats::broadcast(static_cast<float>(value)); };
    const Floats position = Floats::load(kLaneNumbers) + all(16 * vector), lowest = Floats::broadcast(kLowest);
    return where_less(position, all(high), where_less(position, all(low), lowest, score), lowest);
}

// From products to shares, in place; `largest`, `total` and `mixed` of the row are corrected. Scores outside
// [low, high) of the tile are not seen.
void softmax_step(const Tile& tile, std::size_t low, std::size_t high, float cap, std::size_t columns, float* scores,
                  float& largest, float& total, float* mixed) {
    Floats score[kLaneBlocks];
    Floats most = Floats::broadcast(kLowest);
    for (std::size_t i = 0; i < kLaneBlocks; ++i) {
        score[i] = Floats::load(scores + 16 * i);
        if (tile.key_scales != nullptr) score[i] = score[i] * Floats::load_f16(tile.key_scales + 16 * i);
        if (cap != 0)
            score[i] = hyperbolic_tangent(score[i] / Floats::broadcast(cap)) * Floats::broadcast(cap);
        if (16 * i < low || 16 * (i + 1) > high) score[i] = seen(score[i], i, low, high);
        most = larger(most, score[i]);
    }
    const float new_largest = std::max(largest, largest_lane(most));
    if (new_largest > largest && total != 0) {
        const Floats factor = limited_exponential(Floats::broadcast(largest - new_largest));
        alignas(64) float factors[16];
        factor.store(factors);
        total *= factors[0];
        for (std::size_t column = 0; column < columns; column += 16)
            (Floats::load(mixed + column) * factor).store(mixed + column);
    }
    largest = new_largest;
    Floats sum = Floats::broadcast(0.0f);
    for (std::size_t i = 0; i < kLaneBlocks; ++i) {
        Floats share = limited_exponential(score[i] - Floats::broadcast(new_largest));
        sum = sum + share;
        if (tile.value_scales != nullptr) share = share * Floats::load_f16(tile.value_scales + 16 * i);
        share.store(scores + 16 * i);
    }
    total += sum_of_lanes(sum);
}

// Up to `rows` rows of an item with one tile.
template <std::size_t rows, typename Element>
void rows_with_tile(const AttentionTask& task, const AttentionItem& item, std::size_t first_row, const Tile& tile,
                    const Element* keys, const Element* values, const float* queries, const AttentionSums& sums,
                    float* scores) {
    const std::size_t columns = task.shape.value_columns(), group = task.group(), end = tile.begin + tile.count;
    std::size_t low[rows], high[rows], most = 0;
    for (std::size_t i = 0; i < rows; ++i) {
        const std::size_t token = item.token_begin + (first_row + i) / group;
        low[i] = std::max(task.first_seen(token), tile.begin) - tile.begin;
        high[i] = std::clamp(task.position(token) + 1, tile.begin, end) - tile.begin;
        if (low[i] < high[i]) most = std::max(most, high[i]);
    }
    if (most == 0) return;
    tile_scores<rows>(keys, task.shape.head_dim, queries + first_row * columns, columns, scores,
                      tile.ahead);
    float* mixed = sums.mixed + first_row * columns;
    for (std::size_t i = 0; i < rows; ++i) {
        float* row_scores = scores + i * kTilePositions;
        if (low[i] < high[i])
            softmax_step(tile, low[i], high[i], task.cap, columns, row_scores, sums.largest[first_row + i],
                         sums.total[first_row + i], mixed + i * columns);
        else
            std::fill_n(row_scores, kTilePositions, 0.0f);
    }
    tile_mix<rows>(values, columns, most, scores, mixed, tile.values_ahead);
}

template <typename Element>
void item_with_tile(const AttentionTask& task, const AttentionItem& item, const Tile& tile, const Element* keys,
                    const Element* values, const float* queries, const AttentionSums& sums, float* scores) {
    const std::size_t count = (item.token_end - item.token_begin) * task.group();
    std::size_t row = 0;
    for (; row + kRows <= count; row += kRows)
        rows_with_tile<kRows>(task, item, row, tile, keys, values, queries, sums, scores);
    for (; kRows > 2 && row + 2 <= count; row += 2)
        rows_with_tile<2>(task, item, row, tile, keys, values, queries, sums, scores);
    for (; row < count; ++row) rows_with_tile<1>(task, item, row, tile, keys, values, queries, sums, scores);
}

// Turn `count` dimensions by a Hadamard matrix times count^-1/2; its own inverse.
void turn(float* values, std::size_t count) {
    for (std::size_t half = 1; half < count; half *= 2)
        for (std::size_t begin = 0; begin < count; begin += 2 * half)
            for (std::size_t i = begin; i < begin + half; ++i) {
                const float sum = values[i] + values[i + half], difference = values[i] - values[i + half];
                values[i] = sum;
                values[i + half] = difference;
            }
    const float norm = 1.0f / std::sqrt(static_cast<float>(count));
    for (std::size_t i = 0; i < count; ++i) values[i] *= norm;
}

void turn_head(const CacheShape& shape, float* head) {
    if (shape.kind != CacheKind::q8) return;
    for (std::size_t dim = 0; dim < shape.head_dim; dim += shape.turned()) turn(head + dim, shape.turned());
}

void load_queries(const AttentionTask& task, const AttentionItem& item, float* queries) {
    const std::size_t group = task.group(), head_dim = task.shape.head_dim, columns = task.shape.value_columns();
    const std::size_t rows = (item.token_end - item.token_begin) * group;
    for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t token = item.token_begin + row / group, head = item.kv_head * group + row % group;
        const float* source = task.queries + (token * task.heads + head) * head_dim;
        float* query = queries + row * columns;
        for (std::size_t dim = 0; dim < head_dim; ++dim) query[dim] = source[dim] * task.scale;
        turn_head(task.shape, query);
    }
}

// Many rows share the work of widening a tile; `wide` has room for its keys and values.
constexpr std::size_t kRowsToWiden = 8;

template <typename Element>
void split_with_rows(const AttentionTask& task, const AttentionItem& item, std::size_t begin, std::size_t end,
                     const AttentionSums& sums, const float* queries, float* scores, float* wide) {
    const CacheShape& shape = task.shape;
    const std::size_t columns = shape.value_columns();
    const bool many = sizeof(Element) < 4 && (item.token_end - item.token_begin) * task.group() > kRowsToWiden;
    for (; begin < end; begin += kTilePositions) {
        const std::uint8_t* head = task.pages[begin / kPagePositions] + item.kv_head * shape.head_bytes();
        const std::size_t offset = begin % kPagePositions;
        const auto* keys = reinterpret_cast<const Element*>(head) + offset * shape.head_dim;
        const auto* values = reinterpret_cast<const Element*>(head + shape.key_bytes()) + offset * columns;
        Tile tile{begin, std::min(kTilePositions, task.length - begin), nullptr, nullptr, 0, 0};
        if (begin + kTilePositions < end) {
            const std::size_t next = begin + kTilePositions, next_offset = next % kPagePositions;
            const std::uint8_t* next_head = task.pages[next / kPagePositions] + item.kv_head * shape.head_bytes();
            const auto pages = static_cast<std::ptrdiff_t>(reinterpret_cast<std::intptr_t>(next_head) -
                                                           reinterpret_cast<std::intptr_t>(head));
            const std::ptrdiff_t positions = static_cast<std::ptrdiff_t>(next_offset) - static_cast<std::ptrdiff_t>(offset);
            tile.ahead = pages + positions * static_cast<std::ptrdiff_t>(shape.head_dim * sizeof(Element));
            tile.values_ahead = pages + positions * static_cast<std::ptrdiff_t>(columns * sizeof(Element));
        }
        if (shape.kind == CacheKind::q8) {
            tile.key_scales = reinterpret_cast<const std::uint16_t*>(head + shape.key_bytes() + shape.value_bytes()) + offset;
            tile.value_scales = tile.key_scales + kPagePositions;
        }
        if (!many) {
            item_with_tile(task, item, tile, keys, values, queries, sums, scores);
            continue;
        }
        float* wide_values = wide + kTilePositions * shape.head_dim;
        for (std::size_t i = 0; i < kTilePositions * shape.head_dim; i += 16) widen(keys + i).store(wide + i);
        for (std::size_t i = 0; i < kTilePositions * columns; i += 16) widen(values + i).store(wide_values + i);
        item_with_tile<float>(task, item, tile, wide, wide_values, queries, sums, scores);
    }
}

void attend(const AttentionTask& task, const AttentionItem& item, std::size_t split, const AttentionSums& sums,
            float* scratch) {
    const std::size_t columns = task.shape.value_columns(), rows = (item.token_end - item.token_begin) * task.group();
    std::fill_n(sums.largest, rows, kLowest);
    std::fill_n(sums.total, rows, 0.0f);
    std::fill_n(sums.mixed, rows * columns, 0.0f);
    const std::size_t seen = task.first_seen(item.token_begin) / kTilePositions * kTilePositions;
    const std::size_t begin = std::max(split * kSplitPositions, seen);
    const std::size_t end = std::min((split + 1) * kSplitPositions, task.position(item.token_end - 1) + 1);
    if (begin >= end) return;
    float *scores = scratch + rows * columns, *wide = scores + 4 * kTilePositions;
    load_queries(task, item, scratch);
    switch (task.shape.kind) {
        case CacheKind::f32: return split_with_rows<float>(task, item, begin, end, sums, scratch, scores, wide);
        case CacheKind::f16: return split_with_rows<std::uint16_t>(task, item, begin, end, sums, scratch, scores, wide);
        case CacheKind::q8: return split_with_rows<std::int8_t>(task, item, begin, end, sums, scratch, scores, wide);
    }
}

// exp(x), with the bits of the lanes.
float exponential_of(float x) {
    alignas(64) float lanes[16];
    exponential(Floats::broadcast(x)).store(lanes);
    return lanes[0];
}

void join(std::size_t rows, std::size_t columns, const AttentionSums& into, const AttentionSums& later) {
    for (std::size_t row = 0; row < rows; ++row) {
        if (later.total[row] == 0) continue;  // nothing was seen there
        const bool first = into.total[row] == 0;
        const float largest = first ? later.largest[row] : std::max(into.largest[row], later.largest[row]);
        const float old_factor = first ? 0.0f : exponential_of(into.largest[row] - largest);
        const float new_factor = exponential_of(later.largest[row] - largest);
        into.largest[row] = largest;
        into.total[row] = into.total[row] * old_factor + later.total[row] * new_factor;
        float* mixed = into.mixed + row * columns;
        const float* more = later.mixed + row * columns;
        for (std::size_t column = 0; column < columns; ++column)
            mixed[column] = mixed[column] * old_factor + more[column] * new_factor;
    }
}

void finish(const AttentionTask& task, const AttentionItem& item, const AttentionSums& sums) {
    const std::size_t group = task.group(), head_dim = task.shape.head_dim, columns = task.shape.value_columns();
    const std::size_t rows = (item.token_end - item.token_begin) * group;
    for (std::size_t row = 0; row < rows; ++row) {
        const std::size_t token = item.token_begin + row / group, head = item.kv_head * group + row % group;
        float* out = task.out + (token * task.heads + head) * head_dim;
        for (std::size_t dim = 0; dim < head_dim; ++dim) out[dim] = sums.mixed[row * columns + dim] / sums.total[row];
    }
}

std::uint16_t half_of(float value) {
    alignas(64) std::uint16_t halves[16];
    Floats::broadcast(value).store_f16(halves);
    return halves[0];
}

float float_of(std::uint16_t half) {
    alignas(64) std::uint16_t halves[16] = {half};
    alignas(64) float lanes[16];
    Floats::load_f16(halves).store(lanes);
    return lanes[0];
}

constexpr float kLargestHalf = 65504.0f;

// `count` floats as halves; what is too large becomes the largest half. NaN stays.
void store_halves(const float* values, std::size_t count, std::uint16_t* out, std::size_t stride) {
    for (std::size_t i = 0; i < count; i += 16) {
        const std::size_t some = std::min<std::size_t>(16, count - i);
        alignas(64) std::uint16_t halves[16];
        const Floats limit = Floats::broadcast(kLargestHalf), lowest = Floats::broadcast(-kLargestHalf);
        smaller(limit, larger(lowest, load_some(values + i, some, 0.0f))).store_f16(halves);
        for (std::size_t k = 0; k < some; ++k) out[(i + k) * stride] = halves[k];
    }
}

// Codes of -127 to 127, times the scale that is returned as a half.
std::uint16_t store_codes(const float* values, std::size_t count, std::int8_t* out, std::size_t stride) {
    float most = 0.0f;
    for (std::size_t i = 0; i < count; ++i) most = std::max(most, std::fabs(values[i]));
    const std::uint16_t half = half_of(std::min(most / 127.0f, kLargestHalf));
    const float scale = float_of(half), inverse = scale > 0 ? 1.0f / scale : 0.0f;
    for (std::size_t i = 0; i < count; ++i) {
        const float code = std::nearbyint(values[i] * inverse);  // NaN becomes -127
        out[i * stride] = static_cast<std::int8_t>(std::min(127.0f, std::max(-127.0f, code)));
    }
    return half;
}

// Steps between the elements of a position: keys stand sixteen positions side by side.
std::size_t key_place(const CacheShape& shape, std::size_t position) {
    return position / 16 * 16 * shape.head_dim + position % 16;
}

void store(const CacheShape& shape, std::uint8_t* page, std::size_t position, const float* keys, const float* values,
           float* scratch) {
    const std::size_t head_dim = shape.head_dim, value_place = position * shape.value_columns();
    const std::size_t key_at = key_place(shape, position);
    for (std::size_t head = 0; head < shape.kv_heads; ++head, page += shape.head_bytes()) {
        std::uint8_t* value_bytes = page + shape.key_bytes();
        const float* key = keys + head * head_dim;
        const float* value = values + head * head_dim;
        if (shape.kind == CacheKind::f32) {
            for (std::size_t dim = 0; dim < head_dim; ++dim) reinterpret_cast<float*>(page)[key_at + 16 * dim] = key[dim];
            std::memcpy(reinterpret_cast<float*>(value_bytes) + value_place, value, head_dim * sizeof(float));
        } else if (shape.kind == CacheKind::f16) {
            store_halves(key, head_dim, reinterpret_cast<std::uint16_t*>(page) + key_at, 16);
            store_halves(value, head_dim, reinterpret_cast<std::uint16_t*>(value_bytes) + value_place, 1);
        } else {
            std::memcpy(scratch, key, head_dim * sizeof(float));
            turn_head(shape, scratch);
            auto* scales = reinterpret_cast<std::uint16_t*>(value_bytes + shape.value_bytes());
            scales[position] = store_codes(scratch, head_dim, reinterpret_cast<std::int8_t*>(page) + key_at, 16);
            scales[kPagePositions + position] =
                store_codes(value, head_dim, reinterpret_cast<std::int8_t*>(value_bytes) + value_place, 1);
        }
    }
}

template <typename Element>
void read_elements(const Element* from, std::size_t count, std::size_t stride, float scale, float* out) {
    for (std::size_t i = 0; i < count; ++i) {
        if constexpr (sizeof(Element) == 2) out[i] = float_of(from[i * stride]);
        else out[i] = static_cast<float>(from[i * stride]) * scale;
    }
}

template <typename Element>
void read_heads(const CacheShape& shape, const std::uint8_t* page, std::size_t position, float* keys, float* values) {
    const std::size_t head_dim = shape.head_dim;
    for (std::size_t head = 0; head < shape.kv_heads; ++head, page += shape.head_bytes()) {
        const std::uint8_t* value_bytes = page + shape.key_bytes();
        const auto* scales = reinterpret_cast<const std::uint16_t*>(value_bytes + shape.value_bytes());
        const bool scaled = shape.kind == CacheKind::q8;
        read_elements(reinterpret_cast<const Element*>(page) + key_place(shape, position), head_dim, 16,
                      scaled ? float_of(scales[position]) : 1.0f, keys + head * head_dim);
        read_elements(reinterpret_cast<const Element*>(value_bytes) + position * shape.value_columns(), head_dim, 1,
                      scaled ? float_of(scales[kPagePositions + position]) : 1.0f, values + head * head_dim);
        turn_head(shape, keys + head * head_dim);
    }
}

void read(const CacheShape& shape, const std::uint8_t* page, std::size_t position, float* keys, float* values) {
    switch (shape.kind) {
        case CacheKind::f32: return read_heads<float>(shape, page, position, keys, values);
        case CacheKind::f16: return read_heads<std::uint16_t>(shape, page, position, keys, values);
        case CacheKind::q8: return read_heads<std::int8_t>(shape, page, position, keys, values);
    }
}

constexpr AttentionKernels kKernels{HALFPINT_STRINGIZE(HALFPINT_ISA), &store, &attend, &join, &finish, &read};
}  // namespace

const AttentionKernels& attention_kernels();
const AttentionKernels& attention_kernels() { return kKernels; }

}  // namespace halfpint::HALFPINT_ISA

// The contract of attention over a cache of keys and values (isa/attention.cpp).
//
// The cache of a layer is a list of pages of kPagePositions positions, so that it grows without being copied. A page
// holds, for each key/value head in turn:
//   keys    [kPagePositions / 16][head_dim][16]  sixteen positions side by side: scores are sums in lanes
//   values  [kPagePositions][value_columns]      head_dim, filled up with zeros to a multiple of 16
//   scales  float16 [2][kPagePositions], for kind q8 only: of the keys, then of the values
// In kind q8 keys are turned by a Hadamard matrix (times a power of 2^-1/2) before they are rounded, which spreads
// what stands out in single dimensions; queries are turned alike, and scores stay what they are.
#pragma once
#include <cstddef>
#include <cstdint>

namespace halfpint {

enum class CacheKind : int { f32 = 0, f16, q8 };

constexpr std::size_t kPagePositions = 256;
constexpr std::size_t kTilePositions = 64;     // that one step of the softmax looks at
constexpr std::size_t kSplitPositions = 1024;  // that are summed up on their own before they are joined
static_assert(kPagePositions % kTilePositions == 0 && kSplitPositions % kPagePositions == 0);

struct CacheShape {
    CacheKind kind;
    std::size_t kv_heads;
    std::size_t head_dim;

    std::size_t element_bytes() const { return kind == CacheKind::f32 ? 4 : kind == CacheKind::f16 ? 2 : 1; }
    std::size_t value_columns() const { return (head_dim + 15) / 16 * 16; }
    std::size_t key_bytes() const { return kPagePositions * head_dim * element_bytes(); }
    std::size_t value_bytes() const { return kPagePositions * value_columns() * element_bytes(); }
    std::size_t head_bytes() const {
        return key_bytes() + value_bytes() + (kind == CacheKind::q8 ? 2 * kPagePositions * sizeof(std::uint16_t) : 0);
    }
    std::size_t page_bytes() const { return kv_heads * head_bytes(); }
    // Dimensions that are turned together: the largest power of two that divides the head.
    std::size_t turned() const { return head_dim & (~head_dim + 1); }
};

// Queries of the last `tokens` of `length` positions. A token sees itself and all before it, or `window` - 1 of them
// if `window` is not 0. Scores are multiplied by `scale` and bent to cap * tanh(score / cap) if `cap` is not 0.
struct AttentionTask {
    CacheShape shape;
    const std::uint8_t* const* pages;
    std::size_t length;
    std::size_t tokens;
    std::size_t heads;     // a multiple of kv_heads
    const float* queries;  // [tokens][heads][head_dim]
    float scale;
    std::size_t window;
    float cap;
    float* out;  // [tokens][heads][head_dim]

    std::size_t group() const { return heads / shape.kv_heads; }
    std::size_t position(std::size_t token) const { return length - tokens + token; }
    std::size_t first_seen(std::size_t token) const {
        const std::size_t end = position(token) + 1;
        return window == 0 || window > end ? 0 : end - window;
    }
};

// Rows of one item: the heads of a group for some tokens, row = token * group + head.
struct AttentionItem {
    std::size_t kv_head;
    std::size_t token_begin;
    std::size_t token_end;
};

// What a row has seen: the largest score, the sum of exponentials, and their mix of values; floats [rows] each, and
// [rows][value_columns].
struct AttentionSums {
    float* largest;
    float* total;
    float* mixed;
};
inline std::size_t sums_floats(std::size_t rows, std::size_t value_columns) { return rows * (2 + value_columns); }
inline AttentionSums sums_at(float* floats, std::size_t rows, std::size_t value_columns) {
    return {floats + rows * value_columns, floats + rows * (value_columns + 1), floats};
}

struct AttentionKernels {
    const char* isa;
    // Turn and round keys and values, float32 [kv_heads][head_dim] each, of one position into its page.
    void (*store)(const CacheShape& shape, std::uint8_t* page, std::size_t position, const float* keys,
                  const float* values, float* scratch);
    // What the rows of an item see of positions [split, split + 1) * kSplitPositions; `sums` are overwritten.
    // `scratch` has attend_floats.
    void (*attend)(const AttentionTask& task, const AttentionItem& item, std::size_t split, const AttentionSums& sums,
                   float* scratch);
    // Join what was seen of later positions into `into`.
    void (*join)(std::size_t rows, std::size_t value_columns, const AttentionSums& into, const AttentionSums& later);
    // Divide by the sums, and write the rows of an item to their places in task.out.
    void (*finish)(const AttentionTask& task, const AttentionItem& item, const AttentionSums& sums);
    // Keys (turned back) and values of one position, float32 [kv_heads][head_dim] each.
    void (*read)(const CacheShape& shape, const std::uint8_t* page, std::size_t position, float* keys, float* values);
};

// Queries; scores of a tile for four rows; keys and values of a tile as float32.
inline std::size_t attend_floats(std::size_t rows, const CacheShape& shape) {
    return rows * shape.value_columns() + 4 * kTilePositions + 2 * kTilePositions * shape.value_columns();
}

}  // namespace halfpint

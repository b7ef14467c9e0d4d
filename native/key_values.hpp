// The keys and values of one text in one layer, and attention over them, shared among threads.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "isa/attention.hpp"

namespace halfpint {

// Zeros on whole cache lines; the system gives memory only for what is written.
class Page {
public:
    explicit Page(std::size_t bytes) : block_(static_cast<std::uint8_t*>(std::calloc(bytes + 63, 1))) {
        if (!block_) throw std::bad_alloc();
    }
    std::uint8_t* get() const {
        return reinterpret_cast<std::uint8_t*>((reinterpret_cast<std::uintptr_t>(block_.get()) + 63) / 64 * 64);
    }

private:
    struct Free {
        void operator()(std::uint8_t* block) const { std::free(block); }
    };
    std::unique_ptr<std::uint8_t, Free> block_;
};

// Queries of the last `tokens` positions, and where their mixed values go: [tokens][heads][head_dim] each.
struct Attending {
    const float* queries;
    std::size_t tokens, heads;
    float scale;
    std::size_t window;
    float cap;
    float* out;
};

class KeyValues {
public:
    KeyValues(CacheKind kind, std::size_t kv_heads, std::size_t head_dim) : shape_{kind, kv_heads, head_dim} {}
    KeyValues(const KeyValues&) = delete;
    KeyValues& operator=(const KeyValues&) = delete;

    const CacheShape& shape() const { return shape_; }
    std::size_t columns() const { return shape_.kv_heads * shape_.head_dim; }
    std::size_t length() const { return length_; }
    std::size_t nbytes() const { return pages_.size() * shape_.page_bytes(); }
    std::size_t stored_bytes(std::size_t length) const { return pages_for(length) * shape_.page_bytes(); }

    // Append new positions: [tokens][kv_heads][head_dim] each.
    void append(const float* keys, const float* values, std::size_t tokens);
    // At least one token, and no more than there are positions; heads are a multiple of kv_heads.
    void attend(const Attending& attending) const;
    void truncate(std::size_t length) { length_ = std::min(length_, length); }
    // Positions [start, start + tokens) as they are held.
    void read(std::size_t start, std::size_t tokens, float* keys, float* values) const;
    // `stored_bytes(length)`.
    void save(std::uint8_t* out) const;
    void restore(const std::uint8_t* bytes, std::size_t length);

private:
    static std::size_t pages_for(std::size_t length) { return (length + kPagePositions - 1) / kPagePositions; }
    void grow(std::size_t length);

    CacheShape shape_;
    std::size_t length_ = 0;
    std::vector<Page> pages_;
    std::vector<const std::uint8_t*> addresses_;
};

}  // namespace halfpint

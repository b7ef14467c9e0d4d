// Memory for packed weights: aligned, and on large pages where the system has them.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>

namespace halfpint {

// Owns `size` bytes, aligned to 64; of two megabytes or more, to large pages, which decoding at memory's speed needs:
// with small ones every 4 KiB waits for the page table. Contents are undefined; throws std::bad_alloc.
class LineMemory {
public:
    explicit LineMemory(std::size_t size);
    ~LineMemory();
    LineMemory(const LineMemory&) = delete;
    LineMemory& operator=(const LineMemory&) = delete;

    std::uint8_t* data() const { return data_; }
    std::size_t size() const { return size_; }

private:
    std::uint8_t* data_;
    std::size_t size_;
};

// The same for what is needed for a moment, a thousand times: the last pieces given back are kept, as fresh pages of
// megabytes cost as much as filling them.
class KeptLines {
public:
    explicit KeptLines(std::size_t size);
    ~KeptLines();
    KeptLines(const KeptLines&) = delete;
    KeptLines& operator=(const KeptLines&) = delete;

    std::uint8_t* data() const { return piece_->data(); }

private:
    std::unique_ptr<LineMemory> piece_;
};

}  // namespace halfpint

#include "lines.hpp"

#include <algorithm>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace halfpint {
namespace {
constexpr std::size_t kLine = 64;
#if defined(__linux__)
constexpr std::size_t kLargePage = std::size_t{2} << 20;

// Mapped with room to spare, and cut to whole large pages in front; the end stays on small ones.
std::uint8_t* map_large(std::size_t size) {
    void* found = mmap(nullptr, size + kLargePage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (found == MAP_FAILED) throw std::bad_alloc();
    const auto begin = reinterpret_cast<std::uintptr_t>(found);
    const std::uintptr_t aligned = (begin + kLargePage - 1) / kLargePage * kLargePage;
    const std::uintptr_t end = begin + size + kLargePage, used = (aligned + size + 4095) / 4096 * 4096;
    if (aligned > begin) munmap(found, aligned - begin);
    if (end > used) munmap(reinterpret_cast<void*>(used), end - used);
    madvise(reinterpret_cast<void*>(aligned), size, MADV_HUGEPAGE);  // a wish: without it all is the same but slower
    return reinterpret_cast<std::uint8_t*>(aligned);
}

bool is_mapped(std::size_t size) { return size >= kLargePage; }
#endif
}  // namespace

LineMemory::LineMemory(std::size_t size) : size_(size) {
#if defined(__linux__)
    if (is_mapped(size)) {
        data_ = map_large(size);
        return;
    }
#endif
    data_ = static_cast<std::uint8_t*>(::operator new(size, std::align_val_t{kLine}));
}

LineMemory::~LineMemory() {
#if defined(__linux__)
    if (is_mapped(size_)) {
        munmap(data_, (size_ + 4095) / 4096 * 4096);
        return;
    }
#endif
    ::operator delete(data_, std::align_val_t{kLine});
}

namespace {

// Pieces that nobody uses, oldest first.
class Shelf {
public:
    Shelf() { pieces_.reserve(kMostPieces); }  // giving must not fail

    std::unique_ptr<LineMemory> take(std::size_t size) {
        const std::unique_lock lock(mutex_, std::try_to_lock);  // a forked child may find it locked for ever
        if (!lock.owns_lock()) return nullptr;
        const auto fits = [size](const auto& piece) { return piece->size() >= size && piece->size() / 4 <= size; };
        const auto found = std::find_if(pieces_.begin(), pieces_.end(), fits);
        if (found == pieces_.end()) return nullptr;
        std::unique_ptr<LineMemory> piece = std::move(*found);
        pieces_.erase(found);
        return piece;
    }

    void give(std::unique_ptr<LineMemory> piece) {
        const std::unique_lock lock(mutex_, std::try_to_lock);
        if (!lock.owns_lock() || piece->size() > kMostBytes) return;
        if (pieces_.size() == kMostPieces) pieces_.erase(pieces_.begin());
        pieces_.push_back(std::move(piece));
    }

private:
    static constexpr std::size_t kMostPieces = 3, kMostBytes = std::size_t{8} << 20;
    std::mutex mutex_;
    std::vector<std::unique_ptr<LineMemory>> pieces_;
};

// Never destroyed: pieces may come back while static objects are.
Shelf& shelf() {
    static auto* const instance = new Shelf;
    return *instance;
}

}  // namespace

KeptLines::KeptLines(std::size_t size) : piece_(shelf().take(size)) {
    if (!piece_) piece_ = std::make_unique<LineMemory>(size);
}

KeptLines::~KeptLines() { shelf().give(std::move(piece_)); }

}  // namespace halfpint

// A fixed pool that maps a function over ranges of items. Which thread runs which range never changes a result:
// items are independent, and nothing is summed across them.
#pragma once
#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>

namespace halfpint {

// Number of threads that parallel_for uses, the caller included; see default_thread_count.
int thread_count();
void set_thread_count(int count);

// From now on the calling thread does all of its work itself: thread_count() is 1 there.
void use_one_thread_here();

// Call body(begin, end) over [0, items) cut into ranges of at most `grain` items. The first exception is rethrown.
// One region runs at a time: a call from another thread, or from within a body, does all of its work itself.
// Range i of the first ones is begun by thread i, the caller being 0, unless that thread comes too late.
void parallel_for(std::size_t items, std::size_t grain, const std::function<void(std::size_t, std::size_t)>& body);

// A part of [0, items), and all items of the thread that does it.
struct Piece {
    std::size_t begin, end;
    std::size_t thread;
    std::size_t own_begin, own_end;
};

// Cut [0, items) into `count` stretches of whole pieces of `grain` items, one for each thread.
struct Stretches {
    std::size_t items, grain, count;

    std::size_t begin(std::size_t thread) const {
        const std::size_t pieces = (items + grain - 1) / grain;
        return std::min(items, pieces * thread / count * grain);
    }
};
Stretches stretches_of(std::size_t items, std::size_t grain);

// Like parallel_for, but every thread goes through a stretch of its own from first to last, a piece of at most `grain`
// items at a time; one that has come to its end helps others, from their ends on.
void parallel_stretches(const Stretches& stretches, const std::function<void(const Piece&)>& body);

// Memory that a thread will read first.
struct Ahead {
    const std::uint8_t* first = nullptr;
    std::size_t size = 0;
};

// What worker i (thread i + 1) asks memory for while it waits for the next region: until the next call of this, workers
// bring it into the caches of their cores. A wish: nothing is read, so what is no longer there does no harm.
void set_ahead(std::span<const Ahead> workers);

}  // namespace halfpint

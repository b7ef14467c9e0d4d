// A fixed pool that maps a function over ranges of items. Which thread runs which range never changes a result:
// items are independent, and nothing is summed across them.
#pragma once
#include <cstddef>
#include <functional>

namespace halfpint {

// Number of threads that parallel_for uses, the caller included; see default_thread_count.
int thread_count();
void set_thread_count(int count);

// Call body(begin, end) over [0, items) cut into ranges of at most `grain` items. The first exception is rethrown.
// One region runs at a time: a call from another thread, or from within a body, does all of its work itself.
void parallel_for(std::size_t items, std::size_t grain, const std::function<void(std::size_t, std::size_t)>& body);

}  // namespace halfpint

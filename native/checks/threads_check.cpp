// Uses the pool in every way that is allowed, from several threads at once, and exits with 0 if every item was done
// exactly once. Built and run under the sanitizers by tests/kernels/test_threads_sanitized.py.
#include "threads.hpp"

#include <atomic>
#include <chrono>
#include <cstdio>
#include <stdexcept>
#include <thread>
#include <vector>

namespace halfpint {
namespace {

std::atomic<bool> failed{false};

void require(bool holds, const char* what) {
    if (holds) return;
    failed = true;
    std::fprintf(stderr, "failed: %s\n", what);
}

// Every item once: what a region writes without locks is there when it returns.
void count_items(std::size_t items, std::size_t grain) {
    std::vector<int> done(items, 0);
    parallel_for(items, grain, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) ++done[i];
    });
    for (const int count : done) require(count == 1, "an item was done once");
}

// The same in stretches; a thread's own pieces come in order.
void count_stretches(std::size_t items, std::size_t grain) {
    std::vector<int> done(items, 0);
    parallel_stretches(stretches_of(items, grain), [&](const Piece& piece) {
        require(piece.end <= piece.begin + grain || thread_count() == 1 || piece.begin == 0, "pieces are small, or all");
        for (std::size_t i = piece.begin; i < piece.end; ++i) ++done[i];
    });
    for (const int count : done) require(count == 1, "an item of a stretch was done once");
}

void nested() {
    std::vector<int> done(64, 0);
    parallel_for(8, 1, [&](std::size_t begin, std::size_t end) {
        for (std::size_t outer = begin; outer < end; ++outer)
            parallel_for(8, 1, [&, outer](std::size_t first, std::size_t last) {
                for (std::size_t inner = first; inner < last; ++inner) ++done[8 * outer + inner];
            });
    });
    for (const int count : done) require(count == 1, "a nested item was done once");
}

void throwing() {
    bool caught = false;
    try {
        parallel_for(32, 1, [](std::size_t begin, std::size_t end) {
            if (begin <= 7 && 7 < end) throw std::runtime_error("seven");
        });
    } catch (const std::runtime_error&) {
        caught = true;
    }
    require(caught, "the exception came through");
    caught = false;
    try {
        parallel_stretches(stretches_of(32, 2), [](const Piece& piece) {
            if (piece.begin <= 7 && 7 < piece.end) throw std::runtime_error("seven");
        });
    } catch (const std::runtime_error&) {
        caught = true;
    }
    require(caught, "the exception came through from a stretch");
}

// Regions one after another, with and without time for the workers to fall asleep in between.
void alone() {
    for (const int threads : {1, 2, 3, 8, 2}) {
        set_thread_count(threads);
        require(thread_count() == threads, "as many threads as asked");
        for (std::size_t items = 0; items < 60; ++items) {
            count_items(items, 1 + items % 5);
            count_stretches(items, 1 + items % 5);
        }
        for (int pause = 0; pause < 3; ++pause) {
            std::this_thread::sleep_for(std::chrono::milliseconds(3));
            count_items(100, 1);
        }
        nested();
        throwing();
        count_items(50, 3);
    }
}

// Callers at once: one has the pool, the others do their work themselves.
void together() {
    set_thread_count(3);
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 4; ++caller)
        callers.emplace_back([] {
            for (std::size_t round = 0; round < 60; ++round) {
                count_items(40 + round % 60, 1 + round % 7);
                count_stretches(40 + round % 60, 1 + round % 7);
            }
        });
    for (std::thread& caller : callers) caller.join();
}

}  // namespace
}  // namespace halfpint

int main() {
    halfpint::alone();
    halfpint::together();
    halfpint::alone();
    return halfpint::failed ? 1 : 0;
}

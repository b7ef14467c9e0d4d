// Workers spin for a moment after a job and then sleep. A decoding step is some hundred jobs with microseconds of
// Python between them: waking a sleeping thread costs more than such a job (48 to 70 us measured, against 0.1 to 0.8 us
// for one that spins), while a program that does nothing must not burn a processor.
//
// The caller never waits for a worker to come: ranges are claimed one by one, and a worker that the system has put
// aside before it entered the job misses it.
#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

#include "processors.hpp"

#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace halfpint {
namespace {

// Between two blocks of a decoder Python takes up to 150 us.
constexpr auto kSpin = std::chrono::microseconds(300);
constexpr int kPausesPerLook = 16;  // at the clock, which costs as much as one or two pauses

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Wait until `value` differs from `old`: spinning first, with something to do between looks, then asleep.
template <class Meanwhile>
void wait_for_change(const std::atomic<int>& value, int old, const Meanwhile& meanwhile) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < kPausesPerLook; ++i) {
            if (value.load(std::memory_order_acquire) != old) return;
            meanwhile();
        }
    } while (std::chrono::steady_clock::now() < until);
    value.wait(old, std::memory_order_acquire);
}

// What one worker asks memory for while it waits. Written by callers while the worker may be reading: each part is whole,
// and a mix of two only asks for memory that is of no use.
class Reader {
public:
    void set(const Ahead& ahead) {
        first_.store(ahead.first, std::memory_order_relaxed);
        size_.store(ahead.size, std::memory_order_relaxed);
    }

    // By the worker: ask for a few lines more, or pause when all have been asked for.
    void step() {
        constexpr std::size_t kLine = 64, kStep = 8 * kLine;
        const std::uint8_t* first = first_.load(std::memory_order_relaxed);
        if (first != begun_) {
            begun_ = first;
            done_ = 0;
        }
        if (done_ >= size_.load(std::memory_order_relaxed)) return pause();
        for (std::size_t line = done_; line < done_ + kStep; line += kLine) __builtin_prefetch(first + line, 0, 2);
        done_ += kStep;
    }

private:
    std::atomic<const std::uint8_t*> first_{nullptr};
    std::atomic<std::size_t> size_{0};
    const std::uint8_t* begun_ = nullptr;  // the worker's own
    std::size_t done_ = 0;
};

// Work that several threads do together.
class Job {
public:
    virtual void run(std::size_t thread) = 0;
    std::exception_ptr error() const { return error_; }

protected:
    Job() = default;
    ~Job() = default;

    // False when an exception ended all.
    template <class Body>
    bool guarded(const Body& body) {
        try {
            body();
            return true;
        } catch (...) {
            const std::lock_guard lock(error_mutex_);
            if (!error_) error_ = std::current_exception();
            return false;
        }
    }

private:
    std::mutex error_mutex_;
    std::exception_ptr error_;
};

constexpr std::size_t kMostFirst = 64;

// Ranges, of which every thread has a first one; the rest are for whoever comes.
class Ranges final : public Job {
public:
    Ranges(const std::function<void(std::size_t, std::size_t)>& body, std::size_t items, std::size_t grain, int all_threads)
        : body_(body), items_(items), grain_(grain),
          threads_(std::min({static_cast<std::size_t>(all_threads), kMostFirst, (items + grain - 1) / grain})),
          next_(threads_ * grain) {}

    void run(std::size_t thread) override {
        if (thread < threads_ && claim(thread) && !range(thread * grain_)) return;
        for (;;) {
            const std::size_t begin = next_.fetch_add(grain_, std::memory_order_relaxed);
            if (begin >= items_) break;
            if (!range(begin)) return;
        }
        for (std::size_t late = 0; late < threads_; ++late)
            if (claim(late) && !range(late * grain_)) return;
    }

private:
    bool claim(std::size_t first) {
        const std::uint64_t bit = std::uint64_t{1} << first;
        return (begun_.fetch_or(bit, std::memory_order_relaxed) & bit) == 0;
    }

    bool range(std::size_t begin) {
        if (guarded([&] { body_(begin, std::min(items_, begin + grain_)); })) return true;
        next_.store(items_, std::memory_order_relaxed);
        begun_.store(~std::uint64_t{0}, std::memory_order_relaxed);
        return false;
    }

    const std::function<void(std::size_t, std::size_t)>& body_;
    std::size_t items_, grain_;
    std::size_t threads_;  // that have a first range
    std::atomic<std::size_t> next_;
    std::atomic<std::uint64_t> begun_{0};  // a bit for each first range
};

// Stretches of pieces. What is left of one is two numbers of pieces in one word: done from the front and, by others,
// from the back.
class StretchJob final : public Job {
public:
    StretchJob(const std::function<void(const Piece&)>& body, const Stretches& of) : body_(body), of_(of) {
        for (std::size_t i = 0; i < of.count; ++i) {
            const std::uint64_t first = of.begin(i) / of.grain;
            left_[i].store(first << 32 | (of.begin(i + 1) + of.grain - 1) / of.grain, std::memory_order_relaxed);
        }
    }

    void run(std::size_t thread) override {
        if (thread < of_.count)
            while (take(thread, thread, true)) {}
        for (std::size_t i = 1; i < of_.count + 1; ++i)
            while (take((thread + i) % of_.count, thread, false)) {}
    }

private:
    static std::uint32_t front(std::uint64_t left) { return static_cast<std::uint32_t>(left >> 32); }
    static std::uint32_t back(std::uint64_t left) { return static_cast<std::uint32_t>(left); }

    // A piece of a stretch; false when there is none left.
    bool take(std::size_t stretch, std::size_t thread, bool from_front) {
        std::uint64_t left = left_[stretch].load(std::memory_order_relaxed);
        std::uint64_t then;
        do {
            if (front(left) >= back(left)) return false;
            then = from_front ? left + (std::uint64_t{1} << 32) : left - 1;
        } while (!left_[stretch].compare_exchange_weak(left, then, std::memory_order_relaxed));
        const std::size_t piece = from_front ? front(left) : back(left) - 1, begin = piece * of_.grain;
        const bool own = thread < of_.count;
        const Piece found{begin, std::min(of_.items, begin + of_.grain), thread, own ? of_.begin(thread) : 0,
                          own ? of_.begin(thread + 1) : 0};
        if (guarded([&] { body_(found); })) return true;
        for (std::size_t i = 0; i < of_.count; ++i) left_[i].store(0, std::memory_order_relaxed);
        return false;
    }

    const std::function<void(const Piece&)>& body_;
    Stretches of_;
    struct alignas(64) Left : std::atomic<std::uint64_t> {};
    Left left_[kMostFirst];
};

class Pool {
public:
    // Fewer workers where the system gives no more threads: the others, and the caller, do their share.
    explicit Pool(int workers) : readers_(static_cast<std::size_t>(workers)) {
        threads_.reserve(readers_.size());
        try {
            for (std::size_t i = 0; i < readers_.size(); ++i) threads_.emplace_back([this, i] { work(i); });
        } catch (const std::system_error&) {
        }
    }
    Pool(const Pool&) = delete;
    Pool& operator=(const Pool&) = delete;

    ~Pool() {
        stopping_.store(true);
        call();
        for (auto& thread : threads_) thread.join();
    }

    void run(Job& job) {
        job_ = &job;
        gate_.fetch_add(kOpen, std::memory_order_release);
        call();
        job.run(0);
        // Closed, nobody enters any more; those inside finish the range they have.
        for (int now = gate_.fetch_sub(kOpen, std::memory_order_acquire) - kOpen; now != 0;
             now = gate_.load(std::memory_order_acquire))
            wait_for_change(gate_, now, pause);
    }

    void set_ahead(std::span<const Ahead> workers) {
        for (std::size_t i = 0; i < readers_.size(); ++i) readers_[i].set(i < workers.size() ? workers[i] : Ahead{});
    }

private:
    static constexpr int kOpen = 1 << 20;  // above any number of workers

    void call() {
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();
    }

    void work(std::size_t worker) {
        // From 0, not from the number of calls so far: a thread that starts late still looks for the job it was
        // made for.
        for (int seen = 0;;) {
            wait_for_change(calls_, seen, [&] { readers_[worker].step(); });
            seen = calls_.load(std::memory_order_acquire);
            if (stopping_.load()) return;
            if (gate_.fetch_add(1, std::memory_order_acquire) >= kOpen) job_->run(worker + 1);
            if (gate_.fetch_sub(1, std::memory_order_release) == 1) gate_.notify_all();
        }
    }

    std::vector<Reader> readers_;  // one for each worker
    std::vector<std::thread> threads_;
    std::atomic<int> calls_{0};
    std::atomic<int> gate_{0};  // kOpen while there is a job, plus the number of workers inside
    Job* job_ = nullptr;        // read by workers that found the gate open
    std::atomic<bool> stopping_{false};
};

struct State {
    explicit State(int threads) : count(threads) {}
    std::mutex mutex;  // one parallel region at a time
    std::atomic<int> count;
    std::unique_ptr<Pool> pool;
};

// Never destroyed: worker threads may outlive static destructors.
std::atomic<State*>& place() {
    static std::atomic<State*> instance{[] {
#if defined(__unix__) || defined(__APPLE__)
        // A forked child has none of the threads: it begins anew and leaves the old pool as it lies.
        pthread_atfork(nullptr, nullptr, [] { place().store(new State(place().load()->count.load())); });
#endif
        return new State(default_thread_count());
    }()};
    return instance;
}

// Whether this thread does all of its work itself.
thread_local bool alone = false;

State& state() { return *place().load(std::memory_order_acquire); }

// Run a job on the pool, unless another one is running: then false.
bool run_together(State& shared, int count, Job& job) {
    const std::unique_lock lock(shared.mutex, std::try_to_lock);
    if (!lock.owns_lock()) return false;
    if (!shared.pool) shared.pool = std::make_unique<Pool>(count - 1);
    shared.pool->run(job);
    if (job.error()) std::rethrow_exception(job.error());
    return true;
}

}  // namespace

void use_one_thread_here() { alone = true; }

int thread_count() { return alone ? 1 : state().count.load(std::memory_order_relaxed); }

void set_thread_count(int count) {
    auto& shared = state();
    const std::lock_guard lock(shared.mutex);
    shared.count.store(std::max(1, count));
    shared.pool.reset();
}

void parallel_for(std::size_t items, std::size_t grain, const std::function<void(std::size_t, std::size_t)>& body) {
    if (items == 0) return;
    grain = std::max<std::size_t>(1, grain);
    auto& shared = state();
    const int count = thread_count();
    if (count == 1 || items <= grain) return body(0, items);
    Ranges job(body, items, grain, count);
    if (!run_together(shared, count, job)) body(0, items);
}

Stretches stretches_of(std::size_t items, std::size_t grain) {
    grain = std::max<std::size_t>(1, grain);
    const std::size_t pieces = (items + grain - 1) / grain;
    return {items, grain, std::min({static_cast<std::size_t>(thread_count()), kMostFirst, std::max<std::size_t>(1, pieces)})};
}

void parallel_stretches(const Stretches& stretches, const std::function<void(const Piece&)>& body) {
    if (stretches.items == 0) return;
    auto& shared = state();
    const int count = thread_count();
    const Piece all{0, stretches.items, 0, 0, stretches.items};
    if (count == 1 || stretches.count == 1) return body(all);
    StretchJob job(body, stretches);
    if (!run_together(shared, count, job)) body(all);
}

void set_ahead(std::span<const Ahead> workers) {
    auto& shared = state();
    const std::unique_lock lock(shared.mutex, std::try_to_lock);
    if (lock.owns_lock() && shared.pool) shared.pool->set_ahead(workers);
}

}  // namespace halfpint

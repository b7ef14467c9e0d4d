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

constexpr auto kSpin = std::chrono::microseconds(80);
constexpr int kPausesPerLook = 16;  // at the clock, which costs as much as one or two pauses

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Wait until `value` differs from `old`: spinning first, then asleep.
void wait_for_change(const std::atomic<int>& value, int old) {
    const auto until = std::chrono::steady_clock::now() + kSpin;
    do {
        for (int i = 0; i < kPausesPerLook; ++i) {
            if (value.load(std::memory_order_acquire) != old) return;
            pause();
        }
    } while (std::chrono::steady_clock::now() < until);
    value.wait(old, std::memory_order_acquire);
}

struct Job {
    const std::function<void(std::size_t, std::size_t)>* body;
    std::size_t items;
    std::size_t grain;
    std::atomic<std::size_t> next{0};
    std::mutex error_mutex;
    std::exception_ptr error;

    void run() {
        for (;;) {
            const std::size_t begin = next.fetch_add(grain, std::memory_order_relaxed);
            if (begin >= items) return;
            try {
                (*body)(begin, std::min(items, begin + grain));
            } catch (...) {
                const std::lock_guard lock(error_mutex);
                if (!error) error = std::current_exception();
                next.store(items, std::memory_order_relaxed);
                return;
            }
        }
    }
};

class Pool {
public:
    explicit Pool(int workers) {
        for (int i = 0; i < workers; ++i) threads_.emplace_back([this] { work(); });
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
        job.run();
        // Closed, nobody enters any more; those inside finish the range they have.
        for (int now = gate_.fetch_sub(kOpen, std::memory_order_acquire) - kOpen; now != 0;
             now = gate_.load(std::memory_order_acquire))
            wait_for_change(gate_, now);
    }

private:
    static constexpr int kOpen = 1 << 20;  // above any number of workers

    void call() {
        calls_.fetch_add(1, std::memory_order_release);
        calls_.notify_all();
    }

    void work() {
        // From 0, not from the number of calls so far: a thread that starts late still looks for the job it was
        // made for.
        for (int seen = 0;;) {
            wait_for_change(calls_, seen);
            seen = calls_.load(std::memory_order_acquire);
            if (stopping_.load()) return;
            if (gate_.fetch_add(1, std::memory_order_acquire) >= kOpen) job_->run();
            if (gate_.fetch_sub(1, std::memory_order_release) == 1) gate_.notify_all();
        }
    }

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

State& state() { return *place().load(std::memory_order_acquire); }

}  // namespace

int thread_count() { return state().count.load(std::memory_order_relaxed); }

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
    const int count = shared.count.load(std::memory_order_relaxed);
    if (count == 1 || items <= grain) return body(0, items);
    const std::unique_lock lock(shared.mutex, std::try_to_lock);
    if (!lock.owns_lock()) return body(0, items);
    if (!shared.pool) shared.pool = std::make_unique<Pool>(count - 1);
    Job job{&body, items, grain, {}, {}, {}};
    shared.pool->run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace halfpint

#include "threads.hpp"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#if defined(__linux__)
#include <sched.h>
#endif

namespace halfpint {
namespace {

// Processors this process may use: affinity is respected, so a container's share is not oversubscribed.
int available_processors() {
#if defined(__linux__)
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
#endif
    return std::max(1u, std::thread::hardware_concurrency());
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
            const std::size_t begin = next.fetch_add(grain);
            if (begin >= items) return;
            try {
                (*body)(begin, std::min(items, begin + grain));
            } catch (...) {
                const std::lock_guard lock(error_mutex);
                if (!error) error = std::current_exception();
                next.store(items);
                return;
            }
        }
    }
};

class Pool {
public:
    ~Pool() { resize(0); }

    void resize(int workers) {
        {
            const std::lock_guard lock(mutex_);
            stopping_ = true;
        }
        wake_.notify_all();
        for (auto& thread : threads_) thread.join();
        threads_.clear();
        stopping_ = false;
        for (int i = 0; i < workers; ++i) threads_.emplace_back([this, seen = generation_] { work(seen); });
    }

    void run(Job& job) {
        {
            const std::lock_guard lock(mutex_);
            job_ = &job;
            ++generation_;
            idle_ = 0;
        }
        wake_.notify_all();
        job.run();
        std::unique_lock lock(mutex_);
        done_.wait(lock, [this] { return idle_ == threads_.size(); });
        job_ = nullptr;
    }

private:
    // `seen` is the generation at creation: a thread that starts late still takes part in the job it was made for.
    void work(std::size_t seen) {
        for (;;) {
            Job* job = nullptr;
            {
                std::unique_lock lock(mutex_);
                wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
                if (stopping_) return;
                seen = generation_;
                job = job_;
            }
            if (job != nullptr) job->run();
            {
                const std::lock_guard lock(mutex_);
                ++idle_;
            }
            done_.notify_one();
        }
    }

    std::vector<std::thread> threads_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::condition_variable done_;
    Job* job_ = nullptr;
    std::size_t generation_ = 0;
    std::size_t idle_ = 0;
    bool stopping_ = false;
};

struct State {
    std::mutex mutex;  // one parallel region at a time
    int count = available_processors();
    std::unique_ptr<Pool> pool;
};

State& state() {
    static State* instance = new State;  // never destroyed: worker threads may outlive static destructors
    return *instance;
}

}  // namespace

int thread_count() { return state().count; }

void set_thread_count(int count) {
    auto& shared = state();
    const std::lock_guard lock(shared.mutex);
    shared.count = std::max(1, count);
    shared.pool.reset();
}

void parallel_for(std::size_t items, std::size_t grain, const std::function<void(std::size_t, std::size_t)>& body) {
    if (items == 0) return;
    auto& shared = state();
    std::unique_lock lock(shared.mutex, std::try_to_lock);
    if (!lock.owns_lock() || shared.count == 1 || items <= grain) {
        body(0, items);
        return;
    }
    if (!shared.pool) {
        shared.pool = std::make_unique<Pool>();
        shared.pool->resize(shared.count - 1);
    }
    Job job{&body, items, std::max<std::size_t>(1, grain), {}, {}, {}};
    shared.pool->run(job);
    if (job.error) std::rethrow_exception(job.error);
}

}  // namespace halfpint

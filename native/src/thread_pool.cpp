#include "thread_pool.h"

#include <stdexcept>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace alpage {
namespace {

void pause() {
#if defined(__x86_64__)
    _mm_pause();
#elif defined(__aarch64__)
    asm volatile("yield");
#endif
}

// Within a pass a thread spins about 75 microseconds: a longer wait means that the other one lost
// its processor, perhaps to us. Between passes it spins a quarter of a millisecond, which covers
// what happens between decode steps, for waking a thread costs 40 microseconds.
constexpr int spins_within = 1500, spins_between = 6000;

void wait_change(const std::atomic<uint32_t>& value, uint32_t old, int spins) {
    for (int spin = 0; spin < spins; ++spin) {
        if (value.load(std::memory_order_acquire) != old) return;
        pause();
    }
    while (value.load(std::memory_order_acquire) == old) {
        value.wait(old, std::memory_order_acquire);
    }
}

}  // namespace

ThreadPool::ThreadPool(int size) : size_(size) {
    if (size < 1 || size > 1024) throw std::invalid_argument("threads must be 1 to 1024");
    counters_ = std::vector<Counter>(static_cast<size_t>(size));
    threads_.reserve(static_cast<size_t>(size) - 1);
    try {
        for (int thread = 1; thread < size; ++thread) {
            threads_.emplace_back([this, thread] { work(thread); });
        }
    } catch (...) {  // the system gives no more threads: end those that run
        stop();
        throw;
    }
}

ThreadPool::~ThreadPool() { stop(); }

void ThreadPool::stop() {
    stop_.store(true, std::memory_order_relaxed);
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    for (std::thread& thread : threads_) thread.join();
}

void ThreadPool::run(const std::function<void(int)>& fn) {
    reset();
    job_ = &fn;
    generation_.fetch_add(1, std::memory_order_release);
    generation_.notify_all();
    fn(0);
    barrier();  // nobody is inside fn any more when run returns
}

void ThreadPool::reset() {
    for (Counter& counter : counters_) counter.value.store(0, std::memory_order_relaxed);
}

void ThreadPool::barrier() {
    if (size_ == 1) {
        reset();
        return;
    }
    const uint32_t phase = phase_.load(std::memory_order_acquire);
    if (arrived_.fetch_add(1, std::memory_order_acq_rel) + 1 == static_cast<uint32_t>(size_)) {
        arrived_.store(0, std::memory_order_relaxed);
        reset();
        phase_.fetch_add(1, std::memory_order_release);
        phase_.notify_all();
    } else {
        wait_change(phase_, phase, spins_within);
    }
}

void ThreadPool::work(int thread) {
    uint32_t seen = 0;
    for (;;) {
        wait_change(generation_, seen, spins_between);
        ++seen;
        if (stop_.load(std::memory_order_relaxed)) return;
        (*job_)(thread);
        barrier();
    }
}

}  // namespace alpage

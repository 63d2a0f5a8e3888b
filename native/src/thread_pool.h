// A persistent pool that runs one function on every thread, with a barrier inside.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace alpage {

// `run(fn)` calls fn(thread) for thread = 0..size-1; the caller is thread 0. Inside, `barrier`
// waits for all, and `next` hands out the indices of a shared loop. Threads spin briefly and then
// sleep, so an idle pool costs nothing. One `run` at a time.
class ThreadPool {
public:
    explicit ThreadPool(int size);  // throws std::system_error when the system refuses a thread
    ~ThreadPool();
    ThreadPool(const ThreadPool&) = delete;
    ThreadPool& operator=(const ThreadPool&) = delete;

    int size() const { return size_; }
    void run(const std::function<void(int)>& fn);

    // All threads of the running `run` must call it the same number of times. Resets `next`.
    void barrier();
    // The next index of the loop since the last barrier; each is given out once.
    int64_t next() { return counters_[0].value.fetch_add(1, std::memory_order_relaxed); }
    // Where the stretch of thread `thread` of 0..count-1 begins; it ends where the next one's does.
    int64_t begin(int thread, int64_t count) const { return count * thread / size_; }
    // Calls fn(index) for every index of 0..count-1 once, over all threads. Each thread goes
    // through a stretch of neighbours of its own, then helps with the others'. Not beside `next`.
    template <class Fn>
    void share(int thread, int64_t count, Fn&& fn) {
        for (int k = 0; k < size_; ++k) {
            const int owner = (thread + k) % size_;
            const int64_t first = begin(owner, count), end = begin(owner + 1, count);
            std::atomic<int64_t>& counter = counters_[static_cast<size_t>(owner)].value;
            for (;;) {
                const int64_t index = first + counter.fetch_add(1, std::memory_order_relaxed);
                if (index >= end) break;
                fn(index);
            }
        }
    }

private:
    void work(int thread);
    void stop();

    const int size_;
    const std::function<void(int)>* job_ = nullptr;
    alignas(64) std::atomic<uint32_t> generation_{0};
    alignas(64) std::atomic<uint32_t> arrived_{0};
    alignas(64) std::atomic<uint32_t> phase_{0};
    struct alignas(64) Counter {
        std::atomic<int64_t> value{0};
    };
    void reset();
    std::vector<Counter> counters_;  // [threads]
    std::atomic<bool> stop_{false};
    std::vector<std::thread> threads_;
};

}  // namespace alpage

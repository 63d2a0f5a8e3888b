// The thread pool: every thread, index and barrier, also with more threads than processors.
#include <atomic>
#include <stdexcept>

#include "check.h"
#include "thread_pool.h"

using namespace alpage;

TEST(every_index_is_given_out_once_between_barriers) {
    for (int size : {1, 2, 3, 4, 13}) {
        ThreadPool pool(size);
        CHECK(pool.size() == size, pool.size());
        for (int round = 0; round < 200; ++round) {
            constexpr int64_t count = 37;
            std::vector<int> first(count), second(count);  // plain: the barrier must order them
            std::atomic<int> threads{0};
            std::atomic<int64_t> wrong{0};
            pool.run([&](int thread) {
                threads.fetch_add(1 << 2 * (thread % 8));
                for (int64_t i = pool.next(); i < count; i = pool.next()) first[i] += 1;
                pool.barrier();
                for (int64_t i = pool.next(); i < count; i = pool.next()) {
                    second[i] = first[count - 1 - i] + 1;
                }
                pool.barrier();
                for (int64_t i = 0; i < count; ++i) wrong += second[i] != 2;
            });
            CHECK(wrong == 0, "size " << size << " round " << round);
            CHECK(threads != 0, "no thread ran");
            for (int value : first) CHECK(value == 1, "size " << size << " round " << round);
        }
    }
}

TEST(each_thread_runs_once_and_run_waits_for_all) {
    ThreadPool pool(4);
    int64_t sums[4] = {0, 0, 0, 0};
    for (int round = 0; round < 3000; ++round) {
        pool.run([&](int thread) { sums[thread] += round; });
    }
    for (int64_t sum : sums) CHECK(sum == 3000 * 2999 / 2, sum);
}

TEST(pools_come_and_go) {
    for (int round = 0; round < 50; ++round) {
        ThreadPool unused(3);
        ThreadPool pool(1 + round % 4);
        std::atomic<int> calls{0};
        pool.run([&](int) { ++calls; });
        CHECK(calls == pool.size(), calls);
    }
    CHECK_THROWS(ThreadPool(0), std::invalid_argument);
    CHECK_THROWS(ThreadPool(1025), std::invalid_argument);
}

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

TEST(shared_indices_are_given_out_once_between_barriers) {
    for (int size : {1, 2, 3, 8, 13}) {
        ThreadPool pool(size);
        for (int64_t count : {0, 1, 2, 5, 12, 13, 14, 100}) {
            for (int round = 0; round < 20; ++round) {
                const size_t cells = static_cast<size_t>(count);
                std::vector<int> first(cells), second(cells), third(cells);  // plain, as above
                std::atomic<int64_t> outside{0}, wrong{0};
                pool.run([&](int thread) {
                    const auto count_in = [&](std::vector<int>& cell, int64_t index) {
                        if (index < 0 || index >= count) ++outside;
                        else cell[static_cast<size_t>(index)] += 1;
                    };
                    pool.share(thread, count, [&](int64_t i) { count_in(first, i); });
                    pool.barrier();
                    pool.share(thread, count, [&](int64_t i) {
                        // What another thread wrote before the barrier.
                        wrong += first[static_cast<size_t>(count - 1 - i)] != 1;
                        count_in(second, i);
                    });
                    pool.barrier();
                    // One loop of each kind after the other.
                    for (int64_t i = pool.next(); i < count; i = pool.next()) count_in(third, i);
                    pool.barrier();
                    pool.share(thread, count, [&](int64_t i) { count_in(third, i); });
                });
                const std::vector<int> once(cells, 1), twice(cells, 2);
                CHECK(outside == 0 && wrong == 0, "size " << size << " count " << count);
                CHECK(first == once && second == once && third == twice,
                      "size " << size << " count " << count << " round " << round);
            }
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

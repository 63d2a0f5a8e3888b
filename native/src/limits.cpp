#include "alpage/limits.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "kernels/kernels.h"
#include "pack.h"
#include "thread_pool.h"

namespace alpage {
namespace {

constexpr int passes = 7;

// The shortest of several runs of fn on all threads, in seconds; the first one warms up.
template <class Fn>
double shortest(ThreadPool& pool, Fn&& fn) {
    double best = 0;
    for (int pass = 0; pass <= passes; ++pass) {
        const auto start = std::chrono::steady_clock::now();
        pool.run(fn);
        const std::chrono::duration<double> taken = std::chrono::steady_clock::now() - start;
        if (pass == 1 || (pass > 1 && taken.count() < best)) best = taken.count();
    }
    return best;
}

}  // namespace

double read_rate(int threads, int64_t bytes) {
    // Sixteen bytes at a time, which every processor has registers for: words alone were once
    // compiled to loads that waited for stores, and said a third of the rate.
    using Pair = uint64_t __attribute__((vector_size(16)));
    constexpr int64_t line = 8, ahead = 4096;  // words, bytes
    constexpr int pairs = 4;
    ThreadPool pool(threads);
    const int64_t words = bytes / 8 / threads / line * line;
    if (words < line) throw std::invalid_argument("too few bytes to read");
    const Buffer buffer(static_cast<size_t>(words * threads) * 8);
    std::memset(buffer.data(), 1, buffer.size());
    std::atomic<uint64_t> total{0};  // the sums are wanted, so that they are made
    const double seconds = shortest(pool, [&](int thread) {
        const uint8_t* from = buffer.data() + words * 8 * thread;
        Pair sums[pairs] = {};
        for (int64_t i = 0; i < words; i += line) {
            __builtin_prefetch(from + i * 8 + ahead);
            for (int k = 0; k < pairs; ++k) {
                Pair value;
                std::memcpy(&value, from + i * 8 + k * 16, sizeof value);
                sums[k] += value;
            }
        }
        const Pair sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
        total.fetch_add(sum[0] + sum[1], std::memory_order_relaxed);
    });
    return static_cast<double>(words * threads) * 8 / seconds;
}

double product_rate(TensorType type, int64_t rows, int threads, const std::string& isa) {
    constexpr int64_t columns = 512, panels = 8;
    if (rows < 1 || rows > 4096) throw std::invalid_argument("rows must be 1 to 4096");
    const Kernels& kernels = select_kernels(isa.c_str());
    ThreadPool pool(threads);
    const size_t matrix = static_cast<size_t>(panel_layout(type, columns).bytes() * panels);
    const size_t row_values = static_cast<size_t>(rows * columns);
    const std::vector<float> x(row_values, 1);
    std::vector<int8_t> q(2 * row_values);
    std::vector<int16_t> words(row_values);
    std::vector<float> scale(row_values / block_columns), sum(scale.size()), sum16(2 * sum.size());
    kernels.quantise(x.data(), rows * columns,
                     {q.data(), words.data(), scale.data(), sum.data(), sum16.data()});
    const Activations activations{columns, q.data(), words.data(), scale.data(), sum.data(),
                                  sum16.data()};
    const size_t behind = 4096;  // what the kernels fetch ahead
    std::vector<Buffer> weights;
    std::vector<std::vector<float>> y;
    for (int thread = 0; thread < threads; ++thread) {
        weights.emplace_back(matrix + behind);
        std::memset(weights.back().data(), 0x11, matrix + behind);  // any type: small and finite
        y.emplace_back(static_cast<size_t>(rows * panels * panel_rows));
    }
    const int64_t products = rows * columns * panels * panel_rows;
    const int64_t repeats = std::max<int64_t>(1, 100'000'000 / products);  // some milliseconds
    const double seconds = shortest(pool, [&](int thread) {
        const size_t own = static_cast<size_t>(thread);
        for (int64_t i = 0; i < repeats; ++i) {
            kernels.matmul({type, weights[own].data(), columns, 0, panels, panels * panel_rows, 0,
                            rows, y[own].data(), panels * panel_rows, false},
                           activations);
        }
    });
    return static_cast<double>(products * repeats * threads) / seconds;
}

}  // namespace alpage

// What works on single rows: quantised activations, norm, SwiGLU.
#include <algorithm>
#include <cmath>

#include "alpage/kernel_names.h"
#include "check.h"
#include "kernels/kernels.h"

using namespace alpage;
using check::Rng;

namespace {

struct Quantised {
    std::vector<int8_t> q;
    std::vector<int16_t> words;
    std::vector<float> scale, sum, sum16;
    int number(int64_t k) const {
        const int8_t* block = q.data() + k / 32 * 64;
        return 128 * block[k % 32] + block[32 + k % 32];
    }
};

Quantised quantise(const Kernels& kernels, const std::vector<float>& x) {
    const size_t blocks = (x.size() + 31) / 32;
    Quantised out{std::vector<int8_t>(64 * blocks), std::vector<int16_t>(32 * blocks),
                  std::vector<float>(blocks), std::vector<float>(blocks),
                  std::vector<float>(2 * blocks)};
    kernels.quantise(x.data(), static_cast<int64_t>(x.size()),
                     {out.q.data(), out.words.data(), out.scale.data(), out.sum.data(),
                      out.sum16.data()});
    return out;
}

void check_block(const std::string& isa, const float* x, const Quantised& out, int64_t b) {
    float largest = 0;
    int total[2] = {0, 0};
    for (int k = 0; k < 32; ++k) largest = std::max(largest, std::fabs(x[k]));
    const double scale = out.scale[static_cast<size_t>(b)];
    CHECK(std::fabs(scale * activation_limit - largest) <= largest * 1e-6 + 1e-40,
          isa << " scale " << scale << " of largest " << largest);
    for (int k = 0; k < 32; ++k) {
        const int n = out.number(b * 32 + k), low = out.q[static_cast<size_t>(b * 64 + 32 + k)];
        CHECK(low >= -64 && low <= 63 && std::abs(n) <= activation_limit, isa << " " << n);
        // Half a step, and the rounding of x / scale in single precision.
        CHECK(std::fabs(n * scale - x[k]) <= 0.502 * scale || largest <= 1e-30f,
              isa << " " << x[k] << " became " << n * scale << ", scale " << scale);
        CHECK(largest > 1e-30f || n == 0, isa << " " << x[k] << " became " << n);
        total[k / 16] += n;
        const int place = k % 4 == 1 ? k + 1 : k % 4 == 2 ? k - 1 : k;  // 0, 2, 1, 3 of each four
        const int word = out.words[static_cast<size_t>(b * 32 + place)];
        CHECK(word == n, isa << " word of column " << k << ": " << word << ", bytes " << n);
    }
    const auto equal = [&](float got, int sum) {
        CHECK(std::fabs(got - scale * sum) <= std::fabs(scale * sum) * 1e-6, isa << " sum " << got);
    };
    equal(out.sum[static_cast<size_t>(b)], total[0] + total[1]);
    equal(out.sum16[static_cast<size_t>(2 * b)], total[0]);
    equal(out.sum16[static_cast<size_t>(2 * b + 1)], total[1]);
}

}  // namespace

TEST(activations_are_quantised_as_defined) {
    Rng rng(1);
    for (float size : {0.0f, 1e-45f, 1e-38f, 1e-31f, 1e-29f, 1e-6f, 1.0f, 1e4f, 1e30f}) {
        std::vector<float> x = check::normal(rng, 32 * 20, size);
        for (int k = 0; k < 32; ++k) {
            x[static_cast<size_t>(k)] = size;                   // all the largest
            x[static_cast<size_t>(32 + k)] = k == 9 ? -size : 0;  // one alone
            x[static_cast<size_t>(64 + k)] = k % 2 ? size : -size;
            // Halfway between two integers of either byte.
            const float half = (static_cast<float>(k) * 64 + 0.5f) / activation_limit;
            x[static_cast<size_t>(96 + k)] = k ? size * half : size;
        }
        const Quantised plain = quantise(select_kernels("scalar"), x);
        for (const std::string& name : kernel_names()) {
            const Quantised out = quantise(select_kernels(name.c_str()), x);
            for (int64_t b = 0; b < 20; ++b) check_block(name, x.data() + b * 32, out, b);
            CHECK(check::same_bits(out.q, plain.q), name << " size " << size);
            CHECK(check::same_bits(out.scale, plain.scale), name << " size " << size);
            CHECK(check::same_bits(out.sum, plain.sum), name << " size " << size);
            CHECK(check::same_bits(out.sum16, plain.sum16), name << " size " << size);
        }
    }
}

TEST(a_row_that_is_no_whole_number_of_blocks_is_padded_with_zeros) {
    Rng rng(8);
    for (size_t columns : {1u, 31u, 33u, 173u}) {
        const std::vector<float> x = check::normal(rng, static_cast<int64_t>(columns));
        std::vector<float> padded = x;
        padded.resize((columns + 31) / 32 * 32);
        const Quantised plain = quantise(select_kernels("scalar"), padded);
        for (const std::string& name : kernel_names()) {
            const Quantised out = quantise(select_kernels(name.c_str()), x);
            CHECK(check::same_bits(out.q, plain.q), name << " bytes of " << columns);
            CHECK(check::same_bits(out.words, plain.words), name << " words of " << columns);
            CHECK(check::same_bits(out.scale, plain.scale), name << " scales of " << columns);
            CHECK(check::same_bits(out.sum16, plain.sum16), name << " sums of " << columns);
        }
    }
}

TEST(activations_that_are_not_finite_have_no_scale) {
    Rng rng(2);
    for (float bad : {NAN, INFINITY, -INFINITY}) {
        for (int first : {0, 15, 16, 31}) {
            for (int second : {0, 15, 16, 31}) {
                std::vector<float> x = check::normal(rng, 96);
                x[static_cast<size_t>(32 + first)] = bad;
                x[static_cast<size_t>(32 + second)] = second % 2 ? bad : -bad;
                for (const std::string& name : kernel_names()) {
                    const Quantised out = quantise(select_kernels(name.c_str()), x);
                    CHECK(std::isnan(out.scale[1]) && std::isnan(out.sum[1]) &&
                              std::isnan(out.sum16[2]) && std::isnan(out.sum16[3]),
                          name << " " << bad << " at " << first << " and " << second);
                    check_block(name, x.data(), out, 0);
                    check_block(name, x.data() + 64, out, 2);
                }
            }
        }
    }
}

TEST(norms_equal_double_precision) {
    Rng rng(3);
    for (int64_t n : {1, 2, 15, 16, 17, 64, 173, 576, 4096}) {
        for (float size : {0.0f, 1e-20f, 1e-3f, 1.0f, 1e15f}) {
            const std::vector<float> x = check::normal(rng, n, size);
            const std::vector<float> weight = check::normal(rng, n);
            double squares = 0;
            for (float v : x) squares += static_cast<double>(v) * v;
            const double inverse = 1 / std::sqrt(squares / static_cast<double>(n) + 1e-5f);
            for (const std::string& name : kernel_names()) {
                std::vector<float> out(static_cast<size_t>(n + 1), 7);
                const Kernels& kernels = select_kernels(name.c_str());
                kernels.rms_norm(x.data(), weight.data(), 1e-5f, n, out.data());
                for (size_t i = 0; i < x.size(); ++i) {
                    const double exact = x[i] * inverse * weight[i];
                    // Plain summation of n squares may round n times.
                    const double bound = std::fabs(exact) * (static_cast<double>(n) + 8) * 0x1p-24;
                    CHECK(std::fabs(out[i] - exact) <= bound + 1e-44,
                          name << " " << n << " " << out[i] << ", exact " << exact);
                }
                CHECK(out.back() == 7, name << " wrote past the row");
            }
        }
    }
}

TEST(norms_of_rows_that_are_not_finite_are_not) {
    Rng rng(4);
    for (float bad : {NAN, INFINITY}) {
        for (int place : {0, 5, 31, 34}) {
            std::vector<float> x = check::normal(rng, 35), weight(35, 1), out(35);
            x[static_cast<size_t>(place)] = bad;
            for (const std::string& name : kernel_names()) {
                const Kernels& kernels = select_kernels(name.c_str());
                kernels.rms_norm(x.data(), weight.data(), 1e-5f, 35, out.data());
                CHECK(std::isnan(out[static_cast<size_t>(place)]), name << " " << bad);
            }
        }
    }
}

TEST(swiglu_equals_double_precision) {
    Rng rng(5);
    for (int64_t n : {1, 15, 16, 17, 64, 173, 1536}) {
        for (float size : {0.0f, 1e-20f, 1.0f, 20.0f, 300.0f, 1e30f}) {
            const std::vector<float> gate = check::normal(rng, n, size), up = check::normal(rng, n);
            for (const std::string& name : kernel_names()) {
                std::vector<float> out = gate;
                select_kernels(name.c_str()).swiglu(out.data(), up.data(), n);
                for (size_t i = 0; i < gate.size(); ++i) {
                    const double g = gate[i], exact = g / (1 + std::exp(-g)) * up[i];
                    // Below -87 the vector kernels give g * e^-87 instead of g * e^g.
                    const double small = std::fabs(g * up[i]) * 1e-37;
                    CHECK(std::fabs(out[i] - exact) <= std::fabs(exact) * 1e-6 + small + 1e-44,
                          name << " silu(" << g << ") * " << up[i] << " = " << out[i]);
                }
            }
        }
    }
}

TEST(swiglu_keeps_what_is_not_finite) {
    for (const std::string& name : kernel_names()) {
        for (int64_t n : {3, 16, 19}) {
            std::vector<float> gate(static_cast<size_t>(n), 1), up(static_cast<size_t>(n), 1);
            gate[0] = NAN, up[1] = NAN, gate[static_cast<size_t>(n - 1)] = INFINITY;
            select_kernels(name.c_str()).swiglu(gate.data(), up.data(), n);
            CHECK(std::isnan(gate[0]) && std::isnan(gate[1]), name << " " << gate[0] << gate[1]);
            CHECK(!std::isfinite(gate[static_cast<size_t>(n - 1)]), name << " n " << n);
        }
    }
}

// Attention over pages against double precision; what lies in unused slots must not matter.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "alpage/kernel_names.h"
#include "cache.h"
#include "check.h"
#include "kernels/kernels.h"
#include "numbers.h"

using namespace alpage;
using check::Rng;

namespace {

constexpr int64_t layers = 2, heads = 3, pool = 40;

// A cache whose every slot holds NaN, then one chunk of random tokens in random pages of one head.
struct Cached {
    KvCache cache;
    int64_t head_dim, layer, head;
    std::vector<int32_t> pages;             // of the chunk; -1 where it has no token
    std::vector<std::vector<float>> k, v;  // [tokens][head_dim], rounded to bf16

    Cached(Rng& rng, int64_t dim, int64_t tokens, float size)
        : cache({32, 32, layers, heads, heads, dim, 32, 1e-5f, {}}, pool), head_dim(dim),
          layer(check::integer(rng, 0, layers - 1)), head(check::integer(rng, 0, heads - 1)) {
        uint16_t* keys = const_cast<uint16_t*>(cache.keys(0, 0));
        uint16_t* values = const_cast<uint16_t*>(cache.values(0, 0));
        std::fill(keys, keys + pool * cache.key_stride(), 0x7fc0);
        std::fill(values, values + pool * cache.value_stride(), 0x7fc0);
        pages.resize(pool);
        std::iota(pages.begin(), pages.end(), 0);
        std::shuffle(pages.begin(), pages.end(), rng);
        pages.resize(attention_chunk / page_tokens);
        for (int64_t t = 0; t < tokens; ++t) {
            k.push_back(check::normal(rng, dim, size));
            v.push_back(check::normal(rng, dim));
            cache.write(layer, head, pages[static_cast<size_t>(t / page_tokens)], t % page_tokens,
                        k.back().data(), v.back().data());
            for (auto* row : {&k.back(), &v.back()}) {
                for (float& x : *row) x = bf16_to_float(float_to_bf16(x));
            }
        }
        for (size_t p = static_cast<size_t>((tokens + page_tokens - 1) / page_tokens);
             p < pages.size(); ++p) {
            pages[p] = -1;
        }
    }
};

struct Result {
    std::vector<float> out, maximum, total;
    int64_t stride;
};

Result attend(const Kernels& kernels, const Cached& c, const std::vector<std::vector<float>>& q,
              const std::vector<int>& visible, size_t first, size_t count) {
    AttentionPart part{};
    part.head_dim = c.head_dim;
    part.queries = static_cast<int>(count);
    for (size_t i = 0; i < count; ++i) {
        part.q[i] = q[first + i].data();
        part.visible[i] = visible[first + i];
    }
    part.keys = c.cache.keys(c.layer, c.head);
    part.values = c.cache.values(c.layer, c.head);
    part.key_stride = c.cache.key_stride();
    part.value_stride = c.cache.value_stride();
    part.pages = c.pages.data();
    Result result;
    result.stride = c.cache.value_width();
    result.out.assign(static_cast<size_t>(attention_queries * result.stride), 5);
    result.maximum.assign(attention_queries, 5);
    result.total.assign(attention_queries, 5);
    part.out = result.out.data();
    part.out_stride = result.stride;
    part.maximum = result.maximum.data();
    part.total = result.total.data();
    kernels.attention(part);
    return result;
}

void check_query(const std::string& isa, const Cached& c, const std::vector<float>& q, int visible,
                 const Result& got, size_t query) {
    std::vector<double> exact(static_cast<size_t>(c.head_dim));
    std::vector<double> scores;
    double largest = -INFINITY, total = 0, magnitude = 0;
    for (int t = 0; t < visible; ++t) {
        double dot = 0, size = 0;
        for (size_t d = 0; d < q.size(); ++d) {
            dot += static_cast<double>(q[d]) * c.k[static_cast<size_t>(t)][d];
            size += std::fabs(static_cast<double>(q[d]) * c.k[static_cast<size_t>(t)][d]);
        }
        scores.push_back(dot);
        largest = std::max(largest, dot);
        magnitude = std::max(magnitude, size);
    }
    for (int t = 0; t < visible; ++t) {
        const double p = std::exp(scores[static_cast<size_t>(t)] - largest);
        total += p;
        for (size_t d = 0; d < q.size(); ++d) exact[d] += p * c.v[static_cast<size_t>(t)][d];
    }
    const std::string where = isa + " head_dim " + std::to_string(c.head_dim) + " visible " +
                              std::to_string(visible) + ": ";
    if (!visible) {
        CHECK(got.maximum[query] == -INFINITY && got.total[query] == 0, where << got.total[query]);
    } else {
        // An error of a score is an error of its weight: e^error - 1.
        const double score_error = magnitude * static_cast<double>(q.size()) * 0x1p-24;
        const double bound = 2e-5 + 2 * score_error;
        CHECK(std::fabs(got.maximum[query] - largest) <= score_error + 1e-30,
              where << "maximum " << got.maximum[query] << ", exact " << largest);
        CHECK(std::fabs(got.total[query] - total) <= bound * total,
              where << "total " << got.total[query] << ", exact " << total);
        for (size_t d = 0; d < q.size(); ++d) {
            const double x = got.out[query * static_cast<size_t>(got.stride) + d];
            CHECK(std::fabs(x - exact[d]) <= bound * 4 * total,
                  where << x << ", exact " << exact[d]);
        }
    }
}

}  // namespace

TEST(attention_equals_double_precision_in_any_company) {
    Rng rng(1);
    for (int64_t head_dim : {2, 8, 16, 20, 64, 80, 128}) {
        for (int tokens : {1, 2, 15, 16, 17, 33, 100, 255, 256}) {
            const float size = check::integer(rng, 0, 1) ? 1.0f : 4.0f;
            const float scaling = 1 / std::sqrt(static_cast<float>(head_dim));
            const Cached c(rng, head_dim, tokens, size);
            std::vector<std::vector<float>> q;
            std::vector<int> visible;
            for (int i = 0; i < attention_queries; ++i) {
                q.push_back(check::normal(rng, head_dim, scaling));
                visible.push_back(i == 3 ? 0 : i == 5 ? tokens
                                             : static_cast<int>(check::integer(rng, 0, tokens)));
            }
            for (const std::string& name : kernel_names()) {
                const Kernels& kernels = select_kernels(name.c_str());
                std::vector<Result> alone;
                for (size_t i = 0; i < q.size(); ++i) {
                    alone.push_back(attend(kernels, c, q, visible, i, 1));
                    check_query(name, c, q[i], visible[i], alone[i], 0);
                }
                for (size_t count : {2, 3, 4, 5, 6, 7, 8, 11, 12, 23, 24}) {
                    const size_t first = q.size() - count;
                    const Result together = attend(kernels, c, q, visible, first, count);
                    for (size_t i = 0; i < count; ++i) {
                        const Result& one = alone[first + i];
                        const float* out = &together.out[i * static_cast<size_t>(one.stride)];
                        const size_t bytes = static_cast<size_t>(head_dim) * 4;
                        CHECK(!std::memcmp(out, one.out.data(), bytes) &&
                                  check::same_bits(together.maximum[i], one.maximum[0]) &&
                                  check::same_bits(together.total[i], one.total[0]),
                              name << " head_dim " << head_dim << " query " << i << " of "
                                   << count);
                    }
                }
            }
        }
    }
}

TEST(attention_to_far_apart_scores_neither_overflows_nor_divides_by_zero) {
    Rng rng(2);
    const Cached c(rng, 16, 40, 1000);
    std::vector<std::vector<float>> q;
    for (int i = 0; i < 4; ++i) q.push_back(check::normal(rng, 16, 100));
    for (const std::string& name : kernel_names()) {
        const Result r = attend(select_kernels(name.c_str()), c, q, {40, 39, 1, 17}, 0, 4);
        for (size_t i = 0; i < 4; ++i) {
            CHECK(std::isfinite(r.maximum[i]) && r.total[i] >= 1 && r.total[i] < 1.001f,
                  name << " " << r.maximum[i] << " " << r.total[i]);
        }
    }
}

TEST(attention_to_a_damaged_token_is_not_finite) {
    Rng rng(3);
    for (int place : {0, 7, 19}) {
        for (bool key : {true, false}) {
            Cached c(rng, 16, 20, 1);
            std::vector<float> bad(16, NAN), good(16, 1);
            c.cache.write(c.layer, c.head, c.pages[static_cast<size_t>(place / 16)], place % 16,
                          key ? bad.data() : good.data(), key ? good.data() : bad.data());
            const std::vector<std::vector<float>> q{check::normal(rng, 16)};
            for (const std::string& name : kernel_names()) {
                const Kernels& kernels = select_kernels(name.c_str());
                const Result seen = attend(kernels, c, q, {20}, 0, 1);
                CHECK(std::isnan(seen.out[0] / seen.total[0]), name << " " << place << key);
                const Result before = attend(kernels, c, q, {place}, 0, 1);
                CHECK(!place || std::isfinite(before.out[0] / before.total[0]),
                      name << " " << place);
            }
        }
    }
}

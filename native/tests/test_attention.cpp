// Attention over pages against double precision; what lies in unused slots must not matter.
#include <algorithm>
#include <cmath>
#include <limits>
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

constexpr KvType kv_types[] = {KvType::bf16, KvType::int8};

std::string name_of(KvType kv) { return kv == KvType::int8 ? "int8 " : "bf16 "; }

uint8_t* key_bytes(const KvCache& cache) { return const_cast<uint8_t*>(cache.keys(0, 0)); }
uint8_t* value_bytes(const KvCache& cache) { return const_cast<uint8_t*>(cache.values(0, 0)); }

KvCache make_cache(int64_t dim, KvType kv) {
    KvCache cache({32, 32, layers, heads, heads, dim, 32, 1e-5f, {}}, pool, kv);
    // As bf16 and as scales these bytes are NaN.
    std::fill_n(key_bytes(cache), pool * cache.key_stride(), 0xff);
    std::fill_n(value_bytes(cache), pool * cache.value_stride(), 0xff);
    return cache;
}

float largest_of(const std::vector<float>& row) {
    float largest = 0;
    for (float x : row) largest = std::max(largest, std::fabs(x));
    return largest;
}

// What a cache makes of a row.
std::vector<float> rounded(std::vector<float> row, KvType kv) {
    const double step = static_cast<double>(largest_of(row)) / 127;
    for (float& x : row) {
        x = kv == KvType::bf16 ? bf16_to_float(float_to_bf16(x))
                               : static_cast<float>(std::nearbyint(x / step) * step);
    }
    return row;
}

// A cache whose every slot holds NaN, then one chunk of random tokens in random pages of one head.
struct Cached {
    KvCache cache;
    int64_t head_dim, layer, head;
    std::vector<int32_t> pages;             // of the chunk; -1 where it has no token
    std::vector<std::vector<float>> k, v;  // [tokens][head_dim], as the cache rounds them
    float key_step = 0, value_step = 0;    // the largest of int8

    Cached(Rng& rng, int64_t dim, int64_t tokens, float size, KvType kv)
        : cache(make_cache(dim, kv)), head_dim(dim),
          layer(check::integer(rng, 0, layers - 1)), head(check::integer(rng, 0, heads - 1)) {
        pages.resize(pool);
        std::iota(pages.begin(), pages.end(), 0);
        std::shuffle(pages.begin(), pages.end(), rng);
        pages.resize(attention_chunk / page_tokens);
        for (int64_t t = 0; t < tokens; ++t) {
            k.push_back(check::normal(rng, dim, size));
            v.push_back(check::normal(rng, dim));
            cache.write(layer, head, pages[static_cast<size_t>(t / page_tokens)], t % page_tokens,
                        k.back().data(), v.back().data());
            key_step = std::max(key_step, largest_of(k.back()) / 127);
            value_step = std::max(value_step, largest_of(v.back()) / 127);
            k.back() = rounded(k.back(), kv);
            v.back() = rounded(v.back(), kv);
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
    part.type = c.cache.type();
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
    const std::string where = isa + " " + name_of(c.cache.type()) + "head_dim " +
                              std::to_string(c.head_dim) + " visible " +
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

// Every query alone against double precision, then the same bits in any company.
void check_chunk(Rng& rng, const Cached& c) {
    const int tokens = static_cast<int>(c.k.size());
    const float scaling = 1 / std::sqrt(static_cast<float>(c.head_dim));
    std::vector<std::vector<float>> q;
    std::vector<int> visible;
    for (int i = 0; i < attention_queries; ++i) {
        q.push_back(check::normal(rng, c.head_dim, scaling));
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
                const size_t bytes = static_cast<size_t>(c.head_dim) * 4;
                CHECK(!std::memcmp(out, one.out.data(), bytes) &&
                          check::same_bits(together.maximum[i], one.maximum[0]) &&
                          check::same_bits(together.total[i], one.total[0]),
                      name << " " << name_of(c.cache.type()) << "head_dim " << c.head_dim
                           << " query " << i << " of " << count);
            }
        }
    }
}

// One token's row as key and as value in an int8 cache: each number within half a step where the
// layout says (kernels/kernels.h), and every other byte as it was.
void check_row(int64_t dim, int64_t slot, const std::vector<float>& row) {
    const int64_t layer = 1, head = 2, page = 3;
    KvCache cache = make_cache(dim, KvType::int8);
    cache.write(layer, head, page, slot, row.data(), row.data());
    uint8_t* keys = const_cast<uint8_t*>(cache.keys(layer, head)) + page * cache.key_stride();
    uint8_t* values = const_cast<uint8_t*>(cache.values(layer, head)) + page * cache.value_stride();
    const float key_scale = load_as<float>(keys + 4 * slot);
    const double step = static_cast<double>(largest_of(row)) / 127;
    CHECK(std::fabs(key_scale - step) <= step * 0x1p-22 || (step < 1e-30 && key_scale == 0),
          key_scale << ", exact " << step);
    CHECK(check::same_bits(key_scale, load_as<float>(values + 4 * slot)), "scale of the value");
    for (int64_t d = 0; d < dim; ++d) {
        uint8_t& key = keys[64 + d * 16 + slot];
        uint8_t& value = values[64 + (slot / 2 * ((dim + 15) / 16) + d / 16) * 32 +
                                slot % 2 * 16 + d % 16];
        const double number = static_cast<int8_t>(key) * static_cast<double>(key_scale);
        CHECK(std::fabs(number - row[static_cast<size_t>(d)]) <= step * 0.50001 + 1e-30,
              "head_dim " << dim << " slot " << slot << ": " << number << ", exact "
                          << row[static_cast<size_t>(d)]);
        CHECK(key == value, "the value has other numbers");
        key = value = 0xff;
    }
    std::fill_n(keys + 4 * slot, 4, 0xff);
    std::fill_n(values + 4 * slot, 4, 0xff);
    const auto touched = [](const uint8_t* bytes, int64_t size) {
        return std::any_of(bytes, bytes + size, [](uint8_t byte) { return byte != 0xff; });
    };
    CHECK(!touched(key_bytes(cache), pool * cache.key_stride()) &&
              !touched(value_bytes(cache), pool * cache.value_stride()),
          "head_dim " << dim << " slot " << slot << ": another place was written");
}

}  // namespace

TEST(attention_equals_double_precision_in_any_company) {
    Rng rng(1);
    for (int64_t head_dim : {2, 8, 16, 20, 64, 80, 128}) {
        for (int tokens : {1, 2, 15, 16, 17, 33, 100, 255, 256}) {
            const float size = check::integer(rng, 0, 1) ? 1.0f : 4.0f;
            for (KvType kv : kv_types) check_chunk(rng, Cached(rng, head_dim, tokens, size, kv));
        }
    }
}

TEST(int8_attention_stays_within_the_steps_of_its_numbers) {
    for (int64_t head_dim : {2, 10, 64, 96}) {
        for (int tokens : {1, 15, 16, 17, 31, 48, 255, 256}) {
            Rng rng(4), same(4);  // the same tokens twice
            const Cached exact(rng, head_dim, tokens, 2, KvType::bf16);
            const Cached c(same, head_dim, tokens, 2, KvType::int8);
            const float scaling = 1 / std::sqrt(static_cast<float>(head_dim));
            const std::vector<std::vector<float>> q{check::normal(rng, head_dim, scaling)};
            double reach = 0;
            for (float x : q[0]) reach += std::fabs(static_cast<double>(x));
            // Of a score: half a step for each key, and what bf16 rounds off the other one.
            const double score = reach * (c.key_step / 2 + c.key_step * 127 * 0x1p-8);
            const double largest = c.value_step * 127.0;
            const double bound = c.value_step / 2 + largest * (0x1p-8 + std::exp(2 * score) - 1);
            for (const std::string& name : kernel_names()) {
                const Kernels& kernels = select_kernels(name.c_str());
                const Result a = attend(kernels, exact, q, {tokens}, 0, 1);
                const Result b = attend(kernels, c, q, {tokens}, 0, 1);
                double worst = 0;
                for (size_t d = 0; d < q[0].size(); ++d) {
                    const double error = a.out[d] / a.total[0] - b.out[d] / b.total[0];
                    worst = std::max(worst, std::fabs(error));
                }
                CHECK(worst <= bound && (worst > 0 || tokens == 1),
                      name << " head_dim " << head_dim << " tokens " << tokens << ": " << worst
                           << ", bound " << bound);
            }
        }
    }
}

TEST(int8_keeps_rows_within_half_a_step_each_in_its_own_place) {
    Rng rng(5);
    const float most = std::numeric_limits<float>::max();
    for (int64_t dim : {2, 10, 16, 64, 80}) {
        for (int64_t slot = 0; slot < page_tokens; ++slot) {
            std::vector<std::vector<float>> rows{
                check::normal(rng, dim), check::normal(rng, dim, 1e20f),
                check::normal(rng, dim, 1e-20f),
                std::vector<float>(static_cast<size_t>(dim), 0),
                std::vector<float>(static_cast<size_t>(dim), -0.0f),
                std::vector<float>(static_cast<size_t>(dim), -most),
                std::vector<float>(static_cast<size_t>(dim), 1e-40f)};
            rows[0].back() = 1000;  // one that makes the others' steps large
            rows.push_back(rows[1]);
            rows.back()[0] = most;
            for (const std::vector<float>& row : rows) check_row(dim, slot, row);
        }
    }
}

TEST(attention_to_far_apart_scores_neither_overflows_nor_divides_by_zero) {
    Rng rng(2);
    for (KvType kv : kv_types) {
        const Cached c(rng, 16, 40, 1000, kv);
        std::vector<std::vector<float>> q;
        for (int i = 0; i < 4; ++i) q.push_back(check::normal(rng, 16, 100));
        for (const std::string& name : kernel_names()) {
            const Result r = attend(select_kernels(name.c_str()), c, q, {40, 39, 1, 17}, 0, 4);
            for (size_t i = 0; i < 4; ++i) {
                CHECK(std::isfinite(r.maximum[i]) && r.total[i] >= 1 && r.total[i] < 1.001f,
                      name << " " << name_of(kv) << r.maximum[i] << " " << r.total[i]);
            }
        }
    }
}

TEST(attention_to_a_damaged_token_is_not_finite) {
    Rng rng(3);
    const auto check = [&](KvType kv, int place, bool key) {
        Cached c(rng, 16, 20, 1, kv);
        std::vector<float> bad(16, NAN), good(16, 1);
        if (kv == KvType::int8) bad = good, bad[5] = place == 7 ? INFINITY : NAN;
        c.cache.write(c.layer, c.head, c.pages[static_cast<size_t>(place / 16)], place % 16,
                      key ? bad.data() : good.data(), key ? good.data() : bad.data());
        const std::vector<std::vector<float>> q{check::normal(rng, 16)};
        for (const std::string& name : kernel_names()) {
            const Kernels& kernels = select_kernels(name.c_str());
            const Result seen = attend(kernels, c, q, {20}, 0, 1);
            CHECK(std::isnan(seen.out[0] / seen.total[0]), name << " " << place << key);
            const Result before = attend(kernels, c, q, {place}, 0, 1);
            CHECK(!place || std::isfinite(before.out[0] / before.total[0]), name << " " << place);
        }
    };
    for (KvType kv : kv_types) {
        for (int place : {0, 7, 19}) {
            for (bool key : {true, false}) check(kv, place, key);
        }
    }
}

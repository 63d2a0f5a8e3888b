// The sampler on small rows whose answer is known. tests/native compares it with the plain one.
#include <algorithm>
#include <cmath>

#include "alpage/kernel_names.h"
#include "alpage/sampler.h"
#include "check.h"
#include "kernels/kernels.h"

using namespace alpage;

namespace {

using Logits = std::vector<float>;

Sampled draw(const Logits& logits, const SamplingParams& params,
             const std::vector<int32_t>& history = {0}, int64_t prompt_length = 1) {
    return sample(logits.data(), static_cast<int64_t>(logits.size()), history.data(),
                  static_cast<int64_t>(history.size()), prompt_length, params);
}

std::vector<double> shares(const Logits& logits, SamplingParams params) {
    std::vector<double> counts(logits.size());
    for (params.step = 0; params.step < 4000; ++params.step) {
        const int32_t token = draw(logits, params).token;
        CHECK(token >= 0, token);
        if (token >= 0) counts[static_cast<size_t>(token)] += 1.0 / 4000;
    }
    return counts;
}

SamplingParams with(auto change) {
    SamplingParams params;
    change(params);
    return params;
}

SamplingParams greedy() {
    return with([](auto& p) { p.temperature = 0; });
}

}  // namespace

TEST(temperature_zero_takes_the_largest_and_the_lowest_id_of_equals) {
    CHECK(draw({1, 3, 3, 2}, greedy()).token == 1, "equals");
    CHECK(draw({-INFINITY, -5, -4}, greedy()).token == 2, "negative");
}

TEST(draws_follow_the_softmax) {
    const std::vector<double> plain =
        shares({0, std::log(2.0f), std::log(5.0f)}, with([](auto& p) { p.seed = 3; }));
    const std::vector<double> cold = shares({0, std::log(2.0f), std::log(5.0f)}, with([](auto& p) {
                                                p.temperature = 0.5f;
                                            }));
    const double wanted[] = {1.0 / 8, 2.0 / 8, 5.0 / 8};
    const double squared[] = {1.0 / 30, 4.0 / 30, 25.0 / 30};
    for (size_t i = 0; i < 3; ++i) {
        CHECK(std::fabs(plain[i] - wanted[i]) < 0.03, plain[i]);
        CHECK(std::fabs(cold[i] - squared[i]) < 0.03, cold[i]);
    }
}

TEST(cuts_keep_what_they_say) {
    const Logits logits{std::log(0.05f), std::log(0.3f), std::log(0.5f), std::log(0.15f)};
    const auto kept = [&](const SamplingParams& params) {
        const std::vector<double> found = shares(logits, params);
        std::string text;
        for (size_t i = 0; i < 4; ++i) text += found[i] > 0 ? "x" : "-";
        return text;
    };
    CHECK(kept(with([](auto& p) { p.top_k = 2; })) == "-xx-", "top-k 2");
    CHECK(kept(with([](auto& p) { p.top_k = 9; })) == "xxxx", "top-k 9");
    CHECK(kept(with([](auto& p) { p.top_p = 0.6f; })) == "-xx-", "top-p 0.6");
    CHECK(kept(with([](auto& p) { p.top_p = 0.0f; })) == "--x-", "top-p 0");
    CHECK(kept(with([](auto& p) { p.min_p = 0.25f; })) == "-xxx", "min-p 0.25");
    CHECK(kept(with([](auto& p) { p.min_p = 1.0f; })) == "--x-", "min-p 1");
    CHECK(kept(with([](auto& p) { p.top_k = 2, p.top_p = 0.6f; })) == "--x-", "top-k then top-p");
}

TEST(cuts_are_right_where_few_tokens_are_likely_at_all) {
    // All but three tokens are less likely than e^-40: fewer than top_k can be drawn.
    Logits logits(500, -200);
    logits[100] = 0, logits[300] = 3, logits[400] = 2;
    const auto params = with([](auto& p) { p.top_k = 40, p.top_p = 0.5f; });
    CHECK(shares(logits, params)[300] > 0.999, shares(logits, params)[300]);
    const auto least = with([](auto& p) { p.top_k = 40, p.min_p = 0.3f; });
    CHECK(shares(logits, least)[100] == 0, shares(logits, least)[100]);
    CHECK(shares(logits, least)[400] > 0.1, shares(logits, least)[400]);
}

TEST(penalties_and_bias_move_what_they_should) {
    SamplingParams repeat = greedy();
    repeat.repetition_penalty = 2;
    CHECK(draw({2, 3, 1}, repeat, {1}).token == 0, "positive logits shrink");
    CHECK(draw({-3, -2}, repeat, {1}).token == 0, "negative logits sink");
    CHECK(draw({2, 3, 1}, repeat, {-5, 99}).token == 1, "ids out of range are ignored");
    SamplingParams presence = greedy(), frequency = greedy();
    presence.presence_penalty = 1, frequency.frequency_penalty = 0.3f;
    CHECK(draw({3, 2.5}, presence, {1, 1, 0, 0}, 4).token == 0, "the prompt is not punished");
    CHECK(draw({3, 2.5}, presence, {1, 1, 0, 0}, 2).token == 1, "the answer is");
    CHECK(draw({3, 2.5}, frequency, {1, 1, 0, 0}, 2).token == 1, "twice 0.3");
    CHECK(draw({3, 2.5}, frequency, {1, 1, 1, 0}, 3).token == 0, "once 0.3");
    const int32_t ids[] = {0, 7, -1};
    const float values[] = {5, 100, 100};
    SamplingParams bias = greedy();
    bias.bias_ids = ids, bias.bias_values = values, bias.bias_count = 3;
    CHECK(draw({1, 3, 2}, bias).token == 0, "bias");
}

TEST(damaged_logits_give_no_token) {
    for (const SamplingParams& params : {greedy(), SamplingParams{}}) {
        CHECK(draw({1, NAN, 2}, params).token == -1, "NaN");
        CHECK(draw({NAN}, params).token == -1, "NaN alone");
        CHECK(draw({1, INFINITY}, params).token == -1, "infinity");
        CHECK(draw({-INFINITY, -INFINITY}, params).token == -1, "nothing possible");
        CHECK(draw({}, params).token == -1, "nothing");
        CHECK(draw({-INFINITY, 4, -INFINITY}, params).token == 1, "one possible");
    }
}

TEST(logprobs_come_from_the_unmodified_logits) {
    SamplingParams params = greedy();
    const int32_t id = 0;
    const float value = 50;
    params.bias_ids = &id, params.bias_values = &value, params.bias_count = 1;
    params.top_logprobs = 3;
    const Sampled got = draw({0, 1, 2, 2}, params);
    const double norm = std::log(1 + std::exp(1.0) + 2 * std::exp(2.0));
    CHECK(got.token == 0 && std::fabs(got.logprob + norm) < 1e-6, got.logprob);
    CHECK(got.top.size() == 3 && got.top[0].first == 2 && got.top[1].first == 3 &&
              got.top[2].first == 1 && std::fabs(got.top[2].second - (1 - norm)) < 1e-6,
          got.top.size());
    params.top_logprobs = 99;
    CHECK(draw({0, 1, 2, 2}, params).top.size() == 4, "more than there are");
}

TEST(the_largest_logit_or_what_is_wrong) {
    check::Rng rng(1);
    for (int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 1000}) {
        for (const std::string& name : kernel_names()) {
            const Kernels& kernels = select_kernels(name.c_str());
            Logits x = check::normal(rng, n, 1e30f);
            CHECK(kernels.largest(x.data(), n) == *std::max_element(x.begin(), x.end()), name);
            for (int64_t place = 0; place < n; place += n < 40 ? 1 : 111) {
                Logits bad = x;
                for (float wrong : {NAN, INFINITY}) {
                    bad[static_cast<size_t>(place)] = wrong;
                    CHECK(!std::isfinite(kernels.largest(bad.data(), n)), name << " " << wrong);
                }
                bad[static_cast<size_t>(place)] = -INFINITY;  // impossible, but not damaged
                CHECK(kernels.largest(bad.data(), n) == *std::max_element(bad.begin(), bad.end()),
                      name << " " << n << " " << place);
            }
        }
    }
}

TEST(what_reaches_a_floor_is_found_in_order) {
    check::Rng rng(4);
    for (int64_t n : {1, 2, 15, 16, 17, 31, 32, 33, 1000, 1024}) {
        Logits x = check::normal(rng, n, 1);
        if (n > 20) x[3] = -INFINITY, x[17] = x[19];
        for (float floor : {-INFINITY, -10.0f, 0.0f, x[static_cast<size_t>(n / 2)], 2.5f, 1e30f}) {
            std::vector<int32_t> wanted;
            for (size_t i = 0; i < x.size(); ++i) {
                if (x[i] >= floor) wanted.push_back(static_cast<int32_t>(i));
            }
            for (const std::string& name : kernel_names()) {
                std::vector<int32_t> got(x.size() + 1, -7);
                const int64_t count =
                    select_kernels(name.c_str()).reaching(x.data(), n, floor, got.data());
                CHECK(got.back() == -7, name << " wrote past the row");
                got.resize(static_cast<size_t>(count));
                CHECK(got == wanted, name << " " << n << " " << floor << " " << count);
            }
        }
    }
}

TEST(softmax_weights_equal_double_precision) {
    check::Rng rng(2);
    for (int64_t n : {1, 15, 16, 17, 1023, 1024, 1025, 5000}) {
        for (float size : {0.0f, 1.0f, 30.0f, 1000.0f}) {
            Logits x = check::normal(rng, n, size), out(x.size() + 1, 7);
            if (n > 20) x[3] = x[static_cast<size_t>(n - 1)] = -INFINITY;
            const float maximum = *std::max_element(x.begin(), x.end());
            for (const std::string& name : kernel_names()) {
                const double sum = select_kernels(name.c_str())
                                       .softmax_weights(x.data(), n, maximum, 1.25f, out.data());
                double total = 0;
                for (size_t i = 0; i < x.size(); ++i) {
                    const double exact = std::exp((static_cast<double>(x[i]) - maximum) * 1.25);
                    total += exact;
                    // The argument, at most 87 where it matters, is rounded twice.
                    CHECK(std::fabs(out[i] - exact) <= exact * 1.2e-5 + 2e-38,
                          name << " " << x[i] << " " << out[i] << ", exact " << exact);
                }
                CHECK(std::fabs(sum - total) <= total * 1e-6 + 1e-30, name << " " << sum << total);
                CHECK(out.back() == 7, name << " wrote past the row");
            }
        }
    }
}

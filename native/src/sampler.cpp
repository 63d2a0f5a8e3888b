#include "alpage/sampler.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

namespace alpage {
namespace {

struct Candidate {
    float logit;
    int32_t token;
};

bool better(const Candidate& a, const Candidate& b) {
    return a.logit > b.logit || (a.logit == b.logit && a.token < b.token);
}

// Uniform in [0, 1) from (seed, step): splitmix64 (Steele, Lea and Flood 2014) as a counter-based
// generator.
double uniform(uint64_t seed, uint64_t step) {
    uint64_t z = seed + (step + 1) * 0x9E3779B97F4A7C15u;
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9u;
    z = (z ^ z >> 27) * 0x94D049BB133111EBu;
    z ^= z >> 31;
    return static_cast<double>(z >> 11) * 0x1p-53;
}

// log(sum(exp(logits))), in double; NaN if any logit is NaN or +infinity.
double log_sum_exp(const float* logits, int64_t vocab) {
    float largest = -INFINITY;
    for (int64_t i = 0; i < vocab; ++i) largest = std::max(largest, logits[i]);
    if (!std::isfinite(largest)) return NAN;
    double total = 0;
    for (int64_t i = 0; i < vocab; ++i) total += std::exp(logits[i] - largest);
    return largest + std::log(total);
}

bool damaged(const float* logits, int64_t vocab, float& largest) {
    float poison = 0;
    largest = -INFINITY;
    for (int64_t i = 0; i < vocab; ++i) {
        largest = std::max(largest, logits[i]);
        poison += logits[i] != logits[i] ? 1.0f : 0.0f;
    }
    return poison != 0 || !std::isfinite(largest);
}

void penalise(std::vector<float>& logits, const int32_t* history, int64_t length,
              int64_t prompt_length, const SamplingParams& p) {
    const int64_t vocab = static_cast<int64_t>(logits.size());
    std::vector<std::pair<int32_t, int64_t>> seen;  // token, and how often the answer has it
    seen.reserve(static_cast<size_t>(length));
    for (int64_t i = 0; i < length; ++i) {
        if (history[i] >= 0 && history[i] < vocab) seen.push_back({history[i], i >= prompt_length});
    }
    std::sort(seen.begin(), seen.end());
    for (size_t i = 0; i < seen.size();) {
        const int32_t token = seen[i].first;
        int64_t count = 0;
        for (; i < seen.size() && seen[i].first == token; ++i) count += seen[i].second;
        float& logit = logits[static_cast<size_t>(token)];
        logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
        if (count) logit -= p.presence_penalty + p.frequency_penalty * static_cast<float>(count);
    }
}

bool changes_logits(const SamplingParams& p) {
    return p.bias_count || p.repetition_penalty != 1 || p.presence_penalty != 0 ||
           p.frequency_penalty != 0;
}

// The best candidates first, at least all those that the draw can need: sorting the whole
// vocabulary would cost more than the model's last layer.
void sort_best(std::vector<Candidate>& all, size_t count) {
    count = std::min(count, all.size());
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(count);
    if (count < all.size()) std::nth_element(all.begin(), middle, all.end(), better);
    std::sort(all.begin(), middle, better);
}

int32_t draw(const float* logits, int64_t vocab, float largest, const SamplingParams& p) {
    std::vector<Candidate> all;
    all.reserve(static_cast<size_t>(vocab));
    const float inverse = 1.0f / p.temperature;
    // Beyond e^-40 of the best, a token is never drawn and adds nothing to a sum in double.
    for (int64_t i = 0; i < vocab; ++i) {
        if ((logits[i] - largest) * inverse > -40) all.push_back({logits[i], static_cast<int32_t>(i)});
    }
    const size_t limit = p.top_k > 0 ? std::min<size_t>(all.size(), static_cast<size_t>(p.top_k))
                                     : all.size();
    double total = 0;  // over what top-k leaves
    const auto weight = [&](const Candidate& c) {
        return std::exp(static_cast<double>((c.logit - largest) * inverse));
    };
    if (limit < all.size()) {
        sort_best(all, limit);
        all.resize(limit);
    }
    for (const Candidate& c : all) total += weight(c);
    // Sort only as far as the nucleus reaches, in growing steps.
    size_t sorted = limit < static_cast<size_t>(vocab) && p.top_k > 0 ? all.size() : 0;
    size_t kept = 0;
    double sum = 0;
    const double wanted = p.top_p < 1 ? p.top_p * total : INFINITY;
    std::vector<double> cumulative;
    while (kept < all.size() && (kept == 0 || sum < wanted)) {
        if (kept == sorted) {
            sorted = std::min(all.size(), std::max<size_t>(64, sorted * 8));
            sort_best(all, sorted);
        }
        const double w = weight(all[kept]);
        if (kept && w < static_cast<double>(p.min_p) * weight(all[0])) break;
        sum += w;
        cumulative.push_back(sum);
        ++kept;
    }
    const double point = uniform(p.seed, p.step) * sum;
    const auto at = std::upper_bound(cumulative.begin(), cumulative.end(), point);
    const size_t index = std::min<size_t>(static_cast<size_t>(at - cumulative.begin()), kept - 1);
    return all[index].token;
}

void add_logprobs(const float* logits, int64_t vocab, int count, Sampled& result) {
    const double normaliser = log_sum_exp(logits, vocab);
    result.logprob = logits[result.token] - normaliser;
    if (count <= 0) return;
    std::vector<Candidate> all(static_cast<size_t>(vocab));
    for (int64_t i = 0; i < vocab; ++i) all[static_cast<size_t>(i)] = {logits[i], static_cast<int32_t>(i)};
    const size_t best = std::min<size_t>(static_cast<size_t>(count), all.size());
    sort_best(all, best);
    for (size_t i = 0; i < best; ++i) result.top.push_back({all[i].token, all[i].logit - normaliser});
}

}  // namespace

Sampled sample(const float* logits, int64_t vocab, const int32_t* history, int64_t history_length,
               int64_t prompt_length, const SamplingParams& p) {
    Sampled result;
    float largest = 0;
    if (vocab < 1 || damaged(logits, vocab, largest)) return result;
    std::vector<float> changed;
    const float* effective = logits;
    if (changes_logits(p)) {
        changed.assign(logits, logits + vocab);
        for (int64_t i = 0; i < p.bias_count; ++i) {
            const int32_t id = p.bias_ids[i];
            if (id >= 0 && id < vocab) changed[static_cast<size_t>(id)] += p.bias_values[i];
        }
        penalise(changed, history, history_length, prompt_length, p);
        effective = changed.data();
        if (damaged(effective, vocab, largest)) return result;
    }
    if (p.temperature <= 0) {
        result.token = static_cast<int32_t>(std::find(effective, effective + vocab, largest) - effective);
    } else {
        result.token = draw(effective, vocab, largest, p);
    }
    if (p.top_logprobs >= 0) add_logprobs(logits, vocab, p.top_logprobs, result);
    return result;
}

void target_logprobs(const float* logits, int64_t rows, int64_t vocab, const int32_t* targets,
                     double* out) {
    for (int64_t row = 0; row < rows; ++row) {
        if (targets[row] < 0 || targets[row] >= vocab) throw std::out_of_range("target token");
        const float* at = logits + row * vocab;
        out[row] = at[targets[row]] - log_sum_exp(at, vocab);
    }
}

}  // namespace alpage

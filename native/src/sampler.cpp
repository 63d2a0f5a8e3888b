#include "alpage/sampler.h"

#include <algorithm>
#include <cfloat>
#include <cmath>

#include "kernels/kernels.h"

namespace alpage {
namespace {

constexpr float least_weight = 1e-37f;  // what softmax_weights gives for "never" lies below
constexpr float likely[] = {1e-3f, 1e-6f, least_weight};  // where is looked, one after the other

struct Candidate {
    float logit;
    int32_t token;
    float weight;  // its probability over the largest one
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

void penalise(std::vector<double>& logits, const int32_t* history, int64_t length,
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
        double& logit = logits[static_cast<size_t>(token)];
        logit = logit > 0 ? logit / p.repetition_penalty : logit * p.repetition_penalty;
        if (count) logit -= p.presence_penalty + p.frequency_penalty * static_cast<float>(count);
    }
}

// Makes -infinity of what is not allowed; whether anything is left. Masks are mostly words of all
// ones or all zeros.
template <typename T>
bool forbid(std::vector<T>& logits, const uint32_t* allowed) {
    bool left = false;
    for (size_t first = 0; first < logits.size(); first += 32) {
        const size_t end = std::min(first + 32, logits.size());
        const uint32_t word = allowed[first / 32];
        if (word == 0) {
            std::fill(&logits[first], &logits[first] + (end - first), -INFINITY);
            continue;
        }
        for (size_t id = first; word != ~0u && id < end; ++id) {
            if (!(word >> (id - first) & 1)) logits[id] = -INFINITY;
        }
        for (size_t id = first; !left && id < end; ++id) left = logits[id] > -INFINITY;
    }
    return left;
}

// Logits after bias and penalties, the largest of the allowed ones taken off; empty if none can be.
// In double: beside the bias that forces a token, single precision would lose the logits.
std::vector<float> penalised(const float* logits, int64_t vocab, const int32_t* history,
                             int64_t history_length, int64_t prompt_length,
                             const SamplingParams& p) {
    std::vector<double> scores(logits, logits + vocab);
    for (int64_t i = 0; i < p.bias_count; ++i) {
        const int32_t id = p.bias_ids[i];
        if (id >= 0 && id < vocab) scores[static_cast<size_t>(id)] += p.bias_values[i];
    }
    penalise(scores, history, history_length, prompt_length, p);
    if (p.allowed && !forbid(scores, p.allowed)) return {};
    const double largest = *std::max_element(scores.begin(), scores.end());
    std::vector<float> result;
    result.reserve(scores.size());
    for (double score : scores) result.push_back(static_cast<float>(score - largest));
    return result;
}

bool changes_logits(const SamplingParams& p) {
    return p.bias_count || p.repetition_penalty != 1 || p.presence_penalty != 0 ||
           p.frequency_penalty != 0;
}

void sort_best(std::vector<Candidate>& all, size_t count) {
    count = std::min(count, all.size());
    const auto middle = all.begin() + static_cast<std::ptrdiff_t>(count);
    if (count < all.size()) std::nth_element(all.begin(), middle, all.end(), better);
    std::sort(all.begin(), middle, better);
    all.resize(count);
}

// The tokens of a row and their weights. What looks at the whole vocabulary does so in stretches
// that stay in the first-level cache.
struct Row {
    static constexpr int64_t stretch = 1024;
    const Kernels& kernels;
    const float* logits;
    int64_t vocab;
    float largest, inverse_temperature;

    // The sum of all weights.
    double total() const {
        float weights[stretch];
        double sum = 0;
        for (int64_t first = 0; first < vocab; first += stretch) {
            sum += kernels.softmax_weights(logits + first, std::min(stretch, vocab - first),
                                           largest, inverse_temperature, weights);
        }
        return sum;
    }

    // The tokens whose weight reaches `threshold`, in no order. Their logits tell which these can
    // be, so that nearly all exponentials are not needed.
    std::vector<Candidate> above(float threshold) const {
        const float reach = -std::log(threshold) * 1.001f / inverse_temperature;
        int32_t ids[stretch];
        float found[stretch], weights[stretch];
        std::vector<Candidate> all;
        for (int64_t first = 0; first < vocab; first += stretch) {
            const int64_t count = kernels.reaching(logits + first, std::min(stretch, vocab - first),
                                                   largest - reach, ids);
            if (count == 0) continue;
            const int64_t padded = (count + 15) / 16 * 16;  // the same arithmetic for each
            for (int64_t i = 0; i < padded; ++i) {
                found[i] = i < count ? logits[first + ids[i]] : largest;
            }
            kernels.softmax_weights(found, padded, largest, inverse_temperature, weights);
            for (int64_t i = 0; i < count; ++i) {
                if (weights[i] < threshold) continue;
                all.push_back({found[i], static_cast<int32_t>(first) + ids[i], weights[i]});
            }
        }
        return all;
    }
};

// The draw among the candidates whose weight reaches `threshold`, or -1 when less likely ones could
// be needed to decide it. `total`: of all weights, where there is no top-k.
int32_t draw_above(float threshold, const Row& row, double total, const SamplingParams& p) {
    std::vector<Candidate> all = row.above(threshold);
    const bool last = threshold <= least_weight;
    const size_t limit = p.top_k > 0 ? static_cast<size_t>(p.top_k) : all.size();
    if (p.top_k > 0 && all.size() < limit && !last) return -1;
    sort_best(all, limit);
    const auto weight = [&](size_t i) { return static_cast<double>(all[i].weight); };
    if (p.top_k > 0) {
        total = 0;
        for (size_t i = 0; i < all.size(); ++i) total += weight(i);
    }
    const double wanted = p.top_p < 1 ? p.top_p * total : INFINITY;
    std::vector<double> running;
    double sum = 0;
    bool decided = last || p.top_k > 0;
    for (size_t i = 0; i < all.size(); ++i) {
        if (i && (sum >= wanted || weight(i) < static_cast<double>(p.min_p) * weight(0))) {
            decided = true;
            total = sum;
            break;
        }
        running.push_back(sum += weight(i));
    }
    decided = decided || sum >= wanted;
    if (decided) total = sum;  // the kept ones alone share the probability
    if (!decided && (p.top_p < 1 || p.min_p > 0)) return -1;
    const double point = uniform(p.seed, p.step) * total;
    const auto at = std::upper_bound(running.begin(), running.end(), point) - running.begin();
    if (!decided && at == static_cast<std::ptrdiff_t>(running.size())) return -1;
    return all[std::min(static_cast<size_t>(at), running.size() - 1)].token;
}

// Sorting the whole vocabulary would cost more than the model's last layer, and the draw nearly
// always falls among the likely tokens: look there first.
int32_t draw(const Kernels& kernels, const float* logits, int64_t vocab, float largest,
             const SamplingParams& p) {
    const float inverse = std::min(1.0f / p.temperature, FLT_MAX);  // never 0 times infinity
    const Row row{kernels, logits, vocab, largest, inverse};
    const double total = p.top_k > 0 ? 0 : row.total();
    for (float threshold : likely) {
        const int32_t token = draw_above(threshold, row, total, p);
        if (token >= 0) return token;
    }
    return -1;
}

void add_logprobs(const Kernels& kernels, const float* logits, int64_t vocab, float largest,
                  int count, Sampled& result) {
    const Row row{kernels, logits, vocab, largest, 1};
    const double normaliser = largest + std::log(row.total());
    result.logprob = logits[result.token] - normaliser;
    if (count <= 0) return;
    std::vector<Candidate> all;
    for (float threshold : likely) {
        all = row.above(threshold);
        if (all.size() >= static_cast<size_t>(count)) break;
    }
    if (all.size() < static_cast<size_t>(count)) {
        all.clear();
        for (int64_t i = 0; i < vocab; ++i) all.push_back({logits[i], static_cast<int32_t>(i), 0});
    }
    sort_best(all, static_cast<size_t>(count));
    for (const Candidate& c : all) result.top.push_back({c.token, c.logit - normaliser});
}

}  // namespace

Sampled sample(const float* logits, int64_t vocab, const int32_t* history, int64_t history_length,
               int64_t prompt_length, const SamplingParams& p) {
    static const Kernels& kernels = select_kernels("");
    Sampled result;
    const float maximum = vocab < 1 ? NAN : kernels.largest(logits, vocab);
    if (!std::isfinite(maximum)) return result;
    std::vector<float> changed;
    const float* effective = logits;
    float largest = maximum;
    if (changes_logits(p) || p.allowed) {
        if (changes_logits(p)) {
            changed = penalised(logits, vocab, history, history_length, prompt_length, p);
        } else {
            changed.assign(logits, logits + vocab);
            if (!forbid(changed, p.allowed)) changed.clear();
        }
        if (changed.empty()) {
            result.token = -2;
            return result;
        }
        effective = changed.data();
        largest = kernels.largest(effective, vocab);
        if (!std::isfinite(largest)) return result;
    }
    if (p.temperature <= 0) {
        const float* at = std::find(effective, effective + vocab, largest);
        result.token = static_cast<int32_t>(at - effective);
    } else {
        result.token = draw(kernels, effective, vocab, largest, p);
    }
    if (p.top_logprobs >= 0) {
        add_logprobs(kernels, logits, vocab, maximum, p.top_logprobs, result);
    }
    return result;
}

}  // namespace alpage

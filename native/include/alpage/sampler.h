// Chooses the next token from one row of logits.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

namespace alpage {

struct SamplingParams {
    float temperature = 1;  // 0: the largest logit, the lowest id among equals
    int64_t top_k = 0;      // 0: all
    float top_p = 1, min_p = 0;
    float repetition_penalty = 1, presence_penalty = 0, frequency_penalty = 0;
    const int32_t* bias_ids = nullptr;
    const float* bias_values = nullptr;
    int64_t bias_count = 0;
    uint64_t seed = 0, step = 0;  // the draw depends on these two alone
    int top_logprobs = -1;        // -1: no log-probabilities; n >= 0: the token's and the n best
    // One bit an id, the lowest of a word first, [ceil(vocab / 32)]: 0 is never chosen. Null: all.
    const uint32_t* allowed = nullptr;
};

struct Sampled {
    // -1: a logit is NaN or the largest is infinite: the weights are damaged. Single logits of
    // -infinity are tokens that cannot be. -2: no token that can be is allowed.
    int32_t token = -1;
    double logprob = 0;  // natural logarithm, of the unmodified logits
    std::vector<std::pair<int32_t, double>> top;
};

// `history`: prompt and answer so far, of which the first prompt_length are the prompt. Order: what
// is not allowed goes; bias; repetition penalty on every distinct token of history (CTRL: positive
// logits divided, negative multiplied; Keskar et al. 2019); presence and frequency penalties on the
// answer's tokens (OpenAI's definition); temperature; top-k; top-p (Holtzman et al. 2020: the
// smallest set that reaches p); min-p (Nguyen et al. 2024: at least p times the largest). Ties go
// to the lower id. Ids out of range are ignored.
Sampled sample(const float* logits, int64_t vocab, const int32_t* history, int64_t history_length,
               int64_t prompt_length, const SamplingParams& params);

}  // namespace alpage

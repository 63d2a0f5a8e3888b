// Attention over one chunk of pages; a part of simd.inl. A query's sums are made by the same
// operations in the same order whatever other queries share its tile.

// Sums that are kept at a time: enough to hide the latency of fma, few enough for the registers.
constexpr int attention_sums = 2 * attention_tile;

// With few queries to a page attention waits for memory, and pages lie too far apart for the
// processor to see what comes next.
template <int Q>
constexpr bool fetches_pages = Q <= 4;
constexpr int pages_ahead = 2;  // of values

// Scores of Q queries against P pages from `page` on: lanes are a page's 16 tokens.
template <int Q, int P>
void page_scores(const AttentionPart& part, int first, int64_t page, int64_t page_count,
                 float* scores) {
    const uint16_t *keys[P], *ahead[P];
    unroll<P>([&](auto p) {
        keys[p] = part.keys + part.pages[page + p] * part.key_stride;
        const int64_t next = page + P + p;  // then come the values of the first pages
        ahead[p] = next < page_count ? part.keys + part.pages[next] * part.key_stride
                                     : part.values + part.pages[p] * part.value_stride;
    });
    F even[P * Q], odd[P * Q];
    unroll<P * Q>([&](auto i) { even[i] = odd[i] = V::zero(); });
    for (int64_t d = 0; d < part.head_dim; d += 2) {
        unroll<P>([&](auto p) {
            if constexpr (fetches_pages<Q>) __builtin_prefetch(ahead[p] + d * page_tokens);
            const I pair = V::load(keys[p] + d * page_tokens);
            const F low = V::low_bf16(pair), high = V::high_bf16(pair);
            unroll<Q>([&](auto i) {
                constexpr int at = decltype(p)::value * Q + decltype(i)::value;
                const float* q = part.q[first + i] + d;
                even[at] = V::fma(low, V::set1(q[0]), even[at]);
                odd[at] = V::fma(high, V::set1(q[1]), odd[at]);
            });
        });
    }
    unroll<P>([&](auto p) {
        unroll<Q>([&](auto i) {
            constexpr int at = decltype(p)::value * Q + decltype(i)::value;
            V::store(scores + i * attention_chunk + p * page_tokens, V::add(even[at], odd[at]));
        });
    });
}

// out[d] = sum over tokens of p[token] * value[token][d], for 16 * D values of d from `d` on.
template <int Q, int D>
void weighted_values(const AttentionPart& part, int first, const float* weights, int tokens,
                     int64_t d) {
    const int64_t padded = (part.head_dim + 15) / 16 * 16;
    F total[Q * D];
    unroll<Q * D>([&](auto i) { total[i] = V::zero(); });
    for (int t = 0; t < tokens; t += 2) {
        const uint16_t* page = part.values + part.pages[t / page_tokens] * part.value_stride;
        const int64_t offset = (t % page_tokens / 2 * padded + d) * 2;
        const uint16_t* at = page + offset;
        if (fetches_pages<Q> && t + pages_ahead * page_tokens < tokens) {
            const int64_t next = part.pages[t / page_tokens + pages_ahead];
            const uint16_t* there = part.values + next * part.value_stride + offset;
            unroll<D>([&](auto k) { __builtin_prefetch(there + 32 * k); });
        }
        I pair[D];
        unroll<D>([&](auto k) { pair[k] = V::load(at + 32 * k); });
        unroll<Q>([&](auto i) {
            const F p = V::set1(weights[i * attention_chunk + t]);
            unroll<D>([&](auto k) {
                F& sum = total[decltype(i)::value * D + decltype(k)::value];
                sum = V::fma(p, V::low_bf16(pair[k]), sum);
            });
        });
        // The slot behind the last token holds what an earlier request left there.
        if (t + 1 == tokens) break;
        unroll<Q>([&](auto i) {
            const F p = V::set1(weights[i * attention_chunk + t + 1]);
            unroll<D>([&](auto k) {
                F& sum = total[decltype(i)::value * D + decltype(k)::value];
                sum = V::fma(p, V::high_bf16(pair[k]), sum);
            });
        });
    }
    float* out = part.out + first * part.out_stride + d;
    unroll<Q>([&](auto i) {
        unroll<D>([&](auto k) {
            V::store(out + i * part.out_stride + 16 * k,
                     total[decltype(i)::value * D + decltype(k)::value]);
        });
    });
}

// scores -> exp(score - max) in place, 0 for what the query does not see.
inline void softmax_part(float* scores, int visible, int tokens, float& maximum, float& sum) {
    const int padded = (tokens + 15) / 16 * 16;
    for (int t = visible; t < padded; ++t) scores[t] = -INFINITY;
    F largest = V::set1(-INFINITY);
    for (int t = 0; t < visible; t += 16) largest = V::max(largest, V::loadf(scores + t));
    maximum = V::reduce_max(largest);
    F total = V::zero();
    for (int t = 0; t < visible; t += 16) {
        F p = exponential(V::sub(V::loadf(scores + t), V::set1(maximum)));
        if (t + 16 > visible) p = V::first_lanes(p, visible - t);
        V::store(scores + t, p);
        total = V::add(total, p);
    }
    for (int t = (visible + 15) / 16 * 16; t < padded; ++t) scores[t] = 0;
    sum = V::reduce_add(total);
}

template <int Q>
void attend(const AttentionPart& part, int first) {
    constexpr int P = std::clamp(attention_sums / (2 * Q), 1, 4);
    constexpr int D = std::clamp(attention_sums / Q, 1, 4);
    alignas(64) float scores[Q * attention_chunk];
    int tokens = 0;
    for (int i = 0; i < Q; ++i) tokens = std::max(tokens, part.visible[first + i]);
    const int64_t pages = (tokens + page_tokens - 1) / page_tokens;
    row_tiles<P>(0, pages, [&](int64_t page, auto count) {
        page_scores<Q, count>(part, first, page, pages, scores + page * page_tokens);
    });
    for (int i = 0; i < Q; ++i) {
        softmax_part(scores + i * attention_chunk, part.visible[first + i], tokens,
                     part.maximum[first + i], part.total[first + i]);
    }
    row_tiles<D>(0, (part.head_dim + 15) / 16, [&](int64_t vector, auto count) {
        weighted_values<Q, count>(part, first, scores, tokens, 16 * vector);
    });
}

void attention(const AttentionPart& part) {
    int64_t first = 0;
    for (; first + attention_tile <= part.queries; first += attention_tile) {
        attend<attention_tile>(part, static_cast<int>(first));
    }
    if constexpr (attention_tile > 3) {  // three query heads to a key/value head: one row's tile
        if (part.queries - first == 3) return attend<3>(part, static_cast<int>(first));
    }
    row_tiles<attention_tile>(first, part.queries, [&](int64_t at, auto queries) {
        attend<queries>(part, static_cast<int>(at));
    });
}

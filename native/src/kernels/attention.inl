// Attention over one chunk of pages; a part of simd.inl. A query's sums are made by the same
// operations in the same order whatever other queries share its tile.

// Sums that are kept at a time: enough to hide the latency of fma, few enough for the registers.
constexpr int attention_sums = 2 * attention_tile;

// With few queries to a page attention waits for memory, and pages lie too far apart for the
// processor to see what comes next.
template <int Q>
constexpr bool fetches_pages = Q <= 4;
constexpr int pages_ahead = 2;  // of values
constexpr int64_t cache_line = 64;

// Numbers of pages by pairs of rows of 16: keys of dimensions d and d + 1 (lanes: tokens), values
// of tokens t and t + 1 (lanes: dimensions).
struct Bf16Pages {
    using Pair = I;
    static constexpr int64_t pair_bytes = 64, scale_bytes = 0;
    static Pair load(const uint8_t* p) { return V::load(p); }
    static F first(Pair x) { return V::low_bf16(x); }
    static F second(Pair x) { return V::high_bf16(x); }
    static F scaled(F x, const uint8_t*) { return x; }
};

struct Int8Pages {
    struct Pair { const uint8_t* at; };
    static constexpr int64_t pair_bytes = 32, scale_bytes = kv_scale_bytes;
    static Pair load(const uint8_t* p) { return {p}; }
    static F first(Pair x) { return V::load_s8(x.at); }
    static F second(Pair x) { return V::load_s8(x.at + 16); }
    static F scaled(F x, const uint8_t* page) {
        return V::mul(x, V::loadf(reinterpret_cast<const float*>(page)));
    }
};

// Scores of Q queries against P pages from `page` on: lanes are a page's 16 tokens.
template <class Pages, int Q, int P>
void page_scores(const AttentionPart& part, int first, int64_t page, int64_t page_count,
                 float* scores) {
    const uint8_t *keys[P], *ahead[P];
    unroll<P>([&](auto p) {
        keys[p] = part.keys + part.pages[page + p] * part.key_stride;
        const int64_t next = page + P + p;  // then come the values of the first pages
        ahead[p] = next < page_count ? part.keys + part.pages[next] * part.key_stride
                                     : part.values + part.pages[p] * part.value_stride;
        if constexpr (fetches_pages<Q> && Pages::scale_bytes > 0) {
            __builtin_prefetch(part.values + part.pages[page + p] * part.value_stride);
            __builtin_prefetch(ahead[p] + part.head_dim / 2 * Pages::pair_bytes);
        }
    });
    F even[P * Q], odd[P * Q];
    unroll<P * Q>([&](auto i) { even[i] = odd[i] = V::zero(); });
    for (int64_t d = 0; d < part.head_dim; d += 2) {
        unroll<P>([&](auto p) {
            const int64_t offset = d / 2 * Pages::pair_bytes;
            if (fetches_pages<Q> && offset % cache_line == 0) __builtin_prefetch(ahead[p] + offset);
            const auto pair = Pages::load(keys[p] + Pages::scale_bytes + offset);
            const F low = Pages::first(pair), high = Pages::second(pair);
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
            V::store(scores + i * attention_chunk + p * page_tokens,
                     Pages::scaled(V::add(even[at], odd[at]), keys[p]));
        });
    });
}

// out[d] = sum over tokens of p[token] * value[token][d], for 16 * D values of d from `d` on.
template <class Pages, int Q, int D>
void weighted_values(const AttentionPart& part, int first, const float* weights, int tokens,
                     int64_t d) {
    const int64_t padded = (part.head_dim + 15) / 16 * 16;
    F total[Q * D];
    unroll<Q * D>([&](auto i) { total[i] = V::zero(); });
    for (int t = 0; t < tokens; t += 2) {
        const uint8_t* page = part.values + part.pages[t / page_tokens] * part.value_stride;
        const int64_t offset =
            Pages::scale_bytes + (t % page_tokens / 2 * padded + d) / 16 * Pages::pair_bytes;
        const uint8_t* at = page + offset;
        if (fetches_pages<Q> && t + pages_ahead * page_tokens < tokens) {
            const int64_t next = part.pages[t / page_tokens + pages_ahead];
            const uint8_t* there = part.values + next * part.value_stride + offset;
            unroll<D>([&](auto k) {
                if constexpr (k * Pages::pair_bytes % cache_line == 0) {
                    __builtin_prefetch(there + k * Pages::pair_bytes);
                }
            });
        }
        typename Pages::Pair pair[D];
        unroll<D>([&](auto k) { pair[k] = Pages::load(at + k * Pages::pair_bytes); });
        unroll<Q>([&](auto i) {
            const F p = V::set1(weights[i * attention_chunk + t]);
            unroll<D>([&](auto k) {
                F& sum = total[decltype(i)::value * D + decltype(k)::value];
                sum = V::fma(p, Pages::first(pair[k]), sum);
            });
        });
        // The slot behind the last token holds what an earlier request left there.
        if (t + 1 == tokens) break;
        unroll<Q>([&](auto i) {
            const F p = V::set1(weights[i * attention_chunk + t + 1]);
            unroll<D>([&](auto k) {
                F& sum = total[decltype(i)::value * D + decltype(k)::value];
                sum = V::fma(p, Pages::second(pair[k]), sum);
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

// Weights of Q queries times the scales of the values. Behind the last token scales mean nothing,
// and nobody reads the weights.
template <class Pages, int Q>
void scale_weights(const AttentionPart& part, float* weights, int64_t pages) {
    for (int64_t page = 0; page < pages; ++page) {
        const uint8_t* scales = part.values + part.pages[page] * part.value_stride;
        for (int i = 0; i < Q; ++i) {
            float* of = weights + i * attention_chunk + page * page_tokens;
            V::store(of, Pages::scaled(V::loadf(of), scales));
        }
    }
}

template <class Pages, int Q>
void attend(const AttentionPart& part, int first) {
    constexpr int P = std::clamp(attention_sums / (2 * Q), 1, 4);
    constexpr int D = std::clamp(attention_sums / Q, 1, 4);
    alignas(64) float scores[Q * attention_chunk];
    int tokens = 0;
    for (int i = 0; i < Q; ++i) tokens = std::max(tokens, part.visible[first + i]);
    const int64_t pages = (tokens + page_tokens - 1) / page_tokens;
    row_tiles<P>(0, pages, [&](int64_t page, auto count) {
        page_scores<Pages, Q, count>(part, first, page, pages, scores + page * page_tokens);
    });
    for (int i = 0; i < Q; ++i) {
        softmax_part(scores + i * attention_chunk, part.visible[first + i], tokens,
                     part.maximum[first + i], part.total[first + i]);
    }
    if constexpr (Pages::scale_bytes > 0) scale_weights<Pages, Q>(part, scores, pages);
    row_tiles<D>(0, (part.head_dim + 15) / 16, [&](int64_t vector, auto count) {
        weighted_values<Pages, Q, count>(part, first, scores, tokens, 16 * vector);
    });
}

template <class Pages>
void attend_all(const AttentionPart& part) {
    int64_t first = 0;
    for (; first + attention_tile <= part.queries; first += attention_tile) {
        attend<Pages, attention_tile>(part, static_cast<int>(first));
    }
    if constexpr (attention_tile > 3) {  // three query heads to a key/value head: one row's tile
        if (part.queries - first == 3) return attend<Pages, 3>(part, static_cast<int>(first));
    }
    row_tiles<attention_tile>(first, part.queries, [&](int64_t at, auto queries) {
        attend<Pages, queries>(part, static_cast<int>(at));
    });
}

void attention(const AttentionPart& part) {
    if (part.type == KvType::int8) attend_all<Int8Pages>(part);
    else attend_all<Bf16Pages>(part);
}

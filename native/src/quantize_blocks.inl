// From fitted scales to the bytes of each type (layouts: `ggml-common.h` of the GGUF format).
// Included after quantize_rows.inl. An encoder takes `count` whole blocks, at most those that
// `batch` (sub-)blocks make, from x[at] on; it returns false when a scale does not fit into half
// precision.

struct Source {
    const float* x;
    const float* importance;  // [columns], or null
    int64_t columns;
    int64_t first;  // place of x[0] in the tensor
};

// `batch` blocks of n weights, the missing ones zero, and turned into lanes.
template <int n, bool weighted>
struct Staged {
    alignas(64) float plain[batch * n];
    F x[groups * n];
    F w[weighted ? groups * n : 1];

    ALPAGE_INLINE void load(const Source& source, int64_t at, int64_t count) {
        const size_t used = static_cast<size_t>(count * n);
        std::memcpy(plain, source.x + at, used * sizeof(float));
        for (size_t i = used; i < size_t{batch} * n; ++i) plain[i] = 0;
        transpose<n>(plain, x);
        if constexpr (weighted) {
            alignas(64) float weights[batch * n];
            for (int b = 0; b < batch; ++b) {
                const int64_t from = b < count ? (source.first + at + b * n) % source.columns : 0;
                std::memcpy(weights + b * n, source.importance + from, n * sizeof(float));
            }
            transpose<n>(weights, w);
        }
    }
    ALPAGE_INLINE const F* weights(int g) const { return w + (weighted ? g * n : 0); }
};

ALPAGE_INLINE F lane_values(const float* from, int g) {
    F value;
    std::memcpy(&value, from + g * lanes, sizeof value);
    return value;
}
ALPAGE_INLINE void put_lanes(float* to, int g, F value) {
    std::memcpy(to + g * lanes, &value, sizeof value);
}

// q + add of one block, rounded as in the search.
template <int n>
ALPAGE_INLINE void round_block(const float* x, float scale, float offset, Range range, int add,
                               uint8_t* q) {
    const float by = scale == 0.0f ? 0.0f : 1.0f / scale;
    alignas(64) int32_t whole[n];
    for (int i = 0; i < n; i += lanes) {
        F value;
        std::memcpy(&value, x + i, sizeof value);
        const F rounded = nearest((value - offset) * by, range.low, range.high);
        const I number = __builtin_convertvector(rounded, I) + add;
        std::memcpy(whole + i, &number, sizeof number);
    }
    for (int i = 0; i < n; ++i) q[i] = static_cast<uint8_t>(whole[i]);
}

inline void put_half(uint8_t* out, float value) {
    const uint16_t bits = half_bits(value);
    std::memcpy(out, &bits, 2);
}
inline bool is_half(float value) { return value <= largest_half && value >= -largest_half; }

// Quants are packed eight bytes at a time.
ALPAGE_INLINE uint64_t eight(const uint8_t* from) {
    uint64_t bytes;
    std::memcpy(&bytes, from, 8);
    return bytes;
}
ALPAGE_INLINE void put_eight(uint8_t* to, uint64_t bytes) { std::memcpy(to, &bytes, 8); }
constexpr uint64_t every = 0x0101010101010101u;

// The low four bits of n numbers from `low` and n from `high` into n bytes.
template <int n>
ALPAGE_INLINE void put_nibbles(uint8_t* out, const uint8_t* low, const uint8_t* high) {
    for (int i = 0; i < n; i += 8) {
        put_eight(out + i, (eight(low + i) & 15 * every) | (eight(high + i) & 15 * every) << 4);
    }
}

// The fifth bits of 32 numbers, bit i for number i.
ALPAGE_INLINE void put_fifths(uint8_t* out, const uint8_t* q) {
    for (int i = 0; i < 4; ++i) {  // the product gathers the lowest bits of eight bytes
        const uint64_t ones = eight(q + 8 * i) >> 4 & every;
        out[i] = static_cast<uint8_t>(ones * 0x0102040810204080u >> 56);
    }
}

// ---------------------------------------------------------------- Q8_0

// Eight bits leave nothing to search for: the nearest steps of the largest magnitude / 127.
inline bool encode_q8_0(const Source& source, int64_t at, int64_t count, uint8_t* out) {
    constexpr int n = 32;
    constexpr Range range{-127, 127};
    Staged<n, false> s;
    s.load(source, at, count);
    alignas(64) float scales[batch];
    for (int g = 0; g < groups; ++g) {
        F most{};
        for (int i = 0; i < n; ++i) most = larger(magnitude(s.x[g * n + i]), most);
        put_lanes(scales, g, half(most / 127.0f));
    }
    bool fits = true;
    for (int b = 0; b < count; ++b, out += 34) {
        fits = fits && is_half(scales[b]);
        put_half(out, scales[b]);
        round_block<n>(s.plain + b * n, scales[b], 0, range, 0, out + 2);
    }
    return fits;
}

// ---------------------------------------------------------------- Q4_0, Q5_0

// The scale that needs no search is among the first ones: numbers that have this type already keep
// their values. The search is short, or long for weights of unequal importance, whose best scale is
// farther from the plain one.
constexpr Search short_scales5{1, 2, {-16.0f, -15.2f}};
constexpr Search long_scales4{4, 16, {-8.8f, -8.6f, -8.4f, -8.2f, -8.0f, -7.8f, -7.6f, -7.4f, -7.2f,
                                      -7.0f, -6.8f, -6.6f, 7.6f, 7.4f, 7.2f, 7.0f}};
constexpr Search long_scales5{4, 16, {-16.6f, -16.4f, -16.2f, -16.0f, -15.8f, -15.6f, -15.4f,
                                      -15.2f, -15.0f, -14.7f, -14.4f, -14.0f, 15.6f, 15.3f, 15.0f,
                                      14.6f}};

// Q4_0 without importance: the weight of largest magnitude becomes -8, and nothing is searched for,
// as gguf's own encoder has it, byte for byte. A search lowers the squared error by 9 %, but keeps
// the largest weights less exactly: perplexity of the default model was 1.2 % +- 0.4 % higher.
inline bool encode_q4_0(const Source& source, int64_t at, int64_t count, uint8_t* out) {
    constexpr int n = 32;
    Staged<n, false> s;
    s.load(source, at, count);
    alignas(64) float scales[batch], halves[batch];
    for (int g = 0; g < groups; ++g) {
        const F scale = extreme_of<n>(s.x + g * n) / -8.0f;
        put_lanes(scales, g, scale);
        put_lanes(halves, g, half(scale));
    }
    bool fits = true;
    for (int b = 0; b < count; ++b, out += 18) {
        const float by = scales[b] == 0.0f ? 0.0f : 1.0f / scales[b];
        alignas(64) int32_t whole[n];
        for (int i = 0; i < n; i += lanes) {
            F value;
            std::memcpy(&value, s.plain + b * n + i, sizeof value);
            const F shifted = smaller(value * by + 8.5f, splat(15.0f));  // halves go up
            const I number = __builtin_convertvector(shifted, I);
            std::memcpy(whole + i, &number, sizeof number);
        }
        uint8_t q[n];
        for (int i = 0; i < n; ++i) q[i] = static_cast<uint8_t>(whole[i]);
        fits = fits && is_half(halves[b]);
        put_half(out, halves[b]);
        put_nibbles<16>(out + 2, q, q + 16);
    }
    return fits;
}

template <int bits, bool weighted>
inline bool encode_symmetric(const Source& source, int64_t at, int64_t count, uint8_t* out) {
    constexpr int n = 32, zero = bits == 4 ? 8 : 16, high_bytes = bits == 4 ? 0 : 4;
    constexpr Range range{-zero, zero - 1};
    static_assert(weighted || bits == 5, "encode_q4_0 does the rest");
    constexpr Search search = !weighted ? short_scales5 : bits == 4 ? long_scales4 : long_scales5;
    Staged<n, weighted> s;
    s.load(source, at, count);
    alignas(64) float scales[batch];
    for (int g = 0; g < groups; ++g) {
        const F *x = s.x + g * n, *w = s.weights(g);
        F scale = half(symmetric_scale<n, weighted>(x, w, range, search));
        if constexpr (weighted) {  // weights that differ by magnitudes make least squares inexact
            const F plain = half(extreme_of<n>(x) * (-1.0f / zero));
            const I better = symmetric_error<n, weighted>(x, w, plain, range) <
                             symmetric_error<n, weighted>(x, w, scale, range);
            scale = better ? plain : scale;
        }
        put_lanes(scales, g, scale);
    }
    bool fits = true;
    for (int b = 0; b < count; ++b, out += 18 + high_bytes) {
        uint8_t q[n];
        round_block<n>(s.plain + b * n, scales[b], 0, range, zero, q);
        fits = fits && is_half(scales[b]);
        put_half(out, scales[b]);
        if (high_bytes) put_fifths(out + 2, q);
        put_nibbles<16>(out + 2 + high_bytes, q, q + 16);
    }
    return fits;
}

// ---------------------------------------------------------------- Q4_1, Q5_1

constexpr Search short_lines4{0, 1, {15.0f}};
constexpr Search short_lines5{1, 3, {30.2f, 31.0f, 31.8f}};
constexpr Search medium_lines4{2, 8, {13.2f, 13.7f, 14.1f, 14.5f, 15.0f, 15.4f, 15.9f, 16.4f}};
constexpr Search medium_lines5{2, 6, {29.6f, 30.2f, 30.7f, 31.1f, 31.5f, 32.0f}};
constexpr Search long_lines4{4, 16, {12.0f, 12.4f, 12.7f, 13.0f, 13.3f, 13.6f, 13.9f, 14.2f, 14.5f,
                                     14.8f, 15.1f, 15.4f, 15.7f, 16.0f, 16.4f, 17.0f}};
constexpr Search long_lines5{4, 16, {28.0f, 28.5f, 29.0f, 29.3f, 29.6f, 29.9f, 30.2f, 30.5f, 30.8f,
                                     31.1f, 31.4f, 31.7f, 32.0f, 32.3f, 32.6f, 33.0f}};

template <int bits, bool weighted>
inline bool encode_line(const Source& source, int64_t at, int64_t count, uint8_t* out) {
    constexpr int n = 32, high_bytes = bits == 4 ? 0 : 4;
    constexpr Range range{0, bits == 4 ? 15 : 31};
    constexpr Search search = weighted ? (bits == 4 ? long_lines4 : long_lines5)
                                       : (bits == 4 ? short_lines4 : short_lines5);
    Staged<n, weighted> s;
    s.load(source, at, count);
    alignas(64) float scales[batch], offsets[batch];
    for (int g = 0; g < groups; ++g) {
        const F *x = s.x + g * n, *w = s.weights(g);
        Line line = best_line<n, weighted, false>(x, w, range, search);
        line = {half(line.scale), half(line.offset)};
        if constexpr (weighted) {  // as above; 30 steps: numbers that came from four bits
            F low, high;
            bounds<n>(x, low, high);
            F least = line_error<n, weighted>(x, w, line, range);
            for (float steps : {range.high, bits == 4 ? 15.0f : 30.0f}) {
                const Line plain{half((high - low) / steps), half(low)};
                const F error = line_error<n, weighted>(x, w, plain, range);
                const I better = error < least;
                line.scale = better ? plain.scale : line.scale;
                line.offset = better ? plain.offset : line.offset;
                least = better ? error : least;
            }
        }
        put_lanes(scales, g, line.scale);
        put_lanes(offsets, g, line.offset);
    }
    bool fits = true;
    for (int b = 0; b < count; ++b, out += 20 + high_bytes) {
        uint8_t q[n];
        round_block<n>(s.plain + b * n, scales[b], offsets[b], range, 0, q);
        fits = fits && is_half(scales[b]) && is_half(offsets[b]);
        put_half(out, scales[b]);
        put_half(out + 2, offsets[b]);
        if (high_bytes) put_fifths(out + 4, q);
        put_nibbles<16>(out + 4 + high_bytes, q, q + 16);
    }
    return fits;
}

// ---------------------------------------------------------------- Q4_K, Q5_K

// Two blocks of 256: sixteen groups of 32 weights, each with a scale and a minimum of six bits that
// multiply the block's two halves: weight = d * scale * q - dmin * minimum.
constexpr int per_super = 8;
struct Super {
    alignas(64) float d[batch], dmin[batch];         // the block's, for each of its groups
    alignas(64) float scale[batch], minimum[batch];  // whole numbers, 0 to 63
    alignas(64) float error[batch];
};

// The best six-bit scale and minimum of each group among the nearest to those wanted and their
// neighbours.
template <bool weighted>
ALPAGE_INLINE void choose_codes(const Staged<32, weighted>& s, const float* scales,
                                const float* minima, Range range, Super& fit) {
    for (int g = 0; g < groups; ++g) {
        const F d = lane_values(fit.d, g), dmin = lane_values(fit.dmin, g);
        const F scale = nearest(lane_values(scales, g) * inverse(d), 0, 63);
        const F minimum = nearest(lane_values(minima, g) * inverse(dmin), 0, 63);
        F best_scale = scale, best_minimum = minimum, least = splat(INFINITY);
        for (int i = 0; i < 9; ++i) {
            const F a = smaller(larger(scale + static_cast<float>(i / 3 - 1), F{}), splat(63));
            const F b = smaller(larger(minimum + static_cast<float>(i % 3 - 1), F{}), splat(63));
            const F error = line_error<32, weighted>(s.x + g * 32, s.weights(g),
                                                     {d * a, -(dmin * b)}, range);
            const I better = error < least;
            best_scale = better ? a : best_scale;
            best_minimum = better ? b : best_minimum;
            least = better ? error : least;
        }
        put_lanes(fit.scale, g, best_scale);
        put_lanes(fit.minimum, g, best_minimum);
        put_lanes(fit.error, g, least);
    }
}

// Least squares for d and dmin of each block at the chosen codes, into `d` and `dmin`.
template <bool weighted>
ALPAGE_INLINE void fit_halves(const Staged<32, weighted>& s, const Super& fit, Range range,
                              Super& next) {
    constexpr int n = 32;
    alignas(64) float sums[5][batch];
    for (int g = 0; g < groups; ++g) {
        const F a = lane_values(fit.scale, g), b = lane_values(fit.minimum, g);
        const F offset = -(lane_values(fit.dmin, g) * b), by = inverse(lane_values(fit.d, g) * a);
        const F *x = s.x + g * n, *w = s.weights(g);
        F qq{}, q1{}, one{}, xq{}, x1{};
        for (int i = 0; i < n; ++i) {
            const F q = nearest((x[i] - offset) * by, range.low, range.high);
            const F u = weighted ? w[i] * q : q, wx = weighted ? w[i] * x[i] : x[i];
            qq += u * q;
            q1 += u;
            one += weighted ? w[i] : splat(1);
            xq += wx * q;
            x1 += wx;
        }
        put_lanes(sums[0], g, qq * a * a);
        put_lanes(sums[1], g, q1 * a * b);
        put_lanes(sums[2], g, one * b * b);
        put_lanes(sums[3], g, xq * a);
        put_lanes(sums[4], g, x1 * b);
    }
    for (int first = 0; first < batch; first += per_super) {
        double t[5] = {};
        for (int k = 0; k < 5; ++k) {
            for (int i = 0; i < per_super; ++i) t[k] += static_cast<double>(sums[k][first + i]);
        }
        // x ~ d * (scale q) - dmin * minimum
        const double determinant = t[0] * t[2] - t[1] * t[1];
        float d = fit.d[first], dmin = fit.dmin[first];
        if (determinant > 1e-9 * t[0] * t[2]) {
            d = static_cast<float>((t[3] * t[2] - t[1] * t[4]) / determinant);
            dmin = static_cast<float>((t[1] * t[3] - t[0] * t[4]) / determinant);
        } else if (t[0] > 0) {
            d = static_cast<float>((t[3] + static_cast<double>(dmin) * t[1]) / t[0]);
        }
        const F rounded_d = half(larger(splat(d), F{})), rounded_m = half(larger(splat(dmin), F{}));
        for (int i = first; i < first + per_super; ++i) {
            next.d[i] = rounded_d[0], next.dmin[i] = rounded_m[0];
        }
    }
}

template <bool weighted>
ALPAGE_INLINE void fit_super(const Staged<32, weighted>& s, Range range, const Search& search,
                             int turns, Super& fit) {
    alignas(64) float scales[batch], minima[batch];
    for (int g = 0; g < groups; ++g) {
        const Line line = best_line<32, weighted, true>(s.x + g * 32, s.weights(g), range, search);
        put_lanes(scales, g, line.scale);
        put_lanes(minima, g, -line.offset);
    }
    for (int first = 0; first < batch; first += per_super) {
        float top = 0, deepest = 0;
        for (int i = first; i < first + per_super; ++i) {
            top = scales[i] > top ? scales[i] : top;
            deepest = minima[i] > deepest ? minima[i] : deepest;
        }
        const float d = half(splat(top / 63.0f))[0], dmin = half(splat(deepest / 63.0f))[0];
        for (int i = first; i < first + per_super; ++i) fit.d[i] = d, fit.dmin[i] = dmin;
    }
    choose_codes<weighted>(s, scales, minima, range, fit);
    for (int turn = 0; turn < turns; ++turn) {
        Super next;
        fit_halves<weighted>(s, fit, range, next);
        choose_codes<weighted>(s, scales, minima, range, next);
        for (int first = 0; first < batch; first += per_super) {
            float error = 0, next_error = 0;
            for (int i = first; i < first + per_super; ++i) {
                error += fit.error[i];
                next_error += next.error[i];
            }
            if (!(next_error < error)) continue;
            for (int i = first; i < first + per_super; ++i) {
                fit.d[i] = next.d[i], fit.dmin[i] = next.dmin[i], fit.error[i] = next.error[i];
                fit.scale[i] = next.scale[i], fit.minimum[i] = next.minimum[i];
            }
        }
    }
}

// Eight scales and eight minima of six bits: see weights/dequantize.py.
inline void put_six_bits(uint8_t* out, const float* scales, const float* minima) {
    for (int j = 0; j < 4; ++j) {
        const int a = static_cast<int>(scales[j]), late_a = static_cast<int>(scales[j + 4]);
        const int b = static_cast<int>(minima[j]), late_b = static_cast<int>(minima[j + 4]);
        out[j] = static_cast<uint8_t>(a | (late_a >> 4) << 6);
        out[j + 4] = static_cast<uint8_t>(b | (late_b >> 4) << 6);
        out[j + 8] = static_cast<uint8_t>((late_a & 15) | (late_b & 15) << 4);
    }
}

template <int bits, bool weighted>
inline bool encode_super(const Source& source, int64_t at, int64_t count, uint8_t* out) {
    constexpr int high_bytes = bits == 4 ? 0 : 32;
    constexpr Range range{0, bits == 4 ? 15 : 31};
    constexpr Search search = weighted ? (bits == 4 ? long_lines4 : long_lines5)
                                       : (bits == 4 ? medium_lines4 : medium_lines5);
    Staged<32, weighted> s;
    s.load(source, at, count * per_super);
    Super fit;
    fit_super<weighted>(s, range, search, weighted ? 3 : 1, fit);
    bool fits = true;
    for (int b = 0; b < count; ++b, out += 144 + high_bytes) {
        const int first = b * per_super;
        fits = fits && is_half(fit.d[first]) && is_half(fit.dmin[first]);
        put_half(out, fit.d[first]);
        put_half(out + 2, fit.dmin[first]);
        put_six_bits(out + 4, fit.scale + first, fit.minimum + first);
        uint8_t q[256];
        for (int j = 0; j < per_super; ++j) {
            const int i = first + j;
            round_block<32>(s.plain + i * 32, fit.d[i] * fit.scale[i],
                            -(fit.dmin[i] * fit.minimum[i]), range, 0, q + j * 32);
        }
        for (int j = 0; j < 4; ++j) {
            put_nibbles<32>(out + 16 + high_bytes + j * 32, q + j * 64, q + j * 64 + 32);
        }
        for (int i = 0; i < high_bytes; i += 8) {
            uint64_t fifths = 0;
            for (int j = 0; j < per_super; ++j) {
                fifths |= (eight(q + j * 32 + i) >> 4 & every) << j;
            }
            put_eight(out + 16 + i, fifths);
        }
    }
    return fits;
}

// ---------------------------------------------------------------- Q6_K

constexpr Search medium_scales6{2, 9, {-32.8f, -32.4f, -32.0f, -31.6f, -31.2f, -30.8f, -30.4f,
                                       31.4f, 31.0f}};
constexpr Search long_scales6{4, 16, {-32.6f, -32.3f, -32.0f, -31.7f, -31.4f, -31.1f, -30.8f,
                                      -30.5f, -30.2f, -29.8f, -29.4f, -29.0f, 31.4f, 31.0f, 30.6f,
                                      30.2f}};
constexpr Range range6{-32, 31};

// One block: sixteen groups of 16 weights with signed 8-bit scales; weight = d * code * q. Chooses
// the codes among the nearest to `scales` and their neighbours; returns the error.
template <bool weighted>
ALPAGE_INLINE float choose_scales(const Staged<16, weighted>& s, const float* scales, float d,
                                  float* codes) {
    alignas(64) float errors[batch];
    constexpr int reach = weighted ? 2 : 1;
    for (int g = 0; g < groups; ++g) {
        const F base = nearest(lane_values(scales, g) * inverse(splat(d)), -128, 127);
        F best = base, least = splat(INFINITY);
        for (int step = -reach; step <= reach; ++step) {
            const F code = smaller(larger(base + static_cast<float>(step), splat(-128)),
                                   splat(127));
            const F error =
                symmetric_error<16, weighted>(s.x + g * 16, s.weights(g), d * code, range6);
            const I better = error < least;
            best = better ? code : best;
            least = better ? error : least;
        }
        put_lanes(codes, g, best);
        put_lanes(errors, g, least);
    }
    float total = 0;
    for (float error : errors) total += error;
    return total;
}

// Least squares for d at the chosen codes.
template <bool weighted>
ALPAGE_INLINE float fit_half(const Staged<16, weighted>& s, const float* codes, float d) {
    alignas(64) float xqs[batch], qqs[batch];
    for (int g = 0; g < groups; ++g) {
        const F code = lane_values(codes, g), by = inverse(d * code);
        const F *x = s.x + g * 16, *w = s.weights(g);
        F xq{}, qq{};
        for (int i = 0; i < 16; ++i) {
            const F q = nearest(x[i] * by, range6.low, range6.high);
            const F a = weighted ? w[i] * q : q;
            xq += a * x[i];
            qq += a * q;
        }
        put_lanes(xqs, g, xq * code);
        put_lanes(qqs, g, qq * code * code);
    }
    double x_total = 0, q_total = 0;
    for (int i = 0; i < batch; ++i) {
        x_total += static_cast<double>(xqs[i]);
        q_total += static_cast<double>(qqs[i]);
    }
    return q_total > 0 ? half(splat(static_cast<float>(x_total / q_total)))[0] : d;
}

template <bool weighted>
ALPAGE_INLINE float fit_six(const Staged<16, weighted>& s, float* codes) {
    constexpr Search search = weighted ? long_scales6 : medium_scales6;
    alignas(64) float scales[batch], next_codes[batch];
    for (int g = 0; g < groups; ++g) {
        put_lanes(scales, g, symmetric_scale<16, weighted>(s.x + g * 16, s.weights(g), range6,
                                                           search));
    }
    float top = 0;
    for (float scale : scales) {
        if ((scale < 0 ? -scale : scale) > (top < 0 ? -top : top)) top = scale;
    }
    float d = half(splat(top * (-1.0f / 128)))[0];
    float error = choose_scales<weighted>(s, scales, d, codes);
    for (int turn = 0; turn < (weighted ? 3 : 1); ++turn) {
        const float next = fit_half<weighted>(s, codes, d);
        const float next_error = choose_scales<weighted>(s, scales, next, next_codes);
        if (!(next_error < error)) break;
        d = next, error = next_error;
        std::memcpy(codes, next_codes, sizeof next_codes);
    }
    return d;
}

template <bool weighted>
inline bool encode_q6_k(const Source& source, int64_t at, int64_t, uint8_t* out) {
    Staged<16, weighted> s;
    s.load(source, at, batch);
    alignas(64) float codes[batch];
    const float d = fit_six<weighted>(s, codes);
    uint8_t q[256];
    for (int j = 0; j < batch; ++j) {
        round_block<16>(s.plain + j * 16, d * codes[j], 0, range6, 32, q + j * 16);
        out[192 + j] = static_cast<uint8_t>(static_cast<int>(codes[j]));
    }
    put_half(out + 208, d);
    for (int part = 0; part < 2; ++part) {
        const uint8_t* p = q + part * 128;
        put_nibbles<64>(out + part * 64, p, p + 64);
        for (int i = 0; i < 32; i += 8) {
            uint64_t high = 0;
            for (int j = 0; j < 4; ++j) high |= (eight(p + j * 32 + i) >> 4 & 3 * every) << 2 * j;
            put_eight(out + 128 + part * 32 + i, high);
        }
    }
    return is_half(d);
}

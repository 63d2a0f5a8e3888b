// Encoders of weights, written once for vectors of ALPAGE_LANES floats (4, 8 or 16) and compiled
// for each instruction set; the including file defines the number, and includes this in its unnamed
// namespace. First: how scales are found.
//
// A lane holds one block (of K types: one sub-block) from the search for its scale to its error, so
// nothing is added across lanes and every instruction set writes the same bytes.
//
// A block's weights x become whole numbers q with x ~ scale * q + offset. Which scale and offset
// give the least sum of w * (x - scale * q - offset)^2 (w: importance, or 1) is found in turns: the
// nearest q to a scale and offset, then the best scale and offset to those q (least squares), from
// a few first scales. The fit that counts has scale and offset rounded as the file stores them.

constexpr int lanes = ALPAGE_LANES;
using F = float __attribute__((vector_size(4 * lanes)));
using I = int32_t __attribute__((vector_size(4 * lanes)));

constexpr int batch = 16;  // blocks or sub-blocks that are encoded together
constexpr int groups = batch / lanes;
constexpr float largest_half = 65504.0f;

#define ALPAGE_INLINE [[gnu::always_inline]] inline

ALPAGE_INLINE F splat(float x) { return x - F{}; }
// a < b ? a : b and a > b ? a : b, which g++ does not see to be one instruction.
#if ALPAGE_LANES == 16
ALPAGE_INLINE F smaller(F a, F b) { return (F)_mm512_min_ps((__m512)a, (__m512)b); }
ALPAGE_INLINE F larger(F a, F b) { return (F)_mm512_max_ps((__m512)a, (__m512)b); }
#elif ALPAGE_LANES == 8
ALPAGE_INLINE F smaller(F a, F b) { return (F)_mm256_min_ps((__m256)a, (__m256)b); }
ALPAGE_INLINE F larger(F a, F b) { return (F)_mm256_max_ps((__m256)a, (__m256)b); }
#else
ALPAGE_INLINE F smaller(F a, F b) { return a < b ? a : b; }
ALPAGE_INLINE F larger(F a, F b) { return a > b ? a : b; }
#endif
ALPAGE_INLINE F magnitude(F x) { return (F)((I)x & 0x7fffffff); }
// The nearest whole number, of two the even one, for |x| < 2^22.
ALPAGE_INLINE F nearest(F x) { return (x + 0x1.8p23f) - 0x1.8p23f; }
ALPAGE_INLINE F nearest(F x, float low, float high) {
    return nearest(smaller(larger(x, splat(low)), splat(high)));
}
// 1 / x, and 0 for 0.
ALPAGE_INLINE F inverse(F x) { return x == F{} ? F{} : 1.0f / x; }

// The nearest half-precision number as a float, of two the even one; too large ones stay too large.
ALPAGE_INLINE F half(F x) {
    const I bits = (I)x & 0x7fffffff;
    const F normal = (F)((bits + 0xfff + (bits >> 13 & 1)) & ~0x1fff);
    const F tiny = ((F)bits + 0.5f) - 0.5f;  // halves below 2^-14 are multiples of 2^-24
    const F rounded = (F)bits < splat(0x1p-14f) ? tiny : normal;
    return (F)((I)rounded | ((I)x & INT32_MIN));
}

// The sixteen bits of a float that is a half.
inline uint16_t half_bits(float f) {
    uint32_t bits;
    std::memcpy(&bits, &f, 4);
    const uint32_t sign = bits >> 16 & 0x8000, rest = bits & 0x7fffffff;
    if (rest >= 0x38800000) return static_cast<uint16_t>(sign | ((rest >> 13) - (112 << 10)));
    return static_cast<uint16_t>(sign | static_cast<uint32_t>((f < 0 ? -f : f) * 0x1p24f));
}

// The vectors whose elements are, in turn, those of the first (second) halves of a and b.
#if defined(__clang__)
#define ALPAGE_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define ALPAGE_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, I{__VA_ARGS__})
#endif
#if ALPAGE_LANES == 16
ALPAGE_INLINE F zip_first(F a, F b) {
    return ALPAGE_SHUFFLE(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
ALPAGE_INLINE F zip_second(F a, F b) {
    return ALPAGE_SHUFFLE(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
#elif ALPAGE_LANES == 8
ALPAGE_INLINE F zip_first(F a, F b) { return ALPAGE_SHUFFLE(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
ALPAGE_INLINE F zip_second(F a, F b) { return ALPAGE_SHUFFLE(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
#else
ALPAGE_INLINE F zip_first(F a, F b) { return ALPAGE_SHUFFLE(a, b, 0, 4, 1, 5); }
ALPAGE_INLINE F zip_second(F a, F b) { return ALPAGE_SHUFFLE(a, b, 2, 6, 3, 7); }
#endif

// A square of lanes x lanes: element j of row[i] goes to element i of row[j].
ALPAGE_INLINE void turn(F* row) {
    for (int round = 1; round < lanes; round *= 2) {
        F next[lanes];
        for (int i = 0; i < lanes / 2; ++i) {
            next[2 * i] = zip_first(row[i], row[i + lanes / 2]);
            next[2 * i + 1] = zip_second(row[i], row[i + lanes / 2]);
        }
        std::memcpy(row, next, sizeof next);
    }
}

// [batch][n] floats -> [groups][n] vectors, a block in each lane.
template <int n>
ALPAGE_INLINE void transpose(const float* from, F* to) {
    for (int g = 0; g < groups; ++g) {
        for (int at = 0; at < n; at += lanes) {
            F square[lanes];
            for (int lane = 0; lane < lanes; ++lane) {
                std::memcpy(&square[lane], from + (g * lanes + lane) * n + at, sizeof(F));
            }
            turn(square);
            std::memcpy(to + g * n + at, square, sizeof square);
        }
    }
}

// ---------------------------------------------------------------- scale alone

struct Range {
    float low, high;  // of q
};

struct Search {
    int steps;  // of least squares, after the best of the first scales
    int count;
    float firsts[16];
};

template <int n, bool weighted>
ALPAGE_INLINE F symmetric_error(const F* x, const F* w, F scale, Range range) {
    const F by = inverse(scale);
    F error{};
    for (int i = 0; i < n; ++i) {
        const F rest = x[i] - scale * nearest(x[i] * by, range.low, range.high);
        error += weighted ? w[i] * rest * rest : rest * rest;
    }
    return error;
}

// Least squares after rounding with 1 / scale = `by`: the scale, and by how much it lowers the sum
// of w * x^2.
template <int n, bool weighted>
ALPAGE_INLINE F symmetric_step(const F* x, const F* w, F by, Range range, F& gain) {
    F xq{}, qq{};
    for (int i = 0; i < n; ++i) {
        const F q = nearest(x[i] * by, range.low, range.high);
        const F a = weighted ? w[i] * q : q;
        xq += a * x[i];
        qq += a * q;
    }
    const F scale = xq * inverse(qq);
    gain = scale * xq;
    return scale;
}

template <int n>
ALPAGE_INLINE F extreme_of(const F* x) {
    F extreme{};
    for (int i = 0; i < n; ++i) extreme = magnitude(x[i]) > magnitude(extreme) ? x[i] : extreme;
    return extreme;
}

// The first scales: what the weight of largest magnitude is tried to become.
template <int n, bool weighted>
ALPAGE_INLINE F symmetric_scale(const F* x, const F* w, Range range,
                                const Search& search) {
    const F by = inverse(extreme_of<n>(x));
    F best{}, most{};
    for (int k = 0; k < search.count; ++k) {
        F gain;
        const F scale = symmetric_step<n, weighted>(x, w, by * search.firsts[k], range, gain);
        best = gain > most ? scale : best;
        most = larger(gain, most);
    }
    for (int k = 0; k < search.steps; ++k) {
        F gain;
        const F scale = symmetric_step<n, weighted>(x, w, inverse(best), range, gain);
        best = gain > most ? scale : best;
        most = larger(gain, most);
    }
    return best;
}

// ---------------------------------------------------------------- scale and offset

struct Line {
    F scale, offset;
};

template <int n, bool weighted>
ALPAGE_INLINE F line_error(const F* x, const F* w, Line line, Range range) {
    const F by = inverse(line.scale);
    F error{};
    for (int i = 0; i < n; ++i) {
        const F y = x[i] - line.offset;
        const F rest = y - line.scale * nearest(y * by, range.low, range.high);
        error += weighted ? w[i] * rest * rest : rest * rest;
    }
    return error;
}

struct Sums {  // of the weights w, and of w times y = x - base
    F w, y;
};

// Least squares after rounding (y - offset) / scale; by how much it lowers the sum of w * y^2.
// offset <= `highest` (of y).
template <int n, bool weighted>
ALPAGE_INLINE Line line_step(const F* y, const F* w, const Sums& sums, F by, F offset, Range range,
                             F highest, F& gain) {
    F q1{}, qq{}, yq{};
    for (int i = 0; i < n; ++i) {
        const F q = nearest((y[i] - offset) * by, range.low, range.high);
        const F a = weighted ? w[i] * q : q;
        q1 += a;
        qq += a * q;
        yq += a * y[i];
    }
    const F determinant = inverse(sums.w * qq - q1 * q1);
    Line line{(sums.w * yq - q1 * sums.y) * determinant, (qq * sums.y - q1 * yq) * determinant};
    const I bounded = line.offset > highest;
    line.offset = bounded ? highest : line.offset;
    const F alone = (yq - highest * q1) * inverse(qq);
    line.scale = bounded ? alone : line.scale;
    // sum w (y - s q - o)^2 = sum w y^2 - gain
    gain = 2.0f * (line.scale * yq + line.offset * sums.y) -
           (line.scale * line.scale * qq + 2.0f * line.scale * line.offset * q1 +
            line.offset * line.offset * sums.w);
    return line;
}

template <int n>
ALPAGE_INLINE void bounds(const F* x, F& low, F& high) {
    low = high = x[0];
    for (int i = 1; i < n; ++i) {
        low = smaller(x[i], low);
        high = larger(x[i], high);
    }
}

// The first scales: how many steps the range of the weights is tried to be. `ceiling`: the offset
// is at most 0 (K types store its magnitude).
template <int n, bool weighted, bool ceiling>
ALPAGE_INLINE Line best_line(const F* x, const F* w, Range range,
                             const Search& search) {
    F low, high;
    bounds<n>(x, low, high);
    if (ceiling) {
        low = smaller(low, F{});
        high = larger(high, F{});
    }
    F y[n];
    Sums sums{};
    for (int i = 0; i < n; ++i) {
        y[i] = x[i] - low;
        sums.w += weighted ? w[i] : splat(1);
        sums.y += weighted ? w[i] * y[i] : y[i];
    }
    const F highest = ceiling ? -low : splat(3e38f), by = inverse(high - low);
    Line best{(high - low) * (1.0f / range.high), F{}};
    F most{};
    for (int k = 0; k < search.count; ++k) {
        F gain;
        const Line line = line_step<n, weighted>(y, w, sums, by * search.firsts[k], F{}, range,
                                                 highest, gain);
        const I better = (gain > most) & (line.scale > F{});
        best.scale = better ? line.scale : best.scale;
        best.offset = better ? line.offset : best.offset;
        most = better ? gain : most;
    }
    for (int k = 0; k < search.steps; ++k) {
        F gain;
        const Line line = line_step<n, weighted>(y, w, sums, inverse(best.scale), best.offset,
                                                 range, highest, gain);
        const I better = (gain > most) & (line.scale > F{});
        best.scale = better ? line.scale : best.scale;
        best.offset = better ? line.offset : best.offset;
        most = better ? gain : most;
    }
    return {best.scale, best.offset + low};
}

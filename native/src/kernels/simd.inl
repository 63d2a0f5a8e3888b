// Kernels written once for vectors of 16 lanes and compiled for each instruction set: the including
// file defines `struct V` (types F: 16 floats, I: 64 bytes; and the operations used below) in its
// unnamed namespace, and what its registers have room for: `direct_rows` rows of activations where
// weights are unpacked as they are used, `low_rank_panels` panels of an adapter. If it defines
// ALPAGE_GEMM_PANELS, the panels of its other tiles, `gemm_rows` rows and more go through gemm.inl;
// ALPAGE_GEMM_WORDS says that bytes are multiplied as words.
//
// Every row of a product is computed by the same operations in the same order whatever the tile
// it is in, so a token gives the same bits alone and in any batch.

using F = V::F;
using I = V::I;

template <int N, class Fn>
[[gnu::always_inline]] inline void unroll(Fn&& fn) {
    [&]<int... i>(std::integer_sequence<int, i...>) __attribute__((always_inline)) {
        (fn(std::integral_constant<int, i>{}), ...);
    }(std::make_integer_sequence<int, N>{});
}

// ---------------------------------------------------------------- quantised weights

constexpr int prefetch_bytes = 4096;  // how far ahead of the weights in use

enum class Bits { two, three, four, index, five, six, eight, word };  // index: of iq4_quants

constexpr Quants quants_of(Bits bits) {
    if (bits == Bits::word) return Quants::words;
    if (bits == Bits::eight || bits == Bits::index) return Quants::bytes;
    return bits == Bits::five || bits == Bits::six ? Quants::six_bits : Quants::nibbles;
}

// The unsigned quants of 64-byte group g of a block.
template <Bits bits, int g>
[[gnu::always_inline]] inline I group(const uint8_t* quants) {
    if constexpr (bits == Bits::eight) {
        return V::load(quants + g * 64);
    } else if constexpr (bits == Bits::two || bits == Bits::three) {
        const I low = V::template bits<2 * (g % 4), 2>(V::load(quants + g / 4 * 64));
        if constexpr (bits == Bits::three) {
            const I high = V::template shift<2 - g>(V::load(quants + 128));
            return V::bit_or(low, V::bit_and(high, V::bytes(0x04)));
        } else {
            return low;
        }
    } else {
        const I low = V::template bits<4 * (g % 2), 4>(V::load(quants + g / 2 * 64));
        if constexpr (bits == Bits::five) {
            const I high = V::template shift<4 - g>(V::load(quants + 256));
            return V::bit_or(low, V::bit_and(high, V::bytes(0x10)));
        } else if constexpr (bits == Bits::six) {
            const I high = V::template shift<4 - 2 * (g % 4)>(V::load(quants + 256 + g / 4 * 64));
            return V::bit_or(low, V::bit_and(high, V::bytes(0x30)));
        } else if constexpr (bits == Bits::index) {
            return V::look_up(iq4_quants, low);
        } else {
            return low;
        }
    }
}

// Per type: how a block's scale and offset (16 rows) are found; weight = scale * quant + offset.
template <TensorType>
struct Type;

template <Bits b, int quant_size, int zero>
struct SymmetricType {  // Q4_0, Q5_0, Q8_0, IQ4_NL
    static constexpr Bits bits = b;
    static constexpr int quant_bytes = quant_size;
    static constexpr bool halves = false;
    static void scales(const uint8_t* at, int64_t block, F& scale, F& offset) {
        scale = V::load_half(at + block * 32);
        offset = V::mul(scale, V::set1(-static_cast<float>(zero)));
    }
};
template <Bits b, int quant_size>
struct MinimumType {  // Q4_1, Q5_1
    static constexpr Bits bits = b;
    static constexpr int quant_bytes = quant_size;
    static constexpr bool halves = false;
    static void scales(const uint8_t* at, int64_t block, F& scale, F& offset) {
        scale = V::load_half(at + block * 64);
        offset = V::load_half(at + block * 64 + 32);
    }
};
template <Bits b, int quant_size>
struct SuperType {  // Q4_K, Q5_K
    static constexpr Bits bits = b;
    static constexpr int quant_bytes = quant_size;
    static constexpr bool halves = false;
    static void scales(const uint8_t* at, int64_t block, F& scale, F& offset) {
        at += block / 8 * 320;
        const uint8_t* six_bit = at + 64 + block % 8 * 32;
        scale = V::mul(V::load_half(at), V::load_u8(six_bit));
        offset = V::mul(V::mul(V::load_half(at + 32), V::set1(-1)), V::load_u8(six_bit + 16));
    }
};
template <Bits b, int quant_size, int zero>
struct HalvesType {  // Q3_K, Q6_K: a scale per 16 columns
    static constexpr Bits bits = b;
    static constexpr int quant_bytes = quant_size;
    static constexpr bool halves = true;
    static void scales(const uint8_t* at, int64_t block, int half, F& scale, F& offset) {
        at += block / 8 * 288;
        scale = V::mul(V::load_half(at), V::load_s8(at + 32 + block % 8 * 32 + half * 16));
        offset = V::mul(scale, V::set1(-static_cast<float>(zero)));
    }
};
template <> struct Type<TensorType::Q4_0> : SymmetricType<Bits::four, 256, 8> {};
template <> struct Type<TensorType::Q5_0> : SymmetricType<Bits::five, 320, 16> {};
template <> struct Type<TensorType::Q8_0> : SymmetricType<Bits::eight, 512, 128> {};
template <> struct Type<TensorType::Q4_1> : MinimumType<Bits::four, 256> {};
template <> struct Type<TensorType::Q5_1> : MinimumType<Bits::five, 320> {};
template <> struct Type<TensorType::Q4_K> : SuperType<Bits::four, 256> {};
template <> struct Type<TensorType::Q5_K> : SuperType<Bits::five, 320> {};
template <> struct Type<TensorType::Q3_K> : HalvesType<Bits::three, 192, 4> {};
template <> struct Type<TensorType::Q6_K> : HalvesType<Bits::six, 384, 32> {};
template <> struct Type<TensorType::IQ4_NL> : SymmetricType<Bits::index, 256, 128> {};
struct WordType {
    static constexpr Bits bits = Bits::word;
    static constexpr int quant_bytes = 1024;
    static constexpr bool halves = false;
    static void scales(const uint8_t* at, int64_t block, F& scale, F& offset) {
        scale = V::load_bf16(at + block * 32);
        offset = V::zero();
    }
};
template <> struct Type<TensorType::F32> : WordType {};
template <> struct Type<TensorType::F16> : WordType {};
template <> struct Type<TensorType::BF16> : WordType {};
template <> struct Type<TensorType::IQ4_XS> {
    static constexpr Bits bits = Bits::index;
    static constexpr int quant_bytes = 256;
    static constexpr bool halves = false;
    static void scales(const uint8_t* at, int64_t block, F& scale, F& offset) {
        at += block / 8 * 160;
        scale = V::mul(V::load_half(at), V::load_s8(at + 32 + block % 8 * 16));
        offset = V::mul(scale, V::set1(-128));
    }
};
template <> struct Type<TensorType::Q2_K> {
    static constexpr Bits bits = Bits::two;
    static constexpr int quant_bytes = 128;
    static constexpr bool halves = true;  // a scale and a minimum per 16 columns, in one byte
    static void scales(const uint8_t* at, int64_t block, int half, F& scale, F& offset) {
        at += block / 8 * 320;
        const F both = V::load_u8(at + 64 + block % 8 * 32 + half * 16);
        // both = 16 * minimum + scale, so both / 16 - 15 / 32 rounds to the minimum.
        const F minimum = V::round(V::fma(both, V::set1(1.0f / 16), V::set1(-15.0f / 32)));
        scale = V::mul(V::load_half(at), V::fma(minimum, V::set1(-16), both));
        offset = V::mul(V::mul(V::load_half(at + 32), V::set1(-1)), minimum);
    }
};

inline void store_sums(F sums, float* y, bool accumulate, int64_t count) {
    if (count >= panel_rows) {
        V::store(y, accumulate ? V::add(V::loadf(y), sums) : sums);
        return;
    }
    float lanes[panel_rows];
    V::store(lanes, sums);
    for (int64_t i = 0; i < count; ++i) y[i] = accumulate ? y[i] + lanes[i] : lanes[i];
}

// Whether a type's quants are multiplied as words, one row at a time too.
constexpr bool uses_words(Bits bits) {
#ifdef ALPAGE_GEMM_WORDS
    if (quants_of(bits) == Quants::bytes) return true;  // products of eight bits take longer
#endif
    return bits == Bits::word;
}

// The 32-bit sums over a block of quants times R rows' activations in words, `stride` words apart.
template <Bits bits, int R>
[[gnu::always_inline]] inline void word_dots(const uint8_t* quants, const int16_t* words,
                                             int64_t stride, I (&dot)[R]) {
    unroll<R>([&](auto r) { dot[r] = V::bytes(0); });
    unroll<16>([&](auto pair) {
        I weights;
        if constexpr (bits == Bits::word) {
            weights = V::load(quants + pair * 64);
        } else {
#ifdef ALPAGE_GEMM_WORDS
            const I four = group<bits, pair / 2>(quants);
            weights = pair % 2 ? V::odd_bytes(four) : V::even_bytes(four);
#endif
        }
        unroll<R>([&](auto r) {
            dot[r] = V::dot_words(dot[r], weights, V::spread(words + r * stride + 2 * pair));
        });
    });
}

// What a tile fetches for those after it: so many bytes with each block.
struct Ahead {
    const uint8_t* from;
    int64_t bytes;
};

// The processor's own prefetcher stops at each page. One tile of rows waits for the weights, and
// fetches what comes 4 KiB later; several on one panel each fetch a share of the next one. Panels
// lie one behind the other, scales before quants: a block's share of both keeps the distance.
inline Ahead fetched_ahead(const MatmulPart& part, const uint8_t* panel, int64_t panel_bytes,
                           int64_t row, int R) {
    const int64_t blocks = block_count(part.columns), rows = part.row_end - part.row_begin;
    if (rows == R) return {panel + prefetch_bytes, panel_bytes / blocks};
    const int64_t bytes = panel_bytes * R / rows;
    return {panel + panel_bytes + panel_bytes * (row - part.row_begin) / rows, bytes / blocks};
}

// One panel times R rows of activations, beginning with `row`.
template <TensorType type, int R>
void quant_tile(const MatmulPart& part, const uint8_t* panel, const uint8_t* quants,
                const Activations& x, int64_t row, Ahead ahead, float* y, int64_t count) {
    using T = Type<type>;
    const int64_t blocks = block_count(part.columns), stride = 2 * block_columns * blocks;
    const int8_t* q = x.q + row * stride;
    const int16_t* words = x.words + row * blocks * block_columns;
    const float* scale = x.scale + row * blocks;
    const float* sum = T::halves ? x.sum16 + row * blocks * 2 : x.sum + row * blocks;
    F total[R];
    unroll<R>([&](auto r) { total[r] = V::zero(); });
    const uint8_t* fetched = ahead.from;
    const bool alone = part.row_end - part.row_begin == R;
    for (int64_t b = 0; b < blocks; ++b, quants += T::quant_bytes, q += 2 * block_columns) {
        constexpr int parts = T::halves ? 2 : 1;
        constexpr Quants range = quants_of(T::bits);
        constexpr bool in_words = uses_words(T::bits);
        static_assert(range < Quants::bytes || !T::halves, "V::start sees all of a block");
        if (alone) {
            unroll<T::quant_bytes / 64 + 1>([&](auto line) {
                __builtin_prefetch(ahead.from + 64 * line);
            });
        }
        ahead.from += ahead.bytes;
        if (!alone) {
            for (; fetched < ahead.from; fetched += 64) __builtin_prefetch(fetched);
        }
        unroll<parts>([&](auto half) {
            I dot[R], high[R], low[R];
            if constexpr (in_words) {
                word_dots<T::bits>(quants, words + b * block_columns, stride / 2, dot);
            } else {
                constexpr int groups = 8 / parts;
                unroll<R>([&](auto r) {
                    const int8_t* at = q + r * stride;
                    high[r] = V::template start<range>(at);
                    low[r] = V::template start<range>(at + block_columns);
                });
                unroll<groups>([&](auto i) {
                    constexpr int g = decltype(half)::value * groups + decltype(i)::value;
                    const I weights = group<T::bits, g>(quants);
                    unroll<R>([&](auto r) {
                        const int8_t* at = q + r * stride;
                        high[r] = V::template dot<range, g>(high[r], weights, at);
                        low[r] = V::template dot<range, g>(low[r], weights, at + block_columns);
                    });
                });
            }
            F weight_scale, offset;
            if constexpr (T::halves) {
                T::scales(panel, b, half, weight_scale, offset);
            } else {
                T::scales(panel, b, weight_scale, offset);
            }
            unroll<R>([&](auto r) {
                if constexpr (!in_words) {
                    const I highs = V::template sums<range>(high[r]);
                    const I lows = V::template sums<range>(low[r]);
                    dot[r] = V::add_int(V::template shift_lanes<7>(highs), lows);
                }
                const F scaled = V::mul(V::to_float(dot[r]), weight_scale);
                total[r] = V::fma(scaled, V::set1(scale[r * blocks + b]), total[r]);
                if constexpr (range == Quants::words) return;  // they have no offset
                const F row_sum = V::set1(sum[r * blocks * parts + b * parts + half]);
                total[r] = V::fma(offset, row_sum, total[r]);
            });
        });
    }
    unroll<R>([&](auto r) { store_sums(total[r], y + r * part.stride, part.accumulate, count); });
}

// ---------------------------------------------------------------- the product

// Calls fn(row, R) for tiles of as many rows as fit, then the rest in powers of two.
template <int R, class Fn>
void row_tiles(int64_t row, int64_t end, Fn&& fn) {
    for (; row + R <= end; row += R) fn(row, std::integral_constant<int, R>{});
    if constexpr (R > 1) row_tiles<R / 2>(row, end, fn);
}

#ifdef ALPAGE_GEMM_PANELS
#include "kernels/gemm.inl"
#endif

// `tiles`: whether products of several rows go through gemm.inl, where there is one.
template <TensorType type, bool tiles>
void matmul_type(const MatmulPart& part, const Activations& x) {
    const PanelLayout layout = panel_layout(type, part.columns);
#ifdef ALPAGE_GEMM_PANELS
    if constexpr (tiles) {
        if (part.row_end - part.row_begin >= gemm_rows) return gemm<type>(part, x);
    }
#endif
    for (int64_t p = part.panel_begin; p < part.panel_end; ++p) {
        const uint8_t* panel = part.panels + p * layout.bytes();
        const int64_t first = p * panel_rows, count = part.matrix_rows - first;
        row_tiles<direct_rows>(part.row_begin, part.row_end, [&](int64_t row, auto rows) {
            const Ahead ahead = fetched_ahead(part, panel, layout.bytes(), row, rows);
            quant_tile<type, rows>(part, panel, panel + layout.scale_bytes, x, row, ahead,
                                   part.y + row * part.stride + first, count);
        });
    }
}

template <bool tiles>
void matmul(const MatmulPart& part, const Activations& x) {
    switch (part.type) {
        case TensorType::F32: return matmul_type<TensorType::F32, tiles>(part, x);
        case TensorType::F16: return matmul_type<TensorType::F16, tiles>(part, x);
        case TensorType::BF16: return matmul_type<TensorType::BF16, tiles>(part, x);
        case TensorType::Q4_0: return matmul_type<TensorType::Q4_0, tiles>(part, x);
        case TensorType::Q4_1: return matmul_type<TensorType::Q4_1, tiles>(part, x);
        case TensorType::Q5_0: return matmul_type<TensorType::Q5_0, tiles>(part, x);
        case TensorType::Q5_1: return matmul_type<TensorType::Q5_1, tiles>(part, x);
        case TensorType::Q8_0: return matmul_type<TensorType::Q8_0, tiles>(part, x);
        case TensorType::Q2_K: return matmul_type<TensorType::Q2_K, tiles>(part, x);
        case TensorType::Q3_K: return matmul_type<TensorType::Q3_K, tiles>(part, x);
        case TensorType::Q4_K: return matmul_type<TensorType::Q4_K, tiles>(part, x);
        case TensorType::Q5_K: return matmul_type<TensorType::Q5_K, tiles>(part, x);
        case TensorType::Q6_K: return matmul_type<TensorType::Q6_K, tiles>(part, x);
        case TensorType::IQ4_NL: return matmul_type<TensorType::IQ4_NL, tiles>(part, x);
        case TensorType::IQ4_XS: return matmul_type<TensorType::IQ4_XS, tiles>(part, x);
    }
}

// ---------------------------------------------------------------- rows of activations

void quantise(const float* x, int64_t columns, const ActivationRow& out) {
    int8_t* q = out.q;
    int16_t* words = out.words;
    float padded[block_columns] = {};
    for (int64_t b = 0; b < block_count(columns); ++b, x += block_columns) {
        const int64_t left = columns - b * block_columns;
        if (left < block_columns) {
            std::copy_n(x, left, padded);
            x = padded;
        }
        const F first = V::loadf(x), second = V::loadf(x + 16);
        const float largest = V::reduce_max(V::max(V::abs(first), V::abs(second)));
        // Zero, or NaN once a value is NaN or infinite, which the maximum alone could miss.
        const float poison = V::reduce_add(V::mul(V::add(first, second), V::set1(0)));
        const float inverse = largest > 1e-30f ? activation_limit / largest : 0.0f;
        const float scale = out.scale[b] = largest / activation_limit + poison;
        // In float, where such sums are exact: integers made of NaN could overflow.
        const F times = V::set1(inverse);
        const auto total = static_cast<float>(V::split_store(V::mul(first, times), q, words));
        const auto rest =
            static_cast<float>(V::split_store(V::mul(second, times), q + 16, words + 16));
        out.sum[b] = scale * (total + rest);
        out.sum16[2 * b] = scale * total;
        out.sum16[2 * b + 1] = scale * rest;
        q += 2 * block_columns;
        words += block_columns;
    }
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
    F squares = V::zero();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) squares = V::fma(V::loadf(x + i), V::loadf(x + i), squares);
    float total = V::reduce_add(squares);
    for (; i < n; ++i) total += x[i] * x[i];
    const float inverse = 1.0f / std::sqrt(total / static_cast<float>(n) + eps);
    for (i = 0; i + 16 <= n; i += 16) {
        const F scaled = V::mul(V::loadf(x + i), V::set1(inverse));
        V::store(out + i, V::mul(scaled, V::loadf(weight + i)));
    }
    for (; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

// e^x to about 2 units in the last place: 2^n * p(r), r = x - n ln 2, |r| <= ln(2) / 2, and p the
// Taylor polynomial of degree 7. Below -87 the result is 0 to 1e-38; NaN stays NaN.
[[gnu::always_inline]] inline F exponential(F x) {
    x = V::min(V::set1(88), V::max(V::set1(-87), x));
    const F n = V::round(V::mul(x, V::set1(1.44269504f)));
    F r = V::fma(n, V::set1(-0.693359375f), x);  // ln 2 in two parts (Cody and Waite)
    r = V::fma(n, V::set1(2.12194440e-4f), r);
    F p = V::set1(1.0f / 5040);
    constexpr float taylor[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
    for (float coefficient : taylor) p = V::fma(p, r, V::set1(coefficient));
    return V::scale_by_power(p, n);
}

void swiglu(float* gate, const float* up, int64_t n) {
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const F g = V::loadf(gate + i);
        const F denominator = V::add(V::set1(1), exponential(V::mul(g, V::set1(-1))));
        V::store(gate + i, V::mul(V::div(g, denominator), V::loadf(up + i)));
    }
    for (; i < n; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

#include "kernels/attention.inl"
#include "kernels/low_rank.inl"

// ---------------------------------------------------------------- sampling

float largest(const float* x, int64_t n) {
    F most = V::set1(-INFINITY), poison = V::zero();
    int64_t i = 0;
    for (; i + 16 <= n; i += 16) {
        const F value = V::loadf(x + i);
        most = V::max(most, value);
        // Of NaN and a number, max gives its second argument.
        poison = V::fma(V::max(V::set1(-FLT_MAX), value), V::zero(), poison);
    }
    float result = V::reduce_max(most), rest = V::reduce_add(poison);
    for (; i < n; ++i) {
        result = std::max(result, x[i]);
        rest += x[i] == -INFINITY ? 0.0f : x[i] * 0.0f;
    }
    return result + rest;
}

int64_t reaching(const float* x, int64_t n, float floor, int32_t* indices) {
    int64_t count = 0, i = 0;
    for (; i + 16 <= n; i += 16) {
        for (uint32_t left = V::at_least(V::loadf(x + i), V::set1(floor)); left; left &= left - 1) {
            indices[count++] = static_cast<int32_t>(i + std::countr_zero(left));
        }
    }
    for (; i < n; ++i) {
        if (x[i] >= floor) indices[count++] = static_cast<int32_t>(i);
    }
    return count;
}

double softmax_weights(const float* x, int64_t n, float maximum, float inverse_temperature,
                       float* out) {
    constexpr int64_t stretch = 16 * 64;  // summed in single precision, the stretches in double
    double total = 0;
    int64_t i = 0;
    while (i + 16 <= n) {
        F sum = V::zero();
        for (const int64_t end = std::min(n - 15, i + stretch); i < end; i += 16) {
            const F scaled = V::mul(V::sub(V::loadf(x + i), V::set1(maximum)),
                                    V::set1(inverse_temperature));
            const F weight = exponential(scaled);
            V::store(out + i, weight);
            sum = V::add(sum, weight);
        }
        total += V::reduce_add(sum);
    }
    for (; i < n; ++i) {
        out[i] = std::exp(std::max(-87.0f, (x[i] - maximum) * inverse_temperature));
        total += out[i];
    }
    return total;
}

template <bool tiles = true>
constexpr Kernels kernels_named(const char* name, int panel_tile = 1) {
    return {name,      panel_tile, matmul<tiles>, quantise, rms_norm,       swiglu,
            attention, low_rank,   largest,       reaching, softmax_weights};
}

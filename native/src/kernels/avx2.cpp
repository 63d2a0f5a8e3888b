// AVX2 with FMA and F16C: 16 lanes are two registers.
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <utility>

#include "kernels/kernels.h"

namespace alpage {
namespace {

#define ALPAGE_GEMM_PANELS 1
#define ALPAGE_GEMM_WORDS
constexpr int direct_rows = 2, attention_tile = 4;
constexpr int gemm_rows = 3, low_rank_panels = 1;

struct V {
    struct F { __m256 a, b; };
    struct I { __m256i a, b; };

    static F zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
    static F set1(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
    static F loadf(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
    static void store(float* p, F x) {
        _mm256_storeu_ps(p, x.a);
        _mm256_storeu_ps(p + 8, x.b);
    }
    static F add(F x, F y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
    static F sub(F x, F y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
    static F mul(F x, F y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
    static F div(F x, F y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
    static F fma(F x, F y, F z) {
        return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
    }
    static F max(F x, F y) { return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)}; }
    static F min(F x, F y) { return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)}; }
    static F abs(F x) {
        const __m256 sign = _mm256_set1_ps(-0.0f);
        return {_mm256_andnot_ps(sign, x.a), _mm256_andnot_ps(sign, x.b)};
    }
    static F round(F x) {
        constexpr int nearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
        return {_mm256_round_ps(x.a, nearest), _mm256_round_ps(x.b, nearest)};
    }
    static __m256 power(__m256 n) {  // 2^n for -126 <= n <= 127
        const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
        return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
    }
    static F scale_by_power(F x, F n) {
        return {_mm256_mul_ps(x.a, power(n.a)), _mm256_mul_ps(x.b, power(n.b))};
    }
    static uint32_t at_least(F x, F y) {  // a bit for each lane
        const int low = _mm256_movemask_ps(_mm256_cmp_ps(x.a, y.a, _CMP_GE_OQ));
        const int high = _mm256_movemask_ps(_mm256_cmp_ps(x.b, y.b, _CMP_GE_OQ));
        return static_cast<uint32_t>(low | high << 8);
    }
    static float reduce_max(F x) {
        const __m256 eight = _mm256_max_ps(x.a, x.b);
        __m128 v = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        return _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)));
    }
    static float reduce_add(F x) {
        const __m256 eight = _mm256_add_ps(x.a, x.b);
        __m128 v = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
        v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        return _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)));
    }
    static F first_lanes(F x, int n) {
        const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        const __m256i low = _mm256_cmpgt_epi32(_mm256_set1_epi32(n), lane);
        const __m256i high = _mm256_cmpgt_epi32(_mm256_set1_epi32(n - 8), lane);
        return {_mm256_and_ps(x.a, _mm256_castsi256_ps(low)),
                _mm256_and_ps(x.b, _mm256_castsi256_ps(high))};
    }
    static F to_float(I x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
    static __m128i load128(const uint8_t* p) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    }
    static F load_half(const uint8_t* p) {
        return {_mm256_cvtph_ps(load128(p)), _mm256_cvtph_ps(load128(p + 16))};
    }
    static __m256 widen_bf16(__m128i raw) {
        return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16));
    }
    static F load_bf16(const uint8_t* p) {
        return {widen_bf16(load128(p)), widen_bf16(load128(p + 16))};
    }
    static F load_u8(const uint8_t* p) {
        const __m128i raw = load128(p);
        return {_mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(raw)),
                _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_srli_si128(raw, 8)))};
    }
    static F load_s8(const uint8_t* p) {
        const __m128i raw = load128(p);
        return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(raw)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128(raw, 8)))};
    }
    static F low_bf16(I x) {
        return {_mm256_castsi256_ps(_mm256_slli_epi32(x.a, 16)),
                _mm256_castsi256_ps(_mm256_slli_epi32(x.b, 16))};
    }
    static F high_bf16(I x) {
        const __m256i mask = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
        return {_mm256_castsi256_ps(_mm256_and_si256(x.a, mask)),
                _mm256_castsi256_ps(_mm256_and_si256(x.b, mask))};
    }

    static I load(const void* p) {
        const __m256i* at = static_cast<const __m256i*>(p);
        return {_mm256_loadu_si256(at), _mm256_loadu_si256(at + 1)};
    }
    static I bytes(int x) {
        const __m256i all = _mm256_set1_epi8(static_cast<char>(x));
        return {all, all};
    }
    static I bit_and(I x, I y) {
        return {_mm256_and_si256(x.a, y.a), _mm256_and_si256(x.b, y.b)};
    }
    static I bit_or(I x, I y) { return {_mm256_or_si256(x.a, y.a), _mm256_or_si256(x.b, y.b)}; }
    template <int n>
    static I shift_right(I x) {
        return {_mm256_srli_epi16(x.a, n), _mm256_srli_epi16(x.b, n)};
    }
    template <int n>  // left for positive n, else right; the caller masks what crosses bytes
    static I shift(I x) {
        if constexpr (n >= 0) return {_mm256_slli_epi16(x.a, n), _mm256_slli_epi16(x.b, n)};
        else return shift_right<-n>(x);
    }
    template <int first, int count>  // some bits of each byte
    static I bits(I x) { return bit_and(shift<-first>(x), bytes((1 << count) - 1)); }
    static I look_up(const uint8_t* table, I indices) {  // indices 0 to 15
        const __m256i both = _mm256_broadcastsi128_si256(load128(table));
        return {_mm256_shuffle_epi8(both, indices.a), _mm256_shuffle_epi8(both, indices.b)};
    }
    // maddubs makes sums of pairs in 16 bits, which saturate. Quants up to 63 times 127 twice fit,
    // and eight such sums of quants up to 15: those are widened once a block, by `sums`. Quants up
    // to 255 are multiplied as words.
    template <Quants range>
    static __m256i dot_half(__m256i dot, __m256i weights, __m256i x) {
        const __m256i pairs = _mm256_maddubs_epi16(weights, x);
        if constexpr (range == Quants::nibbles) return _mm256_add_epi16(dot, pairs);
        return _mm256_add_epi32(dot, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    template <Quants>  // where the sums over 32 activations begin
    static I start(const int8_t*) { return bytes(0); }
    // dot + sum over the 4 signed bytes of group g of x, times unsigned weights, in each lane.
    template <Quants range, int g>
    static I dot(I dot, I weights, const int8_t* x) {
        int four;
        __builtin_memcpy(&four, x + 4 * g, 4);
        const __m256i all = _mm256_set1_epi32(four);
        return {dot_half<range>(dot.a, weights.a, all), dot_half<range>(dot.b, weights.b, all)};
    }
    template <Quants range>  // of each lane, in 32 bits
    static I sums(I dot) {
        if constexpr (range != Quants::nibbles) return dot;
        const __m256i ones = _mm256_set1_epi16(1);
        return {_mm256_madd_epi16(dot.a, ones), _mm256_madd_epi16(dot.b, ones)};
    }
    static I spread(const void* p) {  // 4 bytes over all lanes
        int four;
        __builtin_memcpy(&four, p, 4);
        const __m256i all = _mm256_set1_epi32(four);
        return {all, all};
    }
    static I dot_words(I dot, I weights, I x) {
        return {_mm256_add_epi32(dot.a, _mm256_madd_epi16(weights.a, x.a)),
                _mm256_add_epi32(dot.b, _mm256_madd_epi16(weights.b, x.b))};
    }
    static I even_bytes(I x) {
        const __m256i mask = _mm256_set1_epi16(255);
        return bit_and(x, {mask, mask});
    }
    static I odd_bytes(I x) { return shift_right<8>(x); }
    static void store_words(uint8_t* p, I x) {
        _mm256_store_si256(reinterpret_cast<__m256i*>(p), x.a);
        _mm256_store_si256(reinterpret_cast<__m256i*>(p + 32), x.b);
    }
    static I add_int(I x, I y) {
        return {_mm256_add_epi32(x.a, y.a), _mm256_add_epi32(x.b, y.b)};
    }
    template <int n>
    static I shift_lanes(I x) { return {_mm256_slli_epi32(x.a, n), _mm256_slli_epi32(x.b, n)}; }
    static void store_bytes(__m256i a, __m256i b, int8_t* q) {  // 16 lanes of 32 bits, saturated
        const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        const __m128i low = _mm256_castsi256_si128(words);
        const __m128i high = _mm256_extracti128_si256(words, 1);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(q), _mm_packs_epi16(low, high));
    }
    // Rounds 16 lanes, stores high = (n + 64) >> 7 at q and low = n - 128 * high 32 bytes on, and n
    // in the order of Activations::words; returns the sum of n.
    static int split_store(F x, int8_t* q, int16_t* words) {
        const __m256i a = _mm256_cvtps_epi32(x.a), b = _mm256_cvtps_epi32(x.b);
        const __m256i half = _mm256_set1_epi32(64);
        const __m256i high_a = _mm256_srai_epi32(_mm256_add_epi32(a, half), 7);
        const __m256i high_b = _mm256_srai_epi32(_mm256_add_epi32(b, half), 7);
        store_bytes(high_a, high_b, q);
        store_bytes(_mm256_sub_epi32(a, _mm256_slli_epi32(high_a, 7)),
                    _mm256_sub_epi32(b, _mm256_slli_epi32(high_b, 7)), q + 32);
        const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
        const __m256i packed = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xd8);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words),
                            _mm256_shuffle_epi8(packed, _mm256_broadcastsi128_si256(order)));
        const __m256i eight = _mm256_add_epi32(a, b);
        const __m128i upper = _mm256_extracti128_si256(eight, 1);
        __m128i v = _mm_add_epi32(_mm256_castsi256_si128(eight), upper);
        v = _mm_add_epi32(v, _mm_shuffle_epi32(v, 0x4e));
        return _mm_cvtsi128_si32(_mm_add_epi32(v, _mm_shuffle_epi32(v, 0xb1)));
    }
};

#include "kernels/simd.inl"

}  // namespace

const Kernels avx2_kernels = kernels_named("avx2", 4);

}  // namespace alpage

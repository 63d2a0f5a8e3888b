// AVX-512 (F, BW, DQ, VL, VNNI): 16 lanes are one register.
#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <utility>

#include "kernels/kernels.h"

namespace alpage {
namespace {

#define ALPAGE_GEMM_PANELS 4
constexpr int direct_rows = 4, attention_tile = 8;
constexpr int gemm_rows = 5, low_rank_panels = 2;

struct V {
    using F = __m512;
    using I = __m512i;

    static F zero() { return _mm512_setzero_ps(); }
    static F set1(float x) { return _mm512_set1_ps(x); }
    static F loadf(const float* p) { return _mm512_loadu_ps(p); }
    static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
    static F add(F a, F b) { return _mm512_add_ps(a, b); }
    static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
    static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
    static F div(F a, F b) { return _mm512_div_ps(a, b); }
    static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
    static F max(F a, F b) { return _mm512_max_ps(a, b); }
    static F min(F a, F b) { return _mm512_min_ps(a, b); }
    static F abs(F a) { return _mm512_abs_ps(a); }
    static F round(F a) { return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT); }
    static F scale_by_power(F a, F n) { return _mm512_scalef_ps(a, n); }
    static float reduce_max(F a) { return _mm512_reduce_max_ps(a); }
    static float reduce_add(F a) { return _mm512_reduce_add_ps(a); }
    static uint32_t at_least(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
    static F first_lanes(F a, int n) {
        return _mm512_maskz_mov_ps(static_cast<__mmask16>((1u << n) - 1), a);
    }
    static F to_float(I a) { return _mm512_cvtepi32_ps(a); }
    static F load_half(const uint8_t* p) {
        return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
    }
    static F load_bf16(const uint8_t* p) {
        const __m256i raw = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(raw), 16));
    }
    static F load_u8(const uint8_t* p) {
        const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(raw));
    }
    static F load_s8(const uint8_t* p) {
        const __m128i raw = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
        return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(raw));
    }
    static F low_bf16(I a) { return _mm512_castsi512_ps(_mm512_slli_epi32(a, 16)); }
    static F high_bf16(I a) {
        const I mask = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
        return _mm512_castsi512_ps(_mm512_and_si512(a, mask));
    }

    static I load(const void* p) { return _mm512_loadu_si512(p); }
    static I bytes(int x) { return _mm512_set1_epi8(static_cast<char>(x)); }
    static I bit_and(I a, I b) { return _mm512_and_si512(a, b); }
    static I bit_or(I a, I b) { return _mm512_or_si512(a, b); }
    template <int n>  // left for positive n, else right; the caller masks what crosses bytes
    static I shift(I a) {
        if constexpr (n >= 0) return _mm512_slli_epi16(a, n);
        else return _mm512_srli_epi16(a, -n);
    }
    template <int first, int count>  // some bits of each byte
    static I bits(I a) { return bit_and(shift<-first>(a), bytes((1 << count) - 1)); }
    static I look_up(const uint8_t* table, I indices) {  // indices 0 to 15
        const __m128i values = _mm_loadu_si128(reinterpret_cast<const __m128i*>(table));
        return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(values), indices);
    }
    template <Quants>  // where the sums over 32 activations begin
    static I start(const int8_t*) { return bytes(0); }
    // dot + sum over the 4 signed bytes of group g of x, times unsigned weights, in each lane.
    template <Quants, int g>
    static I dot(I dot, I weights, const int8_t* x) {
        int four;
        __builtin_memcpy(&four, x + 4 * g, 4);
        return _mm512_dpbusd_epi32(dot, weights, _mm512_set1_epi32(four));
    }
    template <Quants>
    static I sums(I dot) { return dot; }
    static I spread(const void* x) {  // 4 bytes over all lanes
        int four;
        __builtin_memcpy(&four, x, 4);
        return _mm512_set1_epi32(four);
    }
    static I dot_lanes(I dot, I weights, I x) { return _mm512_dpbusd_epi32(dot, weights, x); }
    static void store_bytes(uint8_t* p, I a) { _mm512_store_si512(p, a); }
    static void store_words(uint8_t* p, I a) { _mm512_store_si512(p, a); }
    static I dot_words(I dot, I weights, I x) { return _mm512_dpwssd_epi32(dot, weights, x); }
    static I add_int(I a, I b) { return _mm512_add_epi32(a, b); }
    template <int n>
    static I shift_lanes(I a) { return _mm512_slli_epi32(a, n); }
    // Rounds 16 lanes, stores high = (n + 64) >> 7 at q and low = n - 128 * high 32 bytes on, and n
    // in the order of Activations::words; returns the sum of n.
    static int split_store(F a, int8_t* q, int16_t* words) {
        // NaN becomes 0: what it is converted to otherwise would overflow the sum.
        const __m512i n = _mm512_maskz_cvtps_epi32(_mm512_cmp_ps_mask(a, a, _CMP_ORD_Q), a);
        const __m512i high = _mm512_srai_epi32(_mm512_add_epi32(n, _mm512_set1_epi32(64)), 7);
        const __m512i low = _mm512_sub_epi32(n, _mm512_slli_epi32(high, 7));
        __m128i* at = reinterpret_cast<__m128i*>(q);
        _mm_storeu_si128(at, _mm512_cvtsepi32_epi8(high));
        _mm_storeu_si128(at + 2, _mm512_cvtsepi32_epi8(low));
        const __m128i order = _mm_setr_epi8(0, 1, 4, 5, 2, 3, 6, 7, 8, 9, 12, 13, 10, 11, 14, 15);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(words),
                            _mm256_shuffle_epi8(_mm512_cvtsepi32_epi16(n),
                                                _mm256_broadcastsi128_si256(order)));
        return _mm512_reduce_add_epi32(n);
    }
};

#include "kernels/simd.inl"

}  // namespace

const Kernels avx512_kernels = kernels_named("avx512", ALPAGE_GEMM_PANELS);
// Where two loads a cycle feed the multipliers, to unpack weights beforehand only costs time.
const Kernels avx512_direct_kernels = kernels_named<false>("avx512-direct", 3);

}  // namespace alpage

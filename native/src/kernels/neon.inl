// NEON: 16 lanes are four registers. Included by neon.cpp (dot products of bytes, FEAT_DotProd) and
// neon_i8mm.cpp (dot products of unsigned with signed bytes as well, FEAT_I8MM), in their unnamed
// namespace. Every operation rounds as its AVX2 counterpart does, and sums across lanes go in the
// same order, so that vectors give the same bits on either kind of processor.

// A row of a product keeps 12 of the 32 registers: 4 for each of the sums of high and of low bytes,
// 4 for the total. Two rows leave 8 for weights and activations; a third would live on the stack.
// Two queries of attention take 16 for their scores, and the keys of a page another 8.
constexpr int direct_rows = 2, attention_tile = 2;
constexpr int low_rank_panels = 1;

struct V {
    struct F { float32x4_t a, b, c, d; };
    struct I { uint8x16_t a, b, c, d; };

    template <class Result, class Fn, class... X>
    [[gnu::always_inline]] static Result each(Fn fn, X... x) {
        return {fn(x.a...), fn(x.b...), fn(x.c...), fn(x.d...)};
    }
    static uint32x4_t words(float32x4_t x) { return vreinterpretq_u32_f32(x); }
    static uint32x4_t words(uint8x16_t x) { return vreinterpretq_u32_u8(x); }
    static int32x4_t numbers(uint8x16_t x) { return vreinterpretq_s32_u8(x); }
    static uint8x16_t raw(int32x4_t x) { return vreinterpretq_u8_s32(x); }
    static float32x4_t floats(uint32x4_t x) { return vreinterpretq_f32_u32(x); }

    static F set1(float x) {
        const float32x4_t all = vdupq_n_f32(x);
        return {all, all, all, all};
    }
    static F zero() { return set1(0); }
    static F loadf(const float* p) {
        return {vld1q_f32(p), vld1q_f32(p + 4), vld1q_f32(p + 8), vld1q_f32(p + 12)};
    }
    static void store(float* p, F x) {
        vst1q_f32(p, x.a);
        vst1q_f32(p + 4, x.b);
        vst1q_f32(p + 8, x.c);
        vst1q_f32(p + 12, x.d);
    }
    static F add(F x, F y) {
        return each<F>([](auto p, auto q) { return vaddq_f32(p, q); }, x, y);
    }
    static F sub(F x, F y) {
        return each<F>([](auto p, auto q) { return vsubq_f32(p, q); }, x, y);
    }
    static F mul(F x, F y) {
        return each<F>([](auto p, auto q) { return vmulq_f32(p, q); }, x, y);
    }
    static F div(F x, F y) {
        return each<F>([](auto p, auto q) { return vdivq_f32(p, q); }, x, y);
    }
    static F fma(F x, F y, F z) {
        return each<F>([](auto p, auto q, auto r) { return vfmaq_f32(r, p, q); }, x, y, z);
    }
    // NaN if one of the two is, whichever: more than the kernels ask for.
    static F max(F x, F y) {
        return each<F>([](auto p, auto q) { return vmaxq_f32(p, q); }, x, y);
    }
    static F min(F x, F y) {
        return each<F>([](auto p, auto q) { return vminq_f32(p, q); }, x, y);
    }
    static F abs(F x) { return each<F>([](auto p) { return vabsq_f32(p); }, x); }
    static F round(F x) { return each<F>([](auto p) { return vrndnq_f32(p); }, x); }
    static F scale_by_power(F x, F n) {  // x * 2^n for -126 <= n <= 127
        return each<F>([](auto p, auto q) {
            const int32x4_t biased = vaddq_s32(vcvtnq_s32_f32(q), vdupq_n_s32(127));
            return vmulq_f32(p, vreinterpretq_f32_s32(vshlq_n_s32(biased, 23)));
        }, x, n);
    }
    static uint32_t at_least(F x, F y) {  // a bit for each lane
        static constexpr uint32_t bits[4] = {1, 2, 4, 8};
        const uint32x4_t weights = vld1q_u32(bits);
        const auto four = [&](float32x4_t a, float32x4_t b) {
            return vaddvq_u32(vandq_u32(vcgeq_f32(a, b), weights));
        };
        return four(x.a, y.a) | four(x.b, y.b) << 4 | four(x.c, y.c) << 8 | four(x.d, y.d) << 12;
    }
    static float reduce_max(F x) {
        return vmaxvq_f32(vmaxq_f32(vmaxq_f32(x.a, x.c), vmaxq_f32(x.b, x.d)));
    }
    static float reduce_add(F x) {
        const float32x4_t v = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
        return vaddv_f32(vadd_f32(vget_low_f32(v), vget_high_f32(v)));
    }
    static F first_lanes(F x, int n) {
        static constexpr int32_t lanes[16] = {0, 1, 2,  3,  4,  5,  6,  7,
                                              8, 9, 10, 11, 12, 13, 14, 15};
        const auto kept = [n](float32x4_t p, const int32_t* lane) {
            const uint32x4_t mask = vcltq_s32(vld1q_s32(lane), vdupq_n_s32(n));
            return floats(vandq_u32(words(p), mask));
        };
        return {kept(x.a, lanes), kept(x.b, lanes + 4), kept(x.c, lanes + 8),
                kept(x.d, lanes + 12)};
    }
    static F to_float(I x) {
        return each<F>([](auto p) { return vcvtq_f32_s32(numbers(p)); }, x);
    }
    static F load_half(const uint8_t* p) {
        const float16x8_t low = vreinterpretq_f16_u8(vld1q_u8(p));
        const float16x8_t high = vreinterpretq_f16_u8(vld1q_u8(p + 16));
        return {vcvt_f32_f16(vget_low_f16(low)), vcvt_high_f32_f16(low),
                vcvt_f32_f16(vget_low_f16(high)), vcvt_high_f32_f16(high)};
    }
    static F load_bf16(const uint8_t* p) {
        const uint16x8_t zeros = vdupq_n_u16(0);
        const uint16x8_t low = vreinterpretq_u16_u8(vld1q_u8(p));
        const uint16x8_t high = vreinterpretq_u16_u8(vld1q_u8(p + 16));
        return {vreinterpretq_f32_u16(vzip1q_u16(zeros, low)),
                vreinterpretq_f32_u16(vzip2q_u16(zeros, low)),
                vreinterpretq_f32_u16(vzip1q_u16(zeros, high)),
                vreinterpretq_f32_u16(vzip2q_u16(zeros, high))};
    }
    static F load_u8(const uint8_t* p) {
        const uint8x16_t bytes = vld1q_u8(p);
        const uint16x8_t low = vmovl_u8(vget_low_u8(bytes)), high = vmovl_high_u8(bytes);
        return {vcvtq_f32_u32(vmovl_u16(vget_low_u16(low))), vcvtq_f32_u32(vmovl_high_u16(low)),
                vcvtq_f32_u32(vmovl_u16(vget_low_u16(high))), vcvtq_f32_u32(vmovl_high_u16(high))};
    }
    static F load_s8(const uint8_t* p) {
        const int8x16_t bytes = vreinterpretq_s8_u8(vld1q_u8(p));
        const int16x8_t low = vmovl_s8(vget_low_s8(bytes)), high = vmovl_high_s8(bytes);
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
    }
    static F low_bf16(I x) {
        return each<F>([](auto p) { return floats(vshlq_n_u32(words(p), 16)); }, x);
    }
    static F high_bf16(I x) {
        return each<F>([](auto p) {
            return floats(vandq_u32(words(p), vdupq_n_u32(0xffff0000u)));
        }, x);
    }

    static I load(const void* p) {
        const uint8_t* at = static_cast<const uint8_t*>(p);
        return {vld1q_u8(at), vld1q_u8(at + 16), vld1q_u8(at + 32), vld1q_u8(at + 48)};
    }
    static I bytes(int x) {
        const uint8x16_t all = vdupq_n_u8(static_cast<uint8_t>(x));
        return {all, all, all, all};
    }
    static I bit_and(I x, I y) {
        return each<I>([](auto p, auto q) { return vandq_u8(p, q); }, x, y);
    }
    static I bit_or(I x, I y) {
        return each<I>([](auto p, auto q) { return vorrq_u8(p, q); }, x, y);
    }
    template <int n>  // left for positive n, else right
    static I shift(I x) {
        if constexpr (n > 0) return each<I>([](auto p) { return vshlq_n_u8(p, n); }, x);
        else if constexpr (n < 0) return each<I>([](auto p) { return vshrq_n_u8(p, -n); }, x);
        else return x;
    }
    template <int first, int count>  // some bits of each byte
    static I bits(I x) {
        if constexpr (first + count == 8) return shift<-first>(x);
        else return bit_and(shift<-first>(x), bytes((1 << count) - 1));
    }
    static I look_up(const uint8_t* table, I indices) {  // indices 0 to 15
        const uint8x16_t values = vld1q_u8(table);
        return each<I>([values](auto p) { return vqtbl1q_u8(values, p); }, indices);
    }
#ifdef __ARM_FEATURE_MATMUL_INT8
    template <Quants>
    static I start(const int8_t*) { return bytes(0); }
    template <Quants, int g>
    static I dot(I dot, I weights, const int8_t* x) {
        const int8x16_t sixteen = vld1q_s8(x + g / 4 * 16);
        return each<I>([sixteen](auto sums, auto w) {
            return raw(vusdotq_laneq_s32(numbers(sums), w, sixteen, g % 4));
        }, dot, weights);
    }
#else
    // Quants up to 63 are signed bytes as they are. Quants up to 255 become signed by taking 128
    // off each, so the sums begin with 128 times the sum of x, which is the same for every lane.
    template <Quants range>
    static I start(const int8_t* x) {
        if constexpr (range != Quants::bytes) return bytes(0);
        const int8x16_t ones = vdupq_n_s8(1);
        const int32x4_t first = vdotq_s32(vdupq_n_s32(0), vld1q_s8(x), ones);
        const int sum = vaddvq_s32(vdotq_s32(first, vld1q_s8(x + 16), ones));
        const uint8x16_t all = raw(vdupq_n_s32(128 * sum));
        return {all, all, all, all};
    }
    template <Quants range, int g>
    static I dot(I dot, I weights, const int8_t* x) {
        const int8x16_t sixteen = vld1q_s8(x + g / 4 * 16);
        return each<I>([sixteen](auto sums, auto w) {
            if constexpr (range == Quants::bytes) w = veorq_u8(w, vdupq_n_u8(0x80));
            return raw(vdotq_laneq_s32(numbers(sums), vreinterpretq_s8_u8(w), sixteen, g % 4));
        }, dot, weights);
    }
#endif
    template <Quants>
    static I sums(I dot) { return dot; }
    static I spread(const void* p) {  // 4 bytes over all lanes
        int32_t four;
        __builtin_memcpy(&four, p, 4);
        const uint8x16_t all = raw(vdupq_n_s32(four));
        return {all, all, all, all};
    }
    // dot + the products of both words of each lane: even and odd words apart, which all rows of a
    // tile share.
    static I dot_words(I dot, I weights, I x) {
        const int16x8_t pair = vreinterpretq_s16_u8(x.a);
        const auto add = [pair](uint8x16_t& low, uint8x16_t& high, uint8x16_t a, uint8x16_t b) {
            const int16x8_t first = vreinterpretq_s16_u8(a), second = vreinterpretq_s16_u8(b);
            const int16x8_t even = vuzp1q_s16(first, second), odd = vuzp2q_s16(first, second);
            int32x4_t sum = vmlal_laneq_s16(numbers(low), vget_low_s16(even), pair, 0);
            low = raw(vmlal_laneq_s16(sum, vget_low_s16(odd), pair, 1));
            sum = vmlal_high_laneq_s16(numbers(high), even, pair, 0);
            high = raw(vmlal_high_laneq_s16(sum, odd, pair, 1));
        };
        add(dot.a, dot.b, weights.a, weights.b);
        add(dot.c, dot.d, weights.c, weights.d);
        return dot;
    }
    static I add_int(I x, I y) {
        return each<I>([](auto p, auto q) { return raw(vaddq_s32(numbers(p), numbers(q))); }, x, y);
    }
    template <int n>
    static I shift_lanes(I x) {
        return each<I>([](auto p) { return raw(vshlq_n_s32(numbers(p), n)); }, x);
    }
    static void store_bytes(int32x4_t a, int32x4_t b, int32x4_t c, int32x4_t d, int8_t* q) {
        const int16x8_t low = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
        const int16x8_t high = vcombine_s16(vmovn_s32(c), vmovn_s32(d));
        vst1q_s8(q, vcombine_s8(vmovn_s16(low), vmovn_s16(high)));
    }
    static void store_words(int32x4_t a, int32x4_t b, int16_t* words) {
        static constexpr uint8_t order[16] = {0, 1, 4,  5,  2,  3,  6,  7,
                                              8, 9, 12, 13, 10, 11, 14, 15};
        const int16x8_t eight = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
        const uint8x16_t moved = vqtbl1q_u8(vreinterpretq_u8_s16(eight), vld1q_u8(order));
        vst1q_s16(words, vreinterpretq_s16_u8(moved));
    }
    // Rounds 16 lanes, stores high = (n + 64) >> 7 at q and low = n - 128 * high 32 bytes on, and n
    // in the order of Activations::words; returns the sum of n. NaN becomes 0.
    static int split_store(F x, int8_t* q, int16_t* words) {
        const int32x4_t a = vcvtnq_s32_f32(x.a), b = vcvtnq_s32_f32(x.b);
        const int32x4_t c = vcvtnq_s32_f32(x.c), d = vcvtnq_s32_f32(x.d);
        const auto high = [](int32x4_t n) { return vrshrq_n_s32(n, 7); };  // rounds: adds the 64
        const auto low = [&](int32x4_t n) { return vsubq_s32(n, vshlq_n_s32(high(n), 7)); };
        store_bytes(high(a), high(b), high(c), high(d), q);
        store_bytes(low(a), low(b), low(c), low(d), q + 32);
        store_words(a, b, words);
        store_words(c, d, words + 8);
        return vaddvq_s32(vaddq_s32(vaddq_s32(a, b), vaddq_s32(c, d)));
    }
};

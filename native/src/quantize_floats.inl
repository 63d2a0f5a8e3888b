// Floating-point types, and the choice of a type's encoder. Included after quantize_blocks.inl.

ALPAGE_INLINE F load_lanes(const float* x) {
    F value;
    std::memcpy(&value, x, sizeof value);
    return value;
}

// `lanes` sixteen-bit codes as whole numbers, and back.
ALPAGE_INLINE I load_codes(const uint8_t* from) {
    uint16_t codes[lanes];
    std::memcpy(codes, from, sizeof codes);
    int32_t wide[lanes];
    for (int i = 0; i < lanes; ++i) wide[i] = codes[i];
    I value;
    std::memcpy(&value, wide, sizeof value);
    return value;
}
ALPAGE_INLINE void store_codes(uint8_t* to, I value) {
    int32_t wide[lanes];
    std::memcpy(wide, &value, sizeof value);
    uint16_t codes[lanes];
    for (int i = 0; i < lanes; ++i) codes[i] = static_cast<uint16_t>(wide[i]);
    std::memcpy(to, codes, sizeof codes);
}

ALPAGE_INLINE F from_half(I code) {
    const I bits = (code & 0x7fff) << 13, sign = (code & 0x8000) << 16;
    const F normal = (F)(bits + (112 << 23));
    const F tiny = __builtin_convertvector(code & 0x3ff, F) * 0x1p-24f;
    const I special = (bits >= (31 << 23)) & 0x7f800000;  // infinity and NaN
    const F magnitude = bits < (1 << 23) ? tiny : normal;
    return (F)((I)magnitude | special | sign);
}

ALPAGE_INLINE I to_half(F x, I& large) {
    const F rounded = half(x);
    const F size = magnitude(rounded);
    large |= size > splat(largest_half);
    const I normal = ((I)size - (112 << 23)) >> 13;
    const F steps = smaller(size, splat(1)) * 0x1p24f;
    const I tiny = __builtin_convertvector(steps, I);
    const I code = size < splat(0x1p-14f) ? tiny : normal;
    return code | ((I)x >> 16 & 0x8000);
}

ALPAGE_INLINE F from_bf16(I code) { return (F)(code << 16); }

ALPAGE_INLINE I to_bf16(F x, I& large) {
    const I bits = (I)x & 0x7fffffff;
    const I code = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    large |= code >= 0x7f80;
    return code | ((I)x >> 16 & 0x8000);
}

// The last few numbers of the three functions below go through a copy of a whole vector.
void widen(TensorType from, const uint8_t* raw, int64_t count, float* out) {
    const auto some = [from](const uint8_t* codes, float* to) {
        const I code = load_codes(codes);
        const F value = from == TensorType::F16 ? from_half(code) : from_bf16(code);
        std::memcpy(to, &value, sizeof value);
    };
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) some(raw + 2 * i, out + i);
    if (i == count) return;
    uint8_t codes[2 * lanes] = {};
    float values[lanes];
    std::memcpy(codes, raw + 2 * i, static_cast<size_t>(2 * (count - i)));
    some(codes, values);
    std::memcpy(out + i, values, static_cast<size_t>(4 * (count - i)));
}

// The largest magnitude; not finite if one of the numbers is not.
float largest(const float* x, int64_t count) {
    I most{};
    const auto some = [&most](const float* from) {
        const I bits = (I)load_lanes(from) & 0x7fffffff;  // in the order of the magnitudes
        most = bits > most ? bits : most;
    };
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) some(x + i);
    float values[lanes] = {};
    std::memcpy(values, x + i, static_cast<size_t>(4 * (count - i)));
    some(values);
    int32_t bits = 0;
    for (int lane = 0; lane < lanes; ++lane) bits = most[lane] > bits ? most[lane] : bits;
    float result;
    std::memcpy(&result, &bits, sizeof result);
    return result;
}

bool encode_halves(TensorType to, const float* x, int64_t count, uint8_t* out) {
    I large{};
    const auto some = [&large, to](const float* from, uint8_t* codes) {
        const F value = load_lanes(from);
        store_codes(codes, to == TensorType::F16 ? to_half(value, large) : to_bf16(value, large));
    };
    int64_t i = 0;
    for (; i + lanes <= count; i += lanes) some(x + i, out + 2 * i);
    if (i < count) {
        float values[lanes] = {};
        uint8_t codes[2 * lanes];
        std::memcpy(values, x + i, static_cast<size_t>(4 * (count - i)));
        some(values, codes);
        std::memcpy(out + 2 * i, codes, static_cast<size_t>(2 * (count - i)));
    }
    bool fits = true;
    for (int lane = 0; lane < lanes; ++lane) fits = fits && large[lane] == 0;
    return fits;
}

struct Encoder {
    int64_t weights, bytes, at_once;  // of a block; blocks that one call takes
    bool (*equal)(const Source& source, int64_t at, int64_t count, uint8_t* out);
    bool (*weighted)(const Source& source, int64_t at, int64_t count, uint8_t* out);
};

Encoder encoder(TensorType type) {
    switch (type) {
        case TensorType::Q8_0: return {32, 34, batch, encode_q8_0, encode_q8_0};
        case TensorType::Q4_0:
            return {32, 18, batch, encode_q4_0, encode_symmetric<4, true>};
        case TensorType::Q5_0:
            return {32, 22, batch, encode_symmetric<5, false>, encode_symmetric<5, true>};
        case TensorType::Q4_1: return {32, 20, batch, encode_line<4, false>, encode_line<4, true>};
        case TensorType::Q5_1: return {32, 24, batch, encode_line<5, false>, encode_line<5, true>};
        case TensorType::Q4_K:
            return {256, 144, batch / per_super, encode_super<4, false>, encode_super<4, true>};
        case TensorType::Q5_K:
            return {256, 176, batch / per_super, encode_super<5, false>, encode_super<5, true>};
        default: return {256, 210, 1, encode_q6_k<false>, encode_q6_k<true>};  // Q6_K
    }
}

bool encode_blocks(TensorType to, const EncodePiece& piece, uint8_t* out) {
    if (to == TensorType::F16 || to == TensorType::BF16) {
        return encode_halves(to, piece.x, piece.count, out);
    }
    const Encoder of = encoder(to);
    const Source source{piece.x, piece.importance, piece.columns, piece.first};
    const int64_t blocks = piece.count / of.weights;
    bool fits = true;
    for (int64_t b = 0; b < blocks; b += of.at_once) {
        const int64_t count = blocks - b < of.at_once ? blocks - b : of.at_once;
        const auto run = piece.importance ? of.weighted : of.equal;
        fits = run(source, b * of.weights, count, out + b * of.bytes) && fits;
    }
    return fits;
}

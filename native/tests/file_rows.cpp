#include "file_rows.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace alpage {
namespace {

double half_value(const uint8_t* p) {
    const int bits = p[0] | p[1] << 8, exponent = bits >> 10 & 31, mantissa = bits & 1023;
    const double magnitude = exponent ? std::ldexp(1024 + mantissa, exponent - 25)
                                      : std::ldexp(mantissa, -24);
    return bits & 0x8000 ? -magnitude : magnitude;
}

// The half-precision number next to `value` towards zero; at most 65504.
void store_half(double value, uint8_t* p) {
    const double size = std::min(std::fabs(value), 65504.0);
    int exponent = 0;
    std::frexp(size, &exponent);  // size = [0.5, 1) * 2^exponent
    int bits;
    if (size < 0x1p-14) {
        bits = static_cast<int>(std::ldexp(size, 24));
    } else {
        bits = (exponent + 14) << 10 | (static_cast<int>(std::ldexp(size, 11 - exponent)) & 1023);
    }
    bits |= value < 0 ? 0x8000 : 0;
    p[0] = static_cast<uint8_t>(bits);
    p[1] = static_cast<uint8_t>(bits >> 8);
}

// Where the block's half-precision scales lie, and the usual size of a quant times its sub-scale.
struct Scales {
    std::vector<int> at;
    double quant;
};

Scales scales_of(TensorType type) {
    switch (type) {
        case TensorType::Q4_0: return {{0}, 4};
        case TensorType::Q4_1: return {{0, 2}, 8};
        case TensorType::Q5_0: return {{0}, 8};
        case TensorType::Q5_1: return {{0, 2}, 16};
        case TensorType::Q8_0: return {{0}, 64};
        case TensorType::Q4_K: return {{0, 2}, 8 * 32};
        case TensorType::Q5_K: return {{0, 2}, 16 * 32};
        case TensorType::Q6_K: return {{208}, 16 * 64};
        case TensorType::Q2_K: return {{80, 82}, 2 * 8};
        case TensorType::Q3_K: return {{108}, 2 * 16};
        case TensorType::IQ4_NL: return {{0}, 64};
        case TensorType::IQ4_XS: return {{0}, 64 * 16};
        default: return {{}, 1};
    }
}

// Where the sub-scales of a block of 256 weights lie: first byte, bytes.
std::pair<int, int> sub_scales_of(TensorType type) {
    switch (type) {
        case TensorType::Q2_K: return {0, 16};
        case TensorType::Q3_K: return {96, 12};
        case TensorType::Q6_K: return {192, 16};
        case TensorType::IQ4_XS: return {2, 6};
        default: return {4, 12};
    }
}

double scale_value(check::Rng& rng, Style style, double usual) {
    const double sign = check::integer(rng, 0, 1) ? 1 : -1;
    switch (style) {
        case Style::tiny: return sign / static_cast<double>(1 << check::integer(rng, 18, 24));
        case Style::large: return sign * 60000;
        default: return check::normal(rng, 1)[0] * usual;
    }
}

void fill_block(check::Rng& rng, TensorType type, Style style, double size, uint8_t* block) {
    const int64_t bytes = file_block(type).bytes;
    const uint8_t flip = type == TensorType::Q8_0 ? 0x80 : 0;  // signed: -128 and 127
    for (int64_t i = 0; i < bytes; ++i) {
        block[i] = style == Style::lowest    ? flip
                   : style == Style::highest ? 255 - flip
                                             : static_cast<uint8_t>(check::integer(rng, 0, 255));
    }
    const Scales scales = scales_of(type);
    for (int at : scales.at) store_half(scale_value(rng, style, size / scales.quant), block + at);
    if (style == Style::lowest || style == Style::highest) {  // sub-scales stay random
        if (file_block(type).elements < 256) return;
        const auto [first, count] = sub_scales_of(type);
        for (int i = first; i < first + count; ++i) {
            block[i] = static_cast<uint8_t>(check::integer(rng, 0, 255));
        }
    }
}

void fill_float(check::Rng& rng, TensorType type, Style style, double size, uint8_t* out) {
    const double scale = style == Style::tiny ? 1e-7 : style == Style::large ? 1e4 : size;
    const float value = static_cast<float>(check::normal(rng, 1)[0] * scale);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    if (type == TensorType::F16) {
        store_half(value, out);
    } else if (type == TensorType::BF16) {
        out[0] = static_cast<uint8_t>(bits >> 16);
        out[1] = static_cast<uint8_t>(bits >> 24);
    } else {
        std::memcpy(out, &bits, 4);
    }
}

struct Block {
    double weights[256], magnitudes[256];
    int filled = 0;
    void add(double scale, double quant, double zero, double minimum, double largest) {
        weights[filled] = scale * (quant - zero) + minimum;
        magnitudes[filled++] = std::fabs(scale) * largest + std::fabs(scale * zero - minimum);
    }
};

// The sixteen values of ggml's kvalues_iq4nl.
int iq4_value(int index) {
    constexpr int values[] = {-127, -104, -83, -65, -49, -35, -22, -10,
                              1,    13,   25,  38,  53,  69,  89,  113};
    return values[index];
}

void decode_small(TensorType type, const uint8_t* p, Block& out) {
    const bool minimum = type == TensorType::Q4_1 || type == TensorType::Q5_1;
    const bool five = type == TensorType::Q5_0 || type == TensorType::Q5_1;
    const double d = half_value(p), m = minimum ? half_value(p + 2) : 0;
    p += minimum ? 4 : 2;
    if (type == TensorType::Q8_0) {
        for (int j = 0; j < 32; ++j) out.add(d, static_cast<int8_t>(p[j]) + 128, 128, 0, 255);
        return;
    }
    if (type == TensorType::IQ4_NL) {
        for (int j = 0; j < 32; ++j) {
            const int index = j < 16 ? p[j] % 16 : p[j - 16] / 16;
            out.add(d, iq4_value(index) + 128, 128, 0, 241);
        }
        return;
    }
    const uint8_t* high = p;
    p += five ? 4 : 0;
    const double zero = minimum ? 0 : five ? 16 : 8;
    for (int j = 0; j < 32; ++j) {
        int quant = j < 16 ? p[j] % 16 : p[j - 16] / 16;
        if (five) quant += (high[j / 8] >> j % 8 & 1) * 16;
        out.add(d, quant, zero, m, five ? 31 : 15);
    }
}

void decode_k(TensorType type, const uint8_t* p, Block& out) {
    const double d = half_value(p), least = half_value(p + 2);
    const uint8_t *s = p + 4, *high = p + 16, *low = p + (type == TensorType::Q5_K ? 48 : 16);
    for (int sub = 0; sub < 8; ++sub) {
        const int scale = sub < 4 ? s[sub] % 64 : s[sub + 4] % 16 + s[sub - 4] / 64 * 16;
        const int minimum = sub < 4 ? s[sub + 4] % 64 : s[sub + 4] / 16 + s[sub] / 64 * 16;
        for (int j = 0; j < 32; ++j) {
            const uint8_t pair = low[sub / 2 * 32 + j];
            int quant = sub % 2 ? pair / 16 : pair % 16;
            if (type == TensorType::Q5_K) quant += (high[j] >> sub & 1) * 16;
            out.add(d * scale, quant, 0, -least * minimum, type == TensorType::Q5_K ? 31 : 15);
        }
    }
}

void decode_q6(const uint8_t* p, Block& out) {
    const double d = half_value(p + 208);
    for (int i = 0; i < 256; ++i) {
        const int half = i / 128, quarter = i % 128 / 32, j = i % 32;
        const uint8_t pair = p[half * 64 + quarter % 2 * 32 + j];
        const int low = quarter < 2 ? pair % 16 : pair / 16;
        const int quant = low + (p[128 + half * 32 + j] >> 2 * quarter & 3) * 16;
        out.add(d * static_cast<int8_t>(p[192 + i / 16]), quant, 32, 0, 63);
    }
}

void decode_q2(const uint8_t* p, Block& out) {
    const double d = half_value(p + 80), least = half_value(p + 82);
    for (int i = 0; i < 256; ++i) {
        const int quant = p[16 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        const int scale = p[i / 16] % 16, minimum = p[i / 16] / 16;
        out.add(d * scale, quant, 0, -least * minimum, 3);
    }
}

void decode_q3(const uint8_t* p, Block& out) {
    const double d = half_value(p + 108);
    for (int i = 0; i < 256; ++i) {
        const int part = i / 16, low = p[96 + part % 8];
        const int upper = p[104 + part % 4] >> part / 4 * 2 & 3;
        const int scale = (part < 8 ? low % 16 : low / 16) + upper * 16 - 32;
        const int quant = p[32 + i / 128 * 32 + i % 32] >> i % 128 / 32 * 2 & 3;
        out.add(d * scale, quant + (p[i % 32] >> i / 32 & 1) * 4, 4, 0, 7);
    }
}

void decode_iq4_xs(const uint8_t* p, Block& out) {
    const double d = half_value(p);
    for (int i = 0; i < 256; ++i) {
        const int part = i / 32, upper = (p[2] | p[3] << 8) >> 2 * part & 3;
        const int low = part % 2 ? p[4 + part / 2] / 16 : p[4 + part / 2] % 16;
        const uint8_t pair = p[8 + part * 16 + i % 16];
        const int value = iq4_value(i % 32 < 16 ? pair % 16 : pair / 16);
        out.add(d * (low + upper * 16 - 32), value + 128, 128, 0, 241);
    }
}

void decode(TensorType type, const uint8_t* p, Block& out) {
    uint32_t bits = 0;
    float value;
    switch (type) {
        case TensorType::F16: return out.add(half_value(p), 1, 0, 0, 1);
        case TensorType::BF16: case TensorType::F32:
            std::memcpy(&bits, p, type == TensorType::F32 ? 4 : 2);
            bits <<= type == TensorType::F32 ? 0 : 16;
            std::memcpy(&value, &bits, 4);
            return out.add(value, 1, 0, 0, 1);
        case TensorType::Q4_K: case TensorType::Q5_K: return decode_k(type, p, out);
        case TensorType::Q6_K: return decode_q6(p, out);
        case TensorType::Q2_K: return decode_q2(p, out);
        case TensorType::Q3_K: return decode_q3(p, out);
        case TensorType::IQ4_XS: return decode_iq4_xs(p, out);
        default: return decode_small(type, p, out);
    }
}

}  // namespace

const char* type_name(TensorType type) {
    switch (type) {
        case TensorType::F32: return "F32";
        case TensorType::F16: return "F16";
        case TensorType::BF16: return "BF16";
        case TensorType::Q4_0: return "Q4_0";
        case TensorType::Q4_1: return "Q4_1";
        case TensorType::Q5_0: return "Q5_0";
        case TensorType::Q5_1: return "Q5_1";
        case TensorType::Q8_0: return "Q8_0";
        case TensorType::Q4_K: return "Q4_K";
        case TensorType::Q5_K: return "Q5_K";
        case TensorType::Q6_K: return "Q6_K";
        case TensorType::Q2_K: return "Q2_K";
        case TensorType::Q3_K: return "Q3_K";
        case TensorType::IQ4_NL: return "IQ4_NL";
        case TensorType::IQ4_XS: return "IQ4_XS";
    }
    return "unknown";
}

FileMatrix random_matrix(check::Rng& rng, TensorType type, int64_t rows, int64_t columns,
                         Style style, double size) {
    const FileBlock block = file_block(type);
    const int64_t blocks = rows * columns / block.elements;
    FileMatrix matrix{type, rows, columns, {}, {}, {}};
    matrix.bytes.resize(static_cast<size_t>(blocks * block.bytes));
    for (int64_t b = 0; b < blocks; ++b) {
        uint8_t* at = matrix.bytes.data() + b * block.bytes;
        if (style != Style::zero && block.elements == 1) {
            fill_float(rng, type, style, size, at);
        } else if (style != Style::zero) {
            fill_block(rng, type, style, size, at);
        }
        Block decoded;
        decode(type, at, decoded);
        matrix.weights.insert(matrix.weights.end(), decoded.weights,
                              decoded.weights + decoded.filled);
        matrix.magnitudes.insert(matrix.magnitudes.end(), decoded.magnitudes,
                                 decoded.magnitudes + decoded.filled);
    }
    if (block.elements > 1) return matrix;
    for (int64_t r = 0; r < rows; ++r) {  // of floats, 32 columns of a row make a block
        for (int64_t first = 0; first < columns; first += 32) {
            const auto begin = matrix.magnitudes.begin() + r * columns + first;
            const auto end = begin + std::min<int64_t>(32, columns - first);
            std::fill(begin, end, *std::max_element(begin, end));
        }
    }
    return matrix;
}

}  // namespace alpage

// Rows of each file format into panels (layout: kernels/kernels.h).

#include <algorithm>
#include <bit>
#include <numeric>

#include "numbers.h"
#include "pack.h"

namespace alpage {
namespace {

// Quants of one block of 32 columns of 16 rows, as unsigned bytes, and their scales.
using Values = uint8_t[panel_rows][block_columns];

bool finite_half(const uint8_t* p) { return (load_as<uint16_t>(p) & 0x7c00) != 0x7c00; }

// The 6-bit scale and minimum number j of the 12 packed bytes of Q4_K and Q5_K.
void scale_min(const uint8_t* s, int j, uint8_t& scale, uint8_t& minimum) {
    if (j < 4) {
        scale = s[j] & 63;
        minimum = s[j + 4] & 63;
    } else {
        scale = static_cast<uint8_t>((s[j + 4] & 15) | s[j - 4] >> 6 << 4);
        minimum = static_cast<uint8_t>(s[j + 4] >> 4 | s[j] >> 6 << 4);
    }
}

// The signed 6-bit scale number k of the 12 packed bytes of Q3_K.
uint8_t q3_scale(const uint8_t* s, int k) {
    const int low = s[k % 8] >> k / 8 * 4 & 15, high = s[8 + k % 4] >> k / 4 * 2 & 3;
    return static_cast<uint8_t>((low | high << 4) - 32);
}

void nibbles(const uint8_t* packed, uint8_t* u) {  // 16 bytes: 16 low, then 16 high
    for (int j = 0; j < 16; ++j) {
        u[j] = packed[j] & 15;
        u[j + 16] = packed[j] >> 4;
    }
}

// Unsigned values of block `b` (32 columns, an eighth of the file's block) of one file row.
void read_values(TensorType type, const uint8_t* row, int64_t b, uint8_t* u) {
    const uint8_t* block = row + b / 8 * file_block(type).bytes;
    const int sub = static_cast<int>(b % 8);
    switch (type) {
        case TensorType::IQ4_XS: nibbles(block + 8 + sub * 16, u); break;
        case TensorType::Q2_K: case TensorType::Q3_K: {
            const bool three = type == TensorType::Q3_K;  // the third bit: bit `sub` of byte j
            const uint8_t* q = block + (three ? 32 : 16) + sub / 4 * 32;
            for (int j = 0; j < 32; ++j) {
                u[j] = static_cast<uint8_t>((q[j] >> sub % 4 * 2 & 3) |
                                            (three ? block[j] >> sub & 1 : 0) << 2);
            }
            break;
        }
        default: break;
    }
}

// Scales of block `b` of one file row into lane `lane` of the panel's scales part.
bool copy_scales(TensorType type, const uint8_t* row, int64_t b, int lane, uint8_t* scales) {
    const uint8_t* block = row + b / 8 * file_block(type).bytes;
    const int sub = static_cast<int>(b % 8);
    if (type == TensorType::Q3_K) {
        const uint8_t* d = block + 108;
        uint8_t* out = scales + b / 8 * 288;
        std::memcpy(out + 2 * lane, d, 2);
        for (int k = 2 * sub; k < 2 * sub + 2; ++k) {
            out[32 + k * 16 + lane] = q3_scale(block + 96, k);
        }
        return finite_half(d);
    }
    if (type == TensorType::IQ4_XS) {
        const int low = block[4 + sub / 2] >> sub % 2 * 4 & 15;
        const int high = load_as<uint16_t>(block + 2) >> 2 * sub & 3;
        uint8_t* out = scales + b / 8 * 160;
        std::memcpy(out + 2 * lane, block, 2);
        out[32 + sub * 16 + lane] = static_cast<uint8_t>((low | high << 4) - 32);
        return finite_half(block);
    }
    const uint8_t* halves = block + 80;  // Q2_K
    uint8_t* out = scales + b / 8 * 320;
    std::memcpy(out + 2 * lane, halves, 2);
    std::memcpy(out + 32 + 2 * lane, halves + 2, 2);
    out[64 + sub * 32 + lane] = block[2 * sub];
    out[80 + sub * 32 + lane] = block[2 * sub + 1];
    return finite_half(halves) && finite_half(halves + 2);
}

using Groups = uint32_t[8][panel_rows];  // 4 columns of each row

// Bits `shift` and `shift + 1` of every quant into 128 bytes.
void pack_pairs(const Groups& groups, int shift, uint8_t* out) {
    uint32_t packed[2][panel_rows] = {};
    for (int g = 0; g < 8; ++g) {
        for (int r = 0; r < panel_rows; ++r) {
            packed[g / 4][r] |= (groups[g][r] >> shift & 0x03030303) << 2 * (g % 4);
        }
    }
    std::memcpy(out, packed, sizeof packed);
}

// Bit `shift` of every quant into 64 bytes.
void pack_singles(const Groups& groups, int shift, uint8_t* out) {
    uint32_t packed[panel_rows] = {};
    for (int g = 0; g < 8; ++g) {
        for (int r = 0; r < panel_rows; ++r) {
            packed[r] |= (groups[g][r] >> shift & 0x01010101) << g;
        }
    }
    std::memcpy(out, packed, sizeof packed);
}

void pack_quants(TensorType type, const Values& u, uint8_t* out) {
    Groups groups;
    for (int r = 0; r < panel_rows; ++r) {
        for (int g = 0; g < 8; ++g) groups[g][r] = load_as<uint32_t>(&u[r][4 * g]);
    }
    const int bits = quant_bits(type);
    if (bits < 4) {
        pack_pairs(groups, 0, out);
        if (bits == 3) pack_singles(groups, 2, out + 128);
        return;
    }
    uint32_t low[4][panel_rows];
    for (int i = 0; i < 4; ++i) {
        for (int r = 0; r < panel_rows; ++r) {
            low[i][r] = (groups[2 * i][r] & 0x0f0f0f0f) | (groups[2 * i + 1][r] & 0x0f0f0f0f) << 4;
        }
    }
    std::memcpy(out, low, sizeof low);
}

// The fifth bits of 32 columns, bit 4 g + k of column 4 g + k, as byte k, bit g.
inline uint32_t fifth_bits(uint32_t bits) {
    uint32_t result = 0;
    for (int k = 0; k < 4; ++k) {  // every fourth bit, pushed together
        uint32_t v = bits >> k & 0x11111111;
        v = (v | v >> 3) & 0x03030303;
        v = (v | v >> 6) & 0x000f000f;
        result |= ((v | v >> 12) & 0xff) << 8 * k;
    }
    return result;
}

// A panel of a type whose file blocks are scales (one or two halves), perhaps 32 fifth bits, then
// 16 bytes of nibbles, which go over without being spread to bytes.
template <int halves, bool fifth>
bool pack_nibbles(const uint8_t* const* rows, int64_t blocks, uint8_t* scales, uint8_t* quants) {
    constexpr uint32_t low = 0x0f0f0f0f;
    constexpr int head = 2 * halves + (fifth ? 4 : 0), quant_bytes = fifth ? 320 : 256;
    bool finite = true;
    for (int64_t b = 0; b < blocks; ++b, scales += 32 * halves, quants += quant_bytes) {
        for (int r = 0; r < panel_rows; ++r) {
            if (!rows[r]) continue;  // the buffer is zero there
            const uint8_t* block = rows[r] + b * (head + 16);
            for (int h = 0; h < halves; ++h) {
                finite = finite_half(block + 2 * h) && finite;
                std::memcpy(scales + 32 * h + 2 * r, block + 2 * h, 2);
            }
            if constexpr (fifth) {
                const uint32_t bits = fifth_bits(load_as<uint32_t>(block + 2 * halves));
                std::memcpy(quants + 256 + 4 * r, &bits, 4);
            }
            uint32_t w[4];  // byte j has column j below, column j + 16 above
            std::memcpy(w, block + head, sizeof w);
            const uint32_t packed[4] = {
                (w[0] & low) | (w[1] & low) << 4, (w[2] & low) | (w[3] & low) << 4,
                (w[0] >> 4 & low) | (w[1] & ~low), (w[2] >> 4 & low) | (w[3] & ~low)};
            for (int i = 0; i < 4; ++i) std::memcpy(quants + 64 * i + 4 * r, &packed[i], 4);
        }
    }
    return finite;
}

// 32 columns of one row of a K type, four to a word. `high` nibbles are the second 32 of a pair.
struct Words {
    uint32_t word[8];
    explicit Words(const uint8_t* from) { std::memcpy(word, from, sizeof word); }
};

void put_nibbles(const Words& q, bool high, int lane, uint8_t* quants) {
    constexpr uint32_t low = 0x0f0f0f0f;
    for (int i = 0; i < 4; ++i) {
        const uint32_t a = q.word[2 * i], b = q.word[2 * i + 1];
        const uint32_t packed = high ? (a >> 4 & low) | (b & ~low) : (a & low) | (b & low) << 4;
        std::memcpy(quants + 64 * i + 4 * lane, &packed, 4);
    }
}

// A panel of Q4_K or, with fifth bits, Q5_K. `blocks` are the file's, of 256 columns.
template <bool fifth>
bool pack_k_pairs(const uint8_t* const* rows, int64_t blocks, uint8_t* scales, uint8_t* quants) {
    constexpr int quant_bytes = fifth ? 320 : 256, head = fifth ? 48 : 16;
    bool finite = true;
    for (int64_t b = 0; b < blocks; ++b, scales += 320, quants += 8 * quant_bytes) {
        for (int r = 0; r < panel_rows; ++r) {
            if (!rows[r]) continue;  // the buffer is zero there
            const uint8_t* block = rows[r] + b * (head + 128);
            finite = finite_half(block) && finite_half(block + 2) && finite;
            std::memcpy(scales + 2 * r, block, 2);
            std::memcpy(scales + 32 + 2 * r, block + 2, 2);
            for (int sub = 0; sub < 8; ++sub) {
                uint8_t* at = scales + 64 + sub * 32 + r;
                scale_min(block + 4, sub, at[0], at[16]);
            }
            for (int pair = 0; pair < 4; ++pair) {
                const Words q(block + head + 32 * pair);
                put_nibbles(q, false, r, quants + 2 * pair * quant_bytes);
                put_nibbles(q, true, r, quants + (2 * pair + 1) * quant_bytes);
            }
            if constexpr (fifth) {
                const Words bits(block + 16);
                for (int sub = 0; sub < 8; ++sub) {
                    uint32_t packed = 0;
                    for (int g = 0; g < 8; ++g) {
                        packed |= (bits.word[g] >> sub & 0x01010101) << g;
                    }
                    std::memcpy(quants + sub * quant_bytes + 256 + 4 * r, &packed, 4);
                }
            }
        }
    }
    return finite;
}

// A panel of Q6_K, as above.
bool pack_q6_k(const uint8_t* const* rows, int64_t blocks, uint8_t* scales, uint8_t* quants) {
    constexpr int quant_bytes = 384;
    bool finite = true;
    for (int64_t b = 0; b < blocks; ++b, scales += 288, quants += 8 * quant_bytes) {
        for (int r = 0; r < panel_rows; ++r) {
            if (!rows[r]) continue;
            const uint8_t* block = rows[r] + b * 210;
            finite = finite_half(block + 208) && finite;
            std::memcpy(scales + 2 * r, block + 208, 2);
            for (int k = 0; k < 16; ++k) scales[32 + k * 16 + r] = block[192 + k];
            for (int sub = 0; sub < 8; ++sub) {
                const int half = sub / 4, part = sub % 4;  // halves of 128 columns
                uint8_t* out = quants + sub * quant_bytes;
                put_nibbles(Words(block + half * 64 + part % 2 * 32), part >= 2, r, out);
                const Words high(block + 128 + half * 32);
                uint32_t packed[2] = {};
                for (int g = 0; g < 8; ++g) {
                    packed[g / 4] |= (high.word[g] >> 2 * part & 0x03030303) << 2 * (g % 4);
                }
                for (int i = 0; i < 2; ++i) {
                    std::memcpy(out + 256 + 64 * i + 4 * r, &packed[i], 4);
                }
            }
        }
    }
    return finite;
}

// The same of Q8_0: signed bytes become unsigned ones, four columns at a time.
bool pack_bytes(const uint8_t* const* rows, int64_t blocks, uint8_t* scales, uint8_t* quants) {
    bool finite = true;
    for (int64_t b = 0; b < blocks; ++b, scales += 32, quants += 512) {
        for (int r = 0; r < panel_rows; ++r) {
            if (!rows[r]) continue;
            const uint8_t* block = rows[r] + b * 34;
            finite = finite_half(block) && finite;
            std::memcpy(scales + 2 * r, block, 2);
            for (int g = 0; g < 8; ++g) {
                const uint32_t four = load_as<uint32_t>(block + 2 + 4 * g) ^ 0x80808080;
                std::memcpy(quants + 64 * g + 4 * r, &four, 4);
            }
        }
    }
    return finite;
}

// The loops below are plain ones over 32 numbers, which compilers turn into vectors.

// 32 floats of a file's row; not finite ones as infinities or NaN.
template <TensorType type>
void load_floats(const uint8_t* row, float (&values)[block_columns]) {
    if constexpr (type == TensorType::F32) {
        std::memcpy(values, row, sizeof values);
        return;
    }
    uint16_t codes[block_columns];
    std::memcpy(codes, row, sizeof codes);
    for (int k = 0; k < block_columns; ++k) {
        const uint32_t code = codes[k];
        if constexpr (type == TensorType::BF16) {
            values[k] = std::bit_cast<float>(code << 16);
        } else {
            // A half's exponent is 112 less; multiplied, its subnormals become normal. From 2^16 on
            // it stands for what is not finite.
            const float size = std::bit_cast<float>((code & 0x7fff) << 13) * 0x1p112f;
            const uint32_t bits = size < 0x1p16f ? std::bit_cast<uint32_t>(size) : 0x7f800000;
            values[k] = std::bit_cast<float>(bits | (code & 0x8000) << 16);
        }
    }
}

// A block of floats to integers within the limits of kernels.h, in the order of a panel; returns
// their scale in bf16, which is infinite if a number is not finite.
uint16_t round_to_words(const float (&values)[block_columns], uint32_t (&pairs)[16]) {
    constexpr int lanes = 8;
    int32_t largest[lanes] = {};  // without their sign floats keep their order as integers
    float sums[lanes] = {};
    for (int first = 0; first < block_columns; first += lanes) {
        for (int i = 0; i < lanes; ++i) {
            const int32_t size = std::bit_cast<int32_t>(values[first + i]) & 0x7fffffff;
            largest[i] = size > largest[i] ? size : largest[i];
            // Divided first: a sum of the largest floats would be infinite.
            sums[i] += std::bit_cast<float>(size) * (1.0f / word_sum_limit);
        }
    }
    const int32_t most = *std::max_element(largest, largest + lanes);
    if (most >= 0x7f800000) return 0x7f80;
    std::fill_n(pairs, 16, 0u);
    if (std::bit_cast<float>(most) < 1e-30f) return 0;
    const float sum = std::accumulate(sums, sums + lanes, 0.0f);
    const float scale = std::max(std::bit_cast<float>(most) / word_limit, sum);
    // Rounded up, so that no word and no sum is larger than its limit.
    const uint32_t code = (std::bit_cast<uint32_t>(scale) + 0xffff) >> 16;
    const float inverse = 1 / std::bit_cast<float>(code << 16);
    uint16_t words[block_columns];
    for (int k = 0; k < block_columns; ++k) {
        // Added to 1.5 * 2^23, a number is rounded to the nearest integer, which lies in the low
        // bits (ties to even).
        words[k] = static_cast<uint16_t>(std::bit_cast<uint32_t>(values[k] * inverse + 0x1.8p23f));
    }
    for (int k = 0; k < block_columns; k += 4) {  // 0, 2, 1, 3 of each four
        pairs[k / 2] = words[k] | static_cast<uint32_t>(words[k + 2]) << 16;
        pairs[k / 2 + 1] = words[k + 1] | static_cast<uint32_t>(words[k + 3]) << 16;
    }
    return static_cast<uint16_t>(code);
}

template <TensorType type>
bool pack_words(const uint8_t* const* rows, int64_t columns, uint8_t* scales, uint8_t* quants) {
    constexpr int64_t number_bytes = type == TensorType::F32 ? 4 : 2;
    bool finite = true;
    uint8_t padded[block_columns * number_bytes] = {};
    float values[block_columns];
    uint32_t pairs[16];
    for (int64_t first = 0; first < columns; first += block_columns) {
        const int64_t count = std::min<int64_t>(block_columns, columns - first);
        for (int r = 0; r < panel_rows; ++r) {
            if (!rows[r]) continue;  // the buffer is zero there
            const uint8_t* from = rows[r] + first * number_bytes;
            if (count < block_columns) {
                std::copy_n(from, count * number_bytes, padded);
                from = padded;
            }
            load_floats<type>(from, values);
            const uint16_t scale = round_to_words(values, pairs);
            finite = finite && scale < 0x7f80;
            std::memcpy(scales + 2 * r, &scale, 2);
            for (int i = 0; i < 16; ++i) std::memcpy(quants + i * 64 + 4 * r, &pairs[i], 4);
        }
        scales += 2 * panel_rows;
        quants += block_columns * 2 * panel_rows;
    }
    return finite;
}

}  // namespace

bool Matrix::pack_panel(int64_t panel, const uint8_t* file_rows, const int32_t* order) {
    const FileBlock file = file_block(type);
    const int64_t row_bytes = columns / file.elements * file.bytes;
    const uint8_t* lanes[panel_rows];
    for (int r = 0; r < panel_rows; ++r) {
        const int64_t row = panel * panel_rows + r;
        lanes[r] = row < rows ? file_rows + (order ? order[row] : row) * row_bytes : nullptr;
    }
    uint8_t* out = data.data() + panel * panel_bytes;
    const PanelLayout layout = panel_layout(type, columns);
    const int64_t blocks = block_count(columns), quant_bytes = layout.quant_bytes / blocks;
    uint8_t* quants = out + layout.scale_bytes;
    switch (type) {
        case TensorType::F32: return pack_words<TensorType::F32>(lanes, columns, out, quants);
        case TensorType::F16: return pack_words<TensorType::F16>(lanes, columns, out, quants);
        case TensorType::BF16: return pack_words<TensorType::BF16>(lanes, columns, out, quants);
        case TensorType::Q4_0:
        case TensorType::IQ4_NL: return pack_nibbles<1, false>(lanes, blocks, out, quants);
        case TensorType::Q4_1: return pack_nibbles<2, false>(lanes, blocks, out, quants);
        case TensorType::Q5_0: return pack_nibbles<1, true>(lanes, blocks, out, quants);
        case TensorType::Q5_1: return pack_nibbles<2, true>(lanes, blocks, out, quants);
        case TensorType::Q8_0: return pack_bytes(lanes, blocks, out, quants);
        case TensorType::Q4_K: return pack_k_pairs<false>(lanes, blocks / 8, out, quants);
        case TensorType::Q5_K: return pack_k_pairs<true>(lanes, blocks / 8, out, quants);
        case TensorType::Q6_K: return pack_q6_k(lanes, blocks / 8, out, quants);
        default: break;
    }
    bool finite = true;
    Values u;
    for (int64_t b = 0; b < blocks; ++b) {
        for (int r = 0; r < panel_rows; ++r) {
            if (!lanes[r]) {
                std::memset(u[r], 0, sizeof u[r]);
                continue;
            }
            read_values(type, lanes[r], b, u[r]);
            finite = copy_scales(type, lanes[r], b, r, out) && finite;
        }
        pack_quants(type, u, quants + b * quant_bytes);
    }
    return finite;
}

}  // namespace alpage

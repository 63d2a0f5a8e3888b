#include "pack.h"

#include <algorithm>
#include <cstdlib>
#include <new>
#include <stdexcept>
#include <string>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "numbers.h"

namespace alpage {

TensorType tensor_type(int number) {
    switch (static_cast<TensorType>(number)) {
        case TensorType::F32: case TensorType::F16: case TensorType::BF16: case TensorType::Q4_0:
        case TensorType::Q4_1: case TensorType::Q5_0: case TensorType::Q5_1: case TensorType::Q8_0:
        case TensorType::Q4_K: case TensorType::Q5_K: case TensorType::Q6_K:
        case TensorType::Q2_K: case TensorType::Q3_K: case TensorType::IQ4_NL:
        case TensorType::IQ4_XS:
            return static_cast<TensorType>(number);
    }
    throw std::invalid_argument("unknown tensor type " + std::to_string(number));
}

FileBlock file_block(TensorType type) {
    switch (type) {
        case TensorType::F32: return {1, 4};
        case TensorType::F16: case TensorType::BF16: return {1, 2};
        case TensorType::Q4_0: case TensorType::IQ4_NL: return {32, 18};
        case TensorType::Q4_1: return {32, 20};
        case TensorType::Q5_0: return {32, 22};
        case TensorType::Q5_1: return {32, 24};
        case TensorType::Q8_0: return {32, 34};
        case TensorType::Q2_K: return {256, 84};
        case TensorType::Q3_K: return {256, 110};
        case TensorType::Q4_K: return {256, 144};
        case TensorType::Q5_K: return {256, 176};
        case TensorType::Q6_K: return {256, 210};
        case TensorType::IQ4_XS: return {256, 136};
    }
    throw std::invalid_argument("unknown tensor type");
}

PanelLayout panel_layout(TensorType type, int64_t columns) {
    int64_t scales = 0;  // bytes per block of 32 columns
    switch (type) {
        case TensorType::F32: return {0, columns * 64};
        case TensorType::F16: case TensorType::BF16: return {0, (columns * 32 + 63) / 64 * 64};
        case TensorType::Q4_0: case TensorType::Q5_0: case TensorType::Q8_0:
        case TensorType::IQ4_NL: scales = 32; break;
        case TensorType::Q4_1: case TensorType::Q5_1: scales = 64; break;
        // Per 256 columns: scale and minimum (half) of 16 rows, then 8 x 16 six-bit of each, or
        // 16 x 16 bytes with four bits of each (Q2_K).
        case TensorType::Q2_K: case TensorType::Q4_K: case TensorType::Q5_K:
            scales = (64 + 256) / 8;
            break;
        // Per 256 columns: scale (half) of 16 rows, then 16 x 16 or 8 x 16 signed bytes.
        case TensorType::Q3_K: case TensorType::Q6_K: scales = (32 + 256) / 8; break;
        case TensorType::IQ4_XS: scales = (32 + 128) / 8; break;
    }
    const int64_t blocks = columns / block_columns;
    return {(blocks * scales + 63) / 64 * 64, blocks * quant_bits(type) * 64};
}

#if defined(__SANITIZE_ADDRESS__)
#define ALPAGE_ASAN
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define ALPAGE_ASAN
#endif
#endif

namespace {

constexpr size_t huge_page = size_t{2} << 20;
constexpr size_t arena_chunk = size_t{32} << 20;

std::shared_ptr<uint8_t> from_heap(size_t bytes) {
    void* p = std::aligned_alloc(64, bytes);
    if (!p) throw std::bad_alloc();
    std::memset(p, 0, bytes);
    return {static_cast<uint8_t*>(p), [](uint8_t* q) { std::free(q); }};
}

#if defined(__linux__)
std::shared_ptr<uint8_t> from_system(size_t bytes) {
    void* p = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) throw std::bad_alloc();
    madvise(p, bytes, MADV_HUGEPAGE);  // a wish: fewer TLB misses where the system grants it
    return {static_cast<uint8_t*>(p), [bytes](uint8_t* q) { munmap(q, bytes); }};
}
#endif

}  // namespace

std::shared_ptr<uint8_t> Arena::take(size_t bytes) {
#if defined(__linux__) && !defined(ALPAGE_ASAN)
    if (left_ < bytes) {
        chunk_ = from_system(arena_chunk);
        left_ = arena_chunk;
    }
    uint8_t* p = chunk_.get() + (arena_chunk - left_);
    left_ -= bytes;
    return {chunk_, p};
#else
    return from_heap(bytes);  // what reads beyond a buffer is caught there
#endif
}

Buffer::Buffer(size_t bytes, Arena* arena) : size_(bytes) {
    const size_t padded = (bytes + 127) / 64 * 64;
#if defined(__linux__)
    if (padded >= huge_page) {
        data_ = from_system(padded);
        return;
    }
#endif
    data_ = arena ? arena->take(padded) : from_heap(padded);
}

Matrix::Matrix(TensorType t, int64_t r, int64_t c, Arena* arena) : type(t), rows(r), columns(c) {
    if (r < 1 || c < 1 || c % file_block(t).elements) {
        throw std::invalid_argument(std::to_string(c) + " columns are no whole number of blocks");
    }
    panel_bytes = panel_layout(t, c).bytes();
    data = Buffer(static_cast<size_t>(panel_bytes * panel_count()), arena);
}

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
        case TensorType::Q4_K: case TensorType::Q5_K: {
            const uint8_t* q = block + (type == TensorType::Q4_K ? 16 : 48) + sub / 2 * 32;
            const int shift = sub % 2 * 4;
            for (int j = 0; j < 32; ++j) u[j] = q[j] >> shift & 15;
            if (type == TensorType::Q5_K) {
                for (int j = 0; j < 32; ++j) {
                    u[j] |= static_cast<uint8_t>((block[16 + j] >> sub & 1) << 4);
                }
            }
            break;
        }
        case TensorType::Q6_K: {
            const int part = sub % 4;  // of the 128 columns of this half
            const uint8_t* low = block + sub / 4 * 64 + part % 2 * 32;
            const uint8_t* high = block + 128 + sub / 4 * 32;
            for (int j = 0; j < 32; ++j) {
                u[j] = static_cast<uint8_t>((low[j] >> part / 2 * 4 & 15) |
                                            (high[j] >> part * 2 & 3) << 4);
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
    if (type == TensorType::Q3_K || type == TensorType::Q6_K) {
        const bool three = type == TensorType::Q3_K;
        const uint8_t* d = block + (three ? 108 : 208);
        uint8_t* out = scales + b / 8 * 288;
        std::memcpy(out + 2 * lane, d, 2);
        for (int k = 2 * sub; k < 2 * sub + 2; ++k) {
            out[32 + k * 16 + lane] = three ? q3_scale(block + 96, k) : block[192 + k];
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
    const uint8_t* halves = block + (type == TensorType::Q2_K ? 80 : 0);
    uint8_t* out = scales + b / 8 * 320;
    std::memcpy(out + 2 * lane, halves, 2);
    std::memcpy(out + 32 + 2 * lane, halves + 2, 2);
    uint8_t *first = out + 64 + sub * 32 + lane, *second = first + 16;
    if (type == TensorType::Q2_K) {
        *first = block[2 * sub], *second = block[2 * sub + 1];
    } else {
        scale_min(block + 4, sub, *first, *second);
    }
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
    if (bits == 5) pack_singles(groups, 4, out + 256);
    if (bits == 6) pack_pairs(groups, 4, out + 256);
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

template <class T>
bool pack_floats(const uint8_t* const* rows, int64_t columns, uint8_t* panel, T infinity) {
    bool finite = true;
    for (int64_t k = 0; k < columns; ++k) {
        for (int r = 0; r < panel_rows; ++r) {
            const T value = rows[r] ? load_as<T>(rows[r] + k * sizeof(T)) : T{0};
            finite = finite && (value & infinity) != infinity;  // all exponent bits set
            std::memcpy(panel + (k * panel_rows + r) * sizeof(T), &value, sizeof value);
        }
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
    switch (type) {
        case TensorType::F32: return pack_floats<uint32_t>(lanes, columns, out, 0x7f800000);
        case TensorType::F16: return pack_floats<uint16_t>(lanes, columns, out, 0x7c00);
        case TensorType::BF16: return pack_floats<uint16_t>(lanes, columns, out, 0x7f80);
        default: break;
    }
    const PanelLayout layout = panel_layout(type, columns);
    const int64_t blocks = columns / block_columns, quant_bytes = layout.quant_bytes / blocks;
    uint8_t* quants = out + layout.scale_bytes;
    switch (type) {
        case TensorType::Q4_0:
        case TensorType::IQ4_NL: return pack_nibbles<1, false>(lanes, blocks, out, quants);
        case TensorType::Q4_1: return pack_nibbles<2, false>(lanes, blocks, out, quants);
        case TensorType::Q5_0: return pack_nibbles<1, true>(lanes, blocks, out, quants);
        case TensorType::Q5_1: return pack_nibbles<2, true>(lanes, blocks, out, quants);
        case TensorType::Q8_0: return pack_bytes(lanes, blocks, out, quants);
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

void Matrix::dequantize_row(int64_t row, float* out) const {
    const uint8_t* panel = data.data() + row / panel_rows * panel_bytes;
    const int lane = static_cast<int>(row % panel_rows);
    if (is_float(type)) {
        for (int64_t k = 0; k < columns; ++k) {
            const int64_t i = k * panel_rows + lane;
            out[k] = type == TensorType::F32   ? load_as<float>(panel + 4 * i)
                     : type == TensorType::F16 ? load_half(panel + 2 * i)
                                               : bf16_to_float(load_as<uint16_t>(panel + 2 * i));
        }
        return;
    }
    const PanelLayout layout = panel_layout(type, columns);
    const int64_t blocks = columns / block_columns, quant_bytes = layout.quant_bytes / blocks;
    const int bits = quant_bits(type);
    for (int64_t b = 0; b < blocks; ++b) {
        const BlockScales s = block_scales(type, panel, b, lane);
        const uint8_t* quants = panel + layout.scale_bytes + b * quant_bytes;
        for (int k = 0; k < block_columns; ++k) {
            const unsigned stored = stored_quant(bits, quants, k / 4, 4 * lane + k % 4);
            const unsigned quant = is_iq4(type) ? iq4_quants[stored] : stored;
            const auto value = static_cast<float>(static_cast<int>(quant) - s.zero);
            out[b * block_columns + k] = value * s.scale[k / 16] + s.minimum[k / 16];
        }
    }
}

BlockScales block_scales(TensorType type, const uint8_t* scales, int64_t b, int lane) {
    BlockScales s{{0, 0}, 0, {0, 0}};
    const int sub = static_cast<int>(b % 8);
    switch (type) {
        case TensorType::Q4_0: s.zero = 8; break;
        case TensorType::Q5_0: s.zero = 16; break;
        case TensorType::Q8_0: case TensorType::IQ4_NL: case TensorType::IQ4_XS:
            s.zero = 128;
            break;
        case TensorType::Q3_K: s.zero = 4; break;
        case TensorType::Q6_K: s.zero = 32; break;
        default: break;
    }
    if (type == TensorType::Q3_K || type == TensorType::Q6_K) {
        const uint8_t* super = scales + b / 8 * 288;
        const float d = load_half(super + 2 * lane);
        for (int i = 0; i < 2; ++i) {
            const uint8_t* at = super + 32 + sub * 32 + 16 * i + lane;
            s.scale[i] = d * static_cast<float>(load_as<int8_t>(at));
        }
    } else if (type == TensorType::Q4_K || type == TensorType::Q5_K) {
        const uint8_t* super = scales + b / 8 * 320;
        const uint8_t* six_bit = super + 64 + sub * 32 + lane;
        s.scale[0] = s.scale[1] = load_half(super + 2 * lane) * static_cast<float>(six_bit[0]);
        s.minimum[0] = s.minimum[1] =
            -load_half(super + 32 + 2 * lane) * static_cast<float>(six_bit[16]);
    } else if (type == TensorType::Q2_K) {
        const uint8_t* super = scales + b / 8 * 320;
        for (int i = 0; i < 2; ++i) {
            const uint8_t both = super[64 + sub * 32 + 16 * i + lane];
            s.scale[i] = load_half(super + 2 * lane) * static_cast<float>(both & 15);
            s.minimum[i] = -load_half(super + 32 + 2 * lane) * static_cast<float>(both >> 4);
        }
    } else if (type == TensorType::IQ4_XS) {
        const uint8_t* super = scales + b / 8 * 160;
        const float times = load_as<int8_t>(super + 32 + sub * 16 + lane);
        s.scale[0] = s.scale[1] = load_half(super + 2 * lane) * times;
    } else {
        const bool minimum = type == TensorType::Q4_1 || type == TensorType::Q5_1;
        const uint8_t* at = scales + b * (minimum ? 64 : 32) + 2 * lane;
        s.scale[0] = s.scale[1] = load_half(at);
        if (minimum) s.minimum[0] = s.minimum[1] = load_half(at + 32);
    }
    return s;
}

}  // namespace alpage

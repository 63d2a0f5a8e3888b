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
        case TensorType::F32: case TensorType::F16: case TensorType::BF16:
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
    const int64_t blocks = block_count(columns);
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

void Matrix::dequantize_row(int64_t row, float* out) const {
    const uint8_t* panel = data.data() + row / panel_rows * panel_bytes;
    const int lane = static_cast<int>(row % panel_rows);
    const PanelLayout layout = panel_layout(type, columns);
    const int64_t blocks = block_count(columns), quant_bytes = layout.quant_bytes / blocks;
    const int bits = quant_bits(type);
    for (int64_t b = 0; b < blocks; ++b) {
        const BlockScales s = block_scales(type, panel, b, lane);
        const uint8_t* quants = panel + layout.scale_bytes + b * quant_bytes;
        if (is_float(type)) {
            const int64_t count = std::min<int64_t>(block_columns, columns - b * block_columns);
            for (int64_t k = 0; k < count; ++k) {
                const int64_t word = k / 4 * 4 + word_order[k % 4];
                const uint8_t* at = quants + word / 2 * 64 + 4 * lane + word % 2 * 2;
                out[b * block_columns + k] = s.scale[0] * static_cast<float>(load_as<int16_t>(at));
            }
            continue;
        }
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
    if (is_float(type)) {
        s.scale[0] = s.scale[1] = bf16_to_float(load_as<uint16_t>(scales + b * 32 + 2 * lane));
    } else if (type == TensorType::Q3_K || type == TensorType::Q6_K) {
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

// Weight matrices repacked from a file's rows into panels (layout: kernels/kernels.h).
#pragma once

#include <memory>

#include "alpage/types.h"
#include "kernels/kernels.h"

namespace alpage {

// Huge pages (a wish to the system) that small buffers share: with pages of their own, the faults
// alone take a third of the time that a small model loads in. A chunk goes with its last buffer.
class Arena {
public:
    std::shared_ptr<uint8_t> take(size_t bytes);  // of zeros, a multiple of 64

private:
    std::shared_ptr<uint8_t> chunk_;
    size_t left_ = 0;
};

// 64-byte aligned (large ones: huge-page aligned) bytes; zero at first, touched lazily.
class Buffer {
public:
    Buffer() = default;
    Buffer(Buffer&&) = default;  // and no copies: they would be the same bytes
    Buffer& operator=(Buffer&&) = default;
    explicit Buffer(size_t bytes, Arena* arena = nullptr);  // throws std::bad_alloc
    uint8_t* data() const { return data_.get(); }
    size_t size() const { return size_; }

private:
    std::shared_ptr<uint8_t> data_;
    size_t size_ = 0;
};

// Scales of one block of 32 columns for one row: weight = scale[column / 16] * (quant - zero) +
// minimum[column / 16]. Only Q2_K, Q3_K and Q6_K have two different ones.
struct BlockScales {
    float scale[2];
    int zero;
    float minimum[2];
};
BlockScales block_scales(TensorType type, const uint8_t* scales, int64_t block, int lane);

// The unsigned quant in byte `byte` of group `g` of a panel's block; of IQ4 types, the index.
inline unsigned stored_quant(int bits, const uint8_t* quants, int g, int byte) {
    if (bits == 8) return quants[g * 64 + byte];
    if (bits < 4) {
        const unsigned low = quants[g / 4 * 64 + byte] >> 2 * (g % 4) & 3;
        return bits == 2 ? low : low | static_cast<unsigned>(quants[128 + byte] >> g & 1) << 2;
    }
    unsigned value = quants[g / 2 * 64 + byte] >> g % 2 * 4 & 15;
    if (bits == 5) value |= static_cast<unsigned>(quants[256 + byte] >> g & 1) << 4;
    if (bits == 6) {
        value |= static_cast<unsigned>(quants[256 + g / 4 * 64 + byte] >> 2 * (g % 4) & 3) << 4;
    }
    return value;
}

class Matrix {
public:
    Matrix() = default;
    // Throws std::invalid_argument when columns do not fill whole blocks of the type.
    Matrix(TensorType type, int64_t rows, int64_t columns, Arena* arena = nullptr);

    TensorType type = TensorType::F32;
    int64_t rows = 0, columns = 0, panel_bytes = 0;
    Buffer data;

    bool empty() const { return rows == 0; }
    int64_t panel_count() const { return (rows + panel_rows - 1) / panel_rows; }

    // Fill panel p from file rows; row r of the matrix is file row order[r] (null: r itself).
    // Returns false when a weight or a scale is NaN or infinite.
    bool pack_panel(int64_t panel, const uint8_t* file_rows, const int32_t* order);
    void dequantize_row(int64_t row, float* out) const;
};

}  // namespace alpage

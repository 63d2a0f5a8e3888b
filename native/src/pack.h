// Weight matrices repacked from a file's rows into panels (layout: kernels/kernels.h).
#pragma once

#include <memory>

#include "alpage/types.h"
#include "kernels/kernels.h"

namespace alpage {

struct FreeBytes {
    size_t mapped = 0;  // bytes to unmap; 0: from the heap
    void operator()(uint8_t* p) const;
};

// 64-byte aligned (large ones: huge-page aligned) bytes; zero at first, touched lazily.
class Buffer {
public:
    Buffer() = default;
    explicit Buffer(size_t bytes);  // throws std::bad_alloc
    uint8_t* data() const { return data_.get(); }
    size_t size() const { return size_; }

private:
    std::unique_ptr<uint8_t, FreeBytes> data_;
    size_t size_ = 0;
};

// Scales of one block of 32 columns for one row: weight = scale[column / 16] * (quant - zero) +
// minimum. Only Q6_K has two different scales, only types with a minimum have one.
struct BlockScales {
    float scale[2];
    int zero;
    float minimum;
};
BlockScales block_scales(TensorType type, const uint8_t* scales, int64_t block, int lane);

class Matrix {
public:
    Matrix() = default;
    // Throws std::invalid_argument when columns do not fill whole blocks of the type.
    Matrix(TensorType type, int64_t rows, int64_t columns);

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

// From floating-point weights to the blocks of a GGUF file.
#pragma once

#include <string>

#include "alpage/types.h"

namespace alpage {

enum class Encoded {
    done,
    not_finite,  // a weight is NaN or infinite
    too_large,   // a weight or scale is beyond the type's range (half precision ends at 65504)
};

struct EncodeRequest {
    TensorType from;         // F32, F16 or BF16
    const uint8_t* weights;  // [rows][columns]
    int64_t rows, columns;   // columns: whole blocks of `to`
    TensorType to;
    // [columns], finite and not negative: what an error of a column's weights costs. Null: all the
    // same. Types without scales take no notice of it.
    const float* importance;
    int threads;
    std::string isa;  // "" for the best of this machine, or one of kernel_names()
};

// Writes rows * columns / file_block(to).elements * file_block(to).bytes bytes to `out`, the same
// ones on every instruction set and for every number of threads. Unless the result is `done` they
// are not to be used. Throws std::invalid_argument for a request that makes no sense.
Encoded encode(const EncodeRequest& request, uint8_t* out);

}  // namespace alpage

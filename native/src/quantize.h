// The encoders that one instruction set provides.
#pragma once

#include "alpage/types.h"

namespace alpage {

// Weights that are encoded at a time: whole batches of every type's blocks.
inline constexpr int64_t encode_piece = 16384;

struct EncodePiece {
    const float* x;
    int64_t count;            // a multiple of the type's block, at most encode_piece
    int64_t first;            // place of x[0] in the tensor
    const float* importance;  // [columns] or null
    int64_t columns;
};

struct Encoders {
    const char* name;
    // F16 or BF16 to floats.
    void (*widen)(TensorType from, const uint8_t* raw, int64_t count, float* out);
    // The largest magnitude; not finite if one of the numbers is not.
    float (*largest)(const float* x, int64_t count);
    // False when a weight or scale is too large for the type.
    bool (*encode)(TensorType to, const EncodePiece& piece, uint8_t* out);
};

extern const Encoders scalar_encoders;
#ifdef ALPAGE_X86
extern const Encoders avx2_encoders;
extern const Encoders avx512_encoders;
#endif

}  // namespace alpage

// Random weights in a file's format, and what they mean in double precision, written from the
// block definitions of GGUF (ggml-common.h) and sharing no code with the core.
#pragma once

#include "alpage/types.h"
#include "check.h"

namespace alpage {

inline constexpr TensorType all_types[] = {
    TensorType::F32,  TensorType::F16,  TensorType::BF16, TensorType::Q4_0,
    TensorType::Q4_1, TensorType::Q5_0, TensorType::Q5_1, TensorType::Q8_0,
    TensorType::Q2_K, TensorType::Q3_K, TensorType::Q4_K, TensorType::Q5_K,
    TensorType::Q6_K, TensorType::IQ4_NL, TensorType::IQ4_XS,
};

const char* type_name(TensorType type);

// normal: weights of about `size`. lowest and highest: all quants the least or the greatest. tiny
// and large: the smallest half-precision scales there are, and large ones. zero: all bytes 0.
enum class Style { normal, lowest, highest, tiny, large, zero };
inline constexpr Style all_styles[] = {Style::normal, Style::lowest, Style::highest,
                                       Style::tiny,   Style::large,  Style::zero};

struct FileMatrix {
    TensorType type;
    int64_t rows, columns;
    std::vector<uint8_t> bytes;
    std::vector<double> weights;  // [rows][columns]
    // The largest |scale * quant| and |offset| of each weight's block, [rows][columns]: rounding
    // errors of the core's formula are proportional to it, not to the weight.
    std::vector<double> magnitudes;

    const double* row(int64_t r) const { return weights.data() + r * columns; }
};

FileMatrix random_matrix(check::Rng& rng, TensorType type, int64_t rows, int64_t columns,
                         Style style = Style::normal, double size = 1);

}  // namespace alpage

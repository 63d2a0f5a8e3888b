// The table of kernels that one instruction set provides, and the layouts they agree on.
//
// A weight matrix [rows][columns] is stored as panels of 16 rows. A quantised panel has two parts:
//   scales   per block of 32 columns (K types: per 256), 32-byte aligned
//   quants   per block of 32 columns, 64-byte aligned; the unsigned value of row r, column 4g + j
//            lies in byte 4r + j of 64-byte group g (g = 0..7), the order that a 4-way 8-bit dot
//            product eats. 4 low bits: groups 2i and 2i + 1 share 64 bytes (low, high nibble).
//            5th bit: bit g of 64 bytes. Bits 5 and 6 of Q6_K: two bits each in 2 x 64 bytes. The
//            2 low bits of Q2_K and Q3_K lie as those two do, the 3rd as a 5th. IQ4 types keep
//            the file's 4-bit indices, which stand for the values of `iq4_quants`.
// A weight is scale * quant + offset, where offset is the block's minimum or a constant times its
// scale, so every type runs through one formula:
//   y += sx * (scale * sum(quant * x)) + offset * (sx * sum(x))      (x: integers, sx: their scale)
// Float types are kept as words: per block and row a scale in bf16 and signed integers; those of
// row r and columns 4g + o and 4g + 2 + o lie in 32-bit lane r of 64-byte group 2g + o (o = 0, 1).
// Columns are padded with zeros to whole blocks. A product of words takes half the time of one in
// single precision, and F32 half of its memory; the default model's logits move by a fraction of
// what the cache in bf16 moves them, where activations in bfloat16 move them by three times of it.
#pragma once

#include <cstdint>

#include "alpage/types.h"

namespace alpage {

inline constexpr int panel_rows = 16;
inline constexpr int block_columns = 32;
inline constexpr int activation_limit = 127 * 128;  // the largest quantised activation
// The largest word of a weight, and what the words of a block add up to at most before they are
// rounded: with any activations the sum of their products fits into 32 bits. Of usual weights that
// leaves 14 bits to the largest of a block.
inline constexpr int word_limit = 32767, word_sum_limit = 132'000;
static_assert(int64_t{activation_limit} * (word_sum_limit + block_columns / 2) <= INT32_MAX);

constexpr int64_t block_count(int64_t columns) {
    return (columns + block_columns - 1) / block_columns;
}
constexpr int64_t padded_columns(int64_t columns) { return block_count(columns) * block_columns; }

struct PanelLayout {
    int64_t scale_bytes;  // the scales part of one panel, rounded up to 64
    int64_t quant_bytes;
    int64_t bytes() const { return scale_bytes + quant_bytes; }
};
PanelLayout panel_layout(TensorType type, int64_t columns);

constexpr bool is_float(TensorType type) {
    return type == TensorType::F32 || type == TensorType::F16 || type == TensorType::BF16;
}

// Bits of a quant as stored; a block of a panel takes 64 bytes for each.
constexpr int quant_bits(TensorType type) {
    switch (type) {
        case TensorType::Q2_K: return 2;
        case TensorType::Q3_K: return 3;
        case TensorType::Q5_0: case TensorType::Q5_1: case TensorType::Q5_K: return 5;
        case TensorType::Q6_K: return 6;
        case TensorType::Q8_0: return 8;
        case TensorType::F32: case TensorType::F16: case TensorType::BF16: return 16;
        default: return 4;
    }
}

// What the indices of IQ4_NL and IQ4_XS stand for, plus 128: quants whose zero is 128.
inline constexpr uint8_t iq4_quants[16] = {1,   24,  45,  63,  79,  93,  106, 118,
                                           129, 141, 153, 166, 181, 197, 217, 241};
constexpr bool is_iq4(TensorType type) {
    return type == TensorType::IQ4_NL || type == TensorType::IQ4_XS;
}

// Rows of activations: 15-bit integers per block of 32 columns, x = scale * (128 * high + low),
// padded with zeros to whole blocks. One byte alone moves the default model's logits by 0.09 (rms)
// and changes greedy answers; two bytes and the bf16 cache together move them by 0.018, and a step
// of decoding, which waits for the weights, hardly notices the second product.
struct Activations {
    int64_t columns;
    const int8_t* q;       // [rows][blocks][2][32], high bytes (-127..127), low bytes (-64..63)
    const int16_t* words;  // [rows][blocks][32], 128 * high + low; in each four columns 0, 2, 1, 3
    const float* scale;    // [rows][blocks]
    const float* sum;      // [rows][blocks], scale * sum of q
    const float* sum16;    // [rows][blocks][2], scale * sum of q
};
inline constexpr int word_order[4] = {0, 2, 1, 3};  // as bytes of weights are taken apart to words
// Where one row of them is written.
struct ActivationRow {
    int8_t* q;
    int16_t* words;
    float *scale, *sum, *sum16;
};

// The largest unsigned quant of a type, as far as kernels differ by it: 15, 63 or 255; or words.
enum class Quants { nibbles, six_bits, bytes, words };

// Part of a product: panels [panel_begin, panel_end) times rows [row_begin, row_end).
struct MatmulPart {
    TensorType type;
    const uint8_t* panels;
    int64_t columns;
    int64_t panel_begin, panel_end, matrix_rows;  // rows past matrix_rows are padding: not written
    int64_t row_begin, row_end;
    float* y;  // [rows][stride], column 0 is the matrix' first row
    int64_t stride;
    bool accumulate;  // y += instead of y =
};

// Part of a product of some rows with a matrix of an adapter, [matrix_rows][columns] in bf16:
// panels of [columns rounded up to 4, / 2][16][2] (pairs of columns), padded with zeros.
struct LowRankPart {
    const uint16_t* panels;
    int64_t panel_begin, panel_end, columns, matrix_rows;
    const int32_t* rows;  // [count], of x and y
    int64_t count;
    const float* x;  // [rows][x_stride]
    int64_t x_stride;
    float* y;  // [rows][y_stride], column 0 is the matrix' first row
    int64_t y_stride;
    bool accumulate;  // y += instead of y =
};

// Scores and weighted values of up to 24 queries that share a key/value head, over one chunk of at
// most `attention_chunk` tokens. Key pages are bf16 [head_dim / 2][16][2], value pages bf16
// [8][head_dim rounded up to 16][2] (pairs of tokens). int8 pages begin with the scales of their
// tokens, float [16]; then come keys [head_dim][16], or values [8][head_dim / 16, rounded up][2]
// [16]. A token's score and weight are multiplied by its scales: the numbers stay integers.
inline constexpr int attention_chunk = 256;
inline constexpr int attention_queries = 24;
inline constexpr int64_t kv_scale_bytes = page_tokens * 4;
struct AttentionPart {
    int64_t head_dim;
    int queries;
    const float* q[attention_queries];  // [head_dim], already divided by sqrt(head_dim)
    int visible[attention_queries];     // tokens of this chunk that the query sees, >= 0
    KvType type;
    const uint8_t* keys;  // of the key/value head in page 0
    const uint8_t* values;
    int64_t key_stride, value_stride;  // bytes from one page to the next
    const int32_t* pages;      // of this chunk
    float* out;                // [queries][out_stride], sum of exp(score - max) * value
    int64_t out_stride;        // a multiple of 16
    float* maximum;            // [queries]
    float* total;              // [queries], sum of exp(score - max)
};

struct Kernels {
    const char* name;
    int panel_tile;  // a product of many rows is fastest over multiples of so many panels
    void (*matmul)(const MatmulPart& part, const Activations& x);
    // One row to integers: scale = max|x| / (127 * 128) per 32 columns; see Activations.
    void (*quantise)(const float* x, int64_t columns, const ActivationRow& out);
    // out = x / sqrt(mean(x^2) + eps) * weight
    void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* out);
    // gate = silu(gate) * up
    void (*swiglu)(float* gate, const float* up, int64_t n);
    void (*attention)(const AttentionPart& part);
    void (*low_rank)(const LowRankPart& part);
    // The largest of n values; not finite if one is NaN or +infinity, or all are -infinity.
    float (*largest)(const float* x, int64_t n);
    // Writes the indices of the values that are at least `floor`, rising; returns how many.
    int64_t (*reaching)(const float* x, int64_t n, float floor, int32_t* indices);
    // out = exp((x - maximum) * inverse_temperature), 1e-38 at least; returns the sum.
    double (*softmax_weights)(const float* x, int64_t n, float maximum, float inverse_temperature,
                              float* out);
};

extern const Kernels scalar_kernels;
#ifdef ALPAGE_X86
extern const Kernels avx2_kernels;
extern const Kernels avx512_kernels;
extern const Kernels avx512_direct_kernels;  // the same sums, faster on AMD's processors
#elif defined(ALPAGE_ARM64)
extern const Kernels neon_kernels;
extern const Kernels neon_i8mm_kernels;
#endif

// The named set, or the best that this machine runs for an empty name. Throws
// std::invalid_argument for an unknown name, std::runtime_error if the machine lacks it.
const Kernels& select_kernels(const char* name);

}  // namespace alpage

// Types of the public interface of the core: tensor types, model shape, a batch of rows.
#pragma once

#include <cstdint>
#include <cstddef>
#include <string>
#include <vector>

namespace alpage {

// GGUF's numbers (ggml_type), so that a reader can pass them through.
enum class TensorType : int {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    IQ4_NL = 20,
    IQ4_XS = 23,
    BF16 = 30,
};

// Throws std::invalid_argument for a number that is not in TensorType.
TensorType tensor_type(int number);

// Elements and bytes of one block of a row in the file ("Block" of the GGUF specification).
struct FileBlock {
    int64_t elements;
    int64_t bytes;
};
FileBlock file_block(TensorType type);

struct ModelShape {
    int64_t vocab_size, dim, n_layers, n_heads, n_kv_heads, head_dim, ffn_dim;
    float norm_eps;
    std::vector<double> inverse_frequencies;  // [head_dim / 2], radians per position
};

// One forward pass: `rows` tokens of many sequences. Rows of one sequence are contiguous with
// ascending positions. page_tables is [sequences][pages_per_sequence]; -1 is unused.
struct Batch {
    int64_t rows;
    const int32_t* tokens;
    const int32_t* positions;
    const int32_t* sequences;
    const int32_t* page_tables;
    int64_t sequence_count, pages_per_sequence;
    const int32_t* outputs;  // rows whose logits or states are wanted
    int64_t output_count;
    const int32_t* adapters = nullptr;  // [sequences], slots; -1: none; null: nobody has one
};

// A change of low rank of one matrix of a layer (LoRA): y += scale * B (A x).
struct AdapterMatrix {
    std::string name;  // "wq", "wk", "wv", "wo", "w1", "w2", "w3"
    int64_t layer, rank, rows, columns;
    const float* a;  // [rank][columns]
    const float* b;  // [rows][rank]
    float scale;
};

inline constexpr int64_t page_tokens = 16;  // tokens in one page of the key/value cache

// Numbers of the key/value cache. int8: -127 to 127, times one scale a token, layer and head.
enum class KvType { bf16, int8 };

// Of the bytes of a page: raised with every change of what they mean, or of how the numbers in
// them are computed, so that pages that were kept are not taken for what they are not.
inline constexpr int cache_layout = 1;

}  // namespace alpage

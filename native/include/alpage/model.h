// A Llama model ready to run: weights in panels, paged key/value cache, thread pool.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "alpage/types.h"

namespace alpage {

// Not thread-safe: one caller at a time. Wrong arguments throw std::invalid_argument, out of range
// ids std::out_of_range, no memory std::bad_alloc; the model stays usable.
class Model {
public:
    // isa: "" for the best of this machine, or one of kernel_names().
    Model(const ModelShape& shape, int threads, const std::string& isa);
    ~Model();
    Model(const Model&) = delete;
    Model& operator=(const Model&) = delete;

    // name: "tok_embeddings", "output" (layer ignored), "wq", "wk", "wv", "wo", "w1", "w2", "w3".
    // `data` holds whole file rows; row r of the matrix is file row order[r] (null: r itself).
    // Returns false when a weight or scale is NaN or infinite.
    bool set_matrix(const std::string& name, int64_t layer, TensorType type, int64_t rows,
                    int64_t columns, const uint8_t* data, size_t bytes, const int32_t* order,
                    size_t order_size);
    // name: "attention_norm", "ffn_norm", "norm" (layer ignored). False as above.
    bool set_vector(const std::string& name, int64_t layer, const float* data, size_t size);
    // After all weights: checks that none is missing and allocates `pages` of 16 tokens. Without an
    // "output" matrix the head is tied to the embedding.
    void finish(int64_t pages, KvType kv = KvType::bf16);

    // Fills or replaces a slot, whose number batches name. False when a weight is NaN or infinite,
    // or becomes so in bf16: then, and when it throws, the slot stays as it was.
    bool set_adapter(int32_t slot, const std::vector<AdapterMatrix>& matrices);
    void free_adapter(int32_t slot);  // throws std::out_of_range for an empty slot
    size_t adapter_bytes() const;

    // Logits [output_count][vocab_size], or states after the final norm [output_count][dim]. The
    // result is valid until the next call.
    const float* forward(const Batch& batch, bool hidden);

    // A page of the cache as bytes, all 16 slots of all layers, whoever wrote them: page_bytes()
    // of them, neither more nor fewer. They mean the same to every model with the same
    // weight_digest(), instruction set, cache type and `cache_layout`.
    size_t page_bytes() const;
    void read_page(int64_t page, uint8_t* out, size_t size) const;
    void write_page(int64_t page, const uint8_t* in, size_t size);
    // 64 bits of the shape and of every weight, not cryptographic. Reads them all: computed anew in
    // each call. Throws std::invalid_argument before finish().
    uint64_t weight_digest() const;

    // Calibration: begin to add up squares of what the matrices multiply, from zero; what was added
    // for a matrix, [columns], and over how many rows. The head is "output", tied or not, and its
    // rows are outputs. Throws std::invalid_argument before observe(), and before finish().
    void observe();
    const std::vector<double>& squares(const std::string& name, int64_t layer) const;
    int64_t observed_rows(const std::string& name) const;

    // Seconds by stage of the forward passes since time_stages(), in the order of the stages.
    void time_stages();
    std::vector<std::pair<std::string, double>> stage_seconds() const;

    const ModelShape& shape() const;
    const char* isa() const;
    int threads() const;
    int64_t pages() const;
    // Bytes of weights and of the cache's address space.
    size_t weight_bytes() const;
    size_t cache_bytes() const;

private:
    struct Parts;
    std::unique_ptr<Parts> parts_;
};

}  // namespace alpage

// One forward pass over a batch of rows: every thread runs the same stages with barriers between.
#pragma once

#include <chrono>
#include <initializer_list>
#include <new>
#include <vector>

#include "adapters.h"
#include "cache.h"
#include "thread_pool.h"

namespace alpage {

struct LayerWeights {
    Matrix wq, wk, wv, wo, w1, w2, w3;
    std::vector<float> attention_norm, ffn_norm;
};

struct Weights {
    ModelShape shape;
    Matrix embedding, output;  // an empty output is tied to the embedding
    std::vector<LayerWeights> layers;
    std::vector<float> norm;
    const Matrix& head() const { return output.empty() ? embedding : output; }
    size_t bytes() const;
};

// Sums over rows of the squares of what the matrices multiply, column by column: how much each
// column of a matrix matters to its product (calibration).
struct InputSquares {
    struct Layer {
        std::vector<double> attention, mixed, ffn, down;  // of wq wk wv; wo; w1 w3; w2
    };
    int64_t rows = 0, outputs = 0;
    std::vector<Layer> layers;
    std::vector<double> head;  // over output rows alone
};

// Seconds by stage, as thread 0 sees them: each ends when the last thread is done.
enum Stage { embed_stage, norm_stage, qkv_stage, rope_stage, attention_stage, out_stage,
             gate_up_stage, swiglu_stage, down_stage, head_stage, stage_count };
inline constexpr const char* stage_names[stage_count] = {
    "embedding", "norm",        "qkv",    "rope", "attention",
    "out",       "gate and up", "swiglu", "down", "head"};
struct StageTimes {
    double seconds[stage_count] = {};
    std::chrono::steady_clock::time_point last;
};

// Begins where a line of the cache does: a vector register's load then takes one line, not two.
template <class T>
struct LineAllocator {
    using value_type = T;
    static constexpr std::align_val_t line{64};
    LineAllocator() = default;
    template <class U>
    LineAllocator(const LineAllocator<U>&) {}
    T* allocate(size_t count) { return static_cast<T*>(::operator new(count * sizeof(T), line)); }
    void deallocate(T* at, size_t) { ::operator delete(at, line); }
    bool operator==(const LineAllocator&) const { return true; }
};
template <class T>
using Lines = std::vector<T, LineAllocator<T>>;

class Forward {
public:
    Forward(const Weights& weights, ThreadPool& pool, const Kernels& kernels, KvCache& cache,
            const AdapterSlots& slots);
    // See Model::forward. The batch has been checked.
    const float* run(const Batch& batch, bool hidden);
    // Every later pass adds to `squares` (null: none does).
    void observe(InputSquares* squares) { squares_ = squares; }
    // Likewise, every later pass adds to `times`.
    void time(StageTimes* times) { times_ = times; }

private:
    // Queries of neighbouring rows of one sequence that share a key/value head: one kernel call
    // per chunk of tokens.
    struct Tile {
        int64_t row, rows, head, heads;  // head: within the group of the key/value head
        const int32_t* pages;
        int64_t chunks;
    };
    struct Product {  // y = matrix * x
        const Matrix* matrix;
        float* y;
        int64_t stride;
    };
    struct Piece {
        const Product* product;
        int64_t panel, row;  // where it begins
    };
    struct Pieces {  // of neighbouring products
        const Product* products;
        int64_t group, groups;  // panels of a piece; how often they are in all products
        int64_t row_blocks, block_rows, count;
        int64_t of(const Product& product) const;  // how many groups are its own
        Piece operator[](int64_t index) const;
    };
    struct Partial {  // of one tile over one chunk
        Lines<float> out, maximum, total;
    };

    struct Adapted {  // what the rows' adapters change
        int64_t layer;
        AdapterGroup group;
    };

    void resize(int64_t rows, int64_t outputs, bool hidden);
    void plan_adapters();
    void plan_attention();
    void thread(int id);
    void end(int id, Stage stage);
    void layer(int id, int64_t index);
    void embed(int id);
    void rotate(int id, int64_t layer);
    void attend(int id, int64_t layer);
    void attend_chunk(const Tile& tile, int64_t kv_head, int64_t layer, int64_t chunk,
                      Partial& result);
    void store_attention(const Tile& tile, int64_t kv_head, const Partial& sum);
    void finish(int id);

    void normalise(int id, const float* weight, Adapted before);
    void quantise(int64_t row, const float* x, int64_t columns);
    void add_squares(int id, const float* x, int64_t rows, std::vector<double>& sums) const;
    Activations activations(int64_t columns) const;
    Pieces pieces(const Product* products, int count, int64_t rows) const;
    void fetch_ahead(int id, const Product* products, int count) const;
    void multiply(int id, const Activations& x, int64_t rows, const Product* products, int count,
                  bool accumulate, const Adapted* adapted);
    template <class Fn>
    void each_row(int id, int64_t rows, Fn&& fn) const;
    template <class Fn>
    void each_row_after(int id, Adapted product, Fn&& fn);

    const Weights& weights_;
    const ModelShape& shape_;
    ThreadPool& pool_;
    const Kernels& kernels_;
    KvCache& cache_;
    const AdapterSlots& slots_;
    const int64_t query_width_, key_width_, qkv_width_;

    InputSquares* squares_ = nullptr;
    StageTimes* times_ = nullptr;
    const Batch* batch_ = nullptr;  // of the running pass
    bool hidden_ = false;
    bool split_chunks_ = false;
    int64_t chunk_slots_ = 0;  // chunks of the longest tile
    AdapterPass adapters_;
    std::vector<Tile> tiles_;
    std::vector<Partial> partials_;  // [tiles][kv heads][chunk_slots_] if split, else [threads][2]
    Lines<float> x_, normed_, qkv_, mixed_, gate_, up_, cosine_, sine_, result_;
    Lines<float> scale_, sum_, sum16_;
    Lines<int8_t> q_;
    Lines<int16_t> words_;
};

}  // namespace alpage

// Weights in, forward pass out. The stages of a layer are those of model/llama.py.
#include "alpage/model.h"

#include <atomic>
#include <cmath>
#include <new>
#include <stdexcept>

#include "digest.h"
#include "forward.h"

namespace alpage {

struct Model::Parts {
    Weights weights;
    Arena arena;
    std::unique_ptr<ThreadPool> pool;
    const Kernels* kernels;
    KvCache cache;
    AdapterSlots adapters;
    std::unique_ptr<Forward> forward;
    std::unique_ptr<InputSquares> squares;
    std::unique_ptr<StageTimes> times;
};

namespace {

[[noreturn]] void refuse(const std::string& message) { throw std::invalid_argument(message); }

void check_shape(const ModelShape& s) {
    for (int64_t value : {s.vocab_size, s.dim, s.n_layers, s.n_heads, s.n_kv_heads, s.head_dim,
                          s.ffn_dim}) {
        if (value < 1 || value > int64_t{1} << 30) refuse("model sizes must be 1 to 2^30");
    }
    if (s.n_heads % s.n_kv_heads) refuse("heads must be a multiple of key/value heads");
    if (s.head_dim % 2) refuse("head_dim must be even");
    for (int64_t heads : {s.n_heads, s.n_kv_heads}) {
        if (heads * s.head_dim > int64_t{1} << 30) refuse("heads x head_dim must be at most 2^30");
    }
    if (s.inverse_frequencies.size() != static_cast<size_t>(s.head_dim / 2)) {
        refuse("inverse_frequencies must have head_dim / 2 values");
    }
}

// The matrix of that name with the rows and columns that the shape asks for.
Matrix& find_matrix(Weights& w, const std::string& name, int64_t layer, int64_t& rows,
                    int64_t& columns) {
    const ModelShape& s = w.shape;
    const int64_t queries = s.n_heads * s.head_dim, keys = s.n_kv_heads * s.head_dim;
    if (name == "tok_embeddings" || name == "output") {
        rows = s.vocab_size, columns = s.dim;
        return name == "output" ? w.output : w.embedding;
    }
    if (layer < 0 || layer >= s.n_layers) refuse("no layer " + std::to_string(layer));
    LayerWeights& l = w.layers[static_cast<size_t>(layer)];
    if (name == "wq") return rows = queries, columns = s.dim, l.wq;
    if (name == "wk") return rows = keys, columns = s.dim, l.wk;
    if (name == "wv") return rows = keys, columns = s.dim, l.wv;
    if (name == "wo") return rows = s.dim, columns = queries, l.wo;
    if (name == "w1") return rows = s.ffn_dim, columns = s.dim, l.w1;
    if (name == "w3") return rows = s.ffn_dim, columns = s.dim, l.w3;
    if (name == "w2") return rows = s.dim, columns = s.ffn_dim, l.w2;
    refuse("unknown matrix " + name);
}

}  // namespace

Model::Model(const ModelShape& shape, int threads, const std::string& isa)
    : parts_(std::make_unique<Parts>()) {
    check_shape(shape);
    parts_->weights.shape = shape;
    parts_->weights.layers.resize(static_cast<size_t>(shape.n_layers));
    parts_->kernels = &select_kernels(isa.c_str());
    parts_->pool = std::make_unique<ThreadPool>(threads);
}

Model::~Model() = default;

bool Model::set_matrix(const std::string& name, int64_t layer, TensorType type, int64_t rows,
                       int64_t columns, const uint8_t* data, size_t bytes, const int32_t* order,
                       size_t order_size) {
    int64_t wanted_rows = 0, wanted_columns = 0;
    Matrix& slot = find_matrix(parts_->weights, name, layer, wanted_rows, wanted_columns);
    if (rows != wanted_rows || columns != wanted_columns) {
        refuse(name + " must be " + std::to_string(wanted_rows) + " x " +
               std::to_string(wanted_columns) + ", not " + std::to_string(rows) + " x " +
               std::to_string(columns));
    }
    const FileBlock block = file_block(type);
    if (bytes != static_cast<size_t>(rows * (columns / block.elements) * block.bytes)) {
        refuse(name + ": " + std::to_string(bytes) + " bytes are not what its shape needs");
    }
    // After the check: memory only for what is there.
    Matrix matrix(type, rows, columns, &parts_->arena);
    if (order) {
        if (order_size != static_cast<size_t>(rows)) refuse("row order must have one entry a row");
        for (size_t r = 0; r < order_size; ++r) {
            if (order[r] < 0 || order[r] >= rows) refuse("row order is out of range");
        }
    }
    std::atomic<bool> finite{true};
    parts_->pool->run([&](int) {
        for (int64_t p = parts_->pool->next(); p < matrix.panel_count(); p = parts_->pool->next()) {
            if (!matrix.pack_panel(p, data, order)) finite.store(false, std::memory_order_relaxed);
        }
    });
    slot = std::move(matrix);
    return finite.load();
}

bool Model::set_vector(const std::string& name, int64_t layer, const float* data, size_t size) {
    Weights& w = parts_->weights;
    if (size != static_cast<size_t>(w.shape.dim)) refuse(name + " must have dim values");
    std::vector<float>* slot = name == "norm" ? &w.norm : nullptr;
    if (!slot) {
        if (layer < 0 || layer >= w.shape.n_layers) refuse("no layer " + std::to_string(layer));
        LayerWeights& l = w.layers[static_cast<size_t>(layer)];
        if (name != "attention_norm" && name != "ffn_norm") refuse("unknown vector " + name);
        slot = name == "ffn_norm" ? &l.ffn_norm : &l.attention_norm;
    }
    slot->assign(data, data + size);
    for (float value : *slot) {
        if (!std::isfinite(value)) return false;
    }
    return true;
}

void Model::finish(int64_t pages, KvType kv) {
    Weights& w = parts_->weights;
    if (pages < 1 || pages > int64_t{1} << 31) refuse("pages must be 1 to 2^31");
    bool whole = !w.embedding.empty() && !w.norm.empty();
    for (const LayerWeights& l : w.layers) {
        for (const Matrix* m : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w1, &l.w2, &l.w3}) {
            whole = whole && !m->empty();
        }
        whole = whole && !l.attention_norm.empty() && !l.ffn_norm.empty();
    }
    if (!whole) refuse("weights are missing");
    const double elements = static_cast<double>(pages) * static_cast<double>(page_tokens) *
                            static_cast<double>(w.shape.n_layers * w.shape.n_kv_heads) *
                            static_cast<double>(w.shape.head_dim + 15);
    if (elements > 0x1p60) throw std::bad_alloc();
    parts_->cache = KvCache(w.shape, pages, kv);
    parts_->forward = std::make_unique<Forward>(w, *parts_->pool, *parts_->kernels, parts_->cache,
                                                 parts_->adapters);
    parts_->squares.reset();
    parts_->times.reset();
}

bool Model::set_adapter(int32_t slot, const std::vector<AdapterMatrix>& matrices) {
    if (slot < 0) refuse("adapter slots are 0 or more");
    Weights& w = parts_->weights;
    for (const AdapterMatrix& m : matrices) {
        int64_t rows = 0, columns = 0;
        find_matrix(w, m.name, m.layer, rows, columns);
        if (m.rank < 1 || m.rank > int64_t{1} << 20) refuse("ranks must be 1 to 2^20");
        if (m.rows != rows || m.columns != columns) {
            refuse("an adapter of " + m.name + " must be " + std::to_string(rows) + " x " +
                   std::to_string(columns) + ", not " + std::to_string(m.rows) + " x " +
                   std::to_string(m.columns));
        }
    }
    Adapter adapter(w.shape.n_layers, matrices);
    std::atomic<bool> finite{true};
    parts_->pool->run([&](int) {
        for (int64_t l = parts_->pool->next(); l < w.shape.n_layers; l = parts_->pool->next()) {
            if (!adapter.pack(l, matrices)) finite.store(false, std::memory_order_relaxed);
        }
    });
    if (finite.load()) parts_->adapters.insert_or_assign(slot, std::move(adapter));
    return finite.load();
}

void Model::free_adapter(int32_t slot) {
    if (!parts_->adapters.erase(slot)) {
        throw std::out_of_range("no adapter in slot " + std::to_string(slot));
    }
}

size_t Model::adapter_bytes() const {
    size_t total = 0;
    for (const auto& [slot, adapter] : parts_->adapters) total += adapter.bytes();
    return total;
}

namespace {

void check_batch(const Batch& batch, const ModelShape& shape, int64_t pages,
                 const AdapterSlots& adapters) {
    if (batch.rows < 1 || batch.output_count < 0) refuse("a batch needs rows");
    for (int64_t s = 0; batch.adapters && s < batch.sequence_count; ++s) {
        const int32_t slot = batch.adapters[s];
        if (slot != -1 && !adapters.contains(slot)) {
            throw std::out_of_range("no adapter in slot " + std::to_string(slot));
        }
    }
    for (int64_t i = 0; i < batch.output_count; ++i) {
        if (batch.outputs[i] < 0 || batch.outputs[i] >= batch.rows) {
            throw std::out_of_range("output row " + std::to_string(batch.outputs[i]));
        }
    }
    for (int64_t r = 0; r < batch.rows; ++r) {
        const int64_t sequence = batch.sequences[r], position = batch.positions[r];
        if (batch.tokens[r] < 0 || batch.tokens[r] >= shape.vocab_size) {
            throw std::out_of_range("token " + std::to_string(batch.tokens[r]));
        }
        if (sequence < 0 || sequence >= batch.sequence_count) {
            throw std::out_of_range("sequence " + std::to_string(sequence));
        }
        if (position < 0 || position / page_tokens >= batch.pages_per_sequence) {
            throw std::out_of_range("position " + std::to_string(position));
        }
        if (r && sequence == batch.sequences[r - 1] && position != batch.positions[r - 1] + 1) {
            refuse("rows of one sequence must be consecutive positions");
        }
        const bool last = r + 1 == batch.rows || batch.sequences[r + 1] != sequence;
        const int32_t* table = batch.page_tables + sequence * batch.pages_per_sequence;
        for (int64_t p = 0; last && p <= position / page_tokens; ++p) {
            if (table[p] < 0 || table[p] >= pages) {
                throw std::out_of_range("page " + std::to_string(table[p]));
            }
        }
    }
}

}  // namespace

const float* Model::forward(const Batch& batch, bool hidden) {
    if (!parts_->forward) refuse("finish() comes before forward()");
    check_batch(batch, parts_->weights.shape, parts_->cache.pages(), parts_->adapters);
    return parts_->forward->run(batch, hidden);
}

const ModelShape& Model::shape() const { return parts_->weights.shape; }
const char* Model::isa() const { return parts_->kernels->name; }
int Model::threads() const { return parts_->pool->size(); }
int64_t Model::pages() const { return parts_->cache.pages(); }
size_t Model::weight_bytes() const { return parts_->weights.bytes(); }
size_t Model::cache_bytes() const { return parts_->cache.bytes(); }

namespace {

void check_page(const KvCache& cache, int64_t page, size_t size) {
    if (page < 0 || page >= cache.pages()) {
        throw std::out_of_range("page " + std::to_string(page) + " of " +
                                std::to_string(cache.pages()));
    }
    if (size != cache.page_bytes()) {
        refuse("a page has " + std::to_string(cache.page_bytes()) + " bytes, not " +
               std::to_string(size));
    }
}

}  // namespace

size_t Model::page_bytes() const { return parts_->cache.page_bytes(); }

void Model::read_page(int64_t page, uint8_t* out, size_t size) const {
    check_page(parts_->cache, page, size);
    parts_->cache.read_page(page, out);
}

void Model::write_page(int64_t page, const uint8_t* in, size_t size) {
    check_page(parts_->cache, page, size);
    parts_->cache.write_page(page, in);
}

uint64_t Model::weight_digest() const {
    if (!parts_->forward) refuse("finish() comes before weight_digest()");
    const Weights& w = parts_->weights;
    const ModelShape& s = w.shape;
    std::vector<uint64_t> found;
    for (int64_t size : {s.vocab_size, s.dim, s.n_layers, s.n_heads, s.n_kv_heads, s.head_dim,
                         s.ffn_dim}) {
        found.push_back(static_cast<uint64_t>(size));
    }
    found.push_back(std::bit_cast<uint32_t>(s.norm_eps));
    found.push_back(digest(s.inverse_frequencies));
    found.push_back(digest(w.norm));
    std::vector<const Matrix*> matrices{&w.embedding, &w.output};
    for (const LayerWeights& l : w.layers) {
        found.push_back(digest(l.attention_norm));
        found.push_back(digest(l.ffn_norm));
        matrices.insert(matrices.end(), {&l.wq, &l.wk, &l.wv, &l.wo, &l.w1, &l.w2, &l.w3});
    }
    const size_t begin = found.size();
    for (const Matrix* m : matrices) {
        found.push_back(static_cast<uint64_t>(m->type));
        found.resize(found.size() + static_cast<size_t>(m->panel_count()));
    }
    parts_->pool->run([&](int id) {
        size_t first = begin;
        for (const Matrix* m : matrices) {
            ++first;  // behind the type
            parts_->pool->share(id, m->panel_count(), [&](int64_t panel) {
                found[first + static_cast<size_t>(panel)] =
                    digest(m->data.data() + panel * m->panel_bytes,
                           static_cast<size_t>(m->panel_bytes));
            });
            first += static_cast<size_t>(m->panel_count());
            parts_->pool->barrier();
        }
    });
    return digest(found);
}

void Model::observe() {
    const ModelShape& s = parts_->weights.shape;
    if (!parts_->forward) refuse("finish() comes before observe()");
    auto squares = std::make_unique<InputSquares>();
    const auto zeros = [](int64_t count) {
        return std::vector<double>(static_cast<size_t>(count));
    };
    squares->layers.assign(static_cast<size_t>(s.n_layers),
                           {zeros(s.dim), zeros(s.n_heads * s.head_dim), zeros(s.dim),
                            zeros(s.ffn_dim)});
    squares->head = zeros(s.dim);
    parts_->squares = std::move(squares);
    parts_->forward->observe(parts_->squares.get());
}

const std::vector<double>& Model::squares(const std::string& name, int64_t layer) const {
    if (!parts_->squares) refuse("observe() comes before squares()");
    if (name == "output") return parts_->squares->head;
    if (layer < 0 || layer >= parts_->weights.shape.n_layers) {
        refuse("no layer " + std::to_string(layer));
    }
    const InputSquares::Layer& of = parts_->squares->layers[static_cast<size_t>(layer)];
    if (name == "wq" || name == "wk" || name == "wv") return of.attention;
    if (name == "wo") return of.mixed;
    if (name == "w1" || name == "w3") return of.ffn;
    if (name == "w2") return of.down;
    refuse("unknown matrix " + name);
}

int64_t Model::observed_rows(const std::string& name) const {
    if (!parts_->squares) return 0;
    return name == "output" ? parts_->squares->outputs : parts_->squares->rows;
}

void Model::time_stages() {
    if (!parts_->forward) refuse("finish() comes before time_stages()");
    parts_->times = std::make_unique<StageTimes>();
    parts_->forward->time(parts_->times.get());
}

std::vector<std::pair<std::string, double>> Model::stage_seconds() const {
    std::vector<std::pair<std::string, double>> result;
    for (int i = 0; parts_->times && i < stage_count; ++i) {
        result.emplace_back(stage_names[i], parts_->times->seconds[i]);
    }
    return result;
}

}  // namespace alpage

#include "forward.h"

#include <algorithm>
#include <cmath>

namespace alpage {
namespace {

template <class T>
void grow(Lines<T>& buffer, int64_t size) {
    if (static_cast<int64_t>(buffer.size()) < size) buffer.resize(static_cast<size_t>(size));
}

}  // namespace

size_t Weights::bytes() const {
    size_t total = embedding.data.size() + output.data.size();
    for (const LayerWeights& l : layers) {
        for (const Matrix* m : {&l.wq, &l.wk, &l.wv, &l.wo, &l.w1, &l.w2, &l.w3}) {
            total += m->data.size();
        }
    }
    return total;
}

Forward::Forward(const Weights& weights, ThreadPool& pool, const Kernels& kernels, KvCache& cache,
                 const AdapterSlots& slots)
    : weights_(weights), shape_(weights.shape), pool_(pool), kernels_(kernels), cache_(cache),
      slots_(slots),
      query_width_(shape_.n_heads * shape_.head_dim),
      key_width_(shape_.n_kv_heads * shape_.head_dim), qkv_width_(query_width_ + 2 * key_width_) {}

const float* Forward::run(const Batch& batch, bool hidden) {
    batch_ = &batch;
    hidden_ = hidden;
    resize(batch.rows, batch.output_count, hidden);
    plan_attention();
    plan_adapters();
    if (squares_) squares_->rows += batch.rows, squares_->outputs += batch.output_count;
    pool_.run([this](int id) { thread(id); });
    return result_.data();
}

void Forward::resize(int64_t rows, int64_t outputs, bool hidden) {
    const ModelShape& s = shape_;
    grow(x_, rows * s.dim);
    grow(normed_, rows * s.dim);
    grow(qkv_, rows * qkv_width_);
    grow(mixed_, rows * query_width_);
    grow(gate_, rows * s.ffn_dim);
    grow(up_, rows * s.ffn_dim);
    grow(cosine_, rows * s.head_dim / 2);
    grow(sine_, rows * s.head_dim / 2);
    grow(result_, outputs * (hidden ? s.dim : s.vocab_size));
    const int64_t blocks = rows * block_count(std::max({s.dim, query_width_, s.ffn_dim}));
    grow(q_, 2 * blocks * block_columns);
    grow(words_, blocks * block_columns);
    grow(scale_, blocks);
    grow(sum_, blocks);
    grow(sum16_, 2 * blocks);
}

// Tiles of queries, and whether the chunks of one tile are shared out between the threads: only
// when the tiles alone would leave threads idle. Both ways add the chunks up in the same order.
void Forward::plan_attention() {
    const int64_t group = shape_.n_heads / shape_.n_kv_heads;
    const int64_t rows_per_tile = std::max<int64_t>(1, attention_queries / group);
    tiles_.clear();
    chunk_slots_ = 1;
    for (int64_t row = 0; row < batch_->rows;) {
        int64_t end = row + 1;
        const int32_t sequence = batch_->sequences[row];
        while (end < batch_->rows && end < row + rows_per_tile &&
               batch_->sequences[end] == sequence) {
            ++end;
        }
        const int64_t chunks = batch_->positions[end - 1] / attention_chunk + 1;
        chunk_slots_ = std::max(chunk_slots_, chunks);
        for (int64_t head = 0; head < group; head += attention_queries) {
            const int64_t heads = std::min<int64_t>(attention_queries, group - head);
            const int32_t* pages = batch_->page_tables + sequence * batch_->pages_per_sequence;
            tiles_.push_back({row, end - row, head, heads, pages, chunks});
        }
        row = end;
    }
    const int64_t tasks = static_cast<int64_t>(tiles_.size()) * shape_.n_kv_heads;
    split_chunks_ = chunk_slots_ > 1 && tasks < 4 * pool_.size();
    const int64_t count = split_chunks_ ? tasks * chunk_slots_ : 2 * pool_.size();
    partials_.resize(std::max(partials_.size(), static_cast<size_t>(count)));
    for (Partial& partial : partials_) {
        grow(partial.out, attention_queries * cache_.value_width());
        grow(partial.maximum, attention_queries);
        grow(partial.total, attention_queries);
    }
}

void Forward::plan_adapters() {
    adapters_.plan(*batch_, slots_, shape_.n_layers, pool_.size());
    if (!adapters_.active()) return;
    const int64_t dim = shape_.dim, ffn = shape_.ffn_dim;
    float *q = qkv_.data(), *k = q + query_width_, *v = k + key_width_, *x = x_.data();
    adapters_.place(qkv_group, {normed_.data(), dim, {q, k, v}, qkv_width_});
    adapters_.place(out_group, {mixed_.data(), query_width_, {x}, dim});
    adapters_.place(gate_up_group, {normed_.data(), dim, {gate_.data(), up_.data()}, ffn});
    adapters_.place(down_group, {gate_.data(), ffn, {x}, dim});
}

// The share of thread `id` of the rows, one by one.
template <class Fn>
void Forward::each_row(int id, int64_t rows, Fn&& fn) const {
    for (int64_t row = pool_.begin(id, rows); row < pool_.begin(id + 1, rows); ++row) fn(row);
}

// Likewise, each row after what its adapter adds to the products of an earlier stage: B is read in
// a stage that goes through all rows anyway, and needs no barrier of its own.
template <class Fn>
void Forward::each_row_after(int id, Adapted product, Fn&& fn) {
    if (!adapters_.active()) return each_row(id, batch_->rows, fn);
    pool_.share(id, adapters_.units(), [&](int64_t unit) {
        if (product.layer >= 0) adapters_.up(kernels_, product.layer, product.group, unit);
        adapters_.each_row(unit, fn);
    });
}

void Forward::thread(int id) {
    if (times_ && id == 0) times_->last = std::chrono::steady_clock::now();
    embed(id);
    end(id, embed_stage);
    for (int64_t index = 0; index < shape_.n_layers; ++index) layer(id, index);
    if (batch_->output_count) finish(id);
}

// Every thread has done its share of a stage.
void Forward::end(int id, Stage stage) {
    pool_.barrier();
    if (!times_ || id != 0) return;
    const auto now = std::chrono::steady_clock::now();
    times_->seconds[stage] += std::chrono::duration<double>(now - times_->last).count();
    times_->last = now;
}

void Forward::embed(int id) {
    const int64_t half = shape_.head_dim / 2;
    each_row(id, batch_->rows, [&](int64_t row) {
        weights_.embedding.dequantize_row(batch_->tokens[row], &x_[row * shape_.dim]);
        for (int64_t i = 0; i < half; ++i) {
            // In single precision, like the reference: the model was trained with that rounding.
            const float angle = static_cast<float>(batch_->positions[row]) *
                                static_cast<float>(shape_.inverse_frequencies[i]);
            cosine_[row * half + i] = static_cast<float>(std::cos(static_cast<double>(angle)));
            sine_[row * half + i] = static_cast<float>(std::sin(static_cast<double>(angle)));
        }
    });
}

void Forward::layer(int id, int64_t index) {
    const LayerWeights& l = weights_.layers[index];
    const ModelShape& s = shape_;
    const int64_t rows = batch_->rows;

    InputSquares::Layer* squares = squares_ ? &squares_->layers[index] : nullptr;

    const Product qkv[] = {{&l.wq, &qkv_[0], qkv_width_},
                           {&l.wk, &qkv_[query_width_], qkv_width_},
                           {&l.wv, &qkv_[query_width_ + key_width_], qkv_width_}};
    const Product out{&l.wo, x_.data(), s.dim}, down{&l.w2, x_.data(), s.dim};
    const Product gate_up[] = {{&l.w1, gate_.data(), s.ffn_dim}, {&l.w3, up_.data(), s.ffn_dim}};

    const Adapted in_qkv{index, qkv_group}, in_out{index, out_group};
    const Adapted in_gate_up{index, gate_up_group}, in_down{index, down_group};

    fetch_ahead(id, qkv, 3);
    normalise(id, l.attention_norm.data(), {index - 1, down_group});
    end(id, norm_stage);
    if (squares) add_squares(id, normed_.data(), rows, squares->attention);
    multiply(id, activations(s.dim), rows, qkv, 3, false, &in_qkv);
    end(id, qkv_stage);
    fetch_ahead(id, &out, 1);
    rotate(id, index);
    end(id, rope_stage);
    attend(id, index);
    end(id, attention_stage);
    each_row(id, rows, [&](int64_t r) { quantise(r, &mixed_[r * query_width_], query_width_); });
    end(id, attention_stage);
    if (squares) add_squares(id, mixed_.data(), rows, squares->mixed);
    multiply(id, activations(query_width_), rows, &out, 1, true, &in_out);
    end(id, out_stage);

    fetch_ahead(id, gate_up, 2);
    normalise(id, l.ffn_norm.data(), in_out);
    end(id, norm_stage);
    if (squares) add_squares(id, normed_.data(), rows, squares->ffn);
    multiply(id, activations(s.dim), rows, gate_up, 2, false, &in_gate_up);
    end(id, gate_up_stage);
    fetch_ahead(id, &down, 1);
    each_row_after(id, in_gate_up, [&](int64_t r) {
        kernels_.swiglu(&gate_[r * s.ffn_dim], &up_[r * s.ffn_dim], s.ffn_dim);
        quantise(r, &gate_[r * s.ffn_dim], s.ffn_dim);
    });
    end(id, swiglu_stage);
    if (squares) add_squares(id, gate_.data(), rows, squares->down);
    multiply(id, activations(s.ffn_dim), rows, &down, 1, true, &in_down);
    end(id, down_stage);
}

void Forward::finish(int id) {
    const int64_t dim = shape_.dim, outputs = batch_->output_count;
    const Matrix& head = weights_.head();
    const Product logits{&head, result_.data(), shape_.vocab_size};
    if (!hidden_) fetch_ahead(id, &logits, 1);
    if (adapters_.active()) {
        each_row_after(id, {shape_.n_layers - 1, down_group}, [](int64_t) {});
        end(id, down_stage);
    }
    each_row(id, outputs, [&](int64_t i) {
        float* out = hidden_ ? &result_[i * dim] : &normed_[i * dim];
        const float* x = &x_[batch_->outputs[i] * dim];
        kernels_.rms_norm(x, weights_.norm.data(), shape_.norm_eps, dim, out);
        if (!hidden_) quantise(i, out, dim);
    });
    if (squares_) {
        pool_.barrier();
        add_squares(id, hidden_ ? result_.data() : normed_.data(), outputs, squares_->head);
    }
    end(id, norm_stage);
    if (hidden_) return;
    multiply(id, activations(dim), outputs, &logits, 1, false, nullptr);
    end(id, head_stage);
}

void Forward::normalise(int id, const float* weight, Adapted before) {
    const int64_t dim = shape_.dim;
    each_row_after(id, before, [&](int64_t r) {
        kernels_.rms_norm(&x_[r * dim], weight, shape_.norm_eps, dim, &normed_[r * dim]);
        quantise(r, &normed_[r * dim], dim);
    });
}

void Forward::quantise(int64_t row, const float* x, int64_t columns) {
    const int64_t at = row * block_count(columns);
    kernels_.quantise(x, columns, {&q_[at * 2 * block_columns], &words_[at * block_columns],
                                   &scale_[at], &sum_[at], &sum16_[2 * at]});
}

// The share of thread `id` of the columns, over all rows: no two threads add to one sum.
void Forward::add_squares(int id, const float* x, int64_t rows, std::vector<double>& sums) const {
    const int64_t columns = static_cast<int64_t>(sums.size());
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = pool_.begin(id, columns); c < pool_.begin(id + 1, columns); ++c) {
            const double value = x[r * columns + c];
            sums[static_cast<size_t>(c)] += value * value;
        }
    }
}

Activations Forward::activations(int64_t columns) const {
    return {columns, q_.data(), words_.data(), scale_.data(), sum_.data(), sum16_.data()};
}

// Products in pieces: groups of panels times blocks of rows whose quantised activations stay in the
// second-level cache while the panels pass by. Pieces are whole tiles, and small enough that a
// thread on a busy processor holds nobody up. Of many rows each thread gets a stretch of its own,
// the one that it has in the stages between products: what it reads there it has just written.
Forward::Pieces Forward::pieces(const Product* products, int count, int64_t rows) const {
    constexpr int64_t cached_bytes = 512 << 10, enough_rows = 64;  // to read the weights for
    const int64_t columns = products->matrix->columns;
    const int64_t fitting = std::max<int64_t>(8, cached_bytes / (2 * columns) / 8 * 8);
    Pieces result{products, 0, 0, 0, 0, 0};
    result.row_blocks = std::max((rows + fitting - 1) / fitting,
                                 std::min<int64_t>(pool_.size(), rows / enough_rows));
    result.block_rows = ((rows + result.row_blocks - 1) / result.row_blocks + 7) / 8 * 8;
    int64_t panels = 0;
    for (int i = 0; i < count; ++i) panels += products[i].matrix->panel_count();
    const int64_t tile = kernels_.panel_tile;
    const int64_t wanted = panels * result.row_blocks / (pool_.size() * 16) / tile * tile;
    result.group = std::max<int64_t>(wanted, rows == 1 ? 8 : tile);
    for (int i = 0; i < count; ++i) result.groups += result.of(products[i]);
    result.count = result.groups * result.row_blocks;
    return result;
}

int64_t Forward::Pieces::of(const Product& product) const {
    return (product.matrix->panel_count() + group - 1) / group;
}

Forward::Piece Forward::Pieces::operator[](int64_t index) const {
    const Product* product = products;
    int64_t at = index % groups;
    for (; at >= of(*product); ++product) at -= of(*product);
    return {product, at * group, index / groups * block_rows};
}

// A step of one row waits for the weights: those that thread `id` will read first come while it
// does the little that is left before the product.
void Forward::fetch_ahead(int id, const Product* products, int count) const {
    if (batch_->rows > 2) return;
    constexpr int64_t bytes = 16 << 10, line = 64;
    const Pieces parts = pieces(products, count, batch_->rows);
    const int64_t index = pool_.begin(id, parts.count);
    if (index == pool_.begin(id + 1, parts.count)) return;  // more threads than pieces
    const Piece piece = parts[index];
    const Buffer& data = piece.product->matrix->data;
    const int64_t size = static_cast<int64_t>(data.size());
    const int64_t from = size / piece.product->matrix->panel_count() * piece.panel;
    for (int64_t at = from; at < std::min(from + bytes, size); at += line) {
        __builtin_prefetch(data.data() + at, 0, 2);
    }
}

void Forward::multiply(int id, const Activations& x, int64_t rows, const Product* products,
                       int count, bool accumulate, const Adapted* adapted) {
    const Pieces parts = pieces(products, count, rows);
    const int64_t low = adapted ? adapters_.tasks(adapted->layer, adapted->group) : 0;
    pool_.share(id, low + parts.count, [&](int64_t index) {
        if (index < low) return adapters_.down(kernels_, adapted->layer, adapted->group, index);
        const auto [product, panel, row] = parts[index - low];
        if (row >= rows) return;
        const Matrix& m = *product->matrix;
        kernels_.matmul({m.type, m.data.data(), m.columns, panel,
                         std::min(panel + parts.group, m.panel_count()), m.rows, row,
                         std::min(row + parts.block_rows, rows), product->y, product->stride,
                         accumulate},
                        x);
    });
}

// Rotary embedding of queries and keys in place (rotate-half), keys and values into their pages.
void Forward::rotate(int id, int64_t layer) {
    const int64_t half = shape_.head_dim / 2, dim = shape_.head_dim;
    const float scaling = 1.0f / std::sqrt(static_cast<float>(dim));
    each_row_after(id, {layer, qkv_group}, [&](int64_t row) {
        const float *cosine = &cosine_[row * half], *sine = &sine_[row * half];
        float* heads = &qkv_[row * qkv_width_];
        for (int64_t head = 0; head < shape_.n_heads + shape_.n_kv_heads; ++head) {
            float *a = heads + head * dim, *b = a + half;
            const float factor = head < shape_.n_heads ? scaling : 1.0f;
            for (int64_t i = 0; i < half; ++i) {
                const float first = a[i], second = b[i];
                a[i] = (first * cosine[i] - second * sine[i]) * factor;
                b[i] = (second * cosine[i] + first * sine[i]) * factor;
            }
        }
        const int64_t position = batch_->positions[row];
        const int64_t table = batch_->sequences[row] * batch_->pages_per_sequence;
        const int64_t page = batch_->page_tables[table + position / page_tokens];
        for (int64_t head = 0; head < shape_.n_kv_heads; ++head) {
            const float* key = heads + query_width_ + head * dim;
            cache_.write(layer, head, page, position % page_tokens, key, key + key_width_);
        }
    });
}

void Forward::attend_chunk(const Tile& tile, int64_t kv_head, int64_t layer, int64_t chunk,
                           Partial& result) {
    const int64_t group = shape_.n_heads / shape_.n_kv_heads;
    AttentionPart part{};
    part.head_dim = shape_.head_dim;
    for (int64_t r = 0; r < tile.rows; ++r) {
        const int64_t row = tile.row + r;
        const int64_t visible = batch_->positions[row] + 1 - chunk * attention_chunk;
        for (int64_t h = 0; h < tile.heads; ++h, ++part.queries) {
            const int64_t head = kv_head * group + tile.head + h;
            part.q[part.queries] = &qkv_[row * qkv_width_ + head * shape_.head_dim];
            part.visible[part.queries] =
                static_cast<int>(std::clamp<int64_t>(visible, 0, attention_chunk));
        }
    }
    part.type = cache_.type();
    part.keys = cache_.keys(layer, kv_head);
    part.values = cache_.values(layer, kv_head);
    part.key_stride = cache_.key_stride();
    part.value_stride = cache_.value_stride();
    part.pages = tile.pages + chunk * (attention_chunk / page_tokens);
    part.out = result.out.data();
    part.out_stride = cache_.value_width();
    part.maximum = result.maximum.data();
    part.total = result.total.data();
    kernels_.attention(part);
}

namespace {

// Adds a later chunk to the sum of the earlier ones (online softmax, Milakov and Gimelshein 2018).
void merge(float* out, float& maximum, float& total, const float* later, float later_maximum,
           float later_total, int64_t width) {
    if (later_maximum == -INFINITY) return;  // the query sees nothing of that chunk
    const float highest = std::max(maximum, later_maximum);
    const float a = std::exp(maximum - highest), b = std::exp(later_maximum - highest);
    for (int64_t d = 0; d < width; ++d) out[d] = out[d] * a + later[d] * b;
    total = total * a + later_total * b;
    maximum = highest;
}

}  // namespace

void Forward::attend(int id, int64_t layer) {
    const int64_t heads = shape_.n_kv_heads, width = cache_.value_width();
    const int64_t tasks = static_cast<int64_t>(tiles_.size()) * heads;
    const auto merge_into = [&](const Tile& tile, Partial& sum, const Partial& later) {
        for (int64_t i = 0; i < tile.rows * tile.heads; ++i) {
            merge(&sum.out[i * width], sum.maximum[i], sum.total[i], &later.out[i * width],
                  later.maximum[i], later.total[i], width);
        }
    };
    if (!split_chunks_) {
        Partial &sum = partials_[2 * id], &later = partials_[2 * id + 1];
        for (int64_t task = pool_.next(); task < tasks; task = pool_.next()) {
            const Tile& tile = tiles_[task / heads];
            attend_chunk(tile, task % heads, layer, 0, sum);
            for (int64_t chunk = 1; chunk < tile.chunks; ++chunk) {
                attend_chunk(tile, task % heads, layer, chunk, later);
                merge_into(tile, sum, later);
            }
            store_attention(tile, task % heads, sum);
        }
        return;
    }
    for (int64_t item = pool_.next(); item < tasks * chunk_slots_; item = pool_.next()) {
        const int64_t task = item / chunk_slots_, chunk = item % chunk_slots_;
        const Tile& tile = tiles_[task / heads];
        if (chunk < tile.chunks) attend_chunk(tile, task % heads, layer, chunk, partials_[item]);
    }
    pool_.barrier();
    for (int64_t task = pool_.next(); task < tasks; task = pool_.next()) {
        const Tile& tile = tiles_[task / heads];
        Partial* parts = &partials_[task * chunk_slots_];
        for (int64_t chunk = 1; chunk < tile.chunks; ++chunk) {
            merge_into(tile, parts[0], parts[chunk]);
        }
        store_attention(tile, task % heads, parts[0]);
    }
}

void Forward::store_attention(const Tile& tile, int64_t kv_head, const Partial& sum) {
    const int64_t group = shape_.n_heads / shape_.n_kv_heads, dim = shape_.head_dim;
    for (int64_t i = 0; i < tile.rows * tile.heads; ++i) {
        const int64_t head = kv_head * group + tile.head + i % tile.heads;
        float* out = &mixed_[(tile.row + i / tile.heads) * query_width_ + head * dim];
        const float inverse = 1.0f / sum.total[i];
        for (int64_t d = 0; d < dim; ++d) out[d] = sum.out[i * cache_.value_width() + d] * inverse;
    }
}

}  // namespace alpage

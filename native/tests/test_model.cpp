// Whole tiny models: the same bits in any batch, chunks, pages and threads; ISAs close to scalar.
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <stdexcept>

#include "alpage/kernel_names.h"
#include "alpage/model.h"
#include "file_rows.h"

using namespace alpage;
using check::Rng;

namespace {

struct Recipe {
    int64_t vocab = 70, dim = 64, layers = 2, heads = 6, kv_heads = 2, head_dim = 16, ffn = 96;
    TensorType type = TensorType::Q4_1;
    bool tied = true;
    int64_t pages = 64;
    KvType kv = KvType::bf16;
};

ModelShape shape_of(const Recipe& r) {
    ModelShape shape{r.vocab, r.dim, r.layers, r.heads, r.kv_heads, r.head_dim, r.ffn, 1e-5f, {}};
    for (int64_t i = 0; i < r.head_dim / 2; ++i) {
        shape.inverse_frequencies.push_back(
            std::pow(1e4, -2.0 * static_cast<double>(i) / static_cast<double>(r.head_dim)));
    }
    return shape;
}

std::unique_ptr<Model> make(const Recipe& r, int threads, const std::string& isa,
                            const ModelShape& shape) {
    Rng rng(77);
    auto model = std::make_unique<Model>(shape, threads, isa);
    const auto set = [&](const char* name, int64_t layer, int64_t rows, int64_t columns) {
        const double size = 1 / std::sqrt(static_cast<double>(columns));
        const FileMatrix file = random_matrix(rng, r.type, rows, columns, Style::normal, size);
        CHECK(model->set_matrix(name, layer, r.type, rows, columns, file.bytes.data(),
                                file.bytes.size(), nullptr, 0), name << " is not finite");
    };
    const auto set_norm = [&](const char* name, int64_t layer) {
        std::vector<float> weight = check::normal(rng, r.dim, 0.1f);
        for (float& w : weight) w += 1;
        CHECK(model->set_vector(name, layer, weight.data(), weight.size()), name);
    };
    set("tok_embeddings", 0, r.vocab, r.dim);
    if (!r.tied) set("output", 0, r.vocab, r.dim);
    for (int64_t l = 0; l < r.layers; ++l) {
        set_norm("attention_norm", l);
        set_norm("ffn_norm", l);
        set("wq", l, r.heads * r.head_dim, r.dim);
        set("wk", l, r.kv_heads * r.head_dim, r.dim);
        set("wv", l, r.kv_heads * r.head_dim, r.dim);
        set("wo", l, r.dim, r.heads * r.head_dim);
        set("w1", l, r.ffn, r.dim);
        set("w3", l, r.ffn, r.dim);
        set("w2", l, r.dim, r.ffn);
    }
    set_norm("norm", 0);
    model->finish(r.pages, r.kv);
    return model;
}

std::unique_ptr<Model> make(const Recipe& r, int threads = 1, const std::string& isa = "") {
    return make(r, threads, isa, shape_of(r));
}

// Logits of the tokens from `begin` on of one sequence in these pages, in one pass.
std::vector<float> steps_of(Model& model, const std::vector<int32_t>& tokens, int32_t begin,
                            const std::vector<int32_t>& pages) {
    const int64_t rows = static_cast<int64_t>(tokens.size()) - begin;
    std::vector<int32_t> outputs(static_cast<size_t>(rows)), positions(outputs);
    const std::vector<int32_t> sequences(outputs);
    std::iota(outputs.begin(), outputs.end(), 0);
    std::iota(positions.begin(), positions.end(), begin);
    const float* logits = model.forward(
        {rows, tokens.data() + begin, positions.data(), sequences.data(), pages.data(), 1,
         static_cast<int64_t>(pages.size()), outputs.data(), rows},
        false);
    return {logits, logits + rows * model.shape().vocab_size};
}

// Feeds sequences piece by piece, each with its own random pages, and keeps all logits.
class Feeder {
public:
    Feeder(Model& model, Rng& rng) : model_(model), free_(static_cast<size_t>(model.pages())) {
        std::iota(free_.begin(), free_.end(), 0);
        std::shuffle(free_.begin(), free_.end(), rng);
    }

    struct Piece {
        int sequence;
        std::vector<int32_t> tokens;
    };

    // One forward pass; every row is an output, in reverse order to exercise the indirection.
    void step(const std::vector<Piece>& pieces) {
        std::vector<int32_t> tokens, positions, sequences, outputs, tables;
        size_t width = 1;
        for (const Piece& piece : pieces) {
            std::vector<int32_t>& table = tables_[piece.sequence];
            size_t length = lengths_[piece.sequence];
            for (int32_t token : piece.tokens) {
                if (length / page_tokens == table.size()) {
                    table.push_back(free_.back());
                    free_.pop_back();
                }
                tokens.push_back(token);
                positions.push_back(static_cast<int32_t>(length++));
                sequences.push_back(static_cast<int32_t>(&piece - pieces.data()));
            }
            width = std::max(width, table.size());
        }
        for (const Piece& piece : pieces) {
            const std::vector<int32_t>& table = tables_[piece.sequence];
            tables.insert(tables.end(), table.begin(), table.end());
            tables.insert(tables.end(), width - table.size(), -1);
        }
        for (size_t i = tokens.size(); i-- > 0;) outputs.push_back(static_cast<int32_t>(i));
        const Batch batch{static_cast<int64_t>(tokens.size()), tokens.data(), positions.data(),
                          sequences.data(), tables.data(), static_cast<int64_t>(pieces.size()),
                          static_cast<int64_t>(width), outputs.data(),
                          static_cast<int64_t>(outputs.size())};
        const float* result = model_.forward(batch, false);
        const int64_t vocab = model_.shape().vocab_size;
        for (size_t row = 0; row < tokens.size(); ++row) {
            const float* from = result + static_cast<int64_t>(tokens.size() - 1 - row) * vocab;
            const int sequence = pieces[static_cast<size_t>(sequences[row])].sequence;
            logits[sequence].insert(logits[sequence].end(), from, from + vocab);
            ++lengths_[sequence];
        }
    }

    std::map<int, std::vector<float>> logits;

private:
    Model& model_;
    std::vector<int32_t> free_;
    std::map<int, std::vector<int32_t>> tables_;
    std::map<int, size_t> lengths_;
};

std::vector<int32_t> random_tokens(Rng& rng, int64_t count, int64_t vocab) {
    std::vector<int32_t> tokens;
    for (int64_t i = 0; i < count; ++i) {
        tokens.push_back(static_cast<int32_t>(check::integer(rng, 0, vocab - 1)));
    }
    return tokens;
}

std::vector<float> alone(Model& model, const std::vector<int32_t>& tokens) {
    Rng rng(5);
    Feeder feeder(model, rng);
    feeder.step({{0, tokens}});
    return feeder.logits[0];
}

// Texts come and go in random pieces beside one another.
void check_company(const std::string& what, Model& model, Rng& rng,
                   const std::vector<std::vector<int32_t>>& texts,
                   const std::vector<std::vector<float>>& wanted) {
    Feeder feeder(model, rng);
    std::vector<size_t> done(texts.size());
    for (bool left = true; left;) {
        std::vector<Feeder::Piece> pieces;
        left = false;
        for (size_t i = 0; i < texts.size(); ++i) {
            static constexpr int64_t sizes[] = {0, 1, 1, 2, 3, 8, 9, 31, 150};
            const size_t size = std::min(static_cast<size_t>(sizes[check::integer(rng, 0, 8)]),
                                         texts[i].size() - done[i]);
            if (size) {
                const auto from = texts[i].begin() + static_cast<int64_t>(done[i]);
                pieces.push_back({static_cast<int>(i), {from, from + static_cast<int64_t>(size)}});
            }
            done[i] += size;
            left = left || done[i] < texts[i].size();
        }
        std::shuffle(pieces.begin(), pieces.end(), rng);
        if (!pieces.empty()) feeder.step(pieces);
    }
    for (size_t i = 0; i < texts.size(); ++i) {
        CHECK(check::same_bits(feeder.logits[static_cast<int>(i)], wanted[i]),
              what << ": text " << i << " of " << texts[i].size() << " tokens differs in company");
    }
}

std::vector<Recipe> recipes() {
    std::vector<Recipe> all;
    for (TensorType type : all_types) {
        Recipe r;
        r.type = type;
        if (file_block(type).elements == 256) {
            r.dim = 256, r.heads = 16, r.ffn = 256, r.kv_heads = 4;
        }
        all.push_back(r);
    }
    const auto add = [&](int64_t heads, int64_t kv_heads, int64_t head_dim, TensorType type) {
        Recipe r;
        r.heads = heads, r.kv_heads = kv_heads, r.head_dim = head_dim, r.type = type;
        r.tied = false;
        all.push_back(r);
    };
    add(4, 4, 8, TensorType::Q8_0);     // a group of 1
    add(8, 1, 8, TensorType::Q4_0);     // of 8
    add(16, 1, 8, TensorType::Q5_1);    // of 16: more than one kernel call takes
    add(24, 2, 4, TensorType::Q5_0);    // of 12
    add(3, 1, 22, TensorType::F32);     // odd widths everywhere
    add(5, 5, 2, TensorType::F16);
    Recipe odd;
    odd.dim = 45, odd.heads = 3, odd.kv_heads = 1, odd.head_dim = 10, odd.ffn = 61, odd.vocab = 33;
    odd.type = TensorType::BF16, odd.tied = false;
    all.push_back(odd);
    const size_t shapes = 7;  // the last of them once more, with the other cache
    for (size_t i = all.size() - shapes, end = all.size(); i < end; ++i) {
        Recipe other = all[i];
        other.kv = KvType::int8;
        all.push_back(other);
    }
    return all;
}

std::string name_of(const Recipe& r, const std::string& isa, int threads) {
    return std::string(type_name(r.type)) + " heads " + std::to_string(r.heads) + "/" +
           std::to_string(r.kv_heads) + (r.kv == KvType::int8 ? " int8 cache " : " ") + isa +
           " threads " + std::to_string(threads);
}

}  // namespace

TEST(logits_are_the_same_bits_in_any_company_and_with_any_threads) {
    for (const Recipe& r : recipes()) {
        for (const std::string& isa : kernel_names()) {
            Rng rng(9);
            std::vector<std::vector<int32_t>> texts;
            std::vector<std::vector<float>> wanted;
            const auto model = make(r, 1, isa);
            for (int64_t length : check::sizes<int64_t>({1, 7, 16, 33, 60}, {1, 17})) {
                texts.push_back(random_tokens(rng, length, r.vocab));
                wanted.push_back(alone(*model, texts.back()));
                for (float x : wanted.back()) CHECK(std::isfinite(x), name_of(r, isa, 1));
            }
            for (int threads : check::sizes({1, 2, 3}, {3})) {
                const auto other = make(r, threads, isa);
                CHECK(other->isa() == isa && other->threads() == threads, other->isa());
                const std::string what = name_of(r, isa, threads);
                CHECK(check::same_bits(alone(*other, texts.back()), wanted.back()), what);
                check_company(what, *other, rng, texts, wanted);
            }
        }
    }
}

TEST(long_texts_are_the_same_bits_in_any_pieces_and_with_any_threads) {
    const auto check = [](const Recipe& r, const std::string& isa) {
        Rng rng(10);
        const auto model = make(r, 1, isa);
        std::vector<std::vector<int32_t>> texts;
        std::vector<std::vector<float>> wanted;
        for (int64_t length : check::sizes<int64_t>({530, 257}, {270})) {
            texts.push_back(random_tokens(rng, length, r.vocab));
            wanted.push_back(alone(*model, texts.back()));
        }
        for (int threads : check::sizes({1, 3}, {3})) {
            const auto other = make(r, threads, isa);
            check_company(name_of(r, isa, threads), *other, rng, texts, wanted);
        }
    };
    Recipe r;  // past 256 tokens attention works in chunks, split over threads where rows are few
    r.layers = 1;
    for (KvType kv : {KvType::bf16, KvType::int8}) {
        r.kv = kv;
        for (const std::string& isa : kernel_names()) check(r, isa);
    }
}

TEST(pages_read_and_written_elsewhere_give_the_same_bits) {
    for (KvType kv : {KvType::bf16, KvType::int8}) {
        for (const std::string& isa : kernel_names()) {
            Recipe r;
            r.kv = kv;
            if (kv == KvType::int8) r.head_dim = 22, r.type = TensorType::F32;
            const auto one = make(r, 1, isa), two = make(r, 3, isa);
            Rng rng(13);
            const std::vector<int32_t> tokens = random_tokens(rng, 39, r.vocab);
            const std::vector<float> whole = steps_of(*one, tokens, 0, {5, 2, 7});
            steps_of(*two, random_tokens(rng, 48, r.vocab), 0, {1, 3, 9});  // pages are used again
            std::vector<uint8_t> page(one->page_bytes());
            const auto move = [&](int64_t from, int64_t to) {
                one->read_page(from, page.data(), page.size());
                two->write_page(to, page.data(), page.size());
            };
            move(5, 1);
            move(2, 63);
            const std::vector<float> rest = steps_of(*two, tokens, 32, {1, 63, 9});
            const std::vector<float> wanted(whole.end() - static_cast<int64_t>(rest.size()),
                                            whole.end());
            CHECK(rest.size() == static_cast<size_t>(7 * r.vocab), rest.size());
            CHECK(check::same_bits(rest, wanted), name_of(r, isa, 3));
            CHECK(one->cache_bytes() == page.size() * static_cast<size_t>(r.pages), page.size());
            CHECK_THROWS(one->read_page(64, page.data(), page.size()), std::out_of_range);
            CHECK_THROWS(one->write_page(-1, page.data(), page.size()), std::out_of_range);
            CHECK_THROWS(one->read_page(0, page.data(), page.size() - 1), std::invalid_argument);
            CHECK_THROWS(one->write_page(0, page.data(), page.size() + 1), std::invalid_argument);
            CHECK(check::same_bits(steps_of(*two, tokens, 32, {1, 63, 9}), wanted), "afterwards");
        }
    }
}

TEST(weight_digests_tell_models_apart_and_nothing_else) {
    Recipe r;
    r.tied = false;
    const auto model = make(r);
    const uint64_t first = model->weight_digest();
    CHECK(first == model->weight_digest(), "again");
    for (int threads : {1, 2, 5}) {
        Recipe same = r;
        same.kv = KvType::int8, same.pages = 3;
        CHECK(make(same, threads, "scalar")->weight_digest() == first, threads);
    }
    std::vector<uint64_t> found{first, make(Recipe())->weight_digest()};
    Recipe other = r;
    other.type = TensorType::Q4_0;
    found.push_back(make(other)->weight_digest());
    other = r;
    other.layers = 1;
    found.push_back(make(other)->weight_digest());
    ModelShape shape = shape_of(r);
    shape.inverse_frequencies[3] *= 1 + 1e-9;
    found.push_back(make(r, 1, "", shape)->weight_digest());
    shape = shape_of(r);
    shape.norm_eps = 1e-6f;
    found.push_back(make(r, 1, "", shape)->weight_digest());
    std::vector<float> norm(static_cast<size_t>(r.dim), 1);
    for (const char* name : {"attention_norm", "ffn_norm", "norm"}) {
        norm[static_cast<size_t>(r.dim) - 1] += 1e-6f;
        model->set_vector(name, 1, norm.data(), norm.size());
        found.push_back(model->weight_digest());
    }
    const std::vector<int64_t> rows{r.heads * r.head_dim, r.dim};
    for (int64_t byte : {int64_t{0}, r.dim / 32 * 20 - 1, rows[0] * r.dim / 32 * 20 - 1}) {
        std::vector<uint8_t> bytes(static_cast<size_t>(rows[0] * r.dim / 32 * 20));
        bytes[static_cast<size_t>(byte)] = 1;  // of a Q4_1 matrix: 20 bytes for 32 weights
        model->set_matrix("wq", 1, r.type, rows[0], r.dim, bytes.data(), bytes.size(), nullptr, 0);
        found.push_back(model->weight_digest());
    }
    std::sort(found.begin(), found.end());
    CHECK(std::adjacent_find(found.begin(), found.end()) == found.end(), "two are alike");
    CHECK_THROWS(Model(shape, 1, "").weight_digest(), std::invalid_argument);
}

TEST(instruction_sets_agree) {
    for (const Recipe& r : recipes()) {
        Rng rng(11);
        const std::vector<int32_t> tokens = random_tokens(rng, check::quick ? 18 : 40, r.vocab);
        const std::vector<float> plain = alone(*make(r, 1, "scalar"), tokens);
        double size = 0;
        for (float x : plain) size += static_cast<double>(x) * x;
        size = std::sqrt(size / static_cast<double>(plain.size()));
        for (const std::string& isa : kernel_names()) {
            const std::vector<float> other = alone(*make(r, 2, isa), tokens);
            double squares = 0, worst = 0;
            for (size_t i = 0; i < plain.size(); ++i) {
                const double difference = std::fabs(static_cast<double>(plain[i]) - other[i]);
                squares += difference * difference;
                worst = std::max(worst, difference);
            }
            const double rms = std::sqrt(squares / static_cast<double>(plain.size())) / size;
            if (isa != "scalar" && r.tied) {
                std::cout << "        " << name_of(r, isa, 2) << ": rms " << rms << ", worst "
                          << worst / size << " of the logits' rms\n";
            }
            // Another order of additions moves a value by 1e-7; where that moves an activation's
            // integer or a key's bf16 by one step, it moves the logits by up to 2^-9 of a part.
            // A step of an int8 key is 2^-7 of the largest.
            const double steps = r.kv == KvType::int8 ? 4 : 1;
            CHECK(rms < 2e-3 * steps && worst < 2e-2 * steps * size,
                  name_of(r, isa, 2) << " " << rms << " " << worst);
        }
    }
}

TEST(an_output_matrix_replaces_the_tied_one) {
    Recipe tied, untied;
    untied.tied = false;
    Rng rng(12);
    const std::vector<int32_t> tokens = random_tokens(rng, 5, tied.vocab);
    CHECK(!check::same_bits(alone(*make(tied), tokens), alone(*make(untied), tokens)), "equal");
}

TEST(hidden_states_are_what_the_head_multiplies) {
    Recipe r;
    r.type = TensorType::F32;
    const auto model = make(r);
    const int32_t tokens[] = {3, 1, 4}, positions[] = {0, 1, 2}, sequences[] = {0, 0, 0};
    const int32_t pages[] = {2}, outputs[] = {2, 0, 2};
    const Batch batch{3, tokens, positions, sequences, pages, 1, 1, outputs, 3};
    const float* states = model->forward(batch, true);
    const std::vector<float> kept(states, states + 3 * r.dim);
    const float* logits = model->forward(batch, false);
    Rng rng(77);  // the embedding is the first matrix that make() draws
    const FileMatrix head = random_matrix(rng, r.type, r.vocab, r.dim, Style::normal,
                                          1 / std::sqrt(static_cast<double>(r.dim)));
    for (int64_t i = 0; i < 3; ++i) {
        for (int64_t v = 0; v < r.vocab; ++v) {
            double exact = 0;
            for (int64_t d = 0; d < r.dim; ++d) exact += head.row(v)[d] * kept[i * r.dim + d];
            const float got = logits[i * r.vocab + v];
            CHECK(std::fabs(got - exact) < 1e-3, got << ", exact " << exact);  // rounded to words
        }
    }
    CHECK(!std::memcmp(kept.data(), kept.data() + 2 * r.dim, static_cast<size_t>(r.dim) * 4),
          "the same row twice");
}

TEST(wrong_arguments_throw_and_leave_the_model_usable) {
    Recipe r;
    const auto model = make(r);
    const std::vector<float> before = alone(*model, {1, 2, 3});
    const int32_t good[] = {0, 1, 2}, zeros[] = {0, 0, 0}, pages[] = {0}, none[] = {-1};
    const auto forward = [&](const int32_t* tokens, const int32_t* positions,
                             const int32_t* sequences, const int32_t* table, const int32_t* outputs,
                             int64_t rows = 3, int64_t count = 3) {
        model->forward({rows, tokens, positions, sequences, table, 1, 1, outputs, count}, false);
    };
    const int32_t negative[] = {0, -1, 1}, big[] = {0, 70, 1}, gap[] = {0, 2, 3};
    const int32_t down[] = {2, 1, 0}, sixteen[] = {14, 15, 16}, page[] = {64};
    const int32_t later[] = {0, 1, 3}, two[] = {0, 0, 1};
    CHECK_THROWS(forward(negative, good, zeros, pages, good), std::out_of_range);
    CHECK_THROWS(forward(big, good, zeros, pages, good), std::out_of_range);
    CHECK_THROWS(forward(good, gap, zeros, pages, good), std::invalid_argument);
    CHECK_THROWS(forward(good, down, zeros, pages, good), std::invalid_argument);
    CHECK_THROWS(forward(good, negative, zeros, pages, good), std::exception);
    CHECK_THROWS(forward(good, sixteen, zeros, pages, good), std::out_of_range);
    CHECK_THROWS(forward(good, good, two, pages, good), std::out_of_range);
    CHECK_THROWS(forward(good, good, negative, pages, good), std::out_of_range);
    CHECK_THROWS(forward(good, good, zeros, none, good), std::out_of_range);
    CHECK_THROWS(forward(good, good, zeros, page, good), std::out_of_range);
    CHECK_THROWS(forward(good, good, zeros, pages, later), std::out_of_range);
    CHECK_THROWS(forward(good, good, zeros, pages, negative), std::out_of_range);
    CHECK_THROWS(forward(good, good, zeros, pages, good, 0, 0), std::invalid_argument);
    forward(good, good, zeros, pages, good, 3, 0);  // no outputs: only the cache is filled
    CHECK(check::same_bits(alone(*model, {1, 2, 3}), before), "logits after refused batches");

    const std::vector<uint8_t> bytes(96 * 64 * 4, 0);
    std::vector<int32_t> order(96, 0);
    const auto set = [&](const char* name, int64_t layer, int64_t rows, int64_t columns,
                         size_t size, size_t order_size = 0) {
        model->set_matrix(name, layer, TensorType::F32, rows, columns, bytes.data(), size,
                          order_size ? order.data() : nullptr, order_size);
    };
    CHECK_THROWS(set("wx", 0, 96, 64, bytes.size()), std::invalid_argument);
    CHECK_THROWS(set("wq", 2, 96, 64, bytes.size()), std::invalid_argument);
    CHECK_THROWS(set("wq", -1, 96, 64, bytes.size()), std::invalid_argument);
    CHECK_THROWS(set("wq", 0, 64, 96, bytes.size()), std::invalid_argument);
    CHECK_THROWS(set("wq", 0, 96, 64, bytes.size() - 1), std::invalid_argument);
    CHECK_THROWS(set("wq", 0, 96, 64, bytes.size(), 95), std::invalid_argument);
    order[5] = 96;
    CHECK_THROWS(set("wq", 0, 96, 64, bytes.size(), 96), std::invalid_argument);
    order[5] = -1;
    CHECK_THROWS(set("wq", 0, 96, 64, bytes.size(), 96), std::invalid_argument);
    const float values[64] = {};
    CHECK_THROWS(model->set_vector("norm", 0, values, 63), std::invalid_argument);
    CHECK_THROWS(model->set_vector("no_norm", 0, values, 64), std::invalid_argument);
    CHECK_THROWS(model->set_vector("ffn_norm", 2, values, 64), std::invalid_argument);
    CHECK_THROWS(model->finish(0), std::invalid_argument);
    CHECK(check::same_bits(alone(*model, {1, 2, 3}), before), "logits after refused weights");
}

TEST(impossible_models_are_refused) {
    const auto build = [](auto change) {
        ModelShape shape = shape_of(Recipe());
        change(shape);
        Model(shape, 1, "");
    };
    CHECK_THROWS(build([](ModelShape& s) { s.dim = 0; }), std::invalid_argument);
    CHECK_THROWS(build([](ModelShape& s) { s.vocab_size = -1; }), std::invalid_argument);
    CHECK_THROWS(build([](ModelShape& s) { s.ffn_dim = int64_t{1} << 40; }), std::invalid_argument);
    CHECK_THROWS(build([](ModelShape& s) { s.n_kv_heads = 4; }), std::invalid_argument);
    CHECK_THROWS(build([](ModelShape& s) { s.head_dim = 15; }), std::invalid_argument);
    CHECK_THROWS(build([](ModelShape& s) { s.inverse_frequencies.pop_back(); }),
                 std::invalid_argument);
    CHECK_THROWS(Model(shape_of(Recipe()), 0, ""), std::invalid_argument);
    CHECK_THROWS(Model(shape_of(Recipe()), 1, "mmx"), std::invalid_argument);
    Model unfinished(shape_of(Recipe()), 1, "");
    CHECK_THROWS(unfinished.finish(4), std::invalid_argument);
    const int32_t zero[] = {0};
    CHECK_THROWS(unfinished.forward({1, zero, zero, zero, zero, 1, 1, zero, 1}, false),
                 std::invalid_argument);
}

TEST(sizes_that_overflow_are_refused_before_any_memory_is_taken) {
    Recipe wide;  // 2^46 rows of 2^30 columns are 2^78 bytes: 0 in 64 bits
    wide.dim = wide.heads = int64_t{1} << 30, wide.kv_heads = 1, wide.head_dim = 1 << 16;
    CHECK_THROWS(Model(shape_of(wide), 1, ""), std::invalid_argument);
    Recipe tall;
    tall.dim = tall.ffn = int64_t{1} << 30;
    Model model(shape_of(tall), 1, "");
    const uint8_t byte = 0;  // the matrix would take 2^62 bytes
    const auto set = [&] {
        model.set_matrix("w1", 0, TensorType::F32, tall.ffn, tall.dim, &byte, 1, nullptr, 0);
    };
    CHECK_THROWS(set(), std::invalid_argument);
    Recipe small;
    const auto usable = make(small);
    CHECK_THROWS(usable->finish((int64_t{1} << 31) + 1), std::invalid_argument);
}

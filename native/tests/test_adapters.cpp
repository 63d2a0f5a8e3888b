// Products with an adapter's panels, and passes over rows of several adapters.
#include <cmath>
#include <stdexcept>

#include "adapters.h"
#include "alpage/kernel_names.h"
#include "check.h"
#include "numbers.h"

using namespace alpage;
using check::Rng;

namespace {

double rounded(float weight) { return bf16_to_float(float_to_bf16(weight)); }

// Weights of one matrix, kept for the adapter that points at them.
struct Change {
    std::string name;
    int64_t layer, rank, rows, columns;
    float scale;
    std::vector<float> a, b;
    AdapterMatrix view() const {
        return {name, layer, rank, rows, columns, a.data(), b.data(), scale};
    }
};

Change change(Rng& rng, const std::string& name, int64_t layer, int64_t rank, int64_t rows,
              int64_t columns) {
    return {name,  layer, rank, rows, columns, 0.75f, check::normal(rng, rank * columns),
            check::normal(rng, rows * rank)};
}

Adapter pack(int64_t layers, const std::vector<Change>& changes) {
    std::vector<AdapterMatrix> views;
    for (const Change& c : changes) views.push_back(c.view());
    Adapter adapter(layers, views);
    for (int64_t layer = 0; layer < layers; ++layer) CHECK(adapter.pack(layer, views), layer);
    return adapter;
}

// What a change adds to row x in double precision, and a bound on what rounding may move it by.
void expected(const Change& c, const float* x, std::vector<double>& y, std::vector<double>& size) {
    y.assign(static_cast<size_t>(c.rows), 0);
    size = y;
    for (int64_t r = 0; r < c.rank; ++r) {
        double low = 0, sum = 0;
        for (int64_t k = 0; k < c.columns; ++k) {
            const double term = rounded(c.a[static_cast<size_t>(r * c.columns + k)]) * x[k];
            low += term, sum += std::fabs(term);
        }
        for (int64_t row = 0; row < c.rows; ++row) {
            const float weight = c.b[static_cast<size_t>(row * c.rank + r)] * c.scale;
            y[static_cast<size_t>(row)] += rounded(weight) * low;
            size[static_cast<size_t>(row)] += std::fabs(rounded(weight)) * sum;
        }
    }
}

// Rows of x and y of one group, with room between the rows that nobody may touch.
struct Rows {
    int64_t columns, width;
    std::vector<float> x, y;
    Rows(Rng& rng, int64_t count, int64_t columns, int64_t width)
        : columns(columns), width(width), x(check::normal(rng, count * (columns + 3))),
          y(check::normal(rng, count * (width + 5))) {
        for (int64_t row = 0; row < count; ++row) {  // NaN behind each row of x
            for (int64_t k = 0; k < 3; ++k) x[at(row, columns + 3) + columns + k] = NAN;
        }
    }
    static size_t at(int64_t row, int64_t stride) { return static_cast<size_t>(row * stride); }
    const float* input(int64_t row) const { return x.data() + at(row, columns + 3); }
    float* output(int64_t row) { return y.data() + at(row, width + 5); }
};

void run(AdapterPass& pass, const Kernels& kernels, AdapterGroup group, int64_t layer) {
    for (int64_t task = pass.tasks(layer, group); task-- > 0;) {
        pass.down(kernels, layer, group, task);
    }
    for (int64_t unit = 0; unit < pass.units(); ++unit) pass.up(kernels, layer, group, unit);
}

void check_change(const std::string& what, const Change& c, const float* x, const float* before,
                  const float* after) {
    std::vector<double> added, size;
    expected(c, x, added, size);
    for (int64_t i = 0; i < c.rows; ++i) {
        const double exact = before[i] + added[static_cast<size_t>(i)];
        const double bound = 1e-6 * (size[static_cast<size_t>(i)] + std::fabs(exact)) + 1e-7;
        CHECK(std::fabs(after[i] - exact) <= bound,
              what << " row " << i << ": " << after[i] << ", exact " << exact);
    }
}

}  // namespace

TEST(adapters_add_to_their_rows_what_double_precision_says) {
    Rng rng(41);
    struct Size { int64_t rank, rows, columns; };
    for (const Size& s : {Size{1, 1, 1}, {2, 16, 4}, {3, 17, 5}, {16, 64, 48}, {15, 33, 46},
                          {33, 100, 7}, {40, 31, 130}}) {
        // Two slots of different rank beside rows without one, out of order.
        const Change narrow = change(rng, "w2", 0, s.rank, s.rows, s.columns);
        const Change wide = change(rng, "w2", 0, s.rank + 5, s.rows, s.columns);
        AdapterSlots slots;
        slots.emplace(3, pack(1, {narrow}));
        slots.emplace(0, pack(1, {wide}));
        const std::vector<int32_t> sequences{0, 1, 1, 1, 1, 1, 1, 2, 3, 4};
        const std::vector<int32_t> adapters{3, 0, -1, 3, -1};
        const int64_t count = static_cast<int64_t>(sequences.size());
        const Rows given(rng, count, s.columns, s.rows);
        for (const std::string& isa : kernel_names()) {
            Rows rows = given;
            Batch batch{};
            batch.rows = count, batch.sequences = sequences.data();
            batch.adapters = adapters.data();
            AdapterPass pass;
            pass.plan(batch, slots, 1, 2);
            pass.place(down_group, {rows.x.data(), s.columns + 3, {rows.y.data()}, s.rows + 5});
            run(pass, select_kernels(isa.c_str()), down_group, 0);
            for (int64_t row = 0; row < count; ++row) {
                const int32_t sequence = sequences[static_cast<size_t>(row)];
                const int32_t slot = adapters[static_cast<size_t>(sequence)];
                const float* before = given.y.data() + row * (s.rows + 5);
                const std::vector<float> old(before, before + s.rows + 5);
                const float* after = rows.output(row);
                const std::string what = isa + " rank " + std::to_string(s.rank);
                if (slot >= 0) {
                    check_change(what, slot ? narrow : wide, rows.input(row), old.data(), after);
                }
                const int64_t kept = slot < 0 ? 0 : s.rows;  // the rest stays as it was
                for (int64_t i = kept; i < s.rows + 5; ++i) {
                    CHECK(after[i] == old[static_cast<size_t>(i)], what << " touched " << i);
                }
            }
        }
    }
}

TEST(products_of_a_group_keep_their_own_ranks) {
    Rng rng(42);
    const int64_t columns = 37;
    const std::vector<Change> changes{change(rng, "wv", 1, 4, 19, columns),
                                      change(rng, "wq", 1, 21, 50, columns)};  // no wk
    AdapterSlots slots;
    slots.emplace(0, pack(2, changes));
    const std::vector<int32_t> sequences{0, 0, 0}, adapters{0};
    Rows rows(rng, 3, columns, 88);
    const Rows given = rows;
    for (const std::string& isa : kernel_names()) {
        rows = given;
        Batch batch{};
        batch.rows = 3, batch.sequences = sequences.data(), batch.adapters = adapters.data();
        AdapterPass pass;
        pass.plan(batch, slots, 2, 1);
        float* y = rows.y.data();
        pass.place(qkv_group, {rows.x.data(), columns + 3, {y, y + 50, y + 69}, 93});
        CHECK(pass.tasks(0, qkv_group) == 0 && pass.tasks(1, down_group) == 0, "nothing to do");
        run(pass, select_kernels(isa.c_str()), qkv_group, 0);
        CHECK(check::same_bits(rows.y, given.y), isa << " a layer that the adapter leaves alone");
        run(pass, select_kernels(isa.c_str()), qkv_group, 1);
        for (int64_t row = 0; row < 3; ++row) {
            const float* before = given.y.data() + row * 93;
            const float* after = rows.output(row);
            check_change(isa + " q", changes[1], rows.input(row), before, after);
            check_change(isa + " v", changes[0], rows.input(row), before + 69, after + 69);
            for (int64_t i = 50; i < 69; ++i) CHECK(after[i] == before[i], isa << " k changed");
        }
    }
}

TEST(rows_with_adapters_are_the_same_bits_in_any_company) {
    Rng rng(43);
    const int64_t columns = 71, width = 45, count = 40;
    AdapterSlots slots;
    for (int32_t slot = 0; slot < 3; ++slot) {
        slots.emplace(slot, pack(1, {change(rng, "w2", 0, 5 + 7 * slot, width, columns)}));
    }
    const Rows given(rng, count, columns, width);
    std::vector<int32_t> sequences, adapters;
    for (int32_t row = 0; row < count; ++row) {
        sequences.push_back(row);
        adapters.push_back(static_cast<int32_t>(check::integer(rng, -1, 2)));
    }
    for (const std::string& isa : kernel_names()) {
        const auto compute = [&](Rows& rows, const std::vector<int32_t>& mask, int threads) {
            Batch batch{};
            batch.rows = count, batch.sequences = sequences.data(), batch.adapters = mask.data();
            AdapterPass pass;
            pass.plan(batch, slots, 1, threads);
            pass.place(down_group, {rows.x.data(), columns + 3, {rows.y.data()}, width + 5});
            run(pass, select_kernels(isa.c_str()), down_group, 0);
        };
        Rows together = given;
        compute(together, adapters, 1);
        for (size_t row = 0; row < adapters.size(); ++row) {
            Rows alone = given;
            std::vector<int32_t> mask(adapters.size(), -1);
            mask[row] = adapters[row];
            compute(alone, mask, 3);
            const auto at = static_cast<int64_t>(row);
            CHECK(!std::memcmp(alone.output(at), together.output(at), sizeof(float) * width),
                  isa << " row " << row);
        }
    }
}

TEST(adapters_that_cannot_be_are_refused) {
    Rng rng(44);
    const auto make = [](const std::vector<AdapterMatrix>& all) { Adapter(2, all); };
    const Change good = change(rng, "wo", 1, 2, 8, 8);
    Change other = good;
    CHECK_THROWS(make({good.view(), good.view()}), std::invalid_argument);
    other.name = "output";
    CHECK_THROWS(make({other.view()}), std::invalid_argument);
    other = good, other.layer = 2;
    CHECK_THROWS(make({other.view()}), std::invalid_argument);
    other.layer = -1;
    CHECK_THROWS(make({other.view()}), std::invalid_argument);
    for (float bad : {NAN, INFINITY, 3.4e38f}) {  // the last is finite, but not in bf16
        for (bool low : {true, false}) {
            other = good;
            (low ? other.a : other.b)[5] = bad;
            other.scale = 1;
            const std::vector<AdapterMatrix> views{other.view()};
            Adapter adapter(2, views);
            CHECK(adapter.pack(0, views) && !adapter.pack(1, views), bad);
        }
    }
    AdapterPass pass;
    const int32_t sequence = 0, empty = 7, none = -1;
    Batch batch{};
    batch.rows = 1, batch.sequences = &sequence, batch.adapters = &empty;
    CHECK_THROWS(pass.plan(batch, {}, 2, 1), std::out_of_range);
    batch.adapters = &none;
    pass.plan(batch, {}, 2, 1);
    CHECK(!pass.active() && pass.tasks(0, qkv_group) == 0, "nobody has an adapter");
}

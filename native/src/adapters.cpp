#include "adapters.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <stdexcept>

#include "numbers.h"

namespace alpage {
namespace {

constexpr int64_t products = 3;  // of a group at most
struct Name {
    const char* name;
    AdapterGroup group;
    int64_t product;
};
constexpr Name names[] = {{"wq", qkv_group, 0},     {"wk", qkv_group, 1},
                          {"wv", qkv_group, 2},     {"wo", out_group, 0},
                          {"w1", gate_up_group, 0}, {"w3", gate_up_group, 1},
                          {"w2", down_group, 0}};

const Name& find_name(const std::string& name) {
    for (const Name& known : names) {
        if (name == known.name) return known;
    }
    throw std::invalid_argument("no adapter can change " + name);
}

int64_t panel_elements(int64_t columns) { return (columns + 3) / 4 * 4 * panel_rows; }

int64_t matrix_elements(int64_t rows, int64_t columns) {
    return (rows + panel_rows - 1) / panel_rows * panel_elements(columns);
}

// Rows [first, first + rows) of a matrix in panels; false when a number does not stay finite.
bool pack_rows(uint16_t* panels, int64_t first, const float* from, int64_t rows, int64_t columns,
               float scale) {
    bool finite = true;
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t row = first + r;
        uint16_t* to = panels + row / panel_rows * panel_elements(columns) + row % panel_rows * 2;
        for (int64_t c = 0; c < columns; ++c) {
            const uint16_t rounded = float_to_bf16(from[r * columns + c] * scale);
            finite = finite && std::isfinite(bf16_to_float(rounded));
            to[c / 2 * (2 * panel_rows) + c % 2] = rounded;
        }
    }
    return finite;
}

}  // namespace

Adapter::Adapter(int64_t layers, const std::vector<AdapterMatrix>& matrices)
    : low_ranks_(static_cast<size_t>(layers * adapter_groups)) {
    std::vector<const AdapterMatrix*> given(low_ranks_.size() * products);
    for (const AdapterMatrix& m : matrices) {
        const Name& name = find_name(m.name);
        if (m.layer < 0 || m.layer >= layers) {
            throw std::invalid_argument("no layer " + std::to_string(m.layer));
        }
        const int64_t at = (m.layer * adapter_groups + name.group) * products + name.product;
        if (given[static_cast<size_t>(at)]) throw std::invalid_argument(m.name + " is given twice");
        given[static_cast<size_t>(at)] = &m;
    }
    int64_t size = 0;
    std::vector<int64_t> places;  // of A, then of each B, group by group
    const auto take = [&](int64_t rows, int64_t columns) {
        places.push_back(size);
        size += matrix_elements(rows, columns);
    };
    for (size_t i = 0; i < given.size(); ++i) {
        LowRank& low = low_ranks_[i / products];
        if (const AdapterMatrix* m = given[i]) {
            low.ups.push_back({static_cast<int64_t>(i % products), low.rank, m->rank, m->rows,
                               nullptr});
            low.columns = m->columns;
            low.rank += m->rank;
        }
        if (i % products != products - 1 || !low.rank) continue;
        take(low.rank, low.columns);
        for (const LowRank::Up& up : low.ups) take(up.rows, up.rank);
    }
    data_ = Buffer(static_cast<size_t>(size) * sizeof(uint16_t));
    auto place = places.begin();
    const auto next = [&] { return reinterpret_cast<uint16_t*>(data_.data()) + *place++; };
    for (LowRank& low : low_ranks_) {
        if (low.rank) low.down = next();
        for (LowRank::Up& up : low.ups) up.panels = next();
    }
}

bool Adapter::pack(int64_t layer, const std::vector<AdapterMatrix>& matrices) {
    bool finite = true;
    for (const AdapterMatrix& m : matrices) {
        if (m.layer != layer) continue;
        const Name& name = find_name(m.name);
        const LowRank& low = at(layer, name.group);
        for (const LowRank::Up& up : low.ups) {
            if (up.product != name.product) continue;
            finite &= pack_rows(low.down, up.first, m.a, m.rank, m.columns, 1);
            finite &= pack_rows(up.panels, 0, m.b, m.rows, m.rank, m.scale);
        }
    }
    return finite;
}

void AdapterPass::plan(const Batch& batch, const AdapterSlots& slots, int64_t layers,
                       int threads) {
    units_.clear();
    if (!batch.adapters) return;
    const auto slot_of = [&](int32_t row) { return batch.adapters[batch.sequences[row]]; };
    order_.resize(static_cast<size_t>(batch.rows));
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int32_t a, int32_t b) { return slot_of(a) < slot_of(b); });
    if (slot_of(order_.back()) < 0) return;  // nobody has one
    // A unit reads its adapter's weights once for all its rows.
    const int64_t most = std::clamp<int64_t>(batch.rows / (4 * threads), 4, 16);
    pieces_.assign(static_cast<size_t>(layers * adapter_groups), 0);
    stride_ = first_adapted_ = 0;
    for (int64_t first = 0; first < batch.rows;) {
        const int32_t slot = slot_of(order_[static_cast<size_t>(first)]);
        int64_t end = first + 1;
        while (end < batch.rows && end < first + most &&
               slot_of(order_[static_cast<size_t>(end)]) == slot) {
            ++end;
        }
        const Adapter* adapter = slot < 0 ? nullptr : &slots.at(slot);
        if (!adapter) ++first_adapted_;
        else if (units_.empty() || units_.back().adapter != adapter) widen(*adapter);
        units_.push_back({adapter, first, end - first});
        first = end;
    }
    const auto size = static_cast<size_t>(batch.rows * stride_);
    if (low_.size() < size) low_.resize(size);
}

void AdapterPass::widen(const Adapter& adapter) {
    for (int64_t i = 0; i < static_cast<int64_t>(pieces_.size()); ++i) {
        const auto group = static_cast<AdapterGroup>(i % adapter_groups);
        const int64_t panels = adapter.at(i / adapter_groups, group).panels();
        int64_t& most = pieces_[static_cast<size_t>(i)];
        most = std::max(most, (panels + piece_panels - 1) / piece_panels);
        stride_ = std::max(stride_, panels * panel_rows);
    }
}

void AdapterPass::down(const Kernels& kernels, int64_t layer, AdapterGroup group, int64_t task) {
    const int64_t most = pieces(layer, group), panel = task % most * piece_panels;
    const Unit& unit = units_[static_cast<size_t>(first_adapted_ + task / most)];
    const LowRank& low = unit.adapter->at(layer, group);
    if (panel >= low.panels()) return;
    const Place& place = places_[group];
    const int64_t end = std::min(panel + piece_panels, low.panels());
    kernels.low_rank({low.down, panel, end, low.columns, low.panels() * panel_rows,
                      &order_[static_cast<size_t>(unit.first)], unit.count, place.x,
                      place.x_stride, low_.data(), stride_, false});
}

void AdapterPass::up(const Kernels& kernels, int64_t layer, AdapterGroup group,
                     int64_t index) const {
    const Unit& unit = units_[static_cast<size_t>(index)];
    if (!unit.adapter) return;
    const Place& place = places_[group];
    for (const LowRank::Up& up : unit.adapter->at(layer, group).ups) {
        kernels.low_rank({up.panels, 0, (up.rows + panel_rows - 1) / panel_rows, up.rank, up.rows,
                          &order_[static_cast<size_t>(unit.first)], unit.count,
                          low_.data() + up.first, stride_, place.y[up.product], place.y_stride,
                          true});
    }
}

}  // namespace alpage

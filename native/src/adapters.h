// Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685): rows of sequences that run with one
// get y += scale * B (A x) beside the products of the model's own weights, which stay as they are.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "alpage/types.h"
#include "pack.h"

namespace alpage {

// Products that share an input, so that their A are one matrix: wq wk wv; wo; w1 w3; w2.
enum AdapterGroup { qkv_group, out_group, gate_up_group, down_group, adapter_groups };

// What one adapter adds to one group of one layer. Weights are bf16 in panels (LowRankPart); B
// has the scale in it.
struct LowRank {
    struct Up {
        int64_t product, first, rank, rows;  // first: of its ranks among those of the group
        uint16_t* panels;
    };
    int64_t columns = 0, rank = 0;  // rank: of all products together
    uint16_t* down = nullptr;
    std::vector<Up> ups;
    int64_t panels() const { return (rank + panel_rows - 1) / panel_rows; }
};

class Adapter {
public:
    // Lays the matrices out in the order in which a pass reads them; `pack` fills them in. Throws
    // std::invalid_argument when one is unknown or given twice.
    Adapter(int64_t layers, const std::vector<AdapterMatrix>& matrices);
    // Fills in one layer, of the same matrices. False when a weight is NaN or infinite, or too
    // large for bf16.
    bool pack(int64_t layer, const std::vector<AdapterMatrix>& matrices);

    const LowRank& at(int64_t layer, AdapterGroup group) const {
        return low_ranks_[static_cast<size_t>(layer * adapter_groups + group)];
    }
    size_t bytes() const { return data_.size(); }

private:
    std::vector<LowRank> low_ranks_;  // [layers][groups]
    Buffer data_;
};

using AdapterSlots = std::map<int32_t, Adapter>;

// The adapters of one forward pass: its rows in units of one adapter each (or of none), small
// enough to be shared out between threads.
class AdapterPass {
public:
    // Where a group's input lies and where its products go.
    struct Place {
        const float* x = nullptr;
        int64_t x_stride = 0;
        float* y[3] = {};
        int64_t y_stride = 0;
    };

    // Throws std::out_of_range for a slot that holds no adapter.
    void plan(const Batch& batch, const AdapterSlots& slots, int64_t layers, int threads);
    bool active() const { return !units_.empty(); }
    void place(AdapterGroup group, const Place& place) { places_[group] = place; }

    // A x of a group, in `tasks` independent pieces; all of them before `up`.
    int64_t tasks(int64_t layer, AdapterGroup group) const {
        return active() ? pieces(layer, group) * (units() - first_adapted_) : 0;
    }
    void down(const Kernels& kernels, int64_t layer, AdapterGroup group, int64_t task);
    // y += scale * B (A x) for the rows of a unit.
    void up(const Kernels& kernels, int64_t layer, AdapterGroup group, int64_t unit) const;

    int64_t units() const { return static_cast<int64_t>(units_.size()); }
    template <class Fn>
    void each_row(int64_t unit, Fn&& fn) const {
        const Unit& u = units_[static_cast<size_t>(unit)];
        for (int64_t i = 0; i < u.count; ++i) fn(int64_t{order_[static_cast<size_t>(u.first + i)]});
    }

private:
    struct Unit {
        const Adapter* adapter;  // null: none
        int64_t first, count;    // of order_
    };
    static constexpr int64_t piece_panels = 2;  // of A: two share what they load of x
    // Of the A that has the most.
    int64_t pieces(int64_t layer, AdapterGroup group) const {
        return pieces_[static_cast<size_t>(layer * adapter_groups + group)];
    }
    void widen(const Adapter& adapter);

    Place places_[adapter_groups];
    std::vector<Unit> units_;
    std::vector<int32_t> order_;   // rows by adapter
    std::vector<int64_t> pieces_;  // [layers][groups]
    std::vector<float> low_;       // A x, [rows][stride_]
    int64_t stride_ = 0, first_adapted_ = 0;
};

}  // namespace alpage

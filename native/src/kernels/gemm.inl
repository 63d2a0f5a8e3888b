// Products of several rows; a part of simd.inl. The weights of a few panels are unpacked into the
// first-level cache, a slice of columns at a time, and then meet tiles of rows: an activation that
// has been spread over a register serves all panels of the tile, because one load for each product
// would hold back the multipliers (measured on Ice Lake: one load a cycle, two products a cycle). A
// row's sums are made by the same operations as in quant_tile. Quants of up to eight bits are
// multiplied by gemm_bytes.inl where a product of four bytes takes one instruction; all others, and
// words, by gemm_words.inl.

constexpr int gemm_panels = ALPAGE_GEMM_PANELS;
constexpr int64_t chunk_rows = 96;  // rows whose sums are kept while the panels' columns pass by

#define ALPAGE_UNROLL _Pragma("GCC unroll 8")

// One panel's scales and offsets of a block, [part][panel][2][16]; where the next block's go.
template <TensorType type, int P>
float* unpack_scales(const uint8_t* panel, int64_t block, float* scales) {
    using T = Type<type>;
    unroll<T::halves ? 2 : 1>([&](auto half) {
        F scale, offset;
        if constexpr (T::halves) T::scales(panel, block, half, scale, offset);
        else T::scales(panel, block, scale, offset);
        V::store(scales, scale);
        V::store(scales + panel_rows, offset);
        scales += P * 2 * panel_rows;
    });
    return scales;
}

template <class Number>
struct RowsOfSlice {
    const Number* q;      // activations of the tile's first row, at the slice's first block
    int64_t stride;       // of q
    const float *scale, *sum;
    int64_t scale_stride, sum_stride;
    int64_t blocks;
};

#include "kernels/gemm_words.inl"
#ifndef ALPAGE_GEMM_WORDS
#include "kernels/gemm_bytes.inl"
template <TensorType type>
using Gemm = std::conditional_t<is_float(type), WordGemm<type>, ByteGemm<type>>;
#else
template <TensorType type>
using Gemm = WordGemm<type>;
#endif

// Calls fn(row, R) for tiles that fill the registers, as few and as full as the rows allow.
template <class Fn>
void gemm_row_tiles(int64_t rows, Fn&& fn) {
    int64_t row = 0;
    for (int64_t left = rows; left >= 4; left = rows - row) {
        if (left >= 10 || left == 6 || left == 7) {
            fn(row, std::integral_constant<int, 6>{});
            row += 6;
        } else {
            fn(row, std::integral_constant<int, 4>{});
            row += 4;
        }
    }
    row_tiles<2>(row, rows, fn);
}

template <class Slice>
struct Workspace {
    Slice slice;
    alignas(64) float totals[chunk_rows * gemm_panels * panel_rows];  // [row][panel][16]
};

template <TensorType type>
void gemm(const MatmulPart& part, const Activations& x) {
    static thread_local Workspace<typename Gemm<type>::Slice> space;
    constexpr int64_t slice_blocks = Gemm<type>::slice_blocks;
    float* const totals = space.totals;
    const PanelLayout layout = panel_layout(type, part.columns);
    const int64_t blocks = block_count(part.columns);
    for (int64_t row = part.row_begin; row < part.row_end; row += chunk_rows) {
        const int64_t rows = std::min(chunk_rows, part.row_end - row);
        row_tiles<gemm_panels>(part.panel_begin, part.panel_end, [&](int64_t panel, auto count) {
            constexpr int P = decltype(count)::value;
            std::fill_n(totals, rows * P * panel_rows, 0.0f);
            for (int64_t first = 0; first < blocks; first += slice_blocks) {
                const int64_t wide = std::min(slice_blocks, blocks - first);
                Gemm<type>::template unpack<P>(part.panels + panel * layout.bytes(), layout, first,
                                               wide, space.slice);
                gemm_row_tiles(rows, [&](int64_t r, auto tile) {
                    Gemm<type>::template tile<P, decltype(tile)::value>(
                        space.slice, x, row + r, first, wide, totals + r * P * panel_rows);
                });
            }
            for (int64_t r = 0; r < rows; ++r) {
                for (int p = 0; p < P; ++p) {
                    const int64_t column = (panel + p) * panel_rows;
                    store_sums(V::loadf(totals + (r * P + p) * panel_rows),
                               part.y + (row + r) * part.stride + column, part.accumulate,
                               part.matrix_rows - column);
                }
            }
        });
    }
}

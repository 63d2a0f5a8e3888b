// Products of several rows; a part of simd.inl. The weights of a few panels are unpacked into the
// first-level cache, a slice of columns at a time, and then meet tiles of rows: an activation that
// has been spread over a register serves all panels of the tile, because one load for each product
// would hold back the multipliers (measured on Ice Lake: one load a cycle, two products a cycle). A
// row's sums are made by the same operations as in quant_tile and float_tile.

constexpr int gemm_panels = ALPAGE_GEMM_PANELS;
constexpr int slice_blocks = 8;
constexpr int64_t chunk_rows = 96;  // rows whose sums are kept while the panels' columns pass by

// Unpacked quants [block][group][panel][64] and scales and offsets [block][part][panel][2][16].
struct QuantSlice {
    alignas(64) uint8_t quants[slice_blocks * 8 * gemm_panels * 64];
    alignas(64) float scales[slice_blocks * 2 * gemm_panels * 2 * panel_rows];
};
template <TensorType type, int P>
void unpack_slice(const uint8_t* panel, const PanelLayout& layout, int64_t first, int64_t blocks,
                  QuantSlice& slice) {
    using T = Type<type>;
    constexpr int parts = T::halves ? 2 : 1;
    for (int p = 0; p < P; ++p, panel += layout.bytes()) {
        const uint8_t* quants = panel + layout.scale_bytes + first * T::quant_bytes;
        uint8_t* to = slice.quants + p * 64;
        float* scales = slice.scales + p * 2 * panel_rows;
        for (int64_t b = 0; b < blocks; ++b, quants += T::quant_bytes) {
            unroll<T::quant_bytes / 64>([&](auto line) {
                __builtin_prefetch(quants + slice_blocks * T::quant_bytes + 64 * line);
            });
            unroll<8>([&](auto g) {
                V::store_bytes(to, group<T::bits, g>(quants));
                to += P * 64;
            });
            unroll<parts>([&](auto half) {
                F scale, offset;
                if constexpr (T::halves) T::scales(panel, first + b, half, scale, offset);
                else T::scales(panel, first + b, scale, offset);
                V::store(scales, scale);
                V::store(scales + panel_rows, offset);
                scales += P * 2 * panel_rows;
            });
        }
    }
}

struct RowsOfSlice {
    const int8_t* q;      // of the tile's first row, at the slice's first block
    int64_t stride;       // of q
    const float *scale, *sum;
    int64_t scale_stride, sum_stride;
    int64_t blocks;
};

#define ALPAGE_UNROLL _Pragma("GCC unroll 8")

// P panels times R rows over a slice, added to `totals` [R][P][16]. Plain loops: g++ keeps the sums
// in registers only if the groups' loop stays a loop.
template <int parts, int P, int R>
void gemm_tile(const QuantSlice& slice, const RowsOfSlice& rows, float* totals) {
    constexpr int groups = 8 / parts;
    const uint8_t* quants = slice.quants;
    const float* scales = slice.scales;
    const int8_t* q = rows.q;
    for (int64_t b = 0; b < rows.blocks; ++b, q += 2 * block_columns) {
        for (int part = 0; part < parts; ++part, quants += groups * P * 64) {
            I dot[R][P];
            ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
                ALPAGE_UNROLL for (int p = 0; p < P; ++p) dot[r][p] = V::bytes(0);
            }
#pragma GCC unroll 1
            for (int low = 0; low < 2; ++low) {  // high bytes, times 128, then low bytes
                const int8_t* x = q + low * block_columns + part * 4 * groups;
                const uint8_t* from = quants;
#pragma GCC unroll 1
                for (int g = 0; g < groups; ++g, x += 4, from += P * 64) {
                    I weights[P];
                    ALPAGE_UNROLL for (int p = 0; p < P; ++p) weights[p] = V::load(from + p * 64);
                    ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
                        const I four = V::spread(x + r * rows.stride);
                        ALPAGE_UNROLL for (int p = 0; p < P; ++p) {
                            dot[r][p] = V::dot_lanes(dot[r][p], weights[p], four);
                        }
                    }
                }
                if (low) break;
                ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
                    ALPAGE_UNROLL for (int p = 0; p < P; ++p) {
                        dot[r][p] = V::template shift_lanes<7>(dot[r][p]);
                    }
                }
            }
            float* total = totals;
            ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
                const F scale = V::set1(rows.scale[r * rows.scale_stride + b]);
                const F sum = V::set1(rows.sum[r * rows.sum_stride + b * parts + part]);
                ALPAGE_UNROLL for (int p = 0; p < P; ++p, total += panel_rows) {
                    const float* of = scales + p * 2 * panel_rows;
                    const F scaled = V::mul(V::to_float(dot[r][p]), V::loadf(of));
                    const F first = V::fma(scaled, scale, V::loadf(total));
                    V::store(total, V::fma(V::loadf(of + panel_rows), sum, first));
                }
            }
            scales += P * 2 * panel_rows;
        }
    }
}

// How the products of a type are made: what a slice is, how it is filled, and the tile.
template <TensorType type>
struct QuantGemm {
    using T = Type<type>;
    using Slice = QuantSlice;
    static constexpr int parts = T::halves ? 2 : 1;
    static constexpr int64_t slice_columns = slice_blocks * block_columns;

    template <int P>
    static void unpack(const uint8_t* panel, const PanelLayout& layout, int64_t first,
                       int64_t columns, Slice& slice) {
        unpack_slice<type, P>(panel, layout, first / block_columns, columns / block_columns, slice);
    }
    template <int P, int R>
    static void tile(const Slice& slice, const Activations& x, int64_t row, int64_t first,
                     int64_t columns, float* totals) {
        const int64_t blocks = x.columns / block_columns;
        const int64_t at = row * blocks + first / block_columns;
        gemm_tile<parts, P, R>(slice,
                               {x.q + at * 2 * block_columns, 2 * x.columns, x.scale + at,
                                (T::halves ? x.sum16 : x.sum) + at * parts, blocks, blocks * parts,
                                columns / block_columns},
                               totals);
    }
};

// Floats [column][panel][16], rows of activations in single precision.
template <TensorType type>
struct FloatGemm {
    static constexpr int64_t slice_columns = 64;
    struct Slice {
        alignas(64) float weights[slice_columns * gemm_panels * panel_rows];
    };

    template <int P>
    static void unpack(const uint8_t* panel, const PanelLayout& layout, int64_t first,
                       int64_t columns, Slice& slice) {
        for (int p = 0; p < P; ++p, panel += layout.bytes()) {
            float* to = slice.weights + p * panel_rows;
            for (int64_t k = first; k < first + columns; ++k, to += P * panel_rows) {
                V::store(to, float_weights<type>(panel, k));
            }
        }
    }
    template <int P, int R>
    static void tile(const Slice& slice, const Activations& x, int64_t row, int64_t first,
                     int64_t columns, float* totals) {
        const float *weights = slice.weights, *xs = x.x + row * x.columns + first;
        F total[R][P];
        ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
            ALPAGE_UNROLL for (int p = 0; p < P; ++p) {
                total[r][p] = V::loadf(totals + (r * P + p) * panel_rows);
            }
        }
#pragma GCC unroll 1
        for (int64_t k = 0; k < columns; ++k, weights += P * panel_rows) {
            F w[P];
            ALPAGE_UNROLL for (int p = 0; p < P; ++p) w[p] = V::loadf(weights + p * panel_rows);
            ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
                const F value = V::set1(xs[r * x.columns + k]);
                ALPAGE_UNROLL for (int p = 0; p < P; ++p) {
                    total[r][p] = V::fma(w[p], value, total[r][p]);
                }
            }
        }
        ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
            ALPAGE_UNROLL for (int p = 0; p < P; ++p) {
                V::store(totals + (r * P + p) * panel_rows, total[r][p]);
            }
        }
    }
};

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

template <class Gemm>
struct Workspace {
    typename Gemm::Slice slice;
    alignas(64) float totals[chunk_rows * gemm_panels * panel_rows];  // [row][panel][16]
};

template <TensorType type, class Gemm>
void gemm(const MatmulPart& part, const Activations& x) {
    static thread_local Workspace<Gemm> space;
    float* const totals = space.totals;
    const PanelLayout layout = panel_layout(type, part.columns);
    for (int64_t row = part.row_begin; row < part.row_end; row += chunk_rows) {
        const int64_t rows = std::min(chunk_rows, part.row_end - row);
        row_tiles<gemm_panels>(part.panel_begin, part.panel_end, [&](int64_t panel, auto count) {
            constexpr int P = decltype(count)::value;
            std::fill_n(totals, rows * P * panel_rows, 0.0f);
            for (int64_t first = 0; first < part.columns; first += Gemm::slice_columns) {
                const int64_t wide = std::min(Gemm::slice_columns, part.columns - first);
                Gemm::template unpack<P>(part.panels + panel * layout.bytes(), layout, first, wide,
                                         space.slice);
                gemm_row_tiles(rows, [&](int64_t r, auto tile) {
                    Gemm::template tile<P, decltype(tile)::value>(
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

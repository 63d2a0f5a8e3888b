// Quantised weights times bytes of activations, four products a lane at once; a part of gemm.inl.

constexpr int byte_blocks = 8;  // of a slice

// Unpacked quants [block][group][panel][64] and scales and offsets [block][part][panel][2][16].
struct ByteSlice {
    alignas(64) uint8_t quants[byte_blocks * 8 * gemm_panels * 64];
    alignas(64) float scales[byte_blocks * 2 * gemm_panels * 2 * panel_rows];
};
template <TensorType type, int P>
void unpack_bytes(const uint8_t* panel, const PanelLayout& layout, int64_t first, int64_t blocks,
                  ByteSlice& slice) {
    using T = Type<type>;
    for (int p = 0; p < P; ++p, panel += layout.bytes()) {
        const uint8_t* quants = panel + layout.scale_bytes + first * T::quant_bytes;
        uint8_t* to = slice.quants + p * 64;
        float* scales = slice.scales + p * 2 * panel_rows;
        for (int64_t b = 0; b < blocks; ++b, quants += T::quant_bytes) {
            unroll<T::quant_bytes / 64>([&](auto line) {
                __builtin_prefetch(quants + byte_blocks * T::quant_bytes + 64 * line);
            });
            unroll<8>([&](auto g) {
                V::store_bytes(to, group<T::bits, g>(quants));
                to += P * 64;
            });
            scales = unpack_scales<type, P>(panel, first + b, scales);
        }
    }
}

// P panels times R rows over a slice, added to `totals` [R][P][16]. Plain loops: g++ keeps the sums
// in registers only if the groups' loop stays a loop.
template <int parts, int P, int R>
void byte_tile(const ByteSlice& slice, const RowsOfSlice<int8_t>& rows, float* totals) {
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
struct ByteGemm {
    using T = Type<type>;
    using Slice = ByteSlice;
    static constexpr int parts = T::halves ? 2 : 1;
    static constexpr int64_t slice_blocks = byte_blocks;

    template <int P>
    static void unpack(const uint8_t* panel, const PanelLayout& layout, int64_t first,
                       int64_t blocks, Slice& slice) {
        unpack_bytes<type, P>(panel, layout, first, blocks, slice);
    }
    template <int P, int R>
    static void tile(const Slice& slice, const Activations& x, int64_t row, int64_t first,
                     int64_t wide, float* totals) {
        const int64_t blocks = block_count(x.columns), at = row * blocks + first;
        byte_tile<parts, P, R>(slice,
                               {x.q + at * 2 * block_columns, blocks * 2 * block_columns,
                                x.scale + at, (T::halves ? x.sum16 : x.sum) + at * parts, blocks,
                                blocks * parts, wide},
                               totals);
    }
};

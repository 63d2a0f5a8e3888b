// Weights times activations in 16 bits, two products a lane at once; a part of gemm.inl. For float
// types, which are kept as words, and for all where products of bytes are no sums of four in 32
// bits: the two bytes of an activation, each in 16 bits, would take as many products and more sums.

constexpr int word_blocks = gemm_panels > 1 ? 4 : 8;  // of a slice: half of the first-level cache

// Quants in 16 bits [block][pair of columns][panel][16][2], the pairs as in Activations::words;
// scales and offsets [block][part][panel][2][16].
struct WordSlice {
    alignas(64) uint8_t quants[word_blocks * 16 * gemm_panels * 64];
    alignas(64) float scales[word_blocks * 2 * gemm_panels * 2 * panel_rows];
};

template <TensorType type, int P>
void unpack_words(const uint8_t* panel, const PanelLayout& layout, int64_t first, int64_t blocks,
                  WordSlice& slice) {
    using T = Type<type>;
    for (int p = 0; p < P; ++p, panel += layout.bytes()) {
        const uint8_t* quants = panel + layout.scale_bytes + first * T::quant_bytes;
        uint8_t* to = slice.quants + p * 64;
        float* scales = slice.scales + p * 2 * panel_rows;
        for (int64_t b = 0; b < blocks; ++b, quants += T::quant_bytes) {
            unroll<8>([&](auto g) {
                if constexpr (T::bits == Bits::word) {
                    V::store_words(to, V::load(quants + g * 128));
                    V::store_words(to + P * 64, V::load(quants + g * 128 + 64));
                } else {
#ifdef ALPAGE_GEMM_WORDS
                    const I four = group<T::bits, g>(quants);
                    V::store_words(to, V::even_bytes(four));
                    V::store_words(to + P * 64, V::odd_bytes(four));
#endif
                }
                to += 2 * P * 64;
            });
            scales = unpack_scales<type, P>(panel, first + b, scales);
        }
    }
}

// P panels times R rows over a slice, added to `totals` [R][P][16].
template <int parts, int P, int R>
void word_tile(const WordSlice& slice, const RowsOfSlice<int16_t>& rows, float* totals) {
    constexpr int pairs = 16 / parts;  // of columns
    const uint8_t* quants = slice.quants;
    const float* scales = slice.scales;
    const int16_t* words = rows.q;
    for (int64_t b = 0; b < rows.blocks; ++b) {
        for (int part = 0; part < parts; ++part) {
            I dot[R][P];
            ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
                ALPAGE_UNROLL for (int p = 0; p < P; ++p) dot[r][p] = V::bytes(0);
            }
#pragma GCC unroll 1
            for (int pair = 0; pair < pairs; ++pair, words += 2, quants += P * 64) {
                I weights[P];
                ALPAGE_UNROLL for (int p = 0; p < P; ++p) weights[p] = V::load(quants + p * 64);
                ALPAGE_UNROLL for (int r = 0; r < R; ++r) {
                    const I two = V::spread(words + r * rows.stride);
                    ALPAGE_UNROLL for (int p = 0; p < P; ++p) {
                        dot[r][p] = V::dot_words(dot[r][p], weights[p], two);
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

// As ByteGemm.
template <TensorType type>
struct WordGemm {
    using T = Type<type>;
    using Slice = WordSlice;
    static constexpr int parts = T::halves ? 2 : 1;
    static constexpr int64_t slice_blocks = word_blocks;

    template <int P>
    static void unpack(const uint8_t* panel, const PanelLayout& layout, int64_t first,
                       int64_t blocks, Slice& slice) {
        unpack_words<type, P>(panel, layout, first, blocks, slice);
    }
    template <int P, int R>
    static void tile(const Slice& slice, const Activations& x, int64_t row, int64_t first,
                     int64_t wide, float* totals) {
        const int64_t blocks = block_count(x.columns), at = row * blocks + first;
        word_tile<parts, P, R>(slice,
                               {x.words + at * block_columns, blocks * block_columns, x.scale + at,
                                (T::halves ? x.sum16 : x.sum) + at * parts, blocks, blocks * parts,
                                wide},
                               totals);
    }
};

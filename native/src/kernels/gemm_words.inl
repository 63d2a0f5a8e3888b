// Quantised weights times activations in 16 bits, two products a lane at once; a part of gemm.inl.
// For instruction sets whose products of bytes are no sums of four in 32 bits: there the two bytes
// of an activation, each in 16 bits, would take as many products and more sums.

// A chunk's activations. No std::vector: its functions, compiled here for this instruction set,
// could become those of the whole program.
struct Words {
    int16_t* data = nullptr;
    size_t size = 0;

    ~Words() { std::free(data); }
    void need(size_t count) {
        if (count <= size) return;
        std::free(data);
        data = static_cast<int16_t*>(std::malloc(count * sizeof(int16_t)));
        size = data ? count : 0;
        if (!data) throw std::bad_alloc();
    }
};

// Unpacked quants in 16 bits [block][group][even and odd columns][panel][16][2], scales and offsets
// [block][part][panel][2][16], and the activations of a chunk of rows, [row][column] but in each
// four columns 0, 2, 1, 3: the order in which bytes of weights become words.
struct QuantSlice {
    alignas(64) uint8_t quants[slice_blocks * 16 * gemm_panels * 64];
    alignas(64) float scales[slice_blocks * 2 * gemm_panels * 2 * panel_rows];
    Words words;
};

template <TensorType type, int P>
void unpack_slice(const uint8_t* panel, const PanelLayout& layout, int64_t first, int64_t blocks,
                  QuantSlice& slice) {
    using T = Type<type>;
    for (int p = 0; p < P; ++p, panel += layout.bytes()) {
        const uint8_t* quants = panel + layout.scale_bytes + first * T::quant_bytes;
        uint8_t* to = slice.quants + p * 64;
        float* scales = slice.scales + p * 2 * panel_rows;
        for (int64_t b = 0; b < blocks; ++b, quants += T::quant_bytes) {
            unroll<8>([&](auto g) {
                const I four = group<T::bits, g>(quants);
                V::store_words(to, V::even_bytes(four));
                V::store_words(to + P * 64, V::odd_bytes(four));
                to += 2 * P * 64;
            });
            scales = unpack_scales<type, P>(panel, first + b, scales);
        }
    }
}

// P panels times R rows over a slice, added to `totals` [R][P][16].
template <int parts, int P, int R>
void gemm_tile(const QuantSlice& slice, const RowsOfSlice<int16_t>& rows, float* totals) {
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

// How the products of a type are made: what a slice is, how it is filled, and the tile.
template <TensorType type>
struct QuantGemm {
    using T = Type<type>;
    using Slice = QuantSlice;
    static constexpr int parts = T::halves ? 2 : 1;
    static constexpr int64_t slice_columns = slice_blocks * block_columns;

    // The activations of a chunk of rows as words.
    static void begin(const Activations& x, int64_t chunk, int64_t rows, Slice& slice) {
        const size_t count = static_cast<size_t>(rows * x.columns);
        slice.words.need(count);
        const int8_t* q = x.q + chunk * 2 * x.columns;
        for (size_t at = 0; at < count; at += block_columns, q += 2 * block_columns) {
            V::join_bytes(q, slice.words.data + at);
        }
    }
    template <int P>
    static void unpack(const uint8_t* panel, const PanelLayout& layout, int64_t first,
                       int64_t columns, Slice& slice) {
        unpack_slice<type, P>(panel, layout, first / block_columns, columns / block_columns, slice);
    }
    template <int P, int R>
    static void tile(const Slice& slice, const Activations& x, int64_t chunk, int64_t row,
                     int64_t first, int64_t columns, float* totals) {
        const int64_t blocks = x.columns / block_columns;
        const int64_t at = (chunk + row) * blocks + first / block_columns;
        gemm_tile<parts, P, R>(slice,
                               {slice.words.data + row * x.columns + first, x.columns, x.scale + at,
                                (T::halves ? x.sum16 : x.sum) + at * parts, blocks, blocks * parts,
                                columns / block_columns},
                               totals);
    }
};

// Products with the bf16 panels of an adapter. Included by simd.inl.

constexpr int low_rank_rows = low_rank_panels;  // of a tile


// P panels times R rows. Four sums each, of columns 4i to 4i + 3, so that a lone row does not wait
// for its additions: the same for every row, whatever tile it is in.
template <int P, int R>
void low_rank_tile(const LowRankPart& part, int64_t panel, const int32_t* rows) {
    const int64_t panel_elements = (part.columns + 3) / 4 * 4 * panel_rows;
    const uint16_t* weights = part.panels + panel * panel_elements;
    const float* x[R];
    F sums[4 * P * R];
    unroll<R>([&](auto r) { x[r] = part.x + rows[r] * part.x_stride; });
    unroll<4 * P * R>([&](auto i) { sums[i] = V::zero(); });
    // Inlined by force: sums in registers depend on it.
    const auto add = [&](const float* const* four) __attribute__((always_inline)) {
        unroll<P>([&](auto p) __attribute__((always_inline)) {
            const uint16_t* at = weights + p * panel_elements;
            unroll<2>([&](auto half) __attribute__((always_inline)) {
                const I pair = V::load(at + half * 2 * panel_rows);
                __builtin_prefetch(at + half * 2 * panel_rows + prefetch_bytes / 2);
                unroll<R>([&](auto r) __attribute__((always_inline)) {
                    F* sum = sums + 4 * (p * R + r) + 2 * half;
                    sum[0] = V::fma(V::low_bf16(pair), V::set1(four[r][2 * half]), sum[0]);
                    sum[1] = V::fma(V::high_bf16(pair), V::set1(four[r][2 * half + 1]), sum[1]);
                });
            });
        });
    };
    int64_t k = 0;
    for (; k + 4 <= part.columns; k += 4, weights += 4 * panel_rows) {
        add(x);
        unroll<R>([&](auto r) { x[r] += 4; });
    }
    if (k < part.columns) {  // the panel is padded with zeros, the row is not
        float rest[4 * R] = {};
        unroll<R>([&](auto r) {
            std::copy(x[r], x[r] + (part.columns - k), rest + 4 * r);
            x[r] = rest + 4 * r;
        });
        add(x);
    }
    unroll<P * R>([&](auto i) {
        const F* sum = sums + 4 * i;
        const int64_t first = (panel + i / R) * panel_rows;
        store_sums(V::add(V::add(sum[0], sum[1]), V::add(sum[2], sum[3])),
                   part.y + rows[i % R] * part.y_stride + first, part.accumulate,
                   part.matrix_rows - first);
    });
}

void low_rank(const LowRankPart& part) {
    const auto panels = [&](int64_t panel, auto count) {
        row_tiles<low_rank_rows>(0, part.count, [&](int64_t row, auto rows) {
            low_rank_tile<count, rows>(part, panel, part.rows + row);
        });
    };
    row_tiles<low_rank_panels>(part.panel_begin, part.panel_end, panels);
}

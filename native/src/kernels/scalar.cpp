// The plain reference of every kernel: what each computes, without regard for speed.
#include <algorithm>
#include <cmath>

#include "numbers.h"
#include "kernels/kernels.h"
#include "pack.h"

namespace alpage {
namespace {

template <int bits>
void unpack(const uint8_t* quants, uint8_t u[8][64]) {
    for (int g = 0; g < 8; ++g) {
        for (int byte = 0; byte < 64; ++byte) {
            u[g][byte] = static_cast<uint8_t>(stored_quant(bits, quants, g, byte));
        }
    }
}

// Unsigned quants of one block, column by column for 16 rows.
void unpack_block(TensorType type, const uint8_t* quants, uint8_t u[8][64]) {
    switch (quant_bits(type)) {
        case 2: unpack<2>(quants, u); break;
        case 3: unpack<3>(quants, u); break;
        case 5: unpack<5>(quants, u); break;
        case 6: unpack<6>(quants, u); break;
        case 8: unpack<8>(quants, u); break;
        default: unpack<4>(quants, u); break;
    }
    if (!is_iq4(type)) return;
    for (int g = 0; g < 8; ++g) {
        for (int byte = 0; byte < 64; ++byte) u[g][byte] = iq4_quants[u[g][byte]];
    }
}

void word_panel(const MatmulPart& part, const uint8_t* panel, const Activations& x, int64_t row,
                float* y) {
    const PanelLayout layout = panel_layout(part.type, part.columns);
    const int64_t blocks = block_count(part.columns);
    for (int64_t b = 0; b < blocks; ++b) {
        const int16_t* words = x.words + (row * blocks + b) * block_columns;
        const uint8_t* quants = panel + layout.scale_bytes + b * 1024;
        for (int lane = 0; lane < panel_rows; ++lane) {
            int dot = 0;
            for (int k = 0; k < block_columns; ++k) {
                const uint8_t* at = quants + k / 2 * 64 + 4 * lane + k % 2 * 2;
                dot += load_as<int16_t>(at) * words[k];
            }
            const float scale = block_scales(part.type, panel, b, lane).scale[0];
            y[lane] += x.scale[row * blocks + b] * (scale * static_cast<float>(dot));
        }
    }
}

void quant_panel(const MatmulPart& part, const uint8_t* panel, const Activations& x, int64_t row,
                 float* y) {
    const PanelLayout layout = panel_layout(part.type, part.columns);
    const int64_t blocks = part.columns / block_columns;
    const int64_t quant_bytes = layout.quant_bytes / blocks;
    uint8_t u[8][64];
    for (int64_t b = 0; b < blocks; ++b) {
        unpack_block(part.type, panel + layout.scale_bytes + b * quant_bytes, u);
        const int8_t* q = x.q + 2 * (row * part.columns + b * block_columns);
        const float sx = x.scale[row * blocks + b];
        for (int lane = 0; lane < panel_rows; ++lane) {
            const BlockScales s = block_scales(part.type, panel, b, lane);
            int dot[2] = {0, 0};
            for (int k = 0; k < block_columns; ++k) {
                const int n = 128 * q[k] + q[block_columns + k];
                dot[k / 16] += (u[k / 4][4 * lane + k % 4] - s.zero) * n;
            }
            const float* sums = x.sum16 + 2 * (row * blocks + b);
            y[lane] += sx * (s.scale[0] * static_cast<float>(dot[0]) +
                             s.scale[1] * static_cast<float>(dot[1])) +
                       (s.minimum[0] * sums[0] + s.minimum[1] * sums[1]);
        }
    }
}

void matmul(const MatmulPart& part, const Activations& x) {
    const int64_t panel_bytes = panel_layout(part.type, part.columns).bytes();
    for (int64_t p = part.panel_begin; p < part.panel_end; ++p) {
        const uint8_t* panel = part.panels + p * panel_bytes;
        const int64_t count = std::min<int64_t>(panel_rows, part.matrix_rows - p * panel_rows);
        for (int64_t row = part.row_begin; row < part.row_end; ++row) {
            float sums[panel_rows] = {};
            if (is_float(part.type)) {
                word_panel(part, panel, x, row, sums);
            } else {
                quant_panel(part, panel, x, row, sums);
            }
            float* y = part.y + row * part.stride + p * panel_rows;
            for (int64_t i = 0; i < count; ++i) y[i] = part.accumulate ? y[i] + sums[i] : sums[i];
        }
    }
}

void quantise(const float* x, int64_t columns, const ActivationRow& out) {
    for (int64_t b = 0; b < block_count(columns); ++b) {
        const int64_t count = std::min<int64_t>(block_columns, columns - b * block_columns);
        float block[block_columns] = {}, largest = 0, poison = 0;
        std::copy_n(x + b * block_columns, count, block);
        for (float value : block) {
            largest = std::max(largest, std::fabs(value));
            poison += value * 0.0f;  // NaN once a value is NaN or infinite
        }
        const float inverse = largest > 1e-30f ? activation_limit / largest : 0.0f;
        const float scale = out.scale[b] = largest / activation_limit + poison;
        int8_t* q = out.q + 2 * b * block_columns;
        int16_t* words = out.words + b * block_columns;
        int total[2] = {0, 0};
        for (int k = 0; k < block_columns; ++k) {
            const float rounded = std::nearbyint(block[k] * inverse);
            const int n = std::fabs(rounded) <= activation_limit ? static_cast<int>(rounded) : 0;
            const int high = (n + 64) >> 7;
            q[k] = static_cast<int8_t>(high);
            q[block_columns + k] = static_cast<int8_t>(n - 128 * high);
            words[k / 4 * 4 + word_order[k % 4]] = static_cast<int16_t>(n);
            total[k / 16] += n;
        }
        out.sum[b] = scale * static_cast<float>(total[0] + total[1]);
        for (int i = 0; i < 2; ++i) out.sum16[2 * b + i] = scale * static_cast<float>(total[i]);
    }
}

void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* out) {
    float squares = 0;
    for (int64_t i = 0; i < n; ++i) squares += x[i] * x[i];
    const float inverse = 1.0f / std::sqrt(squares / static_cast<float>(n) + eps);
    for (int64_t i = 0; i < n; ++i) out[i] = x[i] * inverse * weight[i];
}

void swiglu(float* gate, const float* up, int64_t n) {
    for (int64_t i = 0; i < n; ++i) gate[i] = gate[i] / (1.0f + std::exp(-gate[i])) * up[i];
}

// Numbers of pages, and what they are multiplied by; offsets count numbers.
struct Bf16Pages {
    static float number(const uint8_t* page, int64_t at) {
        return bf16_to_float(load_as<uint16_t>(page + 2 * at));
    }
    static float key(const uint8_t* page, int64_t token, int64_t d) {
        return number(page, (d / 2 * page_tokens + token) * 2 + d % 2);
    }
    static float value(const uint8_t* page, int64_t token, int64_t d, int64_t width) {
        return number(page, (token / 2 * width + d) * 2 + token % 2);
    }
    static float scaled(float x, const uint8_t*, int64_t) { return x; }
};

struct Int8Pages {
    static float number(const uint8_t* page, int64_t at) {
        return static_cast<float>(static_cast<int8_t>(page[kv_scale_bytes + at]));
    }
    static float key(const uint8_t* page, int64_t token, int64_t d) {
        return number(page, d * page_tokens + token);
    }
    static float value(const uint8_t* page, int64_t token, int64_t d, int64_t width) {
        return number(page, token / 2 * width * 2 + d / 16 * 32 + token % 2 * 16 + d % 16);
    }
    static float scaled(float x, const uint8_t* page, int64_t token) {
        return x * load_as<float>(page + 4 * token);
    }
};

template <class Pages>
void attend_one(const AttentionPart& part, int query) {
    const int visible = part.visible[query];
    const int64_t padded = (part.head_dim + 15) / 16 * 16;
    float score[attention_chunk], largest = -INFINITY, total = 0;
    for (int t = 0; t < visible; ++t) {
        const uint8_t* keys = part.keys + part.pages[t / page_tokens] * part.key_stride;
        float dot = 0;
        for (int64_t d = 0; d < part.head_dim; ++d) {
            dot = std::fma(Pages::key(keys, t % page_tokens, d), part.q[query][d], dot);
        }
        score[t] = Pages::scaled(dot, keys, t % page_tokens);
        largest = std::max(largest, score[t]);
    }
    float* out = part.out + query * part.out_stride;
    std::fill(out, out + padded, 0.0f);
    for (int t = 0; t < visible; ++t) {
        const float p = std::exp(score[t] - largest);
        total += p;
        const int64_t slot = t % page_tokens;
        const uint8_t* values = part.values + part.pages[t / page_tokens] * part.value_stride;
        const float weight = Pages::scaled(p, values, slot);
        for (int64_t d = 0; d < part.head_dim; ++d) {
            out[d] = std::fma(weight, Pages::value(values, slot, d, padded), out[d]);
        }
    }
    part.maximum[query] = largest;
    part.total[query] = total;
}

void attention(const AttentionPart& part) {
    for (int query = 0; query < part.queries; ++query) {
        if (part.type == KvType::int8) attend_one<Int8Pages>(part, query);
        else attend_one<Bf16Pages>(part, query);
    }
}

void low_rank(const LowRankPart& part) {
    const int64_t panel_elements = (part.columns + 3) / 4 * 4 * panel_rows;
    for (int64_t i = 0; i < part.count; ++i) {
        const float* x = part.x + part.rows[i] * part.x_stride;
        float* y = part.y + part.rows[i] * part.y_stride;
        const int64_t end = std::min(part.panel_end * panel_rows, part.matrix_rows);
        for (int64_t row = part.panel_begin * panel_rows; row < end; ++row) {
            const uint16_t* panel = part.panels + row / panel_rows * panel_elements;
            float sum = 0;
            for (int64_t k = 0; k < part.columns; ++k) {
                const uint16_t weight = panel[(k / 2 * panel_rows + row % panel_rows) * 2 + k % 2];
                sum = std::fma(bf16_to_float(weight), x[k], sum);
            }
            y[row] = part.accumulate ? y[row] + sum : sum;
        }
    }
}

float largest(const float* x, int64_t n) {
    float most = -INFINITY, poison = 0;
    for (int64_t i = 0; i < n; ++i) {
        most = std::max(most, x[i]);
        poison += x[i] == -INFINITY ? 0.0f : x[i] * 0.0f;
    }
    return most + poison;
}

int64_t reaching(const float* x, int64_t n, float floor, int32_t* indices) {
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) {
        if (x[i] >= floor) indices[count++] = static_cast<int32_t>(i);
    }
    return count;
}

double softmax_weights(const float* x, int64_t n, float maximum, float inverse_temperature,
                       float* out) {
    double total = 0;
    for (int64_t i = 0; i < n; ++i) {
        out[i] = std::exp(std::max(-87.0f, (x[i] - maximum) * inverse_temperature));
        total += out[i];
    }
    return total;
}

}  // namespace

const Kernels scalar_kernels{"scalar",  1,        matmul,  quantise, rms_norm,       swiglu,
                            attention, low_rank, largest, reaching, softmax_weights};

}  // namespace alpage

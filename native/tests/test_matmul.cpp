// Packing and matrix products: every instruction set against double precision, and against itself
// in other tiles and batches.
#include <cmath>

#include "alpage/kernel_names.h"
#include "file_rows.h"
#include "kernels/kernels.h"
#include "pack.h"

using namespace alpage;
using check::Rng;

namespace {

constexpr int64_t row_counts[] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 17, 64};
constexpr float canary = 12345;

Matrix pack(const FileMatrix& file, const int32_t* order = nullptr, bool finite = true) {
    Matrix matrix(file.type, file.rows, file.columns);
    bool good = true;
    for (int64_t p = 0; p < matrix.panel_count(); ++p) {
        good = matrix.pack_panel(p, file.bytes.data(), order) && good;
    }
    CHECK(good == finite, type_name(file.type) << " finite: " << good);
    return matrix;
}

// Rows of activations with everything a kernel wants of them.
struct Inputs {
    int64_t rows, columns;
    std::vector<float> x, scale, sum, sum16;
    std::vector<int8_t> q;
    std::vector<int16_t> words;

    Inputs(const Kernels& kernels, int64_t n, int64_t width, std::vector<float> values)
        : rows(n), columns(width), x(std::move(values)) {
        const int64_t blocks = block_count(columns);
        scale.resize(static_cast<size_t>(rows * blocks));
        sum = scale;
        sum16.resize(2 * scale.size());
        words.resize(scale.size() * block_columns);
        q.resize(2 * words.size());
        for (int64_t r = 0; r < rows; ++r) {
            const int64_t at = r * blocks;
            kernels.quantise(x.data() + r * columns, columns,
                             {q.data() + at * 2 * block_columns, words.data() + at * block_columns,
                              scale.data() + at, sum.data() + at, sum16.data() + 2 * at});
        }
    }
    Activations view() const {
        return {columns, q.data(), words.data(), scale.data(), sum.data(), sum16.data()};
    }
    // What a matrix sees in place of x.
    double seen(int64_t row, int64_t k) const {
        const int64_t at = row * block_count(columns) + k / 32;
        const int8_t* block = q.data() + 64 * at;
        return (128.0 * block[k % 32] + block[32 + k % 32]) * scale[at];
    }
};

// The product of all panels with some rows, in the given pieces.
std::vector<float> product(const Kernels& kernels, const Matrix& m, const Inputs& inputs,
                           int64_t row_begin, int64_t row_end, int64_t panels_at_once,
                           const std::vector<float>* start = nullptr) {
    const int64_t stride = m.rows + 5;
    std::vector<float> y(static_cast<size_t>(inputs.rows * stride), canary);
    if (start) y = *start;
    for (int64_t p = 0; p < m.panel_count(); p += panels_at_once) {
        const MatmulPart part{m.type, m.data.data(), m.columns, p,
                              std::min(p + panels_at_once, m.panel_count()), m.rows, row_begin,
                              row_end, y.data(), stride, start != nullptr};
        kernels.matmul(part, inputs.view());
    }
    return y;
}

// Against double precision on the same quantised activations. Bound: one rounding for each of the
// block's few operations and one for each addition to the running sum, of the terms' magnitude.
void check_values(const char* isa, const FileMatrix& file, const Inputs& inputs,
                  const std::vector<float>& y) {
    const int64_t stride = file.rows + 5;
    const double additions = static_cast<double>(file.columns) / 16;
    for (int64_t r = 0; r < inputs.rows; ++r) {
        for (int64_t i = 0; i < file.rows; ++i) {
            double exact = 0, magnitude = 0;
            const double* sizes = file.magnitudes.data() + i * file.columns;
            for (int64_t k = 0; k < file.columns; ++k) {
                const double x = inputs.seen(r, k);
                exact += file.row(i)[k] * x;
                magnitude += sizes[k] * std::fabs(x);
            }
            const double got = y[static_cast<size_t>(r * stride + i)];
            const double bound = magnitude * (additions + 6) * 0x1p-24 + 1e-38;
            CHECK(std::fabs(got - exact) <= bound,
                  isa << " " << type_name(file.type) << " " << file.rows << "x" << file.columns
                      << " row " << r << " output " << i << ": " << got << ", exact " << exact
                      << ", bound " << bound);
        }
        for (int64_t i = file.rows; i < stride; ++i) {
            CHECK(y[static_cast<size_t>(r * stride + i)] == canary, isa << " wrote too far");
        }
    }
}

// A row's result has the same bits in every company, in every piece, and when it is added.
void check_company(const char* isa, const Kernels& kernels, const Matrix& m, const Inputs& inputs,
                   const std::vector<float>& whole) {
    const int64_t stride = m.rows + 5;
    const auto compare = [&](const std::vector<float>& y, int64_t begin, int64_t end,
                             const char* how) {
        for (int64_t r = 0; r < inputs.rows; ++r) {
            const bool computed = r >= begin && r < end;
            for (int64_t i = 0; i < m.rows; ++i) {
                const size_t at = static_cast<size_t>(r * stride + i);
                CHECK(check::same_bits(y[at], computed ? whole[at] : canary),
                      isa << " " << type_name(m.type) << " " << how << " rows " << begin << ".."
                          << end << ": " << y[at] << " and " << whole[at]);
            }
        }
    };
    for (int64_t count : row_counts) {
        if (count > inputs.rows) continue;
        const int64_t begin = count % 2 ? inputs.rows - count : 0;
        compare(product(kernels, m, inputs, begin, begin + count, 1 + count % 3), begin,
                begin + count, "in company of");
    }
    const std::vector<float> before(whole.size(), 0.75f);
    const std::vector<float> added = product(kernels, m, inputs, 0, inputs.rows, 2, &before);
    for (int64_t r = 0; r < inputs.rows; ++r) {
        for (int64_t i = 0; i < m.rows; ++i) {
            const size_t at = static_cast<size_t>(r * stride + i);
            CHECK(check::same_bits(added[at], before[at] + whole[at]),
                  isa << " " << type_name(m.type) << " accumulated " << added[at]);
        }
    }
}

// What a packed matrix has in place of the file's weights: float types are rounded.
FileMatrix as_packed(FileMatrix file, const Matrix& m) {
    if (!is_float(file.type)) return file;
    std::vector<float> row(static_cast<size_t>(file.columns));
    for (int64_t r = 0; r < file.rows; ++r) {
        m.dequantize_row(r, row.data());
        std::copy(row.begin(), row.end(), file.weights.begin() + r * file.columns);
    }
    return file;
}

void check_matrix(const FileMatrix& of, int64_t rows, const std::vector<float>& x) {
    const Matrix m = pack(of);
    const FileMatrix file = as_packed(of, m);
    for (const std::string& name : kernel_names()) {
        const Kernels& kernels = select_kernels(name.c_str());
        const Inputs inputs(kernels, rows, file.columns, x);
        const std::vector<float> y = product(kernels, m, inputs, 0, rows, m.panel_count());
        check_values(name.c_str(), file, inputs, y);
        check_company(name.c_str(), kernels, m, inputs, y);
    }
}

void check_matrix(Rng& rng, const FileMatrix& file, int64_t rows, float size = 1) {
    check_matrix(file, rows, check::normal(rng, rows * file.columns, size));
}

int64_t allowed_columns(TensorType type, int64_t wanted) {
    const int64_t block = file_block(type).elements;
    return (wanted + block - 1) / block * block;
}

}  // namespace

TEST(packed_weights_are_the_files_weights) {
    Rng rng(1);
    for (TensorType type : all_types) {
        for (Style style : all_styles) {
            const FileMatrix file = random_matrix(rng, type, 37, allowed_columns(type, 96), style);
            std::vector<int32_t> order(37);
            for (int32_t i = 0; i < 37; ++i) order[static_cast<size_t>(i)] = (i * 5 + 3) % 37;
            const Matrix plain = pack(file), shuffled = pack(file, order.data());
            std::vector<float> row(static_cast<size_t>(file.columns)), other = row;
            for (int32_t r = 0; r < 37; ++r) {
                plain.dequantize_row(order[static_cast<size_t>(r)], row.data());
                shuffled.dequantize_row(r, other.data());
                CHECK(check::same_bits(row, other), type_name(type) << " row order, row " << r);
                const int64_t source = order[static_cast<size_t>(r)];
                const double* sizes = file.magnitudes.data() + source * file.columns;
                // Half a word where all are equal; the scale is at most 1/128 larger than needed.
                const double share = is_float(type) ? 0.504 * 32 / word_sum_limit : 0x1p-22;
                for (int64_t k = 0; k < file.columns; ++k) {
                    const double exact = file.row(source)[k], got = row[static_cast<size_t>(k)];
                    CHECK(std::fabs(got - exact) <= sizes[k] * share,
                          type_name(type) << " " << exact << " became " << got);
                }
            }
        }
    }
}

TEST(weights_that_are_not_finite_are_noticed) {
    Rng rng(2);
    for (TensorType type : all_types) {
        const int64_t columns = allowed_columns(type, 64), block_bytes = file_block(type).bytes;
        // Bytes of a NaN or an infinity in the first and in the last place of the last block.
        for (int place = 0; place < 2; ++place) {
            FileMatrix file = random_matrix(rng, type, 19, columns);
            uint8_t* block = &file.bytes[file.bytes.size() - static_cast<size_t>(block_bytes)];
            if (type == TensorType::F32) {
                const float bad = place ? NAN : INFINITY;
                std::memcpy(block, &bad, 4);
            } else if (type == TensorType::BF16) {
                block[0] = place ? 0xc0 : 0x80, block[1] = 0x7f;
            } else {
                const bool two = type == TensorType::Q4_1 || type == TensorType::Q5_1 ||
                                 type == TensorType::Q4_K || type == TensorType::Q5_K ||
                                 type == TensorType::Q2_K;
                const int first = type == TensorType::Q2_K   ? 80
                                  : type == TensorType::Q3_K ? 108
                                  : type == TensorType::Q6_K ? 208
                                                             : 0;
                const int at = first + (place && two ? 2 : 0);
                block[at] = static_cast<uint8_t>(place), block[at + 1] = 0xfc;
            }
            pack(file, nullptr, false);
        }
    }
}

TEST(products_equal_double_precision_in_any_company) {
    Rng rng(3);
    for (TensorType type : all_types) {
        for (int64_t rows : {1, 15, 16, 17, 33}) {
            for (int64_t wanted : {32, 96, 256, 512}) {
                const int64_t columns = allowed_columns(type, wanted);
                if (columns != wanted && wanted != 96) continue;  // a K type's first size
                check_matrix(rng, random_matrix(rng, type, rows, columns), rows == 33 ? 17 : 9);
            }
        }
        const int64_t columns = check::quick ? 768 : 1536, rows = check::quick ? 17 : 64;
        check_matrix(rng, random_matrix(rng, type, 33, columns), rows);
        check_matrix(rng, random_matrix(rng, type, 80, allowed_columns(type, 64)), 9);
        if (!is_float(type)) continue;
        for (int64_t columns : {1, 2, 31, 173}) {
            check_matrix(rng, random_matrix(rng, type, 33, columns), 17);
        }
    }
}

TEST(products_of_extreme_weights_and_activations) {
    Rng rng(4);
    for (TensorType type : all_types) {
        for (Style style : all_styles) {
            const FileMatrix file = random_matrix(rng, type, 17, allowed_columns(type, 64), style);
            for (float size : {0.0f, 1e-38f, 1e-20f, 1.0f, 1e25f}) check_matrix(rng, file, 3, size);
        }
        const FileMatrix file = random_matrix(rng, type, 17, allowed_columns(type, 64));
        check_matrix(rng, file, 3, 1e30f);
        // The largest integers, of one sign and of both: sums of 8-bit products must not saturate.
        for (Style style : {Style::lowest, Style::highest}) {
            const FileMatrix loud = random_matrix(rng, type, 17, allowed_columns(type, 64), style);
            std::vector<float> x(static_cast<size_t>(3 * loud.columns), 2.0f);
            for (size_t i = 0; i < x.size() / 3; ++i) {
                x[i] = -2;
                if (check::integer(rng, 0, 1)) x[x.size() - 1 - i] = -2;
            }
            check_matrix(loud, 3, x);
        }
    }
}

TEST(activations_that_are_not_finite_spoil_their_own_row_alone) {
    Rng rng(5);
    for (TensorType type : all_types) {
        const FileMatrix file = random_matrix(rng, type, 33, allowed_columns(type, 128));
        const Matrix m = pack(file);
        for (const float bad : {NAN, INFINITY, -INFINITY}) {
            const int64_t rows = 9, columns = file.columns;
            std::vector<float> good = check::normal(rng, rows * columns), x = good;
            x[static_cast<size_t>(3 * columns + 37)] = bad;
            x[static_cast<size_t>(5 * columns)] = bad;  // both halves of one block
            x[static_cast<size_t>(5 * columns + 31)] = bad;
            for (int k = 0; k < 32; ++k) x[static_cast<size_t>(7 * columns + 64 + k)] = bad;
            for (const std::string& name : kernel_names()) {
                const Kernels& kernels = select_kernels(name.c_str());
                const Inputs inputs(kernels, rows, columns, x), whole(kernels, rows, columns, good);
                const std::vector<float> y = product(kernels, m, inputs, 0, rows, 3);
                const std::vector<float> wanted = product(kernels, m, whole, 0, rows, 3);
                for (int64_t r = 0; r < rows; ++r) {
                    const bool spoiled = r == 3 || r == 5 || r == 7;
                    for (int64_t i = 0; i < m.rows; ++i) {
                        const size_t at = static_cast<size_t>(r * (m.rows + 5) + i);
                        CHECK(spoiled ? !std::isfinite(y[at]) : check::same_bits(y[at], wanted[at]),
                              name << " " << type_name(type) << " row " << r << " " << y[at]);
                    }
                }
            }
        }
    }
}

TEST(sizes_that_are_no_whole_blocks_are_refused) {
    for (TensorType type : all_types) {
        if (is_float(type)) continue;
        CHECK_THROWS(Matrix(type, 16, file_block(type).elements / 2), std::invalid_argument);
        CHECK_THROWS(Matrix(type, 16, file_block(type).elements + 16), std::invalid_argument);
    }
    CHECK_THROWS(Matrix(TensorType::F32, 0, 32), std::invalid_argument);
    CHECK_THROWS(Matrix(TensorType::F32, 32, 0), std::invalid_argument);
    CHECK_THROWS(tensor_type(4), std::invalid_argument);
    CHECK_THROWS(tensor_type(-1), std::invalid_argument);
    CHECK_THROWS(select_kernels("sse9"), std::invalid_argument);
}

// Pieces of a tensor handed out to threads.
#include "alpage/quantize.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "alpage/kernel_names.h"
#include "kernels/kernels.h"
#include "quantize.h"
#include "thread_pool.h"

namespace alpage {
namespace {

const Encoders& select_encoders(const std::string& isa) {
    const std::string name = select_kernels(isa.c_str()).name;
#ifdef ALPAGE_X86
    for (const Encoders* encoders : {&avx2_encoders, &avx512_encoders}) {
        if (name == encoders->name) return *encoders;
    }
#endif
    return scalar_encoders;  // on 64-bit Arm too, whose plainest code has vectors of 4
}

// More than any block can hold (Q6_K: 65504 * 128 * 32), and its square is still a number.
constexpr float beyond_blocks = 3e8f;

bool is_encoded(TensorType type) {
    switch (type) {
        case TensorType::F32: case TensorType::F16: case TensorType::BF16: case TensorType::Q8_0:
        case TensorType::Q4_0: case TensorType::Q4_1: case TensorType::Q5_0: case TensorType::Q5_1:
        case TensorType::Q4_K: case TensorType::Q5_K: case TensorType::Q6_K: return true;
        default: return false;  // read, not made
    }
}

void check(const EncodeRequest& request) {
    if (!is_encoded(request.to)) throw std::invalid_argument("weights of this type are not made");
    if (!is_float(request.from)) throw std::invalid_argument("weights must be F32, F16 or BF16");
    if (request.threads < 1) throw std::invalid_argument("threads must be 1 to 1024");
    const FileBlock block = file_block(request.to);
    if (request.rows < 0 || request.columns < 0 || request.columns % block.elements) {
        throw std::invalid_argument("a row must be a whole number of blocks");
    }
    if (!request.importance) return;
    for (int64_t i = 0; i < request.columns; ++i) {
        if (!std::isfinite(request.importance[i]) || request.importance[i] < 0) {
            throw std::invalid_argument("importance must be finite and not negative");
        }
    }
}

// Errors of columns that the text never used still cost a little, and sums of squares stay far from
// the ends of single precision.
std::vector<float> balanced(const float* importance, int64_t columns) {
    double total = 0;
    for (int64_t i = 0; i < columns; ++i) total += static_cast<double>(importance[i]);
    const double mean = total / static_cast<double>(columns);
    std::vector<float> weights(static_cast<size_t>(columns), 1);
    if (!(mean > 0)) return weights;
    for (size_t i = 0; i < weights.size(); ++i) {
        weights[i] = static_cast<float>(
            std::clamp(static_cast<double>(importance[i]) / mean, 1e-4, 1e6));
    }
    return weights;
}

}  // namespace

Encoded encode(const EncodeRequest& request, uint8_t* out) {
    check(request);
    const Encoders& encoders = select_encoders(request.isa);
    const FileBlock block = file_block(request.to);
    const int64_t count = request.rows * request.columns;
    const int64_t pieces = (count + encode_piece - 1) / encode_piece;
    std::vector<float> importance;
    if (request.importance) importance = balanced(request.importance, request.columns);
    const float* costs = request.importance ? importance.data() : nullptr;
    const int64_t width = request.from == TensorType::F32 ? 4 : 2;
    std::atomic<bool> is_finite{true}, fits{true};
    ThreadPool pool(static_cast<int>(std::clamp<int64_t>(pieces, 1, request.threads)));
    pool.run([&](int) {
        alignas(64) float x[encode_piece];
        for (int64_t piece = pool.next(); piece < pieces; piece = pool.next()) {
            const int64_t first = piece * encode_piece;
            const int64_t here = std::min(encode_piece, count - first);
            const uint8_t* raw = request.weights + first * width;
            uint8_t* place = out + first / block.elements * block.bytes;
            if (request.from == TensorType::F32) {
                std::memcpy(x, raw, static_cast<size_t>(here) * 4);
            } else {
                encoders.widen(request.from, raw, here, x);
            }
            const float largest = encoders.largest(x, here);
            if (!std::isfinite(largest)) {
                is_finite.store(false, std::memory_order_relaxed);
            } else if (request.to == TensorType::F32) {
                std::memcpy(place, x, static_cast<size_t>(here) * 4);
            } else if ((block.elements > 1 && largest > beyond_blocks) ||
                       !encoders.encode(request.to, {x, here, first, costs, request.columns},
                                        place)) {
                fits.store(false, std::memory_order_relaxed);
            }
        }
    });
    if (!is_finite.load()) return Encoded::not_finite;
    return fits.load() ? Encoded::done : Encoded::too_large;
}

}  // namespace alpage

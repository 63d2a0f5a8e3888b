// Encoders: the same bytes on every instruction set, and never worse than plain rounding.
#include <cmath>
#include <stdexcept>

#include "alpage/kernel_names.h"
#include "alpage/quantize.h"
#include "check.h"
#include "file_rows.h"
#include "numbers.h"

using namespace alpage;
using check::Rng;

namespace {

constexpr TensorType made_types[] = {
    TensorType::F32,  TensorType::F16,  TensorType::BF16, TensorType::Q4_0,
    TensorType::Q4_1, TensorType::Q5_0, TensorType::Q5_1, TensorType::Q8_0,
    TensorType::Q4_K, TensorType::Q5_K, TensorType::Q6_K,
};

std::vector<uint8_t> encoded(const std::vector<float>& x, int64_t columns, TensorType to,
                             const std::string& isa, int threads, const float* importance,
                             Encoded expected = Encoded::done) {
    const FileBlock block = file_block(to);
    const auto count = static_cast<int64_t>(x.size());
    std::vector<uint8_t> out(static_cast<size_t>(count / block.elements * block.bytes) + 1, 0x5a);
    const Encoded status =
        encode({TensorType::F32, reinterpret_cast<const uint8_t*>(x.data()), count / columns,
                columns, to, importance, threads, isa},
               out.data());
    CHECK(status == expected, type_name(to) << " on " << isa << ": status "
                                            << static_cast<int>(status));
    CHECK(out.back() == 0x5a, type_name(to) << " on " << isa << " wrote past the end");
    out.pop_back();
    return out;
}

// Rows that search and rounding find hard: zeros, equal numbers, one number alone, one sign, tiny,
// far from zero.
std::vector<float> hard_rows(Rng& rng, int64_t rows, int64_t columns, float size) {
    std::vector<float> x = check::normal(rng, rows * columns, size);
    for (int64_t r = 0; r < rows; ++r) {
        for (int64_t c = 0; c < columns; ++c) {
            float& value = x[static_cast<size_t>(r * columns + c)];
            switch (r % 8) {
                case 1: value = 0; break;
                case 2: value = size; break;
                case 3: value = c % 37 ? 0 : value; break;
                case 4: value = std::fabs(value); break;
                case 5: value = -std::fabs(value); break;
                case 6: value *= 1e-9f; break;
                case 7: value += 30 * size; break;
                default: break;
            }
        }
    }
    return x;
}

}  // namespace

TEST(encoders_give_the_same_bytes_everywhere) {
    Rng rng(11);
    for (float size : check::sizes({1e-38f, 1e-7f, 0.02f, 1.0f, 1000.0f}, {1e-38f, 0.02f})) {
        const int64_t columns = 1792, rows = check::quick ? 10 : 19;
        const std::vector<float> x = hard_rows(rng, rows, columns, size);
        std::vector<float> importance = check::normal(rng, columns);
        for (float& value : importance) value = value * value * value * value;
        for (TensorType type : made_types) {
            for (const float* costs : {static_cast<const float*>(nullptr),
                                       static_cast<const float*>(importance.data())}) {
                const std::vector<uint8_t> plain = encoded(x, columns, type, "scalar", 1, costs);
                for (const std::string& isa : kernel_names()) {
                    for (int threads : {1, 3}) {
                        CHECK(check::same_bits(plain, encoded(x, columns, type, isa, threads,
                                                              costs)),
                              type_name(type) << " of size " << size << " on " << isa);
                    }
                }
            }
        }
    }
}

TEST(encoders_refuse_what_they_cannot_store) {
    Rng rng(12);
    for (TensorType type : made_types) {
        for (const std::string& isa : kernel_names()) {
            for (int64_t place : {0, 300, 511}) {
                for (float bad : {NAN, INFINITY, -INFINITY}) {
                    std::vector<float> x = check::normal(rng, 512);
                    x[static_cast<size_t>(place)] = bad;
                    encoded(x, 256, type, isa, 2, nullptr, Encoded::not_finite);
                }
                if (type == TensorType::F32) continue;
                for (float large : {3.4e38f, -3.4e38f, 2.9e8f, 1e25f}) {
                    std::vector<float> x = check::normal(rng, 512);
                    x[static_cast<size_t>(place)] = large;
                    const bool fits = type == TensorType::BF16 && std::fabs(large) < 3e38f;
                    encoded(x, 256, type, isa, 2, nullptr,
                            fits ? Encoded::done : Encoded::too_large);
                }
            }
        }
    }
    const std::vector<float> x(64);
    std::vector<uint8_t> out(512);
    EncodeRequest request{TensorType::F32, reinterpret_cast<const uint8_t*>(x.data()), 1, 64,
                          TensorType::Q4_0, nullptr, 1, ""};
    const auto refused = [&](auto change) {
        EncodeRequest wrong = request;
        change(wrong);
        CHECK_THROWS(encode(wrong, out.data()), std::invalid_argument);
    };
    refused([](EncodeRequest& r) { r.to = TensorType::Q4_K; });
    refused([](EncodeRequest& r) { r.from = TensorType::Q8_0; });
    refused([](EncodeRequest& r) { r.to = TensorType::IQ4_NL; });
    refused([](EncodeRequest& r) { r.threads = 0; });
    refused([](EncodeRequest& r) { r.isa = "sse9"; });
    std::vector<float> costs(64, 1);
    for (float bad : {NAN, -1.0f, INFINITY}) {
        costs[7] = bad;
        refused([&](EncodeRequest& r) { r.importance = costs.data(); });
    }
}

TEST(halves_are_rounded_to_nearest_even) {
    // Every number survives, and what lies between two goes to the nearer, or to the even one.
    for (const std::string& isa : kernel_names()) {
        for (TensorType type : {TensorType::F16, TensorType::BF16}) {
            const auto value_of = [&](uint32_t code) {
                const auto bits = static_cast<uint16_t>(code);
                return type == TensorType::F16 ? half_to_float(bits) : bf16_to_float(bits);
            };
            const uint32_t infinity = type == TensorType::F16 ? 0x7c00 : 0x7f80;
            std::vector<float> x;
            std::vector<uint16_t> wanted;
            const auto expect = [&](double value, uint32_t code) {
                x.push_back(static_cast<float>(value));
                wanted.push_back(static_cast<uint16_t>(code));
                x.push_back(static_cast<float>(-value));
                wanted.push_back(static_cast<uint16_t>(code | 0x8000));
            };
            for (uint32_t code = 0; code + 1 < infinity; ++code) {
                const double low = value_of(code), high = value_of(code + 1);
                expect(low, code);
                expect((low + high) / 2, code + (code & 1));
                expect(low + (high - low) * 0.49, code);
                expect(low + (high - low) * 0.51, code + 1);
            }
            const auto columns = static_cast<int64_t>(x.size());
            const std::vector<uint8_t> out = encoded(x, columns, type, isa, 2, nullptr);
            std::vector<uint16_t> found(wanted.size());
            std::memcpy(found.data(), out.data(), out.size());
            CHECK(found == wanted, type_name(type) << " on " << isa);
            // And back: from the codes to single precision.
            std::vector<float> back(wanted.size()), exact;
            for (uint16_t code : wanted) exact.push_back(value_of(code));
            encode({type, out.data(), 1, columns, TensorType::F32, nullptr, 2, isa},
                   reinterpret_cast<uint8_t*>(back.data()));
            CHECK(check::same_bits(back, exact), type_name(type) << " from, on " << isa);
        }
    }
}

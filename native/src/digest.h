// 64 bits that tell byte strings apart. Not cryptographic: whoever wants to can make two alike.
#pragma once

#include <bit>
#include <cstdint>
#include <cstring>
#include <vector>

namespace alpage {

inline constexpr uint64_t digest_factor = 0x9e3779b97f4a7c15;  // odd: no product loses a bit

// Eight lanes take eight bytes each at a time, one to one, so that a change of some bytes always
// changes their lane.
inline uint64_t digest(const void* data, size_t size) {
    constexpr int lanes = 8;
    constexpr size_t step = lanes * sizeof(uint64_t);
    uint64_t lane[lanes];
    for (int i = 0; i < lanes; ++i) lane[i] = static_cast<uint64_t>(i + 1) * digest_factor;
    const auto take = [&](const uint8_t* p) {
        for (int i = 0; i < lanes; ++i) {
            uint64_t word;
            std::memcpy(&word, p + i * 8, sizeof word);
            lane[i] = std::rotl((lane[i] ^ word) * digest_factor, 29);
        }
    };
    const uint8_t* p = static_cast<const uint8_t*>(data);
    size_t left = size;
    for (; left >= step; left -= step, p += step) take(p);
    uint8_t last[step] = {};
    if (left) std::memcpy(last, p, left);
    take(last);
    uint64_t result = size;
    for (uint64_t x : lane) {
        result = (std::rotl(result, 23) ^ x) * digest_factor;
        result ^= result >> 32;
    }
    return result;
}

template <class T>
uint64_t digest(const std::vector<T>& values) {
    return digest(values.data(), values.size() * sizeof(T));
}

}  // namespace alpage

#include "cache.h"

#include <algorithm>
#include <limits>

#include "numbers.h"

namespace alpage {
namespace {

// A row of n numbers to integers of -127 to 127 in `quants`, each at its own place; returns their
// scale, which is NaN if a number is NaN or infinite.
template <class Place>
float quantise(const float* x, int64_t n, int8_t* quants, Place place) {
    constexpr int32_t infinity = 0x7f800000;
    int32_t bits = 0;  // of the largest magnitude: as integers floats keep their order
    for (int64_t i = 0; i < n; ++i) {
        bits = std::max(bits, std::bit_cast<int32_t>(x[i]) & 0x7fffffff);
    }
    const float largest = std::bit_cast<float>(bits);
    if (bits >= infinity || largest < 1e-30f) {
        for (int64_t i = 0; i < n; ++i) quants[place(i)] = 0;
        return bits >= infinity ? std::numeric_limits<float>::quiet_NaN() : 0.0f;
    }
    const float inverse = 127 / largest;
    for (int64_t i = 0; i < n; ++i) {
        // Added to 1.5 * 2^23, a number is rounded to the nearest integer (ties to even), which
        // lies in the low bits.
        const int32_t sum = std::bit_cast<int32_t>(x[i] * inverse + 0x1.8p23f);
        quants[place(i)] = static_cast<int8_t>(sum & 0xff);
    }
    return largest / 127;
}

}  // namespace

KvCache::KvCache(const ModelShape& shape, int64_t pages, KvType type)
    : type_(type), pages_(pages), layers_(shape.n_layers), heads_(shape.n_kv_heads),
      head_dim_(shape.head_dim), value_width_((shape.head_dim + 15) / 16 * 16) {
    const int64_t number = type == KvType::int8 ? 1 : 2;
    const int64_t scales = type == KvType::int8 ? kv_scale_bytes : 0;
    key_bytes_ = scales + head_dim_ * page_tokens * number;
    value_bytes_ = scales + value_width_ * page_tokens * number;
    keys_ = Buffer(static_cast<size_t>(pages * key_stride()));
    values_ = Buffer(static_cast<size_t>(pages * value_stride()));
}

const uint8_t* KvCache::keys(int64_t layer, int64_t head) const {
    return keys_.data() + (layer * heads_ + head) * key_bytes_;
}

const uint8_t* KvCache::values(int64_t layer, int64_t head) const {
    return values_.data() + (layer * heads_ + head) * value_bytes_;
}

void KvCache::write(int64_t layer, int64_t head, int64_t page, int64_t slot, const float* key,
                    const float* value) {
    uint8_t* keys_at = const_cast<uint8_t*>(keys(layer, head)) + page * key_stride();
    uint8_t* values_at = const_cast<uint8_t*>(values(layer, head)) + page * value_stride();
    if (type_ == KvType::int8) {
        const int64_t first = slot / 2 * value_width_ * 2 + slot % 2 * 16;
        const float key_scale =
            quantise(key, head_dim_, reinterpret_cast<int8_t*>(keys_at + kv_scale_bytes),
                     [&](int64_t d) { return d * page_tokens + slot; });
        const float value_scale =
            quantise(value, head_dim_, reinterpret_cast<int8_t*>(values_at + kv_scale_bytes),
                     [&](int64_t d) { return first + d / 16 * 32 + d % 16; });
        reinterpret_cast<float*>(keys_at)[slot] = key_scale;
        reinterpret_cast<float*>(values_at)[slot] = value_scale;
        return;
    }
    uint16_t* k = reinterpret_cast<uint16_t*>(keys_at);
    uint16_t* v = reinterpret_cast<uint16_t*>(values_at) + slot / 2 * value_width_ * 2 + slot % 2;
    for (int64_t d = 0; d < head_dim_; ++d) {
        k[(d / 2 * page_tokens + slot) * 2 + d % 2] = float_to_bf16(key[d]);
    }
    for (int64_t d = 0; d < head_dim_; ++d) v[2 * d] = float_to_bf16(value[d]);
}

void KvCache::read_page(int64_t page, uint8_t* out) const {
    std::copy_n(keys_.data() + page * key_stride(), key_stride(), out);
    std::copy_n(values_.data() + page * value_stride(), value_stride(), out + key_stride());
}

void KvCache::write_page(int64_t page, const uint8_t* in) {
    std::copy_n(in, key_stride(), keys_.data() + page * key_stride());
    std::copy_n(in + key_stride(), value_stride(), values_.data() + page * value_stride());
}

}  // namespace alpage

#include "cache.h"

#include "numbers.h"

namespace alpage {

KvCache::KvCache(const ModelShape& shape, int64_t pages)
    : pages_(pages), layers_(shape.n_layers), heads_(shape.n_kv_heads),
      head_dim_(shape.head_dim), value_width_((shape.head_dim + 15) / 16 * 16) {
    keys_ = Buffer(static_cast<size_t>(pages * key_stride()) * 2);
    values_ = Buffer(static_cast<size_t>(pages * value_stride()) * 2);
}

const uint16_t* KvCache::keys(int64_t layer, int64_t head) const {
    return reinterpret_cast<const uint16_t*>(keys_.data()) +
           (layer * heads_ + head) * head_dim_ * page_tokens;
}

const uint16_t* KvCache::values(int64_t layer, int64_t head) const {
    return reinterpret_cast<const uint16_t*>(values_.data()) +
           (layer * heads_ + head) * value_width_ * page_tokens;
}

void KvCache::write(int64_t layer, int64_t head, int64_t page, int64_t slot, const float* key,
                    const float* value) {
    uint16_t* k = const_cast<uint16_t*>(keys(layer, head)) + page * key_stride();
    uint16_t* v = const_cast<uint16_t*>(values(layer, head)) + page * value_stride();
    for (int64_t d = 0; d < head_dim_; ++d) {
        k[(d / 2 * page_tokens + slot) * 2 + d % 2] = float_to_bf16(key[d]);
    }
    v += slot / 2 * value_width_ * 2 + slot % 2;
    for (int64_t d = 0; d < head_dim_; ++d) v[2 * d] = float_to_bf16(value[d]);
}

}  // namespace alpage

// The paged key/value cache, bf16 or int8. Layouts: kernels/kernels.h, AttentionPart.
#pragma once

#include "pack.h"

namespace alpage {

class KvCache {
public:
    KvCache() = default;
    KvCache(const ModelShape& shape, int64_t pages, KvType type);  // throws std::bad_alloc

    KvType type() const { return type_; }
    int64_t pages() const { return pages_; }
    size_t bytes() const { return keys_.size() + values_.size(); }
    // Bytes from one page to the next. A page holds all layers, so that memory is touched as
    // tokens come, not once a layer.
    int64_t key_stride() const { return layers_ * heads_ * key_bytes_; }
    int64_t value_stride() const { return layers_ * heads_ * value_bytes_; }
    int64_t value_width() const { return value_width_; }  // head_dim rounded up to 16

    // Page 0 of one layer and head; page p begins p strides further.
    const uint8_t* keys(int64_t layer, int64_t head) const;
    const uint8_t* values(int64_t layer, int64_t head) const;

    // Store one token's key and value [head_dim] in slot 0..15 of a page.
    void write(int64_t layer, int64_t head, int64_t page, int64_t slot, const float* key,
               const float* value);

    // A whole page as bytes: its keys, then its values.
    size_t page_bytes() const { return static_cast<size_t>(key_stride() + value_stride()); }
    void read_page(int64_t page, uint8_t* out) const;
    void write_page(int64_t page, const uint8_t* in);

private:
    KvType type_ = KvType::bf16;
    int64_t pages_ = 0, layers_ = 0, heads_ = 0, head_dim_ = 0, value_width_ = 0;
    int64_t key_bytes_ = 0, value_bytes_ = 0;  // of one layer and head in a page
    Buffer keys_, values_;
};

}  // namespace alpage

// What this machine gives at most, to hold the stages of a forward pass against.
#pragma once

#include <string>

#include "alpage/types.h"

namespace alpage {

// Bytes a second that `threads` read together, each its own part of `bytes` fresh bytes; the best
// of several passes. Throws std::invalid_argument for less than a cache line a thread.
double read_rate(int threads, int64_t bytes);

// Multiply-adds a second in products of `rows` rows with weights of a type that lie in each
// processor's own cache: what the kernels reach where memory does not hold them back.
double product_rate(TensorType type, int64_t rows, int threads, const std::string& isa);

}  // namespace alpage

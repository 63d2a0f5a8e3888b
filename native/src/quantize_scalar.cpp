// The plainest instruction set: vectors of 4 are what the compiler makes of them.
#include <cmath>
#include <cstring>
#include <initializer_list>

#include "quantize.h"

#define ALPAGE_LANES 4

namespace alpage {
namespace {

#include "quantize_rows.inl"

#include "quantize_blocks.inl"

#include "quantize_floats.inl"

}  // namespace

const Encoders scalar_encoders{"scalar", widen, largest, encode_blocks};

}  // namespace alpage

// AVX-512: 16 lanes are one register.
#include <immintrin.h>

#include <cmath>
#include <cstring>
#include <initializer_list>

#include "quantize.h"

#define ALPAGE_LANES 16

namespace alpage {
namespace {

#include "quantize_rows.inl"

#include "quantize_blocks.inl"

#include "quantize_floats.inl"

}  // namespace

const Encoders avx512_encoders{"avx512", widen, largest, encode_blocks};

}  // namespace alpage

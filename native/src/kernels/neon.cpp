// NEON with dot products of signed bytes (FEAT_DotProd; most 64-bit Arm processors since 2018).
#include <arm_neon.h>

#include <algorithm>
#include <bit>
#include <cfloat>
#include <cmath>
#include <utility>

#include "kernels/kernels.h"

namespace alpage {
namespace {

#include "kernels/neon.inl"

#include "kernels/simd.inl"

}  // namespace

const Kernels neon_kernels = kernels_named("neon");

}  // namespace alpage

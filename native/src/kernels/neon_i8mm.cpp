// NEON with dot products of unsigned and signed bytes (FEAT_I8MM): Q8_0 and the IQ4 types need no
// correction. Its products of small matrices (SMMLA) are left alone: they want pairs of 8 columns,
// which the panels' groups of 4 would have to be shuffled into for every two rows of activations.
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

const Kernels neon_i8mm_kernels = kernels_named("neon-i8mm");

}  // namespace alpage

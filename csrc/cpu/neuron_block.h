// A block of neurons along the vectors: how many, and their numbers as doubles and back.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace bimt {
namespace {

constexpr int kWide = kLanes<double>;
// Neurons in a block: their running sums should fit the registers, one row of them at least a cache line.
constexpr int kNeurons = 4 * kWide > 16 ? 4 * kWide : 16;
constexpr int kSums = kNeurons / kWide;
// How far ahead weights are fetched, in peers: along rows of peers, and down columns of them.
constexpr int64_t kPrefetchRows = 32;
constexpr int64_t kPrefetchColumns = 256;

using Wide = Full<double>;
using Half = Vector<float, kWide>;
template <class T>
constexpr int kRows = kNeurons / kLanes<T>;

BIMT_INLINE Wide to_double(Half v) {
#ifdef __AVX512F__
  return (Wide)_mm512_maskz_cvtps_pd(0xff, (__m256)v);  // GCC 12 makes two conversions of the builtin
#else
  return __builtin_convertvector(v, Wide);
#endif
}

// kNeurons numbers as doubles.
BIMT_INLINE void widen(const double* from, Wide* to) {
  BIMT_UNROLL
  for (int i = 0; i < kSums; ++i) to[i] = load<Wide>(from + i * kWide);
}

BIMT_INLINE void widen(const float* from, Wide* to) {
  BIMT_UNROLL
  for (int i = 0; i < kSums; ++i) to[i] = to_double(load<Half>(from + i * kWide));
}

BIMT_INLINE void narrow(const Wide* from, Full<double>* to) {
  BIMT_UNROLL
  for (int i = 0; i < kSums; ++i) to[i] = from[i];
}

BIMT_INLINE void narrow(const Wide* from, Full<float>* to) {
  BIMT_UNROLL
  for (int i = 0; i < kSums; i += 2) {
    const Half low = __builtin_convertvector(from[i], Half), high = __builtin_convertvector(from[i + 1], Half);
    to[i / 2] = join<Full<float>>(low, high, CountTo<2 * kWide>::Type());
  }
}

}  // namespace
}  // namespace bimt

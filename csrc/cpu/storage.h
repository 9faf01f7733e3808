// Rows of weights and gradients, read and written in the type that kernels compute in.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace bimt {
namespace {

template <class S>
constexpr bool kNarrow = sizeof(S) == 2;

// count numbers, `stride` apart, widened to consecutive ones; and back.
template <class S, class T>
BIMT_INLINE void read_row(const S* from, int64_t stride, int64_t count, T* to) {
  if (stride == 1) {
    for (int64_t j = 0; j < count; ++j) to[j] = widened(from[j]);
  } else {
    for (int64_t j = 0; j < count; ++j) to[j] = widened(from[j * stride]);
  }
}

template <class S, class T>
BIMT_INLINE void write_row(const T* from, int64_t count, S* to, int64_t stride) {
  if (stride == 1) {
    for (int64_t j = 0; j < count; ++j) narrow_to(from[j], to + j);
  } else {
    for (int64_t j = 0; j < count; ++j) narrow_to(from[j], to + j * stride);
  }
}

// A vector of consecutive numbers, widened.
template <class V, class T>
BIMT_INLINE V load_widened(const T* from) {
  return load<V>(from);
}

template <class V>
BIMT_INLINE BitsOf<float, V> load_bits(const void* from) {
  const auto narrow = load<Vector<uint16_t, sizeof(V) / sizeof(float)>>(static_cast<const uint16_t*>(from));
  return __builtin_convertvector(narrow, BitsOf<float, V>);
}

template <class V>
BIMT_INLINE V load_widened(const BFloat16* from) {
  return (V)(load_bits<V>(from) << 16);
}

template <class V>
BIMT_INLINE V load_widened(const Float16* from) {
  const BitsOf<float, V> bits = load_bits<V>(from), sign = (bits & 0x8000) << 16, rest = (bits & 0x7fff) << 13;
  const BitsOf<float, V> scaled = (BitsOf<float, V>)((V)rest * 0x1p112f);
  return (V)(sign | (rest >= 0x0f800000 ? rest | 0x7f800000 : scaled));
}

}  // namespace
}  // namespace bimt

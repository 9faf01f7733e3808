// Weights and gradients as they are stored: float and double as they are, 16-bit ones widened to float when read and
// rounded to nearest even when written. Plain bit arithmetic, which compilers turn into vectors on every machine.
#pragma once

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace bimt {
namespace {

template <class S>
constexpr bool kNarrow = sizeof(S) == 2;

BIMT_INLINE float widened(float x) { return x; }
BIMT_INLINE double widened(double x) { return x; }

BIMT_INLINE float widened(BFloat16 x) { return same_bits<float>(uint32_t(x.bits) << 16); }

// Five bits of exponent about 15, ten of mantissa: moved to their places in a float, they are off by a factor 2^112.
BIMT_INLINE float widened(Float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, rest = uint32_t(x.bits & 0x7fff) << 13;
  const uint32_t scaled = same_bits<uint32_t>(same_bits<float>(rest) * 0x1p112f);
  return same_bits<float>(sign | (rest >= 0x0f800000 ? rest | 0x7f800000 : scaled));
}

BIMT_INLINE void narrow_to(float x, float* to) { *to = x; }
BIMT_INLINE void narrow_to(double x, double* to) { *to = x; }

BIMT_INLINE void narrow_to(float x, BFloat16* to) {
  const uint32_t bits = same_bits<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  to->bits = uint16_t((bits & 0x7fffffff) > 0x7f800000 ? bits >> 16 | 0x40 : rounded);
}

BIMT_INLINE void narrow_to(float x, Float16* to) {
  const uint32_t all = same_bits<uint32_t>(x), sign = all >> 16 & 0x8000, bits = all & 0x7fffffff;
  // Below 2^-14 the last place is 2^-24, which is that of numbers from 1/2 to 1.
  const uint32_t small = same_bits<uint32_t>(same_bits<float>(bits) + 0.5f) - 0x3f000000;
  const uint32_t normal = (bits + 0xfff + (bits >> 13 & 1) - 0x38000000) >> 13;
  const uint32_t finite = bits < 0x38800000 ? small : normal;
  const uint32_t large = bits > 0x7f800000 ? 0x7e00 : 0x7c00;  // from 65520 on, which rounds to 2^16
  to->bits = uint16_t(sign | (bits >= 0x477ff000 ? large : finite));
}

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

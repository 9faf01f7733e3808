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

}  // namespace
}  // namespace bimt

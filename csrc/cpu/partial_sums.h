// Partial sums of several blocks, added up in a fixed order whoever made them.
#pragma once

#include "cpu/simd.h"

namespace bimt {
namespace {

// to[i] = sum of sums[block * stride + i] over the blocks.
template <class T>
void add_partial(const double* sums, int64_t blocks, int64_t stride, int64_t count, T* to) {
  for (int64_t i = 0; i < count; ++i) {
    double sum = 0;
    for (int64_t block = 0; block < blocks; ++block) sum += sums[block * stride + i];
    to[i] = static_cast<T>(sum);
  }
}

}  // namespace
}  // namespace bimt

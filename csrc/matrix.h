// A matrix in someone else's memory. Strides count elements.
#pragma once

#include <cstdint>

#include "metric.h"

namespace bimt {

template <class T>
struct Matrix {
  T* data;
  int64_t rows, cols;
  int64_t row_stride, col_stride;

  BIMT_HD T& at(int64_t row, int64_t col) const { return data[row * row_stride + col * col_stride]; }
  BIMT_HD Matrix transposed() const { return {data, cols, rows, col_stride, row_stride}; }
};

}  // namespace bimt

// Positions as the kernels that make distances on the fly read them.
#pragma once

#include "cpu/kernels.h"
#include "metric.h"

namespace bimt {
namespace {

// What can be wrong with the positions of one side.
struct Refusals {
  Status infinite, outside, index;
};
constexpr Refusals kOutRefusals = {Status::kOutPos, Status::kOutBall, Status::kOutIndex};
constexpr Refusals kInRefusals = {Status::kInPos, Status::kInBall, Status::kInIndex};

// Coordinates one axis after another, and behind them the gaps where the metric has them. `indices` rows of a table.
template <class T>
Status copy_positions(const Matrix<const T>& positions, int metric, int64_t indices, const Refusals& refusals, T* to) {
  bool finite = true, inside = true;
  T* const gaps = to + positions.rows * positions.cols;
  for (int64_t k = 0; k < positions.cols; ++k) {
    for (int64_t i = 0; i < positions.rows; ++i) {
      const T x = positions.at(i, k);
      finite &= x - x == 0;
      *to++ = x;
    }
  }
  if (!finite) return refusals.infinite;
  if (metric == int(MetricCode::kPoincare)) {
    for (int64_t i = 0; i < positions.rows; ++i) {
      double gap = 1;
      for (int64_t k = 0; k < positions.cols; ++k) gap -= double(positions.at(i, k)) * double(positions.at(i, k));
      inside &= gap > 0;
      gaps[i] = static_cast<T>(gap);
    }
    if (!inside) return refusals.outside;
  }
  if (metric == int(MetricCode::kTable)) {
    for (int64_t i = 0; i < positions.rows * positions.cols; ++i) {
      const T index = gaps[i - positions.rows * positions.cols];
      inside &= index >= 0 && index < T(indices);
    }
    if (!inside) return refusals.index;
  }
  return Status::kOk;
}

}  // namespace
}  // namespace bimt

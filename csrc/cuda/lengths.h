// Distances of a small tile of pairs of points, in a thread's registers.
#pragma once

#include "cuda/device.h"

namespace bimt {
namespace gpu {

// Consecutive points of some (count, dim) positions. Behind the last one it is repeated.
template <class T>
struct Points {
  const T* positions;
  int64_t first, count;
  int dim;

  __device__ __forceinline__ T at(int k, int axis) const {
    const int64_t point = first + k < count ? first + k : count - 1;
    return positions[point * dim + axis];
  }

  // 1 - |x|^2: in double, since near the edge of the ball all digits cancel.
  __device__ __forceinline__ T gap(int k) const {
    double gap = 1;
    for (int axis = 0; axis < dim; ++axis) gap -= double(at(k, axis)) * double(at(k, axis));
    return T(gap);
  }
};

template <int R, int J, class Metric, class T>
__device__ __forceinline__ void tile_distances(Metric, const Points<T>& rows, const Points<T>& cols,
                                               T (&distance)[R][J]) {
#pragma unroll
  for (int r = 0; r < R; ++r) {
#pragma unroll
    for (int j = 0; j < J; ++j) distance[r][j] = 0;
  }
  for (int axis = 0; axis < rows.dim; ++axis) {
    T y[J];
#pragma unroll
    for (int j = 0; j < J; ++j) y[j] = cols.at(j, axis);
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const T x = rows.at(r, axis);
#pragma unroll
      for (int j = 0; j < J; ++j) distance[r][j] = Metric::add(distance[r][j], x, y[j]);
    }
  }
  T b[J];
#pragma unroll
  for (int j = 0; j < J; ++j) b[j] = Metric::kInBall ? cols.gap(j) : T(0);
#pragma unroll
  for (int r = 0; r < R; ++r) {
    const T a = Metric::kInBall ? rows.gap(r) : T(0);
#pragma unroll
    for (int j = 0; j < J; ++j) distance[r][j] = Metric::finish(distance[r][j], a, b[j]);
  }
}

// The same for the metric of that code; a table is read at [row, col], or where rows are in axes at [col, row].
template <int R, int J, class T>
__device__ __forceinline__ void tile_distances(const Points<T>& rows, const Points<T>& cols, int metric,
                                               const Matrix<const T>& table, bool swapped, T (&distance)[R][J]) {
  if (metric == int(MetricCode::kTable)) {
#pragma unroll
    for (int r = 0; r < R; ++r) {
      const int64_t row = int64_t(rows.at(r, 0));
#pragma unroll
      for (int j = 0; j < J; ++j) {
        const int64_t col = int64_t(cols.at(j, 0));
        distance[r][j] = swapped ? table.at(col, row) : table.at(row, col);
      }
    }
    return;
  }
  with_metric<T>(metric, [&](auto functor) { tile_distances<R, J>(functor, rows, cols, distance); });
}

// The derivative of the distance from one point to another, for a coordinate of the first; a is the first one's gap.
template <class Metric, class T>
__device__ __forceinline__ T slope_of(Metric, const Points<T>& from, const Points<T>& to, T a, int axis) {
  T sum = 0, ties = 0;
  for (int k = 0; k < from.dim; ++k) sum = Metric::add(sum, from.at(0, k), to.at(0, k));
  for (int k = 0; Metric::kTies && k < from.dim; ++k) ties += Metric::attains(from.at(0, k), to.at(0, k), sum);
  const T factor = Metric::factor(sum, a, Metric::kInBall ? to.gap(0) : T(0), ties);
  return Metric::slope(from.at(0, axis), to.at(0, axis), factor, sum, a);
}

}  // namespace gpu
}  // namespace bimt

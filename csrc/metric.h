// Distance metrics, one functor each. bimt_fast/geometry.py lists them by the same codes.
//
// A distance is folded over coordinates: start at 0, add() every coordinate pair, finish() once. Every metric here is
// symmetric, so the slope with respect to the second point is slope(y, x, distance).
#pragma once

#include <cmath>

#ifdef __CUDACC__
#define BIMT_HD __host__ __device__ __forceinline__
#else
// Always inlined: an out-of-line copy compiled for AVX-512 could be the one that the linker keeps for all.
#define BIMT_HD inline __attribute__((always_inline))
#endif

namespace bimt {

enum class MetricCode : int { kL1 = 0 };
constexpr int kMetricCount = 1;

BIMT_HD float absolute(float x) { return ::fabsf(x); }
BIMT_HD double absolute(double x) { return ::fabs(x); }

template <class T>
BIMT_HD T sign(T x) {
  return T(x > 0) - T(x < 0);
}

template <class T>
struct L1 {
  static BIMT_HD T add(T sum, T x, T y) { return sum + absolute(x - y); }
  static BIMT_HD T finish(T sum) { return sum; }
  // Derivative of the distance for the coordinate x of the first point, 0 at the kink.
  static BIMT_HD T slope(T x, T y, T /*distance*/) { return sign(x - y); }
};

// Calls f with the functor of that metric.
template <class T, class F>
BIMT_HD auto with_metric(int code, F f) {
  switch (static_cast<MetricCode>(code)) {
    case MetricCode::kL1:
    default:
      return f(L1<T>());
  }
}

}  // namespace bimt

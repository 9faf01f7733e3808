// Distance metrics, one functor each. bimt_fast/geometry.py lists them by the same codes.
//
// A distance is folded over coordinates: start at 0, add() every coordinate pair, finish() the sum once. Every metric
// here is symmetric. Its derivative for a coordinate of the first point is slope(), from what pairs have in common:
// factor(sum, a, b, ties). a and b are the gaps 1 - |x|^2 of the two points (kInBall only), ties is the number of
// coordinates for which attains() holds (kTies only). Derivatives are 0 at distance 0 and where |x - y| has its kink.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#ifdef __CUDACC__
#define BIMT_HD __host__ __device__ __forceinline__
#else
// Always inlined: an out-of-line copy compiled for AVX-512 could be the one that the linker keeps for all.
#define BIMT_HD inline __attribute__((always_inline))
#endif

namespace bimt {

// kTable, lengths read from a matrix, has no functor.
enum class MetricCode : int { kL1, kL2, kSql2, kLinf, kTorusL1, kTorusL2, kPoincare, kTable };
constexpr int kMetricCount = 8;

BIMT_HD float absolute(float x) { return ::fabsf(x); }
BIMT_HD double absolute(double x) { return ::fabs(x); }
BIMT_HD float square_root(float x) { return ::sqrtf(x); }
BIMT_HD double square_root(double x) { return ::sqrt(x); }
BIMT_HD float nearest(float x) { return ::rintf(x); }
BIMT_HD double nearest(double x) { return ::rint(x); }

template <class T>
BIMT_HD T sign(T x) {
  return T(x > 0) - T(x < 0);
}

template <class T>
struct FloatBits;
template <>
struct FloatBits<float> {
  using Unsigned = uint32_t;
  static constexpr int kMantissa = 23, kTerms = 5;
  static constexpr Unsigned kHalfRoot = 0x3f3504f3, kShift = 0x4b000000;  // sqrt(1/2) and 2^kMantissa
};
template <>
struct FloatBits<double> {
  using Unsigned = uint64_t;
  static constexpr int kMantissa = 52, kTerms = 11;
  static constexpr Unsigned kHalfRoot = 0x3fe6a09e667f3bcd, kShift = 0x4330000000000000;
};

template <class To, class From>
BIMT_HD To same_bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "only types of one size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// log(1 + x) for x >= 0, without a branch or a call, so that loops over it become vectors. 1 + x = 2^e m with m near
// 1, log m = 2 atanh((m - 1) / (m + 1)) by its series, and what rounding 1 + x lost is added to first order.
template <class T>
BIMT_HD T log_one_plus(T x) {
  using Bits = FloatBits<T>;
  using Unsigned = typename Bits::Unsigned;
  const T u = 1 + x;
  const T lost = x < 1 ? x - (u - 1) : 1 - (u - x);
  const Unsigned bits = same_bits<Unsigned>(u), e = (bits - Bits::kHalfRoot) >> Bits::kMantissa;
  const T m = same_bits<T>(Unsigned(bits - (e << Bits::kMantissa)));
  const T exponent = same_bits<T>(Unsigned(e | Bits::kShift)) - T(Unsigned(1) << Bits::kMantissa);
  const T s = (m - 1) / (m + 1), square = s * s;
  T series = 0;
#ifdef __CUDA_ARCH__
#pragma unroll
#elif defined(__GNUC__) && !defined(__CUDACC__)
#pragma GCC unroll 16
#endif
  for (int k = Bits::kTerms; k > 0; --k) series = square * (T(1) / (2 * k + 1) + series);
  return exponent * T(0.693147180559945309417) + (2 * (s + s * series) + lost / u);
}

template <class T>
struct Metric {
  static constexpr bool kInBall = false, kTies = false;
  static BIMT_HD T finish(T sum, T /*a*/, T /*b*/) { return sum; }
  static BIMT_HD T factor(T /*sum*/, T /*a*/, T /*b*/, T /*ties*/) { return 1; }
  static BIMT_HD T attains(T /*x*/, T /*y*/, T /*sum*/) { return 0; }
};

template <class T>
struct L1 : Metric<T> {
  static BIMT_HD T add(T sum, T x, T y) { return sum + absolute(x - y); }
  static BIMT_HD T slope(T x, T y, T /*factor*/, T /*sum*/, T /*a*/) { return sign(x - y); }
};

template <class T>
struct Sql2 : Metric<T> {
  static BIMT_HD T add(T sum, T x, T y) { return sum + (x - y) * (x - y); }
  static BIMT_HD T slope(T x, T y, T /*factor*/, T /*sum*/, T /*a*/) { return 2 * (x - y); }
};

template <class T>
struct L2 : Sql2<T> {
  static BIMT_HD T finish(T sum, T /*a*/, T /*b*/) { return square_root(sum); }
  static BIMT_HD T factor(T sum, T /*a*/, T /*b*/, T /*ties*/) { return sum > 0 ? 1 / square_root(sum) : T(0); }
  static BIMT_HD T slope(T x, T y, T factor, T /*sum*/, T /*a*/) { return factor * (x - y); }
};

// Where several coordinates attain the largest difference they share the derivative equally, as in torch.amax.
template <class T>
struct Linf : Metric<T> {
  static constexpr bool kTies = true;
  static BIMT_HD T add(T sum, T x, T y) { return absolute(x - y) > sum ? absolute(x - y) : sum; }
  static BIMT_HD T attains(T x, T y, T sum) { return T(absolute(x - y) == sum); }
  static BIMT_HD T factor(T /*sum*/, T /*a*/, T /*b*/, T ties) { return 1 / ties; }
  static BIMT_HD T slope(T x, T y, T factor, T sum, T /*a*/) {
    return absolute(x - y) == sum ? sign(x - y) * factor : T(0);
  }
};

// From -1/2 to 1/2: the shortest way round a circle of length 1.
template <class T>
BIMT_HD T around(T offset) {
  return offset - nearest(offset);
}

// The same, and 0 where both ways are equally short: the kink on the far side.
template <class T>
BIMT_HD T around_kink(T offset) {
  const T way = around(offset);
  return absolute(way) == T(0.5) ? T(0) : way;
}

template <class T>
struct TorusL1 : Metric<T> {
  static BIMT_HD T add(T sum, T x, T y) { return sum + absolute(around(x - y)); }
  static BIMT_HD T slope(T x, T y, T /*factor*/, T /*sum*/, T /*a*/) { return sign(around_kink(x - y)); }
};

template <class T>
struct TorusL2 : L2<T> {
  static BIMT_HD T add(T sum, T x, T y) { return sum + around(x - y) * around(x - y); }
  static BIMT_HD T slope(T x, T y, T factor, T /*sum*/, T /*a*/) { return factor * around_kink(x - y); }
};

// 2 asinh sqrt(z) with z = |x - y|^2 / (a b); asinh s = log(1 + s + s^2 / (1 + sqrt(1 + s^2))) holds its precision at
// 0.
template <class T>
struct Poincare : Sql2<T> {
  static constexpr bool kInBall = true;
  static BIMT_HD T finish(T sum, T a, T b) {
    const T z = sum / (a * b);
    return 2 * log_one_plus(square_root(z) + z / (1 + square_root(1 + z)));
  }
  static BIMT_HD T factor(T sum, T a, T b, T /*ties*/) {
    return sum > 0 ? 2 / (square_root(sum) * square_root(a * b + sum)) : T(0);
  }
  static BIMT_HD T slope(T x, T y, T factor, T sum, T a) { return factor * ((x - y) + x * (sum / a)); }
};

// Calls f with the functor of that metric.
template <class T, class F>
BIMT_HD auto with_metric(int code, F f) {
  switch (static_cast<MetricCode>(code)) {
    case MetricCode::kL2:
      return f(L2<T>());
    case MetricCode::kSql2:
      return f(Sql2<T>());
    case MetricCode::kLinf:
      return f(Linf<T>());
    case MetricCode::kTorusL1:
      return f(TorusL1<T>());
    case MetricCode::kTorusL2:
      return f(TorusL2<T>());
    case MetricCode::kPoincare:
      return f(Poincare<T>());
    default:
      return f(L1<T>());
  }
}

}  // namespace bimt

// Scans of one row of a cost matrix beside the prices of its columns, in double whatever the matrix holds.

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace bimt {
namespace {

using V = Full<double>;
using Index = Full<int64_t>;
constexpr int kCount = kLanes<double>;
constexpr double kInfinity = __builtin_inf();

template <class T>
BIMT_INLINE V read(const T* from) {
  return __builtin_convertvector((load<Vector<T, kCount>>(from)), V);
}

// The smallest value seen and its index, the lowest index on ties.
class Lowest {
 public:
  BIMT_INLINE void offer(V value) {
    const Index less = value < value_;
    value_ = less ? value : value_;
    index_ = less ? next_ : index_;
    next_ += kCount;
  }

  BIMT_INLINE void offer_one(double value, int64_t index) {
    if (!(value < best)) return;
    best = value;
    at = index;
  }

  // After the last vector, before the values left over.
  BIMT_INLINE void merge_lanes() {
    for (int lane = 0; lane < kCount; ++lane) {
      if (value_[lane] < best || (value_[lane] == best && index_[lane] < at)) {
        best = value_[lane];
        at = index_[lane];
      }
    }
  }

  double best = kInfinity;
  int64_t at = -1;

 private:
  static BIMT_INLINE Index first_indices() {
    Index first;
    for (int lane = 0; lane < kCount; ++lane) first[lane] = lane;
    return first;
  }

  V value_ = splat<V>(kInfinity);
  Index index_ = splat<Index>(int64_t(-1)), next_ = first_indices();
};

template <class T>
double magnitude(const T* row, int64_t n) {
  V largest = {}, poison = {};
  int64_t j = 0;
  for (; j + kCount <= n; j += kCount) {
    const V size = bimt::magnitude<double>(read(row + j));
    largest = size > largest ? size : largest;
    poison += size - size;
  }
  double all = 0, bad = 0;
  for (int lane = 0; lane < kCount; ++lane) {
    all = largest[lane] > all ? largest[lane] : all;
    bad += poison[lane];
  }
  for (; j < n; ++j) {
    const double size = __builtin_fabs(double(row[j]));
    all = size > all ? size : all;
    bad += size - size;
  }
  return bad == 0 ? all : kInfinity;
}

template <class T>
double lowest(const T* row, const double* price, int64_t n, int64_t* at) {
  Lowest least;
  int64_t j = 0;
  for (; j + kCount <= n; j += kCount) least.offer(read(row + j) - load<V>(price + j));
  least.merge_lanes();
  for (; j < n; ++j) least.offer_one(row[j] - price[j], j);
  *at = least.at;
  return least.best;
}

template <class T>
int64_t relax(const T* row, const double* price, int64_t n, int64_t i, double offset, double* distance,
              int64_t* before) {
  Lowest least;
  int64_t j = 0;
  for (; j + kCount <= n; j += kCount) {
    const V through = read(row + j) - load<V>(price + j) + offset;
    V nearest = load<V>(distance + j);
    const Index nearer = through < nearest;
    nearest = nearer ? through : nearest;
    store(distance + j, nearest);
    store(before + j, nearer ? splat<Index>(i) : load<Index>(before + j));
    least.offer(nearest);
  }
  least.merge_lanes();
  for (; j < n; ++j) {
    const double through = row[j] - price[j] + offset;
    if (through < distance[j]) {
      distance[j] = through;
      before[j] = i;
    }
    least.offer_one(distance[j], j);
  }
  return least.at;
}

int64_t nearest(const double* distance, int64_t n) {
  Lowest least;
  int64_t j = 0;
  for (; j + kCount <= n; j += kCount) least.offer(load<V>(distance + j));
  least.merge_lanes();
  for (; j < n; ++j) least.offer_one(distance[j], j);
  return least.at;
}

template <class T>
int64_t within(const T* row, const double* price, int64_t from, int64_t n, double limit) {
  int64_t j = from;
  for (; j + kCount <= n; j += kCount) {
    const Index found = read(row + j) - load<V>(price + j) <= limit;
    int64_t any = 0;
    for (int lane = 0; lane < kCount; ++lane) any |= found[lane];
    if (any != 0) break;
  }
  while (j < n && !(row[j] - price[j] <= limit)) ++j;
  return j < n ? j : n;
}

}  // namespace

template <>
RowScans<float> row_scans<BIMT_ISA, float>() {
  return {magnitude<float>, lowest<float>, relax<float>, nearest, within<float>};
}

template <>
RowScans<double> row_scans<BIMT_ISA, double>() {
  return {magnitude<double>, lowest<double>, relax<double>, nearest, within<double>};
}

}  // namespace bimt

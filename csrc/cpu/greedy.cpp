#include "greedy.h"

#include <utility>
#include <vector>

namespace bimt {

template <class T>
int64_t greedy_swaps(const Matrix<const T>& cost, const Matrix<const T>& by_slot, int64_t* neuron_in,
                     const int64_t* slots, int64_t count) {
  const int64_t n = cost.rows;
  const auto entry = [&](int64_t neuron, int64_t slot) {
    return cost.data[neuron * cost.row_stride + slot * cost.col_stride];
  };
  std::vector<T> at_home(n);
  for (int64_t q = 0; q < n; ++q) at_home[q] = entry(neuron_in[q], q);
  int64_t swaps = 0;
  for (int64_t k = 0; k < count; ++k) {
    const int64_t p = slots[k], neuron = neuron_in[p];
    const T* const row = cost.data + neuron * cost.row_stride;
    const T* const column = by_slot.data + p * by_slot.col_stride;
    int64_t best = p;
    T lowest = 0;
    for (int64_t q = 0; q < n; ++q) {
      const T there = row[q * cost.col_stride], here = column[neuron_in[q] * by_slot.row_stride];
      const T delta = q == p ? 0 : (there + here) - (at_home[q] + at_home[p]);
      if (delta < lowest || (delta == lowest && q < best)) {
        lowest = delta;
        best = q;
      }
    }
    if (best == p) continue;
    std::swap(neuron_in[p], neuron_in[best]);
    for (int64_t slot : {p, best}) at_home[slot] = entry(neuron_in[slot], slot);
    ++swaps;
  }
  return swaps;
}

template int64_t greedy_swaps<float>(const Matrix<const float>&, const Matrix<const float>&, int64_t*, const int64_t*,
                                     int64_t);
template int64_t greedy_swaps<double>(const Matrix<const double>&, const Matrix<const double>&, int64_t*,
                                      const int64_t*, int64_t);

}  // namespace bimt

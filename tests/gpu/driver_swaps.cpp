// Swap deltas and best swaps of a recurrent group, and their gradients' sums, against plain loops.

#include "driver.h"

namespace driver {
namespace {

using bimt::Matrix;
using bimt::gpu::Both;

constexpr int64_t kN = 75;

struct Problem {
  Array<float> cost{kN * kN, 0, 1}, flow{kN * kN, 0, 1}, distance{kN * kN, 0, 1};
  Array<int64_t> slot{kN};

  Problem() {
    for (int64_t i = 0; i < kN; ++i) slot[i] = (i * 32 + 5) % kN;  // 32 and 75 have no common factor
  }

  double form(const Array<float>& x, int64_t r, int64_t s, int64_t row, int64_t col) const {
    return double(x[r * kN + col]) + x[s * kN + row] - x[r * kN + row] - x[s * kN + col];
  }

  double delta(int64_t r, int64_t s) const {
    const double pair = form(flow, r, s, r, s) * form(distance, slot[r], slot[s], slot[r], slot[s]);
    return form(cost, r, s, slot[r], slot[s]) + pair;
  }

  bimt::gpu::SwapArgs<float> arguments(int* not_finite) const {
    const auto both = [](const Array<float>& x, const int64_t* row_order, const int64_t* col_order) {
      const bimt::gpu::Ordered<float> ordered = {{x.get(), kN, kN, kN, 1}, row_order, col_order};
      return Both<float>{ordered, ordered, nullptr};
    };
    return {kN,
            kN,
            {both(cost, nullptr, slot.get()), both(flow, nullptr, nullptr), both(distance, slot.get(), slot.get())},
            3,
            not_finite};
  }
};

void check_deltas(const Problem& problem) {
  const Array<float> deltas(kN * kN);
  int not_finite = 0;
  bimt::gpu::swap_deltas<float>(kQueue, problem.arguments(&not_finite), rows_of(deltas, kN, kN), false);
  for (int64_t r = 0; r < kN; ++r) {
    for (int64_t s = 0; s < kN; ++s) expect_near("delta", deltas[r * kN + s], problem.delta(r, s), 4);
  }
  expect_near("nothing infinite", not_finite, 0, 1);
}

void check_best(const Problem& problem) {
  const Array<float> delta(kN);
  const Array<int64_t> partner(kN);
  for (int64_t i = 0; i < kN; ++i) partner[i] = i;
  const Array<uint64_t> workspace(bimt::gpu::swap_parts(kN, kN) * kN);
  int not_finite = 0;
  bimt::gpu::best_swaps<float>(
      kQueue, {problem.arguments(&not_finite), 0, nullptr, workspace.get(), delta.get(), partner.get()});
  for (int64_t r = 0; r < kN; ++r) {
    double best = 0;
    for (int64_t s = 0; s < kN; ++s) best = std::min(best, problem.delta(r, s));
    expect_near("best delta", delta[r], best, 4);
    expect_near("best partner", problem.delta(r, partner[r]), best, 4);
  }
}

void check_gradient(const Problem& problem) {
  const Array<float> grad(kN * kN, -1, 1), gradient(kN * kN);
  const Array<double> workspace(bimt::gpu::swap_parts(kN, kN) * kN);
  bimt::gpu::swap_gradient<float>(
      kQueue,
      {{grad.get(), kN, kN, kN, 1}, {}, workspace.get(), rows_of(gradient, kN, kN), nullptr, problem.slot.get()});
  for (int64_t r = 0; r < kN; ++r) {
    double rest = 0;
    for (int64_t s = 0; s < kN; ++s) rest += double(grad[r * kN + s]) + grad[s * kN + r];
    for (int64_t s = 0; s < kN; ++s) {
      const double both = double(grad[r * kN + s]) + grad[s * kN + r];
      expect_near("gradient", gradient[r * kN + problem.slot[s]], r == s ? both - rest : both, double(kN));
    }
  }
}

}  // namespace

void check_swaps() {
  const Problem problem;
  check_deltas(problem);
  check_best(problem);
  check_gradient(problem);
}

}  // namespace driver

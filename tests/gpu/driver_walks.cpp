// Permuted labels, moved slices, greedy visits and quadratic walks, against plain loops.

#include "driver.h"
#include "random.h"

namespace driver {
namespace {

// The fraction of isolated neurons, and the variance of indices within clusters.
void check_labels(int64_t n) {
  constexpr int64_t kClusters = 5, kDegree = 3, kPermutations = 2;
  constexpr uint64_t kSeed = 9;
  const Array<int32_t> labels(n, 0, kClusters - 0.001), near(n * kDegree, -0.99, double(n) - 0.001);
  const Array<double> positions(2 * n, -1, 1), shares(kClusters), weights(kClusters), nulls(3 * (1 + kPermutations));
  double counts[kClusters] = {}, there = 0;
  for (int64_t i = 0; i < n; ++i) ++counts[labels[i]];
  for (double count : counts) there += count > 0;
  for (int64_t c = 0; c < kClusters; ++c) {
    shares[c] = 1 / counts[c];
    weights[c] = counts[c] > 0 ? shares[c] / there : 0;
  }
  const Array<int32_t> workspace(bimt::gpu::label_workspace(n, kPermutations));
  bimt::gpu::label_nulls(kQueue, {n, kClusters, kDegree, 2, labels.get(), near.get(), positions.get(), shares.get(),
                                  weights.get(), kPermutations, kSeed, workspace.get(), nulls.get()});
  for (int64_t p = 0; p <= kPermutations; ++p) {
    std::vector<int32_t> own(labels.get(), labels.get() + n);
    for (int64_t i = n - 1; p > 0 && i > 0; --i) std::swap(own[i], own[bimt::shuffle_place(kSeed, p, n, i)]);
    double isolated = 0, variance = 0;
    for (int64_t i = 0; i < n; ++i) {
      bool alone = true;
      for (int64_t k = 0; k < kDegree; ++k) alone &= near[k * n + i] < 0 || own[near[k * n + i]] != own[i];
      isolated += alone;
    }
    for (int64_t c = 0; c < kClusters; ++c) {
      double sum = 0, squares = 0;
      for (int64_t i = 0; i < n; ++i) sum += own[i] == c ? double(i) : 0;
      for (int64_t i = 0; i < n; ++i) squares += own[i] == c ? std::pow(double(i) - sum / counts[c], 2) : 0;
      variance += counts[c] > 0 ? squares / counts[c] / there : 0;
    }
    expect_near("isolated", nulls[3 * p], isolated / double(n), 1);
    expect_near("variance", nulls[3 * p + 1], variance, variance);
  }
}

// Rows of a matrix with gaps, then columns: wide words, and single elements.
void check_permutation() {
  constexpr int64_t kRows = 37, kCols = 24, kStride = 28, kMoved = 19;
  const Array<float> x(kRows * kStride, -1, 1);
  const std::vector<float> before(x.get(), x.get() + x.size());
  const Array<int64_t> to(kMoved), source(kMoved);
  for (int64_t k = 0; k < kMoved; ++k) {
    to[k] = k;
    source[k] = (k + 7) % kMoved;
  }
  const Array<uint64_t> workspace(kRows * kStride);
  char *const data = reinterpret_cast<char*>(x.get()), *const space = reinterpret_cast<char*>(workspace.get());
  bimt::gpu::permute(kQueue, {data, space, to.get(), source.get(), 2, 0, {kMoved, 4 * kCols}, {4 * kStride, 1}});
  bimt::gpu::permute(kQueue, {data, space, to.get(), source.get(), 3, 1, {kRows, kMoved, 4}, {4 * kStride, 4, 1}});
  for (int64_t r = 0; r < kRows; ++r) {
    for (int64_t c = 0; c < kStride; ++c) {
      const int64_t column = c < kMoved ? source[c] : c, row = r < kMoved && column < kCols ? source[r] : r;
      expect_near("permuted", x[r * kStride + c], before[row * kStride + column], 1);
    }
  }
}

void check_greedy(int64_t n) {
  const Array<float> cost(n * n, 0, 1), at_home(n);
  const Array<int64_t> neuron_in(n), slots(12), swaps(1);
  for (int64_t i = 0; i < n; ++i) neuron_in[i] = (i + 3) % n;
  for (int64_t k = 0; k < 12; ++k) slots[k] = 5 * k % n;
  std::vector<int64_t> expected(neuron_in.get(), neuron_in.get() + n);
  int64_t count = 0;
  for (int64_t k = 0; k < 12; ++k) {
    const int64_t p = slots[k];
    int64_t best = p;
    float least = 0;
    for (int64_t q = 0; q < n; ++q) {
      const int64_t a = expected[p], b = expected[q];
      const float delta = q == p ? 0 : (cost[a * n + q] + cost[b * n + p]) - (cost[b * n + q] + cost[a * n + p]);
      if (delta < least || (delta == least && q < best)) {
        least = delta;
        best = q;
      }
    }
    std::swap(expected[p], expected[best]);
    count += best != p;
  }
  bimt::gpu::greedy_swaps<float>(
      kQueue, {{cost.get(), n, n, n, 1}, neuron_in.get(), slots.get(), 12, at_home.get(), swaps.get()});
  expect_near("swaps", double(swaps[0]), double(count), 1);
  for (int64_t p = 0; p < n; ++p) expect_near("neuron in a slot", double(neuron_in[p]), double(expected[p]), 1e-3);
}

// Costs are those of the assignments found, and no iteration makes a descent dearer.
template <class T>
void check_quadratic(int64_t n, bool symmetric, bool tabu) {
  constexpr int64_t kWalks = 3, kSlots = 2;
  const Array<T> flow(n * n, 0, 9), distance(n * n, 0, 9), linear(n * n, 0, 50), pairs(n * n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      for (const Array<T>* x : {&flow, &distance}) {
        (*x)[i * n + j] = i == j ? T(0) : T(int((*x)[i * n + j]));
        (*x)[j * n + i] = symmetric ? (*x)[i * n + j] : T(int((*x)[j * n + i]));
      }
      pairs[i * n + j] = pairs[j * n + i] = flow[i * n + j] + flow[j * n + i];
    }
  }
  for (int64_t k = 0; k < n * n; ++k) linear[k] = T(int(linear[k]));
  const Array<int64_t> assignments(kWalks * n), limits(kWalks, 5, 5), done(kWalks);
  const Array<uint64_t> seeds(kWalks, 77, 77);
  const Array<double> costs(kWalks);
  for (int64_t k = 0; k < kWalks * n; ++k) assignments[k] = (k * (k < n ? 1 : 5) + k / n) % n;
  const auto cost_of = [&](const int64_t* slot) {
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += double(linear[i * n + slot[i]]);
      for (int64_t j = 0; j < n; ++j)
        sum += double(flow[i * n + j] * distance[slot[i] * n + slot[j]]) / (1 + symmetric);
    }
    return sum;
  };
  std::vector<double> at_first;
  for (int64_t walk = 0; walk < kWalks; ++walk) at_first.push_back(cost_of(&assignments[walk * n]));
  const int64_t size = bimt::gpu::quadratic_memory(n, sizeof(T));
  const Array<uint64_t> memory((bimt::gpu::kQuadraticHeader + kSlots * size) / 8);
  const auto state = [&](int64_t slot) {
    return reinterpret_cast<int64_t*>(memory.get()) + (bimt::gpu::kQuadraticHeader + slot * size) / 8;
  };
  for (int64_t slot = 0; slot < kSlots; ++slot) {
    state(slot)[0] = slot;
    state(slot)[1] = -1;
  }
  while (state(0)[0] < kWalks || state(1)[0] < kWalks) {
    bimt::gpu::quadratic_walks<T>(kQueue, {n, flow.get(), pairs.get(), distance.get(), linear.get(), symmetric, kWalks,
                                           assignments.get(), seeds.get(), limits.get(), costs.get(), done.get(), tabu,
                                           0.0, reinterpret_cast<char*>(memory.get()), kSlots, 12 * n * n});
  }
  for (int64_t walk = 0; walk < kWalks; ++walk) {
    const double expected = cost_of(&assignments[walk * n]);
    expect_near("cost of a walk", costs[walk], expected, 1e-3);
    if (expected > at_first[walk] || done[walk] != 5) expect_near("gain of a walk", expected, at_first[walk], 0);
  }
}

}  // namespace

void check_walks() {
  check_labels(100);
  check_labels(300);
  check_labels(4100);  // more than shared memory holds
  check_permutation();
  check_greedy(33);
  check_greedy(300);
  for (bool symmetric : {false, true}) {
    for (bool tabu : {false, true}) {
      check_quadratic<int32_t>(17, symmetric, tabu);
      check_quadratic<double>(53, symmetric, tabu);
    }
  }
}

}  // namespace driver

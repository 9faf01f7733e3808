// Placement costs, swaps and their gradients, against plain loops.

#include <algorithm>

#include "driver.h"

namespace driver {
namespace {

using bimt::Matrix;
using namespace bimt::gpu;

constexpr int64_t kNeurons = 41, kPeers = 70;
constexpr int kDim = 2;

double sign(double x) { return (x > 0) - (x < 0); }

Matrix<const float> read_only(const Matrix<float>& m) { return {m.data, m.rows, m.cols, m.row_stride, m.col_stride}; }

// A weight stored by rows and one by columns, both of the same sizes.
struct Group {
  Array<float> incoming{kNeurons * kPeers, -1, 1}, outgoing{kNeurons * kPeers, -1, 1};
  Array<float> slots{kNeurons * kDim, 0, 1}, peers{kPeers * kDim, 0, 1};
  const Matrix<const float> weights[2] = {read_only(rows_of(incoming, kNeurons, kPeers)),
                                          read_only(columns_of(outgoing, kNeurons, kPeers))};
  const double coefficients[2] = {0.7, 1.0};

  double distance(int64_t slot, int64_t peer) const {
    double sum = 0;
    for (int a = 0; a < kDim; ++a) sum += std::abs(double(slots[slot * kDim + a]) - double(peers[peer * kDim + a]));
    return sum;
  }

  double cost(int64_t neuron, int64_t slot) const {
    double cost = 0;
    for (int part = 0; part < 2; ++part) {
      for (int64_t k = 0; k < kPeers; ++k)
        cost += coefficients[part] * std::abs(double(weights[part].at(neuron, k))) * distance(slot, k);
    }
    return cost;
  }

  ProductPoints<float> points() const { return {slots.get(), kNeurons, kDim, 0, {}}; }
};

void expect_costs(const char* what, const Group& group, const Array<float>& by_slot, const Array<float>& diagonal) {
  for (int64_t i = 0; i < kNeurons; ++i) {
    for (int64_t p = 0; p < kNeurons; ++p) expect_near(what, by_slot[p * kNeurons + i], group.cost(i, p), kPeers);
    if (diagonal[i] != by_slot[i * kNeurons + i]) expect_near("bits of the diagonal", 0, 1, 1);
  }
}

void check_products() {
  const Group group;
  ProductPart<float> parts[2];
  for (int k = 0; k < 2; ++k) parts[k] = {group.weights[k], group.peers.get(), group.coefficients[k], false};
  const Array<float> by_slot(kNeurons * kNeurons), diagonal(kNeurons);
  const Array<int> flag(1);
  const Matrix<float> cost = columns_of(by_slot, kNeurons, kNeurons);
  placement_product<float>(kQueue, {parts, 2, kNeurons, group.points(), cost, nullptr, flag.get()});
  placement_product<float>(kQueue, {parts, 2, kNeurons, group.points(), {}, diagonal.get(), flag.get()});
  expect_costs("product", group, by_slot, diagonal);
  expect_near("flag", flag[0], 0, 1);
  group.incoming[3] = NAN;
  placement_product<float>(kQueue, {parts, 2, kNeurons, group.points(), cost, nullptr, flag.get()});
  expect_near("flag", flag[0], 1, 1);
}

void check_product_gradients(int which) {
  const Group group;
  const Array<float> g(kNeurons * kNeurons, -1, 1), result(kNeurons * kPeers);
  const Matrix<const float> grad = read_only(rows_of(g, kNeurons, kNeurons)), weight = group.weights[which];
  const Matrix<float> gradient = {result.get(), kNeurons, kPeers, weight.row_stride, weight.col_stride};
  const ProductPoints<float> peers = {group.peers.get(), kPeers, kDim, 0, {}};
  placement_weight_gradient<float>(kQueue, {{grad, group.slots.get(), 0.5, false}, peers, weight, gradient});
  const Array<double> slot_parts(peer_tiles(kPeers) * kNeurons * kDim),
      peer_parts(slot_tiles(kNeurons) * kPeers * kDim);
  placement_position_gradient<float>(
      kQueue, {grad, weight, 0.5, group.slots.get(), group.peers.get(), kDim, 0, slot_parts.get(), peer_parts.get()});
  const Array<float> by_slots(kNeurons * kDim), by_peers(kPeers * kDim);
  add_parts(kQueue, slot_parts.get(), peer_tiles(kPeers), kNeurons * kDim, by_slots.get());
  add_parts(kQueue, peer_parts.get(), slot_tiles(kNeurons), kPeers * kDim, by_peers.get());
  std::vector<double> slots(kNeurons * kDim), others(kPeers * kDim);
  for (int64_t k = 0; k < kPeers; ++k) {
    for (int64_t i = 0; i < kNeurons; ++i) {
      double sum = 0;
      for (int64_t p = 0; p < kNeurons; ++p) {
        sum += double(grad.at(i, p)) * group.distance(p, k);
        for (int a = 0; a < kDim; ++a) {
          const double slope = sign(double(group.slots[p * kDim + a]) - double(group.peers[k * kDim + a]));
          const double pull = 0.5 * double(grad.at(i, p)) * std::abs(double(weight.at(i, k)));
          slots[p * kDim + a] += pull * slope;
          others[k * kDim + a] -= pull * slope;
        }
      }
      expect_near("weight gradient", gradient.at(i, k), 0.5 * sign(weight.at(i, k)) * sum, kNeurons);
    }
  }
  for (size_t j = 0; j < slots.size(); ++j) expect_near("slot gradient", by_slots[j], slots[j], kPeers);
  for (size_t j = 0; j < others.size(); ++j) expect_near("peer gradient", by_peers[j], others[j], kPeers);
}

std::vector<int32_t> order_of(const std::vector<double>& x) {
  std::vector<int32_t> order(x.size());
  for (size_t k = 0; k < x.size(); ++k) order[k] = int32_t(k);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return x[a] < x[b]; });
  return order;
}

// The l1 walk of bimt_fast/kernels/walks.py.
void check_separable() {
  const Group group;
  const Segments segments = {64, 2};
  const Array<float> by_slot(kNeurons * kNeurons), diagonal(kNeurons);
  const Array<int> flag(1);
  for (int axis = 0; axis < kDim; ++axis) {
    std::vector<double> t(kNeurons), y(kPeers), u, sorted;
    for (int64_t p = 0; p < kNeurons; ++p) t[p] = double(group.slots[p * kDim + axis]) - 0.5;
    for (int64_t k = 0; k < kPeers; ++k) y[k] = double(group.peers[k * kDim + axis]) - 0.5;
    const auto slot_order = order_of(t), peer_order = order_of(y);
    for (const int32_t p : slot_order) u.push_back(t[p]);
    for (const int32_t k : peer_order) sorted.push_back(y[k]);
    std::vector<double> totals(3 * kNeurons);
    std::vector<int32_t> counts(kNeurons);
    for (int64_t p = 0; p < kNeurons; ++p) {
      totals[p] = -u[p];
      totals[kNeurons + p] = 1;
      counts[p] = int32_t(std::upper_bound(sorted.begin(), sorted.end(), u[p]) - sorted.begin());
    }
    const Array<double> borders[2] = {Array<double>(4 * 2 * kNeurons), Array<double>(4 * 2 * kNeurons)};
    WalkPart<float> parts[2];
    for (int k = 0; k < 2; ++k) {
      parts[k] = {group.weights[k], peer_order.data(), sorted.data(), group.coefficients[k],
                  borders[k].get(), kNeurons,          counts.data()};
      placement_moments(kQueue, parts[k], segments);
    }
    WalkArgs<float> args = {parts, 2, kNeurons, kNeurons, segments, slot_order.data(), u.data(), 2.0, totals.data()};
    args.adds = axis > 0;
    args.not_finite = flag.get();
    args.cost = columns_of(by_slot, kNeurons, kNeurons);
    placement_walk(kQueue, args);
    args.diagonal = diagonal.get();
    placement_walk(kQueue, args);
  }
  expect_costs("walk", group, by_slot, diagonal);
  expect_near("flag", flag[0], 0, 1);
}

float form(const Matrix<const float>& x, const std::vector<int64_t>& rows, const std::vector<int64_t>& cols, int64_t r,
           int64_t s) {
  return (x.at(rows[r], cols[s]) + x.at(rows[s], cols[r])) - (x.at(rows[r], cols[r]) + x.at(rows[s], cols[s]));
}

void check_swaps(int count) {
  const int64_t n = kNeurons;
  const Array<float> c(n * n, -1, 1), f(n * n, 0, 1), d(n * n, 0, 1), deltas(n * n), best(n);
  std::vector<int64_t> slot(n), itself(n), partner(n);
  for (int64_t i = 0; i < n; ++i) slot[i] = (i * 3 + 1) % n, itself[i] = partner[i] = i;
  const Ordered<float> ordered[3] = {{read_only(columns_of(c, n, n)), nullptr, slot.data()},
                                     {read_only(rows_of(f, n, n)), nullptr, nullptr},
                                     {read_only(rows_of(d, n, n)), slot.data(), slot.data()}};
  SwapArgs<float> args = {n, n, {}, count, nullptr};
  for (int k = 0; k < count; ++k) args.matrices[k] = {ordered[k], ordered[k], nullptr};
  const Array<int> flag(1);
  args.not_finite = flag.get();
  swap_deltas(kQueue, args, rows_of(deltas, n, n), false);
  const Array<uint64_t> workspace(swap_parts(n, n) * n);
  best_swaps<float>(kQueue, {args, 0, nullptr, workspace.get(), best.get(), partner.data()});
  const Array<double> sums(swap_parts(n, n) * n);
  const Array<float> gradient(n * n);
  const Ordered<float> other = count == 1 ? Ordered<float>{} : ordered[2];
  swap_gradient<float>(kQueue,
                       {read_only(rows_of(f, n, n)), other, sums.get(), rows_of(gradient, n, n), nullptr, slot.data()});
  for (int64_t r = 0; r < n; ++r) {
    double lowest = 0, sum = 0;
    for (int64_t s = 0; s < n; ++s) {
      double delta = form(ordered[0].matrix, itself, slot, r, s);
      const double distance = form(ordered[2].matrix, slot, slot, r, s);
      if (count == 3) delta += form(ordered[1].matrix, itself, itself, r, s) * distance;
      lowest = std::min(lowest, double(deltas[r * n + s]));
      expect_near("delta", deltas[r * n + s], delta, 4);
      const double pull = double(f[r * n + s] + f[s * n + r]) * (count == 3 ? distance : 1.0);
      if (r != s) expect_near("swap gradient", gradient[r * n + slot[s]], pull, 4);
      sum += r != s ? pull : 0;
    }
    expect_near("swap gradient", gradient[r * n + slot[r]], -sum, double(n));
    if (double(best[r]) != lowest || deltas[r * n + partner[r]] != best[r])
      expect_near("best swap", best[r], lowest, 0);
  }
  expect_near("flag", flag[0], 0, 1);
}

}  // namespace

void check_placement() {
  check_products();
  check_product_gradients(0);
  check_product_gradients(1);
  check_separable();
}

void check_swap_search() {
  check_swaps(1);
  check_swaps(3);
}

}  // namespace driver

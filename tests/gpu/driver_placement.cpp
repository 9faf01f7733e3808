// Placement costs as a product and as walks over sorted peers, and their gradients, against plain loops.

#include <algorithm>

#include "driver.h"

namespace driver {
namespace {

using bimt::Matrix;

constexpr int64_t kN = 70, kM = 150;
constexpr int kDim = 2;

struct Group {
  Array<float> incoming{kN * kM, -1, 1}, outgoing{kM * kN, -1, 1}, slots{kN * kDim, 0, 1}, peers{kM * kDim, 0, 1};

  double distance(int64_t slot, int64_t peer, int dims) const {
    double sum = 0;
    for (int a = 0; a < dims; ++a) sum += std::abs(double(slots[slot * kDim + a]) - peers[peer * kDim + a]);
    return sum;
  }

  double cost(int64_t neuron, int64_t slot, int dims) const {
    double sum = 0;
    for (int64_t k = 0; k < kM; ++k) {
      const double weight = 0.7 * std::abs(incoming[neuron * kM + k]) + std::abs(outgoing[k * kN + neuron]);
      sum += weight * distance(slot, k, dims);
    }
    return sum;
  }

  Matrix<const float> in() const { return {incoming.get(), kN, kM, kM, 1}; }
  Matrix<const float> out() const { return {outgoing.get(), kN, kM, 1, kN}; }
};

void expect_costs(const char* what, const Group& group, const Array<float>& by_slot, int dims) {
  for (int64_t i = 0; i < kN; ++i) {
    for (int64_t p = 0; p < kN; ++p) expect_near(what, by_slot[p * kN + i], group.cost(i, p, dims), double(kM));
  }
}

void check_product(const Group& group) {
  const bimt::gpu::ProductPart<float> parts[] = {{group.in(), group.peers.get(), 0.7, false},
                                                 {group.out(), group.peers.get(), 1.0, true}};
  const Array<float> by_slot(kN * kN);
  int not_finite = 0;
  bimt::gpu::placement_product<float>(
      kQueue, {parts, 2, kN, {group.slots.get(), kN, kDim, 0, {}}, columns_of(by_slot, kN, kN), nullptr, &not_finite});
  expect_costs("cost by product", group, by_slot, kDim);
}

// One axis, l1.
void check_walk(const Group& group) {
  Array<int32_t> slot_order(kN), peer_order(kM), counts(kN);
  Array<double> u(kN), y(kM), totals(3 * kN);
  const auto sorted = [](const Array<float>& points, Array<int32_t>& order, Array<double>& values) {
    for (int64_t i = 0; i < order.size(); ++i) order[i] = int32_t(i);
    std::sort(order.get(), order.get() + order.size(),
              [&](int a, int b) { return points[a * kDim] < points[b * kDim]; });
    for (int64_t i = 0; i < order.size(); ++i) values[i] = points[int64_t(order[i]) * kDim];
  };
  sorted(group.slots, slot_order, u);
  sorted(group.peers, peer_order, y);
  for (int64_t p = 0; p < kN; ++p) {
    counts[p] = int32_t(std::upper_bound(y.get(), y.get() + kM, u[p]) - y.get());
    totals[p] = -u[p];
    totals[kN + p] = 1;
    totals[2 * kN + p] = 0;
  }
  const bimt::gpu::Segments segments = {64, 2};
  const int64_t borders = (kM + 63) / 64 + 1, pitch = (kN + 31) / 32 * 32;
  const Array<double> of_in(borders * 2 * pitch), of_out(borders * 2 * pitch);
  const bimt::gpu::WalkPart<float> parts[] = {
      {group.in(), peer_order.get(), y.get(), 0.7, of_in.get(), pitch, counts.get()},
      {group.out(), peer_order.get(), y.get(), 1.0, of_out.get(), pitch, counts.get()}};
  for (const auto& part : parts) bimt::gpu::placement_moments<float>(kQueue, part, segments);
  const Array<float> by_slot(kN * kN);
  int not_finite = 0;
  bimt::gpu::placement_walk<float>(kQueue, {parts, 2, kN, kN, segments, slot_order.get(), u.get(), 2.0, totals.get(),
                                            false, columns_of(by_slot, kN, kN), nullptr, &not_finite});
  expect_costs("cost by walk", group, by_slot, 1);
}

double sign(double x) { return (x > 0) - (x < 0); }

void check_gradients(const Group& group) {
  const Array<float> grad(kN * kN, -1, 1), by_weight(kN * kM);
  const bimt::gpu::ProductPart<float> part = {{grad.get(), kN, kN, kN, 1}, group.slots.get(), 0.7, true};
  bimt::gpu::placement_weight_gradient<float>(
      kQueue, {part, {group.peers.get(), kM, kDim, 0, {}}, group.in(), rows_of(by_weight, kN, kM)});
  for (int64_t i = 0; i < kN; ++i) {
    for (int64_t k = 0; k < kM; ++k) {
      double sum = 0;
      for (int64_t p = 0; p < kN; ++p) sum += double(grad[i * kN + p]) * group.distance(p, k, kDim);
      expect_near("weight gradient", by_weight[i * kM + k], 0.7 * sign(group.incoming[i * kM + k]) * sum, double(kN));
    }
  }
  const int64_t peer_tiles = bimt::gpu::peer_tiles(kM), slot_tiles = bimt::gpu::slot_tiles(kN);
  const Array<double> slot_parts(peer_tiles * kN * kDim), peer_parts(slot_tiles * kM * kDim);
  bimt::gpu::placement_position_gradient<float>(kQueue, {{grad.get(), kN, kN, kN, 1},
                                                         group.in(),
                                                         0.7,
                                                         group.slots.get(),
                                                         group.peers.get(),
                                                         kDim,
                                                         0,
                                                         slot_parts.get(),
                                                         peer_parts.get()});
  const Array<float> by_slots(kN * kDim);
  bimt::gpu::add_parts<float>(kQueue, slot_parts.get(), peer_tiles, kN * kDim, by_slots.get());
  for (int64_t p = 0; p < kN; ++p) {
    for (int a = 0; a < kDim; ++a) {
      double sum = 0;
      for (int64_t k = 0; k < kM; ++k) {
        double of_pair = 0;
        for (int64_t i = 0; i < kN; ++i) of_pair += double(grad[i * kN + p]) * std::abs(group.incoming[i * kM + k]);
        sum += 0.7 * of_pair * sign(group.slots[p * kDim + a] - group.peers[k * kDim + a]);
      }
      expect_near("slot gradient", by_slots[p * kDim + a], sum, double(kN * kM));
    }
  }
}

}  // namespace

void check_placement() {
  const Group group;
  check_product(group);
  check_walk(group);
  check_gradients(group);
}

}  // namespace driver

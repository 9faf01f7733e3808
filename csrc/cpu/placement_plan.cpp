#include "cpu/placement_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

namespace bimt {
namespace {

// As many weights as one knot may gather in the weights' own precision.
constexpr int64_t kFewPeers = 8;

struct Coordinate {
  double value;
  int32_t index;
};

template <class T>
bool append_column(const Matrix<const T>& positions, int64_t k, bool circle, std::vector<T>* to) {
  bool finite = true;
  for (int64_t i = 0; i < positions.rows; ++i) {
    const T value = positions.at(i, k);
    finite &= std::isfinite(value);
    const T turned = circle ? value - std::floor(value) : value;
    to->push_back(circle && turned >= 1 ? 0 : turned + 0);  // -0 becomes 0
  }
  return finite;
}

std::vector<Coordinate> sorted(const std::vector<double>& values) {
  std::vector<Coordinate> result;
  result.reserve(values.size());
  for (double value : values) result.push_back({value, static_cast<int32_t>(result.size())});
  std::sort(result.begin(), result.end(), [](const Coordinate& a, const Coordinate& b) {
    return a.value < b.value || (a.value == b.value && a.index < b.index);
  });
  return result;
}

// Bits that order as the numbers do, and back.
uint32_t ordered_bits(float value) {
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  return bits >> 31 ? ~bits : bits | 0x80000000u;
}

float from_ordered_bits(uint32_t bits) {
  bits = bits >> 31 ? bits & 0x7fffffffu : ~bits;
  float value;
  std::memcpy(&value, &bits, sizeof(value));
  return value;
}

// Radix sort: for a layer of thousands, std::sort would take a good part of the time of the placement itself.
std::vector<Coordinate> sorted(const std::vector<float>& values) {
  constexpr int kDigitBits = 11, kDigits = 3, kBuckets = 1 << kDigitBits;
  std::vector<uint64_t> keys(values.size()), moved(values.size());
  std::array<std::array<uint32_t, kBuckets>, kDigits> begin = {};
  const auto digit = [](uint64_t key, int d) { return key >> (32 + d * kDigitBits) & (kBuckets - 1); };
  for (size_t i = 0; i < values.size(); ++i) {
    keys[i] = uint64_t(ordered_bits(values[i])) << 32 | i;
    for (int d = 0; d < kDigits; ++d) ++begin[d][digit(keys[i], d)];
  }
  for (int d = 0; d < kDigits; ++d) {
    uint32_t next = 0;
    for (uint32_t& bucket : begin[d]) next += std::exchange(bucket, next);
    for (uint64_t key : keys) moved[begin[d][digit(key, d)]++] = key;
    keys.swap(moved);
  }
  std::vector<Coordinate> result;
  result.reserve(values.size());
  for (uint64_t key : keys) result.push_back({from_ordered_bits(key >> 32), static_cast<int32_t>(key)});
  return result;
}

// Sorted coordinates become distinct values less the origin, and the rank of each; returns the largest tie.
int64_t merge(const std::vector<Coordinate>& sorted, double origin, std::vector<double>* values,
              std::vector<int32_t>* rank) {
  rank->resize(sorted.size());
  values->reserve(sorted.size());
  int64_t most = 0, tie = 0;
  for (size_t i = 0; i < sorted.size(); ++i) {
    if (i == 0 || sorted[i].value != sorted[i - 1].value) {
      values->push_back(sorted[i].value - origin);
      tie = 0;
    }
    most = std::max(most, ++tie);
    (*rank)[sorted[i].index] = static_cast<int32_t>(values->size()) - 1;
  }
  return most;
}

// The middle of the range keeps the moments small, which is where precision would be lost.
double middle(const std::vector<Coordinate>& a, const std::vector<Coordinate>& b) {
  if (a.empty() || b.empty()) return 0;
  const double low = std::min(a.front().value, b.front().value), high = std::max(a.back().value, b.back().value);
  return low / 2 + high / 2;
}

}  // namespace

template <class T>
PlacementPlan plan_placement(const Matrix<const T>& slots, const std::vector<Matrix<const T>>& peers, int metric) {
  PlacementPlan plan;
  const bool circle = metric == int(MetricCode::kTorusL1);
  plan.axes.resize(slots.cols);
  std::vector<Coordinate> places;
  for (int64_t k = 0; k < slots.cols; ++k) {
    std::vector<T> slot_values, peer_values;
    if (!append_column(slots, k, circle, &slot_values)) plan.status = Status::kOutPos;
    for (const Matrix<const T>& positions : peers) {
      if (!append_column(positions, k, circle, &peer_values)) plan.status = Status::kInPos;
    }
    if (plan.status != Status::kOk) return plan;
    places = sorted(slot_values);
    const std::vector<Coordinate> knots = sorted(peer_values);
    PlacementPlan::Axis& axis = plan.axes[k];
    const double origin = circle ? 0 : middle(places, knots);
    merge(places, origin, &axis.places, &axis.place_of_slot);
    plan.crowded |= merge(knots, origin, &axis.knots, &axis.knot_of_peer) > kFewPeers;
    plan.views.push_back({axis.knots.data(), static_cast<int64_t>(axis.knots.size()), axis.knot_of_peer.data(),
                          axis.places.data(), static_cast<int64_t>(axis.places.size()), axis.place_of_slot.data()});
  }
  for (const Coordinate& place : places) plan.slot_order.push_back(place.index);
  return plan;
}

template PlacementPlan plan_placement(const Matrix<const float>&, const std::vector<Matrix<const float>>&, int);
template PlacementPlan plan_placement(const Matrix<const double>&, const std::vector<Matrix<const double>>&, int);

}  // namespace bimt

// Placement costs along one axis from sums by knot, for metrics whose cost is no running sum of one pass.
#pragma once

#include "cpu/neuron_block.h"

namespace bimt {
namespace {

// False when a weight was not finite.
BIMT_INLINE bool finite_sums(const Wide* weight) {
  Wide poison = {};
  for (int i = 0; i < kSums; ++i) poison += weight[i] - weight[i];
  double sum = 0;
  for (int i = 0; i < kWide; ++i) sum += poison[i];
  return sum == 0;
}

template <class T, class Sum, class Emit>
bool scan_moments(const PlacementAxis& axis, const Sum* sums, const double* places, int64_t count, Emit emit) {
  Wide weight[kSums] = {}, moment[kSums] = {}, square[kSums] = {}, here[kSums];
  for (int64_t l = 0; l < axis.knot_count; ++l) {
    widen(sums + l * kNeurons, here);
    const double knot = axis.knots[l];
    BIMT_UNROLL
    for (int i = 0; i < kSums; ++i) {
      weight[i] += here[i];
      moment[i] += here[i] * knot;
      square[i] += here[i] * (knot * knot);
    }
  }
  for (int64_t place = 0; place < count; ++place) {
    const double t = places[place];
    BIMT_UNROLL
    for (int i = 0; i < kSums; ++i) here[i] = (weight[i] * t - (moment[i] + moment[i])) * t + square[i];
    Full<T> value[kRows<T>];
    narrow(here, value);
    emit(place, value);
  }
  return finite_sums(weight);
}

// f(t) = weight t - moment between breaks. Knots and places lie in [0, 1).
template <class T, class Sum, class Emit>
bool scan_circle(const PlacementAxis& axis, const Sum* sums, const double* places, int64_t count, Emit emit) {
  Wide weight[kSums] = {}, moment[kSums] = {}, here[kSums];
  const int64_t knots = axis.knot_count;
  int64_t far = 0;  // the first knot whose opposite, half a turn away, lies before it
  for (int64_t l = 0; l < knots; ++l) {
    const double knot = axis.knots[l];
    far += knot < 0.5;
    widen(sums + l * kNeurons, here);
    const double slope = knot < 0.5 ? -1.0 : 1.0, start = knot < 0.5 ? knot : 1 - knot;
    BIMT_UNROLL
    for (int i = 0; i < kSums; ++i) {
      weight[i] += here[i] * slope;
      moment[i] -= here[i] * start;
    }
  }
  const bool all_finite = finite_sums(weight);
  const auto bend = [&](int64_t l, double at, double change) {
    widen(sums + l * kNeurons, here);
    BIMT_UNROLL
    for (int i = 0; i < kSums; ++i) {
      weight[i] += here[i] * change;
      moment[i] += here[i] * (change * at);
    }
  };
  const auto opposite = [&](int64_t turned) {
    return turned < knots - far ? axis.knots[far + turned] - 0.5 : axis.knots[turned - (knots - far)] + 0.5;
  };
  int64_t l = 0, turned = 0;
  for (int64_t place = 0; place < count; ++place) {
    const double t = places[place];
    for (;;) {  // in the order of the breaks, whatever the places: the same bits wherever they are looked at
      const double near = l < knots ? axis.knots[l] : 2, across = turned < knots ? opposite(turned) : 2;
      if (near > t && across > t) break;
      if (near <= across) {
        bend(l++, near, 2.0);
      } else {
        bend(turned < knots - far ? far + turned : turned - (knots - far), across, -2.0);
        ++turned;
      }
    }
    BIMT_UNROLL
    for (int i = 0; i < kSums; ++i) here[i] = weight[i] * t - moment[i];
    Full<T> value[kRows<T>];
    narrow(here, value);
    emit(place, value);
  }
  return all_finite;
}

}  // namespace
}  // namespace bimt

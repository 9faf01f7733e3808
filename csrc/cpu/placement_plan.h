// The part of a placement that does not touch the weights: coordinates sorted, ties merged.
#pragma once

#include <cstdint>
#include <vector>

#include "cpu/kernels.h"

namespace bimt {

struct PlacementPlan {
  struct Axis {
    std::vector<double> knots, places;
    std::vector<int32_t> knot_of_peer, place_of_slot;
  };

  std::vector<Axis> axes;
  std::vector<PlacementAxis> views;  // of the axes, as the kernel takes them
  std::vector<int32_t> slot_order;
  bool crowded = false;
  Status status = Status::kOk;  // kOutPos: the slots, kInPos: some peers
};

template <class T>
PlacementPlan plan_placement(const Matrix<const T>& slots, const std::vector<Matrix<const T>>& peers, int metric);

}  // namespace bimt

// BIMT's own search: slot after slot, the neuron there takes its best swap. Too little work for threads or wide
// vectors.
#pragma once

#include <cstdint>

#include "kernels.h"

namespace bimt {

// Visits the given slots of the n x n placement cost in order: the neuron there trades places with the one whose swap
// lowers the cost most, the first in order of slots on ties, or stays.
// neuron_in (n,), who sits in each slot, is changed. Returns the number of swaps. by_slot holds the same as cost, or is
// it: a row of cost and a column of by_slot are read at each visit.
template <class T>
int64_t greedy_swaps(const Matrix<const T>& cost, const Matrix<const T>& by_slot, int64_t* neuron_in,
                     const int64_t* slots, int64_t count);

}  // namespace bimt

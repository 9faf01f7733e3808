// The CPU kernels. Each is compiled once per instruction set: kernel<avx2, float>(args) and so on.
//
// Strides count elements. Kernels compute in T; sums that grow with the size of a layer are kept in double, and
// nothing depends on the number of threads.
#pragma once

#include <cstdint>

namespace bimt {

struct baseline {};
struct avx2 {};
struct avx512 {};

template <class T>
struct Matrix {
  T* data;
  int64_t rows, cols;
  int64_t row_stride, col_stride;

  T& at(int64_t row, int64_t col) const { return data[row * row_stride + col * col_stride]; }
  Matrix transposed() const { return {data, cols, rows, col_stride, row_stride}; }
};

// Which argument held NaN or infinity where that is refused.
enum class Status { kOk, kOutPos, kInPos, kWeights, kCost, kFlow, kDistance };

// One tensor in the penalty coefficient * sum |weight| * (base_length + distance_scale * d(out_pos, in_pos)).
template <class T>
struct PenaltyTerm {
  Matrix<const T> weight;
  Matrix<T> grad;  // null where only the cost is wanted
  Matrix<const T> out_pos, in_pos;
  double coefficient, distance_scale, base_length;
};

template <class T>
struct PenaltyArgs {
  const PenaltyTerm<T>* terms;
  int64_t count;
  int metric;
  double lam;
  int threads;
};

struct Penalty {
  Status status;
  double cost;
};

// grad += lam * d cost / d weight for every term, and the cost of all. Nothing is written unless the status is kOk.
template <class Isa, class T>
Penalty penalty(const PenaltyArgs<T>& args);

template <class T>
struct PenaltyBackwardArgs {
  PenaltyTerm<T> term;  // its grad, written rather than added to, may be null
  T* out_pos_grad;      // (rows, dim) contiguous, or null
  T* in_pos_grad;       // (cols, dim) contiguous, or null
  double grad;
  int metric;
  int threads;
};

template <class Isa, class T>
Status penalty_backward(const PenaltyBackwardArgs<T>& args);

// The neurons that are to be placed along one axis of a weight, their peers along the other.
template <class T>
struct PlacementPart {
  const T* weight;
  int64_t peers;
  int64_t neuron_stride, peer_stride;
  double coefficient;
};

// One coordinate: the peers' distinct values (knots) and the slots' (places), sorted, about a common origin.
struct PlacementAxis {
  const double* knots;
  int64_t knot_count;
  const int32_t* knot_of_peer;  // the parts' peers one after another
  const double* places;
  int64_t place_count;
  const int32_t* place_of_slot;
};

template <class T>
struct PlacementArgs {
  int64_t n;
  const PlacementPart<T>* parts;
  int64_t part_count;
  const PlacementAxis* axes;
  int64_t dim;
  const int32_t* slot_order;  // slots by their place on the last axis
  bool crowded;               // many peers share a knot: sum them in double
  T* cost;                    // (slots, neurons) contiguous
  int threads;
};

// Placement cost for the L1 metric, slots as rows.
template <class Isa, class T>
Status placement_cost(const PlacementArgs<T>& args);

template <class T>
struct SwapArgs {
  Matrix<const T> cost;
  const int64_t* assignment;  // null: neuron i sits in slot i
  Matrix<const T> flow;       // null data: none
  Matrix<const T> distance;
  int threads;
};

// deltas: (n, n) contiguous.
template <class Isa, class T>
Status swap_deltas(const SwapArgs<T>& args, T* deltas);

template <class Isa, class T>
Status best_swaps(const SwapArgs<T>& args, T* delta, int64_t* partner);

template <class T>
struct PlacementSwapArgs {
  PlacementArgs<T> placement;  // its cost is not used; neuron i sits in slot i
  int64_t memory;              // bytes that the largest buffers may take together
  int64_t top_k;
};

// The best swaps on a placement cost that is never there as a whole. delta, partner: (n,); or where they are null,
// top_delta (top_k,) and top_pairs (top_k, 2), padded with zeros where fewer pairs improve.
template <class Isa, class T>
Status placement_swaps(const PlacementSwapArgs<T>& args, T* delta, int64_t* partner, T* top_delta, int64_t* top_pairs);

}  // namespace bimt

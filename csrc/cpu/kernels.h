// The CPU kernels. Each is compiled once per instruction set: kernel<avx2, float>(args) and so on.
//
// Strides count elements. Kernels compute in T; sums that grow with the size of a layer are kept in double, and
// nothing depends on the number of threads.
#pragma once

#include <cstdint>

#include "matrix.h"
#include "metric.h"
#include "scalar.h"

namespace bimt {

struct baseline {};
struct avx2 {};
struct avx512 {};

// Which argument held NaN or infinity where that is refused; which positions were outside the unit ball where the
// metric has no other points, or no rows of the table.
enum class Status { kOk, kOutPos, kInPos, kWeights, kCost, kFlow, kDistance, kOutBall, kInBall, kOutIndex, kInIndex };

// One tensor in the penalty coefficient * sum |weight| * (base_length + distance_scale * d(out_pos, in_pos)).
template <class S>
struct PenaltyTerm {
  Matrix<const S> weight;
  Matrix<S> grad;                            // null where only the cost is wanted
  Matrix<const Compute<S>> out_pos, in_pos;  // (rows, dim) and (cols, dim); for a table the indices, as one coordinate
  double coefficient, distance_scale, base_length;
};

template <class S>
struct PenaltyArgs {
  const PenaltyTerm<S>* terms;
  int64_t count;
  int metric;
  Matrix<const Compute<S>> table;  // of kTable: d(out, in) at [out index, in index]
  double lam;
  int threads;
};

struct Penalty {
  Status status;
  double cost;
};

// grad += lam * d cost / d weight for every term, and the cost of all. Nothing is written unless the status is kOk.
template <class Isa, class S>
Penalty penalty(const PenaltyArgs<S>& args);

// What AdamW keeps of one tensor, with the strides of the tensor.
template <class S>
struct Moments {
  S *exp_avg, *exp_avg_sq;
  float* step;  // how many were taken; counted up behind this one
};

// A term's weight is changed and its grad is read. Along one axis both must be contiguous, with the same strides.
template <class S>
struct AdamWArgs {
  const PenaltyTerm<S>* terms;
  const Moments<S>* moments;
  int64_t count;
  int metric;
  Matrix<const Compute<S>> table;
  double lr, beta1, beta2, eps, weight_decay, lam;
  bool proximal;
  int threads;
};

// One step for every term, with the penalty in the gradient or as a shrinkage behind the step; returns the cost before
// it. Nothing is written unless the status is kOk.
template <class Isa, class S>
Penalty adamw(const AdamWArgs<S>& args);

template <class S>
struct PenaltyBackwardArgs {
  PenaltyTerm<S> term;       // its grad, written rather than added to, may be null
  Compute<S>* out_pos_grad;  // (rows, dim) contiguous, or null
  Compute<S>* in_pos_grad;   // (cols, dim) contiguous, or null
  double grad;
  int metric;
  Matrix<const Compute<S>> table;
  int threads;
};

template <class Isa, class S>
Status penalty_backward(const PenaltyBackwardArgs<S>& args);

// The neurons that are to be placed along one axis of a weight, their peers along the other.
template <class S>
struct PlacementPart {
  const S* weight;
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

template <class S>
struct PlacementArgs {
  int64_t n;
  const PlacementPart<S>* parts;
  int64_t part_count;
  const PlacementAxis* axes;
  int64_t dim;
  const int32_t* slot_order;  // slots by their place on the last axis
  bool crowded;               // many peers share a knot: sum them in double
  int metric;                 // a separable one
  Compute<S>* cost;           // (slots, neurons) contiguous
  int threads;
  const int32_t* neuron_order;  // placement_swaps only: where the weights of every neuron are; null: at its own index
};

// Metrics whose distance is a sum over coordinates of piecewise linear or quadratic functions.
constexpr bool is_separable(int metric) {
  return metric == int(MetricCode::kL1) || metric == int(MetricCode::kTorusL1) || metric == int(MetricCode::kSql2);
}

// Placement cost for separable metrics, slots as rows.
template <class Isa, class S>
Status placement_cost(const PlacementArgs<S>& args);

template <class S>
struct PlacementProductArgs {
  Matrix<const Compute<S>> slots;
  const PlacementPart<S>* parts;
  const Matrix<const Compute<S>>* peers;  // positions, one matrix a part
  int64_t part_count;
  int64_t incoming;  // parts in which the slots are rows of the table, peers its columns; in the others vice versa
  int metric;
  Matrix<const Compute<S>> table;
  Compute<S>* cost;  // (slots, neurons) contiguous
  int threads;
};

// Placement cost for any metric: a matrix product in tiles, whose distances are made on the fly.
template <class Isa, class S>
Status placement_product(const PlacementProductArgs<S>& args);

template <class S>
struct PlacementBackwardArgs {
  Matrix<const Compute<S>> grad;  // (neurons, slots)
  Matrix<const Compute<S>> slots;
  const PlacementPart<S>* parts;
  const Matrix<const Compute<S>>* peers;
  int64_t part_count;
  int64_t incoming;  // as in PlacementProductArgs
  int metric;
  Matrix<const Compute<S>> table;
  const PlacementAxis* axes;       // of a separable metric, one a coordinate
  const Matrix<S>* weight_grads;   // neurons as rows, one matrix a part
  Compute<S>* slots_grad;          // (n, dim) contiguous; left alone for a table, as the next
  Compute<S>* const* peers_grads;  // (peers, dim) contiguous, one a part
  int threads;
};

// Gradients of the placement cost for all it depends on: for separable metrics, and for any metric.
template <class Isa, class S>
Status placement_backward(const PlacementBackwardArgs<S>& args);
template <class Isa, class S>
Status placement_product_backward(const PlacementBackwardArgs<S>& args);

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

template <class T>
struct SwapBackwardArgs {
  SwapArgs<T> swap;  // its cost is not read
  Matrix<const T> grad;
  T *cost_grad, *flow_grad, *distance_grad;  // (n, n) contiguous; the last two only where there is a flow
};

template <class Isa, class T>
Status swap_deltas_backward(const SwapBackwardArgs<T>& args);

template <class Isa, class T>
Status best_swaps(const SwapArgs<T>& args, T* delta, int64_t* partner);

template <class S>
struct PlacementSwapArgs {
  PlacementArgs<S> placement;  // its cost is not used; neuron i sits in slot i
  int64_t memory;              // bytes that the largest buffers may take together
};

template <class S>
struct PlacementProductSwapArgs {
  PlacementProductArgs<S> placement;  // likewise
  int64_t memory;
};

// Where the best swaps go: delta and partner of every neuron, (n,) and (n,); or the best pairs, (top_k,) and
// (top_k, 2), padded with zeros where fewer improve.
template <class T>
struct SwapTargets {
  T* delta;
  int64_t* neurons;
  int64_t top_k;  // -1: of every neuron
};

// The best swaps on a placement cost that is never there as a whole, for separable metrics and for any metric.
template <class Isa, class S>
Status placement_swaps(const PlacementSwapArgs<S>& args, const SwapTargets<Compute<S>>& to);
template <class Isa, class S>
Status placement_product_swaps(const PlacementProductSwapArgs<S>& args, const SwapTargets<Compute<S>>& to);

// minimise sum linear[i, a[i]] + sum over pairs i < j of flow[i, j] * distance[a[i], a[j]], and without symmetry also
// of flow[j, i] * distance[a[j], a[i]]. Rows of flow have quadratic_stride(n) entries, the rest are contiguous; the
// diagonals of flow and distance are 0.
template <class T>
struct QuadraticArgs {
  int64_t n;
  const T *flow, *flow_t;  // and transposed, where not symmetric
  const T* distance;
  const T* linear;  // or null
  bool symmetric;
  int64_t walks;
  int64_t* assignments;   // (walks, n): where each starts, and then the best that it found
  const uint64_t* seeds;  // (walks,)
  double* costs;          // (walks,): the total of the best; left alone until that of the start is known
  int64_t* done;          // (walks,): iterations
  const int64_t* limits;  // (walks,): iterations, at most
  bool tabu;              // else it ends where no swap improves
  double least;           // what an improvement must exceed, against rounding
  // The first walk that nobody has taken up, and kQuadraticHeader bytes on, slots * quadratic_memory(n, sizeof(T))
  // bytes of walks under way; each slot begins with the number of its walk, -1 where there is none.
  char* memory;
  int64_t slots;
  double seconds;  // after which walks under way are left for another call
  int threads;
};

constexpr int64_t kQuadraticHeader = 64;

constexpr int64_t quadratic_stride(int64_t n) { return (n + 15) / 16 * 16; }

constexpr int64_t quadratic_memory(int64_t n, int64_t size) {
  const int64_t square = n * quadratic_stride(n);
  return kQuadraticHeader + 4 * square * size + 4 * square + 16 * (quadratic_stride(n) + 32) * size;
}

template <class Isa, class T>
void quadratic_walks(const QuadraticArgs<T>& args);

// Figures of modularity of labelled neurons, as the labels are and permuted.
struct LabelArgs {
  int64_t n, clusters, degree, dim;
  const int32_t* labels;      // (n,), from 0 to clusters - 1
  const int32_t* neighbours;  // (n, degree), -1 for none
  const double* positions;    // (n, dim)
  int64_t permutations;
  uint64_t seed;
  double* nulls;  // (1 + permutations, 3)
  int threads;
};

template <class Isa>
void label_nulls(const LabelArgs& args);

// What assignment.h does with one row of an n x n cost matrix; a price of minus infinity closes its column. The lowest
// index wins on ties, and -1 stands for none.
template <class T>
struct RowScans {
  // The largest magnitude, infinite where an entry is not finite.
  double (*magnitude)(const T* row, int64_t n);
  // The smallest row[j] - price[j], and where it is.
  double (*lowest)(const T* row, const double* price, int64_t n, int64_t* at);
  // Where row[j] - price[j] + offset is below distance[j] it replaces it, and `row_index` goes to before[j]. Returns
  // where distance is smallest then.
  int64_t (*relax)(const T* row, const double* price, int64_t n, int64_t row_index, double offset, double* distance,
                   int64_t* before);
  int64_t (*nearest)(const double* distance, int64_t n);
  // The first j >= from with row[j] - price[j] <= limit, or n.
  int64_t (*within)(const T* row, const double* price, int64_t from, int64_t n, double limit);
};

template <class Isa, class T>
RowScans<T> row_scans();

}  // namespace bimt

// The CUDA kernels' launchers. They allocate nothing, never wait for the device, and so can be captured in a graph.
//
// All pointers are to memory of the queue's device. Kernels compute in Compute<S>; sums that grow with the size of a
// layer are kept in double and added in a fixed order. Values are checked by the caller: positions and what must be
// finite.
#pragma once

#include <cstdint>

#include "cuda/queue.h"
#include "matrix.h"
#include "metric.h"
#include "scalar.h"

namespace bimt {
namespace gpu {

// One tensor in the penalty coefficient * sum |weight| * (base_length + distance_scale * d(out_pos, in_pos)).
template <class S>
struct Term {
  Matrix<S> weight;                   // adamw changes it
  Matrix<S> grad;                     // null where only the cost is wanted
  const Compute<S>*out_pos, *in_pos;  // (rows, dim) and (cols, dim) contiguous, for a table indices; null: distance 0
  int dim;
  double coefficient, distance_scale, base_length;
};

template <class S>
struct PenaltyArgs {
  const Term<S>* terms;  // on the host, as all args; what they point at is on the device
  int64_t count;
  int metric;
  Matrix<const Compute<S>> table;
  double lam;
  const Compute<S>* factor;  // null, or a number on the device: the gradient is then lam * factor * ..., not added to
  double* partial;           // (penalty_blocks,)
  Compute<S>* cost;          // one number
};

// How many blocks, and so partial sums, the terms make.
template <class S>
int64_t penalty_blocks(const Term<S>* terms, int64_t count);

// grad += lam * d cost / d weight for every term, and the cost of all.
template <class S>
void penalty(const Queue& queue, const PenaltyArgs<S>& args);

template <class S>
struct Moments {
  S *exp_avg, *exp_avg_sq;  // with the strides of the weight
  float* step;              // how many were taken; counted up
};

template <class S>
struct AdamWArgs {
  const Term<S>* terms;  // the strides of grad are those of weight
  const Moments<S>* moments;
  int64_t count;
  int metric;
  Matrix<const Compute<S>> table;
  double lr, beta1, beta2, eps, weight_decay, lam;
  bool proximal;
  double* partial;
  Compute<S>* cost;
};

// One step for every term, with the penalty in the gradient or as a shrinkage behind the step; the cost is that before.
template <class S>
void adamw(const Queue& queue, const AdamWArgs<S>& args);

template <class S>
struct PositionGradientArgs {
  Matrix<const S> weight;  // neurons as rows
  const Compute<S>*positions, *peers;
  int dim;
  int metric;  // not a table
  double distance_scale;
  const Compute<S>* factor;  // one number
  Compute<S>* gradient;      // (rows, dim)
};

// factor * distance_scale * sum over peers of |weight| * d distance / d position, for every neuron.
template <class S>
void position_gradient(const Queue& queue, const PositionGradientArgs<S>& args);

// A matrix read at [row_order[i], col_order[j]]; without an order at [i, j].
template <class T>
struct Ordered {
  Matrix<const T> matrix;
  const int64_t *row_order, *col_order;

  BIMT_HD const T& at(int64_t i, int64_t j) const {
    return matrix.at(row_order ? row_order[i] : i, col_order ? col_order[j] : j);
  }
};

// X[i, j] in `forward` and X[j, i] in `backward`, for rows i and columns j that begin with the same neuron.
template <class T>
struct Both {
  Ordered<T> forward, backward;
  const T* diagonal;  // X[j, j] for every column; null: read in `forward`

  BIMT_HD T at_home(int64_t j) const { return diagonal ? diagonal[j] : forward.at(j, j); }
};

template <class T>
struct SwapArgs {
  int64_t rows, cols;   // cols >= rows; equal where all neurons are searched at once
  Both<T> matrices[3];  // cost, flow and distance
  int count;            // 1 in groups that are not recurrent, else 3
  int* not_finite;      // set to 1 where a delta is NaN or infinite
};

// All deltas, for rows == cols; or of pairs only deltas[i, j] where j > i, and nothing else is written.
template <class T>
void swap_deltas(const Queue& queue, const SwapArgs<T>& args, const Matrix<T>& deltas, bool pairs);

// How many numbers for each column best_swaps and swap_gradient keep in their workspace.
int64_t swap_parts(int64_t rows, int64_t cols);

template <class T>
struct BestSwapArgs {
  SwapArgs<T> swaps;
  int64_t first;          // the neuron that row 0 and column 0 are
  const int64_t* neuron;  // or the neurons that they all are; null: first, first + 1, ...
  uint64_t* workspace;    // (swap_parts, cols) of 8 bytes for float, 16 for double
  T* delta;               // by neuron: the best so far, 0 where there is none, which is then kept or improved upon
  int64_t* partner;       // by neuron, itself where delta is 0; the lowest index of equally good ones
};

template <class T>
void best_swaps(const Queue& queue, const BestSwapArgs<T>& args);

// With H = G + G^T: gradient[row_order[i], col_order[j]] = H[i, j], times the swap form of `other` where given, and on
// the diagonal minus the sum of the rest of the row. All square.
template <class T>
struct SwapGradientArgs {
  Matrix<const T> grad;
  Ordered<T> other;
  double* workspace;  // (swap_parts, n)
  Matrix<T> gradient;
  const int64_t *row_order, *col_order;
};

template <class T>
void swap_gradient(const Queue& queue, const SwapGradientArgs<T>& args);

// One term of a product with distances: coefficient * |matrix| (or matrix) times d(inner, points).
template <class S>
struct ProductPart {
  Matrix<const S> matrix;   // (rows, inner)
  const Compute<S>* inner;  // (inner, dim) contiguous
  double coefficient;
  bool table_by_inner;  // a table is read at [inner, point], else at [point, inner]
};

template <class T>
struct ProductPoints {
  const T* points;  // (cols, dim) contiguous, for a table indices
  int64_t count;
  int dim, metric;
  Matrix<const T> table;
};

template <class S>
struct PlacementProductArgs {
  const ProductPart<S>* parts;  // neurons as rows, peers inside
  int64_t count, neurons;
  ProductPoints<Compute<S>> slots;
  Matrix<Compute<S>> cost;  // (neurons, slots)
  Compute<S>* diagonal;     // or, in its place, what neuron i costs in slot i, for as many of both
  int* not_finite;          // set to 1 where a cost is NaN or infinite
};

// cost[i, p] = sum over parts of coefficient * sum over k of |W[i, k]| * d(slot p, peer k), for any metric.
template <class S>
void placement_product(const Queue& queue, const PlacementProductArgs<S>& args);

template <class S>
struct PlacementWeightGradientArgs {
  ProductPart<Compute<S>> part;  // the gradient of the cost, slots inside
  ProductPoints<Compute<S>> peers;
  Matrix<const S> weight;  // neurons as rows
  Matrix<S> gradient;
};

// gradient[i, k] = coefficient * sign(W[i, k]) * sum over p of G[i, p] * d(slot p, peer k)
template <class S>
void placement_weight_gradient(const Queue& queue, const PlacementWeightGradientArgs<S>& args);

template <class S>
struct PlacementPositionGradientArgs {
  Matrix<const Compute<S>> grad;  // (n, n)
  Matrix<const S> weight;         // (n, m)
  double coefficient;
  const Compute<S>*slots, *peers;
  int dim, metric;                  // not a table
  double *slot_parts, *peer_parts;  // (peer_tiles(m), n, dim) and (slot_tiles(n), m, dim)
};

int64_t slot_tiles(int64_t slots);
int64_t peer_tiles(int64_t peers);

// What the gradients for the positions of slots and peers are the sums of.
template <class S>
void placement_position_gradient(const Queue& queue, const PlacementPositionGradientArgs<S>& args);

// sums[j] = the sum of parts[k, j] in the order of k.
template <class T>
void add_parts(const Queue& queue, const double* parts, int64_t count, int64_t width, T* sums);

// One connection along one axis (bimt_fast/kernels/walks.py): its weights, and its peers by coordinate.
template <class S>
struct WalkPart {
  Matrix<const S> weight;  // neurons as rows
  const int32_t* order;    // (peers,)
  const double* y;         // (peers,) in that order
  double coefficient;
  // Moments of |W| over all peers before each segment of them, and at last over all: (segments + 1, moments, pitch).
  double* borders;
  int64_t pitch;
  const int32_t* counts;  // (slots,) by u: how many peers have y <= u
};

struct Segments {
  int64_t peers;  // in one: a power of two, at least 64
  int moments;    // of |W|: sums of it and its products with y; 3: with y^2 too
};

// Fills the borders of a part.
template <class S>
void placement_moments(const Queue& queue, const WalkPart<S>& part, const Segments& segments);

template <class S>
struct WalkArgs {
  const WalkPart<S>* parts;
  int64_t count, neurons, slots;
  Segments segments;
  const int32_t* order;  // (slots,) by u
  const double* u;
  double scale;
  const double* totals;     // (3, slots) or null
  bool adds;                // to what is in cost or diagonal
  Matrix<Compute<S>> cost;  // (neurons, slots)
  Compute<S>* diagonal;     // or, in its place, what neuron i costs in slot i, of as many
  int* not_finite;          // set to 1 where a cost is NaN or infinite
};

// cost[i, order[p]] = sum over parts of coefficient * (scale * (u_p A(u_p) - B(u_p)) + a_p A + b_p B + c_p S)
template <class S>
void placement_walk(const Queue& queue, const WalkArgs<S>& args);
// Figures of modularity of labelled neurons, as the labels are and permuted.
struct LabelArgs {
  int64_t n, clusters, degree, dim;
  const int32_t* labels;      // (n,), from 0 to clusters - 1
  const int32_t* neighbours;  // (degree, n), -1 for none
  const double* positions;    // (dim, n)
  const double* shares;       // (clusters,): 1 / neurons of each; anything where there are none
  const double* weights;      // (clusters,): shares / clusters that have neurons; 0 where there are none
  int64_t permutations;
  uint64_t seed;
  int32_t* workspace;  // (label_workspace,)
  double* nulls;       // (1 + permutations, 3)
};

int64_t label_workspace(int64_t n, int64_t permutations);

void label_nulls(const Queue& queue, const LabelArgs& args);

constexpr int kPermutedAxes = 5;

// A tensor as bytes: axes from the largest stride to the smallest, the last one of consecutive bytes.
struct PermuteArgs {
  char *data, *workspace;
  const int64_t *to, *source;  // along the axis that moves: place to[k] takes what was in place source[k]
  int axes, moving;            // the size of the axis that moves is the number of places
  int64_t size[kPermutedAxes], stride[kPermutedAxes];
};

void permute(const Queue& queue, const PermuteArgs& args);

// A search that visits slots of an n x n placement cost in order: the neuron there trades places with the one whose
// swap lowers the cost most, the first in order of slots on ties, or stays.
template <class T>
struct GreedyArgs {
  Matrix<const T> cost;
  int64_t* neuron_in;    // (n,), by slot; changed
  const int64_t* slots;  // (count,)
  int64_t count;
  T* at_home;      // (n,), whatever it holds
  int64_t* swaps;  // one number: how many were done
};

template <class T>
void greedy_swaps(const Queue& queue, const GreedyArgs<T>& args);

// minimise sum linear[i, a[i]] + sum over pairs i < j of flow[i, j] * distance[a[i], a[j]], and without symmetry also
// of flow[j, i] * distance[a[j], a[i]]. All are (n, n) and contiguous, the diagonals of flow and distance are 0.
template <class T>
struct QuadraticArgs {
  int64_t n;
  const T *flow, *pairs;       // pairs: flow both ways, flow[i, j] + flow[j, i]
  const T *distance, *linear;  // linear: or null
  bool symmetric;              // flow and distance are
  int64_t walks;
  int64_t* assignments;   // (walks, n): where each starts, and then the best that it found
  const uint64_t* seeds;  // (walks,)
  const int64_t* limits;  // (walks,): iterations, at most
  double* costs;          // (walks,): the total of the best; left alone until that of the start is known
  int64_t* done;          // (walks,): iterations
  bool tabu;              // else it ends where no swap improves
  double least;           // what an improvement must exceed, against rounding
  // kQuadraticHeader bytes on, slots * quadratic_memory(n, sizeof(T)) bytes of walks under way: each begins with the
  // number of its walk, its own at first, and -1.
  char* memory;
  int64_t slots;
  int64_t work;  // pairs that a block visits before it leaves the rest to another launch
};

constexpr int64_t kQuadraticHeader = 64;

int64_t quadratic_memory(int64_t n, int64_t size);

template <class T>
void quadratic_walks(const Queue& queue, const QuadraticArgs<T>& args);

}  // namespace gpu
}  // namespace bimt

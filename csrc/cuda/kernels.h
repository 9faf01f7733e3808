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

// The module bimt_fast._cuda: unpacks arguments and picks the dtype. It knows no CUDA header, so that tests can build
// it with the simulated kernels as well.
//
// Tensors arrive as addresses, sizes and strides; bimt_fast/kernels/cuda*.py checks values and keeps tensors alive: a
// launch returns before the kernel runs, and torch's allocator reuses memory in the order of the stream.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <string>
#include <vector>

#include "bind.h"
#include "cuda/kernels.h"

#ifndef BIMT_ARCHITECTURES
#define BIMT_ARCHITECTURES "simulated"
#endif

namespace bimt {
namespace gpu {
namespace {

// (device index, stream)
Queue queue_of(const py::tuple& queue) {
  Fields fields(queue);
  Queue result;
  result.device = static_cast<int>(fields.integer());
  result.stream = fields.address<void>();
  return result;
}

template <class S>
Term<S> term_of(Fields& fields) {
  Term<S> term;
  term.weight = fields.matrix<S>();
  term.grad = fields.matrix<S>();
  term.out_pos = fields.address<const Compute<S>>();
  term.in_pos = fields.address<const Compute<S>>();
  term.dim = static_cast<int>(fields.integer());
  term.coefficient = fields.real();
  term.distance_scale = fields.real();
  term.base_length = fields.real();
  return term;
}

// A gradient is made anew by every backward pass, so its address comes beside the description, which stays.
template <class S>
std::vector<Term<S>> terms_of(const py::list& descriptions, const py::list& grads) {
  std::vector<Term<S>> terms;
  terms.reserve(descriptions.size());
  for (py::handle description : descriptions) {
    Fields fields(description);
    terms.push_back(term_of<S>(fields));
  }
  if (grads.size() != terms.size()) throw py::value_error("grads must be as many as the descriptions");
  for (size_t i = 0; i < terms.size(); ++i) terms[i].grad.data = pointer<S>(grads[i].cast<intptr_t>());
  return terms;
}

int64_t bind_penalty_blocks(int dtype, const py::list& descriptions, const py::list& grads) {
  return with_storage(dtype, [&](auto zero) {
    const auto terms = terms_of<decltype(zero)>(descriptions, grads);
    return penalty_blocks(terms.data(), static_cast<int64_t>(terms.size()));
  });
}

void bind_penalty(const py::tuple& queue, int dtype, const py::list& descriptions, const py::list& grads, int metric,
                  const py::tuple& table, double lam, intptr_t factor, intptr_t partial, intptr_t cost) {
  check_metric(metric);
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    const std::vector<Term<S>> terms = terms_of<S>(descriptions, grads);
    const PenaltyArgs<S> args = {terms.data(),
                                 static_cast<int64_t>(terms.size()),
                                 metric,
                                 Fields(table).matrix<const T>(),
                                 lam,
                                 pointer<const T>(factor),
                                 pointer<double>(partial),
                                 pointer<T>(cost)};
    penalty(queue_of(queue), args);
  });
}

// moments: a tuple for each term, addresses of both moments and of the step count.
void bind_adamw(const py::tuple& queue, int dtype, const py::list& descriptions, const py::list& grads,
                const py::list& moment_descriptions, int metric, const py::tuple& table, const py::tuple& settings,
                bool proximal, intptr_t partial, intptr_t cost) {
  check_metric(metric);
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    const std::vector<Term<S>> terms = terms_of<S>(descriptions, grads);
    std::vector<Moments<S>> moments;
    for (py::handle description : moment_descriptions) {
      Fields fields(description);
      S *const exp_avg = fields.address<S>(), *const exp_avg_sq = fields.address<S>();
      moments.push_back({exp_avg, exp_avg_sq, fields.address<float>()});
    }
    if (moments.size() != terms.size()) throw py::value_error("moments must be as many as the descriptions");
    AdamWArgs<S> args = {terms.data(), moments.data(), static_cast<int64_t>(terms.size()), metric};
    args.table = Fields(table).matrix<const T>();
    Fields group(settings);
    for (double* setting : {&args.lr, &args.beta1, &args.beta2, &args.eps, &args.weight_decay, &args.lam})
      *setting = group.real();
    args.proximal = proximal;
    args.partial = pointer<double>(partial);
    args.cost = pointer<T>(cost);
    adamw(queue_of(queue), args);
  });
}

void bind_position_gradient(const py::tuple& queue, int dtype, const py::tuple& weight, intptr_t positions,
                            intptr_t peers, int dim, int metric, double distance_scale, intptr_t factor,
                            intptr_t gradient) {
  check_metric(metric);
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    position_gradient(
        queue_of(queue),
        PositionGradientArgs<S>{Fields(weight).matrix<const S>(), pointer<const T>(positions), pointer<const T>(peers),
                                dim, metric, distance_scale, pointer<const T>(factor), pointer<T>(gradient)});
  });
}

template <class T>
Ordered<T> ordered_of(Fields& fields) {
  Ordered<T> ordered;
  ordered.matrix = fields.matrix<const T>();
  ordered.row_order = fields.address<const int64_t>();
  ordered.col_order = fields.address<const int64_t>();
  return ordered;
}

// descriptions: for every matrix a tuple, both its orientations, each with its orders, and its diagonal.
template <class T>
SwapArgs<T> swaps_of(int64_t rows, int64_t cols, const py::list& descriptions, intptr_t not_finite) {
  SwapArgs<T> args = {};
  args.rows = rows;
  args.cols = cols;
  if (descriptions.size() != 1 && descriptions.size() != 3) throw py::value_error("a swap has 1 matrix or 3");
  for (py::handle description : descriptions) {
    Fields fields(description);
    Both<T>& both = args.matrices[args.count++];
    both.forward = ordered_of<T>(fields);
    both.backward = ordered_of<T>(fields);
    both.diagonal = fields.address<const T>();
  }
  args.not_finite = pointer<int>(not_finite);
  return args;
}

void bind_swap_deltas(const py::tuple& queue, int dtype, int64_t rows, int64_t cols, const py::list& matrices,
                      intptr_t not_finite, const py::tuple& deltas, bool pairs) {
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    swap_deltas(queue_of(queue), swaps_of<T>(rows, cols, matrices, not_finite), Fields(deltas).matrix<T>(), pairs);
  });
}

void bind_best_swaps(const py::tuple& queue, int dtype, int64_t rows, int64_t cols, const py::list& matrices,
                     intptr_t not_finite, int64_t first, intptr_t neuron, intptr_t workspace, intptr_t delta,
                     intptr_t partner) {
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const BestSwapArgs<T> args = {swaps_of<T>(rows, cols, matrices, not_finite),
                                  first,
                                  pointer<const int64_t>(neuron),
                                  pointer<uint64_t>(workspace),
                                  pointer<T>(delta),
                                  pointer<int64_t>(partner)};
    best_swaps(queue_of(queue), args);
  });
}

// other: a matrix and its orders, or nothing.
void bind_swap_gradient(const py::tuple& queue, int dtype, const py::tuple& grad, const py::tuple& other,
                        intptr_t workspace, const py::tuple& gradient, intptr_t row_order, intptr_t col_order) {
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    Fields fields(other);
    const SwapGradientArgs<T> args = {Fields(grad).matrix<const T>(),    ordered_of<T>(fields),
                                      pointer<double>(workspace),        Fields(gradient).matrix<T>(),
                                      pointer<const int64_t>(row_order), pointer<const int64_t>(col_order)};
    swap_gradient(queue_of(queue), args);
  });
}

// matrix, address of the inner points, coefficient, whether a table is read by them
template <class S>
ProductPart<S> product_part_of(Fields& fields) {
  ProductPart<S> part;
  part.matrix = fields.matrix<const S>();
  part.inner = fields.address<const Compute<S>>();
  part.coefficient = fields.real();
  part.table_by_inner = fields.integer() != 0;
  return part;
}

// points: a contiguous matrix
template <class T>
ProductPoints<T> product_points_of(const py::tuple& points, int metric, const py::tuple& table) {
  check_metric(metric);
  const Matrix<const T> positions = Fields(points).matrix<const T>();
  return {positions.data, positions.rows, static_cast<int>(positions.cols), metric, Fields(table).matrix<const T>()};
}

void bind_placement_product(const py::tuple& queue, int dtype, const py::list& descriptions, int64_t neurons,
                            const py::tuple& slots, int metric, const py::tuple& table, const py::tuple& cost,
                            intptr_t diagonal, intptr_t not_finite) {
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    std::vector<ProductPart<S>> parts;
    for (py::handle description : descriptions) {
      Fields fields(description);
      parts.push_back(product_part_of<S>(fields));
    }
    const PlacementProductArgs<S> args = {parts.data(),
                                          static_cast<int64_t>(parts.size()),
                                          neurons,
                                          product_points_of<T>(slots, metric, table),
                                          Fields(cost).matrix<T>(),
                                          pointer<T>(diagonal),
                                          pointer<int>(not_finite)};
    placement_product(queue_of(queue), args);
  });
}

void bind_placement_weight_gradient(const py::tuple& queue, int dtype, const py::tuple& part, const py::tuple& peers,
                                    int metric, const py::tuple& table, const py::tuple& weight,
                                    const py::tuple& gradient) {
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    Fields fields(part);
    const PlacementWeightGradientArgs<S> args = {product_part_of<T>(fields), product_points_of<T>(peers, metric, table),
                                                 Fields(weight).matrix<const S>(), Fields(gradient).matrix<S>()};
    placement_weight_gradient(queue_of(queue), args);
  });
}

void bind_placement_position_gradient(const py::tuple& queue, int dtype, const py::tuple& grad, const py::tuple& weight,
                                      double coefficient, intptr_t slots, intptr_t peers, int dim, int metric,
                                      intptr_t slot_parts, intptr_t peer_parts) {
  check_metric(metric);
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    const PlacementPositionGradientArgs<S> args = {Fields(grad).matrix<const T>(),
                                                   Fields(weight).matrix<const S>(),
                                                   coefficient,
                                                   pointer<const T>(slots),
                                                   pointer<const T>(peers),
                                                   dim,
                                                   metric,
                                                   pointer<double>(slot_parts),
                                                   pointer<double>(peer_parts)};
    placement_position_gradient(queue_of(queue), args);
  });
}

void bind_add_parts(const py::tuple& queue, int dtype, intptr_t parts, int64_t count, int64_t width, intptr_t sums) {
  with_dtype(dtype, [&](auto zero) {
    add_parts(queue_of(queue), pointer<const double>(parts), count, width, pointer<decltype(zero)>(sums));
  });
}

// weight, addresses of order and y, coefficient, address and pitch of the borders, address of the counts
template <class S>
WalkPart<S> walk_part_of(py::handle description) {
  Fields fields(description);
  WalkPart<S> part;
  part.weight = fields.matrix<const S>();
  part.order = fields.address<const int32_t>();
  part.y = fields.address<const double>();
  part.coefficient = fields.real();
  part.borders = fields.address<double>();
  part.pitch = fields.integer();
  part.counts = fields.address<const int32_t>();
  return part;
}

void bind_placement_moments(const py::tuple& queue, int dtype, const py::tuple& part, int64_t peers, int moments) {
  with_storage(dtype, [&](auto zero) {
    placement_moments(queue_of(queue), walk_part_of<decltype(zero)>(part), {peers, moments});
  });
}

// segments: peers of one, moments; slots: how many, addresses of order and u, scale, address of the totals.
void bind_placement_walk(const py::tuple& queue, int dtype, const py::list& descriptions, int64_t neurons,
                         const py::tuple& segments, const py::tuple& slots, bool adds, const py::tuple& cost,
                         intptr_t diagonal, intptr_t not_finite) {
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    std::vector<WalkPart<S>> parts;
    for (py::handle description : descriptions) parts.push_back(walk_part_of<S>(description));
    WalkArgs<S> args = {};
    args.parts = parts.data();
    args.count = static_cast<int64_t>(parts.size());
    args.neurons = neurons;
    Fields lengths(segments), walk(slots);
    args.segments.peers = lengths.integer();
    args.segments.moments = static_cast<int>(lengths.integer());
    args.slots = walk.integer();
    args.order = walk.address<const int32_t>();
    args.u = walk.address<const double>();
    args.scale = walk.real();
    args.totals = walk.address<const double>();
    args.adds = adds;
    args.cost = Fields(cost).matrix<T>();
    args.diagonal = pointer<T>(diagonal);
    args.not_finite = pointer<int>(not_finite);
    placement_walk(queue_of(queue), args);
  });
}

// sizes: n, clusters, neighbours of each, coordinates. addresses: as in LabelArgs, from labels on.
void bind_label_nulls(const py::tuple& queue, const py::tuple& sizes, const py::tuple& addresses, int64_t permutations,
                      uint64_t seed) {
  Fields size(sizes), fields(addresses);
  LabelArgs args = {};
  for (int64_t* field : {&args.n, &args.clusters, &args.degree, &args.dim}) *field = size.integer();
  args.labels = fields.address<const int32_t>();
  args.neighbours = fields.address<const int32_t>();
  for (const double** field : {&args.positions, &args.shares, &args.weights}) *field = fields.address<const double>();
  args.workspace = fields.address<int32_t>();
  args.nulls = fields.address<double>();
  args.permutations = permutations;
  args.seed = seed;
  label_nulls(queue_of(queue), args);
}

// addresses: tensor, workspace, to, source. axes: size and stride of each.
void bind_permute(const py::tuple& queue, const py::tuple& addresses, const py::tuple& axes, int moving) {
  Fields fields(addresses), numbers(axes);
  PermuteArgs args = {};
  args.data = fields.address<char>();
  args.workspace = fields.address<char>();
  args.to = fields.address<const int64_t>();
  args.source = fields.address<const int64_t>();
  args.axes = static_cast<int>(axes.size() / 2);
  args.moving = moving;
  if (args.axes > kPermutedAxes) throw py::value_error("a tensor has too many axes");
  for (int k = 0; k < args.axes; ++k) {
    args.size[k] = numbers.integer();
    args.stride[k] = numbers.integer();
  }
  permute(queue_of(queue), args);
}

void bind_greedy_swaps(const py::tuple& queue, int dtype, const py::tuple& cost, intptr_t neuron_in, intptr_t slots,
                       int64_t count, intptr_t at_home, intptr_t swaps) {
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    greedy_swaps(queue_of(queue),
                 GreedyArgs<T>{Fields(cost).matrix<const T>(), pointer<int64_t>(neuron_in),
                               pointer<const int64_t>(slots), count, pointer<T>(at_home), pointer<int64_t>(swaps)});
  });
}

// addresses: flow, flow both ways, distance, linear, assignments, seeds, limits, costs, iterations done, memory.
void bind_quadratic_walks(const py::tuple& queue, bool integers, int64_t n, const py::tuple& addresses, bool symmetric,
                          int64_t walks, bool tabu, double least, int64_t slots, int64_t work) {
  const auto run = [&](auto zero) {
    using T = decltype(zero);
    Fields fields(addresses);
    QuadraticArgs<T> args = {};
    args.n = n;
    for (const T** field : {&args.flow, &args.pairs, &args.distance, &args.linear}) *field = fields.address<const T>();
    args.assignments = fields.address<int64_t>();
    args.seeds = fields.address<const uint64_t>();
    args.limits = fields.address<const int64_t>();
    args.costs = fields.address<double>();
    args.done = fields.address<int64_t>();
    args.memory = fields.address<char>();
    args.symmetric = symmetric;
    args.walks = walks;
    args.tabu = tabu;
    args.least = least;
    args.slots = slots;
    args.work = work;
    quadratic_walks(queue_of(queue), args);
  };
  integers ? run(int32_t()) : run(double());
}

}  // namespace
}  // namespace gpu
}  // namespace bimt

PYBIND11_MODULE(BIMT_MODULE, module) {
  using namespace bimt::gpu;
  module.doc() = "The CUDA kernels of bimt_fast, called by bimt_fast/kernels/cuda.py";
  module.def("architectures", [] { return std::string(BIMT_ARCHITECTURES); });
  module.def("penalty_blocks", &bind_penalty_blocks);
  module.def("penalty", &bind_penalty);
  module.def("adamw", &bind_adamw);
  module.def("position_gradient", &bind_position_gradient);
  module.def("swap_deltas", &bind_swap_deltas);
  module.def("swap_parts", &swap_parts);
  module.def("best_swaps", &bind_best_swaps);
  module.def("swap_gradient", &bind_swap_gradient);
  module.def("placement_product", &bind_placement_product);
  module.def("placement_weight_gradient", &bind_placement_weight_gradient);
  module.def("placement_position_gradient", &bind_placement_position_gradient);
  module.def("slot_tiles", &slot_tiles);
  module.def("peer_tiles", &peer_tiles);
  module.def("add_parts", &bind_add_parts);
  module.def("placement_moments", &bind_placement_moments);
  module.def("placement_walk", &bind_placement_walk);
  module.def("label_workspace", &label_workspace);
  module.def("label_nulls", &bind_label_nulls);
  module.def("permuted_axes", [] { return kPermutedAxes; });
  module.def("permute", &bind_permute);
  module.def("greedy_swaps", &bind_greedy_swaps);
  module.def("quadratic_memory", &quadratic_memory);
  module.def("quadratic_walks", &bind_quadratic_walks);
}

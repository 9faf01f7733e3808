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
  module.def("label_workspace", &label_workspace);
  module.def("label_nulls", &bind_label_nulls);
  module.def("permuted_axes", [] { return kPermutedAxes; });
  module.def("permute", &bind_permute);
  module.def("greedy_swaps", &bind_greedy_swaps);
  module.def("quadratic_memory", &quadratic_memory);
  module.def("quadratic_walks", &bind_quadratic_walks);
}

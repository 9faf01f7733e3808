// The module bimt_fast._cpu: unpacks arguments, picks the instruction set and the dtype, names the argument at fault.
//
// Tensors arrive as addresses, sizes and strides; bimt_fast/kernels/cpu.py keeps them alive during the call. Import
// torch first: its OpenMP runtime serves this module too.

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <algorithm>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind.h"
#include "cpu/assignment.h"
#include "cpu/greedy.h"
#include "cpu/kernels.h"
#include "cpu/placement_plan.h"
#include "cpu/runtime.h"
#include "metric.h"

namespace py = pybind11;

namespace bimt {
namespace {

template <class F>
auto with_instruction_set(F f) {
  switch (instruction_set()) {
#ifdef BIMT_HAS_AVX512
    case InstructionSet::kAvx512:
      return f(avx512());
#endif
#ifdef BIMT_HAS_AVX2
    case InstructionSet::kAvx2:
      return f(avx2());
#endif
    default:
      return f(baseline());
  }
}

// Raises ValueError for a refused argument, by the name that it has in the calling function.
void check(Status status, const char* out_pos = "out_pos", const char* in_pos = "in_pos") {
  switch (status) {
    case Status::kOk:
      return;
    case Status::kOutPos:
      throw py::value_error(std::string(out_pos) + " must be finite, held NaN or infinity");
    case Status::kInPos:
      throw py::value_error(std::string(in_pos) + " must be finite, held NaN or infinity");
    case Status::kWeights:
      throw py::value_error("weights must be finite, held NaN or infinity");
    case Status::kCost:
      throw py::value_error("cost must be finite, held NaN or infinity");
    case Status::kFlow:
      throw py::value_error("flow must be finite, held NaN or infinity");
    case Status::kDistance:
      throw py::value_error("distance must be finite, held NaN or infinity");
    case Status::kOutBall:
      throw py::value_error(std::string(out_pos) + " must lie inside the unit ball");
    case Status::kInBall:
      throw py::value_error(std::string(in_pos) + " must lie inside the unit ball");
    case Status::kOutIndex:
      throw py::value_error(std::string(out_pos) + " must hold indices of rows of the table");
    case Status::kInIndex:
      throw py::value_error(std::string(in_pos) + " must hold indices of rows of the table");
  }
}

template <class S>
PenaltyTerm<S> penalty_term(Fields& fields) {
  PenaltyTerm<S> term;
  term.weight = fields.matrix<const S>();
  term.grad = fields.matrix<S>();
  term.out_pos = fields.matrix<const Compute<S>>();
  term.in_pos = fields.matrix<const Compute<S>>();
  term.coefficient = fields.real();
  term.distance_scale = fields.real();
  term.base_length = fields.real();
  return term;
}

// The terms of a call. A gradient is made anew by every backward pass, so its address comes beside the description,
// which stays.
template <class S>
std::vector<PenaltyTerm<S>> penalty_terms(const py::list& descriptions, const py::list& grads) {
  std::vector<PenaltyTerm<S>> terms;
  terms.reserve(descriptions.size());
  for (py::handle description : descriptions) {
    Fields fields(description);
    terms.push_back(penalty_term<S>(fields));
  }
  if (grads.size() != terms.size()) throw py::value_error("grads must be as many as the descriptions");
  for (size_t i = 0; i < terms.size(); ++i) terms[i].grad.data = pointer<S>(grads[i].cast<intptr_t>());
  return terms;
}

double bind_penalty(int dtype, const py::list& descriptions, const py::list& grads, int metric, const py::tuple& table,
                    double lam, int threads) {
  check_metric(metric);
  return with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    const std::vector<PenaltyTerm<S>> terms = penalty_terms<S>(descriptions, grads);
    const PenaltyArgs<S> args = {terms.data(), static_cast<int64_t>(terms.size()),
                                 metric,       Fields(table).matrix<const Compute<S>>(),
                                 lam,          threads};
    const Penalty result = [&] {
      const py::gil_scoped_release release;
      return with_instruction_set([&](auto isa) { return penalty<decltype(isa)>(args); });
    }();
    check(result.status);
    return result.cost;
  });
}

// moments: a tuple for each term, addresses of both moments and of the step count.
double bind_adamw(int dtype, const py::list& descriptions, const py::list& grads, const py::list& moment_descriptions,
                  int metric, const py::tuple& table, const py::tuple& settings, bool proximal, int threads) {
  check_metric(metric);
  return with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    const std::vector<PenaltyTerm<S>> terms = penalty_terms<S>(descriptions, grads);
    std::vector<Moments<S>> moments;
    moments.reserve(terms.size());
    for (py::handle description : moment_descriptions) {
      Fields fields(description);
      moments.push_back({fields.address<S>(), fields.address<S>(), fields.address<float>()});
    }
    if (moments.size() != terms.size()) throw py::value_error("moments must be as many as the descriptions");
    Fields group(settings);
    AdamWArgs<S> args = {terms.data(), moments.data(), static_cast<int64_t>(terms.size()), metric};
    args.table = Fields(table).matrix<const Compute<S>>();
    for (double* setting : {&args.lr, &args.beta1, &args.beta2, &args.eps, &args.weight_decay, &args.lam}) {
      *setting = group.real();
    }
    args.proximal = proximal;
    args.threads = threads;
    const Penalty result = [&] {
      const py::gil_scoped_release release;
      return with_instruction_set([&](auto isa) { return adamw<decltype(isa)>(args); });
    }();
    check(result.status);
    return result.cost;
  });
}

void bind_penalty_backward(int dtype, const py::tuple& description, intptr_t out_pos_grad, intptr_t in_pos_grad,
                           double grad, int metric, const py::tuple& table, int threads) {
  check_metric(metric);
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    Fields fields(description);
    const PenaltyBackwardArgs<S> args = {penalty_term<S>(fields),
                                         pointer<T>(out_pos_grad),
                                         pointer<T>(in_pos_grad),
                                         grad,
                                         metric,
                                         Fields(table).matrix<const T>(),
                                         threads};
    const Status status = [&] {
      const py::gil_scoped_release release;
      return with_instruction_set([&](auto isa) { return penalty_backward<decltype(isa)>(args); });
    }();
    check(status);
  });
}

// What a placement cost is made from. Parts are described by tuples (weight with neurons as rows, peer positions,
// coefficient), the incoming ones first.
template <class S>
class Placement {
  using T = Compute<S>;

 public:
  Placement(const py::tuple& slots, const py::list& descriptions, int64_t incoming, int metric, const py::tuple& table,
            int threads)
      : slots_(Fields(slots).matrix<const T>()),
        incoming_(incoming),
        metric_(metric),
        table_(Fields(table).matrix<const T>()),
        threads_(threads) {
    for (py::handle description : descriptions) {
      Fields fields(description);
      const Matrix<const S> weight = fields.matrix<const S>();
      peers_.push_back(fields.matrix<const T>());
      parts_.push_back({weight.data, weight.cols, weight.row_stride, weight.col_stride, fields.real()});
    }
  }

  PlacementPlan plan() const { return plan_placement(slots_, peers_, metric_); }

  PlacementArgs<S> sums(const PlacementPlan& plan, T* cost) const {
    PlacementArgs<S> args = {slots_.rows, parts_.data(), static_cast<int64_t>(parts_.size()), plan.views.data()};
    args.dim = static_cast<int64_t>(plan.views.size());
    args.slot_order = plan.slot_order.data();
    args.crowded = plan.crowded;
    args.metric = metric_;
    args.cost = cost;
    args.threads = threads_;
    return args;
  }

  PlacementProductArgs<S> product(T* cost) const {
    const int64_t count = static_cast<int64_t>(parts_.size());
    return {slots_, parts_.data(), peers_.data(), count, incoming_, metric_, table_, cost, threads_};
  }

 private:
  const Matrix<const T> slots_;
  const int64_t incoming_;
  const int metric_;
  const Matrix<const T> table_;
  const int threads_;
  std::vector<PlacementPart<S>> parts_;
  std::vector<Matrix<const T>> peers_;
};

void bind_placement_cost(int dtype, const py::tuple& slots, const py::list& descriptions, int64_t incoming, int metric,
                         const py::tuple& table, intptr_t cost, int threads) {
  check_metric(metric);
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    const Placement<S> placement(slots, descriptions, incoming, metric, table, threads);
    Compute<S>* const to = pointer<Compute<S>>(cost);
    const Status status = [&] {
      const py::gil_scoped_release release;
      if (!is_separable(metric)) {
        const PlacementProductArgs<S> args = placement.product(to);
        return with_instruction_set([&](auto isa) { return placement_product<decltype(isa)>(args); });
      }
      const PlacementPlan plan = placement.plan();
      if (plan.status != Status::kOk) return plan.status;
      const PlacementArgs<S> args = placement.sums(plan, to);
      return with_instruction_set([&](auto isa) { return placement_cost<decltype(isa)>(args); });
    }();
    check(status, "slots", "peers");
  });
}

// descriptions: as of a Placement, and behind each the gradients of its weight and of its peers' positions.
void bind_placement_cost_backward(int dtype, const py::tuple& grad, const py::tuple& slots,
                                  const py::list& descriptions, int64_t incoming, int metric, const py::tuple& table,
                                  intptr_t slots_grad, int threads) {
  check_metric(metric);
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    std::vector<PlacementPart<S>> parts;
    std::vector<Matrix<const T>> peers;
    std::vector<Matrix<S>> weight_grads;
    std::vector<T*> peers_grads;
    for (py::handle description : descriptions) {
      Fields fields(description);
      const Matrix<const S> weight = fields.matrix<const S>();
      peers.push_back(fields.matrix<const T>());
      parts.push_back({weight.data, weight.cols, weight.row_stride, weight.col_stride, fields.real()});
      weight_grads.push_back(fields.matrix<S>());
      peers_grads.push_back(fields.address<T>());
    }
    PlacementBackwardArgs<S> args = {Fields(grad).matrix<const T>(),
                                     Fields(slots).matrix<const T>(),
                                     parts.data(),
                                     peers.data(),
                                     static_cast<int64_t>(parts.size()),
                                     incoming,
                                     metric,
                                     Fields(table).matrix<const T>(),
                                     nullptr,
                                     weight_grads.data(),
                                     pointer<T>(slots_grad),
                                     peers_grads.data(),
                                     threads};
    const Status status = [&] {
      const py::gil_scoped_release release;
      if (!is_separable(metric)) {
        return with_instruction_set([&](auto isa) { return placement_product_backward<decltype(isa)>(args); });
      }
      const PlacementPlan plan = plan_placement(args.slots, peers, metric);
      if (plan.status != Status::kOk) return plan.status;
      args.axes = plan.views.data();
      return with_instruction_set([&](auto isa) { return placement_backward<decltype(isa)>(args); });
    }();
    check(status, "slots", "peers");
  });
}

template <class T>
SwapArgs<T> swap_args(const py::tuple& cost, intptr_t assignment, const py::tuple& flow, const py::tuple& distance,
                      int threads) {
  return {Fields(cost).matrix<const T>(), pointer<const int64_t>(assignment), Fields(flow).matrix<const T>(),
          Fields(distance).matrix<const T>(), threads};
}

void bind_swap_deltas(int dtype, const py::tuple& cost, intptr_t assignment, const py::tuple& flow,
                      const py::tuple& distance, intptr_t deltas, int threads) {
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const SwapArgs<T> args = swap_args<T>(cost, assignment, flow, distance, threads);
    const Status status = [&] {
      const py::gil_scoped_release release;
      return with_instruction_set([&](auto isa) { return swap_deltas<decltype(isa)>(args, pointer<T>(deltas)); });
    }();
    check(status);
  });
}

// flow_grad and distance_grad: 0 where there is no flow.
void bind_swap_deltas_backward(int dtype, const py::tuple& grad, intptr_t assignment, const py::tuple& flow,
                               const py::tuple& distance, intptr_t cost_grad, intptr_t flow_grad,
                               intptr_t distance_grad, int threads) {
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const Matrix<const T> upstream = Fields(grad).matrix<const T>();
    const SwapBackwardArgs<T> args = {swap_args<T>(grad, assignment, flow, distance, threads), upstream,
                                      pointer<T>(cost_grad), pointer<T>(flow_grad), pointer<T>(distance_grad)};
    const Status status = [&] {
      const py::gil_scoped_release release;
      return with_instruction_set([&](auto isa) { return swap_deltas_backward<decltype(isa)>(args); });
    }();
    check(status);
  });
}

void bind_best_swaps(int dtype, const py::tuple& cost, intptr_t assignment, const py::tuple& flow,
                     const py::tuple& distance, intptr_t delta, intptr_t partner, int threads) {
  with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const SwapArgs<T> args = swap_args<T>(cost, assignment, flow, distance, threads);
    const Status status = [&] {
      const py::gil_scoped_release release;
      return with_instruction_set(
          [&](auto isa) { return best_swaps<decltype(isa)>(args, pointer<T>(delta), pointer<int64_t>(partner)); });
    }();
    check(status);
  });
}

int64_t bind_greedy_swaps(int dtype, const py::tuple& cost, const py::tuple& by_slot, intptr_t neuron_in,
                          intptr_t slots, int64_t count) {
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto rows = Fields(cost).matrix<const T>(), columns = Fields(by_slot).matrix<const T>();
    const py::gil_scoped_release release;
    return greedy_swaps(rows, columns, pointer<int64_t>(neuron_in), pointer<const int64_t>(slots), count);
  });
}

// columns: those of the rows at the start, then those found. Ends after so many rounds, or with the cheapest assignment
// where rounds is negative; an interrupt is seen between two rounds. Returns the bound.
double bind_linear_assignment(int dtype, const py::tuple& cost, intptr_t columns, int64_t rounds) {
  return with_dtype(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto matrix = Fields(cost).matrix<const T>();
    int64_t* const result = pointer<int64_t>(columns);
    const py::gil_scoped_release release;
    const auto scans = with_instruction_set([](auto isa) { return row_scans<decltype(isa), T>(); });
    Assigner<T> assigner(matrix, scans, result);
    if (!assigner.finite()) {
      const py::gil_scoped_acquire acquire;
      check(Status::kCost);
    }
    for (; assigner.free_rows() > 0 && rounds != 0; --rounds) {
      assigner.round();
      const py::gil_scoped_acquire acquire;
      if (PyErr_CheckSignals() != 0) throw py::error_already_set();
    }
    std::copy(assigner.columns().begin(), assigner.columns().end(), result);
    return assigner.bound();
  });
}

// descriptions: as of a Placement; delta, neurons and top_k as in SwapTargets.
void bind_placement_swaps(int dtype, const py::tuple& slots, const py::list& descriptions, int64_t incoming, int metric,
                          const py::tuple& table, int64_t memory, intptr_t delta, intptr_t neurons, int64_t top_k,
                          int threads) {
  check_metric(metric);
  with_storage(dtype, [&](auto zero) {
    using S = decltype(zero);
    using T = Compute<S>;
    const Placement<S> placement(slots, descriptions, incoming, metric, table, threads);
    const SwapTargets<T> to = {pointer<T>(delta), pointer<int64_t>(neurons), top_k};
    const Status status = [&] {
      const py::gil_scoped_release release;
      if (!is_separable(metric)) {
        const PlacementProductSwapArgs<S> args = {placement.product(nullptr), memory};
        return with_instruction_set([&](auto isa) { return placement_product_swaps<decltype(isa)>(args, to); });
      }
      const PlacementPlan plan = placement.plan();
      if (plan.status != Status::kOk) return plan.status;
      const PlacementSwapArgs<S> args = {placement.sums(plan, nullptr), memory};
      return with_instruction_set([&](auto isa) { return placement_swaps<decltype(isa)>(args, to); });
    }();
    check(status, "slots", "peers");
  });
}

// Calls f with a zero of the dtype in which a quadratic search counts.
template <class F>
void with_exactness(bool integers, F f) {
  integers ? f(int32_t()) : f(double());
}

// addresses: flow, its transpose, distance, linear, assignments, seeds, limits, costs, iterations done, memory.
void bind_quadratic_walks(bool integers, int64_t n, const py::tuple& addresses, bool symmetric, int64_t walks,
                          bool tabu, double least, int64_t slots, double seconds, int threads) {
  with_exactness(integers, [&](auto zero) {
    using T = decltype(zero);
    Fields fields(addresses);
    QuadraticArgs<T> args = {};
    args.n = n;
    args.flow = fields.address<const T>();
    args.flow_t = fields.address<const T>();
    args.distance = fields.address<const T>();
    args.linear = fields.address<const T>();
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
    args.seconds = seconds;
    args.threads = threads;
    const py::gil_scoped_release release;
    with_instruction_set([&](auto isa) { return quadratic_walks<decltype(isa)>(args); });
  });
}

// sizes: n, clusters, neighbours of each, coordinates. addresses: labels, neighbours, positions, results.
void bind_label_nulls(const py::tuple& sizes, const py::tuple& addresses, int64_t permutations, uint64_t seed,
                      int threads) {
  Fields size(sizes), fields(addresses);
  LabelArgs args = {};
  for (int64_t* field : {&args.n, &args.clusters, &args.degree, &args.dim}) *field = size.integer();
  args.labels = fields.address<const int32_t>();
  args.neighbours = fields.address<const int32_t>();
  args.positions = fields.address<const double>();
  args.nulls = fields.address<double>();
  args.permutations = permutations;
  args.seed = seed;
  args.threads = threads;
  const py::gil_scoped_release release;
  with_instruction_set([&](auto isa) { label_nulls<decltype(isa)>(args); });
}

std::vector<std::string> instruction_set_names() {
  std::vector<std::string> names;
  for (InstructionSet set : supported_instruction_sets()) names.push_back(name(set));
  return names;
}

}  // namespace
}  // namespace bimt

PYBIND11_MODULE(_cpu, module) {
  using namespace bimt;
  try {
    choose_instruction_set();
  } catch (const std::invalid_argument& error) {
    throw py::import_error(error.what());
  }
  module.doc() = "CPU kernels on raw addresses; call them through bimt_fast.kernels.cpu.";
  module.def("instruction_sets", &instruction_set_names, "Instruction sets that this CPU can run.");
  module.def("instruction_set", [] { return name(instruction_set()); }, "The instruction set in use.");
  module.def("openmp", &has_openmp, "Whether the kernels were compiled with threads.");
  module.def("prepare_result", [](intptr_t address, size_t bytes, int threads) {
    const py::gil_scoped_release release;
    prepare_result(pointer<void>(address), bytes, threads);
  });
  module.def("penalty", &bind_penalty);
  module.def("adamw", &bind_adamw);
  module.def("penalty_backward", &bind_penalty_backward);
  module.def("placement_cost", &bind_placement_cost);
  module.def("placement_cost_backward", &bind_placement_cost_backward);
  module.def("swap_deltas", &bind_swap_deltas);
  module.def("swap_deltas_backward", &bind_swap_deltas_backward);
  module.def("best_swaps", &bind_best_swaps);
  module.def("greedy_swaps", &bind_greedy_swaps);
  module.def("linear_assignment", &bind_linear_assignment);
  module.def("placement_swaps", &bind_placement_swaps);
  module.def("label_nulls", &bind_label_nulls);
  module.def("quadratic_walks", &bind_quadratic_walks);
  module.def("quadratic_stride", &quadratic_stride);
  module.def("quadratic_memory", &quadratic_memory);
}

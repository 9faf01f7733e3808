// Best swaps on the placement cost C of any metric, without C: the product is made in panels.
//
// C for pairs of panels of b slots, 2 b^2 numbers: as much work as the whole product, whatever b is. Where most neurons
// have no weights they are left out. An entry of C has the same bits in whatever panel it is made, so equal slots give
// deltas of exactly zero.

#include "cpu/panel_search.h"
#include "cpu/placement_product.h"

namespace bimt {
namespace {

constexpr int64_t kSerialElements = 1 << 16;

template <class S>
void run_panels(const PlacementProductSwapArgs<S>& args, const PlacementProduct<S>& product, int64_t weighted,
                int threads, BestSwaps<Compute<S>>* found) {
  using T = Compute<S>;
  const Scratch<Workspace<T>> work(threads);
  PanelSearch<T> search(args.placement.slots.rows, weighted, args.memory, threads, found);
  search.run([&](int64_t neuron, int64_t last_neuron, int64_t slot, int64_t last_slot, T* square, int64_t stride) {
    const int64_t across = divide_up(last_neuron - neuron, kNeurons);
    parallel(threads, across * divide_up(last_slot - slot, kSlots), [&](int64_t block, int thread) {
      const int64_t s = block / across * kSlots, i = block % across * kNeurons;
      product.run(slot + s, smaller(kSlots, last_slot - slot - s), neuron + i,
                  smaller(kNeurons, last_neuron - neuron - i), &work[thread], square + s * stride + i, stride);
    });
  });
}

template <class S>
Status run_swaps(const PlacementProductSwapArgs<S>& args, const SwapTargets<Compute<S>>& to) {
  const PlacementProductArgs<S>& placement = args.placement;
  const int64_t n = placement.slots.rows;
  const bool serial = n * n * PlacementProduct<S>::peer_count(placement) < kSerialElements;
  const int threads = serial ? 1 : placement.threads;
  const WeightedFirst<S> weighted(placement.parts, placement.part_count, n, threads);
  const PlacementProduct<S> product(placement, weighted.order());
  if (product.status() != Status::kOk) return product.status();
  BestSwaps<Compute<S>> found(n, to.top_k, 1, threads);
  found.relabel(weighted.order());
  if (n > 0) run_panels(args, product, weighted.count(), threads, &found);
  return write_swaps(&found, placement.parts, placement.part_count, n, to);
}

}  // namespace

#define BIMT_INSTANTIATE(S)                                                            \
  template <>                                                                          \
  Status placement_product_swaps<BIMT_ISA, S>(const PlacementProductSwapArgs<S>& args, \
                                              const SwapTargets<Compute<S>>& to) {     \
    return run_swaps(args, to);                                                        \
  }

BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace bimt

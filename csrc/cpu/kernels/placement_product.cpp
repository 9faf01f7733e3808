// Placement cost for metrics that are no sum over coordinates: a matrix product of distances and |weight|.

#include "cpu/placement_product.h"

namespace bimt {
namespace {

constexpr int64_t kSerialElements = 1 << 16;

template <class S>
Status run_product(const PlacementProductArgs<S>& args) {
  const int64_t n = args.slots.rows;
  const PlacementProduct<S> product(args, nullptr);
  if (product.status() != Status::kOk) return product.status();
  const int64_t across = divide_up(n, kNeurons), blocks = across * divide_up(n, kSlots);
  const bool serial = n * n * product.peer_count(args) < kSerialElements;
  const int threads = serial ? 1 : int(smaller(args.threads, larger(1, blocks)));
  const Scratch<Workspace<Compute<S>>> work(threads);
  const Scratch<bool> finite(blocks);
  parallel(threads, blocks, [&](int64_t block, int thread) {
    const int64_t slot = block / across * kSlots, neuron = block % across * kNeurons;
    finite[block] = product.run(slot, smaller(kSlots, n - slot), neuron, smaller(kNeurons, n - neuron), &work[thread],
                                args.cost + slot * n + neuron, n);
  });
  for (int64_t block = 0; block < blocks; ++block) {
    if (!finite[block]) return Status::kWeights;
  }
  return Status::kOk;
}

}  // namespace

#define BIMT_INSTANTIATE(S)                                                    \
  template <>                                                                  \
  Status placement_product<BIMT_ISA, S>(const PlacementProductArgs<S>& args) { \
    return run_product(args);                                                  \
  }

BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace bimt

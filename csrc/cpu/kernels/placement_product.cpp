// Placement cost for metrics that are no sum over coordinates: a matrix product of distances and |weight|.

#include "cpu/tile_product.h"

namespace bimt {
namespace {

constexpr int64_t kSerialElements = 1 << 16;

template <class S>
class Product {
  using T = Compute<S>;

 public:
  Product(const PlacementProductArgs<S>& args, const T* coordinates) : args_(args), slots_{coordinates, n(), dim()} {}

  // One block of slots and neurons; false when a weight was not finite.
  bool run(int64_t first_slot, int64_t first_neuron, const T* peer_coordinates, Workspace<T>* work) const {
    const int64_t slots = smaller(kSlots, n() - first_slot), neurons = smaller(kNeurons, n() - first_neuron);
    work->clear(slots, neurons);
    bool finite = true;
    for (int64_t p = 0; p < args_.part_count; ++p) {
      const PlacementPart<S>& part = args_.parts[p];
      const Points<T> peers = {peer_coordinates, part.peers, dim()};
      const Matrix<const T> table = p < args_.incoming ? args_.table : args_.table.transposed();
      peer_coordinates += part.peers * (dim() + 1);
      for (int64_t k = 0; k < part.peers; k += kPeers) {
        const int64_t count = smaller(kPeers, part.peers - k);
        finite &= pack<false>(part, first_neuron, neurons, k, count, work->weights);
        measure(args_.metric, table, slots_, first_slot, slots, peers, k, count, work->distances);
        work->multiply_chunk(slots, neurons, count);
      }
    }
    for (int64_t s = 0; s < slots; ++s) {
      for (int64_t i = 0; i < neurons; ++i) {
        args_.cost[(first_slot + s) * n() + first_neuron + i] = static_cast<T>(work->sum(s, i));
      }
    }
    return finite;
  }

 private:
  int64_t n() const { return args_.slots.rows; }
  int64_t dim() const { return args_.slots.cols; }

  const PlacementProductArgs<S>& args_;
  const Points<T> slots_;
};

template <class S>
Status run_product(const PlacementProductArgs<S>& args) {
  using T = Compute<S>;
  const int64_t n = args.slots.rows, stride = args.slots.cols + 1;
  int64_t peers = 0;
  for (int64_t p = 0; p < args.part_count; ++p) peers += args.parts[p].peers;
  const Scratch<T> coordinates((n + peers) * stride);
  T* next = coordinates.get();
  const Status status = copy_positions(args.slots, args.metric, args.table.rows, kOutRefusals, next);
  if (status != Status::kOk) return status;
  next += n * stride;
  for (int64_t p = 0; p < args.part_count; ++p) {
    const Status of_peers = copy_positions(args.peers[p], args.metric, args.table.rows, kInRefusals, next);
    if (of_peers != Status::kOk) return of_peers;
    next += args.parts[p].peers * stride;
  }
  const int64_t across = divide_up(n, kNeurons), blocks = across * divide_up(n, kSlots);
  const int threads = n * n * peers < kSerialElements ? 1 : int(smaller(args.threads, larger(1, blocks)));
  const Scratch<Workspace<T>> work(threads);
  const Scratch<bool> finite(blocks);
  const Product<S> product(args, coordinates.get());
  parallel(threads, blocks, [&](int64_t block, int thread) {
    finite[block] =
        product.run(block / across * kSlots, block % across * kNeurons, coordinates.get() + n * stride, &work[thread]);
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

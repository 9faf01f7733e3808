// Gradients of the placement cost for metrics that are no sum over coordinates, as products in tiles.
//
// With G the gradient of the cost C: the weight's is sign(W[i, k]) times E[i, k] = sum_p G[i, p] d(p, k), which is the
// product of placement_product.cpp with G in place of |W|. Positions take K[p, k] = sum_i G[i, p] |W[i, k]|, what every
// distance is worth, times the slopes of the distances; a tile of K is made, used and forgotten.

#include "cpu/partial_sums.h"
#include "cpu/tile_product.h"

namespace bimt {
namespace {

constexpr int64_t kSerialElements = 1 << 16;
// Parts of the slots that keep their own partial sums for every peer.
constexpr int64_t kPartialBlocks = 16;

template <class S>
struct Side {
  PlacementPart<S> part;
  Points<Compute<S>> peers;
  Matrix<const Compute<S>> table;  // with slots as rows
  int64_t first_peer;              // among those of all parts
};

// What a row of a tile of K and its distances have in common.
template <class T>
struct Pairs {
  alignas(64) T sum[kNeurons], ties[kNeurons], factor[kNeurons], worth[kNeurons];
};

template <class S>
class Backward {
  using T = Compute<S>;

 public:
  Backward(const PlacementBackwardArgs<S>& args, const Points<T>& slots) : args_(args), slots_(slots) {}

  // sign(W) E for a block of peers times neurons.
  void weights(const Side<S>& side, const Matrix<S>& grad, int64_t first_peer, int64_t first_neuron,
               Workspace<T>* work) const {
    const int64_t n = slots_.count, peers = smaller(kSlots, side.part.peers - first_peer);
    const int64_t neurons = smaller(kNeurons, n - first_neuron);
    const Matrix<const T> table = side.table.transposed();
    const PlacementPart<T> by_slot = {args_.grad.data, n, args_.grad.row_stride, args_.grad.col_stride, 1};
    work->clear(peers, neurons);
    for (int64_t p = 0; p < n; p += kPeers) {
      const int64_t count = smaller(kPeers, n - p);
      pack<true>(by_slot, first_neuron, neurons, p, count, work->weights);
      measure(args_.metric, table, side.peers, first_peer, peers, slots_, p, count, work->distances);
      work->multiply_chunk(peers, neurons, count);
    }
    for (int64_t i = 0; i < neurons; ++i) {
      const S* const w = side.part.weight + (first_neuron + i) * side.part.neuron_stride;
      for (int64_t k = 0; k < peers; ++k) {
        const T direction = sign(widened(w[(first_peer + k) * side.part.peer_stride]));
        const T value = direction * static_cast<T>(side.part.coefficient * work->sum(k, i));
        narrow_to(value, &grad.at(first_neuron + i, first_peer + k));
      }
    }
  }

  // A block of slots with all peers of a part: adds to the sums [point][coordinate] of its slots and of all peers.
  void positions(const Side<S>& side, int64_t first_slot, Workspace<T>* work, double* slot_sums,
                 double* peer_sums) const {
    const int64_t slots = smaller(kSlots, slots_.count - first_slot), dim = slots_.dim;
    // The sum runs over neurons: they take the place of the peers, and the peers that of the neurons.
    const PlacementPart<S> by_peer = {side.part.weight, slots_.count, side.part.peer_stride, side.part.neuron_stride,
                                      side.part.coefficient};
    for (int64_t k = 0; k < side.part.peers; k += kNeurons) {
      const int64_t peers = smaller(kNeurons, side.part.peers - k);
      work->clear(slots, peers);
      for (int64_t i = 0; i < slots_.count; i += kPeers) {
        const int64_t count = smaller(kPeers, slots_.count - i);
        pack<false>(by_peer, k, peers, i, count, work->weights);
        copy_grad(i, count, first_slot, slots, work->distances);
        work->multiply_chunk(slots, peers, count);
      }
      with_metric<T>(args_.metric, [&](auto metric) {
        for (int64_t s = 0; s < slots; ++s) {
          add_slopes<decltype(metric)>(side.peers, first_slot + s, k, peers, *work, s,
                                       slot_sums + (first_slot + s) * dim, peer_sums + (side.first_peer + k) * dim);
        }
      });
    }
  }

 private:
  void copy_grad(int64_t neuron, int64_t neurons, int64_t slot, int64_t slots, T* to) const {
    for (int64_t i = 0; i < neurons; ++i, to += kSlots) {
      read_row(&args_.grad.at(neuron + i, slot), args_.grad.col_stride, slots, to);
      for (int64_t s = slots; s < whole_rows(slots); ++s) to[s] = 0;
    }
  }

  template <class Metric>
  void add_slopes(const Points<T>& peers, int64_t slot, int64_t first, int64_t count, const Workspace<T>& work,
                  int64_t row, double* slot_sums, double* peer_sums) const {
    const int64_t dim = slots_.dim;
    const T gap = Metric::kInBall ? slots_.gap(slot) : T(1);
    const T* const gaps = peers.coordinates + dim * peers.count + first;
    Pairs<T> pairs;
    for (int64_t k = 0; k < count; ++k) {
      pairs.worth[k] = static_cast<T>(work.sum(row, k));
      pairs.sum[k] = pairs.ties[k] = 0;
    }
    for (int64_t a = 0; a < dim; ++a) {
      const T* const y = peers.coordinates + a * peers.count + first;
      for (int64_t k = 0; k < count; ++k) pairs.sum[k] = Metric::add(pairs.sum[k], slots_.at(slot, a), y[k]);
    }
    for (int64_t a = 0; Metric::kTies && a < dim; ++a) {
      const T* const y = peers.coordinates + a * peers.count + first;
      for (int64_t k = 0; k < count; ++k) pairs.ties[k] += Metric::attains(slots_.at(slot, a), y[k], pairs.sum[k]);
    }
    for (int64_t k = 0; k < count; ++k) {
      pairs.factor[k] = Metric::factor(pairs.sum[k], gap, Metric::kInBall ? gaps[k] : T(1), pairs.ties[k]);
    }
    for (int64_t a = 0; a < dim; ++a) {
      const T x = slots_.at(slot, a);
      const T* const y = peers.coordinates + a * peers.count + first;
      double sum = 0;
      for (int64_t k = 0; k < count; ++k) {
        const T peer_gap = Metric::kInBall ? gaps[k] : T(1);
        sum += double(pairs.worth[k] * Metric::slope(x, y[k], pairs.factor[k], pairs.sum[k], gap));
        peer_sums[k * dim + a] +=
            double(pairs.worth[k] * Metric::slope(y[k], x, pairs.factor[k], pairs.sum[k], peer_gap));
      }
      slot_sums[a] += sum;
    }
  }

  const PlacementBackwardArgs<S>& args_;
  const Points<T> slots_;
};

// The positions of slots and peers as points, and the parts with them.
template <class S>
Status prepare(const PlacementBackwardArgs<S>& args, Compute<S>* coordinates, Side<S>* sides) {
  const int64_t n = args.slots.rows, dim = args.slots.cols;
  const Status status = copy_positions(args.slots, args.metric, args.table.rows, kOutRefusals, coordinates);
  if (status != Status::kOk) return status;
  coordinates += n * (dim + 1);
  for (int64_t p = 0, first_peer = 0; p < args.part_count; ++p) {
    const int64_t peers = args.parts[p].peers;
    const Status of_peers = copy_positions(args.peers[p], args.metric, args.table.rows, kInRefusals, coordinates);
    if (of_peers != Status::kOk) return of_peers;
    sides[p] = {
        args.parts[p], {coordinates, peers, dim}, p < args.incoming ? args.table : args.table.transposed(), first_peer};
    coordinates += peers * (dim + 1);
    first_peer += peers;
  }
  return Status::kOk;
}

template <class S>
Status run_backward(const PlacementBackwardArgs<S>& args) {
  using T = Compute<S>;
  const int64_t n = args.slots.rows, dim = args.slots.cols;
  int64_t peers = 0;
  for (int64_t p = 0; p < args.part_count; ++p) peers += args.parts[p].peers;
  const Scratch<T> coordinates((n + peers) * (dim + 1));
  const Scratch<Side<S>> sides(args.part_count);
  const Status status = prepare(args, coordinates.get(), sides.get());
  if (status != Status::kOk) return status;
  const int threads = n * n * peers < kSerialElements ? 1 : args.threads;
  const Scratch<Workspace<T>> work(threads);
  const Backward<S> backward(args, {coordinates.get(), n, dim});
  for (int64_t p = 0; p < args.part_count; ++p) {
    const int64_t across = divide_up(n, kNeurons), blocks = across * divide_up(args.parts[p].peers, kSlots);
    parallel(threads, blocks, [&](int64_t block, int thread) {
      backward.weights(sides[p], args.weight_grads[p], block / across * kSlots, block % across * kNeurons,
                       &work[thread]);
    });
  }
  if (args.metric == int(MetricCode::kTable)) return Status::kOk;
  const int64_t blocks = divide_up(n, kSlots), count = smaller(kPartialBlocks, blocks);
  const Scratch<double> slot_sums(n * dim), peer_sums(count * peers * dim);
  std::memset(slot_sums.get(), 0, n * dim * sizeof(double));
  parallel(threads, count, [&](int64_t index, int thread) {
    double* const mine = &peer_sums[index * peers * dim];
    std::memset(mine, 0, peers * dim * sizeof(double));
    for (int64_t block = index * blocks / count; block < (index + 1) * blocks / count; ++block) {
      for (int64_t p = 0; p < args.part_count; ++p) {
        backward.positions(sides[p], block * kSlots, &work[thread], slot_sums.get(), mine);
      }
    }
  });
  add_partial(slot_sums.get(), 1, 0, n * dim, args.slots_grad);
  for (int64_t p = 0; p < args.part_count; ++p) {
    add_partial(&peer_sums[sides[p].first_peer * dim], count, peers * dim, args.parts[p].peers * dim,
                args.peers_grads[p]);
  }
  return Status::kOk;
}

}  // namespace

#define BIMT_INSTANTIATE(S)                                                              \
  template <>                                                                            \
  Status placement_product_backward<BIMT_ISA, S>(const PlacementBackwardArgs<S>& args) { \
    return run_backward(args);                                                           \
  }

BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace bimt

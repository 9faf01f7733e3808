// Blocks of a placement cost, the matrix product of distances and |weight|, for any metric.
#pragma once

#include "cpu/tile_product.h"

namespace bimt {
namespace {

template <class S>
class PlacementProduct {
  using T = Compute<S>;

 public:
  // order: the neurons, and their slots, in another order, or null.
  PlacementProduct(const PlacementProductArgs<S>& args, const int32_t* order)
      : args_(args), order_(order), coordinates_((n() + peer_count(args)) * (dim() + 1)) {
    T* next = coordinates_.get();
    status_ = copy_positions(args.slots, args.metric, args.table.rows, kOutRefusals, next);
    if (order != nullptr) reorder(next);
    next += n() * (dim() + 1);
    for (int64_t p = 0; p < args.part_count && status_ == Status::kOk; ++p) {
      status_ = copy_positions(args.peers[p], args.metric, args.table.rows, kInRefusals, next);
      next += args.parts[p].peers * (dim() + 1);
    }
  }

  static int64_t peer_count(const PlacementProductArgs<S>& args) {
    int64_t count = 0;
    for (int64_t p = 0; p < args.part_count; ++p) count += args.parts[p].peers;
    return count;
  }

  // Whether the positions are as they must be.
  Status status() const { return status_; }

  // One block, at most kSlots by kNeurons, into to[slot * stride + neuron]; false when a weight was not finite.
  bool run(int64_t first_slot, int64_t slots, int64_t first_neuron, int64_t neurons, Workspace<T>* work, T* to,
           int64_t stride) const {
    const Points<T> places = {coordinates_.get(), n(), dim()};
    const T* peer_coordinates = coordinates_.get() + n() * (dim() + 1);
    work->clear(slots, neurons);
    bool finite = true;
    for (int64_t p = 0; p < args_.part_count; ++p) {
      const PlacementPart<S>& part = args_.parts[p];
      const Points<T> peers = {peer_coordinates, part.peers, dim()};
      const Matrix<const T> table = p < args_.incoming ? args_.table : args_.table.transposed();
      peer_coordinates += part.peers * (dim() + 1);
      for (int64_t k = 0; k < part.peers; k += kPeers) {
        const int64_t count = smaller(kPeers, part.peers - k);
        finite &= pack<false>(part, first_neuron, neurons, k, count, work->weights, order_);
        measure(args_.metric, table, places, first_slot, slots, peers, k, count, work->distances);
        work->multiply_chunk(slots, neurons, count);
      }
    }
    for (int64_t s = 0; s < slots; ++s) {
      for (int64_t i = 0; i < neurons; ++i) to[s * stride + i] = static_cast<T>(work->sum(s, i));
    }
    return finite;
  }

 private:
  int64_t n() const { return args_.slots.rows; }
  int64_t dim() const { return args_.slots.cols; }

  void reorder(T* coordinates) const {
    const Scratch<T> row(n());
    for (int64_t k = 0; k <= dim(); ++k, coordinates += n()) {
      for (int64_t i = 0; i < n(); ++i) row[i] = coordinates[order_[i]];
      std::memcpy(coordinates, row.get(), n() * sizeof(T));
    }
  }

  const PlacementProductArgs<S>& args_;
  const int32_t* const order_;
  const Scratch<T> coordinates_;  // of the slots, then of the peers of every part
  Status status_;
};

}  // namespace
}  // namespace bimt

// The weights of a few peers times a block of neurons, widened, with neurons along the rows.
#pragma once

#include "cpu/neuron_block.h"
#include "cpu/storage.h"

namespace bimt {
namespace {

// kLanes peers, one row a peer.
template <class T>
struct Tile {
  alignas(64) T data[kLanes<T> * kNeurons];
};

template <class S, class T>
void gather_tile(const S* weight, const PlacementPart<S>& part, int64_t peers, int64_t neurons, Tile<T>* tile) {
  for (int64_t k = 0; k < peers; ++k) {
    T* const to = tile->data + k * kNeurons;
    read_row(weight + k * part.peer_stride, part.neuron_stride, neurons, to);
    for (int64_t i = neurons; i < kNeurons; ++i) to[i] = 0;
  }
}

// Of kNeurons neurons, whose rows of kLanes peers begin at row(0), row(1), ... ahead: what of a row will be read next.
template <class T, class Row>
BIMT_INLINE void transpose_tile(Row row, int64_t ahead, Tile<T>* tile) {
  BIMT_UNROLL
  for (int group = 0; group < kRows<T>; ++group) {
    Full<T> rows[kLanes<T>];
    BIMT_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) {
      const auto* const from = row(group * kLanes<T> + i);
      prefetch(from + ahead);
      rows[i] = load_widened<Full<T>>(from);
    }
    transpose<T>(rows);
    BIMT_UNROLL
    for (int k = 0; k < kLanes<T>; ++k) store(tile->data + k * kNeurons + group * kLanes<T>, rows[k]);
  }
}

// weight: of the first neuron and peer.
template <class S, class T>
void fill_tile(const S* weight, const PlacementPart<S>& part, int64_t peers, int64_t neurons, int64_t ahead,
               Tile<T>* tile) {
  if (neurons == kNeurons && part.peer_stride == 1 && peers == kLanes<T>) {
    transpose_tile([&](int64_t i) { return weight + i * part.neuron_stride; }, ahead, tile);
  } else {
    gather_tile(weight, part, peers, neurons, tile);
  }
}

// The same for the neurons that `order` names. weight: of the first peer.
template <class S, class T>
void fill_tile_in_order(const S* weight, const PlacementPart<S>& part, int64_t peers, const int32_t* order,
                        int64_t neurons, Tile<T>* tile) {
  const auto row = [&](int64_t i) { return weight + order[i] * part.neuron_stride; };
  if (neurons == kNeurons && part.peer_stride == 1 && peers == kLanes<T>) {
    return transpose_tile(row, kPrefetchColumns, tile);
  }
  if (neurons < kNeurons) std::memset(tile->data, 0, sizeof(tile->data));
  for (int64_t k = 0; k < peers; ++k) {
    const S* const from = weight + k * part.peer_stride;
    for (int64_t i = 0; i < neurons; ++i) tile->data[k * kNeurons + i] = widened(from[order[i] * part.neuron_stride]);
  }
}

}  // namespace
}  // namespace bimt

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

template <class S, class T>
void transpose_tile(const S* weight, int64_t neuron_stride, int64_t ahead, Tile<T>* tile) {
  BIMT_UNROLL
  for (int group = 0; group < kRows<T>; ++group) {
    Full<T> rows[kLanes<T>];
    BIMT_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) {
      const S* const row = weight + (group * kLanes<T> + i) * neuron_stride;
      prefetch(row + ahead);
      rows[i] = load_widened<Full<T>>(row);
    }
    transpose<T>(rows);
    BIMT_UNROLL
    for (int k = 0; k < kLanes<T>; ++k) store(tile->data + k * kNeurons + group * kLanes<T>, rows[k]);
  }
}

// weight: of the first neuron and peer. ahead: what will be read next along a row of peers, which is fetched.
template <class S, class T>
void fill_tile(const S* weight, const PlacementPart<S>& part, int64_t peers, int64_t neurons, int64_t ahead,
               Tile<T>* tile) {
  if (neurons == kNeurons && part.peer_stride == 1 && peers == kLanes<T>) {
    transpose_tile(weight, part.neuron_stride, ahead, tile);
  } else {
    gather_tile(weight, part, peers, neurons, tile);
  }
}

}  // namespace
}  // namespace bimt

// The best swaps on a placement cost C that is there in parts only, a pair of ranges of neurons at a time.
#pragma once

#include "cpu/kernels.h"
#include "cpu/search.h"
#include "cpu/storage.h"

namespace bimt {
namespace {

constexpr int64_t round_up(int64_t n, int64_t to) { return divide_up(n, to) * to; }

// The best partner of every neuron and the best pairs, one set for each thread. Deltas are those found times `scale`.
template <class T>
class BestSwaps {
 public:
  using Label = IntegerLike<T>;
  using Pair = typename TopPairs<T>::Pair;

  // top_k: of SwapTargets.
  BestSwaps(int64_t n, int64_t top_k, T scale, int threads)
      : n_(n),
        scale_(scale),
        padded_(round_up(n, kTile)),
        threads_(threads),
        labels_(padded_),
        best_(threads * padded_),
        best_label_(threads * padded_),
        good_(threads),
        pairs_(threads * larger(0, top_k)),
        top_(threads) {
    for (int64_t i = 0; i < padded_; ++i) labels_[i] = static_cast<Label>(i);
    Best<T>::clear(best_.get(), best_label_.get(), threads * padded_);
    for (int t = 0; t < threads; ++t) {
      good_[t] = true;
      top_[t] = TopPairs<T>(pairs_.get() + t * larger(0, top_k), larger(0, top_k));
    }
  }

  int64_t padded() const { return padded_; }
  Label* labels() { return labels_.get(); }

  // For a problem whose neurons are in another order; null: as they are.
  void relabel(const int32_t* order) {
    for (int64_t i = 0; i < n_ && order != nullptr; ++i) labels_[i] = static_cast<Label>(order[i]);
  }

  template <class Problem>
  void search(const Problem& problem, const Item& item, int thread) {
    TopPairs<T>* const top = top_[thread].capacity() > 0 ? &top_[thread] : nullptr;
    Search<T, Problem> search(problem, labels_.get(), &best_[thread * padded_], &best_label_[thread * padded_], top);
    good_[thread] &= search.run(item);
  }

  bool good() const {
    bool good = true;
    for (int t = 0; t < threads_; ++t) good &= good_[t];
    return good;
  }

  void write_best(T* delta, int64_t* partner) {
    for (int64_t i = 0; i < n_; ++i) {
      for (int t = 1; t < threads_; ++t) {
        Best<T>::update_one(&best_[i], &best_label_[i], best_[t * padded_ + i], best_label_[t * padded_ + i]);
      }
      delta[labels_[i]] = scale_ * best_[i];
      partner[labels_[i]] = best_label_[i] < 0 ? labels_[i] : best_label_[i];
    }
  }

  void write_top(T* delta, int64_t* pairs) {
    TopPairs<T>& all = top_[0];
    for (int t = 1; t < threads_; ++t) {
      for (int64_t i = 0; i < top_[t].count(); ++i) all.offer(top_[t][i].delta, top_[t][i].first, top_[t][i].second);
    }
    for (int64_t i = all.count(); i < all.capacity(); ++i) delta[i] = T(pairs[2 * i] = pairs[2 * i + 1] = 0);
    while (all.count() > 0) {
      const Pair pair = all.pop();
      const int64_t i = all.count();
      delta[i] = scale_ * pair.delta;
      pairs[2 * i] = pair.first;
      pairs[2 * i + 1] = pair.second;
    }
  }

 private:
  const int64_t n_;
  const T scale_;
  const int64_t padded_;
  const int threads_;
  const Scratch<Label> labels_;
  const Scratch<T> best_;
  const Scratch<Label> best_label_;
  const Scratch<bool> good_;
  const Scratch<Pair> pairs_;
  const Scratch<TopPairs<T>> top_;
};

template <class T>
void allocate_pages(const Scratch<T>& memory, int64_t count, int threads) {
  if (count * int64_t(sizeof(T)) >= int64_t(8) << 20) prepare_result(memory.get(), count * sizeof(T), threads);
}

// form = (C_ij + C_ji) - (C_ii + C_jj), with the block of C whose neurons are the columns, and its mirror image with
// slots as rows.
template <class T>
BIMT_INLINE void swap_form(Full<T>* mirror, const T* row_diagonal, const T* col_diagonal, Full<T>* form) {
  transpose<T>(mirror);
  const Full<T> diagonal = load<Full<T>>(col_diagonal);
  BIMT_UNROLL
  for (int i = 0; i < kLanes<T>; ++i) form[i] = (form[i] + mirror[i]) - (row_diagonal[i] + diagonal);
}

// A square part of C, one row a slot. The gap keeps the rows of a tile out of each other's way in the caches.
constexpr int64_t kGap = 16;

template <class T>
struct PairProblem {
  int64_t n;
  int64_t first_row, first_col;
  const T* row_in_col;  // [slots of the columns][neurons of the rows]
  const T* col_in_row;  // [slots of the rows][neurons of the columns]
  int64_t stride;
  const T* diagonal;

  BIMT_INLINE void prefetch_next(int64_t, int64_t) const {}

  BIMT_INLINE void deltas(int64_t row, int64_t col, int64_t, int64_t, Full<T>* delta) const {
    const int64_t i = row - first_row, j = col - first_col;
    Full<T> mirror[kLanes<T>];
    BIMT_UNROLL
    for (int k = 0; k < kLanes<T>; ++k) {
      mirror[k] = load<Full<T>>(row_in_col + (j + k) * stride + i);
      delta[k] = load<Full<T>>(col_in_row + (i + k) * stride + j);
    }
    swap_form<T>(mirror, diagonal + row, diagonal + col, delta);
  }
};

template <class T>
void copy_diagonal(const T* square, int64_t stride, int64_t first, int64_t last, T* diagonal) {
  for (int64_t i = first; i < last; ++i) diagonal[i] = square[(i - first) * (stride + 1)];
}

// The tiles of a pair of ranges that one row of tiles meets, on or above the diagonal.
Item tiles_between(int64_t tile_row, int64_t first_col, int64_t last_col) {
  const int64_t first = larger(tile_row, first_col / kTile);
  return {int32_t(tile_row), int32_t(first), int32_t(larger(first, divide_up(last_col, kTile)))};
}

// The neurons that have weights, and behind them the others, where these are many: among them no swap changes anything,
// and their placement cost is zero.
template <class S>
class WeightedFirst {
 public:
  WeightedFirst(const PlacementPart<S>* parts, int64_t part_count, int64_t n, int threads)
      : parts_(parts), part_count_(part_count), count_(n), order_(n) {
    const Scratch<bool> any(n);
    parallel(threads, divide_up(n, kChunk),
             [&](int64_t chunk, int) { find_weights(chunk * kChunk, smaller(n, (chunk + 1) * kChunk), any.get()); });
    int64_t count = 0;
    for (int64_t i = 0; i < n; ++i) count += any[i];
    if (2 * count > n) return;
    count_ = count;
    for (int64_t i = 0, front = 0, back = count; i < n; ++i) order_[any[i] ? front++ : back++] = int32_t(i);
    moved_ = true;
  }

  // How many have weights; all, where the order was left as it is.
  int64_t count() const { return count_; }
  // Null where it was left as it is.
  const int32_t* order() const { return moved_ ? order_.get() : nullptr; }

 private:
  static constexpr int64_t kChunk = 256, kPeers = 128;

  // Looks not much further than the first weight of every neuron.
  void find_weights(int64_t first, int64_t last, bool* any) const {
    std::memset(any + first, 0, last - first);
    for (int64_t p = 0; p < part_count_; ++p) {
      const PlacementPart<S>& part = parts_[p];
      int64_t found = 0;
      for (int64_t k = 0; k < part.peers && found < last - first; k += kPeers) {
        const int64_t end = smaller(part.peers, k + kPeers);
        part.neuron_stride == 1 ? look_by_peer(part, first, last, k, end, any) : look(part, first, last, k, end, any);
        found = 0;
        for (int64_t i = first; i < last; ++i) found += any[i];
      }
    }
  }

  static void look_by_peer(const PlacementPart<S>& part, int64_t first, int64_t last, int64_t k, int64_t end,
                           bool* any) {
    for (; k < end; ++k) {
      const S* const row = part.weight + k * part.peer_stride;
      for (int64_t i = first; i < last; ++i) any[i] |= widened(row[i]) != 0;
    }
  }

  static void look(const PlacementPart<S>& part, int64_t first, int64_t last, int64_t k, int64_t end, bool* any) {
    for (int64_t i = first; i < last; ++i) {
      if (any[i]) continue;
      const S* const row = part.weight + i * part.neuron_stride;
      bool here = false;
      for (int64_t j = k; j < end; ++j) here |= widened(row[j * part.peer_stride]) != 0;
      any[i] = here;
    }
  }

  const PlacementPart<S>* const parts_;
  const int64_t part_count_;
  int64_t count_;
  bool moved_ = false;
  const Scratch<int32_t> order_;
};

template <class T>
int64_t panel_size(int64_t n, int64_t memory) {
  if (n * n * int64_t(sizeof(T)) <= memory) return round_up(n, kTile);
  int64_t size = kTile;
  while (2 * (size + kTile) * (size + kTile) * int64_t(sizeof(T)) <= memory) size += kTile;
  return smaller(size, round_up(n, kTile));
}

// C for pairs of panels of slots: two squares, of the neurons of one panel in the slots of the other and vice versa.
template <class T>
class PanelSearch {
 public:
  // weighted: how many neurons, the first ones, have weights. memory: bytes that the squares may take.
  PanelSearch(int64_t n, int64_t weighted, int64_t memory, int threads, BestSwaps<T>* result)
      : n_(n),
        weighted_(weighted),
        searched_(smaller(n, round_up(weighted, kTile))),
        size_(panel_size<T>(n, memory)),
        stride_(size_ + kGap),
        panels_(divide_up(n, size_)),
        threads_(threads),
        result_(result),
        squares_((panels_ > 1 ? 2 : 1) * size_ * stride_),
        diagonal_(result->padded()) {
    allocate_pages(squares_, (panels_ > 1 ? 2 : 1) * size_ * stride_, threads);
  }

  // Slots of a panel, a multiple of kTile.
  int64_t size() const { return size_; }

  // fill(first neuron, last, first slot, last, square, stride): C of neurons of one panel, who have weights, in slots
  // of one panel, which are the rows.
  template <class Fill>
  void run(Fill fill) {
    T* const row_in_col = squares_.get();
    for (int64_t i = searched_; i < n_; ++i) diagonal_[i] = 0;
    for (int64_t row = 0; row < weighted_; row += size_) {
      fill_square(fill, row, row, end(row), row_in_col);
      copy_diagonal(row_in_col, stride_, row, smaller(searched_, end(row)), diagonal_.get());
      search(row, row, row_in_col, row_in_col);
    }
    for (int64_t row = 0; row < weighted_; row += size_) {
      for (int64_t col = row + size_; col < n_; col += size_) {
        T* const col_in_row = row_in_col + size_ * stride_;
        fill_square(fill, row, col, end(col), row_in_col);
        fill_square(fill, col, row, smaller(searched_, end(row)), col_in_row);
        search(row, col, row_in_col, col_in_row);
      }
    }
  }

 private:
  int64_t end(int64_t first) const { return smaller(n_, first + size_); }

  template <class Fill>
  void fill_square(Fill fill, int64_t neuron, int64_t slot, int64_t last_slot, T* square) const {
    const int64_t count = larger(0, smaller(weighted_, end(neuron)) - neuron);
    for (int64_t s = 0; s < last_slot - slot && count < size_; ++s) {
      std::memset(square + s * stride_ + count, 0, (size_ - count) * sizeof(T));
    }
    if (count > 0) fill(neuron, neuron + count, slot, last_slot, square, stride_);
  }

  void search(int64_t row, int64_t col, const T* row_in_col, const T* col_in_row) {
    const PairProblem<T> problem = {n_, row, col, row_in_col, col_in_row, stride_, diagonal_.get()};
    const int64_t first = row / kTile, last = divide_up(smaller(weighted_, end(row)), kTile);
    parallel(threads_, last - first, [&](int64_t tile, int thread) {
      result_->search(problem, tiles_between(first + tile, col, end(col)), thread);
    });
  }

  const int64_t n_, weighted_, searched_, size_, stride_, panels_;
  const int threads_;
  BestSwaps<T>* const result_;
  const Scratch<T> squares_, diagonal_;
};

template <class S>
bool weights_finite(const PlacementPart<S>* parts, int64_t part_count, int64_t n) {
  for (int64_t p = 0; p < part_count; ++p) {
    const PlacementPart<S>& part = parts[p];
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t k = 0; k < part.peers; ++k) {
        const Compute<S> w = widened(part.weight[i * part.neuron_stride + k * part.peer_stride]);
        if (w - w != 0) return false;
      }
    }
  }
  return true;
}

template <class S>
Status write_swaps(BestSwaps<Compute<S>>* found, const PlacementPart<S>* parts, int64_t part_count, int64_t n,
                   const SwapTargets<Compute<S>>& to) {
  if (!found->good()) return weights_finite(parts, part_count, n) ? Status::kCost : Status::kWeights;
  to.top_k < 0 ? found->write_best(to.delta, to.neurons) : found->write_top(to.delta, to.neurons);
  return Status::kOk;
}

}  // namespace
}  // namespace bimt

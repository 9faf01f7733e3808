// The search for the best swap of every neuron, tile by tile, whatever the deltas are made from.
//
// Deltas are symmetric: only tiles on or above the diagonal are visited, each for its rows and its columns. In an
// unnamed namespace for the reason given in simd.h.
#pragma once

#include "cpu/simd.h"

namespace bimt {
namespace {

// Tiles are squares of this many elements, and so many of them in a row make a work item.
constexpr int64_t kTile = 64;
constexpr int64_t kItemTiles = 16;

// Calls visit(first row, first column of the block) for the blocks of a tile on or above the diagonal.
template <class T, class Visit>
BIMT_INLINE void for_blocks(int64_t n, int64_t tile_row, int64_t tile_col, Visit visit) {
  const int64_t row_end = smaller(n, (tile_row + 1) * kTile), col_end = smaller(n, (tile_col + 1) * kTile);
  for (int64_t row = tile_row * kTile; row < row_end; row += kLanes<T>) {
    const int64_t first = tile_row == tile_col ? row : tile_col * kTile;
    for (int64_t col = first; col < col_end; col += kLanes<T>) visit(row, col);
  }
}

struct Item {
  int32_t tile_row, first_tile, last_tile;
};

// The tiles on or above the diagonal, cut into items; `items` may be null to count them only.
inline int64_t list_items(int64_t n, Item* items) {
  const int64_t tiles = divide_up(n, kTile);
  int64_t count = 0;
  for (int64_t row = 0; row < tiles; ++row) {
    for (int64_t first = row; first < tiles; first += kItemTiles, ++count) {
      if (items == nullptr) continue;
      items[count] = {int32_t(row), int32_t(first), int32_t(smaller(first + kItemTiles, tiles))};
    }
  }
  return count;
}

// The smallest delta seen for each of `count` neurons and the partner's label: the lowest label on ties, and -1 with
// delta 0 until one improves. This order is total, so the result does not depend on the order of the visits.
template <class T>
struct Best {
  using Label = IntegerLike<T>;

  static void clear(T* delta, Label* label, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      delta[i] = 0;
      label[i] = -1;
    }
  }

  template <class V, class L>
  static BIMT_INLINE void update(V* best, L* best_label, V delta, L label) {
    const L better = (delta < *best) | ((delta == *best) & (label < *best_label));
    *best = better ? delta : *best;
    *best_label = better ? label : *best_label;
  }

  static void update_one(T* best, Label* best_label, T delta, Label label) {
    if (delta < *best || (delta == *best && label < *best_label)) {
      *best = delta;
      *best_label = label;
    }
  }
};

// The best pairs seen, as many as there is memory for: smallest delta first, then lowest labels. The order is total
// here too.
template <class T>
class TopPairs {
 public:
  using Label = IntegerLike<T>;
  struct Pair {
    T delta;
    Label first, second;

    bool before(const Pair& other) const {
      if (delta != other.delta) return delta < other.delta;
      return first != other.first ? first < other.first : second < other.second;
    }
  };

  TopPairs() = default;
  TopPairs(Pair* memory, int64_t capacity) : pairs_(memory), capacity_(capacity) {}

  int64_t capacity() const { return capacity_; }
  int64_t count() const { return count_; }
  const Pair& operator[](int64_t i) const { return pairs_[i]; }
  // A pair with a larger delta is not wanted.
  T limit() const { return count_ < capacity_ ? T(0) : pairs_[0].delta; }

  void offer(T delta, Label a, Label b) {
    const Pair pair = a < b ? Pair{delta, a, b} : Pair{delta, b, a};
    if (count_ < capacity_) {
      rise(pair);
    } else if (pair.before(pairs_[0])) {
      sink(pair);
    }
  }

  // The worst of those kept, which are one fewer then.
  Pair pop() {
    const Pair worst = pairs_[0], last = pairs_[--count_];
    if (count_ > 0) sink(last);
    return worst;
  }

 private:
  // A heap with the worst pair at the top.
  void rise(const Pair& pair) {
    int64_t i = count_++;
    for (; i > 0 && pairs_[(i - 1) / 2].before(pair); i = (i - 1) / 2) pairs_[i] = pairs_[(i - 1) / 2];
    pairs_[i] = pair;
  }

  void sink(const Pair& pair) {
    int64_t i = 0;
    for (int64_t child = 1; child < count_; child = 2 * i + 1) {
      if (child + 1 < count_ && pairs_[child].before(pairs_[child + 1])) ++child;
      if (!pair.before(pairs_[child])) break;
      pairs_[i] = pairs_[child];
      i = child;
    }
    pairs_[i] = pair;
  }

  Pair* pairs_ = nullptr;
  int64_t capacity_ = 0, count_ = 0;
};

// Problem: n; deltas(row, col, height, width, delta) for the block at (row, col), columns along the lanes; and
// prefetch_next(row, col), called before it.
template <class T, class Problem>
class Search {
 public:
  using V = Full<T>;
  using Label = IntegerLike<T>;
  using Labels = Full<Label>;
  static constexpr int kCount = kLanes<T>;

  // labels: the neurons in the order of the problem's rows, padded to whole vectors; best and best_label likewise.
  // top: where the best pairs go, or null.
  Search(const Problem& problem, const Label* labels, T* best, Label* best_label, TopPairs<T>* top = nullptr)
      : problem_(problem), labels_(labels), best_(best), best_label_(best_label), top_(top) {}

  // False when a delta was not finite.
  bool run(const Item& item) {
    alignas(64) T row_best[kTile * kCount];
    alignas(64) Label row_label[kTile * kCount];
    Best<T>::clear(row_best, row_label, kTile * kCount);
    V poison = {};
    const int64_t first_row = item.tile_row * kTile;
    for (int64_t tile = item.first_tile; tile < item.last_tile; ++tile) {
      for_blocks<T>(problem_.n, item.tile_row, tile, [&](int64_t row, int64_t col) {
        const int64_t offset = (row - first_row) * kCount;
        problem_.prefetch_next(row, col);
        visit(row, col, row_best + offset, row_label + offset, &poison);
      });
    }
    for (int64_t i = 0; i < smaller(kTile, problem_.n - first_row); i += kCount) {
      merge_lanes(row_best + i * kCount, row_label + i * kCount, first_row + i);
    }
    T sum = 0;
    for (int lane = 0; lane < kCount; ++lane) sum += poison[lane];
    return sum == 0;
  }

 private:
  BIMT_INLINE void visit(int64_t row, int64_t col, T* row_best, Label* row_label, V* poison) {
    const int64_t height = smaller(kCount, problem_.n - row), width = smaller(kCount, problem_.n - col);
    V delta[kCount];
    problem_.deltas(row, col, height, width, delta);
    if (height < kCount || width < kCount) clear_padding(height, width, delta);
    const Labels col_labels = load<Labels>(labels_ + col);
    V col_best = load<V>(best_ + col);
    Labels col_label = load<Labels>(best_label_ + col);
    BIMT_UNROLL
    for (int i = 0; i < kCount; ++i) {
      *poison += delta[i] - delta[i];
      Best<T>::update(&col_best, &col_label, delta[i], splat<Labels>(labels_[row + i]));
      V best = load<V>(row_best + i * kCount);
      Labels label = load<Labels>(row_label + i * kCount);
      Best<T>::update(&best, &label, delta[i], col_labels);
      store(row_best + i * kCount, best);
      store(row_label + i * kCount, label);
    }
    store(best_ + col, col_best);
    store(best_label_ + col, col_label);
    if (top_ != nullptr) offer(row, col, delta);
  }

  __attribute__((noinline)) void offer(int64_t row, int64_t col, const V* delta) {
    V least = delta[0];
    for (int i = 1; i < kCount; ++i) least = delta[i] < least ? delta[i] : least;
    bool any = false;
    for (int lane = 0; lane < kCount; ++lane) any |= least[lane] < 0 && least[lane] <= top_->limit();
    if (!any) return;
    for (int64_t i = 0; i < kCount; ++i) {
      for (int64_t j = row == col ? i + 1 : 0; j < kCount; ++j) {
        if (delta[i][j] < 0 && delta[i][j] <= top_->limit()) {
          top_->offer(delta[i][j], labels_[row + i], labels_[col + j]);
        }
      }
    }
  }

  // Every lane of a row has a best of its own; the best of them all goes to the neuron.
  void merge_lanes(const T* row_best, const Label* row_label, int64_t row) {
    V best[kCount];
    Labels label[kCount];
    for (int i = 0; i < kCount; ++i) {
      best[i] = load<V>(row_best + i * kCount);
      label[i] = load<Labels>(row_label + i * kCount);
    }
    transpose<T>(best);
    transpose<Label>(label);
    V row_best_of_all = load<V>(best_ + row);
    Labels label_of_all = load<Labels>(best_label_ + row);
    for (int i = 0; i < kCount; ++i) Best<T>::update(&row_best_of_all, &label_of_all, best[i], label[i]);
    store(best_ + row, row_best_of_all);
    store(best_label_ + row, label_of_all);
  }

  // A delta of 0 never wins.
  static void clear_padding(int64_t height, int64_t width, V* delta) {
    for (int64_t i = 0; i < kCount; ++i) {
      for (int64_t j = i < height ? width : 0; j < kCount; ++j) delta[i][j] = 0;
    }
  }

  const Problem& problem_;
  const Label* const labels_;
  T* const best_;
  Label* const best_label_;
  TopPairs<T>* const top_;
};

}  // namespace
}  // namespace bimt

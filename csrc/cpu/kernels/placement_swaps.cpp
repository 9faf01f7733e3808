// Best swaps on the L1 placement cost C[i, p] = sum over axes of f_i(coordinate of p), without C.
//
// C is made again, tile by tile, from the running sums f is made of (running_sums.h), in one of three ways:
//
//   tables   few distinct coordinates, as on a grid: f of every neuron at each of them is kept, n * (coordinates of
//            all axes) numbers, and a tile of C is looked up. Reads the weights once.
//   bands    one axis, slots and peers in its order, as on a line: the running sums of every neuron at the border of
//            every band of slots are kept, 16 bytes for every kBand entries of C, and a pair of bands takes them up
//            from there. Reads the weights twice: once for the sums, once for the tiles.
//   panels   anything else: C for pairs of panels of b slots, 2 b^2 numbers, each from the whole weights of its
//            neurons. Reads the weights n / b times; b follows from the memory, a fixed part of the weights, so that
//            n / b does not grow with n. Where most neurons have no weights they are left out.
//
// The first that fits in PlacementSwapArgs::memory is taken. Each costs O(n m + n^2).
// An entry of C has the same bits in whatever tile it is made, so equal slots give deltas of exactly zero.

#include "cpu/kernels.h"
#include "cpu/running_sums.h"
#include "cpu/search.h"

namespace bimt {
namespace {

constexpr int64_t kBandBytes = 1024;
constexpr int64_t kSerialElements = 1 << 14;
template <class T>
constexpr int64_t kBand = kBandBytes / int64_t(sizeof(T));

constexpr int64_t round_up(int64_t n, int64_t to) { return divide_up(n, to) * to; }

// What all ways share: the best partner of every neuron and the best pairs, one set for each thread.
template <class T>
class Result {
 public:
  using Label = IntegerLike<T>;
  using Pair = typename TopPairs<T>::Pair;

  Result(int64_t n, int64_t top_k, int threads)
      : n_(n),
        padded_(round_up(n, kTile)),
        threads_(threads),
        labels_(padded_),
        best_(threads * padded_),
        best_label_(threads * padded_),
        good_(threads),
        pairs_(threads * top_k),
        top_(threads) {
    for (int64_t i = 0; i < padded_; ++i) labels_[i] = static_cast<Label>(i);
    Best<T>::clear(best_.get(), best_label_.get(), threads * padded_);
    for (int t = 0; t < threads; ++t) {
      good_[t] = true;
      top_[t] = TopPairs<T>(pairs_.get() + t * top_k, top_k);
    }
  }

  int64_t padded() const { return padded_; }
  Label* labels() { return labels_.get(); }

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
      delta[labels_[i]] = 2 * best_[i];  // running_sums.h makes half of C
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
      delta[i] = 2 * pair.delta;
      pairs[2 * i] = pair.first;
      pairs[2 * i + 1] = pair.second;
    }
  }

 private:
  const int64_t n_, padded_;
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

// Tables: [tile of neurons][coordinates of all axes][neurons of the tile].

template <class T>
struct TableLayout {
  int64_t n, dim, rows;  // rows of a table, all axes together
  const Scratch<T> values;
  const Scratch<T> diagonal;
  const Scratch<int32_t> row_of_slot;  // [axis][slot], as an offset into a tile

  TableLayout(const PlacementArgs<T>& args, int64_t padded, int64_t table_rows)
      : n(args.n),
        dim(args.dim),
        rows(table_rows),
        values(padded * table_rows),
        diagonal(padded),
        row_of_slot(args.dim * padded),
        padded_(padded) {
    allocate_pages(values, padded * rows, args.threads);
    int64_t first = 0;
    for (int64_t a = 0; a < dim; ++a) {
      for (int64_t i = 0; i < padded; ++i) {
        const int64_t place = i < n ? args.axes[a].place_of_slot[i] : 0;
        row_of_slot[a * padded + i] = static_cast<int32_t>((first + place) * kTile);
      }
      first += args.axes[a].place_count;
    }
  }

  T* neurons(int64_t first) const { return &values[first / kTile * kTile * rows + first % kTile]; }
  const int32_t* rows_of(int64_t axis) const { return &row_of_slot[axis * padded_]; }

 private:
  const int64_t padded_;
};

template <class T, int Dim>
struct TableProblem {
  int64_t n;
  const TableLayout<T>& tables;

  BIMT_INLINE void prefetch_next(int64_t, int64_t) const {}

  // C of the neurons along the lanes, in kLanes slots. The last axis first, as placement_cost does.
  BIMT_INLINE void placed(int64_t neuron, int64_t slot, Full<T>* value) const {
    const int64_t dim = Dim > 0 ? Dim : tables.dim;
    const T* const from = tables.neurons(neuron);
    const int32_t* const last = tables.rows_of(dim - 1) + slot;
    BIMT_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) value[i] = load<Full<T>>(from + last[i]);
    for (int64_t a = 0; a + 1 < dim; ++a) {
      const int32_t* const row = tables.rows_of(a) + slot;
      BIMT_UNROLL
      for (int i = 0; i < kLanes<T>; ++i) value[i] += load<Full<T>>(from + row[i]);
    }
  }

  BIMT_INLINE void deltas(int64_t row, int64_t col, int64_t, int64_t, Full<T>* delta) const {
    Full<T> mirror[kLanes<T>];
    placed(row, col, mirror);
    placed(col, row, delta);
    swap_form<T>(mirror, &tables.diagonal[row], &tables.diagonal[col], delta);
  }
};

// Moves the neurons that have weights to the front and returns how many they are: among the others no swap changes
// anything.
template <class T>
int64_t neurons_with_weights_first(const Scratch<bool>& weighted, TableLayout<T>* tables,
                                   typename Result<T>::Label* labels) {
  using Label = typename Result<T>::Label;
  const int64_t n = tables->n;
  int64_t count = 0;
  for (int64_t i = 0; i < n; ++i) count += weighted[i];
  if (n - count < 2) return n;
  const Scratch<Label> order(n);
  for (int64_t i = 0, front = 0, back = count; i < n; ++i)
    order[weighted[i] ? front++ : back++] = static_cast<Label>(i);
  for (int64_t to = 0; to < n; ++to) {
    const T* const old = tables->neurons(order[to]);
    T* const moved = tables->neurons(to);
    for (int64_t row = 0; row < tables->rows; ++row) moved[row * kTile] = to < count ? old[row * kTile] : T(0);
  }
  const Scratch<int32_t> rows(n);
  for (int64_t a = 0; a < tables->dim; ++a) {
    int32_t* const row_of_slot = const_cast<int32_t*>(tables->rows_of(a));
    for (int64_t i = 0; i < n; ++i) rows[i] = row_of_slot[order[i]];
    std::memcpy(row_of_slot, rows.get(), n * sizeof(int32_t));
  }
  for (int64_t i = 0; i < n; ++i) labels[i] = order[i];
  return count;
}

template <int Dim, class T>
void search_tables(const TableLayout<T>& tables, int64_t weighted, int threads, Result<T>* result) {
  const TableProblem<T, Dim> problem = {tables.n, tables};
  const Scratch<Item> items(list_items(tables.n, nullptr));
  const int64_t count = list_items(tables.n, items.get());
  parallel(threads, count, [&](int64_t index, int thread) {
    if (items[index].tile_row * kTile < weighted) result->search(problem, items[index], thread);
  });
}

template <class T, class Sum>
void run_tables(const PlacementArgs<T>& args, int64_t rows, int threads, Result<T>* result) {
  using Block = NeuronBlock<T, Sum>;
  TableLayout<T> tables(args, result->padded(), rows);
  const Scratch<bool> weighted(result->padded());
  const int64_t sum_count = Block::sum_count(args);
  const int64_t blocks = result->padded() / kNeurons, group = Block::group(args);
  const Scratch<Sum> memory(threads * group * sum_count);
  const auto make_tables = [&](int64_t index, const Sum* sums) {
    T* table = tables.neurons(index * kNeurons);
    BitsOf<T, Full<T>> any[kRows<T>] = {};
    for (int64_t a = 0; a < args.dim; ++a) {
      const PlacementAxis& axis = args.axes[a];
      Block::scan(axis, sums, axis.places, axis.place_count, [&](int64_t place, const Full<T>* value) {
        BIMT_UNROLL
        for (int g = 0; g < kRows<T>; ++g) {
          any[g] |= value[g] != 0;
          store(table + place * kTile + g * kLanes<T>, value[g]);
        }
      });
      sums += axis.knot_count * kNeurons;
      table += axis.place_count * kTile;
    }
    for (int64_t i = 0; i < kNeurons; ++i) weighted[index * kNeurons + i] = any[i / kLanes<T>][i % kLanes<T>] != 0;
  };
  parallel(threads, divide_up(blocks, group), [&](int64_t item, int thread) {
    Sum* const sums = &memory[thread * group * sum_count];
    const int64_t first = item * group, count = smaller(group, blocks - first);
    Block::gather(args, first, count, sums);
    for (int64_t b = 0; b < count; ++b) make_tables(first + b, sums + b * sum_count);
  });
  const int64_t count = neurons_with_weights_first(weighted, &tables, result->labels());
  for (int64_t i = 0; i < result->padded(); ++i) {
    const T* const neuron = tables.neurons(i);
    T sum = neuron[tables.rows_of(args.dim - 1)[i]];
    for (int64_t a = 0; a + 1 < args.dim; ++a) sum += neuron[tables.rows_of(a)[i]];
    tables.diagonal[i] = sum;
  }
  switch (args.dim) {
    case 1:
      return search_tables<1>(tables, count, threads, result);
    case 2:
      return search_tables<2>(tables, count, threads, result);
    default:
      return search_tables<0>(tables, count, threads, result);
  }
}

// Bands and panels: C for a pair of ranges of neurons.

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

// The knots and peers of every band.
template <class T>
class Bands {
 public:
  explicit Bands(const PlacementArgs<T>& args)
      : count_(divide_up(args.n, kBand<T>)),
        part_count_(args.part_count),
        knot_(count_ + 1),
        peer_((count_ + 1) * args.part_count) {
    const PlacementAxis& axis = args.axes[0];
    int64_t knot = 0, first_peer = 0;
    for (int64_t band = 0; band < count_; ++band) {
      knot_[band] = knot;
      const double last = axis.places[axis.place_of_slot[smaller(args.n, (band + 1) * kBand<T>) - 1]];
      while (knot < axis.knot_count && axis.knots[knot] <= last) ++knot;
    }
    knot_[count_] = axis.knot_count;  // those behind the last slot count in the totals only
    for (int64_t p = 0; p < part_count_; ++p) {
      int64_t peer = 0;
      for (int64_t band = 0; band <= count_; ++band) {
        while (peer < args.parts[p].peers && axis.knot_of_peer[first_peer + peer] < knot_[band]) ++peer;
        peer_[band * part_count_ + p] = peer;
      }
      first_peer += args.parts[p].peers;
    }
  }

  int64_t count() const { return count_; }
  int64_t first_knot(int64_t band) const { return knot_[band]; }
  int64_t most_knots() const {
    int64_t most = 0;
    for (int64_t band = 0; band < count_; ++band) most = larger(most, knot_[band + 1] - knot_[band]);
    return most;
  }

  template <class Sum>
  void gather(int64_t band, NeuronBlock<T, Sum>* block) const {
    block->gather(knot_[band], knot_[band + 1], &peer_[band * part_count_], &peer_[(band + 1) * part_count_]);
  }

 private:
  const int64_t count_, part_count_;
  const Scratch<int64_t> knot_, peer_;
};

template <class T, class Sum>
class BandSearch {
 public:
  using Block = NeuronBlock<T, Sum>;
  static constexpr int64_t kStride = kBand<T> + kGap;
  // Bands of columns in a work item, which walks along the rows of the weights.
  static constexpr int64_t kItemBands = 4;

  static int64_t bytes(int64_t n) {
    return divide_up(n, kBand<T>) * round_up(n, kTile) / kNeurons * kStoredSums * sizeof(double);
  }

  BandSearch(const PlacementArgs<T>& args, int threads, Result<T>* result)
      : args_(args),
        threads_(threads),
        result_(result),
        bands_(args),
        blocks_(result->padded() / kNeurons),
        sum_count_(bands_.most_knots() * kNeurons),
        sums_(threads * sum_count_),
        squares_(threads * 2 * kSquare),
        borders_(bands_.count() * blocks_ * kStoredSums),
        half_(blocks_ * kStoredSums),
        weighted_(bands_.count()),
        diagonal_(result->padded()) {
    allocate_pages(borders_, bands_.count() * blocks_ * kStoredSums, threads);
  }

  void run() {
    parallel(threads_, bands_.count(), [&](int64_t band, int thread) { sum_up(band, thread); });
    parallel(threads_, bands_.count(), [&](int64_t band, int thread) {
      find_weights(band);
      T* const square = &squares_[thread * 2 * kSquare];
      fill(band, band, thread, square);
      copy_diagonal(square, kStride, band * kBand<T>, band_end(band), diagonal_.get());
    });
    const int64_t runs = divide_up(bands_.count(), kItemBands);
    parallel(threads_, bands_.count() * runs, [&](int64_t item, int thread) {
      const int64_t row = item / runs, first = item % runs * kItemBands;
      for (int64_t col = larger(row, first); col < smaller(bands_.count(), first + kItemBands); ++col) {
        if (weighted_[row] || weighted_[col]) search(row, col, thread);
      }
    });
  }

 private:
  static constexpr int64_t kSquare = kBand<T> * kStride;

  int64_t band_end(int64_t band) const { return smaller(args_.n, (band + 1) * kBand<T>); }
  int64_t first_block(int64_t band) const { return band * kBand<T> / kNeurons; }
  int64_t last_block(int64_t band) const { return divide_up(band_end(band), kNeurons); }
  double* border(int64_t band, int64_t block) const { return &borders_[(band * blocks_ + block) * kStoredSums]; }

  // Borders and half totals of the neurons of a band.
  void sum_up(int64_t neurons, int thread) {
    Sum* const sums = &sums_[thread * sum_count_];
    for (int64_t band = 0; band < bands_.count(); ++band) {
      const int64_t first = bands_.first_knot(band), last = bands_.first_knot(band + 1);
      for (int64_t index = first_block(neurons); index < last_block(neurons); ++index) {
        Block block(args_, index, sums);
        bands_.gather(band, &block);
        Sums upto = {};
        if (band == 0) {
          upto.store_to(border(0, index));
        } else {
          upto.load_from(border(band, index));
        }
        for (int64_t l = first; l < last; ++l) {
          Block::advance(sums + (l - first) * kNeurons, args_.axes[0].knots[l], &upto);
        }
        if (band + 1 < bands_.count()) {
          upto.store_to(border(band + 1, index));
        } else {
          upto.halve();
          upto.store_to(&half_[index * kStoredSums]);
        }
      }
    }
  }

  // A total is zero only where every weight is, unless coefficients of both signs cancel.
  void find_weights(int64_t band) {
    bool any = false;
    for (int64_t p = 0; p < args_.part_count; ++p) any |= args_.parts[p].coefficient < 0;
    for (int64_t i = band * kBand<T>; i < band_end(band); ++i) {
      any |= half_[i / kNeurons * kStoredSums + i % kNeurons] != 0;
    }
    weighted_[band] = any;
  }

  // C of the neurons of one band in the slots of another.
  void fill(int64_t neurons, int64_t slots, int thread, T* square) {
    const PlacementAxis& axis = args_.axes[0];
    const Sum* const sums = &sums_[thread * sum_count_];
    const int64_t first_knot = bands_.first_knot(slots), last_knot = bands_.first_knot(slots + 1);
    for (int64_t index = first_block(neurons); index < last_block(neurons); ++index) {
      Block block(args_, index, &sums_[thread * sum_count_]);
      bands_.gather(slots, &block);
      Sums upto, half;
      upto.load_from(border(slots, index));
      half.load_from(&half_[index * kStoredSums]);
      int64_t l = first_knot;
      T* to = square + (index - first_block(neurons)) * kNeurons;
      for (int64_t slot = slots * kBand<T>; slot < band_end(slots); ++slot, to += kStride) {
        const double t = axis.places[axis.place_of_slot[slot]];
        for (; l < last_knot && axis.knots[l] <= t; ++l) {
          Block::advance(sums + (l - first_knot) * kNeurons, axis.knots[l], &upto);
        }
        Full<T> value[kRows<T>];
        Block::evaluate(t, upto, half, value);
        BIMT_UNROLL
        for (int g = 0; g < kRows<T>; ++g) store(to + g * kLanes<T>, value[g]);
      }
    }
  }

  void search(int64_t row, int64_t col, int thread) {
    T* const row_in_col = &squares_[thread * 2 * kSquare];
    T* const col_in_row = row == col ? row_in_col : row_in_col + kSquare;
    fill(row, col, thread, row_in_col);
    if (row != col) fill(col, row, thread, col_in_row);
    const PairProblem<T> problem = {args_.n,    row * kBand<T>, col * kBand<T>, row_in_col,
                                    col_in_row, kStride,        diagonal_.get()};
    for (int64_t tile = row * kBand<T> / kTile; tile < divide_up(band_end(row), kTile); ++tile) {
      result_->search(problem, tiles_between(tile, col * kBand<T>, band_end(col)), thread);
    }
  }

  const PlacementArgs<T>& args_;
  const int threads_;
  Result<T>* const result_;
  const Bands<T> bands_;
  const int64_t blocks_, sum_count_;
  const Scratch<Sum> sums_;
  const Scratch<T> squares_;
  const Scratch<double> borders_, half_;
  const Scratch<bool> weighted_;
  const Scratch<T> diagonal_;
};

// The distinct coordinates of the slots of every panel: for axis a and panel q, places[a * n + q * size] and so on.
template <class T>
struct PanelPlaces {
  const Scratch<double> places;
  const Scratch<int64_t> count;  // [axis][panel]
  const Scratch<int32_t> place_of_slot;

  PanelPlaces(const PlacementArgs<T>& args, int64_t size)
      : places(args.dim * args.n), count(args.dim * divide_up(args.n, size)), place_of_slot(args.dim * args.n) {
    const int64_t panels = divide_up(args.n, size);
    for (int64_t a = 0; a < args.dim; ++a) {
      const PlacementAxis& axis = args.axes[a];
      const Scratch<int32_t> rank(axis.place_count);
      for (int64_t q = 0; q < panels; ++q) {
        std::memset(rank.get(), 0, axis.place_count * sizeof(int32_t));
        const int64_t first = q * size, last = smaller(args.n, first + size);
        for (int64_t slot = first; slot < last; ++slot) rank[axis.place_of_slot[slot]] = 1;
        int32_t next = 0;
        for (int64_t place = 0; place < axis.place_count; ++place) {
          if (rank[place] == 0) continue;
          places[a * args.n + first + next] = axis.places[place];
          rank[place] = next++;
        }
        count[a * panels + q] = next;
        for (int64_t slot = first; slot < last; ++slot) {
          place_of_slot[a * args.n + slot] = rank[axis.place_of_slot[slot]];
        }
      }
    }
  }
};

template <class T, class Sum>
class PanelSearch {
 public:
  using Block = NeuronBlock<T, Sum>;

  // weighted: how many neurons, the first ones, have weights. size: slots of a panel, a multiple of kTile.
  PanelSearch(const PlacementArgs<T>& args, int64_t weighted, int64_t size, int threads, Result<T>* result)
      : args_(args),
        weighted_(weighted),
        size_(size),
        stride_(size + kGap),
        panels_(divide_up(args.n, size)),
        threads_(threads),
        result_(result),
        places_(args, size),
        sum_count_(Block::sum_count(args)),
        group_(Block::group(args)),
        sums_(threads * group_ * sum_count_),
        tables_(threads * table_count()),
        squares_((panels_ > 1 ? 2 : 1) * size * stride_),
        diagonal_(result->padded()) {
    allocate_pages(squares_, (panels_ > 1 ? 2 : 1) * size * stride_, threads);
  }

  void run() {
    T* const row_in_col = squares_.get();
    for (int64_t row = 0; row < panels_; ++row) {
      fill(row, row, row_in_col);
      copy_diagonal(row_in_col, stride_, row * size_, end(row), diagonal_.get());
      search(row, row, row_in_col, row_in_col);
    }
    for (int64_t row = 0; row * size_ < weighted_; ++row) {
      for (int64_t col = row + 1; col < panels_; ++col) {
        T* const col_in_row = row_in_col + size_ * stride_;
        fill(row, col, row_in_col);
        fill(col, row, col_in_row);
        search(row, col, row_in_col, col_in_row);
      }
    }
  }

 private:
  int64_t end(int64_t panel) const { return smaller(args_.n, (panel + 1) * size_); }

  int64_t table_count() const {
    int64_t count = 0;
    for (int64_t a = 0; a < args_.dim; ++a) count += smaller(size_, args_.axes[a].place_count) * kNeurons;
    return count;
  }

  // C of the neurons of one panel in the slots of another.
  void fill(int64_t neurons, int64_t slots, T* square) {
    const int64_t first = neurons * size_ / kNeurons;
    const int64_t last = larger(first, divide_up(smaller(weighted_, end(neurons)), kNeurons)), blocks = last - first;
    clear(blocks * kNeurons, slots, square);
    parallel(threads_, divide_up(blocks, group_), [&](int64_t item, int thread) {
      Sum* const sums = &sums_[thread * group_ * sum_count_];
      const int64_t begin = item * group_, count = smaller(group_, blocks - begin);
      Block::gather(args_, first + begin, count, sums);
      for (int64_t b = 0; b < count; ++b) {
        fill_block(sums + b * sum_count_, slots, &tables_[thread * table_count()], square + (begin + b) * kNeurons);
      }
    });
  }

  // C of the neurons from the `first` of a panel on, who have no weights.
  void clear(int64_t first, int64_t slots, T* square) {
    for (int64_t slot = slots * size_; slot < end(slots) && first < size_; ++slot, square += stride_) {
      std::memset(square + first, 0, (size_ - first) * sizeof(T));
    }
  }

  // The same for a block whose sums are there.
  void fill_block(const Sum* sums, int64_t slots, T* tables, T* to) {
    T* table = tables;
    for (int64_t a = 0; a < args_.dim; ++a) {
      const int64_t count = places_.count[a * panels_ + slots];
      const double* const places = &places_.places[a * args_.n + slots * size_];
      Block::scan(args_.axes[a], sums, places, count, [&](int64_t place, const Full<T>* value) {
        for (int g = 0; g < kRows<T>; ++g) store(table + place * kNeurons + g * kLanes<T>, value[g]);
      });
      sums += args_.axes[a].knot_count * kNeurons;
      table += count * kNeurons;
    }
    for (int64_t slot = slots * size_; slot < end(slots); ++slot, to += stride_) add_up(slot, slots, tables, to);
  }

  // The last axis first, as placement_cost does.
  void add_up(int64_t slot, int64_t panel, const T* tables, T* to) const {
    const T* table = tables;
    for (int64_t a = 0; a + 1 < args_.dim; ++a) table += places_.count[a * panels_ + panel] * kNeurons;
    Full<T> sum[kRows<T>] = {};
    add_row(table, args_.dim - 1, slot, sum);
    table = tables;
    for (int64_t a = 0; a + 1 < args_.dim; ++a) {
      add_row(table, a, slot, sum);
      table += places_.count[a * panels_ + panel] * kNeurons;
    }
    for (int g = 0; g < kRows<T>; ++g) store(to + g * kLanes<T>, sum[g]);
  }

  void add_row(const T* table, int64_t axis, int64_t slot, Full<T>* sum) const {
    const T* const row = table + places_.place_of_slot[axis * args_.n + slot] * kNeurons;
    for (int g = 0; g < kRows<T>; ++g) sum[g] += load<Full<T>>(row + g * kLanes<T>);
  }

  void search(int64_t row, int64_t col, const T* row_in_col, const T* col_in_row) {
    const PairProblem<T> problem = {args_.n,    row * size_, col * size_,    row_in_col,
                                    col_in_row, stride_,     diagonal_.get()};
    const int64_t first = row * size_ / kTile, last = divide_up(smaller(weighted_, end(row)), kTile);
    parallel(threads_, larger(0, last - first), [&](int64_t tile, int thread) {
      result_->search(problem, tiles_between(first + tile, col * size_, end(col)), thread);
    });
  }

  const PlacementArgs<T>& args_;
  const int64_t weighted_, size_, stride_, panels_;
  const int threads_;
  Result<T>* const result_;
  const PanelPlaces<T> places_;
  const int64_t sum_count_, group_;
  const Scratch<Sum> sums_;
  const Scratch<T> tables_, squares_, diagonal_;
};

// Neurons that have weights moved to the front, where most have none: among the others no swap changes anything, and
// their placement cost is zero.
template <class T>
struct Pruned {
  PlacementArgs<T> args;
  int64_t weighted;

  Pruned(const PlacementArgs<T>& all, int threads, typename Result<T>::Label* labels)
      : args(all), weighted(all.n), order_(all.n), axes_(all.dim), slots_(all.n * all.dim) {
    const int64_t chunks = divide_up(all.n, kPrunedChunk);
    const Scratch<bool> any(all.n);
    parallel(threads, chunks, [&](int64_t chunk, int) {
      find_weights(chunk * kPrunedChunk, smaller(all.n, (chunk + 1) * kPrunedChunk), any.get());
    });
    int64_t count = 0;
    for (int64_t i = 0; i < all.n; ++i) count += any[i];
    if (2 * count > all.n) return;
    weighted = count;
    for (int64_t i = 0, front = 0, back = count; i < all.n; ++i) order_[any[i] ? front++ : back++] = int32_t(i);
    for (int64_t a = 0; a < all.dim; ++a) {
      axes_[a] = all.axes[a];
      axes_[a].place_of_slot = &slots_[a * all.n];
      for (int64_t i = 0; i < all.n; ++i) slots_[a * all.n + i] = all.axes[a].place_of_slot[order_[i]];
    }
    for (int64_t i = 0; i < all.n; ++i) labels[i] = order_[i];
    args.axes = axes_.get();
    args.neuron_order = order_.get();
  }

 private:
  static constexpr int64_t kPrunedChunk = 256;

  // Looks no further than the first weight of every neuron.
  void find_weights(int64_t first, int64_t last, bool* any) const {
    std::memset(any + first, 0, last - first);
    for (int64_t p = 0; p < args.part_count; ++p) {
      const PlacementPart<T>& part = args.parts[p];
      const T* const weight = part.weight;
      if (part.neuron_stride == 1) {
        int64_t found = 0;
        for (int64_t k = 0; k < part.peers && found < last - first; ++k) {
          const T* const row = weight + k * part.peer_stride;
          for (int64_t i = first; i < last; ++i) any[i] |= row[i] != 0;
          found = 0;
          for (int64_t i = first; i < last; ++i) found += any[i];
        }
        continue;
      }
      for (int64_t i = first; i < last; ++i) {
        const T* const row = weight + i * part.neuron_stride;
        for (int64_t k = 0; k < part.peers && !any[i]; ++k) any[i] = row[k * part.peer_stride] != 0;
      }
    }
  }

  const Scratch<int32_t> order_;
  const Scratch<PlacementAxis> axes_;
  const Scratch<int32_t> slots_;
};

template <class T>
int64_t panel_size(int64_t n, int64_t memory) {
  if (n * n * int64_t(sizeof(T)) <= memory) return round_up(n, kTile);
  int64_t size = kTile;
  while (2 * (size + kTile) * (size + kTile) * int64_t(sizeof(T)) <= memory) size += kTile;
  return smaller(size, round_up(n, kTile));
}

// Whether slots and the peers of every part lie in the order of a single axis.
template <class T>
bool in_order(const PlacementArgs<T>& args) {
  if (args.dim != 1) return false;
  const PlacementAxis& axis = args.axes[0];
  for (int64_t i = 1; i < args.n; ++i) {
    if (axis.place_of_slot[i] < axis.place_of_slot[i - 1]) return false;
  }
  const int32_t* knot = axis.knot_of_peer;
  for (int64_t p = 0; p < args.part_count; ++p) {
    for (int64_t k = 1; k < args.parts[p].peers; ++k) {
      if (knot[k] < knot[k - 1]) return false;
    }
    knot += args.parts[p].peers;
  }
  return true;
}

template <class T>
bool weights_finite(const PlacementArgs<T>& args) {
  for (int64_t p = 0; p < args.part_count; ++p) {
    const PlacementPart<T>& part = args.parts[p];
    for (int64_t i = 0; i < args.n; ++i) {
      for (int64_t k = 0; k < part.peers; ++k) {
        const T w = part.weight[i * part.neuron_stride + k * part.peer_stride];
        if (w - w != 0) return false;
      }
    }
  }
  return true;
}

template <class T, class Sum>
void run(const PlacementSwapArgs<T>& args, int threads, Result<T>* result) {
  const PlacementArgs<T>& placement = args.placement;
  int64_t places = 0;
  for (int64_t a = 0; a < placement.dim; ++a) places += placement.axes[a].place_count;
  if (result->padded() * places * int64_t(sizeof(T)) <= args.memory) {
    run_tables<T, Sum>(placement, places, threads, result);
  } else if (BandSearch<T, Sum>::bytes(placement.n) <= args.memory && in_order(placement)) {
    BandSearch<T, Sum>(placement, threads, result).run();
  } else {
    const Pruned<T> pruned(placement, threads, result->labels());
    const int64_t size = panel_size<T>(placement.n, args.memory);
    PanelSearch<T, Sum>(pruned.args, pruned.weighted, size, threads, result).run();
  }
}

template <class T>
Status run_swaps(const PlacementSwapArgs<T>& args, T* delta, int64_t* partner, T* top_delta, int64_t* top_pairs) {
  const PlacementArgs<T>& placement = args.placement;
  int64_t peers = 0;
  for (int64_t p = 0; p < placement.part_count; ++p) peers += placement.parts[p].peers;
  const bool serial = placement.n * (peers + placement.n) < kSerialElements;
  const int threads = serial ? 1 : int(larger(1, smaller(placement.threads, divide_up(placement.n, kNeurons))));
  Result<T> result(placement.n, args.top_k, threads);
  if (placement.n > 0 && placement.dim > 0) {
    placement.crowded ? run<T, double>(args, threads, &result) : run<T, T>(args, threads, &result);
    if (!result.good()) return weights_finite(placement) ? Status::kCost : Status::kWeights;
  } else if (!weights_finite(placement)) {
    return Status::kWeights;
  }
  if (delta != nullptr) result.write_best(delta, partner);
  if (top_delta != nullptr) result.write_top(top_delta, top_pairs);
  return Status::kOk;
}

}  // namespace

template <>
Status placement_swaps<BIMT_ISA, float>(const PlacementSwapArgs<float>& args, float* delta, int64_t* partner,
                                        float* top_delta, int64_t* top_pairs) {
  return run_swaps(args, delta, partner, top_delta, top_pairs);
}

template <>
Status placement_swaps<BIMT_ISA, double>(const PlacementSwapArgs<double>& args, double* delta, int64_t* partner,
                                         double* top_delta, int64_t* top_pairs) {
  return run_swaps(args, delta, partner, top_delta, top_pairs);
}

}  // namespace bimt

// Best swaps on the placement cost C[i, p] = sum over axes of f_i(coordinate of p) of a separable metric, without C.
//
// C is made again, tile by tile, from the sums over the peers that f is made of, in one of three ways:
//
//   tables   few distinct coordinates, as on a grid: f of every neuron at each of them is kept, n * (coordinates of
//            all axes) numbers, and a tile of C is looked up. Reads the weights once.
//   bands    l1 on one axis, slots and peers in its order, as on a line: the running sums of every neuron at the border
//            of every band of slots are kept, 16 bytes for every kBand entries of C, and a pair of bands takes them up
//            from there. Reads the weights twice: once for the sums, once for the tiles.
//   panels   anything else: C for pairs of panels of b slots, 2 b^2 numbers, each from the whole weights of its
//            neurons. Reads the weights n / b times; b follows from the memory, a fixed part of the weights, so that
//            n / b does not grow with n. Where most neurons have no weights they are left out.
//
// The first that fits in PlacementSwapArgs::memory is taken. Each costs O(n m + n^2).
// An entry of C has the same bits in whatever tile it is made, so equal slots give deltas of exactly zero.

#include "cpu/panel_search.h"
#include "cpu/running_sums.h"

namespace bimt {
namespace {

constexpr int64_t kBandBytes = 1024;
constexpr int64_t kSerialElements = 1 << 14;
template <class T>
constexpr int64_t kBand = kBandBytes / int64_t(sizeof(T));

// Tables: [tile of neurons][coordinates of all axes][neurons of the tile].

template <class T>
struct TableLayout {
  int64_t n, dim, rows;  // rows of a table, all axes together
  const Scratch<T> values;
  const Scratch<T> diagonal;
  const Scratch<int32_t> row_of_slot;  // [axis][slot], as an offset into a tile

  template <class S>
  TableLayout(const PlacementArgs<S>& args, int64_t padded, int64_t table_rows)
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
                                   typename BestSwaps<T>::Label* labels) {
  using Label = typename BestSwaps<T>::Label;
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
void search_tables(const TableLayout<T>& tables, int64_t weighted, int threads, BestSwaps<T>* result) {
  const TableProblem<T, Dim> problem = {tables.n, tables};
  const Scratch<Item> items(list_items(tables.n, nullptr));
  const int64_t count = list_items(tables.n, items.get());
  parallel(threads, count, [&](int64_t index, int thread) {
    if (items[index].tile_row * kTile < weighted) result->search(problem, items[index], thread);
  });
}

template <class S, class Sum>
void run_tables(const PlacementArgs<S>& args, int64_t rows, int threads, BestSwaps<Compute<S>>* result) {
  using T = Compute<S>;
  using Block = NeuronBlock<S, Sum>;
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
      Block::scan(args.metric, axis, sums, axis.places, axis.place_count, [&](int64_t place, const Full<T>* value) {
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

// The knots and peers of every band.
template <class S>
class Bands {
  using T = Compute<S>;

 public:
  explicit Bands(const PlacementArgs<S>& args)
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
  void gather(int64_t band, NeuronBlock<S, Sum>* block) const {
    block->gather(knot_[band], knot_[band + 1], &peer_[band * part_count_], &peer_[(band + 1) * part_count_]);
  }

 private:
  const int64_t count_, part_count_;
  const Scratch<int64_t> knot_, peer_;
};

template <class S, class Sum>
class BandSearch {
  using T = Compute<S>;
  using Block = NeuronBlock<S, Sum>;

 public:
  static constexpr int64_t kStride = kBand<T> + kGap;
  // Bands of columns in a work item, which walks along the rows of the weights.
  static constexpr int64_t kItemBands = 4;

  static int64_t bytes(int64_t n) {
    return divide_up(n, kBand<T>) * round_up(n, kTile) / kNeurons * kStoredSums * sizeof(double);
  }

  BandSearch(const PlacementArgs<S>& args, int threads, BestSwaps<T>* result)
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

  const PlacementArgs<S>& args_;
  const int threads_;
  BestSwaps<T>* const result_;
  const Bands<S> bands_;
  const int64_t blocks_, sum_count_;
  const Scratch<Sum> sums_;
  const Scratch<T> squares_;
  const Scratch<double> borders_, half_;
  const Scratch<bool> weighted_;
  const Scratch<T> diagonal_;
};

// The distinct coordinates of the slots of every panel: for axis a and panel q, places[a * n + q * size] and so on.
struct PanelPlaces {
  const Scratch<double> places;
  const Scratch<int64_t> count;  // [axis][panel]
  const Scratch<int32_t> place_of_slot;

  template <class S>
  PanelPlaces(const PlacementArgs<S>& args, int64_t size)
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

// C of the neurons of one panel in the slots of another, from the sums of a block of neurons at a time.
template <class S, class Sum>
class SumPanels {
  using T = Compute<S>;
  using Block = NeuronBlock<S, Sum>;

 public:
  // size: slots of a panel.
  SumPanels(const PlacementArgs<S>& args, int64_t size, int threads)
      : args_(args),
        size_(size),
        panels_(divide_up(args.n, size)),
        threads_(threads),
        places_(args, size),
        sum_count_(Block::sum_count(args)),
        group_(Block::group(args)),
        sums_(threads * group_ * sum_count_),
        tables_(threads * table_count()) {}

  void fill(int64_t first_neuron, int64_t last_neuron, int64_t first_slot, int64_t last_slot, T* square,
            int64_t stride) const {
    const int64_t first = first_neuron / kNeurons, blocks = divide_up(last_neuron - first_neuron, kNeurons);
    parallel(threads_, divide_up(blocks, group_), [&](int64_t item, int thread) {
      Sum* const sums = &sums_[thread * group_ * sum_count_];
      T* const tables = &tables_[thread * table_count()];
      const int64_t begin = item * group_, count = smaller(group_, blocks - begin);
      Block::gather(args_, first + begin, count, sums);
      for (int64_t b = 0; b < count; ++b) {
        make_tables(sums + b * sum_count_, first_slot, tables);
        T* to = square + (begin + b) * kNeurons;
        for (int64_t slot = first_slot; slot < last_slot; ++slot, to += stride) add_up(slot, tables, to);
      }
    });
  }

 private:
  int64_t table_count() const {
    int64_t count = 0;
    for (int64_t a = 0; a < args_.dim; ++a) count += smaller(size_, args_.axes[a].place_count) * kNeurons;
    return count;
  }

  int64_t place_count(int64_t axis, int64_t slot) const { return places_.count[axis * panels_ + slot / size_]; }

  // f of a block of neurons at the distinct coordinates of a panel, axis after axis.
  void make_tables(const Sum* sums, int64_t first_slot, T* table) const {
    for (int64_t a = 0; a < args_.dim; ++a) {
      const int64_t count = place_count(a, first_slot);
      const double* const places = &places_.places[a * args_.n + first_slot];
      Block::scan(args_.metric, args_.axes[a], sums, places, count, [&](int64_t place, const Full<T>* value) {
        for (int g = 0; g < kRows<T>; ++g) store(table + place * kNeurons + g * kLanes<T>, value[g]);
      });
      sums += args_.axes[a].knot_count * kNeurons;
      table += count * kNeurons;
    }
  }

  // The last axis first, as placement_cost does.
  void add_up(int64_t slot, const T* tables, T* to) const {
    const T* table = tables;
    for (int64_t a = 0; a + 1 < args_.dim; ++a) table += place_count(a, slot) * kNeurons;
    Full<T> sum[kRows<T>] = {};
    add_row(table, args_.dim - 1, slot, sum);
    table = tables;
    for (int64_t a = 0; a + 1 < args_.dim; ++a) {
      add_row(table, a, slot, sum);
      table += place_count(a, slot) * kNeurons;
    }
    for (int g = 0; g < kRows<T>; ++g) store(to + g * kLanes<T>, sum[g]);
  }

  void add_row(const T* table, int64_t axis, int64_t slot, Full<T>* sum) const {
    const T* const row = table + places_.place_of_slot[axis * args_.n + slot] * kNeurons;
    for (int g = 0; g < kRows<T>; ++g) sum[g] += load<Full<T>>(row + g * kLanes<T>);
  }

  const PlacementArgs<S>& args_;
  const int64_t size_, panels_;
  const int threads_;
  const PanelPlaces places_;
  const int64_t sum_count_, group_;
  const Scratch<Sum> sums_;
  const Scratch<T> tables_;
};

// The neurons, and their slots, in another order, or as they are where `order` is null.
template <class S>
struct Reordered {
  PlacementArgs<S> args;

  Reordered(const PlacementArgs<S>& all, const int32_t* order) : args(all), axes_(all.dim), slots_(all.n * all.dim) {
    if (order == nullptr) return;
    for (int64_t a = 0; a < all.dim; ++a) {
      axes_[a] = all.axes[a];
      axes_[a].place_of_slot = &slots_[a * all.n];
      for (int64_t i = 0; i < all.n; ++i) slots_[a * all.n + i] = all.axes[a].place_of_slot[order[i]];
    }
    args.axes = axes_.get();
    args.neuron_order = order;
  }

 private:
  const Scratch<PlacementAxis> axes_;
  const Scratch<int32_t> slots_;
};

template <class S, class Sum>
void run_panels(const PlacementSwapArgs<S>& args, int threads, BestSwaps<Compute<S>>* result) {
  const PlacementArgs<S>& all = args.placement;
  const WeightedFirst<S> weighted(all.parts, all.part_count, all.n, threads);
  const Reordered<S> reordered(all, weighted.order());
  result->relabel(weighted.order());
  PanelSearch<Compute<S>> search(all.n, weighted.count(), args.memory, threads, result);
  const SumPanels<S, Sum> panels(reordered.args, search.size(), threads);
  search.run([&](auto... square) { panels.fill(square...); });
}

// Whether slots and the peers of every part lie in the order of a single axis.
template <class S>
bool in_order(const PlacementArgs<S>& args) {
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

template <class S, class Sum>
void run(const PlacementSwapArgs<S>& args, int threads, BestSwaps<Compute<S>>* result) {
  const PlacementArgs<S>& placement = args.placement;
  int64_t places = 0;
  for (int64_t a = 0; a < placement.dim; ++a) places += placement.axes[a].place_count;
  const bool bands = placement.metric == int(MetricCode::kL1) && BandSearch<S, Sum>::bytes(placement.n) <= args.memory;
  if (result->padded() * places * int64_t(sizeof(Compute<S>)) <= args.memory) {
    run_tables<S, Sum>(placement, places, threads, result);
  } else if (bands && in_order(placement)) {
    BandSearch<S, Sum>(placement, threads, result).run();
  } else {
    run_panels<S, Sum>(args, threads, result);
  }
}

template <class S>
Status run_swaps(const PlacementSwapArgs<S>& args, const SwapTargets<Compute<S>>& to) {
  using T = Compute<S>;
  const PlacementArgs<S>& placement = args.placement;
  int64_t peers = 0;
  for (int64_t p = 0; p < placement.part_count; ++p) peers += placement.parts[p].peers;
  const bool serial = placement.n * (peers + placement.n) < kSerialElements;
  const int threads = serial ? 1 : int(larger(1, smaller(placement.threads, divide_up(placement.n, kNeurons))));
  const T scale = placement.metric == int(MetricCode::kL1) ? 2 : 1;  // running_sums.h makes half of an l1 cost
  BestSwaps<T> found(placement.n, to.top_k, scale, threads);
  if (placement.n > 0 && placement.dim > 0) {
    placement.crowded ? run<S, double>(args, threads, &found) : run<S, T>(args, threads, &found);
  } else if (!weights_finite(placement.parts, placement.part_count, placement.n)) {
    return Status::kWeights;
  }
  return write_swaps(&found, placement.parts, placement.part_count, placement.n, to);
}

}  // namespace

#define BIMT_INSTANTIATE(S)                                                                                  \
  template <>                                                                                                \
  Status placement_swaps<BIMT_ISA, S>(const PlacementSwapArgs<S>& args, const SwapTargets<Compute<S>>& to) { \
    return run_swaps(args, to);                                                                              \
  }

BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace bimt

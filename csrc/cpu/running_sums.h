// Running sums of a block of neurons over the knots of an axis: |weight| and its moment, neurons along the vectors.
//
// f(t) = sum |w_k| |t - y_k| = 2 (t (a(t) - A / 2) - (b(t) - B / 2)), with a(t) the weights of the peers up to t, b(t)
// their moments, A and B the same of all. a and b depend on nothing but t, so f(t) has the same bits wherever the sums
// were taken up from. What is made here is f / 2: the factor, which is exact, is left to the end.
#pragma once

#include "cpu/axis_scans.h"
#include "cpu/weight_tile.h"

namespace bimt {
namespace {

// Peers, and neurons, that are visited together.
constexpr int64_t kChunk = 256;

// The sums up to some place, or of all knots.
struct Sums {
  Wide weight[kSums], moment[kSums];

  void load_from(const double* from) {
    widen(from, weight);
    widen(from + kNeurons, moment);
  }

  void halve() {
    for (int i = 0; i < kSums; ++i) {
      weight[i] *= 0.5;
      moment[i] *= 0.5;
    }
  }

  void store_to(double* to) const {
    for (int i = 0; i < kSums; ++i) {
      store(to + i * kWide, weight[i]);
      store(to + kNeurons + i * kWide, moment[i]);
    }
  }
};
constexpr int64_t kStoredSums = 2 * kNeurons;

template <class S, class Sum>
class NeuronBlock {
  using T = Compute<S>;

 public:
  static int64_t sum_count(const PlacementArgs<S>& args) {
    int64_t count = 0;
    for (int64_t a = 0; a < args.dim; ++a) count += args.axes[a].knot_count * kNeurons;
    return count;
  }

  // sums: memory for the knots that will be gathered at a time.
  NeuronBlock(const PlacementArgs<S>& args, int64_t block, Sum* sums)
      : args_(args), first_(block * kNeurons), neurons_(larger(0, smaller(kNeurons, args.n - first_))), sums_(sums) {}

  // |weight| by knot, axis after axis, for several blocks at a time: then wider parts of the weights' rows are read,
  // where neurons lie along them, and their pages are not left and entered again for every block.
  static void gather(const PlacementArgs<S>& args, int64_t first_block, int64_t blocks, Sum* sums) {
    const int64_t count = sum_count(args);
    std::memset(sums, 0, blocks * count * sizeof(Sum));
    int64_t first_peer = 0;
    for (int64_t p = 0; p < args.part_count; ++p) {
      const PlacementPart<S>& part = args.parts[p];
      for (int64_t k = 0; k < part.peers; k += kChunk) {
        for (int64_t b = 0; b < blocks; ++b) {
          NeuronBlock block(args, first_block + b, sums + b * count);
          block.next_block_ = blocks > 1;
          block.gather(part, first_peer, k, smaller(part.peers, k + kChunk), 0);
        }
      }
      first_peer += part.peers;
    }
  }

  // As many blocks as have their sums in the second-level cache.
  static int64_t group(const PlacementArgs<S>& args) {
    constexpr int64_t kBytes = 512 << 10;
    return larger(1, smaller(kChunk / kNeurons, kBytes / larger(1, sum_count(args) * int64_t(sizeof(Sum)))));
  }

  // The same for one block and the knots [first_knot, last_knot) of the only axis, which are the peers
  // [begin[p], end[p]) of each part. Expects to be called for the same peers of the next block.
  void gather(int64_t first_knot, int64_t last_knot, const int64_t* begin, const int64_t* end) {
    next_block_ = true;
    std::memset(sums_, 0, (last_knot - first_knot) * kNeurons * sizeof(Sum));
    int64_t first_peer = 0;
    for (int64_t p = 0; p < args_.part_count; ++p) {
      gather(args_.parts[p], first_peer, begin[p], end[p], first_knot);
      first_peer += args_.parts[p].peers;
    }
  }

  // sums: of the knot `knot`.
  static BIMT_INLINE void advance(const Sum* sums, double knot, Sums* to) {
    Wide here[kSums];
    widen(sums, here);
    BIMT_UNROLL
    for (int i = 0; i < kSums; ++i) {
      to->weight[i] += here[i];
      to->moment[i] += here[i] * knot;
    }
  }

  static BIMT_INLINE void evaluate(double t, const Sums& upto, const Sums& half, Full<T>* value) {
    Wide wide[kSums];
    BIMT_UNROLL
    for (int i = 0; i < kSums; ++i) {
      wide[i] = (upto.weight[i] - half.weight[i]) * t - (upto.moment[i] - half.moment[i]);
    }
    narrow(wide, value);
  }

  // Calls emit(index, values) for the places in order; sums are those of the axis. l1 values are half of f.
  template <class Emit>
  BIMT_INLINE static void scan(int metric, const PlacementAxis& axis, const Sum* sums, const double* places,
                               int64_t count, Emit emit) {
    if (metric == int(MetricCode::kSql2)) {
      scan_moments<T>(axis, sums, places, count, emit);
    } else if (metric == int(MetricCode::kTorusL1)) {
      scan_circle<T>(axis, sums, places, count, emit);
    } else {
      scan_line(axis, sums, places, count, emit);
    }
  }

 private:
  template <class Emit>
  static void scan_line(const PlacementAxis& axis, const Sum* sums, const double* places, int64_t count, Emit emit) {
    Sums half = {}, upto = {};
    for (int64_t l = 0; l < axis.knot_count; ++l) advance(sums + l * kNeurons, axis.knots[l], &half);
    half.halve();
    int64_t l = 0;
    for (int64_t place = 0; place < count; ++place) {
      const double t = places[place];
      for (; l < axis.knot_count && axis.knots[l] <= t; ++l) advance(sums + l * kNeurons, axis.knots[l], &upto);
      Full<T> value[kRows<T>];
      evaluate(t, upto, half, value);
      emit(place, value);
    }
  }

  void gather(const PlacementPart<S>& part, int64_t first_peer, int64_t begin, int64_t end, int64_t first_knot) {
    if (args_.neuron_order != nullptr) return gather_in_order(part, first_peer, begin, end, first_knot);
    const S* const weight = part.weight + first_ * part.neuron_stride;
    const bool whole = neurons_ == kNeurons;
    const int64_t next = kNeurons * part.neuron_stride;
    Tile<T> tile;
    for (int64_t k = begin; k < end; k += kLanes<T>) {
      const S* const from = weight + k * part.peer_stride;
      const int64_t peers = smaller(kLanes<T>, end - k);
      const bool direct = !kNarrow<S> && whole && part.neuron_stride == 1;
      if (!direct) fill_tile(from, part, peers, neurons_, next_block_ ? next : kPrefetchColumns, &tile);
      const T* const rows = direct ? reinterpret_cast<const T*>(from) : tile.data;
      const int64_t stride = direct ? part.peer_stride : kNeurons;
      const int64_t ahead = next_block_ ? next : kPrefetchRows * stride;
      add_rows(rows, stride, peers, first_peer + k, first_knot, ahead, static_cast<T>(part.coefficient));
    }
  }

  // The same for neurons that do not lie together.
  void gather_in_order(const PlacementPart<S>& part, int64_t first_peer, int64_t begin, int64_t end,
                       int64_t first_knot) {
    const int32_t* const order = args_.neuron_order + first_;
    const bool by_peer = part.neuron_stride == 1;
    Tile<T> tile = {};
    for (int64_t k = begin; k < end; k += kLanes<T>) {
      const int64_t peers = smaller(kLanes<T>, end - k);
      const S* const from = part.weight + k * part.peer_stride;
      for (int64_t j = 0; j < peers && by_peer; ++j) {
        const S* const row = from + j * part.peer_stride;
        for (int64_t i = 0; i < neurons_; ++i) tile.data[j * kNeurons + i] = widened(row[order[i]]);
      }
      for (int64_t i = 0; i < neurons_ && !by_peer; ++i) {
        const S* const row = from + order[i] * part.neuron_stride;
        for (int64_t j = 0; j < peers; ++j) tile.data[j * kNeurons + i] = widened(row[j * part.peer_stride]);
      }
      add_rows(tile.data, kNeurons, peers, first_peer + k, first_knot, 0, static_cast<T>(part.coefficient));
    }
  }

  static constexpr int kSumRows = kNeurons / kLanes<Sum>;
  using Row = Full<Sum>[kSumRows];

  void add_rows(const T* rows, int64_t stride, int64_t peers, int64_t first_peer, int64_t first_knot, int64_t ahead,
                T coefficient) {
    const int64_t runs = axis_of_runs(first_peer, peers);
    Sum* in_run = nullptr;
    Row run = {};
    for (int64_t k = 0; k < peers; ++k) {
      const T* const row = rows + k * stride;
      prefetch(row + ahead);
      prefetch(row + ahead + 64 / sizeof(T));
      Row weight;
      read(row, coefficient, weight);
      Sum* sums = sums_;
      for (int64_t a = 0; a < args_.dim; ++a) {
        Sum* const to = sums + (args_.axes[a].knot_of_peer[first_peer + k] - first_knot) * kNeurons;
        sums += args_.axes[a].knot_count * kNeurons;
        if (a != runs) {
          BIMT_UNROLL
          for (int i = 0; i < kSumRows; ++i)
            store(to + i * kLanes<Sum>, load<Full<Sum>>(to + i * kLanes<Sum>) + weight[i]);
          continue;
        }
        if (to != in_run) {
          if (in_run != nullptr) store_row(run, in_run);
          in_run = to;
          BIMT_UNROLL
          for (int i = 0; i < kSumRows; ++i) run[i] = load<Full<Sum>>(to + i * kLanes<Sum>);
        }
        BIMT_UNROLL
        for (int i = 0; i < kSumRows; ++i) run[i] += weight[i];
      }
    }
    if (in_run != nullptr) store_row(run, in_run);
  }

  // The axis along which these peers share a knot, as those of a row of a grid do: adding to the same memory again and
  // again would wait for every store. -1 if there is none.
  int64_t axis_of_runs(int64_t first_peer, int64_t peers) const {
    for (int64_t a = args_.dim - 1; a >= 0 && peers > 1; --a) {
      if (args_.axes[a].knot_of_peer[first_peer] == args_.axes[a].knot_of_peer[first_peer + 1]) return a;
    }
    return -1;
  }

  static BIMT_INLINE void store_row(const Row& row, Sum* to) {
    BIMT_UNROLL
    for (int i = 0; i < kSumRows; ++i) store(to + i * kLanes<Sum>, row[i]);
  }

  static BIMT_INLINE void read(const T* from, T coefficient, Full<T>* row) {
    BIMT_UNROLL
    for (int g = 0; g < kRows<T>; ++g) row[g] = magnitude<T>(load<Full<T>>(from + g * kLanes<T>)) * coefficient;
  }

  template <class Other>
  static BIMT_INLINE void read(const T* from, T coefficient, Other* row) {
    BIMT_UNROLL
    for (int g = 0; g < kRows<T>; ++g) {
      Half half[2];
      split(magnitude<T>(load<Full<T>>(from + g * kLanes<T>)) * coefficient, half, CountTo<kWide>::Type());
      row[2 * g] = to_double(half[0]);
      row[2 * g + 1] = to_double(half[1]);
    }
  }

  const PlacementArgs<S>& args_;
  const int64_t first_, neurons_;
  Sum* const sums_;
  bool next_block_ = false;
};

}  // namespace
}  // namespace bimt

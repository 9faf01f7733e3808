// Gradients of the placement cost for separable metrics, from running sums as placement.cpp takes them.
//
// With f_i(t) the cost of neuron i at coordinate t and G the gradient of the cost C: a slot at x gets the sum over the
// neurons of G[i, p] f_i'(x). Seen from the peers, g_i(t) = sum_p G[i, p] d(x_p, t) has the same form: a weight gets
// sign(W[i, k]) g_i(y_k), and its peer the sum over the neurons of |W[i, k]| g_i'(y_k). A block of neurons lies along
// the vectors; all sums are in double. A derivative at a kink is the mean of those on its two sides, which makes it 0
// for the pair that meets there.

#include "cpu/neuron_block.h"
#include "cpu/partial_sums.h"
#include "cpu/storage.h"

namespace bimt {
namespace {

constexpr int64_t kSerialElements = 1 << 14;
// Parts of the neurons that keep their own partial sums for every point.
constexpr int64_t kPartialBlocks = 16;
constexpr int64_t kChunk = 64;

// Values at sorted coordinates: one row of a block of neurons for each.
struct Line {
  const double* at;
  int64_t count;
  const double* values;
};

// f(t) = slope t - offset between breaks, for the line and the circle of length 1.
class Bends {
 public:
  Bends(const Line& line, bool circle) : line_(line), opposites_(circle ? line.count : 0) {
    while (circle && far_ < line.count && line.at[far_] < 0.5) ++far_;
    for (int64_t l = 0; l < line.count; ++l) {
      // On the way up to the first break, the far half of the circle is reached the other way round.
      const bool behind = circle && line.at[l] >= 0.5;
      change(l, behind ? 1.0 : -1.0, behind ? line.at[l] - 1 : line.at[l]);
    }
  }

  // To the value and the derivative at t, which must not fall from call to call.
  BIMT_INLINE void move_to(double t, Wide* value, Wide* derivative) {
    Wide before[kSums];
    pass([t](double at) { return at < t; });
    for (int i = 0; i < kSums; ++i) before[i] = slope_[i];
    pass([t](double at) { return at <= t; });
    for (int i = 0; i < kSums; ++i) {
      value[i] = slope_[i] * t - offset_[i];
      derivative[i] = 0.5 * (before[i] + slope_[i]);
    }
  }

 private:
  template <class Before>
  BIMT_INLINE void pass(Before before) {
    for (; next_ < line_.count && before(line_.at[next_]); ++next_) change(next_, 2.0, line_.at[next_]);
    for (; turned_ < opposites_ && before(opposite()); ++turned_) change(knot_opposite(), -2.0, opposite());
  }

  // The breaks half a turn from the knots, in order.
  int64_t knot_opposite() const {
    const int64_t behind = line_.count - far_;
    return turned_ < behind ? far_ + turned_ : turned_ - behind;
  }
  double opposite() const {
    const double at = line_.at[knot_opposite()];
    return at < 0.5 ? at + 0.5 : at - 0.5;
  }

  BIMT_INLINE void change(int64_t l, double by, double at) {
    for (int i = 0; i < kSums; ++i) {
      const Wide here = load<Wide>(line_.values + l * kNeurons + i * kWide) * by;
      slope_[i] += here;
      offset_[i] += here * at;
    }
  }

  const Line line_;
  const int64_t opposites_;
  int64_t far_ = 0, next_ = 0, turned_ = 0;
  Wide slope_[kSums] = {}, offset_[kSums] = {};
};

// f(t) = t (t A - 2 B) + Q, from the moments of all values.
class Moments {
 public:
  explicit Moments(const Line& line) {
    for (int64_t l = 0; l < line.count; ++l) {
      const double at = line.at[l];
      for (int i = 0; i < kSums; ++i) {
        const Wide here = load<Wide>(line.values + l * kNeurons + i * kWide);
        sum_[i] += here;
        moment_[i] += here * at;
        square_[i] += here * (at * at);
      }
    }
  }

  BIMT_INLINE void move_to(double t, Wide* value, Wide* derivative) const {
    for (int i = 0; i < kSums; ++i) {
      value[i] = (sum_[i] * t - 2 * moment_[i]) * t + square_[i];
      derivative[i] = 2 * (sum_[i] * t - moment_[i]);
    }
  }

 private:
  Wide sum_[kSums] = {}, moment_[kSums] = {}, square_[kSums] = {};
};

// Values and derivatives at the places in order; no values where `value` is null.
template <class Function>
void evaluate(Function f, const double* places, int64_t count, double* value, double* derivative) {
  for (int64_t place = 0; place < count; ++place) {
    Wide v[kSums], d[kSums];
    f.move_to(places[place], v, d);
    for (int i = 0; i < kSums; ++i) {
      if (value != nullptr) store(value + place * kNeurons + i * kWide, v[i]);
      store(derivative + place * kNeurons + i * kWide, d[i]);
    }
  }
}

void evaluate(int metric, const Line& line, const double* places, int64_t count, double* value, double* derivative) {
  if (metric == int(MetricCode::kSql2)) return evaluate(Moments(line), places, count, value, derivative);
  evaluate(Bends(line, metric == int(MetricCode::kTorusL1)), places, count, value, derivative);
}

// The columns of a block of rows, one row of `to` a column; zeros behind the last row.
template <class S>
void read_columns(const S* data, int64_t row_stride, int64_t col_stride, int64_t rows, int64_t columns, double* to) {
  if (rows < kNeurons) std::memset(to, 0, columns * kNeurons * sizeof(double));
  for (int64_t first = 0; first < columns; first += kChunk) {
    const int64_t last = smaller(columns, first + kChunk);
    for (int64_t i = 0; i < rows && row_stride != 1; ++i) {
      for (int64_t k = first; k < last; ++k) to[k * kNeurons + i] = widened(data[i * row_stride + k * col_stride]);
    }
    for (int64_t k = first; k < last && row_stride == 1; ++k) {
      for (int64_t i = 0; i < rows; ++i) to[k * kNeurons + i] = widened(data[i + k * col_stride]);
    }
  }
}

template <bool Magnitude>
BIMT_INLINE Wide read(const double* from) {
  const Wide v = load<Wide>(from);
  return Magnitude ? magnitude<double>(v) : v;
}

// a . b over the block, or |a| . b.
template <bool Magnitude>
BIMT_INLINE double dot(const double* a, const double* b) {
  Wide sum = {};
  for (int i = 0; i < kNeurons; i += kWide) sum += read<Magnitude>(a + i) * load<Wide>(b + i);
  double total = 0;
  for (int i = 0; i < kWide; ++i) total += sum[i];
  return total;
}

template <bool Magnitude>
BIMT_INLINE void add(const double* from, double factor, double* to) {
  for (int i = 0; i < kNeurons; i += kWide) store(to + i, load<Wide>(to + i) + read<Magnitude>(from + i) * factor);
}

// What one thread works with: rows of a block of neurons, for every slot and peer, and for the coordinates of one axis.
struct Tables {
  int64_t slots, peers, knots, places;  // the last two on the axis that has most
  double *grad, *weight, *value;        // of every slot; of every peer, with g(y) of all axes
  double *by_knot, *by_place;           // |weight| and gradient, gathered
  double* cost_slope;                   // f' at the places
  double *values, *slopes;              // g and g' at the knots

  Tables(int64_t slot_count, int64_t peer_count, const PlacementAxis* axes, int64_t dim)
      : slots(slot_count), peers(peer_count), knots(0), places(0) {
    for (int64_t a = 0; a < dim; ++a) {
      knots = larger(knots, axes[a].knot_count);
      places = larger(places, axes[a].place_count);
    }
  }

  int64_t size() const { return (slots + 2 * peers + 3 * knots + 2 * places) * kNeurons; }

  void use(double* memory) {
    const int64_t rows[] = {slots, peers, peers, knots, places, places, knots, knots};
    double** const tables[] = {&grad, &weight, &value, &by_knot, &by_place, &cost_slope, &values, &slopes};
    for (int i = 0; i < 8; ++i) {
      *tables[i] = memory;
      memory += rows[i] * kNeurons;
    }
  }
};

template <class S>
class BlockBackward {
  using T = Compute<S>;

 public:
  BlockBackward(const PlacementBackwardArgs<S>& args, int64_t block, const Tables& tables)
      : args_(args), first_(block * kNeurons), rows_(smaller(kNeurons, args.slots.rows - first_)), tables_(tables) {}

  // Writes the gradients of the block's weights, and adds to the sums [point][coordinate] of all slots and peers.
  void run(double* slot_sums, double* peer_sums) const {
    const Matrix<const T>& grad = args_.grad;
    read_columns(&grad.at(first_, 0), grad.row_stride, grad.col_stride, rows_, tables_.slots, tables_.grad);
    for_parts([&](const PlacementPart<S>& part, const Matrix<S>&, int64_t first_peer) {
      read_columns(part.weight + first_ * part.neuron_stride, part.neuron_stride, part.peer_stride, rows_, part.peers,
                   tables_.weight + first_peer * kNeurons);
    });
    std::memset(tables_.value, 0, tables_.peers * kNeurons * sizeof(double));
    for (int64_t a = 0; a < args_.slots.cols; ++a) visit_axis(args_.axes[a], slot_sums + a, peer_sums + a);
    for_parts([&](const PlacementPart<S>& part, const Matrix<S>& weight_grad, int64_t first_peer) {
      for (int64_t k = 0; k < part.peers; ++k) {
        const int64_t row = (first_peer + k) * kNeurons;
        for (int64_t i = 0; i < rows_; ++i) {
          const double value = part.coefficient * sign(tables_.weight[row + i]) * tables_.value[row + i];
          narrow_to(static_cast<T>(value), &weight_grad.at(first_ + i, k));
        }
      }
    });
  }

 private:
  // Calls visit(part, gradient of its weight, first peer among those of all parts).
  template <class Visit>
  void for_parts(Visit visit) const {
    int64_t first_peer = 0;
    for (int64_t p = 0; p < args_.part_count; ++p) {
      visit(args_.parts[p], args_.weight_grads[p], first_peer);
      first_peer += args_.parts[p].peers;
    }
  }

  void visit_axis(const PlacementAxis& axis, double* slot_sums, double* peer_sums) const {
    const int64_t dim = args_.slots.cols;
    gather(axis);
    evaluate(args_.metric, {axis.knots, axis.knot_count, tables_.by_knot}, axis.places, axis.place_count, nullptr,
             tables_.cost_slope);
    evaluate(args_.metric, {axis.places, axis.place_count, tables_.by_place}, axis.knots, axis.knot_count,
             tables_.values, tables_.slopes);
    for (int64_t p = 0; p < tables_.slots; ++p) {
      slot_sums[p * dim] += dot<false>(tables_.grad + p * kNeurons, tables_.cost_slope + row(axis.place_of_slot[p]));
    }
    for_parts([&](const PlacementPart<S>& part, const Matrix<S>&, int64_t first_peer) {
      for (int64_t k = first_peer; k < first_peer + part.peers; ++k) {
        const int64_t knot = row(axis.knot_of_peer[k]);
        peer_sums[k * dim] += part.coefficient * dot<true>(tables_.weight + k * kNeurons, tables_.slopes + knot);
        add<false>(tables_.values + knot, 1, tables_.value + k * kNeurons);
      }
    });
  }

  void gather(const PlacementAxis& axis) const {
    std::memset(tables_.by_knot, 0, axis.knot_count * kNeurons * sizeof(double));
    std::memset(tables_.by_place, 0, axis.place_count * kNeurons * sizeof(double));
    for (int64_t p = 0; p < tables_.slots; ++p) {
      add<false>(tables_.grad + p * kNeurons, 1, tables_.by_place + row(axis.place_of_slot[p]));
    }
    for_parts([&](const PlacementPart<S>& part, const Matrix<S>&, int64_t first_peer) {
      for (int64_t k = first_peer; k < first_peer + part.peers; ++k) {
        add<true>(tables_.weight + k * kNeurons, part.coefficient, tables_.by_knot + row(axis.knot_of_peer[k]));
      }
    });
  }

  static int64_t row(int32_t index) { return int64_t(index) * kNeurons; }

  const PlacementBackwardArgs<S>& args_;
  const int64_t first_, rows_;
  const Tables& tables_;
};

template <class S>
Status run_backward(const PlacementBackwardArgs<S>& args) {
  const int64_t n = args.slots.rows, dim = args.slots.cols, blocks = divide_up(n, kNeurons);
  int64_t peers = 0;
  for (int64_t p = 0; p < args.part_count; ++p) peers += args.parts[p].peers;
  const int64_t count = smaller(kPartialBlocks, blocks), size = (n + peers) * dim;
  const int threads = n * (n + peers) < kSerialElements ? 1 : int(larger(1, smaller(args.threads, count)));
  const Tables tables(n, peers, args.axes, dim);
  const Scratch<double> memory(threads * tables.size()), sums(count * size);
  parallel(threads, count, [&](int64_t index, int thread) {
    Tables mine = tables;
    mine.use(&memory[thread * tables.size()]);
    double* const partial = &sums[index * size];
    std::memset(partial, 0, size * sizeof(double));
    for (int64_t block = index * blocks / count; block < (index + 1) * blocks / count; ++block) {
      BlockBackward<S>(args, block, mine).run(partial, partial + n * dim);
    }
  });
  add_partial(sums.get(), count, size, n * dim, args.slots_grad);
  for (int64_t p = 0, first = n; p < args.part_count; first += args.parts[p++].peers) {
    add_partial(&sums[first * dim], count, size, args.parts[p].peers * dim, args.peers_grads[p]);
  }
  return Status::kOk;
}

}  // namespace

#define BIMT_INSTANTIATE(S)                                                      \
  template <>                                                                    \
  Status placement_backward<BIMT_ISA, S>(const PlacementBackwardArgs<S>& args) { \
    return run_backward(args);                                                   \
  }

BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace bimt

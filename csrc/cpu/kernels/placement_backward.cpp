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

// Columns [first, first + count) of a block of rows, one row of `to` a column; zeros behind the last row.
template <class S>
void read_columns(const S* data, int64_t row_stride, int64_t col_stride, int64_t rows, int64_t first, int64_t count,
                  double* to) {
  for (int64_t k = 0; k < count && rows < kNeurons; ++k) std::memset(to + k * kNeurons, 0, kNeurons * sizeof(double));
  data += first * col_stride;
  if (row_stride == 1) {
    for (int64_t k = 0; k < count; ++k) {
      for (int64_t i = 0; i < rows; ++i) to[k * kNeurons + i] = widened(data[k * col_stride + i]);
    }
    return;
  }
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t k = 0; k < count; ++k) to[k * kNeurons + i] = widened(data[i * row_stride + k * col_stride]);
  }
}

// a . b over the block.
BIMT_INLINE double dot(const double* a, const double* b) {
  Wide sum = {};
  for (int i = 0; i < kSums; ++i) sum += load<Wide>(a + i * kWide) * load<Wide>(b + i * kWide);
  double total = 0;
  for (int i = 0; i < kWide; ++i) total += sum[i];
  return total;
}

// What one thread works with, one axis after another.
struct Tables {
  int64_t knots, places;  // of all axes, times the neurons of a block
  double *weight, *grad;  // |weight| by knot, gradient by place
  double* cost_slope;     // f' at the places
  double *value, *slope;  // g and g' at the knots
  double* chunk;

  Tables(const PlacementAxis* axes, int64_t dim) : knots(0), places(0) {
    for (int64_t a = 0; a < dim; ++a) {
      knots += axes[a].knot_count * kNeurons;
      places += axes[a].place_count * kNeurons;
    }
  }

  int64_t size() const { return 3 * knots + 2 * places + kChunk * kNeurons; }

  void use(double* memory) {
    const int64_t sizes[] = {knots, places, places, knots, knots, kChunk * kNeurons};
    double** const tables[] = {&weight, &grad, &cost_slope, &value, &slope, &chunk};
    for (int i = 0; i < 6; ++i, memory += sizes[i - 1]) *tables[i] = memory;
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
    gather();
    int64_t knots = 0, places = 0;
    for (int64_t a = 0; a < args_.slots.cols; ++a) {
      const PlacementAxis& axis = args_.axes[a];
      evaluate(args_.metric, {axis.knots, axis.knot_count, tables_.weight + knots}, axis.places, axis.place_count,
               nullptr, tables_.cost_slope + places);
      evaluate(args_.metric, {axis.places, axis.place_count, tables_.grad + places}, axis.knots, axis.knot_count,
               tables_.value + knots, tables_.slope + knots);
      knots += axis.knot_count * kNeurons;
      places += axis.place_count * kNeurons;
    }
    for_slots([&](int64_t slot, const double* grad) {
      const double* slopes = tables_.cost_slope;
      for (int64_t a = 0; a < args_.slots.cols; ++a) {
        slot_sums[slot * args_.slots.cols + a] += dot(grad, slopes + args_.axes[a].place_of_slot[slot] * kNeurons);
        slopes += args_.axes[a].place_count * kNeurons;
      }
    });
    int64_t first_peer = 0;
    for (int64_t p = 0; p < args_.part_count; ++p) {
      for_peers(args_.parts[p], [&](int64_t peer, const double* weight) {
        finish_peer(args_.parts[p], args_.weight_grads[p], peer, first_peer + peer, weight,
                    peer_sums + (first_peer + peer) * args_.slots.cols);
      });
      first_peer += args_.parts[p].peers;
    }
  }

 private:
  // Calls visit(slot, gradients of the block's neurons there).
  template <class Visit>
  void for_slots(Visit visit) const {
    const Matrix<const T>& grad = args_.grad;
    for_columns(grad.data + first_ * grad.row_stride, grad.row_stride, grad.col_stride, args_.slots.rows, visit);
  }

  // Calls visit(peer, weights of the block's neurons).
  template <class Visit>
  void for_peers(const PlacementPart<S>& part, Visit visit) const {
    for_columns(part.weight + first_ * part.neuron_stride, part.neuron_stride, part.peer_stride, part.peers, visit);
  }

  template <class From, class Visit>
  void for_columns(const From* data, int64_t row_stride, int64_t col_stride, int64_t columns, Visit visit) const {
    for (int64_t first = 0; first < columns; first += kChunk) {
      const int64_t count = smaller(kChunk, columns - first);
      read_columns(data, row_stride, col_stride, rows_, first, count, tables_.chunk);
      for (int64_t k = 0; k < count; ++k) visit(first + k, tables_.chunk + k * kNeurons);
    }
  }

  void gather() const {
    std::memset(tables_.weight, 0, tables_.knots * sizeof(double));
    std::memset(tables_.grad, 0, tables_.places * sizeof(double));
    for_slots([&](int64_t slot, const double* grad) {
      double* to = tables_.grad;
      for (int64_t a = 0; a < args_.slots.cols; ++a) {
        add(grad, 1, to + args_.axes[a].place_of_slot[slot] * kNeurons);
        to += args_.axes[a].place_count * kNeurons;
      }
    });
    int64_t first_peer = 0;
    for (int64_t p = 0; p < args_.part_count; ++p) {
      const double coefficient = args_.parts[p].coefficient;
      for_peers(args_.parts[p], [&](int64_t peer, double* weight) {
        for (int i = 0; i < kNeurons; ++i) weight[i] = absolute(weight[i]);
        double* to = tables_.weight;
        for (int64_t a = 0; a < args_.slots.cols; ++a) {
          add(weight, coefficient, to + args_.axes[a].knot_of_peer[first_peer + peer] * kNeurons);
          to += args_.axes[a].knot_count * kNeurons;
        }
      });
      first_peer += args_.parts[p].peers;
    }
  }

  static BIMT_INLINE void add(const double* from, double factor, double* to) {
    for (int i = 0; i < kNeurons; i += kWide) store(to + i, load<Wide>(to + i) + load<Wide>(from + i) * factor);
  }

  // index: of the peer among those of all parts.
  void finish_peer(const PlacementPart<S>& part, const Matrix<S>& grad, int64_t peer, int64_t index,
                   const double* weight, double* sums) const {
    alignas(64) double value[kNeurons] = {}, size[kNeurons];
    for (int i = 0; i < kNeurons; ++i) size[i] = absolute(weight[i]);
    int64_t axis = 0;
    for (int64_t a = 0; a < args_.slots.cols; ++a) {
      const int64_t row = axis + args_.axes[a].knot_of_peer[index] * kNeurons;
      add(tables_.value + row, 1, value);
      sums[a] += part.coefficient * dot(size, tables_.slope + row);
      axis += args_.axes[a].knot_count * kNeurons;
    }
    for (int64_t i = 0; i < rows_; ++i) {
      narrow_to(static_cast<T>(part.coefficient * sign(weight[i]) * value[i]), &grad.at(first_ + i, peer));
    }
  }

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
  const Tables tables(args.axes, dim);
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

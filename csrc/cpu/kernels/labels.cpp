// The null of modularity figures: what they are where labels are permuted among neurons.
//
// A permutation is kept as `taker`: neuron taker[k] takes the label of neuron k. The members of a cluster then are the
// takers of its labels, so their points are summed in registers. Neighbours are compared for kGroup permutations at a
// time, their labels side by side.

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "random.h"

namespace bimt {
namespace {

constexpr int kAxes = 4;  // of a vector of coordinates
using Axes = Vector<double, kAxes>;

// What all permutations share. The first coordinate of a point is the neuron's index.
template <class Label>
struct Neurons {
  explicit Neurons(const LabelArgs& args)
      : args(args),
        vectors(divide_up(1 + args.dim, kAxes)),
        labels(args.n),
        points(args.n * vectors),
        order(args.n),
        ends(args.clusters) {
    for (int64_t i = 0; i < args.n; ++i) {
      labels[i] = Label(args.labels[i]);
      double* const point = reinterpret_cast<double*>(&points[i * vectors]);
      for (int64_t axis = 0; axis < vectors * kAxes; ++axis) {
        point[axis] = axis == 0 ? double(i) : axis <= args.dim ? args.positions[i * args.dim + axis - 1] : 0;
      }
    }
    sort_by_label();
  }

  void sort_by_label() {
    for (int64_t c = 0; c < args.clusters; ++c) ends[c] = 0;
    for (int64_t i = 0; i < args.n; ++i) ++ends[args.labels[i]];
    for (int64_t c = 0, before = 0; c < args.clusters; ++c) {
      const int64_t count = ends[c];
      ends[c] = before;
      before += count;
    }
    for (int64_t i = 0; i < args.n; ++i) order[ends[args.labels[i]]++] = int32_t(i);
  }

  const LabelArgs& args;
  const int64_t vectors;
  const Scratch<Label> labels;
  const Scratch<Axes> points;
  const Scratch<int32_t> order;  // neurons by their label
  const Scratch<int64_t> ends;   // of the clusters, in order
};

template <class Label>
class Group {
 public:
  static constexpr int kGroup = 64 / int(sizeof(Label));
  using Lanes = Vector<Label, kGroup>;

  explicit Group(const Neurons<Label>& neurons)
      : neurons_(neurons), args_(neurons.args), places_(args_.n), taker_(args_.n), labels_(args_.n) {}

  void run(int64_t first) {
    const int64_t count = smaller(kGroup, args_.permutations + 1 - first);
    for (int64_t lane = 0; lane < count; ++lane) {
      shuffle(first + lane);
      for (int64_t k = 0; k < args_.n; ++k) label_of(taker_[k])[lane] = neurons_.labels[k];
      spread(args_.nulls + 3 * (first + lane) + 1);
    }
    int32_t isolated[kGroup] = {};
    count_isolated(isolated);
    for (int64_t lane = 0; lane < count; ++lane) {
      args_.nulls[3 * (first + lane)] = double(isolated[lane]) / double(args_.n);
    }
  }

 private:
  Label* label_of(int64_t i) { return reinterpret_cast<Label*>(&labels_[i]); }

  // Labels are shuffled from the last neuron down to the first; their takers, the inverse, from the first one up.
  void shuffle(int64_t permutation) {
    const int64_t n = args_.n;
    const uint64_t seed = args_.seed;
    for (int64_t i = 0; i < n; ++i) {
      places_[i] = permutation == 0 ? uint32_t(i) : shuffle_place(seed, permutation, n, i);
    }
    for (int64_t i = 0; i < n; ++i) {
      taker_[i] = int32_t(i);
      const int32_t other = taker_[places_[i]];
      taker_[places_[i]] = int32_t(i);
      taker_[i] = other;
    }
  }

  // Variance of the indices within clusters, and mean squared distance to their centroids.
  void spread(double* figures) const {
    double clusters = 0, of_index = 0, of_position = 0;
    for (int64_t v = 0; v < neurons_.vectors; ++v) {
      Axes sum = {};
      clusters = 0;
      for (int64_t c = 0, begin = 0; c < args_.clusters; begin = neurons_.ends[c++]) {
        const int64_t end = neurons_.ends[c];
        if (begin == end) continue;
        add_variance(begin, end, v, &sum);
        ++clusters;
      }
      for (int axis = 0; axis < kAxes; ++axis) (v + axis == 0 ? of_index : of_position) += sum[axis];
    }
    figures[0] = of_index / clusters;
    figures[1] = of_position / clusters;
  }

  BIMT_INLINE void add_variance(int64_t begin, int64_t end, int64_t v, Axes* sum) const {
    const double count = double(end - begin);
    Axes mean = {}, squares = {};
    add<false>(begin, end, v, Axes{}, &mean);
    mean /= count;
    add<true>(begin, end, v, mean, &squares);
    *sum += squares / count;
  }

  // The members' points from an origin on, or their squares, added in halves that do not wait for each other.
  template <bool kSquared>
  BIMT_INLINE void add(int64_t begin, int64_t end, int64_t v, const Axes& origin, Axes* sum) const {
    Axes odd = {};
    const auto add_one = [&](int64_t s, Axes* to) __attribute__((always_inline)) {
      const Axes x = neurons_.points[taker_[neurons_.order[s]] * neurons_.vectors + v] - origin;
      *to += kSquared ? x * x : x;
    };
    int64_t s = begin;
    for (; s + 1 < end; s += 2) {
      add_one(s, sum);
      add_one(s + 1, &odd);
    }
    if (s < end) add_one(s, sum);
    *sum += odd;
  }

  void count_isolated(int32_t* isolated) const {
    constexpr int64_t kFits = 127;  // what a lane can count to
    for (int64_t first = 0; first < args_.n; first += kFits) {
      Lanes accompanied = {};
      const int64_t end = smaller(args_.n, first + kFits);
      for (int64_t i = first; i < end; ++i) {
        const Lanes own = labels_[i];
        Lanes any = {};
        for (int64_t k = i * args_.degree; k < (i + 1) * args_.degree; ++k) {
          if (args_.neighbours[k] >= 0) any |= labels_[args_.neighbours[k]] == own;
        }
        accompanied -= any;
      }
      for (int lane = 0; lane < kGroup; ++lane) isolated[lane] += int32_t(end - first) - int32_t(accompanied[lane]);
    }
  }

  const Neurons<Label>& neurons_;
  const LabelArgs& args_;
  const Scratch<uint32_t> places_;
  const Scratch<int32_t> taker_;
  const Scratch<Lanes> labels_;  // of every neuron, in kGroup permutations
};

template <class Label>
void run(const LabelArgs& args) {
  const Neurons<Label> neurons(args);
  const int64_t groups = divide_up(args.permutations + 1, Group<Label>::kGroup);
  const int64_t shares = smaller(groups, larger(1, args.threads));
  parallel(args.threads, shares, [&](int64_t share, int) {
    Group<Label> group(neurons);
    for (int64_t g = share; g < groups; g += shares) group.run(g * Group<Label>::kGroup);
  });
}

}  // namespace

template <>
void label_nulls<BIMT_ISA>(const LabelArgs& args) {
  args.clusters <= 128 ? run<int8_t>(args) : run<int32_t>(args);
}

}  // namespace bimt

// Placement cost for separable metrics: a function of the slot on every coordinate axis, added up.
//
// A block of neurons lies along the vectors. Per axis, |weight| is first gathered by knot (the peers' distinct
// coordinates); running sums over the knots then give the cost at every place (the slots' distinct coordinates). For l1
// f(t) = t (2 A(t) - A) + B - 2 B(t), with A(t) the weights of the knots up to t and B(t) their moments. On a circle of
// length 1 (torus-l1) every knot has a second break, where the way round the other side becomes the shorter one. sql2
// needs no order: its three moments over all knots give f(t) = t (t A - 2 B) + Q.

#include "cpu/axis_scans.h"
#include "cpu/weight_tile.h"

namespace bimt {
namespace {

constexpr int64_t kSerialElements = 1 << 14;
// Results beyond this would push everything else out of the caches.
constexpr int64_t kStreamBytes = int64_t(4) << 20;

template <class S, class Sum>
class BlockPlacement {
  using T = Compute<S>;

 public:
  static int64_t sum_count(const PlacementArgs<S>& args) {
    int64_t count = 0;
    for (int64_t a = 0; a < args.dim; ++a) count += args.axes[a].knot_count * kNeurons;
    return count;
  }

  static int64_t table_count(const PlacementArgs<S>& args) {
    int64_t count = 0;
    for (int64_t a = 0; a + 1 < args.dim; ++a) count += args.axes[a].place_count * kNeurons;
    return count;
  }

  BlockPlacement(const PlacementArgs<S>& args, int64_t block, Sum* sums, T* tables)
      : args_(args),
        first_(block * kNeurons),
        neurons_(smaller(kNeurons, args.n - first_)),
        sums_(sums),
        tables_(tables) {}

  // False when a weight was not finite.
  bool run() {
    std::memset(sums_, 0, sum_count(args_) * sizeof(Sum));
    int64_t first_peer = 0;
    for (int64_t p = 0; p < args_.part_count; ++p) {
      gather(args_.parts[p], first_peer);
      first_peer += args_.parts[p].peers;
    }
    const Sum* sums = sums_;
    T* table = tables_;
    bool finite = true;
    for (int64_t a = 0; a + 1 < args_.dim; ++a) {
      const PlacementAxis& axis = args_.axes[a];
      finite &= scan(axis, sums, [&](int64_t place, const Full<T>* value) {
        for (int g = 0; g < kRows<T>; ++g) store(table + place * kNeurons + g * kLanes<T>, value[g]);
      });
      sums += axis.knot_count * kNeurons;
      table += axis.place_count * kNeurons;
    }
    const bool stream_rows = neurons_ == kNeurons && args_.n * args_.n * int64_t(sizeof(T)) >= kStreamBytes &&
                             args_.n % kLanes<T> == 0 && reinterpret_cast<uintptr_t>(args_.cost) % kVectorBytes == 0;
    return finite & (stream_rows ? scan_last<true>(sums) : scan_last<false>(sums));
  }

 private:
  void gather(const PlacementPart<S>& part, int64_t first_peer) {
    const S* const weight = part.weight + first_ * part.neuron_stride;
    Tile<T> tile;
    for (int64_t k = 0; k < part.peers; k += kLanes<T>) {
      const S* const from = weight + k * part.peer_stride;
      const int64_t peers = smaller(kLanes<T>, part.peers - k);
      const bool direct = !kNarrow<S> && neurons_ == kNeurons && part.neuron_stride == 1;
      if (!direct) fill_tile(from, part, peers, neurons_, kPrefetchColumns, &tile);
      const T* const rows = direct ? reinterpret_cast<const T*>(from) : tile.data;
      add_rows(rows, direct ? part.peer_stride : kNeurons, peers, first_peer + k, static_cast<T>(part.coefficient));
    }
  }

  void add_rows(const T* rows, int64_t stride, int64_t peers, int64_t first_peer, T coefficient) {
    for (int64_t k = 0; k < peers; ++k) {
      const T* const row = rows + k * stride;
      prefetch(row + kPrefetchRows * stride);
      prefetch(row + kPrefetchRows * stride + 64 / sizeof(T));
      Full<T> weight[kRows<T>];
      BIMT_UNROLL
      for (int g = 0; g < kRows<T>; ++g) weight[g] = magnitude<T>(load<Full<T>>(row + g * kLanes<T>)) * coefficient;
      Sum* sums = sums_;
      for (int64_t a = 0; a < args_.dim; ++a) {
        add(weight, sums + int64_t(args_.axes[a].knot_of_peer[first_peer + k]) * kNeurons);
        sums += args_.axes[a].knot_count * kNeurons;
      }
    }
  }

  static BIMT_INLINE void add(const Full<T>* weight, T* sums) {
    BIMT_UNROLL
    for (int g = 0; g < kRows<T>; ++g) {
      T* const to = sums + g * kLanes<T>;
      store(to, load<Full<T>>(to) + weight[g]);
    }
  }

  template <class Other>
  static BIMT_INLINE void add(const Full<T>* weight, Other* sums) {
    BIMT_UNROLL
    for (int g = 0; g < kRows<T>; ++g) {
      Half half[2];
      split(weight[g], half, CountTo<kWide>::Type());
      Other* const to = sums + g * kLanes<T>;
      store(to, load<Wide>(to) + to_double(half[0]));
      store(to + kWide, load<Wide>(to + kWide) + to_double(half[1]));
    }
  }

  // Calls emit(place, values of the block's neurons) for every place in order.
  template <class Emit>
  BIMT_INLINE bool scan(const PlacementAxis& axis, const Sum* sums, Emit emit) {
    if (args_.metric == int(MetricCode::kSql2)) {
      return scan_moments<T>(axis, sums, axis.places, axis.place_count, emit);
    }
    if (args_.metric == int(MetricCode::kTorusL1)) {
      return scan_circle<T>(axis, sums, axis.places, axis.place_count, emit);
    }
    return scan_line(axis, sums, emit);
  }

  template <class Emit>
  BIMT_INLINE bool scan_line(const PlacementAxis& axis, const Sum* sums, Emit emit) {
    Wide weight[kSums] = {}, moment[kSums] = {}, here[kSums];
    for (int64_t l = 0; l < axis.knot_count; ++l) {
      widen(sums + l * kNeurons, here);
      BIMT_UNROLL
      for (int i = 0; i < kSums; ++i) {
        weight[i] -= here[i];
        moment[i] -= here[i] * axis.knots[l];
      }
    }
    const bool all_finite = finite_sums(weight);

    // From here on weight is 2 A(t) - A and moment is 2 B(t) - B.
    int64_t l = 0;
    for (int64_t place = 0; place < axis.place_count; ++place) {
      const double t = axis.places[place];
      for (; l < axis.knot_count && axis.knots[l] <= t; ++l) {
        widen(sums + l * kNeurons, here);
        const double twice_knot = 2 * axis.knots[l];
        BIMT_UNROLL
        for (int i = 0; i < kSums; ++i) {
          weight[i] += here[i] + here[i];
          moment[i] += here[i] * twice_knot;
        }
      }
      BIMT_UNROLL
      for (int i = 0; i < kSums; ++i) here[i] = weight[i] * t - moment[i];
      Full<T> value[kRows<T>];
      narrow(here, value);
      emit(place, value);
    }
    return all_finite;
  }

  template <bool Stream>
  bool scan_last(const Sum* sums) {
    const PlacementAxis& axis = args_.axes[args_.dim - 1];
    int64_t next = 0;
    const bool finite = scan(axis, sums, [&](int64_t place, const Full<T>* value) {
      for (; next < args_.n; ++next) {
        const int64_t slot = args_.slot_order[next];
        if (axis.place_of_slot[slot] != place) break;
        emit_row<Stream>(slot, value);
      }
    });
    if (Stream) stream_fence();
    return finite;
  }

  template <bool Stream>
  BIMT_INLINE void emit_row(int64_t slot, const Full<T>* last) {
    Full<T> value[kRows<T>];
    BIMT_UNROLL
    for (int g = 0; g < kRows<T>; ++g) value[g] = last[g];
    const T* table = tables_;
    for (int64_t a = 0; a + 1 < args_.dim; ++a) {
      const T* const row = table + int64_t(args_.axes[a].place_of_slot[slot]) * kNeurons;
      BIMT_UNROLL
      for (int g = 0; g < kRows<T>; ++g) value[g] += load<Full<T>>(row + g * kLanes<T>);
      table += args_.axes[a].place_count * kNeurons;
    }
    T* const to = args_.cost + slot * args_.n + first_;
    if (neurons_ == kNeurons) {
      BIMT_UNROLL
      for (int g = 0; g < kRows<T>; ++g) {
        if (Stream) {
          stream(to + g * kLanes<T>, value[g]);
        } else {
          store(to + g * kLanes<T>, value[g]);
        }
      }
    } else {
      std::memcpy(to, value, neurons_ * sizeof(T));
    }
  }

  const PlacementArgs<S>& args_;
  const int64_t first_, neurons_;
  Sum* const sums_;
  T* const tables_;
};

template <class S>
bool weights_finite(const PlacementArgs<S>& args) {
  for (int64_t p = 0; p < args.part_count; ++p) {
    const PlacementPart<S>& part = args.parts[p];
    const bool rows = part.peer_stride == 1;
    const int64_t outer = rows ? args.n : part.peers, inner = rows ? part.peers : args.n;
    const int64_t outer_stride = rows ? part.neuron_stride : part.peer_stride;
    const int64_t inner_stride = rows ? part.peer_stride : part.neuron_stride;
    for (int64_t i = 0; i < outer; ++i) {
      bool finite = true;
      for (int64_t j = 0; j < inner; ++j) {
        const Compute<S> w = widened(part.weight[i * outer_stride + j * inner_stride]);
        finite &= w - w == 0;
      }
      if (!finite) return false;
    }
  }
  return true;
}

template <class S, class Sum>
Status run(const PlacementArgs<S>& args) {
  using T = Compute<S>;
  using Placement = BlockPlacement<S, Sum>;
  int64_t peers = 0;
  for (int64_t p = 0; p < args.part_count; ++p) peers += args.parts[p].peers;
  const int64_t blocks = divide_up(args.n, kNeurons);
  const int threads = args.n * (peers + args.n) < kSerialElements ? 1 : int(smaller(args.threads, blocks));
  const int64_t sums = Placement::sum_count(args), tables = Placement::table_count(args);
  const Scratch<Sum> sum_memory(threads * sums);
  const Scratch<T> table_memory(threads * tables);
  const Scratch<bool> finite(blocks);
  parallel(threads, blocks, [&](int64_t block, int thread) {
    finite[block] = Placement(args, block, &sum_memory[thread * sums], &table_memory[thread * tables]).run();
  });
  bool all_finite = true;
  for (int64_t block = 0; block < blocks; ++block) all_finite &= finite[block];
  // Sums can overflow although no weight is infinite, so look again before refusing.
  return all_finite || weights_finite(args) ? Status::kOk : Status::kWeights;
}

template <class S>
Status run_placement(const PlacementArgs<S>& args) {
  if (args.dim == 0) {
    std::memset(args.cost, 0, args.n * args.n * sizeof(Compute<S>));
    return weights_finite(args) ? Status::kOk : Status::kWeights;
  }
  return args.crowded ? run<S, double>(args) : run<S, Compute<S>>(args);
}

}  // namespace

#define BIMT_INSTANTIATE(S)                                          \
  template <>                                                        \
  Status placement_cost<BIMT_ISA, S>(const PlacementArgs<S>& args) { \
    return run_placement(args);                                      \
  }

BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace bimt

// Placement cost for metrics that are no sum over coordinates: a matrix product of distances and |weight|.
//
// A block of slots times neurons runs over its peers in chunks: the chunk's weights are packed in panels of neurons,
// its distances made on the fly, and a micro-kernel keeps a few slots times a panel in registers. The float sums of a
// chunk are added up in double, so that no number of peers loses precision.

#include "cpu/coordinates.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/storage.h"

namespace bimt {
namespace {

constexpr int64_t kPeers = 128;                     // in a chunk
constexpr int64_t kSlots = 192;                     // in a block
constexpr int64_t kNeurons = 256;                   // in a block
constexpr int kRows = kVectorBytes == 64 ? 12 : 6;  // slots of a micro-kernel
constexpr int64_t kSerialElements = 1 << 16;
template <class T>
constexpr int kPanel = 2 * kLanes<T>;

BIMT_INLINE Full<float> multiply_add(Full<float> a, Full<float> b, Full<float> c) {
#if defined(__AVX512F__)
  return (Full<float>)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
  return (Full<float>)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  return a * b + c;
#endif
}

BIMT_INLINE Full<double> multiply_add(Full<double> a, Full<double> b, Full<double> c) {
#if defined(__AVX512F__)
  return (Full<double>)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c);
#elif defined(__FMA__)
  return (Full<double>)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c);
#else
  return a * b + c;
#endif
}

// Coordinates one axis after another, with the gaps behind them.
template <class T>
struct Points {
  const T* coordinates;
  int64_t count, dim;

  T at(int64_t i, int64_t k) const { return coordinates[k * count + i]; }
  T gap(int64_t i) const { return coordinates[dim * count + i]; }
};

// As many as the micro-kernel takes at once, or several times that.
constexpr int64_t whole_rows(int64_t slots) { return divide_up(slots, kRows) * kRows; }

// to[s] = d(slots first + s, the peer), for count slots, and zeros up to whole rows.
template <class Metric, class T>
void distances(const Points<T>& slots, int64_t first, int64_t count, const Points<T>& peers, int64_t peer, T* to) {
  for (int64_t s = 0; s < whole_rows(count); ++s) to[s] = 0;
  for (int64_t k = 0; k < slots.dim; ++k) {
    const T y = peers.at(peer, k);
    const T* const x = slots.coordinates + k * slots.count + first;
    for (int64_t s = 0; s < count; ++s) to[s] = Metric::add(to[s], x[s], y);
  }
  if (slots.dim == 0) return;
  const T peer_gap = Metric::kInBall ? peers.gap(peer) : T(1);
  const T* const gap = slots.coordinates + slots.dim * slots.count + first;
  for (int64_t s = 0; s < count; ++s) to[s] = Metric::finish(to[s], Metric::kInBall ? gap[s] : T(1), peer_gap);
}

// Row by row or column by column of the table, whichever lies together in memory.
template <class T>
void distances_by_table(const Matrix<const T>& table, const Points<T>& slots, int64_t first, int64_t count,
                        const Points<T>& peers, int64_t peer, int64_t peer_count, T* to) {
  const auto at = [&](int64_t s, int64_t k) {
    return table.at(int64_t(slots.at(first + s, 0)), int64_t(peers.at(peer + k, 0)));
  };
  if (table.row_stride > table.col_stride) {
    for (int64_t s = 0; s < count; ++s) {
      for (int64_t k = 0; k < peer_count; ++k) to[k * kSlots + s] = at(s, k);
    }
  } else {
    for (int64_t k = 0; k < peer_count; ++k) {
      for (int64_t s = 0; s < count; ++s) to[k * kSlots + s] = at(s, k);
    }
  }
  for (int64_t k = 0; k < peer_count; ++k) {
    for (int64_t s = count; s < whole_rows(count); ++s) to[k * kSlots + s] = 0;
  }
}

// What one thread works with.
template <class T>
struct Workspace {
  T weights[kPeers * kNeurons];    // panel by panel, one row a peer
  T distances[kPeers * kSlots];    // one row a peer
  double sums[kSlots * kNeurons];  // panel by panel, one row a slot
};

// sums += distances^T weights for kRows slots and one panel.
template <class T>
void multiply(const T* distance, const T* weight, int64_t peers, double* sums) {
  using V = Full<T>;
  constexpr int kCount = kLanes<T>;
  V low[kRows] = {}, high[kRows] = {};
  for (int64_t k = 0; k < peers; ++k) {
    const V w0 = load<V>(weight + k * kPanel<T>), w1 = load<V>(weight + k * kPanel<T> + kCount);
    BIMT_UNROLL
    for (int r = 0; r < kRows; ++r) {
      const V d = splat<V>(distance[k * kSlots + r]);
      low[r] = multiply_add(d, w0, low[r]);
      high[r] = multiply_add(d, w1, high[r]);
    }
  }
  for (int r = 0; r < kRows; ++r) {
    alignas(64) T row[kPanel<T>];
    store(row, low[r]);
    store(row + kCount, high[r]);
    double* const to = sums + r * kPanel<T>;
    for (int i = 0; i < kPanel<T>; ++i) to[i] += double(row[i]);
  }
}

template <class S>
class Product {
  using T = Compute<S>;

 public:
  Product(const PlacementProductArgs<S>& args, const T* coordinates) : args_(args), slots_{coordinates, n(), dim()} {}

  // One block of slots and neurons; false when a weight was not finite.
  bool run(int64_t first_slot, int64_t first_neuron, const T* peer_coordinates, Workspace<T>* work) const {
    const int64_t slots = smaller(kSlots, n() - first_slot), neurons = smaller(kNeurons, n() - first_neuron);
    const int64_t panels = divide_up(neurons, kPanel<T>);
    for (int64_t panel = 0; panel < panels; ++panel) {
      std::memset(work->sums + panel * kSlots * kPanel<T>, 0, whole_rows(slots) * kPanel<T> * sizeof(double));
    }
    bool finite = true;
    for (int64_t p = 0; p < args_.part_count; ++p) {
      const PlacementPart<S>& part = args_.parts[p];
      const Points<T> peers = {peer_coordinates, part.peers, dim()};
      peer_coordinates += part.peers * (dim() + 1);
      for (int64_t k = 0; k < part.peers; k += kPeers) {
        const int64_t count = smaller(kPeers, part.peers - k);
        finite &= pack(part, first_neuron, neurons, k, count, work->weights);
        measure(p, first_slot, slots, peers, k, count, work->distances);
        for (int64_t panel = 0; panel < panels; ++panel) {
          for (int64_t s = 0; s < slots; s += kRows) {
            multiply(work->distances + s, work->weights + panel * kPeers * kPanel<T>, count,
                     work->sums + (panel * kSlots + s) * kPanel<T>);
          }
        }
      }
    }
    for (int64_t s = 0; s < slots; ++s) {
      for (int64_t i = 0; i < neurons; ++i) {
        const int64_t panel = i / kPanel<T>, lane = i % kPanel<T>;
        args_.cost[(first_slot + s) * n() + first_neuron + i] =
            static_cast<T>(work->sums[(panel * kSlots + s) * kPanel<T> + lane]);
      }
    }
    return finite;
  }

 private:
  int64_t n() const { return args_.slots.rows; }
  int64_t dim() const { return args_.slots.cols; }

  bool pack(const PlacementPart<S>& part, int64_t first, int64_t neurons, int64_t peer, int64_t count, T* to) const {
    const T coefficient = static_cast<T>(part.coefficient);
    T poison = 0;
    for (int64_t panel = 0; panel < neurons; panel += kPanel<T>) {
      const int64_t lanes = smaller(kPanel<T>, neurons - panel);
      const S* const from = part.weight + (first + panel) * part.neuron_stride + peer * part.peer_stride;
      T* const rows = to + panel * kPeers;
      if (lanes < kPanel<T>) std::memset(rows, 0, kPeers * kPanel<T> * sizeof(T));
      if (part.neuron_stride == 1) {
        for (int64_t k = 0; k < count; ++k) read_row(from + k * part.peer_stride, 1, lanes, rows + k * kPanel<T>);
      } else {
        T row[kPeers];
        for (int64_t i = 0; i < lanes; ++i) {
          read_row(from + i * part.neuron_stride, part.peer_stride, count, row);
          for (int64_t k = 0; k < count; ++k) rows[k * kPanel<T> + i] = row[k];
        }
      }
      Full<T> bad = {};
      for (int64_t i = 0; i < count * kPanel<T>; i += kLanes<T>) {
        const Full<T> w = load<Full<T>>(rows + i);
        bad += w - w;
        store(rows + i, magnitude<T>(w) * coefficient);
      }
      for (int i = 0; i < kLanes<T>; ++i) poison += bad[i];
    }
    return poison == 0;
  }

  void measure(int64_t p, int64_t first, int64_t count, const Points<T>& peers, int64_t peer, int64_t peer_count,
               T* to) const {
    if (args_.metric == int(MetricCode::kTable)) {
      const Matrix<const T> table = p < args_.incoming ? args_.table : args_.table.transposed();
      distances_by_table(table, slots_, first, count, peers, peer, peer_count, to);
      return;
    }
    with_metric<T>(args_.metric, [&](auto metric) {
      for (int64_t k = 0; k < peer_count; ++k) {
        distances<decltype(metric)>(slots_, first, count, peers, peer + k, to + k * kSlots);
      }
    });
  }

  const PlacementProductArgs<S>& args_;
  const Points<T> slots_;
};

template <class S>
Status run_product(const PlacementProductArgs<S>& args) {
  using T = Compute<S>;
  const int64_t n = args.slots.rows, stride = args.slots.cols + 1;
  int64_t peers = 0;
  for (int64_t p = 0; p < args.part_count; ++p) peers += args.parts[p].peers;
  const Scratch<T> coordinates((n + peers) * stride);
  T* next = coordinates.get();
  const Status status = copy_positions(args.slots, args.metric, args.table.rows, kOutRefusals, next);
  if (status != Status::kOk) return status;
  next += n * stride;
  for (int64_t p = 0; p < args.part_count; ++p) {
    const Status of_peers = copy_positions(args.peers[p], args.metric, args.table.rows, kInRefusals, next);
    if (of_peers != Status::kOk) return of_peers;
    next += args.parts[p].peers * stride;
  }
  const int64_t across = divide_up(n, kNeurons), blocks = across * divide_up(n, kSlots);
  const int threads = n * n * peers < kSerialElements ? 1 : int(smaller(args.threads, larger(1, blocks)));
  const Scratch<Workspace<T>> work(threads);
  const Scratch<bool> finite(blocks);
  const Product<S> product(args, coordinates.get());
  parallel(threads, blocks, [&](int64_t block, int thread) {
    finite[block] =
        product.run(block / across * kSlots, block % across * kNeurons, coordinates.get() + n * stride, &work[thread]);
  });
  for (int64_t block = 0; block < blocks; ++block) {
    if (!finite[block]) return Status::kWeights;
  }
  return Status::kOk;
}

}  // namespace

#define BIMT_INSTANTIATE(S)                                                    \
  template <>                                                                  \
  Status placement_product<BIMT_ISA, S>(const PlacementProductArgs<S>& args) { \
    return run_product(args);                                                  \
  }

BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace bimt

// A matrix product in tiles that are packed, or made on the fly, as they are needed.
//
// A block of rows times columns runs over what it sums in chunks: a chunk's columns are packed in panels, its rows laid
// beside them, and a micro-kernel keeps a few rows times a panel in registers. The float sums of a chunk are added up
// in double, so that no number of terms loses precision. The names are those of a placement cost, the product of
// distances (slots times peers) and |weight| (peers times neurons).
#pragma once

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

// What one thread works with.
template <class T>
struct Workspace {
  T weights[kPeers * kNeurons];    // panel by panel, one row a peer
  T distances[kPeers * kSlots];    // one row a peer
  double sums[kSlots * kNeurons];  // panel by panel, one row a slot

  void clear(int64_t slots, int64_t neurons) {
    for (int64_t panel = 0; panel < divide_up(neurons, kPanel<T>); ++panel) {
      std::memset(sums + panel * kSlots * kPanel<T>, 0, whole_rows(slots) * kPanel<T> * sizeof(double));
    }
  }

  // sums += distances^T weights
  void multiply_chunk(int64_t slots, int64_t neurons, int64_t peers) {
    for (int64_t panel = 0; panel < divide_up(neurons, kPanel<T>); ++panel) {
      for (int64_t s = 0; s < slots; s += kRows) {
        multiply(distances + s, weights + panel * kPeers * kPanel<T>, peers, sums + (panel * kSlots + s) * kPanel<T>);
      }
    }
  }

  double sum(int64_t slot, int64_t neuron) const {
    return sums[(neuron / kPanel<T> * kSlots + slot) * kPanel<T> + neuron % kPanel<T>];
  }
};

// |weight| times the coefficient, or the weight itself where Signed, for a chunk of peers and a block of neurons; false
// when one was not finite. order: of the neurons, null: as they are.
template <bool Signed, class S, class T>
bool pack(const PlacementPart<S>& part, int64_t first, int64_t neurons, int64_t peer, int64_t count, T* to,
          const int32_t* order = nullptr) {
  const T coefficient = static_cast<T>(part.coefficient);
  T poison = 0;
  for (int64_t panel = 0; panel < neurons; panel += kPanel<T>) {
    const int64_t lanes = smaller(kPanel<T>, neurons - panel);
    const S* const from = part.weight + peer * part.peer_stride;
    const auto neuron = [&](int64_t i) { return order == nullptr ? first + panel + i : order[first + panel + i]; };
    T* const rows = to + panel * kPeers;
    if (lanes < kPanel<T>) std::memset(rows, 0, kPeers * kPanel<T> * sizeof(T));
    if (part.neuron_stride != 1) {
      T row[kPeers];
      for (int64_t i = 0; i < lanes; ++i) {
        read_row(from + neuron(i) * part.neuron_stride, part.peer_stride, count, row);
        for (int64_t k = 0; k < count; ++k) rows[k * kPanel<T> + i] = row[k];
      }
    } else if (order == nullptr) {
      for (int64_t k = 0; k < count; ++k) {
        read_row(from + neuron(0) + k * part.peer_stride, 1, lanes, rows + k * kPanel<T>);
      }
    } else {
      for (int64_t k = 0; k < count; ++k) {
        const S* const row = from + k * part.peer_stride;
        for (int64_t i = 0; i < lanes; ++i) rows[k * kPanel<T> + i] = widened(row[neuron(i)]);
      }
    }
    Full<T> bad = {};
    for (int64_t i = 0; i < count * kPanel<T>; i += kLanes<T>) {
      const Full<T> w = load<Full<T>>(rows + i);
      bad += w - w;
      if (!Signed) store(rows + i, magnitude<T>(w) * coefficient);
    }
    for (int i = 0; i < kLanes<T>; ++i) poison += bad[i];
  }
  return poison == 0;
}

// Distances of a block of slots from a chunk of peers; a table has the slots as its rows.
template <class T>
void measure(int metric, const Matrix<const T>& table, const Points<T>& slots, int64_t first, int64_t count,
             const Points<T>& peers, int64_t peer, int64_t peer_count, T* to) {
  if (metric == int(MetricCode::kTable)) {
    distances_by_table(table, slots, first, count, peers, peer, peer_count, to);
    return;
  }
  with_metric<T>(metric, [&](auto functor) {
    for (int64_t k = 0; k < peer_count; ++k) {
      distances<decltype(functor)>(slots, first, count, peers, peer + k, to + k * kSlots);
    }
  });
}

}  // namespace
}  // namespace bimt

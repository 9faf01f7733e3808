// Swap deltas of all pairs. They are symmetric, so tile (I, J) and its mirror image (J, I) are visited together and
// the cost matrix is read once.

#include "cpu/kernels.h"
#include "cpu/search.h"
#include "cpu/simd.h"

namespace bimt {
namespace {

constexpr int64_t kSerialSize = 96;

// A square matrix seen through a permutation of its rows.
template <class T>
class View {
 public:
  // The columns of `m` must be the axis with unit stride.
  View(const Matrix<const T>& m, const int64_t* rows) : rows_(m.rows), diagonal_(m.rows + kLanes<T>) {
    for (int64_t i = 0; i < m.rows; ++i) {
      rows_[i] = m.data + (rows == nullptr ? i : rows[i]) * m.row_stride;
      diagonal_[i] = rows_[i][i];
    }
    for (int64_t i = m.rows; i < m.rows + kLanes<T>; ++i) diagonal_[i] = 0;
  }

  const T* row(int64_t i) const { return rows_[i]; }
  const T* diagonal() const { return diagonal_.get(); }

  // Rows [row, row + height) and columns [col, col + width) as vectors, padded with zeros.
  BIMT_INLINE void read(int64_t row, int64_t col, int64_t height, int64_t width, Full<T>* block) const {
    if (height == kLanes<T> && width == kLanes<T>) {
      BIMT_UNROLL
      for (int i = 0; i < kLanes<T>; ++i) block[i] = load<Full<T>>(rows_[row + i] + col);
    } else {
      read_edge(row, col, height, width, block);
    }
  }

 private:
  __attribute__((noinline)) void read_edge(int64_t row, int64_t col, int64_t height, int64_t width,
                                           Full<T>* block) const {
    for (int64_t i = 0; i < kLanes<T>; ++i) {
      T values[kLanes<T>] = {};
      for (int64_t j = 0; j < width && i < height; ++j) values[j] = rows_[row + i][col + j];
      block[i] = load<Full<T>>(values);
    }
  }

  const Scratch<const T*> rows_;
  const Scratch<T> diagonal_;
};

// A copy with the columns permuted, row by row in L1; reading tiles through the permutation would miss every time.
template <class T>
class ColumnsPermuted {
 public:
  ColumnsPermuted(const Matrix<const T>& m, const int64_t* columns, int threads)
      : copy_(columns == nullptr ? 0 : m.rows * m.cols), matrix_(m) {
    if (columns == nullptr) return;
    matrix_ = {copy_.get(), m.rows, m.cols, m.cols, 1};
    prepare_result(copy_.get(), m.rows * m.cols * sizeof(T), threads);
    parallel(threads, divide_up(m.rows, kTile), [&](int64_t block, int) {
      for (int64_t i = block * kTile; i < smaller(m.rows, (block + 1) * kTile); ++i) {
        for (int64_t j = 0; j < m.cols; ++j) copy_[i * m.cols + j] = m.data[i * m.row_stride + columns[j]];
      }
    });
  }

  const Matrix<const T>& matrix() const { return matrix_; }

 private:
  const Scratch<T> copy_;
  Matrix<const T> matrix_;
};

// form[i] = (X_ij + X_ji) - (X_ii + X_jj) for the block at (row, col), columns j along the lanes. Computed so that
// the mirror image of a block has the same bits.
template <class T>
BIMT_INLINE void swap_form(const View<T>& x, int64_t row, int64_t col, int64_t height, int64_t width, Full<T>* form) {
  Full<T> mirror[kLanes<T>];
  x.read(col, row, width, height, mirror);
  transpose<T>(mirror);
  x.read(row, col, height, width, form);
  const Full<T> diagonal = load<Full<T>>(x.diagonal() + col);
  BIMT_UNROLL
  for (int i = 0; i < kLanes<T>; ++i) form[i] = (form[i] + mirror[i]) - (x.diagonal()[row + i] + diagonal);
}

template <class T>
struct Problem {
  int64_t n;
  View<T> cost;
  const View<T>* flow;
  const View<T>* distance;

  BIMT_INLINE void deltas(int64_t row, int64_t col, int64_t height, int64_t width, Full<T>* delta) const {
    swap_form(cost, row, col, height, width, delta);
    if (flow == nullptr) return;
    Full<T> flows[kLanes<T>], distances[kLanes<T>];
    swap_form(*flow, row, col, height, width, flows);
    swap_form(*distance, row, col, height, width, distances);
    BIMT_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) delta[i] += flows[i] * distances[i];
  }

  BIMT_INLINE void prefetch_next(int64_t row, int64_t col) const {
    if (row + kLanes<T> > n || col + kTile + kLanes<T> > n) return;
    BIMT_UNROLL
    for (int i = 0; i < kLanes<T>; ++i) {
      prefetch(cost.row(row + i) + col + kTile);
      prefetch(cost.row(col + kTile + i) + row);
    }
  }
};

template <class T>
bool finite(const Matrix<const T>& m) {
  if (m.data == nullptr) return true;
  T poison = 0;
  for (int64_t i = 0; i < m.rows; ++i) {
    for (int64_t j = 0; j < m.cols; ++j) poison += m.at(i, j) - m.at(i, j);
  }
  return poison == 0;
}

// Deltas can overflow although every entry is finite, so look again before refusing.
template <class T>
Status which_is_infinite(const SwapArgs<T>& args) {
  if (!finite(args.cost)) return Status::kCost;
  if (!finite(args.flow)) return Status::kFlow;
  if (!finite(args.distance)) return Status::kDistance;
  return Status::kOk;
}

// Swap forms are symmetric, so whichever axis has unit stride may serve as the columns.
template <class T>
Matrix<const T> with_unit_columns(const Matrix<const T>& m) {
  return m.col_stride == 1 || m.rows < 2 ? m : m.transposed();
}

int team(int64_t n, int threads) { return n < kSerialSize ? 1 : threads; }

template <class T>
Status run_deltas(const SwapArgs<T>& args, T* out) {
  const int64_t n = args.cost.rows;
  const int64_t* const slot = args.assignment;
  // cost[i, slot[j]]: with slots along the rows this is a permutation of whole rows.
  const bool slots_are_rows = args.cost.col_stride != 1;
  const int threads = team(n, args.threads);
  const ColumnsPermuted<T> cost(with_unit_columns(args.cost), slots_are_rows ? nullptr : slot, threads);
  const ColumnsPermuted<T> distances(with_unit_columns(args.distance), slot, threads);
  const View<T> flow(with_unit_columns(args.flow), nullptr), distance(distances.matrix(), slot);
  const bool pairs = args.flow.data != nullptr;
  const Problem<T> problem = {
      n, {cost.matrix(), slots_are_rows ? slot : nullptr}, pairs ? &flow : nullptr, pairs ? &distance : nullptr};
  const Scratch<Item> items(list_items(n, nullptr));
  const int64_t count = list_items(n, items.get());
  const Scratch<bool> good(count);
  parallel(threads, count, [&](int64_t index, int) {
    T poison = 0;
    for (int64_t tile = items[index].first_tile; tile < items[index].last_tile; ++tile) {
      for_blocks<T>(n, items[index].tile_row, tile, [&](int64_t row, int64_t col) {
        const int64_t height = smaller(kLanes<T>, n - row), width = smaller(kLanes<T>, n - col);
        Full<T> delta[kLanes<T>];
        problem.deltas(row, col, height, width, delta);
        for (int64_t i = 0; i < height; ++i) {
          for (int64_t j = 0; j < width; ++j) poison += delta[i][j] - delta[i][j];
          std::memcpy(out + (row + i) * n + col, &delta[i], width * sizeof(T));
        }
        transpose<T>(delta);
        for (int64_t j = 0; j < width; ++j) std::memcpy(out + (col + j) * n + row, &delta[j], height * sizeof(T));
      });
    }
    good[index] = poison == 0;
  });
  bool all_good = true;
  for (int64_t index = 0; index < count; ++index) all_good &= good[index];
  return all_good ? Status::kOk : which_is_infinite(args);
}

template <class T>
Status run_best(const SwapArgs<T>& args, T* delta, int64_t* partner) {
  using Label = IntegerLike<T>;
  const int64_t n = args.cost.rows, padded = n + kLanes<T>;
  const int64_t* const slot = args.assignment;
  // Work in the order of the rows of the matrix, be they neurons or slots: then whole rows are permuted.
  const bool slots_are_rows = args.cost.col_stride != 1;
  const bool by_slot = slot != nullptr && !slots_are_rows;
  const Scratch<int64_t> neuron(by_slot ? n : 0);
  for (int64_t i = 0; by_slot && i < n; ++i) neuron[slot[i]] = i;
  const int64_t* const from_slot = by_slot ? neuron.get() : nullptr;
  const int64_t* const to_slot = by_slot ? nullptr : slot;

  const int copiers = team(n, args.threads);
  const ColumnsPermuted<T> flows(with_unit_columns(args.flow), from_slot, copiers);
  const ColumnsPermuted<T> distances(with_unit_columns(args.distance), to_slot, copiers);
  const View<T> flow(flows.matrix(), from_slot), distance(distances.matrix(), to_slot);
  const bool pairs = args.flow.data != nullptr;
  const Problem<T> problem = {n,
                              {with_unit_columns(args.cost), by_slot ? from_slot : to_slot},
                              pairs ? &flow : nullptr,
                              pairs ? &distance : nullptr};
  const Scratch<Label> labels(padded);
  for (int64_t i = 0; i < padded; ++i) labels[i] = static_cast<Label>(by_slot && i < n ? neuron[i] : i);

  const Scratch<Item> items(list_items(n, nullptr));
  const int64_t count = list_items(n, items.get());
  const int threads = int(larger(1, smaller(team(n, args.threads), count)));
  const Scratch<T> best(threads * padded);
  const Scratch<Label> best_label(threads * padded);
  Best<T>::clear(best.get(), best_label.get(), threads * padded);
  const Scratch<bool> good(count);
  parallel(threads, count, [&](int64_t index, int thread) {
    Search<T, Problem<T>> search(problem, labels.get(), &best[thread * padded], &best_label[thread * padded]);
    good[index] = search.run(items[index]);
  });

  bool all_good = true;
  for (int64_t index = 0; index < count; ++index) all_good &= good[index];
  if (!all_good) {
    const Status status = which_is_infinite(args);
    if (status != Status::kOk) return status;
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int thread = 1; thread < threads; ++thread) {
      Best<T>::update_one(&best[i], &best_label[i], best[thread * padded + i], best_label[thread * padded + i]);
    }
    delta[labels[i]] = best[i];
    partner[labels[i]] = best_label[i] < 0 ? labels[i] : best_label[i];
  }
  return Status::kOk;
}

}  // namespace

template <>
Status swap_deltas<BIMT_ISA, float>(const SwapArgs<float>& args, float* deltas) {
  return run_deltas(args, deltas);
}

template <>
Status swap_deltas<BIMT_ISA, double>(const SwapArgs<double>& args, double* deltas) {
  return run_deltas(args, deltas);
}

template <>
Status best_swaps<BIMT_ISA, float>(const SwapArgs<float>& args, float* delta, int64_t* partner) {
  return run_best(args, delta, partner);
}

template <>
Status best_swaps<BIMT_ISA, double>(const SwapArgs<double>& args, double* delta, int64_t* partner) {
  return run_best(args, delta, partner);
}

}  // namespace bimt

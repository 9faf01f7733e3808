// Gradients of the swap deltas.
//
// With G the gradient of the deltas and H = G + G^T, every one of them is a symmetric matrix X whose entries off the
// diagonal are H, or H times the swap form of the other factor, and X[r, r] = -sum of X[r, s] over s != r.

#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace bimt {
namespace {

constexpr int64_t kSerialSize = 96;
constexpr int64_t kTile = 64;

template <class T>
struct Tile {
  T at[kTile][kTile];
};

// Rows and columns of a square matrix in the order of the neurons.
template <class T>
struct Ordered {
  Matrix<const T> matrix;
  const int64_t* order;  // null: as they are

  int64_t row(int64_t i) const { return order == nullptr ? i : order[i]; }
  T at(int64_t i, int64_t j) const { return matrix.at(row(i), row(j)); }

  // X + X^T at (row, col).
  void symmetric(int64_t first_row, int64_t rows, int64_t first_col, int64_t cols, Tile<T>* to) const {
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) to->at[i][j] = at(first_row + i, first_col + j);
    }
    for (int64_t j = 0; j < cols; ++j) {
      for (int64_t i = 0; i < rows; ++i) to->at[i][j] += at(first_col + j, first_row + i);
    }
  }

  void swap_form(int64_t first_row, int64_t rows, int64_t first_col, int64_t cols, const T* diagonal,
                 Tile<T>* to) const {
    symmetric(first_row, rows, first_col, cols, to);
    for (int64_t i = 0; i < rows; ++i) {
      for (int64_t j = 0; j < cols; ++j) to->at[i][j] -= diagonal[first_row + i] + diagonal[first_col + j];
    }
  }
};

// One of the gradients: rows and columns go to where the neurons' entries are.
template <class T>
struct Gradient {
  T* to;
  const int64_t *row_order, *col_order;
  double sums[kTile];

  void add(int64_t n, int64_t first_row, int64_t rows, int64_t first_col, int64_t cols, const Tile<T>& values) {
    for (int64_t i = 0; i < rows; ++i) {
      T* const row = to + (row_order == nullptr ? first_row + i : row_order[first_row + i]) * n;
      for (int64_t j = 0; j < cols; ++j) {
        row[col_order == nullptr ? first_col + j : col_order[first_col + j]] = values.at[i][j];
        if (first_row + i != first_col + j) sums[i] += double(values.at[i][j]);
      }
    }
  }

  void finish(int64_t n, int64_t first_row, int64_t rows) {
    for (int64_t i = first_row; i < first_row + rows; ++i) {
      const int64_t row = row_order == nullptr ? i : row_order[i], col = col_order == nullptr ? i : col_order[i];
      to[row * n + col] = static_cast<T>(-sums[i - first_row]);
    }
  }
};

template <class T>
void multiply(const Tile<T>& a, int64_t rows, int64_t cols, Tile<T>* b) {
  for (int64_t i = 0; i < rows; ++i) {
    for (int64_t j = 0; j < cols; ++j) b->at[i][j] *= a.at[i][j];
  }
}

template <class T>
Status run_backward(const SwapBackwardArgs<T>& args) {
  const SwapArgs<T>& swap = args.swap;
  const int64_t n = args.grad.rows;
  const bool pairs = swap.flow.data != nullptr;
  const Ordered<T> grad = {args.grad, nullptr}, flow = {swap.flow, nullptr},
                   distance = {swap.distance, swap.assignment};
  const Scratch<T> diagonals(2 * n);
  for (int64_t i = 0; pairs && i < n; ++i) {
    diagonals[i] = flow.at(i, i);
    diagonals[n + i] = distance.at(i, i);
  }
  parallel(n < kSerialSize ? 1 : swap.threads, divide_up(n, kTile), [&](int64_t block, int) {
    const int64_t row = block * kTile, rows = smaller(kTile, n - row);
    Gradient<T> by_cost = {args.cost_grad, nullptr, swap.assignment, {}};
    Gradient<T> by_flow = {args.flow_grad, nullptr, nullptr, {}};
    Gradient<T> by_distance = {args.distance_grad, swap.assignment, swap.assignment, {}};
    Tile<T> upstream, form;
    for (int64_t col = 0; col < n; col += kTile) {
      const int64_t cols = smaller(kTile, n - col);
      grad.symmetric(row, rows, col, cols, &upstream);
      by_cost.add(n, row, rows, col, cols, upstream);
      if (!pairs) continue;
      distance.swap_form(row, rows, col, cols, &diagonals[n], &form);
      multiply(upstream, rows, cols, &form);
      by_flow.add(n, row, rows, col, cols, form);
      flow.swap_form(row, rows, col, cols, diagonals.get(), &form);
      multiply(upstream, rows, cols, &form);
      by_distance.add(n, row, rows, col, cols, form);
    }
    by_cost.finish(n, row, rows);
    if (!pairs) return;
    by_flow.finish(n, row, rows);
    by_distance.finish(n, row, rows);
  });
  return Status::kOk;
}

}  // namespace

template <>
Status swap_deltas_backward<BIMT_ISA, float>(const SwapBackwardArgs<float>& args) {
  return run_backward(args);
}

template <>
Status swap_deltas_backward<BIMT_ISA, double>(const SwapBackwardArgs<double>& args) {
  return run_backward(args);
}

}  // namespace bimt

// Swap deltas of all pairs, every neuron's best swap, and the gradients of the deltas.
//
// All of them are symmetric: a block that reads X[I, J] and X[J, I], for two tiles of neurons, has what the rows of
// both need, and so every matrix is read once. A block takes one tile I and a span of tiles J, from I on. What it finds
// for a row of I it keeps to the end, and then puts it in the workspace, in the part of its span; what it finds for a
// row of J it puts there at once, in the part of tile I. Then a second kernel goes through the parts of every row.

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace bimt {
namespace gpu {
namespace {

constexpr int kTile = 32;  // as many as lanes
constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kRows = kTile / kWarps;  // of a thread: warp, warp + kWarps, ...; its column is its lane
constexpr int kSpan = 4;               // tiles J of a block, at least
constexpr int kMostSpans = 64;         // of a row: they take room in the workspace

// Tiles of matrices, and what a block of rows has in them.
struct Layout {
  int64_t rows, cols;

  __host__ __device__ int64_t row_tiles() const { return divide_up(rows, kTile); }
  __host__ __device__ int64_t col_tiles() const { return divide_up(cols, kTile); }
  __host__ __device__ int64_t span() const {
    const int64_t least = divide_up(col_tiles(), kMostSpans);
    return least < kSpan ? kSpan : least;
  }
  __host__ __device__ int64_t spans(int64_t tile) const { return divide_up(col_tiles() - tile, span()); }
  dim3 grid() const { return dim3(unsigned(row_tiles()), unsigned(spans(0))); }
};

__device__ __forceinline__ int lane() { return int(threadIdx.x) % kWarp; }
__device__ __forceinline__ int warp() { return int(threadIdx.x) / kWarp; }

template <class T>
struct Staged {
  T at[kTile][kTile + 1];
};

// Reads a tile along the axis that lies closer together in memory; 0 beyond the edges.
template <class T>
__device__ __forceinline__ void stage(const Ordered<T>& x, int64_t row, int64_t rows, int64_t col, int64_t cols,
                                      Staged<T>& to) {
  const bool lanes_are_columns = x.matrix.col_stride <= x.matrix.row_stride;
  T values[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int other = warp() + k * kWarps;
    const int64_t i = row + (lanes_are_columns ? other : lane()), j = col + (lanes_are_columns ? lane() : other);
    values[k] = i < rows && j < cols ? x.at(i, j) : T(0);
  }
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int other = warp() + k * kWarps;
    to.at[lanes_are_columns ? other : lane()][lanes_are_columns ? lane() : other] = values[k];
  }
}

// X[i, j] + X[j, i], the same for X[j, i].
template <class T>
__device__ __forceinline__ void symmetric_sum(const Both<T>& x, const Layout& layout, int64_t row, int64_t col,
                                              Staged<T> (&staged)[2], T (&sum)[kRows]) {
  __syncthreads();  // the last tile has been used
  stage(x.forward, row, layout.rows, col, layout.cols, staged[0]);
  stage(x.backward, col, layout.cols, row, layout.rows, staged[1]);
  __syncthreads();
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int r = warp() + k * kWarps;
    sum[k] = staged[0].at[r][lane()] + staged[1].at[lane()][r];
  }
}

// (X[i, j] + X[j, i]) - (X[i, i] + X[j, j])
template <class T>
__device__ __forceinline__ void swap_form(const Both<T>& x, const Layout& layout, int64_t row, int64_t col,
                                          Staged<T> (&staged)[2], T (&form)[kRows]) {
  symmetric_sum(x, layout, row, col, staged, form);
  const int64_t j = col + lane();
  const T own = j < layout.cols ? x.at_home(j) : T(0);
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int64_t i = row + warp() + k * kWarps;
    if (i < layout.rows) form[k] -= x.at_home(i) + own;
  }
}

// [C] + [F] * [D], where [X] is the swap form.
template <class T>
__device__ __forceinline__ void tile_deltas(const SwapArgs<T>& args, const Layout& layout, int64_t row, int64_t col,
                                            Staged<T> (&staged)[2], T (&delta)[kRows]) {
  T form[kRows], flow[kRows];
#pragma unroll 1
  for (int which = 0; which < args.count; ++which) {
    swap_form(args.matrices[which], layout, row, col, staged, form);
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      delta[k] = which == 0 ? form[k] : which == 1 ? delta[k] : delta[k] + flow[k] * form[k];
      flow[k] = form[k];
    }
  }
  bool finite = true;
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const bool inside = row + warp() + k * kWarps < layout.rows && col + lane() < layout.cols;
    finite = finite && (!inside || is_finite(delta[k]));
  }
  if (!finite) atomicExch(args.not_finite, 1);
}

// Bytes: n^2 numbers of each matrix read, n^2 written. Flops: 3 n^2 / 2, with flow and distance 11 n^2 / 2.
template <class T>
__global__ void __launch_bounds__(kThreads)
    deltas_kernel(const __grid_constant__ SwapArgs<T> args, const Matrix<T> deltas, bool pairs) {
  SHARED(Staged<T>, staged, [2]);
  const Layout layout = {args.rows, args.cols};
  const int64_t tile = blockIdx.x, first = tile + int64_t(blockIdx.y) * layout.span(), row = tile * kTile;
#pragma unroll 1
  for (int64_t other = first; other < first + layout.span() && other < layout.col_tiles(); ++other) {
    const int64_t col = other * kTile;
    T delta[kRows];
    tile_deltas(args, layout, row, col, staged, delta);
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int r = warp() + k * kWarps;
      const int64_t i = row + r, j = col + lane();
      if (i < args.rows && j < args.cols && (!pairs || j > i)) deltas.at(i, j) = delta[k];
      staged[0].at[r][lane()] = delta[k];
    }
    if (pairs || other == tile) continue;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int r = warp() + k * kWarps;
      const int64_t i = col + r, j = row + lane();
      if (i < args.cols && j < args.rows) deltas.at(i, j) = staged[0].at[lane()][r];
    }
  }
}

// The best of some swaps: the smallest delta below 0, of equal ones that with the lowest index.
template <class T>
struct Best;

// The bits of negative numbers, turned over, stand in the order of the numbers; below them the index.
template <>
struct Best<float> {
  uint64_t key;

  static __device__ __forceinline__ Best none() { return {~uint64_t(0)}; }
  static __device__ __forceinline__ Best of(float delta, int64_t index) {
    return delta < 0 ? Best{uint64_t(~same_bits<uint32_t>(delta)) << 32 | uint32_t(index)} : none();
  }
  __device__ __forceinline__ void take(const Best& other) { key = other.key < key ? other.key : key; }
  __device__ __forceinline__ Best of_lane(int offset) const {
    return {uint64_t(__shfl_xor_sync(kAllLanes, (unsigned long long)(key), offset))};
  }
  __device__ __forceinline__ bool exists() const { return key != ~uint64_t(0); }
  __device__ __forceinline__ float delta() const { return same_bits<float>(uint32_t(~uint32_t(key >> 32))); }
  __device__ __forceinline__ int64_t index() const { return int64_t(uint32_t(key)); }
};

template <>
struct alignas(16) Best<double> {
  double value;
  int64_t label;

  static __device__ __forceinline__ Best none() { return {0, INT64_MAX}; }
  static __device__ __forceinline__ Best of(double delta, int64_t index) {
    return delta < 0 ? Best{delta, index} : none();
  }
  __device__ __forceinline__ void take(const Best& other) {
    if (other.value < value || (other.value == value && other.label < label)) *this = other;
  }
  __device__ __forceinline__ Best of_lane(int offset) const {
    return {__shfl_xor_sync(kAllLanes, value, offset), int64_t(__shfl_xor_sync(kAllLanes, (long long)(label), offset))};
  }
  __device__ __forceinline__ bool exists() const { return value < 0; }
  __device__ __forceinline__ double delta() const { return value; }
  __device__ __forceinline__ int64_t index() const { return label; }
};

// Of every row of a block's tile, whose part `mine` a thread has.
template <class T>
__device__ __forceinline__ void over_lanes(Best<T>& mine) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) mine.take(mine.of_lane(offset));
}

template <class T>
__device__ __forceinline__ int64_t neuron_of(const BestSwapArgs<T>& args, int64_t i) {
  return args.neuron ? args.neuron[i] : args.first + i;
}

// Bytes: n^2 numbers of each matrix, and about n^2 / 8 written (float) for the second kernel. Flops: as deltas_kernel.
template <class T>
__global__ void __launch_bounds__(kThreads) best_kernel(const __grid_constant__ BestSwapArgs<T> args) {
  SHARED(Staged<T>, staged, [2]);
  SHARED(Best<T>, of_warps, [kWarps][kTile]);
  const Layout layout = {args.swaps.rows, args.swaps.cols};
  const int64_t tile = blockIdx.x, first = tile + int64_t(blockIdx.y) * layout.span(), row = tile * kTile,
                cols = layout.cols;
  Best<T>* const workspace = reinterpret_cast<Best<T>*>(args.workspace);
  if (first >= layout.col_tiles()) return;
  Best<T> of_rows[kRows];
#pragma unroll
  for (int k = 0; k < kRows; ++k) of_rows[k] = Best<T>::none();
#pragma unroll 1
  for (int64_t other = first; other < first + layout.span() && other < layout.col_tiles(); ++other) {
    const int64_t col = other * kTile, j = col + lane();
    T delta[kRows];
    tile_deltas(args.swaps, layout, row, col, staged, delta);
    const int64_t column_neuron = j < cols ? neuron_of(args, j) : 0;
    Best<T> of_column = Best<T>::none();
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int64_t i = row + warp() + k * kWarps;
      if (i >= layout.rows || j >= cols) continue;
      of_rows[k].take(Best<T>::of(delta[k], column_neuron));
      of_column.take(Best<T>::of(delta[k], neuron_of(args, i)));
    }
    if (other == tile) continue;
    of_warps[warp()][lane()] = of_column;
    __syncthreads();
    if (warp() == 0 && j < cols) {
      for (int k = 1; k < kWarps; ++k) of_column.take(of_warps[k][lane()]);
      workspace[tile * cols + j] = of_column;
    }
  }
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int64_t i = row + warp() + k * kWarps;
    over_lanes(of_rows[k]);
    if (lane() == 0 && i < layout.rows) workspace[(layout.row_tiles() + blockIdx.y) * cols + i] = of_rows[k];
  }
}

// Calls f with every part of the workspace that row `i` of a block of kTile has: those of tiles before its own, and
// those of the spans of its own; every kWarps-th of them, from the warp's on.
template <class F>
__device__ __forceinline__ void for_parts(const Layout& layout, F f) {
  const int64_t tile = blockIdx.x, row_tiles = layout.row_tiles();
  const int64_t before = tile < row_tiles ? tile : row_tiles, spans = tile < row_tiles ? layout.spans(tile) : 0;
  for (int64_t k = warp(); k < before + spans; k += kWarps) f(k < before ? k : row_tiles + k - before);
}

template <class T>
__global__ void __launch_bounds__(kThreads) best_of_parts(const __grid_constant__ BestSwapArgs<T> args) {
  SHARED(Best<T>, of_warps, [kWarps][kTile]);
  const Layout layout = {args.swaps.rows, args.swaps.cols};
  const Best<T>* const workspace = reinterpret_cast<const Best<T>*>(args.workspace);
  const int64_t j = int64_t(blockIdx.x) * kTile + lane();
  Best<T> best = Best<T>::none();
  for_parts(layout, [&](int64_t part) {
    if (j < layout.cols) best.take(workspace[part * layout.cols + j]);
  });
  of_warps[warp()][lane()] = best;
  __syncthreads();
  if (warp() != 0 || j >= layout.cols) return;
  for (int k = 1; k < kWarps; ++k) best.take(of_warps[k][lane()]);
  const int64_t neuron = neuron_of(args, j);
  best.take(Best<T>::of(args.delta[neuron], args.partner[neuron]));
  if (!best.exists()) return;
  args.delta[neuron] = best.delta();
  args.partner[neuron] = best.index();
}

// Bytes: n^2 numbers of grad and other read, n^2 written. Flops: 3 n^2 / 2, with other 3 n^2.
template <class T>
__global__ void __launch_bounds__(kThreads, 2) gradient_kernel(const __grid_constant__ SwapGradientArgs<T> args) {
  SHARED(Staged<T>, staged, [2]);
  SHARED(double, of_warps, [kWarps][kTile]);
  const int64_t n = args.grad.rows;
  const Layout layout = {n, n};
  const int64_t tile = blockIdx.x, first = tile + int64_t(blockIdx.y) * layout.span(), row = tile * kTile;
  if (first >= layout.col_tiles()) return;
  const Ordered<T> grad = {args.grad, nullptr, nullptr};
  const auto result = [&](int64_t i, int64_t j) -> T& {
    return args.gradient.at(args.row_order ? args.row_order[i] : i, args.col_order ? args.col_order[j] : j);
  };
  double of_rows[kRows] = {};
#pragma unroll 1
  for (int64_t other = first; other < first + layout.span() && other < layout.col_tiles(); ++other) {
    const int64_t col = other * kTile, j = col + lane();
    T entry[kRows];
    symmetric_sum({grad, grad, nullptr}, layout, row, col, staged, entry);
    if (args.other.matrix.data != nullptr) {
      T form[kRows];
      swap_form({args.other, args.other, nullptr}, layout, row, col, staged, form);
#pragma unroll
      for (int k = 0; k < kRows; ++k) entry[k] *= form[k];
    }
    double of_column = 0;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int r = warp() + k * kWarps;
      const int64_t i = row + r;
      staged[0].at[r][lane()] = entry[k];
      if (i >= n || j >= n || i == j) continue;
      result(i, j) = entry[k];
      of_rows[k] += double(entry[k]);
      of_column += double(entry[k]);
    }
    if (other == tile) continue;
    of_warps[warp()][lane()] = of_column;
    __syncthreads();
#pragma unroll
    for (int k = 0; k < kRows; ++k) {
      const int r = warp() + k * kWarps;
      if (col + r < n && row + lane() < n) result(col + r, row + lane()) = staged[0].at[lane()][r];
    }
    if (warp() == 0 && j < n) {
      for (int k = 1; k < kWarps; ++k) of_column += of_warps[k][lane()];
      args.workspace[tile * n + j] = of_column;
    }
  }
#pragma unroll
  for (int k = 0; k < kRows; ++k) {
    const int64_t i = row + warp() + k * kWarps;
    const double sum = warp_sum(of_rows[k]);
    if (lane() == 0 && i < n) args.workspace[(layout.row_tiles() + blockIdx.y) * n + i] = sum;
  }
}

template <class T>
__global__ void __launch_bounds__(kThreads) gradient_diagonal(const __grid_constant__ SwapGradientArgs<T> args) {
  SHARED(double, of_warps, [kWarps][kTile]);
  const int64_t n = args.grad.rows, j = int64_t(blockIdx.x) * kTile + lane();
  double sum = 0;
  for_parts({n, n}, [&](int64_t part) {
    if (j < n) sum += args.workspace[part * n + j];
  });
  of_warps[warp()][lane()] = sum;
  __syncthreads();
  if (warp() != 0 || j >= n) return;
  for (int k = 1; k < kWarps; ++k) sum += of_warps[k][lane()];
  args.gradient.at(args.row_order ? args.row_order[j] : j, args.col_order ? args.col_order[j] : j) = T(-sum);
}

}  // namespace

int64_t swap_parts(int64_t rows, int64_t cols) {
  const Layout layout = {rows, cols};
  return layout.row_tiles() + layout.spans(0);
}

template <class T>
void swap_deltas(const Queue& queue, const SwapArgs<T>& args, const Matrix<T>& deltas, bool pairs) {
  if (args.rows == 0) return;
  const OnDevice device(queue);
  const Layout layout = {args.rows, args.cols};
  LAUNCH(deltas_kernel<T>, layout.grid(), kThreads, device.stream, args, deltas, pairs);
  device.check_launch();
}

template <class T>
void best_swaps(const Queue& queue, const BestSwapArgs<T>& args) {
  if (args.swaps.rows == 0) return;
  const OnDevice device(queue);
  const Layout layout = {args.swaps.rows, args.swaps.cols};
  LAUNCH(best_kernel<T>, layout.grid(), kThreads, device.stream, args);
  device.check_launch();
  LAUNCH(best_of_parts<T>, unsigned(layout.col_tiles()), kThreads, device.stream, args);
  device.check_launch();
}

template <class T>
void swap_gradient(const Queue& queue, const SwapGradientArgs<T>& args) {
  if (args.grad.rows == 0) return;
  const OnDevice device(queue);
  const Layout layout = {args.grad.rows, args.grad.rows};
  LAUNCH(gradient_kernel<T>, layout.grid(), kThreads, device.stream, args);
  device.check_launch();
  LAUNCH(gradient_diagonal<T>, unsigned(layout.row_tiles()), kThreads, device.stream, args);
  device.check_launch();
}

#define BIMT_INSTANTIATE(T)                                                               \
  template void swap_deltas<T>(const Queue&, const SwapArgs<T>&, const Matrix<T>&, bool); \
  template void best_swaps<T>(const Queue&, const BestSwapArgs<T>&);                      \
  template void swap_gradient<T>(const Queue&, const SwapGradientArgs<T>&);
BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)

}  // namespace gpu
}  // namespace bimt

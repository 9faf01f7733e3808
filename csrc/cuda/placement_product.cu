// Placement costs for any metric, and their gradients: matrix products with distances that are made tile by tile.
//
// A block takes a tile of rows and a tile of points, and goes through what it sums kInner at a time: the matrix's part
// is staged in shared memory, whichever axis of it is contiguous, the distances beside it. Sums of kFold terms are
// added up in double, so that no number of terms loses precision. An entry has the same bits in whatever tile it is.

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/lengths.h"

namespace bimt {
namespace gpu {
namespace {

constexpr int kThreads = 128;
constexpr int kQuad = 4;   // numbers read or written at once
constexpr int kSide = 16;  // threads along rows
constexpr int kRows = kSide * kQuad;
constexpr int kGroups = 2;  // of kRows rows
constexpr int kCols = kThreads / kSide * kQuad;
constexpr int kInner = 16;
constexpr int kFold = 128;  // a multiple of kInner
constexpr int kParts = 16;  // in one launch

template <class S>
struct alignas(sizeof(S) * kQuad < 16 ? sizeof(S) * kQuad : 16) Quad {
  S item[kQuad];
};

template <class S>
__device__ __forceinline__ bool holds_quad(const S* address) {
  return reinterpret_cast<uintptr_t>(address) % alignof(Quad<S>) == 0;
}

__device__ __forceinline__ int within_quad(int64_t left) { return left < 0 ? 0 : left < kQuad ? int(left) : kQuad; }

template <class S>
__device__ __forceinline__ void read_quad(const S* from, int64_t stride, int count, Compute<S> (&to)[kQuad]) {
  if (count == kQuad && stride == 1 && holds_quad(from)) {
    const Quad<S> all = *reinterpret_cast<const Quad<S>*>(from);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) to[k] = widened(all.item[k]);
  } else {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) to[k] = k < count ? widened(from[k * stride]) : Compute<S>(0);
  }
}

template <class S>
__device__ __forceinline__ void write_quad(const Compute<S> (&from)[kQuad], int count, S* to, int64_t stride) {
  if (count == kQuad && stride == 1 && holds_quad(to)) {
    Quad<S> all;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) narrow_to(from[k], &all.item[k]);
    *reinterpret_cast<Quad<S>*>(to) = all;
  } else {
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      if (k < count) narrow_to(from[k], &to[k * stride]);
    }
  }
}

// One number after another of kInner times Width, a little apart so that quads along either axis meet few banks twice.
template <class T, int Width>
struct alignas(16) Strip {
  T at[kInner][Width + kQuad];

  __device__ __forceinline__ void read(int inner, int first, T* to) const {
    const Quad<T> quad = *reinterpret_cast<const Quad<T>*>(&at[inner][first]);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) to[k] = quad.item[k];
  }
};

// strip[k][r] = matrix[row + r, inner + k], or its magnitude; 0 beyond the edges.
template <bool Magnitudes, int Width, class S, class T = Compute<S>>
__device__ __forceinline__ void stage(const Matrix<const S>& matrix, int64_t row, int64_t inner,
                                      Strip<T, Width>& strip) {
  constexpr int kQuads = Width * kInner / kQuad / kThreads;
  const int t = int(threadIdx.x);
  const bool along_rows = matrix.row_stride < matrix.col_stride;
  T values[kQuads][kQuad];
#pragma unroll
  for (int h = 0; h < kQuads; ++h) {
    const int index = t + h * kThreads;
    const int r = along_rows ? index % (Width / kQuad) * kQuad : index / (kInner / kQuad);
    const int k = along_rows ? index / (Width / kQuad) : index % (kInner / kQuad) * kQuad;
    const int64_t i = row + r, j = inner + k;
    const int count = along_rows ? (j < matrix.cols ? within_quad(matrix.rows - i) : 0)
                                 : (i < matrix.rows ? within_quad(matrix.cols - j) : 0);
    read_quad(matrix.data + i * matrix.row_stride + j * matrix.col_stride,
              along_rows ? matrix.row_stride : matrix.col_stride, count, values[h]);
  }
#pragma unroll
  for (int h = 0; h < kQuads; ++h) {
    const int index = t + h * kThreads;
    Quad<T> quad;
#pragma unroll
    for (int q = 0; q < kQuad; ++q) quad.item[q] = Magnitudes ? absolute(values[h][q]) : values[h][q];
    if (along_rows) {
      *reinterpret_cast<Quad<T>*>(&strip.at[index / (Width / kQuad)][index % (Width / kQuad) * kQuad]) = quad;
    } else {
      const int r = index / (kInner / kQuad), k = index % (kInner / kQuad) * kQuad;
#pragma unroll
      for (int q = 0; q < kQuad; ++q) strip.at[k + q][r] = quad.item[q];
    }
  }
}

// strip[k][p] = d(points first + p, inner point first_inner + k); 0 beyond the last inner one.
template <class T>
__device__ __forceinline__ void stage_distances(const ProductPoints<T>& points, int64_t first, const T* inner,
                                                int64_t first_inner, int64_t inner_count, bool table_by_inner,
                                                Strip<T, kCols>& strip) {
  const int k = int(threadIdx.x) % kInner, p = int(threadIdx.x) / kInner * kQuad;
  const bool inside = first_inner + k < inner_count;
  const Points<T> cols = {inner, first_inner + k, inner_count, points.dim};
#pragma unroll 1  // few at a time: the sums hold most registers
  for (int q = 0; q < kQuad; q += 2) {
    T distance[2][1];
    const Points<T> rows = {points.points, first + p + q, points.count, points.dim};
    tile_distances<2, 1>(rows, cols, points.metric, points.table, table_by_inner, distance);
    strip.at[k][p + q] = inside ? distance[0][0] : T(0);
    strip.at[k][p + q + 1] = inside ? distance[1][0] : T(0);
  }
}

// A thread's part of a tile: kGroups times kQuad rows, groups kRows apart, and kQuad columns.
template <class T, int Groups>
struct Sums {
  T recent[Groups * kQuad][kQuad];
  double total[Groups * kQuad][kQuad];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int r = 0; r < Groups * kQuad; ++r) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) total[r][c] = recent[r][c] = 0;
    }
  }

  template <int Width>
  __device__ __forceinline__ void add(const Strip<T, Width>& rows, const Strip<T, kCols>& cols) {
    const int row = int(threadIdx.x) % kSide * kQuad, col = int(threadIdx.x) / kSide * kQuad;
#pragma unroll 2
    for (int k = 0; k < kInner; ++k) {
      T a[Groups * kQuad], b[kQuad];
#pragma unroll
      for (int group = 0; group < Groups; ++group) rows.read(k, row + group * kRows, a + group * kQuad);
      cols.read(k, col, b);
#pragma unroll
      for (int r = 0; r < Groups * kQuad; ++r) {
#pragma unroll
        for (int c = 0; c < kQuad; ++c) recent[r][c] += a[r] * b[c];
      }
    }
  }

  __device__ __forceinline__ void fold(double coefficient) {
#pragma unroll
    for (int r = 0; r < Groups * kQuad; ++r) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        total[r][c] = fma(coefficient, double(recent[r][c]), total[r][c]);
        recent[r][c] = 0;
      }
    }
  }
};

template <class S>
struct Product {
  ProductPart<S> parts[kParts];
  int count;
  int64_t rows;
  ProductPoints<Compute<S>> points;
};

template <class T>
struct CostResult {
  static constexpr bool kMagnitudes = true;
  Matrix<T> cost;
  T* diagonal;
  bool adds;
  int* not_finite;

  __device__ __forceinline__ bool along_rows() const { return true; }
  __device__ __forceinline__ void write(int64_t row, int64_t col, int count, const double (&total)[kQuad]) const {
    if (count == 0) return;
    T values[kQuad] = {};
    T* const to = diagonal ? diagonal + row : &cost.at(row, col);
    const int64_t stride = diagonal ? 1 : cost.row_stride;
    if (adds && !diagonal) read_quad(to, stride, count, values);
    bool finite = true;
#pragma unroll
    for (int k = 0; k < kQuad; ++k) {
      if (diagonal && adds && k < count && row + k == col) values[k] = to[k];
      values[k] = T(double(values[k]) + total[k]);
      finite = finite && (k >= count || is_finite(values[k]));
      if (diagonal && k < count && row + k == col) to[k] = values[k];
    }
    if (!diagonal) write_quad(values, count, to, stride);
    if (!finite) atomicExch(not_finite, 1);
  }
};

template <class S>
struct WeightGradientResult {
  static constexpr bool kMagnitudes = false;
  Matrix<const S> weight;
  Matrix<S> gradient;

  __device__ __forceinline__ bool along_rows() const { return gradient.row_stride < gradient.col_stride; }
  __device__ __forceinline__ void write(int64_t row, int64_t col, int count, const double (&total)[kQuad]) const {
    using T = Compute<S>;
    if (count == 0) return;
    T values[kQuad];
    const bool rows = along_rows();
    read_quad(&weight.at(row, col), rows ? weight.row_stride : weight.col_stride, count, values);
#pragma unroll
    for (int k = 0; k < kQuad; ++k) values[k] = sign(values[k]) * T(total[k]);
    write_quad(values, count, &gradient.at(row, col), rows ? gradient.row_stride : gradient.col_stride);
  }
};

// Bytes: rows * inner numbers for each of cols / kCols tiles (mostly from the cache), rows * cols written. Flops:
// 2 rows * inner * cols, and cols * inner distances for each of rows / 128 tiles.
template <class S, class Result, class T = Compute<S>>
__global__ void __launch_bounds__(kThreads, sizeof(T) == 4 ? 3 : 2)
    product_kernel(const __grid_constant__ Product<S> product, const __grid_constant__ Result result,
                   bool on_diagonal) {
  using Rows = Strip<T, kGroups * kRows>;
  using Distances = Strip<T, kCols>;
  SHARED(Rows, rows, );
  SHARED(Distances, distances, );
  const int64_t col = int64_t(on_diagonal ? blockIdx.x : blockIdx.y) * kCols;
  const int64_t row = on_diagonal ? col : int64_t(blockIdx.x) * (kGroups * kRows);
  Sums<T, kGroups> sums;
  sums.clear();
  for (int part = 0; part < product.count; ++part) {
    const ProductPart<S>& own = product.parts[part];
    const int64_t inner_count = own.matrix.cols;
    for (int64_t inner = 0; inner < inner_count; inner += kInner) {
      __syncthreads();  // the last strips have been used
      stage<Result::kMagnitudes>(own.matrix, row, inner, rows);
      stage_distances(product.points, col, own.inner, inner, inner_count, own.table_by_inner, distances);
      __syncthreads();
      sums.add(rows, distances);
      if ((inner + kInner) % kFold == 0 || inner + kInner >= inner_count) sums.fold(own.coefficient);
    }
  }
  const int64_t own_row = row + int(threadIdx.x) % kSide * kQuad, own_col = col + int(threadIdx.x) / kSide * kQuad;
  if (result.along_rows()) {
#pragma unroll
    for (int group = 0; group < kGroups; ++group) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        const int64_t i = own_row + group * kRows;
        const double total[kQuad] = {sums.total[group * kQuad][c], sums.total[group * kQuad + 1][c],
                                     sums.total[group * kQuad + 2][c], sums.total[group * kQuad + 3][c]};
        if (own_col + c < product.points.count) result.write(i, own_col + c, within_quad(product.rows - i), total);
      }
    }
  } else {
#pragma unroll
    for (int r = 0; r < kGroups * kQuad; ++r) {
      const int64_t i = own_row + r / kQuad * kRows + r % kQuad;
      if (i < product.rows) result.write(i, own_col, within_quad(product.points.count - own_col), sums.total[r]);
    }
  }
}

template <class S, class Result>
void launch_product(const OnDevice& device, const Product<S>& product, const Result& result, bool on_diagonal) {
  const int64_t cols = divide_up(product.points.count, kCols), rows = divide_up(product.rows, kGroups * kRows);
  const dim3 grid = on_diagonal ? dim3(unsigned(cols)) : dim3(unsigned(rows), unsigned(cols));
  if (rows == 0 || cols == 0) return;
  LAUNCH((product_kernel<S, Result>), grid, kThreads, device.stream, product, result, on_diagonal);
  device.check_launch();
}

// Sums over the tile for every coordinate of every slot and peer: pair (p, k) adds M[p, k] times the derivative of its
// distance, M = coefficient * G^T |W|.
template <class Metric, class T>
__device__ __forceinline__ void position_gradients(Metric, const Points<T>& slots, const Points<T>& peers,
                                                   const double (&pull)[kQuad][kQuad], double (*of_warps)[kRows],
                                                   double* slot_part, double* peer_part) {
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  T sum[kQuad][kQuad] = {}, factor[kQuad][kQuad], a[kQuad], b[kQuad];
#pragma unroll
  for (int q = 0; q < kQuad; ++q) {
    a[q] = Metric::kInBall ? slots.gap(q) : T(0);
    b[q] = Metric::kInBall ? peers.gap(q) : T(0);
  }
  for (int axis = 0; axis < slots.dim; ++axis) {
#pragma unroll
    for (int r = 0; r < kQuad; ++r) {
#pragma unroll
      for (int c = 0; c < kQuad; ++c) sum[r][c] = Metric::add(sum[r][c], slots.at(r, axis), peers.at(c, axis));
    }
  }
#pragma unroll
  for (int r = 0; r < kQuad; ++r) {
#pragma unroll
    for (int c = 0; c < kQuad; ++c) {
      T ties = 0;
      for (int axis = 0; Metric::kTies && axis < slots.dim; ++axis) {
        ties += Metric::attains(slots.at(r, axis), peers.at(c, axis), sum[r][c]);
      }
      factor[r][c] = Metric::factor(sum[r][c], a[r], b[c], ties);
    }
  }
  for (int axis = 0; axis < slots.dim; ++axis) {
    double by_slot[kQuad] = {}, by_peer[kQuad] = {};
#pragma unroll
    for (int r = 0; r < kQuad; ++r) {
      const T x = slots.at(r, axis);
#pragma unroll
      for (int c = 0; c < kQuad; ++c) {
        const T y = peers.at(c, axis);
        by_slot[r] += pull[r][c] * double(Metric::slope(x, y, factor[r][c], sum[r][c], a[r]));
        by_peer[c] += pull[r][c] * double(Metric::slope(y, x, factor[r][c], sum[r][c], b[c]));
      }
    }
#pragma unroll
    for (int q = 0; q < kQuad; ++q) {  // the lanes of half a warp have the same peers, both halves the same slots
      by_slot[q] += __shfl_xor_sync(kAllLanes, by_slot[q], kSide);
      for (int offset = kSide / 2; offset > 0; offset /= 2) {
        by_peer[q] += __shfl_xor_sync(kAllLanes, by_peer[q], offset);
      }
    }
    __syncthreads();
#pragma unroll
    for (int q = 0; q < kQuad; ++q) {
      if (lane < kSide) of_warps[warp][lane * kQuad + q] = by_slot[q];
      const int64_t peer = peers.first + q;
      if (lane % kSide == 0 && peer < peers.count) peer_part[peer * peers.dim + axis] = by_peer[q];
    }
    __syncthreads();
    const int64_t slot = int64_t(blockIdx.x) * kRows + threadIdx.x;
    if (threadIdx.x < kRows && slot < slots.count) {
      double whole = 0;
      for (int k = 0; k < kThreads / kWarp; ++k) whole += of_warps[k][threadIdx.x];
      slot_part[slot * slots.dim + axis] = whole;
    }
  }
}

// Bytes: n (n + m) numbers, each for m / kCols or n / kRows tiles (mostly from the cache). Flops: 2 n^2 m, and n m
// derivatives.
template <class S, class T = Compute<S>>
__global__ void __launch_bounds__(kThreads)
    position_gradient_kernel(const __grid_constant__ PlacementPositionGradientArgs<S> args) {
  using Slots = Strip<T, kRows>;
  using Peers = Strip<T, kCols>;
  SHARED(Slots, grads, );
  SHARED(Peers, weights, );
  SHARED(double, of_warps, [kThreads / kWarp][kRows]);
  const int64_t n = args.grad.rows, m = args.weight.cols;
  const int64_t slot = int64_t(blockIdx.x) * kRows, peer = int64_t(blockIdx.y) * kCols;
  const Matrix<const T> grad = args.grad.transposed();
  const Matrix<const S> weight = args.weight.transposed();
  Sums<T, 1> sums;
  sums.clear();
  for (int64_t inner = 0; inner < n; inner += kInner) {
    __syncthreads();
    stage<false>(grad, slot, inner, grads);
    stage<true>(weight, peer, inner, weights);
    __syncthreads();
    sums.add(grads, weights);
    if ((inner + kInner) % kFold == 0 || inner + kInner >= n) sums.fold(args.coefficient);
  }
  const Points<T> slots = {args.slots, slot + int(threadIdx.x) % kSide * kQuad, n, args.dim};
  const Points<T> peers = {args.peers, peer + int(threadIdx.x) / kSide * kQuad, m, args.dim};
  double* const slot_part = args.slot_parts + int64_t(blockIdx.y) * n * args.dim;
  double* const peer_part = args.peer_parts + int64_t(blockIdx.x) * m * args.dim;
  with_metric<T>(args.metric, [&](auto metric) {
    position_gradients(metric, slots, peers, sums.total, of_warps, slot_part, peer_part);
  });
}

// Bytes: 8 count * width read, width numbers written. Flops: count * width.
template <class T>
__global__ void __launch_bounds__(kThreads)
    add_parts_kernel(const double* parts, int64_t count, int64_t width, T* sums) {
  SHARED(double, of_warps, [kThreads / kWarp][kWarp]);
  const int lane = int(threadIdx.x) % kWarp, warp = int(threadIdx.x) / kWarp;
  const int64_t j = int64_t(blockIdx.x) * kWarp + lane;
  double sum = 0;
  for (int64_t k = warp; j < width && k < count; k += kThreads / kWarp) sum += parts[k * width + j];
  of_warps[warp][lane] = sum;
  __syncthreads();
  if (warp != 0 || j >= width) return;
  for (int k = 1; k < kThreads / kWarp; ++k) sum += of_warps[k][lane];
  sums[j] = T(sum);
}

}  // namespace

int64_t slot_tiles(int64_t slots) { return divide_up(slots, kRows); }
int64_t peer_tiles(int64_t peers) { return divide_up(peers, kCols); }

template <class S>
void placement_product(const Queue& queue, const PlacementProductArgs<S>& args) {
  using T = Compute<S>;
  const OnDevice device(queue);
  for (int64_t first = 0; first == 0 || first < args.count; first += kParts) {
    Product<S> product = {};
    product.count = int(args.count - first < kParts ? args.count - first : kParts);
    for (int k = 0; k < product.count; ++k) product.parts[k] = args.parts[first + k];
    product.rows = args.neurons;
    product.points = args.slots;
    const CostResult<T> result = {args.cost, args.diagonal, first > 0, args.not_finite};
    launch_product(device, product, result, args.diagonal != nullptr);
  }
}

template <class S>
void placement_weight_gradient(const Queue& queue, const PlacementWeightGradientArgs<S>& args) {
  using T = Compute<S>;
  const OnDevice device(queue);
  Product<T> product = {};
  product.parts[0] = args.part;
  product.count = 1;
  product.rows = args.weight.rows;
  product.points = args.peers;
  launch_product(device, product, WeightGradientResult<S>{args.weight, args.gradient}, false);
}

template <class S>
void placement_position_gradient(const Queue& queue, const PlacementPositionGradientArgs<S>& args) {
  const int64_t slots = slot_tiles(args.grad.rows), peers = peer_tiles(args.weight.cols);
  if (slots == 0 || peers == 0) return;
  const OnDevice device(queue);
  LAUNCH(position_gradient_kernel<S>, dim3(unsigned(slots), unsigned(peers)), kThreads, device.stream, args);
  device.check_launch();
}

template <class T>
void add_parts(const Queue& queue, const double* parts, int64_t count, int64_t width, T* sums) {
  if (width == 0) return;
  const OnDevice device(queue);
  LAUNCH(add_parts_kernel<T>, unsigned(divide_up(width, kWarp)), kThreads, device.stream, parts, count, width, sums);
  device.check_launch();
}

#define BIMT_INSTANTIATE(S)                                                                        \
  template void placement_product<S>(const Queue&, const PlacementProductArgs<S>&);                \
  template void placement_weight_gradient<S>(const Queue&, const PlacementWeightGradientArgs<S>&); \
  template void placement_position_gradient<S>(const Queue&, const PlacementPositionGradientArgs<S>&);
BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)
template void add_parts<float>(const Queue&, const double*, int64_t, int64_t, float*);
template void add_parts<double>(const Queue&, const double*, int64_t, int64_t, double*);

}  // namespace gpu
}  // namespace bimt

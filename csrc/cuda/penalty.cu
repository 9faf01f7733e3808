// The penalty and its gradient, and AdamW with the penalty in it: one pass over every tensor, many tensors a launch.
//
// A block takes a tile of one term: kTileRows rows, and along the axis that is contiguous in memory 32 lanes of
// kVector numbers. Every thread keeps a small tile of lengths in registers, so coordinates are read once for it.

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "cuda/lengths.h"

namespace bimt {
namespace gpu {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;
constexpr int kTerms = 20;  // in one launch: the parameters of a kernel are 4 KiB at most

// Rows of a thread, and what a block takes.
template <class S>
constexpr int kRows = sizeof(S) == 2 ? 2 : 4;
template <class S>
constexpr int kTileRows = kWarps * kRows<S>;
template <class S>
constexpr int kTileCols = kWarp * kVector<S>;

// A term as a block sees it. What is not a connection is a strip of kTileCols columns with `size` numbers in all.
template <class S>
struct Piece {
  S *weight, *grad;
  const Compute<S>*out_pos, *in_pos;
  int64_t rows, cols, size, row_stride, col_stride, grad_row_stride, grad_col_stride;
  double coefficient, distance_scale, base_length;
  int64_t first_block;
  int dim;
  bool swapped;  // rows are in axes, which matters to a table
};

template <class S>
struct Pieces {
  Piece<S> of[kTerms];
  int count;
};

template <class S>
Piece<S> piece_of(const Term<S>& term, int64_t first_block) {
  const Matrix<S>&w = term.weight, &g = term.grad;
  Piece<S> piece = {w.data,
                    g.data,
                    term.out_pos,
                    term.in_pos,
                    w.rows,
                    w.cols,
                    INT64_MAX,
                    w.row_stride,
                    w.col_stride,
                    g.row_stride,
                    g.col_stride,
                    term.coefficient,
                    term.distance_scale,
                    term.base_length,
                    first_block,
                    term.dim,
                    false};
  if (w.row_stride == 1 && w.col_stride != 1) {
    piece = {w.data,
             g.data,
             term.in_pos,
             term.out_pos,
             w.cols,
             w.rows,
             INT64_MAX,
             w.col_stride,
             w.row_stride,
             g.col_stride,
             g.row_stride,
             term.coefficient,
             term.distance_scale,
             term.base_length,
             first_block,
             term.dim,
             true};
  }
  if (term.out_pos == nullptr && piece.rows == 1 && piece.col_stride == 1 && (!g.data || piece.grad_col_stride == 1)) {
    piece.size = piece.cols;
    piece.cols = kTileCols<S>;
    piece.rows = divide_up(piece.size, piece.cols);
    piece.row_stride = piece.grad_row_stride = piece.cols;
  }
  return piece;
}

template <class S>
int64_t blocks_of(const Piece<S>& piece) {
  return divide_up(piece.rows, kTileRows<S>) * divide_up(piece.cols, kTileCols<S>);
}

template <class S>
__device__ const Piece<S>& own_piece(const Pieces<S>& pieces) {
  int k = 0;
  while (k + 1 < pieces.count && pieces.of[k + 1].first_block <= int64_t(blockIdx.x)) ++k;
  return pieces.of[k];
}

// Where a thread's numbers are: kRows rows, kVector columns each.
template <class S>
struct Place {
  int64_t row, col;

  __device__ explicit Place(const Piece<S>& piece) {
    const int64_t across = divide_up(piece.cols, kTileCols<S>), block = int64_t(blockIdx.x) - piece.first_block;
    row = block / across * kTileRows<S> + threadIdx.x / kWarp * kRows<S>;
    col = block % across * kTileCols<S> + threadIdx.x % kWarp * kVector<S>;
  }

  // How many of the columns there are in a row.
  __device__ int columns(const Piece<S>& piece, int r) const {
    if (row + r >= piece.rows) return 0;
    int64_t end = piece.cols - col;
    const int64_t left = piece.size - (row + r) * piece.cols - col;
    if (piece.size != INT64_MAX && left < end) end = left;
    return end < 0 ? 0 : end < kVector<S> ? int(end) : kVector<S>;
  }
};

// kVector numbers of a row, widened; by one load where they are all there and aligned.
template <class S>
__device__ __forceinline__ void read(const S* from, int64_t stride, int count, Compute<S>* to) {
  if (count == kVector<S> && stride == 1 && is_aligned(from)) {
    const Vector<S> all = *reinterpret_cast<const Vector<S>*>(from);
#pragma unroll
    for (int j = 0; j < kVector<S>; ++j) to[j] = widened(all.item[j]);
  } else {
#pragma unroll
    for (int j = 0; j < kVector<S>; ++j) to[j] = j < count ? widened(from[j * stride]) : Compute<S>(0);
  }
}

template <class S>
__device__ __forceinline__ void write(const Compute<S>* from, int count, S* to, int64_t stride) {
  if (count == kVector<S> && stride == 1 && is_aligned(to)) {
    Vector<S> all;
#pragma unroll
    for (int j = 0; j < kVector<S>; ++j) narrow_to(from[j], &all.item[j]);
    *reinterpret_cast<Vector<S>*>(to) = all;
  } else {
#pragma unroll
    for (int j = 0; j < kVector<S>; ++j) {
      if (j < count) narrow_to(from[j], &to[j * stride]);
    }
  }
}

// The lengths of a thread's connections.
template <class S, class T = Compute<S>>
__device__ __forceinline__ void lengths_of(const Piece<S>& piece, const Place<S>& place, int metric,
                                           const Matrix<const T>& table, T (&length)[kRows<S>][kVector<S>]) {
  Points<T> rows = {piece.out_pos, place.row, piece.rows, piece.dim};
  Points<T> cols = {piece.in_pos, place.col, piece.cols, piece.dim};
  if (piece.out_pos == nullptr) {
#pragma unroll
    for (int r = 0; r < kRows<S>; ++r) {
#pragma unroll
      for (int j = 0; j < kVector<S>; ++j) length[r][j] = T(piece.base_length);
    }
    return;
  }
  tile_distances<kRows<S>, kVector<S>>(rows, cols, metric, table, piece.swapped, length);
  const T scale = T(piece.distance_scale), base = T(piece.base_length);
#pragma unroll
  for (int r = 0; r < kRows<S>; ++r) {
#pragma unroll
    for (int j = 0; j < kVector<S>; ++j) length[r][j] = base + scale * length[r][j];
  }
}

template <class S, bool Overwrite, class T = Compute<S>>
__global__ void __launch_bounds__(kThreads)
    penalty_kernel(const __grid_constant__ Pieces<S> pieces, int metric, const Matrix<const T> table, double lam,
                   const T* factor, double* partial) {
  const Piece<S>& piece = own_piece(pieces);
  const Place<S> place(piece);
  T length[kRows<S>][kVector<S>];
  lengths_of(piece, place, metric, table, length);
  const T strength = T(lam * piece.coefficient * (Overwrite ? double(*factor) : 1.0));
  double cost = 0;
#pragma unroll
  for (int r = 0; r < kRows<S>; ++r) {
    const int count = place.columns(piece, r);
    if (count == 0) continue;
    T w[kVector<S>], g[kVector<S>];
    read(piece.weight + (place.row + r) * piece.row_stride + place.col * piece.col_stride, piece.col_stride, count, w);
    S* const grad = piece.grad + (place.row + r) * piece.grad_row_stride + place.col * piece.grad_col_stride;
    if (piece.grad && !Overwrite) read(grad, piece.grad_col_stride, count, g);
#pragma unroll
    for (int j = 0; j < kVector<S>; ++j) {
      if (j < count) cost += double(absolute(w[j]) * length[r][j]);
      const T change = strength * (sign(w[j]) * length[r][j]);
      g[j] = Overwrite ? change : g[j] + change;
    }
    if (piece.grad) write(g, count, grad, piece.grad_col_stride);
  }
  cost = block_sum<kThreads>(cost);
  if (threadIdx.x == 0 && partial) partial[blockIdx.x] = piece.coefficient * cost;
}

template <class S>
struct StatePieces {
  Pieces<S> terms;
  Moments<S> moments[kTerms];
};

// The settings of AdamW in the type it computes in, with what depends on the step.
template <class T>
struct Step {
  T rate, decay, keep1, gain1, keep2, gain2, eps, root_correction;
};

template <class T>
__device__ __forceinline__ T next_weight(T w, T g, T charge, const Step<T>& step, double lr, bool proximal, T* mean,
                                         T* square) {
  if (!proximal) g += sign(w) * charge;
  *mean = *mean + (g - *mean) * step.gain1;
  *square = *square * step.keep2 + step.gain2 * g * g;
  const T root = square_root(*square) / step.root_correction + step.eps;
  w = w * step.decay - *mean / root * step.rate;
  if (!proximal) return w;
  const T left = absolute(w) - T(lr) * charge;
  return left > 0 ? (w > 0 ? left : -left) : (left <= 0 ? T(0) : left);
}

template <class S, class T = Compute<S>>
__global__ void __launch_bounds__(kThreads, 2)
    adamw_kernel(const __grid_constant__ StatePieces<S> all, int metric, const Matrix<const T> table, double lr,
                 double beta1, double beta2, double eps, double weight_decay, double lam, bool proximal,
                 double* partial) {
  const Piece<S>& piece = own_piece(all.terms);
  const Moments<S>& moments = all.moments[&piece - all.terms.of];
  SHARED(double, corrections, [2]);
  if (threadIdx.x == 0) {
    const double taken = double(*moments.step) + 1;
    corrections[0] = 1 - pow(beta1, taken);
    corrections[1] = sqrt(1 - pow(beta2, taken));
  }
  __syncthreads();
  const Step<T> step = {
      T(lr / corrections[0]), T(1 - lr * weight_decay), T(beta1), T(1 - beta1), T(beta2), T(1 - beta2), T(eps),
      T(corrections[1])};
  const Place<S> place(piece);
  T length[kRows<S>][kVector<S>];
  lengths_of(piece, place, metric, table, length);
  const T strength = T(lam * piece.coefficient);
  double cost = 0;
#pragma unroll
  for (int r = 0; r < kRows<S>; ++r) {
    const int count = place.columns(piece, r);
    if (count == 0) continue;
    const int64_t at = (place.row + r) * piece.row_stride + place.col * piece.col_stride;
    T w[kVector<S>], g[kVector<S>], m[kVector<S>], v[kVector<S>];
    read(piece.weight + at, piece.col_stride, count, w);
    read(piece.grad + at, piece.col_stride, count, g);
    read(moments.exp_avg + at, piece.col_stride, count, m);
    read(moments.exp_avg_sq + at, piece.col_stride, count, v);
#pragma unroll
    for (int j = 0; j < kVector<S>; ++j) {
      if (j < count) cost += double(absolute(w[j]) * length[r][j]);
      w[j] = next_weight(w[j], g[j], strength * length[r][j], step, lr, proximal, &m[j], &v[j]);
    }
    write(w, count, piece.weight + at, piece.col_stride);
    write(m, count, moments.exp_avg + at, piece.col_stride);
    write(v, count, moments.exp_avg_sq + at, piece.col_stride);
  }
  cost = block_sum<kThreads>(cost);
  if (threadIdx.x == 0) partial[blockIdx.x] = piece.coefficient * cost;
}

// Behind the steps, since every block of a term reads its count.
template <class S>
__global__ void count_steps(const __grid_constant__ StatePieces<S> all) {
  if (int(threadIdx.x) < all.terms.count) *all.moments[threadIdx.x].step += 1;
}

template <class T>
__global__ void __launch_bounds__(kThreads) add_partial_sums(const double* partial, int64_t count, T* sum) {
  double own = 0;
  for (int64_t k = threadIdx.x; k < count; k += kThreads) own += partial[k];
  own = block_sum<kThreads>(own);
  if (threadIdx.x == 0) *sum = T(own);
}

// Calls launch(pieces, first term, blocks, blocks before) for kTerms terms at a time.
template <class S, class Launch>
int64_t in_launches(const Term<S>* terms, int64_t count, Launch launch) {
  int64_t before = 0;
  for (int64_t first = 0; first < count; first += kTerms) {
    Pieces<S> pieces;
    int64_t blocks = 0;
    pieces.count = int(count - first < kTerms ? count - first : kTerms);
    for (int k = 0; k < pieces.count; ++k) {
      pieces.of[k] = piece_of(terms[first + k], blocks);
      blocks += blocks_of(pieces.of[k]);
    }
    if (blocks > 0) launch(pieces, first, blocks, before);
    before += blocks;
  }
  return before;
}

// |weight| times the derivative of the distance, summed over peers: lanes take peers, or where Across neurons,
// whichever are neighbours in memory. Reads the weights dim times; about 10 dim^2 flops each.
template <class S, bool Across, class T = Compute<S>>
__global__ void __launch_bounds__(kThreads) position_kernel(const PositionGradientArgs<S> args) {
  const Matrix<const S>& weight = args.weight;
  const int lane = threadIdx.x % kWarp, warp = threadIdx.x / kWarp;
  const int64_t row = Across ? int64_t(blockIdx.x) * kWarp + lane : int64_t(blockIdx.x) * kWarps + warp;
  const bool there = row < weight.rows;
  const Points<T> own = {args.positions, there ? row : weight.rows - 1, weight.rows, args.dim};
  for (int axis = 0; axis < args.dim; ++axis) {
    double sum = 0;
    with_metric<T>(args.metric, [&](auto metric) {
      const T a = metric.kInBall ? own.gap(0) : T(0);
      for (int64_t k = Across ? warp : lane; k < weight.cols; k += Across ? kWarps : kWarp) {
        const Points<T> peer = {args.peers, k, weight.cols, args.dim};
        const T w = there ? absolute(widened(weight.at(row, k))) : T(0);
        sum += double(w * slope_of(metric, own, peer, a, axis));
      }
    });
    if (Across) {
      SHARED(double, of_warps, [kWarps][kWarp]);
      of_warps[warp][lane] = sum;
      __syncthreads();
      sum = 0;
      for (int k = 0; warp == 0 && k < kWarps; ++k) sum += of_warps[k][lane];
      __syncthreads();
    } else {
      sum = warp_sum(sum);
    }
    if (there && (Across ? warp : lane) == 0)
      args.gradient[row * args.dim + axis] = T(double(*args.factor) * args.distance_scale * sum);
  }
}

}  // namespace

template <class S>
int64_t penalty_blocks(const Term<S>* terms, int64_t count) {
  return in_launches(terms, count, [](const Pieces<S>&, int64_t, int64_t, int64_t) {});
}

template <class S>
void penalty(const Queue& queue, const PenaltyArgs<S>& args) {
  const OnDevice device(queue);
  const int64_t blocks =
      in_launches(args.terms, args.count, [&](const Pieces<S>& pieces, int64_t, int64_t count, int64_t before) {
        double* const partial = args.partial ? args.partial + before : nullptr;
        if (args.factor) {
          LAUNCH((penalty_kernel<S, true>), unsigned(count), kThreads, device.stream, pieces, args.metric, args.table,
                 args.lam, args.factor, partial);
        } else {
          LAUNCH((penalty_kernel<S, false>), unsigned(count), kThreads, device.stream, pieces, args.metric, args.table,
                 args.lam, args.factor, partial);
        }
        device.check_launch();
      });
  if (args.cost) {
    LAUNCH(add_partial_sums, 1, kThreads, device.stream, args.partial, blocks, args.cost);
    device.check_launch();
  }
}

template <class S>
void adamw(const Queue& queue, const AdamWArgs<S>& args) {
  const OnDevice device(queue);
  const int64_t blocks =
      in_launches(args.terms, args.count, [&](const Pieces<S>& pieces, int64_t first, int64_t count, int64_t before) {
        StatePieces<S> all;
        all.terms = pieces;
        for (int k = 0; k < pieces.count; ++k) all.moments[k] = args.moments[first + k];
        LAUNCH(adamw_kernel<S>, unsigned(count), kThreads, device.stream, all, args.metric, args.table, args.lr,
               args.beta1, args.beta2, args.eps, args.weight_decay, args.lam, args.proximal, args.partial + before);
        device.check_launch();
      });
  for (int64_t first = 0; first < args.count; first += kTerms) {  // of empty tensors too
    StatePieces<S> all;
    all.terms.count = int(args.count - first < kTerms ? args.count - first : kTerms);
    for (int k = 0; k < all.terms.count; ++k) all.moments[k] = args.moments[first + k];
    LAUNCH(count_steps<S>, 1, kWarp, device.stream, all);
    device.check_launch();
  }
  LAUNCH(add_partial_sums, 1, kThreads, device.stream, args.partial, blocks, args.cost);
  device.check_launch();
}

template <class S>
void position_gradient(const Queue& queue, const PositionGradientArgs<S>& args) {
  if (args.weight.rows == 0 || args.dim == 0) return;
  const OnDevice device(queue);
  if (args.weight.row_stride == 1 && args.weight.col_stride != 1) {
    LAUNCH((position_kernel<S, true>), unsigned(divide_up(args.weight.rows, kWarp)), kThreads, device.stream, args);
  } else {
    LAUNCH((position_kernel<S, false>), unsigned(divide_up(args.weight.rows, kWarps)), kThreads, device.stream, args);
  }
  device.check_launch();
}

#define BIMT_INSTANTIATE(S)                                      \
  template int64_t penalty_blocks<S>(const Term<S>*, int64_t);   \
  template void penalty<S>(const Queue&, const PenaltyArgs<S>&); \
  template void adamw<S>(const Queue&, const AdamWArgs<S>&);     \
  template void position_gradient<S>(const Queue&, const PositionGradientArgs<S>&);
BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace gpu
}  // namespace bimt

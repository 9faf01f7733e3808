// The connection cost, its gradients, and the AdamW step that includes it. Lengths are made on the fly, one chunk of
// columns at a time, in L1.

#include "cpu/coordinates.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "cpu/storage.h"

namespace bimt {
namespace {

constexpr int64_t kChunk = 512;
// Elements by which the sweeps prefetch: beyond the next chunk's, since making lengths lets the hardware's prefetchers
// fall behind.
constexpr int64_t kAhead = 2 * kChunk;
constexpr int64_t kBlockElements = 1 << 16;
constexpr int64_t kSerialElements = 1 << 15;
// Blocks of the backward pass that keep their own partial sums for every column.
constexpr int64_t kPartialBlocks = 16;

// A term turned so that the fast axis of its weight runs along the columns, with positions one axis after another.
template <class S>
struct Job {
  using T = Compute<S>;
  Matrix<const S> weight;
  Matrix<S> grad;
  const T* row_pos;
  const T* col_pos;
  const T* row_gap;  // 1 - |x|^2, for the metrics of the unit ball
  const T* col_gap;
  Matrix<const T> table;
  int64_t dim;
  T scale, base;
  bool turned;
};

struct Block {
  int64_t row_begin, row_end, col_begin, col_end;
};

// How the elements of a matrix are split among work items: whole rows, or pieces of very long ones.
struct Blocks {
  int64_t rows, cols, across, count;

  template <class T>
  explicit Blocks(const Matrix<T>& m)
      : rows(larger(1, kBlockElements / larger(1, m.cols))),
        cols(kBlockElements),
        across(divide_up(m.cols, cols)),
        count(divide_up(m.rows, rows) * across) {}

  template <class T>
  Block at(int64_t index, const Matrix<T>& m) const {
    const int64_t row = index / across * rows, col = index % across * cols;
    return {row, smaller(row + rows, m.rows), col, smaller(col + cols, m.cols)};
  }
};

template <class S>
int64_t position_count(const PenaltyTerm<S>& term) {
  return (term.out_pos.rows + term.in_pos.rows) * (term.out_pos.cols + 1);
}

template <class T>
bool along_rows(const Matrix<T>& m) {
  return m.col_stride != 1 && m.row_stride == 1;
}

template <class S>
Status prepare(const PenaltyTerm<S>& term, int metric, const Matrix<const Compute<S>>& table, Compute<S>* positions,
               Job<S>* job) {
  const int64_t dim = term.out_pos.cols;
  Compute<S>* const in_positions = positions + term.out_pos.rows * (dim + 1);
  const Status out = copy_positions(term.out_pos, metric, table.rows, kOutRefusals, positions);
  if (out != Status::kOk) return out;
  const Status in = copy_positions(term.in_pos, metric, table.rows, kInRefusals, in_positions);
  if (in != Status::kOk) return in;
  const bool turned = along_rows(term.weight) || (along_rows(term.grad) && term.grad.data != nullptr);
  job->weight = turned ? term.weight.transposed() : term.weight;
  job->grad = turned ? term.grad.transposed() : term.grad;
  job->row_pos = turned ? in_positions : positions;
  job->col_pos = turned ? positions : in_positions;
  job->row_gap = job->row_pos + job->weight.rows * dim;
  job->col_gap = job->col_pos + job->weight.cols * dim;
  job->table = turned ? table.transposed() : table;
  job->dim = dim;
  job->scale = static_cast<Compute<S>>(term.distance_scale);
  job->base = static_cast<Compute<S>>(term.base_length);
  job->turned = turned;
  return Status::kOk;
}

// Stands beside the metrics' functors: the lengths of a term come from its table.
struct Table {};
template <class Metric>
constexpr bool kIsTable = false;
template <>
constexpr bool kIsTable<Table> = true;

template <class T, class F>
BIMT_INLINE auto with_lengths(int metric, F f) {
  if (metric == int(MetricCode::kTable)) return f(Table());
  return with_metric<T>(metric, f);
}

// out[j] = base + scale * distance for Dim coordinates, known to the compiler.
template <class Metric, int Dim, class S, class T>
void lengths_of(const Job<S>& job, int64_t row, int64_t col, int64_t count, T scale, T base, T* out) {
  const int64_t rows = job.weight.rows, cols = job.weight.cols;
  const T* const y = job.col_pos + col;
  const T* const gap = job.col_gap + col;
  const T row_gap = Metric::kInBall ? job.row_gap[row] : T(1);
  T x[Dim];
  for (int k = 0; k < Dim; ++k) x[k] = job.row_pos[k * rows + row];
  for (int64_t j = 0; j < count; ++j) {
    T distance = 0;
    for (int k = 0; k < Dim; ++k) distance = Metric::add(distance, x[k], y[k * cols + j]);
    out[j] = base + scale * Metric::finish(distance, row_gap, Metric::kInBall ? gap[j] : T(1));
  }
}

// The folded coordinates, before the metric finishes them.
template <class Metric, class S, class T>
void sums(const Job<S>& job, int64_t row, int64_t col, int64_t count, T* out) {
  for (int64_t j = 0; j < count; ++j) out[j] = 0;
  for (int64_t k = 0; k < job.dim; ++k) {
    const T x = job.row_pos[k * job.weight.rows + row];
    const T* const y = job.col_pos + k * job.weight.cols + col;
    for (int64_t j = 0; j < count; ++j) out[j] = Metric::add(out[j], x, y[j]);
  }
}

template <class Metric, class S, class T>
void finish(const Job<S>& job, int64_t row, int64_t col, int64_t count, T scale, T base, const T* sum, T* out) {
  const T* const gap = job.col_gap + col;
  const T row_gap = Metric::kInBall ? job.row_gap[row] : T(1);
  for (int64_t j = 0; j < count; ++j) {
    out[j] = base + scale * Metric::finish(sum[j], row_gap, Metric::kInBall ? gap[j] : T(1));
  }
}

template <class Metric, class S, class T>
void lengths(const Job<S>& job, int64_t row, int64_t col, int64_t count, T scale, T base, T* out) {
  switch (job.dim) {
    case 0:
      for (int64_t j = 0; j < count; ++j) out[j] = base;
      return;
    case 1:
      return lengths_of<Metric, 1>(job, row, col, count, scale, base, out);
    case 2:
      return lengths_of<Metric, 2>(job, row, col, count, scale, base, out);
    case 3:
      return lengths_of<Metric, 3>(job, row, col, count, scale, base, out);
  }
  sums<Metric>(job, row, col, count, out);
  finish<Metric>(job, row, col, count, scale, base, out, out);
}

template <class T>
void table_lengths(const T* table, int64_t stride, const T* index, int64_t count, T scale, T base, T* out) {
  for (int64_t j = 0; j < count; ++j) out[j] = base + scale * table[int64_t(index[j]) * stride];
}

template <class S, class T>
void lengths(Table, const Job<S>& job, int64_t row, int64_t col, int64_t count, T scale, T base, T* out) {
  if (job.dim == 0) {
    for (int64_t j = 0; j < count; ++j) out[j] = base;
    return;
  }
  const T* const from = job.table.data + int64_t(job.row_pos[row]) * job.table.row_stride;
  table_lengths(from, job.table.col_stride, job.col_pos + col, count, scale, base, out);
}

template <class Metric, class S, class T>
void lengths(Metric, const Job<S>& job, int64_t row, int64_t col, int64_t count, T scale, T base, T* out) {
  lengths<Metric>(job, row, col, count, scale, base, out);
}

// Part of a row as consecutive numbers: in place where it is that already, else copied to the buffer.
template <class S, class T>
const T* read(const Matrix<const S>& m, int64_t row, int64_t col, int64_t count, T* buffer) {
  const S* const from = m.data + row * m.row_stride + col * m.col_stride;
  if constexpr (!kNarrow<S>) {
    if (m.col_stride == 1) return from;
  }
  read_row(from, m.col_stride, count, buffer);
  return buffer;
}

template <class S, class T>
void write(const T* from, const Matrix<S>& m, int64_t row, int64_t col, int64_t count) {
  write_row(from, count, m.data + row * m.row_stride + col * m.col_stride, m.col_stride);
}

template <class T>
struct CostOnly {
  template <class V>
  BIMT_INLINE void operator()(int64_t, V, V) const {}
};

template <class T>
struct AddTo {
  T* grad;
  T step;
  template <class V>
  BIMT_INLINE void operator()(int64_t j, V w, V length) const {
    prefetch(grad + j + kAhead);
    store(grad + j, load<V>(grad + j) + times_sign<T>(length, w) * step);
  }
};

template <class T>
struct WriteTo {
  T* grad;
  T step;
  template <class V>
  BIMT_INLINE void operator()(int64_t j, V w, V length) const {
    store(grad + j, times_sign<T>(length, w) * step);
  }
};

// Returns sum |w| * length, with several running sums, and hands every (w, length) to `apply` on the way.
template <class T, class Apply>
double sweep(const T* w, const T* length, int64_t count, Apply apply) {
  using V = Full<T>;
  constexpr int kSums = 4, kCount = kLanes<T>;
  V sums[kSums] = {};
  const auto step = [&](int64_t j, V& sum) {
    prefetch(w + j + kAhead);
    const V weight = load<V>(w + j), l = load<V>(length + j);
    sum += magnitude<T>(weight) * l;
    apply(j, weight, l);
  };
  int64_t j = 0;
  for (; j + kSums * kCount <= count; j += kSums * kCount) {
    BIMT_UNROLL
    for (int s = 0; s < kSums; ++s) step(j + s * kCount, sums[s]);
  }
  for (; j + kCount <= count; j += kCount) step(j, sums[0]);
  const V sum = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double total = 0;
  for (int lane = 0; lane < kCount; ++lane) total += sum[lane];
  for (; j < count; ++j) {
    using One = Vector<T, 1>;
    total += absolute(w[j]) * length[j];
    apply(j, load<One>(w + j), load<One>(length + j));
  }
  return total;
}

// The cost of part of a row, with its gradient added where there is one.
template <class S, class T>
double penalty_of_piece(const Job<S>& job, int64_t row, int64_t col, int64_t count, const T* length, T step) {
  alignas(64) T weight[kChunk], grad[kChunk];
  const T* const w = read(job.weight, row, col, count, weight);
  if (job.grad.data == nullptr) return sweep(w, length, count, CostOnly<T>());
  if constexpr (!kNarrow<S>) {
    if (job.grad.col_stride == 1) return sweep(w, length, count, AddTo<T>{&job.grad.at(row, col), step});
  }
  read_row(&job.grad.at(row, col), job.grad.col_stride, count, grad);
  const double cost = sweep(w, length, count, AddTo<T>{grad, step});
  write(grad, job.grad, row, col, count);
  return cost;
}

// Adds up what `piece(row, col, count, length)` returns for the pieces of a block, whose lengths it makes.
template <class Metric, class S, class Piece>
double sum_over_pieces(const Job<S>& job, const Block& block, Piece piece) {
  alignas(64) Compute<S> length[kChunk];
  const bool same_length = job.dim == 0;
  if (same_length) lengths(Metric(), job, 0, 0, kChunk, job.scale, job.base, length);
  double total = 0;
  // Rows are read from end to end: pieces of several rows in turn would lose the hardware prefetcher.
  for (int64_t row = block.row_begin; row < block.row_end; ++row) {
    for (int64_t col = block.col_begin; col < block.col_end; col += kChunk) {
      const int64_t count = smaller(kChunk, block.col_end - col);
      if (!same_length) lengths(Metric(), job, row, col, count, job.scale, job.base, length);
      total += piece(row, col, count, length);
    }
  }
  return total;
}

template <class Metric, class S, class T>
double penalty_of_block(const Job<S>& job, const Block& block, T step) {
  return sum_over_pieces<Metric>(job, block, [&](int64_t row, int64_t col, int64_t count, const T* length) {
    return penalty_of_piece(job, row, col, count, length, step);
  });
}

// Sweeps every block of every term and adds up what `sweep(term index, job, block)` returns, by coefficient.
template <class S, class Args, class Sweep>
Penalty run_blocks(const Args& args, Sweep sweep) {
  using T = Compute<S>;
  const auto* const terms = args.terms;
  const int64_t count = args.count;
  int64_t coordinates = 0;
  for (int64_t i = 0; i < count; ++i) coordinates += position_count(terms[i]);
  const Scratch<T> positions(coordinates);
  const Scratch<Job<S>> jobs(count);
  const Scratch<int64_t> first_block(count + 1);
  T* next = positions.get();
  int64_t elements = 0;
  first_block[0] = 0;
  for (int64_t i = 0; i < count; ++i) {
    const Status status = prepare(terms[i], args.metric, args.table, next, &jobs[i]);
    if (status != Status::kOk) return {status, 0};
    next += position_count(terms[i]);
    elements += jobs[i].weight.rows * jobs[i].weight.cols;
    first_block[i + 1] = first_block[i] + Blocks(jobs[i].weight).count;
  }
  const int64_t blocks = first_block[count];
  const Scratch<double> costs(blocks);
  const auto body = [&](int64_t block, int) {
    int64_t i = 0, end = count;
    while (end - i > 1) (first_block[(i + end) / 2] <= block ? i : end) = (i + end) / 2;
    const Block part = Blocks(jobs[i].weight).at(block - first_block[i], jobs[i].weight);
    costs[block] = terms[i].coefficient * sweep(i, jobs[i], part);
  };
  parallel(elements < kSerialElements ? 1 : args.threads, blocks, body);
  double total = 0;
  for (int64_t block = 0; block < blocks; ++block) total += costs[block];
  return {Status::kOk, total};
}

template <class S>
Penalty run_penalty(const PenaltyArgs<S>& args) {
  using T = Compute<S>;
  return run_blocks<S>(args, [&](int64_t i, const Job<S>& job, const Block& block) {
    const T step = static_cast<T>(args.lam * args.terms[i].coefficient);
    return with_lengths<T>(args.metric,
                           [&](auto metric) { return penalty_of_block<decltype(metric)>(job, block, step); });
  });
}

// The constants of one tensor's AdamW step.
template <class T>
struct Step {
  T decay, gain1, beta2, gain2, root_scale, eps, size;
  T charge;  // of a unit of length: in the gradient, or taken off the weight where the step is proximal
};

template <bool Proximal, class T>
struct Update {
  const Step<T> step;  // a copy, so that the stores below cannot change it and it stays in registers
  const T* grad;
  T *weight, *exp_avg, *exp_avg_sq;

  template <class V>
  BIMT_INLINE void operator()(int64_t j, V w, V length) const {
    prefetch(grad + j + kAhead);
    prefetch(exp_avg + j + kAhead);
    prefetch(exp_avg_sq + j + kAhead);
    V g = load<V>(grad + j), mean = load<V>(exp_avg + j), square = load<V>(exp_avg_sq + j);
    const V charge = length * step.charge;
    if (!Proximal) g += times_sign<T>(charge, w);
    mean += (g - mean) * step.gain1;
    square = square * step.beta2 + g * g * step.gain2;
    V p = w * step.decay - mean * step.size / (square_root(square) * step.root_scale + step.eps);
    if (Proximal) {
      const V kept = magnitude<T>(p) - charge;
      p = kept > 0 ? (p > 0 ? kept : -kept) : (kept <= 0 ? V{} : p);  // NaN stays
    }
    store(exp_avg + j, mean);
    store(exp_avg_sq + j, square);
    store(weight + j, p);
  }
};

// One step for consecutive elements; 16-bit ones are widened for it and rounded when written.
template <class S, class T>
double adamw_of_piece(const Step<T>& step, const T* length, int64_t count, const S* grad, S* w, S* mean, S* square,
                      bool proximal) {
  if constexpr (kNarrow<S>) {
    alignas(64) T g[kChunk] = {}, p[kChunk], m[kChunk], v[kChunk];
    read_row(grad, 1, count, g);
    read_row(w, 1, count, p);
    read_row(mean, 1, count, m);
    read_row(square, 1, count, v);
    const double cost = adamw_of_piece<T, T>(step, length, count, g, p, m, v, proximal);
    write_row(p, count, w, 1);
    write_row(m, count, mean, 1);
    write_row(v, count, square, 1);
    return cost;
  } else {
    return proximal ? sweep(w, length, count, Update<true, T>{step, grad, w, mean, square})
                    : sweep(w, length, count, Update<false, T>{step, grad, w, mean, square});
  }
}

template <class Metric, class S, class T>
double adamw_of_block(const Job<S>& job, const Block& block, const Step<T>& step, const Moments<S>& moments,
                      bool proximal) {
  return sum_over_pieces<Metric>(job, block, [&](int64_t row, int64_t col, int64_t count, const T* length) {
    // The moments have the strides of the weight, so one offset serves all.
    const int64_t offset = row * job.weight.row_stride + col;
    return adamw_of_piece(step, length, count, job.grad.data + offset, const_cast<S*>(job.weight.data) + offset,
                          moments.exp_avg + offset, moments.exp_avg_sq + offset, proximal);
  });
}

template <class S>
Penalty run_adamw(const AdamWArgs<S>& args) {
  using T = Compute<S>;
  const Penalty result = run_blocks<S>(args, [&](int64_t i, const Job<S>& job, const Block& block) {
    const Moments<S>& moments = args.moments[i];
    const double taken = *moments.step + 1.0;
    const double charge = args.lam * args.terms[i].coefficient * (args.proximal ? args.lr : 1);
    const Step<T> step = {T(1 - args.lr * args.weight_decay),
                          T(1 - args.beta1),
                          T(args.beta2),
                          T(1 - args.beta2),
                          T(1 / __builtin_sqrt(1 - __builtin_pow(args.beta2, taken))),
                          T(args.eps),
                          T(args.lr / (1 - __builtin_pow(args.beta1, taken))),
                          T(charge)};
    return with_lengths<T>(args.metric, [&](auto metric) {
      return adamw_of_block<decltype(metric)>(job, block, step, moments, args.proximal);
    });
  });
  for (int64_t i = 0; result.status == Status::kOk && i < args.count; ++i) ++*args.moments[i].step;
  return result;
}

// What the slopes of a chunk of pairs have in common.
template <class T>
struct Pairs {
  alignas(64) T sum[kChunk], factor[kChunk];
};

template <class Metric, class S, class T>
void prepare_slopes(const Job<S>& job, int64_t row, int64_t col, int64_t count, Pairs<T>* pairs) {
  sums<Metric>(job, row, col, count, pairs->sum);
  alignas(64) T ties[kChunk];
  for (int64_t j = 0; j < count; ++j) ties[j] = 0;
  for (int64_t k = 0; Metric::kTies && k < job.dim; ++k) {
    const T x = job.row_pos[k * job.weight.rows + row];
    const T* const y = job.col_pos + k * job.weight.cols + col;
    for (int64_t j = 0; j < count; ++j) ties[j] += Metric::attains(x, y[j], pairs->sum[j]);
  }
  const T row_gap = Metric::kInBall ? job.row_gap[row] : T(1);
  const T* const gap = job.col_gap + col;
  for (int64_t j = 0; j < count; ++j) {
    pairs->factor[j] = Metric::factor(pairs->sum[j], row_gap, Metric::kInBall ? gap[j] : T(1), ties[j]);
  }
}

// Adds up sum |w| * slope for one coordinate of one row, into the row's own sum and into the columns' partial sums.
template <class Metric, class S, class T>
double slopes(const Job<S>& job, int64_t row, int64_t col, int64_t k, int64_t count, const T* w, const Pairs<T>& pairs,
              double* col_sums, bool want_row) {
  alignas(64) T slope[kChunk];
  const T x = job.row_pos[k * job.weight.rows + row];
  const T* const y = job.col_pos + k * job.weight.cols + col;
  const T* const gap = job.col_gap + col;
  const T row_gap = Metric::kInBall ? job.row_gap[row] : T(1);
  if (col_sums != nullptr) {
    for (int64_t j = 0; j < count; ++j) {
      const T here = Metric::slope(y[j], x, pairs.factor[j], pairs.sum[j], Metric::kInBall ? gap[j] : T(1));
      col_sums[j] += double(absolute(w[j]) * here);
    }
  }
  if (!want_row) return 0;
  for (int64_t j = 0; j < count; ++j) slope[j] = Metric::slope(x, y[j], pairs.factor[j], pairs.sum[j], row_gap);
  return sweep(w, slope, count, CostOnly<T>());
}

template <class S, class T>
void write_weight_grad(const Job<S>& job, int64_t row, int64_t col, int64_t count, const T* w, const T* length,
                       T grad) {
  alignas(64) T result[kChunk];
  if constexpr (!kNarrow<S>) {
    if (job.grad.col_stride == 1) {
      sweep(w, length, count, WriteTo<T>{&job.grad.at(row, col), grad});
      return;
    }
  }
  sweep(w, length, count, WriteTo<T>{result, grad});
  write(result, job.grad, row, col, count);
}

template <class Metric, class S, class T>
void backward_of_block(const Job<S>& job, const Block& block, T grad, double* row_sums, double* col_sums) {
  alignas(64) T length[kChunk], weight[kChunk];
  const int64_t rows = job.weight.rows, cols = job.weight.cols;
  for (int64_t row = block.row_begin; row < block.row_end; ++row) {
    for (int64_t col = block.col_begin; col < block.col_end; col += kChunk) {
      const int64_t count = smaller(kChunk, block.col_end - col);
      const T* const w = read(job.weight, row, col, count, weight);
      if (job.grad.data != nullptr) {
        lengths(Metric(), job, row, col, count, job.scale, job.base, length);
        write_weight_grad(job, row, col, count, w, length, grad);
      }
      if constexpr (!kIsTable<Metric>) {
        if (row_sums == nullptr && col_sums == nullptr) continue;
        Pairs<T> pairs;
        prepare_slopes<Metric>(job, row, col, count, &pairs);
        for (int64_t k = 0; k < job.dim; ++k) {
          double* const columns = col_sums == nullptr ? nullptr : col_sums + k * cols + col;
          const double sum = slopes<Metric>(job, row, col, k, count, w, pairs, columns, row_sums != nullptr);
          if (row_sums != nullptr) row_sums[k * rows + row] += sum;
        }
      }
    }
  }
}

template <class S>
Status run_backward(const PenaltyBackwardArgs<S>& args) {
  using T = Compute<S>;
  const Scratch<T> positions(position_count(args.term));
  Job<S> job;
  const Status status = prepare(args.term, args.metric, args.table, positions.get(), &job);
  if (status != Status::kOk) return status;
  T* const row_grad = job.turned ? args.in_pos_grad : args.out_pos_grad;
  T* const col_grad = job.turned ? args.out_pos_grad : args.in_pos_grad;
  const int64_t rows = job.weight.rows, cols = job.weight.cols, dim = job.dim;

  const int64_t most = col_grad != nullptr ? kPartialBlocks : divide_up(rows * cols, kBlockElements);
  const int64_t block_rows = larger(1, divide_up(rows, larger(1, most))), blocks = divide_up(rows, block_rows);
  const Scratch<double> row_sums(rows * dim), col_sums(col_grad != nullptr ? blocks * cols * dim : 0);
  for (int64_t i = 0; i < rows * dim; ++i) row_sums[i] = 0;
  const auto body = [&](int64_t block, int) {
    double* const mine = col_grad != nullptr ? &col_sums[block * cols * dim] : nullptr;
    if (mine != nullptr) std::memset(mine, 0, cols * dim * sizeof(double));
    const Block part = {block * block_rows, smaller((block + 1) * block_rows, rows), 0, cols};
    with_lengths<T>(args.metric, [&](auto metric) {
      backward_of_block<decltype(metric)>(job, part, T(args.grad), row_grad ? row_sums.get() : nullptr, mine);
    });
  };
  parallel(rows * cols < kSerialElements ? 1 : args.threads, blocks, body);

  const double scale = args.grad * args.term.distance_scale;
  for (int64_t k = 0; k < dim; ++k) {
    for (int64_t i = 0; i < rows && row_grad != nullptr; ++i) {
      row_grad[i * dim + k] = static_cast<T>(scale * row_sums[k * rows + i]);
    }
    for (int64_t i = 0; i < cols && col_grad != nullptr; ++i) {
      double sum = 0;
      for (int64_t block = 0; block < blocks; ++block) sum += col_sums[(block * dim + k) * cols + i];
      col_grad[i * dim + k] = static_cast<T>(scale * sum);
    }
  }
  return Status::kOk;
}

}  // namespace

#define BIMT_INSTANTIATE(S)                                                  \
  template <>                                                                \
  Penalty penalty<BIMT_ISA, S>(const PenaltyArgs<S>& args) {                 \
    return run_penalty(args);                                                \
  }                                                                          \
  template <>                                                                \
  Penalty adamw<BIMT_ISA, S>(const AdamWArgs<S>& args) {                     \
    return run_adamw(args);                                                  \
  }                                                                          \
  template <>                                                                \
  Status penalty_backward<BIMT_ISA, S>(const PenaltyBackwardArgs<S>& args) { \
    return run_backward(args);                                               \
  }

BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace bimt

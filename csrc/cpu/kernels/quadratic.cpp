// Walks of a quadratic assignment search: steepest descent, or robust tabu search (Taillard 1991, "Robust taboo search
// for the quadratic assignment problem").
//
// The change of the total by every swap (r, s), r < s, is kept. A swap of u and v changes that of a pair which shares
// no neuron with it by -(x_r - x_s)(y_r - y_s), and without symmetry by another such product; those that share one
// are found anew from the placement cost of u and of v. A change is applied by the pass that next looks for the best
// swap, so every iteration reads and writes the changes once.

#include "cpu/kernels.h"
#include "cpu/simd.h"
#include "random.h"

namespace bimt {
namespace {

constexpr int64_t kClockInterval = 16;

// Larger than any change, and later than any iteration.
template <class T>
constexpr T kNone = 1e300;
template <>
constexpr int32_t kNone<int32_t> = 0x7fffffff;
template <>
constexpr int64_t kNone<int64_t> = 0x7fffffff;

// What a walk keeps between two slices, in front of its arrays.
struct State {
  int64_t walk;       // -1: none
  int64_t rows_done;  // of the setup
  int64_t iteration;
  uint64_t random;
  double current, best;  // totals
};

template <class T, bool kSymmetric>
class Walk {
 public:
  using V = Full<T>;
  using Label = IntegerLike<T>;
  using Labels = Full<Label>;
  static constexpr int64_t kWidth = kLanes<T>;

  Walk(const QuadraticArgs<T>& args, char* memory)
      : args_(args), n_(args.n), stride_(quadratic_stride(args.n)), state_(reinterpret_cast<State*>(memory)) {
    char* next = memory + kQuadraticHeader;
    take(&next, &delta_, n_ * stride_);
    take(&next, &placed_, n_ * stride_);
    take(&next, &placed_t_, kSymmetric ? 0 : n_ * stride_);
    take(&next, &tabu_, args.tabu ? n_ * stride_ : 0);
    take(&next, &until_, args.tabu ? n_ * n_ : 0);
    for (T** row : {&x_, &y_, &z_, &w_, &own_, &row_u_, &row_v_, &new_u_, &new_v_}) take(&next, row, stride_ + 16);
    take(&next, &index_, stride_);
    take(&next, &slot_, stride_);
  }

  State& state() { return *state_; }

  void start(int64_t walk) {
    *state_ = {walk, 0, 0, args_.seeds[walk], 0, 0};
    const int64_t* const assignment = args_.assignments + walk * n_;
    for (int64_t i = 0; i < n_; ++i) slot_[i] = int32_t(assignment[i]);
    for (int64_t i = 0; i < n_; ++i) {
      for (int64_t j = 0; j < stride_; ++j) {
        placed_[i * stride_ + j] = j < n_ ? T(args_.distance[slot_[i] * n_ + slot_[j]]) : T(0);
        if (!kSymmetric) placed_t_[i * stride_ + j] = j < n_ ? T(args_.distance[slot_[j] * n_ + slot_[i]]) : T(0);
        if (args_.tabu) tabu_[i * stride_ + j] = 0;
      }
    }
    for (int64_t i = 0; args_.tabu && i < n_ * n_; ++i) until_[i] = 0;
    for (T* row : {x_, y_, z_, w_, own_, row_u_, row_v_, new_u_, new_v_}) {
      for (int64_t j = 0; j < stride_ + 16; ++j) row[j] = 0;
    }
  }

  // True when the walk has ended, false when the time has come first.
  bool run(double deadline) {
    const int64_t limit = args_.limits[state_->walk];
    for (int64_t count = 1; state_->rows_done < n_; ++count) {
      const int64_t u = state_->rows_done, v = u + 1 < n_ ? u + 1 : u;
      placement_rows(u, v, delta_ + u * stride_, delta_ + v * stride_);
      state_->rows_done = v + 1;
      if (v + 1 == n_) deltas_from_placement();
      if (count % kClockInterval == 0 && seconds_now() >= deadline) return false;
    }
    for (int64_t count = 1; state_->iteration < limit; ++count) {
      const uint64_t random = next_random(&state_->random);
      int64_t u = -1, v = -1;
      T change;
      if (!(args_.tabu ? best_swap<true>(random, &u, &v, &change) : best_swap<false>(random, &u, &v, &change))) {
        if (!args_.tabu) return true;
        for (T* row : {x_, y_, z_, w_}) {
          for (int64_t j = 0; j < stride_; ++j) row[j] = 0;
        }
      } else {
        swap(u, v, change);
        if (args_.tabu) forbid(u, v, random);
        state_->current += change;
        if (state_->current < state_->best - args_.least) record();
      }
      ++state_->iteration;
      if (count % kClockInterval == 0 && state_->iteration < limit && seconds_now() >= deadline) return false;
    }
    return true;
  }

 private:
  template <class E>
  static void take(char** next, E** array, int64_t count) {
    *array = reinterpret_cast<E*>(*next);
    *next += (count * sizeof(E) + 63) / 64 * 64;
  }

  void record() {
    state_->best = state_->current;
    int64_t* const assignment = args_.assignments + state_->walk * n_;
    for (int64_t i = 0; i < n_; ++i) assignment[i] = slot_[i];
  }

  // What neurons u and v would cost at the place of every neuron, all others where they are.
  void placement_rows(int64_t u, int64_t v, T* to_u, T* to_v) {
    for (int64_t j = 0; j < stride_; ++j) {
      to_u[j] = args_.linear != nullptr && j < n_ ? args_.linear[u * n_ + slot_[j]] : 0;
      to_v[j] = args_.linear != nullptr && j < n_ ? args_.linear[v * n_ + slot_[j]] : 0;
    }
    add_products(args_.flow + u * stride_, args_.flow + v * stride_, kSymmetric ? placed_ : placed_t_, to_u, to_v);
    if (!kSymmetric) add_products(args_.flow_t + u * stride_, args_.flow_t + v * stride_, placed_, to_u, to_v);
  }

  // to_a[j] += sum of a[k] * rows[k][j], and likewise b. Flows are often sparse.
  BIMT_INLINE void add_products(const T* a, const T* b, const T* rows, T* to_a, T* to_b) {
    int64_t count = 0;
    for (int64_t k = 0; k < n_; ++k) {
      index_[count] = int32_t(k);
      count += (a[k] != 0) | (b[k] != 0);
    }
    for (int64_t col = 0; col < stride_; col += 4 * kWidth) {
      const int64_t left = (stride_ - col) / kWidth;
      if (left >= 4) add_columns<4>(count, a, b, rows + col, to_a + col, to_b + col);
      if (left == 3) add_columns<3>(count, a, b, rows + col, to_a + col, to_b + col);
      if (left == 2) add_columns<2>(count, a, b, rows + col, to_a + col, to_b + col);
      if (left == 1) add_columns<1>(count, a, b, rows + col, to_a + col, to_b + col);
    }
  }

  template <int kVectors>
  BIMT_INLINE void add_columns(int64_t count, const T* a, const T* b, const T* rows, T* to_a, T* to_b) {
    V sums_a[kVectors], sums_b[kVectors];
    BIMT_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      sums_a[c] = load<V>(to_a + c * kWidth);
      sums_b[c] = load<V>(to_b + c * kWidth);
    }
    for (int64_t at = 0; at < count; ++at) {
      const int64_t k = index_[at];
      const V factor_a = splat<V>(a[k]), factor_b = splat<V>(b[k]);
      BIMT_UNROLL
      for (int c = 0; c < kVectors; ++c) {
        const V row = load<V>(rows + k * stride_ + c * kWidth);
        sums_a[c] += factor_a * row;
        sums_b[c] += factor_b * row;
      }
    }
    BIMT_UNROLL
    for (int c = 0; c < kVectors; ++c) {
      store(to_a + c * kWidth, sums_a[c]);
      store(to_b + c * kWidth, sums_b[c]);
    }
  }

  void deltas_from_placement() {
    // Every pair is in the placement cost of both its neurons.
    double twice = 0;
    for (int64_t i = 0; i < n_; ++i) {
      own_[i] = delta_[i * stride_ + i];
      twice += own_[i] + (args_.linear == nullptr ? 0.0 : args_.linear[i * n_ + slot_[i]]);
    }
    state_->current = state_->best = twice / 2;
    for (int64_t r = 0; r < n_; ++r) {
      for (int64_t s = r + 1; s < n_; ++s) {
        const int64_t here = r * stride_ + s, mirror = s * stride_ + r;
        const T flow = args_.flow[here] + args_.flow[mirror], distance = placed_[here] + placed_[mirror];
        delta_[here] += delta_[mirror] - own_[r] - own_[s] + flow * distance / (kSymmetric ? 2 : 1);
      }
    }
  }

  // Applies the change that waits in x, y, z, w, and finds the swap that lowers the total most, of those which are not
  // tabu or lead to a new best. The first of equal ones wins, in an order of rows that starts at a random one.
  template <bool kTabu>
  BIMT_INLINE bool best_swap(uint64_t random, int64_t* u, int64_t* v, T* change) {
    const Label now = Label(state_->iteration);
    V least = splat<V>(kNone<T>), least_free = least;
    Labels least_at = {};
    const int64_t first = int64_t((random & 0xffff) * n_ >> 16);
    for (int64_t turn = 0; turn < n_; ++turn) {
      const int64_t r = turn + first < n_ ? turn + first : turn + first - n_;
      V row_least = splat<V>(kNone<T>), row_free = row_least;
      scan_row<kTabu>(r, now, &row_least, &row_free);
      if (kTabu) {
        least = row_least < least ? row_least : least;
        const auto better = row_free < least_free;
        least_free = better ? row_free : least_free;
        least_at = better ? splat<Labels>(Label(turn)) : least_at;
      } else {
        const auto better = row_least < least;
        least = better ? row_least : least;
        least_at = better ? splat<Labels>(Label(turn)) : least_at;
      }
    }
    const T overall = smallest(least);
    if (kTabu && overall < kNone<T> && state_->current + overall < state_->best - args_.least) {
      *change = overall;
      for (int64_t turn = 0; turn < n_; ++turn) {
        *u = turn + first < n_ ? turn + first : turn + first - n_;
        if (find(*u, overall, kNone<Label>, v)) return true;
      }
    }
    *change = kTabu ? smallest(least_free) : overall;
    if (*change == kNone<T> || (!kTabu && !(*change < -args_.least))) return false;
    Label turn = kNone<Label>;
    const V& among = kTabu ? least_free : least;
    for (int lane = 0; lane < kWidth; ++lane) {
      if (among[lane] == *change && least_at[lane] < turn) turn = least_at[lane];
    }
    *u = turn + first < n_ ? turn + first : turn + first - n_;
    return find(*u, *change, now, v);
  }

  static T smallest(const V& v) {
    T least = v[0];
    for (int lane = 1; lane < kWidth; ++lane) least = v[lane] < least ? v[lane] : least;
    return least;
  }

  // The first s in row r with this change, not tabu at `now`.
  bool find(int64_t r, T change, Label now, int64_t* s) const {
    for (*s = r + 1; *s < n_; ++*s) {
      if (delta_[r * stride_ + *s] == change && (!args_.tabu || tabu_[r * stride_ + *s] <= now)) return true;
    }
    return false;
  }

  template <bool kTabu>
  BIMT_INLINE void scan_row(int64_t r, Label now, V* least, V* least_free) {
    const V x = splat<V>(x_[r]), y = splat<V>(y_[r]), z = splat<V>(z_[r]), w = splat<V>(w_[r]);
    const Labels time = splat<Labels>(now);
    T* const row = delta_ + r * stride_;
    const Label* const tabu = kTabu ? tabu_ + r * stride_ : nullptr;
    const auto visit = [&](int64_t col, bool edge) __attribute__((always_inline)) {
      V value = load<V>(row + col) - (x - load<V>(x_ + col)) * (y - load<V>(y_ + col));
      if (!kSymmetric) value -= (z - load<V>(z_ + col)) * (w - load<V>(w_ + col));
      store(row + col, value);
      if (edge) value = inside(r, col) ? value : splat<V>(kNone<T>);
      *least = value < *least ? value : *least;
      if (!kTabu) return;
      value = load<Labels>(tabu + col) > time ? splat<V>(kNone<T>) : value;
      *least_free = value < *least_free ? value : *least_free;
    };
    const int64_t begin = (r + 1) / kWidth * kWidth, end = (n_ - 1) / kWidth * kWidth;
    if (begin > end) return;
    visit(begin, true);
    for (int64_t col = begin + kWidth; col < end; col += kWidth) visit(col, false);
    if (begin < end) visit(end, true);
  }

  // Lanes of the columns s with r < s < n.
  BIMT_INLINE Labels inside(int64_t r, int64_t col) const {
    Labels lane;
    BIMT_UNROLL
    for (int k = 0; k < kWidth; ++k) lane[k] = k;
    return (lane > splat<Labels>(Label(r - col))) & (lane < splat<Labels>(Label(n_ - col)));
  }

  // Neurons u and v trade slots. Deltas of pairs with u or v are written less what the next pass will add to them.
  void swap(int64_t u, int64_t v, T change) {
    difference(args_.flow, u, v, x_);
    difference(placed_, v, u, y_);
    if (!kSymmetric) {
      difference(args_.flow_t, u, v, z_);
      difference(placed_t_, v, u, w_);
    }
    placement_rows(u, v, row_u_, row_v_);
    gather(u, new_u_);
    gather(v, new_v_);
    const T old_u = own_[u], old_v = own_[v];
    const T own_u = row_u_[v] + product(x_[u], y_[v], z_[u], w_[v]);
    const T own_v = row_v_[u] + product(x_[v], y_[u], z_[v], w_[u]);
    for (int64_t s = 0; s < stride_; s += kWidth) {
      const V x = at(x_, s), y = at(y_, s), z = at(z_, s), w = at(w_, s), own = at(own_, s);
      const V row_u = at(row_u_, s), row_v = at(row_v_, s);
      // What neurons s cost at the places of u and v: a delta is made of four such costs.
      const V at_u = at(new_u_, s) + own + old_u - pair(u, s) - row_u;
      const V at_v = at(new_v_, s) + own + old_v - pair(v, s) - row_v;
      const V own_now = own + product(x, y, z, w);
      const V now_at_u = at_v + product(x, y_[v], z, w_[v]), now_at_v = at_u + product(x, y_[u], z, w_[u]);
      store(own_ + s, own_now);
      store(new_u_ + s, now_at_u + row_u + product(x_[u], y, z_[u], w) - own_u - own_now);
      store(new_v_ + s, now_at_v + row_v + product(x_[v], y, z_[v], w) - own_v - own_now);
    }
    own_[u] = own_u;
    own_[v] = own_v;
    trade(placed_, u, v);
    if (!kSymmetric) trade(placed_t_, u, v);
    for (int64_t s = 0; s < stride_; s += kWidth) {
      store(new_u_ + s, at(new_u_, s) + pair(u, s) + waiting(u, s));
      store(new_v_ + s, at(new_v_, s) + pair(v, s) + waiting(v, s));
    }
    new_u_[v] = new_v_[u] = product(x_[u] - x_[v], y_[u] - y_[v], z_[u] - z_[v], w_[u] - w_[v]) - change;
    scatter(u, new_u_);
    scatter(v, new_v_);
    const int32_t slot = slot_[u];
    slot_[u] = slot_[v];
    slot_[v] = slot;
  }

  void difference(const T* matrix, int64_t u, int64_t v, T* to) const {
    const T *a = matrix + u * stride_, *b = matrix + v * stride_;
    for (int64_t j = 0; j < stride_; j += kWidth) store(to + j, load<V>(a + j) - load<V>(b + j));
  }

  static BIMT_INLINE V at(const T* row, int64_t s) { return load<V>(row + s); }

  // Of one entry, or of a vector of them.
  template <class A, class B>
  static BIMT_INLINE auto product(A x, B y, A z, B w) {
    return kSymmetric ? x * y : x * y + z * w;
  }

  // What the next pass takes from the deltas of (r, s), for a vector of s.
  BIMT_INLINE V waiting(int64_t r, int64_t s) const {
    return product(x_[r] - at(x_, s), y_[r] - at(y_, s), z_[r] - at(z_, s), w_[r] - at(w_, s));
  }

  // The correction for the pair itself.
  BIMT_INLINE V pair(int64_t r, int64_t s) const {
    const int64_t from = r * stride_ + s;
    const V flow = at(args_.flow, from) + at(kSymmetric ? args_.flow : args_.flow_t, from);
    return flow * (kSymmetric ? at(placed_, from) : at(placed_, from) + at(placed_t_, from));
  }

  void gather(int64_t r, T* to) const {
    for (int64_t s = 0; s < r; ++s) to[s] = delta_[s * stride_ + r];
    to[r] = 0;
    for (int64_t s = r + 1; s < stride_; ++s) to[s] = delta_[r * stride_ + s];
  }

  void scatter(int64_t r, const T* from) {
    for (int64_t s = 0; s < r; ++s) delta_[s * stride_ + r] = from[s];
    for (int64_t s = r + 1; s < n_; ++s) delta_[r * stride_ + s] = from[s];
  }

  // Rows and columns u and v of a matrix.
  void trade(T* matrix, int64_t u, int64_t v) const {
    T *a = matrix + u * stride_, *b = matrix + v * stride_;
    for (int64_t j = 0; j < stride_; ++j) {
      const T t = a[j];
      a[j] = b[j];
      b[j] = t;
    }
    for (int64_t i = 0; i < n_; ++i) {
      T* const row = matrix + i * stride_;
      const T t = row[u];
      row[u] = row[v];
      row[v] = t;
    }
  }

  // Neurons u and v, which have just traded slots, may not both return to those that they left until later.
  void forbid(int64_t u, int64_t v, uint64_t random) {
    until_[u * n_ + slot_[v]] = tenure(random >> 16 & 0xffffff);
    until_[v * n_ + slot_[u]] = tenure(random >> 40);
    forbidden(u);
    forbidden(v);
  }

  // From 1 on, mostly short: n on average, and up to 4 n.
  int32_t tenure(uint64_t random) const {
    const double part = double(random) * 0x1p-24;
    return int32_t(state_->iteration + 2 + int64_t(part * part * part * double(4 * n_)));
  }

  void forbidden(int64_t r) {
    for (int64_t s = 0; s < n_; ++s) {
      const int32_t a = until_[r * n_ + slot_[s]], b = until_[s * n_ + slot_[r]];
      tabu_[s < r ? s * stride_ + r : r * stride_ + s] = a < b ? a : b;
    }
  }

  const QuadraticArgs<T>& args_;
  const int64_t n_, stride_;
  State* const state_;
  T *delta_, *placed_, *placed_t_;  // placed: distances between the neurons where they are
  Label* tabu_;                     // by pair of neurons, in the upper triangle: up to which iteration
  int32_t* until_;                  // by neuron and slot
  T *x_, *y_, *z_, *w_;             // the change that waits
  T* own_;                          // what each neuron costs where it is
  T *row_u_, *row_v_, *new_u_, *new_v_;
  int32_t *index_, *slot_;
};

template <class T, bool kSymmetric>
void run_slot(const QuadraticArgs<T>& args, int64_t slot, double deadline) {
  int64_t* const untaken = reinterpret_cast<int64_t*>(args.memory);
  Walk<T, kSymmetric> walk(args, args.memory + kQuadraticHeader + slot * quadratic_memory(args.n, sizeof(T)));
  for (;;) {
    if (walk.state().walk < 0) {
      const int64_t next = __atomic_fetch_add(untaken, 1, __ATOMIC_RELAXED);
      if (next >= args.walks) return;
      walk.start(next);
    }
    const bool ended = walk.run(deadline);
    const State& state = walk.state();
    if (state.rows_done == args.n) args.costs[state.walk] = state.best;
    args.done[state.walk] = state.iteration;
    if (!ended) return;
    walk.state().walk = -1;
  }
}

template <class T>
void run_quadratic(const QuadraticArgs<T>& args) {
  const double deadline = seconds_now() + args.seconds;
  parallel(args.threads, args.slots, [&](int64_t slot, int) {
    if (args.symmetric) {
      run_slot<T, true>(args, slot, deadline);
    } else {
      run_slot<T, false>(args, slot, deadline);
    }
  });
}

}  // namespace

template <>
void quadratic_walks<BIMT_ISA, int32_t>(const QuadraticArgs<int32_t>& args) {
  run_quadratic(args);
}

template <>
void quadratic_walks<BIMT_ISA, double>(const QuadraticArgs<double>& args) {
  run_quadratic(args);
}

}  // namespace bimt

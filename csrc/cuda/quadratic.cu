// Walks of a quadratic assignment search, one block a walk: steepest descent, or robust tabu search (Taillard 1991,
// "Robust taboo search for the quadratic assignment problem").
//
// A walk keeps what every neuron would cost in the place of every other. A swap changes that by the products of two
// rows, without symmetry also of two columns; the pass that next looks for the best of all swaps adds them.

#include "cuda/best.h"
#include "cuda/device.h"
#include "cuda/kernels.h"
#include "random.h"

namespace bimt {
namespace gpu {
namespace {

// What a walk keeps between launches, in front of its arrays. The walks of a slot are its own number and every
// slots-th one after that.
struct State {
  int64_t walk;
  int64_t rows_done;  // of the placement; -1: nothing yet
  int64_t iteration;
  uint64_t random;
  double current, best;  // totals
  int64_t pending;       // whether a change waits in x, y, z, w
  int64_t unused;
};

// Larger than any change.
template <class T>
constexpr T kNone = 1e300;
template <>
constexpr int32_t kNone<int32_t> = 0x7fffffff;

BIMT_HD constexpr int64_t padded(int64_t bytes) { return divide_up(bytes, 64) * 64; }

BIMT_HD constexpr int64_t memory_of(int64_t n, int64_t size) {
  return padded(sizeof(State)) + 4 * padded(n * n * size) + 2 * padded(n * n * 4) + 5 * padded(n * size) +
         padded(n * 4);
}

// The arrays of a walk. Pairs (r, s) with r < s are at r * n + s.
template <class T>
struct Walk {
  State* state;
  T *to_later, *to_earlier;  // by pair: what r would cost in the place of s, and s in that of r
  T* placed;                 // distances between the neurons where they are
  T* both_ways;              // the same and back; without symmetry only, else placed
  int32_t* tabu;             // by pair: up to which iteration
  int32_t* until;            // by neuron and slot, what tabu is made of
  T *own, *x, *y, *z, *w;
  int32_t* slot;
  int64_t n;

  __device__ __forceinline__ void lay_out(char* memory, int64_t neurons, bool symmetric) {
    n = neurons;
    state = reinterpret_cast<State*>(memory);
    char* next = memory + padded(sizeof(State));
    take(&next, &to_later, n * n);
    take(&next, &to_earlier, n * n);
    take(&next, &placed, n * n);
    take(&next, &both_ways, n * n);
    if (symmetric) both_ways = placed;
    take(&next, &tabu, n * n);
    take(&next, &until, n * n);
    take(&next, &own, n);
    take(&next, &x, n);
    take(&next, &y, n);
    take(&next, &z, n);
    take(&next, &w, n);
    take(&next, &slot, n);
  }

  // What neuron i would cost in the place of neuron j.
  __device__ __forceinline__ T* placement(int64_t i, int64_t j) const {
    return i == j ? own + i : i < j ? to_later + i * n + j : to_earlier + j * n + i;
  }

 private:
  template <class E>
  static __device__ __forceinline__ void take(char** next, E** array, int64_t count) {
    *array = reinterpret_cast<E*>(*next);
    *next += padded(count * int64_t(sizeof(E)));
  }
};

template <class T>
__device__ __forceinline__ void trade(T* a, T* b) {
  const T t = *a;
  *a = *b;
  *b = t;
}

template <int Threads, bool Symmetric, class T>
__device__ __forceinline__ void start(const QuadraticArgs<T>& args, const Walk<T>& walk, State* state) {
  const int64_t n = args.n;
  const int64_t* const assignment = args.assignments + state->walk * n;
  for (int64_t i = threadIdx.x; i < n; i += Threads) walk.slot[i] = int32_t(assignment[i]);
  for (int64_t at = threadIdx.x; at < n * n; at += Threads) {
    const int64_t a = assignment[at / n], b = assignment[at % n];
    walk.placed[at] = args.distance[a * n + b];
    if (!Symmetric) walk.both_ways[at] = args.distance[a * n + b] + args.distance[b * n + a];
    walk.tabu[at] = walk.until[at] = 0;
  }
  *state = {state->walk, 0, 0, args.seeds[state->walk], 0, 0, 0, 0};
}

template <int Threads, bool Symmetric, class T>
__device__ __forceinline__ void place_row(const QuadraticArgs<T>& args, const Walk<T>& walk, int64_t i) {
  const int64_t n = args.n;
  for (int64_t j = threadIdx.x; j < n; j += Threads) {
    T sum = args.linear ? args.linear[i * n + walk.slot[j]] : T(0);
    for (int64_t k = 0; k < n; ++k) {
      if (Symmetric) {
        sum += args.flow[i * n + k] * walk.placed[k * n + j];
      } else {
        sum += args.flow[i * n + k] * walk.placed[j * n + k] + args.flow[k * n + i] * walk.placed[k * n + j];
      }
    }
    *walk.placement(i, j) = sum;
  }
}

// The total, for all threads: every pair is in the placement cost of both its neurons.
template <int Threads, class T>
__device__ __forceinline__ double total_of(const QuadraticArgs<T>& args, const Walk<T>& walk) {
  SHARED(double, total, [1]);
  double twice = 0;
  for (int64_t i = threadIdx.x; i < args.n; i += Threads) {
    twice += double(walk.own[i]) + (args.linear ? double(args.linear[i * args.n + walk.slot[i]]) : 0.0);
  }
  twice = block_sum<Threads>(twice);
  if (threadIdx.x == 0) total[0] = twice / 2;
  __syncthreads();
  return total[0];
}

template <class T>
struct Best {
  Candidate<T> any, free;  // free: not tabu
};

// Applies the change that waits, and finds the best swaps; the first wins on ties, in an order of rows that starts at
// `first`. Rows go to warps.
template <int Threads, bool Symmetric, class T>
__device__ __forceinline__ Best<T> best_swaps(const QuadraticArgs<T>& args, const Walk<T>& walk, const State& state,
                                              int64_t first) {
  const int64_t n = args.n;
  Best<T> best = {{kNone<T>, INT64_MAX}, {kNone<T>, INT64_MAX}};
  for (int64_t r = threadIdx.x / kWarp; r < n; r += Threads / kWarp) {
    const T own = walk.own[r], x = walk.x[r], y = walk.y[r], z = walk.z[r], w = walk.w[r];
    const int64_t turn = r < first ? r - first + n : r - first;
    for (int64_t s = r + 1 + threadIdx.x % kWarp; s < n; s += kWarp) {
      const int64_t at = r * n + s;
      T there = walk.to_later[at], here = walk.to_earlier[at];
      if (state.pending) {
        there += x * walk.y[s];
        here += walk.x[s] * y;
        if (!Symmetric) {
          there += z * walk.w[s];
          here += walk.z[s] * w;
        }
        walk.to_later[at] = there;
        walk.to_earlier[at] = here;
      }
      const T delta = (there + here) - (own + walk.own[s]) + args.pairs[at] * walk.both_ways[at];
      best.any.offer(delta, turn * n + s);
      if (args.tabu && walk.tabu[at] <= state.iteration) best.free.offer(delta, turn * n + s);
    }
  }
  best.any = block_best<Threads>(best.any);
  if (args.tabu) best.free = block_best<Threads>(best.free);
  return best;
}

// Neurons u and v trade slots. What it changes for pairs is left to the next pass.
template <int Threads, bool Symmetric, class T>
__device__ __forceinline__ void swap(const QuadraticArgs<T>& args, const Walk<T>& walk, int64_t u, int64_t v) {
  const int64_t n = args.n;
  for (int64_t j = threadIdx.x; j < n; j += Threads) {
    const int64_t later = j == u ? v : j == v ? u : j;  // whose place j's is then
    walk.x[j] = args.flow[u * n + j] - args.flow[v * n + j];
    walk.y[later] = walk.placed[v * n + j] - walk.placed[u * n + j];
    walk.z[j] = Symmetric ? T(0) : args.flow[j * n + u] - args.flow[j * n + v];
    walk.w[later] = Symmetric ? T(0) : walk.placed[j * n + v] - walk.placed[j * n + u];
    trade(walk.placement(j, u), walk.placement(j, v));
  }
  __syncthreads();
  for (int64_t j = threadIdx.x; j < n; j += Threads) {
    walk.own[j] += walk.x[j] * walk.y[j] + walk.z[j] * walk.w[j];
    trade(&walk.placed[u * n + j], &walk.placed[v * n + j]);
    if (!Symmetric) trade(&walk.both_ways[u * n + j], &walk.both_ways[v * n + j]);
  }
  if (threadIdx.x == 0) trade(&walk.slot[u], &walk.slot[v]);
  __syncthreads();
  for (int64_t i = threadIdx.x; i < n; i += Threads) {
    trade(&walk.placed[i * n + u], &walk.placed[i * n + v]);
    if (!Symmetric) trade(&walk.both_ways[i * n + u], &walk.both_ways[i * n + v]);
  }
  __syncthreads();
}

// From 2 iterations on, mostly short: n on average, and up to 4 n.
__device__ __forceinline__ int32_t tenure(int64_t iteration, uint64_t random, int64_t n) {
  const double part = double(random) * 0x1p-24;
  return int32_t(iteration + 2 + int64_t(part * part * part * double(4 * n)));
}

// Neurons u and v, which have just traded slots, may not both return to those that they left until later.
template <int Threads, class T>
__device__ __forceinline__ void forbid(const Walk<T>& walk, const State& state, int64_t u, int64_t v, uint64_t random) {
  const int64_t n = walk.n;
  if (threadIdx.x == 0) {
    walk.until[u * n + walk.slot[v]] = tenure(state.iteration, random >> 16 & 0xffffff, n);
    walk.until[v * n + walk.slot[u]] = tenure(state.iteration, random >> 40, n);
  }
  __syncthreads();
  for (int64_t s = threadIdx.x; s < n; s += Threads) {
    for (int64_t r : {u, v}) {
      if (s == r || (s == u && r == v)) continue;
      const int32_t a = walk.until[r * n + walk.slot[s]], b = walk.until[s * n + walk.slot[r]];
      walk.tabu[r < s ? r * n + s : s * n + r] = a < b ? a : b;
    }
  }
  __syncthreads();
}

template <int Threads, class T>
__device__ __forceinline__ void record(const QuadraticArgs<T>& args, const Walk<T>& walk, State* state) {
  state->best = state->current;
  for (int64_t i = threadIdx.x; i < args.n; i += Threads) args.assignments[state->walk * args.n + i] = walk.slot[i];
}

// Whether the walk goes on.
template <int Threads, bool Symmetric, class T>
__device__ __forceinline__ bool iterate(const QuadraticArgs<T>& args, const Walk<T>& walk, State* state) {
  const uint64_t random = next_random(&state->random);
  const int64_t n = args.n, first = int64_t((random & 0xffff) * uint64_t(n) >> 16);
  const Best<T> best = best_swaps<Threads, Symmetric>(args, walk, *state, first);
  state->pending = 0;
  Candidate<T> chosen = best.any;
  const bool is_new_best = chosen.value < kNone<T> && state->current + double(chosen.value) < state->best - args.least;
  if (args.tabu && !is_new_best) chosen = best.free;
  if (!args.tabu && !(chosen.value < kNone<T> && double(chosen.value) < -args.least)) return false;
  if (chosen.value < kNone<T>) {
    const int64_t turn = chosen.rank / n, v = chosen.rank % n, u = turn + first < n ? turn + first : turn + first - n;
    swap<Threads, Symmetric>(args, walk, u, v);
    if (args.tabu) forbid<Threads>(walk, *state, u, v, random);
    state->pending = 1;
    state->current += double(chosen.value);
    if (state->current < state->best - args.least) record<Threads>(args, walk, state);
  }
  ++state->iteration;
  return true;
}

// An iteration reads (6 sizeof(T) + 4) n^2 / 2 bytes and writes 2 sizeof(T) n^2 / 2, in 13 n^2 / 2 operations, 21
// without symmetry. Every block does about args.work passes over a pair, then leaves the rest to another launch.
template <int Threads, class T, bool Symmetric>
__global__ void __launch_bounds__(Threads, 512 / Threads)
    quadratic_kernel(const __grid_constant__ QuadraticArgs<T> args) {
  const int64_t n = args.n, row_work = n * n + Threads;
  SHARED(Walk<T>, walks, [1]);  // not in registers, of which it would take half
  const Walk<T>& walk = walks[0];
  if (threadIdx.x == 0) {
    walks[0].lay_out(args.memory + kQuadraticHeader + blockIdx.x * memory_of(n, sizeof(T)), n, Symmetric);
  }
  __syncthreads();
  State state = *walk.state;
  for (int64_t work = 0; work < args.work && state.walk < args.walks; work += row_work) {
    bool goes_on = true;
    if (state.rows_done < 0) {
      start<Threads, Symmetric>(args, walk, &state);
    } else if (state.rows_done < n) {
      place_row<Threads, Symmetric>(args, walk, state.rows_done++);
    } else if (state.iteration < args.limits[state.walk]) {
      goes_on = iterate<Threads, Symmetric>(args, walk, &state);
    } else {
      goes_on = false;
    }
    __syncthreads();
    if (state.rows_done == n && state.iteration == 0 && !state.pending) {
      state.current = state.best = total_of<Threads>(args, walk);
    }
    if (state.rows_done == n && threadIdx.x == 0) args.costs[state.walk] = state.best;
    if (threadIdx.x == 0) args.done[state.walk] = state.iteration;
    if (!goes_on) {
      state.walk += gridDim.x;
      state.rows_done = -1;
    }
  }
  __syncthreads();
  if (threadIdx.x == 0) *walk.state = state;
}

template <int Threads, class T>
void launch(const OnDevice& device, const QuadraticArgs<T>& args) {
  if (args.symmetric) {
    LAUNCH((quadratic_kernel<Threads, T, true>), unsigned(args.slots), Threads, device.stream, args);
  } else {
    LAUNCH((quadratic_kernel<Threads, T, false>), unsigned(args.slots), Threads, device.stream, args);
  }
}

}  // namespace

int64_t quadratic_memory(int64_t n, int64_t size) { return memory_of(n, size); }

template <class T>
void quadratic_walks(const Queue& queue, const QuadraticArgs<T>& args) {
  const OnDevice device(queue);
  if (args.n <= 48) {
    launch<kWarp>(device, args);
  } else if (args.n <= 160) {
    launch<256>(device, args);
  } else {
    launch<512>(device, args);
  }
  device.check_launch();
}

template void quadratic_walks<int32_t>(const Queue&, const QuadraticArgs<int32_t>&);
template void quadratic_walks<double>(const Queue&, const QuadraticArgs<double>&);

}  // namespace gpu
}  // namespace bimt

// Placement costs for metrics that are sums over coordinate axes: running sums over sorted peers, kept in double.
//
// A first pass sums the moments of |W| over segments of peers, a second adds these up, and so at the border of every
// segment there are the sums over all peers before it. A warp then takes 32 neurons and some slots that follow one
// another, and walks the peers between them. It starts again from the border of every segment it comes to, so that a
// running sum has the same bits wherever a warp began, and peers between distant slots are jumped over.

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace bimt {
namespace gpu {
namespace {

constexpr int kWarps = 2;  // in a block; they share nothing
constexpr int kThreads = kWarps * kWarp;
constexpr int kSlots = 32;  // of a warp
constexpr int kParts = 8;   // in one launch

// |W| of a warp's neurons (lanes) and kWarp peers that follow one another.
template <class T>
struct Staged {
  T at[kWarp][kWarp + 1];
  int32_t peer[kWarp];

  // Read along the axis of the weight that lies closer together in memory; 0 beyond the last neuron and peer.
  template <class S>
  __device__ __forceinline__ void fill(const WalkPart<S>& part, int64_t first_neuron, int64_t neurons, int64_t first) {
    const int lane = int(threadIdx.x) % kWarp;
    const Matrix<const S>& w = part.weight;
    __syncwarp();  // what was here has been used
    const int32_t own = first + lane < w.cols ? part.order[first + lane] : -1;
    if (w.row_stride <= w.col_stride) {
      peer[lane] = own;
      __syncwarp();
      const bool inside = first_neuron + lane < neurons;
      const S* const row = w.data + (first_neuron + lane) * w.row_stride;
#pragma unroll 16
      for (int k = 0; k < kWarp; ++k) {
        const int32_t other = peer[k];
        at[k][lane] = inside && other >= 0 ? absolute(widened(row[other * w.col_stride])) : T(0);
      }
    } else {
      const S* const column = w.data + first_neuron * w.row_stride + (own < 0 ? 0 : own) * w.col_stride;
#pragma unroll 16
      for (int k = 0; k < kWarp; ++k) {
        const bool inside = own >= 0 && first_neuron + k < neurons;
        at[lane][k] = inside ? absolute(widened(column[k * w.row_stride])) : T(0);
      }
    }
    __syncwarp();
  }
};

struct Running {
  double a, b;  // of F and F y

  __device__ __forceinline__ void add(double flow, double y) {
    a += flow;
    b = fma(flow, y, b);
  }
};

template <class S>
__device__ __forceinline__ double border(const WalkPart<S>& part, const Segments& segments, int64_t segment, int moment,
                                         int64_t neuron) {
  return part.borders[(segment * segments.moments + moment) * part.pitch + neuron];
}

__host__ __device__ inline int64_t segment_count(int64_t peers, const Segments& segments) {
  return divide_up(peers, segments.peers);
}

// What a slot's cost is made of; all the same for every part and neuron.
struct Slot {
  double u, scale, a, b, c;

  template <class S>
  __device__ __forceinline__ Slot(const WalkArgs<S>& args, int64_t p)
      : u(args.u[p]),
        scale(args.scale),
        a(args.totals ? args.totals[p] : 0.0),
        b(args.totals ? args.totals[args.slots + p] : 0.0),
        c(args.totals ? args.totals[2 * args.slots + p] : 0.0) {}

  // Written with fma, so that every kernel rounds alike.
  __device__ __forceinline__ double cost(const Running& sums, const double (&all)[3]) const {
    return fma(scale, fma(u, sums.a, -sums.b), fma(a, all[0], fma(b, all[1], c * all[2])));
  }
};

// The moments over all peers.
template <class S>
__device__ __forceinline__ void read_totals(const WalkPart<S>& part, const Segments& segments, int64_t neuron,
                                            double (&all)[3]) {
  const int64_t last = segment_count(part.weight.cols, segments);
#pragma unroll
  for (int k = 0; k < 3; ++k) all[k] = k < segments.moments ? border(part, segments, last, k, neuron) : 0.0;
}

template <class T>
__device__ __forceinline__ void store_cost(double sum, bool adds, T* to, int* not_finite) {
  const T cost = T(adds ? double(*to) + sum : sum);
  *to = cost;
  if (!is_finite(cost)) atomicExch(not_finite, 1);
}

// Which of the first axis's and the second's pieces a warp takes. The first one's vary faster.
struct Turn {
  int64_t first, second;

  __device__ __forceinline__ explicit Turn(int64_t firsts) {
    const int64_t warp = int64_t(blockIdx.x) * kWarps + int(threadIdx.x) / kWarp;
    first = warp % firsts;
    second = warp / firsts;
  }
};

// Bytes: every weight read once, 8 moments / segments.peers written for each. Flops: 3 for each weight, 6 with y^2.
template <class S>
__global__ void __launch_bounds__(kThreads)
    moments_kernel(const __grid_constant__ WalkPart<S> part, const Segments segments) {
  using Tile = Staged<Compute<S>>;
  SHARED(Tile, staged, [kWarps]);
  Tile& own = staged[threadIdx.x / kWarp];
  const int lane = int(threadIdx.x) % kWarp;
  const int64_t neurons = part.weight.rows, peers = part.weight.cols, blocks = divide_up(neurons, kWarp);
  const bool neurons_together = part.weight.row_stride <= part.weight.col_stride;
  const int64_t count = segment_count(peers, segments);
  const Turn turn(neurons_together ? blocks : count);
  const int64_t segment = neurons_together ? turn.second : turn.first;
  const int64_t first_neuron = (neurons_together ? turn.first : turn.second) * kWarp, neuron = first_neuron + lane;
  if (segment >= count || first_neuron >= neurons) return;
  const int64_t end = (segment + 1) * segments.peers < peers ? (segment + 1) * segments.peers : peers;
  Running sums = {0, 0};
  double squares = 0;
  for (int64_t first = segment * segments.peers; first < end; first += kWarp) {
    own.fill(part, first_neuron, neurons, first);
    for (int k = 0; k < kWarp && first + k < end; ++k) {
      const double flow = double(own.at[k][lane]), y = part.y[first + k];
      sums.add(flow, y);
      if (segments.moments == 3) squares = fma(flow * y, y, squares);
    }
  }
  if (neuron >= neurons) return;
  double* const to = part.borders + segment * segments.moments * part.pitch + neuron;
  to[0] = sums.a;
  to[part.pitch] = sums.b;
  if (segments.moments == 3) to[2 * part.pitch] = squares;
}

// Replaces every segment's moments by those of all before it. Bytes: 16 for each. Flops: 1 for each.
template <class S>
__global__ void __launch_bounds__(kThreads)
    borders_kernel(const __grid_constant__ WalkPart<S> part, const Segments segments) {
  constexpr int kAhead = 8;
  const int64_t neurons = part.weight.rows, count = segment_count(part.weight.cols, segments);
  const int64_t index = int64_t(blockIdx.x) * kThreads + threadIdx.x, step = segments.moments * part.pitch;
  if (index >= neurons * segments.moments) return;
  double* const own = part.borders + index / neurons * part.pitch + index % neurons;
  double sum = 0;
  for (int64_t first = 0; first < count; first += kAhead) {
    double moments[kAhead];
#pragma unroll
    for (int k = 0; k < kAhead; ++k) moments[k] = first + k < count ? own[(first + k) * step] : 0.0;
#pragma unroll
    for (int k = 0; k < kAhead; ++k) {
      if (first + k < count) own[(first + k) * step] = sum;
      sum += moments[k];
    }
  }
  own[count * step] = sum;
}

template <class S>
struct Walk {
  WalkArgs<S> args;
  WalkPart<S> parts[kParts];
};

// Bytes: slots * neurons numbers written (adds: read too), every weight read (1 + segments.peers / 64 * slots / peers)
// times. Flops: 3 for each weight read, 5 for each part of a cost.
template <class S>
__global__ void __launch_bounds__(kThreads) walk_kernel(const __grid_constant__ Walk<S> walk) {
  using Tile = Staged<Compute<S>>;
  SHARED(Tile, staged, [kWarps]);
  SHARED(double, costs, [kWarps][kSlots][kWarp]);
  const WalkArgs<S>& args = walk.args;
  Tile& own = staged[threadIdx.x / kWarp];
  double (&cost)[kSlots][kWarp] = costs[threadIdx.x / kWarp];
  const int lane = int(threadIdx.x) % kWarp;
  const Turn turn(divide_up(args.slots, kSlots));
  const int64_t first_slot = turn.first * kSlots, first_neuron = turn.second * kWarp, neuron = first_neuron + lane;
  if (first_neuron >= args.neurons) return;
  const int count = args.slots - first_slot < kSlots ? int(args.slots - first_slot) : kSlots;
  const bool inside = neuron < args.neurons;
  for (int p = 0; p < count; ++p) cost[p][lane] = 0;
  for (int k = 0; k < args.count; ++k) {
    const WalkPart<S>& part = walk.parts[k];
    double all[3] = {};
    if (inside) read_totals(part, args.segments, neuron, all);
    Running sums = {0, 0};
    int64_t at = 0, segment = -1;
    for (int p = 0; p < count; ++p) {
      const Slot slot(args, first_slot + p);
      const int64_t peers = args.scale != 0 ? part.counts[first_slot + p] : 0;
      if (args.scale != 0 && peers / args.segments.peers != segment) {
        segment = peers / args.segments.peers;
        at = segment * args.segments.peers;
        sums.a = inside ? border(part, args.segments, segment, 0, neuron) : 0.0;
        sums.b = inside ? border(part, args.segments, segment, 1, neuron) : 0.0;
      }
      for (; at < peers; ++at) {
        if (at % kWarp == 0) own.fill(part, first_neuron, args.neurons, at);
        sums.add(double(own.at[at % kWarp][lane]), part.y[at]);
      }
      cost[p][lane] = fma(part.coefficient, slot.cost(sums, all), cost[p][lane]);
    }
  }
  for (int p = 0; p < count && inside; ++p) {
    store_cost(cost[p][lane], args.adds, &args.cost.at(neuron, args.order[first_slot + p]), args.not_finite);
  }
}

// The same sums for every slot and the neuron in it. Bytes: a sector for each of about n * segments.peers / 2 weights.
template <class S>
__global__ void __launch_bounds__(kThreads) walk_diagonal_kernel(const __grid_constant__ Walk<S> walk) {
  const WalkArgs<S>& args = walk.args;
  const int64_t p = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (p >= args.slots) return;
  const int64_t neuron = args.order[p];
  const Slot slot(args, p);
  double cost = 0;
  for (int k = 0; k < args.count; ++k) {
    const WalkPart<S>& part = walk.parts[k];
    double all[3];
    read_totals(part, args.segments, neuron, all);
    Running sums = {0, 0};
    if (args.scale != 0) {
      const int64_t peers = part.counts[p], segment = peers / args.segments.peers;
      sums = {border(part, args.segments, segment, 0, neuron), border(part, args.segments, segment, 1, neuron)};
      for (int64_t at = segment * args.segments.peers; at < peers; ++at) {
        sums.add(double(absolute(widened(part.weight.at(neuron, part.order[at])))), part.y[at]);
      }
    }
    cost = fma(part.coefficient, slot.cost(sums, all), cost);
  }
  store_cost(cost, args.adds, args.diagonal + neuron, args.not_finite);
}

}  // namespace

template <class S>
void placement_moments(const Queue& queue, const WalkPart<S>& part, const Segments& segments) {
  const int64_t neurons = part.weight.rows;
  if (neurons == 0) return;
  const OnDevice device(queue);
  const int64_t warps = divide_up(neurons, kWarp) * segment_count(part.weight.cols, segments);
  if (warps > 0) {
    LAUNCH(moments_kernel<S>, unsigned(divide_up(warps, kWarps)), kThreads, device.stream, part, segments);
    device.check_launch();
  }
  const int64_t threads = neurons * segments.moments;
  LAUNCH(borders_kernel<S>, unsigned(divide_up(threads, kThreads)), kThreads, device.stream, part, segments);
  device.check_launch();
}

template <class S>
void placement_walk(const Queue& queue, const WalkArgs<S>& args) {
  if (args.neurons == 0 || args.slots == 0) return;
  const OnDevice device(queue);
  for (int64_t first = 0; first == 0 || first < args.count; first += kParts) {
    Walk<S> walk = {args, {}};
    walk.args.count = args.count - first < kParts ? args.count - first : kParts;
    walk.args.adds = args.adds || first > 0;
    for (int k = 0; k < walk.args.count; ++k) walk.parts[k] = args.parts[first + k];
    if (args.diagonal) {
      const int64_t blocks = divide_up(args.slots, kThreads);
      LAUNCH(walk_diagonal_kernel<S>, unsigned(blocks), kThreads, device.stream, walk);
    } else {
      const int64_t warps = divide_up(args.slots, kSlots) * divide_up(args.neurons, kWarp);
      LAUNCH(walk_kernel<S>, unsigned(divide_up(warps, kWarps)), kThreads, device.stream, walk);
    }
    device.check_launch();
  }
}

#define BIMT_INSTANTIATE(S)                                                              \
  template void placement_moments<S>(const Queue&, const WalkPart<S>&, const Segments&); \
  template void placement_walk<S>(const Queue&, const WalkArgs<S>&);
BIMT_INSTANTIATE(float)
BIMT_INSTANTIATE(double)
BIMT_INSTANTIATE(BFloat16)
BIMT_INSTANTIATE(Float16)

}  // namespace gpu
}  // namespace bimt

// BIMT's own search: slot after slot, the neuron there takes its best swap. One block makes all visits of a launch.

#include "cuda/best.h"
#include "cuda/device.h"
#include "cuda/kernels.h"

namespace bimt {
namespace gpu {
namespace {

// Reads (4 sizeof(T) + 8) n bytes a visit, a quarter of it across the rows of the cost; 4 n flops.
template <int Threads, class T>
__global__ void __launch_bounds__(Threads, 1) greedy_kernel(const __grid_constant__ GreedyArgs<T> args) {
  const Matrix<const T>& cost = args.cost;
  for (int64_t q = threadIdx.x; q < cost.rows; q += Threads) args.at_home[q] = cost.at(args.neuron_in[q], q);
  int64_t swaps = 0;
  for (int64_t k = 0; k < args.count; ++k) {
    __syncthreads();
    const int64_t p = args.slots[k], neuron = args.neuron_in[p];
    const T own = args.at_home[p];
    Candidate<T> best = {0, p};
    for (int64_t q = threadIdx.x; q < cost.rows; q += Threads) {
      if (q == p) continue;
      best.offer((cost.at(neuron, q) + cost.at(args.neuron_in[q], p)) - (args.at_home[q] + own), q);
    }
    best = block_best<Threads>(best);
    if (best.rank == p) continue;
    ++swaps;
    if (threadIdx.x == 0) {
      const int64_t q = best.rank, other = args.neuron_in[q];
      args.neuron_in[p] = other;
      args.neuron_in[q] = neuron;
      args.at_home[p] = cost.at(other, p);
      args.at_home[q] = cost.at(neuron, q);
    }
  }
  if (threadIdx.x == 0) *args.swaps = swaps;
}

}  // namespace

template <class T>
void greedy_swaps(const Queue& queue, const GreedyArgs<T>& args) {
  const OnDevice device(queue);
  if (args.cost.rows <= 128) {
    LAUNCH((greedy_kernel<kWarp, T>), 1, kWarp, device.stream, args);
  } else if (args.cost.rows <= 1024) {
    LAUNCH((greedy_kernel<256, T>), 1, 256, device.stream, args);
  } else {
    LAUNCH((greedy_kernel<1024, T>), 1, 1024, device.stream, args);
  }
  device.check_launch();
}

template void greedy_swaps<float>(const Queue&, const GreedyArgs<float>&);
template void greedy_swaps<double>(const Queue&, const GreedyArgs<double>&);

}  // namespace gpu
}  // namespace bimt

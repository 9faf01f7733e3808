// The null of modularity figures: what they are where labels are permuted among neurons. One block a permutation.

#include "cuda/device.h"
#include "cuda/kernels.h"
#include "random.h"

namespace bimt {
namespace gpu {
namespace {

constexpr int64_t kFew = 128, kShared = 4096;     // neurons whose labels a block keeps in shared memory
constexpr int kResident = 6;                      // blocks that a multiprocessor must have registers for
constexpr int64_t kWorkspace = int64_t(1) << 26;  // labels that more neurons may take in all, but for one block's

// Shuffled from the last neuron down, by one thread; all of them find out beforehand what trades with what.
template <int Threads>
__device__ __forceinline__ void shuffle(const LabelArgs& args, int64_t permutation, int32_t* labels) {
  SHARED(uint32_t, places, [Threads]);
  for (int64_t i = threadIdx.x; i < args.n; i += Threads) labels[i] = args.labels[i];
  for (int64_t last = permutation > 0 ? args.n - 1 : 0; last > 0; last -= Threads) {
    const int64_t own = last - threadIdx.x;
    if (own > 0) places[threadIdx.x] = shuffle_place(args.seed, permutation, args.n, own);
    __syncthreads();
    if (threadIdx.x == 0) {
      for (int64_t i = last; i > 0 && i > last - Threads; --i) {
        const uint32_t other = places[last - i];
        const int32_t label = labels[i];
        labels[i] = labels[other];
        labels[other] = label;
      }
    }
    __syncthreads();
  }
  __syncthreads();
}

// How many of a thread's neurons have no neighbour with their label.
template <int Threads>
__device__ __forceinline__ int64_t isolated(const LabelArgs& args, const int32_t* labels) {
  int64_t count = 0;
  for (int64_t i = threadIdx.x; i < args.n; i += Threads) {
    bool accompanied = false;
    for (int64_t k = 0; k < args.degree; ++k) {
      const int32_t near = args.neighbours[k * args.n + i];
      accompanied |= near >= 0 && labels[near] == labels[i];
    }
    count += !accompanied;
  }
  return count;
}

struct Spread {
  double of_index, of_position;
};

// A thread's part of the variances within clusters. It takes one cluster's neurons in one segment; a cluster's mean
// comes from all its segments.
template <int Threads>
__device__ __forceinline__ Spread spread(const LabelArgs& args, const int32_t* labels) {
  SHARED(double, sums, [Threads]);
  const int width = int(args.clusters < Threads ? args.clusters : Threads);
  const int segments = Threads / width, segment = int(threadIdx.x) / width, column = int(threadIdx.x) % width;
  const uint32_t n = uint32_t(args.n), length = (n + segments - 1) / segments;
  const uint32_t begin = segment * length < n ? segment * length : n, end = length < n - begin ? begin + length : n;
  Spread spread = {0, 0};
  for (int64_t first = 0; first < args.clusters; first += width) {
    const int64_t cluster = first + column;
    const bool takes_part = segment < segments && cluster < args.clusters;
    for (int64_t axis = 0; axis <= args.dim; ++axis) {
      const double* const x = axis > 0 ? args.positions + (axis - 1) * args.n : nullptr;
      double sum = 0;
      for (uint32_t i = begin; takes_part && i < end; ++i) {
        if (labels[i] == cluster) sum += x ? x[i] : double(i);
      }
      sums[threadIdx.x] = sum;
      __syncthreads();
      if (takes_part) {
        double mean = 0, squares = 0;
        for (int s = 0; s < segments; ++s) mean += sums[s * width + column];
        mean *= args.shares[cluster];
        for (uint32_t i = begin; i < end; ++i) {
          const double offset = (x ? x[i] : double(i)) - mean;
          if (labels[i] == cluster) squares += offset * offset;
        }
        (x ? spread.of_position : spread.of_index) += args.weights[cluster] * squares;
      }
      __syncthreads();
    }
  }
  return spread;
}

// Reads 4 n + 4 n degree + 8 n dim bytes a permutation, from the caches, and writes 24; 4 n clusters (1 + dim) flops.
template <int Threads, int64_t Capacity>
__global__ void __launch_bounds__(Threads, kResident) label_kernel(const __grid_constant__ LabelArgs args) {
  SHARED(int32_t, kept, [Capacity > 0 ? Capacity : 1]);
  int32_t* const labels = Capacity > 0 ? kept : args.workspace + int64_t(blockIdx.x) * args.n;
  for (int64_t permutation = blockIdx.x; permutation <= args.permutations; permutation += gridDim.x) {
    shuffle<Threads>(args, permutation, labels);
    const double alone = block_sum<Threads>(double(isolated<Threads>(args, labels)));
    const Spread own = spread<Threads>(args, labels);
    const double of_index = block_sum<Threads>(own.of_index), of_position = block_sum<Threads>(own.of_position);
    if (threadIdx.x == 0) {
      double* const figures = args.nulls + 3 * permutation;
      figures[0] = alone / double(args.n);
      figures[1] = of_index;
      figures[2] = of_position;
    }
  }
}

int64_t label_blocks(int64_t n, int64_t permutations) {
  const int64_t most = n <= kShared ? 0x7fffffff : n < kWorkspace ? kWorkspace / n : 1;
  return permutations + 1 < most ? permutations + 1 : most;
}

}  // namespace

int64_t label_workspace(int64_t n, int64_t permutations) {
  return n <= kShared ? 0 : label_blocks(n, permutations) * n;
}

void label_nulls(const Queue& queue, const LabelArgs& args) {
  const OnDevice device(queue);
  const unsigned blocks = unsigned(label_blocks(args.n, args.permutations));
  if (args.n <= kFew) {
    LAUNCH((label_kernel<32, kFew>), blocks, 32, device.stream, args);
  } else if (args.n <= kShared) {
    LAUNCH((label_kernel<128, kShared>), blocks, 128, device.stream, args);
  } else {
    LAUNCH((label_kernel<128, 0>), blocks, 128, device.stream, args);
  }
  device.check_launch();
}

}  // namespace gpu
}  // namespace bimt

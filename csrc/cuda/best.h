// The best of what the threads of a block have found.
#pragma once

#include "cuda/device.h"

namespace bimt {
namespace gpu {

// The smaller value wins, on ties the lower rank.
template <class T>
struct Candidate {
  T value;
  int64_t rank;

  __device__ __forceinline__ void offer(T other, int64_t other_rank) {
    if (other < value || (other == value && other_rank < rank)) {
      value = other;
      rank = other_rank;
    }
  }
};

// For all threads, which must all take part; a barrier too.
template <int Threads, class T>
__device__ __forceinline__ Candidate<T> block_best(Candidate<T> best) {
  SHARED(T, values, [Threads / kWarp]);
  SHARED(int64_t, ranks, [Threads / kWarp]);
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T value = __shfl_xor_sync(kAllLanes, best.value, offset);
    best.offer(value, __shfl_xor_sync(kAllLanes, best.rank, offset));
  }
  if (Threads == kWarp) {
    __syncwarp();
    return best;
  }
  if (threadIdx.x % kWarp == 0) {
    values[threadIdx.x / kWarp] = best.value;
    ranks[threadIdx.x / kWarp] = best.rank;
  }
  __syncthreads();
  for (int warp = 0; warp < Threads / kWarp; ++warp) best.offer(values[warp], ranks[warp]);
  __syncthreads();
  return best;
}

}  // namespace gpu
}  // namespace bimt

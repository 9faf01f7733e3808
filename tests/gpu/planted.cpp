// Two small kernels that are right, and wrong where a defect is planted: what the thread sanitizer alone can see.
//
//     -DMISSING_SYNCWARP    lanes read what others wrote, in lock-step by accident: a shuffle orders no memory
//     -DMISSING_FENCE       the last block adds what others wrote, with nothing but an atomic counter between

#include <cstdio>

#include "cuda/device.h"

using bimt::gpu::kAllLanes;

__global__ void exchange(const float* from, float* to) {
  SHARED(float, of_lanes, [32]);
  of_lanes[threadIdx.x] = from[threadIdx.x];
#ifdef MISSING_SYNCWARP
  (void)__shfl_xor_sync(kAllLanes, 0, 1);
#else
  __syncwarp();
#endif
  to[threadIdx.x] = of_lanes[threadIdx.x ^ 1];
}

__global__ void sum_of_blocks(float* partial, unsigned* count, float* sum) {
  partial[blockIdx.x] = float(blockIdx.x);
#ifndef MISSING_FENCE
  __threadfence();
#endif
  if (atomicInc(count, gridDim.x - 1) != gridDim.x - 1) return;
  __threadfence();
  *sum = 0;
  for (unsigned k = 0; k < gridDim.x; ++k) *sum += partial[k];
}

int main() {
  float from[32], to[32], partial[8], sum = 0;
  unsigned count = 0;
  for (int k = 0; k < 32; ++k) from[k] = float(k);
  LAUNCH(exchange, 1, 32, 0, from, to);
  LAUNCH(sum_of_blocks, 8, 1, 0, partial, &count, &sum);
  const bool right = to[0] == 1 && to[31] == 30 && sum == 28;
  std::printf("%s\n", right ? "all right" : "failed");
  return !right;
}

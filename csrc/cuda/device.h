// What kernel files need of CUDA, and of the simulator that runs them on a CPU for tests (tests/gpu/cudasim.h).
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>

#ifdef __CUDACC__
#include <cuda_runtime.h>

#define SHARED(type, name, ...) __shared__ type name __VA_ARGS__
#define LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#else
#include "cudasim.h"

#define LAUNCH(kernel, grid, block, stream, ...) SIMULATE(kernel, grid, block, 0, stream, __VA_ARGS__)
#endif

#include "cuda/queue.h"
#include "matrix.h"
#include "metric.h"
#include "scalar.h"

namespace bimt {
namespace gpu {

constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

BIMT_HD constexpr int64_t divide_up(int64_t n, int64_t by) { return (n + by - 1) / by; }

// Whether a number is neither NaN nor infinite.
template <class T>
BIMT_HD bool is_finite(T x) {
  return x - x == 0;
}

// Makes a queue's device the current one for as long as it lives.
class OnDevice {
 public:
#ifdef __CUDACC__
  explicit OnDevice(const Queue& queue) : stream(static_cast<cudaStream_t>(queue.stream)) {
    check(cudaGetDevice(&before_));
    if (queue.device != before_) check(cudaSetDevice(queue.device));
    changed_ = queue.device != before_;
  }
  ~OnDevice() {
    if (changed_) cudaSetDevice(before_);
  }

  // After every launch: a launch that failed would otherwise be told by some later call.
  void check_launch() const { check(cudaGetLastError()); }

  const cudaStream_t stream;

 private:
  static void check(cudaError_t error) {
    if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
  }

  int before_ = 0;
  bool changed_ = false;
#else
  explicit OnDevice(const Queue&) {}
  void check_launch() const {}

  const int stream = 0;
#endif
};

// Sums over a warp and over a block, in a fixed order. All threads must take part; the block's sum is thread 0's.
template <class T>
__device__ __forceinline__ T warp_sum(T x) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kAllLanes, x, offset);
  return x;
}

template <int Threads>
__device__ __forceinline__ double block_sum(double x) {
  SHARED(double, of_warps, [Threads / kWarp]);
  x = warp_sum(x);
  if (threadIdx.x % kWarp == 0) of_warps[threadIdx.x / kWarp] = x;
  __syncthreads();
  double sum = 0;
  if (threadIdx.x == 0) {
    for (int warp = 0; warp < Threads / kWarp; ++warp) sum += of_warps[warp];
  }
  __syncthreads();
  return sum;
}

// Numbers read and written 16 bytes at a time.
template <class S>
constexpr int kVector = 16 / int(sizeof(S));

template <class S>
struct alignas(16) Vector {
  S item[kVector<S>];
};

template <class T>
BIMT_HD bool is_aligned(const T* address) {
  return reinterpret_cast<uintptr_t>(address) % 16 == 0;
}

}  // namespace gpu
}  // namespace bimt

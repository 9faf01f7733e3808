// Where kernels are launched.
#pragma once

namespace bimt {
namespace gpu {

// The device's index, and a cudaStream_t of it.
struct Queue {
  int device;
  void* stream;
};

}  // namespace gpu
}  // namespace bimt

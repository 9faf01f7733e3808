// Permutation of a tensor along one axis, whatever its elements are: the slices that move are copied to a workspace,
// then back to where they go. Threads run along the tensor's memory, in words as wide as alignment allows.

#include "cuda/device.h"
#include "cuda/kernels.h"

namespace bimt {
namespace gpu {
namespace {

constexpr int kThreads = 256;

// A tensor's axes from the largest stride to the smallest; sizes and strides count words.
struct Slices {
  char *data, *workspace;
  const int64_t* places;
  int64_t size[kPermutedAxes], stride[kPermutedAxes];
  int axes, moving;
  int64_t words;  // in all that moves
};

// Reads and writes every word that moves once: 2 * bytes moved + 8 * places, no flops. Index: holds the words' count.
template <class Word, class Index, bool FromWorkspace>
__global__ void __launch_bounds__(kThreads) copy_slices(const __grid_constant__ Slices slices) {
  const int64_t own = int64_t(blockIdx.x) * kThreads + threadIdx.x;
  if (own >= slices.words) return;
  Index rest = Index(own);
  int64_t offset = 0;
#pragma unroll
  for (int axis = kPermutedAxes - 1; axis >= 0; --axis) {
    if (axis >= slices.axes) continue;
    const Index size = Index(slices.size[axis]), at = rest % size;
    rest /= size;
    offset += (axis == slices.moving ? slices.places[at] : int64_t(at)) * slices.stride[axis];
  }
  Word* const there = reinterpret_cast<Word*>(slices.data) + offset;
  Word* const here = reinterpret_cast<Word*>(slices.workspace) + own;
  if (FromWorkspace) {
    *there = *here;
  } else {
    *here = *there;
  }
}

template <class Word>
void copy(const OnDevice& device, Slices slices, bool from_workspace) {
  slices.words = 1;
  for (int k = 0; k < slices.axes; ++k) {
    (k == slices.axes - 1 ? slices.size : slices.stride)[k] /= int64_t(sizeof(Word));
    slices.words *= slices.size[k];
  }
  slices.stride[slices.axes - 1] = 1;
  const unsigned blocks = unsigned(divide_up(slices.words, kThreads));
  const bool narrow = slices.words <= int64_t(UINT32_MAX);
  if (from_workspace) {
    if (narrow) {
      LAUNCH((copy_slices<Word, uint32_t, true>), blocks, kThreads, device.stream, slices);
    } else {
      LAUNCH((copy_slices<Word, uint64_t, true>), blocks, kThreads, device.stream, slices);
    }
  } else if (narrow) {
    LAUNCH((copy_slices<Word, uint32_t, false>), blocks, kThreads, device.stream, slices);
  } else {
    LAUNCH((copy_slices<Word, uint64_t, false>), blocks, kThreads, device.stream, slices);
  }
  device.check_launch();
}

// The largest power of two, up to 16, that divides everything.
uint64_t word_of(const PermuteArgs& args) {
  uint64_t all = reinterpret_cast<uint64_t>(args.data) | reinterpret_cast<uint64_t>(args.workspace) | 16;
  for (int k = 0; k < args.axes; ++k) all |= uint64_t(k == args.axes - 1 ? args.size[k] : args.stride[k]);
  return all & ~(all - 1);
}

}  // namespace

void permute(const Queue& queue, const PermuteArgs& args) {
  const OnDevice device(queue);
  Slices slices = {args.data, args.workspace, args.source};
  for (int k = 0; k < args.axes; ++k) {
    slices.size[k] = args.size[k];
    slices.stride[k] = args.stride[k];
  }
  slices.axes = args.axes;
  slices.moving = args.moving;
  const uint64_t word = word_of(args);
  for (bool from_workspace : {false, true}) {
    slices.places = from_workspace ? args.to : args.source;
    if (word == 16) copy<Vector<uint64_t>>(device, slices, from_workspace);
    if (word == 8) copy<uint64_t>(device, slices, from_workspace);
    if (word == 4) copy<uint32_t>(device, slices, from_workspace);
    if (word == 2) copy<uint16_t>(device, slices, from_workspace);
    if (word == 1) copy<uint8_t>(device, slices, from_workspace);
  }
}

}  // namespace gpu
}  // namespace bimt

// Runs CUDA kernel source on a CPU, to prove it right: one fiber for each CUDA thread, blocks one after another.
//
// A fiber runs until it needs others (a barrier, a shuffle, a vote) or fresh shared memory; it then asks the scheduler,
// which answers when all that must take part have asked. A barrier that some threads never reach, or that others wait
// for in another place, a shuffle whose mask leaves out its caller, and a deadlock are errors with the block and thread
// that caused them. Fresh shared memory is full of ones: NaN as a float, -1 as an integer.
//
// Under -fsanitize=thread every CUDA thread is a fiber of its own to the sanitizer, and nothing orders what they do but
// what CUDA promises: __syncthreads, __syncwarp, __threadfence with atomics, and the ends of a launch. Shuffles and
// atomics order nothing, blocks run in no order. -fsanitize=address finds what is read or written out of bounds, in
// shared memory too; -fsanitize=undefined misaligned vectors.
//
// It says nothing of speed, coalescing, bank conflicts, contraction to fused multiply-adds, or of a memory order weaker
// than that of C++ fences.
#pragma once

#include <sys/mman.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
#define SIM_TSAN(...) __VA_ARGS__
#else
#define SIM_TSAN(...)
#endif
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define SIM_ASAN(...) __VA_ARGS__
#else
#define SIM_ASAN(...)
#endif
// What the simulator itself does is no access of a CUDA thread.
#define SIM_HIDDEN __attribute__((no_sanitize("thread"), noinline))

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __grid_constant__
#define SHARED(type, name, ...)         \
  static char name##_key;               \
  typedef type name##_type __VA_ARGS__; \
  name##_type& name = *reinterpret_cast<name##_type*>(sim::shared_memory(&name##_key, sizeof(name##_type)))
#define SIMULATE(kernel, grid, block, shared, stream, ...) sim::launch(grid, block, [&] { kernel(__VA_ARGS__); })
#define threadIdx sim::thread_index()
#define blockIdx sim::block_index()
#define blockDim sim::block_size()
#define gridDim sim::grid_size()

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned a = 1, unsigned b = 1, unsigned c = 1) : x(a), y(b), z(c) {}
};

namespace sim {

enum class Request { kNone, kSharedMemory, kBarrier, kWarpBarrier, kShuffle, kVote, kExit };

inline const char* name_of(Request request) {
  const char* const names[] = {"nothing", "SHARED", "__syncthreads", "__syncwarp", "a shuffle", "a vote", "exit"};
  return names[int(request)];
}

struct Fiber {
  ucontext_t context;
  uint3 index;
  int linear;
  // What it asks for, and the answer.
  Request request;
  unsigned mask;
  uint64_t value;
  int source, line;
  bool ready;
  // Sanitizers: this fiber's stack and clock, and the clocks that fences have released and acquired.
  void *fake_stack, *tsan, *released, *acquired;
  char marks[2];
};

// Those who wait at one barrier, or for one mask of a warp.
struct Meeting {
  std::vector<Fiber*> present;
  uint64_t count = 0;
  char marks[2];
};

struct Block {
  uint3 index;
  std::vector<Fiber> fibers;
  std::map<uint64_t, Meeting> meetings;
  std::map<const void*, char*> shared;
  size_t used;
  unsigned alive;
};

struct Launch {
  dim3 grid, block;
  std::function<void()> body;
  ucontext_t scheduler;
  void* tsan;
  const void* stack;
  size_t stack_size;
  char *stacks, *arena;
  std::string error;
  char mark;
};

inline Launch* launch_now;
inline Block* block_now;
inline Fiber* fiber_now;

// In which order the threads of a block get their turns: 0 as they are numbered, 1 backwards, else at random, anew
// each round.
inline unsigned order = 0;

constexpr size_t kStack = 64 << 10, kSharedMost = 48 << 10, kArena = kSharedMost + (16 << 10), kRedZone = 64;
constexpr uint64_t kWholeBlock = ~uint64_t(0);

SIM_HIDDEN inline uint3 thread_index() { return fiber_now->index; }
SIM_HIDDEN inline uint3 block_index() { return block_now->index; }
SIM_HIDDEN inline dim3 block_size() { return launch_now->block; }
SIM_HIDDEN inline dim3 grid_size() { return launch_now->grid; }
SIM_HIDDEN inline int lane() { return fiber_now->linear & 31; }

// From the fiber to the scheduler, and back with the answer.
SIM_HIDDEN inline uint64_t ask(Request request, unsigned mask, uint64_t value, int source, int line) {
  Fiber* const fiber = fiber_now;
  fiber->request = request;
  fiber->mask = mask;
  fiber->value = value;
  fiber->source = source;
  fiber->line = line;
  SIM_ASAN(__sanitizer_start_switch_fiber(request == Request::kExit ? nullptr : &fiber->fake_stack, launch_now->stack,
                                          launch_now->stack_size);)
  SIM_TSAN(__tsan_switch_to_fiber(launch_now->tsan, __tsan_switch_to_fiber_no_sync);)
  swapcontext(&fiber->context, &launch_now->scheduler);
  SIM_ASAN(__sanitizer_finish_switch_fiber(fiber->fake_stack, nullptr, nullptr);)
  return fiber->value;
}

inline void* shared_memory(const void* key, size_t size) {
  return reinterpret_cast<void*>(ask(Request::kSharedMemory, 0, reinterpret_cast<uint64_t>(key), 0, int(size)));
}

SIM_HIDDEN inline void run_fiber() {
  SIM_ASAN(__sanitizer_finish_switch_fiber(nullptr, &launch_now->stack, &launch_now->stack_size);)
  launch_now->body();
  SIM_TSAN(__tsan_release(&launch_now->mark);)
  ask(Request::kExit, 0, 0, 0, 0);
}

inline std::string text_of(const uint3& at) {
  return "(" + std::to_string(at.x) + "," + std::to_string(at.y) + "," + std::to_string(at.z) + ")";
}

inline void fail(const Fiber& fiber, const std::string& message) {
  if (!launch_now->error.empty()) return;
  launch_now->error = "block " + text_of(block_now->index) + " thread " + text_of(fiber.index) + ": " + message;
}

inline std::string text_of(const Fiber& fiber) {
  const std::string name = name_of(fiber.request);
  return fiber.request == Request::kBarrier ? name + " of line " + std::to_string(fiber.line) : name;
}

#ifdef __SANITIZE_THREAD__
// Does something to a mark in the name of another clock than the current one's.
SIM_HIDDEN inline void in_the_name_of(void* clock, void* back, void (*action)(void*), void* mark) {
  __tsan_switch_to_fiber(clock, __tsan_switch_to_fiber_no_sync);
  action(mark);
  __tsan_switch_to_fiber(back, __tsan_switch_to_fiber_no_sync);
}
#endif

// As in C++: a fence gives what precedes it to its thread's later atomics, and takes what earlier ones have seen.
SIM_HIDDEN inline void fence() {
  SIM_TSAN(Fiber& fiber = *fiber_now; if (fiber.acquired) {
    in_the_name_of(fiber.acquired, fiber.tsan, __tsan_release, &fiber.marks[0]);
    __tsan_acquire(&fiber.marks[0]);
  } if (!fiber.released) fiber.released = __tsan_create_fiber(0);
           __tsan_release(&fiber.marks[1]);
           in_the_name_of(fiber.released, fiber.tsan, __tsan_acquire, &fiber.marks[1]);)
}

SIM_HIDDEN inline void before_atomic(void* address) {
  (void)address;
  SIM_TSAN(Fiber& fiber = *fiber_now;
           if (fiber.released) in_the_name_of(fiber.released, fiber.tsan, __tsan_release, address);)
}

SIM_HIDDEN inline void after_atomic(void* address) {
  (void)address;
  SIM_TSAN(Fiber& fiber = *fiber_now; if (!fiber.acquired) fiber.acquired = __tsan_create_fiber(0);
           in_the_name_of(fiber.acquired, fiber.tsan, __tsan_acquire, address);)
}

inline Meeting& meeting_of(const Fiber& fiber) {
  const uint64_t key =
      fiber.request == Request::kBarrier ? kWholeBlock : uint64_t(fiber.linear / 32) << 32 | fiber.mask;
  return block_now->meetings[key];
}

inline bool orders_memory(Request request) { return request == Request::kBarrier || request == Request::kWarpBarrier; }

inline unsigned expected_at(const Fiber& first) {
  if (first.request == Request::kBarrier) return block_now->alive;
  unsigned expected = 0;
  for (unsigned k = 0; k < 32; ++k) {
    const unsigned linear = unsigned(first.linear) / 32 * 32 + k;
    const bool there = linear < block_now->fibers.size() && block_now->fibers[linear].request != Request::kExit;
    expected += (first.mask >> k & 1) && there;
  }
  return expected;
}

// Answers everybody at a meeting when all who must come have come.
inline void settle(Meeting& meeting) {
  if (meeting.present.empty() || meeting.present.size() != expected_at(*meeting.present[0])) return;
  uint64_t values[32], who = 0, votes = 0;
  if (meeting.present[0]->request != Request::kBarrier) {
    for (Fiber* fiber : meeting.present) {
      const int at = fiber->linear & 31;
      values[at] = fiber->value;
      who |= uint64_t(1) << at;
      votes |= uint64_t(fiber->value != 0) << at;
    }
  }
  for (Fiber* fiber : meeting.present) {
    fiber->ready = true;
    SIM_TSAN(if (orders_memory(fiber->request))
                 in_the_name_of(fiber->tsan, launch_now->tsan, __tsan_acquire, &meeting.marks[meeting.count & 1]);)
    // From a lane that is not there CUDA promises nothing: poison.
    if (fiber->request == Request::kShuffle) fiber->value = who >> fiber->source & 1 ? values[fiber->source] : ~0ull;
    if (fiber->request == Request::kVote) fiber->value = votes;
  }
  meeting.present.clear();
  ++meeting.count;
}

inline void give_shared_memory(Fiber& fiber) {
  char*& at = block_now->shared[reinterpret_cast<const void*>(fiber.value)];
  if (!at) {
    const size_t size = size_t(fiber.line);
    at = launch_now->arena + block_now->used;
    block_now->used = (block_now->used + size + kRedZone + 15) / 16 * 16;
    if (block_now->used > kArena) return fail(fiber, "more shared memory than a block has");
    SIM_ASAN(__asan_poison_memory_region(at + size, kRedZone);)
  }
  fiber.value = reinterpret_cast<uint64_t>(at);
  fiber.ready = true;
}

inline void join_meeting(Fiber& fiber) {
  if (fiber.request == Request::kBarrier && block_now->alive != block_now->fibers.size())
    return fail(fiber, text_of(fiber) + " after some threads of the block have returned");
  if (fiber.request != Request::kBarrier && !(fiber.mask >> (fiber.linear & 31) & 1))
    return fail(fiber, text_of(fiber) + " with a mask that leaves out its caller");
  Meeting& meeting = meeting_of(fiber);
  if (!meeting.present.empty()) {
    const Fiber& other = *meeting.present[0];
    if (other.request != fiber.request || (fiber.request == Request::kBarrier && other.line != fiber.line))
      return fail(fiber, "divergence: waits in " + text_of(fiber) + " while others wait in " + text_of(other));
  }
  SIM_TSAN(if (orders_memory(fiber.request))
               in_the_name_of(fiber.tsan, launch_now->tsan, __tsan_release, &meeting.marks[meeting.count & 1]);)
  meeting.present.push_back(&fiber);
  settle(meeting);
}

inline void serve(Fiber& fiber) {
  if (fiber.request == Request::kSharedMemory) return give_shared_memory(fiber);
  if (fiber.request != Request::kExit) return join_meeting(fiber);
  --block_now->alive;
  Meeting& barrier = block_now->meetings[kWholeBlock];
  if (!barrier.present.empty()) return fail(fiber, "returns while others wait in " + text_of(*barrier.present[0]));
  for (auto& [key, meeting] : block_now->meetings) settle(meeting);
}

inline void switch_to(Fiber& fiber, char* stack) {
  fiber.ready = false;
  fiber_now = &fiber;
  SIM_ASAN(void* fake_stack; __sanitizer_start_switch_fiber(&fake_stack, stack, kStack);)
  SIM_TSAN(__tsan_switch_to_fiber(fiber.tsan, __tsan_switch_to_fiber_no_sync);)
  swapcontext(&launch_now->scheduler, &fiber.context);
  SIM_ASAN(__sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);)
  (void)stack;
}

inline char* fresh_pages(size_t size) {
  void* const pages = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) throw std::bad_alloc();
  return static_cast<char*>(pages);
}

// For the thread sanitizer: blocks share no memory, and what was in it is nobody's.
inline void renew(char*& pages, size_t size) {
  munmap(pages, size);
  pages = fresh_pages(size);
}

inline void make_fibers(Block& block) {
  const dim3 size = launch_now->block;
  for (unsigned k = 0; k < block.fibers.size(); ++k) {
    Fiber& fiber = block.fibers[k];
    fiber = Fiber();
    fiber.linear = int(k);
    fiber.index = {k % size.x, k / size.x % size.y, k / size.x / size.y};
    fiber.ready = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = launch_now->stacks + k * kStack;
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, run_fiber, 0);
    SIM_TSAN(fiber.tsan = __tsan_create_fiber(0);)
  }
}

inline void run_block(Block& block, std::vector<unsigned>& turns, std::mt19937& random) {
  Launch& launch = *launch_now;
  block_now = &block;
  block.alive = unsigned(block.fibers.size());
  block.used = 0;
  SIM_TSAN(renew(launch.stacks, block.fibers.size() * kStack); renew(launch.arena, kArena);)
  memset(launch.arena, 0xff, kArena);
  make_fibers(block);
  for (bool ran = true; ran && launch.error.empty();) {
    ran = false;
    if (order > 1) std::shuffle(turns.begin(), turns.end(), random);
    for (unsigned k : turns) {
      Fiber& fiber = block.fibers[k];
      while (fiber.ready && launch.error.empty()) {
        ran = true;
        switch_to(fiber, launch.stacks + k * kStack);
        serve(fiber);
      }
    }
  }
  if (launch.error.empty() && block.alive) {
    for (const Fiber& fiber : block.fibers) {
      if (fiber.request != Request::kExit) fail(fiber, "waits for ever in " + text_of(fiber));
    }
  }
  SIM_ASAN(__asan_unpoison_memory_region(launch.arena, kArena);)
  block_now = nullptr;
  fiber_now = nullptr;
}

inline void launch(dim3 grid, dim3 block, std::function<void()> body) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads == 0 || threads > 1024 || block.z > 64 || !grid.x || !grid.y || !grid.z || grid.x > 2147483647u ||
      grid.y > 65535 || grid.z > 65535)
    throw std::runtime_error("invalid launch configuration");
  Launch now{};
  now.grid = grid;
  now.block = block;
  now.body = std::move(body);
  now.stacks = fresh_pages(threads * kStack);
  now.arena = fresh_pages(kArena);
  launch_now = &now;
  SIM_TSAN(now.tsan = __tsan_get_current_fiber(); std::vector<void*> clocks;)
  std::mt19937 random(order);
  std::vector<unsigned> turns(threads);
  std::iota(turns.begin(), turns.end(), 0u);
  if (order == 1) std::reverse(turns.begin(), turns.end());
  const uint64_t blocks = uint64_t(grid.x) * grid.y * grid.z;
  for (uint64_t k = 0; k < blocks && now.error.empty(); ++k) {
    Block own{};
    own.index = {unsigned(k % grid.x), unsigned(k / grid.x % grid.y), unsigned(k / grid.x / grid.y)};
    own.fibers.resize(threads);
    run_block(own, turns, random);
    SIM_TSAN(for (const Fiber& fiber : own.fibers) for (void* clock : {fiber.tsan, fiber.released,
                                                                       fiber.acquired}) if (clock)
                 clocks.push_back(clock);)
  }
  SIM_TSAN(for (void* clock : clocks) __tsan_destroy_fiber(clock); __tsan_acquire(&now.mark);)
  munmap(now.stacks, threads * kStack);
  munmap(now.arena, kArena);
  launch_now = nullptr;
  if (!now.error.empty()) throw std::runtime_error(now.error);
}

template <class T>
T shuffle(unsigned mask, T value, int source, bool inside) {
  static_assert(std::is_trivially_copyable_v<T> && (sizeof(T) == 4 || sizeof(T) == 8), "as CUDA's overloads");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof value);
  bits = ask(Request::kShuffle, mask, bits, source & 31, 0);
  T other;
  memcpy(&other, &bits, sizeof other);
  return inside ? other : value;
}

// Relaxed, as CUDA's atomics are.
template <class T, class F>
T change(T* address, F f) {
  T old, next;
  before_atomic(address);
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do next = f(old);
  while (!__atomic_compare_exchange(address, &old, &next, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  after_atomic(address);
  return old;
}

template <class T>
struct Same {
  using Type = T;
};
template <class T, class... Others>
constexpr bool is_one_of = (std::is_same_v<T, Others> || ...);
template <class T>
constexpr bool is_integer = is_one_of<T, int, unsigned, long long, unsigned long long>;

}  // namespace sim

inline void __syncthreads(int line = __builtin_LINE()) { sim::ask(sim::Request::kBarrier, 0, 0, 0, line); }
inline void __syncwarp(unsigned mask = ~0u) { sim::ask(sim::Request::kWarpBarrier, mask, 0, 0, 0); }
inline void __threadfence() { sim::fence(); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  return sim::shuffle(mask, value, (sim::lane() & ~(width - 1)) | (source & (width - 1)), true);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return sim::shuffle(mask, value, sim::lane() + int(by), (sim::lane() & (width - 1)) + int(by) < width);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return sim::shuffle(mask, value, sim::lane() - int(by), (sim::lane() & (width - 1)) >= int(by));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32) {
  const int source = sim::lane() ^ bits;
  return sim::shuffle(mask, value, source, (source & ~(width - 1)) <= (sim::lane() & ~(width - 1)));
}
inline unsigned __ballot_sync(unsigned mask, int vote) {
  return unsigned(sim::ask(sim::Request::kVote, mask, vote != 0, 0, 0));
}
inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }

// Only the overloads that CUDA has.
template <class T>
T atomicAdd(T* address, typename sim::Same<T>::Type by) {
  static_assert(sim::is_one_of<T, int, unsigned, unsigned long long, float, double>);
  return sim::change(address, [by](T old) { return old + by; });
}
template <class T>
T atomicMin(T* address, typename sim::Same<T>::Type other) {
  static_assert(sim::is_integer<T>);
  return sim::change(address, [other](T old) { return std::min(old, other); });
}
template <class T>
T atomicMax(T* address, typename sim::Same<T>::Type other) {
  static_assert(sim::is_integer<T>);
  return sim::change(address, [other](T old) { return std::max(old, other); });
}
template <class T>
T atomicOr(T* address, typename sim::Same<T>::Type bits) {
  static_assert(sim::is_integer<T>);
  return sim::change(address, [bits](T old) { return old | bits; });
}
template <class T>
T atomicExch(T* address, typename sim::Same<T>::Type next) {
  return sim::change(address, [next](T) { return next; });
}
template <class T>
T atomicCAS(T* address, typename sim::Same<T>::Type expected, typename sim::Same<T>::Type next) {
  return sim::change(address, [=](T old) { return old == expected ? next : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned most) {
  return sim::change(address, [most](unsigned old) { return old >= most ? 0u : old + 1; });
}
inline unsigned __float_as_uint(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
inline float __uint_as_float(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
template <class T>
T __ldg(const T* address) {
  return *address;
}

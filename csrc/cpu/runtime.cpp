#include "cpu/runtime.h"

#include <chrono>
#include <cstdlib>
#include <new>
#include <stdexcept>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace bimt {
namespace {

constexpr size_t kCacheLine = 64;

InstructionSet chosen = InstructionSet::kBaseline;
bool forked = false;

}  // namespace

const char* name(InstructionSet set) {
  switch (set) {
    case InstructionSet::kAvx512:
      return "avx512";
    case InstructionSet::kAvx2:
      return "avx2";
    default:
      return "baseline";
  }
}

std::vector<InstructionSet> supported_instruction_sets() {
  std::vector<InstructionSet> sets = {InstructionSet::kBaseline};
#ifdef BIMT_HAS_AVX2
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2) sets.push_back(InstructionSet::kAvx2);
#endif
#ifdef BIMT_HAS_AVX512
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    sets.push_back(InstructionSet::kAvx512);
  }
#endif
  return sets;
}

void choose_instruction_set() {
#if defined(__unix__) || defined(__APPLE__)
  static const int registered = pthread_atfork(nullptr, nullptr, [] { forked = true; });
  (void)registered;
#endif
  const std::vector<InstructionSet> sets = supported_instruction_sets();
  chosen = sets.back();
  const char* forced = std::getenv("BIMT_FAST_ISA");
  if (forced == nullptr || *forced == '\0') return;
  std::string allowed;
  for (InstructionSet set : sets) {
    if (forced == std::string(name(set))) {
      chosen = set;
      return;
    }
    allowed += (allowed.empty() ? "" : ", ") + std::string(name(set));
  }
  throw std::invalid_argument("BIMT_FAST_ISA must be one of " + allowed + " on this CPU, was '" + forced + "'");
}

InstructionSet instruction_set() { return chosen; }

bool has_openmp() {
#ifdef _OPENMP
  return true;
#else
  return false;
#endif
}

void parallel_for(int threads, int64_t blocks, void (*body)(void*, int64_t, int), void* context) {
#ifdef _OPENMP
  if (threads > 1 && blocks > 1 && !forked) {
    const int team = static_cast<int>(blocks < threads ? blocks : threads);
#pragma omp parallel for schedule(dynamic, 1) num_threads(team)
    for (int64_t block = 0; block < blocks; ++block) body(context, block, omp_get_thread_num());
    return;
  }
#endif
  (void)threads;
  for (int64_t block = 0; block < blocks; ++block) body(context, block, 0);
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void* allocate(size_t bytes) {
  void* memory = std::aligned_alloc(kCacheLine, (bytes / kCacheLine + 1) * kCacheLine);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}

void release(void* memory) noexcept { std::free(memory); }

void prepare_result(void* memory, size_t bytes, int threads) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr size_t kHugePage = size_t(2) << 20;
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(memory) + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(memory) + bytes) / kHugePage * kHugePage;
  if (end <= begin || madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE) != 0) return;
  const auto touch = [](void* first, int64_t page, int) { static_cast<char*>(first)[page * kHugePage] = 0; };
  parallel_for(threads, (end - begin) / kHugePage, touch, reinterpret_cast<void*>(begin));
#else
  (void)memory;
  (void)bytes;
  (void)threads;
#endif
}

}  // namespace bimt

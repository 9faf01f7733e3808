// What the kernels need from the machine: an instruction set, threads and memory. Compiled once, for any CPU.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace bimt {

enum class InstructionSet { kBaseline, kAvx2, kAvx512 };

const char* name(InstructionSet set);
// Sets that were compiled in and that this CPU can run, slowest first.
std::vector<InstructionSet> supported_instruction_sets();
// Fixes the set in use: the fastest, or the one that BIMT_FAST_ISA names. Throws std::invalid_argument if it cannot be.
void choose_instruction_set();
InstructionSet instruction_set();

bool has_openmp();

// Calls body(context, block, thread) for every block in [0, blocks), with thread in [0, threads). Which thread takes
// which block is left open: results must not depend on it. Runs serially in a forked child, where OpenMP hangs.
void parallel_for(int threads, int64_t blocks, void (*body)(void*, int64_t, int), void* context);

// Of a clock that never goes back.
double seconds_now();

// Memory aligned to a cache line; throws std::bad_alloc.
void* allocate(size_t bytes);
void release(void* memory) noexcept;

// Backs a large result, whose content is still undefined, with huge pages and touches them with all threads. Otherwise
// threads that walk the result in the same order would all wait for the same page to be zeroed.
void prepare_result(void* memory, size_t bytes, int threads);

}  // namespace bimt

"""Compiles every Triton kernel ahead of time, without a GPU, and holds it to its budget.

A module bimt_fast/kernels/triton_*.py that holds kernels has a function

    aot_cases() -> Iterator[tuple[kernel, tuple, dict, int]]

that yields (kernel, arguments, constants, registers) for the launches worth compiling, for every dtype and two or three
metrics; of each kernel the most usual one first, as `--short` compiles no other.

- kernel: what @triton.autotune or @triton.jit made. Every configuration of the former is compiled.
- arguments: of a launch, in order, up to the first constexpr. A torch.dtype stands for a tensor of it, None for one that
  is absent; integers and floats are as in a launch. As there, 1 becomes a constant and multiples of 16 are known as such.
- constants: the other arguments by name: constexprs that no configuration sets, and num_warps without autotune.
- registers: how many a thread may take, on NVIDIA's chips.

The script calls kernel.warmup(*arguments, grid=(1,), **constants) for each. It runs in a process of its own: Triton
must not have been imported with TRITON_INTERPRET set, and it replaces Triton's driver.
"""

"""Kernels that tests/gpu/aot.py must refuse, each for another reason; tests/test_triton.py sees that it does."""

import torch
import triton
import triton.language as tl


@triton.jit
def spilling(x, out, N: tl.constexpr):
    """All of a thread's numbers are needed to the end, in more registers than it may have."""
    i = tl.arange(0, N)
    a = tl.load(x + i)
    tl.store(out + i, a - tl.sum(a, 0))


@triton.jit
def hoarding(x, out, steps, N: tl.constexpr):
    """Operands of products for several steps ahead do not fit into shared memory."""
    i = tl.arange(0, N)
    place = i[:, None] * N + i[None, :]
    total = tl.full((N, N), 0, tl.float32)
    for step in range(steps):
        a = tl.load(x + step * N * N + place)
        total += tl.dot(a, a)
    tl.store(out + place, total)


@triton.jit
def greedy(x, out):
    tl.store(out, tl.load(x))


@triton.jit
def rejected(x):
    """The interpreter knows `in`, the compiler does not."""
    if tl.program_id(0) in (1, 2):
        tl.store(x, 0.0)


@triton.jit
def forgotten(x):
    tl.store(x, 0.0)


def aot_cases():
    yield spilling, (torch.float32, torch.float32), {"N": 4096, "num_warps": 1, "maxnreg": 32}, 255
    yield hoarding, (torch.float16, torch.float32, 64), {"N": 128, "num_warps": 8, "num_stages": 8}, 255
    yield greedy, (torch.float32, torch.float32), {}, 1
    yield rejected, (torch.float32,), {}, 255

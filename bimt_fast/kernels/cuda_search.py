"""Searches, moves and permutations of bimt_fast._cuda on CUDA tensors: allocation and launches.

The functions are those of reference.py, whose docstrings say what each computes.
"""

import time

import torch
from torch import Tensor

from . import cuda_native, reference
from .cuda_native import DTYPES, address, matrix, native, queue
from .slices import axes_of

_HEADER = 8  # words of the memory of quadratic_walks in front of that of the walks
_WALKS_AT_ONCE = 512  # each takes a multiprocessor of its own, as far as there are any
_WORK = 2**22  # pairs of neurons that a walk visits in a first launch; doubled while launches are short
_SHORT = 0.01  # seconds


def label_nulls(
    labels: Tensor,  # (n,) int64
    neighbours: Tensor,  # (n, degree) int64
    positions: Tensor,  # (n, dim) float64
    clusters: int,
    permutations: int,
    seed: int,
) -> Tensor:  # (1 + permutations, 3)
    n, device, module = len(labels), labels.device, native(labels.device)
    if n == 0:
        return positions.new_zeros(1 + permutations, 3)
    counts = positions.new_zeros(clusters).scatter_add_(0, labels, positions.new_ones(n))
    shares = counts.reciprocal()
    weights = torch.where(counts > 0, shares / (counts > 0).sum(), 0)
    inputs = (labels.int(), neighbours.T.int(), positions.T, shares, weights)
    inputs = [x.contiguous() for x in inputs]
    workspace = torch.empty(module.label_workspace(n, permutations), dtype=torch.int32, device=device)
    nulls = positions.new_empty(1 + permutations, 3)
    addresses = tuple(x.data_ptr() for x in (*inputs, workspace, nulls))
    sizes = (n, clusters, neighbours.shape[1], positions.shape[1])
    module.label_nulls(queue(device), sizes, addresses, permutations, seed)
    return nulls


def permute_(
    tensor: Tensor,
    axis: int,
    to: Tensor,  # (k,) int64
    source: Tensor,  # (k,) int64
) -> None:
    if not tensor.numel() or not len(to):
        return
    module = native(tensor.device)
    axes, moving = axes_of(tensor, axis, len(to))
    if len(axes) > module.permuted_axes():
        return reference.permute_(tensor, axis, to, source)
    size = tensor.numel() // tensor.shape[axis] * len(to) * tensor.element_size()
    workspace = torch.empty(size, dtype=torch.uint8, device=tensor.device)
    to, source = to.contiguous(), source.contiguous()
    addresses = tuple(x.data_ptr() for x in (tensor, workspace, to, source))
    module.permute(queue(tensor.device), addresses, tuple(n for pair in axes for n in pair), moving)


def greedy_swaps(
    cost: Tensor,  # (n, n)
    neuron_in: Tensor,  # (n,) int64, by slot; changed in place
    slots: Tensor,  # (k,) int64
) -> int:
    """Waits for the device once, at the end, for the number of swaps."""
    slots, at_home, swaps = slots.contiguous(), cost.new_empty(len(cost)), slots.new_empty(1)
    native(cost.device).greedy_swaps(
        queue(cost.device),
        DTYPES[cost.dtype],
        matrix(cost),
        neuron_in.data_ptr(),
        slots.data_ptr(),
        len(slots),
        at_home.data_ptr(),
        swaps.data_ptr(),
    )
    return int(swaps)


def quadratic_memory(n: int, dtype: torch.dtype, slots: int) -> Tensor:
    """On the CPU; first, how many slots there are."""
    words = (cuda_native.simulator or cuda_native._cuda).quadratic_memory(n, dtype.itemsize) // 8
    memory = torch.empty(_HEADER + slots * words, dtype=torch.int64)
    memory[0] = slots
    memory[_HEADER::words] = torch.arange(slots)
    memory[_HEADER + 1 :: words] = -1
    return memory


def quadratic_ended(memory: Tensor, walks: int) -> bool:
    """Waits for the device."""
    slots = int(memory[0])
    return bool((memory[_HEADER :: (len(memory) - _HEADER) // slots] >= walks).all())


def quadratic_walks(
    flow: Tensor,  # (n, n) int32 or float64
    distance: Tensor,  # (n, n)
    linear: Tensor | None,  # (n, n)
    assignments: Tensor,  # (walks, n) int64
    seeds: Tensor,  # (walks,) int64
    limits: Tensor,  # (walks,) int64
    costs: Tensor,  # (walks,) float64
    done: Tensor,  # (walks,) int64
    memory: Tensor | None,
    tabu: bool,
    symmetric: bool,
    least: float,
    seconds: float,
) -> None:
    """Waits for the device after every launch: whether all walks have ended."""
    deadline = time.monotonic() + seconds
    n, walks = flow.shape[0], len(assignments)
    if memory is None:
        memory = quadratic_memory(n, flow.dtype, max(1, min(walks, _WALKS_AT_ONCE))).to(flow.device)
    flow, distance = flow.contiguous(), distance.contiguous()
    linear = None if linear is None else linear.contiguous()
    tensors = (flow, flow + flow.T, distance, linear, assignments, seeds, limits, costs, done, memory)
    addresses, slots, work = tuple(address(x) for x in tensors), int(memory[0]), _WORK
    while True:
        began = time.monotonic()
        native(flow.device).quadratic_walks(
            queue(flow.device), flow.dtype == torch.int32, n, addresses, symmetric, walks, tabu, least, slots, work
        )
        if quadratic_ended(memory, walks) or time.monotonic() >= deadline:
            return
        if time.monotonic() - began < _SHORT:
            work *= 2

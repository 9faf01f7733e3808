"""Searches, moves and permutations of bimt_fast._cuda on CUDA tensors: allocation and launches.

The functions are those of reference.py, whose docstrings say what each computes.
"""

import torch
from torch import Tensor

from . import reference
from .cuda_native import DTYPES, matrix, native, queue
from .slices import axes_of


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

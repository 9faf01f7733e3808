"""Swap deltas, best swaps and their gradients as CUDA kernels: the functions of reference.py by the same names.

The two that search wait for the device, to learn whether all was finite.
"""

import torch
from torch import Tensor

from .cuda_native import ABSENT, DTYPES, address, matrix, native, queue
from .reference import require_finite

UNORDERED = (0, 0)


def swap_deltas(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> Tensor:  # (n, n)
    deltas, flag = torch.empty(cost.shape, dtype=cost.dtype, device=cost.device), new_flag(cost.device)
    assignment = None if assignment is None else assignment.contiguous()
    matrices = _by_neuron(cost, assignment, flow, distance)
    launch_deltas(cost.shape, matrices, flag, deltas, pairs=False)
    _check(flag, cost, flow, distance)
    return deltas


def best_swaps(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> tuple[Tensor, Tensor]:  # (n,), (n,) int64
    flag, best = new_flag(cost.device), no_swaps(cost.shape[0], cost.dtype, cost.device)
    neuron = None
    if assignment is not None and cost.stride(1) == 1:
        # In the order of the slots its rows are read whole, through the assignment number by number.
        neuron = torch.empty_like(assignment, memory_format=torch.contiguous_format)
        neuron[assignment] = torch.arange(len(assignment), device=cost.device)
        matrices = [both(cost, neuron, None)]
        if flow is not None and distance is not None:
            matrices += [both(flow, neuron, neuron), both(distance, None, None)]
    else:
        assignment = None if assignment is None else assignment.contiguous()
        matrices = _by_neuron(cost, assignment, flow, distance)
    launch_best(cost.shape, matrices, flag, 0, neuron, best)
    _check(flag, cost, flow, distance)
    return best


def swap_deltas_backward(
    grad: Tensor,  # (n, n)
    cost: Tensor,
    assignment: Tensor | None,
    flow: Tensor | None,
    distance: Tensor | None,
) -> list[Tensor]:
    assignment = None if assignment is None else assignment.contiguous()
    slot = address(assignment)
    results = [((*ABSENT, *UNORDERED), 0, slot)]
    if flow is not None and distance is not None:
        results += [((*matrix(distance), slot, slot), 0, 0), ((*matrix(flow), *UNORDERED), slot, slot)]
    n, kernels = len(cost), native(cost.device)
    workspace = torch.empty(kernels.swap_parts(n, n), n, dtype=torch.float64, device=cost.device)
    grads = []
    for other, row_order, col_order in results:
        grads.append(torch.empty(n, n, dtype=cost.dtype, device=cost.device))
        description = (matrix(grad), other, workspace.data_ptr(), matrix(grads[-1]))
        kernels.swap_gradient(queue(cost.device), DTYPES[cost.dtype], *description, row_order, col_order)
    return grads


def both(x: Tensor, row_order: Tensor | None, col_order: Tensor | None) -> tuple[int, ...]:
    """X[i, j] and X[j, i] of a square matrix, as the kernels take them."""
    ordered = (*matrix(x), address(row_order), address(col_order))
    return (*ordered, *ordered, 0)


def new_flag(device: torch.device) -> Tensor:
    """What kernels set where they meet something that is not finite."""
    return torch.zeros((), dtype=torch.int32, device=device)


def no_swaps(n: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Every neuron stays where it is."""
    return torch.zeros(n, dtype=dtype, device=device), torch.arange(n, device=device)


def launch_deltas(shape: tuple[int, int], matrices: list[tuple], flag: Tensor, deltas: Tensor, pairs: bool) -> None:
    """All deltas of a square problem; or of pairs only those right of the diagonal, and nothing else is written."""
    arguments = (DTYPES[deltas.dtype], *shape, matrices, flag.data_ptr(), matrix(deltas), pairs)
    native(deltas.device).swap_deltas(queue(deltas.device), *arguments)


def launch_best(
    shape: tuple[int, int],
    matrices: list[tuple],
    flag: Tensor,
    first: int,  # the neuron of row 0 and column 0
    neuron: Tensor | None,  # or those of all rows and columns
    best: tuple[Tensor, Tensor],  # of all neurons; improved upon
) -> None:
    """The best swaps of the neurons of all rows and columns."""
    delta, partner = best
    kernels = native(delta.device)
    words = kernels.swap_parts(*shape) * shape[1] * (1 if delta.dtype == torch.float32 else 2)
    workspace = torch.empty(words, dtype=torch.int64, device=delta.device)
    settings = (flag.data_ptr(), first, address(neuron), workspace.data_ptr())
    results = (delta.data_ptr(), partner.data_ptr())
    kernels.best_swaps(queue(delta.device), DTYPES[delta.dtype], *shape, matrices, *settings, *results)


def _by_neuron(cost: Tensor, slot: Tensor | None, flow: Tensor | None, distance: Tensor | None) -> list[tuple]:
    matrices = [both(cost, None, slot)]
    if flow is not None and distance is not None:
        matrices += [both(flow, None, None), both(distance, slot, slot)]
    return matrices


def _check(flag: Tensor, cost: Tensor, flow: Tensor | None, distance: Tensor | None) -> None:
    """Waits for the device. Deltas can overflow although every entry is finite, so looks again before refusing."""
    if flag.item():
        require_finite(cost=cost)
        if flow is not None and distance is not None:
            require_finite(flow=flow, distance=distance)

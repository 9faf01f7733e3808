"""Searches for a cheaper assignment of neurons to slots, on a placement cost matrix. Knows no model.

C[i, p] is what neuron i costs in slot p (functional.placement_cost) and does not change while its group moves, so
one matrix serves a whole search. An assignment is an int64 tensor (n,): assignment[i] is the slot of neuron i.
"""

import numpy as np
import torch
from torch import Tensor

from .backends import kernels
from .functional import best_swaps


def assigned_cost(cost: Tensor, assignment: Tensor) -> float:
    """sum C[i, a[i]], added in float64."""
    return cost.gather(1, assignment[:, None]).double().sum().item()


def resolution(cost: Tensor) -> float:
    """The smallest change of one swap that rounding cannot feign in a matrix of this dtype and magnitude."""
    return 4 * torch.finfo(cost.dtype).eps * cost.abs().max().item() if cost.numel() else 0.0


def greedy(cost: Tensor, assignment: Tensor, neurons: Tensor) -> tuple[Tensor, int]:
    """BIMT's search: the given neurons' slots, in order; the neuron then in the slot takes its best swap.

    Staying is one of the candidates and the first minimum in order of slots wins, as in the published loop (Liu,
    Gan, Tegmark 2023, section 2.2).

    Args:
        cost: (n, n) placement cost.
        assignment: (n,) int64, the slot of each neuron at the start.
        neurons: int64, whose slots are visited, most important first.

    Returns:
        The new assignment and the number of swaps done.
    """
    neuron_in = assignment.cpu().argsort()
    swaps = kernels(neuron_in.device).greedy_swaps(cost.cpu(), neuron_in, assignment[neurons].cpu())
    return neuron_in.argsort().to(assignment.device), swaps


def matching(cost: Tensor, assignment: Tensor) -> tuple[Tensor, int]:
    """Every neuron finds its best partner; disjoint pairs trade slots, best first; again until nothing improves.

    Ends where no single swap improves by more than rounding (2-opt). The swaps of one round are independent, since
    C does not change, so each round lowers the cost by the sum of its deltas.

    Args:
        cost: (n, n) placement cost.
        assignment: (n,) int64 at the start.

    Returns:
        The new assignment and the number of swaps done.
    """
    assignment, swaps, least = assignment.clone(), 0, resolution(cost)
    while True:
        first, second = _disjoint_pairs(*best_swaps(cost, assignment), least)
        if not first:
            return assignment, swaps
        both, other = torch.tensor(first + second), torch.tensor(second + first)
        assignment[both] = assignment[other]
        swaps += len(first)


def _disjoint_pairs(delta: Tensor, partner: Tensor, least: float) -> tuple[list[int], list[int]]:
    gains, partners = delta.cpu().numpy(), partner.tolist()
    free = [True] * len(partners)
    first: list[int] = []
    second: list[int] = []
    for r in np.argsort(gains, kind="stable").tolist():
        if gains[r] >= -least:
            break
        s = partners[r]
        if free[r] and free[s]:
            free[r] = free[s] = False
            first.append(r)
            second.append(s)
    return first, second


def linear_assignment(cost: Tensor) -> Tensor:
    """The cheapest assignment of all, by scipy.optimize.linear_sum_assignment (Crouse 2016).

    Args:
        cost: (n, n), finite.

    Returns:
        (n,) int64 on cost's device.

    Raises:
        ImportError: SciPy is not installed.
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError("strategy 'assignment' needs SciPy: pip install 'bimt_fast[search]'") from error
    _, slots = linear_sum_assignment(cost.detach().cpu().numpy())
    return torch.as_tensor(slots, dtype=torch.int64, device=cost.device)


def has_linear_assignment() -> bool:
    """Whether SciPy is there for linear_assignment."""
    from importlib.util import find_spec

    return find_spec("scipy") is not None

"""Searches for a cheaper assignment of neurons to slots, on a placement cost matrix. Knows no model.

C[i, p] is what neuron i costs in slot p (functional.placement_cost) and does not change while its group moves, so
one matrix serves a whole search. An assignment is an int64 tensor (n,): assignment[i] is the slot of neuron i.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from .backends import host_kernels, kernels
from .functional import best_swaps, swap_deltas
from .ops import best_swaps_unchecked, check_assignment, check_permutation, check_shape
from .quadratic import Placed, Problem
from .quadratic import search as search_quadratic

_FROM_ANYWHERE = 128  # neurons, up to which an exact assignment takes no longer than finding it a good start


def assigned_cost(cost: Tensor, assignment: Tensor) -> float:
    """sum C[i, a[i]], added in float64."""
    return cost.gather(1, assignment[:, None]).double().sum().item()


def resolution(cost: Tensor) -> float:
    """The smallest change of one swap that rounding cannot feign in a matrix of this dtype and magnitude."""
    return 4 * torch.finfo(cost.dtype).eps * cost.abs().max().item() if cost.numel() else 0.0


def best_pairs(
    cost: Tensor, assignment: Tensor, top_k: int, flow: Tensor | None = None, distance: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The best swaps of all, by functional.swap_deltas of these arguments.

    Returns:
        delta (k,) and pairs (k, 2) int64 of neurons, smallest delta first, then lowest first and second neuron; the
        first of a pair is the lower. k <= top_k: only pairs that lower the cost.
    """
    n = len(cost)
    deltas = swap_deltas(cost, assignment, flow=flow, distance=distance).triu_(1).flatten()
    found = (deltas < 0).nonzero().flatten()
    if 0 < top_k < len(found):
        found = found[deltas[found] <= deltas[found].kthvalue(top_k).values]
    found = found[deltas[found].argsort(stable=True)][:top_k]
    return deltas[found], torch.stack([found // n, found % n], 1) if n else found.new_zeros(0, 2)


def assign(cost: Tensor, assignment: Tensor, strategy: str, neurons: Tensor | None) -> tuple[Tensor, int]:
    """A cheaper assignment by "greedy" (from the given neurons' slots), "matching" or "assignment".

    Returns:
        The new assignment and the number of swaps done, or that would do the same.
    """
    if strategy == "greedy":
        return greedy(cost, assignment, neurons)
    if strategy == "matching":
        return matching(cost, assignment)
    new = linear_assignment(cost)
    return new, swaps_between(assignment, new)


def in_blocks(
    cost: Tensor, assignment: Tensor, blocks: int, strategy: str, neurons: Tensor | None, top_k: int | None
) -> tuple[Tensor, int]:
    """The same where neurons fall into blocks of consecutive ones, which trade places whole, and so do places.

    "assignment" is exact: each block's best order in each place, then the best places. The others move blocks as
    their neurons lie in them, then neurons within each block; "matching" until neither improves.

    Args:
        cost: (n, n) placement cost.
        assignment: (n,) int64 at the start, each block in one place.
        blocks: how many; divides n.
        strategy: as in assign.
        neurons: for greedy, all of them, most important first; blocks are ranked by their most important neuron.
        top_k: for greedy, how many blocks' places are visited; then all neurons of these.

    Returns:
        The new assignment and the number of swaps of blocks and of neurons.
    """
    m = len(assignment) // blocks
    cells = cost.reshape(blocks, m, blocks, m)  # [B, j, Q, w]: neuron j of block B in place w of block place Q
    place, within, swaps = assignment.view(blocks, m)[:, 0] // m, assignment.view(blocks, m) % m, 0
    if strategy == "assignment":
        new_place, new_within = _best_in_blocks(cells)
        swaps = sum(swaps_between(a, b) for a, b in zip(within, new_within, strict=True))
        return (new_place[:, None] * m + new_within).flatten(), swaps + swaps_between(place, new_place)
    ranked = None
    if neurons is not None:
        ranked = torch.tensor(list(dict.fromkeys((neurons // m).tolist())), dtype=torch.int64)[:top_k]
    while True:
        by_place = cells.gather(3, within[:, :, None, None].expand(blocks, m, blocks, 1)).sum((1, 3))
        place, done = assign(by_place, place, strategy, ranked)
        for b in range(blocks) if ranked is None else ranked.tolist():
            order = None if neurons is None else neurons[neurons // m == b] % m
            within[b], of_neurons = assign(cells[b, :, place[b]], within[b].clone(), strategy, order)
            done += of_neurons
        swaps += done
        if strategy == "greedy" or not done:
            return (place[:, None] * m + within).flatten(), swaps


def _best_in_blocks(cells: Tensor) -> tuple[Tensor, Tensor]:
    """The best place of each block, and of each neuron within it: blocks (B,), neurons (B, m)."""
    blocks = len(cells)
    orders = torch.stack(
        [torch.stack([linear_assignment(cells[b, :, q]) for q in range(blocks)]) for b in range(blocks)]
    )
    place = linear_assignment(cells.transpose(1, 2).gather(3, orders[..., None]).sum((2, 3)))
    return place, orders[torch.arange(blocks), place]


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
    slot = assignment.to(cost.device)
    neuron_in = slot.argsort()
    swaps = kernels(cost.device).greedy_swaps(cost, neuron_in, slot[neurons.to(cost.device)])
    return neuron_in.argsort().to(assignment.device), swaps


def matching(cost: Tensor, assignment: Tensor) -> tuple[Tensor, int]:
    """Every neuron finds its best partner; disjoint pairs trade slots, best first; again until nothing improves.

    Ends where no single swap improves by more than rounding (2-opt). The swaps of one round are independent, since
    C does not change, so each round lowers the cost by the sum of its deltas. assignment_bound tells how far from the
    optimum it ended.

    Args:
        cost: (n, n) placement cost.
        assignment: (n,) int64 at the start.

    Returns:
        The new assignment and the number of swaps done.
    """
    assignment, swaps, least = assignment.clone(), 0, resolution(cost)
    found = best_swaps(cost, assignment)
    while True:
        pairs = _disjoint_pairs(*found, least)
        count = len(pairs[0])
        if not count:
            return assignment, swaps
        assignment, swaps = _swapped(assignment, pairs, count), swaps + count
        found = best_swaps_unchecked(cost, assignment)


def _disjoint_pairs(delta: Tensor, partner: Tensor, least: float) -> tuple[list[int], list[int]]:
    # In one transfer from a GPU, all that a round of swaps waits for; float64 holds every index.
    gains, partners = torch.stack([delta.double(), partner.double()]).cpu().numpy()
    partners = partners.astype(int).tolist()
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


def quadratic(
    linear: Tensor,
    flow: Tensor,
    distance: Tensor,
    assignment: Tensor,
    strategy: str,
    *,
    neurons: Tensor | None = None,
    placement: Callable[[Tensor], Tensor] | None = None,
    starts: int = 1,
    max_iterations: int | None = None,
    time_limit: float | None = None,
    seed: int = 0,
) -> tuple[Tensor, int]:
    """A cheaper assignment of a recurrent group: sum linear[i, a[i]] + sum flow[i, j] * distance[a[i], a[j]].

    "greedy" visits slots as greedy does, with the exact cost of every swap, in O(n^2) a visit. "matching" takes
    disjoint swaps together and ends where no single one improves by more than rounding; every round is O(n^2) beside
    the placement cost. "tabu" searches on from the assignment, in O(n^2) memory.

    Args:
        linear: (n, n) placement cost of all connections but the recurrent ones.
        flow: (n, n) = coefficient * |W| of the recurrent weight, by neuron.
        distance: (n, n) distances between the slots.
        assignment: (n,) int64 at the start.
        strategy: "greedy", "matching" or "tabu".
        neurons: for greedy, whose slots are visited, most important first.
        placement: gives the placement cost (n, n) of all connections at an assignment, the recurrent ones included on
            both of their axes, where that is cheaper than the products of flow and distance. For matching only.
        starts, max_iterations, time_limit, seed: of tabu, as in quadratic_assignment; other starts are random.

    Returns:
        The new assignment, which is not dearer, and the number of swaps (tabu: of iterations).

    Raises:
        ValueError: strategy is none of these.
    """
    if strategy == "greedy":
        return _quadratic_greedy(linear, flow, distance, assignment, neurons)
    if strategy == "matching":
        return _quadratic_matching(linear, flow, distance, assignment, placement)
    if strategy != "tabu":
        raise ValueError(f"strategy must be greedy, matching or tabu, was {strategy!r}")
    if max_iterations is None and time_limit is None:
        max_iterations = 1000 * len(assignment)
    deadline = time.monotonic() + (float("inf") if time_limit is None else time_limit)
    problem = _problem(linear, flow, distance)
    start = assignment.cpu()
    found, iterations = search_quadratic(problem, "tabu", start, starts, max_iterations, deadline, seed)
    return (found if problem.cost(found) < problem.cost(start) else start).to(assignment.device), iterations


def quadratic_cost(linear: Tensor, flow: Tensor, distance: Tensor, assignment: Tensor) -> float:
    """What quadratic lowers, added in float64."""
    recurrent = (flow.double() * distance[assignment][:, assignment]).sum().item()
    return recurrent + assigned_cost(linear, assignment)


def _problem(linear: Tensor, flow: Tensor, distance: Tensor) -> Problem:
    return Problem(*(x.detach().double().cpu() for x in (flow, distance, linear)))


def _quadratic_greedy(
    linear: Tensor, flow: Tensor, distance: Tensor, assignment: Tensor, neurons: Tensor
) -> tuple[Tensor, int]:
    placed, swaps = Placed(_problem(linear, flow, distance), assignment.cpu()), 0
    for slot in assignment[neurons].tolist():
        swaps += placed.take_best_swap(int((placed.slot == slot).nonzero()[0][0]))
    return torch.as_tensor(placed.slot, device=assignment.device), swaps


def _quadratic_matching(
    linear: Tensor,
    flow: Tensor,
    distance: Tensor,
    assignment: Tensor,
    placement: Callable[[Tensor], Tensor] | None,
) -> tuple[Tensor, int]:
    """Disjoint swaps are not independent here: the best half of them is tried alone until the total falls."""
    cost = placement(assignment) if placement else _placement(linear, flow, distance, assignment)
    total, swaps = _total(linear, cost, assignment), 0
    while True:
        least = resolution(cost)
        pairs = _disjoint_pairs(*best_swaps(cost, assignment, flow=flow, distance=distance), least)
        count = len(pairs[0])
        while count:
            new = _swapped(assignment, pairs, count)
            new_cost = placement(new) if placement else _moved(cost, flow, distance, assignment, new)
            new_total = _total(linear, new_cost, new)
            if new_total < total - least:
                break
            count //= 2
        if not count:
            return assignment, swaps
        assignment, cost, total, swaps = new, new_cost, new_total, swaps + count


def _swapped(assignment: Tensor, pairs: tuple[list[int], list[int]], count: int) -> Tensor:
    first, second = (side[:count] for side in pairs)
    both, other = torch.tensor([first + second, second + first]).to(assignment.device, non_blocking=True)
    new = assignment.clone()
    new[both] = assignment[other]
    return new


def _placement(linear: Tensor, flow: Tensor, distance: Tensor, assignment: Tensor) -> Tensor:
    return linear + flow @ distance[:, assignment].T + flow.T @ distance[assignment]


def _moved(cost: Tensor, flow: Tensor, distance: Tensor, old: Tensor, new: Tensor) -> Tensor:
    """The placement cost after some neurons have moved: a change of low rank."""
    who = (old != new).nonzero()[:, 0]
    change = torch.addmm(cost, flow[:, who], (distance[:, new[who]] - distance[:, old[who]]).T)
    return change.addmm_(flow[who].T, distance[new[who]] - distance[old[who]])


def _total(linear: Tensor, cost: Tensor, assignment: Tensor) -> float:
    """Every recurrent connection is in the placement cost twice, once for each of its ends."""
    return (assigned_cost(linear, assignment) + assigned_cost(cost, assignment)) / 2


def linear_assignment(cost: Tensor) -> Tensor:
    """The cheapest assignment of all, by shortest augmenting paths (Jonker, Volgenant 1987).

    The cpu backend looks for the paths of all neurons without a slot at once, where n is large
    from what matching finds; the reference backend leaves it to scipy.optimize.linear_sum_assignment (Crouse 2016).

    Args:
        cost: (n, n), finite.

    Returns:
        (n,) int64 on cost's device. Its cost is the least up to rounding in float64.

    Raises:
        ImportError: the cpu backend is missing and SciPy too.
        ValueError: cost is not square, or not finite.
    """
    matrix = _on_cpu(cost)
    start = torch.arange(len(matrix))
    if len(matrix) > _FROM_ANYWHERE:
        start, _ = matching(matrix, start)
    return host_kernels().linear_assignment(matrix, start).to(cost.device)


def assignment_bound(cost: Tensor, assignment: Tensor, rounds: int = 4) -> float:
    """A cost that no assignment undercuts, from the prices of slots that a good assignment implies.

    The sum of min over p of (C[i, p] - price[p]) over neurons, and of the prices: whatever the prices, a lower bound by
    linear programming duality, equal to the least cost for the best prices. On the cpu backend a round is one of
    linear_assignment's and takes about as long as a few passes over C; the first one gains most.

    Args:
        cost: (n, n), finite.
        assignment: (n,) int64, best one that matching has found: the closer to the optimum, the better the bound.
        rounds: at most so many improve the prices.

    Returns:
        The bound, in float64: assigned_cost(cost, assignment) exceeds the least cost by at most the difference.
    """
    matrix, start = _on_cpu(cost), assignment.cpu()
    check_assignment("assignment", start, len(matrix))
    check_permutation("assignment", start)
    return host_kernels().assignment_bound(matrix, start, rounds)


def _on_cpu(cost: Tensor) -> Tensor:
    """In a dtype that the kernels take; half precision is widened."""
    check_shape("cost", cost, len(cost), len(cost))
    return (cost if cost.dtype in (torch.float32, torch.float64) else cost.double()).detach().cpu()


def has_linear_assignment() -> bool:
    """Whether linear_assignment can serve: by the cpu backend, or else by SciPy."""
    from importlib.util import find_spec

    return host_kernels().__name__.endswith(".cpu") or find_spec("scipy") is not None


def swaps_between(old: Tensor, new: Tensor) -> int:
    """The least number of swaps that turns one assignment into the other: n less the number of cycles."""
    step = new[old.argsort()].tolist()
    seen, cycles = [False] * len(step), 0
    for start in range(len(step)):
        cycles += not seen[start]
        while not seen[start]:
            seen[start] = True
            start = step[start]
    return len(step) - cycles

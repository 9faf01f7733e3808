"""How a wiring relocates: a search that moves assignments only, then tensors that move all or not at all."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import search
from .ops import COMPUTE_DTYPE

if TYPE_CHECKING:
    from .wiring import Wiring

STRATEGIES = ("auto", "greedy", "matching", "assignment")
_AUTO_ASSIGNMENT_LIMIT = 512  # neurons; SciPy's exact assignment is cubic and takes seconds from about 2000 on


@dataclass
class GroupReport:
    """What a relocation did to one group: swaps done (neurons moved, for assignment) and what they saved."""

    swaps: int = 0
    gain: float = 0.0
    seconds: float = 0.0


@dataclass
class RelocationReport:
    """What a relocation did. Costs are wiring.cost() with the wiring's own settings; cost_after <= cost_before.

    `swaps` counts swaps for greedy and matching; an exact assignment is counted by its moved neurons less its
    cycles, the number of swaps that would do the same.
    """

    cost_before: float
    cost_after: float
    swaps: int
    seconds: float
    groups: dict[str, GroupReport] = field(default_factory=dict)


class Relocation:
    """One search over the groups of a wiring: moves assignments, never a tensor."""

    def __init__(self, wiring: "Wiring", strategy: str, top_k: int | None) -> None:
        self.wiring = wiring
        self.strategy = strategy
        self.top_k = top_k
        self.start = {g: wiring.permutation(g) for g in wiring.groups}
        self.assignment = dict(self.start)
        own = [e for e in wiring._entries if e.is_connection and e in wiring._charged]
        self.connections = [e for e in own if wiring._distance_scale[e.name] != 0 and e.tensor.requires_grad]

    def moved(self) -> dict[str, Tensor]:
        return {g: a for g, a in self.assignment.items() if not torch.equal(a, self.start[g])}

    def connection_cost(self) -> float:
        """The part of wiring.cost() that a relocation can change."""
        wiring = self.wiring
        return sum(
            wiring._coefficient(e)
            * torch.ops.bimt_fast.connection_cost(
                e.tensor,
                *(self._positions(g, e.tensor) for g in e.groups),
                wiring._metric_for(e.tensor)[0],
                wiring._distance_scale[e.name],
                wiring._base_length[e.name],
                wiring._metric_for(e.tensor)[1],
            ).item()
            for e in self.connections
        )

    def _positions(self, group: str, like: Tensor) -> Tensor:
        return self.wiring._following(self.wiring._slots[group][self.assignment[group]], like)

    def run(self, groups: Sequence[str]) -> dict[str, GroupReport]:
        """One pass for greedy; else again and again over the groups whose neighbours have moved."""
        reports = {group: GroupReport() for group in groups}
        stale = set(groups)
        while stale:
            for group in groups:
                if group in stale:
                    stale.discard(group)
                    if self._relocate_group(group, reports[group]) and self.strategy != "greedy":
                        stale |= self._neighbours(group) & set(groups)
            if self.strategy == "greedy":
                break
        return reports

    def _neighbours(self, group: str) -> set[str]:
        return {g for e in self.connections if group in e.groups for g in e.groups if g != group}

    def _relocate_group(self, group: str, report: GroupReport) -> bool:
        start = time.perf_counter()
        cost = self._placement_cost(group)
        improved = False
        if cost is not None:
            old = self.assignment[group].to(cost.device)
            new, swaps = self._search(group, cost, old)
            gain = search.assigned_cost(cost, old) - search.assigned_cost(cost, new)
            improved = gain > search.resolution(cost)
            if improved:
                self.assignment[group] = new.cpu()
                report.swaps += swaps
                report.gain += gain
        report.seconds += time.perf_counter() - start
        return improved

    def _search(self, group: str, cost: Tensor, assignment: Tensor) -> tuple[Tensor, int]:
        strategy = self.strategy
        if strategy == "auto":
            exact = len(assignment) <= _AUTO_ASSIGNMENT_LIMIT and search.has_linear_assignment()
            strategy = "assignment" if exact else "matching"
        if strategy == "greedy":
            return search.greedy(cost, assignment, self._most_important(group))
        if strategy == "matching":
            return search.matching(cost, assignment)
        new = search.linear_assignment(cost)
        return new, _swaps_between(assignment, new)

    def placement(self, group: str, slots: Tensor) -> tuple[tuple, Tensor | None] | None:
        """Arguments and table of placement_cost, all others where they are; None where nothing joins the group."""
        sides: tuple[list, list] = ([], [])
        coefficients: tuple[list, list] = ([], [])
        for e in self.connections:
            if group in e.groups:
                axis = e.groups.index(group)
                sides[axis].append((e.tensor, self._positions(e.groups[1 - axis], e.tensor)))
                coefficients[axis].append(self.wiring._coefficient(e) * self.wiring._distance_scale[e.name])
        pairs = [*sides[0], *sides[1]]
        if not pairs:
            return None
        weights, peers = zip(*pairs, strict=True)
        factors = [*coefficients[0], *coefficients[1]]
        metric, table = self.wiring._metric_for(weights[0])
        slots = self.wiring._following(slots, weights[0])
        return (slots, list(weights), list(peers), len(sides[0]), metric, factors), table

    def _placement_cost(self, group: str) -> Tensor | None:
        placement = self.placement(group, self.wiring._slots[group])
        return None if placement is None else torch.ops.bimt_fast.placement_cost(*placement[0], placement[1])

    def _most_important(self, group: str) -> Tensor:
        """Neurons by the sum of |W| over all their connections, largest first."""
        n = len(self.assignment[group])
        importance = torch.zeros(n, dtype=torch.float64)
        for e in self.wiring._entries:
            if e.is_connection:
                for axis, g in enumerate(e.groups):
                    if g == group:
                        flow = e.tensor.abs().sum(1 - axis, dtype=COMPUTE_DTYPE[e.tensor.dtype])
                        importance += flow.double().cpu()
        neuron_in = self.assignment[group].argsort()
        order = importance[neuron_in].argsort(descending=True, stable=True)  # slots in order where equal
        return neuron_in[order[: n if self.top_k is None else self.top_k]]


class Mover:
    """Permutes tensors in place and can put them all back."""

    def __init__(self) -> None:
        self.done: list[tuple[Tensor, dict[int, Tensor]]] = []
        self.current: tuple[Tensor, Tensor] | None = None

    def permute(self, tensor: Tensor, indices: dict[int, Tensor]) -> None:
        permuted = _reordered(tensor, indices)
        self.current = (tensor, tensor.clone())
        tensor.copy_(permuted)
        self.done.append((tensor, indices))
        self.current = None

    def undo(self) -> None:
        # An interrupt may fall between the copy and its entry in `done`, so the tensor in hand has a copy of its own.
        if self.current is not None:
            tensor, old = self.current
            tensor.copy_(old)
            self.done = [(t, indices) for t, indices in self.done if t is not tensor]
        for tensor, indices in reversed(self.done):
            tensor.copy_(_reordered(tensor, {axis: index.argsort() for axis, index in indices.items()}))


def _reordered(tensor: Tensor, indices: dict[int, Tensor]) -> Tensor:
    for axis, index in indices.items():
        if tensor.shape[axis] == len(index):  # an optimizer's row and column factors have one of the axes
            tensor = tensor.index_select(axis, index.to(tensor.device))
    return tensor


def companions(tensor: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> list[Tensor]:
    """The tensor and all that travels with it: its gradient, and optimizer state of its shape."""
    found = [tensor.data if isinstance(tensor, nn.Parameter) else tensor]
    if tensor.grad is not None:
        found.append(tensor.grad)
    for optimizer in optimizers:
        state = optimizer.state.get(tensor, {})
        found += [s for s in state.values() if isinstance(s, Tensor) and s.dim() == tensor.dim() and s.numel() > 1]
    return found


def travels(state: object, tensor: Tensor) -> bool:
    """Whether optimizer state is a single value, or has the tensor's axes, each whole or of length 1 (factors)."""
    if isinstance(state, Tensor):
        whole = state.dim() == tensor.dim()
        return state.numel() <= 1 or (
            whole and all(a in (1, b) for a, b in zip(state.shape, tensor.shape, strict=True))
        )
    return state is None or isinstance(state, (bool, int, float))


def _swaps_between(old: Tensor, new: Tensor) -> int:
    """The least number of swaps that turns one assignment into the other: n less the number of cycles."""
    step = new[old.argsort()].tolist()
    seen, cycles = [False] * len(step), 0
    for start in range(len(step)):
        cycles += not seen[start]
        while not seen[start]:
            seen[start] = True
            start = step[start]
    return len(step) - cycles

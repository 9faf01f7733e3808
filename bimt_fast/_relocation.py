"""How a wiring relocates: a search that moves assignments only, then tensors that move all or not at all."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import search
from .ops import COMPUTE_DTYPE, placement_cost, total_cost

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
        self._sitting: dict[tuple, Tensor] = {}  # positions of neurons by group, dtype and device

    def moved(self) -> dict[str, Tensor]:
        return {g: a for g, a in self.assignment.items() if not torch.equal(a, self.start[g])}

    def connection_cost(self) -> float:
        """The part of wiring.cost() that a relocation can change."""
        wiring, total = self.wiring, 0.0
        kinds: dict[tuple, list] = {}
        for e in self.connections:
            w = e.tensor
            kinds.setdefault((w.dtype, w.device), []).append((e, w))
        for alike in kinds.values():
            metric, table = wiring._metric_for(alike[0][1])
            total += total_cost(
                [w for _, w in alike],
                [self._positions(e.groups[0], w) for e, w in alike],
                [self._positions(e.groups[1], w) for e, w in alike],
                metric,
                [wiring._coefficient(e) for e, _ in alike],
                [wiring._distance_scale[e.name] for e, _ in alike],
                [wiring._base_length[e.name] for e, _ in alike],
                table,
            )
        return total

    def _positions(self, group: str, like: Tensor) -> Tensor:
        key = (group, like.dtype, like.device)
        if key not in self._sitting:
            self._sitting[key] = self.wiring._following(self.wiring._slots[group][self.assignment[group]], like)
        return self._sitting[key]

    def _seat(self, group: str, assignment: Tensor) -> None:
        self.assignment[group] = assignment
        self._sitting = {key: x for key, x in self._sitting.items() if key[0] != group}

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
            gain = search.assigned_cost(cost, old) - search.assigned_cost(cost, new) if swaps else 0.0
            improved = swaps > 0 and gain > search.resolution(cost)
            if improved:
                self._seat(group, new.cpu())
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
        return None if placement is None else placement_cost(*placement[0], placement[1])

    def _most_important(self, group: str) -> Tensor:
        """Neurons by the sum of |W| over all their connections, largest first."""
        n = len(self.assignment[group])
        importance = torch.zeros(n, dtype=torch.float64)
        for e in self.wiring._entries:
            if e.is_connection:
                for axis, g in enumerate(e.groups):
                    if g == group:
                        w = e.tensor
                        flow = torch.linalg.vector_norm(w, 1, 1 - axis, dtype=COMPUTE_DTYPE[w.dtype])
                        importance += flow.cpu()
        neuron_in = self.assignment[group].argsort()
        order = importance[neuron_in].argsort(descending=True, stable=True)  # slots in order where equal
        return neuron_in[order[: n if self.top_k is None else self.top_k]]


@dataclass(frozen=True)
class Moves:
    """A permutation of one axis, by what it changes: place to[k] takes what was in place source[k]."""

    size: int
    to: Tensor
    source: Tensor

    @classmethod
    def of(cls, order: Tensor) -> "Moves":
        """From the whole permutation: place p takes what was in place order[p]."""
        to = (order != torch.arange(len(order))).nonzero().flatten()
        return cls(len(order), to, order[to])


class Mover:
    """Permutes tensors in place and can put them all back."""

    def __init__(self) -> None:
        self.done: list[tuple[Tensor, int, Moves]] = []
        self.current: tuple[tuple[Tensor, int, Moves], Tensor] | None = None

    def permute(self, tensor: Tensor, by_axis: dict[int, Moves]) -> None:
        for axis, moves in by_axis.items():
            if tensor.shape[axis] == moves.size:  # an optimizer's row and column factors have one of the axes
                step, to = (tensor, axis, moves), moves.to.to(tensor.device)
                taken = tensor.index_select(axis, moves.source.to(tensor.device))
                self.current = (step, tensor.index_select(axis, to))
                tensor.index_copy_(axis, to, taken)
                self.done.append(step)
                self.current = None

    def undo(self) -> None:
        # An interrupt may fall between the copy and its entry in `done`, so the step in hand keeps what it replaces.
        if self.current is not None:
            (tensor, axis, moves), old = self.current
            tensor.index_copy_(axis, moves.to.to(tensor.device), old)
            if self.done and self.done[-1] is self.current[0]:
                self.done.pop()
        for tensor, axis, moves in reversed(self.done):
            moved = tensor.index_select(axis, moves.to.to(tensor.device))
            tensor.index_copy_(axis, moves.source.to(tensor.device), moved)


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

"""How a wiring relocates: a search that moves assignments only, then tensors that move all or not at all."""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from . import functional, search
from ._declaration import Part
from .geometry import distances
from .kernels.reference import widened
from .ops import COMPUTE_DTYPE, placement_cost

if TYPE_CHECKING:
    from .wiring import Wiring

STRATEGIES = ("auto", "greedy", "matching", "assignment", "tabu")
_AUTO_EXACT_LIMIT = 1024  # neurons; up to here an exact assignment takes less than twice as long as matching
_AUTO_TABU_LIMIT = 64  # neurons of a recurrent group; an iteration is O(n^2)
_TABU_ITERATIONS = 100  # a neuron


@dataclass
class GroupReport:
    """What a relocation did to one group: swaps done and what they saved, over all visits to it.

    Costs are the network's, before the first visit to the group and after the last one.
    """

    swaps: int = 0
    gain: float = 0.0
    seconds: float = 0.0
    cost_before: float = float("nan")
    cost_after: float = float("nan")


@dataclass
class RelocationReport:
    """What a relocation did. Costs are wiring.cost() with the wiring's own settings; cost_after <= cost_before.

    `swaps` counts swaps for greedy and matching; an exact assignment is counted by its moved neurons less its
    cycles, the number of swaps that would do the same. `moved` has for each group that moved the slot (n,) of every
    neuron; those of inner groups are counted by the slots they sat in before.
    """

    cost_before: float
    cost_after: float
    swaps: int
    seconds: float
    groups: dict[str, GroupReport] = field(default_factory=dict)
    moved: dict[str, Tensor] = field(default_factory=dict, repr=False, compare=False)


class Relocation:
    """One search over the groups of a wiring: moves assignments, never a tensor."""

    def __init__(self, wiring: "Wiring", strategy: str, top_k: int | None) -> None:
        self.wiring = wiring
        self.strategy = strategy
        self.top_k = top_k
        self.start = {g: wiring.permutation(g) for g in wiring.groups}
        self.assignment = dict(self.start)
        self.parts = list(wiring.parts())  # all count for importance, those that can be made shorter for the search
        charged = [p for p in self.parts if p.entry in wiring._charged and p.entry.tensor.requires_grad]
        self.connections = [p for p in charged if wiring._distance_scale[p.entry.name] != 0]
        if len({p.weight.dtype for p in self.connections}) > 1:
            wide = reduce(torch.promote_types, (widened(p.weight).dtype for p in self.connections))
            self.connections = [replace(p, weight=p.weight.to(wide)) for p in self.connections]
        self.recurrent = {p.out for p in self.connections if p.out == p.source}
        self._sitting: dict[tuple, Tensor] = {}  # positions of neurons by group, dtype and device

    def moved(self) -> dict[str, Tensor]:
        return {g: a for g, a in self.assignment.items() if not torch.equal(a, self.start[g])}

    def positions(self, group: str, like: Tensor) -> Tensor:
        """Where the neurons of a group sit now, in the dtype and on the device that go with a weight."""
        key = (group, like.dtype, like.device)
        if key not in self._sitting:
            slots = self.wiring._slots[group].detach()
            self._sitting[key] = self.wiring._following(slots[self.assignment[group].to(slots.device)], like)
        return self._sitting[key]

    def _seat(self, group: str, assignment: Tensor) -> None:
        self.assignment[group] = assignment
        self._sitting = {key: x for key, x in self._sitting.items() if key[0] != group}

    def run(self, groups: Sequence[str], cost: float) -> dict[str, GroupReport]:
        """One pass for greedy; else again and again over the groups whose neighbours have moved.

        Args:
            groups: in the order to visit.
            cost: of the network at the start.
        """
        reports: dict[str, GroupReport] = {}
        stale = set(groups)
        while stale:
            for group in groups:
                if group in stale:
                    stale.discard(group)
                    report = reports.setdefault(group, GroupReport(cost_before=cost))
                    gain = self._relocate_group(group, report)
                    cost = report.cost_after = cost - gain
                    if gain and self.strategy != "greedy":
                        stale |= self._neighbours(group) & set(groups)
            if self.strategy == "greedy":
                break
        return reports

    def _neighbours(self, group: str) -> set[str]:
        return {g for p in self.connections if group in (p.out, p.source) for g in (p.out, p.source) if g != group}

    def _relocate_group(self, group: str, report: GroupReport) -> float:
        """The gain; 0 where nothing improves."""
        start = time.perf_counter()
        search_group = self._search_recurrent if group in self.recurrent else self._search_assignment
        found, gain = search_group(group, self.assignment[group]), 0.0
        if found is not None:
            new, swaps, gain = found
            self._seat(group, new.cpu())
            report.swaps += swaps
            report.gain += gain
        report.seconds += time.perf_counter() - start
        return gain

    def _search_assignment(self, group: str, old: Tensor) -> tuple[Tensor, int, float] | None:
        """The new assignment, its swaps and its gain; None where nothing improves."""
        cost = self._placement_cost(group)
        if cost is None:
            return None
        old = old.to(cost.device)
        strategy = self._strategy(len(old))
        neurons = self._most_important(group) if strategy == "greedy" else None
        blocks = self.wiring.blocks.get(group, 1)
        if blocks > 1:
            new, swaps = search.in_blocks(cost, old, blocks, strategy, neurons, self.top_k)
        else:
            new, swaps = search.assign(
                cost, old, strategy, neurons if self.top_k is None or neurons is None else neurons[: self.top_k]
            )
        gain = search.assigned_cost(cost, old) - search.assigned_cost(cost, new) if swaps else 0.0
        return (new, swaps, gain) if gain > search.resolution(cost) else None

    def _strategy(self, n: int) -> str:
        if self.strategy in ("greedy", "matching", "assignment"):
            return self.strategy
        exact = n <= _AUTO_EXACT_LIMIT and search.has_linear_assignment()
        return "assignment" if exact else "matching"

    def _search_recurrent(self, group: str, old: Tensor) -> tuple[Tensor, int, float] | None:
        problem = self._quadratic_problem(group)
        _, flow, _ = problem
        strategy = self.strategy
        if strategy == "auto":
            strategy = "tabu" if len(old) <= _AUTO_TABU_LIMIT else "matching"
        old = old.to(flow.device)
        if strategy == "greedy":
            new, swaps = search.quadratic(*problem, old, strategy, neurons=self._most_important(group)[: self.top_k])
        else:
            new, swaps = search.quadratic(*problem, old, "matching", placement=partial(self._recurrent_cost, group))
        if strategy == "tabu":
            new, _ = search.quadratic(*problem, new, strategy, max_iterations=_TABU_ITERATIONS * len(old))
            swaps = search.swaps_between(old, new)
        if not swaps:
            return None
        before, after = (search.quadratic_cost(*problem, a) for a in (old, new))
        return (new, swaps, before - after) if before - after > 4 * torch.finfo(flow.dtype).eps * before else None

    def _quadratic_problem(self, group: str) -> tuple[Tensor, Tensor, Tensor]:
        """Placement cost of all but the recurrent connections, flow between neurons, distances between slots."""
        wiring = self.wiring
        own = [p for p in self.connections if p.out == p.source == group]
        flow = sum(self._factor(p) * widened(p.weight).abs() for p in own)
        slots = wiring._following(wiring._slots[group].detach(), flow)
        name, table = wiring._metric_for(flow)
        linear = self._placement_cost(group)
        linear = torch.zeros_like(flow) if linear is None else linear
        return linear, flow, distances(slots, slots, name if table is None else table)

    def _recurrent_cost(self, group: str, assignment: Tensor) -> Tensor:
        """The placement cost of all connections of a recurrent group at an assignment."""
        slots = self.wiring._slots[group].detach()
        (slots, *rest), table = self.placement(group, slots, slots[assignment.to(slots.device)])
        return placement_cost(slots, *rest, table)

    def best_recurrent_swaps(self, group: str, top_k: int | None) -> tuple[Tensor, Tensor]:
        """Wiring.best_swaps of a recurrent group, from where all sit now."""
        _, flow, distance = self._quadratic_problem(group)
        assignment = self.assignment[group].to(flow.device)
        cost = self._recurrent_cost(group, assignment)
        if top_k is None:
            return functional.best_swaps(cost, assignment, flow=flow, distance=distance)
        return search.best_pairs(cost, assignment, top_k, flow, distance)

    def best_swaps_in_blocks(self, group: str, top_k: int | None) -> tuple[Tensor, Tensor]:
        """The same of a group in blocks; partners are of one block."""
        cost, assignment = self._placement_cost(group), self.assignment[group]
        if cost is None:
            cost = torch.zeros(()).expand(len(assignment), len(assignment))
        m, found = len(assignment) // self.wiring.blocks[group], []
        for start in range(0, len(assignment), m):
            slots = assignment[start : start + m].to(cost.device)
            place = slots[0] // m * m
            block, slots = cost[start : start + m, place : place + m], slots - place
            best = functional.best_swaps(block, slots) if top_k is None else search.best_pairs(block, slots, top_k)
            found.append((best[0], best[1] + start))
        deltas, neurons = (torch.cat(parts) for parts in zip(*found, strict=True))
        order = slice(None) if top_k is None else deltas.argsort(stable=True)[:top_k]
        return deltas[order], neurons[order]

    def placement(self, group: str, slots: Tensor, sitting: Tensor | None = None) -> tuple[tuple, Tensor | None] | None:
        """Arguments and table of placement_cost, all others where they are; None where nothing else joins the group.

        With `sitting`, positions of the group's own neurons, its recurrent connections count too, at both their ends.
        """
        incoming = [p for p in self.connections if p.out == group != p.source]
        outgoing = [p for p in self.connections if p.source == group != p.out]
        if sitting is not None:
            own = [p for p in self.connections if p.out == p.source == group]
            incoming, outgoing = incoming + own, outgoing + own
        if not incoming and not outgoing:
            return None
        parts = (*incoming, *outgoing)
        like = parts[0].weight
        here = None if sitting is None else self.wiring._following(sitting, like)
        ends = [p.source for p in incoming] + [p.out for p in outgoing]
        peers = [here if end == group else self.positions(end, p.weight) for p, end in zip(parts, ends, strict=True)]
        metric, table = self.wiring._metric_for(like)
        slots = self.wiring._following(slots.detach(), like)
        arguments = (slots, [p.weight for p in parts], peers, len(incoming), metric, [self._factor(p) for p in parts])
        return arguments, table

    def _factor(self, part: Part) -> float:
        return self.wiring._coefficient(part.entry) * self.wiring._distance_scale[part.entry.name]

    def _placement_cost(self, group: str) -> Tensor | None:
        placement = self.placement(group, self.wiring._slots[group])
        return None if placement is None else placement_cost(*placement[0], placement[1])

    def _most_important(self, group: str) -> Tensor:
        """All neurons by the sum of |W| over their connections, largest first."""
        importance = torch.zeros(len(self.assignment[group]), dtype=torch.float64)
        for part in self.parts:
            for axis, end in enumerate((part.out, part.source)):
                if end == group:
                    w = part.weight
                    importance += torch.linalg.vector_norm(w, 1, 1 - axis, dtype=COMPUTE_DTYPE[w.dtype]).cpu()
        neuron_in = self.assignment[group].argsort()
        return neuron_in[importance[neuron_in].argsort(descending=True, stable=True)]  # slots in order where equal


@dataclass(frozen=True)
class Moves:
    """A permutation of one axis, by what it changes: place to[k] takes what was in place source[k]."""

    size: int
    to: Tensor
    source: Tensor
    copies: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, compare=False)

    def on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Both lists of places on a device."""
        if device not in self.copies:
            self.copies[device] = self.to.to(device), self.source.to(device)
        return self.copies[device]

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
                step, (to, source) = (tensor, axis, moves), moves.on(tensor.device)
                self.current = (step, tensor.index_select(axis, to))
                torch.ops.bimt_fast.permute_(tensor, axis, to, source)
                self.done.append(step)
                self.current = None

    def undo(self) -> None:
        # An interrupt may fall between the copy and its entry in `done`, so the step in hand keeps what it replaces.
        if self.current is not None:
            (tensor, axis, moves), old = self.current
            tensor.index_copy_(axis, moves.on(tensor.device)[0], old)
            if self.done and self.done[-1] is self.current[0]:
                self.done.pop()
        for tensor, axis, moves in reversed(self.done):
            to, source = moves.on(tensor.device)
            torch.ops.bimt_fast.permute_(tensor, axis, source, to)


def companions(tensor: Tensor, optimizers: Iterable[torch.optim.Optimizer]) -> Iterator[tuple[Tensor, dict[int, int]]]:
    """The tensor, its gradient and optimizer state: each with what axis of the tensor each of its own is."""
    whole = {k: k for k in range(tensor.dim())}
    yield tensor.data if isinstance(tensor, nn.Parameter) else tensor, whole
    if tensor.grad is not None:
        yield tensor.grad, whole
    for optimizer in optimizers:
        for key, state in optimizer.state.get(tensor, {}).items():
            axes = travelling_axes(key, state, tensor)
            if axes:
                yield state, axes


def travelling_axes(key: str, state: object, tensor: Tensor) -> dict[int, int] | None:
    """Which axis of a tensor each axis of its optimizer state is; empty for a single value, None for other shapes.

    Factored second moments (Adafactor) keep one value for each row and each column: axes of length 1, or an axis less.
    """
    if not isinstance(state, Tensor):
        return {} if state is None or isinstance(state, (bool, int, float)) else None
    if state.numel() <= 1:
        return {}
    shape, last = tensor.shape, tensor.dim() - 1
    candidates = [range(tensor.dim())]
    if last > 0:
        without_last, without_row = tuple(range(last)), (*range(last - 1), last)
        candidates += [without_row, without_last] if "col" in str(key) else [without_last, without_row]
    for axes in candidates:
        if len(axes) == state.dim() and all(n in (1, shape[a]) for n, a in zip(state.shape, axes, strict=True)):
            return {k: a for k, a in enumerate(axes) if state.shape[k] == shape[a]}
    return None


def copies_of(module: nn.Module, name: str) -> list[Tensor]:
    """The tensor of that name in a copy of the model, which may be wrapped (AveragedModel, DataParallel)."""
    path, _, attribute = name.rpartition(".")
    for model in (module, module._modules.get("module")):
        try:
            owner = model.get_submodule(path)
        except AttributeError:
            continue
        tensor = owner._parameters.get(attribute, owner._buffers.get(attribute))
        if tensor is not None:
            return [tensor]
    raise ValueError(f"follower must have the tensors of the wiring, lacked {name!r}")

"""Which axis of which tensor belongs to which group of neurons; what follows: cost, gradients, relocation.

A group of n neurons has n slots with positions. In an inner group, neuron i always sits in slot i: relocation
permutes its tensors. A boundary group (only ever an in axis, or only ever an out axis: the model's inputs and
outputs) keeps its tensors, and relocation permutes which slot each neuron sits in, so the model computes the same
for its caller.
"""

import logging
import math
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from . import functional, search
from ._relocation import STRATEGIES, GroupReport, Mover, Moves, Relocation, RelocationReport, companions, travels
from .geometry import TABLE, gap, metric_row
from .ops import COMPUTE_DTYPE, add_grad, check_add_grad, check_assignment, check_number, check_permutation, total_cost

_PLANS_KEPT = 16
_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)

_log = logging.getLogger("bimt_fast")
_warned_about_moments = False


@dataclass(frozen=True)
class _Entry:
    """One declared tensor: where it lives, and the group of each of its axes."""

    name: str
    owner: nn.Module
    attribute: str
    groups: tuple[str, ...]

    @property
    def tensor(self) -> Tensor:
        # Looked up at each use, so that a parameter replaced by load_state_dict(assign=True) is seen.
        return self.owner._parameters.get(self.attribute, self.owner._buffers.get(self.attribute))

    @property
    def is_connection(self) -> bool:
        return len(self.groups) == 2


@dataclass(frozen=True)
class Plan:
    """What a native call needs of tensors of one dtype and device: one item of each list a tensor."""

    tensors: list[Tensor]
    out_pos: list[Tensor]
    in_pos: list[Tensor]
    coefficients: list[float]
    distance_scales: list[float]
    base_lengths: list[float]
    metric: str
    table: Tensor | None
    memos: dict[str, dict] = field(default_factory=lambda: {"add_grad": {}, "adamw": {}})  # by op


class Length(float):
    """A wiring length in total, with its parts: `.by_connection[tensor name]`."""

    by_connection: dict[str, float]

    def __new__(cls, by_connection: dict[str, float]) -> "Length":
        self = super().__new__(cls, sum(by_connection.values()))
        self.by_connection = by_connection
        return self

    @property
    def total(self) -> float:
        """The same number as a plain float."""
        return float(self)


class Wiring:
    """Positions for the neurons of a model, and the connections between them.

    Args:
        model: any nn.Module; its tensors are looked up by name at each use and changed only by relocation.
        positions: slot positions (n, dim) by group name, floats of any dtype; int64 indices (n,) where metric is a
            distance tensor. They follow the parameters' device.
        axes: by tensor name (as in model.state_dict()), the group of each axis. A tensor of two axes is a connection
            (out, in); one of one axis (a bias) travels with its group.
        frozen: groups that relocation leaves alone.
        blocks: attention heads; not available yet.
        metric: name in the metric table (bimt_fast.geometry.METRICS), or a distance tensor (P, P): d(out, in) is
            metric[out, in] for the positions' indices.
        distance_scale, base_length: of length = base_length + distance_scale * distance; a value, or a dict by tensor
            name with the key None for all others. A one-axis tensor costs base_length * |b|.
        reduction: "sum", or "mean": each tensor's sum divided by its number of elements; value or dict likewise.
        penalised: normalisation parameters that are to cost after all, by name.
        unpenalised: tensors that are to cost nothing.

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: a name is not in the model, a group is declared nowhere, sizes do not fit, positions are not
            finite.
        NotImplementedError: an axis is a fold, a run or a concatenation, or blocks are given.
    """

    def __init__(
        self,
        model: nn.Module,
        positions: Mapping[str, Tensor],
        axes: Mapping[str, Sequence[str]],
        *,
        frozen: Iterable[str] = (),
        blocks: Mapping[str, int] | None = None,
        metric: str | Tensor = "l1",
        distance_scale: float | Mapping[str | None, float] = 1.0,
        base_length: float | Mapping[str | None, float] = 0.1,
        reduction: str | Mapping[str | None, str] = "sum",
        penalised: Iterable[str] = (),
        unpenalised: Iterable[str] = (),
    ) -> None:
        if not isinstance(model, nn.Module):
            raise TypeError(f"model must be a torch.nn.Module, was {type(model).__name__}")
        if blocks:
            raise NotImplementedError("blocks are not available yet")
        for argument, value in (("positions", positions), ("axes", axes)):
            if not isinstance(value, Mapping):
                raise TypeError(f"{argument} must be a dict, was {type(value).__name__}")
        self.model = model
        self.metric = _checked_metric(metric)
        self._slots = {group: _checked_positions(group, x, self.metric) for group, x in positions.items()}
        self._entries = [self._declare(name, groups) for name, groups in axes.items()]
        self._check_declarations()
        self._permutations = {g: torch.arange(len(self._slots[g])) for g in self._slots if self._is_boundary(g)}
        self.frozen = self._known_groups("frozen", frozen)
        self._distance_scale = self._by_name("distance_scale", distance_scale, _checked_number)
        self._base_length = self._by_name("base_length", base_length, _checked_number)
        self._reduction = self._by_name("reduction", reduction, _checked_reduction)
        penalised = self._known_tensors("penalised", penalised)
        unpenalised = self._known_tensors("unpenalised", unpenalised)
        tied = {id(entry.tensor): entry for entry in reversed(self._entries)}  # the first of each tensor's names
        self._charged = [
            entry
            for entry in self._entries
            if tied[id(entry.tensor)] is entry
            and entry.name not in unpenalised
            and (entry.name in penalised or not isinstance(entry.owner, _NORMALISATION))
            and isinstance(entry.tensor, nn.Parameter)
        ]
        self._plan_cache: dict[tuple, list[Plan]] = {}
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()

    def _declare(self, name: str, groups: Sequence[str]) -> _Entry:
        owner_name, _, attribute = name.rpartition(".")
        try:
            owner = self.model.get_submodule(owner_name)
        except AttributeError:
            owner = None
        entry = (
            None
            if owner is None
            else _Entry(name, owner, attribute, (groups,) if isinstance(groups, str) else tuple(groups))
        )
        if entry is None or not isinstance(entry.tensor, Tensor):
            raise ValueError(f"axes must name parameters or buffers of the model, {name!r} is neither")
        tensor = entry.tensor
        if len(entry.groups) != tensor.dim():
            raise ValueError(
                f"axes of {name!r} must name one group for each of its {tensor.dim()} axes, named {len(entry.groups)}"
            )
        if not 1 <= tensor.dim() <= 2:
            raise NotImplementedError(f"axes of {name!r}: tensors of {tensor.dim()} axes are not available yet")
        for axis, group in enumerate(entry.groups):
            if group not in self._slots:
                if group is None or any(sign in str(group) for sign in "*+"):
                    raise NotImplementedError(
                        f"axes of {name!r}: {group!r} is not available yet, only plain group names"
                    )
                raise ValueError(f"axes of {name!r} must name groups of positions, {group!r} is not one of them")
            if tensor.shape[axis] != len(self._slots[group]):
                raise ValueError(
                    f"positions of {group!r} must be as many as axis {axis} of {name!r} is long,"
                    f" {tensor.shape[axis]}, were {len(self._slots[group])}"
                )
        return entry

    def _check_declarations(self) -> None:
        """Refuses what would be torn apart by a relocation."""
        used = {group for entry in self._entries for group in entry.groups}
        for group in self._slots:
            if group not in used:
                raise ValueError(f"positions must be of groups that axes names, {group!r} is not one of them")
        first: dict[int, _Entry] = {}
        for entry in self._entries:
            other = first.setdefault(id(entry.tensor), entry)
            if other.groups != entry.groups:
                raise ValueError(
                    f"axes must agree on one tensor under two names: {other.name!r} has {other.groups},"
                    f" {entry.name!r} has {entry.groups}"
                )
        declared = {(id(entry.owner), entry.attribute) for entry in self._entries}
        for entry in self._entries:
            inner = {len(self._slots[g]) for g in entry.groups if not self._is_boundary(g)}
            for name, tensor in {**entry.owner._parameters, **entry.owner._buffers}.items():
                if tensor is not None and (id(entry.owner), name) not in declared and inner & set(tensor.shape):
                    raise ValueError(
                        f"axes must declare {name!r} of the same module as {entry.name!r} too,"
                        " or it would not travel with its neurons"
                    )

    def _is_boundary(self, group: str) -> bool:
        """Only ever an in axis, or only ever an out axis, of connections: the model's interface."""
        sides = {axis for e in self._entries if e.is_connection for axis, g in enumerate(e.groups) if g == group}
        return len(sides) < 2

    def _known_groups(self, argument: str, groups: Iterable[str]) -> tuple[str, ...]:
        groups = (groups,) if isinstance(groups, str) else tuple(groups)
        for group in groups:
            if group not in self._slots:
                raise ValueError(f"{argument} must name groups of {', '.join(self._slots)}, named {group!r}")
        return groups

    def _known_tensors(self, argument: str, names: Iterable[str]) -> set[str]:
        names = {names} if isinstance(names, str) else set(names)
        for unknown in sorted(names - {entry.name for entry in self._entries}):
            raise ValueError(f"{argument} must name tensors of axes, {unknown!r} is not one of them")
        return names

    def _by_name(self, argument, value, check) -> dict:
        """One checked value for each tensor name."""
        names = [entry.name for entry in self._entries]
        if not isinstance(value, Mapping):
            return dict.fromkeys(names, check(argument, value))
        self._known_tensors(argument, {name for name in value if name is not None})
        if None not in value and set(names) - set(value):
            raise ValueError(f"{argument} must have the key None or a key for {sorted(set(names) - set(value))[0]!r}")
        return {name: check(argument, value.get(name, value.get(None))) for name in names}

    # What is where

    @property
    def groups(self) -> tuple[str, ...]:
        """Group names in order of declaration."""
        return tuple(self._slots)

    @property
    def inner_groups(self) -> tuple[str, ...]:
        """Groups whose tensors relocation permutes: all but the model's inputs and outputs."""
        return tuple(group for group in self._slots if group not in self._permutations)

    @property
    def axes(self) -> dict[str, tuple[str, ...]]:
        """The group of each axis, by tensor name, as declared."""
        return {entry.name: entry.groups for entry in self._entries}

    def settings(self, name: str) -> tuple[float, float, float]:
        """(coefficient of its reduction, distance_scale, base_length) of a tensor."""
        self._known_tensors("name", (name,))
        entry = next(e for e in self._entries if e.name == name)
        return self._coefficient(entry), self._distance_scale[name], self._base_length[name]

    def slots(self, group: str) -> Tensor:
        """Slot positions (n, dim) of a group, as placed; a copy."""
        self._known_groups("group", (group,))
        return self._slots[group].clone()

    def permutation(self, group: str) -> Tensor:
        """Which slot each neuron sits in: int64 (n,). Moves for boundary groups only; elsewhere tensors move."""
        self._known_groups("group", (group,))
        if group in self._permutations:
            return self._permutations[group].clone()
        return torch.arange(len(self._slots[group]))

    def neuron_positions(self, group: str) -> Tensor:
        """Where each neuron of a group sits: (n, dim), row i for neuron i."""
        slots = self.slots(group)
        return slots[self._permutations[group]] if group in self._permutations else slots

    @property
    def connections(self) -> dict[str, tuple[str, str]]:
        """(out group, in group) of every tensor with two axes, by tensor name."""
        return {name: (axes[0], axes[1]) for name, axes in self.axes.items() if len(axes) == 2}

    def place(self, group: str | Mapping[str, Tensor], positions: Tensor | None = None) -> None:
        """Gives groups new slot positions: place(group, positions), or place({group: positions, ...}).

        Raises:
            TypeError: positions are not float tensors (int64 where the metric is a distance tensor).
            ValueError: a group is unknown, a count differs, a position is not finite, not inside the unit ball where
                the metric needs it, or no index of the distance tensor. Nothing is placed then.
        """
        placed = dict(group) if isinstance(group, Mapping) else {group: positions}
        self._known_groups("group", placed)
        for name, x in placed.items():
            placed[name] = _checked_positions(name, x, self.metric)
            if len(placed[name]) != len(self._slots[name]):
                raise ValueError(f"positions of {name!r} must be {len(self._slots[name])}, were {len(placed[name])}")
        self._slots.update(placed)
        self._plan_cache.clear()

    def load_permutations(self, permutations: Mapping[str, Tensor]) -> None:
        """Restores what `permutation` gave for boundary groups, as a checkpoint does.

        Raises:
            TypeError, ValueError: not a boundary group, or not a permutation of it. Nothing is changed then.
        """
        for group, permutation in permutations.items():
            if group not in self._permutations:
                raise ValueError(f"permutations must be of boundary groups {tuple(self._permutations)}, had {group!r}")
            check_assignment("permutations", permutation, len(self._slots[group]), torch.device("cpu"))
            check_permutation("permutations", permutation)
        self._permutations.update({g: p.clone() for g, p in permutations.items()})
        self._plan_cache.clear()

    # Optimizers built from the wiring

    def attach(self, optimizer: torch.optim.Optimizer) -> None:
        """Lets an optimizer's state follow every relocation by itself; bimt_fast.optim does it when constructed."""
        _check_optimizer(optimizer)
        self._optimizers.add(optimizer)

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_optimizers": None, "_plan_cache": {}}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state, _optimizers=weakref.WeakSet())

    # Cost

    def cost(self, bias: bool = True, distance_scale: float | None = None) -> Tensor:
        """The connection cost of the model, as a differentiable 0-d tensor.

        Args:
            bias: whether tensors of one axis count, at base_length each.
            distance_scale: replaces the wiring's own for this call (0: plain L1 at base_length).
        """
        total = torch.zeros(())
        for plan in self._plans(bias, distance_scale):
            settings = zip(plan.coefficients, plan.distance_scales, plan.base_lengths, strict=True)
            for w, x, y, (coefficient, scale, base) in zip(
                plan.tensors, plan.out_pos, plan.in_pos, settings, strict=True
            ):
                if w.dim() == 2:
                    term = torch.ops.bimt_fast.connection_cost(w, x, y, plan.metric, scale, base, plan.table)
                else:
                    term = base * w.to(COMPUTE_DTYPE[w.dtype]).abs().sum()
                total = total.to(term) + coefficient * term
        return total

    def _cost_now(self) -> float:
        """cost() as a number, by one native call."""
        return sum(
            total_cost(
                plan.tensors,
                plan.out_pos,
                plan.in_pos,
                plan.metric,
                plan.coefficients,
                plan.distance_scales,
                plan.base_lengths,
                plan.table,
            )
            for plan in self._plans(True, None)
        )

    def add_grad_(self, lam: float, bias: bool = True, distance_scale: float | None = None) -> Tensor:
        """Adds lam * d cost / d p to the .grad of every charged parameter, in one native call; returns the cost.

        The same as (loss + lam * wiring.cost()).backward(), without an autograd graph: call it after
        loss.backward(). Missing gradients are created.

        Args:
            lam: strength of the penalty.
            bias, distance_scale: as in cost.

        Returns:
            0-d tensor: the cost, without lam.

        Raises:
            TypeError, ValueError: a gradient does not fit its parameter. No gradient is changed then.
        """
        lam = check_number("lam", lam)
        costs = []
        with torch.no_grad():
            calls = []
            plans = self._plans(bias, distance_scale)
            for plan in plans:
                grads = [torch.zeros_like(w) if w.grad is None else w.grad for w in plan.tensors]
                calls.append(
                    (plan.tensors, grads, plan.out_pos, plan.in_pos, plan.metric, lam,
                     plan.coefficients, plan.distance_scales, plan.base_lengths, plan.table)
                )  # fmt: skip
            for call in calls if len(calls) > 1 else ():
                check_add_grad(*call)  # all before the first changes a gradient
            for plan, call in zip(plans, calls, strict=True):
                costs.append(add_grad(*call, memo=plan.memos["add_grad"]))
            for weights, grads, *_ in calls:
                for w, grad in zip(weights, grads, strict=True):
                    if w.grad is None:
                        w.grad = grad
        return sum(costs[1:], costs[0]) if costs else torch.zeros(())

    def length(self, threshold: float | None = None, weighted: bool = True, unit: float = 1.0) -> Length:
        """The wiring length: sum |w| * distance over all connections, without scale, base length and reduction.

        Args:
            threshold: only connections with |w| > threshold.
            weighted: False counts each connection with its distance, whatever its weight.
            unit: length that counts as 1, for instance the spacing of a grid.

        Returns:
            The total as a float, with its parts in `.by_connection`.

        Raises:
            TypeError, ValueError: threshold is no number of at least 0, unit no number above 0.
        """
        threshold = 0.0 if threshold is None else check_number("threshold", threshold, 0)
        if not check_number("unit", unit, 0):
            raise ValueError("unit must be above 0, was 0")
        parts = {}
        for entry in self._entries:
            if entry.is_connection:
                w = entry.tensor.detach()
                kept = ~(w.abs() <= threshold)  # NaN is kept, and shows
                out_pos, in_pos = (self._peer_positions(g, w) for g in entry.groups)
                counted = torch.where(kept, w.abs() if weighted else 1.0, 0.0).to(w.dtype)
                name, table = self._metric_for(w)
                cost = torch.ops.bimt_fast.connection_cost(counted, out_pos, in_pos, name, 1 / unit, 0.0, table)
                parts[entry.name] = cost.item()
        return Length(parts)

    def _plans(self, bias: bool, distance_scale: float | None) -> list[Plan]:
        """Plans of all charged tensors."""
        return self.plans([e.tensor for e in self._charged if bias or e.is_connection], bias, distance_scale)

    def plans(self, tensors: Sequence[Tensor], bias: bool = True, distance_scale: float | None = None) -> list[Plan]:
        """Groups the trainable ones among tensors by dtype and device; kept until positions or parameters change.

        Tensors that are not charged have the coefficient 0.
        """
        if distance_scale is not None:
            distance_scale = _checked_number("distance_scale", distance_scale)
        state = tuple((id(w), w.dtype, w.device, w.requires_grad) for w in tensors)
        key = (bias, distance_scale, state)
        if key not in self._plan_cache:
            charged = {id(e.tensor): e for e in self._charged if bias or e.is_connection}
            kinds: dict[tuple, list] = {}
            for tensor in tensors:
                if tensor.requires_grad:
                    kinds.setdefault((tensor.dtype, tensor.device), []).append((tensor, charged.get(id(tensor))))
            if len(self._plan_cache) >= _PLANS_KEPT:
                self._plan_cache.clear()
            self._plan_cache[key] = [self._plan(items, distance_scale) for items in kinds.values()]
        return self._plan_cache[key]

    def _check_coordinates(self, entry: _Entry) -> None:
        if entry.is_connection:
            counts = [self._slots[g].shape[1:].numel() for g in entry.groups]  # 1 for indices into a table
            if counts[0] != counts[1]:
                raise ValueError(
                    f"positions of {entry.groups[0]!r} and {entry.groups[1]!r}, joined by {entry.name!r},"
                    f" must have as many coordinates, had {counts[0]} and {counts[1]}"
                )

    def _plan(self, items: list[tuple[Tensor, _Entry | None]], distance_scale: float | None) -> Plan:
        for _, entry in items:
            if entry is not None:
                self._check_coordinates(entry)
        own = self._distance_scale
        nowhere = items[0][0].new_empty(0, 0)
        return Plan(
            [tensor for tensor, _ in items],
            [self._peer_positions(e.groups[0], w) if e else nowhere for w, e in items],
            [self._peer_positions(e.groups[-1], w) if e else nowhere for w, e in items],
            [self._coefficient(e) if e else 0.0 for _, e in items],
            [(own[e.name] if distance_scale is None else distance_scale) if e else 0.0 for _, e in items],
            [self._base_length[e.name] if e else 0.0 for _, e in items],
            *self._metric_for(items[0][0]),
        )

    def _peer_positions(self, group: str, like: Tensor) -> Tensor:
        return self._following(self.neuron_positions(group), like).contiguous()

    def _following(self, positions: Tensor, like: Tensor) -> Tensor:
        """Positions on a tensor's device and in the dtype that goes with it; indices stay int64."""
        dtype = COMPUTE_DTYPE[like.dtype] if positions.is_floating_point() else positions.dtype
        return positions.to(like.device, dtype)

    def _metric_for(self, like: Tensor) -> tuple[str, Tensor | None]:
        """The metric as the ops take it: name, and distance tensor if it is one."""
        if isinstance(self.metric, Tensor):
            return TABLE, self.metric.to(like.device, COMPUTE_DTYPE[like.dtype])
        return self.metric, None

    def _coefficient(self, entry: _Entry) -> float:
        return 1.0 if self._reduction[entry.name] == "sum" else 1.0 / max(entry.tensor.numel(), 1)

    # Relocation

    @torch.no_grad()
    def relocate(
        self,
        strategy: str = "auto",
        groups: Iterable[str] | None = None,
        top_k: int | None = None,
        optimizer: torch.optim.Optimizer | None = None,
    ) -> RelocationReport:
        """Lets neurons trade slots where that lowers the cost. Never raises it; the model's function is unchanged.

        The search only moves an assignment; tensors, gradients and the optimizer's state are permuted once, at the
        end. If that is interrupted, all of them are put back.

        Args:
            strategy: "greedy" (BIMT as published: one pass, the top_k most important neurons' slots),
                "matching" (disjoint best swaps until none improves), "assignment" (exact for each group; needs SciPy)
                or "auto" (assignment for groups of up to 512 neurons, matching above). All but greedy sweep over the
                groups until none improves.
            groups: names, in the order to visit; None: all that are not frozen, in order of declaration.
            top_k: for greedy, how many neurons of each group to visit; None: all.
            optimizer: the torch optimizer whose state (moments) must follow its neurons; those of bimt_fast.optim
                do by themselves.

        Returns:
            RelocationReport.

        Raises:
            TypeError: optimizer is not a torch optimizer.
            ValueError: unknown strategy or group, a frozen group, top_k without greedy or negative, weights that are
                not finite. Nothing is changed then.
            ImportError: strategy is "assignment" and SciPy is missing.
        """
        start = time.perf_counter()
        groups = self._check_relocation(strategy, groups, top_k, optimizer)
        if optimizer is None and not self._optimizers:
            _warn_about_moments()
        search_state = Relocation(self, strategy, top_k)
        before = self._cost_now()
        if not math.isfinite(before):
            self._refuse_non_finite()
        connections = search_state.connection_cost()
        reports = search_state.run(groups)
        after = before - connections + search_state.connection_cost() if search_state.moved() else before
        if after < before:
            self._move(search_state.moved(), optimizer)
        else:
            after, reports = before, {group: GroupReport(seconds=r.seconds) for group, r in reports.items()}
        swaps = sum(report.swaps for report in reports.values())
        return RelocationReport(before, after, swaps, time.perf_counter() - start, reports)

    @torch.no_grad()
    def best_swaps(self, group: str, top_k: int | None = None) -> tuple[Tensor, Tensor]:
        """The best swap of every neuron of a group from where it sits now, or the best pairs of all.

        The same as functional.best_swaps of the group's placement cost, without that (n, n) matrix: with metric "l1"
        on a CPU, tiles of it are made again from running sums in O(n*m + n^2) time, and the extra memory is less
        than a tenth of the weights' bytes, a few MiB for every thread aside (and what a large top_k needs). Other
        metrics and the reference backend make the matrix.

        Args:
            group: any group of neurons, frozen ones too.
            top_k: how many pairs are wanted; None: the best partner of every neuron.

        Returns:
            Without top_k: delta (n,) of the weights' dtype, at most 0, and partner (n,) int64, the neuron to trade
            slots with: the lowest index on ties, the neuron itself (and delta 0) where nothing improves.
            With top_k: delta (k,) and pairs (k, 2) int64, the k best pairs of neurons, smallest delta first, then
            lowest first and second neuron; the first neuron of a pair is the lower. k <= top_k: only pairs that
            lower the cost. The swaps of pairs that share a neuron do not add up.

        Raises:
            TypeError: top_k is no integer.
            ValueError: the group is unknown, top_k is negative, weights are not finite.
            NotImplementedError: the group is recurrent.
        """
        self._known_groups("group", (group,))
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
            raise TypeError(f"top_k must be an integer or None, was {top_k!r}")
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k must be a non-negative integer or None, was {top_k}")
        self._check_not_recurrent(group, "best swaps of")
        placement = Relocation(self, "matching", None).placement(group, self.neuron_positions(group))
        if placement is None:  # nothing joins the group: nothing improves
            slots = torch.zeros(len(self._slots[group]), 0)
            placement = (slots, [], [], 0, "l1", []), None
        arguments, table = placement
        delta, partner = torch.ops.bimt_fast.placement_swaps(*arguments, top_k, table)
        if top_k is None:
            return delta, partner
        count = int((delta < 0).sum())
        return delta[:count], partner[:count]

    @torch.no_grad()
    def permute_(self, group: str, permutation: Tensor, optimizer: torch.optim.Optimizer | None = None) -> None:
        """Permutes the neurons of an inner group in every tensor, gradient and optimizer state.

        Slot p then holds the neuron that was in slot permutation[p].

        Args:
            group: an inner group; frozen ones too.
            permutation: (n,) int64.
            optimizer: the torch optimizer whose state must follow.

        Raises:
            TypeError: permutation is not int64, optimizer is not a torch optimizer.
            ValueError: the group is unknown or a boundary group, or permutation is none. Nothing is changed then.
        """
        self._known_groups("group", (group,))
        if group in self._permutations:
            raise ValueError(f"group must be an inner group, {group!r} is an input or output of the model")
        check_assignment("permutation", permutation, len(self._slots[group]))
        check_permutation("permutation", permutation)
        self._check_followers(optimizer)
        self._move({group: permutation.argsort()}, optimizer)

    def _check_relocation(self, strategy, groups, top_k, optimizer) -> tuple[str, ...]:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, was {strategy!r}")
        if top_k is not None and strategy != "greedy":
            raise ValueError(f"top_k belongs to strategy 'greedy', strategy was {strategy!r}")
        if top_k is not None and (not isinstance(top_k, int) or top_k < 0):
            raise ValueError(f"top_k must be a non-negative integer or None, was {top_k!r}")
        self._check_followers(optimizer)
        if groups is None:
            groups = [g for g in self._slots if g not in self.frozen]
        groups = self._known_groups("groups", groups)
        for group in groups:
            if group in self.frozen:
                raise ValueError(f"groups must not name a frozen group, named {group!r}")
            self._check_not_recurrent(group, "relocating")
        if strategy == "assignment" and not search.has_linear_assignment():
            raise ImportError("strategy 'assignment' needs SciPy: pip install 'bimt_fast[search]'")
        return groups

    def _check_not_recurrent(self, group: str, what: str) -> None:
        if any(entry.groups == (group, group) for entry in self._entries):
            raise NotImplementedError(f"{what} the recurrent group {group!r} is not available yet")

    def _check_followers(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Refuses optimizers whose state cannot travel with the neurons."""
        if optimizer is None:
            return
        _check_optimizer(optimizer)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        tensors = {id(e.tensor): e for e in self._entries}
        if not held & tensors.keys():
            raise ValueError("optimizer must hold parameters of the wiring, held none of them")
        for tensor, state in optimizer.state.items():
            entry = tensors.get(id(tensor))
            for key, value in state.items() if entry else ():
                if not travels(value, tensor):
                    raise ValueError(
                        f"optimizer must keep state of the shape of its parameter, or one value an axis: {key!r} of"
                        f" {entry.name!r} cannot follow its neurons"
                    )

    def _refuse_non_finite(self) -> None:
        for entry in self._charged:
            if not entry.tensor.isfinite().all():
                raise ValueError(f"{entry.name!r} must be finite to be relocated, held NaN or infinity")

    def _move(self, assignments: dict[str, Tensor], optimizer: torch.optim.Optimizer | None) -> None:
        """Moves neuron i of each group to slot assignments[group][i]: all of them, or after a failure none."""
        boundary = {g: a for g, a in assignments.items() if g in self._permutations}
        moves = {g: Moves.of(a.argsort()) for g, a in assignments.items() if g not in self._permutations}
        optimizers = {*self._optimizers, *([] if optimizer is None else [optimizer])}
        mover = Mover()
        self._plan_cache.clear()  # first: an interrupt may fall behind the last line of this function
        try:
            seen = set()
            for entry in self._entries:
                tensor = entry.tensor
                if id(tensor) in seen or not any(g in moves for g in entry.groups):
                    continue
                seen.add(id(tensor))
                by_axis = {axis: moves[g] for axis, g in enumerate(entry.groups) if g in moves}
                for travelling in companions(tensor, optimizers):
                    mover.permute(travelling, by_axis)
            self._permutations = {**self._permutations, **boundary}
        except BaseException:
            mover.undo()
            raise


def _checked_metric(metric: str | Tensor) -> str | Tensor:
    if isinstance(metric, Tensor):
        return functional.metric_arguments(metric, metric)[1].clone()
    metric_row(metric)
    return metric


def _checked_positions(group: str, positions: Tensor, metric: str | Tensor) -> Tensor:
    indices = isinstance(metric, Tensor)
    fits = isinstance(positions, Tensor) and (
        positions.dtype == torch.int64 if indices else positions.is_floating_point()
    )
    if not fits:
        was = positions.dtype if isinstance(positions, Tensor) else type(positions).__name__
        kind = "an int64 tensor of indices" if indices else "a floating-point tensor"
        raise TypeError(f"positions of {group!r} must be {kind}, was {was}")
    if positions.dim() != (1 if indices else 2):
        shape = "(n,)" if indices else "(n, dim)"
        raise ValueError(f"positions of {group!r} must have shape {shape}, was {tuple(positions.shape)}")
    if not positions.isfinite().all():
        raise ValueError(f"positions of {group!r} must be finite, held NaN or infinity")
    if indices and positions.numel() and not 0 <= positions.min() <= positions.max() < len(metric):
        raise ValueError(f"positions of {group!r} must be indices from 0 to {len(metric) - 1}, were not")
    if not indices and metric_row(metric).in_ball and not (gap(positions.double()) > 0).all():
        raise ValueError(f"positions of {group!r} must lie inside the unit ball for metric {metric!r}, did not")
    return positions.detach().clone()


def _checked_number(argument: str, value: object) -> float:
    return check_number(argument, value, 0)


def _checked_reduction(argument: str, value: object) -> str:
    if value not in ("sum", "mean"):
        raise ValueError(f"{argument} must be 'sum' or 'mean', was {value!r}")
    return str(value)


def _check_optimizer(optimizer: object) -> None:
    if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
        raise TypeError(f"optimizer must be a torch.optim.Optimizer or None, was {type(optimizer).__name__}")


def _warn_about_moments() -> None:
    global _warned_about_moments
    if not _warned_about_moments:
        _warned_about_moments = True
        _log.warning("relocate: no optimizer was passed, so its moments, if it has any, stay with the wrong neurons")

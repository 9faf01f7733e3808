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
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Integral

import torch
from torch import Tensor, nn

from . import functional, search
from ._axes import Layout
from ._declaration import Entry, Part, check_blocks, check_together, checked_positions, declare
from ._modules import is_normalisation
from ._relocation import (
    STRATEGIES,
    GroupReport,
    Mover,
    Moves,
    Relocation,
    RelocationReport,
    companions,
    copies_of,
    travelling_axes,
)
from ._resize import resize
from ._serial import from_dict, to_dict
from ._text import describe, with_notes
from .geometry import TABLE, metric_row
from .ops import (
    COMPUTE_DTYPE,
    add_grad,
    check_add_grad,
    check_assignment,
    check_float,
    check_number,
    check_permutation,
    total_cost,
)

_PLANS_KEPT = 16

_log = logging.getLogger("bimt_fast")
_warned_about_moments = False


@dataclass(frozen=True)
class Plan:
    """What a native call needs of tensors of one dtype and device: one item of each list a tensor."""

    tensors: list[Tensor]
    entries: list[Entry | None]  # None where a tensor is not charged
    layouts: list[Layout | None]  # how kernels see each
    out_pos: list[Tensor]
    in_pos: list[Tensor]
    coefficients: list[float]
    distance_scales: list[float]
    base_lengths: list[float]
    metric: str
    table: Tensor | None
    memos: dict[str, dict] = field(default_factory=lambda: {"add_grad": {}, "adamw": {}})  # by op

    def views(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The tensors, or others of the same shapes and strides, as kernels see them."""
        return [x if layout is None else layout.view(x) for x, layout in zip(tensors, self.layouts, strict=True)]

    def aligned(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """The same, with copies of those whose strides are not those of the plan's tensors.

        Raises:
            TypeError: one that would need a copy is sparse.
        """
        return [
            x if layout is None else _strided_like(own, x)
            for x, own, layout in zip(tensors, self.tensors, self.layouts, strict=True)
        ]

    @property
    def settings(self) -> tuple:
        """The last arguments of add_grad and total_cost but lam."""
        return self.coefficients, self.distance_scales, self.base_lengths, self.table


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


@dataclass(frozen=True)
class Pruning:
    """What prune_ did, by tensor name.

    Attributes:
        removed: connections set to zero.
        left: connections that are not zero.
        spared: tensors that would have lost their last connection and kept their largest.
    """

    removed: dict[str, int]
    left: dict[str, int]
    spared: tuple[str, ...]

    def __str__(self) -> str:
        kept = {name: " (its largest was kept)" if name in self.spared else "" for name in self.removed}
        return "\n".join(f"{name}: removed {n}, left {self.left[name]}{kept[name]}" for name, n in self.removed.items())


class Wiring:
    """Positions for the neurons of a model, and the connections between them.

    Args:
        model: any nn.Module; its tensors are looked up by name at each use and changed only by relocation.
        positions: slot positions (n, dim) by group name, floats of any dtype; int64 indices (n,) where metric is a
            distance tensor. They follow the parameters' device.
        axes: by tensor name (as in model.state_dict()), what each axis is: a group, one entry a neuron; None, no
            neurons (a kernel's height); "3*attn", three folds of a group side by side; "conv*49", 49 consecutive
            entries a neuron; "a+b", groups side by side; factors combine. A tensor with neurons on two axes is a
            connection (out, in), a recurrent one with the same group on both; with one such axis it travels.
        frozen: groups that relocation leaves alone.
        blocks: by group, into how many equal blocks of consecutive neurons it falls (attention heads): blocks trade
            places whole, and neurons within a block.
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
            finite, tensors that share an axis are declared differently.
    """

    def __init__(
        self,
        model: nn.Module,
        positions: Mapping[str, Tensor],
        axes: Mapping[str, Sequence[str | None]],
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
        for argument, value in (("positions", positions), ("axes", axes)):
            if not isinstance(value, Mapping):
                raise TypeError(f"{argument} must be a dict, was {type(value).__name__}")
        self.model = model
        self.metric = _checked_metric(metric)
        self._slots = {group: checked_positions(group, x, self.metric) for group, x in positions.items()}
        self._sizes = {group: len(x) for group, x in self._slots.items()}
        self._entries = [declare(model, name, texts, self._sizes) for name, texts in axes.items()]
        boundary = [group for group in self._slots if self._is_boundary(group)]
        inner = [group for group in self._slots if group not in boundary]
        self.blocks = check_blocks(blocks, self._sizes)
        check_together(self._entries, self._sizes, inner, self.blocks)
        self._permutations = {group: torch.arange(self._sizes[group]) for group in boundary}
        self.frozen = self._known_groups("frozen", frozen)
        self._distance_scale = self._by_name("distance_scale", distance_scale, _checked_number)
        self._base_length = self._by_name("base_length", base_length, _checked_number)
        self._reduction = self._by_name("reduction", reduction, _checked_reduction)
        self._penalised = self._known_tensors("penalised", penalised)
        self._unpenalised = self._known_tensors("unpenalised", unpenalised)
        tied = {id(entry.tensor): entry for entry in reversed(self._entries)}  # the first of each tensor's names
        self._charged = [
            entry
            for entry in self._entries
            if tied[id(entry.tensor)] is entry
            and entry.name not in self._unpenalised
            and (entry.name in self._penalised or not is_normalisation(entry.owner))
            and isinstance(entry.tensor, nn.Parameter)
        ]
        self._plan_cache: dict[tuple, list[Plan]] = {}
        self._optimizers: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._followers: list[Callable[[str], Iterable[Tensor]]] = []
        self.notes: tuple[str, ...] = ()

    def _is_boundary(self, group: str) -> bool:
        """Only ever an in axis, or only ever an out axis, of connections: the model's interface."""
        connections = [e for e in self._entries if e.is_connection]
        sides = {side for e in connections for side, end in enumerate(e.ends) if group in e.axes[end].groups}
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
    def recurrent_groups(self) -> set[str]:
        """Groups on both axes of a connection."""
        ends = [[set(e.axes[end].groups) for end in e.ends] for e in self._entries if e.is_connection]
        return {group for out, source in ends for group in out & source}

    @property
    def axes(self) -> dict[str, tuple[str | None, ...]]:
        """What each axis is, by tensor name, as declared."""
        return {entry.name: entry.texts for entry in self._entries}

    def settings(self, name: str) -> tuple[float, float, float]:
        """(coefficient of its reduction, distance_scale, base_length) of a tensor."""
        self._known_tensors("name", (name,))
        entry = next(e for e in self._entries if e.name == name)
        return self._coefficient(entry), self._distance_scale[name], self._base_length[name]

    def slots(self, group: str) -> Tensor:
        """Slot positions (n, dim) of a group, as placed; a copy."""
        self._known_groups("group", (group,))
        return self._slots[group].detach().clone()

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
        """The out axis and the in axis of every connection, by tensor name, as declared."""
        return {e.name: tuple(e.texts[end] for end in e.ends) for e in self._entries if e.is_connection}

    def parts(self) -> Iterator[Part]:
        """Every connection as weights (n_out, n_in) between two groups; one tensor may have several.

        Each part has `.entry`, `.label`, `.out` and `.source` (group names) and `.weight`: a view of the tensor,
        `.signed`, where each neuron has one entry on both axes; else sums of |w| over folds, runs and other axes.
        """
        for entry in self._distinct_connections():
            yield from entry.parts(self._sizes)

    def _distinct_connections(self) -> list[Entry]:
        """A tensor under several names under its first; masks and other buffers are none."""
        connections = [e for e in self._entries if e.is_connection and isinstance(e.tensor, nn.Parameter)]
        tied = {id(entry.tensor): entry for entry in reversed(connections)}
        return [entry for entry in self._entries if tied.get(id(entry.tensor)) is entry]

    def place(self, group: str | Mapping[str, Tensor], positions: Tensor | None = None) -> None:
        """Gives groups new slot positions: place(group, positions), or place({group: positions, ...}).

        Positions that are a parameter take the values, unless another parameter is given in its place.

        Raises:
            TypeError: positions are not float tensors (int64 where the metric is a distance tensor).
            ValueError: a group is unknown, a count differs, a position is not finite, not inside the unit ball where
                the metric needs it, no index of the distance tensor, or of another shape than a parameter's. Nothing
                is placed then.
        """
        placed = dict(group) if isinstance(group, Mapping) else {group: positions}
        self._known_groups("group", placed)
        for name, x in placed.items():
            placed[name] = checked_positions(name, x, self.metric)
            if len(placed[name]) != len(self._slots[name]):
                raise ValueError(f"positions of {name!r} must be {len(self._slots[name])}, were {len(placed[name])}")
            if self._stays_learned(name, placed[name]) and placed[name].shape != self._slots[name].shape:
                shape = tuple(self._slots[name].shape)
                raise ValueError(f"positions of {name!r}, a parameter, must keep their shape {shape}")
        for name, x in placed.items():
            if self._stays_learned(name, x):
                self._slots[name].data.copy_(x)
            else:
                self._slots[name] = x
        self._plan_cache.clear()

    def _stays_learned(self, group: str, positions: Tensor) -> bool:
        return isinstance(self._slots[group], nn.Parameter) and not isinstance(positions, nn.Parameter)

    def permutations(self) -> dict[str, Tensor]:
        """`permutation` of every boundary group, as load_permutations takes it."""
        return {group: self.permutation(group) for group in self._permutations}

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
            self._check_blocks_whole("permutations", group, permutation)
        self._permutations.update({g: p.clone() for g, p in permutations.items()})
        self._plan_cache.clear()

    def resize(self, group: str, positions: Tensor, mixing: Tensor) -> None:
        """Gives an inner group other neurons, each a mixture of the old ones; its parameters are made anew.

        A new neuron's incoming weights and bias are the mixture of the old ones'; outgoing weights are multiplied by
        the pseudo-inverse of the mixing, so that they act on the part of the old activity that the mixture keeps.
        What the model computes stays the same where new neurons are copies of old ones, or where neurons that merge
        say the same; else nearly, and a brief training repairs it. Optimizers must be made anew: they would go on with
        the old parameters.

        Args:
            group: an inner group that is not in blocks, and stands plainly on axes of nn.Linear only.
            positions: (n_new, dim) slot positions of the new neurons.
            mixing: (n_new, n_old) float32 or float64; row k says of which old neurons the new neuron k is made. See
                bimt_fast.analysis.merging and interpolation.

        Raises:
            TypeError: positions or mixing are no float tensors.
            ValueError: the group is unknown or no inner group, a shape does not fit, a value is not finite. Nothing is
                changed then.
            NotImplementedError: the group is in blocks, in folds, or on tensors of other modules.
        """
        self._known_groups("group", (group,))
        resize(self, group, positions, mixing)

    # In words, and as plain data

    def __str__(self) -> str:
        """Groups with their size and kind, then tensors with their axes and what they cost."""
        return describe(self)

    def report(self) -> str:
        """The same, then `notes`: what bimt_fast.trace could not prove."""
        return with_notes(self)

    def to_dict(self) -> dict[str, object]:
        """All but the model as lists, numbers and strings that json keeps exactly, permutations included.

        Positions that are a parameter of the model are kept by its name as well.
        """
        return to_dict(self)

    @classmethod
    def from_dict(cls, model: nn.Module, state: Mapping[str, object]) -> "Wiring":
        """The wiring that to_dict was called on, for a model with the same tensors.

        Raises:
            TypeError: state is no dict.
            ValueError: a key is missing or unknown, or the model has other tensors than the wiring's.
        """
        return from_dict(cls, model, state)

    # What follows

    def attach(self, follower: torch.optim.Optimizer | nn.Module | Callable[[str], Iterable[Tensor]]) -> None:
        """Lets something follow every relocation and permute_ by itself. Not copied or pickled with the wiring.

        Args:
            follower: an optimizer, whose state travels (bimt_fast.optim attaches itself); a copy of the model, such as
                one of torch.optim.swa_utils.AveragedModel, whose tensors of the same names travel; or a function that
                gives, for a tensor's name, tensors of its shape that travel with it.

        Raises:
            TypeError: follower is none of these.
            ValueError: a module lacks a tensor of the wiring, or has one of another shape. A function's tensors are
                checked at each relocation, before anything moves.
        """
        if isinstance(follower, torch.optim.Optimizer):
            self._optimizers.add(follower)
        elif isinstance(follower, nn.Module):
            for entry in self._entries:
                _check_follower(entry, copies_of(follower, entry.name))
            self._followers.append(lambda name: copies_of(follower, name))
        elif callable(follower):
            self._followers.append(follower)
        else:
            raise TypeError(f"follower must be an optimizer, a module or a function, was {type(follower).__name__}")

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_optimizers": None, "_followers": [], "_plan_cache": {}}

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
                plan.views(plan.tensors), plan.out_pos, plan.in_pos, settings, strict=True
            ):
                if w.dim() == 2:
                    term = torch.ops.bimt_fast.connection_cost(w, x, y, plan.metric, scale, base, plan.table)
                else:
                    term = base * w.to(COMPUTE_DTYPE[w.dtype]).abs().sum()
                total = total.to(torch.promote_types(total.dtype, term.dtype)).to(term.device) + coefficient * term
        return total

    def _cost_now(self, positions: Callable[[str, Tensor], Tensor] | None = None) -> float:
        """cost() as a number, by one native call.

        Args:
            positions: gives for a group, and a weight like which they must be, where its neurons are to sit; None:
                where they sit.
        """
        total = 0.0
        for plan in self._plans(True, None):
            ends = [plan.out_pos, plan.in_pos]
            if positions is not None:
                ends = [list(side) for side in ends]
                for k, (w, entry) in enumerate(zip(plan.tensors, plan.entries, strict=True)):
                    if entry is not None and entry.is_connection:
                        ends[0][k], ends[1][k] = self._end_positions(entry, plan.layouts[k], w, positions)
            total += total_cost(plan.views(plan.tensors), *ends, plan.metric, *plan.settings)
        return total

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
            calls, grads = [], []
            plans = self._plans(bias, distance_scale)
            for plan in plans:
                made = [_own_gradient(w) for w in plan.tensors]
                aligned = plan.aligned(made)
                grads.append(aligned)
                views = plan.views(plan.tensors), plan.views(aligned)
                calls.append((*views, plan.out_pos, plan.in_pos, plan.metric, lam, *plan.settings))
            for call in calls if len(calls) > 1 else ():
                check_add_grad(*call)  # all before the first changes a gradient
            for plan, call in zip(plans, calls, strict=True):
                costs.append(add_grad(*call, memo=plan.memos["add_grad"]))
            for plan, made in zip(plans, grads, strict=True):
                for w, grad in zip(plan.tensors, made, strict=True):
                    if w.grad is not grad:
                        w.grad = grad
        for x, grad in self.position_gradients(bias, distance_scale):
            if x.grad is None:
                x.grad = lam * grad
            else:
                x.grad.add_(grad, alpha=lam)
        return sum((cost.to(costs[0].device) for cost in costs[1:]), costs[0]) if costs else torch.zeros(())

    def position_gradients(self, bias: bool = True, distance_scale: float | None = None) -> list[tuple[Tensor, Tensor]]:
        """Positions that are parameters, each with d cost / d positions; empty where none is."""
        learned = [x for x in self._slots.values() if x.requires_grad]
        if not learned:
            return []
        with torch.enable_grad():
            grads = torch.autograd.grad(self.cost(bias, distance_scale), learned, allow_unused=True)
        return [(x, grad) for x, grad in zip(learned, grads, strict=True) if grad is not None]

    @torch.no_grad()
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
        for entry in self._distinct_connections():
            layout = entry.layout()
            w = entry.tensor if layout is None else layout.view(entry.tensor)
            kept = ~(w.abs() <= threshold)  # NaN is kept, and shows
            out_pos, in_pos = self._end_positions(entry, layout, w)
            counted = torch.where(kept, w.abs() if weighted else 1.0, 0.0).to(w.dtype)
            name, table = self._metric_for(w)
            cost = torch.ops.bimt_fast.connection_cost(counted, out_pos, in_pos, name, 1 / unit, 0.0, table)
            parts[entry.name] = cost.item()
        return Length(parts)

    @torch.no_grad()
    def prune_(self, threshold: float) -> "Pruning":
        """Sets connections with |w| <= threshold to zero, but never the last one of a tensor: its largest stays.

        Args:
            threshold: at least 0.

        Returns:
            Pruning: by tensor name, how many connections were removed and how many are left that are not zero.

        Raises:
            TypeError, ValueError: threshold is no number of at least 0, weights are not finite. Nothing is pruned then.
        """
        threshold = check_number("threshold", threshold, 0)
        connections = self._distinct_connections()
        for entry in connections:
            if not entry.tensor.isfinite().all():
                raise ValueError(f"{entry.name!r} must be finite to be pruned, held NaN or infinity")
        removed, left, spared = {}, {}, []
        for entry in connections:
            w = entry.tensor.detach()
            small = w.abs() <= threshold
            if w.numel() and small.all():
                small[torch.unravel_index(w.abs().argmax(), w.shape)] = False
                spared.append(entry.name)
            removed[entry.name] = int((small & (w != 0)).sum())
            w.masked_fill_(small, 0)
            left[entry.name] = int(w.count_nonzero())
        return Pruning(removed, left, tuple(spared))

    def _plans(self, bias: bool, distance_scale: float | None) -> list[Plan]:
        """Plans of all charged tensors."""
        return self.plans([e.tensor for e in self._charged if bias or not e.is_bias], bias, distance_scale)

    def plans(self, tensors: Sequence[Tensor], bias: bool = True, distance_scale: float | None = None) -> list[Plan]:
        """Groups the trainable ones among tensors by dtype and device; kept until positions or parameters change.

        Tensors that are not charged have the coefficient 0. Where positions are parameters nothing is kept.
        """
        if distance_scale is not None:
            distance_scale = _checked_number("distance_scale", distance_scale)
        state = tuple((id(w), w.dtype, w.device, w.requires_grad, w.dim() > 2 and w.stride()) for w in tensors)
        key = (bias, distance_scale, state)
        if key not in self._plan_cache:
            charged = {id(e.tensor): e for e in self._charged if bias or not e.is_bias}
            kinds: dict[tuple, list] = {}
            for tensor in tensors:
                if tensor.requires_grad:
                    kinds.setdefault((tensor.dtype, tensor.device), []).append((tensor, charged.get(id(tensor))))
            plans = [self._plan(items, distance_scale) for items in kinds.values()]
            if any(isinstance(x, nn.Parameter) for x in self._slots.values()):
                return plans
            if len(self._plan_cache) >= _PLANS_KEPT:
                self._plan_cache.clear()
            self._plan_cache[key] = plans
        return self._plan_cache[key]

    def _check_coordinates(self, entry: Entry) -> None:
        groups = [group for end in entry.ends for group in entry.axes[end].groups]
        counts = {group: self._slots[group].shape[1:].numel() for group in groups}  # 1 for indices into a table
        for group in groups[1:]:
            if counts[group] != counts[groups[0]]:
                raise ValueError(
                    f"positions of {groups[0]!r} and {group!r}, joined by {entry.name!r},"
                    f" must have as many coordinates, had {counts[groups[0]]} and {counts[group]}"
                )

    def _plan(self, items: list[tuple[Tensor, Entry | None]], distance_scale: float | None) -> Plan:
        own, nowhere = self._distance_scale, items[0][0].new_empty(0, 0)
        layouts, out_pos, in_pos = [], [], []
        for w, entry in items:
            layout = entry.layout() if entry else None
            ends = [nowhere, nowhere]
            if entry and entry.is_connection:
                self._check_coordinates(entry)
                ends = self._end_positions(entry, layout, w)
            layouts.append(_fitting(layout, w, entry))
            out_pos.append(ends[0])
            in_pos.append(ends[1])
        return Plan(
            [w for w, _ in items],
            [entry for _, entry in items],
            layouts,
            out_pos,
            in_pos,
            [self._coefficient(e) if e else 0.0 for _, e in items],
            [(own[e.name] if distance_scale is None else distance_scale) if e else 0.0 for _, e in items],
            [self._base_length[e.name] if e else 0.0 for _, e in items],
            *self._metric_for(items[0][0]),
        )

    def _end_positions(
        self,
        entry: Entry,
        layout: Layout | None,
        like: Tensor,
        positions: Callable[[str, Tensor], Tensor] | None = None,
    ) -> list[Tensor]:
        """Positions of the rows and columns of a connection as kernels see it; `positions` as in _cost_now."""
        groups = {group for end in entry.ends for group in entry.axes[end].groups}
        positions = self._peer_positions if positions is None else positions
        return entry.end_positions(layout, {group: positions(group, like) for group in groups})

    def _peer_positions(self, group: str, like: Tensor) -> Tensor:
        slots = self._slots[group]
        sitting = slots[self._permutations[group].to(slots.device)] if group in self._permutations else slots
        sitting = self._following(sitting, like).contiguous()
        return sitting.clone() if slots.requires_grad else sitting  # an optimizer may move the parameter meanwhile

    def _following(self, positions: Tensor, like: Tensor) -> Tensor:
        """Positions on a tensor's device and in the dtype that goes with it; indices stay int64."""
        dtype = COMPUTE_DTYPE[like.dtype] if positions.is_floating_point() else positions.dtype
        return positions.to(like.device, dtype)

    def _metric_for(self, like: Tensor) -> tuple[str, Tensor | None]:
        """The metric as the ops take it: name, and distance tensor if it is one."""
        if isinstance(self.metric, Tensor):
            return TABLE, self.metric.to(like.device, COMPUTE_DTYPE[like.dtype])
        return self.metric, None

    def _coefficient(self, entry: Entry) -> float:
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
                "matching" (disjoint best swaps until none improves), "assignment" (the cheapest of all for each group;
                not for recurrent ones), "tabu" (robust tabu search of recurrent groups, the others as with auto) or
                "auto" (assignment up to 1024 neurons, tabu for recurrent groups up to 64, else matching). All but
                greedy sweep over the groups until none improves.
            groups: names, in the order to visit; None: all that are not frozen, in order of declaration, but
                recurrent ones in blocks, which stay.
            top_k: for greedy, how many neurons of each group to visit; None: all.
            optimizer: the torch optimizer whose state (moments) must follow its neurons; those of bimt_fast.optim
                do by themselves.

        Returns:
            RelocationReport.

        Raises:
            TypeError: optimizer is not a torch optimizer, a gradient is sparse.
            ValueError: unknown strategy or group, a frozen group, top_k without greedy or negative, assignment of a
                recurrent group, weights that are not finite. Nothing is changed then.
            ImportError: strategy is "assignment", and neither the cpu extension nor SciPy is there.
        """
        start = time.perf_counter()
        groups = self._check_relocation(strategy, groups, top_k, optimizer)
        if optimizer is None and not self._optimizers:
            _warn_about_moments()
        search_state = Relocation(self, strategy, top_k)
        before = self._cost_now()
        if not math.isfinite(before) or len(self._charged) < len(self._entries):  # what costs nothing too
            self._refuse_non_finite()
        reports = search_state.run(groups, before)
        after = self._cost_now(search_state.positions) if search_state.moved() else before
        moved = search_state.moved() if after < before else {}
        if moved:
            self._move(moved, optimizer)
        else:
            unmoved = {"cost_before": before, "cost_after": before}
            after, reports = before, {g: GroupReport(seconds=r.seconds, **unmoved) for g, r in reports.items()}
        swaps = sum(report.swaps for report in reports.values())
        return RelocationReport(before, after, swaps, time.perf_counter() - start, reports, moved)

    @torch.no_grad()
    def best_swaps(self, group: str, top_k: int | None = None) -> tuple[Tensor, Tensor]:
        """The best swap of every neuron of a group from where it sits now, or the best pairs of all.

        In a group of blocks, a neuron's partner is of its own block.

        The same as functional.best_swaps of the group's placement cost, without that (n, n) matrix but on
        the reference backend: parts of it are made as they are needed, in O(n*m + n^2) time from sums for "l1",
        "torus-l1" and "sql2", as a product in O(n^2*m) for other metrics, and the extra memory is less than a tenth of
        the weights' bytes, a few MiB for every thread aside (and what a large top_k needs). Recurrent groups and groups
        in blocks make the matrix, for top_k that of all deltas too.

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
            NotImplementedError: a recurrent group in blocks.
        """
        self._known_groups("group", (group,))
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, Integral)):
            raise TypeError(f"top_k must be an integer or None, was {top_k!r}")
        if top_k is not None and top_k < 0:
            raise ValueError(f"top_k must be a non-negative integer or None, was {top_k}")
        top_k = None if top_k is None else int(top_k)
        relocation = Relocation(self, "matching", None)
        recurrent, in_blocks = group in relocation.recurrent, group in self.blocks
        if recurrent and in_blocks:
            raise NotImplementedError(f"swaps of the recurrent group {group!r} in blocks are not available")
        if recurrent:
            return relocation.best_recurrent_swaps(group, top_k)
        if in_blocks:
            return relocation.best_swaps_in_blocks(group, top_k)
        placement = relocation.placement(group, self.neuron_positions(group))
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
            TypeError: permutation is not int64, optimizer is not a torch optimizer, a gradient is sparse.
            ValueError: the group is unknown or a boundary group, permutation is none or tears blocks apart. Nothing is
                changed then.
        """
        self._known_groups("group", (group,))
        if group in self._permutations:
            raise ValueError(f"group must be an inner group, {group!r} is an input or output of the model")
        check_assignment("permutation", permutation, len(self._slots[group]))
        check_permutation("permutation", permutation)
        self._check_blocks_whole("permutation", group, permutation)
        self._check_followers(optimizer)
        self._move({group: permutation.cpu().argsort()}, optimizer)

    def _check_blocks_whole(self, argument: str, group: str, permutation: Tensor) -> None:
        count = self.blocks.get(group, 1)
        places = permutation.view(count, -1) // max(self._sizes[group] // count, 1)
        if (places != places[:, :1]).any():
            raise ValueError(f"{argument} must keep the {count} blocks of {group!r} whole, did not")

    def _check_relocation(self, strategy, groups, top_k, optimizer) -> tuple[str, ...]:
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, was {strategy!r}")
        if top_k is not None and strategy != "greedy":
            raise ValueError(f"top_k belongs to strategy 'greedy', strategy was {strategy!r}")
        if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, Integral) or top_k < 0):
            raise ValueError(f"top_k must be a non-negative integer or None, was {top_k!r}")
        self._check_followers(optimizer)
        recurrent = self.recurrent_groups
        if groups is None:
            groups = [g for g in self._slots if g not in self.frozen and not (g in recurrent and g in self.blocks)]
        groups = self._known_groups("groups", groups)
        for group in groups:
            if group in self.frozen:
                raise ValueError(f"groups must not name a frozen group, named {group!r}")
        for group in groups:
            if group in recurrent and strategy == "assignment":
                raise ValueError(
                    f"strategy must be auto, matching, tabu or greedy for the recurrent group {group!r},"
                    " was 'assignment'"
                )
            if group in recurrent and group in self.blocks:
                raise NotImplementedError(f"relocating the recurrent group {group!r} in blocks is not available")
        if strategy == "assignment" and not search.has_linear_assignment():
            raise ImportError("strategy 'assignment' needs the cpu extension or SciPy: pip install 'bimt_fast[search]'")
        return groups

    def _check_followers(self, optimizer: torch.optim.Optimizer | None) -> None:
        """Refuses optimizers whose state cannot travel with the neurons."""
        tensors = {id(e.tensor): e for e in self._entries}
        if optimizer is not None:
            _check_optimizer(optimizer)
            held = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if not held & tensors.keys():
                raise ValueError("optimizer must hold parameters of the wiring, held none of them")
        for entry in self._entries:
            grad = entry.tensor.grad if isinstance(entry.tensor, nn.Parameter) else None
            if grad is not None and grad.layout != torch.strided and set(entry.groups) & set(self.inner_groups):
                raise TypeError(f"gradient of {entry.name!r} must be dense to follow its neurons, was {grad.layout}")
        for following in self._all_optimizers(optimizer):
            for tensor, state in following.state.items():
                entry = tensors.get(id(tensor))
                for key, value in state.items() if entry else ():
                    if travelling_axes(key, value, tensor) is None:
                        raise ValueError(
                            f"optimizer must keep state of the shape of its parameter, or one value an axis: {key!r}"
                            f" of {entry.name!r} cannot follow its neurons"
                        )

    def _all_optimizers(self, optimizer: torch.optim.Optimizer | None) -> set[torch.optim.Optimizer]:
        return {*self._optimizers, *([] if optimizer is None else [optimizer])}

    def _refuse_non_finite(self) -> None:
        for entry in (*self._charged, *self._distinct_connections()):
            if not entry.tensor.isfinite().all():
                raise ValueError(f"{entry.name!r} must be finite to be relocated, held NaN or infinity")

    def _move(self, assignments: dict[str, Tensor], optimizer: torch.optim.Optimizer | None) -> None:
        """Moves neuron i of each group to slot assignments[group][i]: all of them, or after a failure none."""
        boundary = {g: a for g, a in assignments.items() if g in self._permutations}
        orders = {g: a.argsort() for g, a in assignments.items() if g not in self._permutations}
        optimizers = self._all_optimizers(optimizer)
        following = {e.name: [x for f in self._followers for x in f(e.name)] for e in self._entries}
        for entry in self._entries:
            _check_follower(entry, following[entry.name])
        mover = Mover()
        if boundary:  # elsewhere positions stay; first: an interrupt may fall behind the last line of this function
            self._plan_cache.clear()
        axes = {axis for entry in self._entries for axis in entry.axes if any(g in orders for g in axis.groups)}
        by_axis = {axis: Moves.of(axis.order(orders, self._sizes)) for axis in axes}
        try:
            seen = set()
            for entry in self._entries:
                tensor = entry.tensor
                moves = {k: by_axis[axis] for k, axis in enumerate(entry.axes) if axis in by_axis}
                if id(tensor) in seen or not moves:
                    continue
                seen.add(id(tensor))
                for travelling, axes in companions(tensor, optimizers):
                    mover.permute(travelling, {k: moves[axis] for k, axis in axes.items() if axis in moves})
                for travelling in following[entry.name]:
                    if id(travelling) not in seen:  # which may follow under two names, or twice
                        seen.add(id(travelling))
                        mover.permute(travelling.data, moves)
            self._permutations = {**self._permutations, **boundary}
        except BaseException:
            mover.undo()
            raise


def _checked_metric(metric: str | Tensor) -> str | Tensor:
    if isinstance(metric, Tensor):
        return functional.metric_arguments(metric, metric)[1].clone()
    metric_row(metric)
    return metric


def _fitting(layout: Layout | None, tensor: Tensor, entry: Entry | None) -> Layout | None:
    """The layout, if the tensor's memory allows it."""
    if layout is not None:
        try:
            layout.view(tensor)
        except RuntimeError:
            raise ValueError(f"{entry.name!r} must lie in memory without gaps, had strides {tensor.stride()}") from None
    return layout


def _strided_like(own: Tensor, x: Tensor) -> Tensor:
    check_float("grads", x)
    return x if x.stride() == own.stride() else torch.empty_like(own).copy_(x)


def _check_follower(entry: Entry, tensors: Iterable[Tensor]) -> None:
    for tensor in tensors:
        if tensor.shape != entry.tensor.shape:
            shape = tuple(entry.tensor.shape)
            raise ValueError(f"follower must have the shape of {entry.name!r}, {shape}, was {tuple(tensor.shape)}")


def _own_gradient(w: Tensor) -> Tensor:
    """Zeros where there is none; a copy where one is expanded, and so cannot be added to."""
    grad = torch.zeros_like(w) if w.grad is None else w.grad
    expanded = grad.layout is torch.strided and 0 in grad.stride() and grad.numel() > 1
    return torch.empty_like(w).copy_(grad) if expanded else grad


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

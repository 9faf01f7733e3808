"""What a wiring declares of each tensor, and the checks that refuse what a relocation would tear apart."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from ._axes import Axis, Layout, Term, along
from ._modules import grouped_axes, input_first, is_grouped_convolution, shared_axes
from .geometry import gap, metric_row
from .ops import COMPUTE_DTYPE


@dataclass(frozen=True)
class Entry:
    """One declared tensor: where it lives, and what its axes are."""

    name: str
    owner: nn.Module
    attribute: str
    axes: tuple[Axis, ...]

    @property
    def tensor(self) -> Tensor:
        # Looked up at each use, so that a parameter replaced by load_state_dict(assign=True) is seen.
        return self.owner._parameters.get(self.attribute, self.owner._buffers.get(self.attribute))

    @cached_property
    def texts(self) -> tuple[str | None, ...]:
        return tuple(axis.text for axis in self.axes)

    @cached_property
    def groups(self) -> tuple[str, ...]:
        """The groups of all axes, each once."""
        return tuple(dict.fromkeys(group for axis in self.axes for group in axis.groups))

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """The axes that hold neurons: of a connection the out axis, then the in axis."""
        found = tuple(k for k, axis in enumerate(self.axes) if axis.terms)
        return found[::-1] if len(found) == 2 and input_first(self.owner, self.attribute) else found

    @property
    def is_connection(self) -> bool:
        """Whether it holds weights between neurons; a mask of booleans or integers only travels."""
        return len(self.ends) == 2 and self.tensor.is_floating_point()

    @property
    def is_bias(self) -> bool:
        """One axis in all: what `bias=False` leaves out."""
        return len(self.axes) == 1

    def layout(self) -> Layout | None:
        """How kernels see it: a connection as a matrix, anything else as a vector; None where it is that already."""
        tensor = self.tensor
        if self.is_connection:
            return Layout.of(tensor, *self.ends)
        return None if tensor.dim() == 1 else Layout.flat(tensor)

    def end_positions(self, layout: Layout | None, of_neurons: Mapping[str, Tensor]) -> list[Tensor]:
        """Positions of a connection's rows and columns as its layout has them."""
        by_entry = [self.axes[end].per_entry(of_neurons) for end in self.ends]
        if layout is None:
            return by_entry
        shape = self.tensor.shape
        return [along(side, end, shape, x) for side, end, x in zip(layout.sides(), self.ends, by_entry, strict=True)]

    def parts(self, sizes: Mapping[str, int]) -> Iterator["Part"]:
        """A connection as weights (n_out, n_in) between pairs of groups.

        Where each neuron has one entry on both axes the weights are a view; else sums of |W| over folds, runs and the
        axes that hold no neurons.
        """
        ends = [list(_spans(self.axes[end], sizes)) for end in self.ends]
        weight = self.tensor.detach().movedim(self.ends, (0, 1))
        for out, rows in ends[0]:
            for source, columns in ends[1]:
                piece = weight[rows, columns]
                signed = out.is_plain and source.is_plain and piece.dim() == 2
                if not signed:
                    shape = [size for t in (out, source) for size in (t.folds, sizes[t.group], t.run)]
                    piece = piece.abs().reshape(*shape, piece.shape[2:].numel())
                    piece = piece.sum((0, 2, 3, 5, 6), dtype=COMPUTE_DTYPE[piece.dtype])
                yield Part(self, out.group, source.group, piece, signed)


@dataclass(frozen=True, eq=False)
class Part:
    """The weights (n_out, n_in) of one tensor between two groups; signed where they are a view of it."""

    entry: Entry
    out: str
    source: str
    weight: Tensor
    signed: bool

    @property
    def label(self) -> str:
        plain = all(len(self.entry.axes[end].terms) == 1 for end in self.entry.ends)
        return self.entry.name if plain else f"{self.entry.name} ({self.out} x {self.source})"


def _spans(axis: Axis, sizes: Mapping[str, int]) -> Iterator[tuple[Term, slice]]:
    start = 0
    for term in axis.terms:
        stop = start + term.folds * sizes[term.group] * term.run
        yield term, slice(start, stop)
        start = stop


def declare(model: nn.Module, name: str, texts: Sequence[str | None] | str, sizes: Mapping[str, int]) -> Entry:
    """One entry of a wiring's axes, checked against the model and the groups' sizes.

    Raises:
        TypeError: an axis is neither a string nor None.
        ValueError: the name is not in the model, an axis is not of the grammar, names an unknown group or is not as
            long as its neurons need.
    """
    owner_name, _, attribute = name.rpartition(".")
    try:
        owner = model.get_submodule(owner_name)
    except AttributeError:
        owner = None
    tensor = None if owner is None else owner._parameters.get(attribute, owner._buffers.get(attribute))
    if not isinstance(tensor, Tensor):
        raise ValueError(f"axes must name parameters or buffers of the model, {name!r} is neither")
    texts = (texts,) if isinstance(texts, str) or texts is None else tuple(texts)
    if len(texts) != tensor.dim():
        raise ValueError(
            f"axes of {name!r} must name one group for each of its {tensor.dim()} axes, named {len(texts)}"
        )
    try:
        entry = Entry(name, owner, attribute, tuple(Axis.parse(text) for text in texts))
    except (TypeError, ValueError) as error:
        raise type(error)(f"axes of {name!r}: {error}") from None
    for axis, (spec, length) in enumerate(zip(entry.axes, tensor.shape, strict=True)):
        _check_axis(name, axis, spec, length, sizes)
    if len(entry.ends) > 2:
        raise ValueError(f"axes of {name!r} must hold neurons on at most two axes, held them on {len(entry.ends)}")
    if is_grouped_convolution(owner) and attribute == "weight" and entry.axes[1].terms:
        raise ValueError(f"axes of {name!r}: axis 1 must be None in a convolution of {owner.groups} groups")
    return entry


def _check_axis(name: str, axis: int, spec: Axis, length: int, sizes: Mapping[str, int]) -> None:
    for group in spec.groups:
        if group not in sizes:
            raise ValueError(f"axes of {name!r} must name groups of positions, {group!r} is not one of them")
    if not spec.terms or spec.length(sizes) == length:
        return
    if spec.is_plain:
        raise ValueError(
            f"positions of {spec.text!r} must be as many as axis {axis} of {name!r} is long, {length},"
            f" were {spec.length(sizes)}"
        )
    raise ValueError(
        f"axis {axis} of {name!r}, {spec.text!r}, must be {spec.describe(sizes)} = {spec.length(sizes)} long,"
        f" was {length}"
    )


def check_together(
    entries: Sequence[Entry], sizes: Mapping[str, int], inner: Sequence[str], blocks: Mapping[str, int]
) -> None:
    """Refuses what would be torn apart by a relocation.

    Raises:
        ValueError: a group is used nowhere, one tensor is declared in two ways, tensors of one module that share an
            axis are declared differently or one of them is not declared, a module's heads or groups are not kept whole.
    """
    used = {group for entry in entries for group in entry.groups}
    for group in sizes:
        if group not in used:
            raise ValueError(f"positions must be of groups that axes names, {group!r} is not one of them")
    first: dict[int, Entry] = {}
    for entry in entries:
        other = first.setdefault(id(entry.tensor), entry)
        if [axis.terms for axis in other.axes] != [axis.terms for axis in entry.axes] or other.ends != entry.ends:
            raise ValueError(
                f"axes must agree on one tensor under two names: {other.name!r} has {other.texts},"
                f" {entry.name!r} has {entry.texts}"
            )
    declared = {(id(entry.owner), entry.attribute): entry for entry in entries}
    for owner in {id(entry.owner): entry.owner for entry in entries}.values():
        _check_shared_axes(owner, declared)
        _check_grouped_axes(owner, declared, sizes, inner, blocks)
    for entry in entries:
        lengths = {axis.length(sizes) for axis in entry.axes if set(axis.groups) & set(inner)}
        for name, tensor in {**entry.owner._parameters, **entry.owner._buffers}.items():
            if tensor is not None and (id(entry.owner), name) not in declared and lengths & set(tensor.shape):
                raise ValueError(
                    f"axes must declare {name!r} of the same module as {entry.name!r} too,"
                    " or it would not travel with its neurons"
                )


def _check_shared_axes(owner: nn.Module, declared: Mapping[tuple[int, str], Entry]) -> None:
    for shared in shared_axes(owner):
        found = [(x, declared[id(x.owner), x.attribute]) for x in shared if (id(x.owner), x.attribute) in declared]
        for x, entry in found[1:]:
            other, first = found[0]
            mine, its = entry.axes[x.axis], first.axes[other.axis]
            if mine.unfolded * other.times != its.unfolded * x.times:
                raise ValueError(
                    f"axes must agree where {first.name!r} and {entry.name!r} share an axis:"
                    f" {its.text!r} and {mine.text!r}"
                )


def _check_grouped_axes(
    owner: nn.Module,
    declared: Mapping[tuple[int, str], Entry],
    sizes: Mapping[str, int],
    inner: Sequence[str],
    blocks: Mapping[str, int],
) -> None:
    for grouped in grouped_axes(owner):
        entry = declared.get((id(owner), grouped.attribute))
        axis = None if entry is None else entry.axes[grouped.axis]
        for term in axis.terms if axis is not None and set(axis.groups) & set(inner) else ():
            block = sizes[term.group] // blocks.get(term.group, 1) * term.run
            if term.run % grouped.size and (block != grouped.size or not grouped.alike):
                needed = (
                    f"blocks of {term.group!r} that are {grouped.size} entries long"
                    if grouped.alike
                    else f"neurons of {grouped.size} entries"
                )
                raise ValueError(
                    f"axis {grouped.axis} of {entry.name!r}, {axis.text!r}, falls into groups of {grouped.size}"
                    f" and must have {needed}, or they would be torn apart"
                )


def check_blocks(blocks: Mapping[str, int] | None, sizes: Mapping[str, int]) -> dict[str, int]:
    """The blocks of each group, checked; groups in one block are left out."""
    if blocks is None:
        return {}
    if not isinstance(blocks, Mapping):
        raise TypeError(f"blocks must be a dict, was {type(blocks).__name__}")
    for group, count in blocks.items():
        if group not in sizes:
            raise ValueError(f"blocks must name groups of {', '.join(sizes)}, named {group!r}")
        if isinstance(count, bool) or not isinstance(count, int):
            raise TypeError(f"blocks of {group!r} must be an integer, was {count!r}")
        if count < 1 or sizes[group] % count:
            raise ValueError(f"blocks of {group!r} must divide its {sizes[group]} neurons, were {count}")
    return {group: count for group, count in blocks.items() if count > 1}


def checked_positions(group: str, positions: Tensor, metric: str | Tensor) -> Tensor:
    """A copy of a group's slot positions; parameters are kept as they are, since they are learned.

    Raises:
        TypeError: not floats (int64 where the metric is a distance tensor).
        ValueError: not of shape (n, dim), not finite, not inside the unit ball, no indices of the distance tensor.
    """
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
    return positions if isinstance(positions, nn.Parameter) else positions.detach().clone()

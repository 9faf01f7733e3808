"""The grammar of axes: which entries of a tensor's axis belong to which neuron of which group.

"h" is one entry a neuron; "3*h" three folds, the whole group side by side; "h*49" runs, 49 consecutive entries a
neuron; "a+b" groups side by side, each with factors of its own; None an axis whose entries are no neurons.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Term:
    """`folds` times the whole group side by side, each neuron with `run` consecutive entries."""

    group: str
    folds: int = 1
    run: int = 1

    @property
    def is_plain(self) -> bool:
        return self.folds == self.run == 1

    def per_entry(self, of_neurons: Tensor) -> Tensor:
        """(n, ...) by neuron -> (folds * n * run, ...) by entry."""
        if self.is_plain:
            return of_neurons
        runs = of_neurons.repeat_interleave(self.run, 0)
        return runs.repeat(self.folds, *[1] * (runs.dim() - 1))


@dataclass(frozen=True)
class Axis:
    """Terms side by side; none where entries are no neurons."""

    text: str | None
    terms: tuple[Term, ...]

    @classmethod
    def parse(cls, text: str | None) -> "Axis":
        """Raises ValueError where the text is not of the grammar, TypeError where it is no text."""
        if text is None:
            return cls(None, ())
        if not isinstance(text, str):
            raise TypeError(f"an axis must be a string or None, was {text!r}")
        return cls(text, tuple(_term(part, text) for part in text.split("+")))

    @property
    def is_plain(self) -> bool:
        """One group, one entry a neuron."""
        return len(self.terms) == 1 and self.terms[0].is_plain

    @cached_property
    def groups(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(term.group for term in self.terms))

    @property
    def unfolded(self) -> tuple[tuple[str, int], ...]:
        """Group and run of each fold."""
        return tuple((term.group, term.run) for term in self.terms for _ in range(term.folds))

    def length(self, sizes: Mapping[str, int]) -> int:
        return sum(term.folds * sizes[term.group] * term.run for term in self.terms)

    def per_entry(self, of_neurons: Mapping[str, Tensor]) -> Tensor:
        """Rows by entry of the axis, from rows by neuron of each group."""
        parts = [term.per_entry(of_neurons[term.group]) for term in self.terms]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def order(self, orders: Mapping[str, Tensor], sizes: Mapping[str, int]) -> Tensor:
        """The permutation of entries that permutes neurons: place p of a group takes the neuron orders[group][p]."""
        if self.is_plain:
            return orders[self.terms[0].group]
        parts, start = [], 0
        for term in self.terms:
            n = sizes[term.group]
            entries = torch.arange(start, start + term.folds * n * term.run)
            if term.group in orders:
                entries = entries.view(term.folds, n, term.run)[:, orders[term.group]].flatten()
            parts.append(entries)
            start += len(entries)
        return torch.cat(parts)

    def describe(self, sizes: Mapping[str, int]) -> str:
        """Its length as it comes about: "3 * 32 + 4"."""
        return " + ".join(
            " * ".join(str(k) for k in (term.folds, sizes[term.group], term.run) if k != 1) or "1"
            for term in self.terms
        )


def _term(part: str, text: str) -> Term:
    factors = [factor.strip() for factor in part.split("*")]
    names = [k for k, factor in enumerate(factors) if not factor.isdecimal()]
    if len(names) != 1 or not factors[names[0]] or any(factor.isdecimal() and int(factor) < 1 for factor in factors):
        raise ValueError(
            "an axis must be a group, with whole numbers as factors ('3*h', 'h*49') and '+' between groups,"
            f" was {text!r}"
        )
    at, numbers = names[0], [int(factor) if factor.isdecimal() else 1 for factor in factors]
    folds, run = (torch.Size(part).numel() for part in (numbers[:at], numbers[at + 1 :]))
    return Term(factors[at], folds, run)


@dataclass(frozen=True)
class Layout:
    """How kernels see a tensor without a copy: as a matrix with out entries as rows, or as a vector."""

    axes: tuple[int, ...]  # of the tensor, in the order in which memory holds them
    split: int  # how many of them make the rows; 0 for a vector
    transposed: bool = False  # whether the first are the in entries

    @classmethod
    def of(cls, tensor: Tensor, out_axis: int, in_axis: int) -> "Layout | None":
        """Of a connection; None for what is such a matrix already."""
        if tensor.dim() == 2:
            return None if out_axis < in_axis else cls((1, 0), 1)
        axes = _memory_order(tensor)
        first = min(axes.index(out_axis), axes.index(in_axis))
        return cls(axes, first + 1, axes[first] == in_axis)

    @classmethod
    def flat(cls, tensor: Tensor) -> "Layout":
        return cls(_memory_order(tensor), 0)

    def view(self, tensor: Tensor) -> Tensor:
        """RuntimeError where the tensor's memory has gaps or another order."""
        permuted = tensor.permute(self.axes)
        if not self.split:
            return permuted.view(-1)
        if tensor.dim() > 2:
            permuted = permuted.view(permuted.shape[: self.split].numel(), permuted.shape[self.split :].numel())
        return permuted.T if self.transposed else permuted

    def sides(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The tensor's axes along the matrix's rows and columns."""
        first, second = self.axes[: self.split], self.axes[self.split :]
        return (second, first) if self.transposed else (first, second)


def _memory_order(tensor: Tensor) -> tuple[int, ...]:
    return tuple(sorted(range(tensor.dim()), key=lambda k: (-tensor.stride(k), k)))


def along(axes: tuple[int, ...], own: int, shape: torch.Size, rows: Tensor) -> Tensor:
    """Rows by entry of one axis, repeated for all entries of the axes that are flattened with it."""
    at = axes.index(own)
    before = torch.Size(shape[k] for k in axes[:at]).numel()
    behind = torch.Size(shape[k] for k in axes[at + 1 :]).numel()
    return Term("", before, behind).per_entry(rows)

"""What one axis of a tensor is made of, while a model is traced.

An axis is a tuple of factors, outermost first, and its size is their product; () is an axis of size 1 made on the way.
A factor is an Atom (entries that may trade places with each other, or may not when it is frozen), a Wild (entries that
are all equal, as after expand), or a Side (axes side by side, as after cat). Atoms are bound to axes as ops show what
they consist of: read an axis through `resolve`.
"""

import math
from dataclasses import dataclass, field

ONE = "it is one neuron"


@dataclass(eq=False)
class Atom:
    """Entries that trade places freely unless frozen.

    Attributes:
        frozen: why they must stay, or None.
        neurons: whether a weight leads to or from them.
        meaning: the axis that this atom has been found to be.
        outer: atoms on whose index the order of this one may depend: an entry within a head moves in its own head.
    """

    size: int
    frozen: str | None = None
    neurons: bool = False
    meaning: "Axis | None" = None
    outer: frozenset["Atom"] = field(default_factory=frozenset)


@dataclass(frozen=True)
class Wild:
    """Entries that are all equal: any order will do."""

    size: int


@dataclass(frozen=True)
class Side:
    """Axes side by side."""

    terms: tuple["Axis", ...]

    @property
    def size(self) -> int:
        return sum(size_of(term) for term in self.terms)


Axis = tuple[Atom | Wild | Side, ...]


def size_of(axis: Axis) -> int:
    return math.prod(factor.size for factor in axis)


def free(size: int) -> Axis:
    return (Atom(size),)


def fixed(size: int, why: str) -> Axis:
    return () if size == 1 else (Atom(size, frozen=why),)


def wild(size: int) -> Axis:
    return () if size == 1 else (Wild(size),)


def side_by_side(terms: list[Axis]) -> Axis:
    """The axis of a concatenation."""
    flat: list[Axis] = []
    for term in terms:
        nested = len(term) == 1 and isinstance(term[0], Side)
        flat += term[0].terms if nested else [term] if size_of(term) else []
    return flat[0] if len(flat) == 1 else (Side(tuple(flat)),)


def resolve(axis: Axis) -> Axis:
    """The axis with every bound atom replaced by what it means."""
    found: list = []
    for factor in axis:
        if isinstance(factor, Atom) and factor.meaning is not None:
            factor.meaning = resolve(factor.meaning)
            found += factor.meaning
        elif isinstance(factor, Side):
            found += side_by_side([resolve(term) for term in factor.terms])
        else:
            found.append(factor)
    longer = tuple(factor for factor in found if factor.size > 1)
    return longer or tuple(found[:1])


def atoms(axis: Axis) -> list[Atom]:
    """Every atom of the axis, in order, repeated where it stands more than once."""
    found = []
    for factor in resolve(axis):
        if isinstance(factor, Atom):
            found.append(factor)
        elif isinstance(factor, Side):
            found += [atom for term in factor.terms for atom in atoms(term)]
    return found


def has_wild(axis: Axis) -> bool:
    return any(
        isinstance(factor, Wild) or (isinstance(factor, Side) and any(map(has_wild, factor.terms)))
        for factor in resolve(axis)
    )


def freeze(axis: Axis, why: str) -> None:
    for atom in atoms(axis):
        atom.frozen = atom.frozen or why


def mark_neurons(axis: Axis) -> None:
    for atom in atoms(axis):
        atom.neurons = True


def _solid(axis: Axis, outer: frozenset[Atom]) -> Axis:
    """The axis with a fresh atom in place of every Wild and of every single entry beside others."""
    found: list = []
    for factor in axis:
        if isinstance(factor, Wild):
            factor = Atom(factor.size, outer=outer)
        elif isinstance(factor, Side):
            factor = Side(tuple(_solid(term, outer) or (Atom(1, ONE),) for term in factor.terms))
        found.append(factor)
        outer = outer | frozenset(atoms((factor,)))
    return tuple(found)


def _bind(atom: Atom, axis: Axis) -> None:
    axis = _solid(axis, atom.outer)
    for part in atoms(axis):
        part.frozen = part.frozen or atom.frozen
        part.neurons = part.neurons or atom.neurons
        part.outer = part.outer | atom.outer - {part}
    atom.meaning = axis


def unify(a: Axis, b: Axis, why: str) -> None:
    """Makes two axes of equal size one: from now on their entries trade places together.

    Args:
        why: the reason given for freezing both where their parts do not fit into each other.
    """
    a, b = resolve(a), resolve(b)
    if a == b or _is_wild(a) or _is_wild(b):
        return
    if all(atom.frozen for atom in (*atoms(a), *atoms(b))) and len(a) + len(b) > 2 and not (has_wild(a) or has_wild(b)):
        return
    if len(a) == 1 and isinstance(a[0], Atom):
        _bind(a[0], b)
    elif len(b) == 1 and isinstance(b[0], Atom):
        _bind(b[0], a)
    elif len(a) == len(b) == 1 and isinstance(a[0], Side) and isinstance(b[0], Side):
        _unify_sides(list(a[0].terms), list(b[0].terms), why)
    else:
        _unify_products(a, b, why)


def _is_wild(axis: Axis) -> bool:
    return all(isinstance(factor, Wild) for factor in axis)


def _unify_products(a: Axis, b: Axis, why: str) -> None:
    while a and b:
        a, b = resolve(a), resolve(b)
        size = min(a[0].size, b[0].size)
        halves = split(a, size), split(b, size)
        if None in halves:
            freeze(a + b, why)
            return
        (first_a, a), (first_b, b) = halves
        unify(first_a, first_b, why)


def _unify_sides(a: list[Axis], b: list[Axis], why: str) -> None:
    while a and b:
        size = min(size_of(a[0]), size_of(b[0]))
        halves = cut(a[0], size), cut(b[0], size)
        if None in halves:
            for term in a + b:
                freeze(term, why)
            return
        for terms, (first, rest) in zip((a, b), halves, strict=True):
            terms[:1] = [first] if rest is None else [first, rest]
        unify(a.pop(0), b.pop(0), why)


def meet(a: Axis, b: Axis, why: str) -> Axis:
    """The axis of an element-wise op on two axes of equal size."""
    unify(a, b, why)
    a, b = resolve(a), resolve(b)
    if _is_wild(b) or (not has_wild(a) and not _is_wild(a)):
        return a
    if _is_wild(a) or not has_wild(b):
        return b
    if [x.size for x in a] == [x.size for x in b] and not any(isinstance(x, Side) for x in a + b):
        return tuple(y if isinstance(x, Wild) else x for x, y in zip(a, b, strict=True))
    freeze(a + b, why)
    return fixed(size_of(a), why)


def split(axis: Axis, size: int) -> tuple[Axis, Axis] | None:
    """The outer part of a given size and the inner rest, as a reshape sees them; None where no such parts exist."""
    axis, outer = resolve(axis), ()
    while size > 1:
        factor, axis = axis[0], axis[1:]
        if factor.size > size:
            halves = _split_factor(factor, size)
            if halves is None:
                return None
            factor, axis = halves[0], halves[1] + axis
        else:
            factor = (factor,)
        if size % size_of(factor):
            return None
        outer, size = outer + factor, size // size_of(factor)
    return outer, axis


def _split_factor(factor: Atom | Wild | Side, size: int) -> tuple[Axis, Axis] | None:
    if factor.size % size:
        return None
    inner_size = factor.size // size
    if isinstance(factor, Wild):
        return wild(size), wild(inner_size)
    if isinstance(factor, Atom):
        outer = Atom(size, factor.frozen, factor.neurons, outer=factor.outer)
        inner = Atom(inner_size, factor.frozen, factor.neurons, outer=factor.outer | {outer})
        factor.meaning = (outer, inner)
        return (outer,), (inner,)
    if any(size_of(term) % inner_size for term in factor.terms):
        return None
    halves = [split(term, size_of(term) // inner_size) for term in factor.terms]
    if None in halves:
        return None
    inner = halves[0][1]
    for _, other in halves[1:]:
        inner = meet(inner, other, "equal parts of a concatenation are reshaped apart")
    if all(size_of(outer) == 1 for outer, _ in halves):
        return fixed(size, "parts of a concatenation have an order"), inner
    return side_by_side([outer for outer, _ in halves]), inner


def cut(axis: Axis, size: int) -> tuple[Axis, Axis | None] | None:
    """The first entries, as many as size, and the rest (None where nothing is left); None where the cut goes through
    something that cannot be cut."""
    axis = resolve(axis)
    if size == size_of(axis):
        return axis, None
    factor, inner = axis[0], axis[1:]
    if size % size_of(inner):
        return None
    size //= size_of(inner)
    if isinstance(factor, Wild):
        halves = wild(size), wild(factor.size - size)
    elif isinstance(factor, Atom):
        halves = tuple(
            (Atom(n, factor.frozen or (ONE if n == 1 else None), factor.neurons, outer=factor.outer),)
            for n in (size, factor.size - size)
        )
        if not factor.frozen:
            factor.meaning = (Side(halves),)
    else:
        halves = _cut_side(factor, size)
        if halves is None:
            return None
    return halves[0] + inner, halves[1] + inner


def _cut_side(side: Side, size: int) -> tuple[Axis, Axis] | None:
    first, rest = [], list(side.terms)
    while size:
        halves = cut(rest[0], min(size, size_of(rest[0])))
        if halves is None:
            return None
        first.append(halves[0])
        rest[:1] = [] if halves[1] is None else [halves[1]]
        size -= size_of(halves[0])
    return side_by_side(first), side_by_side(rest)

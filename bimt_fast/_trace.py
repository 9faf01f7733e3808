"""The wiring of a model that nobody annotated, inferred from its exported graph.

Every axis of every parameter starts as neurons that may trade places freely. Walking the graph (bimt_fast._aten)
ties together what must move together and freezes what must stay; what is left is written in the language of Wiring.
"""

import copy
import io
import logging
import math
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils._pytree import tree_leaves

from . import geometry
from ._aten import POSITION, Interpreter, Value
from ._atoms import ONE, Atom, Axis, Side, atoms, free, freeze, resolve, size_of, split, unify
from ._modules import grouped_axes, shared_axes
from .wiring import Wiring

INPUT = "it is the model's input"
OUTPUT = "it is the model's output"
WHOLE = "trade places whole"
_FOLDS_WRITTEN = 64


@dataclass(frozen=True)
class Inferred:
    """What a trace found, in the language of Wiring.

    Attributes:
        axes: for each tensor name, what each axis is: a group, folds, runs, groups side by side, or None.
        sizes: the number of neurons of each group.
        blocks: the number of blocks of each group that has them.
        frozen: groups that must stay.
        notes: one sentence for each thing that stays, and why.
    """

    axes: dict[str, tuple[str | None, ...]]
    sizes: dict[str, int]
    blocks: dict[str, int]
    frozen: tuple[str, ...]
    notes: tuple[str, ...]


def trace(model: nn.Module, example_inputs: Tensor | tuple, *, verify: bool = False) -> Wiring:
    """Infers which axis of which tensor belongs to which group of neurons, and returns the wiring.

    Residual additions and products tie groups, a reshape into heads makes blocks, an axis that is flattened makes runs.
    Inputs and outputs are frozen, and so is whatever is not proven to be free: `wiring.notes` tells what and why.
    Buffers that are not in the state_dict cannot travel and freeze what they meet. Every group is on a line until
    placed.

    Args:
        model: any nn.Module that torch.export can export; neither its tensors nor its mode nor the random state change.
        example_inputs: what the model is called with: a tensor, or a tuple of positional arguments.
        verify: also relocate all groups of a copy of the model at random, and compare what both compute in eval mode.

    Returns:
        Wiring of the model, with one group for its inputs ("in") and one for its outputs ("out"), where it has neurons
        there.

    Raises:
        TypeError: model or example_inputs are of the wrong type.
        ValueError: the model cannot be exported, or nothing in it is a neuron.
        RuntimeError: verify, and the copy computes something else: a fault of this function.
    """
    found = infer(model, example_inputs)
    if not found.axes:
        raise ValueError("model must have weights that lead from neurons to neurons, had none")
    if verify:
        _verify(model, example_inputs, found)
    return _wiring(model, found)


def _wiring(model: nn.Module, found: "Inferred") -> Wiring:
    wiring = Wiring(
        model,
        positions={group: geometry.line(size) for group, size in found.sizes.items()},
        axes=found.axes,
        frozen=found.frozen,
        blocks=found.blocks,
        unpenalised=[name for name, axes in found.axes.items() if not any(axes)],
    )
    wiring.notes = found.notes
    return wiring


def infer(model: nn.Module, example_inputs: Tensor | tuple) -> Inferred:
    """The axes, groups and blocks that `trace` makes a wiring of; arguments and errors are the same."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"model must be a torch.nn.Module, was {type(model).__name__}")
    if not isinstance(example_inputs, (Tensor, tuple)):
        raise TypeError(f"example_inputs must be a tensor or a tuple, was {type(example_inputs).__name__}")
    program = _exported(model, example_inputs if isinstance(example_inputs, tuple) else (example_inputs,))
    tensors = _tensors(model)
    by_identity = {id(tensor): Value([free(n) for n in tensor.shape], weight=True) for tensor in tensors.values()}
    values = {name: by_identity[id(tensor)] for name, tensor in tensors.items()}
    for module in model.modules():
        _share(module, by_identity)
    records = _walk(program, values)
    found = _Writer(values, records).write()
    return replace(found, axes=_with_companions(model, found.axes))


@torch.no_grad()
def _verify(model: nn.Module, example_inputs: Tensor | tuple, found: Inferred) -> None:
    inputs = example_inputs if isinstance(example_inputs, tuple) else (example_inputs,)
    with torch.random.fork_rng(devices=[]):
        plain, moved = copy.deepcopy(model).eval(), copy.deepcopy(model).eval()
        wiring = _wiring(moved, found)
        for group in wiring.inner_groups:
            if group not in wiring.frozen:
                neurons = torch.arange(found.sizes[group]).view(wiring.blocks.get(group, 1), -1)
                within = torch.rand(neurons.shape).argsort(1)
                wiring.permute_(group, neurons.gather(1, within)[torch.randperm(len(neurons))].flatten())
        seed = torch.seed()
        results = []
        for each in (plain, moved):
            torch.manual_seed(seed)
            results.append(tree_leaves(each(*inputs)))
    for before, after in zip(*results, strict=True):
        if isinstance(before, Tensor) and before.is_floating_point():
            tolerance = before.abs().max() * torch.finfo(before.dtype).eps ** 0.5
            if not torch.allclose(before, after, rtol=0, atol=tolerance.item(), equal_nan=True):
                raise RuntimeError(
                    f"the axes inferred must not change what the model computes, but its output changed by"
                    f" {(before - after).abs().max().item():.2g}"
                )


def _with_companions(model: nn.Module, axes: dict[str, tuple[str | None, ...]]) -> dict[str, tuple[str | None, ...]]:
    """The axes, and those of other tensors of the same modules: none of neurons, as a wiring wants it said."""
    completed = dict(axes)
    for owner in {name.rpartition(".")[0]: None for name in axes}:
        module = model.get_submodule(owner)
        for attribute, tensor in {**module._parameters, **module._buffers}.items():
            name = f"{owner}.{attribute}".lstrip(".")
            if tensor is not None and tensor.dim() and name not in axes:
                completed[name] = (None,) * tensor.dim()
    return completed


def _exported(model: nn.Module, inputs: tuple) -> torch.export.ExportedProgram:
    fast_path, silent = torch.backends.mha.get_fastpath_enabled(), logging.root.manager.disable
    torch.backends.mha.set_fastpath_enabled(False)  # its one op for a whole layer hides the axes
    logging.disable(logging.ERROR)  # a failed export logs and prints the graph so far
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            return torch.export.export(model, inputs, strict=False)
    except Exception as error:
        reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ValueError(f"model must be one that torch.export can export, which failed: {reason}") from error
    finally:
        logging.disable(silent)
        torch.backends.mha.set_fastpath_enabled(fast_path)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers that a checkpoint holds, by every name they have."""
    kept = set(model.state_dict(keep_vars=True))
    named = [*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)]
    return {name: tensor for name, tensor in named if name in kept}


def _share(module: nn.Module, values: dict[int, Value]) -> None:
    """Ties and splits axes as a wiring demands it of their module, whatever the graph does with them."""

    def axis_of(owner: nn.Module, attribute: str, k: int) -> Axis:
        value = values.get(id({**owner._parameters, **owner._buffers}.get(attribute)))
        return value.axes[k] if value is not None and k < len(value.axes) else ()

    for shared in shared_axes(module):
        halves = [split(axis, x.times) for x in shared if (axis := axis_of(x.owner, x.attribute, x.axis))]
        found = [pair for pair in halves if pair is not None]
        for order, axis in found:
            freeze(order, "folds have an order")
            if size_of(axis) == size_of(found[0][1]):
                unify(found[0][1], axis, "")
    for grouped in grouped_axes(module):
        if grouped.alike and (axis := axis_of(module, grouped.attribute, grouped.axis)):
            split(axis, size_of(axis) // grouped.size)


def _walk(program: torch.export.ExportedProgram, values: dict[str, Value]) -> list[list[Axis]]:
    """Relates the axes of the model's tensors to each other; returns the axes of all tensors met."""
    shapes = {node.name: node.meta.get("val") for node in program.graph.nodes if node.op == "placeholder"}
    inputs: list[Any] = []
    for spec in program.graph_signature.input_specs:
        shape = getattr(shapes[spec.arg.name], "shape", None)
        if spec.target in values and spec.kind in (InputKind.PARAMETER, InputKind.BUFFER):
            inputs.append(values[spec.target])
        elif shape is None:
            inputs.append(shapes[spec.arg.name])
        else:
            what = "it meets a constant tensor of the model"
            why = INPUT if spec.kind is InputKind.USER_INPUT else f"{what}, {spec.target!r}" if spec.target else what
            inputs.append(Value([(Atom(int(n), frozen=why),) for n in shape]))
    interpreter = Interpreter()
    outputs = interpreter.run(program.graph_module, inputs)
    for spec, value in zip(program.graph_signature.output_specs, outputs, strict=True):
        if not isinstance(value, Value):
            continue
        mutated = values.get(spec.target) if spec.kind is OutputKind.BUFFER_MUTATION else None
        for k, axis in enumerate(value.axes):
            if mutated is None:
                _leaves(axis)
            else:
                unify(axis, mutated.axes[k], "its buffer is overwritten")
        for item in value.items or ():
            for axis in item.axes:
                _leaves(axis)
    return interpreter.records


def _leaves(axis: Axis) -> None:
    """Freezes an axis of the output, and has it called so."""
    for atom in atoms(axis):
        if atom.frozen != INPUT:
            atom.frozen = OUTPUT


# From axes to the language of Wiring


class _Writer:
    """Writes axes as groups, folds, runs and blocks, and freezes what that language cannot say."""

    def __init__(self, values: dict[str, Value], records: list[list[Axis]]) -> None:
        self.axes = {name: value.axes for name, value in values.items()}
        self.leads = {name: value.leads for name, value in values.items()}
        self.records = [*records, *self.axes.values()]
        for atom in (atom for axes in self.axes.values() for axis in axes for atom in atoms(axis)):
            if atom.size == 1 or not atom.neurons:
                atom.frozen = atom.frozen or (ONE if atom.neurons else "no weight leads to it")

    def write(self) -> Inferred:
        uniform = self._uniform()
        while not self._settled(uniform):
            pass
        names = _Names()
        for name, axes in self.axes.items():
            written = [_key_terms(axis) for axis in axes]
            for surplus in sorted(range(len(axes)), key=lambda k: _importance(axes[k]))[: max(0, len(axes) - 2)]:
                if len([terms for terms in written if terms]) > 2:
                    written[surplus] = []
            if any(written):
                names.add(name, written, self.leads[name])
        return names.inferred()

    def _uniform(self) -> set[Atom]:
        """Atoms whose order may not depend on the index of another: they are met where that is absent or twice."""
        own = {id(axes) for axes in self.axes.values()}
        found: set[Atom] = set()
        for axes in self.records:
            contexts = [item for axis in axes for item in _contexts(resolve(axis), ())]
            present = Counter(atom for axis in axes for atom in set(atoms(axis)))
            elsewhere = set() if id(axes) in own else {atom for atom, times in present.items() if times == 1}
            for atom, context in contexts:
                if not all(_holds((outer,), elsewhere | set(context)) for outer in atom.outer):
                    found.add(atom)
        return found

    def _settled(self, uniform: set[Atom]) -> bool:
        """One pass over all axes; whether it froze and tied nothing."""
        inner: dict[Atom, set[Atom]] = {}
        alone: set[Atom] = set()
        for axes in self.axes.values():
            moving_axes = [axis for axis in axes if any(not atom.frozen for atom in atoms(axis))]
            if len(moving_axes) > 2:
                freeze(min(moving_axes, key=size_of), "its tensor has more than two axes of neurons")
                return False
            for axis in moving_axes:
                terms = _terms(axis)
                if terms is None or not all(self._seen(term, alone, inner) for term in terms):
                    return False
        owners = Counter(atom for within in inner.values() for atom in within)
        for outer, within in inner.items():
            blocks = outer not in alone and not owners[outer] and len({atom.size for atom in within}) == 1
            for atom in within:
                depends = outer in {part for whole in atom.outer for part in atoms((whole,))}
                blocks &= depends and owners[atom] == 1 and not {atom} & (alone | inner.keys() | uniform)
            if not blocks:
                for atom in within:
                    _stays(atom, outer)
                return False
            first, *others = within
            for other in others:
                unify((first,), (other,), "")
            if others:
                return False
            if any(sum(outer in atoms(axis) for axis in axes) > 1 for axes in self.axes.values()):
                freeze((first,), "a wiring does not relocate a recurrent group in blocks")
                return False
        return True

    def _seen(self, term: list[Atom | Side], alone: set[Atom], inner: dict[Atom, set[Atom]]) -> bool:
        """Notes which atoms a product has, alone or a pair; whether that can be written."""
        moving = _moving(term)
        if len(moving) == 1:
            alone.add(moving[0])
        elif len(moving) == 2 and term.index(moving[1]) == term.index(moving[0]) + 1:
            inner.setdefault(moving[0], set()).add(moving[1])
        elif moving:
            _stays(moving[-1], moving[0])
            return False
        return True


def _stays(inner: Atom, outer: Atom) -> None:
    freeze((inner,), f"the {outer.size} blocks around it {WHOLE}")


def _moving(term: list[Atom | Side]) -> list[Atom]:
    return [factor for factor in term if isinstance(factor, Atom) and not factor.frozen]


def _contexts(axis: Axis, before: tuple[Atom, ...]) -> Iterator[tuple[Atom, tuple[Atom, ...]]]:
    """Every free atom of an axis with the atoms outside it on the same axis."""
    for factor in axis:
        if isinstance(factor, Atom):
            if not factor.frozen:
                yield factor, before
            before = (*before, factor)
        elif isinstance(factor, Side):
            for term in factor.terms:
                yield from _contexts(term, before)
            before = (*before, *atoms((factor,)))


def _holds(axis: Axis, present: set[Atom]) -> bool:
    """Whether the index of an axis is known where these atoms are."""
    for factor in resolve(axis):
        if isinstance(factor, Atom) and not factor.frozen and factor not in present:
            return False
        if isinstance(factor, Side) and not any(_holds(term, present) for term in factor.terms):
            return False
    return True


def _terms(axis: Axis) -> list[list[Atom | Side]] | None:
    """The axis as products side by side; None when something had to be frozen first.

    A Side is left in a product only where nothing in it moves.
    """
    products: list[list[Atom | Side]] = [[]]
    for factor in resolve(axis):
        if not isinstance(factor, Side) or all(atom.frozen for atom in atoms((factor,))):
            products = [[*product, factor] for product in products]
            continue
        sides = [_terms(term) for term in factor.terms]
        if None in sides:
            return None
        flat = [term for side in sides for term in side]
        if all(term == flat[0] for term in flat):
            order = Atom(len(flat), frozen="folds have an order")
            products = [[*product, order, *flat[0]] for product in products]
        elif len(products) > 1 or _moving(products[0]) or _count(products[0]) > _FOLDS_WRITTEN:
            freeze((factor,), "groups side by side lie within blocks")
            return None
        else:
            products = flat * _count(products[0])
    return products


def _count(factors: list[Atom | Side]) -> int:
    return math.prod(factor.size for factor in factors)


@dataclass(frozen=True)
class _Term:
    """folds * group * runs; the group is known by what it is made of."""

    folds: int
    key: Axis
    runs: int
    within: str | None


def _key_terms(axis: Axis) -> list[_Term]:
    """What an axis is, or nothing where it is not neurons."""
    axis = resolve(axis)
    parts = atoms(axis)
    if axis and not any(atom.neurons for atom in parts):
        return []
    if all(atom.frozen for atom in parts):
        return [_Term(1, axis, 1, None)] if axis else []
    found: list[_Term] = []
    for term in _terms(axis) or ():
        moving = _moving(term)
        if not moving:
            found.append(_Term(1, tuple(term), 1, None))
            continue
        first, last = term.index(moving[0]), term.index(moving[-1]) + 1
        why = sorted(
            (atom.frozen for atom in atoms(tuple(term[last:])) if atom.frozen != POSITION),
            key=lambda reason: reason.endswith(WHOLE),
        )
        new = _Term(_count(term[:first]), tuple(moving), _count(term[last:]), why[0] if why else None)
        if found and (found[-1].key, found[-1].runs) == (new.key, new.runs):
            new = _Term(found.pop().folds + new.folds, new.key, new.runs, new.within)
        found.append(new)
    return found


def _importance(axis: Axis) -> int:
    """Which axes stay where a tensor has more than two of neurons: those that move, then inputs and outputs."""
    reasons = [atom.frozen for atom in atoms(axis)]
    return 2 if None in reasons else 1 if reasons and reasons[0] in (INPUT, OUTPUT) else 0


class _Names:
    """Names each group after the first tensor that leads to it."""

    def __init__(self) -> None:
        self.tensors: dict[str, list[list[_Term]]] = {}
        self.proposals: dict[Axis, list[tuple[bool, str]]] = {}

    def add(self, name: str, axes: list[list[_Term]], leads: int | None) -> None:
        self.tensors[name] = axes
        for k, terms in enumerate(axes):
            for term in terms:
                self.proposals.setdefault(term.key, []).append((k != leads, _label(name)))

    def inferred(self) -> Inferred:
        names: dict[Axis, str] = {}
        for key, proposals in self.proposals.items():
            special = {INPUT: "in", OUTPUT: "out"}.get(_why(key))
            label = special or min(proposals, key=lambda item: item[0])[1]
            taken, count = label, 1
            while taken in names.values():
                count += 1
                taken = f"{label}.{count}"
            names[key] = taken
        frozen = [key for key in names if all(atom.frozen for atom in atoms(key))]
        return Inferred(
            axes={
                name: tuple("+".join(_text(term, names) for term in terms) or None for terms in axes)
                for name, axes in self.tensors.items()
            },
            sizes={name: size_of(key) for key, name in names.items()},
            blocks={name: key[0].size for key, name in names.items() if len(key) == 2 and key not in frozen},
            frozen=tuple(names[key] for key in frozen),
            notes=tuple(self._notes(names, frozen)),
        )

    def _notes(self, names: dict[Axis, str], frozen: list[Axis]) -> Iterator[str]:
        for key in frozen:
            yield f"{names[key]} ({size_of(key)}) stays: {_why(key)}."
        told = set()
        for axes in self.tensors.values():
            for term in (term for terms in axes for term in terms):
                if term.within and (term.key, term.runs) not in told:
                    told.add((term.key, term.runs))
                    yield (
                        f"{names[term.key]} ({size_of(term.key)}) trades places in runs of {term.runs}, whose entries"
                        f" keep their order: {term.within}."
                    )


def _why(key: Axis) -> str | None:
    return next((atom.frozen for atom in atoms(key)), ONE)


def _text(term: _Term, names: dict[Axis, str]) -> str:
    folds, runs = f"{term.folds}*" if term.folds > 1 else "", f"*{term.runs}" if term.runs > 1 else ""
    return folds + names[term.key] + runs


def _label(name: str) -> str:
    """The module of a tensor; its own name where it has none."""
    owner, _, attribute = name.rpartition(".")
    layer = re.fullmatch(r"weight_(?:[ih]h|hr)_(l\d+.*)", attribute)
    label = f"{owner}.{layer[1]}".lstrip(".") if layer else owner or attribute
    label = re.sub(r"[*+\s]", "_", label)
    return f"layer{label}" if label.isdecimal() else label

"""A linear layer whose neurons have coordinates, and groups of neurons between such layers.

A slot here is a place on the axes of tensors: neurons move by moving their rows and columns, inputs and outputs too,
whose index buffer moves along. Folds of an axis are the whole group side by side; heads are equal blocks of consecutive
neurons of a group.
"""

import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from numbers import Integral

import torch
from torch import Tensor, nn

from .. import geometry, search
from .._relocation import Mover, Moves, companions, travelling_axes
from ..ops import COMPUTE_DTYPE, placement_cost


class BioLinear(nn.Module):
    """A linear layer between two rows of neurons, each at the cell centres of [0, 1].

    Attributes:
        linear: the nn.Linear.
        in_coordinates, out_coordinates: (in_dim,) and (out_dim,) float32, buffers outside the state_dict.

    Args:
        in_dim, out_dim: widths.
        in_fold, out_fold: how many times the same neurons lie side by side on an axis (two tokens; q, k and v).
        in_head, out_head: into how many heads the neurons of one fold fall.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: one is below 1, folds do not divide the width, heads do not divide a fold.
    """

    def __init__(
        self, in_dim: int, out_dim: int, in_fold: int = 1, out_fold: int = 1, in_head: int = 1, out_head: int = 1
    ) -> None:
        super().__init__()
        check_parts("in", in_dim, in_fold, in_head)
        check_parts("out", out_dim, out_fold, out_head)
        self.in_fold, self.out_fold, self.in_head, self.out_head = in_fold, out_fold, in_head, out_head
        self.linear = nn.Linear(in_dim, out_dim)
        self._place(_line(in_dim // in_fold), _line(out_dim // out_fold))

    def _place(self, of_inputs: Tensor, of_outputs: Tensor) -> None:
        """Coordinates by axis, from those of one fold. Rounded to float32, whatever the dtype of the parameters."""
        for name, fold, one in (("in", self.in_fold, of_inputs), ("out", self.out_fold, of_outputs)):
            self.register_buffer(f"{name}_coordinates", torch.cat([one.float()] * fold), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim)."""
        return self.linear(x)

    def positions(self) -> tuple[Tensor, Tensor]:
        """(out_dim, dim) and (in_dim, dim)."""
        both = self.out_coordinates, self.in_coordinates
        return tuple(x[:, None] if x.dim() == 1 else x for x in both)

    def one_fold(self) -> tuple[Tensor, Tensor]:
        """The same of one fold: the positions of neurons, not of entries."""
        out, source = self.positions()
        return out[: len(out) // self.out_fold], source[: len(source) // self.in_fold]


class BioLinear2D(BioLinear):
    """A linear layer between two sheets of neurons, each a square grid of the cell centres of [0, 1]^2, row by row.

    Attributes:
        linear: the nn.Linear.
        in_coordinates, out_coordinates: (in_dim, 2) and (out_dim, 2) float32, x and y; buffers outside the state_dict.

    Args:
        in_dim, out_dim, in_fold, out_fold: as BioLinear.
        out_ring: puts the outputs on a ring of radius 1/4 round the middle, the first half a step from the x axis.

    Raises:
        TypeError, ValueError: as BioLinear; a fold that is not on a ring is not a square number of neurons.
    """

    def __init__(self, in_dim: int, out_dim: int, in_fold: int = 1, out_fold: int = 1, out_ring: bool = False) -> None:
        super().__init__(in_dim, out_dim, in_fold, out_fold)
        self.out_ring = out_ring
        n = out_dim // out_fold
        of_outputs = geometry.ring(n, offset=0.5, dtype=torch.float64) if out_ring else _sheet("out_dim", n)
        self._place(_sheet("in_dim", in_dim // in_fold), of_outputs)


@dataclass(frozen=True)
class Group:
    """Neurons that move together: the layers on both sides, and what else travels.

    Attributes:
        incoming, outgoing: layers that lead to the neurons and from them.
        norms: LayerNorm modules over them.
        perm: the index buffer of inputs or outputs.
        fixed: whether the neurons never move.
    """

    incoming: tuple[BioLinear, ...] = ()
    outgoing: tuple[BioLinear, ...] = ()
    norms: tuple[nn.LayerNorm, ...] = ()
    perm: Tensor | None = None
    fixed: bool = False

    @property
    def size(self) -> int:
        if self.incoming:
            return self.incoming[0].linear.out_features // self.incoming[0].out_fold
        return self.outgoing[0].linear.in_features // self.outgoing[0].in_fold

    @property
    def heads(self) -> int:
        return self.incoming[0].out_head if self.incoming else self.outgoing[0].in_head

    def importance(self, mean_over_folds: bool) -> Tensor:
        """(n,) sums of |W| over all connections of each neuron, folds added up or averaged, in float64."""
        sides = [(layer, 0, layer.out_fold) for layer in self.incoming]
        sides += [(layer, 1, layer.in_fold) for layer in self.outgoing]
        total = torch.zeros(self.size, dtype=torch.float64)
        for layer, axis, folds in sides:
            weight = layer.linear.weight.detach()
            sums = torch.linalg.vector_norm(weight, 1, 1 - axis, dtype=COMPUTE_DTYPE[weight.dtype]).cpu()
            sums = sums.double().view(folds, -1)
            total += sums.mean(0) if mean_over_folds else sums.sum(0)
        return total

    def placement_cost(self, factors: Mapping[BioLinear, float]) -> Tensor:
        """(n, n) as functional.placement_cost, in which a layer counts with its factor."""
        weights, peers = [], []
        for layer in self.incoming:
            weights.append(_folded_sum(layer.linear.weight, 0, layer.out_fold))
            peers.append(layer.positions()[1])
        for layer in self.outgoing:
            weights.append(_folded_sum(layer.linear.weight, 1, layer.in_fold))
            peers.append(layer.positions()[0])
        coefficients = [factors[layer] for layer in (*self.incoming, *self.outgoing)]
        slots = self.incoming[0].one_fold()[0] if self.incoming else self.outgoing[0].one_fold()[1]
        dtype = COMPUTE_DTYPE[weights[0].dtype]
        slots, *peers = (x.to(dtype) for x in (slots, *peers))
        return placement_cost(slots, weights, peers, len(self.incoming), "l1", coefficients, None)

    def tensors(self) -> Iterator[tuple[Tensor, int, int]]:
        """Everything that travels, with the axis of the neurons and its folds."""
        for layer in self.incoming:
            yield layer.linear.weight, 0, layer.out_fold
            yield layer.linear.bias, 0, layer.out_fold
        for layer in self.outgoing:
            yield layer.linear.weight, 1, layer.in_fold
        for norm in self.norms:
            yield norm.weight, 0, 1
            yield norm.bias, 0, 1
        if self.perm is not None:
            yield self.perm, 0, 1

    @torch.no_grad()
    def permute_(self, order: Tensor, optimizer: torch.optim.Optimizer | None) -> None:
        """Slot p then holds what was in slot order[p]; everywhere, or after a failure nowhere.

        Args:
            order: (n,) int64.
            optimizer: whose state for the parameters follows, and their gradients.
        """
        following = [] if optimizer is None else [optimizer]
        for tensor, _, _ in self.tensors() if following else ():
            check_state(optimizer, tensor)
        mover = Mover()
        by_folds: dict[int, Moves] = {}
        try:
            for tensor, axis, folds in self.tensors():
                if folds not in by_folds:
                    starts = torch.arange(folds)[:, None] * len(order)
                    by_folds[folds] = Moves.of((starts + order).flatten())
                moves = by_folds[folds]
                mover.permute(tensor, {axis: moves})
                for follower, axes in islice(companions(tensor, following), 1, None) if following else ():
                    mover.permute(follower, {k: moves for k, a in axes.items() if a == axis})
        except BaseException:
            mover.undo()
            raise


def visit(cost: Tensor, count: int, heads: Tensor, slots: Tensor) -> tuple[Tensor, int]:
    """BIMT's search among `count` heads: places of heads, then slots; what is there takes its best swap.

    Args:
        cost: (n, n) placement cost; neuron i is in slot i.
        count: how many heads the neurons fall into; a neuron swaps within its head.
        heads: int64, places of heads to visit, in order.
        slots: int64, slots to visit, in order.

    Returns:
        order (n,) for Group.permute_, and the number of swaps. Nothing moves where all swaps together gain no more than
        rounding could feign.
    """
    cost = cost.cpu()
    stay = torch.arange(len(cost))
    if count == 1:
        assignment, swaps = search.greedy(cost, stay, slots)
    else:
        assignment, swaps = _visit_heads(cost, count, heads, slots)
    gain = search.assigned_cost(cost, stay) - search.assigned_cost(cost, assignment) if swaps else 0.0
    return (assignment.argsort(), swaps) if gain > search.resolution(cost) else (stay, 0)


def _visit_heads(cost: Tensor, count: int, heads: Tensor, slots: Tensor) -> tuple[Tensor, int]:
    """Assignment and number of swaps."""
    size = len(cost) // count
    cells = cost.reshape(count, size, count, size)  # [B, j, Q, w]: neuron j of head B in place w of head place Q
    by_head = cells.diagonal(dim1=1, dim2=3).sum(-1)
    place, swaps = search.greedy(by_head, torch.arange(count), heads)
    within = torch.arange(size).repeat(count, 1)
    head_in = place.argsort().tolist()
    for q in dict.fromkeys((slots // size).tolist()):
        head, visited = head_in[q], slots[slots // size == q] % size
        within[head], done = search.greedy(cells[head, :, q], torch.arange(size), visited)
        swaps += done
    return (place[:, None] * size + within).flatten(), swaps


def check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, was {value!r}")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, was {value}")


def checked_index(name: str, value: object, count: int, what: str) -> int:
    """As an int, from an integer or a 0-d tensor of one."""
    try:
        index = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, was {value!r}") from None
    if not 0 <= index < count:
        raise ValueError(f"{name} must be a {what} from 0 to {count - 1}, was {index}")
    return index


def checked_top_k(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"top_k must be an integer, was {value!r}")
    if value < 0:
        raise ValueError(f"top_k must be at least 0, was {value}")
    return int(value)


def check_parts(side: str, dim: object, fold: object, head: object) -> None:
    for name, value in ((f"{side}_dim", dim), (f"{side}_fold", fold), (f"{side}_head", head)):
        check_count(name, value)
    if dim % fold:
        raise ValueError(f"{side}_fold must divide {side}_dim, {dim}, was {fold}")
    if dim // fold % head:
        raise ValueError(f"{side}_head must divide the {dim // fold} neurons of a fold, was {head}")


def check_state(optimizer: torch.optim.Optimizer, tensor: Tensor) -> None:
    for key, value in optimizer.state.get(tensor, {}).items():
        if travelling_axes(key, value, tensor) is None:
            raise ValueError(
                "optimizer must keep state of the shape of its parameter, or one value an axis:"
                f" {key!r} of a parameter of shape {tuple(tensor.shape)} cannot follow its neurons"
            )


def _folded_sum(weight: Tensor, axis: int, folds: int) -> Tensor:
    """|W| added up over the folds of an axis; the weight itself, whose signs do not matter, where there is one."""
    weight = weight.detach()
    return weight if folds == 1 else weight.abs().unflatten(axis, (folds, -1)).sum(axis)


def _line(n: int) -> Tensor:
    return geometry.line(n, dtype=torch.float64)[:, 0]


def _sheet(name: str, n: int) -> Tensor:
    side = round(n**0.5)
    if side**2 != n:
        raise ValueError(f"{name} must be a square number of neurons a fold, was {n}")
    return geometry.grid((side, side), dtype=torch.float64)

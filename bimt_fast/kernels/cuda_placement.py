"""Placement costs and their gradients as CUDA kernels: the functions of reference.py by the same names.

placement_cost waits for the device, to learn whether positions and weights were finite.
"""

import torch
from torch import Tensor

from .cuda_native import DTYPES, coordinates, matrix, metric_arguments, native, queue
from .cuda_swaps import new_flag
from .reference import require_finite, require_positions


def placement_cost(
    slots: Tensor,  # (n, dim)
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
    table: Tensor | None = None,
) -> Tensor:  # (n, n), with the strides of a transpose
    problem = Placement(slots, weights, peers, incoming, metric, coefficients, table)
    n = slots.shape[0]
    by_slot = torch.empty(n, n, dtype=problem.dtype, device=slots.device)
    problem.costs(0, n, 0, n, by_slot.T)
    problem.check()
    return by_slot.T


class Placement:
    """A group's placement problem: makes any block of the placement cost."""

    def __init__(self, slots, weights, peers, incoming, metric, coefficients, table):
        require_positions(metric, table, slots=slots)
        for y in peers:
            require_positions(metric, table, peers=y)
        self.dtype = slots.dtype if table is None else table.dtype
        self.weights, self.metric, self.table = weights, metric, table
        self.rows = [w if k < incoming else w.T for k, w in enumerate(weights)]  # neurons as rows
        self.incoming, self.coefficients = incoming, coefficients
        self.slots, self.peers = coordinates(slots, table), [coordinates(y, table) for y in peers]
        self.stored = weights[0].dtype if weights else self.dtype
        self.flag = new_flag(slots.device)

    def costs(self, first_neuron: int, neurons: int, first_slot: int, slots: int, cost: Tensor) -> None:
        """The costs of so many neurons, from the first on, in so many slots."""
        self._product(first_neuron, neurons, first_slot, slots, matrix(cost), 0)

    def _product(self, first_neuron, neurons, first_slot, slots, cost, diagonal) -> None:
        parts = [
            (*matrix(w.narrow(0, first_neuron, neurons)), y.data_ptr(), coefficient, k >= self.incoming)
            for k, (w, y, coefficient) in enumerate(zip(self.rows, self.peers, self.coefficients, strict=True))
        ]
        points = matrix(self.slots.narrow(0, first_slot, slots))
        code = metric_arguments(self.metric, self.table)
        native(self.slots.device).placement_product(
            queue(self.slots.device),
            DTYPES[self.stored],
            parts,
            neurons,
            points,
            *code,
            cost,
            diagonal,
            self.flag.data_ptr(),
        )

    def check(self) -> None:
        """Waits for the device. Costs can overflow although every weight is finite, so looks again before refusing."""
        if self.flag.item():
            for w in self.weights:
                require_finite(weights=w)


def placement_cost_backward(
    grad: Tensor,  # (n, n)
    slots: Tensor,  # (n, dim)
    weights: list[Tensor],
    peers: list[Tensor],
    incoming: int,
    metric: str,
    coefficients: list[float],
    table: Tensor | None = None,
) -> list[Tensor]:
    device, kernels, code = slots.device, native(slots.device), metric_arguments(metric, table)
    x, ys = coordinates(slots, table), [coordinates(y, table) for y in peers]
    n, dim = x.shape
    tiles = [kernels.peer_tiles(len(y)) for y in ys]
    from_peers = torch.empty(sum(tiles), n, dim, dtype=torch.float64, device=device)
    by_weights, by_peers, done = [], [], 0
    for k, (w, y, coefficient) in enumerate(zip(weights, ys, coefficients, strict=True)):
        by_weights.append(torch.empty_like(w, memory_format=torch.contiguous_format))
        rows, by_rows = (v if k < incoming else v.T for v in (w, by_weights[-1]))
        part = (*matrix(grad), x.data_ptr(), coefficient, k < incoming)
        shared = (queue(device), DTYPES[w.dtype])
        kernels.placement_weight_gradient(*shared, part, matrix(y), *code, matrix(rows), matrix(by_rows))
        if table is not None:
            by_peers.append(torch.zeros_like(peers[k]))
            continue
        from_slots = torch.empty(kernels.slot_tiles(n), len(y), dim, dtype=torch.float64, device=device)
        kernels.placement_position_gradient(
            *shared,
            matrix(grad),
            matrix(rows),
            coefficient,
            x.data_ptr(),
            y.data_ptr(),
            dim,
            code[0],
            from_peers[done:].data_ptr(),
            from_slots.data_ptr(),
        )
        done += tiles[k]
        by_peers.append(_sums(from_slots, y))
    return [torch.zeros_like(slots) if table is not None else _sums(from_peers, x), *by_weights, *by_peers]


def _sums(parts: Tensor, like: Tensor) -> Tensor:
    """Over the first axis, in its order."""
    sums = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    arguments = (DTYPES[sums.dtype], parts.data_ptr(), len(parts), sums.numel(), sums.data_ptr())
    native(like.device).add_parts(queue(like.device), *arguments)
    return sums

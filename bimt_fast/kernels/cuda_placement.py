"""Placement costs, their gradients and the swaps found in them: the functions of reference.py by the same names.

placement_cost and placement_swaps wait for the device, to learn whether positions and weights were finite.
"""

import torch
from torch import Tensor

from . import walks
from .cuda_native import ABSENT, DTYPES, address, coordinates, matrix, metric_arguments, native, queue
from .cuda_swaps import both, launch_best, launch_deltas, new_flag, no_swaps
from .reference import require_finite, require_positions

# Peers whose weights are summed at once. The sums take 16 bytes for each segment, neuron and axis; sql2 wants the last.
_SEGMENT = 64
_LONG_SEGMENT = 1024
# What placement_swaps may take: this part of the weights' bytes, or this much in small layers.
_MEMORY_PART = 10
_LITTLE_MEMORY = 4 << 20
_STRIP = 32  # neurons, at least
_SPANS = 64  # csrc/cuda/swaps.cu: parts of a row in the workspace


def placement_cost(
    slots: Tensor,  # (n, dim)
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
    table: Tensor | None = None,
) -> Tensor:  # (n, n), with the strides of a transpose
    problem = _problem(slots, weights, peers, incoming, metric, coefficients, table, None)
    n = slots.shape[0]
    by_slot = torch.empty(n, n, dtype=problem.dtype, device=slots.device)
    problem.block(0, n, 0, n, by_slot.T)
    problem.check()
    return by_slot.T


def placement_swaps(
    slots: Tensor,  # (n, dim), neuron i in slot i
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
    top_k: int | None,
    table: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # (n,), (n,) int64; with top_k (k,), (k, 2) int64, k = min(top_k, n (n - 1) / 2)
    """Strip after strip of neurons, each with those behind it; every strip's costs are made once and forgotten."""
    memory = max(sum(w.nbytes for w in weights) // _MEMORY_PART, _LITTLE_MEMORY)
    problem = _problem(slots, weights, peers, incoming, metric, coefficients, table, memory)
    n = slots.shape[0]
    best = (
        no_swaps(n, problem.dtype, slots.device) if top_k is None else _BestPairs(problem, min(top_k, n * (n - 1) // 2))
    )
    overflow = new_flag(slots.device)  # of a delta, whose costs are finite all the same
    for first, shape, matrices in _strips(problem, memory - problem.kept_bytes(), top_k is not None):
        if top_k is None:
            launch_best(shape, matrices, overflow, first, None, best)
        else:
            best.add(first, shape, matrices, overflow)
    problem.check()
    if problem.flag.item():
        raise ValueError("cost must be finite, held NaN or infinity")
    return best if top_k is None else best.pairs()


def _strips(problem, memory: int, sorts: bool):
    """First neuron, (rows, columns) and matrices of one swap problem after another."""
    n, size = problem.n, problem.dtype.itemsize
    beside = 1 + (3 * size + 16 if sorts else 0)  # bytes for each cost: the kernel's workspace; deltas and sorting
    memory -= 2 * size * n * _SPANS
    if n * n * (size + beside) <= memory or n <= _STRIP:
        cost = torch.empty(n, n, dtype=problem.dtype, device=problem.flag.device).T
        problem.block(0, n, 0, n, cost)
        yield 0, (n, n), [both(cost, None, None)]
        return
    rows = max(memory // (n * (2 * size + beside)) // _STRIP, 1) * _STRIP
    diagonal = torch.empty(n, dtype=problem.dtype, device=problem.flag.device)
    problem.diagonal(diagonal)
    buffers = [torch.empty(rows * n, dtype=problem.dtype, device=problem.flag.device) for _ in range(2)]
    for first in range(0, n, rows):
        b, width = min(rows, n - first), n - first
        ahead, back = buffers[0][: b * width].view(width, b).T, buffers[1][: b * width].view(b, width).T
        problem.block(first, b, first, width, ahead)
        problem.block(first, width, first, b, back)
        at_home = diagonal[first:].data_ptr()
        yield first, (b, width), [(*matrix(ahead), 0, 0, *matrix(back), 0, 0, at_home)]


class _BestPairs:
    """The best pairs r < s so far, smallest delta first, then lowest indices: as strips come, if sorts are stable."""

    def __init__(self, problem, count: int):
        device = problem.flag.device
        self.n, self.count = problem.n, count
        self.delta = torch.empty(0, dtype=problem.dtype, device=device)
        self.index = torch.empty(0, dtype=torch.int64, device=device)  # r n + s

    def add(self, first: int, shape: tuple[int, int], matrices: list[tuple], flag: Tensor) -> None:
        deltas = torch.full(shape, float("inf"), dtype=self.delta.dtype, device=self.delta.device)
        launch_deltas(shape, matrices, flag, deltas, pairs=True)
        delta, order = deltas.flatten().sort(stable=True)
        delta, order = delta[: self.count], order[: self.count]
        index = (order // shape[1] + first) * self.n + order % shape[1] + first
        delta, order = torch.cat([self.delta, delta]).sort(stable=True)
        self.delta = delta[: self.count].clone()
        self.index = torch.cat([self.index, index])[order[: self.count]]

    def pairs(self) -> tuple[Tensor, Tensor]:
        improves = self.delta < 0
        pairs = torch.stack([self.index // max(self.n, 1), self.index % max(self.n, 1)], 1)
        return torch.where(improves, self.delta, 0), torch.where(improves[:, None], pairs, 0)


def _problem(slots, weights, peers, incoming, metric, coefficients, table, memory):
    kind = _Walks if metric in walks.SEPARABLE and slots.shape[1] else _Products
    return kind(slots, weights, peers, incoming, metric, coefficients, table, memory)


class _Placement:
    """A group's placement problem, of which any block can be made. An entry has the same bits in every block."""

    def __init__(self, slots, weights, peers, incoming, metric, coefficients, table):
        require_positions(metric, table, slots=slots)
        for y in peers:
            require_positions(metric, table, peers=y)
        self.n, self.dtype = slots.shape[0], slots.dtype if table is None else table.dtype
        self.weights, self.coefficients, self.incoming = weights, coefficients, incoming
        self.rows = [w if k < incoming else w.T for k, w in enumerate(weights)]  # neurons as rows
        self.slots, self.peers = coordinates(slots, table), [coordinates(y, table) for y in peers]
        self.flag = new_flag(slots.device)
        self.kernels = native(slots.device)
        self.call = (queue(slots.device), DTYPES[weights[0].dtype if weights else self.dtype])

    def block(self, first_neuron: int, neurons: int, first_slot: int, slots: int, cost: Tensor) -> None:
        """cost[i, p]: of neuron first_neuron + i in slot first_slot + p."""
        self.launch(first_neuron, neurons, first_slot, slots, matrix(cost), 0)

    def diagonal(self, cost: Tensor) -> None:
        """What every neuron costs in its own slot."""
        self.launch(0, self.n, 0, self.n, ABSENT, cost.data_ptr())

    def check(self) -> None:
        """Waits for the device. Costs can overflow although every weight is finite, so looks again before refusing."""
        if self.flag.item():
            for w in self.weights:
                require_finite(weights=w)


class _Products(_Placement):
    """By products with distances, for any metric."""

    def __init__(self, slots, weights, peers, incoming, metric, coefficients, table, memory):
        super().__init__(slots, weights, peers, incoming, metric, coefficients, table)
        self.table = table  # whose address is in the code
        self.code = metric_arguments(metric, table)

    def kept_bytes(self) -> int:
        return 0

    def launch(self, first_neuron, neurons, first_slot, slots, cost, diagonal) -> None:
        parts = [
            (*matrix(w.narrow(0, first_neuron, neurons)), y.data_ptr(), coefficient, k >= self.incoming)
            for k, (w, y, coefficient) in enumerate(zip(self.rows, self.peers, self.coefficients, strict=True))
        ]
        points = matrix(self.slots.narrow(0, first_slot, slots))
        results = (cost, diagonal, self.flag.data_ptr())
        self.kernels.placement_product(*self.call, parts, neurons, points, *self.code, *results)


class _Walks(_Placement):
    """By running sums over sorted peers, axis by axis (walks.py)."""

    def __init__(self, slots, weights, peers, incoming, metric, coefficients, table, memory):
        super().__init__(slots, weights, peers, incoming, metric, coefficients, table)
        self.axes = walks.axes(self.slots, self.peers, metric)
        self.moments = 3 if metric == "sql2" else 2
        self.segment = _LONG_SEGMENT if metric == "sql2" else _SEGMENT
        self.ranks: dict[int, Tensor] = {}  # of slots in walks
        self.kept = None
        if memory is not None:  # several blocks will be made
            while self._border_bytes() > memory / 2 and self.segment < max((len(y) for y in self.peers), default=0):
                self.segment *= 2
            self.kept = [self._borders(axis) for axis in self.axes]

    def kept_bytes(self) -> int:
        return self._border_bytes()

    def _border_count(self, peers: int) -> int:
        return -(-peers // self.segment) + 1

    def _border_bytes(self) -> int:
        return 8 * self.n * self.moments * len(self.axes) * sum(self._border_count(len(y)) for y in self.peers)

    def _borders(self, axis: walks.Axis) -> list[Tensor]:
        made = []
        for rows, peers, coefficient in zip(self.rows, axis.peers, self.coefficients, strict=True):
            shape = (self._border_count(len(peers.y)), self.moments, self.n)
            made.append(torch.empty(shape, dtype=torch.float64, device=rows.device))
            part = self._part(rows, peers, coefficient, made[-1], 0, None)
            self.kernels.placement_moments(*self.call, part, self.segment, self.moments)
        return made

    def _part(self, rows, peers, coefficient, borders, first_neuron, counts) -> tuple:
        sums = (borders.data_ptr() + first_neuron * borders.itemsize, self.n)
        return (*matrix(rows), peers.order.data_ptr(), peers.y.data_ptr(), coefficient, *sums, address(counts))

    def launch(self, first_neuron, neurons, first_slot, slots, cost, diagonal) -> None:
        adds = False
        for k, axis in enumerate(self.axes):
            kept = self._borders(axis) if self.kept is None else self.kept[k]
            for walk in axis.walks:
                walk = self._among(walk, first_slot, slots)
                parts = [
                    self._part(rows.narrow(0, first_neuron, neurons), peers, coefficient, borders, first_neuron, counts)
                    for rows, peers, coefficient, borders, counts in zip(
                        self.rows, axis.peers, self.coefficients, kept, walk.counts, strict=True
                    )
                ]
                where = (slots, walk.order.data_ptr(), walk.u.data_ptr(), walk.scale, address(walk.totals))
                settings = (neurons, (self.segment, self.moments), where, adds)
                self.kernels.placement_walk(*self.call, parts, *settings, cost, diagonal, self.flag.data_ptr())
                adds = True

    def _among(self, walk: walks.Walk, first: int, count: int) -> walks.Walk:
        """The walk by some slots that follow one another, counted from the first of them."""
        if count == self.n:
            return walk
        if id(walk) not in self.ranks:
            self.ranks[id(walk)] = walk.order.argsort()
        kept = self.ranks[id(walk)].narrow(0, first, count).sort().values
        totals = None if walk.totals is None else walk.totals[:, kept].contiguous()
        return walks.Walk(walk.order[kept] - first, walk.u[kept], [c[kept] for c in walk.counts], walk.scale, totals)


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

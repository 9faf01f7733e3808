"""Documented functions over the ops: the connection cost of BIMT, and what every swap of two neurons would change.

Notation of all docstrings: a group has n neurons and n slots; slot p sits at slots[p]; a weight W[out, in] joins two
groups; |W[o, i]| is charged the length of its connection. Sources: Liu, Gan, Tegmark 2023, "Seeing is Believing"
(arXiv 2305.08746), equations of section 2; Koopmans and Beckmann 1957 for the quadratic assignment form.
"""

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from . import ops
from .geometry import TABLE

Pairs = Sequence[tuple[Tensor, Tensor]]


def connection_cost(
    weight: Tensor,
    out_pos: Tensor,
    in_pos: Tensor,
    *,
    metric: str | Tensor = "l1",
    distance_scale: float = 1.0,
    base_length: float = 0.1,
) -> Tensor:
    """The BIMT penalty of one connection: sum |W[o, i]| * (base_length + distance_scale * d(out_pos[o], in_pos[i])).

    Differentiable in weight and both positions, with subgradient sign(0) = 0: no length changes at distance 0, nor
    where the coordinates of a torus are half a turn apart; linf shares its derivative equally among coordinates that
    tie. NaN in the weight passes through.

    Args:
        weight: (n_out, n_in, ...), float64, float32, bfloat16 or float16, any strides. |W| is summed over trailing axes
            (the kernel of a convolution).
        out_pos: (n_out, dim) positions of the rows' neurons, any float dtype (converted to the result's).
        in_pos: (n_in, dim) positions of the columns' neurons, likewise.
        metric: name in the metric table (bimt_fast.geometry.METRICS), or a distance tensor D (P, P), not necessarily
            symmetric: positions are then int64 indices (n,) into it, and d(out, in) = D[out, in]. D is a constant.
        distance_scale: factor of the distance (weight_factor in the published code).
        base_length: length of a connection between neurons at the same place (l0 in the published code).

    Returns:
        0-d tensor of the weight's dtype, float32 for bfloat16 and float16.

    Raises:
        TypeError: weight or positions are not float tensors, or positions with a distance tensor are not int64.
        ValueError: a shape does not fit, devices differ, positions are not finite or (poincare) not inside the unit
            ball, an index is out of range, metric is unknown.
    """
    metric, table = metric_arguments(metric, weight)
    out_pos, in_pos = _positions("out_pos", out_pos, weight, table), _positions("in_pos", in_pos, weight, table)
    distance_scale = ops.check_number("distance_scale", distance_scale)
    base_length = ops.check_number("base_length", base_length)
    terms = [
        torch.ops.bimt_fast.connection_cost(w, out_pos, peers, metric, distance_scale, base_length, table)
        for w, peers in _matrices(weight, in_pos)
    ]
    return terms[0] if len(terms) == 1 else torch.stack(terms).sum()


def add_grad_(
    weight: Tensor,
    grad: Tensor,
    out_pos: Tensor,
    in_pos: Tensor,
    *,
    lam: float = 1.0,
    metric: str | Tensor = "l1",
    distance_scale: float = 1.0,
    base_length: float = 0.1,
) -> Tensor:
    """Adds lam * d connection_cost / d weight to grad in place, in one pass over both; returns the connection cost.

    The same as differentiating `loss + lam * connection_cost(weight, ...)`, without an autograd graph.
    `Wiring.add_grad_` does it for all tensors of a model in one call.

    Args:
        weight: (n_out, n_in, ...), of the dtypes of connection_cost.
        grad: like weight; changed in place.
        out_pos, in_pos, metric, distance_scale, base_length: as in connection_cost.
        lam: strength of the penalty, any sign.

    Returns:
        0-d tensor as connection_cost: the cost, without lam.

    Raises:
        TypeError, ValueError: as connection_cost, before grad is changed.
    """
    metric, table = metric_arguments(metric, weight)
    out_pos, in_pos = _positions("out_pos", out_pos, weight, table), _positions("in_pos", in_pos, weight, table)
    lam = ops.check_number("lam", lam)
    distance_scale = ops.check_number("distance_scale", distance_scale)
    base_length = ops.check_number("base_length", base_length)
    together = _trailing_axes_join(weight) and isinstance(grad, Tensor) and _trailing_axes_join(grad)
    weights, peers = zip(*_matrices(weight, in_pos, together=together), strict=True)
    if weight.dim() != 2 or table is not None or not ops.add_grad_fits(weight, grad, out_pos, in_pos, weight):
        for w, places in zip(weights, peers, strict=True):
            ops.check_connection(w, out_pos, places, metric, table)
        ops.check_float("grad", grad)
        ops.check_shape("grad", grad, *weight.shape)
        ops.check_like("grad", grad, "weight", weight)
    grads, _ = zip(*_matrices(grad, in_pos, together=together), strict=True)
    count = len(weights)
    with torch.no_grad():
        return ops.add_grad(
            list(weights), list(grads), [out_pos] * count, list(peers), metric, lam,
            [1.0] * count, [distance_scale] * count, [base_length] * count, table,
        )  # fmt: skip


def placement_cost(
    slots: Tensor,
    *,
    incoming: Pairs = (),
    outgoing: Pairs = (),
    metric: str | Tensor = "l1",
    distance_scale: float = 1.0,
) -> Tensor:
    """C[i, p]: what the connections of neuron i would cost, were it in slot p and everything else where it is.

    base_length is left out: it adds the same to every slot of a neuron. With a separable metric the compiled
    backends need O(n*m + n^2) operations, where two matrix products need O(n^2 m).

    Args:
        slots: (n, dim) positions of the group's slots, any float dtype.
        incoming: pairs (weight (n, m, ...), peer positions (m, dim)): the group is the out axis.
        outgoing: pairs (weight (m, n, ...), peer positions (m, dim)): the group is the in axis.
        metric: name in the metric table, or a distance tensor: slots and peer positions are then indices into it.
        distance_scale: factor of the distance.

    Returns:
        (n, n) tensor of the weights' dtype (of the slots' or the table's where there are none), float32 for 16-bit
        ones; in memory its columns are contiguous. Differentiable in weights and positions.

    Raises:
        TypeError: a weight or position is not a float tensor, or the weights differ in dtype.
        ValueError: a shape does not fit, devices differ, a value is not finite, metric is unknown.
    """
    sides = _pairs("incoming", incoming), _pairs("outgoing", outgoing)
    distance_scale = ops.check_number("distance_scale", distance_scale)
    weights = [weight for pairs in sides for weight, _ in pairs]
    like = weights[0] if weights else metric if isinstance(metric, Tensor) else slots
    metric, table = metric_arguments(metric, like)
    slots = _positions("slots", slots, like, table)
    incoming, outgoing = (
        [
            part
            for weight, peer in pairs
            for part in _matrices(weight, _positions("peer positions", peer, like, table), peer_axis)
        ]
        for pairs, peer_axis in zip(sides, (1, 0), strict=True)
    )
    parts = [*incoming, *outgoing]
    return torch.ops.bimt_fast.placement_cost(
        slots,
        [weight for weight, _ in parts],
        [peers for _, peers in parts],
        len(incoming),
        metric,
        [distance_scale] * len(parts),
        table,
    )


def swap_deltas(
    cost: Tensor,
    assignment: Tensor | None = None,
    *,
    flow: Tensor | None = None,
    distance: Tensor | None = None,
) -> Tensor:
    """delta[r, s]: the change of the total cost when neurons r and s of one group trade slots, for all pairs.

    delta[r, s] = C[r, a[s]] + C[s, a[r]] - C[r, a[r]] - C[s, a[s]], exact for a group that stands on one axis of
    each of its connections. For a recurrent group, C also holds the recurrent weight's two parts at the current
    slots, and flow and distance add the correction of the pair itself; together they give the exact change of
    sum flow[i, j] * distance[a[i], a[j]], for any flow and distance.

    Args:
        cost: (n, n) placement cost, any strides; 16-bit floats are converted to float32.
        assignment: (n,) int64, the slot of each neuron; None: neuron i sits in slot i.
        flow: (n, n) = coefficient * |W| of the recurrent weight, by neuron.
        distance: (n, n) distances between the slots.

    Returns:
        (n, n) tensor of cost's dtype (float32 for 16-bit ones), symmetric, 0 on the diagonal. Differentiable in cost,
        flow and distance.

    Raises:
        TypeError: not float tensors, or assignment is not int64.
        ValueError: a shape does not fit, devices differ, assignment is no permutation, a value is not finite,
            only one of flow and distance is given.
    """
    _tensors(cost=cost, assignment=assignment, flow=flow, distance=distance)
    return torch.ops.bimt_fast.swap_deltas(*_widened(cost), assignment, *_widened(flow, distance))


def best_swaps(
    cost: Tensor,
    assignment: Tensor | None = None,
    *,
    flow: Tensor | None = None,
    distance: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The best swap of every neuron, without the (n, n) matrix of swap_deltas.

    Args:
        cost, assignment, flow, distance: as in swap_deltas.

    Returns:
        delta: (n,) tensor of cost's dtype, at most 0; differentiable in cost, flow and distance.
        partner: (n,) int64, the neuron to trade slots with: the lowest index on ties, the neuron itself (and
            delta 0) where nothing improves.

    Raises:
        TypeError, ValueError: as swap_deltas.
    """
    _tensors(cost=cost, assignment=assignment, flow=flow, distance=distance)
    return torch.ops.bimt_fast.best_swaps(*_widened(cost), assignment, *_widened(flow, distance))


def label_nulls(
    labels: Tensor,
    neighbours: Tensor,
    positions: Tensor,
    *,
    clusters: int | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> Tensor:
    """How modular labelled neurons are, and how modular they would be with their labels permuted at random.

    A row of three figures for the labels as they are, then one for each permutation: what a z-score and an empirical p
    are made of. The permutations are uniform and independent (Durstenfeld's shuffle with numbers of SplitMix64), the
    same for every backend, and of the first ones the same however many there are.

    Args:
        labels: (n,) int64, the cluster of each neuron, from 0 to clusters - 1; n < 2^31.
        neighbours: (n, degree) int64, the neurons next to each neuron; -1 fills rows that have fewer.
        positions: (n, dim), any float dtype (converted to float64).
        clusters: how many there may be; None: as many as the labels show. Those without neurons count for nothing.
        permutations: how many.
        seed: from 0 to 2^63 - 1, of the permutations.

    Returns:
        (1 + permutations, 3) float64; row 0 is that of the labels as they are. Columns: the fraction of isolated
        neurons, none of whose neighbours has their label; the variance of the neurons' indices within a cluster; the
        mean squared distance of a cluster's neurons to their centroid. The last two are means over the clusters. All
        are 0 where n is 0.

    Raises:
        TypeError: labels or neighbours are not int64, positions no float tensor, a number is no integer.
        ValueError: a shape does not fit, devices differ, a label or neighbour is out of range, a position is not
            finite, a number is negative.
    """
    ops.check_float("labels", labels, (torch.int64,))
    _tensors(positions=positions)
    if not positions.is_floating_point():
        raise TypeError(f"positions must be a floating-point tensor, was {positions.dtype}")
    if clusters is None:
        clusters = int(labels.max()) + 1 if labels.numel() else 0
    counts = (("clusters", clusters), ("permutations", permutations), ("seed", seed))
    clusters, permutations, seed = (ops.check_integer(name, value, 0) for name, value in counts)
    if seed >= 2**63:
        raise ValueError(f"seed must be less than 2^63, was {seed}")
    return torch.ops.bimt_fast.label_nulls(
        labels, neighbours, positions.detach().double(), clusters, permutations, seed
    )


def _tensors(**arguments: Tensor | None) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Tensor) and (value is not None or name not in ("assignment", "flow", "distance")):
            raise TypeError(f"{name} must be a tensor, was {type(value).__name__}")


def metric_arguments(metric: str | Tensor, like: Tensor) -> tuple[str, Tensor | None]:
    """Name and distance tensor, in the compute dtype of a weight, as the ops take them.

    Raises:
        TypeError: metric is neither a name nor a float tensor.
        ValueError: the tensor is not square or not finite.
    """
    if not isinstance(metric, Tensor):
        return metric, None
    if not metric.is_floating_point():
        raise TypeError(f"metric must be a name or a floating-point tensor, was {metric.dtype}")
    if metric.dim() != 2 or metric.shape[0] != metric.shape[1]:
        raise ValueError(f"metric must be a square tensor (P, P), was {tuple(metric.shape)}")
    if not torch.compiler.is_compiling() and not metric.isfinite().all():  # data cannot be asked for while tracing
        raise ValueError("metric must be finite, held NaN or infinity")
    ops.check_float("weight", like)
    return TABLE, metric.detach().to(ops.COMPUTE_DTYPE[like.dtype])


def _positions(name: str, positions: Tensor, like: Tensor, table: Tensor | None) -> Tensor:
    """Positions in the dtype that goes with a weight; the device is left for the ops to compare."""
    ops.check_float("weight" if like is not positions else name, like)
    kind = "a floating-point" if table is None else "an int64"
    fits = isinstance(positions, Tensor) and (
        positions.is_floating_point() if table is None else positions.dtype == torch.int64
    )
    if not fits:
        was = positions.dtype if isinstance(positions, Tensor) else type(positions).__name__
        raise TypeError(f"{name} must be {kind} tensor, was {was}")
    return positions.to(ops.COMPUTE_DTYPE[like.dtype]) if table is None else positions


def _widened(*tensors: Tensor | None) -> Iterator[Tensor | None]:
    """16-bit costs in float32, all else as it is."""
    narrow = (torch.bfloat16, torch.float16)
    return (x.float() if isinstance(x, Tensor) and x.dtype in narrow else x for x in tensors)


def _matrices(
    weight: Tensor, peers: Tensor, peer_axis: int = 1, together: bool | None = None
) -> list[tuple[Tensor, Tensor]]:
    """A weight with trailing axes as matrices with their peers, all of them views: one where the memory allows."""
    if weight.dim() <= 2:
        return [(weight, peers)]
    if together is None:
        together = peer_axis == 1 and _trailing_axes_join(weight)
    if together:
        return [(weight.flatten(1), peers.repeat_interleave(weight.shape[2:].numel(), 0))]
    return [(weight[(slice(None), slice(None), *index)], peers) for index in _indices(weight.shape[2:])]


def _trailing_axes_join(x: Tensor) -> bool:
    """Whether flatten(1) is a view."""
    axes = [(n, step) for n, step in zip(x.shape[1:], x.stride()[1:], strict=True) if n != 1]
    return all(step == n * inner for (_, step), (n, inner) in itertools.pairwise(axes))


def _indices(shape: torch.Size) -> Iterator[tuple[int, ...]]:
    return itertools.product(*map(range, shape))


def _pairs(name: str, pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
    pairs = list(pairs)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{name} must hold pairs (weight, peer positions), held {type(pair).__name__}")
    return pairs

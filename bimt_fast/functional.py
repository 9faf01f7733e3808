"""Documented functions over the ops: the connection cost of BIMT, and what every swap of two neurons would change.

Notation of all docstrings: a group has n neurons and n slots; slot p sits at slots[p]; a weight W[out, in] joins two
groups; |W[o, i]| is charged the length of its connection. Sources: Liu, Gan, Tegmark 2023, "Seeing is Believing"
(arXiv 2305.08746), equations of section 2; Koopmans and Beckmann 1957 for the quadratic assignment form.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from . import ops

Pairs = Sequence[tuple[Tensor, Tensor]]


def connection_cost(
    weight: Tensor,
    out_pos: Tensor,
    in_pos: Tensor,
    *,
    metric: str = "l1",
    distance_scale: float = 1.0,
    base_length: float = 0.1,
) -> Tensor:
    """The BIMT penalty of one connection: sum |W[o, i]| * (base_length + distance_scale * d(out_pos[o], in_pos[i])).

    Differentiable in weight and both positions, with subgradient sign(0) = 0. NaN in the weight passes through.

    Args:
        weight: (n_out, n_in), float32 or float64, any strides.
        out_pos: (n_out, dim) positions of the rows' neurons, any float dtype (converted to the weight's).
        in_pos: (n_in, dim) positions of the columns' neurons, likewise.
        metric: name in the metric table (bimt_fast.geometry.METRICS).
        distance_scale: factor of the distance (weight_factor in the published code).
        base_length: length of a connection between neurons at the same place (l0 in the published code).

    Returns:
        0-d tensor of the weight's dtype.

    Raises:
        TypeError: weight or positions are not float tensors.
        ValueError: a shape does not fit, devices differ, positions are not finite, metric is unknown.
    """
    out_pos, in_pos = _positions("out_pos", out_pos, weight), _positions("in_pos", in_pos, weight)
    distance_scale = ops.check_number("distance_scale", distance_scale)
    base_length = ops.check_number("base_length", base_length)
    return torch.ops.bimt_fast.connection_cost(weight, out_pos, in_pos, metric, distance_scale, base_length)


def add_grad_(
    weight: Tensor,
    grad: Tensor,
    out_pos: Tensor,
    in_pos: Tensor,
    *,
    lam: float = 1.0,
    metric: str = "l1",
    distance_scale: float = 1.0,
    base_length: float = 0.1,
) -> Tensor:
    """Adds lam * d connection_cost / d weight to grad in place, in one pass over both; returns the connection cost.

    The same as differentiating `loss + lam * connection_cost(weight, ...)`, without an autograd graph.
    `Wiring.add_grad_` does it for all tensors of a model in one call.

    Args:
        weight: (n_out, n_in), float32 or float64.
        grad: like weight; changed in place.
        out_pos, in_pos, metric, distance_scale, base_length: as in connection_cost.
        lam: strength of the penalty, any sign.

    Returns:
        0-d tensor of the weight's dtype: the cost, without lam.

    Raises:
        TypeError, ValueError: as connection_cost, before grad is changed.
    """
    out_pos, in_pos = _positions("out_pos", out_pos, weight), _positions("in_pos", in_pos, weight)
    ops.check_connection(weight, out_pos, in_pos, metric)
    ops.check_float("grad", grad)
    ops.check_shape("grad", grad, *weight.shape)
    ops.check_like("grad", grad, "weight", weight)
    lam = ops.check_number("lam", lam)
    distance_scale = ops.check_number("distance_scale", distance_scale)
    base_length = ops.check_number("base_length", base_length)
    with torch.no_grad():
        return torch.ops.bimt_fast.add_grad(
            [weight], [grad], [out_pos], [in_pos], metric, lam, [1.0], [distance_scale], [base_length]
        )


def placement_cost(
    slots: Tensor,
    *,
    incoming: Pairs = (),
    outgoing: Pairs = (),
    metric: str = "l1",
    distance_scale: float = 1.0,
) -> Tensor:
    """C[i, p]: what the connections of neuron i would cost, were it in slot p and everything else where it is.

    base_length is left out: it adds the same to every slot of a neuron. With a separable metric the compiled
    backends need O(n*m + n^2) operations, where two matrix products need O(n^2 m).

    Args:
        slots: (n, dim) positions of the group's slots, any float dtype.
        incoming: pairs (weight (n, m), peer positions (m, dim)): the group is the out axis.
        outgoing: pairs (weight (m, n), peer positions (m, dim)): the group is the in axis.
        metric: name in the metric table.
        distance_scale: factor of the distance.

    Returns:
        (n, n) tensor of the weights' dtype (of the slots' where there are none); in memory its columns are
        contiguous. Differentiable in weights and positions.

    Raises:
        TypeError: a weight or position is not a float tensor, or the weights differ in dtype.
        ValueError: a shape does not fit, devices differ, a value is not finite, metric is unknown.
    """
    incoming, outgoing = _pairs("incoming", incoming), _pairs("outgoing", outgoing)
    pairs = [*incoming, *outgoing]
    distance_scale = ops.check_number("distance_scale", distance_scale)
    weights = [weight for weight, _ in pairs]
    like = weights[0] if weights else slots
    return torch.ops.bimt_fast.placement_cost(
        _positions("slots", slots, like),
        weights,
        [_positions("peer positions", peer, like) for _, peer in pairs],
        len(incoming),
        metric,
        [distance_scale] * len(pairs),
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
        cost: (n, n) placement cost, float32 or float64, any strides.
        assignment: (n,) int64, the slot of each neuron; None: neuron i sits in slot i.
        flow: (n, n) = coefficient * |W| of the recurrent weight, by neuron.
        distance: (n, n) distances between the slots.

    Returns:
        (n, n) tensor of cost's dtype, symmetric, 0 on the diagonal. Differentiable in cost, flow and distance.

    Raises:
        TypeError: not float tensors, or assignment is not int64.
        ValueError: a shape does not fit, devices differ, assignment is no permutation, a value is not finite,
            only one of flow and distance is given.
    """
    _tensors(cost=cost, assignment=assignment, flow=flow, distance=distance)
    return torch.ops.bimt_fast.swap_deltas(cost, assignment, flow, distance)


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
    return torch.ops.bimt_fast.best_swaps(cost, assignment, flow, distance)


def _tensors(**arguments: Tensor | None) -> None:
    for name, value in arguments.items():
        if not isinstance(value, Tensor) and (value is not None or name == "cost"):
            raise TypeError(f"{name} must be a tensor, was {type(value).__name__}")


def _positions(name: str, positions: Tensor, like: Tensor) -> Tensor:
    """Positions in the dtype of the weight they go with; the device is left for the ops to compare."""
    if not isinstance(positions, Tensor) or not positions.is_floating_point():
        was = positions.dtype if isinstance(positions, Tensor) else type(positions).__name__
        raise TypeError(f"{name} must be a floating-point tensor, was {was}")
    ops.check_float("weight", like)
    return positions.to(like.dtype)


def _pairs(name: str, pairs: Pairs) -> list[tuple[Tensor, Tensor]]:
    pairs = list(pairs)
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise TypeError(f"{name} must hold pairs (weight, peer positions), held {type(pair).__name__}")
    return pairs

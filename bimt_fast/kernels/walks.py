"""Separable placement costs on a GPU: what a kernel needs to make them in O(n m + n^2), sorted by torch,
without waiting for the device.

On one coordinate axis, the cost of neuron i at u is a sum over its peers, whose coordinates are y and weights F[i, k]:
with A(u) and B(u) the sums of F and F y over peers with y <= u, and A, B, S those of F, F y, F y^2 over all peers,

    C[i, p] = sum over walks of scale * (u_p A(u_p) - B(u_p)), and a_p A + b_p B + c_p S of the first one.

A walk visits slots in order of u and peers in order of y, and so keeps A(u) and B(u) as running sums. l1 needs one walk
(u = t, the slot's coordinate): sum F |t - y| = 2 (t A(t) - B(t)) - t A + B. On a circle of length 1 a second one takes
back what is nearer the other way round, at u half a turn from t. sql2 needs none: t^2 A - 2 t B + S.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

SEPARABLE = ("l1", "torus-l1", "sql2")


@dataclass(frozen=True)
class Peers:
    """The peers of one connection along one axis."""

    order: Tensor  # (m,) int32, by coordinate
    y: Tensor  # (m,) float64, their coordinates in that order


@dataclass(frozen=True)
class Walk:
    """All slots along one axis, and where each falls among the peers."""

    order: Tensor  # (n,) int32, slots by u
    u: Tensor  # (n,) float64, in that order, as are the rest
    counts: list[Tensor]  # (n,) int32 for each connection: how many of its peers have y <= u
    scale: float  # 0: nothing to walk for
    totals: Tensor | None  # (3, n) float64: a, b, c; None: all 0


@dataclass(frozen=True)
class Axis:
    """One coordinate axis: peers of every connection, and walks, one at least."""

    peers: list[Peers]
    walks: list[Walk]


def axes(
    slots: Tensor,  # (n, dim)
    peers: Sequence[Tensor],  # each (m, dim)
    metric: str,  # of SEPARABLE
) -> list[Axis]:
    """The walks of every axis, on the device of the slots."""
    return [_axis(slots[:, k].double(), [y[:, k].double() for y in peers], metric) for k in range(slots.shape[1])]


def _axis(t: Tensor, ys: list[Tensor], metric: str) -> Axis:
    if metric == "torus-l1":
        t, *ys = (_on_circle(x) for x in (t, *ys))
    elif len(t):  # about the middle: what is far from the origin would cancel
        ends = torch.stack([e for x in (t, *ys) if len(x) for e in (x.amin(), x.amax())])
        middle = (ends.amin() + ends.amax()) / 2
        t, *ys = (x - middle for x in (t, *ys))
    orders = [y.argsort(stable=True) for y in ys]
    sorted_peers = [Peers(order.int(), y[order]) for y, order in zip(ys, orders, strict=True)]
    zero, one = torch.zeros_like(t), torch.ones_like(t)
    if metric == "sql2":
        return Axis(sorted_peers, [_walk(t, sorted_peers, 0.0, torch.stack([t * t, -2 * t, one]))])
    if metric == "l1":
        return Axis(sorted_peers, [_walk(t, sorted_peers, 2.0, torch.stack([-t, one, zero]))])
    early = t < 0.5
    totals = torch.stack([torch.where(early, t + 1, -t), torch.where(early, -one, one), zero])
    across = torch.where(early, t + 0.5, t - 0.5)
    return Axis(sorted_peers, [_walk(t, sorted_peers, 2.0, totals), _walk(across, sorted_peers, -2.0, None)])


def _on_circle(x: Tensor) -> Tensor:
    around = x - x.floor()
    return torch.where(around < 1, around, 0)


def _walk(u: Tensor, peers: list[Peers], scale: float, totals: Tensor | None) -> Walk:
    order = u.argsort(stable=True)
    u = u[order]
    counts = [torch.searchsorted(part.y, u, right=True).int() for part in peers]
    return Walk(order.int(), u, counts, scale, None if totals is None else totals[:, order].contiguous())

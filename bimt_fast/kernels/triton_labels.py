"""The null of modularity figures as Triton kernels: every lane is a permutation, so nothing is gathered but labels."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

_LANES = 128  # of a program, one for each thread: a thread reads again what it alone has written
_AT_ONCE = 2**27  # labels of all permutations of a launch


@triton.jit
def _mixed(z):
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@triton.jit
def _shuffle(shuffled, takers, labels, first, count, n, seed: tl.int64, LANES: tl.constexpr):
    """(n, count) each: labels of the permutations from number `first` on, and which neuron takes that of each neuron.

    Takers are shuffled from the first neuron up, which is the inverse of shuffling labels from the last one down.
    """
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    there = lane < count
    stride = count.to(tl.int64)
    own = takers + lane
    for i in range(n):
        counter = ((first + lane) * n + i + 1).to(tl.uint64)
        random = _mixed(seed.to(tl.uint64) + counter * 0x9E3779B97F4A7C15)
        other = (((random >> 32) * tl.full((), i + 1, tl.uint64)) >> 32).to(tl.int64)
        other = tl.where(first + lane == 0, i, other)
        tl.store(own + i * stride, i, mask=there)
        taker = tl.load(own + other * stride, mask=there)
        tl.store(own + other * stride, i, mask=there)
        tl.store(own + i * stride, taker, mask=there)
    for i in range(n):
        taker = tl.load(own + i * stride, mask=there, other=0)
        tl.store(shuffled + taker * stride + lane, tl.load(labels + i), mask=there)


@triton.jit
def _isolated(nulls, shuffled, neighbours, count, n, degree, LANES: tl.constexpr):
    """How many neurons have no neighbour with their label, to (count, 3)."""
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    there = lane < count
    stride = count.to(tl.int64)
    isolated = tl.zeros((LANES,), tl.float64)
    for i in range(n):
        own = tl.load(shuffled + i * stride + lane, mask=there, other=0)
        accompanied = own < 0
        for k in range(degree):
            near = tl.load(neighbours + k * n.to(tl.int64) + i)
            label = tl.load(shuffled + tl.maximum(near, 0) * stride + lane, mask=there, other=-1)
            accompanied = accompanied | (tl.where(near < 0, -1, label) == own)
        isolated += tl.where(accompanied, 0.0, 1.0)
    tl.store(nulls + lane * 3, isolated, mask=there)


@triton.jit
def _variances(
    nulls, takers, points, order, bounds, shares, count, clusters, WIDTH: tl.constexpr, LANES: tl.constexpr
):  # fmt: skip
    """Sums of the variances within clusters, to (count, 3); points are (n, WIDTH), the index first, padded with zeros.

    order: neurons by label; those of cluster c are from bounds[c] to bounds[c + 1], and shares[c] is 1 / their number.
    """
    lane = tl.program_id(0).to(tl.int64) * LANES + tl.arange(0, LANES)
    there = lane < count
    stride = count.to(tl.int64)
    axis = tl.arange(0, WIDTH)
    variance = tl.zeros((LANES, WIDTH), tl.float64)
    for c in range(clusters):
        begin, end, share = tl.load(bounds + c), tl.load(bounds + c + 1), tl.load(shares + c)
        mean = tl.zeros((LANES, WIDTH), tl.float64)
        for s in range(begin, end):
            member = tl.load(takers + tl.load(order + s) * stride + lane, mask=there, other=0)
            mean += tl.load(points + member[:, None] * WIDTH + axis[None, :])
        mean *= share
        squares = tl.zeros((LANES, WIDTH), tl.float64)
        for s in range(begin, end):
            member = tl.load(takers + tl.load(order + s) * stride + lane, mask=there, other=0)
            offset = tl.load(points + member[:, None] * WIDTH + axis[None, :]) - mean
            squares += offset * offset
        variance += squares * share
    index = tl.sum(tl.where(axis == 0, variance, 0.0), 1)
    position = tl.sum(tl.where(axis == 0, 0.0, variance), 1)
    tl.store(nulls + lane * 3 + 1, index, mask=there)
    tl.store(nulls + lane * 3 + 2, position, mask=there)


def label_nulls(
    labels: Tensor,  # (n,) int64
    neighbours: Tensor,  # (n, degree) int64
    positions: Tensor,  # (n, dim) float64
    clusters: int,
    permutations: int,
    seed: int,
) -> Tensor:  # (1 + permutations, 3)
    n, dim = positions.shape
    nulls = positions.new_zeros(1 + permutations, 3)
    if n == 0:
        return nulls
    ordered, order = labels.sort(stable=True)
    inner = (ordered[1:] != ordered[:-1]).nonzero().flatten() + 1  # waits for the device: how many clusters there are
    bounds = torch.nn.functional.pad(inner, (1, 1))
    bounds[-1] = n
    shares = bounds.diff().double().reciprocal()
    points = positions.new_zeros(n, triton.next_power_of_2(1 + dim))
    points[:, 0] = torch.arange(n, device=points.device)
    points[:, 1 : 1 + dim] = positions
    near, own = neighbours.T.int().contiguous(), labels.int()
    at_once = max(1, _AT_ONCE // n)
    for first in range(0, 1 + permutations, at_once):
        part = nulls[first : first + at_once]
        count = len(part)
        grid = (triton.cdiv(count, _LANES),)
        shuffled, takers = own.new_empty(n, count), own.new_empty(n, count)
        with torch.cuda.device_of(labels):
            _shuffle[grid](shuffled, takers, own, first, count, n, seed, LANES=_LANES, num_warps=_LANES // 32)
            _isolated[grid](part, shuffled, near, count, n, neighbours.shape[1], LANES=_LANES, num_warps=_LANES // 32)
            _variances[grid](
                part, takers, points, order, bounds, shares, count, len(shares),
                WIDTH=points.shape[1], LANES=_LANES, num_warps=_LANES // 16,
            )  # fmt: skip
    return nulls / nulls.new_tensor([n, len(shares), len(shares)])


def aot_cases() -> Iterator[tuple]:
    """For tests/gpu/aot.py."""
    narrow, wide, real, warps = torch.int32, torch.int64, torch.float64, {"num_warps": _LANES // 32}
    yield _shuffle, (narrow, narrow, narrow, 0, 10_001, 400, 7), {"LANES": _LANES, **warps}, 64
    yield _isolated, (real, narrow, narrow, 10_001, 400, 8), {"LANES": _LANES, **warps}, 64
    arguments = (real, narrow, real, wide, wide, real, 10_001, 6)
    yield _variances, arguments, {"WIDTH": 4, "LANES": _LANES, "num_warps": _LANES // 16}, 96

"""Placement costs as Triton kernels, their gradients, and swap searches that never hold the cost matrix.

The functions are those of reference.py. n neurons, m peers of a connection, costs of one of them:

- l1, torus-l1 and sql2 by running sums over sorted peers (walks.py). Their borders, every `segment` peers, are
  kept in float64; from its own border on, an entry takes up the rest of its segment in a masked product of tiles. So
  an entry has the same bits in whatever tile it is made: 2 n (n segment + 64 m) flops for each walk instead of
  2 n^2 m, the weights read about twice, C once written or changed.
- Other metrics by a product with distances made on the fly: 2 n^2 m flops. float32 has its sums over 32 peers in
  float32, all else in float64; nothing is in tf32.
- placement_swaps makes C in strips, of some neurons in all slots and of all neurons in theirs.

Partial sums are added in a fixed order, and the tiles that autotuning chooses between add in the same one.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import TABLE, TABLE_CODE, metric_row
from .reference import require_finite, require_positions
from .triton_metric import INTERPRETED, LINF, distances, factor, folded, gaps, narrowed, scalar, sign, slope
from .triton_search import TILE, keep_best, no_swaps, strided, strip_inputs, write_deltas
from .walks import SEPARABLE, Peers, Walk, axes

_BORDERS_PART = 16  # borders take at most this part of the bytes of the weights
_STRIPS_PART = 32  # and so do strips of C, or this much in small layers
_LITTLE_MEMORY = 2 << 20
_SUMMED = tl.constexpr(32)  # peers, or neurons, over which a product sums before it goes on in float64
_POSITION_TILE = (32, 16)  # slots and peers, of the kernel that differentiates for both
_FREELY_TUNED = 1 << 27  # elements up to which tuning may keep a copy of C


def _config(out_tile: int, neuron_tile: int, warps: int) -> triton.Config:
    return triton.Config({"OUT_TILE": out_tile, "NEURON_TILE": neuron_tile}, num_warps=warps)


def _fitting(configs: list[triton.Config], arguments: dict, **constants: object) -> list[triton.Config]:
    """Those whose sums, and addresses in a table, fit in registers; for a very large result no more than the first."""
    out = arguments["out"]
    wide = getattr(out, "dtype", out) == torch.float64  # ahead of time a dtype stands for a tensor
    if wide or constants.get("METRIC") == TABLE_CODE:
        configs = configs[-1:]
    large = arguments["out_count"] * arguments["neuron_count"] >= _FREELY_TUNED
    return configs[:1] if large else configs


def _tuned(key: list[str], *configs: triton.Config):
    """Tiles of the result, (slots or peers, neurons); the smallest comes last. Interpreted, one."""
    return triton.autotune(
        [_config(64, 64, 4)] if INTERPRETED else list(configs),
        key=key,
        restore_value=["out"],
        prune_configs_by={"early_config_prune": _fitting},
    )


@_tuned(["METRIC", "DIM", "ACCUMULATE"], _config(64, 64, 4), _config(32, 64, 4), _config(32, 32, 4))
@triton.jit
def product_kernel(
    value, value_row, value_col, x, x_row, x_axis, y, y_row, y_axis, table, table_row, table_col,
    signed, signed_row, signed_col, out, out_row, out_col, out_count, neuron_count, inner_count,
    coefficient: tl.float64, METRIC: tl.constexpr, DIM: tl.constexpr, ACCUMULATE: tl.constexpr,
    OUT_TILE: tl.constexpr, NEURON_TILE: tl.constexpr,
):  # fmt: skip
    """out[q, i] = coefficient * sum over c of d(x[q], y[c]) * |value[i, c]|, or added to it.

    With weights `signed` (i, q), it is their sign times the sum over value itself.
    """
    T: tl.constexpr = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    q = tl.program_id(0).to(tl.int64) * OUT_TILE + tl.arange(0, OUT_TILE)
    i = tl.program_id(1).to(tl.int64) * NEURON_TILE + tl.arange(0, NEURON_TILE)
    total = tl.zeros((OUT_TILE, NEURON_TILE), tl.float64)
    for start in range(0, inner_count, _SUMMED):
        c = start + tl.arange(0, _SUMMED).to(tl.int64)
        lengths = distances(
            x, q, out_count, x_row, x_axis, y, c, inner_count, y_row, y_axis, table, table_row, table_col,
            METRIC, DIM, T,
        )  # fmt: skip
        inside = (c < inner_count)[:, None] & (i < neuron_count)[None, :]
        part = tl.load(value + i[None, :] * value_row + c[:, None] * value_col, mask=inside, other=0).to(T)
        if signed is None:
            part = tl.abs(part)
        total += tl.dot(lengths, part, input_precision="ieee", out_dtype=T).to(tl.float64)
    total *= scalar(coefficient, tl.float64)
    inside = (q < out_count)[:, None] & (i < neuron_count)[None, :]
    if signed is not None:
        w = tl.load(signed + i[None, :] * signed_row + q[:, None] * signed_col, mask=inside, other=0).to(T)
        total *= sign(w).to(tl.float64)
    place = out + q[:, None] * out_row + i[None, :] * out_col
    if ACCUMULATE:
        total += tl.load(place, mask=inside, other=0).to(tl.float64)
    tl.store(place, narrowed(total.to(T), out.dtype.element_ty), mask=inside)


@triton.jit
def segment_sums_kernel(
    weight, weight_row, weight_col, order, y, borders, neuron_count, peer_count, segment, segments,
    MOMENTS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """borders[k, s + 1, i] = the sum of |W[i, .]| y^k over the sorted peers of segment s, k < MOMENTS."""
    s = tl.program_id(0).to(tl.int64)
    i = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    rows = i < neuron_count
    zeroth, first, second = (
        tl.zeros((TILE,), tl.float64),
        tl.zeros((TILE,), tl.float64),
        tl.zeros((TILE,), tl.float64),
    )
    for start in range(s * segment, tl.minimum((s + 1) * segment, peer_count), _SUMMED):
        k = start + tl.arange(0, _SUMMED)
        cols = k < peer_count
        at = tl.load(order + k, mask=cols, other=0).to(tl.int64)
        inside = rows[:, None] & cols[None, :]
        w = tl.load(weight + i[:, None] * weight_row + at[None, :] * weight_col, mask=inside, other=0)
        flow = tl.abs(w.to(tl.float64))
        place = tl.load(y + k, mask=cols, other=0)[None, :]
        zeroth += tl.sum(flow, 1)
        first += tl.sum(flow * place, 1)
        if MOMENTS == 3:
            second += tl.sum(flow * (place * place), 1)
    at = borders + (s + 1) * neuron_count + i
    step = tl.cast(segments + 1, tl.int64) * neuron_count
    tl.store(at, zeroth, mask=rows)
    tl.store(at + step, first, mask=rows)
    if MOMENTS == 3:
        tl.store(at + 2 * step, second, mask=rows)


@triton.jit
def borders_kernel(borders, neuron_count, segments, CHUNK: tl.constexpr, TILE: tl.constexpr):
    """Running sums over segments, in place, of each moment; those at the first border are 0."""
    borders += tl.program_id(0).to(tl.int64) * (segments + 1) * neuron_count
    i = tl.program_id(1).to(tl.int64) * TILE + tl.arange(0, TILE)
    rows = i < neuron_count
    tl.store(borders + i, tl.zeros((TILE,), tl.float64), mask=rows)
    before = tl.zeros((TILE,), tl.float64)
    for start in range(1, segments + 1, CHUNK):
        s = start + tl.arange(0, CHUNK).to(tl.int64)
        place = borders + s[:, None] * neuron_count + i[None, :]
        inside = (s <= segments)[:, None] & rows[None, :]
        sums = tl.load(place, mask=inside, other=0)
        tl.store(place, tl.cumsum(sums, 0) + before[None, :], mask=inside)
        before += tl.sum(sums, 0)


@_tuned(["segment", "WALKED", "MOMENTS", "ACCUMULATE"], _config(64, 32, 8), _config(32, 32, 8), _config(32, 32, 4))
@triton.jit
def walk_kernel(
    weight, weight_row, weight_col, order, y, borders, border_row, slots, u, counts, totals, totals_row,
    out, out_row, out_col, out_count, neuron_count, peer_count, segment, segments,
    coefficient: tl.float64, scale: tl.float64, WALKED: tl.constexpr, MOMENTS: tl.constexpr,
    ACCUMULATE: tl.constexpr, OUT_TILE: tl.constexpr, NEURON_TILE: tl.constexpr,
):  # fmt: skip
    """out[slot, i] = coefficient * (scale * (u A(u) - B(u)) + a A + b B + c S), or added to it; slots in order of u."""
    T: tl.constexpr = tl.float64 if out.dtype.element_ty == tl.float64 else tl.float32
    p = tl.program_id(0).to(tl.int64) * OUT_TILE + tl.arange(0, OUT_TILE)
    i = tl.program_id(1).to(tl.int64) * NEURON_TILE + tl.arange(0, NEURON_TILE)
    here, rows = p < out_count, i < neuron_count
    moment = tl.cast(segments + 1, tl.int64) * border_row
    result = tl.zeros((1, 1), tl.float64)
    if WALKED:
        t = tl.load(u + p, mask=here, other=0)
        count = tl.load(counts + p, mask=here, other=0)
        border = count // segment
        begin = tl.where(here, border * segment, peer_count)
        inside = here[:, None] & rows[None, :]
        at = borders + border.to(tl.int64)[:, None] * border_row + i[None, :]
        sums = t[:, None] * tl.load(at, mask=inside, other=0) - tl.load(at + moment, mask=inside, other=0)
        for start in range(tl.min(begin, 0), tl.max(count, 0), _SUMMED):
            if tl.max(((begin <= start) & (start < count)).to(tl.int32), 0) > 0:
                k = start + tl.arange(0, _SUMMED)
                cols = k < peer_count
                passed = (begin[:, None] <= k[None, :]) & (k[None, :] < count[:, None])
                lead = tl.where(passed, t[:, None] - tl.load(y + k, mask=cols, other=0)[None, :], 0).to(T)
                peer = tl.load(order + k, mask=cols, other=0).to(tl.int64)
                place = weight + i[None, :] * weight_row + peer[:, None] * weight_col
                flow = tl.abs(tl.load(place, mask=cols[:, None] & rows[None, :], other=0).to(T))
                sums += tl.dot(lead, flow, input_precision="ieee", out_dtype=T).to(tl.float64)
        result = scalar(scale, tl.float64) * sums
    if totals is not None:
        last = borders + tl.cast(segments, tl.int64) * border_row + i
        for power in tl.static_range(MOMENTS):
            of_slot = tl.load(totals + power * totals_row + p, mask=here, other=0)
            result += of_slot[:, None] * tl.load(last + power * moment, mask=rows, other=0)[None, :]
    result *= scalar(coefficient, tl.float64)
    slot = tl.load(slots + p, mask=here, other=0).to(tl.int64)
    place = out + slot[:, None] * out_row + i[None, :] * out_col
    inside = here[:, None] & rows[None, :]
    if ACCUMULATE:
        result += tl.load(place, mask=inside, other=0).to(tl.float64)
    tl.store(place, result.to(out.dtype.element_ty), mask=inside)


@triton.jit
def position_kernel(
    grad, grad_row, grad_col, weight, weight_row, weight_col, x, x_row, x_axis, y, y_row, y_axis, by_slots, by_peers,
    slot_count, peer_count, METRIC: tl.constexpr, DIM: tl.constexpr, SLOT_TILE: tl.constexpr, PEER_TILE: tl.constexpr,
):  # fmt: skip
    """What a tile adds to the gradients of its slots x and peers y, in (tiles, DIM, slots) and (tiles, DIM, peers).

    The gradient for a distance is the sum over neurons of grad[i, slot] * |W[i, peer]|.
    """
    T: tl.constexpr = tl.float64 if grad.dtype.element_ty == tl.float64 else tl.float32
    p = tl.program_id(0).to(tl.int64) * SLOT_TILE + tl.arange(0, SLOT_TILE)
    k = tl.program_id(1).to(tl.int64) * PEER_TILE + tl.arange(0, PEER_TILE)
    rows, cols = p < slot_count, k < peer_count
    flow = tl.zeros((SLOT_TILE, PEER_TILE), tl.float64)
    for start in range(0, slot_count, _SUMMED):
        i = start + tl.arange(0, _SUMMED).to(tl.int64)
        some = i < slot_count
        g = tl.load(grad + i[None, :] * grad_row + p[:, None] * grad_col, mask=rows[:, None] & some[None, :], other=0)
        at = weight + i[:, None] * weight_row + k[None, :] * weight_col
        w = tl.abs(tl.load(at, mask=some[:, None] & cols[None, :], other=0).to(T))
        flow += tl.dot(g, w, input_precision="ieee", out_dtype=T).to(tl.float64)
    total = folded(x, p, slot_count, x_row, x_axis, y, k, peer_count, y_row, y_axis, METRIC, DIM, T)
    x_gap, y_gap = gaps(x, p, slot_count, x_row, x_axis, y, k, peer_count, y_row, y_axis, METRIC, DIM, T)
    ties = tl.zeros((SLOT_TILE, PEER_TILE), T)
    if METRIC == LINF:
        for d in range(DIM):
            a = tl.load(x + p * x_row + d * x_axis, mask=rows, other=0)
            b = tl.load(y + k * y_row + d * y_axis, mask=cols, other=0)
            ties += (tl.abs(a[:, None] - b[None, :]) == total).to(T)
    common = factor(total, x_gap, y_gap, ties, METRIC)
    for d in range(DIM):
        a = tl.load(x + p * x_row + d * x_axis, mask=rows, other=0)[:, None]
        b = tl.load(y + k * y_row + d * y_axis, mask=cols, other=0)[None, :]
        sums = tl.sum(flow * slope(a, b, common, total, x_gap, METRIC).to(tl.float64), 1)
        tl.store(by_slots + (tl.program_id(1).to(tl.int64) * DIM + d) * slot_count + p, sums, mask=rows)
        sums = tl.sum(flow * slope(b, a, common, total, y_gap, METRIC).to(tl.float64), 0)
        tl.store(by_peers + (tl.program_id(0).to(tl.int64) * DIM + d) * peer_count + k, sums, mask=cols)


class _Part(NamedTuple):
    """One connection of the group."""

    weight: Tensor  # (n, m), neurons first
    peers: Tensor  # (m, dim), or indices (m,) with a table
    table: Tensor | None  # by slot and peer
    coefficient: float


class _Sums(NamedTuple):
    """The running sums of one connection along one axis."""

    part: _Part
    peers: Peers
    borders: Tensor  # (moments, segments + 1, n) float64


def _parts(weights, peers, incoming, coefficients, table) -> list[_Part]:
    parts = []
    for k, (w, y, coefficient) in enumerate(zip(weights, peers, coefficients, strict=True)):
        if k < incoming:
            parts.append(_Part(w, y, table, float(coefficient)))
        else:
            parts.append(_Part(w.T, y, None if table is None else table.T, float(coefficient)))
    return parts


class _Product:
    """Blocks of C for any metric: every distance is made where it is used."""

    def __init__(self, slots: Tensor, parts: Sequence[_Part], metric: str) -> None:
        self.slots, self.parts, self.metric = slots, parts, _constants(metric, slots)

    def fill(self, out: Tensor, neurons: slice, places: slice) -> None:
        """out (places, neurons), in any strides."""
        for k, part in enumerate(self.parts):
            value, x = part.weight[neurons], self.slots[places]
            _launch_product(value, x, part.peers, part.table, None, out, part.coefficient, k > 0, self.metric)


class _Walked:
    """Blocks of C for separable metrics, from running sums at the borders of segments of sorted peers."""

    def __init__(self, slots: Tensor, parts: Sequence[_Part], metric: str) -> None:
        self.moments = 3 if metric == "sql2" else 2
        share = slots.shape[1] * self.moments * 8 * _BORDERS_PART // parts[0].weight.itemsize
        self.segment = max(64, triton.next_power_of_2(share))
        self.walks: list[tuple[Walk, Tensor, list[_Sums]]] = []  # with the rank of every slot
        for axis in axes(slots, [part.peers for part in parts], metric):
            sums = [_Sums(part, at, self._borders(part, at)) for part, at in zip(parts, axis.peers, strict=True)]
            self.walks += [(walk, _inverse(walk.order), sums) for walk in axis.walks]

    def _borders(self, part: _Part, peers: Peers) -> Tensor:
        n, m = part.weight.shape
        segments = triton.cdiv(m, self.segment)
        borders = torch.empty(self.moments, segments + 1, n, dtype=torch.float64, device=part.weight.device)
        inputs = (part.weight, *part.weight.stride(), peers.order, peers.y)
        if segments:
            segment_sums_kernel[(segments, triton.cdiv(n, 64))](
                *inputs, borders, n, m, self.segment, segments, MOMENTS=self.moments, TILE=64
            )
        borders_kernel[(self.moments, triton.cdiv(n, 64))](borders, n, segments, CHUNK=16, TILE=64)
        return borders

    def fill(self, out: Tensor, neurons: slice, places: slice) -> None:
        """out (places, neurons), in any strides."""
        changed = False
        for walk, rank, of_parts in self.walks:
            at = rank[places].sort().values
            order, u = walk.order[at] - places.start, walk.u[at]
            totals = None if walk.totals is None else walk.totals[:, at].contiguous()
            for sums, counts in zip(of_parts, walk.counts, strict=True):
                weight, borders = sums.part.weight[neurons], sums.borders[:, :, neurons]
                walk_kernel[lambda meta: _grid(out, meta)](
                    weight, *weight.stride(), sums.peers.order, sums.peers.y, borders, borders.stride(1),
                    order, u, counts[at], totals, len(order), out, *out.stride(), *out.shape, weight.shape[1],
                    self.segment, borders.shape[1] - 1, sums.part.coefficient, walk.scale,
                    WALKED=walk.scale != 0, MOMENTS=self.moments, ACCUMULATE=changed,
                )  # fmt: skip
                changed = True


def _inverse(order: Tensor) -> Tensor:
    rank = torch.empty(len(order), dtype=torch.int64, device=order.device)
    rank[order.long()] = torch.arange(len(order), device=order.device)
    return rank


def _constants(metric: str, slots: Tensor) -> dict[str, int]:
    if metric == TABLE:
        return {"METRIC": TABLE_CODE, "DIM": 0}
    return {"METRIC": metric_row(metric).code, "DIM": slots.shape[1]}


def _positions(x: Tensor) -> tuple:
    """With two strides; indices have one."""
    return (x, *(*x.stride(), 0)[:2])


def _grid(out: Tensor, meta: dict) -> tuple[int, int]:
    return triton.cdiv(out.shape[0], meta["OUT_TILE"]), triton.cdiv(out.shape[1], meta["NEURON_TILE"])


def _launch_product(value, x, y, table, signed, out, coefficient, accumulate, metric) -> None:
    """out (x, neurons) from value (neurons, y); the table is by x and y."""
    if out.numel():
        product_kernel[lambda meta: _grid(out, meta)](
            *strided(value), *_positions(x), *_positions(y), *strided(table), *strided(signed), *strided(out),
            *out.shape, value.shape[1], coefficient, **metric, ACCUMULATE=accumulate,
        )  # fmt: skip


def _maker(slots, weights, peers, incoming, metric, coefficients, table) -> _Product | _Walked:
    """What makes blocks of C; values have been checked then."""
    require_positions(metric, table, slots=slots)
    for w, y in zip(weights, peers, strict=True):
        require_finite(weights=w)
        require_positions(metric, table, peers=y)
    parts = _parts(weights, peers, incoming, coefficients, table)
    walked = metric in SEPARABLE and parts and slots.numel()
    return (_Walked if walked else _Product)(slots, parts, metric)


def _by_slot(slots: Tensor, table: Tensor | None, shape: tuple[int, int], zero: bool) -> Tensor:
    dtype = slots.dtype if table is None else table.dtype
    return (torch.zeros if zero else torch.empty)(shape, dtype=dtype, device=slots.device)


def placement_cost(
    slots: Tensor,  # (n, dim)
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
    table: Tensor | None = None,
) -> Tensor:  # (n, n), with the strides of a transpose
    n = slots.shape[0]
    with torch.cuda.device_of(slots):
        maker = _maker(slots, weights, peers, incoming, metric, coefficients, table)
        by_slot = _by_slot(slots, table, (n, n), zero=not weights)
        maker.fill(by_slot, slice(0, n), slice(0, n))
    return by_slot.T


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
    constants = _constants(metric, slots)
    by_slots = torch.zeros(slots.shape, dtype=torch.float64 if table is None else slots.dtype, device=slots.device)
    by_weights, by_peers = [torch.empty(w.shape, dtype=w.dtype, device=w.device) for w in weights], []
    with torch.cuda.device_of(slots):
        for k, part in enumerate(_parts(weights, peers, incoming, coefficients, table)):
            out = by_weights[k].T if k < incoming else by_weights[k]  # (m, n)
            table_of_peer = None if part.table is None else part.table.T
            _launch_product(
                grad, part.peers, slots, table_of_peer, part.weight, out, part.coefficient, False, constants
            )
            if table is None:
                from_slots, from_peers = _position_gradients(grad, slots, part, constants)
                by_slots += from_slots
                by_peers.append(from_peers.to(part.peers.dtype))
            else:
                by_peers.append(torch.zeros_like(part.peers))
    return [by_slots.to(slots.dtype), *by_weights, *by_peers]


def _position_gradients(grad: Tensor, slots: Tensor, part: _Part, constants: dict[str, int]) -> tuple[Tensor, Tensor]:
    """In float64: what every tile adds, and then the sum over tiles."""
    (n, m), dim = part.weight.shape, slots.shape[1]
    tiles = tuple(triton.cdiv(size, tile) for size, tile in zip((n, m), _POSITION_TILE, strict=True))
    by_slots, by_peers = (
        torch.empty(count, dim, size, dtype=torch.float64, device=grad.device)
        for count, size in zip(tiles[::-1], (n, m), strict=True)
    )
    if n and m:
        inputs = (*strided(grad), *strided(part.weight), *strided(slots), *strided(part.peers))
        position_kernel[tiles](
            *inputs,
            by_slots,
            by_peers,
            n,
            m,
            **constants,
            SLOT_TILE=_POSITION_TILE[0],
            PEER_TILE=_POSITION_TILE[1],
            num_warps=4,
        )
    return tuple(part.coefficient * x.sum(0).T for x in (by_slots, by_peers))


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
    """Extra memory: a tenth of the weights, and 4 MiB that do not grow with them; top_k adds what it returns.

    A strip goes with the neurons and slots from its own on, so every pair is met once. Where the metric is separable a
    strip of b neurons in slots that lie anywhere costs 2 n (64 m + b segment) flops an axis, and with b proportional to
    the weights of a neuron the whole remains O(n (n + m)).
    """
    n = slots.shape[0]
    with torch.cuda.device_of(slots):
        maker = _maker(slots, weights, peers, incoming, metric, coefficients, table)
        result = _by_slot(slots, table, (1, 1), zero=True)
        height = _strip_height(n, weights, result.itemsize, top_k is not None)
        found = _Best(n, result) if top_k is None else _Pairs(min(top_k, n * (n - 1) // 2), result)
        if weights and n:
            own = _diagonal(maker, n, height, result)
            for first in range(0, n, height):
                strip, on = slice(first, min(first + height, n)), slice(first, n)
                there = result.new_empty(n - first, strip.stop - first)
                back = result.new_empty(strip.stop - first, n - first)
                maker.fill(there, strip, on)
                maker.fill(back, on, strip)
                found.add(strip_inputs(there.T, back.T, own[first:]), first, strip.stop - first)
    return found.best, found.partner


def _strip_height(n: int, weights: Sequence[Tensor], itemsize: int, sorts: bool) -> int:
    """Neurons in a strip: of each there are two rows of C, and where pairs are sorted about forty bytes a pair."""
    room = max(sum(w.nbytes for w in weights) // _STRIPS_PART, _LITTLE_MEMORY)
    each = max(1, n * (2 * itemsize + 40 * sorts))
    return max(1, room // each // TILE) * TILE


def _diagonal(maker: _Product | _Walked, n: int, height: int, like: Tensor) -> Tensor:
    """C[i, i] of all neurons."""
    own = like.new_empty(n)
    for first in range(0, n, height):
        strip = slice(first, min(first + height, n))
        block = like.new_empty(strip.stop - first, strip.stop - first)
        maker.fill(block, strip, strip)
        own[strip] = block.diagonal()
    return own


class _Best:
    """The best partner of every neuron so far."""

    def __init__(self, n: int, like: Tensor) -> None:
        self.best, self.partner = no_swaps(n, like)

    def add(self, inputs: tuple, first: int, rows: int) -> None:
        keep_best(inputs, self.best, self.partner, first, rows)


class _Pairs:
    """The best k pairs so far: the smallest delta first, then the lowest indices; 0 where nothing improves."""

    def __init__(self, k: int, like: Tensor) -> None:
        self.best, self.partner = like.new_zeros(k), torch.zeros(k, 2, dtype=torch.int64, device=like.device)

    def add(self, inputs: tuple, first: int, rows: int) -> None:
        own = inputs[6]
        delta = own.new_empty(rows, len(own))
        write_deltas(inputs, delta, mirror=False)
        r, s = (torch.arange(size, device=own.device) for size in delta.shape)
        delta.masked_fill_(s[None, :] <= r[:, None], 0)
        k = len(self.best)
        new, at = (x[:k] for x in delta.flatten().clamp_(max=0).sort(stable=True))
        pairs = torch.stack([at // len(own), at % len(own)], 1) + first
        pairs.masked_fill_(new[:, None] == 0, 0)
        both, order = torch.cat([self.best, new]).sort(stable=True)
        self.best, self.partner = both[:k], torch.cat([self.partner, pairs])[order[:k]]


def aot_cases():
    """Launches that tests/gpu/aot.py compiles."""
    f4, f8, i4, n = torch.float32, torch.float64, torch.int32, 4096
    yield borders_kernel, (f8, n, 32), {"CHUNK": 16, "TILE": 64}, 128
    metrics = {f4: ("l2", "linf"), torch.bfloat16: ("torus-l2",), torch.float16: (), f8: ("poincare",)}
    for dtype, some in metrics.items():
        wide = f8 if dtype == f8 else f4
        weight, out, positions = (dtype, n, 1), (wide, n, 1), (wide, 2, 1, wide, 2, 1)
        yield segment_sums_kernel, (*weight, i4, f8, f8, n, n, 128, 32), {"MOMENTS": 2, "TILE": 64}, 168
        sizes = (*out, n, n, n, 128, 32, 1.0, 2.0)
        for walked, moments, totals in ((True, 2, f8), (True, 2, None), (False, 3, f8)):
            arguments = (*weight, i4, f8, f8, n, i4, f8, i4, totals, n, *sizes)
            yield walk_kernel, arguments, {"WALKED": walked, "MOMENTS": moments, "ACCUMULATE": True}, 255
        for metric in some:
            constants = {"METRIC": metric_row(metric).code, "DIM": 2}
            forward = (*weight, *positions, None, 0, 0, None, 0, 0, *out, n, n, n, 1.0)
            yield product_kernel, forward, constants | {"ACCUMULATE": True}, 255
            backward = (wide, n, 1, *positions, None, 0, 0, *weight, dtype, 1, n, n, n, n, 1.0)
            yield product_kernel, backward, constants | {"ACCUMULATE": False}, 255
            tiles = {"SLOT_TILE": _POSITION_TILE[0], "PEER_TILE": _POSITION_TILE[1], "num_warps": 4}
            yield position_kernel, (wide, 1, n, *weight, *positions, f8, f8, n, n), constants | tiles, 255
    indices = (torch.int64, 1, 0, torch.int64, 1, 0, f4, 1, 40)
    by_table = (f4, n, 1, *indices, None, 0, 0, f4, n, 1, n, n, n, 1.0)
    yield product_kernel, by_table, {"METRIC": TABLE_CODE, "DIM": 0, "ACCUMULATE": True}, 255

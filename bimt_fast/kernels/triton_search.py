"""Swap searches as Triton kernels: deltas of all pairs, best partners, the published greedy loop, quadratic walks.

The functions are those of reference.py. Pairs are taken in square tiles (I, J) with I <= J: a delta is the same both
ways round, so a tile serves the neurons of I and those of J. Everything is combined in a fixed order and ties go to
the lowest index, so results do not depend on the chip. Costs of n neurons in b bytes each: best_swaps reads the matrix
once, b n^2 bytes (with flow and distance 3 b n^2), in two launches; swap_deltas also writes b n^2.
"""

import time

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .reference import require_finite
from .triton_metric import inlined, scalar

TILE = 64  # neurons along each side of a tile of pairs
_VISIT = 1024  # partners that a program of greedy_swaps looks at together
_WALK_TILE = 32
_WALK_BYTES = 1 << 28  # of the matrices of all walks that are under way


@inlined
def _swap_form(there, there_row, there_col, back, back_row, back_col, own, r, s, r_place, s_place, rows, cols):
    """(X_rs + X_sr) - (X_rr + X_ss) of a tile of pairs, X_rs read from one matrix and X_sr from another."""
    inside = rows[:, None] & cols[None, :]
    x = tl.load(there + r[:, None] * there_row + s_place[None, :] * there_col, mask=inside, other=0)
    y = tl.load(back + s[None, :] * back_row + r_place[:, None] * back_col, mask=inside, other=0)
    of_r, of_s = tl.load(own + r, mask=rows, other=0), tl.load(own + s, mask=cols, other=0)
    return (x + y) - (of_r[:, None] + of_s[None, :])


@inlined
def _places(assignment, r, inside):
    return tl.load(assignment + r, mask=inside, other=0) if assignment is not None else r


@inlined
def _tile_of_deltas(
    there, there_row, there_col, back, back_row, back_col, own,
    assignment, flow, flow_row, flow_col, flow_own, distance, distance_row, distance_col, distance_own,
    r, s, rows, cols,
):  # fmt: skip
    """Deltas of a tile of pairs; flow and distance are both given or both None."""
    p, q = _places(assignment, r, rows), _places(assignment, s, cols)
    delta = _swap_form(there, there_row, there_col, back, back_row, back_col, own, r, s, p, q, rows, cols)
    if flow is not None:
        f = _swap_form(flow, flow_row, flow_col, flow, flow_row, flow_col, flow_own, r, s, r, s, rows, cols)
        inside = rows[:, None] & cols[None, :]
        x = tl.load(distance + p[:, None] * distance_row + q[None, :] * distance_col, mask=inside, other=0)
        y = tl.load(distance + q[None, :] * distance_row + p[:, None] * distance_col, mask=inside, other=0)
        of_r, of_s = tl.load(distance_own + r, mask=rows, other=0), tl.load(distance_own + s, mask=cols, other=0)
        delta += f * ((x + y) - (of_r[:, None] + of_s[None, :]))
    return delta


@triton.jit
def deltas_kernel(
    there, there_row, there_col, back, back_row, back_col, own,
    assignment, flow, flow_row, flow_col, flow_own, distance, distance_row, distance_col, distance_own,
    out, out_row, rows_n, cols_n, MIRROR: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Deltas of the neurons of a strip with all from the strip on; of the tiles on and above the diagonal.

    MIRROR writes each tile a second time, transposed.
    """
    i, j = tl.program_id(0), tl.program_id(1)
    if i <= j:
        r = i.to(tl.int64) * TILE + tl.arange(0, TILE)
        s = j.to(tl.int64) * TILE + tl.arange(0, TILE)
        rows, cols = r < rows_n, s < cols_n
        delta = _tile_of_deltas(
            there, there_row, there_col, back, back_row, back_col, own,
            assignment, flow, flow_row, flow_col, flow_own, distance, distance_row, distance_col, distance_own,
            r, s, rows, cols,
        )  # fmt: skip
        inside = rows[:, None] & cols[None, :]
        tl.store(out + r[:, None] * out_row + s[None, :], delta, mask=inside)
        if MIRROR:
            tl.store(out + s[:, None] * out_row + r[None, :], tl.trans(delta), mask=tl.trans(inside))


@triton.jit
def best_kernel(
    there, there_row, there_col, back, back_row, back_col, own,
    assignment, flow, flow_row, flow_col, flow_own, distance, distance_row, distance_col, distance_own,
    row_best, row_partner, col_best, col_partner, rows_n, cols_n, TILE: tl.constexpr,
):  # fmt: skip
    """The best of every tile (I, J), I <= J, of a strip: for each neuron of J in I, and of I in J where they differ."""
    i, j = tl.program_id(0), tl.program_id(1)
    if i <= j:
        r = i.to(tl.int64) * TILE + tl.arange(0, TILE)
        s = j.to(tl.int64) * TILE + tl.arange(0, TILE)
        rows, cols = r < rows_n, s < cols_n
        delta = _tile_of_deltas(
            there, there_row, there_col, back, back_row, back_col, own,
            assignment, flow, flow_row, flow_col, flow_own, distance, distance_row, distance_col, distance_own,
            r, s, rows, cols,
        )  # fmt: skip
        delta = tl.where(rows[:, None] & cols[None, :], delta, float("inf"))
        least = tl.min(delta, 0)
        first = tl.min(tl.where(delta == least[None, :], r[:, None], cols_n), 0)
        tl.store(col_best + i.to(tl.int64) * cols_n + s, least, mask=cols)
        tl.store(col_partner + i.to(tl.int64) * cols_n + s, first.to(tl.int32), mask=cols)
        if i < j:
            least = tl.min(delta, 1)
            first = tl.min(tl.where(delta == least[:, None], s[None, :], cols_n), 1)
            tl.store(row_best + j.to(tl.int64) * rows_n + r, least, mask=rows)
            tl.store(row_partner + j.to(tl.int64) * rows_n + r, first.to(tl.int32), mask=rows)


@triton.jit
def keep_best_kernel(
    best, partner, row_best, row_partner, col_best, col_partner, first, rows_n, cols_n, TILE: tl.constexpr
):
    """Adds what best_kernel found to what is known, partners in ascending order: the lowest wins where deltas tie."""
    t = tl.program_id(0)
    s = t.to(tl.int64) * TILE + tl.arange(0, TILE)
    cols, rows = s < cols_n, s < rows_n
    value, index = tl.load(best + s, mask=cols), tl.load(partner + s, mask=cols)
    for i in range(0, tl.minimum(tl.cdiv(rows_n, TILE), t + 1)):
        at = tl.cast(i, tl.int64) * cols_n + s
        found = tl.load(col_best + at, mask=cols, other=float("inf"))
        better = found < value
        value = tl.where(better, found, value)
        index = tl.where(better, first + tl.load(col_partner + at, mask=cols, other=0), index)
    if t * TILE < rows_n:
        for j in range(t + 1, tl.cdiv(cols_n, TILE)):
            at = tl.cast(j, tl.int64) * rows_n + s
            found = tl.load(row_best + at, mask=rows, other=float("inf"))
            better = found < value
            value = tl.where(better, found, value)
            index = tl.where(better, first + tl.load(row_partner + at, mask=rows, other=0), index)
    tl.store(best + s, value, mask=cols)
    tl.store(partner + s, index, mask=cols)


@triton.jit
def form_backward_kernel(
    grad, grad_row, grad_col, factor, factor_row, factor_col, factor_own, gathered,
    out, row_at, col_at, sums, n, TILE: tl.constexpr,
):  # fmt: skip
    """(G + G^T) scattered to out[row_at[r], col_at[s]], and its sums over each tile's columns.

    G is the gradient, times the swap form of `factor` read at the places `gathered` where it is given.
    """
    i, j = tl.program_id(0), tl.program_id(1)
    r = i.to(tl.int64) * TILE + tl.arange(0, TILE)
    s = j.to(tl.int64) * TILE + tl.arange(0, TILE)
    rows, cols = r < n, s < n
    inside = rows[:, None] & cols[None, :]
    both = tl.load(grad + r[:, None] * grad_row + s[None, :] * grad_col, mask=inside, other=0)
    both += tl.load(grad + s[None, :] * grad_row + r[:, None] * grad_col, mask=inside, other=0)
    if factor is not None:
        p, q = _places(gathered, r, rows), _places(gathered, s, cols)
        x = tl.load(factor + p[:, None] * factor_row + q[None, :] * factor_col, mask=inside, other=0)
        y = tl.load(factor + q[None, :] * factor_row + p[:, None] * factor_col, mask=inside, other=0)
        of_r, of_s = tl.load(factor_own + r, mask=rows, other=0), tl.load(factor_own + s, mask=cols, other=0)
        both *= (x + y) - (of_r[:, None] + of_s[None, :])
    p, q = _places(row_at, r, rows), _places(col_at, s, cols)
    tl.store(out + p[:, None] * n + q[None, :], both, mask=inside)
    tl.store(sums + j.to(tl.int64) * n + r, tl.sum(both.to(tl.float64), 1), mask=rows)


@triton.jit
def diagonal_backward_kernel(out, row_at, col_at, sums, n, TILE: tl.constexpr):
    """out[r, r] -= the sum of row r of G + G^T."""
    r = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    inside = r < n
    total = tl.zeros((TILE,), tl.float64)
    for j in range(0, tl.cdiv(n, TILE)):
        total += tl.load(sums + tl.cast(j, tl.int64) * n + r, mask=inside, other=0)
    at = out + _places(row_at, r, inside) * n + _places(col_at, r, inside)
    own = tl.load(at, mask=inside, other=0)
    tl.store(at, (own.to(tl.float64) - total).to(own.dtype), mask=inside)


@triton.jit
def greedy_kernel(
    cost, cost_row, cost_col, homes, neuron_in, neuron_stride, slots, slot_stride, visits, swaps, n, BLOCK: tl.constexpr
):
    """One program makes all visits. Its threads wait for one another where one of them has moved a neuron."""
    taken = 0
    for visit in range(0, visits):
        p = tl.load(slots + visit * slot_stride)
        i = tl.load(neuron_in + p * neuron_stride)
        home = tl.load(homes + p)
        best = tl.full((BLOCK,), float("inf"), home.dtype)
        where = tl.zeros((BLOCK,), tl.int64)
        for start in range(0, n, BLOCK):
            q = start + tl.arange(0, BLOCK).to(tl.int64)
            inside = q < n
            j = tl.load(neuron_in + q * neuron_stride, mask=inside, other=0)
            there = tl.load(cost + i * cost_row + q * cost_col, mask=inside, other=0)
            back = tl.load(cost + j * cost_row + p * cost_col, mask=inside, other=0)
            delta = (there + back) - (tl.load(homes + q, mask=inside, other=0) + home)
            delta = tl.where(inside, tl.where(q == p, 0, delta), float("inf"))
            better = delta < best
            best, where = tl.where(better, delta, best), tl.where(better, q, where)
        least = tl.min(best, 0)
        q = tl.min(tl.where(best == least, where, n), 0)
        if q != p:
            j = tl.load(neuron_in + q * neuron_stride)
            here, there = tl.load(cost + j * cost_row + p * cost_col), tl.load(cost + i * cost_row + q * cost_col)
            tl.debug_barrier()
            tl.store(neuron_in + p * neuron_stride, j)
            tl.store(neuron_in + q * neuron_stride, i)
            tl.store(homes + p, here)
            tl.store(homes + q, there)
            taken += 1
            tl.debug_barrier()
    tl.store(swaps, taken)


@inlined
def _mixed(random):
    """The output of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (random ^ (random >> 30)) * 0xBF58476D1CE4E5B9
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB
    return z ^ (z >> 31)


@inlined
def _tenure(random, n):
    """From 2 on, mostly short: n on average, and up to 4 n."""
    part = random.to(tl.float64) * (1.0 / 16777216)
    return 2 + (part * part * part * (4 * n)).to(tl.int64)


@inlined
def _least(delta, rank):
    """The least of a tile and the lowest rank that has it."""
    least = tl.min(tl.min(delta, 1), 0)
    return least, tl.min(tl.min(tl.where(delta == least, rank, 0x7FFFFFFFFFFFFFFF), 1), 0)


@inlined
def _walk_pairs(
    flow, distance, placement, until, slot, offset, iteration, n, SYMMETRIC: tl.constexpr, TILE: tl.constexpr
):
    """Of all pairs, and of those that are not tabu: the least delta, and its rank among those that tie."""
    best, free = tl.full((TILE, TILE), float("inf"), tl.float64), tl.full((TILE, TILE), float("inf"), tl.float64)
    best_rank, free_rank = tl.zeros((TILE, TILE), tl.int64), tl.zeros((TILE, TILE), tl.int64)
    for i in range(0, n, TILE):
        u = i + tl.arange(0, TILE).to(tl.int64)
        p = tl.load(slot + u, mask=u < n, other=0)
        of_u = tl.load(placement + u * n + p, mask=u < n, other=0)
        turned = tl.where(u < offset, u - offset + n, u - offset)
        for j in range(i, n, TILE):
            v = j + tl.arange(0, TILE).to(tl.int64)
            q = tl.load(slot + v, mask=v < n, other=0)
            of_v = tl.load(placement + v * n + q, mask=v < n, other=0)
            inside = (u[:, None] < v[None, :]) & (v[None, :] < n)
            uv, vu = u[:, None] * n + v[None, :], v[None, :] * n + u[:, None]
            pq, qp = p[:, None] * n + q[None, :], q[None, :] * n + p[:, None]
            uq, vp = u[:, None] * n + q[None, :], v[None, :] * n + p[:, None]
            delta = tl.load(placement + uq, mask=inside, other=0) + tl.load(placement + vp, mask=inside, other=0)
            delta -= of_u[:, None] + of_v[None, :]
            f = tl.load(flow + uv, mask=inside, other=0).to(tl.float64) + tl.load(flow + vu, mask=inside, other=0)
            d = tl.load(distance + pq, mask=inside, other=0).to(tl.float64) + tl.load(
                distance + qp, mask=inside, other=0
            )
            delta += f * d * 0.5 if SYMMETRIC else f * d
            delta = tl.where(inside, delta, float("inf"))
            rank = turned[:, None] * n + v[None, :]
            better = (delta < best) | ((delta == best) & (rank < best_rank))
            best, best_rank = tl.where(better, delta, best), tl.where(better, rank, best_rank)
            if until is not None:
                left = tl.minimum(tl.load(until + uq, mask=inside, other=0), tl.load(until + vp, mask=inside, other=0))
                delta = tl.where(left <= iteration, delta, float("inf"))
                better = (delta < free) | ((delta == free) & (rank < free_rank))
                free, free_rank = tl.where(better, delta, free), tl.where(better, rank, free_rank)
    change, rank = _least(best, best_rank)
    free_change, free_rank = _least(free, free_rank)
    return change, rank, free_change, free_rank


@inlined
def _difference(x, y, inside):
    return tl.load(x, mask=inside, other=0).to(tl.float64) - tl.load(y, mask=inside, other=0).to(tl.float64)


@inlined
def _walk_update(flow, distance, placement, u, v, p, q, n, SYMMETRIC: tl.constexpr, TILE: tl.constexpr):
    """What neurons u and v at p and q, who trade places, change in the placement costs of all others: rank two."""
    for i in range(0, n, TILE):
        k = i + tl.arange(0, TILE).to(tl.int64)
        row = _difference(flow + u * n + k, flow + v * n + k, k < n)
        col = _difference(flow + k * n + u, flow + k * n + v, k < n)
        for j in range(0, n, TILE):
            t = j + tl.arange(0, TILE).to(tl.int64)
            change = row[:, None] * _difference(distance + q * n + t, distance + p * n + t, t < n)[None, :]
            if not SYMMETRIC:
                change += col[:, None] * _difference(distance + t * n + q, distance + t * n + p, t < n)[None, :]
            at = placement + k[:, None] * n + t[None, :]
            inside = (k[:, None] < n) & (t[None, :] < n)
            tl.store(at, tl.load(at, mask=inside, other=0) + change, mask=inside)


@triton.jit
def walk_kernel(
    flow, distance, placement, until, slots, found, seeds, limits, costs, done, n, least: tl.float64,
    TABU: tl.constexpr, SYMMETRIC: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One program goes one walk to its end. Placement costs are kept by neuron and slot, so a swap moves no column."""
    walk = tl.program_id(0).to(tl.int64)
    placement, slots, found = placement + walk * n * n, slots + walk * n, found + walk * n
    until = until + walk * n * n if TABU else None
    random = tl.load(seeds + walk).to(tl.uint64)
    limit, least = tl.load(limits + walk), scalar(least, tl.float64)
    best = tl.load(costs + walk)
    current, iteration, goes_on = best, limit * 0, limit > 0
    while goes_on:
        random += 0x9E3779B97F4A7C15
        mixed = _mixed(random)
        offset = ((mixed & 0xFFFF).to(tl.int64) * n) >> 16
        change, rank, free_change, free_rank = _walk_pairs(
            flow, distance, placement, until, slots, offset, iteration, n, SYMMETRIC, TILE
        )
        if TABU:
            promised = current + change < best - least
            change, rank = tl.where(promised, change, free_change), tl.where(promised, rank, free_rank)
            moves = change < float("inf")
        else:
            moves = change < -least
        if moves:
            u, v = (rank // n + offset) % n, rank % n
            p, q = tl.load(slots + u), tl.load(slots + v)
            _walk_update(flow, distance, placement, u, v, p, q, n, SYMMETRIC, TILE)
            tl.debug_barrier()
            tl.store(slots + u, q)
            tl.store(slots + v, p)
            if TABU:
                tl.store(until + u * n + p, iteration + _tenure((mixed >> 16) & 0xFFFFFF, n))
                tl.store(until + v * n + q, iteration + _tenure(mixed >> 40, n))
            tl.debug_barrier()
            current += change
            if current < best - least:
                best = current
                for i in range(0, n, TILE):
                    k = i + tl.arange(0, TILE)
                    tl.store(found + k, tl.load(slots + k, mask=k < n), mask=k < n)
        if TABU:
            iteration += 1
            goes_on = iteration < limit
        else:
            iteration += moves.to(tl.int64)
            goes_on = moves & (iteration < limit)
    tl.store(costs + walk, best)
    tl.store(done + walk, iteration)


def strided(x: Tensor | None) -> tuple:
    """A matrix as kernels take it."""
    return (x, 0, 0) if x is None else (x, *x.stride())


def _pair_inputs(cost: Tensor, assignment: Tensor | None, flow: Tensor | None, distance: Tensor | None) -> tuple:
    """The first arguments of the kernels for the pairs of a whole cost matrix."""
    rows = torch.arange(len(cost), device=cost.device)
    places = rows if assignment is None else assignment
    own = cost[rows, places]
    terms = (*strided(cost), *strided(cost), own, None if assignment is None else assignment.contiguous())
    if flow is None or distance is None:
        return (*terms, *strided(None), None, *strided(None), None)
    return (
        *terms,
        *strided(flow),
        flow.diagonal().contiguous(),
        *strided(distance),
        distance[places, places],
    )


def _tiling(inputs: tuple) -> dict[str, int]:
    """So small a tile, and so many warps, that a thread holds its part of all matrices in registers."""
    cost, flow = inputs[0], inputs[8]
    double, recurrent = getattr(cost, "dtype", cost) == torch.float64, flow is not None  # ahead of time, a dtype
    if double and recurrent:
        return {"TILE": TILE // 2, "num_warps": 8}
    return {"TILE": TILE, "num_warps": 16 if double or recurrent else 8}


def strip_inputs(there: Tensor, back: Tensor, own: Tensor) -> tuple:
    """The same for a strip: there[r, s] is the cost of its neuron r at s, back[s, r] that of s in its slot r."""
    return (*strided(there), *strided(back), own, None, *strided(None), None, *strided(None), None)


def swap_deltas(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> Tensor:  # (n, n)
    _require_finite(cost, flow, distance)
    n = len(cost)
    delta = torch.empty(n, n, dtype=cost.dtype, device=cost.device)
    if n:
        write_deltas(_pair_inputs(cost, assignment, flow, distance), delta, mirror=True)
    return delta


def write_deltas(inputs: tuple, delta: Tensor, mirror: bool) -> None:
    """Fills (rows, cols) deltas of a strip, on and above the diagonal tiles; with mirror, the others too."""
    tiling = _tiling(inputs)
    grid = tuple(triton.cdiv(size, tiling["TILE"]) for size in delta.shape)
    with torch.cuda.device_of(delta):
        deltas_kernel[grid](*inputs, delta, delta.stride(0), *delta.shape, MIRROR=mirror, **tiling)


def swap_deltas_backward(
    grad: Tensor,  # (n, n)
    cost: Tensor,
    assignment: Tensor | None,
    flow: Tensor | None,
    distance: Tensor | None,
) -> list[Tensor]:
    places = None if assignment is None else assignment.contiguous()
    by_cost = _form_backward(grad, None, None, None, places)
    if flow is None or distance is None:
        return [by_cost]
    by_flow = _form_backward(grad, distance, places, None, None)
    return [by_cost, by_flow, _form_backward(grad, flow, None, places, places)]


def _form_backward(
    grad: Tensor, factor: Tensor | None, gathered: Tensor | None, row_at: Tensor | None, col_at: Tensor | None
) -> Tensor:
    n = len(grad)
    out = torch.empty(n, n, dtype=grad.dtype, device=grad.device)
    tiles = triton.cdiv(n, TILE)
    sums = torch.empty(tiles, n, dtype=torch.float64, device=grad.device)
    own = None
    if factor is not None:
        own = factor.diagonal()
        own = own.contiguous() if gathered is None else own[gathered]
    if n:
        with torch.cuda.device_of(grad):
            inputs = (*strided(grad), *strided(factor), own, gathered)
            warps = 16 if grad.dtype == torch.float64 else 8
            form_backward_kernel[(tiles, tiles)](*inputs, out, row_at, col_at, sums, n, TILE=TILE, num_warps=warps)
            diagonal_backward_kernel[(tiles,)](out, row_at, col_at, sums, n, TILE=TILE)
    return out


def best_swaps(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> tuple[Tensor, Tensor]:  # (n,), (n,) int64
    _require_finite(cost, flow, distance)
    return best_swaps_unchecked(cost, assignment, flow, distance)


def best_swaps_unchecked(
    cost: Tensor, assignment: Tensor | None, flow: Tensor | None, distance: Tensor | None
) -> tuple[Tensor, Tensor]:
    """best_swaps of what is known to be finite, without waiting for the device."""
    n = len(cost)
    best, partner = no_swaps(n, cost)
    if n:
        keep_best(_pair_inputs(cost, assignment, flow, distance), best, partner, 0, n)
    return best, partner


def no_swaps(n: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Every neuron stays: what keep_best begins with."""
    return torch.zeros(n, dtype=like.dtype, device=like.device), torch.arange(n, device=like.device)


def keep_best(inputs: tuple, best: Tensor, partner: Tensor, first: int, rows: int) -> None:
    """Lowers best and partner, (n,), by the pairs of `rows` neurons from `first` on with all from `first` on."""
    cols = len(best) - first
    tiling = _tiling(inputs)
    row_tiles, col_tiles = triton.cdiv(rows, tiling["TILE"]), triton.cdiv(cols, tiling["TILE"])
    # Row t: the best partner in tile t, of all neurons where t is in the strip, and of those of the strip for every t.
    shapes = ((col_tiles, rows), (row_tiles, cols))
    found = [torch.empty(shape, dtype=d, device=best.device) for shape in shapes for d in (best.dtype, torch.int32)]
    with torch.cuda.device_of(best):
        best_kernel[(row_tiles, col_tiles)](*inputs, *found, rows, cols, **tiling)
        keep_best_kernel[(col_tiles,)](best[first:], partner[first:], *found, first, rows, cols, TILE=tiling["TILE"])


def _require_finite(cost: Tensor, flow: Tensor | None, distance: Tensor | None) -> None:
    require_finite(cost=cost)
    if flow is not None and distance is not None:
        require_finite(flow=flow, distance=distance)


def greedy_swaps(
    cost: Tensor,  # (n, n)
    neuron_in: Tensor,  # (n,) int64, by slot; changed in place
    slots: Tensor,  # (k,) int64
) -> int:
    """One launch: a visit waits for the one before, and takes as long as reading a row and a column takes."""
    n = len(cost)
    swaps = torch.zeros(1, dtype=torch.int32, device=cost.device)
    if n and len(slots):
        homes = cost[neuron_in, torch.arange(n, device=cost.device)]
        lists = (neuron_in, neuron_in.stride(0), slots, slots.stride(0), len(slots))
        with torch.cuda.device_of(cost):
            greedy_kernel[(1,)](*strided(cost), homes, *lists, swaps, n, BLOCK=_VISIT, num_warps=8)
    return int(swaps)


quadratic_memory, quadratic_ended = reference.quadratic_memory, reference.quadratic_ended


def quadratic_walks(
    flow: Tensor,  # (n, n) int32 or float64
    distance: Tensor,  # (n, n)
    linear: Tensor | None,  # (n, n)
    assignments: Tensor,  # (walks, n) int64
    seeds: Tensor,  # (walks,) int64
    limits: Tensor,  # (walks,) int64
    costs: Tensor,  # (walks,) float64
    done: Tensor,  # (walks,) int64
    memory: Tensor | None,
    tabu: bool,
    symmetric: bool,
    least: float,
    seconds: float,
) -> None:
    """As many walks in one launch as their matrices leave room for, one program each; then a look at the clock."""
    deadline = time.monotonic() + seconds
    memory = memory if memory is not None else quadratic_memory(0, flow.dtype, 1)
    n, walks = flow.shape[0], len(assignments)
    together = max(1, _WALK_BYTES // max(1, 16 * n * n))
    flow, distance = flow.contiguous(), distance.contiguous()
    while (begun := memory[0].item()) < walks:
        some = slice(begun, min(walks, begun + together))
        memory[0] = some.stop
        results = (assignments[some], seeds[some], limits[some], costs[some], done[some])
        _walk_some(flow, distance, linear, *results, tabu, symmetric, least)
        if time.monotonic() >= deadline:
            return


def _walk_some(flow, distance, linear, found, seeds, limits, costs, done, tabu, symmetric, least):
    walks, n = found.shape
    if n == 0:
        costs.zero_()
        done.copy_(limits if tabu else torch.zeros_like(limits))
        return
    slots = found.clone()
    placement = torch.empty(walks, n, n, dtype=torch.float64, device=flow.device)
    rows, f, d = torch.arange(n, device=flow.device), flow.double(), distance.double()
    for walk in range(walks):
        slot = slots[walk]
        torch.matmul(f, d[:, slot].T, out=placement[walk])
        if not symmetric:
            placement[walk] += f.T @ d[slot]
        twice = placement[walk][rows, slot].sum()  # every pair is in the placement cost of both its neurons
        if linear is not None:
            placement[walk] += linear
            twice = twice + 2 * linear.double()[rows, slot].sum()
        costs[walk] = twice / 2
    until = torch.zeros(walks, n, n, dtype=torch.int64, device=flow.device) if tabu else None
    tile = min(_WALK_TILE, max(16, triton.next_power_of_2(n)))
    with torch.cuda.device_of(flow):
        walk_kernel[(walks,)](
            flow, distance, placement, until, slots, found, seeds, limits, costs, done, n, float(least),
            TABU=tabu, SYMMETRIC=symmetric, TILE=tile, num_warps=8,
        )  # fmt: skip


def aot_cases():
    """Launches that tests/gpu/aot.py compiles."""
    i8, n = torch.int64, 4096
    for dtype in (torch.float32, torch.float64):
        matrix = (dtype, n, 1)
        plain = (dtype, 1, n, dtype, 1, n, dtype, None, None, 0, 0, None, None, 0, 0, None)
        recurrent = (dtype, n, 1, dtype, n, 1, dtype, i8, *matrix, dtype, *matrix, dtype)
        found = (dtype, torch.int32, dtype, torch.int32)
        for inputs in (plain, recurrent):
            tiles = _tiling(inputs)
            yield best_kernel, (*inputs, *found, n, n), tiles, 128
            yield deltas_kernel, (*inputs, dtype, n, n, n), tiles | {"MIRROR": True}, 128
        yield keep_best_kernel, (dtype, i8, *found, 0, n, n), {"TILE": TILE}, 64
        tiles = {"TILE": TILE, "num_warps": 16 if dtype == torch.float64 else 8}
        yield form_backward_kernel, (*matrix, *matrix, dtype, i8, dtype, i8, i8, torch.float64, n), tiles, 128
        yield diagonal_backward_kernel, (dtype, i8, i8, torch.float64, n), {"TILE": TILE}, 64
        yield greedy_kernel, (*matrix, dtype, i8, 1, i8, 1, n, torch.int32, n), {"BLOCK": _VISIT, "num_warps": 8}, 96
    for dtype in (torch.int32, torch.float64):
        for tabu in (True, False):
            results = (i8, i8, i8, i8, torch.float64, i8)
            arguments = (dtype, dtype, torch.float64, i8 if tabu else None, *results, 100, 0.5)
            yield (
                walk_kernel,
                arguments,
                {"TABU": tabu, "SYMMETRIC": not tabu, "TILE": _WALK_TILE, "num_warps": 8},
                255,
            )

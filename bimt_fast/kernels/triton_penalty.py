"""The penalty in Triton: connection cost with gradients, and the AdamW step that takes it in.

The functions are those of reference.py, whose docstrings say what each computes. A launch serves one matrix. Its
programs go over tiles; the sums of each program come to a place of its own and are added in a fixed order by another
kernel, in float64. Positions are checked once per description (memo), which waits for the device; nothing else does,
but that total_cost returns a number and that steps kept on the CPU are read there.
"""

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..geometry import TABLE, TABLE_CODE, metric_row
from .reference import require_positions
from .triton_metric import (
    INTERPRETED,
    LINF,
    distances,
    factor,
    folded,
    gaps,
    inlined,
    narrowed,
    scalar,
    sign,
    slope,
    square_root,
)

_TILE = 1024  # elements of the smallest tile of a matrix
_PROGRAMS = 16  # for each multiprocessor, at most: what is resident there once or twice
# Of the kernel that differentiates for positions, whose partial sums must fit their workspace; others are tuned.
_POSITION_TILE = {"BLOCK_ROWS": 32, "BLOCK_COLS": 64, "num_warps": 8}
# Elements of the partial sums of position gradients: this part of the weight's, or this many, or one coordinate's.
_WORKSPACE_PART = 4
_LITTLE_WORKSPACE = 1 << 20
_FREELY_TUNED = 1 << 27  # elements up to which tuning may keep copies of what a kernel changes


def _config(rows: int, cols: int, warps: int) -> triton.Config:
    return triton.Config({"BLOCK_ROWS": rows, "BLOCK_COLS": cols}, num_warps=warps)


# By metric, tiles and warps that keep numbers in local memory on sm_120, as tests/gpu/aot.py found.
_SPILLING = {(TABLE_CODE, 16, 128, 8), (metric_row("linf").code, 8, 128, 4)}


def _fitting(configs: list[triton.Config], arguments: dict, **constants: object) -> list[triton.Config]:
    """Those for a single row or for a matrix; for a very large one no more than the first."""
    single = arguments["row_count"] == 1
    fit = [config for config in configs if single == (config.kwargs["BLOCK_ROWS"] == 1)]
    metric = constants.get("METRIC")
    fit = [config for config in fit if (metric, *config.kwargs.values(), config.num_warps) not in _SPILLING]
    large = arguments["row_count"] * arguments["col_count"] >= _FREELY_TUNED
    return fit[:1] if large else fit


def _tuned(*configs: tuple[int, int, int], changed: tuple[str, ...]):
    """Autotuned for every metric, dimension, dtype and size to a factor of 16; interpreted, there is no choice."""
    return triton.autotune(
        [_config(*config) for config in (((32, 64, 4), (1, 2048, 4)) if INTERPRETED else configs)],
        key=["METRIC", "DIM", "size"],
        restore_value=changed,
        prune_configs_by={"early_config_prune": _fitting},
    )


@inlined
def _length_of_tile(
    rows, cols, x, y, table, row_count, col_count, x_row, x_axis, y_row, y_axis, table_row, table_col, scale, base,
    METRIC: tl.constexpr, DIM: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """base + scale * distance, with both in the dtype T; METRIC None: base alone."""
    if METRIC is None:
        lengths = tl.full((1, 1), base, T)
    else:
        d = distances(
            x, rows, row_count, x_row, x_axis, y, cols, col_count, y_row, y_axis, table, table_row, table_col,
            METRIC, DIM, T,
        )  # fmt: skip
        lengths = base + scale * d
    return lengths


@_tuned((16, 128, 4), (16, 128, 8), (32, 64, 8), (1, 2048, 4), (1, 1024, 4), changed=("grad",))
@triton.jit(do_not_specialize=["size", "first"])
def penalty(
    weight, grad, x, y, table, partial, row_count, col_count, weight_row, weight_col, grad_row, grad_col, x_row, x_axis,
    y_row, y_axis, table_row, table_col, first, size, rise: tl.float64, coefficient: tl.float64, scale: tl.float64,
    base: tl.float64, METRIC: tl.constexpr, DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """grad += rise * sign(weight) * length, unless it is None; partial[first + program] is a part of the cost.

    Bound by memory: 12 bytes an element in float32, 4 without gradient, 6 and 2 in 16 bits.
    """
    T: tl.constexpr = tl.float64 if weight.dtype.element_ty == tl.float64 else tl.float32
    rise, scale, base = scalar(rise, T), scalar(scale, T), scalar(base, T)
    across = (col_count - 1) // BLOCK_COLS + 1
    cost = tl.full((), 0, tl.float64)
    tiles = ((row_count - 1) // BLOCK_ROWS + 1) * across
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        rows = (tile // across).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        cols = (tile % across).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
        inside = (rows < row_count)[:, None] & (cols < col_count)[None, :]
        w = tl.load(weight + rows[:, None] * weight_row + cols[None, :] * weight_col, mask=inside, other=0.0).to(T)
        lengths = _length_of_tile(
            rows, cols, x, y, table, row_count, col_count, x_row, x_axis, y_row, y_axis, table_row, table_col, scale,
            base, METRIC, DIM, T,
        )  # fmt: skip
        cost += tl.sum(tl.sum(tl.abs(w) * lengths, 1).to(tl.float64), 0)
        if grad is not None:
            place = grad + rows[:, None] * grad_row + cols[None, :] * grad_col
            g = tl.load(place, mask=inside, other=0.0).to(T) + sign(w) * lengths * rise
            tl.store(place, narrowed(g, grad.dtype.element_ty), mask=inside)
    tl.store(partial + first + tl.program_id(0), cost * scalar(coefficient, tl.float64))


@triton.jit(do_not_specialize=["count"])
def add_up(partial, result, count, BLOCK: tl.constexpr):
    """result[0] = the sum of the parts, by one program."""
    total = tl.full((BLOCK,), 0, tl.float64)
    for start in range(0, count, BLOCK):
        place = start + tl.arange(0, BLOCK)
        total += tl.load(partial + place, mask=place < count, other=0.0)
    tl.store(result, tl.sum(total, 0).to(result.dtype.element_ty))


@triton.jit(do_not_specialize=["first"])
def penalty_backward(
    grad, weight, x, y, table, by_weight, by_rows, by_cols, row_count, col_count, weight_row, weight_col, grad_row,
    grad_col, x_row, x_axis, y_row, y_axis, table_row, table_col, first, count, scale: tl.float64,
    base: tl.float64, METRIC: tl.constexpr, DIM: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """Gradients of one tile: the weight's own, and sums for both positions over the other side of the tile.

    by_rows (col blocks, count, row_count) and by_cols (row blocks, count, col_count), without the factor grad * scale,
    are for count coordinates from `first` on. What is not wanted is None.
    """
    T: tl.constexpr = tl.float64 if weight.dtype.element_ty == tl.float64 else tl.float32
    across = (col_count - 1) // BLOCK_COLS + 1
    down, right = tl.program_id(0) // across, tl.program_id(0) % across
    rows = down.to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    cols = right.to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
    inside = (rows < row_count)[:, None] & (cols < col_count)[None, :]
    w = tl.load(weight + rows[:, None] * weight_row + cols[None, :] * weight_col, mask=inside, other=0.0).to(T)
    if by_weight is not None:
        scale, base = scalar(scale, T), scalar(base, T)
        lengths = _length_of_tile(
            rows, cols, x, y, table, row_count, col_count, x_row, x_axis, y_row, y_axis, table_row, table_col, scale,
            base, METRIC, DIM, T,
        )  # fmt: skip
        g = tl.load(grad).to(T) * sign(w) * lengths
        place = by_weight + rows[:, None] * grad_row + cols[None, :] * grad_col
        tl.store(place, narrowed(g, by_weight.dtype.element_ty), mask=inside)
    if by_rows is not None or by_cols is not None:
        total = folded(x, rows, row_count, x_row, x_axis, y, cols, col_count, y_row, y_axis, METRIC, DIM, T)
        x_gap, y_gap = gaps(x, rows, row_count, x_row, x_axis, y, cols, col_count, y_row, y_axis, METRIC, DIM, T)
        ties = tl.full((BLOCK_ROWS, BLOCK_COLS), 0, T)
        if METRIC == LINF:
            for d in range(DIM):
                a = tl.load(x + rows * x_row + d * x_axis, mask=rows < row_count, other=0.0)
                b = tl.load(y + cols * y_row + d * y_axis, mask=cols < col_count, other=0.0)
                ties += (tl.abs(a[:, None] - b[None, :]) == total).to(T)
        common = factor(total, x_gap, y_gap, ties, METRIC)
        flow = tl.abs(w)
        for d in range(count):
            a = tl.load(x + rows * x_row + (first + d) * x_axis, mask=rows < row_count, other=0.0)[:, None]
            b = tl.load(y + cols * y_row + (first + d) * y_axis, mask=cols < col_count, other=0.0)[None, :]
            if by_rows is not None:
                sums = tl.sum(flow * slope(a, b, common, total, x_gap, METRIC), 1)
                tl.store(by_rows + (right.to(tl.int64) * count + d) * row_count + rows, sums, mask=rows < row_count)
            if by_cols is not None:
                sums = tl.sum(flow * slope(b, a, common, total, y_gap, METRIC), 0)
                tl.store(by_cols + (down.to(tl.int64) * count + d) * col_count + cols, sums, mask=cols < col_count)


@triton.jit
def add_blocks(partial, grad, result, blocks, count, result_row, result_axis, scale: tl.float64, BLOCK: tl.constexpr):
    """result[i, d] = grad * scale * the sum over blocks of partial (blocks, coordinates, count)."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    d = tl.program_id(1).to(tl.int64)
    total = tl.full((BLOCK,), 0, tl.float64)
    for block in range(blocks):
        at = partial + (block * tl.num_programs(1) + d) * count + place
        total += tl.load(at, mask=place < count, other=0.0).to(tl.float64)
    total *= scalar(scale, tl.float64) * tl.load(grad).to(tl.float64)
    at = result + place * result_row + d * result_axis
    tl.store(at, narrowed(total, result.dtype.element_ty), mask=place < count)


@triton.jit
def count_steps(addresses, corrections, lr: tl.float64, log_beta1: tl.float64, log_beta2: tl.float64, T: tl.constexpr):
    """Counts up the steps at these addresses; corrections[k] = lr / (1 - beta1^step), 1 / sqrt(1 - beta2^step)."""
    k = tl.program_id(0)
    step = tl.load(addresses + k).to(tl.pointer_type(T))
    taken = tl.load(step) + 1
    tl.store(step, taken)
    taken = taken.to(tl.float64)
    rate = scalar(lr, tl.float64) / (1 - tl.exp2(taken * scalar(log_beta1, tl.float64)))
    tl.store(corrections + 2 * k, rate)
    tl.store(corrections + 2 * k + 1, 1 / tl.sqrt(1 - tl.exp2(taken * scalar(log_beta2, tl.float64))))


@_tuned((8, 128, 4), (8, 128, 8), (16, 64, 8), (1, 1024, 4), (1, 2048, 8), changed=("weight", "mean", "square"))
@triton.jit(do_not_specialize=["size", "first"])
def adamw_step(
    weight, grad, mean, square, corrections, x, y, table, partial, row_count, col_count, weight_row, weight_col,
    grad_row, grad_col, mean_row, mean_col, square_row, square_col, x_row, x_axis, y_row, y_axis, table_row, table_col,
    first, size, rate: tl.float64, root_factor: tl.float64, kept: tl.float64, forget1: tl.float64, beta2: tl.float64,
    forget2: tl.float64, eps: tl.float64, rise: tl.float64, shrink: tl.float64, coefficient: tl.float64,
    scale: tl.float64, base: tl.float64, METRIC: tl.constexpr, DIM: tl.constexpr, CHARGED: tl.constexpr,
    PROXIMAL: tl.constexpr, BLOCK_ROWS: tl.constexpr, BLOCK_COLS: tl.constexpr,
):  # fmt: skip
    """One step for one matrix; the bias corrections come from the device where `corrections` is not None.

    kept = 1 - lr * weight_decay, forget = 1 - beta, rise = lam * coefficient and shrink = lr * rise. Bound by memory:
    28 bytes an element in float32, 14 in 16 bits.
    """
    T: tl.constexpr = tl.float64 if weight.dtype.element_ty == tl.float64 else tl.float32
    if corrections is not None:
        step_rate, step_root = tl.load(corrections).to(T), tl.load(corrections + 1).to(T)
    else:
        step_rate, step_root = scalar(rate, T), scalar(root_factor, T)
    kept, forget1, beta2, forget2, eps = (
        scalar(kept, T), scalar(forget1, T), scalar(beta2, T), scalar(forget2, T), scalar(eps, T),
    )  # fmt: skip
    rise, shrink, scale, base = scalar(rise, T), scalar(shrink, T), scalar(scale, T), scalar(base, T)
    across = (col_count - 1) // BLOCK_COLS + 1
    cost = tl.full((), 0, tl.float64)
    tiles = ((row_count - 1) // BLOCK_ROWS + 1) * across
    for tile in range(tl.program_id(0), tiles, tl.num_programs(0)):
        rows = (tile // across).to(tl.int64) * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
        cols = (tile % across).to(tl.int64) * BLOCK_COLS + tl.arange(0, BLOCK_COLS)
        inside = (rows < row_count)[:, None] & (cols < col_count)[None, :]
        weights = weight + rows[:, None] * weight_row + cols[None, :] * weight_col
        means = mean + rows[:, None] * mean_row + cols[None, :] * mean_col
        squares = square + rows[:, None] * square_row + cols[None, :] * square_col
        grads = grad + rows[:, None] * grad_row + cols[None, :] * grad_col
        w = tl.load(weights, mask=inside, other=0.0).to(T)
        g = tl.load(grads, mask=inside, other=0.0).to(T)
        m = tl.load(means, mask=inside, other=0.0).to(T)
        v = tl.load(squares, mask=inside, other=0.0).to(T)
        if CHARGED:
            lengths = _length_of_tile(
                rows, cols, x, y, table, row_count, col_count, x_row, x_axis, y_row, y_axis, table_row, table_col,
                scale, base, METRIC, DIM, T,
            )  # fmt: skip
            cost += tl.sum(tl.sum(tl.abs(w) * lengths, 1).to(tl.float64), 0)
            if not PROXIMAL:
                g += sign(w) * lengths * rise
        m += (g - m) * forget1
        v = v * beta2 + g * g * forget2
        root = square_root(v) * step_root + eps
        w = w * kept - m / root * step_rate
        if CHARGED and PROXIMAL:
            w = sign(w) * tl.maximum(tl.abs(w) - lengths * shrink, 0.0, tl.PropagateNan.ALL)
        tl.store(weights, narrowed(w, weight.dtype.element_ty), mask=inside)
        tl.store(means, narrowed(m, mean.dtype.element_ty), mask=inside)
        tl.store(squares, narrowed(v, square.dtype.element_ty), mask=inside)
    if CHARGED:
        tl.store(partial + first + tl.program_id(0), cost * scalar(coefficient, tl.float64))


class _Launch(NamedTuple):
    """What one matrix brings to every launch but its gradient, of which it keeps where in memory it starts."""

    k: int  # which tensor of the list it is, or is a part of
    weight: Tensor  # (rows, cols), by preference with unit stride along its rows
    moments: tuple[Tensor, ...]
    grad_start: int
    sides: tuple[Tensor | None, Tensor | None, Tensor | None]  # positions of rows and of columns, table
    integers: tuple[int, ...]  # shape, strides, place of the partial sums, size
    constants: dict[str, int | None]
    programs: int
    flipped: bool  # rows are in neurons


def _views(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """Tensors of one shape as (rows, cols): memory that runs on is one row, more than two axes make many matrices."""
    sizes: list[int] = []
    strides: list[list[int]] = []
    for axis in sorted(range(tensors[0].dim()), key=lambda k: -tensors[0].stride(k)):
        size, steps = tensors[0].shape[axis], [x.stride(axis) for x in tensors]
        if size != 1 and sizes and strides[-1] == [size * step for step in steps]:
            sizes[-1], strides[-1] = sizes[-1] * size, steps
        elif size != 1:
            sizes.append(size)
            strides.append(steps)
    while len(sizes) < 2:
        sizes, strides = [1, *sizes], [[0] * len(tensors), *strides]
    for index in itertools.product(*map(range, sizes[:-2])):
        starts = [sum(i * s for i, s in zip(index, steps, strict=False)) for steps in zip(*strides, strict=True)]
        yield [
            x.as_strided(sizes[-2:], (row, col), x.storage_offset() + start)
            for x, start, row, col in zip(tensors, starts, *strides[-2:], strict=True)
        ]


def _launch(
    k: int, views: Sequence[Tensor], start: int, x: Tensor | None, y: Tensor | None, metric: str | None,
    table: Tensor | None, first: int,
) -> _Launch:  # fmt: skip
    """Of views (rows, cols) of a weight, its gradient if any, and moments; start is where that gradient begins."""
    flips = views[0].shape[1] == 1 or (views[0].shape[0] > 1 and views[0].stride(0) < views[0].stride(1))
    if flips:
        views, x, y, table = [v.T for v in views], y, x, None if table is None else table.T
    sides = (x, y, table)
    rows, cols = views[0].shape
    layout = [stride for tensor in views for stride in tensor.stride()]
    layout += [0, 0] * (2 - len(views))  # no gradient
    for side in sides:
        layout += (0, 0) if side is None else (*side.stride(), 0)[:2]
    magnitude = (rows * cols).bit_length() // 4
    return _Launch(
        k,
        views[0],
        tuple(views[2:]),
        views[1].storage_offset() - start if len(views) > 1 else 0,
        sides,
        (rows, cols, *layout, first, -1 - magnitude if rows == 1 else magnitude),
        _constants(metric, x),
        _programs(views[0]),
        flips,
    )


def _constants(metric: str | None, x: Tensor | None) -> dict[str, int | None]:
    if metric is None or metric == TABLE:
        return {"METRIC": metric and TABLE_CODE, "DIM": 0}
    return {"METRIC": metric_row(metric).code, "DIM": x.shape[1]}


def _programs(weight: Tensor) -> int:
    resident = 2
    if weight.is_cuda:
        resident = _PROGRAMS * torch.cuda.get_device_properties(weight.device).multi_processor_count
    return min(-(-weight.numel() // _TILE), resident)


def _compute(weight: Tensor) -> torch.dtype:
    return torch.float64 if weight.dtype == torch.float64 else torch.float32


def _sum(partial: Tensor, weight: Tensor) -> Tensor:
    result = torch.empty((), dtype=_compute(weight), device=weight.device)
    add_up[(1,)](partial, result, len(partial), BLOCK=1024)
    return result


def _moved(grad: Tensor, start: int) -> Tensor:
    return grad.as_strided((1,), (1,), grad.storage_offset() + start) if start else grad


def connection_cost(
    weight: Tensor,  # (n_out, n_in)
    out_pos: Tensor,  # (n_out, dim)
    in_pos: Tensor,  # (n_in, dim)
    metric: str,
    distance_scale: float,
    base_length: float,
    table: Tensor | None = None,  # (P, P), with metric "table": then the positions are indices (n,) into it
) -> Tensor:  # (), of the compute dtype
    return _cost([weight], [out_pos], [in_pos], metric, [1.0], [distance_scale], [base_length], table)


def total_cost(
    weights: list[Tensor],
    out_pos: list[Tensor],
    in_pos: list[Tensor],
    metric: str,
    coefficients: list[float],
    distance_scales: list[float],
    base_lengths: list[float],
    table: Tensor | None = None,
) -> float:
    return _cost(weights, out_pos, in_pos, metric, coefficients, distance_scales, base_lengths, table).item()


def _cost(weights, out_pos, in_pos, metric, coefficients, distance_scales, base_lengths, table):
    memo: dict = {}
    _describe(memo, [(w,) for w in weights], out_pos, in_pos, metric, table, [True] * len(weights))
    return _penalise(memo, weights, None, 0.0, coefficients, distance_scales, base_lengths)


def add_grad(
    weights: list[Tensor],  # each (n_out, n_in), or (n,) for a tensor with one axis
    grads: list[Tensor],  # the same shapes; changed in place
    out_pos: list[Tensor],  # each (n_out, dim); ignored for one axis
    in_pos: list[Tensor],  # each (n_in, dim); ignored for one axis
    metric: str,
    lam: float,
    coefficients: list[float],
    distance_scales: list[float],
    base_lengths: list[float],
    table: Tensor | None = None,
    memo: dict | None = None,
) -> Tensor:  # (), of the compute dtype
    memo = {} if memo is None else memo
    if "launches" not in memo:
        stacks = list(zip(weights, grads, strict=True))
        _describe(memo, stacks, out_pos, in_pos, metric, table, [True] * len(stacks))
    return _penalise(memo, weights, grads, lam, coefficients, distance_scales, base_lengths)


def _describe(memo, stacks, out_pos, in_pos, metric, table, charged):
    """Of each tensor the weight, its gradient if any, and moments; positions are checked where they are charged."""
    launches: list[_Launch] = []
    first = 0
    for k, (stack, x, y, pays) in enumerate(zip(stacks, out_pos, in_pos, charged, strict=True)):
        stack = [tensor.detach() for tensor in stack]
        connects = pays and stack[0].dim() == 2
        if connects:
            require_positions(metric, table, out_pos=x, in_pos=y)
        sides = (x.detach(), y.detach(), metric, table) if connects else (None, None, None, None)
        for views in [stack] if connects else _views(stack):
            start = stack[1].storage_offset() if len(stack) > 1 else 0
            launches.append(_launch(k, views, start, *sides, first))
            first += launches[-1].programs if pays else 0
    partial = torch.empty(first, dtype=torch.float64, device=stacks[0][0].device)
    memo.update(launches=[launch for launch in launches if launch.programs], partial=partial)


def _penalise(memo, weights, grads, lam, coefficients, distance_scales, base_lengths):
    with torch.cuda.device_of(weights[0]):
        for launch in memo["launches"]:
            k = launch.k
            penalty[(launch.programs,)](
                launch.weight,
                None if grads is None else _moved(grads[k], launch.grad_start),
                *launch.sides,
                memo["partial"],
                *launch.integers,
                float(lam * coefficients[k]),
                float(coefficients[k]),
                float(distance_scales[k]),
                float(base_lengths[k]),
                **launch.constants,
            )
        return _sum(memo["partial"], weights[0])


def connection_cost_backward(
    grad: Tensor,  # ()
    weight: Tensor,  # (n_out, n_in)
    out_pos: Tensor,  # (n_out, dim)
    in_pos: Tensor,  # (n_in, dim)
    metric: str,
    distance_scale: float,
    base_length: float,
    need: tuple[bool, bool, bool],
    table: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    by_weight = torch.empty_like(weight) if need[0] else None
    # Without connections nothing is launched.
    by_out, by_in = (
        torch.zeros(x.shape, dtype=x.dtype, device=x.device) if n else None
        for x, n in zip((out_pos, in_pos), need[1:], strict=True)
    )
    results = (by_weight, by_out, by_in)
    if not weight.numel() or not any(need):
        return results
    views = [weight.detach()] if by_weight is None else [weight.detach(), by_weight]
    launch = _launch(0, views, 0, out_pos, in_pos, metric, table, 0)
    if launch.flipped:
        by_out, by_in = by_in, by_out
    with torch.cuda.device_of(weight):
        _differentiate(launch, grad, by_weight, by_out, by_in, float(distance_scale), float(base_length))
    return results


def _differentiate(launch, grad, by_weight, by_rows, by_cols, scale, base):
    """As many coordinates at a time as the workspace holds; the weight's own gradient comes with the first of them."""
    rows, cols, *strides = launch.integers[:-2]
    down, across = (-(-size // _POSITION_TILE[block]) for size, block in ((rows, "BLOCK_ROWS"), (cols, "BLOCK_COLS")))
    sides = ((by_rows, across, rows), (by_cols, down, cols))
    one = sum(blocks * size for side, blocks, size in sides if side is not None)
    dim = launch.constants["DIM"] if one else 0
    at_once = max(max(rows * cols // _WORKSPACE_PART, _LITTLE_WORKSPACE) // max(one, 1), 1)
    for first in range(0, max(dim, 1), at_once):
        count = min(at_once, dim - first)
        parts = [
            None if side is None else torch.empty(blocks, count, size, dtype=side.dtype, device=side.device)
            for side, blocks, size in sides
        ]
        penalty_backward[(down * across,)](
            grad,
            launch.weight,
            *launch.sides,
            None if first else by_weight,
            *parts,
            rows,
            cols,
            *strides,
            first,
            count,
            scale,
            base,
            **launch.constants,
            **_POSITION_TILE,
        )
        for side, part in zip((by_rows, by_cols), parts, strict=True):
            if side is not None and count:
                blocks, _, size = part.shape
                to = side[:, first:]
                grid = (-(-size // 256), count)
                add_blocks[grid](part, grad, to, blocks, size, *to.stride(), scale, BLOCK=256)


def adamw(
    weights: list[Tensor],  # any shape; changed in place, as are the moments
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],  # each (): how many were taken; counted up
    out_pos: list[Tensor],  # (n_out, dim) for a weight (n_out, n_in), else ignored
    in_pos: list[Tensor],  # (n_in, dim) likewise
    metric: str,
    coefficients: list[float],  # 0 where a weight is not charged
    distance_scales: list[float],
    base_lengths: list[float],
    settings: list[float],  # lr, beta1, beta2, eps, weight_decay, lam
    proximal: bool,
    table: Tensor | None = None,
    memo: dict | None = None,
) -> Tensor:  # ()
    """Steps on the device of the weights, all of one dtype, are counted there; others are read on the CPU."""
    memo = {} if memo is None else memo
    if "launches" not in memo:
        stacks = list(zip(weights, grads, exp_avgs, exp_avg_sqs, strict=True))
        _describe(memo, stacks, out_pos, in_pos, metric, table, [coefficient != 0 for coefficient in coefficients])
        _describe_steps(memo, steps, weights[0].device)
    lr, beta1, beta2, eps, weight_decay, lam = settings
    hyper = (1 - lr * weight_decay, 1 - beta1, beta2, 1 - beta2, eps)
    with torch.cuda.device_of(weights[0]):
        corrections, factors = _bias_corrections(memo, steps, lr, beta1, beta2)
        for launch in memo["launches"]:
            k = launch.k
            rise = lam * coefficients[k]
            adamw_step[(launch.programs,)](
                launch.weight,
                _moved(grads[k], launch.grad_start),
                *launch.moments,
                corrections[k],
                *launch.sides,
                memo["partial"],
                *launch.integers,
                *map(
                    float, (*factors[k], *hyper, rise, lr * rise, coefficients[k], distance_scales[k], base_lengths[k])
                ),
                **launch.constants,
                CHARGED=bool(coefficients[k]),
                PROXIMAL=proximal,
            )
        return _sum(memo["partial"], weights[0])


def _bias_corrections(memo, steps, lr, beta1, beta2):
    """For each tensor, lr / (1 - beta1^step) and 1 / sqrt(1 - beta2^step): on the device, or else as numbers."""
    if memo["addresses"] is None:
        factors = []
        for step in steps:
            step += 1
            taken = step.item()
            factors.append((lr / (1 - beta1**taken), (1 - beta2**taken) ** -0.5))
        return [None] * len(steps), factors
    logs = (math.log2(beta) if beta else -math.inf for beta in (beta1, beta2))
    kind = tl.float64 if steps[0].dtype == torch.float64 else tl.float32
    count_steps[(len(steps),)](memo["addresses"], memo["corrections"], float(lr), *logs, T=kind, num_warps=1)
    return memo["corrections"], [(0.0, 0.0)] * len(steps)


def _describe_steps(memo, steps, device):
    memo["addresses"] = None
    if {(step.device, step.dtype) for step in steps} == {(device, steps[0].dtype)}:
        addresses = torch.tensor([step.data_ptr() for step in steps], dtype=torch.int64, device=device)
        corrections = torch.empty(len(steps), 2, dtype=torch.float64, device=device)
        memo.update(addresses=addresses, corrections=corrections, steps=steps)  # whose addresses they are


def aot_cases() -> Iterator[tuple]:
    """What tests/gpu/aot.py compiles: every dtype, metrics of each kind, aligned matrices, others and single rows."""
    yield add_up, (torch.float64, torch.float32, 4096), {"BLOCK": 1024}, 40
    yield add_blocks, (torch.float32, torch.float32, torch.float32, 64, 4096, 2, 1, 1.0), {"BLOCK": 256}, 40
    for dtype in (torch.float32, torch.float64):
        kind = tl.float64 if dtype == torch.float64 else tl.float32
        yield count_steps, (torch.int64, torch.float64, 1e-3, -0.1, -0.1), {"T": kind, "num_warps": 1}, 40
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        yield from _cases(dtype, "l1", 2, (4096, 4096))
        yield from _cases(dtype, "l1", 2, (4096, 4096), cost_only=True, proximal=True)
        yield from _cases(dtype, "poincare", 2, (4096, 785))
        yield from _cases(dtype, None, 0, (1, 4097), proximal=True)
    yield from _cases(torch.float32, "l1", 1, (785, 785))
    yield from _cases(torch.float32, "linf", 8, (4096, 4096))
    yield from _cases(torch.float32, TABLE, 0, (4096, 785))
    yield from _cases(torch.float32, None, 0, (1, 2**32 + 1))


def _cases(dtype, metric, dim, shape, cost_only=False, proximal=False):
    """One launch of each of the three large kernels, the last of them not for a single row."""
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    positions = torch.int64 if metric == TABLE else None if metric is None else wide
    sides = (positions, positions, wide if metric == TABLE else None)
    strides = (1, 0, 1, 0, shape[1], 1) if metric == TABLE else (dim, 1, dim, 1, 0, 0)
    constants = {"METRIC": metric and (TABLE_CODE if metric == TABLE else metric_row(metric).code), "DIM": dim}
    matrix, ends, charge = (shape[1], 1), (0, 5), (1e-3, 1.0, 1.0, 0.1)  # first, size; rise to base
    budget = 255 if wide == torch.float64 else 168 if metric == "poincare" else 128
    arguments = (dtype, None if cost_only else dtype, *sides, torch.float64)
    yield penalty, (*arguments, *shape, *matrix * 2, *strides, *ends, *charge), constants, budget
    arguments = (*(dtype,) * 4, torch.float64, *sides, torch.float64)
    numbers = (*(0.1,) * 7, 1e-3, *charge)
    charged = constants | {"CHARGED": True, "PROXIMAL": proximal}
    yield adamw_step, (*arguments, *shape, *matrix * 4, *strides, *ends, *numbers), charged, budget
    if metric is not None and not cost_only:
        sums = (None, None) if metric == TABLE else (wide, wide)
        arguments = (wide, dtype, *sides, dtype, *sums, *shape, *matrix * 2, *strides, 0, dim, 1.0, 0.1)
        yield penalty_backward, arguments, constants | _POSITION_TILE, budget

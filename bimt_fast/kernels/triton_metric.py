"""Distance metrics for Triton kernels, one definition each, by the codes of geometry.py: the twin of csrc/metric.h.

A distance is folded over coordinates: start at 0, `extended` by every coordinate pair, `finished` once. Its derivative
for a coordinate of the first point is a `slope`, from what pairs have in common, their `factor`. Whole tiles of pairs
come from `folded` and `distances`, which loads coordinates itself. Everything is in the compute dtype T of the
weights, float64 or float32; 16-bit numbers are widened right after they are loaded.
"""

# ruff: noqa: SIM109 - Triton does not compile "in"

import os

import triton
import triton.language as tl

from ..geometry import METRICS, TABLE_CODE

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
_ROUNDS_ITSELF = tl.constexpr(not INTERPRETED)
L1, L2, SQL2, LINF, TORUS_L1, TORUS_L2, POINCARE = (tl.constexpr(row.code) for row in METRICS.values())
TABLE = tl.constexpr(TABLE_CODE)


def inlined(function):
    """@triton.jit for what kernels call; interpreted it spares every call the preparations that a launch has made."""
    compiled = triton.jit(function)
    if not hasattr(compiled, "rewrite"):
        return compiled
    return lambda *arguments: compiled.rewrite()(*arguments)


@inlined
def scalar(value, T: tl.constexpr):
    """A float64 argument of a kernel in the dtype T; annotated tl.float64 it came with all its bits."""
    return tl.full((), value, tl.float64).to(T)


@inlined
def narrowed(x, dtype: tl.constexpr):
    """In the dtype of memory, rounded to nearest, which the interpreter leaves out for bfloat16."""
    if dtype == tl.bfloat16 and not _ROUNDS_ITSELF:
        bits = x.to(tl.int32, bitcast=True)
        bits = (bits + 0x7FFF + ((bits >> 16) & 1)) & -0x10000
        x = tl.where(x == x, bits.to(tl.float32, bitcast=True), x)
    return x.to(dtype)


@inlined
def square_root(x):
    """Rounded correctly, also where float32 is subnormal, which tl.sqrt takes for 0."""
    return tl.sqrt_rn(x) if x.dtype == tl.float32 else tl.sqrt(x)


@inlined
def sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)


@inlined
def around(offset):
    """From -1/2 to 1/2: the shortest way round a circle of length 1."""
    whole = tl.floor(offset)
    return offset - (whole + (offset - whole > 0.5).to(offset.dtype))


@inlined
def log_one_plus(x):
    """log(1 + x) for x >= 0, as in csrc/metric.h: 1 + x = 2^e m, the series of log m, and what rounding 1 + x lost."""
    u = x + 1
    lost = tl.where(x < 1, x - (u - 1), 1 - (u - x))
    if x.dtype == tl.float64:
        bits = u.to(tl.int64, bitcast=True)
        e = (bits - 0x3FE6A09E667F3BCD) >> 52  # from the square root of 1/2 on
        m = (bits - (e << 52)).to(tl.float64, bitcast=True)
    else:
        bits = u.to(tl.int32, bitcast=True)
        e = (bits - 0x3F3504F3) >> 23
        m = (bits - (e << 23)).to(tl.float32, bitcast=True)
    s = (m - 1) / (m + 1)
    square = s * s
    series = square * 0
    for k in tl.static_range(11 if x.dtype == tl.float64 else 5):
        series = square * (1 / (2 * ((11 if x.dtype == tl.float64 else 5) - k) + 1) + series)
    return e.to(x.dtype) * 0.693147180559945309417 + (2 * (s + s * series) + lost / u)


@inlined
def extended(total, x, y, METRIC: tl.constexpr):
    """What is folded, with one more pair of coordinates."""
    offset = x - y
    if METRIC == TORUS_L1 or METRIC == TORUS_L2:
        offset = around(offset)
    if METRIC == L1 or METRIC == TORUS_L1:
        total += tl.abs(offset)
    elif METRIC == LINF:
        total = tl.maximum(total, tl.abs(offset))
    else:
        total += offset * offset
    return total


@inlined
def finished(total, x_gap, y_gap, METRIC: tl.constexpr):
    """The distance; for poincare 2 asinh sqrt(z), in the form that holds its precision at 0."""
    if METRIC == L2 or METRIC == TORUS_L2:
        total = square_root(total)
    if METRIC == POINCARE:
        z = total / (x_gap * y_gap)
        total = 2 * log_one_plus(square_root(z) + z / (1 + square_root(1 + z)))
    return total


@inlined
def factor(total, x_gap, y_gap, ties, METRIC: tl.constexpr):
    """What the slopes of a pair have in common; ties is the number of coordinates that attain the largest offset."""
    apart = total > 0
    if METRIC == L2 or METRIC == TORUS_L2:
        common = tl.where(apart, 1 / square_root(tl.where(apart, total, 1.0)), 0.0)
    elif METRIC == POINCARE:
        root = square_root(tl.where(apart, total, 1.0)) * square_root(x_gap * y_gap + total)
        common = tl.where(apart, 2 / root, 0.0)
    elif METRIC == LINF:
        common = 1 / ties
    else:
        common = total
    return common


@inlined
def slope(x, y, common, total, x_gap, METRIC: tl.constexpr):
    """The derivative of the distance for the coordinate x of the first point; 0 at its kinks."""
    offset = x - y
    if METRIC == TORUS_L1 or METRIC == TORUS_L2:
        offset = around(offset)
        offset = tl.where(tl.abs(offset) == 0.5, 0.0, offset)
    if METRIC == L1 or METRIC == TORUS_L1:
        derivative = sign(offset)
    elif METRIC == SQL2:
        derivative = 2 * offset
    elif METRIC == LINF:
        derivative = tl.where(tl.abs(offset) == total, sign(offset) * common, 0.0)
    elif METRIC == POINCARE:
        derivative = common * (offset + x * (total / x_gap))
    else:
        derivative = common * offset
    return derivative


@inlined
def gap(x, rows, count, stride, axis, DIM: tl.constexpr, T: tl.constexpr):
    """1 - |x|^2 of the points in these rows, computed in float64: near the edge of the ball all digits cancel."""
    square = tl.full(rows.shape, 0, tl.float64)
    for d in range(DIM):
        coordinate = tl.load(x + rows * stride + d * axis, mask=rows < count, other=0.0).to(tl.float64)
        square += coordinate * coordinate
    return (1 - square).to(T)


@inlined
def gaps(
    x, rows, x_count, x_stride, x_axis, y, cols, y_count, y_stride, y_axis,
    METRIC: tl.constexpr, DIM: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """Of both sides of a tile, as a column and as a row; 1 where the metric needs none."""
    if METRIC == POINCARE:
        x_gap = gap(x, rows, x_count, x_stride, x_axis, DIM, T)[:, None]
        y_gap = gap(y, cols, y_count, y_stride, y_axis, DIM, T)[None, :]
    else:
        x_gap = tl.full((1, 1), 1, T)
        y_gap = tl.full((1, 1), 1, T)
    return x_gap, y_gap


@inlined
def folded(
    x, rows, x_count, x_stride, x_axis, y, cols, y_count, y_stride, y_axis,
    METRIC: tl.constexpr, DIM: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """(rows, cols) of what every pair folds to, by int64 indices; those beyond the counts are not read."""
    total = tl.full((rows.shape[0], cols.shape[0]), 0, T)
    for d in range(DIM):
        a = tl.load(x + rows * x_stride + d * x_axis, mask=rows < x_count, other=0.0)
        b = tl.load(y + cols * y_stride + d * y_axis, mask=cols < y_count, other=0.0)
        total = extended(total, a[:, None], b[None, :], METRIC)
    return total


@inlined
def distances(
    x, rows, x_count, x_stride, x_axis, y, cols, y_count, y_stride, y_axis, table, table_row, table_col,
    METRIC: tl.constexpr, DIM: tl.constexpr, T: tl.constexpr,
):  # fmt: skip
    """(rows, cols) distances; with the metric "table" x and y hold indices of its rows and columns, and DIM is 0."""
    if METRIC == TABLE:
        i = tl.load(x + rows * x_stride, mask=rows < x_count, other=0)
        j = tl.load(y + cols * y_stride, mask=cols < y_count, other=0)
        inside = (rows < x_count)[:, None] & (cols < y_count)[None, :]
        lengths = tl.load(table + i[:, None] * table_row + j[None, :] * table_col, mask=inside, other=0.0)
    else:
        total = folded(x, rows, x_count, x_stride, x_axis, y, cols, y_count, y_stride, y_axis, METRIC, DIM, T)
        x_gap, y_gap = gaps(
            x, rows, x_count, x_stride, x_axis, y, cols, y_count, y_stride, y_axis, METRIC, DIM, T
        )  # fmt: skip
        lengths = finished(total, x_gap, y_gap, METRIC)
    return lengths

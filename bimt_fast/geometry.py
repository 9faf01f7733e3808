"""Positions of neurons, and the table of metrics that measure the length of a connection.

A layout is a float tensor (n, dim), one row per slot. The metric table is the one place that knows a metric's
name; csrc/metric.h holds the same metrics for the compiled kernels.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor


def line(n: int, dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
    """Cell centres of [0, 1]: point k at (k + 1/2) / n.

    Args:
        n: number of points, at least 0.
        dtype, device: of the result; torch's defaults when None.

    Returns:
        (n, 1) tensor.

    Raises:
        TypeError: n is not an integer.
        ValueError: n is negative.
    """
    return grid((n,), dtype=dtype, device=device)


def grid(shape: tuple[int, ...], dtype: torch.dtype | None = None, device: torch.device | str | None = None) -> Tensor:
    """Cell centres of [0, 1]^d in row-major order.

    For shape (rows, cols), point r*cols + c sits at ((c + 1/2) / cols, (r + 1/2) / rows): column 0 of the result
    runs along the last axis of the shape, as x does in a picture.

    Args:
        shape: number of cells along each axis, any number of axes.
        dtype, device: of the result; torch's defaults when None.

    Returns:
        (prod(shape), len(shape)) tensor.

    Raises:
        TypeError: shape is not a tuple, or a size is not an integer.
        ValueError: shape is empty or a size is negative.
    """
    if not isinstance(shape, (tuple, list)):
        raise TypeError(f"shape must be a tuple of integers, was {shape!r}")
    if not shape:
        raise ValueError("shape must name at least one axis, was ()")
    for size in shape:
        _check_count("n" if len(shape) == 1 else "shape", size)
    options = {"dtype": _float_dtype(dtype), "device": device}
    axes = [(torch.arange(size, **options) + 0.5) / size for size in shape]
    return torch.stack([axis.flatten() for axis in reversed(torch.meshgrid(*axes, indexing="ij"))], dim=1)


def ring(
    n: int,
    radius: float = 0.25,
    center: tuple[float, float] = (0.5, 0.5),
    offset: float = 0.0,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Tensor:
    """Points on a circle: point k at angle 2 pi (k + offset) / n from +x, counter-clockwise.

    Args:
        n: number of points, at least 0.
        radius: of the circle, in the units of the layout.
        center: coordinates of its centre.
        offset: rotation, in steps between neighbouring points.
        dtype, device: of the result; torch's defaults when None.

    Returns:
        (n, 2) tensor.

    Raises:
        TypeError: n is not an integer.
        ValueError: n is negative, or center does not hold two coordinates.
    """
    _check_count("n", n)
    if len(center) != 2:
        raise ValueError(f"center must hold two coordinates, was {center}")
    options = {"dtype": _float_dtype(dtype), "device": device}
    angle = (torch.arange(n, **options) + offset) * (2 * math.pi / n if n else 0.0)
    return torch.stack([angle.cos(), angle.sin()], dim=1) * radius + torch.tensor(center, **options)


def _check_count(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, was {value!r}")
    if value < 0:
        raise ValueError(f"{name} must be at least 0, was {value}")


def _float_dtype(dtype: torch.dtype | None) -> torch.dtype:
    dtype = torch.get_default_dtype() if dtype is None else dtype
    if not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating-point dtype, was {dtype}")
    return dtype


@dataclass(frozen=True)
class Metric:
    """One row of the metric table.

    Attributes:
        code: the number by which csrc/metric.h knows it.
        distance: (n, dim), (m, dim) -> (n, m), symmetric in its arguments.
        gradient: the same -> (n, m, dim), derivative of distance for its first argument; 0 where the points coincide.
        in_ball: whether only points with |x| < 1 have distances.
    """

    code: int
    distance: Callable[[Tensor, Tensor], Tensor]
    gradient: Callable[[Tensor, Tensor], Tensor]
    in_ball: bool = False


def _offsets(x: Tensor, y: Tensor) -> Tensor:
    return x[:, None, :] - y[None, :, :]


def _per_length(offsets: Tensor) -> Tensor:
    """Unit vectors along the last axis, 0 for the zero vector."""
    return offsets / offsets.square().sum(-1, keepdim=True).sqrt().clamp_min(torch.finfo(offsets.dtype).tiny)


def _shared_by_largest(offsets: Tensor) -> Tensor:
    """Signs of the coordinates of largest magnitude, shared equally among those that tie, as in torch.amax."""
    largest = offsets.abs() == offsets.abs().amax(-1, keepdim=True) if offsets.shape[-1] else offsets.bool()
    return torch.where(largest, offsets.sign(), 0) / largest.sum(-1, keepdim=True).clamp_min(1)


def _torus(x: Tensor, y: Tensor) -> Tensor:
    around = _offsets(x, y).abs() % 1
    return torch.minimum(around, 1 - around)


def _torus_offsets(x: Tensor, y: Tensor) -> Tensor:
    """Signed shortest ways from y to x round circles of length 1; 0 where both ways are equally short."""
    offsets = _offsets(x, y)
    offsets = offsets - offsets.round()
    return torch.where(offsets.abs() == 0.5, 0, offsets)


def gap(x: Tensor) -> Tensor:
    """1 - |x|^2 along the last axis, computed in float64: near the edge of the ball all digits cancel."""
    return (1 - x.double().square().sum(-1)).to(x.dtype)


def _poincare(x: Tensor, y: Tensor) -> Tensor:
    z = _offsets(x, y).square().sum(-1) / (gap(x)[:, None] * gap(y)[None, :])
    return 2 * z.sqrt().asinh()


def _poincare_gradient(x: Tensor, y: Tensor) -> Tensor:
    offsets = _offsets(x, y)
    square = offsets.square().sum(-1)
    both = gap(x)[:, None] * gap(y)[None, :]
    direction = offsets + x[:, None, :] * (square / gap(x)[:, None])[:, :, None]
    factor = torch.where(square > 0, 2 / (square.sqrt() * (both + square).sqrt()), 0)
    return factor[:, :, None] * direction


# Where |.| has its kink, at 0 and on the far side of a circle, the derivative is 0.
METRICS: dict[str, Metric] = {
    "l1": Metric(0, lambda x, y: _offsets(x, y).abs().sum(-1), lambda x, y: _offsets(x, y).sign()),
    "l2": Metric(1, lambda x, y: _offsets(x, y).square().sum(-1).sqrt(), lambda x, y: _per_length(_offsets(x, y))),
    "sql2": Metric(2, lambda x, y: _offsets(x, y).square().sum(-1), lambda x, y: 2 * _offsets(x, y)),
    "linf": Metric(
        3,
        lambda x, y: _offsets(x, y).abs().amax(-1) if x.shape[1] else _offsets(x, y).sum(-1),
        lambda x, y: _shared_by_largest(_offsets(x, y)),
    ),
    "torus-l1": Metric(4, lambda x, y: _torus(x, y).sum(-1), lambda x, y: _torus_offsets(x, y).sign()),
    "torus-l2": Metric(
        5,
        lambda x, y: _torus(x, y).square().sum(-1).sqrt(),
        lambda x, y: torch.where(
            _torus_offsets(x, y) == 0,
            0,
            _torus_offsets(x, y) / _torus(x, y).square().sum(-1, keepdim=True).sqrt(),
        ),
    ),
    "poincare": Metric(6, _poincare, _poincare_gradient, in_ball=True),
}

TABLE = "table"  # what the ops call a given distance tensor
TABLE_CODE = len(METRICS)  # and csrc/metric.h


def metric_row(metric: str) -> Metric:
    """The row of the metric table by that name.

    Raises:
        TypeError: metric is not a string.
        ValueError: no metric has that name.
    """
    if not isinstance(metric, str):
        raise TypeError(f"metric must be a string, was {type(metric).__name__}")
    if metric not in METRICS:
        raise ValueError(f"metric must be one of {', '.join(METRICS)}, was {metric!r}")
    return METRICS[metric]


def distances(out_pos: Tensor, in_pos: Tensor, metric: str | Tensor = "l1") -> Tensor:
    """All pairwise distances, as an (n, m) tensor: the reference that kernels avoid to materialise.

    Args:
        out_pos: (n, dim) positions; where metric is a distance tensor, (n,) int64 indices into it.
        in_pos: (m, dim) positions of the same dtype and device, or (m,) indices.
        metric: name in the metric table, or a distance tensor (P, P).

    Returns:
        (n, m) tensor, entry [o, i] = d(out_pos[o], in_pos[i]).
    """
    if isinstance(metric, Tensor):
        return metric[out_pos[:, None], in_pos[None, :]]
    return metric_row(metric).distance(out_pos, in_pos)

"""The compiled kernels of csrc/ on CPU tensors: allocation, and addresses, sizes and strides for bimt_fast._cpu."""

import json
from pathlib import Path

import torch  # before _cpu, which uses the OpenMP runtime that torch brings
from torch import Tensor

from ..geometry import metric_row
from . import reference
from .reference import placement_cost_backward, swap_deltas_backward

try:
    from .. import _cpu
except ImportError as error:
    _cpu = None
    _import_error = str(error)

__all__ = [
    "add_grad",
    "best_swaps",
    "can_run",
    "connection_cost",
    "connection_cost_backward",
    "details",
    "placement_cost",
    "placement_cost_backward",
    "placement_swaps",
    "swap_deltas",
    "swap_deltas_backward",
]

_DTYPES = {torch.float32: 0, torch.float64: 1}  # the codes of csrc/bind_cpu.cpp
# From this size on, zeroing a fresh result page by page costs as much as computing it.
_LARGE = 8 << 20
# What the largest buffers of placement_swaps may take: this part of the weights' bytes, or this much in small layers.
_MEMORY_PART = 16
_LITTLE_MEMORY = 2 << 20
_ABSENT = (0, 0, 0, 1, 1)


def can_run(device: torch.device) -> tuple[bool, str]:
    """CPU tensors, where bimt_fast._cpu was built and can be imported."""
    if device.type != "cpu":
        return False, f"the cpu backend serves CPU tensors, not {device.type}"
    if _cpu is None:
        return False, _why_missing()
    return True, ""


def details() -> str:
    """What was compiled, for `python -m bimt_fast info`."""
    openmp = "threads of torch's pool" if _cpu.openmp() else "serial, built without OpenMP"
    return f"{_cpu.instruction_set()} of {', '.join(_cpu.instruction_sets())}; {openmp}"


def _why_missing() -> str:
    """What the build said (setup.py), or else what the import said."""
    try:
        notes = json.loads((Path(__file__).parent.parent / "_build.json").read_text())
        note = notes["bimt_fast._cpu"]
    except (OSError, ValueError, KeyError):
        return f"bimt_fast._cpu was never built here: {_import_error}"
    if note["built"]:
        return f"bimt_fast._cpu was built ({note['note']}) but cannot be imported: {_import_error}"
    return f"bimt_fast._cpu was not built: {note['note']}"


def connection_cost(
    weight: Tensor,  # (n_out, n_in)
    out_pos: Tensor,  # (n_out, dim)
    in_pos: Tensor,  # (n_in, dim)
    metric: str,
    distance_scale: float,
    base_length: float,
) -> Tensor:  # ()
    term = (*_matrix(weight), *_ABSENT, *_matrix(out_pos), *_matrix(in_pos), 1.0, distance_scale, base_length)
    cost = _cpu.penalty(_DTYPES[weight.dtype], [term], metric_row(metric).code, 0.0, torch.get_num_threads())
    return weight.new_full((), cost)


def connection_cost_backward(
    grad: Tensor,  # ()
    weight: Tensor,  # (n_out, n_in)
    out_pos: Tensor,  # (n_out, dim)
    in_pos: Tensor,  # (n_in, dim)
    metric: str,
    distance_scale: float,
    base_length: float,
    need: tuple[bool, bool, bool],
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    weight_grad = _prepare(torch.empty_like(weight)) if need[0] else None
    out_grad, in_grad = (
        torch.empty(x.shape, dtype=x.dtype) if n else None for x, n in zip((out_pos, in_pos), need[1:], strict=True)
    )
    if any(need):
        term = (*_matrix(weight), *_matrix(weight_grad), *_matrix(out_pos), *_matrix(in_pos))
        _cpu.penalty_backward(
            _DTYPES[weight.dtype],
            (*term, 1.0, distance_scale, base_length),
            _address(out_grad),
            _address(in_grad),
            grad.item(),
            metric_row(metric).code,
            torch.get_num_threads(),
        )
    return weight_grad, out_grad, in_grad


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
) -> Tensor:  # ()
    terms = []
    described = {id(x): _matrix(x) for x in (*out_pos, *in_pos)}  # groups share their positions
    for w, g, x, y, coefficient, scale, base in zip(
        weights, grads, out_pos, in_pos, coefficients, distance_scales, base_lengths, strict=True
    ):
        positions = (*_ABSENT, *_ABSENT) if w.dim() == 1 else (*described[id(x)], *described[id(y)])
        terms.append((*_matrix(w), *_matrix(g), *positions, coefficient, scale, base))
    cost = _cpu.penalty(_DTYPES[weights[0].dtype], terms, metric_row(metric).code, lam, torch.get_num_threads())
    return weights[0].new_full((), cost)  # twice as fast as torch.tensor


def placement_cost(
    slots: Tensor,  # (n, dim)
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
) -> Tensor:  # (n, n), with the strides of a transpose
    dtype = weights[0].dtype if weights else slots.dtype
    parts = _parts(weights, peers, incoming, coefficients)
    by_slot = _empty((slots.shape[0], slots.shape[0]), dtype)
    _cpu.placement_cost(_DTYPES[dtype], _matrix(slots), parts, by_slot.data_ptr(), torch.get_num_threads())
    return by_slot.T


def swap_deltas(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> Tensor:  # (n, n)
    deltas = _empty(cost.shape, cost.dtype)
    matrices, assignment = _swap_inputs(cost, assignment, flow, distance)
    c, f, d = (_matrix(x) for x in matrices)
    _cpu.swap_deltas(_DTYPES[cost.dtype], c, _address(assignment), f, d, deltas.data_ptr(), torch.get_num_threads())
    return deltas


def best_swaps(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> tuple[Tensor, Tensor]:  # (n,), (n,) int64
    delta = torch.empty(cost.shape[0], dtype=cost.dtype)
    partner = torch.empty(cost.shape[0], dtype=torch.int64)
    matrices, assignment = _swap_inputs(cost, assignment, flow, distance)
    c, f, d = (_matrix(x) for x in matrices)
    _cpu.best_swaps(
        _DTYPES[cost.dtype],
        c,
        _address(assignment),
        f,
        d,
        delta.data_ptr(),
        partner.data_ptr(),
        torch.get_num_threads(),
    )
    return delta, partner


def placement_swaps(
    slots: Tensor,  # (n, dim), neuron i in slot i
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
    top_k: int | None,
) -> tuple[Tensor, Tensor]:  # (n,), (n,) int64; with top_k (k,), (k, 2) int64, k = min(top_k, n (n - 1) / 2)
    if metric != "l1" and top_k is None:
        return best_swaps(placement_cost(slots, weights, peers, incoming, metric, coefficients), None, None, None)
    if metric != "l1":
        return reference.placement_swaps(slots, weights, peers, incoming, metric, coefficients, top_k)
    n = slots.shape[0]
    if top_k is None:
        first, second = torch.empty(n, dtype=slots.dtype), torch.empty(n, dtype=torch.int64)
    else:
        top_k = min(top_k, n * (n - 1) // 2)
        first, second = torch.empty(top_k, dtype=slots.dtype), torch.empty(top_k, 2, dtype=torch.int64)
    results = (first.data_ptr(), second.data_ptr())
    _cpu.placement_swaps(
        _DTYPES[slots.dtype],
        _matrix(slots),
        _parts(weights, peers, incoming, coefficients),
        max(sum(w.nbytes for w in weights) // _MEMORY_PART, _LITTLE_MEMORY),
        top_k or 0,
        *((*results, 0, 0) if top_k is None else (0, 0, *results)),
        torch.get_num_threads(),
    )
    return first, second


def _parts(weights: list[Tensor], peers: list[Tensor], incoming: int, coefficients: list[float]) -> list[tuple]:
    """The connections of a group for the placement kernels, neurons as rows."""
    return [
        (*_matrix(w if k < incoming else w.T), *_matrix(y), coefficient)
        for k, (w, y, coefficient) in enumerate(zip(weights, peers, coefficients, strict=True))
    ]


def _swap_inputs(cost, assignment, flow, distance):
    """The kernels take matrices with unit stride along either axis, and flow and distance only together."""
    if flow is None or distance is None:
        flow = distance = None
    matrices = [x if x is None or 1 in x.stride() else x.contiguous() for x in (cost, flow, distance)]
    return matrices, None if assignment is None else assignment.contiguous()


def _matrix(x: Tensor | None) -> tuple[int, int, int, int, int]:
    """Address, rows, columns, row stride, column stride; a tensor with one axis is a row."""
    if x is None:
        return _ABSENT
    if x.dim() == 1:
        return (x.data_ptr(), 1, x.shape[0], 1, x.stride(0))
    return (x.data_ptr(), *x.shape, *x.stride())


def _address(x: Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _empty(shape: torch.Size | tuple[int, ...], dtype: torch.dtype) -> Tensor:
    return _prepare(torch.empty(shape, dtype=dtype))


def _prepare(x: Tensor) -> Tensor:
    if x.nbytes >= _LARGE:
        _cpu.prepare_result(x.data_ptr(), x.nbytes, torch.get_num_threads())
    return x

"""The compiled kernels of csrc/ on CPU tensors: allocation, and addresses, sizes and strides for bimt_fast._cpu.

The functions are those of reference.py, whose docstrings say what each computes.
"""

import torch  # before _cpu, which uses the OpenMP runtime that torch brings
from torch import Tensor

from ..geometry import TABLE, TABLE_CODE, metric_row
from . import reference
from .build import why_missing
from .reference import permute_, widened

try:
    from .. import _cpu
except ImportError as error:
    _cpu = None
    _import_error = str(error)

__all__ = [
    "adamw",
    "add_grad",
    "assignment_bound",
    "best_swaps",
    "can_run",
    "connection_cost",
    "connection_cost_backward",
    "details",
    "greedy_swaps",
    "label_nulls",
    "linear_assignment",
    "permute_",
    "placement_cost",
    "placement_cost_backward",
    "placement_swaps",
    "quadratic_ended",
    "quadratic_memory",
    "quadratic_walks",
    "swap_deltas",
    "swap_deltas_backward",
    "total_cost",
]

_DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # the codes of csrc/bind_cpu.cpp
_WIDE = 256  # neurons, from which on a placement cost does not stay in the nearest cache
# From this size on, zeroing a fresh result page by page costs as much as computing it.
_LARGE = 8 << 20
# What the largest buffers of placement_swaps may take: this part of the weights' bytes, or this much in small layers.
_MEMORY_PART = 16
_LITTLE_MEMORY = 2 << 20
_ABSENT = (0, 0, 0, 1, 1)
_HEADER = 8  # words of the memory of quadratic_walks in front of that of the walks
_ALL = -1  # rounds of a linear assignment, until it is the cheapest


def can_run(device: torch.device) -> tuple[bool, str]:
    """CPU tensors, where bimt_fast._cpu was built and can be imported."""
    if device.type != "cpu":
        return False, f"the cpu backend serves CPU tensors, not {device.type}"
    if _cpu is None:
        return False, why_missing("_cpu", _import_error)
    return True, ""


def details() -> str:
    """What was compiled, for `python -m bimt_fast info`."""
    openmp = "threads of torch's pool" if _cpu.openmp() else "serial, built without OpenMP"
    return f"{_cpu.instruction_set()} of {', '.join(_cpu.instruction_sets())}; {openmp}"


def connection_cost(
    weight: Tensor,  # (n_out, n_in)
    out_pos: Tensor,  # (n_out, dim)
    in_pos: Tensor,  # (n_in, dim)
    metric: str,
    distance_scale: float,
    base_length: float,
    table: Tensor | None = None,  # (P, P), with metric "table": then the positions are indices (n,) into it
) -> Tensor:  # (), of the compute dtype
    out_pos, in_pos = _coordinates(out_pos, table), _coordinates(in_pos, table)
    term = (*_matrix(weight), *_ABSENT, *_matrix(out_pos), *_matrix(in_pos), 1.0, distance_scale, base_length)
    return _scalar(weight, _cpu.penalty(_DTYPES[weight.dtype], [term], [0], *_metric(metric, table), 0.0, _threads()))


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
    weight_grad = _prepare(torch.empty_like(weight)) if need[0] else None
    out_grad, in_grad = (
        torch.empty(x.shape, dtype=x.dtype) if n else None for x, n in zip((out_pos, in_pos), need[1:], strict=True)
    )
    out_pos, in_pos = _coordinates(out_pos, table), _coordinates(in_pos, table)
    if any(need):
        term = (*_matrix(weight), *_matrix(weight_grad), *_matrix(out_pos), *_matrix(in_pos))
        _cpu.penalty_backward(
            _DTYPES[weight.dtype],
            (*term, 1.0, distance_scale, base_length),
            _address(out_grad),
            _address(in_grad),
            grad.item(),
            *_metric(metric, table),
            _threads(),
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
    table: Tensor | None = None,
    memo: dict | None = None,
) -> Tensor:  # (), of the compute dtype
    memo = {} if memo is None else memo
    if "terms" not in memo:
        _describe_terms(memo, weights, grads, out_pos, in_pos, coefficients, distance_scales, base_lengths, table)
    where = [g.data_ptr() for g in grads]
    cost = _cpu.penalty(_DTYPES[weights[0].dtype], memo["terms"], where, *_metric(metric, table), lam, _threads())
    return _scalar(weights[0], cost)


def _describe_terms(memo, weights, grads, out_pos, in_pos, coefficients, distance_scales, base_lengths, table):
    terms = []
    coordinates = {id(x): _coordinates(x, table) for x in (*out_pos, *in_pos)}  # groups share their positions
    described = {key: _matrix(x) for key, x in coordinates.items()}
    for w, g, x, y, coefficient, scale, base in zip(
        weights, grads, out_pos, in_pos, coefficients, distance_scales, base_lengths, strict=True
    ):
        positions = (*_ABSENT, *_ABSENT) if w.dim() == 1 else (*described[id(x)], *described[id(y)])
        terms.append((*_matrix(w), *_matrix(g), *positions, coefficient, scale, base))
    memo.update(terms=terms, coordinates=coordinates)  # whose addresses are in the terms


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
    memo: dict = {}
    no_grads = [None] * len(weights)
    _describe_terms(memo, weights, no_grads, out_pos, in_pos, coefficients, distance_scales, base_lengths, table)
    kind = _DTYPES[weights[0].dtype]
    return _cpu.penalty(kind, memo["terms"], [0] * len(weights), *_metric(metric, table), 0.0, _threads())


def adamw(
    weights: list[Tensor],  # any shape; changed in place, as are the moments
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],  # each (), float32: how many were taken; counted up
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
    memo = {} if memo is None else memo
    if "terms" not in memo:
        _describe_steps(
            memo, weights, grads, exp_avgs, exp_avg_sqs, steps, out_pos, in_pos, coefficients, distance_scales,
            base_lengths, table,
        )  # fmt: skip
    if memo["terms"] is None:
        return reference.adamw(
            weights, grads, exp_avgs, exp_avg_sqs, steps, out_pos, in_pos, metric, coefficients, distance_scales,
            base_lengths, settings, proximal, table,
        )  # fmt: skip
    cost = _cpu.adamw(
        _DTYPES[weights[0].dtype],
        memo["terms"],
        [g.data_ptr() for g in grads],
        memo["moments"],
        *_metric(metric, table),
        tuple(settings),
        proximal,
        _threads(),
    )
    return _scalar(weights[0], cost)


def _describe_steps(
    memo, weights, grads, exp_avgs, exp_avg_sqs, steps, out_pos, in_pos, coefficients, distance_scales, base_lengths,
    table,
):  # fmt: skip
    """The terms as the kernel takes them; None where memory is laid out as it cannot walk it."""
    terms, moments = [], []
    coordinates = {id(x): _coordinates(x, table) for x in (*out_pos, *in_pos)}  # groups share their positions
    described = {key: _matrix(x) for key, x in coordinates.items()}
    for w, g, m, v, step, x, y, coefficient, scale, base in zip(
        weights, grads, exp_avgs, exp_avg_sqs, steps, out_pos, in_pos, coefficients, distance_scales, base_lengths,
        strict=True,
    ):  # fmt: skip
        strides = w.stride()
        if coefficient and len(strides) == 2:
            layout, positions = (*w.shape, *strides), (*described[id(x)], *described[id(y)])
            dense = 1 in strides
        else:
            layout, positions = (1, w.numel(), 1, 1), (*_ABSENT, *_ABSENT)
            dense = w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last)
        if not dense or not strides == g.stride() == m.stride() == v.stride() or step.dtype != torch.float32:
            memo["terms"] = None
            return
        terms.append((w.data_ptr(), *layout, 0, *layout, *positions, coefficient, scale, base))
        moments.append((m.data_ptr(), v.data_ptr(), step.data_ptr()))
    memo.update(terms=terms, moments=moments, coordinates=coordinates)  # whose addresses are in the terms


def placement_cost(
    slots: Tensor,  # (n, dim)
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
    table: Tensor | None = None,
) -> Tensor:  # (n, n), with the strides of a transpose
    dtype = weights[0].dtype if weights else slots.dtype if table is None else table.dtype
    coordinates = [_coordinates(y, table) for y in peers]  # kept alive during the call
    slots = _coordinates(slots, table)
    parts = _parts(weights, coordinates, incoming, coefficients)
    by_slot = _empty((slots.shape[0], slots.shape[0]), slots.dtype)
    _cpu.placement_cost(
        _DTYPES[dtype], _matrix(slots), parts, incoming, *_metric(metric, table), by_slot.data_ptr(), _threads()
    )
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
    dtype = weights[0].dtype if weights else grad.dtype
    by_slots, *by_peers = (_fresh(x, zero=table is not None) for x in (slots, *peers))
    by_weights = [_fresh(w) for w in weights]
    coordinates = [_coordinates(y, table) for y in peers]  # kept alive during the call
    parts = [
        (*part, *_matrix(w if k < incoming else w.T), y.data_ptr())
        for k, (part, w, y) in enumerate(
            zip(_parts(weights, coordinates, incoming, coefficients), by_weights, by_peers, strict=True)
        )
    ]
    slots = _coordinates(slots, table)
    _cpu.placement_cost_backward(
        _DTYPES[dtype],
        _matrix(grad),
        _matrix(slots),
        parts,
        incoming,
        *_metric(metric, table),
        by_slots.data_ptr(),
        _threads(),
    )
    return [by_slots, *by_weights, *by_peers]


def swap_deltas(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> Tensor:  # (n, n)
    deltas = _empty(cost.shape, cost.dtype)
    matrices, assignment = _swap_inputs(cost, assignment, flow, distance)
    c, f, d = (_matrix(x) for x in matrices)
    _cpu.swap_deltas(_DTYPES[cost.dtype], c, _address(assignment), f, d, deltas.data_ptr(), _threads())
    return deltas


def swap_deltas_backward(
    grad: Tensor,  # (n, n)
    cost: Tensor,
    assignment: Tensor | None,
    flow: Tensor | None,
    distance: Tensor | None,
) -> list[Tensor]:
    matrices = (cost,) if flow is None or distance is None else (cost, flow, distance)
    grads = [_fresh(x) for x in matrices]
    assignment = None if assignment is None else assignment.contiguous()
    _cpu.swap_deltas_backward(
        _DTYPES[cost.dtype],
        _matrix(grad),
        _address(assignment),
        _matrix(flow if len(grads) > 1 else None),
        _matrix(distance if len(grads) > 1 else None),
        *(_address(x) for x in (*grads, None, None)[:3]),
        _threads(),
    )
    return grads


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
        _threads(),
    )
    return delta, partner


def greedy_swaps(
    cost: Tensor,  # (n, n)
    neuron_in: Tensor,  # (n,) int64, by slot; changed in place
    slots: Tensor,  # (k,) int64
) -> int:
    rows = columns = cost
    if len(slots) * 8 > len(cost) > _WIDE:  # else every visit would read a matrix of this size across its rows
        rows, columns = cost.contiguous(), cost.T.contiguous().T
    at = (neuron_in.data_ptr(), slots.data_ptr(), len(slots))
    return _cpu.greedy_swaps(_DTYPES[cost.dtype], _matrix(rows), _matrix(columns), *at)


def linear_assignment(
    cost: Tensor,  # (n, n)
    start: Tensor,  # (n,) int64
) -> Tensor:  # (n,) int64
    return _shortest_paths(cost, start, _ALL)[0]


def assignment_bound(
    cost: Tensor,  # (n, n)
    start: Tensor,  # (n,) int64
    rounds: int,
) -> float:
    return _shortest_paths(cost, start, rounds)[1]


def _shortest_paths(cost: Tensor, start: Tensor, rounds: int) -> tuple[Tensor, float]:
    """With neurons as rows: with slots as rows, whose costs are more alike, it takes up to five times as long."""
    rows, found = cost.contiguous(), start.clone()
    bound = _cpu.linear_assignment(_DTYPES[cost.dtype], _matrix(rows), found.data_ptr(), rounds)
    return found, bound


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
    n, dtype = slots.shape[0], slots.dtype if table is None else table.dtype
    if top_k is None:
        delta, neurons = torch.empty(n, dtype=dtype), torch.empty(n, dtype=torch.int64)
    else:
        top_k = min(top_k, n * (n - 1) // 2)
        delta, neurons = torch.empty(top_k, dtype=dtype), torch.empty(top_k, 2, dtype=torch.int64)
    coordinates = [_coordinates(y, table) for y in peers]  # kept alive during the call
    slots = _coordinates(slots, table)
    _cpu.placement_swaps(
        _DTYPES[weights[0].dtype if weights else dtype],
        _matrix(slots),
        _parts(weights, coordinates, incoming, coefficients),
        incoming,
        *_metric(metric, table),
        max(sum(w.nbytes for w in weights) // _MEMORY_PART, _LITTLE_MEMORY),
        delta.data_ptr(),
        neurons.data_ptr(),
        -1 if top_k is None else top_k,
        _threads(),
    )
    return delta, neurons


def quadratic_memory(n: int, dtype: torch.dtype, slots: int) -> Tensor:
    words = _cpu.quadratic_memory(n, dtype.itemsize) // 8
    memory = torch.empty(_HEADER + slots * words, dtype=torch.int64)
    memory[:2] = torch.tensor([0, slots])
    memory[_HEADER::words] = -1
    return memory


def quadratic_ended(memory: Tensor, walks: int) -> bool:
    taken, slots = memory[:2].tolist()
    under_way = memory[_HEADER :: (len(memory) - _HEADER) // slots] >= 0
    return taken >= walks and not under_way.any()


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
    n, dtype = flow.shape[0], flow.dtype
    padding = (0, _cpu.quadratic_stride(n) - n)
    padded = [torch.nn.functional.pad(x, padding).contiguous() for x in ((flow,) if symmetric else (flow, flow.T))]
    others = (distance.contiguous(), None if linear is None else linear.contiguous())
    if memory is None:
        memory = quadratic_memory(n, dtype, max(1, min(_threads(), len(assignments))))
    results = (assignments, seeds, limits, costs, done, memory)
    _cpu.quadratic_walks(
        dtype == torch.int32,
        n,
        tuple(_address(x) for x in (padded[0], padded[-1], *others, *results)),
        symmetric,
        len(assignments),
        tabu,
        least,
        int(memory[1]),
        seconds,
        _threads(),
    )


def label_nulls(
    labels: Tensor,  # (n,) int64
    neighbours: Tensor,  # (n, degree) int64
    positions: Tensor,  # (n, dim) float64
    clusters: int,
    permutations: int,
    seed: int,
) -> Tensor:  # (1 + permutations, 3)
    if len(labels) == 0:
        return positions.new_zeros(1 + permutations, 3)
    inputs = (labels.to(torch.int32).contiguous(), neighbours.to(torch.int32).contiguous(), positions.contiguous())
    nulls = torch.empty(1 + permutations, 3, dtype=torch.float64)
    sizes = (len(labels), clusters, neighbours.shape[1], positions.shape[1])
    addresses = tuple(x.data_ptr() for x in (*inputs, nulls))
    _cpu.label_nulls(sizes, addresses, permutations, seed, _threads())
    return nulls


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


def _metric(metric: str, table: Tensor | None) -> tuple[int, tuple[int, int, int, int, int]]:
    """Code and distance tensor, which is absent for the metrics of the table of geometry.py."""
    return (TABLE_CODE if metric == TABLE else metric_row(metric).code), _matrix(table)


def _coordinates(positions: Tensor, table: Tensor | None) -> Tensor:
    """Indices as a column of numbers: exact, as no table has 2^24 rows."""
    return positions if table is None or positions.dim() != 1 else positions.to(table.dtype)[:, None]


def _scalar(weight: Tensor, value: float) -> Tensor:
    like = weight if weight.dtype in (torch.float32, torch.float64) else widened(weight.new_empty(()))
    return like.new_full((), value)  # twice as fast as torch.tensor


def _threads() -> int:
    return torch.get_num_threads()


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


def _fresh(like: Tensor, zero: bool = False) -> Tensor:
    """Contiguous, of the same shape and dtype."""
    return torch.zeros(like.shape, dtype=like.dtype) if zero else _empty(like.shape, like.dtype)


def _prepare(x: Tensor) -> Tensor:
    if x.nbytes >= _LARGE:
        _cpu.prepare_result(x.data_ptr(), x.nbytes, _threads())
    return x

"""The penalty and AdamW as CUDA kernels: the functions of reference.py by the same names.

Positions are checked where a call's tensors are described, which waits for the device: with a memo, once.
"""

import torch
from torch import Tensor

from .cuda_native import DTYPES, address, coordinates, matrix, metric_arguments, native, queue
from .reference import require_positions, widened

_captured: list[dict] = []


def connection_cost(
    weight: Tensor,  # (n_out, n_in)
    out_pos: Tensor,  # (n_out, dim)
    in_pos: Tensor,  # (n_in, dim)
    metric: str,
    distance_scale: float,
    base_length: float,
    table: Tensor | None = None,
) -> Tensor:  # (), of the compute dtype
    settings = ([1.0], [distance_scale], [base_length], table)
    return _penalty([weight], None, [out_pos], [in_pos], metric, 0.0, *settings, {})


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
    x, y = coordinates(out_pos, table), coordinates(in_pos, table)
    by_weight = None
    if need[0]:
        by_weight = torch.empty_like(weight)
        term = _term(weight, by_weight, x, y, 1.0, distance_scale, base_length)
        where, code = [by_weight.data_ptr()], metric_arguments(metric, table)
        native(weight.device).penalty(
            queue(weight.device), DTYPES[weight.dtype], [term], where, *code, 1.0, grad.data_ptr(), 0, 0
        )
    by_out = _position_gradient(weight, x, y, metric, distance_scale, grad) if need[1] else None
    by_in = _position_gradient(weight.T, y, x, metric, distance_scale, grad) if need[2] else None
    return by_weight, by_out, by_in


def _position_gradient(
    weight: Tensor, positions: Tensor, peers: Tensor, metric: str, distance_scale: float, grad: Tensor
) -> Tensor:
    """For the positions of the weight's rows."""
    gradient = torch.empty_like(positions)
    native(weight.device).position_gradient(
        queue(weight.device),
        DTYPES[weight.dtype],
        matrix(weight),
        positions.data_ptr(),
        peers.data_ptr(),
        positions.shape[1],
        metric_arguments(metric, None)[0],
        distance_scale,
        grad.data_ptr(),
        gradient.data_ptr(),
    )
    return gradient


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
    settings = (coefficients, distance_scales, base_lengths, table)
    return _penalty(weights, grads, out_pos, in_pos, metric, lam, *settings, memo)


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
    settings = (coefficients, distance_scales, base_lengths, table)
    return _penalty(weights, None, out_pos, in_pos, metric, 0.0, *settings, {}).item()  # waits for the device


def _penalty(
    weights, grads, out_pos, in_pos, metric, lam, coefficients, distance_scales, base_lengths, table, memo
) -> Tensor:
    device, dtype = weights[0].device, weights[0].dtype
    kernels, where = native(device), [0] * len(weights) if grads is None else [g.data_ptr() for g in grads]
    if "terms" not in memo:
        _describe(memo, weights, grads, out_pos, in_pos, metric, coefficients, distance_scales, base_lengths, table)
        blocks = kernels.penalty_blocks(DTYPES[dtype], memo["terms"], where)
        memo["partial"] = torch.empty(max(blocks, 1), dtype=torch.float64, device=device)
    _keep_what_a_graph_uses(memo, device)
    cost = _fresh_cost(weights[0])
    kernels.penalty(
        queue(device),
        DTYPES[dtype],
        memo["terms"],
        where,
        *metric_arguments(metric, table),
        lam,
        0,
        memo["partial"].data_ptr(),
        cost.data_ptr(),
    )
    return cost


def _describe(memo, weights, grads, out_pos, in_pos, metric, coefficients, distance_scales, base_lengths, table):
    terms = []
    own = _checked_coordinates(zip(weights, out_pos, in_pos, strict=True), metric, table)
    for w, g, x, y, coefficient, scale, base in zip(
        weights, weights if grads is None else grads, out_pos, in_pos, coefficients, distance_scales, base_lengths,
        strict=True,
    ):  # fmt: skip
        ends = (own[id(x)], own[id(y)]) if w.dim() > 1 else (None, None)
        terms.append(_term(w, g, *ends, coefficient, scale, base))
    memo.update(terms=terms, coordinates=own)  # whose addresses are in the terms


def _checked_coordinates(connections, metric: str, table: Tensor | None) -> dict[int, Tensor]:
    """By the identity of the positions: groups share theirs."""
    found = {}
    for w, *ends in connections:
        for name, x in zip(("out_pos", "in_pos"), ends, strict=True):
            if w.dim() > 1 and id(x) not in found:
                require_positions(metric, table, **{name: x})
                found[id(x)] = coordinates(x, table)
    return found


def _term(w, g, x, y, coefficient, scale, base) -> tuple:
    dim = 0 if x is None else x.shape[1]
    return (*matrix(w), *matrix(g), address(x), address(y), dim, coefficient, scale, base)


def _fresh_cost(weight: Tensor) -> Tensor:
    return torch.empty((), dtype=widened(weight.new_empty(0)).dtype, device=weight.device)


def adamw(
    weights: list[Tensor],  # any shape; changed in place, as are the moments
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],  # each (), float32, on the weights' device: how many were taken; counted up
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
    device, dtype = weights[0].device, weights[0].dtype
    states = (weights, grads, exp_avgs, exp_avg_sqs, steps)
    ends, rest = (out_pos, in_pos), (metric, coefficients, distance_scales, base_lengths)
    if "terms" not in memo:
        _describe_steps(memo, *states, *ends, *rest, table)
    if memo["terms"] is None:
        return _adamw_on_copies(states, *ends, *rest, settings, proximal, table)
    _keep_what_a_graph_uses(memo, device)
    cost = _fresh_cost(weights[0])
    native(device).adamw(
        queue(device),
        DTYPES[dtype],
        memo["terms"],
        [g.data_ptr() for g in grads],
        memo["moments"],
        *metric_arguments(metric, table),
        tuple(settings),
        proximal,
        memo["partial"].data_ptr(),
        cost.data_ptr(),
    )
    return cost


def _describe_steps(
    memo, weights, grads, exp_avgs, exp_avg_sqs, steps, out_pos, in_pos, metric, coefficients, distance_scales,
    base_lengths, table,
):  # fmt: skip
    """The terms as the kernel takes them; None where memory is laid out as it cannot walk it."""
    terms, moments = [], []
    charged = [bool(c) and w.dim() == 2 for w, c in zip(weights, coefficients, strict=True)]
    ends = [(w, x, y) for w, x, y, c in zip(weights, out_pos, in_pos, charged, strict=True) if c]
    own = _checked_coordinates(ends, metric, table)
    for w, g, m, v, step, x, y, connects, *settings in zip(
        weights, grads, exp_avgs, exp_avg_sqs, steps, out_pos, in_pos, charged, coefficients, distance_scales,
        base_lengths, strict=True,
    ):  # fmt: skip
        dense = connects or w.is_contiguous() or w.is_contiguous(memory_format=torch.channels_last)
        beside = step.dtype == torch.float32 and step.device == w.device
        if not dense or not beside or not _strides(w) == _strides(g) == _strides(m) == _strides(v):
            memo["terms"] = None
            return
        seen = w if connects else w.as_strided((w.numel(),), (1,))
        places = (own[id(x)], own[id(y)]) if connects else (None, None)
        terms.append(_term(seen, seen, *places, *settings))
        moments.append((m.data_ptr(), v.data_ptr(), step.data_ptr()))
    where = [g.data_ptr() for g in grads]
    blocks = native(weights[0].device).penalty_blocks(DTYPES[weights[0].dtype], terms, where)
    partial = torch.empty(max(blocks, 1), dtype=torch.float64, device=weights[0].device)
    memo.update(terms=terms, moments=moments, coordinates=own, partial=partial)


def _strides(x: Tensor) -> list[int]:
    """Of axes along which there is more than one entry."""
    return [step for n, step in zip(x.shape, x.stride(), strict=True) if n > 1]


def _keep_what_a_graph_uses(memo: dict, device: torch.device) -> None:
    """A captured graph has the addresses of a memo's tensors, which a relocation would otherwise free."""
    if device.type == "cuda" and torch.cuda.is_current_stream_capturing():
        _captured.append({key: memo[key] for key in ("partial", "coordinates")})


def _adamw_on_copies(states, *rest) -> Tensor:
    """The same on contiguous tensors, and step counts beside them, which are then copied back."""
    device = states[0][0].device
    copies = [[x.clone(memory_format=torch.contiguous_format) for x in tensors] for tensors in states[:-1]]
    steps = [step.to(device, torch.float32, copy=True) for step in states[-1]]
    cost = adamw(*copies, steps, *rest)
    for own, copied in zip((*states[:1], *states[2:]), (*copies[:1], *copies[2:], steps), strict=True):
        for x, new in zip(own, copied, strict=True):
            x.copy_(new)
    return cost

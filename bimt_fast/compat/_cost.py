"""The connection cost of a whole network in one native call, with its gradient."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ..ops import COMPUTE_DTYPE, add_grad, total_cost


class Charged(NamedTuple):
    """A tensor that costs coefficient * sum |w| * (weight_factor * d + l0)."""

    tensor: Tensor  # (n_out, n_in), or (n,) of l0 alone
    coefficient: float
    weight_factor: float = 0.0
    positions: tuple[Tensor, Tensor] | None = None  # (n_out, dim), (n_in, dim)


def connection_cost(charged: Sequence[Charged], l0: float) -> Tensor:
    """The sum over all tensors, 0-d of the compute dtype; differentiable in the tensors, once."""
    tensors = [x.tensor for x in charged]
    dtype, nowhere = COMPUTE_DTYPE[tensors[0].dtype], tensors[0].new_empty(0, 0)
    ends = [(nowhere, nowhere) if x.positions is None else x.positions for x in charged]
    out_pos, in_pos = ([x.to(dtype) for x in side] for side in zip(*ends, strict=True))
    coefficients, factors = ([getattr(x, name) for x in charged] for name in ("coefficient", "weight_factor"))
    settings = coefficients, factors, [float(l0)] * len(charged), None
    if torch.is_grad_enabled():
        return _ConnectionCost.apply(out_pos, in_pos, settings, *tensors)
    total = total_cost(tensors, out_pos, in_pos, "l1", *settings)
    return torch.tensor(total, dtype=dtype, device=tensors[0].device)


class _ConnectionCost(torch.autograd.Function):
    """Computes the gradient beside the cost, in the same pass over the weights."""

    @staticmethod
    def forward(ctx, out_pos, in_pos, settings, *tensors):
        ctx.grads = [torch.zeros_like(x) for x in tensors]
        ctx.save_for_backward(*tensors)
        return add_grad(list(tensors), ctx.grads, out_pos, in_pos, "l1", 1.0, *settings)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        _ = ctx.saved_tensors  # torch refuses tensors that have changed since
        needed = ctx.needs_input_grad[3:]
        return None, None, None, *(g * grad if n else None for g, n in zip(ctx.grads, needed, strict=True))

"""The states of a recurrent network of rectified units, and their gradient, with a large product where one will do."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


def states_of(drive: Tensor, weight: Tensor, alpha: float = 1.0) -> Tensor:
    """h[t] = (1 - alpha) h[t - 1] + alpha relu(drive[t] + W h[t - 1]) for all t, from h = 0.

    Differentiable once in drive and weight. The gradient of the weight is one product over all steps, behind the
    loop; a step of the loop is one product in each direction, with what is added to it.

    Args:
        drive: (steps, batch, n), what comes from outside: input, bias, noise.
        weight: (n, n), of the same dtype; W[out, in].
        alpha: of (0, 1], the step's part of the time constant.

    Returns:
        (steps, batch, n)
    """
    return _Recurrence.apply(drive, weight, alpha)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx, drive: Tensor, weight: Tensor, alpha: float) -> Tensor:
        # Where alpha is 1 a state is its rate.
        states = torch.empty_like(drive, memory_format=torch.contiguous_format)
        rates = states if alpha == 1 else torch.empty_like(states)
        to_next, last = weight.t(), None
        for driven, rate, state in zip(drive.unbind(), rates.unbind(), states.unbind(), strict=True):
            if last is None:
                rate.copy_(driven)
            else:
                torch.addmm(driven, last, to_next, out=rate)
            rate.relu_()
            if alpha != 1:
                torch.mul(rate, alpha, out=state)
                if last is not None:
                    state.add_(last, alpha=1 - alpha)
            last = state
        ctx.alpha = alpha
        ctx.save_for_backward(weight, states, rates)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, None]:
        weight, states, rates = ctx.saved_tensors
        alpha = ctx.alpha
        to_drive = torch.empty_like(states)  # gradient of what is rectified
        to_state, leaked, later = torch.empty_like(states[0]), torch.zeros_like(states[0]), None
        of_steps = zip(grad.unbind(), rates.unbind(), to_drive.unbind(), strict=True)
        for from_outside, rate, driven in reversed(list(of_steps)):
            if later is None:
                to_state.copy_(from_outside)
            else:
                torch.addmm(from_outside, later, weight, out=to_state)
            if alpha != 1:
                to_state.add_(leaked)
                torch.mul(to_state, 1 - alpha, out=leaked)
                to_state.mul_(alpha)
            torch.ops.aten.threshold_backward.grad_input(to_state, rate, 0, grad_input=driven)
            later = driven
        to_weight = to_drive[1:].flatten(0, 1).t() @ states[:-1].flatten(0, 1)
        return to_drive, to_weight, None

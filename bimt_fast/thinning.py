"""Neurons that go during training, those first that the task needs least.

The penalty shortens wiring connection by connection, which leaves many neurons with a few connections each. A neuron
is needed as much as the loss depends on a factor before what it says. That derivative is the sum over its outgoing
connections of w * (d loss / d w), so each step of training yields it for all neurons at next to no cost; its mean
square over steps is the importance of Molchanov et al. 2019 (arXiv 1906.10771) and Theis et al. 2018 (arXiv
1801.05787).
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .ops import check_integer, check_number

_SENDS = "recurrent.weight", "readout.weight"  # a column each for what one neuron says
_STAGES = 20  # a few neurons at a time: the others learn to do without them before the next ones are chosen


class Thinning:
    """Removes neurons of a model that is being trained.

    Args:
        model: a bimt_fast.nn.BioRNN.
        start, end: fractions of the steps in [0, 1]: neurons are judged from start on, and go in equal numbers at
            twenty steps, or all steps if those are fewer, of which the last is at end.
        neurons: to be left, at least 1.
        steps: of the training.

    Attributes:
        relevance: (n,) sum over the steps since neurons last went of the squared derivative of the loss by the factor.
            It has to be attached to the model's wiring, as `following`.
        first: step from which on `observe` is to be called.

    Raises:
        TypeError: the model is no BioRNN, or a number none.
        ValueError: start, end or neurons is out of its range, or outgoing connections are not trained.
    """

    def __init__(self, model: nn.Module, start: float, end: float, neurons: int, steps: int) -> None:
        if not hasattr(model, "only_heard"):
            found = type(model).__name__
            raise TypeError(f"model must be a bimt_fast.nn.BioRNN for neurons to be removed, was {found}")
        for name in _SENDS:
            if not model.get_parameter(name).requires_grad:
                raise ValueError(f"{name!r} must require gradients for neurons to be removed, did not")
        start, end = check_number("start", start, 0), check_number("end", end, 0)
        if not start < end <= 1:
            raise ValueError(f"end must be above start, {start:g}, and at most 1, was {end:g}")
        self.model, self.neurons = model, check_integer("neurons", neurons, 1)
        self.first = round(start * steps)
        span = max(min(round(end * steps), steps - 1) - self.first, 1)
        self.stages = sorted({self.first + -(-span * k // _STAGES) for k in range(1, _STAGES + 1)})
        self.relevance = torch.zeros_like(model.input.bias.detach())

    def following(self, name: str) -> Iterable[Tensor]:
        """What travels with the tensor of that name when neurons trade places."""
        return [self.relevance] if name == "input.bias" else []

    @torch.no_grad()
    def observe(self) -> None:
        """Takes the gradients of one step into account, as backward left them."""
        self.relevance += sum((w * w.grad).sum(0) for w in map(self.model.get_parameter, _SENDS)) ** 2

    @torch.no_grad()
    def remove(self, step: int) -> None:
        """Removes at one of the stages as many neurons as it takes to reach the number left by equal stages.

        A removed neuron has no connection and no bias any more, nor has one that spoke to removed ones only.
        """
        heard = self.model._heard()
        surplus = max(len(heard) - self.neurons, 0)
        count = -(-surplus // sum(stage >= step for stage in self.stages))
        go = heard[self.relevance[heard].argsort(stable=True)[:count]]
        for name in _SENDS:
            self.model.get_parameter(name)[:, go] = 0
        self.model.silence_unheard_()
        self.relevance.zero_()

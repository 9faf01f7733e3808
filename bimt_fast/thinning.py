"""Neurons that go during training, those first that the task needs least.

The penalty shortens wiring connection by connection, which leaves many neurons with a few connections each. How much a
neuron is needed is told by the derivative of the loss by a factor that multiplies what the neuron says, at 1. That is
the sum over its outgoing connections of w * (d loss / d w), so each step of training yields it for all neurons at next
to no cost. Its mean square over steps is the importance of Molchanov et al. 2019 (arXiv 1906.10771), by batch.
"""

import weakref
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from .ops import check_integer, check_number

_SENDS = "recurrent.weight", "readout.weight"  # a column each for what one neuron says
_STAGES = 20  # a few neurons at a time: the others learn to do without them before the next ones are chosen


class Thinning:
    """Removes neurons of a model that is being trained.

    A loop other than bimt_fast.train has in each step:

        if step == thinning.first:
            model.only_heard = True  # removed neurons stay out: they get no gradient
        if step in thinning.stages and thinning.remove(step):
            optimizer.state.clear()  # moments would move the connections that are gone
        ...  # gradients of the loss, before they are clipped
        if thinning.first <= step < thinning.stages[-1]:
            thinning.observe()

    Args:
        model: a bimt_fast.nn.BioRNN; thinning follows the relocations of its wiring.
        start, end: fractions of the steps, 0 <= start < end <= 1: neurons are judged from start on, and go at twenty
            steps, or at all if those are fewer, of which the last is at end, in numbers as equal as can be.
        neurons: that are left at most, at least 1.
        steps: of the training, at least 2.

    Attributes:
        relevance: (n,) sum of the squared derivatives, see above, over the steps since the last stage.
        first: step from which on the model is observed.
        stages: steps before which neurons are removed, ascending.

    Raises:
        TypeError: the model is no BioRNN, or a number none.
        ValueError: a number is out of its range, or outgoing connections are not trained.
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
        steps = check_integer("steps", steps, 2)
        self.first = min(round(start * steps), steps - 2)  # a step to judge by, and one behind the last stage
        span = max(min(round(end * steps), steps - 1) - self.first, 1)
        self.stages = sorted({self.first + -(-span * k // _STAGES) for k in range(1, _STAGES + 1)})
        self.relevance = torch.zeros_like(model.input.bias.detach())
        model.wiring.attach(_follower(weakref.ref(self)))

    @torch.no_grad()
    def observe(self) -> None:
        """Takes the gradients of one step into account, as backward left them."""
        self.relevance += sum((w * w.grad).sum(0) for w in map(self.model.get_parameter, _SENDS)) ** 2

    @torch.no_grad()
    def remove(self, step: int) -> bool:
        """Removes at one of the stages as many neurons as it takes to reach the number left by equal stages.

        A removed neuron has no connection and no bias any more, nor has one that spoke to removed ones only. The most
        relevant of those that speak to the output themselves stays.

        Returns:
            Whether any went.
        """
        heard, relevance = self.model._heard(), self.relevance.clone()
        self.relevance.zero_()
        surplus = len(heard) - self.neurons
        if surplus <= 0:
            return False
        speakers = (self.model.readout.weight != 0).any(0).nonzero()[:, 0]
        relevance[speakers[relevance[speakers].argmax()]] = torch.inf
        count = -(-surplus // sum(stage >= step for stage in self.stages))
        go = heard[relevance[heard].argsort(stable=True)[:count]]
        for name in _SENDS:
            self.model.get_parameter(name)[:, go] = 0
        self.model.silence_unheard_()
        return True


def _follower(thinning: "weakref.ref[Thinning]") -> Callable[[str], Iterable[Tensor]]:
    """What travels with the tensor of a name when neurons trade places, for as long as the thinning is there."""

    def follow(name: str) -> Iterable[Tensor]:
        return [found.relevance] if name == "input.bias" and (found := thinning()) is not None else []

    return follow

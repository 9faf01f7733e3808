"""Neurons that become one: the steps that training cannot take by itself.

Where one feature is split over two neurons of a layer (a product as the difference of two squares, say), loss and
wiring would both gain from one neuron that says it all, but the way there leads over a barrier: a neuron that squares
would have to turn into one that passes on a sum. Gradients do not climb it, and swaps leave the function as it is. A
merge jumps: it fits the joined neuron by least squares, and a few hundred steps of training tell whether that helped.
"""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ._frames import Recorder

THRESHOLD = 0.05  # a connection counts where |w| is above
# Where a joined neuron is to work, as mean and standard deviation of what it hears: there SiLU is nearly linear.
_RANGES = ((1.0, 0.3), (1.5, 0.5), (2.0, 1.0), (3.0, 1.0), (3.0, 2.0))
_PAIRS = 24  # of a layer's neurons that are tried, the most alike
# A merge on trial goes on while the objective is at most so much above the one to beat, at the end of each interval.
_PATIENCE = (0.25, 0.12, 0.06, 0.03)


@dataclass
class Merge:
    """One neuron less.

    Attributes:
        layer: index of the layer whose neurons they are.
        neurons: (the one that goes,) or (the one that says what both said, the one that goes).
        weights: new values of parameters, by name.
        objective: with them, before any training.
    """

    layer: int
    neurons: tuple[int, ...]
    weights: dict[str, Tensor]
    objective: float


@torch.no_grad()
def merges(model: nn.Module, x: Tensor, objective: Callable[[], float]) -> list[Merge]:
    """Every merge worth a trial.

    A neuron goes and the others of its layer take over; or two become one, which hears what either heard and says the
    most that one neuron can of what both said. In both cases the layer behind is fitted anew by least squares, to what
    it said before. Neurons and connections count where |w| > 0.05.

    Args:
        model: a bimt_fast.nn.BioMLP with biases; the same again afterwards.
        x: inputs to judge by, as forward takes them.
        objective: of the model as it stands, to be made small.

    Returns:
        The merges of the last hidden layer, best objective first, then those of the layer before it, and so on.

    Raises:
        TypeError, ValueError: as check_model.
    """
    check_model(model)
    features = x if model.embedding is None else model.embedding(x).flatten(-2)
    said = [features, *model.hidden(x)]
    found = []
    for k in reversed(range(len(model.layers) - 1)):
        best: dict[tuple[int, ...], Merge] = {}
        for neurons, weights in _Layer(model, k, said[k], said[k + 1]).proposals():
            value = _objective_with(model, weights, objective)
            if neurons not in best or value < best[neurons].objective:
                best[neurons] = Merge(k, neurons, weights, value)
        found += sorted(best.values(), key=lambda merge: merge.objective)
    return found


def mergeable(model: nn.Module) -> bool:
    """Whether check_model takes the model."""
    return _like_a_mlp(model) and all(layer.bias is not None for layer in model.layers)


def _like_a_mlp(model: nn.Module) -> bool:
    return all(hasattr(model, name) for name in ("layers", "activation", "embedding", "hidden"))


def check_model(model: nn.Module) -> None:
    """Whether neurons of the model can be merged.

    Raises:
        TypeError: it is no bimt_fast.nn.BioMLP, or a model that has its layers, activation, embedding and hidden().
        ValueError: it has no biases.
    """
    if not _like_a_mlp(model):
        raise TypeError(f"model must be a bimt_fast.nn.BioMLP for neurons to be merged, was {type(model).__name__}")
    if not mergeable(model):
        raise ValueError("model must have biases for neurons to be merged, had none")


def _objective_with(model: nn.Module, weights: Mapping[str, Tensor], objective: Callable[[], float]) -> float:
    before = {name: model.get_parameter(name).clone() for name in weights}
    put_(model, weights)
    try:
        return objective()
    finally:
        put_(model, before)


@torch.no_grad()
def put_(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Writes values into parameters, by name."""
    for name, value in weights.items():
        model.get_parameter(name).copy_(value)


class _Layer:
    """A hidden layer and the one behind it."""

    def __init__(self, model: nn.Module, k: int, heard: Tensor, said: Tensor) -> None:
        below, above = model.layers[k], model.layers[k + 1]
        self.k, self.activation = k, model.activation
        self.heard, self.said = heard.double(), said.double()
        self.incoming, self.bias = below.weight.double(), below.bias.double()
        self.outgoing, self.next_bias = above.weight.double(), above.bias.double()
        self.target = self.said @ self.outgoing.T + self.next_bias
        counts = self.outgoing.abs() > THRESHOLD
        self.alive, self.listening = counts.any(0).nonzero().flatten().tolist(), counts.any(1)

    def proposals(self) -> Iterator[tuple[tuple[int, ...], dict[str, Tensor]]]:
        """Neurons and weights of every merge; a pair comes several times, once for each range that it may work in."""
        if len(self.alive) < 2:
            return
        for neuron in self.alive:
            yield (neuron,), self._without(neuron)
        for kept, gone in self._alike():
            for weights in self._joined(kept, gone):
                yield (kept, gone), weights

    def _without(self, neuron: int) -> dict[str, Tensor]:
        incoming, bias = self.incoming.clone(), self.bias.clone()
        incoming[neuron], bias[neuron] = 0, 0
        return self._weights(incoming, bias, self.said, gone=neuron)

    def _alike(self) -> list[tuple[int, int]]:
        """Pairs of which one neuron could say the most.

        What neurons a and b say to the layer behind is H W', with H (n, 2) and W (out, 2). One neuron can say its
        larger singular value; the square of the smaller is an eigenvalue of H'H W'W.
        """
        centred, w = self.said[:, self.alive] - self.said[:, self.alive].mean(0), self.outgoing[:, self.alive]
        h, w = centred.T @ centred, w.T @ w
        a, b = torch.triu_indices(len(h), len(h), 1)
        trace = h[a, a] * w[a, a] + 2 * h[a, b] * w[a, b] + h[b, b] * w[b, b]
        determinant = (h[a, a] * h[b, b] - h[a, b] ** 2) * (w[a, a] * w[b, b] - w[a, b] ** 2)
        unsaid = trace / 2 - (trace.square() / 4 - determinant).clamp_min(0).sqrt()
        order = unsaid.argsort(stable=True)[:_PAIRS]
        return [(self.alive[i], self.alive[j]) for i, j in zip(a[order].tolist(), b[order].tolist(), strict=True)]

    def _joined(self, kept: int, gone: int) -> Iterator[dict[str, Tensor]]:
        pair = [kept, gone]
        sources = (self.incoming[pair].abs() > THRESHOLD).any(0).nonzero().flatten()
        both = (self.said[:, pair] - self.said[:, pair].mean(0)) @ self.outgoing[:, pair].T
        feature = torch.linalg.svd(both, full_matrices=False).U[:, 0]
        if not len(sources) or not feature.std() > 0:
            return
        for mean, spread in _RANGES:
            for sign in (1, -1):
                weights, constant, fitted = _least_squares(
                    self.heard[:, sources], (mean + sign * spread * feature / feature.std())[:, None]
                )
                incoming, bias, said = self.incoming.clone(), self.bias.clone(), self.said.clone()
                incoming[pair], bias[pair] = 0, 0
                incoming[kept, sources], bias[kept] = weights[:, 0], constant[0]
                said[:, kept] = self.activation(fitted[:, 0])
                yield self._weights(incoming, bias, said, gone)

    def _weights(self, incoming: Tensor, bias: Tensor, said: Tensor, gone: int) -> dict[str, Tensor]:
        """With the layer behind fitted anew, where it listens at all."""
        others = [neuron for neuron in self.alive if neuron != gone]
        weights, constant, _ = _least_squares(said[:, others], self.target)
        outgoing = torch.zeros_like(self.outgoing)
        outgoing[:, others] = weights.T
        return {
            f"layers.{self.k}.weight": incoming,
            f"layers.{self.k}.bias": bias,
            f"layers.{self.k + 1}.weight": torch.where(self.listening[:, None], outgoing, self.outgoing),
            f"layers.{self.k + 1}.bias": torch.where(self.listening, constant, self.next_bias),
        }


def _least_squares(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Weights (k, m), constant (m,) and fit (n, m) of y (n, m) as an affine function of x (n, k)."""
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1) if x.shape[1] else torch.ones_like(y[:, :1])
    solution = torch.linalg.lstsq(x, y, driver="gelsd").solution
    return solution[:-1], solution[-1], x @ solution


@torch.no_grad()
def prune_(model: nn.Module, threshold: float = THRESHOLD) -> None:
    """Sets small connections to zero, and takes out the neurons that carry nothing from inputs to outputs any more.

    One that hears nothing says a constant, which moves into the biases behind it; one that nothing hears is silent. A
    layer is never severed: its largest connection stays, and where none of a layer's would lead on, all neurons stay.

    Args:
        model: as merges.
        threshold: connections go where |w| is not above.

    Raises:
        TypeError, ValueError: as check_model, or of Wiring.prune_.
    """
    check_model(model)
    model.wiring.prune_(threshold)
    weights = [layer.weight.clone() for layer in model.layers]
    biases = [layer.bias.clone() for layer in model.layers]
    for _ in weights:  # what one removes can leave the next with nothing to hear or to say
        for k in range(len(weights) - 1):
            hears, is_heard = (weights[k] != 0).any(1), (weights[k + 1] != 0).any(0)
            constant = is_heard & ~hears
            biases[k + 1] += weights[k + 1][:, constant] @ model.activation(biases[k][constant])
            weights[k + 1][:, constant] = 0
            weights[k][~is_heard] = 0
            biases[k][~(hears & is_heard)] = 0
    if all(weight.any() for weight in weights):
        for layer, weight, bias in zip(model.layers, weights, biases, strict=True):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)


class MergeSearch:
    """Merges on trial in a training run, one after the other.

    A merge is kept when the objective has fallen below what it was before it, and undone when it has not, or is not on
    the way there. After one that is kept, all others are proposed anew.

    Args:
        model: as merges; has a wiring.
        optimizer: of all its parameters; it starts afresh with each trial.
        x: as merges.
        objective: as merges.
        recorder: of the run's frames, which is told of what is undone.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        x: Tensor,
        objective: Callable[[], float],
        recorder: Recorder | None = None,
    ) -> None:
        check_model(model)
        self.recorder = recorder
        self.model, self.optimizer, self.x, self.objective = model, optimizer, x, objective
        self.queue: list[Merge] | None = None  # None: to be proposed
        self.before: dict[str, Any] | None = None  # the run as it was; None: nothing is on trial
        self.to_beat = 0.0
        self.age = 0
        self.tried = self.kept = 0

    def step(self, last: bool) -> None:
        """Judges the merge on trial, and puts the next one on trial; to be called every few hundred steps.

        Args:
            last: whether the search ends here.
        """
        if self.before is not None and not self._judge(last):
            return
        if not last:
            self._try_next()

    def _judge(self, last: bool) -> bool:
        """Whether the trial is over."""
        value = self.objective()
        better = value < self.to_beat
        if not (better or last) and self.age < len(_PATIENCE) and value < self.to_beat * (1 + _PATIENCE[self.age]):
            self.age += 1
            return False
        if better:
            self.kept += 1
            self.queue = None
        else:
            self._restore(self.before)
        self.before = None
        return True

    def _try_next(self) -> None:
        self.to_beat = self.objective()
        if self.queue is None:
            self.queue = merges(self.model, self.x, self.objective)
        if self.queue:
            self.before, self.age = self._snapshot(), 0
            self.tried += 1
            put_(self.model, self.queue.pop(0).weights)
            self.optimizer.state.clear()

    def _snapshot(self) -> dict[str, Any]:
        wiring = self.model.wiring
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict()}
        state |= {} if self.recorder is None else {"slots": self.recorder.slots}
        return deepcopy({**state, "permutations": wiring.permutations()})

    def _restore(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.model.wiring.load_permutations(state["permutations"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.recorder is not None and "slots" in state:
            self.recorder.slots = state["slots"]

    def state_dict(self) -> dict[str, Any]:
        """Everything that load_state_dict needs to go on, plain data and tensors."""
        kept = {name: getattr(self, name) for name in ("before", "to_beat", "age", "tried", "kept")}
        return {**kept, "queue": None if self.queue is None else [asdict(merge) for merge in self.queue]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        for name in ("before", "to_beat", "age", "tried", "kept"):
            setattr(self, name, state[name])
        self.queue = None if state["queue"] is None else [Merge(**merge) for merge in state["queue"]]

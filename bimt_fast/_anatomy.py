"""What a trained BioMLP uses: neurons between inputs and outputs, parts that share nothing, what feeds what."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from .merging import THRESHOLD
from .nn import BioMLP


@dataclass(frozen=True)
class Part:
    """Outputs that share a neuron or an input, directly or through each other, and the inputs that feed them."""

    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def weights(network: BioMLP) -> list[Tensor]:
    """(out, in) of each layer, from the inputs on."""
    return [layer.weight.detach() for layer in network.layers]


@torch.no_grad()
def tidy_(network: BioMLP, constant: Tensor) -> None:
    """Sets to zero what is on no path from an input to an output; the network computes the same.

    What neurons say that no input feeds goes into the biases that they feed.

    Args:
        network: changed in place.
        constant: bool (inputs,), inputs that are always 0: nothing can depend on them.
    """
    x = torch.zeros(1, len(constant), dtype=network.layers[0].weight.dtype)
    values = [x, *network.hidden(x)]
    fed = ~constant
    for layer, value in zip(network.layers, values, strict=True):
        layer.bias += layer.weight[:, ~fed] @ value[0, ~fed]
        layer.weight[:, ~fed] = 0
        fed = (layer.weight != 0).any(1)
    for below, above in reversed(list(pairwise(network.layers))):
        unheard = ~(above.weight != 0).any(0)
        below.weight[unheard], below.bias[unheard] = 0, 0


def feeders(weights: Sequence[Tensor], neuron: int, threshold: float = THRESHOLD) -> list[Tensor]:
    """Which neurons feed a neuron of the last layer through active connections: a mask a layer, from the inputs on.

    Returns:
        Bool (n,) for the input of each weight.
    """
    reached = torch.zeros(len(weights[-1]), dtype=torch.bool)
    reached[neuron] = True
    found = []
    for weight in reversed(weights):
        reached = (weight.detach().abs() > threshold)[reached].any(0)
        found.append(reached)
    return found[::-1]


@dataclass
class Tree:
    """A part of a network that shares no neuron with the others.

    Attributes:
        tips: neurons of the last layer.
        below: those that feed them, bool (n,) a layer, from the inputs on.
    """

    tips: list[int]
    below: list[Tensor]

    @property
    def inputs(self) -> list[int]:
        return self.below[0].nonzero().flatten().tolist()


def trees(weights: Sequence[Tensor], tips: Sequence[int], threshold: float = THRESHOLD) -> list[Tree]:
    """Neurons of the last layer, together where something feeds both; those that no input feeds are left out.

    Args:
        weights: from the inputs to the tips' layer.
        tips: neurons of the last layer to judge.
        threshold: of active connections.
    """
    found: list[Tree] = []
    for tip in tips:
        new = Tree([int(tip)], feeders(weights, int(tip), threshold))
        for tree in [t for t in found if any((a & b).any() for a, b in zip(t.below, new.below, strict=True))]:
            found.remove(tree)
            new = Tree(tree.tips + new.tips, [a | b for a, b in zip(tree.below, new.below, strict=True)])
        found.append(new)
    return [tree for tree in found if tree.inputs]


def parts(network: BioMLP) -> list[Part]:
    """The parts of the network that do not talk to each other, in the order of their first outputs."""
    matrices = weights(network)
    outputs = range(len(matrices[-1]))
    found = [Part(tuple(tree.inputs), tuple(sorted(tree.tips))) for tree in trees(matrices, outputs, 0.0)]
    fed = {output for part in found for output in part.outputs}
    return sorted([*found, *(Part((), (o,)) for o in outputs if o not in fed)], key=lambda part: part.outputs)


def used_inputs(network: BioMLP) -> list[int]:
    """Inputs that some output depends on."""
    return sorted({i for part in parts(network) for i in part.inputs})


@dataclass(frozen=True)
class Neuron:
    """A neuron of the last hidden layer that something feeds and that feeds an output.

    Attributes:
        index: in its layer, from 0.
        inputs: that feed it.
        effect: its weight to each output it feeds, by the output's index.
    """

    index: int
    inputs: tuple[int, ...]
    effect: dict[int, float]


def last_hidden(network: BioMLP) -> list[Neuron]:
    """In the order of the layer's places."""
    *below, last = weights(network)
    found = []
    for index in range(last.shape[1] if below else 0):
        effect = {o: w for o, w in enumerate(last[:, index].tolist()) if w}
        inputs = feeders(below, index, 0.0)[0].nonzero().flatten().tolist()
        if effect and inputs:
            found.append(Neuron(index, tuple(inputs), effect))
    return found


def counts(network: BioMLP) -> tuple[int, int]:
    """Connections that are not zero, and hidden neurons that have one on each side."""
    matrices = weights(network)
    neurons = [((a != 0).any(1) & (b != 0).any(0)).sum() for a, b in pairwise(matrices)]
    return sum(int((w != 0).sum()) for w in matrices), int(sum(neurons))

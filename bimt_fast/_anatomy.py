"""What a trained BioMLP uses: neurons between inputs and outputs, parts that share nothing, what feeds what."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

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


def feeding(matrices: Sequence[Tensor], neuron: int) -> list[Tensor]:
    """What feeds a neuron of the last layer through weights that are not zero: bool (n,) for the input of each."""
    reached = torch.zeros(len(matrices[-1]), dtype=torch.bool)
    reached[neuron] = True
    found = []
    for weight in reversed(matrices):
        reached = (weight != 0)[reached].any(0)
        found.append(reached)
    return found[::-1]


def parts(network: BioMLP) -> list[Part]:
    """The parts of the network that do not talk to each other, in the order of their first outputs."""
    found: list[tuple[list[int], list[Tensor]]] = []
    matrices = weights(network)
    for output in range(len(matrices[-1])):
        outputs, below = [output], feeding(matrices, output)
        for other in [p for p in found if any((a & b).any() for a, b in zip(p[1], below, strict=True))]:
            found.remove(other)
            outputs, below = other[0] + outputs, [a | b for a, b in zip(other[1], below, strict=True)]
        found.append((outputs, below))
    return sorted(
        (Part(tuple(below[0].nonzero().flatten().tolist()), tuple(sorted(outputs))) for outputs, below in found),
        key=lambda part: part.outputs,
    )


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
        inputs = feeding(below, index)[0].nonzero().flatten().tolist()
        if effect and inputs:
            found.append(Neuron(index, tuple(inputs), effect))
    return found


def counts(network: BioMLP) -> tuple[int, int]:
    """Connections that are not zero, and hidden neurons that have one on each side."""
    matrices = weights(network)
    neurons = [((a != 0).any(1) & (b != 0).any(0)).sum() for a, b in pairwise(matrices)]
    return sum(int((w != 0).sum()) for w in matrices), int(sum(neurons))

"""Two functions of different inputs: (x1, x2, x3, x4) -> ((x1 + x3)^3, x2^2 + sin(pi x4)).

The structure to find: two sub-networks that share no connection. Settings: Liu, Gan, Tegmark 2023
(arXiv 2305.08746), symbolic formulas.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor

from .._anatomy import feeders, trees
from ..nn import BioMLP
from . import products
from ._task import Data, regression


def make_data(seed: int) -> Data:
    return regression(_formulas, 4, seed)


def _formulas(x: Tensor) -> Tensor:
    return torch.stack([(x[:, 0] + x[:, 2]) ** 3, x[:, 1] ** 2 + (math.pi * x[:, 3]).sin()], dim=1)


@torch.no_grad()
def structure(model: BioMLP, data: Data) -> dict:
    """Whether the two outputs are fed by parts of their own, each by the inputs of its formula.

    Returns:
        parts: how many parts of the network that outputs end share no neuron.
        inputs: for each output, the inputs that feed it through active connections, counted from 1.
        right_inputs: whether those are x1, x3 and x2, x4.
        found: two parts, one for each output.
    """
    weights = [layer.weight for layer in model.layers]
    parts = trees(weights, range(2))
    inputs = {f"y{k + 1}": [i + 1 for i in feeders(weights, k)[0].nonzero().flatten().tolist()] for k in range(2)}
    return {
        "parts": len(parts),
        "inputs": inputs,
        "right_inputs": inputs == {"y1": [1, 3], "y2": [2, 4]},
        "found": len(parts) == 2,
    }


TASK = replace(
    products.TASK,
    name="independence",
    labels={"in": ["$x_1$", "$x_2$", "$x_3$", "$x_4$"], "out": ["$(x_1+x_3)^3$", r"$x_2^2+\sin(\pi x_4)$"]},
    preset=replace(products.TASK.preset, seed=0),
    make_data=make_data,
    structure=structure,
    published={"test_loss": 7.4e-3},
    describe=None,
)

"""Sums of squares: (x1, x2, x3) -> (x1^2, x1^2 + x2^2, x1^2 + x2^2 + x3^2).

The structure to find: three similar motifs that square one input each and are shared by the outputs. Settings: Liu,
Gan, Tegmark 2023 (arXiv 2305.08746), symbolic formulas.
"""

from dataclasses import replace

import torch
from torch import Tensor

from .._anatomy import feeders
from ..nn import BioMLP
from . import products
from ._structure import explained
from ._task import ACTIVE, Data, regression


def make_data(seed: int) -> Data:
    return regression(_formulas, 3, seed)


def _formulas(x: Tensor) -> Tensor:
    return x.square().cumsum(1)


@torch.no_grad()
def structure(model: BioMLP, data: Data) -> dict:
    """The neurons of the first hidden layer by the inputs that feed them, and how well each motif squares its input.

    Only neurons count that feed an output.

    Returns:
        motif_sizes: for each input, how many neurons it alone feeds.
        mixed: how many neurons several inputs feed.
        squares: for each input, R^2 of its square as an affine function of its motif.
        similar: whether the motifs have as many neurons each.
        found: nothing mixed, every R^2 at least .99, similar.
    """
    weights = [layer.weight for layer in model.layers]
    used = torch.stack([feeders(weights[1:], k)[0] for k in range(len(weights[-1]))]).any(0)
    fed = (weights[0].abs() > ACTIVE) & used[:, None]
    alone = fed & (fed.sum(1) == 1)[:, None]
    hidden = model.hidden(data.test_x)[0]
    sizes = alone.sum(0).tolist()
    squares = [explained(hidden[:, alone[:, i]], data.test_x[:, i].square()) for i in range(len(sizes))]
    mixed, similar = int((fed.sum(1) > 1).sum()), len(set(sizes)) == 1
    return {
        "motif_sizes": sizes,
        "mixed": mixed,
        "squares": squares,
        "similar": similar,
        "found": similar and not mixed and min(squares) >= 0.99,
    }


TASK = replace(
    products.TASK,
    name="sharing",
    labels={"in": ["$x_1$", "$x_2$", "$x_3$"], "out": ["$x_1^2$", "$x_1^2+x_2^2$", "$x_1^2+x_2^2+x_3^2$"]},
    preset=replace(products.TASK.preset, shape=(3, 20, 20, 3), seed=0),
    make_data=make_data,
    structure=structure,
    published={"test_loss": 8.5e-5},
    describe=None,
)

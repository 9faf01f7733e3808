"""A distance: (x1, x2, x3, x4) -> sqrt((x1 - x2)^2 + (x3 - x4)^2).

The structure to find: one active neuron in the third hidden layer, a monotone function of the sum of squares.
Settings: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), symbolic formulas.
"""

from dataclasses import replace

import torch
from torch import Tensor

from ..nn import BioMLP
from . import products
from ._structure import active_neurons, monotone
from ._task import Data, regression


def make_data(seed: int) -> Data:
    return regression(lambda x: _sum_of_squares(x).sqrt()[:, None], 4, seed)


def _sum_of_squares(x: Tensor) -> Tensor:
    return (x[:, 0] - x[:, 1]).square() + (x[:, 2] - x[:, 3]).square()


@torch.no_grad()
def structure(model: BioMLP, data: Data) -> dict:
    """Active neurons of the hidden layers, and whether the third holds the sum of squares.

    Returns:
        active: how many neurons of each hidden layer have an active outgoing connection.
        monotone: the largest |rank correlation| of an active neuron of the third with the sum of squares.
        found: one active neuron there, with a rank correlation of at least .99.
    """
    active = [active_neurons(layer.weight) for layer in list(model.layers)[1:]]
    third = model.hidden(data.test_x)[2][:, active[2]]
    rank = max((monotone(_sum_of_squares(data.test_x), neuron) for neuron in third.T), default=0.0)
    return {
        "active": [len(neurons) for neurons in active],
        "monotone": rank,
        "found": len(active[2]) == 1 and rank >= 0.99,
    }


TASK = replace(
    products.TASK,
    name="compositionality",
    labels={"in": ["$x_1$", "$x_2$", "$x_3$", "$x_4$"], "out": [r"$\sqrt{(x_1-x_2)^2+(x_3-x_4)^2}$"]},
    preset=replace(products.TASK.preset, shape=(4, 20, 20, 20, 20, 1), lam=((0.0, 1e-3), (0.25, 3e-3)), seed=0),
    make_data=make_data,
    structure=structure,
    published={"test_loss": 1.3e-3},
    describe=None,
)

"""The group S4: two of 24 permutations -> their product, with a learned embedding folded on one group of inputs.

The structure to find: one column of the embedding is the parity of the element. Settings: Liu, Gan, Tegmark 2023
(arXiv 2305.08746), permutation groups.
"""

from dataclasses import replace
from itertools import permutations

import torch

from ..nn import BioMLP
from . import modular_addition
from ._structure import active_neurons, correlations, folded
from ._task import Data, accuracy, predict, split

ELEMENTS = tuple(permutations(range(4)))  # element k sends i to ELEMENTS[k][i]


def make_data(seed: int) -> Data:
    """All pairs (g, h) with the element g after h, 80 % of them to train on."""
    index = {element: k for k, element in enumerate(ELEMENTS)}
    table = torch.tensor([[index[tuple(g[i] for i in h)] for h in ELEMENTS] for g in ELEMENTS])
    pairs = torch.cartesian_prod(torch.arange(24), torch.arange(24))
    return split(pairs, table.flatten(), 0.8, seed)


def parities() -> torch.Tensor:
    """+1 for even elements, -1 for odd ones: float64 (24,)."""
    inversions = [sum(a > b for i, a in enumerate(g) for b in g[i + 1 :]) for g in ELEMENTS]
    return torch.tensor([(-1.0) ** n for n in inversions], dtype=torch.float64)


@torch.no_grad()
def structure(model: BioMLP, data: Data) -> dict:
    """Whether a column of the embedding that feeds the network is the parity.

    Returns:
        active_inputs: how many columns have an active connection.
        parity: the largest |r| of one of them with the parity.
        parity_column: which.
        found: all training and test pairs right, and |r| >= .99.
    """
    columns = active_neurons(folded(model.layers[0].weight, 2))
    r = correlations(model.embedding.weight[:, columns], parities()[:, None].to(model.embedding.weight.dtype))[:, 0]
    best = r.max().item() if len(r) else 0.0
    right = [accuracy(predict(model, x), y) for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y))]
    return {
        "active_inputs": len(columns),
        "parity": best,
        "parity_column": int(columns[r.argmax()]) if len(r) else None,
        "found": min(right) == 1 and best >= 0.99,
    }


TASK = replace(
    modular_addition.TASK,
    name="permutation_s4",
    preset=replace(
        modular_addition.TASK.preset,
        shape=(64, 50, 50, 24),
        lr=2e-3,
        lam=((0.0, 1.0),),
        distance_scale=1.0,
    ),
    make_data=make_data,
    structure=structure,
)

"""Addition modulo 59 of two tokens, a + b -> class, with a learned embedding folded on one group of inputs.

The structure to find: a few separate trees; in each, the embedding puts the numbers on a circle, and knocking it out
degrades accuracy. Settings: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), modular addition.
"""

import torch
from torch import nn

from .._anatomy import trees
from ..nn import BioMLP
from ..train import Preset
from ._structure import active_neurons, circle, folded, without
from ._task import BIAS_ALWAYS, Data, Task, accuracy, predict, split

MODULUS = 59


def make_data(seed: int) -> Data:
    """All pairs of numbers, 80 % of them to train on."""
    pairs = torch.cartesian_prod(torch.arange(MODULUS), torch.arange(MODULUS))
    return split(pairs, pairs.sum(1) % MODULUS, 0.8, seed)


def make_model(preset: Preset) -> BioMLP:
    return BioMLP(preset.shape, folds=2, vocabulary=preset.shape[-1], **preset.wiring)


@torch.no_grad()
def structure(model: BioMLP, data: Data) -> dict:
    """The trees between embedding and last hidden layer, their circles, and what is lost without each.

    Returns:
        trees: how many parts below the last layer share no neuron.
        circles: for each tree, frequency k, spread of the radius, error of the angle, share of the variance in the
            plane, and `found`, of the embedding's columns that feed it.
        accuracy_without: for each tree, test accuracy with it knocked out.
        knocking_out_hurts: whether every tree's absence costs at least a hundredth of accuracy.
        found: all training and test pairs right, two trees or more, a circle in each, and knocking out hurts.
    """
    weights = [layer.weight for layer in model.layers]
    below = [folded(weights[0], 2), *weights[1:-1]]
    parts = trees(below, active_neurons(weights[-1]).tolist())
    circles = [circle(model.embedding.weight[:, tree.inputs]) for tree in parts]
    right = [accuracy(predict(model, x), y) for x, y in ((data.train_x, data.train_y), (data.test_x, data.test_y))]
    lost = []
    for tree in parts:
        with without(weights[-1], tree.tips):
            lost.append(accuracy(predict(model, data.test_x), data.test_y))
    hurts = bool(parts) and max(lost) <= right[1] - 0.01
    return {
        "trees": len(parts),
        "circles": [vars(c) | {"found": c.found} for c in circles],
        "accuracy_without": lost,
        "knocking_out_hurts": hurts,
        "found": min(right) == 1 and len(parts) >= 2 and hurts and all(c.found for c in circles),
    }


TASK = Task(
    name="modular_addition",
    labels={},
    preset=Preset(
        shape=(64, 50, 50, MODULUS),
        steps=20_000,
        lr=1e-3,
        lam=((0.0, 0.1), (0.25, 1.0), (0.75, 0.1)),
        bias=BIAS_ALWAYS,
        base_length=0.5,
        distance_scale=2.0,
        swap_every=200,
        strategy="greedy",
        top_k=30,
        reduction="mean",
        dtype="float64",
    ),
    make_data=make_data,
    make_model=make_model,
    loss=nn.functional.cross_entropy,
    structure=structure,
    loss_name="cross entropy",
    published={"train_accuracy": 1.0, "test_accuracy": 1.0},
    classify=True,
)

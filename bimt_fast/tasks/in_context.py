"""Linear regression in context: from x1, y1 = w x1 and x2 a transformer says y2, for a w it has not seen.

The structure to look at: which heads are needed, since their removal hurts. Half of the loss, y1 from x1 alone, cannot
be learned: E[y^2] = 13/9 is its floor. Settings: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), in-context learning; the
published run never swapped, ours does.
"""

import torch
from torch import Tensor, nn

from ..nn import BioTransformer
from ..train import Preset
from ._structure import without
from ._task import BIAS_ALWAYS, Data, Task, predict, split

EXAMPLES = 2
_SEQUENCES = 10_000


def make_data(seed: int) -> Data:
    """Sequences of tokens (0, x1), (y1, 0), (0, x2): float64 (n, 3, 2), targets y1, y2: (n, 2); w ~ U[-1, 1],
    x ~ U[1, 3]; 80 % to train on."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.rand(_SEQUENCES, 1, dtype=torch.float64, generator=generator) * 2 - 1
    x = torch.rand(_SEQUENCES, EXAMPLES, dtype=torch.float64, generator=generator) * 2 + 1
    y = w * x
    tokens = torch.zeros(_SEQUENCES, 2 * EXAMPLES, 2, dtype=torch.float64)
    tokens[:, ::2, 1], tokens[:, 1::2, 0] = x, y
    return split(tokens[:, :-1], y, 0.8, seed)


def make_model(preset: Preset) -> BioTransformer:
    return BioTransformer(preset.shape[0], preset.shape[-1], width=preset.shape[1], layers=2, heads=1, **preset.wiring)


def loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean squared error of component 0 behind every x."""
    return nn.functional.mse_loss(prediction[:, ::2, 0], target)


@torch.no_grad()
def structure(model: BioTransformer, data: Data) -> dict:
    """The error of what can be known, y2, and what it becomes without each head.

    Returns:
        last_loss: MSE of y2 on the test sequences.
        without_head: the same with one head removed, by "layer.head", counted from 1.
        hurts: which of them more than double it.
    """

    def last_loss() -> float:
        return nn.functional.mse_loss(predict(model, data.test_x)[:, -1, 0], data.test_y[:, -1]).item()

    lost = {}
    for k, layer in enumerate(model.layers):
        size = layer.project.in_features // layer.heads
        for head in range(layer.heads):
            with without(layer.project.weight, slice(head * size, (head + 1) * size)):
                lost[f"{k + 1}.{head + 1}"] = last_loss()
    best = last_loss()
    return {
        "last_loss": best,
        "without_head": lost,
        "hurts": {name: value > 2 * best for name, value in lost.items()},
    }


TASK = Task(
    name="in_context",
    labels={"in": ["$y$", "$x$"], "out": [r"$\hat y$", ""]},
    preset=Preset(
        shape=(2, 32, 2),
        steps=40_000,
        lr=1e-3,
        lam=((0.0, 1e-3), (0.25, 1e-2), (0.75, 1e-1)),
        bias=BIAS_ALWAYS,
        base_length=0.5,
        distance_scale=2.0,
        swap_every=200,
        strategy="greedy",
        top_k=20,
        batch=64,
        reduction="mean",
        dtype="float64",
    ),
    make_data=make_data,
    make_model=make_model,
    loss=loss,
    structure=structure,
    layers=("in", "stream", "attn1", "mlp1", "attn2", "mlp2", "out"),
)

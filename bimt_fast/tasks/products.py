"""Two products: (x1, x2, x3, x4) -> (x1 x4 + x2 x3, x1 x4 - x2 x3), the network of the BIMT talk.

The structure to find: two neurons in the last hidden layer, one for x1 x4 and one for x2 x3, fed by two parts of
the network that share no connection. Settings: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), symbolic formulas.
"""

import torch
from torch import Tensor, nn

from .._anatomy import feeders
from ..nn import BioMLP
from ..train import Preset
from ._structure import active_neurons, correlations
from ._task import BIAS_LAST, RISE_AND_FALL, Data, Task, regression


def make_data(seed: int) -> Data:
    return regression(_sum_and_difference, 4, seed)


def _sum_and_difference(x: Tensor) -> Tensor:
    first, second = _products(x).unbind(1)
    return torch.stack([first + second, first - second], dim=1)


def _products(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] * x[:, 3], x[:, 1] * x[:, 2]], dim=1)


def make_model(preset: Preset) -> BioMLP:
    return BioMLP(preset.shape, **preset.wiring)


@torch.no_grad()
def structure(model: BioMLP, data: Data) -> dict:
    """Active neurons of the last hidden layer, their correlations with the two products, separation of the parts.

    Returns:
        active: how many neurons of the last hidden layer have an outgoing |w| > 0.05.
        correlations: for x1x4 and x2x3, the largest |r| with an active neuron, over the test points.
        parts_separate: whether, with exactly two active neurons, no neuron or input feeds both.
        found: exactly two active neurons, one with |r| >= .99 for each product.
    """
    weights = [layer.weight for layer in model.layers]
    active = active_neurons(weights[-1])
    r = correlations(model.hidden(data.test_x)[-1][:, active], _products(data.test_x))
    best = r.amax(0) if len(active) else torch.zeros(2)
    one_each = len(active) == 2 and set(r.argmax(0).tolist()) == {0, 1}
    return {
        "active": len(active),
        "correlations": {"x1x4": best[0].item(), "x2x3": best[1].item()},
        "parts_separate": len(active) == 2 and _share_nothing(weights[:-1], *active.tolist()),
        "found": one_each and bool((best >= 0.99).all()),
    }


def _share_nothing(weights: list[Tensor], first: int, second: int) -> bool:
    below = zip(feeders(weights, first), feeders(weights, second), strict=True)
    return not any((a & b).any() for a, b in below)


def describe(figures: dict) -> list[tuple[str, str]]:
    r = ", ".join(f"{name} {value:.4f}" for name, value in figures["correlations"].items())
    return [
        ("last hidden layer", f"{figures['active']} active neurons; |r| with {r}"),
        ("two parts, nothing shared", "yes" if figures["parts_separate"] else "no"),
    ]


TASK = Task(
    name="products",
    labels={"in": ["$x_1$", "$x_2$", "$x_3$", "$x_4$"], "out": ["$x_1x_4+x_2x_3$", "$x_1x_4-x_2x_3$"]},
    preset=Preset(
        shape=(4, 20, 20, 2),
        steps=20_000,
        lr=2e-3,
        lam=RISE_AND_FALL,
        bias=BIAS_LAST,
        base_length=0.1,
        distance_scale=1.0,
        swap_every=200,
        strategy="greedy",
        top_k=5,
        seed=7,
    ),
    make_data=make_data,
    make_model=make_model,
    loss=nn.functional.mse_loss,
    structure=structure,
    describe=describe,
    proximal_scale=100.0,
    merges=True,
)

"""Two products: (x1, x2, x3, x4) -> (x1 x4 + x2 x3, x1 x4 - x2 x3), the network of the BIMT talk.

The structure to find: two neurons in the last hidden layer, one for x1 x4 and one for x2 x3, fed by two parts of
the network that share no connection. Settings: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), symbolic formulas.
"""

import torch
from torch import Tensor, nn

from ..nn import BioMLP
from ..train import Preset
from ._task import ACTIVE, Data, Task


def make_data(seed: int) -> Data:
    """100 training points and 1000 test points, uniform in [-1, 1]^4."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(1100, 4, generator=generator) * 2 - 1
    first, second = _products(x).unbind(1)
    y = torch.stack([first + second, first - second], dim=1)
    return Data(x[:100], y[:100], x[100:], y[100:])


def _products(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0] * x[:, 3], x[:, 1] * x[:, 2]], dim=1)


def make_model(preset: Preset) -> BioMLP:
    return BioMLP(preset.shape, base_length=preset.base_length, distance_scale=preset.distance_scale)


@torch.no_grad()
def structure(model: BioMLP, data: Data) -> dict:
    """Active neurons of the last hidden layer, their correlations with the two products, separation of the parts.

    Returns:
        active: how many neurons of the last hidden layer have an outgoing |w| > 0.05.
        correlations: for x1x4 and x2x3, the largest |r| with an active neuron, over the test points.
        parts_separate: whether, with exactly two active neurons, no neuron or input feeds both.
        found: exactly two active neurons, one with |r| >= .99 for each product.
    """
    hidden = data.test_x
    for layer in model.layers[:-1]:
        hidden = model.activation(layer(hidden))
    active = (model.layers[-1].weight.abs() > ACTIVE).any(0).nonzero().flatten()
    both = torch.cat([hidden[:, active], _products(data.test_x)], dim=1)
    r = torch.corrcoef(both.T)[: len(active), len(active) :].abs().nan_to_num()
    best = r.amax(0) if len(active) else torch.zeros(2)
    one_each = len(active) == 2 and set(r.argmax(0).tolist()) == {0, 1}
    return {
        "active": len(active),
        "correlations": {"x1x4": best[0].item(), "x2x3": best[1].item()},
        "parts_separate": len(active) == 2
        and not (_feeders(model, active[0]) & _feeders(model, active[1])).any().item(),
        "found": one_each and bool((best >= 0.99).all()),
    }


def _feeders(model: nn.Module, neuron: Tensor) -> Tensor:
    """Which neurons of all layers below feed a neuron of the last hidden layer through active connections."""
    reached = torch.zeros(model.layers[-1].in_features, dtype=torch.bool)
    reached[neuron] = True
    found = []
    for layer in reversed(model.layers[:-1]):
        reached = (layer.weight.abs() > ACTIVE)[reached].any(0)
        found.append(reached)
    return torch.cat(found)


TASK = Task(
    name="products",
    labels={"in": ["$x_1$", "$x_2$", "$x_3$", "$x_4$"], "out": ["$x_1x_4+x_2x_3$", "$x_1x_4-x_2x_3$"]},
    preset=Preset(
        shape=(4, 20, 20, 2),
        steps=20_000,
        lr=2e-3,
        lam=((0.0, 1e-3), (0.25, 1e-2), (0.75, 1e-3)),
        bias=((0.0, False), (0.75, True)),
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
)

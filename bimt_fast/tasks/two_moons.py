"""Two moons: which of two interleaved half circles a noisy point of the plane belongs to.

The paper shows how the network thins out; no structure is named, so active neurons are reported. Settings: Liu, Gan,
Tegmark 2023 (arXiv 2305.08746), two moons.
"""

import math

import torch
from torch import Tensor, nn

from ..train import Preset
from ._structure import active_neurons
from ._task import BIAS_ALWAYS, Data, Task
from .products import make_model

_NOISE = 0.1


def make_data(seed: int) -> Data:
    """200 training points and 1000 test points, half of them on each moon."""
    generator = torch.Generator().manual_seed(seed)
    return Data(*_moons(100, generator), *_moons(500, generator))


def _moons(n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    angle = torch.linspace(0, math.pi, n)
    upper = torch.stack([angle.cos(), angle.sin()], dim=1)
    lower = torch.stack([1 - angle.cos(), 0.5 - angle.sin()], dim=1)
    x = torch.cat([upper, lower])
    return x + _NOISE * torch.randn(x.shape, generator=generator), torch.arange(2).repeat_interleave(n)


@torch.no_grad()
def structure(model: nn.Module, data: Data) -> dict:
    """How many neurons of each hidden layer have an active outgoing connection."""
    return {"active": [len(active_neurons(layer.weight)) for layer in list(model.layers)[1:]]}


TASK = Task(
    name="two_moons",
    labels={"in": ["$x$", "$y$"], "out": ["upper", "lower"]},
    preset=Preset(
        shape=(2, 20, 20, 2),
        steps=10_000,
        lr=2e-3,
        lam=((0.0, 1e-3), (0.5, 1e-2)),
        bias=BIAS_ALWAYS,
        base_length=0.2,
        distance_scale=1.0,
        swap_every=200,
        strategy="greedy",
        top_k=10,
    ),
    make_data=make_data,
    make_model=make_model,
    loss=nn.functional.cross_entropy,
    structure=structure,
    loss_name="cross entropy",
    classify=True,
)

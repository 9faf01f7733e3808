"""What every experiment is made of."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from ..train import Preset

ACTIVE = 0.05  # a connection counts as active where |w| is above


@dataclass(frozen=True)
class Data:
    """Inputs and targets: what is trained on, and fresh points to judge by."""

    train_x: Tensor  # (n, shape[0])
    train_y: Tensor  # (n, shape[-1])
    test_x: Tensor
    test_y: Tensor


@dataclass(frozen=True)
class Task:
    """An experiment.

    Attributes:
        name: by which the command line knows it.
        labels: names of inputs and outputs for the picture, by group.
        preset: the published settings.
        make_data: seed -> Data.
        make_model: preset -> model with a `.wiring`, drawn from torch's global generator.
        loss: (prediction, target) -> 0-d tensor.
        structure: (model, data) -> figures by name; "found" says whether the published structure is there.
    """

    name: str
    labels: dict[str, list[str]]
    preset: Preset
    make_data: Callable[[int], Data]
    make_model: Callable[[Preset], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    structure: Callable[[nn.Module, Data], dict]

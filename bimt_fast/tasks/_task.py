"""What every experiment is made of."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import accumulate
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ..merging import THRESHOLD
from ..train import Preset, Schedule, reliable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ACTIVE = THRESHOLD  # a connection counts as active where |w| is above
_ROWS = 5000  # that are evaluated at once

# The penalty and the biases of most experiments, by fraction of the steps.
RISE_AND_FALL: Schedule = ((0.0, 1e-3), (0.25, 1e-2), (0.75, 1e-3))
BIAS_LAST: Schedule = ((0.0, False), (0.75, True))
BIAS_ALWAYS: Schedule = ((0.0, True),)


@dataclass(frozen=True)
class Data:
    """Inputs and targets: what is trained on, and fresh points to judge by."""

    train_x: Tensor  # (n, ...) numbers, or int64 tokens
    train_y: Tensor  # (n, ...) numbers, or int64 (n,) classes
    test_x: Tensor
    test_y: Tensor

    def to(self, dtype: torch.dtype) -> "Data":
        """With its numbers in another dtype; tokens and classes stay."""
        tensors = (getattr(self, f.name) for f in fields(self))
        return Data(*(x.to(dtype) if x.is_floating_point() else x for x in tensors))


@dataclass(frozen=True)
class Task:
    """An experiment.

    Attributes:
        name: by which the command line knows it.
        labels: names of inputs and outputs for the picture, by group.
        preset: the published settings.
        make_data: seed -> Data; where reads_files, (seed, folder or None) -> Data.
        make_model: preset -> model with a `.wiring`, drawn from torch's global generator.
        loss: (prediction, target) -> 0-d tensor.
        structure: (model, data) -> figures by name, numbers and booleans; "found", where the paper shows a structure,
            says whether it is there.
        loss_name: of the loss, in words.
        published: the paper's figures, by their names in result.json.
        classify: whether targets are classes, int64 or one-hot, so that accuracies mean something.
        reads_files: whether the data come from files.
        layers: groups of the picture from bottom to top, where the wiring alone does not say.
        more_presets: settings other than the task's own, by name.
        make_batch: size of a batch -> inputs and targets, drawn by torch's global generator; None: batches are of
            the training points.
        shown: (inputs, targets, prediction) of a batch so made -> figures for the progress bar.
        describe: structure figures -> rows (name, value) of the table; None: every figure is a row.
        proximal_scale: how much stronger lam has to be where the penalty shrinks weights behind the step; None: not
            known, and no such preset.
        merges: whether bimt_fast.train.reliable suits the network and its training.
        pictures: (model, data) -> matplotlib figures by file name, "network" among them; None: the network alone.
        drawn: model -> the model as its pictures show it; None: as it is.
        swept: what a sweep varies where nothing else is said, as keywords of bimt_fast.tasks._sweep.sweep.
    """

    name: str
    labels: dict[str, list[str]]
    preset: Preset
    make_data: Callable[..., Data]
    make_model: Callable[[Preset], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]
    structure: Callable[[nn.Module, Data], dict]
    loss_name: str = "MSE"
    published: Mapping[str, float] = field(default_factory=dict)
    classify: bool = False
    reads_files: bool = False
    layers: tuple[str, ...] | None = None
    more_presets: Mapping[str, Preset] = field(default_factory=dict)
    make_batch: Callable[[int], tuple[Tensor, Tensor]] | None = None
    shown: Callable[[Tensor, Tensor, Tensor], Mapping[str, float]] | None = None
    describe: Callable[[dict], Sequence[tuple[str, str]]] | None = None
    proximal_scale: float | None = None
    merges: bool = False
    pictures: Callable[[nn.Module, Data], "Mapping[str, Figure]"] | None = None
    drawn: Callable[[nn.Module], nn.Module] | None = None
    swept: Mapping[str, Sequence] = field(default_factory=dict)

    @property
    def presets(self) -> tuple[str, ...]:
        """Names that settings takes."""
        ours = {"proximal": self.proximal_scale is not None, "reliable": self.merges}
        return ("published", *(name for name, there in ours.items() if there), *self.more_presets)

    def settings(self, preset: str) -> Preset:
        """The settings of that name: "published", the task's own; ours are "proximal", with exact zeros and exact
        relocation, "reliable", which searches for the structure, see bimt_fast.train.reliable, and its more_presets.

        Adam rescales a penalty in the gradient and not one behind the step, so the same lam means another strength; and
        lam does not fall again towards the end, since zeros would grow back.

        Raises:
            ValueError: the experiment has none of that name.
        """
        if preset not in self.presets:
            raise ValueError(f"preset must be one that {self.name} has, {', '.join(self.presets)}, was {preset!r}")
        if preset == "published":
            return self.preset
        if preset in self.more_presets:
            return replace(self.more_presets[preset], name=preset)
        if preset == "reliable":
            return reliable(self.preset)
        strongest = accumulate(self.preset.lam, lambda before, now: (now[0], max(before[1], now[1])))
        lam = tuple((start, self.proximal_scale * value) for start, value in strongest)
        return replace(self.preset, lam=lam, proximal=True, strategy="assignment", name=preset)


@torch.no_grad()
def predict(model: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """model(x), a few thousand rows at a time."""
    return model(x) if len(x) <= _ROWS else torch.cat([model(rows) for rows in x.split(_ROWS)])


def accuracy(prediction: Tensor, target: Tensor) -> float:
    """The share of rows whose largest entry is that of their class, int64 (n,) or one-hot (n, classes)."""
    classes = target if target.dim() == 1 else target.argmax(1)
    return (prediction.argmax(1) == classes).double().mean().item()


def split(x: Tensor, y: Tensor, share: float, seed: int) -> Data:
    """A random share of the rows to train on, the others to test."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    train, test = order[: round(share * len(x))], order[round(share * len(x)) :]
    return Data(x[train], y[train], x[test], y[test])


def regression(formula: Callable[[Tensor], Tensor], inputs: int, seed: int) -> Data:
    """100 training points and 1000 test points, uniform in [-1, 1]^inputs; formula: (n, inputs) -> (n, outputs)."""
    x = torch.rand(1100, inputs, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    y = formula(x)
    return Data(x[:100], y[:100], x[100:], y[100:])

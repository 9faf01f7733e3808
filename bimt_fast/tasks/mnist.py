"""MNIST: pixels on a grid, hidden layers on grids, the ten digits on a ring.

The question: how far the hidden layers thin out while accuracy is kept. Settings of `mnist`: Liu, Gan, Tegmark 2023
(arXiv 2305.08746), image classification; those of `mnist_wide`, whose hidden layers hold 4096 neurons, are ours: lam is
four times as large, since a mean over so many weights charges each of them so little.

The data are the four public IDX files, gzipped or not. They are looked for in a folder given, or else in
`$BIMT_FAST_DATA/mnist`, `$BIMT_FAST_DATA`, and `../shared/data/mnist`; where none has them, torchvision is asked, if it
is installed.
"""

import gzip
import math
import os
import struct
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from .. import geometry, plot
from ..nn import BioMLP
from ..train import Preset
from ._structure import active_neurons
from ._task import ACTIVE, BIAS_ALWAYS, Data, Task, accuracy, predict

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")


def make_data(seed: int, folder: str | Path | None = None) -> Data:
    """Pixels (n, 784) from 0 to 1 and one-hot digits (n, 10), as the files split them.

    Args:
        seed: changes nothing, the data are what they are.
        folder: that holds the files.

    Raises:
        FileNotFoundError: no folder has all four files, and torchvision is not installed.
        ValueError: a file is not of the IDX format, or images and labels do not fit together.
    """
    found = next((f for f in _folders(folder) if all(_path(f, name).exists() for name in _FILES)), None)
    if found is not None:
        images, labels, test_images, test_labels = (read_idx(_path(found, name)) for name in _FILES)
    elif folder is not None:
        raise FileNotFoundError(f"no MNIST in {folder}: it must hold {', '.join(_FILES)}, each with or without .gz")
    else:
        images, labels, test_images, test_labels = _from_torchvision()
    return Data(*_pixels(images, labels), *_pixels(test_images, test_labels))


def _folders(given: str | Path | None) -> list[Path]:
    if given is not None:
        return [Path(given)]
    named = os.environ.get("BIMT_FAST_DATA")
    root = [Path(named) / "mnist", Path(named)] if named else []
    return [*root, Path("..") / "shared" / "data" / "mnist"]


def _path(folder: Path, name: str) -> Path:
    plain = folder / name
    return plain if plain.exists() else folder / f"{name}.gz"


def read_idx(path: Path) -> Tensor:
    """A file of bytes in the IDX format, gzipped or not: a uint8 tensor of its shape.

    The format: two zero bytes, the type (8: unsigned bytes), the number of axes, each length as a big-endian 32-bit
    integer, then the entries, last axis fastest.

    Raises:
        ValueError: the file is none.
    """
    try:
        content = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
    except (gzip.BadGzipFile, EOFError) as error:
        raise ValueError(f"{path} must be gzipped, was not: {error}") from None
    axes = content[3] if len(content) > 3 and content[:3] == b"\x00\x00\x08" else 0
    start = 4 + 4 * axes
    shape = struct.unpack_from(f">{axes}I", content, 4) if axes and len(content) >= start else ()
    if not shape or len(content) != start + math.prod(shape):
        raise ValueError(f"{path} must be an IDX file of bytes, was none or is cut short")
    return torch.from_numpy(np.frombuffer(content, np.uint8, offset=start).reshape(shape).copy())


def _from_torchvision() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    try:
        from torchvision.datasets import MNIST
    except ImportError:
        raise FileNotFoundError(
            "no MNIST found: name the folder of its IDX files with --data or BIMT_FAST_DATA, or install torchvision"
        ) from None
    root = os.environ.get("BIMT_FAST_DATA") or "data"
    parts = [MNIST(root, train=train, download=True) for train in (True, False)]
    return parts[0].data, parts[0].targets, parts[1].data, parts[1].targets


def _pixels(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    if images.dim() != 3 or labels.shape != images.shape[:1] or images.shape[1:] != (28, 28):
        raise ValueError(
            f"MNIST must be images (n, 28, 28) and labels (n,), were {tuple(images.shape)} and {tuple(labels.shape)}"
        )
    return images.flatten(1).float() / 255, nn.functional.one_hot(labels.long(), 10).float()


def make_model(preset: Preset) -> BioMLP:
    """Square grids below, the ring on top; pixels never move."""
    sides = [math.isqrt(width) for width in preset.shape[:-1]]
    names = ["in", *(f"h{k}" for k in range(1, len(sides)))]
    positions = {name: geometry.grid((side, side)) for name, side in zip(names, sides, strict=True)}
    positions["out"] = geometry.ring(preset.shape[-1], radius=0.25, center=(0.5, 0.5), offset=0.5)
    return BioMLP(preset.shape, positions=positions, frozen=["in"], **preset.wiring)


@torch.no_grad()
def structure(model: BioMLP, data: Data) -> dict:
    """How many pixels and neurons of each hidden layer have an active outgoing connection, and what these suffice for.

    Returns:
        active_pixels, active: their numbers.
        accuracy_of_active_connections: on the test images, all other connections left out.
    """
    pixels, *hidden = (len(active_neurons(layer.weight)) for layer in model.layers)
    kept = [torch.where(layer.weight.abs() > ACTIVE, layer.weight, 0) for layer in model.layers]

    def pruned(x: Tensor) -> Tensor:
        for k, (layer, weight) in enumerate(zip(model.layers, kept, strict=True)):
            x = nn.functional.linear(x if k == 0 else model.activation(x), weight, layer.bias)
        return x

    return {
        "active_pixels": pixels,
        "active": hidden,
        "accuracy_of_active_connections": accuracy(predict(pruned, data.test_x), data.test_y),
    }


def features(model: BioMLP, data: Data, count: int = 12, images: int = 500) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """The most important neurons of each hidden layer, what they look for and what they vote for.

    Important is what has much |w| on both sides together, among neurons with an active connection on each. A neuron
    looks for the gradient of what enters it by the pixels, averaged over test images: in the first hidden layer, its
    weights. It votes by the gradient of the outputs by what it says, averaged alike: in the last, its weights again.

    Args:
        model, data: of this task.
        count: neurons of each layer, at most.
        images: of the test data to average over.

    Returns:
        By group: neurons (k,), most important first, images (k, side, side) and votes (k, 10); only of layers that
        have such neurons.
    """
    x = data.test_x[:images].clone().requires_grad_()
    side = math.isqrt(x.shape[1])
    found, entering = {}, x
    for k, (layer, above) in enumerate(pairwise(model.layers)):
        importance = layer.weight.abs().sum(1) + above.weight.abs().sum(0)
        active = (layer.weight.abs() > ACTIVE).any(1) & (above.weight.abs() > ACTIVE).any(0)
        top = (importance * active).topk(min(count, int(active.sum()))).indices
        into = nn.functional.linear(entering, layer.weight[top], layer.bias[top])
        said = model.activation(layer(entering))
        votes = _votes(model, said, k + 1, top)
        looks = [torch.autograd.grad(into[:, j].sum(), x, retain_graph=True)[0].mean(0) for j in range(len(top))]
        if looks:
            found[f"h{k + 1}"] = top, torch.stack(looks).view(-1, side, side), votes
        entering = said
    return found


def _votes(model: BioMLP, said: Tensor, depth: int, neurons: Tensor) -> Tensor:
    """(k, 10): the gradient of each output by the inputs (images, n) of a layer, of k neurons, averaged over images.

    Which is the gradient of the mean output by what is added to a neuron at all images.
    """
    first, *others = model.layers[depth:]
    added = torch.zeros(len(neurons), dtype=said.dtype, requires_grad=True)
    x = first(said).detach() + added @ first.weight[:, neurons].T
    for layer in others:
        x = layer(model.activation(x))
    return torch.stack([torch.autograd.grad(digit, added, retain_graph=True)[0] for digit in x.mean(0)], dim=1)


def pictures(model: BioMLP, data: Data) -> "dict[str, Figure]":
    """The network above an image, and the features of its most important neurons."""
    shades = {"in": data.test_x[0]}
    drawn = {"network": plot.network(model.wiring, labels=_LABELS, threshold=ACTIVE, shades=shades).figure}
    found = features(model, data)
    if found:
        titles = {group: f"hidden layer {group[1:]}, most important neurons first" for group in found}
        drawn["features"] = plot.features(
            {titles[group]: (looks, votes) for group, (_, looks, votes) in found.items()},
            names={titles[group]: [f"neuron {k}" for k in top.tolist()] for group, (top, _, _) in found.items()},
        )
    return drawn


_LABELS = {"out": [str(digit) for digit in range(10)]}

TASK = Task(
    name="mnist",
    labels=_LABELS,
    preset=Preset(
        shape=(784, 100, 100, 10),
        steps=40_000,
        lr=1e-3,
        lam=((0.0, 0.01), (0.25, 0.1), (0.5, 1.0)),
        bias=BIAS_ALWAYS,
        base_length=0.5,
        distance_scale={"layers.2.weight": 0.0, None: 2.0},
        swap_every=500,
        strategy="greedy",
        top_k=30,
        batch=100,
        reduction="mean",
    ),
    make_data=make_data,
    make_model=make_model,
    loss=nn.functional.mse_loss,
    structure=structure,
    classify=True,
    reads_files=True,
    pictures=pictures,
)

WIDE = replace(
    TASK,
    name="mnist_wide",
    preset=replace(
        TASK.preset,
        shape=(784, 4096, 4096, 10),
        steps=4000,
        batch=256,
        swap_every=200,
        lam=((0.0, 0.04), (0.25, 0.4), (0.5, 4.0)),
    ),
)

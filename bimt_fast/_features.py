"""What neurons look for in an image, and what they vote for."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ._figure import FONT_SIZE, NEGATIVE, PALE, POSITIVE, check_path, new_figure, require_matplotlib, save_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 6  # neurons in a row
_SIDE, _STEP, _HEAD = 1.15, 1.95, 0.35  # inches: of an image, from row to row, of a layer's title


def features(
    layers: Mapping[str, tuple[Tensor, Tensor]],
    *,
    names: Mapping[str, Sequence[str]] | None = None,
    classes: Sequence[str] | None = None,
    path: str | os.PathLike | None = None,
) -> "Figure":
    """Draws neurons of an image network: what each looks for, and below it what it votes for.

    Blue is positive, red negative; each image and each row of bars has its own scale.

    Args:
        layers: by title, images (k, height, width) and votes (k, classes) of k neurons.
        names: by title, a text for each neuron.
        classes: a text for each class; None: their numbers.
        path: where to save the figure as well.

    Returns:
        The figure: for every neuron the Axes of its image, then those of its votes.

    Raises:
        ValueError: there are no neurons, images, votes, names and classes do not fit together, or matplotlib cannot
            write such a path.
        ImportError: matplotlib is missing.
        OSError: path cannot be written.
    """
    require_matplotlib()
    if path is not None:
        check_path(path)
    layers = {title: tuple(x.detach().to("cpu", torch.float64).numpy() for x in both) for title, both in layers.items()}
    classes = _checked(layers, names, classes)
    height = sum(_HEAD + _STEP * -(-len(images) // _ACROSS) for images, _ in layers.values())
    figure = new_figure((_SIDE * 1.1 * _ACROSS, height))
    figure.set_layout_engine(None)  # hundreds of ticks take it seconds
    for title, (images, votes) in layers.items():
        figure.text(0, (height - 0.5 * _HEAD) / figure.get_figheight(), title, va="center", fontsize=FONT_SIZE)
        texts = (names or {}).get(title, [""] * len(images))
        for k, (image, vote, text) in enumerate(zip(images, votes, texts, strict=True)):
            row, column = divmod(k, _ACROSS)
            _draw_neuron(figure, column * 1.1 * _SIDE, height - _HEAD - (row + 1) * _STEP, image, vote, text, classes)
        height -= _HEAD + _STEP * -(-len(images) // _ACROSS)
    if path is not None:
        save_figure(figure, path)
    return figure


def _checked(layers: Mapping, names: Mapping[str, Sequence[str]] | None, classes: Sequence[str] | None) -> list[str]:
    """The texts of the classes."""
    if not layers:
        raise ValueError("layers must hold neurons, held none")
    count = next(iter(layers.values()))[1].shape[-1]
    classes = [str(k) for k in range(count)] if classes is None else list(classes)
    for title, (images, votes) in layers.items():
        if images.ndim != 3 or not len(images) or votes.shape != (len(images), len(classes)):
            raise ValueError(
                f"layers of {title!r} must be images (k, height, width) and votes (k, {len(classes)}) of at least one"
                f" neuron, were {images.shape} and {votes.shape}"
            )
        if names is not None and len(names[title]) != len(images):
            raise ValueError(f"names of {title!r} must be {len(images)}, one a neuron, were {len(names[title])}")
    return classes


def _draw_neuron(
    figure: "Figure", left: float, bottom: float, image: np.ndarray, vote: np.ndarray, text: str, classes: list[str]
) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    width, height = figure.get_size_inches()
    above = figure.add_axes((left / width, (bottom + 0.62) / height, _SIDE / width, _SIDE / height))
    colours = LinearSegmentedColormap.from_list("signed", [NEGATIVE, (1, 1, 1), POSITIVE])
    largest = np.abs(image).max() or 1.0
    above.imshow(image, cmap=colours, vmin=-largest, vmax=largest, interpolation="nearest")
    above.set(xticks=[], yticks=[])
    above.spines[:].set(color=PALE, linewidth=0.6)
    above.set_title(text, fontsize=FONT_SIZE - 2.5, pad=2.5)
    _draw_votes(figure.add_axes((left / width, (bottom + 0.22) / height, _SIDE / width, 0.34 / height)), vote, classes)


def _draw_votes(ax: "Axes", vote: np.ndarray, classes: Sequence[str]) -> None:
    places = np.arange(len(vote))
    ax.set_axis_on()
    ax.bar(places, vote, width=0.8, color=[POSITIVE if v > 0 else NEGATIVE for v in vote])
    ax.axhline(0, color=PALE, linewidth=0.5)
    ax.set(yticks=[], xlim=(-0.6, len(vote) - 0.4))
    ax.set_xticks(places, classes, fontsize=FONT_SIZE - 4)
    ax.tick_params(length=0, pad=1)
    ax.spines[:].set_visible(False)

"""A training run as moving pictures: the network every so many steps, neurons sliding to the places they swap to."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from ._drawing import (
    Edges,
    Layout,
    alive,
    check_arguments,
    checked_labels,
    dot_style,
    draw_edges,
    draw_labels,
    draw_neurons,
    layers_of,
    overhang,
    place_label,
)
from ._figure import FONT_SIZE, NEGATIVE, POSITIVE, new_axes, require_matplotlib
from ._frames import read_frames
from .wiring import Wiring

if TYPE_CHECKING:
    from matplotlib.text import Annotation
    from PIL.Image import Image

_DPI = 100
_HOLD = 2.5  # seconds of the last picture


def animation(
    wiring: Wiring,
    frames: str | os.PathLike,
    path: str | os.PathLike,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    threshold: float = 0.01,
    max_edges: int = 2_000,
    groups: Sequence[str] | None = None,
    loss_name: str = "loss",
    rate: float = 15.0,
    slides: int = 3,
) -> None:
    """Draws a training run as a GIF: the network as in `network`, with step, loss and connection cost above it.

    Where neurons swapped between two frames they slide to their new places, and their connections with them.

    Args:
        wiring: of the model, at any time of the training.
        frames: the file that a bimt_fast.train.Recorder wrote.
        path: of the GIF; replaced at once.
        labels, threshold, max_edges, groups: as in `network`.
        loss_name: what the loss is.
        rate: pictures a second.
        slides: pictures of a frame in which neurons moved; others have one.

    Raises:
        TypeError, ValueError: as `network`; path does not end in .gif, rate or slides is not positive, the file holds
            no frames, or those of another network.
        ImportError: matplotlib is missing.
        OSError: a file cannot be read or written.

    Source: the videos of Liu, Gan, Tegmark 2023 (arXiv 2305.08746).
    """
    require_matplotlib()
    check_arguments(wiring, threshold, max_edges)
    path = os.fspath(path)
    if not path.lower().endswith(".gif"):
        raise ValueError(f"path must end in .gif, was {path!r}")
    if rate <= 0 or slides < 1:
        raise ValueError(f"rate and slides must be positive, were {rate} and {slides}")
    recorded = read_frames(frames)
    _check_frames(wiring, recorded, frames)
    layers = layers_of(wiring, list(wiring.parts()), groups)
    stage = _Stage(wiring, layers, checked_labels(wiring, layers, labels), threshold, max_edges, loss_name)
    pictures = stage.pictures(recorded, slides)
    first = next(pictures)
    more = sum(slides if _move(layers, *pair) else 1 for pair in pairwise(recorded))
    durations = [1000 / rate] * more + [1000 * _HOLD]
    options = {"duration": durations, "loop": 0, "disposal": 1, "optimize": False}
    first.save(f"{path}.new", "GIF", save_all=True, append_images=pictures, **options)
    os.replace(f"{path}.new", path)


def _check_frames(wiring: Wiring, recorded: np.ndarray, frames: str | os.PathLike) -> None:
    if not len(recorded):
        raise ValueError(f"{os.fspath(frames)} must hold frames of a training run, held none")
    sizes = {f"slots {group}": (len(wiring.slots(group)),) for group in wiring.groups}
    found = {name: kind.shape for name, (kind, _) in recorded.dtype.fields.items() if name.startswith("slots ")}
    edges = {name for name in recorded.dtype.names if name.startswith("edges ")}
    if found != sizes or edges != {f"edges {part.label}" for part in wiring.parts()}:
        raise ValueError(f"{os.fspath(frames)} must hold frames of this network, held those of another")


def _move(groups: Iterable[str], before: np.void, now: np.void) -> bool:
    return any((before[f"slots {group}"] != now[f"slots {group}"]).any() for group in groups)


class _Stage:
    """One figure whose artists are moved from picture to picture, on a background that is drawn once."""

    def __init__(self, wiring, layers, labels, threshold: float, max_edges: int, loss_name: str) -> None:
        self.wiring, self.layers, self.loss_name = wiring, layers, loss_name
        self.threshold, self.max_edges = threshold, max_edges
        self.layout = layout = Layout(wiring, layers)
        self.parts = [part for part in wiring.parts() if {part.out, part.source} <= set(layers)]
        self.ax = ax = new_axes(layout.figure_size(max(map(len, labels.values()), default=0)))
        self.figure = ax.figure
        self.figure.set_dpi(_DPI)
        nothing = np.empty(0, dtype=np.int64)
        empty = [Edges(part, nothing, np.empty(0), None) for part in self.parts]
        self.lines = [draw_edges(ax, layout, edges) for edges in empty]
        self.dots = {g: draw_neurons(ax, layout, g, alive(wiring, g, empty)) for g in layers}
        layout.frame(ax)
        self.labels = {group: draw_labels(ax, layout, group, texts) for group, texts in labels.items()}
        self.words = self._words()
        self.figure.draw_without_rendering()
        self.figure.set_layout_engine(None)
        moving = [*self.lines, *self.dots.values(), *ax.patches]
        if layout.oblique:  # or sheets would cover the labels of the background
            moving += [label for labels in self.labels.values() for label in labels.values()]
        self.moving = sorted(moving, key=lambda artist: artist.get_zorder())
        for artist in (*self.moving, *self.words):
            artist.set_animated(True)
        self.background = None

    def _words(self) -> "list[Annotation]":
        """Step, loss and cost, above the labels."""
        above = 4 + overhang(self.ax, [label for labels in self.labels.values() for label in labels.values()])
        style = {"xycoords": "axes fraction", "textcoords": "offset points", "fontsize": FONT_SIZE, "va": "bottom"}
        places = ((0, "left"), (0.5, "center"), (1, "right"))
        return [self.ax.annotate("0", (x, 1), (0, above), ha=ha, **style) for x, ha in places]

    def pictures(self, recorded: np.ndarray, slides: int) -> "Iterator[Image]":
        before = recorded[0]
        for now in recorded:
            self._take(now)
            labels_move = _move(self.labels, before, now)
            for k in range(slides) if _move(self.layers, before, now) else (slides - 1,):
                t = (k + 1) / slides
                yield self._picture(self._points(before, now, t * t * (3 - 2 * t)), labels_move)
            before = now

    def _take(self, frame: np.void) -> None:
        """The weights, words and dots of a frame."""
        self.edges = [self._edges(part, frame) for part in self.parts]
        for lines, edges in zip(self.lines, self.edges, strict=True):
            colours, widths = edges.style()
            lines.set(color=colours, linewidths=widths)
        for group, dots in self.dots.items():
            area, colours = dot_style(self.layout, group, alive(self.wiring, group, self.edges))
            dots.set_sizes(area, self.figure.dpi)
            dots.set_facecolors(colours)
        figures = f"step {frame['step']:,}", f"{self.loss_name} {frame['loss']:.1e}", f"cost {frame['cost']:#.3g}"
        for text, figure in zip(self.words, figures, strict=True):
            text.set_text(figure)

    def _edges(self, part, frame: np.void) -> Edges:
        weight = frame[f"weights {part.label}"]
        kept = np.flatnonzero(np.abs(weight) > self.threshold)[-self.max_edges :] if self.max_edges else []
        return Edges(part, frame[f"edges {part.label}"][kept], weight[kept].astype(float), None)

    def _points(self, before: np.void, now: np.void, share: float) -> dict[str, np.ndarray]:
        """Where neurons are between two frames, in the order of the axes of the later one's weights."""
        found = {}
        for group in self.layers:
            slots, old, new = self.layout.slots[group], before[f"slots {group}"], now[f"slots {group}"]
            if group in self.wiring.inner_groups:  # rows and columns of weights are slots there
                old, new = old[new.argsort()], np.arange(len(new))
            found[group] = (1 - share) * slots[old] + share * slots[new]
        return found

    def _picture(self, points: Mapping[str, np.ndarray], labels_move: bool) -> "Image":
        canvas, ax = self.figure.canvas, self.ax
        for lines, edges in zip(self.lines, self.edges, strict=True):
            lines.set_segments(edges.segments(self.layout, (points[edges.part.out], points[edges.part.source])))
        for group, dots in self.dots.items():
            dots.set_offsets(points[group])
        if labels_move or self.background is None:
            for group, labels in self.labels.items():
                directions = self.layout.outward(group, points[group])
                for neuron, label in labels.items():
                    place_label(label, points[group][neuron], directions[neuron])
            canvas.draw()
            self.background = canvas.copy_from_bbox(self.figure.bbox)
        else:
            canvas.restore_region(self.background)
        for artist in (*self.moving, *self.words):
            ax.draw_artist(artist)
        return _indexed(np.asarray(canvas.buffer_rgba()))


def _indexed(pixels: np.ndarray) -> "Image":
    """The picture in the colours of the palette."""
    from PIL import Image

    palette, nearest = _palette()
    red, green, blue = (pixels[..., c].astype(np.int32) >> 3 for c in range(3))
    picture = Image.fromarray(nearest[(red << 10) | (green << 5) | blue], "P")
    picture.putpalette(palette.tobytes())
    return picture


@cache
def _palette() -> tuple[np.ndarray, np.ndarray]:
    """RGB (n, 3) of blends of white with blue, red, what lies between, and black; the nearest for 5 bits of each."""
    blue, red, black = np.array(POSITIVE), np.array(NEGATIVE), np.zeros(3)
    inks = [(blue, 14), (red, 14), (black, 10), *((blue + (red - blue) * t, 4) for t in (0.2, 0.4, 0.6, 0.8))]
    blends = [1 - np.linspace(1, 0, n, endpoint=False)[:, None] * (1 - ink) for ink, n in inks]
    palette = np.concatenate([np.ones((1, 3)), *blends])
    steps = np.linspace(0, 1, 32)
    cells = np.stack(np.meshgrid(steps, steps, steps, indexing="ij"), axis=-1).reshape(-1, 3)
    nearest = np.concatenate([((c[:, None] - palette) ** 2).sum(2).argmin(1) for c in np.split(cells, 32)])
    return (255 * palette).round().astype(np.uint8), nearest.astype(np.uint8)

"""Figures of networks: neurons where they are, connections between them."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ._figure import FONT_SIZE, NEGATIVE, PALE, POSITIVE, UNSIGNED, check_path, new_axes, require_matplotlib, save
from .wiring import Part, Wiring

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import LineCollection, PathCollection
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

_ALIVE, _DEAD = (0.13, 0.13, 0.13, 1.0), (0.6, 0.6, 0.6, 0.55)  # RGBA of neurons
_SHEET = (0.95, 0.955, 0.965, 0.4)  # RGBA
_SLANT, _DEPTH, _GAP = 0.42, 0.34, 0.6  # oblique view: (x - slant * y, gap * layer - depth * y), in widths of a sheet
_LINE_WIDTH = 2.4  # points, of a connection's largest weight
_CROWD = 40  # edges of full strength; beyond, lines get thinner and fainter
_RASTER = 3000  # edges or dots; beyond, pixels inside a vector file, which would be slow to open otherwise
_BLOCK = 1 << 20  # weights that are looked at together
_SMALLEST_FONT = 4.0  # points

_log = logging.getLogger("bimt_fast")


def network(
    wiring: Wiring,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    threshold: float = 0.01,
    max_edges: int = 5_000,
    groups: Sequence[str] | None = None,
    shades: Mapping[str, Sequence[float] | Tensor] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    path: str | os.PathLike | None = None,
) -> "Axes":
    """Draws a network where its neurons are: layers from inputs (bottom) to outputs (top), connections between them.

    Positive weights are blue, negative ones red; width and opacity grow with |w| relative to the largest of the same
    tensor (all are finer where there are many), and stronger ones lie above weaker ones. Inputs and outputs sit in
    the slots that relocation gave them, and their labels with them. A neuron without a connection above the threshold
    is a faint small dot. Groups of one coordinate are drawn on lines; if any has two, layers are sheets in an oblique
    view, where the second coordinate grows towards the reader, as the rows of an image do. A recurrent connection is
    drawn within its layer, as arcs above a line. Where neurons have several entries (folds, runs, kernels), the sum of
    their |w| is drawn, in grey.

    Each tensor becomes one LineCollection whose gid is the tensor's name, one with groups side by side a collection
    for each pair of groups ("name (out x in)"); each group of neurons becomes one PathCollection whose gid is the
    group's name.

    Args:
        wiring: of the model to draw.
        labels: by group name, one text for each neuron, in the model's order, not the slots'. Mathtext works;
            "" is none.
        threshold: connections with |w| > threshold are drawn.
        max_edges: at most so many connections of each tensor are drawn, the strongest; with threshold 0, these.
        groups: the layers from bottom to top, where not all are wanted or their order cannot be derived. None: every
            group that has a connection, each above all those that feed it, groups that feed nothing at the top.
        shades: by group name, a number for each neuron, in the model's order: an image on its sheet in greys, from the
            smallest (white) to the largest. Only for groups of two coordinates, on a grid say.
        title: above the figure.
        ax: matplotlib Axes to draw into; a new figure when None.
        path: where to save the figure as well; the suffix says how (.png, .svg, .pdf).

    Returns:
        The Axes; its figure is `.figure`. One data unit along x is one unit of the layout, along y one layer
        (0.6 widths of a sheet in the oblique view).

    Raises:
        TypeError: an argument is of the wrong type.
        ValueError: labels name a group that is not drawn or are not as many as its neurons, a group is unknown or named
            twice, groups feed each other in a circle, positions have neither one nor two coordinates, weights are not
            finite, threshold or max_edges is negative, ax is not rectilinear, matplotlib cannot write such a path.
        ImportError: matplotlib is missing.
        OSError: path cannot be written.

    Source: the network figures of Liu, Gan, Tegmark 2023 (arXiv 2305.08746).
    """
    require_matplotlib()
    check_arguments(wiring, threshold, max_edges, title, ax, path)
    parts = list(wiring.parts())
    layers = layers_of(wiring, parts, groups)
    labels = checked_labels(wiring, layers, labels)
    layout = Layout(wiring, layers)
    shades = _checked_shades(wiring, layout, shades)
    edges = [Edges.of(part, threshold, max_edges) for part in parts if {part.out, part.source} <= set(layers)]
    if ax is None:
        ax = new_axes(layout.figure_size(max(map(len, labels.values()), default=0)))
    for group, values in shades.items():
        _draw_shades(ax, layout, group, values)
    for group in layers:
        draw_neurons(ax, layout, group, alive(wiring, group, edges), shaded=group in shades)
    for some in edges:
        draw_edges(ax, layout, some)
    layout.frame(ax)
    drawn = [label for group, texts in labels.items() for label in draw_labels(ax, layout, group, texts).values()]
    if title is not None:
        ax.set_title(title, fontsize=FONT_SIZE + 1, pad=6 + overhang(ax, drawn))
    if path is not None:
        save(ax, path)
    return ax


class Layout:
    """Where each neuron is on the page: layer k at height k, or an oblique view of sheet k.

    Attributes:
        level: of each group, 0 at the bottom.
        planar: groups of two coordinates; oblique: whether there is one.
        slots, points: (n, 2) of each group's slots and of its neurons.
    """

    def __init__(self, wiring: Wiring, layers: tuple[str, ...]) -> None:
        self.level = {group: k for k, group in enumerate(layers)}
        coordinates = {g: _coordinates(g, wiring.slots(g)) for g in layers}
        self.planar = {group for group, x in coordinates.items() if x.shape[1] == 2}
        self.oblique = bool(self.planar)
        columns = [
            np.concatenate([x[:, c] for x in coordinates.values() if x.shape[1] > c]) for c in range(1 + self.oblique)
        ]
        self.low = np.array([column.min(initial=np.inf) for column in columns])
        self.high = np.array([column.max(initial=-np.inf) for column in columns])
        if not np.isfinite(self.low).all():  # no neuron at all
            self.low, self.high = np.zeros_like(self.low), np.ones_like(self.high)
        self.width = float((self.high - self.low).max()) or 1.0
        self.step = _GAP * self.width if self.oblique else 1.0
        self._coordinates = {g: x[wiring.permutation(g).cpu().numpy()] for g, x in coordinates.items()}
        self.slots = {g: self.project(x, self.level[g]) for g, x in coordinates.items()}
        self.points = {g: self.project(x, self.level[g]) for g, x in self._coordinates.items()}

    def project(self, x: np.ndarray, level: int) -> np.ndarray:
        """(n, 1 or 2) -> (n, 2) on the page. A line among sheets lies in the middle of its sheet."""
        if not self.oblique:
            return np.column_stack([x[:, 0], np.full(len(x), float(level))])
        middle = (self.low[1] + self.high[1]) / 2
        y = 2 * middle - x[:, 1] if x.shape[1] == 2 else np.full(len(x), middle)  # rows of an image: the first farthest
        return np.column_stack([x[:, 0] + _SLANT * y, _DEPTH * y + self.step * level])

    def sheet(self, level: int) -> np.ndarray:
        """(4, 2) corners of a layer's sheet on the page, a little larger than its neurons need."""
        margin = 0.05 * self.width
        (x0, y0), (x1, y1) = self.low - margin, self.high + margin
        return self.project(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), level)

    def tiles(self, group: str) -> np.ndarray:
        """(n, 4, 2) corners on the page of a tile around each neuron of a planar group."""
        x = self._coordinates[group]
        steps = [np.diff(np.unique(column.round(6))).min(initial=np.inf) for column in x.T]
        half = np.array([step / 2 if np.isfinite(step) else 0.05 * self.width for step in steps])
        corners = [self.project(x + half * side, self.level[group]) for side in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        return np.stack(corners, axis=1)

    def outward(self, group: str, points: np.ndarray) -> np.ndarray:
        """(n, 2) directions on the page in which labels stand off neurons of a group at points (n, 2)."""
        if group in self.planar:  # square to the ellipse that a ring becomes
            right, up = (points - points.mean(axis=0)).T
            y = up / _DEPTH
            x = right - _SLANT * y
            away = np.column_stack([x, (y - _SLANT * x) / _DEPTH])
            length = np.hypot(*away.T)[:, None]
            return np.where(length > 1e-6 * self.width, away / np.maximum(length, 1e-12), (0.0, 1.0))
        return np.tile((0.0, -1.0 if self.level[group] == 0 else 1.0), (len(points), 1))

    def dot_size(self, group: str) -> float:
        """Area in points squared that leaves room between the neurons of a group."""
        count = max(len(self.points[group]), 1)
        spacing = 180 / np.sqrt(count) if self.oblique else 300 / count
        return float(np.clip(0.45 * spacing, 1.2, 5.0) ** 2)

    def figure_size(self, most_labels: int) -> tuple[float, float]:
        """Inches. Wider for a long row of labels, higher for more layers."""
        layers = len(self.level) - 1
        if self.oblique:
            page = np.concatenate([self.sheet(0), self.sheet(layers)])
            across, up = np.ptp(page, axis=0)
            return 5.0, float(np.clip(5.0 * up / across, 2.0, 12.0))
        width = float(np.clip(0.17 * most_labels, 4.5, 12.0))
        return width, float(np.clip(max(1.05, 0.16 * width) * layers + 0.3, 1.3, 12.0))

    def frame(self, ax: "Axes") -> None:
        """Sets the limits, and draws the sheets."""
        from matplotlib.patches import Polygon

        top = len(self.level) - 1
        if self.oblique:
            for level in self.level.values():
                corners, style = self.sheet(level), {"facecolor": _SHEET, "edgecolor": PALE, "linewidth": 0.6}
                ax.add_patch(Polygon(corners, zorder=1 + level, **style))
            page = np.concatenate([self.sheet(0), self.sheet(top)])
            (x0, y0), (x1, y1), margin = page.min(axis=0), page.max(axis=0), 0.01 * self.width
            ax.set(xlim=(x0 - margin, x1 + margin), ylim=(y0 - margin, y1 + margin), aspect="equal")
        else:
            margin = 0.03 * self.width
            ax.set(xlim=(self.low[0] - margin, self.high[0] + margin), ylim=(-0.12, top + 0.12))
        ax.set_axis_off()


class Edges:
    """Some connections of one tensor, or of one part of it, the strongest last.

    Attributes:
        part: whose they are.
        out, source: (k,) neurons at the two ends.
        weight, strength: (k,) weights, and |w| relative to the largest.
        alive: for each axis, which neurons have a connection, drawn or not.
    """

    def __init__(self, part: Part, index: np.ndarray, weight: np.ndarray, alive: Sequence[np.ndarray] | None) -> None:
        """From flat indices into the part's matrix; alive None: those neurons that these connect."""
        self.part, self.weight = part, weight
        self.out, self.source = np.divmod(index, max(part.weight.shape[1], 1))
        size = np.abs(weight)
        self.strength = size / size[-1:]
        if alive is None:
            alive = [np.zeros(n, dtype=bool) for n in part.weight.shape]
            alive[0][self.out] = alive[1][self.source] = True
        self.alive = alive

    @classmethod
    def of(cls, part: Part, threshold: float, max_edges: int) -> "Edges":
        index, count, alive = strongest(part.weight, threshold, max_edges, part.label)
        if count > max_edges:
            _log.info("plot.network: drew the %d strongest of %d connections of %r", max_edges, count, part.label)
        weight = part.weight.flatten()[index.to(part.weight.device)]
        return cls(part, index.numpy(), weight.double().cpu().numpy(), alive)

    def segments(self, layout: Layout, ends: Sequence[np.ndarray] | None = None) -> np.ndarray:
        """(k, points, 2) lines on the page; ends: where the neurons of out and source are, if not where they sit."""
        out, source = self.part.out, self.part.source
        out_points, source_points = (layout.points[out], layout.points[source]) if ends is None else ends
        start, end = source_points[self.source], out_points[self.out]
        t = np.linspace(0, 1, 17 if out == source and not layout.oblique else 2)[:, None]
        segments = start[:, None] * (1 - t) + end[:, None] * t
        if len(t) > 2:  # along a line: arcs, the higher the further they reach
            segments[..., 1] += 4 * (t * (1 - t))[:, 0] * 0.4 * np.abs(end - start)[:, :1] / layout.width
        return segments

    def style(self) -> tuple[np.ndarray, np.ndarray]:
        """RGBA (k, 4), and widths (k,) in points."""
        crowd = min(1.0, _CROWD / max(self.strength.sum(), 1.0)) ** 0.3
        colours = np.empty((len(self.weight), 4))
        colours[:, :3] = np.where(self.weight[:, None] > 0, POSITIVE, NEGATIVE) if self.part.signed else UNSIGNED
        colours[:, 3] = (0.15 + 0.85 * self.strength) * crowd
        return colours, np.maximum(_LINE_WIDTH * self.strength, 0.3) * crowd


def strongest(weight: Tensor, threshold: float, most: int, name: str) -> tuple[Tensor, int, list[np.ndarray]]:
    """The entries of a matrix that are largest in |w|, ascending, found a block of rows at a time.

    Args:
        weight: (n, m).
        threshold: only |w| above it.
        most: how many at most; all but the largest are passed over without being kept.
        name: of the tensor, for the message.

    Returns:
        Flat indices int64 (k,), on the CPU; how many |w| are above the threshold; for each axis, whether each row or
        column has one.

    Raises:
        ValueError: an entry is not finite.
    """
    rows, columns = weight.shape
    dtype = torch.promote_types(weight.dtype, torch.float32)
    height = max(_BLOCK // max(columns, 1), 1)
    cut, count = threshold, 0
    sizes, places = torch.empty(0, dtype=dtype), torch.empty(0, dtype=torch.int64)
    in_row, in_column = torch.zeros(rows, dtype=dtype), torch.zeros(columns, dtype=dtype)
    for start in range(0, rows if columns else 0, height):
        block = weight[start : start + height].to(dtype).abs()
        in_row[start : start + height] = block.amax(1)
        in_column = torch.maximum(in_column, block.amax(0).cpu())
        if not in_row[start : start + height].isfinite().all():
            raise ValueError(f"weights of {name!r} must be finite, held NaN or infinity")
        flat = block.flatten()
        kept = (flat > cut).nonzero().flatten()
        count += len(kept) if cut == threshold else int((flat > threshold).sum())
        sizes = torch.cat([sizes, flat[kept].cpu()])
        places = torch.cat([places, kept.cpu() + start * columns])
        if len(sizes) > most:
            sizes, best = sizes.topk(most)
            places = places[best]
            cut = max(cut, sizes[-1].item()) if most else cut
    order = sizes.argsort(stable=True)
    return places[order], count, [(x > threshold).numpy() for x in (in_row, in_column)]


def draw_edges(ax: "Axes", layout: Layout, edges: Edges) -> "LineCollection":
    from matplotlib import collections

    colours, widths = edges.style()
    lines = collections.LineCollection(
        edges.segments(layout),
        colors=colours,
        linewidths=widths,
        capstyle="round",
        zorder=1.3 + min(layout.level[edges.part.out], layout.level[edges.part.source]),
        gid=edges.part.label,
        rasterized=len(widths) > _RASTER,
    )
    return ax.add_collection(lines, autolim=False)


def draw_neurons(ax: "Axes", layout: Layout, group: str, alive: np.ndarray, shaded: bool = False) -> "PathCollection":
    """Dots; above an image, which they would hide, small ones, and none where nothing is connected."""
    area, colours = dot_style(layout, group, alive)
    return ax.scatter(
        *layout.points[group].T,
        s=np.where(alive, 0.1 * area, 0.0) if shaded else area,
        c=colours,
        linewidths=0,
        zorder=1.6 + layout.level[group],
        gid=group,
        rasterized=len(area) > _RASTER,
        clip_on=False,
    )


def dot_style(layout: Layout, group: str, alive: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Areas (n,) in points squared and RGBA (n, 4)."""
    area = layout.dot_size(group)
    return np.where(alive, area, 0.25 * area), np.where(alive[:, None], _ALIVE, _DEAD)


def _draw_shades(ax: "Axes", layout: Layout, group: str, values: np.ndarray) -> None:
    """A tile around each neuron, as large as the smallest step between neurons along each axis."""
    from matplotlib.collections import PolyCollection

    span = np.ptp(values) or 1.0
    grey = 1 - 0.6 * (values - values.min(initial=np.inf)) / span
    ax.add_collection(
        PolyCollection(
            layout.tiles(group),
            facecolors=np.column_stack([grey, grey, grey]),
            linewidths=0,
            antialiaseds=False,
            zorder=1.05 + layout.level[group],
            gid=f"{group} shades",
        ),
        autolim=False,
    )


def draw_labels(ax: "Axes", layout: Layout, group: str, texts: Sequence[str]) -> dict[int, "Annotation"]:
    """Texts beside their neurons; turned, then smaller, where they would run into each other along a line.

    Returns:
        Those that are not empty, by neuron.
    """
    from matplotlib.patheffects import withStroke

    drawn = {}
    points, directions = layout.points[group], layout.outward(group, layout.points[group])
    for neuron in [k for k, text in enumerate(texts) if text]:
        label = drawn[neuron] = ax.annotate(
            texts[neuron],
            points[neuron],
            (0, 0),
            textcoords="offset points",
            fontsize=FONT_SIZE,
            zorder=3 + len(layout.level),
            path_effects=[withStroke(linewidth=2, foreground="white")],
            annotation_clip=False,
        )
        place_label(label, points[neuron], directions[neuron])
    if group not in layout.planar and _tightness(drawn.values()) > 1:
        for text in drawn.values():
            text.set_rotation(90)
        tightness = _tightness(drawn.values())
        for text in drawn.values():
            text.set_fontsize(max(_SMALLEST_FONT, FONT_SIZE / max(tightness, 1.0)))
    return drawn


def place_label(label: "Annotation", point: np.ndarray, direction: np.ndarray) -> None:
    """Beside a point, standing off in a direction."""
    right, up = direction
    label.xy = point
    label.xyann = 5.5 * right, 5.5 * up
    label.set_ha("left" if right > 0.4 else "right" if right < -0.4 else "center")
    label.set_va("bottom" if up > 0.4 else "top" if up < -0.4 else "center")


def _tightness(texts: Iterable["Annotation"]) -> float:
    """Room that neighbouring texts need along x relative to what they have, at worst."""
    boxes = sorted((_extent(text) for text in texts), key=lambda box: box.x0 + box.x1)
    needed = ((a.width + b.width) / max(b.x0 + b.x1 - a.x0 - a.x1, 1e-3) for a, b in pairwise(boxes))
    return 1.05 * max(needed, default=0.0)


def _extent(text: "Annotation") -> "Bbox":
    """In pixels. A canvas that keeps its renderer is asked for it: making one for each text takes milliseconds."""
    canvas = text.figure.canvas
    return text.get_window_extent(canvas.get_renderer() if hasattr(canvas, "get_renderer") else None)


def overhang(ax: "Axes", texts: Iterable["Annotation"]) -> float:
    """Points by which labels stand out above the axes."""
    tops = [_extent(text).y1 for text in texts]
    return max(0.0, max(tops, default=0.0) - ax.bbox.y1) * 72 / ax.figure.dpi


def alive(wiring: Wiring, group: str, edges: Sequence[Edges]) -> np.ndarray:
    found = np.zeros(len(wiring.slots(group)), dtype=bool)
    for drawn in edges:
        for end, seen in zip((drawn.part.out, drawn.part.source), drawn.alive, strict=True):
            if end == group:
                found |= seen
    return found


def layers_of(wiring: Wiring, parts: Sequence[Part], groups: Sequence[str] | None) -> tuple[str, ...]:
    """Groups from bottom to top."""
    if groups is not None:
        groups = (groups,) if isinstance(groups, str) else tuple(groups)
        for group in groups:
            if group not in wiring.groups:
                raise ValueError(f"groups must name groups of {', '.join(wiring.groups)}, named {group!r}")
        if not groups or len(set(groups)) < len(groups):
            raise ValueError(f"groups must name at least one group, none twice, were {groups}")
        return groups
    pairs = {(part.out, part.source) for part in parts}
    waiting = [g for g in wiring.groups if any(g in pair for pair in pairs)]
    if not waiting:
        raise ValueError("wiring must have a connection (a tensor of two axes), had none")
    order = []
    while waiting:
        ready = [g for g in waiting if not any(out == g and source in waiting and source != g for out, source in pairs)]
        if not ready:
            raise ValueError(f"groups must be named, bottom to top, where they feed each other in a circle: {waiting}")
        order += ready
        waiting = [g for g in waiting if g not in ready]
    feeding = {source for out, source in pairs if out != source}
    return tuple(sorted(order, key=lambda g: g not in feeding))


def _coordinates(group: str, positions: Tensor) -> np.ndarray:
    if positions.dim() != 2 or positions.shape[1] not in (1, 2):
        raise ValueError(f"positions of {group!r} must have shape (n, 1) or (n, 2), was {tuple(positions.shape)}")
    return positions.to("cpu", torch.float64).numpy()


def checked_labels(wiring: Wiring, layers: tuple[str, ...], labels: object) -> dict[str, list[str]]:
    if labels is None:
        return {}
    if not isinstance(labels, Mapping):
        raise TypeError(f"labels must be a mapping from group names to texts, was {type(labels).__name__}")
    checked = {}
    for group, texts in labels.items():
        if group not in layers:
            raise ValueError(f"labels must be of groups {', '.join(layers)}, had {group!r}")
        if isinstance(texts, str) or not isinstance(texts, Sequence) or not all(isinstance(t, str) for t in texts):
            raise TypeError(f"labels of {group!r} must be a sequence of strings, was {texts!r}")
        if len(texts) != len(wiring.slots(group)):
            raise ValueError(f"labels of {group!r} must be {len(wiring.slots(group))}, one a neuron, were {len(texts)}")
        checked[group] = list(texts)
    return checked


def _checked_shades(wiring: Wiring, layout: Layout, shades: object) -> dict[str, np.ndarray]:
    if shades is None:
        return {}
    if not isinstance(shades, Mapping):
        raise TypeError(f"shades must be a mapping from group names to numbers, was {type(shades).__name__}")
    checked = {}
    for group, values in shades.items():
        if group not in layout.planar:
            raise ValueError(f"shades must be of groups of two coordinates that are drawn, had {group!r}")
        checked[group] = torch.as_tensor(values).detach().to("cpu", torch.float64).numpy()
        if checked[group].shape != (len(wiring.slots(group)),) or not np.isfinite(checked[group]).all():
            raise ValueError(f"shades of {group!r} must be {len(wiring.slots(group))} finite numbers, one a neuron")
    return checked


def check_arguments(wiring, threshold, max_edges, title=None, ax=None, path=None) -> None:
    from matplotlib.axes import Axes

    if not isinstance(wiring, Wiring):
        raise TypeError(f"wiring must be a bimt_fast.Wiring, was {type(wiring).__name__}")
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)):
        raise TypeError(f"threshold must be a number, was {threshold!r}")
    if not 0 <= threshold < float("inf"):
        raise ValueError(f"threshold must be finite and at least 0, was {threshold}")
    if isinstance(max_edges, bool) or not isinstance(max_edges, int):
        raise TypeError(f"max_edges must be an integer, was {max_edges!r}")
    if max_edges < 0:
        raise ValueError(f"max_edges must be at least 0, was {max_edges}")
    if title is not None and not isinstance(title, str):
        raise TypeError(f"title must be a string or None, was {type(title).__name__}")
    if ax is not None and not isinstance(ax, Axes):
        raise TypeError(f"ax must be a matplotlib Axes or None, was {type(ax).__name__}")
    if ax is not None and ax.name != "rectilinear":
        raise ValueError(f"ax must be rectilinear, was {ax.name}")
    if path is not None:
        check_path(path)

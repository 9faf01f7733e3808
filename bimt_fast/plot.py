"""Figures of networks. Needs matplotlib, imported only when a figure is drawn; never a display or pyplot."""

import logging
import os
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .wiring import Part, Wiring

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Annotation
    from matplotlib.transforms import Bbox

POSITIVE, NEGATIVE = (0.12, 0.38, 0.75), (0.84, 0.15, 0.16)  # RGB of connections
UNSIGNED = (0.3, 0.3, 0.34)  # of sums over several entries
_ALIVE, _DEAD = (0.13, 0.13, 0.13, 1.0), (0.6, 0.6, 0.6, 0.55)  # RGBA of neurons
_SHEET, _SHEET_EDGE = (0.95, 0.955, 0.965, 0.4), (0.6, 0.63, 0.69, 1.0)  # RGBA
_SLANT, _DEPTH, _GAP = 0.42, 0.34, 0.6  # oblique view: (x + slant * y, depth * y + gap * layer), in widths of a sheet
_LINE_WIDTH = 2.4  # points, of a connection's largest weight
_CROWD = 40  # edges of full strength; beyond, lines get thinner and fainter
_RASTER = 5000  # edges or dots; beyond, pixels inside a vector file, which would be slow to open otherwise
_FONT_SIZE, _SMALLEST_FONT = 10.0, 4.0  # points
# Of methods: colours that those who see two of the three primaries can tell apart, and shapes for everybody else.
_METHODS = ("#000000", "#E69F00", "#56B4E9", "#CC79A7", "#0072B2", "#009E73", "#D55E00", "#7F7F7F")
_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "h")

_log = logging.getLogger("bimt_fast")


def network(
    wiring: Wiring,
    *,
    labels: Mapping[str, Sequence[str]] | None = None,
    threshold: float = 0.01,
    max_edges: int = 20_000,
    groups: Sequence[str] | None = None,
    title: str | None = None,
    ax: "Axes | None" = None,
    path: str | os.PathLike | None = None,
) -> "Axes":
    """Draws a network where its neurons are: layers from inputs (bottom) to outputs (top), connections between them.

    Positive weights are blue, negative ones red; width and opacity grow with |w| relative to the largest of the same
    tensor (all are finer where there are many), and stronger ones lie above weaker ones. Inputs and outputs sit in
    the slots that relocation gave them, and their labels with them. A neuron without a connection above the threshold
    is a faint small dot. Groups of one coordinate are drawn on lines; if any has two, layers are sheets in an oblique
    view. A recurrent connection is drawn within its layer, as arcs above a line. Where neurons have several entries
    (folds, runs, kernels), the sum of their |w| is drawn, in grey.

    Each tensor becomes one LineCollection whose gid is the tensor's name, one with groups side by side a collection
    for each pair of groups ("name (out x in)"); each group of neurons becomes one PathCollection whose gid is the
    group's name.

    Args:
        wiring: of the model to draw.
        labels: by group name, one text for each neuron, in the model's order, not the slots'. Mathtext works;
            "" is none.
        threshold: connections with |w| > threshold are drawn.
        max_edges: at most so many connections of each tensor are drawn, the strongest.
        groups: the layers from bottom to top, where not all are wanted or their order cannot be derived. None: every
            group that has a connection, each above all those that feed it, groups that feed nothing at the top.
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
    _require_matplotlib()
    _check_arguments(wiring, threshold, max_edges, title, ax, path)
    parts = list(wiring.parts())
    layers = _layers(wiring, parts, groups)
    labels = _checked_labels(wiring, layers, labels)
    layout = _Layout(wiring, layers)
    edges = [_Edges(part, threshold, max_edges) for part in parts if {part.out, part.source} <= set(layers)]
    if ax is None:
        ax = _new_axes(layout.figure_size(max(map(len, labels.values()), default=0)))
    for group in layers:
        _draw_neurons(ax, layout, group, _alive(wiring, group, edges))
    for drawn in edges:
        _draw_edges(ax, layout, drawn)
    layout.frame(ax)
    texts = [_draw_labels(ax, layout, group, texts) for group, texts in labels.items()]
    if title is not None:
        ax.set_title(title, fontsize=_FONT_SIZE + 1, pad=6 + _overhang(ax, texts))
    if path is not None:
        _save(ax, path)
    return ax


def loss_curve(
    rows: Sequence[tuple[int, float, float, float]], *, loss_name: str = "loss", path: str | os.PathLike | None = None
) -> "Axes":
    """Draws the loss and the penalty, lam * cost, against steps, on one logarithmic axis.

    Args:
        rows: step, loss, cost, lam, as in bimt_fast.train.History.
        loss_name: what the loss is, for the legend.
        path: where to save the figure as well.

    Returns:
        The Axes; its figure is `.figure`.

    Raises:
        ValueError: there are no rows, or matplotlib cannot write such a path.
        ImportError: matplotlib is missing.
        OSError: path cannot be written.
    """
    _require_matplotlib()
    if not len(rows):
        raise ValueError("rows must hold at least one step, held none")
    if path is not None:
        _check_path(path)
    ax = _new_axes((5.0, 3.2))
    step, loss, cost, lam = np.array(rows, dtype=float).T
    ax.plot(step, loss, color=POSITIVE, linewidth=1.2, label=loss_name)
    if (lam * cost > 0).any():
        ax.plot(step, np.where(lam * cost > 0, lam * cost, np.nan), color=NEGATIVE, linewidth=1.2, label="penalty")
    if (loss > 0).any():
        ax.set_yscale("log")
    ax.set_xlabel("step")
    ax.set_xlim(left=0)
    ax.legend(frameon=False, fontsize=_FONT_SIZE - 1)
    ax.spines[["top", "right"]].set_visible(False)
    if path is not None:
        _save(ax, path)
    return ax


Runs = Sequence[tuple[float, float, float]]  # (test loss, active connections, wiring length) of each


def trade_off(
    tasks: Mapping[str, Mapping[str, Sequence[Runs]]],
    *,
    loss_names: Mapping[str, str] | None = None,
    published: Mapping[str, float] | None = None,
    path: str | os.PathLike | None = None,
) -> "list[tuple[Axes, Axes]]":
    """Draws test loss against active connections, and against wiring length, a row a task.

    A method is a line through the medians of its settings, strengths of the penalty, say; whiskers span the quartiles.

    Args:
        tasks: by title, by method, the runs with each setting, one a seed; the settings in the order of the line.
        loss_names: by title, for the axis of the loss.
        published: by title, a test loss to mark by a line.
        path: where to save the figure as well.

    Returns:
        Both Axes of each task; their figure is `.figure`.

    Raises:
        ValueError: a task has no runs, or matplotlib cannot write such a path.
        ImportError: matplotlib is missing.
        OSError: path cannot be written.
    """
    _require_matplotlib()
    for title, methods in tasks.items():
        if not any(len(runs) for settings in methods.values() for runs in settings):
            raise ValueError(f"tasks must hold runs, {title!r} held none")
    if not tasks:
        raise ValueError("tasks must hold at least one, held none")
    if path is not None:
        _check_path(path)
    spare = _new_axes((8.4, 0.3 + 3.1 * len(tasks)))
    figure = spare.figure
    spare.remove()
    names = list(dict.fromkeys(method for methods in tasks.values() for method in methods))
    styles = {name: (_METHODS[k % len(_METHODS)], _MARKERS[k % len(_MARKERS)]) for k, name in enumerate(names)}
    rows = figure.subplots(len(tasks), 2, sharey="row", squeeze=False)
    for axes, (title, methods) in zip(rows, tasks.items(), strict=True):
        ends = {name: _draw_method(axes, settings, *styles[name]) for name, settings in methods.items()}
        _decorate_trade_off(axes, title, (loss_names or {}).get(title, "test loss"), (published or {}).get(title))
        _label_methods(axes[1], ends, styles)
    for ax, size in zip(rows[-1], ("active connections", "wiring length"), strict=True):
        ax.set_xlabel(size)
    if path is not None:
        _save(rows[0, 0], path)
    return [tuple(axes) for axes in rows]


def _draw_method(axes: "Sequence[Axes]", settings: Sequence[Runs], colour: str, marker: str) -> tuple[float, float]:
    """Returns where the line of the second axes ends, at its longest wiring."""
    low, mid, high = np.stack([np.quantile(np.array(runs, float), (0.25, 0.5, 0.75), axis=0) for runs in settings], 1)
    for ax, size in zip(axes, (1, 2), strict=True):
        x, y = mid[:, size], mid[:, 0]
        spread = {"xerr": (x - low[:, size], high[:, size] - x), "yerr": (y - low[:, 0], high[:, 0] - y)}
        ax.errorbar(x, y, **spread, fmt="none", ecolor=colour, elinewidth=0.8, alpha=0.45)
        ax.plot(x, y, color=colour, marker=marker, markersize=5, linewidth=1.4, markeredgewidth=0)
    return tuple(mid[mid[:, 2].argmax(), [2, 0]])


def _decorate_trade_off(axes: "Sequence[Axes]", title: str, loss_name: str, published: float | None) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    for ax in axes:
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(
                FuncFormatter(lambda x, _: f"{x:g}" if x >= 0.01 else f"{x:.0e}".replace("e-0", "e-"))
            )
            axis.set_minor_formatter(NullFormatter())
        ax.spines[["top", "right"]].set_visible(False)
        if published is not None:
            ax.axhline(published, color=_SHEET_EDGE, linewidth=0.8, linestyle="--", zorder=0)
    if published is not None:
        words = {"ha": "right", "va": "bottom", "fontsize": _FONT_SIZE - 2, "color": _SHEET_EDGE}
        axes[0].text(0.99, published, "published", transform=axes[0].get_yaxis_transform(), **words)
    axes[0].set_ylabel(loss_name)
    axes[0].set_title(title, loc="left", fontsize=_FONT_SIZE)


def _label_methods(ax: "Axes", ends: Mapping[str, tuple[float, float]], styles: Mapping[str, tuple[str, str]]) -> None:
    """Names beside the axes in the order of the lines' ends, apart from each other, each tied to its line."""
    bottom, top = np.log(ax.get_ylim())
    order = sorted(ends, key=lambda name: ends[name][1])
    wanted = [(np.log(ends[name][1]) - bottom) / (top - bottom) for name in order]
    for name, height in zip(order, _apart(wanted, 0.085), strict=True):
        colour = styles[name][0]
        tie = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5, "shrinkB": 3, "relpos": (0, 0.5)}
        place = {"xytext": (1.05, height), "textcoords": "axes fraction", "va": "center", "annotation_clip": False}
        ax.annotate(name, ends[name], **place, fontsize=_FONT_SIZE - 1.5, color=colour, arrowprops=tie)


def _apart(heights: Sequence[float], gap: float) -> np.ndarray:
    """Ascending heights moved as little as a few passes find, so that neighbours are `gap` apart, inside [0, 1]."""
    found = np.array(heights, dtype=float)
    for _ in range(200):
        for k in range(1, len(found)):
            lack = gap - (found[k] - found[k - 1])
            if lack > 0:
                found[k - 1] -= lack / 2
                found[k] += lack / 2
        found += max(0.0, -found[0])
        found -= max(0.0, found[-1] - 1)
    return found


class _Layout:
    """Where each neuron is on the page: layer k at height k, or an oblique view of sheet k."""

    def __init__(self, wiring: Wiring, layers: tuple[str, ...]) -> None:
        self.level = {group: k for k, group in enumerate(layers)}
        coordinates = {g: _coordinates(g, wiring.neuron_positions(g)) for g in layers}
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
        self.points = {g: self._project(x, self.level[g]) for g, x in coordinates.items()}

    def _project(self, x: np.ndarray, level: int) -> np.ndarray:
        """(n, 1 or 2) -> (n, 2) on the page. A line among sheets lies in the middle of its sheet."""
        if not self.oblique:
            return np.column_stack([x[:, 0], np.full(len(x), float(level))])
        y = x[:, 1] if x.shape[1] == 2 else np.full(len(x), (self.low[1] + self.high[1]) / 2)
        return np.column_stack([x[:, 0] + _SLANT * y, _DEPTH * y + self.step * level])

    def sheet(self, level: int) -> np.ndarray:
        """(4, 2) corners of a layer's sheet on the page, a little larger than its neurons need."""
        margin = 0.05 * self.width
        (x0, y0), (x1, y1) = self.low - margin, self.high + margin
        return self._project(np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]]), level)

    def outward(self, group: str) -> np.ndarray:
        """(n, 2) directions on the page in which labels stand off their neurons."""
        points = self.points[group]
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
                corners, style = self.sheet(level), {"facecolor": _SHEET, "edgecolor": _SHEET_EDGE, "linewidth": 0.6}
                ax.add_patch(Polygon(corners, zorder=1 + level, **style))
            page = np.concatenate([self.sheet(0), self.sheet(top)])
            (x0, y0), (x1, y1), margin = page.min(axis=0), page.max(axis=0), 0.01 * self.width
            ax.set(xlim=(x0 - margin, x1 + margin), ylim=(y0 - margin, y1 + margin), aspect="equal")
        else:
            margin = 0.03 * self.width
            ax.set(xlim=(self.low[0] - margin, self.high[0] + margin), ylim=(-0.12, top + 0.12))
        ax.set_axis_off()


class _Edges:
    """The connections of one tensor to draw, or of one part of it, the strongest last.

    Attributes:
        part: whose they are.
        out, source: (k,) neurons at the two ends.
        weight, strength: (k,) weights, and |w| relative to the largest of the part.
        alive: for each axis, which neurons have a connection above the threshold, drawn or not.
    """

    def __init__(self, part: Part, threshold: float, max_edges: int) -> None:
        self.part, weight, name = part, part.weight, part.label
        size = weight.to(torch.promote_types(weight.dtype, torch.float32)).abs()
        if not size.isfinite().all():
            raise ValueError(f"weights of {name!r} must be finite, held NaN or infinity")
        kept = size > threshold
        self.alive = [kept.any(dim=1).cpu().numpy(), kept.any(dim=0).cpu().numpy()]
        count = int(kept.sum())
        if count > max_edges:
            _log.info("plot.network: drew the %d strongest of %d connections of %r", max_edges, count, name)
        strongest, index = size.flatten().topk(min(count, max_edges))
        self.strength = (strongest / strongest[:1]).flip(0).cpu().numpy()
        index = index.flip(0)
        self.weight = weight.flatten()[index].to(size.dtype).cpu().numpy()
        self.out, self.source = np.divmod(index.cpu().numpy(), weight.shape[1])


def _draw_edges(ax: "Axes", layout: _Layout, edges: _Edges) -> None:
    from matplotlib.collections import LineCollection

    out, source = edges.part.out, edges.part.source
    start, end = layout.points[source][edges.source], layout.points[out][edges.out]
    t = np.linspace(0, 1, 17 if out == source and not layout.oblique else 2)[:, None]
    segments = start[:, None] * (1 - t) + end[:, None] * t
    if len(t) > 2:  # along a line: arcs, the higher the further they reach
        segments[..., 1] += 4 * (t * (1 - t))[:, 0] * 0.4 * np.abs(end - start)[:, :1] / layout.width
    crowd = min(1.0, _CROWD / max(edges.strength.sum(), 1.0)) ** 0.3
    colours = np.empty((len(segments), 4))
    colours[:, :3] = np.where(edges.weight[:, None] > 0, POSITIVE, NEGATIVE) if edges.part.signed else UNSIGNED
    colours[:, 3] = (0.15 + 0.85 * edges.strength) * crowd
    ax.add_collection(
        LineCollection(
            segments,
            colors=colours,
            linewidths=np.maximum(_LINE_WIDTH * edges.strength, 0.3) * crowd,
            capstyle="round",
            zorder=1.3 + min(layout.level[out], layout.level[source]),
            gid=edges.part.label,
            rasterized=len(segments) > _RASTER,
        ),
        autolim=False,
    )


def _draw_neurons(ax: "Axes", layout: _Layout, group: str, alive: np.ndarray) -> None:
    points, area = layout.points[group], layout.dot_size(group)
    ax.scatter(
        *points.T,
        s=np.where(alive, area, 0.25 * area),
        c=np.where(alive[:, None], _ALIVE, _DEAD),
        linewidths=0,
        zorder=1.6 + layout.level[group],
        gid=group,
        rasterized=len(points) > _RASTER,
        clip_on=False,
    )


def _draw_labels(ax: "Axes", layout: _Layout, group: str, texts: Sequence[str]) -> list["Annotation"]:
    """Texts beside their neurons; turned, then smaller, where they would run into each other along a line."""
    from matplotlib.patheffects import withStroke

    drawn = []
    for text, point, (right, up) in zip(texts, layout.points[group], layout.outward(group), strict=True):
        if not text:
            continue
        drawn.append(
            ax.annotate(
                text,
                point,
                (5.5 * right, 5.5 * up),
                textcoords="offset points",
                ha="left" if right > 0.4 else "right" if right < -0.4 else "center",
                va="bottom" if up > 0.4 else "top" if up < -0.4 else "center",
                fontsize=_FONT_SIZE,
                zorder=3 + len(layout.level),
                path_effects=[withStroke(linewidth=2, foreground="white")],
                annotation_clip=False,
            )
        )
    if group not in layout.planar and _tightness(drawn) > 1:
        for text in drawn:
            text.set_rotation(90)
        tightness = _tightness(drawn)
        for text in drawn:
            text.set_fontsize(max(_SMALLEST_FONT, _FONT_SIZE / max(tightness, 1.0)))
    return drawn


def _tightness(texts: list["Annotation"]) -> float:
    """Room that neighbouring texts need along x relative to what they have, at worst."""
    boxes = sorted((_extent(text) for text in texts), key=lambda box: box.x0 + box.x1)
    needed = ((a.width + b.width) / max(b.x0 + b.x1 - a.x0 - a.x1, 1e-3) for a, b in pairwise(boxes))
    return 1.05 * max(needed, default=0.0)


def _extent(text: "Annotation") -> "Bbox":
    """In pixels. A canvas that keeps its renderer is asked for it: making one for each text takes milliseconds."""
    canvas = text.figure.canvas
    return text.get_window_extent(canvas.get_renderer() if hasattr(canvas, "get_renderer") else None)


def _overhang(ax: "Axes", texts: list[list["Annotation"]]) -> float:
    """Points by which labels stand out above the axes."""
    tops = [_extent(text).y1 for group in texts for text in group]
    return max(0.0, max(tops, default=0.0) - ax.bbox.y1) * 72 / ax.figure.dpi


def _alive(wiring: Wiring, group: str, edges: Sequence[_Edges]) -> np.ndarray:
    alive = np.zeros(len(wiring.slots(group)), dtype=bool)
    for drawn in edges:
        for end, seen in zip((drawn.part.out, drawn.part.source), drawn.alive, strict=True):
            if end == group:
                alive |= seen
    return alive


def _layers(wiring: Wiring, parts: Sequence[Part], groups: Sequence[str] | None) -> tuple[str, ...]:
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


def _checked_labels(wiring: Wiring, layers: tuple[str, ...], labels: object) -> dict[str, list[str]]:
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


def _check_arguments(wiring, threshold, max_edges, title, ax, path) -> None:
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
        _check_path(path)


def _check_path(path: object) -> None:
    from matplotlib.backend_bases import FigureCanvasBase

    if not isinstance(path, (str, os.PathLike)):
        raise TypeError(f"path must be a string, a path or None, was {type(path).__name__}")
    kinds = FigureCanvasBase.get_supported_filetypes()
    if os.path.splitext(path)[1].lower().removeprefix(".") not in kinds:
        raise ValueError(f"path must end in one of .{', .'.join(sorted(kinds))}, was {os.fspath(path)!r}")


def _require_matplotlib() -> None:
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise ImportError("figures need matplotlib: pip install 'bimt_fast[plot]'") from None


def _new_axes(size: tuple[float, float]) -> "Axes":
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    return figure.add_subplot()


def _save(ax: "Axes", path: str | os.PathLike) -> None:
    """Writes the figure of the axes without spare margins; an SVG of the same figure has the same bytes."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "bimt_fast"}):
        metadata = {"Date": None} if os.fspath(path).lower().endswith(".svg") else None
        ax.figure.savefig(path, dpi=200, bbox_inches="tight", pad_inches=0.05, metadata=metadata)

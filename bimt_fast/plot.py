"""Figures of networks and their training. Needs matplotlib, imported only when a figure is drawn."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._animation import animation
from ._drawing import network
from ._features import features
from ._figure import (
    FONT_SIZE,
    NEGATIVE,
    PALE,
    POSITIVE,
    UNSIGNED,
    check_path,
    new_axes,
    new_figure,
    require_matplotlib,
    save,
)
from ._run_report import report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NEGATIVE", "POSITIVE", "UNSIGNED", "animation", "features", "loss_curve", "network", "report", "trade_off"]

# Of methods: colours that those who see two of the three primaries can tell apart, and shapes for everybody else.
_METHODS = ("#000000", "#E69F00", "#56B4E9", "#CC79A7", "#0072B2", "#009E73", "#D55E00", "#7F7F7F")
_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "h")


def loss_curve(
    rows: Sequence[tuple[int, float, float, float]], *, loss_name: str = "loss", path: str | os.PathLike | None = None
) -> "Axes":
    """Draws the loss and the penalty, lam * cost, against steps, and the cost alone below them, on logarithmic axes.

    Args:
        rows: step, loss, cost, lam, as in bimt_fast.train.History.
        loss_name: what the loss is, for the legend.
        path: where to save the figure as well.

    Returns:
        The Axes of the loss; its figure is `.figure`.

    Raises:
        ValueError: there are no rows, or matplotlib cannot write such a path.
        ImportError: matplotlib is missing.
        OSError: path cannot be written.
    """
    require_matplotlib()
    if not len(rows):
        raise ValueError("rows must hold at least one step, held none")
    if path is not None:
        check_path(path)
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    ax, below = new_figure((5.0, 4.2)).subplots(2, 1, sharex=True, height_ratios=(2, 1))
    step, loss, cost, lam = np.array(rows, dtype=float).T
    ax.plot(step, loss, color=POSITIVE, linewidth=1.2, label=loss_name)
    if (lam * cost > 0).any():
        ax.plot(step, np.where(lam * cost > 0, lam * cost, np.nan), color=NEGATIVE, linewidth=1.2, label="penalty")
    below.plot(step, cost, color=UNSIGNED, linewidth=1.2)
    for axes, values in ((ax, loss), (below, cost)):
        if (values > 0).any():
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
        axes.spines[["top", "right"]].set_visible(False)
    below.set_ylabel("cost")
    below.set_xlabel("step")
    below.set_xlim(left=0)
    below.xaxis.set_major_locator(MaxNLocator(6))
    below.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    ax.legend(frameon=False, fontsize=FONT_SIZE - 1)
    if path is not None:
        save(ax, path)
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
    require_matplotlib()
    for title, methods in tasks.items():
        if not any(len(runs) for settings in methods.values() for runs in settings):
            raise ValueError(f"tasks must hold runs, {title!r} held none")
    if not tasks:
        raise ValueError("tasks must hold at least one, held none")
    if path is not None:
        check_path(path)
    spare = new_axes((8.4, 0.3 + 3.1 * len(tasks)))
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
        save(rows[0, 0], path)
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
            ax.axhline(published, color=PALE, linewidth=0.8, linestyle="--", zorder=0)
    if published is not None:
        words = {"ha": "right", "va": "bottom", "fontsize": FONT_SIZE - 2, "color": PALE}
        axes[0].text(0.99, published, "published", transform=axes[0].get_yaxis_transform(), **words)
    axes[0].set_ylabel(loss_name)
    axes[0].set_title(title, loc="left", fontsize=FONT_SIZE)


def _label_methods(ax: "Axes", ends: Mapping[str, tuple[float, float]], styles: Mapping[str, tuple[str, str]]) -> None:
    """Names beside the axes in the order of the lines' ends, apart from each other, each tied to its line."""
    bottom, top = np.log(ax.get_ylim())
    order = sorted(ends, key=lambda name: ends[name][1])
    wanted = [(np.log(ends[name][1]) - bottom) / (top - bottom) for name in order]
    for name, height in zip(order, _apart(wanted, 0.085), strict=True):
        colour = styles[name][0]
        tie = {"arrowstyle": "-", "color": colour, "linewidth": 0.5, "alpha": 0.5, "shrinkB": 3, "relpos": (0, 0.5)}
        place = {"xytext": (1.05, height), "textcoords": "axes fraction", "va": "center", "annotation_clip": False}
        ax.annotate(name, ends[name], **place, fontsize=FONT_SIZE - 1.5, color=colour, arrowprops=tie)


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

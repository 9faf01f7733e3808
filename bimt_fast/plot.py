"""Figures of networks and their training. Needs matplotlib, imported only when a figure is drawn."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ._animation import animation
from ._drawing import network
from ._features import features
from ._figure import FONT_SIZE as _FONT_SIZE
from ._figure import NEGATIVE, POSITIVE, UNSIGNED, new_figure
from ._figure import PALE as _SHEET_EDGE
from ._figure import check_path as _check_path
from ._figure import new_axes as _new_axes
from ._figure import require_matplotlib as _require_matplotlib
from ._figure import save as _save
from ._run_report import report

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["NEGATIVE", "POSITIVE", "UNSIGNED", "animation", "features", "loss_curve", "network", "report", "trade_off"]


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
    _require_matplotlib()
    if not len(rows):
        raise ValueError("rows must hold at least one step, held none")
    if path is not None:
        _check_path(path)
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
    ax.legend(frameon=False, fontsize=_FONT_SIZE - 1)
    if path is not None:
        _save(ax, path)
    return ax


def trade_off(
    runs: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    loss_name: str = "test loss",
    published: float | None = None,
    title: str | None = None,
    path: str | os.PathLike | None = None,
) -> "tuple[Axes, Axes]":
    """Draws test loss against active connections, and against wiring length: a small dot a run, a large one a median.

    Args:
        runs: by label, (test loss, active connections, wiring length) of each run; one colour a label.
        loss_name: for the axis of the loss.
        published: a test loss to mark by a line.
        title: above the figure.
        path: where to save the figure as well.

    Returns:
        Both Axes; their figure is `.figure`.

    Raises:
        ValueError: there are no runs, or matplotlib cannot write such a path.
        ImportError: matplotlib is missing.
        OSError: path cannot be written.
    """
    _require_matplotlib()
    if not any(len(points) for points in runs.values()):
        raise ValueError("runs must hold at least one run, held none")
    if path is not None:
        _check_path(path)
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    left = _new_axes((9.0, 3.6))
    figure = left.figure
    left.remove()
    axes = figure.subplots(1, 2, sharey=True)
    for k, (label, points) in enumerate(runs.items()):
        loss, *sizes = np.array(points, dtype=float).T
        colour = colormaps["tab10"](k % 10)
        for ax, size in zip(axes, sizes, strict=True):
            ax.scatter(size, loss, s=12, color=colour, alpha=0.45, linewidths=0)
            ax.scatter(np.median(size), np.median(loss), s=70, color=colour, linewidths=0, label=label)
    for ax, name in zip(axes, ("active connections", "wiring length"), strict=True):
        ax.set_xscale("log")
        ax.set_yscale("log")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.set_minor_formatter(NullFormatter())
        ax.set_xlabel(name)
        ax.spines[["top", "right"]].set_visible(False)
        if published is not None:
            ax.axhline(published, color=_SHEET_EDGE, linewidth=1, linestyle="--", label="published")
    axes[0].set_ylabel(loss_name)
    axes[1].legend(
        frameon=False, fontsize=_FONT_SIZE - 2, loc="center left", bbox_to_anchor=(1.0, 0.5), markerscale=0.6
    )
    if title is not None:
        figure.suptitle(title, fontsize=_FONT_SIZE + 1)
    if path is not None:
        _save(axes[0], path)
    return tuple(axes)

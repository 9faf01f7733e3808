"""Pictures of what neurons and outputs compute from the columns they depend on. Needs matplotlib."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ._figure import NEGATIVE, POSITIVE, UNSIGNED, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_ACROSS = 3  # panels in a row
_DOTS = 300  # rows of the table drawn in a panel
_GRID = 61  # points of a curve, or along each side of a surface
_SURROUNDINGS = 100  # rows over which the other columns are averaged
_STRONGEST = 3  # columns drawn, where there are more than two
_LONGEST = 20  # characters of a name
_SMALL = 8.0  # points
_PALE = (0.97, 0.97, 0.97)


@dataclass(frozen=True)
class Panel:
    """Something that is computed from columns.

    Attributes:
        title: above it.
        value: rows (n, columns) -> (n,).
        columns: on which it depends.
        unit: of the value, for the axis.
    """

    title: str
    value: Callable[[np.ndarray], np.ndarray]
    columns: tuple[int, ...]
    unit: str


def draw(panels: Sequence[Panel], rows: np.ndarray, names: Sequence[str]) -> "Figure":
    """A curve for one column, a surface for two, the averaged curves of the strongest for more.

    Args:
        panels: at least one.
        rows: (n, columns) of the table, for ranges, dots and averages.
        names: of the columns.
    """
    across = min(_ACROSS, len(panels))
    down = -(-len(panels) // across)
    figure = new_figure((3.0 * across, 2.6 * down))
    axes = figure.subplots(down, across, squeeze=False).ravel()
    rows = rows[np.linspace(0, len(rows) - 1, min(len(rows), _DOTS)).astype(int)]
    for ax, panel in zip(axes, panels, strict=False):
        form = {1: _curve, 2: _surface}.get(len(panel.columns), _averages)
        form(ax, panel, rows, names)
        ax.set_title(panel.title, fontsize=_SMALL + 1)
        ax.tick_params(labelsize=_SMALL - 1, length=2)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(panels) :]:
        ax.remove()
    return figure


def plain(name: str) -> str:
    """A name as matplotlib shows it: no mathematics, not too long."""
    short = name if len(name) <= _LONGEST else f"{name[: _LONGEST - 1]}…"
    return short.replace("$", r"\$")


def _curve(ax: "Axes", panel: Panel, rows: np.ndarray, names: Sequence[str]) -> None:
    (column,) = panel.columns
    grid = _grid(rows[:, column])
    ax.plot(grid, panel.value(_varied(rows[:1], {column: grid})), color=POSITIVE, linewidth=1.6)
    _rug(ax, rows[:, column])
    ax.set_xlabel(plain(names[column]), fontsize=_SMALL)
    ax.set_ylabel(panel.unit, fontsize=_SMALL)


def _surface(ax: "Axes", panel: Panel, rows: np.ndarray, names: Sequence[str]) -> None:
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import MaxNLocator

    first, second = panel.columns
    across, up = np.meshgrid(_grid(rows[:, first]), _grid(rows[:, second]))
    value = panel.value(_varied(rows[:1], {first: across.ravel(), second: up.ravel()})).reshape(across.shape)
    low, high = value.min(), value.max()
    levels = MaxNLocator(11).tick_values(low, high if high > low else low + 1)
    both_signs = low < 0 < high and min(-low, high) > max(-low, high) / 4
    shades = [NEGATIVE, _PALE, POSITIVE] if both_signs else [_PALE, POSITIVE]
    colours = LinearSegmentedColormap.from_list("shades", shades)
    most = max(-levels[0], levels[-1])
    ends = {"vmin": -most, "vmax": most} if both_signs else {}
    filled = ax.contourf(across, up, value, levels=levels, cmap=colours, alpha=0.85, **ends)
    ax.contour(across, up, value, levels=levels, colors="white", linewidths=0.4, linestyles="solid")
    ax.plot(rows[:, first], rows[:, second], ".", color="black", markersize=1.2, alpha=0.35)
    ax.set(xlim=(across.min(), across.max()), ylim=(up.min(), up.max()))
    ax.set_xlabel(plain(names[first]), fontsize=_SMALL)
    ax.set_ylabel(plain(names[second]), fontsize=_SMALL)
    bar = ax.figure.colorbar(filled, ax=ax, ticks=levels[::2])
    bar.ax.tick_params(labelsize=_SMALL - 1, length=2)
    bar.set_label(panel.unit, fontsize=_SMALL)
    bar.outline.set_visible(False)


def _averages(ax: "Axes", panel: Panel, rows: np.ndarray, names: Sequence[str]) -> None:
    """Partial dependence: the mean over rows, where one column takes each value (Friedman 2001, section 8.2)."""
    around = rows[:_SURROUNDINGS]
    curves = {}
    for column in panel.columns:
        grid = _grid(rows[:, column])[:: _GRID // 20]
        varied = np.repeat(around, len(grid), axis=0)
        varied[:, column] = np.tile(grid, len(around))
        curves[column] = grid, panel.value(varied).reshape(len(around), -1).mean(0)
    strongest = sorted(curves, key=lambda column: -np.ptp(curves[column][1]))[:_STRONGEST]
    for column, colour in zip(strongest, (POSITIVE, NEGATIVE, UNSIGNED), strict=False):
        grid, mean = curves[column]
        spread = rows[:, column].std() or 1.0
        ax.plot((grid - rows[:, column].mean()) / spread, mean, color=colour, linewidth=1.6, label=plain(names[column]))
    ax.set_xlabel("standard deviations from the mean", fontsize=_SMALL)
    ax.set_ylabel(panel.unit, fontsize=_SMALL)
    ax.legend(frameon=False, fontsize=_SMALL - 1, handlelength=1.2)


def _grid(column: np.ndarray) -> np.ndarray:
    """From the smallest to the largest value, the outermost hundredths of the rows aside."""
    low, high = np.quantile(column, (0.01, 0.99))
    return np.linspace(low, high if high > low else low + 1, _GRID)


def _varied(row: np.ndarray, values: dict[int, np.ndarray]) -> np.ndarray:
    varied = np.repeat(row, len(next(iter(values.values()))), axis=0)
    for column, value in values.items():
        varied[:, column] = value
    return varied


def _rug(ax: "Axes", column: np.ndarray) -> None:
    low, high = ax.get_xlim()
    seen = column[(column >= low) & (column <= high)][:_SURROUNDINGS]
    height = np.full(len(seen), 0.02)
    ax.plot(seen, height, "|", color=UNSIGNED, markersize=4, alpha=0.3, transform=ax.get_xaxis_transform())


def predicted(truth: np.ndarray, prediction: np.ndarray, names: Sequence[str]) -> "Figure":
    """Predicted against measured values, a panel a target: (n, targets) both."""
    across = min(_ACROSS, len(names))
    figure = new_figure((3.0 * across, 2.9 * -(-len(names) // across)))
    axes = figure.subplots(-(-len(names) // across), across, squeeze=False).ravel()
    for ax, name, x, y in zip(axes, names, truth.T, prediction.T, strict=False):
        ends = min(x.min(), y.min()), max(x.max(), y.max())
        ax.plot(ends, ends, color=UNSIGNED, linewidth=0.8)
        ax.plot(x, y, ".", color=POSITIVE, markersize=4, alpha=0.6, markeredgewidth=0)
        ax.set_xlabel(f"{plain(name)}, measured", fontsize=_SMALL)
        ax.set_ylabel("predicted", fontsize=_SMALL)
        ax.set_aspect("equal", "box")
        ax.locator_params(nbins=5)
        ax.tick_params(labelsize=_SMALL - 1, length=2)
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[len(names) :]:
        ax.remove()
    return figure


def trade_off(wire: Sequence[float], error: Sequence[float], strength: Sequence[float], kept: int) -> "Figure":
    """Validation error against wire, a dot a network, coloured by the strength of its penalty; the kept one ringed."""
    from matplotlib import colormaps
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure = new_figure((4.6, 2.8))
    ax = figure.add_subplot()
    kinds = sorted(set(strength))
    for k, kind in enumerate(kinds):
        points = [(w, e) for w, e, s in zip(wire, error, strength, strict=True) if s == kind]
        colour = colormaps["viridis"](0.9 * k / max(len(kinds) - 1, 1))
        ax.plot(*zip(*points, strict=True), "o", color=colour, markersize=5, markeredgewidth=0, label=f"{kind:g}")
    ax.plot(wire[kept], error[kept], "o", markersize=10, markerfacecolor="none", color=NEGATIVE, markeredgewidth=1.5)
    ax.set(yscale="log", xscale="log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.set_minor_formatter(NullFormatter())
    ax.set_xlabel("length of all connections", fontsize=_SMALL)
    ax.set_ylabel("validation error", fontsize=_SMALL)
    ax.tick_params(which="both", labelsize=_SMALL - 1, length=2)
    ax.spines[["top", "right"]].set_visible(False)
    legend = ax.legend(
        title="strength of\nthe penalty",
        frameon=False,
        fontsize=_SMALL - 1,
        loc="center left",
        bbox_to_anchor=(1.0, 0.5),
    )
    legend.get_title().set_fontsize(_SMALL - 1)
    return figure

"""Figures of neurons on a sheet: what they do, where they lie, and how their wiring falls with distance."""

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from ._figure import NEGATIVE, POSITIVE, new_axes, save
from .analysis import AgainstNull, Decay
from .plot import network
from .wiring import Wiring

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_OURS, _THEIRS = POSITIVE, (0.2, 0.2, 0.2)
_IDLE = (0.85, 0.85, 0.87)  # neurons without a cluster
Path = str | os.PathLike


def _colours(count: int) -> list:
    from matplotlib import colormaps

    table = colormaps["tab10"] if count <= 10 else colormaps["tab20"]
    return [table(k % table.N) for k in range(count)]


def _grid_of_axes(rows: int, columns: int, size: tuple[float, float], **settings) -> "tuple[Figure, np.ndarray]":
    first = new_axes(size)
    figure = first.figure
    first.remove()
    return figure, figure.subplots(rows, columns, squeeze=False, **settings)


def _plain(ax: "Axes") -> "Axes":
    ax.spines[["top", "right"]].set_visible(False)
    return ax


def accuracy_bars(found: Mapping[str, float], published: Mapping[str, float], path: Path) -> None:
    """A bar a task, with the published accuracy marked across it."""
    ax = _plain(new_axes((7.5, 2.8)))
    at = np.arange(len(found))
    ax.bar(at, list(found.values()), width=0.72, color=_OURS, alpha=0.75, label="this network")
    ax.hlines(
        [published[name] for name in found], at - 0.42, at + 0.42, color=_THEIRS, linewidth=1.6, label="published"
    )
    low = min(*found.values(), *published.values())
    ax.set(xlim=(-0.7, len(found) - 0.3), ylim=(max(0.0, np.floor(10 * low - 1) / 10), 1.005), ylabel="accuracy")
    ax.set_xticks(at, list(found), rotation=50, ha="right", rotation_mode="anchor")
    ax.legend(frameon=False, fontsize=8, ncols=2, loc="lower right", bbox_to_anchor=(1.0, 1.0))
    save(ax, path)


def variance_map(normalised: Tensor, labels: Tensor, tasks: Sequence[str], path: Path) -> None:
    """Normalised task variance, a column a neuron: clusters side by side, in each the most alike together."""
    order = sorted(range(len(labels)), key=lambda i: (int(labels[i]), int(normalised[i].argmax()), i))
    sorted_labels = labels[order].numpy()
    figure, axes = _grid_of_axes(2, 1, (7.5, 4.0), sharex=True, height_ratios=[1, 22])
    strip, ax = axes[:, 0]
    count = int(labels.max()) + 1
    colours = np.array(_colours(count))[:, :3]
    strip.imshow(colours[sorted_labels][None], aspect="auto", interpolation="nearest")
    strip.set_axis_off()
    image = ax.imshow(normalised[order].T.numpy(), aspect="auto", cmap="magma", vmin=0, vmax=1, interpolation="nearest")
    starts = np.flatnonzero(np.diff(sorted_labels)) + 0.5
    for edge in starts:
        ax.axvline(edge, color="white", linewidth=0.8)
    for k, middle in enumerate((np.r_[-0.5, starts] + np.r_[starts, len(order) - 0.5]) / 2):
        strip.annotate(str(k + 1), (middle, -0.6), ha="center", va="bottom", fontsize=7, annotation_clip=False)
    ax.set_yticks(range(len(tasks)), list(tasks), fontsize=8)
    ax.set_xlabel(f"{len(order)} neurons, by cluster")
    figure.colorbar(image, ax=axes[:, 0], label="normalised task variance", shrink=0.8, pad=0.015)
    save(ax, path)


def sheet(positions: Tensor, active: Tensor, labels: Tensor, size: Tensor, path: Path) -> None:
    """The sheet from above: active neurons coloured by cluster, larger where they are connected more strongly.

    Args:
        positions: (neurons, 2).
        active: (n,), which neurons have a cluster.
        labels: (n,), which.
        size: (neurons,), of their connections; the largest dot is that of the largest.
        path: of the file.
    """
    ax = new_axes((4.6, 4.6))
    count = int(labels.max()) + 1
    colours = _colours(count)
    area = 110 * (size / size.max().clamp(min=1e-300)).sqrt().numpy()
    x, y = positions.double().t().numpy()
    idle = np.setdiff1d(np.arange(len(x)), active.numpy())
    ax.scatter(x[idle], y[idle], s=6, color=_IDLE, linewidths=0)
    colour_of = np.array(colours)[labels.numpy()]
    ax.scatter(x[active], y[active], s=np.maximum(area[active.numpy()], 8), color=colour_of, linewidths=0)
    for k, colour in enumerate(colours):
        ax.scatter([], [], s=45, color=[colour], linewidths=0, label=f"{k + 1}")
    ax.set_aspect("equal")
    ax.set_axis_off()
    ax.legend(
        title="cluster", frameon=False, fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5)
    )
    save(ax, path)


def layered(wiring: Wiring, active: Tensor, labels: Tensor, threshold: float, path: Path) -> None:
    """The network in three layers, with neurons of the sheet coloured by cluster."""
    ax = network(wiring, threshold=threshold, groups=("in", "h", "out"))
    (dots,) = (drawn for drawn in ax.collections if drawn.get_gid() == "h")
    colours = np.tile((*_IDLE, 1.0), (len(wiring.slots("h")), 1))
    colours[active.numpy()] = np.array(_colours(int(labels.max()) + 1))[labels.numpy()]
    dots.set_facecolor(colours)
    dots.set_sizes(np.where(np.isin(np.arange(len(colours)), active.numpy()), 34.0, 6.0))
    save(ax, path)


def nulls(found: Mapping[str, AgainstNull], path: Path) -> None:
    """A histogram of each null, with the network's value marked."""
    _, axes = _grid_of_axes(2, 3, (8.0, 4.2))
    for ax, (name, figure) in zip(axes.flat, found.items(), strict=True):
        null = figure.null.numpy()
        ax.hist(null, bins=_edges(null), color="0.72")
        ax.axvline(figure.value, color=NEGATIVE, linewidth=1.8)
        ax.set_title(name, fontsize=9)
        ax.set_xlabel(f"z = {figure.z:.1f}, p = {figure.p:.2g}", fontsize=8)
        ax.tick_params(labelsize=7)
        ax.set_yticks([])
        ax.spines[["top", "right", "left"]].set_visible(False)
    save(axes[0, 0], path)


def _edges(null: np.ndarray) -> np.ndarray:
    """Of about 40 bins, each of as many of the values that there can be: shares of few neurons are multiples."""
    values = np.unique(null)
    steps = np.diff(values)
    apart = steps[steps > 1e-9 * np.ptp(null)].min() if len(values) > 1 else 1.0
    width = apart * max(1, round(np.ptp(null) / apart / 40))
    return np.arange(values[0] - apart / 2, values[-1] + width, width)


def decay(distance: Tensor, strength: Tensor, fit: Decay, path: Path) -> None:
    """Mean |w| against distance, where an exponential is a straight line (left) and where a power law is (right)."""
    _, axes = _grid_of_axes(1, 2, (7.5, 2.9), sharey=True)
    away = distance > 0
    x = distance[away].double()
    curves = {
        "power law": (fit.power_factor * x**-fit.exponent, f"exponent {fit.exponent:.2f}", fit.power_r2),
        "exponential": (fit.exponential_factor * (-x / fit.scale).exp(), f"scale {fit.scale:.2f}", fit.exponential_r2),
    }
    for ax, shown in zip(axes[0], (strength >= 0, away), strict=True):
        _plain(ax).plot(distance[shown], strength[shown], "o", color=_OURS, markersize=3.2)
        for name, (curve, words, r2) in curves.items():
            style = "-" if name == fit.best else "--"
            ax.plot(x, curve, style, color=_THEIRS, linewidth=1, label=f"{name}, {words}, $R^2$ {r2:.2f}")
        ax.set(yscale="log", xlabel="distance")
    low = strength[strength > 0].min().item()
    axes[0, 0].set(ylabel="mean |w|", ylim=(low / 3, 3 * strength.max().item()))
    axes[0, 1].set_xscale("log")
    axes[0, 0].legend(frameon=False, fontsize=7.5)
    save(axes[0, 0], path)


def ranked(size: Tensor, active: int, path: Path) -> None:
    """Neurons by the sum of |w| of their connections, the largest first; a line at how many are active."""
    ax = _plain(new_axes((4.2, 2.9)))
    ax.plot(np.arange(1, len(size) + 1), size.sort(descending=True)[0].clamp(min=1e-6), color=_OURS, linewidth=1.4)
    ax.axvline(active, color=_THEIRS, linewidth=0.9, linestyle=":", label=f"{active} active")
    ax.set(yscale="log", xlabel="neurons by rank", ylabel="importance, sum of |w|", xlim=(0, len(size)))
    ax.legend(frameon=False, fontsize=8)
    save(ax, path)


def trials(shown: Mapping[str, tuple[Tensor, Tensor, Tensor]], ring: int, path: Path) -> None:
    """One trial of each task: inputs against time, under them the target and what the network answers.

    Args:
        shown: by task, inputs (steps, 1 + 2 ring + tasks), targets and answers (steps,) of one trial.
        ring: neurons of a ring.
        path: of the file.
    """
    columns = 5
    rows = -(-len(shown) // columns)
    figure, axes = _grid_of_axes(3 * rows, columns, (11.0, 2.75 * rows), height_ratios=[0.35, 1, 0.75] * rows)
    for k, (name, (x, y, answer)) in enumerate(shown.items()):
        row, column = divmod(k, columns)
        top, middle, bottom = axes[3 * row : 3 * row + 3, column]
        steps = np.arange(len(x) + 1)
        top.stairs(x[:, 0], steps, color=_THEIRS, fill=True, alpha=0.55)
        top.set(ylim=(0, 1.15))
        top.set_title(name, fontsize=9)
        rings = x[:, 1 : 1 + 2 * ring].t().numpy()
        image = middle.imshow(
            rings, aspect="auto", origin="lower", cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest",
            extent=(0, len(x), 0, 2 * ring),
        )  # fmt: skip
        middle.axhline(ring, color=_THEIRS, linewidth=0.6)
        bottom.hlines(y, steps[:-1], steps[1:], color=NEGATIVE, linewidth=2.2, label="target")
        bottom.plot(steps[:-1] + 0.5, answer, "o", color=_OURS, markersize=2.6, label="answer")
        bottom.set(ylim=(-1, ring + 1))
        for ax in (top, middle, bottom):
            ax.set_xlim(0, len(x))
            ax.tick_params(labelsize=7, length=2)
            ax.set_xticks([] if ax is not bottom else range(0, len(x) + 1, 5))
        top.set_yticks([])
        quarters = [1 + quarter * ring // 4 for quarter in range(4)]
        words = [
            ((0.5,), ("fixation",)),
            ((ring / 2, 1.5 * ring), ("ring 1", "ring 2")),
            ((0, *quarters[1:]), ("fixate", "90°", "180°", "270°")),
        ]
        for ax, (at, texts) in zip((top, middle, bottom), words, strict=True):
            ax.set_yticks(at, texts if column == 0 else [""] * len(at))
    figure.supxlabel("steps of 100 ms", fontsize=9)
    figure.legend(
        *axes[2, 0].get_legend_handles_labels(), frameon=False, fontsize=8, loc="outside upper right", ncols=2
    )
    figure.colorbar(image, ax=axes, label="input", shrink=0.25, pad=0.01)
    save(axes[0, 0], path)


def robustness(found: Mapping[str, Mapping[str, list]], path: Path) -> None:
    """Mean accuracy against noise on the inputs and against the share of active neurons removed, a line a run."""
    _, axes = _grid_of_axes(1, 2, (7.5, 2.9), sharey=True)
    for k, (name, of_run) in enumerate(found.items()):
        colour = _colours(10)[k % 10]
        for ax, key in zip(axes[0], ("noise", "removal"), strict=True):
            x, y = zip(*((point[0], point[1]) for point in of_run[key]), strict=True)
            ax.plot(x, y, "o-", color=colour, markersize=3.5, linewidth=1.2, label=f"{name}, {of_run['active']} active")
        for share, _, all_of_them in of_run["removal"]:
            axes[0, 1].plot([share] * len(all_of_them), all_of_them, ".", color=colour, alpha=0.35, markersize=4)
    for ax, words in zip(
        axes[0], ("deviation of the noise on the inputs", "share of active neurons removed"), strict=True
    ):
        _plain(ax).set(xlabel=words, ylim=(0, 1.02))
    axes[0, 0].set_ylabel("mean accuracy")
    axes[0, 0].legend(frameon=False, fontsize=8)
    save(axes[0, 0], path)


def resized(found: Mapping[str, Mapping[str, float]], path: Path) -> None:
    """Mean accuracy of each sheet, before and after a brief training."""
    ax = _plain(new_axes((6.0, 0.5 * len(found) + 0.7)))
    for k, of_sheet in enumerate(reversed(found.values())):
        ends = list(of_sheet.values())
        ax.plot(ends, [k] * len(ends), color="0.75", linewidth=2, zorder=1)
        ax.plot(ends[0], k, "o", color="0.55", markersize=7, label="as made" if k == 0 else None)
        if len(ends) > 1:
            ax.plot(ends[1], k, "o", color=_OURS, markersize=7, label="after a brief training" if k == 0 else None)
    ax.set_yticks(range(len(found)), list(reversed(found)))
    ax.set(xlim=(0, 1.02), ylim=(-0.6, len(found) - 0.4), xlabel="mean accuracy")
    ax.legend(frameon=False, fontsize=8, loc="lower left")
    save(ax, path)


def without_seed(run: str) -> str:
    """The name of a run whose folder is called seed0, seed1, ..., without that folder."""
    variant, _, number = run.rpartition("/seed")
    return variant if variant and number.isdigit() else run


def compared(found: Mapping[str, Mapping], path: Path) -> None:
    """z of the modularity figures by run, and mean |w| against distance; runs that differ in the seed alone, by the
    ends of their names, have one colour."""
    _, axes = _grid_of_axes(1, 2, (8.5, 3.2), width_ratios=[1, 1.5])
    bars, curves = axes[0]
    figures = list(next(iter(found.values()))["modularity"])
    width = 0.8 / len(found)
    variants = list(dict.fromkeys(map(without_seed, found)))
    for k, (name, of_run) in enumerate(sorted(found.items(), key=lambda run: variants.index(without_seed(run[0])))):
        variant = without_seed(name)
        colour = _colours(10)[variants.index(variant) % 10]
        at = np.arange(len(figures)) + (k - (len(found) - 1) / 2) * width
        bars.bar(at, [of_run["modularity"][figure]["z"] for figure in figures], 0.9 * width, color=[colour])
        x, y = np.array(of_run["distance"]), np.array(of_run["strength"])
        curves.plot(x[y > 0], y[y > 0], "o-", color=colour, markersize=2.5, linewidth=1)
    for k, variant in enumerate(variants):
        curves.plot([], [], "o-", color=_colours(10)[k % 10], markersize=2.5, linewidth=1, label=variant)
    _plain(bars).axhline(0, color=_THEIRS, linewidth=0.8)
    bars.axhspan(-1.96, 1.96, color="0.9", zorder=0)  # where 95 % of the null lies
    bars.set_xticks(range(len(figures)), [figure.replace(", ", ",\n") for figure in figures], fontsize=8)
    bars.set_ylabel("z against permuted labels")
    _plain(curves).set(yscale="log", xlabel="distance on the sheet", ylabel="mean |w|")
    curves.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(bars, path)


def trade_off(
    found: Mapping[str, Sequence[Mapping]],
    published: Mapping[str, Sequence[tuple[float, float]]],
    published_active: tuple[float, float],
    path: Path,
) -> None:
    """Mean error against active neurons and wire, over the published points.

    A line joins the medians of a variant over the strength of the penalty; a dot is a run.
    """
    _, axes = _grid_of_axes(1, 2, (9.0, 3.8), sharey=True)
    for (name, points), marker in zip(published.items(), "osD", strict=False):
        error, wire = zip(*points, strict=True)
        axes[0, 1].plot(wire, error, f"{marker}-", color="0.7", markersize=4, linewidth=0.8, label=f"{name}, published")
    axes[0, 0].plot(*published_active, "o", color="0.7", markersize=4)  # of BIMT, as the first on the right
    for k, (name, points) in enumerate(found.items()):
        colour = _colours(len(found))[k]
        for ax, key in zip(axes[0], ("active", "wire"), strict=True):
            ax.plot(
                [p[key] for p in points], [p["error"] for p in points],
                "o-", color=colour, markersize=4, linewidth=1, label=name,
            )  # fmt: skip
            runs = [run for p in points for run in p["seeds"]]
            ax.plot(
                [run[key] for run in runs], [run["error"] for run in runs],
                ".", color=colour, alpha=0.4, markersize=3.5, linewidth=0,
            )  # fmt: skip
    for ax, words in zip(axes[0], ("active neurons", "recurrent wire, grid spacings"), strict=True):
        _plain(ax).set(xscale="log", yscale="log", xlabel=words)
    axes[0, 0].set_ylabel("mean error")
    axes[0, 1].legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(axes[0, 0], path)

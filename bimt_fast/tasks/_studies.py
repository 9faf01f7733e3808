"""Questions to a finished brain: what it bears, and what is left of it on a coarser or finer sheet."""

import copy
import json
import math
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from .. import _brain_figures as figures
from .. import analysis, geometry
from ..nn import BioRNN
from ..train import Preset, train
from . import _analyse, _cognitive, _run, brain
from ._cognitive import NAMES, RINGS, RULE

DEVIATIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
REMOVED = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
RETRAINED = 200  # steps
_SEQUENCES, _DRAWS = 1000, 3
STUDIES = "robustness", "resize", "trade_off"


class _Disturbed(nn.Module):
    """The network with noise on the two rings at every step."""

    def __init__(self, model: BioRNN, deviation: float) -> None:
        super().__init__()
        self.model, self.deviation = model, deviation

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.zeros_like(x)
        noise[..., RINGS:RULE] = self.deviation * torch.randn_like(x[..., RINGS:RULE])
        return self.model(x + noise)


def _mean_accuracy(model: nn.Module) -> float:
    return sum(brain.accuracies(model, _SEQUENCES).values()) / len(NAMES)


@torch.no_grad()
def without_neurons(model: BioRNN, neurons: Tensor) -> BioRNN:
    """A copy whose neurons of these numbers send nothing."""
    lesioned = copy.deepcopy(model)
    lesioned.recurrent.weight[:, neurons] = 0
    lesioned.readout.weight[:, neurons] = 0
    return lesioned


def robustness(model: BioRNN, seed: int = 0) -> dict[str, list]:
    """Mean accuracy with noise on the inputs, and with neurons removed.

    Returns:
        noise: pairs (deviation, mean accuracy).
        removal: triples (share of the active neurons, median of the mean accuracies over three random choices, all of
            them).
    """
    active, _ = analysis.normalised_variance(_analyse.variances(model))
    generator, removal = torch.Generator().manual_seed(seed), []
    for share in REMOVED:
        found = []
        for _ in range(_DRAWS if share else 1):
            chosen = active[torch.randperm(len(active), generator=generator)[: round(share * len(active))]]
            found.append(_mean_accuracy(without_neurons(model, chosen)))
        removal.append([share, median(found), found])
    return {
        "active": len(active),
        "noise": [[deviation, _mean_accuracy(_Disturbed(model, deviation))] for deviation in DEVIATIONS],
        "removal": removal,
    }


@torch.no_grad()
def activity(model: BioRNN, sequences: int = 100, seed: int = 3) -> Tensor:
    """(steps * sequences, neurons): what the neurons say without noise, in sequences of all tasks."""
    x, _ = _cognitive.batch(sequences, torch.Generator().manual_seed(seed))
    training = model.training
    states = model.eval().states(x.to(model.recurrent.weight.dtype))
    model.train(training)
    return states.flatten(0, 1)


def labels_by_position(side: int, factor: int) -> Tensor:
    """Of the cells of a side x side sheet, which cell of a sheet `factor` times coarser each lies in."""
    cell = torch.arange(side * side)
    return (cell // side // factor) * (side // factor) + cell % side // factor


def labels_by_activity(states: Tensor, count: int) -> Tensor:
    """Neurons in groups that correlate: average linkage on 1 - r; those that never change are one group.

    Raises:
        ImportError: SciPy is missing.
    """
    try:
        from scipy.cluster.hierarchy import average, cut_tree
        from scipy.spatial.distance import squareform
    except ImportError:
        raise ImportError("groups by activity need SciPy: pip install 'bimt_fast[analysis]'") from None
    away = states.double() - states.double().mean(0)
    length = away.norm(dim=0)
    unit = away / length.clamp(min=1e-12)
    far = (1 - unit.t() @ unit).clamp(min=0)
    still = length < 1e-9
    far[still], far[:, still] = 2.0, 2.0
    far[still[:, None] & still] = 0
    far.fill_diagonal_(0)
    tree = average(squareform(far.numpy(), checks=False))
    return torch.from_numpy(cut_tree(tree, count)[:, 0].astype("int64"))


def places_for(labels: Tensor, positions: Tensor, slots: Tensor) -> Tensor:
    """Numbers of the slots, one a label, that together lie closest to where the labels' neurons were.

    Raises:
        ImportError: SciPy is missing.
    """
    from scipy.optimize import linear_sum_assignment

    centroids = analysis.merging(labels) @ positions.double()
    _, chosen = linear_sum_assignment(torch.cdist(centroids, slots.double()).square().numpy())
    return torch.from_numpy(chosen)


def resized(model: BioRNN) -> Iterable[tuple[str, BioRNN]]:
    """Copies of the network on a sheet of half and of twice the side."""
    slots = model.wiring.slots("h")
    side = math.isqrt(len(slots))
    half, twice = side // 2, 2 * side
    coarse, fine = geometry.grid((half, half)), geometry.grid((twice, twice))
    by_position = labels_by_position(side, 2)
    by_activity = labels_by_activity(activity(model), half * half)
    by_activity = places_for(by_activity, slots, coarse)[by_activity]
    of_cell = labels_by_position(twice, 2)
    for name, positions, mixing in (
        (f"{half} x {half}, merged by position", coarse, analysis.merging(by_position)),
        (f"{half} x {half}, merged by activity", coarse, analysis.merging(by_activity)),
        (f"{twice} x {twice}, copies", fine, nn.functional.one_hot(of_cell, side * side).double()),
        (f"{twice} x {twice}, interpolated", fine, analysis.interpolation((side, side), (twice, twice))),
    ):
        made = copy.deepcopy(model)
        made.wiring.resize("h", positions, mixing)
        yield name, made


def resize(model: BioRNN, preset: Preset, steps: int = RETRAINED) -> dict[str, dict[str, float]]:
    """Mean accuracy by variant: of the sheet made coarser or finer, and after a brief training with the last lam."""
    brief = replace(preset, steps=steps, lam=((0.0, preset.lam[-1][1]),))
    found = {"as trained": {"before": _mean_accuracy(model)}}
    for name, made in resized(model):
        torch.manual_seed(preset.seed)
        before = _mean_accuracy(made)
        train(made, made.wiring, _run.task_loss(brain.TASK, None, preset.batch), brief)
        found[name] = {"before": before, "after": _mean_accuracy(made)}
    return found


def trade_off(runs: Sequence[Path]) -> dict[str, list[dict[str, float]]]:
    """Mean error, active neurons and wire of finished runs, by ablation and strategy.

    Raises:
        FileNotFoundError: a folder holds no result.
        ValueError: a result is of another experiment.
    """
    found: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        result = json.loads((run / _run.RESULT).read_text())
        if result["task"] not in brain.BRAINS:
            raise ValueError(f"{run} must be a run of {', '.join(brain.BRAINS)}, was of {result['task']!r}")
        preset, structure = Preset(**result["preset"]), result["structure"]
        strategy = "" if preset.swap_every is None else f" {preset.strategy}"
        point = {key: structure[key] for key in ("error", "pruned_error", "wire", "weighted_wire")}
        point |= {"active": result["neurons"]["active"], "seconds": result["seconds"]}
        found.setdefault(result["ablation"] + strategy, []).append(point)
    return found


def study(what: str, runs: Sequence[Path], out: Path, steps: int = RETRAINED) -> bool:
    """Makes one study of one or more runs; writes its figures as json and as a picture, and says what came out.

    Args:
        what: one of STUDIES.
        runs: folders of runs; resize takes the first, trade_off those that are finished.
        out: folder for the files.
        steps: of the training behind a resize.

    Raises:
        FileNotFoundError, ValueError: as bimt_fast.tasks._analyse.load.
        ImportError: SciPy is missing.
    """
    found: Mapping[str, Any]
    draw: Callable
    if what == "trade_off":
        found = trade_off(runs)
        draw = partial(figures.trade_off, published=brain.PUBLISHED_TRADE_OFF)
    elif what == "robustness":
        found = {run.name: robustness(_analyse.load(run)[0]) for run in runs}
        draw = figures.robustness
    else:
        model, settings = _analyse.load(runs[0])
        found, draw = resize(model, Preset(**settings["preset"]), steps), figures.resized
    out.mkdir(parents=True, exist_ok=True)
    for name, value in rows(what, found):
        print(f"{name}: {value}")
    (out / f"{what}.json").write_text(json.dumps(found, indent=2) + "\n")
    print(f"written: {out / what}.json")
    try:
        draw(found, path=out / f"{what}.png")
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return False
    print(f"written: {out / what}.png")
    return True


def rows(what: str, found: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows (name, value) of a study's table."""
    if what == "resize":
        return [
            (name, f"{f['before']:.4f}" + (f", {f['after']:.4f} after training" if "after" in f else ""))
            for name, f in found.items()
        ]
    if what == "trade_off":
        return [
            (
                name,
                f"error {p['error']:.4f} ({p['pruned_error']:.4f} without |w| <= {brain.WIRED:g}),"
                f" {p['active']} active, wire {p['wire']:.4g}, weighted {p['weighted_wire']:.4g}, {p['seconds']:.0f} s",
            )
            for name, points in found.items()
            for p in points
        ]
    return [
        row
        for name, f in found.items()
        for row in (
            (f"{name}, {f['active']} active: noise", _pairs(f["noise"])),
            (f"{name}: share removed", _pairs(f["removal"])),
        )
    ]


def _pairs(points: Iterable[Sequence]) -> str:
    return ", ".join(f"{point[0]:g}: {point[1]:.3f}" for point in points)

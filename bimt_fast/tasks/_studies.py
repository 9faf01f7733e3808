"""Questions to finished brains: what they bear, what is left on another sheet, what each part of BIMT does."""

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
from . import _analyse, _cognitive, _run, _sweep, brain
from ._analyse import named
from ._cognitive import NAMES, RINGS, RULE

DEVIATIONS = (0.0, 0.05, 0.1, 0.2, 0.3, 0.5)
REMOVED = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3)
RETRAINED = 200  # steps
_SEQUENCES, _DRAWS = 1000, 3
STUDIES = "robustness", "resize", "compare", "trade_off"
MODULARITY = "isolated, 4 neighbours", "variance of indices"  # the two figures that were published


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
    cell = (slots.amax(0) - slots.amin(0)) / (side - 1)
    corner = slots.amin(0) - cell / 2
    coarse, fine = (geometry.grid((n, n)).to(slots) * side * cell + corner for n in (half, twice))
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
    """Mean accuracy by variant: of the sheet made coarser or finer, and after a brief training with the last lam, in
    which neurons stay where they are.

    Raises:
        ValueError: distances of the network come from a table, which holds none of another sheet.
    """
    if not isinstance(model.wiring.metric, str):
        raise ValueError("a run to resize must have distances by a metric's name, had a table of them")
    brief = replace(preset, steps=steps, lam=((0.0, preset.lam[-1][1]),), prune_from=None, thin=None, swap_every=None)
    found = {"as trained": {"before": _mean_accuracy(model)}}
    for name, made in resized(model):
        torch.manual_seed(preset.seed)
        before = _mean_accuracy(made)
        train(made, made.wiring, _run.task_loss(brain.TASK, None, preset.batch), brief)
        found[name] = {"before": before, "after": _mean_accuracy(made)}
    return found


def compare(runs: Sequence[Path], permutations: int = 10_000) -> dict[str, dict[str, Any]]:
    """How modular networks lie and how their weights fall with distance, by the runs' names.

    Returns:
        error, clusters: of the network; active: neurons with task variance.
        modularity: value, null and z of the two published figures.
        agreement: of modules of the wiring with the clusters, as bimt_fast.analysis.agreement.
        wire: in grid spacings, of all connections that are not zero.
        distance, strength: mean |w| by distance on the sheet, as bimt_fast.analysis.strength_by_distance.
        far: the share of the recurrent |w| between neurons that lie more than half the side of the sheet apart, rows
            and columns together.

    Raises:
        FileNotFoundError, ValueError, ImportError: as bimt_fast.tasks._analyse.analyse.
    """
    found = {}
    for name, run in named(runs).items():
        of_run = _analyse.analyse(run, permutations=permutations)
        at, strength, _ = of_run.profile
        summary = of_run.summary
        found[name] = {
            "error": summary["error"],
            "active": summary["active"]["neurons"],
            "clusters": summary["clusters"]["count"],
            "modularity": {name: summary["modularity"][name] for name in MODULARITY},
            "agreement": {key: summary["modules"][key] for key in ("adjusted_rand", "nmi")},
            "wire": summary["wire"]["above"]["0"]["wire"],
            "distance": at.tolist(),
            "strength": strength.tolist(),
            "far": _far(of_run.model.recurrent.weight.detach().abs().double()),
        }
    return found


def _far(size: Tensor) -> float:
    side = math.isqrt(len(size))
    cell = torch.arange(side * side)
    row, column = cell // side, cell % side
    apart = (row[:, None] - row).abs() + (column[:, None] - column).abs()
    return (size[2 * apart > side].sum() / size.sum().clamp(min=1e-300)).item()


def trade_off(runs: Sequence[Path]) -> dict[str, list[dict[str, Any]]]:
    """Mean error, active neurons and wire of finished runs, by ablation and strategy.

    Returns:
        For each variant and each strength of the penalty one point: medians over the seeds, the strength as "lam_scale"
        and, as "seeds", the single runs' figures. "wire" is of all connections that are not zero, as "error" is of the
        network with all of them; "large_wire" and "pruned_error" are of those above 0.02. "active" neurons have a
        connection above 0.05 on both sides. Variants carry the name of the experiment, or of the preset, where
        runs of several are given.

    Raises:
        FileNotFoundError: a folder holds no result, or no checkpoint.
        ValueError: a result is of another experiment, or runs of one point differ in more than the seed.
    """
    results = {}
    for run in dict.fromkeys(run.resolve() for run in runs):
        results[run] = json.loads((run / _run.RESULT).read_text())
        if results[run]["task"] not in brain.BRAINS:
            raise ValueError(f"{run} must be a run of {', '.join(brain.BRAINS)}, was of {results[run]['task']!r}")
    kinds = [(result["task"], result["preset"]["name"]) for result in results.values()]
    differing = [k for k, values in enumerate(zip(*kinds, strict=True)) if len(set(values)) > 1]
    found: dict[str, dict[float, list[dict[str, float]]]] = {}
    settings: dict[tuple[str, float], Preset] = {}
    for run, result in results.items():
        preset, structure = Preset(**result["preset"]), result["structure"]
        variant = _sweep.method_name(result["ablation"], replace(preset, name="published"))
        variant += "".join(f", {(result['task'], preset.name)[k]}" for k in differing)
        if settings.setdefault((variant, preset.lam_scale), replace(preset, seed=0)) != replace(preset, seed=0):
            raise ValueError(f"runs of {variant} must differ in the seed alone, {run} differs in more")
        model = brain.on_the_sheet(_analyse.load(run)[0])
        counted = model.wiring.length(0.0, weighted=False, unit=brain.spacing(model))
        point = {key: structure[key] for key in ("error", "pruned_error", "weighted_wire")}
        point |= {"wire": counted.by_connection["recurrent.weight"], "large_wire": structure["wire"]}
        point |= {"active": result["neurons"]["active"], "seconds": result["seconds"]}
        found.setdefault(variant, {}).setdefault(preset.lam_scale, []).append(point)
    return {
        variant: [
            {key: median(run[key] for run in seeds) for key in seeds[0]} | {"lam_scale": scale, "seeds": seeds}
            for scale, seeds in sorted(points.items())
        ]
        for variant, points in found.items()
    }


def wire_at(error: float, points: Sequence[Mapping[str, float]]) -> float | None:
    """The least wire at which a curve of points has at most an error: straight in logarithms between neighbours.

    None where the curve does not reach it. Points without any wire do not count.
    """
    curve = sorted((point["wire"], point["error"]) for point in points if point["wire"] > 0)
    before = above = None
    for wire, below in curve:
        if below <= error:
            if before is None or below <= 0:
                return wire
            return before * (wire / before) ** (math.log(above / error) / math.log(above / below))
        before, above = wire, below
    return None


def study(what: str, runs: Sequence[Path], out: Path, steps: int = RETRAINED) -> bool:
    """Makes one study of one or more runs; writes its figures as json and as a picture, and says what came out.

    Args:
        what: one of STUDIES.
        runs: folders of runs; resize takes the first.
        out: folder for the files.
        steps: of the training behind a resize.

    Raises:
        FileNotFoundError: a folder holds no run.
        ValueError: as resize, compare, trade_off; a run is of another experiment.
        ImportError: SciPy or networkx is missing.
    """
    found: Mapping[str, Any]
    draw: Callable
    if what == "trade_off":
        found = trade_off(runs)
        published = {"published": brain.PUBLISHED_TRADE_OFF, "published_active": brain.PUBLISHED_ACTIVE}
        draw = partial(figures.trade_off, **published)
    elif what == "compare":
        found, draw = compare(runs), figures.compared
    elif what == "robustness":
        found = {name: robustness(_analyse.load(run)[0]) for name, run in named(runs).items()}
        draw = figures.robustness
    else:
        model, settings = _analyse.load(runs[0])
        found, draw = resize(model, Preset(**settings["preset"]), steps), figures.resized
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{what}.json").write_text(json.dumps(found, indent=2) + "\n")
    for name, value in rows(what, found):
        print(f"{name}: {value}")
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
        return [*_points(found), *_ratios(found)]
    if what == "compare":
        return [*((name, _side_by_side(f)) for name, f in found.items()), *_over_seeds(found)]
    return [
        row
        for name, f in found.items()
        for row in (
            (f"{name}, {f['active']} active: noise", _pairs(f["noise"])),
            (f"{name}: share removed", _pairs(f["removal"])),
        )
    ]


def _side_by_side(f: Mapping[str, Any]) -> str:
    z = ", ".join(f"{figure} z = {f['modularity'][figure]['z']:.2f}" for figure in MODULARITY)
    return (
        f"error {f['error']:.4f}, {f['active']:g} active, {f['clusters']:g} clusters, {z}, modules of the wiring ARI"
        f" {f['agreement']['adjusted_rand']:.2f}, wire {f['wire']:.3g},"
        f" {100 * f['far']:.1f} % of |w| beyond half the side"
    )


def _over_seeds(found: Mapping[str, Mapping[str, Any]]) -> Iterable[tuple[str, str]]:
    """Medians of runs that differ in the seed alone."""
    variants: dict[str, list[Mapping[str, Any]]] = {}
    for name, f in found.items():
        variants.setdefault(figures.without_seed(name), []).append(f)
    for name, runs in variants.items():
        if len(runs) > 1:
            yield f"{name}, median of {len(runs)} seeds", _side_by_side(_median(runs))


def _median(runs: Sequence[Any]) -> Any:
    """Of numbers, or of each of them where they lie in mappings alike."""
    if isinstance(runs[0], Mapping):
        return {key: _median([run[key] for run in runs]) for key in runs[0]}
    return median(runs) if isinstance(runs[0], int | float) else None


def _points(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[tuple[str, str]]:
    for name, points in found.items():
        for p in points:
            yield (
                f"{name} x{p['lam_scale']:g}, {len(p['seeds'])} seed{'s' * (len(p['seeds']) > 1)}",
                f"error {p['error']:.4f}, wire {p['wire']:.4g} ({p['pruned_error']:.4f}, {p['large_wire']:.4g} without"
                f" |w| <= {brain.WIRED:g}), weighted {p['weighted_wire']:.4g}, {p['active']:g} active,"
                f" {p['seconds']:.0f} s",
            )


def _ratios(found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[tuple[str, str]]:
    """The wire of each variant at the smallest error that L1 and a variant of BIMT both reach; where there is one point
    only, as without a penalty, at its own error."""
    ours = [name for name in found if name.startswith("bimt ")]
    if not ours or "l1" not in found:
        return
    least = {name: min(p["error"] for p in points) for name, points in found.items()}
    error = max(least["l1"], min(least[name] for name in ours))
    reached = {name: wire_at(error, found[name]) for name in ours}
    reached = {name: wire for name, wire in reached.items() if wire is not None}
    if not reached:
        return
    first = min(reached, key=reached.get)
    for name, points in found.items():
        alone = len(points) == 1
        wire, at = (points[0]["wire"], points[0]["error"]) if alone else (wire_at(error, points), error)
        said = "not reached" if wire is None else f"{wire:.3g}, {wire / reached[first]:.3g} times that of {first}"
        yield f"{name}: wire at error {at:.4f}", said


def _pairs(points: Iterable[Sequence]) -> str:
    return ", ".join(f"{point[0]:g}: {point[1]:.3f}" for point in points)

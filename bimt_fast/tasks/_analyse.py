"""What a finished run of the brain looks like: analysis.json and its figures."""

import json
import math
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from .. import _brain_figures as figures
from .. import analysis, geometry
from ..nn import BioRNN
from ..train import Preset, read_checkpoint
from . import _cognitive, brain
from ._cognitive import NAMES
from ._run import CHECKPOINT
from ._task import ACTIVE

RESULT = "analysis.json"
THRESHOLDS = (0.0, 0.01, brain.WIRED, ACTIVE, 0.1)
_TRIALS = 500
_SEQUENCES = 4000  # to judge a network by without its weak connections


def load(run: Path) -> tuple[BioRNN, dict[str, Any]]:
    """The network of a run of the brain, and the settings it was trained with.

    Raises:
        FileNotFoundError: the folder holds no checkpoint.
        ValueError: it is no checkpoint, or of another experiment.
    """
    state = read_checkpoint(run / CHECKPOINT)
    settings = state["settings"]
    if settings.get("task") not in brain.BRAINS:
        raise ValueError(f"{run} must be a run of {', '.join(brain.BRAINS)}, was of {settings.get('task')!r}")
    model = brain.BRAINS[settings["task"]].make_model(Preset(**settings["preset"]))
    model.load_state_dict(state["model"])
    return model, {**settings, "step": state["step"]}


@torch.no_grad()
def variances(model: BioRNN, trials: int | None = None, seed: int = 1) -> Tensor:
    """Task variance of every unit, (neurons, 20) float64: the network without noise, the stimuli with theirs."""
    trials = _TRIALS if trials is None else trials
    training, generator = model.training, torch.Generator().manual_seed(seed)
    model.eval()
    found = []
    for task in range(len(NAMES)):
        x, _ = _cognitive.batch(trials, generator, steps=_cognitive.longest(task), task=task)
        ended = _cognitive.answered(x).cumsum(0) - _cognitive.answered(x).long()
        found.append(analysis.task_variance(model.states(x.to(model.recurrent.weight.dtype)), ended == 0))
    model.train(training)
    return torch.stack(found, 1)


@torch.no_grad()
def one_trial_each(model: BioRNN, seed: int = 5) -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """By task, one trial alone: inputs (steps, 53), targets (steps,), and the network's answers (steps,)."""
    generator, shown = torch.Generator().manual_seed(seed), {}
    for task, name in enumerate(NAMES):
        x, y = _cognitive.batch(1, generator, steps=_cognitive.longest(task) + 1, task=task)
        end = int(_cognitive.answered(x)[:, 0].nonzero()[0]) + 1
        answer = model(x.to(model.recurrent.weight.dtype)).argmax(2)
        shown[name] = x[:end, 0], y[:end, 0], answer[:end, 0]
    return shown


def named(runs: Sequence[Path]) -> dict[str, Path]:
    """The runs by the last parts of their paths: as many as tell them apart, at least two where one is a seed0."""
    runs = list(dict.fromkeys(run.resolve() for run in runs))
    first = 2 if any(re.fullmatch(r"seed\d+", run.name) for run in runs) else 1
    for count in range(first, max((len(run.parts) for run in runs), default=0)):
        names = ["/".join(run.parts[-count:]) for run in runs]
        if len(set(names)) == len(runs):
            return dict(zip(names, runs, strict=True))
    return {str(run): run for run in runs}


@dataclass(frozen=True)
class Analysis:
    """What a network's neurons do and where they lie.

    Attributes:
        model, settings: of the run; a model whose distances come from a table is its copy on the plane.
        active, normalised: as bimt_fast.analysis.normalised_variance.
        clustering: of the active neurons.
        nulls: as bimt_fast.analysis.modularity.
        profile: mean |w| of the recurrent connections by distance, as bimt_fast.analysis.strength_by_distance.
        decay: of the profile.
        modules: of the active neurons' recurrent wiring.
        importance: (neurons,), of all connections.
        summary: what analysis.json holds.
    """

    model: BioRNN
    settings: Mapping[str, Any]
    active: Tensor
    normalised: Tensor
    clustering: analysis.Clustering
    nulls: Mapping[str, analysis.AgainstNull]
    profile: tuple[Tensor, Tensor, Tensor]
    decay: analysis.Decay
    modules: Tensor
    importance: Tensor
    summary: dict[str, Any] = field(default_factory=dict)


def analyse(run: Path, against: Sequence[Path] = (), *, permutations: int = 10_000) -> Analysis:
    """All figures of a run's network.

    Args:
        run: folder of a run, finished or not.
        against: folders of other runs, whose wire is compared with this one's.
        permutations: of the labels.

    Raises:
        FileNotFoundError, ValueError: as load; fewer than three neurons are active.
        ImportError: SciPy or networkx is missing.
    """
    model, settings = load(run)
    model = brain.on_the_sheet(model)
    weight, slots = model.recurrent.weight.detach(), model.wiring.slots("h")
    side = math.isqrt(len(slots))
    active, normalised = analysis.normalised_variance(variances(model))
    clustering = analysis.clusters(normalised)
    distance = geometry.distances(slots, slots, model.wiring.metric)
    profile = analysis.strength_by_distance(weight, distance, brain.spacing(model))
    connections = [(weight, 0), (weight, 1), (model.input.weight, 0), (model.readout.weight, 1)]
    found = Analysis(
        model,
        settings,
        active,
        normalised,
        clustering,
        nulls=analysis.modularity(clustering.labels, active, (side, side), permutations=permutations),
        profile=profile,
        decay=analysis.fit_decay(*profile),
        modules=analysis.modules_of(weight[active][:, active]),
        importance=analysis.importance(connections),
    )
    found.summary.update(_summary(found), permutations=permutations)
    found.summary["against"] = {name: _beside(found.summary["wire"], path) for name, path in named(against).items()}
    return found


def _summary(found: Analysis) -> dict[str, Any]:
    accuracy = brain.accuracies(found.model)
    mean = sum(accuracy.values()) / len(NAMES)
    at, strength, _ = found.profile
    clustering = found.clustering
    return {
        "run": {key: found.settings[key] for key in ("task", "ablation", "preset", "step")},
        "accuracy": accuracy,
        "mean_accuracy": mean,
        "error": 1 - mean,
        "wire": wire_of(found.model),
        "active": {"neurons": len(found.active), "of": len(found.importance), "silent_below": analysis.SILENT},
        "clusters": {
            "count": clustering.count,
            "sizes": clustering.labels.bincount().tolist(),
            "silhouettes": clustering.silhouettes,
        },
        "modularity": {
            name: {key: getattr(figure, key) for key in ("value", "mean", "deviation", "z", "p")}
            for name, figure in found.nulls.items()
        },
        "decay": {
            **asdict(found.decay),
            "best": found.decay.best,
            "distance": at.tolist(),
            "strength": strength.tolist(),
        },
        "modules": {
            "count": int(found.modules.max()) + 1,
            **analysis.agreement(found.modules, clustering.labels),
        },
    }


def wire_of(model: BioRNN) -> dict[str, Any]:
    """The recurrent wire in grid spacings: by threshold, counted whatever the weight, with the error of the network
    without what lies below; and weighted by |w|."""
    unit, name = brain.spacing(model), "recurrent.weight"
    counted = {
        f"{threshold:g}": {
            "wire": model.wiring.length(threshold, weighted=False, unit=unit).by_connection[name],
            "connections": int((model.recurrent.weight.detach().abs() > threshold).sum()),
            "error": brain.error_without(model, threshold, _SEQUENCES),
        }
        for threshold in THRESHOLDS
    }
    return {"above": counted, "weighted": model.wiring.length(unit=unit).by_connection[name]}


def _beside(wire: Mapping[str, Any], other: Path) -> dict[str, Any]:
    """The wire of another run relative to this one's."""
    theirs = wire_of(brain.on_the_sheet(load(other)[0]))
    ratios = {at: theirs["above"][at]["wire"] / max(found["wire"], 1e-300) for at, found in wire["above"].items()}
    return {"wire": theirs, "ratio": {**ratios, "weighted": theirs["weighted"] / max(wire["weighted"], 1e-300)}}


def write(found: Analysis, out: Path) -> None:
    """Replaces analysis.json at once; says what was written."""
    out.mkdir(parents=True, exist_ok=True)
    new = out / f"{RESULT}.new"
    new.write_text(json.dumps(found.summary, indent=2) + "\n")
    os.replace(new, out / RESULT)
    print(f"written: {out / RESULT}")


def draw(found: Analysis, out: Path) -> bool:
    """The figures; says what was written, or why nothing was."""
    active, labels, wiring = found.active, found.clustering.labels, found.model.wiring
    drawings = {
        "trials.png": (figures.trials, one_trial_each(found.model), _cognitive.RING),
        "accuracy.png": (figures.accuracy_bars, found.summary["accuracy"], brain.PUBLISHED),
        "variance.png": (figures.variance_map, found.normalised, labels, NAMES),
        "brain.png": (figures.sheet, wiring.slots("h"), active, labels, found.importance),
        "network.png": (figures.layered, wiring, active, labels, ACTIVE),
        "nulls.png": (figures.nulls, found.nulls),
        "distance.png": (figures.decay, *found.profile[:2], found.decay),
        "importance.png": (figures.ranked, found.importance, len(active)),
    }
    for name, (function, *arguments) in drawings.items():
        try:
            function(*arguments, out / name)
        except ImportError as error:
            print(f"no picture: {error}", file=sys.stderr)
            return False
        print(f"written: {out / name}")
    return True


def table(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows (name, value) of what matters."""
    active, wire, decay, modules = (summary[key] for key in ("active", "wire", "decay", "modules"))
    rows = [
        ("mean accuracy", f"{summary['mean_accuracy']:.4f} (published about {brain.PUBLISHED_MEAN:g})"),
        ("active neurons, variance above 1e-6", f"{active['neurons']} of {active['of']}"),
        ("clusters (Ward, best silhouette)", f"{summary['clusters']['count']}: {summary['clusters']['sizes']}"),
    ]
    rows += [
        (name, f"{f['value']:.4g} (null {f['mean']:.4g} +- {f['deviation']:.2g}), z = {f['z']:.2f}, p = {f['p']:.2g}")
        for name, f in summary["modularity"].items()
    ]
    rows += [
        (
            f"recurrent wire, |w| > {at}",
            f"{f['wire']:.4g} spacings, {f['connections']} connections; error without the others {f['error']:.4f}",
        )
        for at, f in wire["above"].items()
    ]
    rows += [
        ("recurrent wire, weighted", f"{wire['weighted']:.4g}"),
        *(
            (f"wire of {name} / this one's", ", ".join(f"{at}: {ratio:.3g}" for at, ratio in other["ratio"].items()))
            for name, other in summary["against"].items()
        ),
        (
            "mean |w| against distance",
            f"{decay['best']}; R2 of the power law {decay['power_r2']:.3f} (exponent {decay['exponent']:.2f}),"
            f" of the exponential {decay['exponential_r2']:.3f} (scale {decay['scale']:.2f})",
        ),
        (
            "modules of the wiring",
            f"{modules['count']}; agreement with the clusters: adjusted Rand {modules['adjusted_rand']:.2f},"
            f" NMI {modules['nmi']:.2f}",
        ),
    ]
    return rows

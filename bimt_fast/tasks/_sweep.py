"""Many runs: seeds, ablations, relocation strategies; their table and their plot."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, asdict, fields, replace
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

from .. import plot
from .._run_report import read_result
from ..train import Preset, ablate
from ._run import CHECKPOINT, run
from ._task import Task

# Of settings that runs of older versions lack.
_DEFAULTS = {field.name: field.default for field in fields(Preset) if field.default is not MISSING}


def variants(
    task: Task,
    ablations: Iterable[str],
    strategies: Sequence[str] | None = None,
    presets: Iterable[str] = ("published",),
    lam_scales: Sequence[float] = (1.0,),
) -> list[tuple[str, Preset]]:
    """(ablation, preset) of each, once: where nothing swaps strategies make no difference, nor lam where it is 0."""
    found = []
    for name, ablation in product(presets, ablations):
        charged = ablation != "none"
        own = charged or name in task.more_presets  # without a penalty, the others are the task's own
        preset = ablate(task.settings(name) if own else task.preset, ablation)
        swaps = preset.swap_every is not None
        for strategy in strategies or [preset.strategy] if swaps else [task.preset.strategy]:
            for scale in lam_scales if charged else [1.0]:
                variant = ablation, replace(preset, strategy=strategy, lam_scale=scale)
                if variant not in found:
                    found.append(variant)
    return found


def method_name(ablation: str, preset: Preset) -> str:
    """A variant whatever the strength of its penalty: "bimt greedy", "bimt assignment proximal"."""
    strategy = "" if preset.swap_every is None else f" {preset.strategy}"
    return f"{ablation}{strategy}{'' if preset.name == 'published' else f' {preset.name}'}"


def variant_name(ablation: str, preset: Preset) -> str:
    """What the table calls it, and its folder: "bimt greedy x0.3" where lam is scaled."""
    return method_name(ablation, preset) + ("" if preset.lam_scale == 1 else f" x{preset.lam_scale:g}")


def sweep(
    task: Task,
    out: Path,
    *,
    ablations: Sequence[str],
    seeds: Sequence[int],
    strategies: Sequence[str] | None = None,
    presets: Sequence[str] = ("published",),
    lam_scales: Sequence[float] = (1.0,),
    steps: int | None = None,
    folder: Path | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Runs an experiment for all seeds and variants, each in a folder of its own below `out`.

    A run that is complete is not run again; one that was interrupted goes on.

    Args:
        task: the experiment.
        out: folder for all runs.
        ablations, seeds, strategies, presets, lam_scales: to run; strategies None: each preset's.
        steps: of each run; None: the preset's.
        folder: of the data, for tasks that read files.
        progress: shows a bar for each run.

    Returns:
        The results, seeds fastest.

    Raises:
        ValueError: a folder holds a run with other settings, the experiment has no such preset.
    """
    results = []
    for ablation, variant in variants(task, ablations, strategies, presets, lam_scales):
        for seed in seeds:
            one = replace(variant, seed=seed, steps=steps or variant.steps)
            place = out / task.name / variant_name(ablation, one).replace(" ", "-") / f"seed{seed}"
            result = _complete(place, one)
            kept = result is not None
            if not kept:
                resume = (place / CHECKPOINT).exists()
                settings = {"ablation": ablation, "folder": folder, "resume": resume, "progress": progress}
                result, _ = run(task, one, place, **settings)
            print(_line(result, kept), flush=True)
            results.append(result)
    return results


def _complete(place: Path, preset: Preset) -> dict[str, Any] | None:
    """The result of a run that is there; None where there is none."""
    try:
        result = read_result(place)
    except (FileNotFoundError, ValueError):
        return None
    wanted, own = json.loads(json.dumps(asdict(preset))), {**_DEFAULTS, **result.get("preset", {})}
    other = [key for key in {**wanted, **own} if own.get(key) != wanted.get(key)]
    if other:
        raise ValueError(f"{place} holds a run with another {' and '.join(other)}: choose another --out")
    return result


def _line(result: Mapping[str, Any], kept: bool) -> str:
    found = result["structure"].get("found")
    said = "" if found is None else "  structure found" if found else "  structure not found"
    name = variant_name(result["ablation"], Preset(**result["preset"]))
    return (
        f"{result['task']} {name} seed {result['preset']['seed']}: test loss {result['test_loss']:.2e},"
        f" {result['connections']['active']} connections{said}, {result['seconds']:.1f} s{' (kept)' if kept else ''}"
    )


def summary(results: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row for each task and variant: medians over the seeds, and how often the structure was found.

    `found` is None where the paper names no structure, `test_accuracy` where targets are no classes.
    """
    groups: dict[tuple[str, str], list[Mapping[str, Any]]] = {}
    for result in results:
        groups.setdefault((result["task"], variant_name(result["ablation"], Preset(**result["preset"]))), []).append(
            result
        )
    rows = []
    for (task, variant), runs in groups.items():
        found = [r["structure"]["found"] for r in runs if "found" in r["structure"]]
        accuracies = [r["test_accuracy"] for r in runs if "test_accuracy" in r]
        rows.append(
            {
                "task": task,
                "variant": variant,
                "seeds": [r["preset"]["seed"] for r in runs],
                "found": sum(found) if found else None,
                "test_loss": median(r["test_loss"] for r in runs),
                "test_accuracy": median(accuracies) if accuracies else None,
                "connections": median(r["connections"]["active"] for r in runs),
                "neurons": median(r["neurons"]["active"] for r in runs),
                "wiring_length": median(r["wiring_length"] for r in runs),
                "seconds": median(r["seconds"] for r in runs),
                "published": dict(runs[0]["published"]),
            }
        )
    return rows


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """The summary as text, columns under each other; a dash where there is nothing to say."""
    heads = ("task", "variant", "seeds", "found", "test loss", "published", "accuracy", "published")
    heads += ("connections", "neurons", "length", "seconds")

    def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
        published, n = row["published"], len(row["seeds"])
        return (
            row["task"],
            row["variant"],
            str(n),
            "-" if row["found"] is None else f"{row['found']} of {n}",
            f"{row['test_loss']:.2e}",
            _or_dash(published.get("test_loss"), ".2e"),
            _or_dash(row["test_accuracy"], ".4f"),
            _or_dash(published.get("test_accuracy"), ".4f"),
            f"{row['connections']:g}",
            f"{row['neurons']:g}",
            f"{row['wiring_length']:.3g}",
            f"{row['seconds']:.1f}",
        )

    lines = [heads, *map(cells, rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)


def _or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def draw(results: Sequence[Mapping[str, Any]], path: Path) -> bool:
    """Test loss against active connections and wiring length; says what was written, or why nothing was."""
    tasks: dict[str, dict[str, dict[float, list[tuple[float, float, float]]]]] = {}
    for r in results:
        preset = Preset(**r["preset"])
        settings = tasks.setdefault(r["task"], {}).setdefault(method_name(r["ablation"], preset), {})
        point = (r["test_loss"], r["connections"]["active"], r["wiring_length"])
        settings.setdefault(preset.lam_scale, []).append(point)
    lines = {
        task: {method: [runs for _, runs in sorted(settings.items())] for method, settings in methods.items()}
        for task, methods in tasks.items()
    }
    published = {r["task"]: r["published"]["test_loss"] for r in results if "test_loss" in r["published"]}
    try:
        plot.trade_off(
            lines, loss_names={r["task"]: f"test {r['loss']}" for r in results}, published=published, path=path
        )
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return False
    print(f"written: {path}")
    return True

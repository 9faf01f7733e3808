"""A run of an experiment as rows of a table, and as one page of HTML."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ._page import Page

_PICTURES = {  # captions by file name; those of other names have their name
    "network": "The trained network: inputs at the bottom, outputs at the top. Blue weights are positive, red negative;"
    " the stronger, the thicker.",
    "animation": "The training, from the first step to the last.",
    "features": "The most important hidden neurons: what each looks for in an image, and below it what it votes for."
    " Blue is positive, red negative.",
    "loss": "The loss and the penalty, lam times the connection cost; below, the connection cost itself.",
}
_SUFFIXES = ".svg", ".png", ".gif"

Row = tuple[str, str]  # name, value


def report(
    run: str | os.PathLike,
    path: str | os.PathLike | None = None,
    *,
    found: Sequence[Row] | None = None,
    pictures: Sequence[Path] | None = None,
) -> Path:
    """Makes one page of HTML of a finished run, with its pictures inside: it opens anywhere, offline.

    Args:
        run: folder that `python -m bimt_fast train` wrote: result.json, and whatever pictures lie beside it.
        path: of the page; None: report.html in the folder. Replaced at once.
        found: rows that say what structure was found; None: the figures of result.json by their names.
        pictures: files to show; None: every picture in the folder, the smallest of those that share a name.

    Returns:
        Where the page is.

    Raises:
        OSError: there is no result.json, or the page cannot be written.
        ValueError: result.json is of no run.
    """
    run = Path(run)
    result = read_result(run)
    path = run / "report.html" if path is None else Path(path)
    preset = result["preset"]
    pictures = _pictures(run) if pictures is None else {p.stem: p for p in sorted(pictures, key=lambda p: p.stem)}
    page = Page(f"{result['task']}, seed {preset['seed']}, {result['ablation']}")
    for name in ("network", "animation"):
        _add(page, pictures, name)
    page.heading("Figures")
    page.table((), figure_rows(result))
    page.heading("Structure")
    page.table((), structure_rows(result["structure"]) if found is None else found)
    for name in [*pictures]:
        if name != "loss":
            _add(page, pictures, name)
    page.heading("Training")
    _add(page, pictures, "loss")
    page.table((), training_rows(result))
    page.heading("Settings")
    page.table((), [*_settings(preset), *result["versions"].items(), ("machine", result["machine"])])
    page.write(path)
    return path


def read_result(run: Path) -> dict[str, Any]:
    """What result.json of a finished run holds.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is of no run.
    """
    path = run / "result.json"
    if not path.exists():
        raise FileNotFoundError(f"{run} holds no finished run: there is no {path.name} in it")
    try:
        result = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not a result of bimt_fast: {error}") from None
    if not isinstance(result, dict) or not {"task", "preset", "structure", "history"} <= result.keys():
        raise ValueError(f"{path} is not a result of bimt_fast")
    return result


def _settings(preset: Mapping[str, Any]) -> list[Row]:
    """Names and values of a preset's fields; of schedules, at or from which share of the steps each value holds."""
    rows = {name.replace("_", " "): in_words(value) for name, value in preset.items()}
    rows["shape"] = "-".join(map(str, preset["shape"]))
    for name in ("lr", "lam", "bias"):
        if isinstance(preset[name], (list, tuple)):
            holds = "at" if preset.get("smooth") and name != "bias" else "from"
            rows[name] = ", ".join(f"{in_words(value)} {holds} {start:.4g}" for start, value in preset[name])
            rows[name] += " of the steps" + (", geometric between" if holds == "at" else "")
    return list(rows.items())


def _pictures(run: Path) -> dict[str, Path]:
    """By name; the smaller of several kinds."""
    paths = sorted((p for p in run.iterdir() if p.suffix in _SUFFIXES), key=lambda p: p.stat().st_size)
    return {path.stem: path for path in sorted(reversed(paths), key=lambda path: path.stem)}


def _add(page: Page, pictures: dict[str, Path], name: str) -> None:
    path = pictures.pop(name, None)
    if path is not None:
        page.figure(path, _PICTURES.get(name, name))


def figure_rows(result: Mapping[str, Any]) -> list[Row]:
    """Seed, losses, accuracies, published ones beside ours, and what is left of the network."""
    variant = {"bimt": ""}.get(result["ablation"], f", {result['ablation']}")
    loss = result["loss"]
    rows = [
        ("seed, strategy", f"{result['preset']['seed']}, {_strategy(result['preset'])}{variant}"),
        (f"train {loss} / test {loss}", f"{result['train_loss']:.2e} / {_beside(result, 'test_loss', '.2e')}"),
    ]
    if "test_accuracy" in result:
        accuracies = f"{result['train_accuracy']:.4f} / {_beside(result, 'test_accuracy', '.4f')}"
        rows.append(("train / test accuracy", accuracies))
    return [
        *rows,
        ("active connections", "{active} of {of}".format(**result["connections"])),
        ("active hidden neurons", "{active} of {of}".format(**result["neurons"])),
        ("wiring length, sum |w| d", f"{result['wiring_length']:.2f}"),
        ("connection cost", f"{result['connection_cost']:.2f}"),
    ]


def _strategy(preset: Mapping[str, Any]) -> str:
    named = "" if preset.get("name", "published") == "published" else f", {preset['name']}"
    return (preset["strategy"] if preset["swap_every"] else "no relocation") + named


def _beside(result: Mapping[str, Any], name: str, form: str) -> str:
    published = result["published"].get(name)
    return format(result[name], form) + ("" if published is None else f" (published {published:{form}})")


def structure_rows(structure: Mapping[str, Any], described: Sequence[tuple[str, str]] | None = None) -> list[Row]:
    """What was found: as the experiment describes it, else every figure by its name."""
    if described is None:
        named = {name: value for name, value in structure.items() if name != "found"}
        described = [(name.replace("_", " "), in_words(value)) for name, value in named.items()]
    rows = list(described)
    if "found" in structure:
        rows.append(("structure of the paper found", in_words(structure["found"])))
    return rows


def training_rows(result: Mapping[str, Any]) -> list[Row]:
    """Times and merges; where they were compared, the published loop's time too."""
    relocation, seconds = result["relocation"], result["seconds"]
    rows = [
        ("training", f"{seconds:.1f} s for {result['preset']['steps']} steps, backend {result['backend']}"),
        ("one relocation, mean in training", f"{relocation['milliseconds']:.2f} ms ({relocation['count']} of them)"),
    ]
    if "merges" in result:
        rows.append(("merges of neurons", "{kept} kept of {tried} tried".format(**result["merges"])))
    if "published_milliseconds" in relocation:
        ours, theirs = relocation["greedy_milliseconds"], relocation["published_milliseconds"]
        rows.append(("one relocation, published loop", f"{theirs:.1f} ms against {ours:.2f} ms: {theirs / ours:.0f}x"))
    return rows


def in_words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {in_words(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(in_words, value)) or "-"
    return "-" if value is None else str(value)

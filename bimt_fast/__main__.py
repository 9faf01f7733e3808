"""python -m bimt_fast info | train | sweep | plot | analyse | study | fit | predict"""

import argparse
import copy
import json
import os
import platform
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from . import __version__, _table, backends
from ._figure import check_path
from ._run_report import figure_rows, read_result, training_rows
from .compat import published
from .tasks import PRESETS, TASKS, Task, _analyse, _run, _studies, _sweep
from .train import ABLATIONS, Preset, ablate, read_checkpoint
from .wiring import STRATEGIES, Wiring

_PRESETS = "proximal shrinks weights to exact zeros behind each step; reliable searches for the structure"
_OVERRIDES = "seed", "steps", "strategy", "lam_scale"  # options of train that replace a preset's setting


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            return options.run(options)
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bimt_fast", description="Brain-Inspired Modular Training, fast.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    info = commands.add_parser("info", help="versions, and which backends serve here and why the others do not")
    info.set_defaults(run=_info)
    _add_train(commands.add_parser("train", help="train an experiment; writes result.json, checkpoint and pictures"))
    _add_sweep(commands.add_parser("sweep", help="train experiments with several seeds and ablations; prints a table"))
    _add_plot(commands.add_parser("plot", help="draw all pictures of a finished run again, and its report"))
    _add_fit(commands.add_parser("fit", help="fit a table: a modular network, and a page that shows what it found"))
    _add_predict(commands.add_parser("predict", help="predict by a model that fit saved"))
    _add_analyse(
        commands.add_parser("analyse", help="what the neurons of a trained brain do, and how modular they lie")
    )
    _add_study(
        commands.add_parser("study", help="trained brains: damage, other sheets, side by side, error against wire")
    )
    return parser


def _add_train(run: argparse.ArgumentParser) -> None:
    run.set_defaults(run=_train)
    run.add_argument("task", choices=TASKS)
    run.add_argument("--ablation", choices=ABLATIONS, help="what is left of BIMT (default: bimt, all of it)")
    run.add_argument("--seed", type=int, help="of data, initial weights and batches (default: the preset's)")
    run.add_argument("--steps", type=_positive, help="optimizer steps (default: the preset's)")
    run.add_argument("--strategy", choices=STRATEGIES, help="of relocation (default: the preset's)")
    run.add_argument("--preset", choices=PRESETS, help=f"the settings (default: published); {_PRESETS}")
    run.add_argument("--lam-scale", type=_scale, help="multiplies the strength of the penalty (default: the preset's)")
    run.add_argument("--backend", choices=backends.BACKENDS, help="default: the fastest that serves here")
    run.add_argument("--data", type=Path, metavar="DIR", help="folder of the data, for tasks that read files")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: runs/TASK)")
    run.add_argument(
        "--animate",
        nargs="?",
        type=_positive,
        const=0,
        metavar="EVERY",
        help="record a frame every so many steps (default: a hundredth of them) and draw a GIF of the training",
    )
    run.add_argument(
        "--resume",
        action="store_true",
        help="go on from the checkpoint in the folder, with the settings it was run with",
    )
    run.add_argument(
        "--compare-published", action="store_true", help="time one relocation against the published loop as well"
    )


def _add_sweep(run: argparse.ArgumentParser) -> None:
    run.set_defaults(run=_sweep_tasks)
    run.add_argument("tasks", nargs="+", choices=TASKS, metavar="TASK", help=f"of {', '.join(TASKS)}")
    run.add_argument("--ablations", nargs="+", choices=ABLATIONS, default=list(ABLATIONS), help="default: all")
    run.add_argument("--seeds", type=_numbers, help='"0-4" or "0,7,10-12" (default: 0-4, of the brain 0-2)')
    run.add_argument(
        "--strategies", nargs="+", choices=STRATEGIES, help="of relocation (default: each preset's, of the brain three)"
    )
    run.add_argument(
        "--presets", nargs="+", choices=PRESETS, help=f"default: published, of the brain sweep; {_PRESETS}"
    )
    run.add_argument(
        "--lam-scales",
        nargs="+",
        type=_scale,
        help="multiply the strength of the penalty: a trade-off (default: 1, of the brain five)",
    )
    run.add_argument("--steps", type=_positive, help="optimizer steps (default: each preset's)")
    run.add_argument("--data", type=Path, metavar="DIR", help="folder of the data, for tasks that read files")
    run.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the results")
    run.add_argument("--figure", type=Path, metavar="FILE", help="of the trade-off (default: trade_off.png in --out)")


def _add_plot(run: argparse.ArgumentParser) -> None:
    run.set_defaults(run=_plot)
    run.add_argument("folder", type=Path, metavar="RUN", help="that train wrote: result.json and checkpoint.pt")
    run.add_argument("--data", type=Path, metavar="DIR", help="folder of the data, for tasks that read files")
    run.add_argument("--format", choices=("png", "svg"), default="png", help="of the pictures (default: png)")


def _add_fit(run: argparse.ArgumentParser) -> None:
    run.set_defaults(run=_fit)
    run.add_argument("table", type=Path, help="a CSV file with names in its first line, or a Parquet file")
    run.add_argument("--targets", type=_names, required=True, metavar="NAMES", help="columns to predict: y or y,z")
    run.add_argument("--inputs", type=_names, metavar="NAMES", help="columns to predict from (default: all others)")
    run.add_argument("--classify", action="store_true", help="the target holds classes, not numbers")
    run.add_argument(
        "--budget",
        type=float,
        metavar="SECONDS",
        help="of training, all in all; the page comes on top (default: as long as it takes)",
    )
    run.add_argument("--seeds", type=_positive, default=5, help="networks to choose from (default: 5)")
    run.add_argument("--steps", type=_positive, help="optimizer steps for each (default: the estimator's)")
    run.add_argument(
        "--tolerance", type=float, help="by how much the error may be worse for less wire (default: 0.02 of it)"
    )
    run.add_argument("--hidden", type=_widths, help="neurons of the hidden layers (default: 20,20)")
    run.add_argument("--seed", type=_seed, default=0, help="of everything that is drawn (default: 0)")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: runs/NAME OF THE TABLE)")


def _add_predict(run: argparse.ArgumentParser) -> None:
    run.set_defaults(run=_predict)
    run.add_argument("model", type=Path, help="model.pt of fit")
    run.add_argument("table", type=Path, help="with the columns that the model was fitted to, in any order")
    run.add_argument("--out", type=Path, metavar="FILE", help="CSV file to write (default: to the terminal)")


def _names(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


def _widths(text: str) -> tuple[int, ...]:
    parts = text.split(",")
    if not all(part.strip().isdecimal() and int(part) for part in parts):
        raise argparse.ArgumentTypeError(f"must be whole numbers above 0 such as 20,20, was {text!r}")
    return tuple(map(int, parts))


def _seed(text: str) -> int:
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be from 0 to 2**32 - 1, was {text}")
    return int(text)


def _add_analyse(run: argparse.ArgumentParser) -> None:
    run.set_defaults(run=_analyse_run)
    run.add_argument("task", choices=["brain"])
    run.add_argument("folder", type=Path, metavar="RUN", help="folder of the run, which has its checkpoint")
    run.add_argument("--against", nargs="+", type=Path, default=[], metavar="RUN", help="others, to compare the wire")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the figures (default: RUN/analysis)")


def _add_study(run: argparse.ArgumentParser) -> None:
    run.set_defaults(run=_study)
    run.add_argument("task", choices=["brain"])
    run.add_argument(
        "what",
        choices=_studies.STUDIES,
        help="robustness: noise and removed neurons; resize: the first run's sheet, coarser and finer; compare:"
        " modularity and wiring of each run; trade_off: error against wire",
    )
    run.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folders of runs, which have checkpoints")
    run.add_argument("--steps", type=_positive, default=_studies.RETRAINED, help="of the training behind a resize")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: RUN/study of the first)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, was {value}")
    return value


def _scale(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a number above 0, was {text}")
    return value


def _numbers(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]"""
    found = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise argparse.ArgumentTypeError(f"must be numbers and ranges such as 0-4,7, was {text!r}")
        found += range(int(first), int(last if dash else first) + 1)
    return list(dict.fromkeys(found))


def _info(options: argparse.Namespace) -> int:
    print(f"bimt_fast {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {_run.machine()}")
    for name, able, text in backends.describe():
        serves = f"serves {'GPU' if name in ('cuda', 'triton') else 'CPU'} tensors"
        print(f"backend {name}: {serves if able else 'not available'} ({text})")
    if os.environ.get("BIMT_FAST_BACKEND"):
        print(f"forced by BIMT_FAST_BACKEND: {_run.serving()}")
    return 0


def _train(options: argparse.Namespace) -> int:
    task = TASKS[options.task]
    out = options.out or Path("runs") / task.name
    if options.resume:
        _take_settings_from(read_checkpoint(out / _run.CHECKPOINT)["settings"], options)
    ablation = options.ablation or "bimt"
    changes = {name: getattr(options, name) for name in _OVERRIDES}
    preset = ablate(task.settings(options.preset or "published"), ablation)
    preset = replace(preset, **{k: v for k, v in changes.items() if v is not None})
    try:
        result, model = _run.run(
            task,
            preset,
            out,
            ablation=ablation,
            backend=options.backend,
            folder=options.data,
            resume=options.resume,
            progress=True,
            animate=preset.steps // 100 or 1 if options.animate == 0 else options.animate,
        )
    except KeyboardInterrupt:
        if (out / _run.CHECKPOINT).exists():
            print(f"the same command with --resume goes on from {out / _run.CHECKPOINT}", file=sys.stderr)
        raise
    if options.compare_published:
        result["relocation"] |= _compare_published(model.wiring, preset)
        _run.write_result(out, result)
    _print_table(task, result)
    print(f"written: {out / _run.RESULT}\nwritten: {out / _run.CHECKPOINT}")
    return 0 if _run.draw(task, model, result, out, options.data) else 1


def _plot(options: argparse.Namespace) -> int:
    result = read_result(options.folder)
    state = read_checkpoint(options.folder / _run.CHECKPOINT)
    task = TASKS[result["task"]]
    model = task.make_model(Preset(**state["settings"]["preset"]))
    model.load_state_dict(state["model"])
    return 0 if _run.draw(task, model, result, options.folder, options.data, options.format) else 1


def _take_settings_from(settings: dict[str, Any], options: argparse.Namespace) -> None:
    """What was not asked for is as it was in the run of the checkpoint."""
    for name in ("ablation", "backend", "animate"):
        if getattr(options, name) is None:
            setattr(options, name, settings.get(name))
    before = settings.get("preset", {})
    for name in _OVERRIDES:
        if getattr(options, name) is None:
            setattr(options, name, before.get(name))
    if options.preset is None:
        options.preset = before.get("name")


def _sweep_tasks(options: argparse.Namespace) -> int:
    tasks, results = [TASKS[name] for name in options.tasks], []
    given = {name: getattr(options, name) for name in ("seeds", "strategies", "presets", "lam_scales")}
    given = {name: value for name, value in given.items() if value is not None}
    settings = {task.name: {"seeds": range(5), "presets": ["published"], **task.swept, **given} for task in tasks}
    for task in tasks:
        for name in settings[task.name]["presets"]:
            task.settings(name)  # what an experiment does not have is said before the first runs
    if options.figure is not None:
        with suppress(ImportError):  # of matplotlib: said where nothing can be drawn
            check_path(options.figure)
    for task in tasks:
        results += _sweep.sweep(
            task,
            options.out,
            ablations=options.ablations,
            steps=options.steps,
            folder=options.data,
            progress=True,
            **settings[task.name],
        )
    rows = _sweep.summary(results)
    (options.out / "sweep.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(_sweep.table(rows))
    print(f"written: {options.out / 'sweep.json'}")
    return 0 if _sweep.draw(results, options.figure or options.out / "trade_off.png") else 1


def _fit(options: argparse.Namespace) -> int:
    from . import _report, estimator  # which take a second, with scikit-learn

    out = options.out or Path("runs") / options.table.stem
    columns = _table.read(options.table, text=options.targets if options.classify else ())
    inputs = _table.choose(columns, options.targets, options.inputs)
    x = _table.matrix(columns, inputs)
    if options.classify:
        if len(options.targets) > 1:
            raise ValueError(f"targets must be one column of classes, were {len(options.targets)}")
        (target,) = options.targets
        _table.refuse_bad(target, columns[target], "target", numbers=False)
        kind, y = estimator.BIMTClassifier, _table.classes_of(target, columns[target])
    else:
        kind, y = estimator.BIMTRegressor, _table.matrix(columns, options.targets, "target")
    chosen = {name: getattr(options, name) for name in ("steps", "hidden", "tolerance")}
    given = {name: value for name, value in chosen.items() if value is not None}
    result = _report.fit(
        kind(seeds=options.seeds, budget=options.budget, random_state=options.seed, verbose=True, **given),
        x,
        y,
        inputs,
        options.targets,
        out,
    )
    print("\n".join((*_report.summary(result), f"written: {out / _report.PAGE} and what it shows beside it")))
    return 0


def _predict(options: argparse.Namespace) -> int:
    from . import estimator

    model = estimator.load(options.model)
    columns = _table.read(options.table)
    x = _table.matrix(columns, model.input_names_)
    said = dict(zip(model.target_names_, model.predict_rows(x).reshape(len(x), -1).T, strict=True))
    if model.classifies:
        said |= {f"p({label})": p for label, p in zip(model.classes_, model.probabilities(x).T, strict=True)}
    _table.write(said, options.out)
    return 0


def _show_warning(message: Warning | str, *more: object, **others: object) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _analyse_run(options: argparse.Namespace) -> int:
    out = options.out or options.folder / "analysis"
    found = _analyse.analyse(options.folder, options.against)
    _print_rows(_analyse.table(found.summary))
    _analyse.write(found, out)
    return 0 if _analyse.draw(found, out) else 1


def _study(options: argparse.Namespace) -> int:
    out = options.out or options.folders[0] / "study"
    return 0 if _studies.study(options.what, options.folders, out, options.steps) else 1


def _compare_published(wiring: Wiring, preset: Preset) -> dict[str, float]:
    """Milliseconds of one greedy relocation by the published loop and by ours, medians of interleaved runs."""
    ours, theirs = [], []
    for _ in range(3):
        mine, yours = copy.deepcopy(wiring), copy.deepcopy(wiring)
        optimizer = torch.optim.SGD(mine.model.parameters())
        ours.append(_milliseconds(mine.relocate, "greedy", top_k=preset.top_k, optimizer=optimizer))
        theirs.append(_milliseconds(published.relocate, yours, preset.top_k))
    return {"greedy_milliseconds": median(ours), "published_milliseconds": median(theirs)}


def _milliseconds(function: Callable, *arguments, **named) -> float:
    start = perf_counter()
    function(*arguments, **named)
    return 1e3 * (perf_counter() - start)


def _print_table(task: Task, result: dict) -> None:
    _print_rows([*figure_rows(result), *_run.found(task, result), *training_rows(result)])


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    sys.exit(main())

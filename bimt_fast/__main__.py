"""python -m bimt_fast info | train TASK | sweep TASK... | analyse brain RUN | study brain WHAT RUN..."""

import argparse
import copy
import json
import os
import platform
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch

from . import __version__, backends
from .compat import published
from .tasks import TASKS, Task, _analyse, _run, _studies, _sweep
from .train import ABLATIONS, Preset, ablate, read_checkpoint
from .wiring import STRATEGIES, Wiring


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
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
    _add_analyse(
        commands.add_parser("analyse", help="what the neurons of a trained brain do, and how modular they lie")
    )
    _add_study(commands.add_parser("study", help="what trained brains bear, and what is left of one on another sheet"))
    return parser


def _add_train(run: argparse.ArgumentParser) -> None:
    run.set_defaults(run=_train)
    run.add_argument("task", choices=TASKS)
    run.add_argument("--ablation", choices=ABLATIONS, help="what is left of BIMT (default: bimt, all of it)")
    _add_preset(run)
    run.add_argument("--seed", type=int, help="of data, initial weights and batches (default: the preset's)")
    run.add_argument("--steps", type=_positive, help="optimizer steps (default: the preset's)")
    run.add_argument("--strategy", choices=STRATEGIES, help="of relocation (default: the preset's)")
    run.add_argument(
        "--proximal", action="store_true", default=None, help="exact zeros: shrink weights behind each step"
    )
    run.add_argument("--backend", choices=backends.BACKENDS, help="default: the fastest that serves here")
    run.add_argument("--data", type=Path, metavar="DIR", help="folder of the data, for tasks that read files")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: runs/TASK)")
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
    run.add_argument("--seeds", type=_numbers, default=range(5), help='"0-4" or "0,7,10-12" (default: 0-4)')
    _add_preset(run)
    run.add_argument("--strategies", nargs="+", choices=STRATEGIES, help="of relocation (default: each preset's)")
    run.add_argument("--steps", type=_positive, help="optimizer steps (default: each preset's)")
    run.add_argument("--data", type=Path, metavar="DIR", help="folder of the data, for tasks that read files")
    run.add_argument("--out", type=Path, metavar="DIR", required=True, help="folder for the results")


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
        "what", choices=_studies.STUDIES, help="robustness of all runs, or a resize of the first one's sheet"
    )
    run.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="folders of runs, which have checkpoints")
    run.add_argument("--steps", type=_positive, default=_studies.RETRAINED, help="of the training behind a resize")
    run.add_argument("--out", type=Path, metavar="DIR", help="folder for the results (default: RUN/study of the first)")


def _add_preset(run: argparse.ArgumentParser) -> None:
    named = "; ".join(f"{task.name}: {', '.join(task.more_presets)}" for task in TASKS.values() if task.more_presets)
    run.add_argument("--preset", metavar="NAME", help=f"settings other than the task's own ({named})")


def _with_preset(task: Task, name: str | None) -> Task:
    """The task with a preset of that name as its own."""
    if name is None:
        return task
    if name not in task.more_presets:
        raise ValueError(f"preset of {task.name} must be one of {', '.join(task.more_presets) or '-'}, was {name!r}")
    return replace(task, preset=task.more_presets[name])


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, was {value}")
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
    task = _with_preset(TASKS[options.task], options.preset)
    out = options.out or Path("runs") / task.name
    if options.resume:
        _take_settings_from(read_checkpoint(out / _run.CHECKPOINT)["settings"], options)
    ablation = options.ablation or "bimt"
    changes = {name: getattr(options, name) for name in ("seed", "steps", "strategy", "proximal")}
    preset = replace(ablate(task.preset, ablation), **{k: v for k, v in changes.items() if v is not None})
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
    return 0 if _run.draw(task, model, result, out) else 1


def _take_settings_from(settings: dict[str, Any], options: argparse.Namespace) -> None:
    """What was not asked for is as it was in the run of the checkpoint."""
    for name in ("ablation", "backend"):
        if getattr(options, name) is None:
            setattr(options, name, settings.get(name))
    for name in ("seed", "steps", "strategy", "proximal"):
        if getattr(options, name) is None:
            setattr(options, name, settings.get("preset", {}).get(name))


def _sweep_tasks(options: argparse.Namespace) -> int:
    results, drawn = [], True
    for name in options.tasks:
        task = _with_preset(TASKS[name], options.preset)
        done = _sweep.sweep(
            task,
            options.out,
            ablations=options.ablations,
            seeds=options.seeds,
            strategies=options.strategies,
            steps=options.steps,
            folder=options.data,
            progress=True,
        )
        drawn &= _sweep.draw(task, done, options.out / f"{name}.png")
        results += done
    rows = _sweep.summary(results)
    (options.out / "sweep.json").write_text(json.dumps(rows, indent=2) + "\n")
    print(_sweep.table(rows))
    print(f"written: {options.out / 'sweep.json'}")
    return 0 if drawn else 1


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
    structure, relocation = result["structure"], result["relocation"]
    variant = {"bimt": ""}.get(result["ablation"], f", {result['ablation']}")
    rows = [
        ("seed, strategy", f"{result['preset']['seed']}, {result['preset']['strategy']}{variant}"),
        (
            f"train {task.loss_name} / test {task.loss_name}",
            f"{result['train_loss']:.2e} / {_beside(result, 'test_loss', '.2e')}",
        ),
        ("active connections", "{active} of {of}".format(**result["connections"])),
        ("active hidden neurons", "{active} of {of}".format(**result["neurons"])),
        ("wiring length, sum |w| d", f"{result['wiring_length']:.2f}"),
        ("connection cost", f"{result['connection_cost']:.2f}"),
        *_structure_rows(task, structure),
        ("training", f"{result['seconds']:.1f} s for {result['preset']['steps']} steps, backend {result['backend']}"),
        ("one relocation, mean in training", f"{relocation['milliseconds']:.2f} ms ({relocation['count']} of them)"),
    ]
    if task.classify:
        accuracies = f"{result['train_accuracy']:.4f} / {_beside(result, 'test_accuracy', '.4f')}"
        rows.insert(2, ("train / test accuracy", accuracies))
    if "published_milliseconds" in relocation:
        ours, theirs = relocation["greedy_milliseconds"], relocation["published_milliseconds"]
        rows.append(("one relocation, published loop", f"{theirs:.1f} ms against {ours:.2f} ms: {theirs / ours:.0f}x"))
    _print_rows(rows)


def _print_rows(rows: list[tuple[str, str]]) -> None:
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


def _beside(result: dict, name: str, form: str) -> str:
    published = result["published"].get(name)
    return format(result[name], form) + ("" if published is None else f" (published {published:{form}})")


def _structure_rows(task: Task, structure: dict) -> list[tuple[str, str]]:
    if task.describe is not None:
        rows = list(task.describe(structure))
    else:
        rows = [(name.replace("_", " "), _in_words(value)) for name, value in structure.items() if name != "found"]
    if "found" in structure:
        rows.append(("structure of the paper found", _in_words(structure["found"])))
    return rows


def _in_words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_in_words(inner)}" for name, inner in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(map(_in_words, value)) or "-"
    return "-" if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main())

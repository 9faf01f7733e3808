"""python -m bimt_fast info | train TASK"""

import argparse
import copy
import dataclasses
import json
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import torch

from . import __version__, backends, plot
from .compat import published
from .tasks import ACTIVE, TASKS, Data, Task
from .train import History, Preset, train
from .wiring import STRATEGIES, Wiring


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except (OSError, ValueError, RuntimeError) as error:
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
    run = commands.add_parser("train", help="train an experiment; writes result.json and network.png")
    run.set_defaults(run=_train)
    run.add_argument("task", choices=TASKS)
    run.add_argument("--seed", type=int, help="of data and initial weights (default: the preset's)")
    run.add_argument("--steps", type=_positive, help="optimizer steps (default: the preset's)")
    run.add_argument("--strategy", choices=STRATEGIES, help="of relocation (default: the preset's)")
    run.add_argument("--out", type=Path, help="folder for the results (default: runs/TASK)")
    run.add_argument(
        "--compare-published", action="store_true", help="time one relocation against the published loop as well"
    )
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, was {value}")
    return value


def _info(options: argparse.Namespace) -> int:
    print(f"bimt_fast {__version__}, torch {torch.__version__}, Python {platform.python_version()}, {_machine()}")
    for name, able, text in backends.describe():
        serves = f"serves {'GPU' if name in ('cuda', 'triton') else 'CPU'} tensors"
        print(f"backend {name}: {serves if able else 'not available'} ({text})")
    if os.environ.get("BIMT_FAST_BACKEND"):
        print(f"forced by BIMT_FAST_BACKEND: {backends.kernels(torch.device('cpu')).__name__.rpartition('.')[2]}")
    return 0


def _machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"


def _train(options: argparse.Namespace) -> int:
    task = TASKS[options.task]
    changes = {name: getattr(options, name) for name in ("seed", "steps", "strategy")}
    preset = dataclasses.replace(task.preset, **{k: v for k, v in changes.items() if v is not None})
    out = options.out or Path("runs") / task.name
    out.mkdir(parents=True, exist_ok=True)
    data = task.make_data(preset.seed)
    torch.manual_seed(preset.seed)
    model = task.make_model(preset)
    history = train(
        model,
        model.wiring,
        lambda network: task.loss(network(data.train_x), data.train_y),
        preset,
        progress=True,
    )
    result = _result(task, preset, model, data, history)
    if options.compare_published:
        result["relocation"] |= _compare_published(model.wiring, preset)
    (out / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    _print_table(result)
    print(f"written: {out / 'result.json'}")
    return _draw(task, model, out / "network.png")


@torch.no_grad()
def _result(task: Task, preset: Preset, model: torch.nn.Module, data: Data, history: History) -> dict:
    wiring = model.wiring
    weights = {name: model.get_parameter(name) for name in wiring.connections}
    active = {name: w.abs() > ACTIVE for name, w in weights.items()}
    return {
        "task": task.name,
        "preset": dataclasses.asdict(preset),
        "versions": {"bimt_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": f"{_machine()}, {torch.get_num_threads()} threads",
        "backend": backends.kernels(torch.device("cpu")).__name__.rpartition(".")[2],
        "train_loss": task.loss(model(data.train_x), data.train_y).item(),
        "test_loss": task.loss(model(data.test_x), data.test_y).item(),
        "connection_cost": wiring.cost().item(),
        "connections": {
            "active": sum(int(a.sum()) for a in active.values()),
            "of": sum(a.numel() for a in active.values()),
        },
        "neurons": _active_neurons(wiring, active),
        "wiring_length": wiring.length().total,
        "structure": task.structure(model, data),
        "seconds": history.seconds,
        "relocation": {
            "count": history.relocations,
            "swaps": history.swaps,
            "milliseconds": 1e3 * history.relocation_seconds / max(history.relocations, 1),
        },
        "history": {"columns": ["step", "loss", "cost", "lam"], "rows": history.rows},
    }


def _active_neurons(wiring: Wiring, active: dict[str, torch.Tensor]) -> dict[str, int]:
    """Hidden neurons with an active connection on both sides."""
    alive = {group: torch.ones(len(wiring.slots(group)), dtype=torch.bool) for group in wiring.inner_groups}
    for group, neurons in alive.items():
        for name, groups in wiring.connections.items():
            if group in groups:
                neurons &= active[name].any(1 - groups.index(group))
    return {"active": sum(int(a.sum()) for a in alive.values()), "of": sum(len(a) for a in alive.values())}


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


def _draw(task: Task, model: torch.nn.Module, path: Path) -> int:
    try:
        plot.network(model.wiring, labels=task.labels, path=path)
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return 1
    print(f"written: {path}")
    return 0


def _print_table(result: dict) -> None:
    structure, relocation = result["structure"], result["relocation"]
    correlations = ", ".join(f"{name} {r:.4f}" for name, r in structure["correlations"].items())
    rows = [
        ("seed, strategy", f"{result['preset']['seed']}, {result['preset']['strategy']}"),
        ("train MSE / test MSE", f"{result['train_loss']:.2e} / {result['test_loss']:.2e}"),
        ("active connections", "{active} of {of}".format(**result["connections"])),
        ("active hidden neurons", "{active} of {of}".format(**result["neurons"])),
        ("wiring length, sum |w| d", f"{result['wiring_length']:.2f}"),
        ("connection cost", f"{result['connection_cost']:.2f}"),
        ("last hidden layer", f"{structure['active']} active neurons; |r| with {correlations}"),
        ("two parts, nothing shared", "yes" if structure["parts_separate"] else "no"),
        ("structure of the paper found", "yes" if structure["found"] else "no"),
        ("training", f"{result['seconds']:.1f} s for {result['preset']['steps']} steps, backend {result['backend']}"),
        ("one relocation, mean in training", f"{relocation['milliseconds']:.2f} ms ({relocation['count']} of them)"),
    ]
    if "published_milliseconds" in relocation:
        ours, theirs = relocation["greedy_milliseconds"], relocation["published_milliseconds"]
        rows.append(("one relocation, published loop", f"{theirs:.1f} ms against {ours:.2f} ms: {theirs / ours:.0f}x"))
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"{name:<{width}}  {value}")


if __name__ == "__main__":
    sys.exit(main())

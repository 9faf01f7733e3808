"""One run of an experiment: data, model, training, and the folder that holds what came of it."""

import json
import os
import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .. import backends, plot
from .._figure import save_figure
from .._run_report import structure_rows
from ..train import Checkpoint, History, Preset, Recorder, train
from ..wiring import Wiring
from ._task import ACTIVE, Data, Task, accuracy, predict

RESULT, CHECKPOINT, FRAMES = "result.json", "checkpoint.pt", "frames.bin"


def run(
    task: Task,
    preset: Preset,
    out: Path,
    *,
    ablation: str = "bimt",
    backend: str | None = None,
    folder: Path | None = None,
    resume: bool = False,
    progress: bool = False,
    animate: int | None = None,
) -> tuple[dict[str, Any], nn.Module]:
    """Trains an experiment; writes checkpoint and result.json.

    Args:
        task, preset: the preset as it is to be run, ablated or not.
        out: folder for the files; made if it is missing.
        ablation: its name, for the result.
        backend: forces one.
        folder: of the data, for tasks that read files.
        resume: goes on from the checkpoint in `out`.
        progress: shows a bar.
        animate: steps between frames of an animation; None: none are recorded.

    Returns:
        What result.json holds, and the model.

    Raises:
        ValueError: the checkpoint is of another run, a folder for a task that reads no files.
        OSError: files cannot be read or written.
        RuntimeError: the backend cannot serve.
        KeyboardInterrupt: after the checkpoint is written.
    """
    if folder is not None and not task.reads_files:
        raise ValueError(f"a folder of data was given, and {task.name} makes its own")
    with backends.backend(backend) if backend else nullcontext():
        out.mkdir(parents=True, exist_ok=True)
        data = load_data(task, preset, folder)
        if not resume:
            for name in (RESULT, FRAMES, "animation.gif", "report.html"):
                (out / name).unlink(missing_ok=True)  # of an earlier run
        torch.manual_seed(preset.seed)
        model = task.make_model(preset)
        settings = {"task": task.name, "ablation": ablation, "backend": serving(), "preset": asdict(preset)}
        settings |= {} if animate is None else {"animate": animate}
        loss = task_loss(task, data, preset.batch)
        history = train(
            model,
            model.wiring,
            loss,
            preset,
            progress=progress,
            inputs=data.train_x if preset.batch is None else None,
            figures=getattr(loss, "figures", None),
            checkpoint=Checkpoint(out / CHECKPOINT, settings),
            resume=resume,
            recorder=None if animate is None else Recorder(out / FRAMES, animate),
        )
        result = figures(task, preset, model, data, history, ablation)
    write_result(out, result)
    return result, model


def load_data(task: Task, preset: Preset, folder: Path | None = None) -> Data:
    """Of the preset's seed and dtype; the folder is for tasks that read files."""
    data = task.make_data(preset.seed, folder) if task.reads_files else task.make_data(preset.seed)
    return data.to(preset.wiring["dtype"])


def task_loss(task: Task, data: Data, batch: int | None) -> Callable[[nn.Module], Tensor]:
    """The loss on all training points, on a batch of them that torch's global generator draws, or on a fresh one."""
    if task.make_batch is not None:
        return _FreshBatches(task, batch)
    x, y, loss = data.train_x, data.train_y, task.loss
    if batch is None:
        return lambda model: loss(model(x), y)

    def of_batch(model: nn.Module) -> Tensor:
        rows = torch.randint(len(x), (batch,))
        return loss(model(x[rows]), y[rows])

    return of_batch


class _FreshBatches:
    """The loss on a batch that is made for each step; `figures` of the last one."""

    def __init__(self, task: Task, batch: int) -> None:
        self.task, self.batch = task, batch

    def __call__(self, model: nn.Module) -> Tensor:
        x, y = self.task.make_batch(self.batch)
        prediction = model(x.to(next(model.parameters()).dtype))
        self.last = x, y, prediction.detach()
        return self.task.loss(prediction, y)

    def figures(self) -> Mapping[str, float]:
        return self.task.shown(*self.last)


def serving() -> str:
    """The backend that serves CPU tensors."""
    return backends.kernels(torch.device("cpu")).__name__.rpartition(".")[2]


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs"


@torch.no_grad()
def figures(
    task: Task, preset: Preset, model: nn.Module, data: Data, history: History, ablation: str = "bimt"
) -> dict[str, Any]:
    """Settings, versions, figures and times of a finished run, as result.json holds them.

    `connections` and `neurons` count |w| > 0.05; a hidden neuron is active with such a connection on both sides, the
    folds of its connections added up.
    """
    from .. import __version__

    wiring = model.wiring
    weights = [model.get_parameter(name) for name in wiring.connections]
    sides = {"train": (predict(model, data.train_x), data.train_y), "test": (predict(model, data.test_x), data.test_y)}
    return {
        "task": task.name,
        "ablation": ablation,
        "preset": asdict(preset),
        "versions": {"bimt_fast": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": f"{machine()}, {torch.get_num_threads()} threads",
        "backend": serving(),
        "loss": task.loss_name,
        **{f"{side}_loss": task.loss(*both).item() for side, both in sides.items()},
        **({f"{side}_accuracy": accuracy(*both) for side, both in sides.items()} if task.classify else {}),
        "published": dict(task.published),
        "connection_cost": wiring.cost().item(),
        "connections": {
            "active": sum(int((w.abs() > ACTIVE).sum()) for w in weights),
            "of": sum(w.numel() for w in weights),
        },
        "neurons": _active_neurons(wiring),
        "wiring_length": wiring.length().total,
        "structure": task.structure(model, data),
        "seconds": history.seconds,
        "relocation": {
            "count": history.relocations,
            "swaps": history.swaps,
            "milliseconds": 1e3 * history.relocation_seconds / max(history.relocations, 1),
        },
        **({} if preset.merge is None else {"merges": {"tried": history.merges_tried, "kept": history.merges_kept}}),
        "history": {"columns": ["step", "loss", "cost", "lam"], "rows": [list(row) for row in history.rows]},
    }


def _active_neurons(wiring: Wiring) -> dict[str, int]:
    sides = {g: [torch.zeros(len(wiring.slots(g)), dtype=torch.bool) for _ in range(2)] for g in wiring.inner_groups}
    for part in wiring.parts():
        active = part.weight.abs() > ACTIVE
        for side, group in enumerate((part.out, part.source)):
            if group in sides:
                sides[group][side] |= active.any(1 - side)
    alive = [incoming & outgoing for incoming, outgoing in sides.values()]
    return {"active": sum(int(a.sum()) for a in alive), "of": sum(len(a) for a in alive)}


def write_result(out: Path, result: Mapping[str, Any]) -> None:
    """Replaces result.json at once, so that the file is there in whole or not at all."""
    new = out / f"{RESULT}.new"
    new.write_text(json.dumps(result, indent=2) + "\n")
    os.replace(new, out / RESULT)


def draw(
    task: Task,
    model: nn.Module,
    result: Mapping[str, Any],
    out: Path,
    folder: Path | None = None,
    kind: str = "png",
) -> bool:
    """All pictures of a finished run and report.html; says what was written, or why nothing was.

    Args:
        task, model, result: of the run.
        out: its folder.
        folder: of the data, for tasks that read files.
        kind: of the pictures, "png" or "svg".
    """
    try:
        pictures = []
        for path in _draw_pictures(task, model, result, out, folder, kind):
            print(f"written: {path}")
            pictures.append(path)
        print(f"written: {plot.report(out, found=found(task, result), pictures=pictures)}")
    except ImportError as error:
        print(f"no picture: {error}", file=sys.stderr)
        return False
    return True


def _draw_pictures(task, model, result, out: Path, folder: Path | None, kind: str) -> Iterator[Path]:
    model = model if task.drawn is None else task.drawn(model)
    if task.pictures is None:
        drawn = {"network": plot.network(model.wiring, labels=task.labels, groups=task.layers).figure}
    else:
        drawn = task.pictures(model, load_data(task, Preset(**result["preset"]), folder))
    drawn["loss"] = plot.loss_curve(result["history"]["rows"], loss_name=task.loss_name).figure
    for name, figure in drawn.items():
        save_figure(figure, out / f"{name}.{kind}")
        yield out / f"{name}.{kind}"
    if (out / FRAMES).exists():
        options = {"labels": task.labels, "groups": task.layers, "loss_name": task.loss_name}
        plot.animation(model.wiring, out / FRAMES, out / "animation.gif", **options)
        yield out / "animation.gif"


def found(task: Task, result: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The structure that was found, in the experiment's words."""
    structure = result["structure"]
    return structure_rows(structure, None if task.describe is None else task.describe(structure))

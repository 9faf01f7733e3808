"""The training loop: loss, penalty, schedules, relocation, progress."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from .optim import AdamW
from .wiring import Wiring

_SMALL_NETWORK = 20_000  # parameters

Schedule = tuple[tuple[float, Any], ...]  # ((fraction of the steps from which it holds, value), ...), first at 0


@dataclass(frozen=True)
class Preset:
    """The settings of one experiment; every field can be overridden with dataclasses.replace.

    Attributes:
        shape: widths of the network.
        steps: optimizer steps.
        lr: learning rate of AdamW, without weight decay.
        lam: strength of the penalty, by fraction of the steps.
        bias: whether biases are charged, by fraction of the steps.
        base_length, distance_scale: of the wiring.
        swap_every: steps between relocations.
        strategy, top_k: of Wiring.relocate; top_k is for greedy only.
        seed: of data and initial weights.
    """

    shape: tuple[int, ...]
    steps: int
    lr: float
    lam: Schedule
    bias: Schedule
    base_length: float
    distance_scale: float
    swap_every: int
    strategy: str = "greedy"
    top_k: int | None = None
    seed: int = 0


@dataclass
class History:
    """What happened, every `every` steps: step, loss, cost (without lam), lam; and the time it took."""

    every: int
    rows: list[tuple[int, float, float, float]] = field(default_factory=list)
    relocations: int = 0
    swaps: int = 0
    seconds: float = 0.0
    relocation_seconds: float = 0.0


def value_at(schedule: Schedule, fraction: float) -> Any:
    """The schedule's value at a fraction of the steps in [0, 1)."""
    return [value for start, value in schedule if start <= fraction][-1]


def train(
    model: nn.Module,
    wiring: Wiring,
    loss: Callable[[nn.Module], Tensor],
    preset: Preset,
    *,
    progress: bool = False,
    every: int = 100,
) -> History:
    """Trains a model by AdamW on loss(model) + lam * connection cost, with a relocation every so many steps.

    Args:
        model: changed in place.
        wiring: of the model.
        loss: gives the differentiable task loss, a 0-d tensor.
        preset: its shape and seed are the caller's business, all else is used here.
        progress: shows a bar (tqdm, if installed).
        every: steps between rows of the history.

    Returns:
        History. KeyboardInterrupt passes through; a relocation that it interrupts is undone.
    """
    with _threads_for(model), _progress_bar(preset.steps, progress) as bar:
        return _run(model, wiring, loss, preset, every, bar)


def _run(model, wiring, loss, preset, every, bar) -> History:
    optimizer = AdamW(wiring, model.parameters(), lr=preset.lr)
    parameters = list(model.parameters())
    top_k = preset.top_k if preset.strategy == "greedy" else None
    history = History(every)
    start = perf_counter()
    for step in range(preset.steps):
        lam = value_at(preset.lam, step / preset.steps)
        for group in optimizer.param_groups:
            group["lam"], group["bias"] = lam, value_at(preset.bias, step / preset.steps)
        for p in parameters:
            p.grad = None
        value = loss(model)
        value.backward()
        optimizer.update()
        if (step + 1) % preset.swap_every == 0:
            report = wiring.relocate(preset.strategy, top_k=top_k)
            history.relocations += 1
            history.swaps += report.swaps
            history.relocation_seconds += report.seconds
        if step % every == 0 or step == preset.steps - 1:
            cost = optimizer.cost.item()
            history.rows.append((step, value.item(), cost, lam))
            bar(step + 1, loss=value.item(), cost=cost)
    history.seconds = perf_counter() - start
    return history


@contextmanager
def _threads_for(model: nn.Module) -> Iterator[None]:
    """One thread for a small network: waking a second one costs more than the work it takes over."""
    before = torch.get_num_threads()
    if sum(p.numel() for p in model.parameters()) < _SMALL_NETWORK:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _progress_bar(steps: int, wanted: bool) -> Iterator[Callable]:
    """A function (steps done, figures by name) that shows them; silent where not wanted or tqdm is missing."""
    try:
        from tqdm import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        yield lambda done, **figures: None
        return
    with tqdm(total=steps, unit="step") as bar:

        def show(done: int, **figures: float) -> None:
            bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items()}, refresh=False)
            bar.update(done - bar.n)

        yield show

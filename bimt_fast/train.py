"""The training loop: loss, penalty, schedules, relocation, merges, pruning, checkpoints, progress."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from ._frames import Recorder
from .merging import THRESHOLD, MergeSearch, mergeable, prune_
from .optim import AdamW
from .thinning import Thinning
from .wiring import Wiring

_SMALL_NETWORK = 50_000  # parameters
_CHECKPOINT_SECONDS = 60.0

Schedule = tuple[tuple[float, Any], ...]  # ((fraction of the steps from which it holds, value), ...), first at 0


@dataclass(frozen=True)
class Preset:
    """The settings of one experiment; every field can be overridden with dataclasses.replace.

    Attributes:
        shape: widths of the network.
        steps: optimizer steps.
        lr: learning rate of AdamW, without weight decay; by fraction of the steps where it changes.
        lam: strength of the penalty, by fraction of the steps.
        smooth: whether lr and lam go from one value to the next geometrically, not in one step.
        bias: whether biases are charged, by fraction of the steps.
        base_length, distance_scale: of the wiring.
        swap_every: steps between relocations; None: none.
        strategy, top_k: of Wiring.relocate; top_k is for greedy only.
        seed: of data, initial weights and batches.
        batch: training points a step, drawn with replacement; None: all of them.
        reduction: of the wiring.
        dtype: of parameters and data, by its name in torch.
        penalty_scale: distance_scale in the penalty where it is not the wiring's own.
        proximal: whether the penalty shrinks weights behind the step, see bimt_fast.optim.AdamW.
        lam_scale: multiplies lam throughout; a trade-off between loss and wiring runs through several of them.
        merge: between which fractions of the steps merges of neurons are tried, see bimt_fast.merging; None: nowhere.
        merge_every: steps after which a merge on trial is judged.
        prune_from: fraction of the steps from which connections of |w| <= 0.05 are zero and stay zero, but for the
            largest of each tensor; several: again at each. In a bimt_fast.nn.BioMLP neurons that then carry nothing
            lose all connections, in a BioRNN those that the output does not hear. None: never.
        thin: (start, end, neurons): between these fractions of the steps, 0 <= start < end <= 1, neurons of a
            bimt_fast.nn.BioRNN are removed, those that the loss depends on least first, until at most so many are
            left, see bimt_fast.thinning. None: nowhere.
        name: of the settings: published, or what was made of them.
        clip: largest norm of the task's gradient, which is scaled down to it; None: no limit.
    """

    shape: tuple[int, ...]
    steps: int
    lr: float | Schedule
    lam: Schedule
    bias: Schedule
    base_length: float
    distance_scale: float | Mapping[str | None, float]
    swap_every: int | None
    strategy: str = "greedy"
    top_k: int | None = None
    seed: int = 0
    batch: int | None = None
    reduction: str = "sum"
    dtype: str = "float32"
    penalty_scale: float | None = None
    proximal: bool = False
    lam_scale: float = 1.0
    smooth: bool = False
    merge: tuple[float, float] | None = None
    merge_every: int = 500
    prune_from: float | Sequence[float] | None = None
    thin: tuple[float, float, int] | None = None
    name: str = "published"
    clip: float | None = None

    @property
    def wiring(self) -> dict[str, Any]:
        """The settings of the wiring, as a model takes them, and the dtype."""
        return {
            "base_length": self.base_length,
            "distance_scale": self.distance_scale,
            "reduction": self.reduction,
            "dtype": getattr(torch, self.dtype),
        }


# What an ablation changes of a preset. Where it swaps, relocation always minimises the wiring's own cost.
ABLATIONS: dict[str, dict[str, Any]] = {
    "none": {
        "lam": ((0.0, 0.0),),
        "lam_scale": 1.0,
        "proximal": False,
        "swap_every": None,
        "merge": None,
        "prune_from": None,
        "thin": None,
    },
    "l1": {"penalty_scale": 0.0, "swap_every": None},
    "l1+local": {"swap_every": None},
    "l1+swap": {"penalty_scale": 0.0},
    "bimt": {},
}


def ablate(preset: Preset, ablation: str) -> Preset:
    """The preset without some of BIMT's parts.

    Args:
        preset: of an experiment.
        ablation: "none" (no penalty), "l1" (its strength, without distances), "l1+local" (with distances, no swaps),
            "l1+swap" (swaps that shorten the wiring, a penalty without distances), "bimt" (as it is).

    Raises:
        ValueError: no ablation has that name.

    Source: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), section 3.
    """
    if ablation not in ABLATIONS:
        raise ValueError(f"ablation must be one of {', '.join(ABLATIONS)}, was {ablation!r}")
    return replace(preset, **ABLATIONS[ablation])


@dataclass
class History:
    """What happened, every `every` steps: step, loss, cost (without lam), lam; and the time it took."""

    every: int
    rows: list[tuple[int, float, float, float]] = field(default_factory=list)
    relocations: int = 0
    swaps: int = 0
    seconds: float = 0.0
    relocation_seconds: float = 0.0
    merges_tried: int = 0
    merges_kept: int = 0


def value_at(schedule: Schedule, fraction: float, smooth: bool = False) -> Any:
    """The schedule's value at a fraction of the steps in [0, 1]; smooth: on the geometric way to the next one."""
    start, value = [point for point in schedule if point[0] <= fraction][-1]
    later = [point for point in schedule if point[0] > fraction]
    if not smooth or not later:
        return value
    end, target = later[0]
    return value * (target / value) ** ((fraction - start) / (end - start))


def reliable(preset: Preset) -> Preset:
    """The recipe that finds the structure most often, for the same network, data and number of steps.

    Almost half of the steps: lam rises to the strongest of the preset, biases free, exact relocation. Then biases cost
    too, and neurons are merged at half of that lam (bimt_fast.merging). At last small connections are pruned, and the
    rest is trained while lam falls, biases free again.

    Args:
        preset: of a bimt_fast.nn.BioMLP that is trained on all points at each step.
    """
    strongest = max(value for _, value in preset.lam)
    merging, weak = strongest / 2, strongest / 10
    return replace(
        preset,
        name="reliable",
        lam=(
            (0.0, weak),
            (0.35, strongest),
            (0.42, strongest),
            (0.45, merging),
            (0.85, merging),
            (0.9, weak),
            (1.0, weak / 100),
        ),
        lr=((0.0, preset.lr), (0.95, preset.lr), (1.0, preset.lr / 4)),
        smooth=True,
        bias=((0.0, False), (0.45, True), (0.9, False)),
        strategy="assignment",
        merge=(0.5, 0.85),
        prune_from=0.85,
    )


def train(
    model: nn.Module,
    wiring: Wiring,
    loss: Callable[[nn.Module], Tensor],
    preset: Preset,
    *,
    progress: bool = False,
    every: int = 100,
    inputs: Tensor | None = None,
    figures: Callable[[], Mapping[str, float]] | None = None,
    checkpoint: "Checkpoint | None" = None,
    resume: bool = False,
    recorder: Recorder | None = None,
) -> History:
    """Trains a model by AdamW on loss(model) + lam * connection cost, with a relocation every so many steps.

    Args:
        model: changed in place.
        wiring: of the model.
        loss: gives the differentiable task loss, a 0-d tensor. What it draws must come from torch's global generator,
            whose state is in the checkpoint, or from that of the parameters' CUDA device.
        preset: its shape and seed are the caller's business, all else is used here.
        progress: shows a bar (tqdm, if installed).
        every: steps between rows of the history.
        inputs: that merges are judged by, as the model takes them; needed where the preset merges, and loss has to be
            the same function at each step then.
        figures: gives more figures by name for the bar, behind the step in hand.
        checkpoint: where to keep the state: about once a minute, at the end, and on Ctrl-C.
        resume: goes on from the checkpoint, to the same bits as a run that was never interrupted.
        recorder: of frames for an animation; it goes on where the checkpoint does.

    Returns:
        History. KeyboardInterrupt passes through: with a checkpoint after the step in hand, which is then saved (a
        second Ctrl-C at once), else where it falls; a relocation that it interrupts is undone.

    Raises:
        TypeError: neurons of the model are to be merged or removed and cannot, see bimt_fast.merging and .thinning.
        ValueError: resume without a checkpoint, the checkpoint is of another run, merges without inputs, or a number of
            the preset's thin is out of its range.
        OSError: there is no checkpoint to resume, or it cannot be written.
    """
    if resume and checkpoint is None:
        raise ValueError("resume needs a checkpoint, was given none")
    if preset.merge is not None and inputs is None:
        raise ValueError("inputs must be given where the preset merges neurons, were None")
    run = _Run(model, wiring, loss, preset, History(every), inputs, recorder, figures)
    try:
        if resume:
            run.load(checkpoint.load())
        elif recorder is not None:
            recorder.start(wiring)
        with _threads_for(model), _progress_bar(preset.steps, run.step, progress) as bar:
            if checkpoint is None:
                run.go(bar)
            else:
                _go_and_save(run, bar, checkpoint)
    finally:
        run.skip_unheard(False)
    return run.history


class _Run:
    """A training run between two steps."""

    def __init__(
        self,
        model: nn.Module,
        wiring: Wiring,
        loss: Callable[[nn.Module], Tensor],
        preset: Preset,
        history: History,
        inputs: Tensor | None,
        recorder: Recorder | None,
        figures: Callable[[], Mapping[str, float]] | None,
    ) -> None:
        self.model, self.wiring, self.loss, self.preset, self.history = model, wiring, loss, preset, history
        self.recorder = recorder
        self.device = next(model.parameters()).device
        self.figures = figures or dict
        scale = {"distance_scale": preset.penalty_scale, "proximal": preset.proximal}
        self.optimizer = AdamW(wiring, model.parameters(), **scale)
        self.search = None
        if preset.merge is not None:
            self.search = MergeSearch(model, self.optimizer, inputs, self.objective, recorder)
        pruned = preset.prune_from
        fractions = () if pruned is None else pruned if isinstance(pruned, Sequence) else (pruned,)
        self.prune_at = {round(fraction * preset.steps) for fraction in fractions}
        self.zeros_stay_from = self.skip_from = min(self.prune_at, default=preset.steps)
        self.thinning = None
        if preset.thin is not None:
            self.thinning = Thinning(model, *preset.thin, preset.steps)
            self.skip_from = min(self.skip_from, self.thinning.first)
        self.step = 0

    @torch.no_grad()
    def objective(self) -> float:
        """The loss and the penalty as they are charged now."""
        charged = self.optimizer.param_groups[0]
        cost = self.wiring.cost(charged["bias"], charged["distance_scale"])
        return self.loss(self.model).item() + charged["lam"] * cost.item()

    def go(self, bar: Callable, after_step: Callable[[], None] | None = None) -> None:
        """All steps that are left."""
        preset, history, optimizer, wiring = self.preset, self.history, self.optimizer, self.wiring
        recorder, thinning = self.recorder, self.thinning
        model, loss, every = self.model, self.loss, self.history.every
        parameters = list(model.parameters())
        wired = [p for name, p in model.named_parameters() if name in wiring.axes]
        top_k = preset.top_k if preset.strategy == "greedy" else None
        start = perf_counter() - history.seconds
        for step in range(self.step, preset.steps):
            lam = self.set_schedules(step / preset.steps)
            if step == self.skip_from:
                self.skip_unheard(True)
            if thinning is not None and step in thinning.stages and thinning.remove(step):
                optimizer.state.clear()  # moments would move the connections that are gone
            if step in self.prune_at:
                self.prune()
            for p in parameters:
                p.grad = None
            value = loss(model)
            value.backward()
            if thinning is not None and thinning.first <= step < thinning.stages[-1]:
                thinning.observe()
            if step >= self.zeros_stay_from:
                for p in wired:
                    p.grad.mul_(p.detach() != 0)
            if preset.clip is not None:
                nn.utils.clip_grad_norm_(parameters, preset.clip)
            optimizer.update()
            if preset.swap_every and (step + 1) % preset.swap_every == 0:
                report = wiring.relocate(preset.strategy, top_k=top_k)
                history.relocations += 1
                history.swaps += report.swaps
                history.relocation_seconds += report.seconds
                if recorder is not None:
                    recorder.follow(report)
            if self.search is not None:
                self.search_merges(step + 1)
            last = step == preset.steps - 1
            if step % every == 0 or last:
                cost = optimizer.cost.item()
                history.rows.append((step, value.item(), cost, lam))
                bar(step + 1, loss=value.item(), cost=cost, **self.figures())
            if recorder is not None and (step % recorder.every == 0 or last):
                recorder.add(step, value.item(), optimizer.cost.item(), lam)
            self.step = step + 1
            if after_step is not None:
                history.seconds = perf_counter() - start
                after_step()
        history.seconds = perf_counter() - start

    def set_schedules(self, fraction: float) -> float:
        """Puts lr, lam and the charge on biases into the optimizer; returns lam."""
        preset = self.preset
        lr = value_at(preset.lr, fraction, preset.smooth) if isinstance(preset.lr, Sequence) else preset.lr
        lam = preset.lam_scale * value_at(preset.lam, fraction, preset.smooth)
        for group in self.optimizer.param_groups:
            group["lr"], group["lam"], group["bias"] = lr, lam, value_at(preset.bias, fraction)
        return lam

    def prune(self) -> None:
        if mergeable(self.model):
            prune_(self.model)
        else:
            self.wiring.prune_(THRESHOLD)
            if hasattr(self.model, "silence_unheard_"):
                self.model.silence_unheard_()
        self.optimizer.state.clear()

    def skip_unheard(self, skip: bool) -> None:
        """Whether a bimt_fast.nn.BioRNN leaves out what the output does not hear, which then gets no gradient."""
        if hasattr(self.model, "only_heard"):
            self.model.only_heard = skip

    def search_merges(self, done: int) -> None:
        """Between steps, of which so many are done."""
        every = self.preset.merge_every
        start, end = (round(fraction * self.preset.steps) for fraction in self.preset.merge)
        if start <= done <= end and (done - start) % every == 0:
            self.search.step(last=done + every > end)
            self.history.merges_tried, self.history.merges_kept = self.search.tried, self.search.kept

    def state(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "model": self.model.state_dict(),
            "wiring": {"permutations": self.wiring.permutations()},
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            **({"random_cuda": torch.cuda.get_rng_state(self.device)} if self.device.type == "cuda" else {}),
            "history": asdict(self.history),
            **({} if self.search is None else {"search": self.search.state_dict()}),
            **({} if self.thinning is None else {"relevance": self.thinning.relevance}),
            **({} if self.recorder is None else {"slots": self.recorder.slots}),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.wiring.load_permutations(state["wiring"]["permutations"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        if "random_cuda" in state:
            torch.cuda.set_rng_state(state["random_cuda"], self.device)
        self.history = History(**state["history"])
        self.step = state["step"]
        self.skip_unheard(self.step > self.skip_from)
        if self.thinning is not None:
            self.thinning.relevance.copy_(state["relevance"])
        if self.search is not None:
            self.search.load_state_dict(state["search"])
        if self.recorder is not None:
            self.recorder.start(self.wiring, self.step, state.get("slots"))


def _go_and_save(run: _Run, bar: Callable, checkpoint: "Checkpoint") -> None:
    saved = perf_counter()
    with _interrupts_noted() as interrupted:

        def after_step() -> None:
            nonlocal saved
            if interrupted():
                checkpoint.save(run.state())
                raise KeyboardInterrupt
            if perf_counter() - saved > _CHECKPOINT_SECONDS:
                checkpoint.save(run.state())
                saved = perf_counter()

        run.go(bar, after_step)
        checkpoint.save(run.state())
        if interrupted():
            raise KeyboardInterrupt


@dataclass(frozen=True)
class Checkpoint:
    """A file that holds the state of a training run.

    Attributes:
        path: of the file.
        settings: what tells this run from others, plain data; "task" and "preset", say.
    """

    path: Path
    settings: Mapping[str, Any]

    def save(self, state: Mapping[str, Any]) -> None:
        """Replaces the file at once: whoever is interrupted meanwhile finds the old one."""
        beside = self.path.with_name(self.path.name + ".new")
        torch.save({"settings": dict(self.settings), **state}, beside)
        os.replace(beside, self.path)

    def load(self) -> dict[str, Any]:
        """The state that was saved.

        Raises:
            FileNotFoundError: there is none.
            ValueError: the file is no checkpoint, or of a run with other settings.
        """
        state = read_checkpoint(self.path)
        of, asked = _flat(state["settings"]), _flat(self.settings)
        for key in {**asked, **of}:
            if of.get(key) != asked.get(key):
                raise ValueError(
                    f"the checkpoint {self.path} is of a run with {key} {of.get(key)!r}, asked for {asked.get(key)!r}"
                )
        return state


def read_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds: settings, step, model, optimizer, history and more.

    Raises:
        FileNotFoundError: there is none.
        ValueError: the file is no checkpoint.
    """
    if not path.exists():
        raise FileNotFoundError(f"there is no checkpoint {path}")
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever unpickling a broken file raises
        raise ValueError(f"{path} is not a checkpoint of bimt_fast: {error}") from error
    if not isinstance(state, dict) or not {"settings", "step", "model", "optimizer"} <= state.keys():
        raise ValueError(f"{path} is not a checkpoint of bimt_fast")
    return state


def _flat(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings under names that a message can quote: "preset.lr"."""
    flat = {}
    for key, value in settings.items():
        if key == "preset":
            flat.update({f"{key}.{name}": inner for name, inner in value.items()})
        else:
            flat[key] = value
    return flat


@contextmanager
def _interrupts_noted() -> Iterator[Callable[[], bool]]:
    """A function that says whether Ctrl-C was pressed, which interrupts at the second time only.

    Where Ctrl-C is ignored, or this is not the main thread, nothing is changed.
    """
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: False
        return
    pressed = []

    def note(number: int, frame: object) -> None:
        if pressed:
            raise KeyboardInterrupt
        pressed.append(number)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(pressed)
    finally:
        signal.signal(signal.SIGINT, before)


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
def _progress_bar(steps: int, done: int, wanted: bool) -> Iterator[Callable]:
    """A function (steps done, figures by name) that shows them; silent where not wanted or tqdm is missing."""
    try:
        from tqdm import tqdm
    except ImportError:
        wanted = False
    if not wanted:
        yield lambda done, **figures: None
        return
    with tqdm(total=steps, initial=done, unit="step") as bar:

        def show(done: int, **figures: float) -> None:
            bar.set_postfix({name: f"{value:.3g}" for name, value in figures.items()}, refresh=False)
            bar.update(done - bar.n)

        yield show

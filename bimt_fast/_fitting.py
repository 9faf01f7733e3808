"""Networks for a table: the recipe, several runs of it within a time budget, and which of them is kept."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import torch
from torch import Tensor, nn

from . import _anatomy
from .nn import BioMLP
from .train import Preset, ablate, reliable, train

STRENGTHS = (0.3, 1.0, 3.0, 10.0, 30.0, 100.0)  # of the penalty: the noisier a table, the stronger it must be
_FIRST = (1.0, 10.0, 30.0)  # that are tried
THRESHOLDS = (0.02, 0.05, 0.1, 0.2)  # of pruning
_LAM = 2e-2  # times the strength: the most that is charged
_TRIALS = 40  # of merges, if they went on through all steps
_MERGING = 4000  # steps take as long as merges of a run, about
_BATCH = 1024  # rows a step, at most
_RETRAINING = 0.05  # of the steps, after each pruning
_LEAST_STEPS = 1500  # of a run; where the budget is short, there are fewer runs before there are fewer steps
_CAUTION = 0.85  # of the budget is planned for
_LOOK_EVERY = 50  # steps between looks at the validation error, where nothing is charged


def recipe(shape: Sequence[int], steps: int, seed: int, strength: float = 1.0, merge: bool = True) -> Preset:
    """How one network is trained on standardised columns: bimt_fast.train.reliable.

    Args:
        shape: widths from inputs to outputs.
        steps: optimizer steps.
        seed: of initial weights and batches.
        strength: factor of the penalty.
        merge: whether merges of neurons are tried, if the steps are enough for them; where rows are more than a batch,
            merges are judged by some of them, always the same.
    """
    published = Preset(
        shape=tuple(shape),
        steps=steps,
        lr=2e-3,
        lam=((0.0, strength * _LAM),),
        bias=((0.0, False),),
        base_length=0.1,
        distance_scale=1.0,
        swap_every=max(20, min(200, steps // 50)),
        seed=seed,
    )
    preset = replace(reliable(published), strategy="auto", merge_every=max(1, steps // _TRIALS))
    return preset if merge and steps >= _LEAST_STEPS else replace(preset, merge=None)


@dataclass(frozen=True)
class Rows:
    """Standardised float32 rows to train on and to choose by, and the loss of each row.

    Attributes:
        train_x, train_y, valid_x, valid_y: (n, inputs); (n, targets) numbers or int64 (n,) classes.
        row_loss: (prediction (n, outputs), target) -> (n,).
        constant: bool (inputs,), inputs that never vary.
    """

    train_x: Tensor
    train_y: Tensor
    valid_x: Tensor
    valid_y: Tensor
    row_loss: Callable[[Tensor, Tensor], Tensor]
    constant: Tensor

    @torch.no_grad()
    def error(self, network: nn.Module) -> float:
        """Mean loss of the validation rows."""
        return self.row_loss(network(self.valid_x), self.valid_y).mean(dtype=torch.float64).item()


@dataclass(frozen=True)
class Candidate:
    """A trained and pruned network.

    Attributes:
        run, strength, threshold, steps: where it comes from.
        error: mean loss of the validation rows.
        wire: length of all its connections, whatever their weight, base lengths included.
        connections, neurons: that are left.
        state: state_dict.
    """

    run: int
    strength: float
    threshold: float
    steps: int
    error: float
    wire: float
    connections: int
    neurons: int
    state: dict[str, Any]


def choose(candidates: Sequence[Candidate], tolerance: float) -> Candidate:
    """The network with the least wire among those that are nearly as good as the best one.

    Nearly as good: a validation error of at most (1 + tolerance) times the least one, plus a tenth of the tolerance, so
    that a rule that is found exactly is told from one that is found to a tenth of a percent by its wire alone.
    """
    limit = (1 + tolerance) * min(c.error for c in candidates) + tolerance / 10
    return min((c for c in candidates if c.error <= limit), key=lambda c: (c.wire, c.error))


def next_strength(candidates: Sequence[Candidate], tolerance: float) -> float:
    """For the next run: the first ones, then those beside the one that would be kept, then that one again."""
    tried = {c.strength for c in candidates}
    for strength in _FIRST:
        if strength not in tried:
            return strength
    kept = choose(candidates, tolerance).strength
    k = STRENGTHS.index(kept)
    beside = [s for s in (*STRENGTHS[k + 1 : k + 2], *STRENGTHS[max(k - 1, 0) : k]) if s not in tried]
    return beside[0] if beside else kept


class _TimeIsUp(Exception):
    pass


class _Clock:
    """A time budget, from now on."""

    def __init__(self, seconds: float | None) -> None:
        self.end = math.inf if seconds is None else perf_counter() + seconds

    @property
    def left(self) -> float:
        return self.end - perf_counter()

    def watch(self, loss: Callable[[nn.Module], Tensor]) -> Callable[[nn.Module], Tensor]:
        """The loss, which ends the training where no time is left."""

        def watched(network: nn.Module) -> Tensor:
            if perf_counter() > self.end:
                raise _TimeIsUp
            return loss(network)

        return watched


def search(
    rows: Rows,
    shape: Sequence[int],
    *,
    ablation: str,
    steps: int,
    seeds: Sequence[int],
    tolerance: float,
    budget: float | None,
    say: Callable[[str], None],
) -> tuple[list[Candidate], bool]:
    """Trains a network for each seed with one of the strengths; each yields a candidate a threshold of pruning.

    Args:
        rows: of the table.
        shape: widths from inputs to outputs.
        ablation: as in bimt_fast.train.ablate. Networks without a penalty are not pruned but kept as they were where
            their validation error was least.
        steps: of each run, fewer where the budget asks for it.
        seeds: of the runs.
        tolerance: of choose, by which the strengths are steered.
        budget: seconds of training for all; None: as long as it takes, and the same result for the same seeds.
        say: told of each network.

    Returns:
        At least one candidate, and whether Ctrl-C ended the search, which it does with a warning once there is one.

    Raises:
        KeyboardInterrupt: before the first network was done.
    """
    found, longest, interrupted, merge = [], 0.0, False, True
    with torch.random.fork_rng(devices=[]):
        try:
            if budget is not None:
                _warm_up(rows, recipe(shape, steps, seeds[0]))
            clock = _Clock(budget)
            if budget is not None:
                preset = ablate(recipe(shape, steps, seeds[0]), ablation)
                steps, merge = _affordable(rows, preset, len(seeds), clock)
            for run, seed in enumerate(seeds):
                if found and clock.left < longest:
                    say(f"time for {len({c.run for c in found})} of {len(seeds)} networks")
                    break
                start = perf_counter()
                strength = 0.0 if ablation == "none" else next_strength(found, tolerance)
                preset = ablate(recipe(shape, steps, seed, strength, merge), ablation)
                new = _train_one(rows, preset, run, strength, clock, unfinished=not found)
                found += new
                longest = max(longest, perf_counter() - start)
                if new:
                    best = min(new, key=lambda c: c.error)
                    say(
                        f"network {run + 1} of {len(seeds)}: validation error {best.error:.3g},"
                        f" {best.connections} connections, {perf_counter() - start:.1f} s"
                    )
        except KeyboardInterrupt:
            if not found:
                raise
            interrupted = True
            warnings.warn(f"interrupted: the best network so far was kept, of {found[-1].run + 1} of {len(seeds)} runs")
    return found, interrupted


def _affordable(rows: Rows, preset: Preset, runs: int, clock: _Clock) -> tuple[int, bool]:
    """Steps a run for which the budget suffices, by a short trial, and whether it does for merges as well."""
    trial = replace(preset, steps=100, swap_every=50, merge=None)
    network = BioMLP(trial.shape, **trial.wiring)
    seconds = train(network, network.wiring, _loss(rows), trial).seconds
    total = int(_CAUTION * clock.left * trial.steps / seconds / (1 + _RETRAINING * len(THRESHOLDS)))
    merge = preset.merge is not None and total >= _MERGING + _LEAST_STEPS
    merging = _MERGING if merge else 0
    return max(1, min(preset.steps, max(total // runs, min(total, merging + _LEAST_STEPS)) - merging)), merge


def _warm_up(rows: Rows, preset: Preset) -> None:
    """The first step in a process takes seconds, of imports."""
    network = BioMLP(preset.shape, **preset.wiring)
    train(network, network.wiring, _loss(rows), replace(preset, steps=1, swap_every=1, merge=None))


def _loss(rows: Rows) -> Callable[[nn.Module], Tensor]:
    """Mean loss of the rows, of a batch where they are many; where no gradient is asked for, of those to judge by."""
    x, y, row_loss = rows.train_x, rows.train_y, rows.row_loss
    judged_x, judged_y = _judged(x), _judged(y)

    def loss(network: nn.Module) -> Tensor:
        if len(x) <= _BATCH or not torch.is_grad_enabled():
            return row_loss(network(judged_x), judged_y).mean()
        drawn = torch.randint(len(x), (_BATCH,))
        return row_loss(network(x[drawn]), y[drawn]).mean()

    return loss


def _judged(rows: Tensor) -> Tensor:
    """A batch at most, the same each time: every so many rows one."""
    return rows[:: math.ceil(len(rows) / _BATCH)]


def _train_one(
    rows: Rows, preset: Preset, run: int, strength: float, clock: _Clock, unfinished: bool
) -> list[Candidate]:
    """The candidates of one run; where time ran out none, or if `unfinished` the network as it was then."""
    torch.manual_seed(preset.seed)
    network = BioMLP(preset.shape, **preset.wiring)
    found: list[Candidate] = []

    def keep(threshold: float) -> None:
        connections, neurons = _anatomy.counts(network)
        state = {key: _copied(value) for key, value in network.state_dict().items()}
        wire = network.wiring.length(weighted=False, threshold=0.0) + preset.base_length * connections
        error = rows.error(network)
        found.append(Candidate(run, strength, threshold, preset.steps, error, wire, connections, neurons, state))

    try:
        if any(lam for _, lam in preset.lam):
            train(network, network.wiring, clock.watch(_loss(rows)), preset, inputs=_judged(rows.train_x))
            for threshold in THRESHOLDS:
                _prune_(network, rows, threshold)
                _retrain(network, rows, clock, preset)
                keep(threshold)
        else:
            best = _Best(network, rows)
            train(network, network.wiring, clock.watch(best.watch(_loss(rows))), preset)
            best.restore()
            _prune_(network, rows, 0.0)
            keep(0.0)
    except _TimeIsUp:
        if unfinished and not found:
            warnings.warn("the time budget should suffice to train one network, did not: it was kept as it was then")
            _prune_(network, rows, THRESHOLDS[0])
            keep(THRESHOLDS[0])
    return found


def _copied(value: object) -> object:
    if isinstance(value, dict):
        return {key: _copied(inner) for key, inner in value.items()}
    return value.clone() if isinstance(value, Tensor) else value


def _prune_(network: BioMLP, rows: Rows, threshold: float) -> None:
    network.wiring.prune_(threshold)
    _anatomy.tidy_(network, rows.constant)


def _retrain(network: BioMLP, rows: Rows, clock: _Clock, preset: Preset) -> None:
    """A little longer without a penalty; what is zero stays zero."""
    hooks = []
    for layer in network.layers:
        kept = layer.weight.detach() != 0
        alive = kept.any(1) | torch.tensor(layer is network.layers[-1])
        hooks.append(layer.weight.register_hook(lambda grad, kept=kept: grad * kept))
        hooks.append(layer.bias.register_hook(lambda grad, alive=alive: grad * alive))
    steps = max(1, round(_RETRAINING * preset.steps))
    best = _Best(network, rows)
    try:
        freely = replace(preset, steps=steps, lam=((0.0, 0.0),), swap_every=None, merge=None, prune_from=None)
        train(network, network.wiring, clock.watch(best.watch(_loss(rows))), freely)
    finally:
        for hook in hooks:
            hook.remove()
    best.restore()


class _Best:
    """The parameters at which the validation error was least, of those looked at."""

    def __init__(self, network: BioMLP, rows: Rows) -> None:
        self.network, self.rows, self.error, self.step = network, rows, math.inf, 0
        self.parameters: list[Tensor] = []

    def watch(self, loss: Callable[[nn.Module], Tensor]) -> Callable[[nn.Module], Tensor]:
        def watched(network: nn.Module) -> Tensor:
            if self.step % _LOOK_EVERY == 0:
                self.look()
            self.step += 1
            return loss(network)

        return watched

    def look(self) -> None:
        error = self.rows.error(self.network)
        if error < self.error or not self.parameters:
            self.error = error
            self.parameters = [p.detach().clone() for p in self.network.parameters()]

    @torch.no_grad()
    def restore(self) -> None:
        self.look()
        for p, best in zip(self.network.parameters(), self.parameters, strict=True):
            p.copy_(best)

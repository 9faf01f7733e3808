"""The 20 cognitive tasks of Yang et al. 2019 as batches of sequences, each of trials that follow one another.

Inputs: fixation, two rings of 16 neurons, one neuron a task; ring neuron i prefers the angle 2 pi i / 16, and a
stimulus of strength s at an angle adds 0.8 s exp(-(distance / (pi / 8))^2 / 2). Targets: class 0 fixates, class 1 + i
points at angle i. A step is 100 ms. What the sources leave open is chosen so: angles are those of the ring neurons;
"U(200, 500) ms" is 2 to 5 whole steps; noise falls on both rings; the two rings of a decision show the same two angles;
where the summed evidence ties (multidm 1 trial in 8, multidlydm 1 in 6), either answer is the right one by a coin.

Source: Yang et al. 2019 (Nature Neuroscience 22, 297); Liu, Khona, Fiete, Tegmark 2023 (arXiv 2310.07711).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

RING, STEPS = 16, 100
FIXATION, RINGS, RULE = 0, 1, 1 + 2 * RING  # where the inputs of each kind begin
NOISE = 0.1  # 1 / sqrt(100), of a step of 100 ms
_COHERENCES = (0.08, 0.16, 0.32, 0.64)
_STRENGTHS = (0.3, 0.6, 1.0)


@dataclass(frozen=True)
class Rule:
    """A task: what is shown when, in steps, and what the answer is.

    Attributes:
        name: as in the papers.
        family: "reach" (one stimulus), "decision" (two, the stronger counts), "match" (two, whether they match).
        fixation: fewest and most steps before the first stimulus.
        second: from the first stimulus to the second.
        go: from the first stimulus to the decision.
        decision: steps in which to answer; the trial ends with them.
        opposite: reach: whether to answer opposite to the stimulus.
        shown, judged: decision: which of the two rings show stimuli, and by which to judge.
        matching: match: whether to answer where the stimuli match, else where they do not.
        category: match: whether two angles match that are in the same half of the ring, else the same angles.
    """

    name: str
    family: str
    fixation: tuple[int, int]
    second: int
    go: int
    decision: int
    opposite: bool = False
    shown: tuple[int, int] = (0, 0)
    judged: tuple[int, int] = (0, 0)
    matching: bool = False
    category: bool = False

    @property
    def noisy(self) -> bool:
        """Whether the rings are noisy while stimuli are on: in matching, and where two bumps are shown at once."""
        return self.family == "match" or (self.family == "decision" and self.second == 0)


def _reach(name: str, go: int, opposite: bool = False) -> Rule:
    return Rule(name, "reach", (5, 5), 0, go, 5, opposite)


def _decision(name: str, shown: tuple[int, int], judged: tuple[int, int], delayed: bool = False) -> Rule:
    return Rule(name, "decision", (2, 5), *((15, 20) if delayed else (0, 5)), 2, shown=shown, judged=judged)


def _match(name: str, matching: bool, category: bool) -> Rule:
    return Rule(name, "match", (3, 3), 15, 20, 9, matching=matching, category=category)


RULES = (
    _reach("go", 5),
    _reach("rtgo", 0),
    _reach("dlygo", 10),
    _reach("anti", 5, opposite=True),
    _reach("rtanti", 0, opposite=True),
    _reach("dlyanti", 10, opposite=True),
    _decision("dm1", (1, 0), (1, 0)),
    _decision("dm2", (0, 1), (0, 1)),
    _decision("ctxdm1", (1, 1), (1, 0)),
    _decision("ctxdm2", (1, 1), (0, 1)),
    _decision("multidm", (1, 1), (1, 1)),
    _decision("dlydm1", (1, 0), (1, 0), delayed=True),
    _decision("dlydm2", (0, 1), (0, 1), delayed=True),
    _decision("ctxdlydm1", (1, 1), (1, 0), delayed=True),
    _decision("ctxdlydm2", (1, 1), (0, 1), delayed=True),
    _decision("multidlydm", (1, 1), (1, 1), delayed=True),
    _match("dms", matching=True, category=False),
    _match("dnms", matching=False, category=False),
    _match("dmc", matching=True, category=True),
    _match("dnmc", matching=False, category=True),
)
NAMES = tuple(rule.name for rule in RULES)
INPUTS, OUTPUTS = RULE + len(RULES), 1 + RING


def _column(values: object) -> Tensor:
    return torch.tensor(list(values))


# The columns of the table of rules, by task.
_FIRST_FIXATION, _LAST_FIXATION = (_column(rule.fixation[k] for rule in RULES) for k in range(2))
_SECOND, _GO, _DECISION = (_column(getattr(rule, name) for rule in RULES) for name in ("second", "go", "decision"))
_SHOWN, _JUDGED = (_column(getattr(rule, name) for rule in RULES) for name in ("shown", "judged"))
_OPPOSITE, _MATCHING, _CATEGORY, _NOISY = (
    _column(getattr(rule, name) for rule in RULES) for name in ("opposite", "matching", "category", "noisy")
)
_REACH, _DECIDES, _MATCHES = (_column(rule.family == name for rule in RULES) for name in ("reach", "decision", "match"))
_DELAYED = _DECIDES & (_SECOND > 0)
_STIMULUS = 5  # steps that a stimulus is on
_SHORTEST = int((_FIRST_FIXATION + _GO + _DECISION).min())


def _bumps() -> Tensor:
    """(16, 16): what a stimulus of strength 1 at each angle adds to each ring neuron."""
    apart = (torch.arange(RING)[:, None] - torch.arange(RING)).abs()
    distance = torch.minimum(apart, RING - apart) * (2 * math.pi / RING)
    return 0.8 * torch.exp(-0.5 * (distance / (math.pi / 8)) ** 2)


_BUMPS = _bumps()


def batch(
    sequences: int, generator: torch.Generator, *, steps: int = STEPS, task: int | None = None
) -> tuple[Tensor, Tensor]:
    """Sequences of trials, each of a random task, the last one cut off.

    Args:
        sequences: how many.
        generator: of all that is drawn; the same state gives the same batch.
        steps: of each sequence.
        task: all trials are of this one; None: each is of any.

    Returns:
        inputs (steps, sequences, 53) float32 and targets (steps, sequences) int64, classes 0 to 16.
    """
    trials = -(-steps // _SHORTEST)
    drawn = _draw_trials((sequences, trials), generator, task)
    start = drawn["length"].cumsum(1) - drawn["length"]
    index = torch.zeros(sequences, steps + 1, dtype=torch.int64)
    index.scatter_add_(1, start.clamp(max=steps), torch.ones_like(start))
    index = (index[:, :steps].cumsum(1) - 1).t()  # (steps, sequences): which trial it is
    clock = torch.arange(steps)[:, None] - _at(start, index)  # steps since the trial began
    return _inputs(drawn, index, clock, generator), torch.where(
        clock >= _at(drawn["go"], index), _at(drawn["answer"], index), 0
    )


def _at(values: Tensor, index: Tensor) -> Tensor:
    """(sequences, trials) -> (steps, sequences)"""
    return values.gather(1, index.t()).t()


def _draw_trials(shape: tuple[int, int], generator: torch.Generator, task: int | None) -> dict[str, Tensor]:
    """What happens in each trial, (sequences, trials): angles, strengths by ring, times in steps, answer."""

    def integers(below: int) -> Tensor:
        return torch.randint(below, shape, generator=generator)

    rule = integers(len(RULES)) if task is None else torch.full(shape, task)
    first, matches, coin, ring = integers(RING), integers(2).bool(), integers(2).bool(), integers(2)
    half = first // (RING // 2) ^ ~matches
    partner = torch.where(_CATEGORY[rule], half * (RING // 2) + integers(RING // 2), first + RING // 2 * ~matches)
    second = torch.where(_MATCHES[rule], partner, first + 1 + integers(RING - 1)) % RING
    strength = _decision_strengths(rule, generator)  # (sequences, trials, ring, stimulus)
    single = torch.stack([ring == 0, ring == 1], 2).float()[..., None] * torch.tensor([1.0, 1.0])
    strength = torch.where(_DECIDES[rule][..., None, None], strength * _SHOWN[rule][..., None], single)
    strength[..., 1] *= ~_REACH[rule][..., None]  # a reach has one stimulus
    evidence = ((strength[..., 0] - strength[..., 1]) * _JUDGED[rule]).sum(2)
    ahead = torch.where(evidence.abs() < 1e-4, coin, evidence > 0)
    reach = first + RING // 2 * _OPPOSITE[rule]
    answer = torch.where(_REACH[rule], reach, torch.where(_DECIDES[rule] & ahead, first, second)) % RING + 1
    answer = answer.where(~_MATCHES[rule] | (matches == _MATCHING[rule]), 0)
    spread = _LAST_FIXATION - _FIRST_FIXATION + 1
    fixation = _FIRST_FIXATION[rule] + (torch.rand(shape, generator=generator) * spread[rule]).long()
    return {
        "rule": rule,
        "first": first,
        "second": second,
        "strength": strength,
        "on": fixation,
        "on_again": fixation + _SECOND[rule],
        "go": fixation + _GO[rule],
        "length": fixation + _GO[rule] + _DECISION[rule],
        "answer": answer,
    }


def _decision_strengths(rule: Tensor, generator: torch.Generator) -> Tensor:
    """(..., ring, stimulus): 0.5 +- c / 2 where both are shown at once, two of three strengths where not."""
    shape = (*rule.shape, 2)
    apart = torch.tensor(_COHERENCES)[torch.randint(len(_COHERENCES), shape, generator=generator)]
    apart = apart * (torch.randint(2, shape, generator=generator) * 2 - 1)
    at_once = torch.stack([0.5 + apart / 2, 0.5 - apart / 2], -1)
    one = torch.randint(len(_STRENGTHS), shape, generator=generator)
    other = (one + 1 + torch.randint(len(_STRENGTHS) - 1, shape, generator=generator)) % len(_STRENGTHS)
    in_turn = torch.tensor(_STRENGTHS)[torch.stack([one, other], -1)]
    return torch.where(_DELAYED[rule][..., None, None], in_turn, at_once)


def _inputs(drawn: dict[str, Tensor], index: Tensor, clock: Tensor, generator: torch.Generator) -> Tensor:
    steps, sequences = index.shape
    inputs = torch.zeros(steps, sequences, INPUTS)
    inputs[..., FIXATION] = clock < _at(drawn["go"], index)
    rule = _at(drawn["rule"], index)
    inputs.scatter_(2, RULE + rule[..., None], 1.0)
    rings = inputs[..., RINGS:RULE].unflatten(2, (2, RING))
    noisy = torch.zeros(steps, sequences, dtype=torch.bool)
    for k, (angle, begin) in enumerate((("first", "on"), ("second", "on_again"))):
        on = (clock >= _at(drawn[begin], index)) & (clock < _at(drawn[begin], index) + _STIMULUS)
        strength = torch.stack([_at(drawn["strength"][..., ring, k], index) for ring in range(2)], 2)
        rings += (on[..., None] * strength)[..., None] * _BUMPS[_at(drawn[angle], index)][:, :, None]
        noisy |= on & _NOISY[rule]
    rings[noisy] += NOISE * torch.randn(int(noisy.sum()), 2, RING, generator=generator)
    return inputs


def longest(task: int) -> int:
    """Steps of the longest trial of a task."""
    return int(_LAST_FIXATION[task] + _GO[task] + _DECISION[task])


def answered(inputs: Tensor) -> Tensor:
    """(steps, sequences): the last step of every trial that the sequence does not cut off.

    Fixation goes off with the decision and on with the next trial.
    """
    fixating = inputs[..., FIXATION] > 0.5
    last = torch.zeros_like(fixating)
    last[:-1] = ~fixating[:-1] & fixating[1:]
    return last


def tasks_of(inputs: Tensor) -> Tensor:
    """(steps, sequences) int64: the task of each step."""
    return inputs[..., RULE:].argmax(2)


def count_right(inputs: Tensor, targets: Tensor, prediction: Tensor) -> tuple[Tensor, Tensor]:
    """Trials by task, and those answered right: at the last step of the decision the largest output is the target's.

    Args:
        inputs, targets: of batch.
        prediction: (steps, sequences, 17).

    Returns:
        trials (20,) and right (20,), int64.
    """
    last = answered(inputs)
    task, right = tasks_of(inputs)[last], prediction[last].argmax(1) == targets[last]
    return task.bincount(minlength=len(RULES)), task[right].bincount(minlength=len(RULES))

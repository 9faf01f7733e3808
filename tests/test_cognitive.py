"""The 20 tasks: every rule, by a plain loop over trials that reads the inputs as a person would."""

import math
from itertools import pairwise

import pytest
import torch

from bimt_fast.tasks import _cognitive as cognitive

# By name: steps of fixation (fewest, most), of each stimulus, between the stimuli, of the decision, written anew.
TIMES = {
    **dict.fromkeys(("go", "anti"), ((5, 5), "A5 5")),
    **dict.fromkeys(("rtgo", "rtanti"), ((5, 5), "A5")),
    **dict.fromkeys(("dlygo", "dlyanti"), ((5, 5), "A5 -5 5")),
    **dict.fromkeys(("dm1", "dm2", "ctxdm1", "ctxdm2", "multidm"), ((2, 5), "AB5 2")),
    **dict.fromkeys(("dlydm1", "dlydm2", "ctxdlydm1", "ctxdlydm2", "multidlydm"), ((2, 5), "A5 -10 B5 2")),
    **dict.fromkeys(("dms", "dnms", "dmc", "dnmc"), ((3, 3), "A5 -10 B5 9")),
}
ORDER = "go rtgo dlygo anti rtanti dlyanti dm1 dm2 ctxdm1 ctxdm2 multidm dlydm1 dlydm2 ctxdlydm1 ctxdlydm2 multidlydm"
ORDER = [*ORDER.split(), "dms", "dnms", "dmc", "dnmc"]


def bump(angle: int) -> list[float]:
    """The 16 ring neurons' answer to a stimulus of strength 1."""
    shape = []
    for i in range(16):
        apart = abs(i - angle) * 2 * math.pi / 16
        apart = min(apart, 2 * math.pi - apart)
        shape.append(0.8 * math.exp(-((apart / (math.pi / 8)) ** 2) / 2))
    return shape


BUMPS = torch.tensor([bump(angle) for angle in range(16)])


def decoded(frames: torch.Tensor) -> dict[int, float]:
    """Angles and strengths of at most two bumps in the mean of some frames (steps, 16), by least squares."""
    mean = frames.double().mean(0)
    strengths = torch.linalg.lstsq(BUMPS.double().T, mean[:, None]).solution[:, 0]
    return {angle: s for angle, s in enumerate(strengths.tolist()) if s > 0.15}


def trials(x: torch.Tensor, y: torch.Tensor):
    """(name, inputs, targets) of each trial of one sequence, the last one aside."""
    fixating = x[:, 0] > 0.5
    starts = [0, *(t for t in range(1, len(x)) if fixating[t] and not fixating[t - 1])]
    for begin, end in pairwise(starts):
        yield ORDER[int(x[begin, 33:].argmax())], x[begin:end], y[begin:end]


def periods(name: str, length: int) -> tuple[int, dict[str, slice], slice]:
    """Steps of fixation, those of the stimuli by letter, and those of the decision, for a trial of some length."""
    (low, high), plan = TIMES[name]
    parts = plan.split()
    fixation = length - sum(int(part.strip("AB-")) for part in parts)
    assert low <= fixation <= high, (name, length)
    at, stimuli = fixation, {}
    for part in parts:
        steps = int(part.strip("AB-"))
        decision = slice(at, at + steps)
        stimuli |= {letter: slice(at, at + steps) for letter in "AB" if letter in part}
        at += steps
    return fixation, stimuli, decision


def half(angle: int) -> int:
    return 0 if angle < 8 else 1


def right_answers(name: str, shown: dict[str, list[dict[int, float]]]) -> set[int]:
    """What a person who sees the stimuli (by letter: angles and strengths on each ring) may answer."""
    if "go" in name or "anti" in name:
        (angle,) = {**shown["A"][0], **shown["A"][1]}
        return {1 + (angle + (8 if "anti" in name else 0)) % 16}
    if name in ("dms", "dnms", "dmc", "dnmc"):
        (sample,), (test,) = ({**shown[letter][0], **shown[letter][1]} for letter in "AB")
        match = sample == test if name in ("dms", "dnms") else half(sample) == half(test)
        return {1 + test} if match == (name in ("dms", "dmc")) else {0}
    rings = {"1": [0], "2": [1]}.get(name[-1], [0, 1])
    evidence: dict[int, float] = {}
    for letter in shown:
        for ring in rings:
            for angle, strength in shown[letter][ring].items():
                evidence[angle] = evidence.get(angle, 0) + strength
    best = max(evidence.values())
    return {1 + angle for angle, sum_ in evidence.items() if sum_ > best - 1e-3}


@pytest.fixture
def quiet(monkeypatch):
    """Stimuli without noise, so that strengths can be read off exactly."""
    monkeypatch.setattr(cognitive, "NOISE", 0.0)


@pytest.mark.parametrize("name", ORDER)
def test_targets_follow_the_rule(name, quiet):
    task = ORDER.index(name)
    x, y = cognitive.batch(40, torch.Generator().manual_seed(task), task=task)
    seen, answers, ties = 0, set(), 0
    for sequence in range(40):
        for found, inputs, targets in trials(x[:, sequence], y[:, sequence]):
            assert found == name
            _, stimuli, decision = periods(name, len(inputs))
            shown = {
                letter: [decoded(inputs[when, 1 + 16 * ring : 17 + 16 * ring]) for ring in (0, 1)]
                for letter, when in stimuli.items()
            }
            right = right_answers(name, shown)
            assert set(targets[decision].tolist()) <= right and len(set(targets[decision].tolist())) == 1
            assert (targets[: decision.start] == 0).all()
            assert (inputs[: decision.start, 0] == 1).all() and (inputs[decision, 0] == 0).all()
            rings = inputs[:, 1:33].clone()
            for when in stimuli.values():
                rings[when] = 0
            assert (rings == 0).all()
            seen, ties = seen + 1, ties + (len(right) > 1)
            answers.add(int(targets[-1]))
    assert seen > 80 and len(answers - {0}) > 12
    assert (0 in answers) == (name in ("dms", "dnms", "dmc", "dnmc"))
    assert (ties > 0) == (name in ("multidm", "multidlydm"))


@pytest.mark.parametrize("name", ("dm1", "dm2", "ctxdm1", "multidm", "dlydm2", "multidlydm"))
def test_strengths_are_those_of_the_paper(name, quiet):
    task = ORDER.index(name)
    x, y = cognitive.batch(40, torch.Generator().manual_seed(1), task=task)
    silent = {"dm1": 1, "dm2": 0, "dlydm2": 0}.get(name)
    differences, angles = [set(), set()], set()
    for sequence in range(40):
        for _, inputs, _ in trials(x[:, sequence], y[:, sequence]):
            _, stimuli, _ = periods(name, len(inputs))
            for ring in (0, 1):
                shown = [decoded(inputs[stimuli[k], 1 + 16 * ring : 17 + 16 * ring]) for k in sorted(stimuli)]
                if ring == silent:
                    assert not any(shown)
                    continue
                both = shown[0] if "dly" not in name else {**shown[0], **shown[1]}
                assert len(both) == 2
                one, other = both.values()
                angles.add(next(iter(both)))
                if "dly" in name:
                    differences[ring] |= {round(one, 3), round(other, 3)}
                else:
                    assert one + other == pytest.approx(1, abs=1e-3)
                    differences[ring].add(round(abs(one - other), 3))
    wanted = {0.3, 0.6, 1.0} if "dly" in name else {0.08, 0.16, 0.32, 0.64}
    assert all(found == wanted for ring, found in enumerate(differences) if ring != silent)
    assert len(angles) > 8


def test_half_of_the_trials_match_and_either_ring_shows_them():
    for name in ("dms", "dnms", "dmc", "dnmc", "go"):
        x, y = cognitive.batch(300, torch.Generator().manual_seed(2), task=ORDER.index(name))
        last = cognitive.answered(x)
        if name != "go":
            assert 0.42 < (y[last] == 0).double().mean() < 0.58
        means = [x[..., 1 + 16 * ring : 17 + 16 * ring].abs().mean().item() for ring in (0, 1)]
        assert 0.8 < means[0] / means[1] < 1.25


def test_noise_is_where_the_rules_say():
    noisy = ("dm1", "dm2", "ctxdm1", "ctxdm2", "multidm", "dms", "dnms", "dmc", "dnmc")
    for name in ORDER:
        x, y = cognitive.batch(30, torch.Generator().manual_seed(3), task=ORDER.index(name))
        residues = []
        for sequence in range(30):
            for _, inputs, _ in trials(x[:, sequence], y[:, sequence]):
                _, stimuli, _ = periods(name, len(inputs))
                for when in stimuli.values():
                    rings = inputs[when, 1:33]
                    residues.append(rings - rings.mean(0))  # a bump does not change while it is on
                for when in stimuli.values():
                    inputs[when, 1:33] = 0
                assert (inputs[:, 1:33] == 0).all()
        deviation = torch.cat(residues).square().mean().sqrt().item() * math.sqrt(5 / 4)
        assert deviation == pytest.approx(0.1 if name in noisy else 0.0, abs=0.005)


def test_tasks_are_drawn_evenly_and_follow_one_another():
    x, y = cognitive.batch(400, torch.Generator().manual_seed(4))
    names = [name for k in range(400) for name, _, _ in trials(x[:, k], y[:, k])]
    assert set(names) == set(ORDER)
    first = cognitive.tasks_of(x)[0].bincount(minlength=20)
    assert first.sum() == 400 and (first - 20).abs().max() < 20
    assert (x[..., 33:].sum(2) == 1).all() and x.shape == (100, 400, 53) and y.shape == (100, 400)
    assert x.dtype == torch.float32 and y.dtype == torch.int64


def test_the_seed_makes_the_batch_and_nothing_else_is_drawn():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, again, other = (cognitive.batch(5, torch.Generator().manual_seed(seed)) for seed in (7, 7, 8))
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True)) and not torch.equal(one[0], other[0])
    short = cognitive.batch(3, torch.Generator().manual_seed(7), steps=30)
    assert short[0].shape == (30, 3, 53)


def test_right_answers_are_counted_at_the_last_step_of_whole_trials():
    x, y = cognitive.batch(50, torch.Generator().manual_seed(5))
    prediction = torch.randn(100, 50, 17)
    trials_wanted, right_wanted = [0] * 20, [0] * 20
    for k in range(50):
        at = 0
        for name, inputs, targets in trials(x[:, k], y[:, k]):
            at += len(inputs)
            trials_wanted[ORDER.index(name)] += 1
            right_wanted[ORDER.index(name)] += int(prediction[at - 1, k].argmax()) == int(targets[-1])
    counted, right = cognitive.count_right(x, y, prediction)
    assert counted.tolist() == trials_wanted and right.tolist() == right_wanted and sum(right_wanted) > 0

"""Every figure of bimt_fast.analysis against plain loops over few neurons."""

import math

import numpy as np
import pytest
import torch

from bimt_fast import analysis, functional


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_task_variance():
    states, lengths = draw(5, 4, 3), [5, 3, 4, 1]
    running = torch.tensor([[t < length for length in lengths] for t in range(5)])
    for unit in range(3):
        steps = []
        for t in range(5):
            values = [states[t, k, unit].item() for k in range(4) if t < lengths[k]]
            if len(values) > 1:
                steps.append(np.var(values))
        assert analysis.task_variance(states, running)[unit].item() == pytest.approx(np.mean(steps), rel=1e-12)
    everywhere = np.var(states.numpy(), axis=1).mean(0)
    np.testing.assert_allclose(analysis.task_variance(states), everywhere, rtol=1e-12)
    with pytest.raises(ValueError, match="running"):
        analysis.task_variance(states, running[:3])
    with pytest.raises(ValueError, match="two trials"):
        analysis.task_variance(states[:, :1])


def test_silent_units_are_left_out():
    variance = torch.tensor([[2.0, 1.0], [4e-7, 5e-7], [0.0, 3.0], [0.0, 0.0]])
    active, normalised = analysis.normalised_variance(variance)
    assert active.tolist() == [0, 2] and normalised.tolist() == [[1.0, 0.5], [0.0, 1.0]]


def plain_silhouette(rows, labels) -> float:
    scores = []
    for i, row in enumerate(rows):
        of = {}
        for j, other in enumerate(rows):
            if i != j:
                of.setdefault(int(labels[j]), []).append(math.dist(row, other))
        own = of.pop(int(labels[i]), None)
        if own is None:
            scores.append(0.0)
            continue
        a, b = np.mean(own), min(np.mean(distances) for distances in of.values())
        scores.append((b - a) / max(a, b))
    return np.mean(scores)


@pytest.mark.parametrize("labels", ([0, 0, 1, 1, 2, 2, 0, 1], [0, 0, 0, 0, 0, 0, 0, 1], [0, 3, 3, 0, 3, 0, 0, 3]))
def test_silhouette(labels):
    rows = draw(8, 3)
    got = analysis.silhouette(
        torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist"), torch.tensor(labels)
    )
    assert got == pytest.approx(plain_silhouette(rows.tolist(), labels), rel=1e-10)


def plain_ward(rows: np.ndarray, count: int) -> list[set[int]]:
    """Joins, one pair at a time, the clusters whose union raises the sum of squares least."""
    found = [{i} for i in range(len(rows))]

    def squares(members):
        points = rows[sorted(members)]
        return ((points - points.mean(0)) ** 2).sum()

    while len(found) > count:
        pairs = [(a, b) for a in range(len(found)) for b in range(a)]
        a, b = min(
            pairs, key=lambda p: squares(found[p[0]] | found[p[1]]) - squares(found[p[0]]) - squares(found[p[1]])
        )
        found[b] |= found.pop(a)
    return found


def test_clusters():
    pytest.importorskip("scipy")
    rows = draw(14, 4, seed=3)
    got = analysis.clusters(rows, range(2, 8))
    for k, score in got.silhouettes.items():
        labels = np.empty(14, dtype=int)
        for label, members in enumerate(plain_ward(rows.numpy(), k)):
            labels[sorted(members)] = label
        assert score == pytest.approx(plain_silhouette(rows.tolist(), labels), rel=1e-9), k
    best = max(got.silhouettes, key=got.silhouettes.get)
    members = {frozenset((got.labels == k).nonzero()[:, 0].tolist()) for k in range(got.count)}
    assert got.count == best and members == {frozenset(m) for m in plain_ward(rows.numpy(), best)}
    assert list(got.silhouettes) == list(range(2, 8))
    with pytest.raises(ValueError, match="three rows"):
        analysis.clusters(rows[:2])


def test_clusters_are_ordered_by_the_columns_they_prefer():
    pytest.importorskip("scipy")
    rows = torch.eye(3, dtype=torch.float64)[[2, 0, 1, 1, 0, 2, 2]] + 0.01 * draw(7, 3)
    assert analysis.clusters(rows).labels.tolist() == [2, 0, 1, 1, 0, 2, 2]


@pytest.mark.parametrize("diagonal", (False, True))
def test_sheet_neighbours(diagonal):
    shape, places = (4, 5), torch.tensor([0, 1, 4, 5, 6, 7, 11, 13, 14, 19])
    got = analysis.sheet_neighbours(places, shape, diagonal)
    for i, place in enumerate(places.tolist()):
        near = set()
        for j, other in enumerate(places.tolist()):
            down, right = abs(place // 5 - other // 5), abs(place % 5 - other % 5)
            if i != j and (max(down, right) == 1 if diagonal else down + right == 1):
                near.add(j)
        assert {k for k in got[i].tolist() if k >= 0} == near
    assert got.shape == (10, 8 if diagonal else 4)


def test_modularity():
    places, labels = torch.tensor([0, 1, 2, 4, 7, 8]), torch.tensor([0, 0, 1, 1, 1, 0])  # of 3 x 3 cells
    got = analysis.modularity(labels, places, (3, 3), permutations=200)
    # Cell 8 holds 0 beside 7 (1) and, diagonally, 4 (1); the cell 2 holds 1 beside 1 (0), diagonally 4 holds 1.
    assert got["isolated, 4 neighbours"].value == pytest.approx(2 / 6)  # cells 2 and 8
    assert got["isolated, 8 neighbours"].value == pytest.approx(1 / 6)  # cell 8
    assert got["isolated, in a row"].value == pytest.approx(1 / 6)
    assert got["variance of indices"].value == pytest.approx((np.var([0, 1, 5]) + np.var([2, 3, 4])) / 2)
    assert got["variance of places"].value == pytest.approx((np.var([0, 1, 8]) + np.var([2, 4, 7])) / 2)
    points = np.array([[(c % 3 + 0.5) / 3, (c // 3 + 0.5) / 3] for c in places.tolist()])
    spread = [points[labels.numpy() == k].var(0).sum() for k in (0, 1)]
    assert got["spread"].value == pytest.approx(np.mean(spread))
    elsewhere = analysis.modularity(labels, places, (3, 3), positions=torch.from_numpy(points * 2), permutations=3)
    assert elsewhere["spread"].value == pytest.approx(4 * np.mean(spread))


def test_a_figure_against_its_null():
    figures = torch.tensor([2.0, 1.0, 2.0, 3.0, 6.0], dtype=torch.float64)
    got = analysis.against_null(figures)
    assert got.mean == 3 and got.deviation == pytest.approx(np.std([1, 2, 3, 6]))
    assert got.z == pytest.approx(-1 / got.deviation) and got.p == pytest.approx(3 / 5)
    assert math.isnan(analysis.against_null(torch.ones(5, dtype=torch.float64)).z)


def test_nulls_are_permutations_of_the_labels():
    """Of four neurons in a row with two labels, all orders are equally likely."""
    labels, places = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    null = analysis.modularity(labels, places, (1, 4), permutations=20_000)["isolated, in a row"].null
    shares = [(null == x).double().mean().item() for x in (0.0, 0.5, 1.0)]  # 0011; 0110; 0101 and their mirrors
    assert shares == pytest.approx([1 / 3] * 3, abs=0.02)
    assert torch.equal(
        null,
        functional.label_nulls(labels, analysis.line_neighbours(4), places.double()[:, None], permutations=20_000)[
            1:, 0
        ],
    )


def test_strength_by_distance():
    weight, distance = draw(6, 6) - 0.5, (draw(6, 6, seed=1) * 4).round() / 4
    at, strength, count = analysis.strength_by_distance(weight, distance, 0.25)
    for k, d in enumerate(at.tolist()):
        there = [abs(w) for w, x in zip(weight.flatten().tolist(), distance.flatten().tolist(), strict=True) if x == d]
        assert strength[k].item() == pytest.approx(np.mean(there), rel=1e-12) and count[k] == len(there)
    assert count.sum() == 36


@pytest.mark.parametrize("weighted", (False, True))
def test_decay(weighted):
    distance = torch.arange(1, 12, dtype=torch.float64) * 0.05
    count = torch.arange(1, 12) if weighted else None
    power = analysis.fit_decay(distance, 0.3 * distance**-1.7, count)
    assert power.best == "power law" and power.exponent == pytest.approx(1.7) and power.power_r2 == pytest.approx(1)
    assert power.power_factor == pytest.approx(0.3)
    exponential = analysis.fit_decay(distance, 0.3 * (-distance / 0.2).exp(), count)
    assert exponential.best == "exponential" and exponential.scale == pytest.approx(0.2)
    assert exponential.exponential_factor == pytest.approx(0.3)
    assert 0 < exponential.power_r2 < 0.99 and exponential.exponential_r2 == pytest.approx(1)
    strength = draw(11, seed=5)
    noisy = analysis.fit_decay(distance, strength, count)
    slope, offset = np.polyfit(
        distance.log().numpy(), strength.log().numpy(), 1, w=None if count is None else count.sqrt().numpy()
    )
    weight = np.ones(11) if count is None else count.numpy()
    y = np.log(strength.numpy())
    residue = y - offset - slope * np.log(distance.numpy())
    around = y - np.average(y, weights=weight)
    assert noisy.exponent == pytest.approx(-slope)
    assert noisy.power_r2 == pytest.approx(1 - (weight * residue**2).sum() / (weight * around**2).sum())
    with pytest.raises(ValueError, match="three bins"):
        analysis.fit_decay(distance[:2], distance[:2])


def test_modules_of_the_wiring():
    pytest.importorskip("networkx")
    module = torch.tensor([0, 0, 1, 1, 1, 0, 0, 2, 2, 0])
    inside = (module[:, None] == module[None]).double()
    weight = (inside - 0.5) * (0.5 + draw(10, 10)) + 0.01 * draw(10, 10, seed=1)
    weight[inside == 0] *= 0.01
    assert torch.equal(analysis.modules_of(weight), module)


def plain_agreement(first, second) -> tuple[float, float]:
    n, same = len(first), [0, 0, 0]
    for i in range(n):
        for j in range(i):
            a, b = first[i] == first[j], second[i] == second[j]
            same = [same[0] + (a and b), same[1] + a, same[2] + b]
    expected = same[1] * same[2] / (n * (n - 1) / 2)
    rand = (same[0] - expected) / ((same[1] + same[2]) / 2 - expected)
    information, entropies = 0.0, [0.0, 0.0]
    for k, labels in enumerate((first, second)):
        for x in set(labels):
            entropies[k] -= labels.count(x) / n * math.log(labels.count(x) / n)
    for x in set(first):
        for y in set(second):
            p = sum(a == x and b == y for a, b in zip(first, second, strict=True)) / n
            if p:
                information += p * math.log(p / (first.count(x) / n * second.count(y) / n))
    return rand, information / np.mean(entropies)


def test_agreement():
    first, second = [0, 0, 1, 1, 2, 2, 2, 0, 1], [1, 1, 0, 0, 0, 2, 2, 1, 2]
    got = analysis.agreement(torch.tensor(first), torch.tensor(second))
    rand, information = plain_agreement(first, second)
    assert got == {"adjusted_rand": pytest.approx(rand), "nmi": pytest.approx(information)}
    renamed = analysis.agreement(torch.tensor(first), 2 - torch.tensor(first))
    assert renamed == {"adjusted_rand": pytest.approx(1), "nmi": pytest.approx(1)}
    independent = analysis.agreement(torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1]))
    assert independent["nmi"] == pytest.approx(0) and independent["adjusted_rand"] == pytest.approx(-0.5)


def test_importance():
    into, out = draw(3, 4) - 0.5, draw(2, 3) - 0.5
    wanted = [
        sum(abs(into[i, k].item()) for k in range(4)) + sum(abs(out[k, i].item()) for k in range(2)) for i in range(3)
    ]
    np.testing.assert_allclose(analysis.importance([(into, 0), (out, 1)]), wanted, rtol=1e-12)

"""Modularity figures under permuted labels: against plain loops, and permutations that are uniform."""

import inputs
import numpy as np
import pytest
import torch
from test_parity import expected_results

from bimt_fast import functional

MASK = 2**64 - 1


def random_number(seed, counter):
    z = (seed + (counter + 1) * 0x9E3779B97F4A7C15) & MASK
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & MASK
    z = (z ^ z >> 27) * 0x94D049BB133111EB & MASK
    return z ^ z >> 31


def shuffled(labels, permutation, seed):
    labels, n = labels.copy(), len(labels)
    for i in range(n - 1, 0, -1):
        j = (random_number(seed, permutation * n + i) >> 32) * (i + 1) >> 32
        labels[i], labels[j] = labels[j], labels[i]
    return labels


def figures(labels, neighbours, positions):
    isolated = [all(labels[k] != labels[i] for k in near if k >= 0) for i, near in enumerate(neighbours)]
    members = [np.flatnonzero(labels == c) for c in np.unique(labels)]
    spread = [((positions[m] - positions[m].mean(0)) ** 2).sum(1).mean() for m in members]
    return np.mean(isolated), np.mean([m.var() for m in members]), np.mean(spread)


every_backend = pytest.mark.parametrize("backend", inputs.BACKENDS, indirect=True)


@every_backend
@pytest.mark.parametrize("n, clusters", ((1, 1), (2, 3), (17, 4), (40, 40), (65, 3), (100, 200)))
def test_against_plain_loops(n, clusters, backend):
    labels, neighbours, positions, *_ = inputs.labelled(n, clusters, 2)
    there = (x.to(inputs.device) for x in (labels, neighbours, positions))
    got = functional.label_nulls(*there, clusters=clusters, permutations=4, seed=5).cpu()
    plain = [x.numpy() for x in (labels, neighbours, positions)]
    expected = [figures(shuffled(plain[0], p, 5) if p else plain[0], *plain[1:]) for p in range(5)]
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)


@every_backend
@pytest.mark.parametrize("n, clusters, permutations", ((300, 5, 150), (300, 150, 40), (5000, 9, 3)))
def test_large_groups(n, clusters, permutations, backend):
    """Of sizes at which the kernels keep labels elsewhere, or count in wider numbers."""
    if backend in ("cuda-sim", "triton"):
        permutations = min(permutations, 2)
        n = n if backend == "cuda-sim" else 150
    labels, neighbours, positions, *_ = inputs.labelled(n, clusters, 3)
    arguments = (labels, neighbours, positions, clusters, permutations, 1)
    (got,) = inputs.call("label_nulls", arguments)
    expected = expected_results("label_nulls", arguments)[0]
    torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_permutations_are_uniform(cpu_backend):
    """All 24 permutations of four neurons, told by where the pairs {0, 1}, {0, 2} and {0, 3} end up."""
    count, positions = 24_000, torch.tensor([[0.0], [1.0], [3.0], [7.0]])  # all distances differ
    where = torch.zeros(count)
    for other in (1, 2, 3):
        labels = torch.tensor([0 if i in (0, other) else i for i in range(4)])
        nulls = functional.label_nulls(labels, torch.empty(4, 0, dtype=torch.int64), positions, permutations=count)
        where = where * 6 + nulls[1:, 2].unique(return_inverse=True)[1]
    outcomes = where.unique(return_counts=True)[1]
    assert len(outcomes) == 24
    chi_squared = ((outcomes - count / 24) ** 2).sum() / (count / 24)
    assert 4 < chi_squared < 71  # 23 degrees of freedom: outside once in about 500,000 draws


def test_any_permutation_can_be_made_alone(backend):
    arguments = inputs.labelled(17, 3, 2)[:3]
    many, few = (functional.label_nulls(*arguments, permutations=k, seed=9) for k in (6, 3))
    assert torch.equal(many[:4], few)
    assert not torch.equal(many[1:], functional.label_nulls(*arguments, permutations=6, seed=10)[1:])


def test_known_figures(backend):
    labels = torch.tensor([0, 0, 1, 1, 0])
    line = torch.tensor([[-1, 1], [0, 2], [1, 3], [2, 4], [3, -1]])
    nulls = functional.label_nulls(labels, line, torch.arange(5.0)[:, None], permutations=0, clusters=4)
    of_first = np.var([0, 1, 4])
    assert nulls.tolist() == [pytest.approx([0.2, (of_first + 0.25) / 2, (of_first + 0.25) / 2])]


LABELS, NEAR, POSITIONS = torch.tensor([0, 1, 1]), torch.tensor([[1], [2], [-1]]), torch.rand(3, 2)
BAD = {
    "labels-list": (dict(labels=[0, 1, 1]), TypeError, "labels"),
    "labels-float": (dict(labels=LABELS.double()), TypeError, "labels"),
    "labels-2-axes": (dict(labels=LABELS[:, None]), ValueError, "labels"),
    "labels-negative": (dict(labels=LABELS - 1), ValueError, "labels"),
    "labels-too-large": (dict(clusters=1), ValueError, "labels"),
    "neighbours-int32": (dict(neighbours=NEAR.int()), TypeError, "neighbours"),
    "neighbours-count": (dict(neighbours=NEAR[:2]), ValueError, "neighbours"),
    "neighbours-too-large": (dict(neighbours=NEAR + 1), ValueError, "neighbours"),
    "neighbours-negative": (dict(neighbours=NEAR - 1), ValueError, "neighbours"),
    "positions-int": (dict(positions=NEAR), TypeError, "positions"),
    "positions-count": (dict(positions=POSITIONS[:2]), ValueError, "positions"),
    "positions-nan": (dict(positions=POSITIONS * float("nan")), ValueError, "positions"),
    "positions-meta": (dict(positions=POSITIONS.to("meta")), ValueError, "positions"),
    "clusters-float": (dict(clusters=2.0), TypeError, "clusters"),
    "permutations-negative": (dict(permutations=-1), ValueError, "permutations"),
    "permutations-bool": (dict(permutations=True), TypeError, "permutations"),
    "seed-negative": (dict(seed=-1), ValueError, "seed"),
    "seed-too-large": (dict(seed=2**63), ValueError, "seed"),
}


@pytest.mark.parametrize("arguments, error, name", BAD.values(), ids=BAD)
def test_errors(arguments, error, name):
    arguments = dict(labels=LABELS, neighbours=NEAR, positions=POSITIONS) | arguments
    with pytest.raises(error, match=rf"\b{name}\b"):
        functional.label_nulls(**arguments)

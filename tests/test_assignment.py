"""Exact linear assignment and its bound, held against every permutation and against SciPy."""

import itertools
import os
import signal
import threading
import time

import inputs
import pytest
import torch

from bimt_fast import search

DTYPES = (torch.float32, torch.float64)
KINDS = ("random", "negative", "integers", "equal rows", "constant", "placement")


def costs(n, kind, dtype=torch.float64, layout="contiguous"):
    values = inputs.matrix(n, n, layout, ("assignment", kind), dtype)
    if kind == "negative":
        return values * 1e3 - 5
    if kind == "integers":
        return (2 * values).round()
    if kind == "equal rows":
        return values[torch.arange(n) // 3 * 3]
    if kind == "constant":
        return torch.zeros_like(values) - 2
    if kind == "placement":
        slots = inputs.positions(n, 2, "grid", dtype=dtype)
        sparse = values * (torch.rand(n, n, generator=inputs.generator("sparse", n)) < 0.2)
        return search_cost(slots, sparse)
    return values


def search_cost(slots, weight):
    import bimt_fast as bf

    return bf.placement_cost(slots, incoming=[(weight, slots)])


def least_cost(cost):
    rows = torch.arange(len(cost))
    orders = torch.tensor(list(itertools.permutations(range(len(cost)))))
    return cost.double()[rows, orders].sum(1).min().item()


def scipy_cost(cost):
    optimize = pytest.importorskip("scipy.optimize")
    rows, columns = optimize.linear_sum_assignment(cost.double().numpy())
    return cost.double().numpy()[rows, columns].sum()


def size(cost):
    return cost.abs().max().item() * len(cost)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_no_permutation_is_cheaper(kind, dtype, backend):
    for n in range(1, 8):
        cost = costs(n, kind, dtype)
        found = search.linear_assignment(cost)
        assert found.sort().values.tolist() == list(range(n))
        assert search.assigned_cost(cost, found) == pytest.approx(least_cost(cost), abs=1e-12 * size(cost)), n
        for rounds in range(4):
            bound = search.assignment_bound(cost, torch.arange(n), rounds)
            assert bound <= least_cost(cost) + 1e-12 * size(cost), (n, rounds)


@pytest.mark.parametrize("layout", inputs.LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
def test_scipy_finds_nothing_cheaper(kind, dtype, layout, cpu_backend):
    for n in inputs.SIZES[1:]:
        cost = costs(n, kind, dtype, layout)
        found = search.linear_assignment(cost)
        assert found.sort().values.tolist() == list(range(n))
        least = scipy_cost(cost)
        assert search.assigned_cost(cost, found) == pytest.approx(least, rel=1e-9, abs=1e-12 * size(cost)), n
        tight = search.assignment_bound(cost, found, n)
        assert tight == pytest.approx(least, rel=1e-9, abs=1e-12 * size(cost)), n


def test_from_any_start(cpu_backend):
    """The start decides how long it takes, not what is found."""
    from bimt_fast.kernels import cpu

    cost = costs(97, "placement")
    least = scipy_cost(cost)
    for seed in range(5):
        found = cpu.linear_assignment(cost, inputs.permutation(97, seed))
        assert search.assigned_cost(cost, found) == pytest.approx(least, rel=1e-12)


@pytest.mark.parametrize("rounds", (0, 1, 4))
def test_bound_of_a_matching(rounds, backend):
    """Below the least cost, and no worse than the sum of what every neuron would like best."""
    cost = costs(257, "placement", torch.float32)
    found, _ = search.matching(cost, torch.arange(257))
    bound = search.assignment_bound(cost, found, rounds)
    assert cost.double().amin(1).sum().item() <= bound <= scipy_cost(cost) * (1 + 1e-12)


def test_bound_closes_in(cpu_backend):
    cost = costs(257, "placement", torch.float32)
    found, _ = search.matching(cost, torch.arange(257))
    bounds = [search.assignment_bound(cost, found, rounds) for rounds in range(8)]
    assert bounds == sorted(bounds) and bounds[0] < bounds[-1]
    assert bounds[4] > 0.99 * search.assigned_cost(cost, found)


@pytest.mark.parametrize("value", (float("inf"), float("-inf"), float("nan")))
@pytest.mark.parametrize("n", (1, 5, 33))
def test_refuses_what_is_not_finite(n, value, backend):
    cost = costs(n, "random")
    cost[n // 2, n - 1] = value
    for call in (search.linear_assignment, lambda c: search.assignment_bound(c, torch.arange(n))):
        with pytest.raises(ValueError, match="cost must be finite"):
            call(cost)


def test_refuses_other_shapes(backend):
    with pytest.raises(ValueError, match="cost must have shape"):
        search.linear_assignment(torch.zeros(3, 4))
    with pytest.raises(ValueError, match="every index"):
        search.assignment_bound(torch.zeros(3, 3), torch.tensor([0, 1, 1]))


def test_nothing_to_assign(backend):
    assert search.linear_assignment(torch.zeros(0, 0)).tolist() == []
    assert search.assignment_bound(torch.zeros(0, 0), torch.zeros(0, dtype=torch.int64)) == 0


def test_interrupt_ends_it(cpu_backend):
    """From a bad start it takes seconds; the interrupt is seen between two rounds."""
    from bimt_fast.kernels import cpu

    n = 2048
    slots = inputs.positions(n, 1, "grid", dtype=torch.float32)
    cost = search_cost(slots, torch.randn(n, n, generator=inputs.generator("interrupt")))
    start = torch.arange(n)
    interrupt = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    interrupt.start()
    with pytest.raises(KeyboardInterrupt):
        cpu.linear_assignment(cost, start)
        time.sleep(5)  # so that an interrupt that came late is not taken for one in time
    interrupt.join()
    assert torch.equal(start, torch.arange(n))

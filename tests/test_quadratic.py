"""Quadratic assignment: exact deltas, true optima, known values, and the same results on every machine."""

import itertools
import multiprocessing
import os
import signal
import threading
import time
import warnings

import inputs
import numpy as np
import pytest
import torch

import bimt_fast as bf
from bimt_fast import search
from bimt_fast.quadratic import Problem, Walks, _Crew

STRATEGIES = ("greedy", "matching", "tabu")
QAPLIB = inputs.DATA / "qaplib"
KINDS = ("symmetric", "general", "one-sided", "sparse", "ties", "large", "floats", "negative")


def matrices(n, kind, seed=0):
    """Flow and distance with non-zero diagonals, in float64."""
    flow, distance = ((9 * inputs.flow_matrix(n, k, kind, seed)).round() for k in ("flow", "distance"))
    if kind in ("symmetric", "large"):
        flow, distance = flow + flow.T, distance + distance.T
    if kind == "one-sided":
        distance = distance + distance.T
    if kind == "sparse":
        flow = flow * (flow > 12)
    if kind == "ties":
        flow, distance = (flow > 8).double(), (distance > 8).double()
    if kind == "large":
        flow, distance = 10**8 * flow, 1000 * distance
    if kind == "floats":
        flow, distance = flow.sqrt(), distance.sqrt()
    return (-flow, distance) if kind == "negative" else (flow, distance)


def total(flow, distance, assignment):
    return (flow * distance[assignment][:, assignment]).sum().item()


def swapped(assignment, r, s):
    assignment = assignment.clone()
    assignment[[r, s]] = assignment[[s, r]]
    return assignment


def true_deltas(problem, assignment):
    n, now = problem.n, problem.cost(assignment)
    delta = torch.zeros(n, n, dtype=torch.float64)
    for r, s in itertools.combinations(range(n), 2):
        delta[r, s] = problem.cost(swapped(assignment, r, s)) - now
    return delta


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", (2, 7, 17))
def test_every_step_is_the_best_by_brute_force(n, kind, backend):
    """One iteration at a time: each takes the smallest of all deltas, and gains what it says."""
    flow, distance = matrices(n, kind)
    linear = 20 * inputs.matrix(n, n, seed="linear").round()
    for problem in (Problem(flow, distance), Problem(flow, distance, linear)):
        assignment = inputs.permutation(n)
        close = 1e-12 * max(1.0, np.abs(problem.flow).sum() * np.abs(problem.distance).max())
        for _ in range(60):
            delta = true_deltas(problem, assignment)
            walks = Walks(problem, assignment[None], [0])
            walks.run([1], False, float("inf"))
            (new,) = walks.found
            assert problem.cost(new) - problem.cost(assignment) == pytest.approx(
                min(0.0, delta.min().item()), abs=close
            )
            assert walks.costs[0] == pytest.approx(problem.cost(new), abs=close)
            if torch.equal(new, assignment):
                assert walks.iterations == 0 and delta.min() >= -close
                break
            assignment = new
        else:
            pytest.fail("no 2-opt in 60 swaps")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", (5, 16, 35))
def test_long_walks_lose_nothing(n, kind, backend):
    """After hundreds of updates the gains still are those of the assignments, to the bit for integers."""
    problem = Problem(*matrices(n, kind))
    starts = torch.stack([inputs.permutation(n, k) for k in range(2)])
    walks = Walks(problem, starts, range(2))
    walks.run([400] * 2, True, float("inf"))
    assert walks.iterations == 800
    expected = [problem.cost(a) for a in walks.found]
    assert walks.costs.tolist() == (pytest.approx(expected, rel=1e-12) if kind == "floats" else expected)
    assert all(torch.equal(a.sort().values, torch.arange(n)) for a in walks.found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("n", range(1, 8))
def test_optimum_of_small_ones(n, kind, backend):
    flow, distance = matrices(n, kind)
    everyone = torch.tensor(list(itertools.permutations(range(n))))
    costs = (flow * distance[everyone[:, :, None], everyone[:, None, :]]).sum((1, 2))
    found = bf.quadratic_assignment(flow, distance, max_iterations=600)
    assert found.cost == pytest.approx(costs.min().item(), rel=1e-12)
    assert found.cost == pytest.approx(total(flow, distance, found.assignment), rel=1e-12)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("n", (0, 1, 2, 3, 15, 33))
def test_result(n, strategy, backend):
    flow, distance = matrices(n, "general")
    start = inputs.permutation(n)
    found = bf.quadratic_assignment(flow, distance, strategy=strategy, assignment=start, max_iterations=100)
    assert isinstance(found.cost, float) and found.cost == total(flow, distance, found.assignment)
    assert found.cost <= total(flow, distance, start) and found.seconds > 0
    assert found.assignment.dtype == torch.int64
    assert torch.equal(found.assignment.sort().values, torch.arange(n))
    assert 0 <= found.iterations <= 100
    assert torch.equal(start, inputs.permutation(n))


def test_matching_ends_in_a_local_minimum(backend):
    flow, distance = matrices(12, "general")
    found = bf.quadratic_assignment(flow, distance, strategy="matching", starts=3)
    assert true_deltas(Problem(flow, distance), found.assignment).min() >= 0


def test_greedy_lets_every_neuron_take_its_best_swap(backend):
    flow, distance = matrices(9, "general")
    slot = inputs.permutation(9)
    found = bf.quadratic_assignment(flow, distance, strategy="greedy", assignment=slot)
    for r in (flow.sum(0) + flow.sum(1)).argsort(descending=True, stable=True).tolist():
        costs = [total(flow, distance, swapped(slot, r, s)) for s in range(9)]
        s = costs.index(min(costs))
        slot = slot if costs[s] == costs[r] else swapped(slot, r, s)
    assert torch.equal(found.assignment, slot)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_more_starts_are_better(strategy, backend):
    flow, distance = matrices(20, "general")
    one, many = (
        bf.quadratic_assignment(flow, distance, strategy=strategy, starts=k, max_iterations=50) for k in (1, 5)
    )
    assert many.cost <= one.cost and many.iterations > one.iterations


def test_population_without_progress_gives_way_to_a_larger_one():
    crew, sizes = _Crew(inputs.permutation(9), False, float("inf"), np.random.default_rng(0)), []
    for _ in range(105):
        count = len(crew.plan())
        offspring = crew.offspring(count)
        assert torch.equal(offspring.sort(1).values, torch.arange(9).expand(count, 9))
        if not crew.found:
            sizes.append(count)
        crew.learn(offspring, np.ones(count))
    assert sizes == [8, 16, 32, 64, 64]


def test_kinds_of_matrices(backend):
    flow, distance = matrices(10, "general")
    settings = dict(max_iterations=200, seed=3)
    expected = bf.quadratic_assignment(flow, distance, **settings)
    for convert in (torch.Tensor.float, torch.Tensor.bfloat16, torch.Tensor.short, torch.Tensor.numpy):
        found = bf.quadratic_assignment(convert(flow), convert(distance), **settings)
        assert found.cost == expected.cost and torch.equal(found.assignment, expected.assignment)
    whole = bf.quadratic_assignment(flow.numpy().astype(np.int32), distance.T.contiguous().T, **settings)
    assert torch.equal(whole.assignment, expected.assignment)
    start = expected.assignment.numpy().astype(np.int32)
    again = bf.quadratic_assignment(flow, distance, assignment=start, max_iterations=0)
    assert torch.equal(again.assignment, expected.assignment) and again.iterations == 0


BAD = {
    "flow-list": (dict(flow=[[0.0]]), TypeError, "flow"),
    "flow-complex": (dict(flow=torch.ones(5, 5, dtype=torch.complex64)), TypeError, "flow"),
    "flow-strings": (dict(flow=np.full((5, 5), "a")), TypeError, "flow"),
    "flow-oblong": (dict(flow=torch.ones(5, 4)), ValueError, "flow"),
    "flow-1-axis": (dict(flow=torch.ones(5)), ValueError, "flow"),
    "flow-nan": (dict(flow=torch.full((5, 5), torch.nan)), ValueError, "flow"),
    "distance-size": (dict(distance=torch.ones(4, 4)), ValueError, "distance"),
    "distance-infinite": (dict(distance=np.full((5, 5), np.inf)), ValueError, "distance"),
    "strategy": (dict(strategy="annealing"), ValueError, "strategy"),
    "assignment-float": (dict(assignment=torch.arange(5.0)), TypeError, "assignment"),
    "assignment-twice": (dict(assignment=torch.zeros(5, dtype=torch.int64)), ValueError, "assignment"),
    "assignment-size": (dict(assignment=torch.arange(4)), ValueError, "assignment"),
    "starts-0": (dict(starts=0), ValueError, "starts"),
    "starts-float": (dict(starts=2.0), TypeError, "starts"),
    "max_iterations-negative": (dict(max_iterations=-1), ValueError, "max_iterations"),
    "max_iterations-bool": (dict(max_iterations=True), TypeError, "max_iterations"),
    "time_limit-negative": (dict(time_limit=-1), ValueError, "time_limit"),
    "time_limit-nan": (dict(time_limit=float("nan")), ValueError, "time_limit"),
    "time_limit-text": (dict(time_limit="5"), TypeError, "time_limit"),
    "seed-float": (dict(seed=0.5), TypeError, "seed"),
    "seed-negative": (dict(seed=-1), ValueError, "seed"),
}


@pytest.mark.parametrize("arguments, error, name", BAD.values(), ids=BAD)
def test_errors(arguments, error, name):
    flow, distance = matrices(5, "general")
    with pytest.raises(error, match=rf"\b{name} must\b"):
        bf.quadratic_assignment(**(dict(flow=flow, distance=distance) | arguments))


# The same sequence, whatever runs it


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ("symmetric", "general", "ties", "floats"))
def test_threads_change_nothing(strategy, kind, cpu_backend):
    flow, distance = matrices(21, kind)
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            results.append(
                bf.quadratic_assignment(flow, distance, strategy=strategy, starts=2, max_iterations=9999, seed=5)
            )
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert torch.equal(other.assignment, results[0].assignment)
        assert (other.cost, other.iterations) == (results[0].cost, results[0].iterations)


def test_backends_go_the_same_way(cpu_backend):
    flow, distance = matrices(15, "symmetric")
    settings = dict(max_iterations=400, seed=1)
    found = bf.quadratic_assignment(flow, distance, **settings)
    with bf.backend("reference"):
        expected = bf.quadratic_assignment(flow, distance, **settings)
    assert found.cost == expected.cost and torch.equal(found.assignment, expected.assignment)


def test_seeds(backend):
    flow, distance = matrices(40, "floats")
    found = [bf.quadratic_assignment(flow, distance, max_iterations=100, seed=seed) for seed in (1, 1, 2)]
    assert torch.equal(found[0].assignment, found[1].assignment)
    assert not torch.equal(found[0].assignment, found[2].assignment)


def test_slices_change_nothing(cpu_backend):
    """A walk that is cut into many calls goes the same way."""
    problem = Problem(*matrices(40, "general"))
    starts = torch.stack([inputs.permutation(40, k) for k in range(5)])
    whole = Walks(problem, starts, range(5))
    whole.run([300] * 5, True, float("inf"))
    from bimt_fast import quadratic

    cut = Walks(problem, starts, range(5))
    before, quadratic._SLICE = quadratic._SLICE, 1e-6
    try:
        cut.run([300] * 5, True, float("inf"))
    finally:
        quadratic._SLICE = before
    assert torch.equal(cut.found, whole.found) and (cut.costs == whole.costs).all()
    assert cut.iterations == whole.iterations


def test_time_limit(backend):
    flow, distance = matrices(60, "floats")
    began = time.monotonic()
    found = bf.quadratic_assignment(flow, distance, time_limit=0.3)
    assert found.iterations > 0 and found.seconds >= 0.3
    assert time.monotonic() - began < 60  # generous: others may use the machine too
    none = bf.quadratic_assignment(flow, distance, time_limit=0)
    assert none.iterations == 0 and torch.equal(none.assignment.sort().values, torch.arange(60))


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="no signals between threads on this system")
@pytest.mark.parametrize("strategy", ("matching", "tabu"))
def test_interrupt(strategy, cpu_backend):
    flow, distance = matrices(200, "floats")
    main = threading.get_ident()
    timer = threading.Timer(0.5, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            while strategy == "matching":
                bf.quadratic_assignment(flow, distance, strategy=strategy, starts=1000)
            bf.quadratic_assignment(flow, distance, strategy=strategy, max_iterations=10**9)
    finally:
        timer.cancel()
    assert time.monotonic() - began < 60


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_forked_child(cpu_backend):
    flow, distance = matrices(20, "symmetric")
    expected = bf.quadratic_assignment(flow, distance, max_iterations=500)
    receiver, sender = multiprocessing.Pipe(duplex=False)

    def child():
        found = bf.quadratic_assignment(flow, distance, max_iterations=500)
        sender.send(found.assignment.tolist())

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
    try:
        assert receiver.poll(60), "hangs"
        assert receiver.recv() == expected.assignment.tolist()
    finally:
        process.kill()
        process.join()


# Known values

KNOWN = {"nug12": 578, "chr12a": 9552, "nug20": 2570, "bur26a": 5426670, "nug30": 6124, "tai30a": 1818146}


@pytest.mark.parametrize("name", KNOWN)
def test_known_values(name, cpu_backend):
    if not QAPLIB.is_dir():
        pytest.skip(f"no data in {QAPLIB}, BIMT_FAST_DATA may name another folder")
    numbers = np.array((QAPLIB / f"{name}.dat").read_text().split(), dtype=np.int64)
    flow, distance = numbers[1:].reshape(2, numbers[0], numbers[0])
    found = bf.quadratic_assignment(flow, distance, max_iterations=1_000_000)
    assert found.cost == KNOWN[name]


# Recurrent groups


@pytest.mark.parametrize("strategy", ("matching", "tabu"))
@pytest.mark.parametrize("given", (False, True), ids=("products", "placement"))
@pytest.mark.parametrize("n", (1, 2, 17, 70))
def test_recurrent_group(n, given, strategy, backend):
    flow, distance = matrices(n, "floats")
    linear, start = inputs.matrix(n, n, seed="linear"), inputs.permutation(n)
    problem = Problem(flow, distance, linear)

    def placement(a):
        return linear + flow @ distance[:, a].T + flow.T @ distance[a]

    new, _ = search.quadratic(
        linear, flow, distance, start, strategy, placement=placement if given else None, max_iterations=200
    )
    assert problem.cost(new) <= problem.cost(start)
    assert torch.equal(new.sort().values, torch.arange(n))
    if strategy == "matching":
        assert true_deltas(problem, new).min() >= -1e-9 * max(1.0, problem.cost(start))


def test_recurrent_matching_in_float32_never_rises():
    for seed in range(4):
        flow, distance = (x.float() for x in matrices(50, "floats", seed))
        linear, start = inputs.matrix(50, 50, seed=seed, dtype=torch.float32), inputs.permutation(50, seed)
        problem = Problem(*(x.double() for x in (flow, distance, linear)))
        new, swaps = search.quadratic(linear, flow, distance, start, "matching")
        assert swaps > 0 and problem.cost(new) < problem.cost(start)
        again, swaps = search.quadratic(linear, flow, distance, new, "matching")
        assert problem.cost(again) <= problem.cost(new)

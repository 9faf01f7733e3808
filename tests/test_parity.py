"""Every op of every backend against the reference in float64, at awkward sizes, strides and positions."""

from functools import lru_cache

import inputs
import pytest
import torch

import bimt_fast as bf
from bimt_fast import backends
from bimt_fast.geometry import METRICS

pytestmark = pytest.mark.usefixtures("nan_in_fresh_memory")


def largest(tensors) -> float:
    """The largest magnitude in any of the float tensors, 0 where there is none."""
    floats = [x for x in tensors if x is not None and x.numel() and x.is_floating_point()]
    return max((x.abs().max().item() for x in floats), default=0.0)


def expected_results(op, arguments):
    with bf.backend("reference"):
        return inputs.call(op, inputs.fresh(arguments, torch.float64))


@lru_cache(maxsize=1)
def samples_and_expected(op, dtype, metric, n):
    samples = inputs.SAMPLES[op](dtype, metric, n)
    return [(name, arguments, expected_results(op, arguments)) for name, arguments in samples]


def magnitude(op, arguments, expected) -> float:
    """What rounding errors are measured against: the largest result, or for differences the largest term."""
    if op not in ("swap_deltas", "best_swaps"):
        return largest([expected])
    cost, _, flow, distance = arguments
    return largest([cost]) + 4 * largest([flow]) * largest([distance])


def check_close(name, op, arguments, results, expected, dtype):
    assert len(results) == len(expected), name
    for got, want in zip(results, expected, strict=True):
        assert got.shape == want.shape and got.dtype == dtype, name
        assert not got.isnan().any(), f"{name}: an element was not written"
        worst = largest([got.double() - want])
        allowed = inputs.TOLERANCE[dtype] * magnitude(op, arguments, want)
        assert worst <= allowed, f"{name}: off by {worst:.3g}, allowed {allowed:.3g}"


# The backends vary fastest, so that they share one computation of what is expected.
@pytest.mark.parametrize("backend", backends.PREFERENCE, indirect=True)
@pytest.mark.parametrize("n", inputs.SIZES)
@pytest.mark.parametrize("dtype", inputs.DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("op", sorted(set(inputs.SAMPLES) - {"best_swaps", "placement_swaps"}))
def test_op(op, metric, dtype, n, backend):
    for name, arguments, expected in samples_and_expected(op, dtype, metric, n):
        results = inputs.call(op, arguments)
        if op == "connection_cost_backward":  # what was not asked for is empty, whatever it holds
            needed = [k for k in range(3) if arguments[-1][k]]
            results, expected = [results[k] for k in needed], [expected[k] for k in needed]
        check_close(name, op, arguments, results, expected, dtype)


@pytest.mark.parametrize("n", inputs.SIZES)
@pytest.mark.parametrize("dtype", inputs.DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_best_swaps(dtype, n, backend):
    rows = torch.arange(n)
    for name, arguments in inputs.SAMPLES["best_swaps"](dtype, "l1", n):
        delta, partner = inputs.call("best_swaps", arguments)
        best, best_partner = expected_results("best_swaps", arguments)
        assert partner.dtype == torch.int64, name
        check_close(name, "best_swaps", arguments, [delta], [best], dtype)
        if dtype == torch.float64 or any(kind in name for kind in ("ties", "best", "equal")):
            assert torch.equal(partner, best_partner), f"{name}: {partner.tolist()} for {best_partner.tolist()}"
        (deltas,) = expected_results("swap_deltas", arguments)
        allowed = inputs.TOLERANCE[dtype] * magnitude("best_swaps", arguments, deltas)
        assert largest([deltas[rows, partner] - best]) <= allowed, f"{name}: a partner is not the best one"
        assert (delta <= 0).all() and torch.equal(delta == 0, partner == rows), name


@pytest.mark.parametrize("dtype", inputs.DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_many_peers_lose_no_precision(dtype, cpu_backend):
    """What plain float32 sums do lose, those of the reference too."""
    n, m = 8, 65536
    for kind in ("random", "far"):
        slots, peers = inputs.positions(n, 2, kind, "slots", dtype), inputs.positions(m, 2, kind, "peers", dtype)
        incoming, outgoing = inputs.matrix(n, m, dtype=dtype), inputs.matrix(m, n, dtype=dtype)
        arguments = (slots, [incoming, outgoing], [peers, peers], 1, "l1", [1.0, 1.0])
        expected = expected_results("placement_cost", arguments)
        check_close(kind, "placement_cost", arguments, inputs.call("placement_cost", arguments), expected, dtype)
        arguments = (incoming, slots, peers, "l1", 1.0, 0.1)
        expected = expected_results("connection_cost", arguments)
        check_close(kind, "connection_cost", arguments, inputs.call("connection_cost", arguments), expected, dtype)


def test_inputs_are_left_alone(backend):
    for op, samples in inputs.SAMPLES.items():
        for name, arguments in samples(torch.float64, "l1", 17):
            mine = inputs.fresh(arguments)
            getattr(torch.ops.bimt_fast, op)(*mine)
            if op == "add_grad":
                mine, arguments = (mine[0], *mine[2:]), (arguments[0], *arguments[2:])
            for before, after in zip(inputs.tensors(arguments), inputs.tensors(mine), strict=True):
                assert torch.equal(before, after), f"{op} {name}"


def test_gradients_written_through_gaps_touch_nothing_else(backend):
    memory = torch.full((9, 10), 7.0)
    grad = memory[1::2, 1::3]
    weight, out_pos, in_pos = inputs.matrix(4, 3, dtype=torch.float32), torch.rand(4, 1), torch.rand(3, 1)
    bf.add_grad_(weight, grad, out_pos, in_pos)
    rest = torch.ones_like(memory, dtype=torch.bool)
    rest[1::2, 1::3] = False
    assert (memory[rest] == 7).all()
    assert (grad[weight != 0] != 7).all()

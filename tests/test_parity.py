"""Every op of every backend against the reference in float64, at awkward sizes, strides and positions."""

import itertools
from functools import lru_cache

import inputs
import pytest
import torch

import bimt_fast as bf
from bimt_fast import backends, ops
from bimt_fast.kernels import reference

pytestmark = pytest.mark.usefixtures("nan_in_fresh_memory")


def largest(tensors) -> float:
    """The largest magnitude in any of the float tensors, 0 where there is none."""
    floats = [x for x in tensors if x is not None and x.numel() and x.is_floating_point()]
    return max((x.abs().max().item() for x in floats), default=0.0)


def expected_results(op, arguments):
    with bf.backend("reference"):
        return inputs.call(op, inputs.fresh(arguments, torch.float64), "cpu")


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


def result_dtypes(op, arguments, count):
    """The compute dtype of the weights, but gradients have the dtype of what they belong to."""
    if op == "placement_cost_backward":
        return [x.dtype for x in (arguments[1], *arguments[2], *arguments[3])]
    if op == "connection_cost_backward":
        return [x.dtype for x, need in zip(arguments[1:4], arguments[7], strict=True) if need]
    weight = inputs.tensors(arguments)[0]
    if op == "adamw":
        steps = len(arguments[4])
        return [inputs.compute(weight.dtype), *[weight.dtype] * (count - 1 - steps), *[torch.float32] * steps]
    later = weight.dtype if op in inputs.CHANGED else inputs.compute(weight.dtype)
    if op == "placement_cost":  # indices have no dtype of their own
        weight = later = next(x for x in inputs.tensors(arguments)[::-1] if x.is_floating_point())
        return [inputs.compute(weight.dtype)]
    return [inputs.compute(weight.dtype), *[later] * (count - 1)]


def check_close(name, op, arguments, results, expected):
    dtypes = result_dtypes(op, arguments, len(results))
    for got, want, dtype in zip(results, expected, dtypes, strict=True):
        assert got.shape == want.shape and got.dtype == dtype, name
        assert not got.isnan().any(), f"{name}: an element was not written"
        if not dtype.is_floating_point:
            assert torch.equal(got, want), name
            continue
        worst = largest([got.double() - want])
        # Gradients for positions are sums whose terms cancel: measured against the largest of all.
        whole = largest(expected) if op == "placement_cost_backward" else 0.0
        allowed = inputs.TOLERANCE[dtype] * max(magnitude(op, arguments, want), whole)
        assert worst <= allowed, f"{name}: off by {worst:.3g}, allowed {allowed:.3g}"


def cases():
    """Op, metric and dtype; costs of swaps know no metric and no 16-bit dtype."""
    for op in sorted(
        set(inputs.SAMPLES) - {"best_swaps", "placement_swaps", "quadratic_walks", "label_nulls", "permute_"}
    ):
        if op in inputs.METRIC_FREE:
            yield from ((op, "l1", dtype) for dtype in inputs.DTYPES)
        else:
            dtypes = (*inputs.DTYPES, *inputs.NARROW_DTYPES)
            yield from ((op, metric, dtype) for metric in inputs.METRICS for dtype in dtypes)


def every_case():
    """The product of cases, sizes and backends; the backends vary fastest and share one computation of the truth."""
    for (op, metric, dtype), n, backend in itertools.product(cases(), inputs.SIZES, inputs.BACKENDS):
        if inputs.is_tested(backend, dtype, n):
            name = f"{op}-{metric}-{str(dtype).removeprefix('torch.')}-{n}-{backend}"
            yield pytest.param(op, metric, dtype, n, backend, id=name)


@pytest.mark.parametrize("op, metric, dtype, n, backend", list(every_case()), indirect=["backend"])
def test_op(op, metric, dtype, n, backend):
    samples = samples_and_expected(op, dtype, metric, n)
    for name, arguments, expected in inputs.met_by(backend, samples, op, dtype, metric, n):
        results = inputs.call(op, arguments)
        if op == "connection_cost_backward":  # what was not asked for is empty, whatever it holds
            needed = [k for k in range(3) if arguments[7][k]]
            results, expected = [results[k] for k in needed], [expected[k] for k in needed]
        check_close(name, op, arguments, results, expected)


def swap_cases(dtypes):
    for dtype, n, backend in itertools.product(dtypes, inputs.SIZES, inputs.BACKENDS):
        if inputs.is_tested(backend, dtype, n):
            yield pytest.param(dtype, n, backend, id=f"{str(dtype).removeprefix('torch.')}-{n}-{backend}")


@pytest.mark.parametrize("dtype, n, backend", list(swap_cases(inputs.DTYPES)), indirect=["backend"])
def test_best_swaps(dtype, n, backend):
    rows = torch.arange(n)
    for name, arguments in inputs.SAMPLES["best_swaps"](dtype, "l1", n):
        delta, partner = inputs.call("best_swaps", arguments)
        best, best_partner = expected_results("best_swaps", arguments)
        assert partner.dtype == torch.int64, name
        check_close(name, "best_swaps", arguments, [delta], [best])
        if dtype == torch.float64 or any(kind in name for kind in ("ties", "best", "equal")):
            assert torch.equal(partner, best_partner), f"{name}: {partner.tolist()} for {best_partner.tolist()}"
        (deltas,) = expected_results("swap_deltas", arguments)
        allowed = inputs.TOLERANCE[dtype] * magnitude("best_swaps", arguments, deltas)
        assert largest([deltas[rows, partner] - best]) <= allowed, f"{name}: a partner is not the best one"
        assert (delta <= 0).all() and torch.equal(delta == 0, partner == rows), name


def walk_cases(sizes, names):
    for dtype, n, backend in itertools.product(inputs.DTYPES, sizes, names):
        if inputs.is_walked(backend, dtype, n):
            yield pytest.param(dtype, n, backend, id=f"{str(dtype).removeprefix('torch.')}-{n}-{backend}")


WALKED = (0, 1, 2, 15, 16, 17, 33, 65, 97)


@pytest.mark.parametrize("dtype, n, backend", list(walk_cases(WALKED, inputs.BACKENDS)), indirect=["backend"])
def test_quadratic_walks(dtype, n, backend):
    for name, arguments in inputs.SAMPLES["quadratic_walks"](dtype, "l1", n):
        results = inputs.call("quadratic_walks", arguments)
        for got, want in zip(results, expected_results("quadratic_walks", arguments), strict=True):
            assert torch.equal(got, want), name


@pytest.mark.parametrize(
    "n, dtype, work, steps",
    (
        (9, torch.float32, 1, 60),
        (9, torch.float64, 300, 60),
        (50, torch.float32, 40_000, 60),
        (161, torch.float64, 2**20, 3),
    ),
)
def test_quadratic_walks_cut_into_launches(n, dtype, work, steps, simulated_gpu, monkeypatch):
    """With more walks than run side by side; one, several and many warps a walk."""
    from bimt_fast.kernels import cuda_search

    monkeypatch.setattr(cuda_search, "_WORK", work)
    for name, arguments in inputs.SAMPLES["quadratic_walks"](dtype, "l1", n):
        limits = arguments[5].clamp(max=steps)
        expected = expected_results("quadratic_walks", (*arguments[:5], limits, *arguments[6:]))
        calls = 0
        with bf.backend("cuda"):
            memory = cuda_search.quadratic_memory(n, arguments[0].dtype, 2)
            tensors = inputs.fresh((*arguments[:5], limits, *arguments[6:8]))
            while not cuda_search.quadratic_ended(memory, len(limits)):
                torch.ops.bimt_fast.quadratic_walks(*tensors, memory, *arguments[9:-1], 0.0)
                calls += 1
        assert calls > 3, name
        for got, want in zip([tensors[k] for k in inputs.CHANGED["quadratic_walks"]], expected, strict=True):
            assert torch.equal(got, want), name


@pytest.mark.parametrize("dtype, n, backend", list(swap_cases([torch.float32])), indirect=["backend"])
def test_label_nulls(dtype, n, backend):
    for name, arguments in inputs.SAMPLES["label_nulls"](dtype, "l1", n):
        (got,), (want,) = inputs.call("label_nulls", arguments), expected_results("label_nulls", arguments)
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")
        assert torch.equal(got[:, 0], want[:, 0]), name


@pytest.mark.parametrize("backend", inputs.BACKENDS, indirect=True)
@pytest.mark.parametrize("n", (1, 2, 17, 65))
def test_permute(n, backend):
    """Against a loop, for elements of 1 to 16 bytes, at addresses that allow wide words and others."""
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.uint8, torch.bool, torch.complex128):
        for name, (tensor, axis, to, source) in inputs.SAMPLES["permute_"](torch.float64, "l1", n):
            (tensor,) = inputs.fresh((tensor,))
            converted = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype).copy_(10 * tensor.abs())
            expected = converted.clone()
            for place, other in zip(to.tolist(), source.tolist(), strict=True):
                expected.select(axis, place).copy_(converted.select(axis, other))
            (changed,) = inputs.call("permute_", (converted, axis, to, source))
            assert torch.equal(changed.cpu(), expected), f"{name} {dtype}"


@pytest.mark.parametrize("metric", inputs.METRICS)
@pytest.mark.parametrize("dtype", inputs.DTYPES, ids=lambda d: str(d).removeprefix("torch."))
def test_many_peers_lose_no_precision(dtype, metric, cpu_backend):
    """What plain float32 sums do lose, those of the reference too."""
    n, m = 8, 65536
    for kind in ("random", "far"):
        slots = inputs.positions(n, 2, kind, "slots", dtype, metric)
        peers = inputs.positions(m, 2, kind, "peers", dtype, metric)
        lengths = inputs.table(metric, dtype)
        incoming, outgoing = inputs.matrix(n, m, dtype=dtype), inputs.matrix(m, n, dtype=dtype)
        arguments = (slots, [incoming, outgoing], [peers, peers], 1, metric, [1.0, 1.0], lengths)
        expected = expected_results("placement_cost", arguments)
        check_close(kind, "placement_cost", arguments, inputs.call("placement_cost", arguments), expected)
        if dtype == torch.float32:  # in float64, what cancels in the reference is as large as the tolerance
            arguments = (inputs.matrix(n, n, "transposed", "grad", dtype), *arguments)
            expected = expected_results("placement_cost_backward", arguments)
            results = inputs.call("placement_cost_backward", arguments)
            check_close(kind, "placement_cost_backward", arguments, results, expected)
        arguments = (incoming, slots, peers, metric, 1.0, 0.1, lengths)
        expected = expected_results("connection_cost", arguments)
        check_close(kind, "connection_cost", arguments, inputs.call("connection_cost", arguments), expected)


def test_inputs_are_left_alone(backend):
    for op, samples in inputs.SAMPLES.items():
        for name, arguments in samples(torch.float64, "l1", 17):
            mine = inputs.fresh(arguments)
            getattr(torch.ops.bimt_fast, op)(*mine)
            kept = [k for k in range(len(mine)) if k not in inputs.CHANGED.get(op, ())]
            mine, arguments = [mine[k] for k in kept], [arguments[k] for k in kept]
            for before, after in zip(inputs.tensors(arguments), inputs.tensors(mine), strict=True):
                assert torch.equal(before, after), f"{op} {name}"


@pytest.mark.parametrize("backend", inputs.BACKENDS, indirect=True)
def test_gradients_written_through_gaps_touch_nothing_else(backend):
    memory = torch.full((9, 10), 7.0)
    grad = memory[1::2, 1::3]
    weight, out_pos, in_pos = inputs.matrix(4, 3, dtype=torch.float32), torch.rand(4, 1), torch.rand(3, 1)
    bf.add_grad_(weight, grad, out_pos, in_pos)
    rest = torch.ones_like(memory, dtype=torch.bool)
    rest[1::2, 1::3] = False
    assert (memory[rest] == 7).all()
    assert (grad[weight != 0] != 7).all()


GREEDY = [name for name in inputs.BACKENDS if name != "reference"]


def greedy_cases():
    for dtype, n, backend in itertools.product(inputs.DTYPES, inputs.SIZES, GREEDY):
        wide = (dtype, n) == (torch.float64, 257) and backend != "triton"  # where more than a warp visits
        if n and (inputs.is_tested(backend, dtype, n) or wide):
            yield pytest.param(dtype, n, backend, id=f"{str(dtype).removeprefix('torch.')}-{n}-{backend}")


@pytest.mark.parametrize("dtype, n, backend", list(greedy_cases()), indirect=["backend"])
def test_greedy_swaps(dtype, n, backend):
    start = inputs.permutation(n).to(inputs.device)
    slots = torch.arange(n).repeat(2).to(inputs.device)[: None if backend == "cpu" else 40]
    for kind, cost in (("random", inputs.matrix(n, n, dtype=dtype)), ("ties", inputs.matrix(n, n).round().to(dtype))):
        cost = cost.to(inputs.device)
        for strided in (cost, cost.T, torch.stack([cost, cost], dim=2)[:, :, 0]):
            ours, theirs = start.clone(), start.clone()
            swaps = backends.kernels(cost.device).greedy_swaps(strided, ours, slots)
            assert swaps == reference.greedy_swaps(strided, theirs, slots), kind
            assert torch.equal(ours, theirs), kind
            assert n == 1 or kind == "ties" or swaps


@pytest.mark.parametrize("n", inputs.SIZES)
@pytest.mark.parametrize("metric", inputs.METRICS)
def test_total_cost(metric, n, backend):
    for name, arguments in inputs.SAMPLES["add_grad"](torch.float32, metric, n):
        weights, _, out_pos, in_pos, metric, _, *settings = arguments
        got = ops.total_cost(weights, out_pos, in_pos, metric, *settings)
        expected = expected_results("add_grad", arguments)[0].item()
        assert got == pytest.approx(expected, rel=2e-6), name

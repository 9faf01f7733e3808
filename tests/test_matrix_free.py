"""Best swaps without the placement matrix, against best_swaps of that matrix and against brute force."""

import subprocess
import sys

import inputs
import numpy as np
import pytest
import torch

import bimt_fast as bf
from bimt_fast.kernels import cpu, cuda_placement

SIZES = (0, 1, 2, 15, 17, 33, 63, 65, 97, 257, 700)
LAYOUTS = ("line", "grid2", "grid3", "random1", "random2", "random3", "duplicates1", "duplicates2", "sorted1")
WAYS = ("tables", "bands", "panels")


def force(way, monkeypatch):
    """How C is made again (csrc/cpu/kernels/placement_swaps.cpp): small layers would use tables, or a single panel."""
    if way != "tables":
        monkeypatch.setattr(cpu, "_LITTLE_MEMORY", 0)
    if way == "panels":
        monkeypatch.setattr(cpu, "_MEMORY_PART", 10**12)


@pytest.fixture(params=WAYS)
def way(request, cpu_backend, monkeypatch):
    force(request.param, monkeypatch)
    return request.param


def points(n, layout, seed, dtype):
    dtype = inputs.compute(dtype)
    if layout == "line":
        return bf.geometry.line(n, dtype=dtype)
    kind, dim = layout[:-1], int(layout[-1])
    if kind == "sorted":  # with ties that bands must not tear
        return (inputs.positions(n, dim, "random", seed) * max(1, n // 3)).round().sort(0).values.to(dtype)
    return inputs.positions(n, dim, kind, seed, dtype)


def layer(n, layout, dtype=torch.float64, integer=False, zeros=(), metric="l1"):
    """Arguments of placement_cost: a group between two others, some of its neurons without weights."""
    m = inputs.other_size(n)
    weights = [
        inputs.matrix(n, m, inputs.LAYOUTS[n % 3], 1, dtype),
        inputs.matrix(n, n, "transposed", 2, dtype),
        inputs.matrix(m, n, "contiguous", 3, dtype),
    ]
    places = [points(size, layout, k, dtype) for k, size in enumerate((n, m, n, m))]
    coefficients = [0.7, 1.0, 0.2]
    if integer:
        weights, places = [w.round() for w in weights], [(8 * x).round() for x in places]
        coefficients = [1.0, 2.0, 1.0]
    for w, neurons in zip(weights, (0, 0, 1), strict=True):
        w.index_fill_(neurons, torch.as_tensor(zeros, dtype=torch.int64), 0)
    return places[0], weights, places[1:], 2, metric, coefficients


def all_deltas(arguments, table=None):
    with bf.backend("reference"):
        cost = torch.ops.bimt_fast.placement_cost(*inputs.fresh((*arguments, table), torch.float64))
        return bf.swap_deltas(cost), max(1.0, cost.abs().max().item()) if cost.numel() else 1.0


def check_best(arguments, exact):
    deltas, magnitude = all_deltas(arguments)
    dtype, n = arguments[0].dtype, len(deltas)
    allowed = inputs.TOLERANCE[dtype] * magnitude
    delta, partner = torch.ops.bimt_fast.placement_swaps(*arguments, None)
    best = deltas.clamp(max=0).amin(1) if n else deltas.new_zeros(0)
    rows = torch.arange(n)
    assert delta.dtype == dtype and partner.dtype == torch.int64
    assert torch.allclose(delta.double(), best, rtol=0, atol=allowed)
    assert torch.allclose(deltas[rows, partner], best, rtol=0, atol=allowed), "a partner is not the best one"
    assert (delta <= 0).all() and torch.equal(delta == 0, partner == rows)
    if exact:
        with_matrix = bf.best_swaps(torch.ops.bimt_fast.placement_cost(*arguments))
        assert torch.equal(partner, with_matrix[1])


@pytest.mark.parametrize("dtype", (*inputs.DTYPES, *inputs.NARROW_DTYPES), ids=lambda x: str(x).removeprefix("torch."))
@pytest.mark.parametrize("metric", inputs.METRICS)
def test_every_metric_and_dtype(metric, dtype, backend, monkeypatch):
    for n in (0, 1, 33, 257) if backend == "cpu" else (33,):
        for name, (*arguments, table) in list(inputs.placement_cost(dtype, metric, n))[-3:]:
            deltas, magnitude = all_deltas(arguments, table)
            allowed = inputs.TOLERANCE[inputs.compute(dtype)] * magnitude
            for way in WAYS if backend == "cpu" else WAYS[:1]:
                with monkeypatch.context() as patch:
                    force(way, patch)
                    best = torch.ops.bimt_fast.placement_swaps(*arguments, None, table)
                    pairs = torch.ops.bimt_fast.placement_swaps(*arguments, 9, table)
                check_every_neuron(*best, deltas, allowed, f"{way} {name}")
                check_pairs(*pairs, deltas, allowed, f"{way} {name}")


def check_every_neuron(delta, partner, deltas, allowed, name):
    rows = torch.arange(len(deltas))
    best = deltas.clamp(max=0).amin(1) if len(deltas) else delta.double()
    assert torch.allclose(delta.double(), best, rtol=0, atol=allowed), name
    assert torch.allclose(deltas[rows, partner], best, rtol=0, atol=allowed), name
    assert (delta <= 0).all() and torch.equal(delta == 0, partner == rows), name


def check_pairs(delta, pairs, deltas, allowed, name):
    first, second = pairs[delta < 0].T
    best = deltas[tuple(torch.triu_indices(*deltas.shape, offset=1))].clamp(max=0).sort().values[: len(delta)]
    assert delta.shape == best.shape and torch.allclose(delta.double(), best, rtol=0, atol=allowed), name
    assert torch.allclose(deltas[first, second], delta[delta < 0].double(), rtol=0, atol=allowed), name
    assert (first < second).all() and torch.equal(delta, delta.sort().values) and not pairs[delta == 0].any(), name
    assert len({*zip(first.tolist(), second.tolist(), strict=True)}) == len(first), name


@pytest.mark.parametrize("metric", inputs.METRICS)
def test_equal_slots_make_no_difference(metric, way):
    n, m = 257, 150
    for dtype in inputs.DTYPES:
        slots, peers = (inputs.positions(k, 2, "duplicates", k, dtype, metric) for k in (n, m))
        weights = [inputs.matrix(n, m, "transposed", dtype=dtype), inputs.matrix(m, n, "strided", dtype=dtype)]
        arguments = (slots, weights, [peers, peers], 1, metric, [0.7, 1.0])
        delta, pairs = torch.ops.bimt_fast.placement_swaps(*arguments, n * n, inputs.table(metric, dtype))
        pairs = pairs[delta < 0]
        moved = (slots[pairs[:, 0]] != slots[pairs[:, 1]]).reshape(len(pairs), -1).any(1)
        assert len(pairs) > n and moved.all()


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("dtype", inputs.DTYPES, ids=str)
def test_equals_the_search_on_the_matrix(dtype, n, layout, way):
    check_best(layer(n, layout, dtype), exact=dtype == torch.float64)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", inputs.DTYPES, ids=str)
def test_lowest_index_on_ties(dtype, layout, way):
    for n in (17, 97, 257):
        check_best(layer(n, layout, dtype, integer=True), exact=True)


@pytest.mark.parametrize("layout", ("line", "grid2", "random2", "sorted1"))
def test_neurons_without_weights(layout, way):
    for n, zeros in ((97, range(97)), (257, range(1, 257, 2)), (700, range(350)), (700, range(0, 700, 3))):
        for dtype in inputs.DTYPES:
            check_best(layer(n, layout, dtype, zeros=list(zeros)), exact=dtype == torch.float64)
        check_best(layer(n, layout, integer=True, zeros=list(zeros)), exact=True)


@pytest.mark.parametrize("layout", ("line", "grid2", "random2", "random3"))
def test_pruned_layers_give_the_same_bits(layout, way, monkeypatch):
    """Nine neurons of ten without weights, here and there: however they are left out, nothing else changes."""
    for n in (33, 700):
        zeros = [i for i in range(n) if i % 10 != 3]
        kinds = [(dtype, "l1") for dtype in inputs.DTYPES] + [(torch.float32, "torus-l1"), (torch.float32, "l2")]
        for dtype, metric in kinds:
            arguments = layer(n, layout, dtype, zeros=zeros, metric=metric)
            check_best(arguments, exact=dtype == torch.float64)
            results = [torch.ops.bimt_fast.placement_swaps(*arguments, top_k) for top_k in (None, 50)]
            with monkeypatch.context() as patch:
                patch.setattr(cpu, "_LITTLE_MEMORY", 1 << 30)
                tables = [torch.ops.bimt_fast.placement_swaps(*arguments, top_k) for top_k in (None, 50)]
            assert all(
                torch.equal(a, b)
                for got, want in zip(results, tables, strict=True)
                for a, b in zip(got, want, strict=True)
            )


def best_pairs(deltas, k):
    first, second = torch.triu_indices(*deltas.shape, offset=1)
    found = zip(deltas[first, second].tolist(), first.tolist(), second.tolist(), strict=True)
    return sorted(pair for pair in found if pair[0] < 0)[:k]


@pytest.mark.parametrize("layout", ("line", "grid2", "random2", "duplicates1", "sorted1"))
@pytest.mark.parametrize("n", (0, 1, 2, 17, 65, 257))
def test_top_pairs_by_brute_force(n, layout, way):
    for integer in (False, True):
        for dtype in inputs.DTYPES:
            arguments = layer(n, layout, dtype, integer=integer)
            deltas, magnitude = all_deltas(arguments)
            for k in (0, 1, 5, 100, 10**6):
                delta, pairs = torch.ops.bimt_fast.placement_swaps(*arguments, k)
                assert delta.shape == (min(k, n * (n - 1) // 2),) and pairs.shape == (*delta.shape, 2)
                count = int((delta < 0).sum())
                assert not delta[count:].any() and not pairs[count:].any()
                want = best_pairs(deltas, k)
                if integer or dtype == torch.float64:
                    least = -1e-12 * magnitude  # rounding may feign an improvement, in either of the two
                    mine = [tuple(pair) for x, pair in zip(delta.tolist(), pairs.tolist(), strict=True) if x < least]
                    assert mine == [(r, s) for x, r, s in want if x < least]
                got = torch.tensor([x for x, _, _ in want[:count]], dtype=torch.float64)
                allowed = inputs.TOLERANCE[dtype] * magnitude
                assert torch.allclose(delta[: len(got)].double(), got, rtol=0, atol=allowed)


@pytest.mark.parametrize("backend", ["triton"], indirect=True)
@pytest.mark.parametrize("metric", ("l1", "sql2", "l2"))
def test_strips(metric, backend, monkeypatch):
    """A strip of C at a time finds what the whole matrix does."""
    module = pytest.importorskip("bimt_fast.kernels.triton_placement")
    monkeypatch.setattr(module, "_LITTLE_MEMORY", 0)  # two strips
    for layout, dtype, integer in (("grid2", torch.float32, False), ("sorted1", torch.float64, True)):
        slots, weights, peers, incoming, _, coefficients = layer(97, layout, dtype, integer)
        arguments = (slots, weights, peers, incoming, metric, coefficients)
        check_best(arguments, exact=True)
        with bf.backend("reference"):
            want, pairs = torch.ops.bimt_fast.placement_swaps(*inputs.fresh(arguments, torch.float64), 70)
        got, found = torch.ops.bimt_fast.placement_swaps(*arguments, 70)
        allowed = inputs.TOLERANCE[dtype] * all_deltas(arguments)[1]
        assert torch.allclose(got.double(), want, rtol=0, atol=allowed)
        assert not (integer and metric != "l2") or torch.equal(found, pairs)


def test_reference_pairs():
    arguments = layer(65, "grid2", integer=True)
    native = torch.ops.bimt_fast.placement_swaps(*arguments, 70)
    with bf.backend("reference"):
        expected = torch.ops.bimt_fast.placement_swaps(*arguments, 70)
        best = torch.ops.bimt_fast.placement_swaps(*arguments, None)
    assert all(torch.equal(a, b) for a, b in zip(native, expected, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(torch.ops.bimt_fast.placement_swaps(*arguments, None), best, strict=True)
    )


@pytest.mark.parametrize("metric", inputs.METRICS)
def test_strips_of_the_cuda_kernels(metric, simulated_gpu, monkeypatch):
    """Made a strip at a time, costs have the bits that they have in the matrix, and so do the swaps found in them."""
    monkeypatch.setattr(cuda_placement, "_SEGMENT", 128)
    for name, arguments in list(inputs.SAMPLES["placement_swaps"](torch.float32, metric, 65))[::7]:
        with bf.backend("cuda"), monkeypatch.context() as patch:
            whole = torch.ops.bimt_fast.placement_swaps(*arguments)
            patch.setattr(cuda_placement, "_LITTLE_MEMORY", 0)
            patch.setattr(cuda_placement, "_MEMORY_PART", 10**12)
            strips = torch.ops.bimt_fast.placement_swaps(*arguments)
            if arguments[-2] is None:
                cost = torch.ops.bimt_fast.placement_cost(*arguments[:-2], arguments[-1])
                assert all(torch.equal(a, b) for a, b in zip(whole, bf.best_swaps(cost), strict=True)), name
        assert all(torch.equal(a, b) for a, b in zip(whole, strips, strict=True)), name


@pytest.mark.parametrize("memory", (0, 4 << 20))
def test_strips_of_the_cuda_kernels_by_brute_force(memory, simulated_gpu, monkeypatch):
    monkeypatch.setattr(cuda_placement, "_LITTLE_MEMORY", memory)
    with bf.backend("cuda"):
        for n, layout in ((0, "line"), (1, "line"), (17, "grid2"), (97, "random2"), (97, "sorted1")):
            check_best(layer(n, layout), exact=True)
            check_best(layer(n, layout, torch.float32, integer=True), exact=True)
            arguments = layer(n, layout, integer=True)
            delta, pairs = torch.ops.bimt_fast.placement_swaps(*arguments, 100)
            want = best_pairs(all_deltas(arguments)[0], 100)
            count = int((delta < 0).sum())
            assert [tuple(pair) for pair in pairs.tolist()][:count] == [(r, s) for _, r, s in want]
            assert not delta[count:].any() and not pairs[count:].any() and len(delta) == min(100, n * (n - 1) // 2)


def test_the_cuda_kernels_refuse_what_is_not_finite(simulated_gpu):
    with bf.backend("cuda"):
        for value in (float("nan"), float("inf")):
            for part in range(3):
                arguments = layer(17, "grid2", torch.float32)
                arguments[1][part][-1, -1] = value
                with pytest.raises(ValueError, match="weights must be finite"):
                    torch.ops.bimt_fast.placement_swaps(*arguments, None)


@pytest.mark.parametrize("layout", ("line", "grid2", "random2"))
def test_number_of_threads_changes_no_bit(layout, way):
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            for arguments in (
                layer(700, layout, torch.float32),
                layer(700, layout, integer=True),
                layer(700, layout, torch.bfloat16),
                layer(700, layout, torch.float32, metric="torus-l1"),
                layer(700, layout, torch.float32, metric="l2", zeros=range(0, 700, 3)),
            ):
                for top_k in (None, 500):
                    results += torch.ops.bimt_fast.placement_swaps(*arguments, top_k)
    finally:
        torch.set_num_threads(before)
    third = len(results) // 3
    for one, two, three in zip(results[:third], results[third : 2 * third], results[2 * third :], strict=True):
        assert torch.equal(one, two) and torch.equal(one, three)


@pytest.mark.parametrize("metric", ("l1", "torus-l1", "sql2", "linf"))
@pytest.mark.parametrize("value", (float("nan"), float("inf")))
def test_refuses_what_is_not_finite(value, metric, way):
    for n, layout in ((1, "line"), (97, "grid2"), (257, "line"), (257, "random2")):
        for part in range(3):
            arguments = layer(n, layout, torch.float32, metric=metric)
            if arguments[1][part].numel():
                arguments[1][part][-1, -1] = value
                with pytest.raises(ValueError, match="weights must be finite"):
                    torch.ops.bimt_fast.placement_swaps(*arguments, None)
        slots, *rest = layer(n, layout, torch.float32, metric=metric)
        slots[0, 0] = value
        with pytest.raises(ValueError, match="slots must be finite"):
            torch.ops.bimt_fast.placement_swaps(slots, *rest, 3)


# Wiring


def relocated_model():
    """Boundary groups have moved away from the identity."""
    model = inputs.mlp(9, 20, 12, 5)
    model.wiring.relocate("matching", groups=[g for g in model.wiring.groups if g not in model.wiring.inner_groups])
    return model


def connections(wiring, group):
    sides = ([], [])
    for name, groups in wiring.connections.items():
        if group in groups:
            axis = groups.index(group)
            weight = wiring.model.get_parameter(name)
            sides[axis].append((weight, wiring.neuron_positions(groups[1 - axis])))
    return sides


def test_wiring_gives_every_group_its_best_swaps(backend):
    wiring = relocated_model().wiring
    assert any(not torch.equal(wiring.permutation(g), torch.arange(len(wiring.slots(g)))) for g in wiring.groups)
    for group in wiring.groups:
        incoming, outgoing = connections(wiring, group)
        cost = bf.placement_cost(wiring.slots(group), incoming=incoming, outgoing=outgoing)
        best, partner = bf.best_swaps(cost, wiring.permutation(group))
        mine, my_partner = wiring.best_swaps(group)
        assert torch.allclose(mine, best, atol=1e-12) and not mine.requires_grad
        assert torch.equal(my_partner[best < -1e-12], partner[best < -1e-12])
        delta, pairs = wiring.best_swaps(group, top_k=3)
        assert len(delta) == len(pairs) <= 3 and (pairs[:, 0] < pairs[:, 1]).all()
        if len(delta):
            assert delta[0] == mine.min() and my_partner[pairs[0, 0]] == pairs[0, 1]


def test_the_cost_falls_by_what_was_promised(backend):
    wiring = inputs.mlp(9, 20, 12, 5, distance_scale=0.7).wiring
    group = wiring.inner_groups[0]
    delta, pairs = wiring.best_swaps(group, top_k=4)
    for promised, (r, s) in zip(delta.tolist(), pairs.tolist(), strict=True):
        before = wiring.cost().item()
        swap = torch.arange(20)
        swap[[r, s]] = swap[[s, r]]
        wiring.permute_(group, swap)
        assert wiring.cost().item() - before == pytest.approx(promised, abs=1e-10)
        wiring.permute_(group, swap)


def test_integers_of_numpy_count_pairs():
    wiring = inputs.mlp(9, 20, 12, 5).wiring
    group = wiring.inner_groups[0]
    best = [wiring.best_swaps(group, top_k=k) for k in (3, np.int64(3), np.uint8(3))]
    assert all(torch.equal(a, b) for found in best[1:] for a, b in zip(best[0], found, strict=True))
    same = [inputs.mlp(9, 20, 12, 5).wiring.relocate("greedy", top_k=k).cost_after for k in (3, np.int64(3))]
    assert same[0] == same[1]


def test_a_group_that_nothing_connects():
    model = torch.nn.Linear(3, 4)
    wiring = bf.Wiring(model, {"out": bf.geometry.line(4)}, {"bias": ("out",)})
    delta, partner = wiring.best_swaps("out")
    assert torch.equal(delta, torch.zeros(4)) and torch.equal(partner, torch.arange(4))
    assert [x.shape for x in wiring.best_swaps("out", top_k=2)] == [(0,), (0, 2)]


def test_bad_arguments():
    wiring = inputs.mlp(3, 4, 2).wiring
    for top_k in (1.5, True, "2"):
        with pytest.raises(TypeError, match="top_k must be an integer"):
            wiring.best_swaps(wiring.groups[0], top_k=top_k)
    with pytest.raises(ValueError, match="top_k must be"):
        wiring.best_swaps(wiring.groups[0], top_k=-1)
    with pytest.raises(ValueError, match="group must name"):
        wiring.best_swaps("nowhere")


MEASURE = """
import resource, sys, torch
import bimt_fast as bf

n, layout, metric = int(sys.argv[1]), *sys.argv[2:]
def swaps(n):
    points = {"line": bf.geometry.line(n), "grid": bf.geometry.grid((64, n // 64)), "random": torch.rand(n, 2)}[layout]
    weights = [torch.rand(n, n), torch.rand(n, n)]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = torch.ops.bimt_fast.placement_swaps(points, weights, [points] * 2, 1, metric, [1.0] * 2, None)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / sum(w.nbytes for w in weights)
swaps(128)
print(swaps(n))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts other units elsewhere")
@pytest.mark.parametrize(
    "n, layout, metric", ((4096, "line", "l1"), (4096, "grid", "l1"), (4096, "random", "l1"), (2048, "random", "l2"))
)
def test_memory(n, layout, metric, cpu_backend):
    """At most a tenth of the weights, and 4 MiB that do not grow with them."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(n), layout, metric], capture_output=True, text=True, check=True, timeout=300
    )
    assert float(done.stdout) <= 0.1 + (4 << 20) / (8 * n * n)

"""Autograd: finite differences in float64, opcheck, torch.compile, and no second derivative."""

import subprocess
import sys

import inputs
import pytest
import torch
from torch.autograd import gradcheck

import bimt_fast as bf
from bimt_fast import ops

DIFFERENTIABLE = ("connection_cost", "placement_cost", "swap_deltas", "best_swaps")


def differentiable(arguments):
    """Copies in which every float tensor requires a gradient, except a distance tensor."""
    *arguments, last = inputs.fresh(arguments)
    constant = "table" in arguments  # the metric of that name
    arguments = inputs.mapped(arguments, lambda x: x.requires_grad_() if x.is_floating_point() else x)
    return *arguments, last if constant else inputs.mapped(last, lambda x: x.requires_grad_())


def test_every_op_has_sample_inputs():
    assert {name.removeprefix("bimt_fast::") for name in ops._library._op_defs} == set(inputs.SAMPLES)


@pytest.mark.parametrize("n", (1, 6))
@pytest.mark.parametrize(
    "op, metric",
    [(op, metric) for op in DIFFERENTIABLE for metric in (("l1",) if op in inputs.METRIC_FREE else inputs.METRICS)],
)
def test_gradcheck(op, metric, n, backend):
    for name, arguments in inputs.SAMPLES[op](torch.float64, metric, n, smooth=True):
        arguments = differentiable(arguments)
        variables = [x for x in inputs.tensors(arguments) if x.requires_grad]

        def function(*_, arguments=arguments):
            # gradcheck perturbs the tensors in place, those inside lists too.
            result = getattr(torch.ops.bimt_fast, op)(*arguments)
            return result[0] if op == "best_swaps" else result

        if op == "placement_cost" and not arguments[1]:
            assert not function().any()
            continue
        assert gradcheck(function, variables, eps=1e-6, atol=1e-7, rtol=1e-6), name


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_gradients_where_only_some_are_wanted(op, backend):
    """For every single tensor alone the gradient is the one that it has among all."""
    for name, arguments in inputs.SAMPLES[op](torch.float64, "l1", 7):
        floats = [k for k, x in enumerate(inputs.tensors(arguments)) if x.is_floating_point()]

        def gradients(wanted, arguments=arguments):
            copies = inputs.fresh(arguments)
            variables = [inputs.tensors(copies)[k].requires_grad_() for k in wanted]
            result = getattr(torch.ops.bimt_fast, op)(*copies)
            result = result[0] if op == "best_swaps" else result
            upstream = torch.arange(1.0, 1 + result.numel(), dtype=result.dtype).reshape(result.shape)
            if not result.requires_grad:
                return [None] * len(wanted)
            return torch.autograd.grad(result, variables, upstream, allow_unused=True)

        together = gradients(floats)
        for k, expected in zip(floats, together, strict=True):
            (alone,) = gradients([k])
            torch.testing.assert_close(alone, expected, rtol=1e-12, atol=1e-12, msg=lambda m, name=name: f"{name}: {m}")


def test_gradient_of_a_sum(backend):
    """Upstream gradients of sum() are expanded: every stride is 0."""
    cost = inputs.matrix(9, 9).requires_grad_()
    (grad,) = torch.autograd.grad(bf.swap_deltas(cost).sum(), cost)
    ones = 2 * torch.ones(9, 9, dtype=torch.float64) - 2 * 9 * torch.eye(9, dtype=torch.float64)
    torch.testing.assert_close(grad, ones)
    weight = inputs.matrix(9, 4).requires_grad_()
    slots, peers = inputs.positions(9, 2, "random", 1), inputs.positions(4, 2, "random", 2)
    (grad,) = torch.autograd.grad(bf.placement_cost(slots, incoming=[(weight, peers)]).sum(), weight)
    lengths = bf.geometry.distances(slots, peers).sum(0, keepdim=True)
    torch.testing.assert_close(grad, weight.detach().sign() * lengths)


@pytest.mark.parametrize("op", sorted(inputs.SAMPLES))
def test_opcheck(op, backend):
    samples = list(inputs.SAMPLES[op](torch.float64, "l1", 5))
    if op not in inputs.METRIC_FREE:
        samples += [
            next(inputs.SAMPLES[op](torch.float64, "table", 5)),
            next(inputs.SAMPLES[op](torch.bfloat16, "l2", 5)),
        ]
    chosen = {}
    for name, arguments in samples:  # one of each shape of the argument list, in two layouts
        shape = tuple(len(a) if isinstance(a, list) else a is None for a in arguments)
        chosen.setdefault((shape, "transposed" in name), (name, arguments))
    for name, arguments in chosen.values():
        arguments = differentiable(arguments) if op in DIFFERENTIABLE else inputs.fresh(arguments)
        results = torch.library.opcheck(getattr(torch.ops.bimt_fast, op).default, arguments, raise_exception=False)
        assert all(result == "SUCCESS" for result in results.values()), f"{name}: {results}"


@pytest.mark.parametrize("compiler", ("aot_eager", "inductor"))
def test_compile(compiler, backend):
    def step(weight, out_pos, in_pos):
        penalty = bf.connection_cost(weight, out_pos, in_pos, base_length=0.2)
        cost = bf.placement_cost(out_pos, incoming=[(weight * 2, in_pos)])
        delta, partner = bf.best_swaps(cost)
        return penalty * 3 + delta.sum() + bf.swap_deltas(cost).square().mean(), partner

    def results(function):
        variables = [inputs.matrix(9, 5), inputs.positions(9, 2, "random", 1), inputs.positions(5, 2, "random", 2)]
        variables = [x.clone().requires_grad_() for x in variables]
        value, partner = function(*variables)
        return [value, partner, *torch.autograd.grad(value, variables)]

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend=compiler)
    for got, want in zip(results(compiled), results(step), strict=True):
        torch.testing.assert_close(got, want)


def test_compile_add_grad(backend):
    def step(weight, grad, out_pos, in_pos):
        return bf.add_grad_(weight, grad, out_pos, in_pos, lam=0.5) + grad.sum()

    arguments = (inputs.matrix(6, 4), inputs.matrix(6, 4, seed="grad"), torch.rand(6, 1), torch.rand(4, 1))
    torch._dynamo.reset()
    plain, compiled = inputs.fresh(arguments), inputs.fresh(arguments)
    expected = step(*plain)
    assert torch.equal(torch.compile(step, fullgraph=True, backend="aot_eager")(*compiled), expected)
    assert torch.equal(plain[1], compiled[1]) and not torch.equal(plain[1], arguments[1])


@pytest.mark.parametrize("op", DIFFERENTIABLE)
def test_second_derivative_is_refused(op, backend):
    for name, arguments in inputs.SAMPLES[op](torch.float64, "l1", 4, smooth=True):
        arguments = differentiable(arguments)
        result = getattr(torch.ops.bimt_fast, op)(*arguments)
        result = result[0] if op == "best_swaps" else result
        if not result.requires_grad or not result.any():
            continue
        variables = [x for x in inputs.tensors(arguments) if x.requires_grad]
        gradients = torch.autograd.grad(result.square().sum(), variables, create_graph=True)
        with pytest.raises(NotImplementedError, match="second derivatives"):
            sum(g.sum() for g in gradients).backward()
            pytest.fail(name)


def test_nan_weight_passes_through(backend):
    weight = torch.ones(3, 2)
    weight[1, 0] = torch.nan
    weight.requires_grad_()
    out_pos, in_pos = torch.rand(3, 1), torch.rand(2, 1)
    cost = bf.connection_cost(weight, out_pos, in_pos)
    cost.backward()
    assert cost.isnan()
    grad = torch.zeros(3, 2)
    assert bf.add_grad_(weight.detach(), grad, out_pos, in_pos).isnan()
    lengths = bf.geometry.distances(out_pos, in_pos) + 0.1
    sound = ~weight.isnan()
    for computed in (weight.grad, grad):
        torch.testing.assert_close(computed[sound], lengths[sound])


def test_infinite_weight_costs_infinity(backend):
    weight = torch.ones(3, 2)
    weight[2, 1] = -torch.inf
    assert bf.connection_cost(weight, torch.rand(3, 1), torch.rand(2, 1)) == torch.inf


MEASURE = """
import resource, sys, torch
import bimt_fast as bf

def backward(n):
    points, weights = torch.rand(n, 8), [torch.rand(n, n)] * 2
    arguments = (torch.rand(n, n), points, weights, [points] * 2, 1, sys.argv[1], [1.0] * 2)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    results = torch.ops.bimt_fast.placement_cost_backward(*arguments)
    taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return taken / sum(x.nbytes for x in results)
backward(128)
print(backward(2048))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts other units elsewhere")
@pytest.mark.parametrize("metric", ("l1", "linf"))
def test_placement_gradients_take_little_memory(metric, cpu_backend):
    """Eight coordinates: an array of all pairs and coordinates would be four times the results."""
    command = [sys.executable, "-c", MEASURE, metric]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    assert float(done.stdout) <= 1.6

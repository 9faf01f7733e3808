"""What a metric or a dtype adds: precision near zero, kinks, 16-bit weights, distance tensors, trailing axes."""

import inputs
import pytest
import torch
from torch import nn

import bimt_fast as bf


@pytest.mark.parametrize("metric", bf.geometry.METRICS)
@pytest.mark.parametrize("step", (1e-3, 1e-5, 2e-7))
def test_short_lengths_keep_their_digits(metric, step, backend):
    """Half of the float32 numbers are closer to 0 than acosh(1 + z) or a matrix product of coordinates can tell."""
    x = torch.tensor([[0.25, 0.5]])
    y = x + step
    (expected,) = bf.geometry.distances(x.double(), y.double(), metric).flatten()
    weight = torch.ones(1, 1)
    cost = bf.connection_cost(weight, x, y, metric=metric, base_length=0.0)
    assert cost.item() == pytest.approx(expected.item(), rel=1e-6, abs=0)


KINKS = {
    # metric: first point, second point, gradient of their distance for the first
    "l1": ([0.5, 0.25], [0.5, 0.75], [0.0, -1.0]),
    "l2": ([0.5, 0.25], [0.5, 0.25], [0.0, 0.0]),
    "sql2": ([0.5, 0.25], [0.5, 0.75], [0.0, -1.0]),
    "linf": ([0.5, 0.25], [0.0, 0.75], [0.5, -0.5]),  # coordinates that tie share
    "torus-l1": ([0.0, 0.25], [0.5, 0.0], [0.0, 1.0]),  # half a turn: both ways are equally short
    "torus-l2": ([0.0, 0.25], [0.5, 0.25], [0.0, 0.0]),
    "poincare": ([0.5, 0.25], [0.5, 0.25], [0.0, 0.0]),
}


@pytest.mark.parametrize("dtype", inputs.DTYPES)
@pytest.mark.parametrize("metric", bf.geometry.METRICS)
def test_subgradient_at_kinks(metric, dtype, backend):
    x, y, expected = (torch.tensor([v], dtype=dtype) for v in KINKS[metric])
    weight = torch.ones(1, 1, dtype=dtype)
    for first, second in ((x, y), (y, x)):
        first, second = first.clone().requires_grad_(), second.clone().requires_grad_()
        bf.connection_cost(weight, first, second, metric=metric).backward()
        of_x = first if torch.equal(first, x) else second
        torch.testing.assert_close(of_x.grad, expected)


def every_half():
    return torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)


@pytest.mark.parametrize("dtype", inputs.NARROW_DTYPES)
def test_every_16_bit_number_is_read_and_written_as_torch_does(dtype, backend):
    weight = every_half().view(dtype)[:, None]
    grad = weight.clone()
    none = torch.zeros(len(weight), 0), torch.zeros(1, 0)
    bf.add_grad_(torch.ones_like(weight), grad, *none, lam=2.0**-9, base_length=1.0)
    expected = (weight.float() + 2.0**-9).to(dtype)
    assert torch.equal(grad.isnan(), expected.isnan())
    assert torch.equal(grad[~grad.isnan()], expected[~expected.isnan()])


@pytest.mark.parametrize("dtype", inputs.NARROW_DTYPES)
def test_results_of_16_bit_weights_are_float32(dtype, backend):
    weight, x, y = inputs.matrix(5, 3, dtype=dtype), torch.rand(5, 2), torch.rand(3, 2)
    weight.requires_grad_()
    cost = bf.connection_cost(weight, x.to(dtype), y.double())
    cost.backward()
    assert cost.dtype == torch.float32 and weight.grad.dtype == dtype
    placed = bf.placement_cost(x, incoming=[(weight, y)])
    assert placed.dtype == torch.float32
    assert bf.placement_cost(x.to(dtype)).dtype == torch.float32
    deltas = bf.swap_deltas(placed.to(dtype))
    assert deltas.dtype == bf.best_swaps(placed.to(dtype))[0].dtype == torch.float32


# Trailing axes


def kernel(layout, dtype=torch.float64):
    weight = torch.randn(4, 3, 2, 5, generator=inputs.generator("kernel"), dtype=torch.float64).to(dtype)
    if layout == "channels-last":
        return weight.contiguous(memory_format=torch.channels_last)
    return {"contiguous": weight, "transposed": weight.transpose(0, 1).contiguous().transpose(0, 1)}[layout]


@pytest.mark.parametrize("metric", ("l1", "poincare"))
@pytest.mark.parametrize("layout", ("contiguous", "channels-last", "transposed"))
def test_trailing_axes_are_summed(layout, metric, backend):
    weight = kernel(layout).requires_grad_()
    x, y = inputs.positions(4, 2, "random", 1, metric=metric), inputs.positions(3, 2, "random", 2, metric=metric)
    flat = weight.abs().sum((2, 3))
    cost = bf.connection_cost(weight, x, y, metric=metric)
    torch.testing.assert_close(cost, bf.connection_cost(flat, x, y, metric=metric))
    (expected,) = torch.autograd.grad(cost, weight)
    grad = torch.zeros_like(kernel("contiguous"))
    torch.testing.assert_close(bf.add_grad_(weight.detach(), grad, x, y, metric=metric), cost.detach())
    torch.testing.assert_close(grad, expected)
    torch.testing.assert_close(
        bf.placement_cost(x, incoming=[(weight, y)], metric=metric),
        bf.placement_cost(x, incoming=[(flat, y)], metric=metric),
    )
    torch.testing.assert_close(
        bf.placement_cost(y, outgoing=[(weight, x)], metric=metric),
        bf.placement_cost(y, outgoing=[(flat, x)], metric=metric),
    )


# Distance tensors


def test_distance_tensor_is_read_out_by_in(backend):
    table = torch.tensor([[0.0, 1.0], [10.0, 100.0]])
    weight = torch.tensor([[1.0, -2.0, 3.0]])
    cost = bf.connection_cost(weight, torch.tensor([1]), torch.tensor([0, 1, 0]), metric=table, base_length=0.0)
    assert cost.item() == 10 + 200 + 30
    slots, peers = torch.tensor([0, 1]), torch.tensor([1])
    flow = torch.tensor([[1.0], [2.0]])
    placed = bf.placement_cost(slots, incoming=[(flow, peers)], metric=table)
    assert placed.tolist() == [[1.0, 100.0], [2.0, 200.0]]
    placed = bf.placement_cost(slots, outgoing=[(flow.T, peers)], metric=table)
    assert placed.tolist() == [[10.0, 100.0], [20.0, 200.0]]


def model(dtype=torch.float64):
    layers = nn.Sequential(nn.Linear(5, 7), nn.SiLU(), nn.Linear(7, 3)).to(dtype)
    for name, parameter in layers.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=inputs.generator(name), dtype=torch.float64).to(dtype)
    return layers


AXES = {"0.weight": ("h", "in"), "0.bias": ("h",), "2.weight": ("out", "h"), "2.bias": ("out",)}


@pytest.mark.parametrize("strategy", ("greedy", "matching", "assignment"))
def test_wiring_on_a_distance_tensor(strategy, backend):
    """The distances of points, given as a tensor, cost and relocate as the points do."""
    points = {"in": bf.geometry.line(5), "h": bf.geometry.line(7), "out": bf.geometry.line(3)}
    points = {group: x.double() for group, x in points.items()}
    everywhere = torch.cat(list(points.values()))
    indices = {"in": torch.arange(5), "h": torch.arange(5, 12), "out": torch.arange(12, 15)}
    given = bf.Wiring(model(), indices, AXES, metric=bf.geometry.distances(everywhere, everywhere))
    computed = bf.Wiring(model(), points, AXES)
    assert given.cost().item() == pytest.approx(computed.cost().item())
    given.add_grad_(0.1), computed.add_grad_(0.1)
    for p, q in zip(given.model.parameters(), computed.model.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad)
    reports = given.relocate(strategy), computed.relocate(strategy)
    assert reports[0].swaps == reports[1].swaps > 0
    assert reports[0].cost_after == pytest.approx(reports[1].cost_after)
    assert given.length() == pytest.approx(computed.length())
    given.place("h", indices["h"].flip(0))
    assert torch.equal(given.slots("h"), indices["h"].flip(0))


@pytest.mark.parametrize("dtype", inputs.NARROW_DTYPES)
def test_wiring_of_16_bit_weights(dtype, backend):
    points = {"in": bf.geometry.ring(5), "h": bf.geometry.ring(7), "out": bf.geometry.ring(3)}
    narrow, wide = model(dtype), model(dtype).double()
    wirings = [bf.Wiring(m, points, AXES, metric="poincare") for m in (narrow, wide)]
    costs = [w.cost() for w in wirings]
    assert costs[0].dtype == torch.float32
    assert costs[0].item() == pytest.approx(costs[1].item(), rel=1e-5)
    assert wirings[0].add_grad_(0.5).item() == pytest.approx(costs[1].item(), rel=1e-5)
    assert all(p.grad.dtype == dtype for p in narrow.parameters())
    reports = [w.relocate("matching") for w in wirings]
    assert reports[0].swaps > 0
    assert reports[0].cost_after == pytest.approx(reports[1].cost_after, rel=1e-5)

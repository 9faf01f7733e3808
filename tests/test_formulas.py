"""Every formula against the whole cost recomputed with loops over single connections, in float64."""

import itertools
import math

import inputs
import pytest
import torch

import bimt_fast as bf
from bimt_fast.geometry import METRICS


def differences(x, y):
    return [abs(a - b) for a, b in zip(x, y, strict=True)]


def around(x, y):
    """Per axis, the shorter way round a circle of length 1."""
    return [min(e % 1, 1 - e % 1) for e in differences(x, y)]


METRIC_DISTANCE = {
    "l1": lambda x, y: sum(differences(x, y)),
    "l2": math.dist,
    "sql2": lambda x, y: math.dist(x, y) ** 2,
    "linf": lambda x, y: max(differences(x, y)),
    "torus-l1": lambda x, y: sum(around(x, y)),
    "torus-l2": lambda x, y: math.hypot(*around(x, y)),
    "poincare": lambda x, y: math.acosh(
        1 + 2 * math.dist(x, y) ** 2 / ((1 - math.hypot(*x) ** 2) * (1 - math.hypot(*y) ** 2))
    ),
}


def distance(metric, x, y):
    return METRIC_DISTANCE[metric](x.tolist(), y.tolist())


def positions(n, dim, kind, seed, metric):
    return inputs.positions(n, dim, kind, seed, metric=metric)


def cost_by_loops(weight, out_pos, in_pos, metric, scale, base):
    return sum(
        abs(weight[o, i].item()) * (base + scale * distance(metric, out_pos[o], in_pos[i]))
        for o in range(weight.shape[0])
        for i in range(weight.shape[1])
    )


def transposition(n, r, s):
    swapped = torch.arange(n)
    swapped[r], swapped[s] = s, r
    return swapped


def test_every_metric_has_a_formula_here():
    assert set(METRIC_DISTANCE) == set(METRICS)


@pytest.mark.parametrize("dim", (1, 2, 3, 8))
@pytest.mark.parametrize("metric", METRICS)
def test_connection_cost(metric, dim, backend):
    weight, out_pos, in_pos = (
        inputs.matrix(5, 7),
        positions(5, dim, "random", 1, metric),
        positions(7, dim, "grid", 2, metric),
    )
    cost = bf.connection_cost(weight, out_pos, in_pos, metric=metric, distance_scale=0.7, base_length=0.3)
    assert cost.item() == pytest.approx(cost_by_loops(weight, out_pos, in_pos, metric, 0.7, 0.3), rel=1e-12)


@pytest.mark.parametrize("metric", METRICS)
def test_add_grad(metric, backend):
    weight, out_pos, in_pos = (
        inputs.matrix(5, 7),
        positions(5, 2, "random", 1, metric),
        positions(7, 2, "random", 2, metric),
    )
    before = inputs.matrix(5, 7, seed="grad")
    grad = before.clone()
    settings = dict(metric=metric, distance_scale=0.7, base_length=0.3)
    cost = bf.add_grad_(weight, grad, out_pos, in_pos, lam=-0.2, **settings)
    assert cost.item() == pytest.approx(cost_by_loops(weight, out_pos, in_pos, metric, 0.7, 0.3), rel=1e-12)
    for o, i in itertools.product(range(5), range(7)):
        length = 0.3 + 0.7 * distance(metric, out_pos[o], in_pos[i])
        sign = (weight[o, i] > 0).item() - (weight[o, i] < 0).item()
        assert grad[o, i].item() == pytest.approx(before[o, i].item() - 0.2 * sign * length, rel=1e-12)


@pytest.mark.parametrize("dim", (1, 2))
@pytest.mark.parametrize("metric", METRICS)
def test_placement_cost_moves_one_neuron(metric, dim, backend):
    n, sizes, scale = 5, (4, 3), 0.7
    slots = positions(n, dim, "random", "slots", metric)
    below, above = (positions(m, dim, "random", m, metric) for m in sizes)
    incoming, outgoing = inputs.matrix(n, sizes[0]), inputs.matrix(sizes[1], n)

    def total(where):  # where[i]: the slot of neuron i; two neurons may share one
        placed = slots[where]
        return cost_by_loops(incoming, placed, below, metric, scale, 0.3) + cost_by_loops(
            outgoing, above, placed, metric, scale, 0.3
        )

    cost = bf.placement_cost(
        slots, incoming=[(incoming, below)], outgoing=[(outgoing, above)], metric=metric, distance_scale=scale
    )
    at_rest = total(torch.arange(n))
    for i, p in itertools.product(range(n), range(n)):
        where = torch.arange(n)
        where[i] = p
        assert (cost[i, p] - cost[i, i]).item() == pytest.approx(total(where) - at_rest, abs=1e-12)
    # Columns that sum to the whole: C itself, not only its differences.
    own = cost.diagonal().sum().item()
    base = 0.3 * (incoming.abs().sum() + outgoing.abs().sum()).item()
    assert own + base == pytest.approx(at_rest, rel=1e-12)


@pytest.mark.parametrize("moved", (False, True), ids=("at-rest", "moved"))
@pytest.mark.parametrize("metric", METRICS)
def test_swap_deltas_feed_forward(metric, moved, backend):
    n, m = 6, 4
    slots, below = positions(n, 2, "random", "slots", metric), positions(m, 2, "random", "peers", metric)
    weight = inputs.matrix(n, m)
    assignment = inputs.permutation(n) if moved else torch.arange(n)

    def total(where):
        return cost_by_loops(weight, slots[where], below, metric, 1.0, 0.1)

    cost = bf.placement_cost(slots, incoming=[(weight, below)], metric=metric)
    check_swaps(cost, assignment if moved else None, {}, total)


@pytest.mark.parametrize("moved", (False, True), ids=("at-rest", "moved"))
def test_swap_deltas_recurrent(moved, backend):
    """Flow and distance asymmetric, with non-zero diagonals, beside a feed-forward part."""
    n = 6
    flow, slot_distance = inputs.flow_matrix(n, "flow"), inputs.flow_matrix(n, "distance")
    fixed = inputs.matrix(n, n)
    assignment = inputs.permutation(n) if moved else torch.arange(n)

    def total(where):
        cost = sum(fixed[i, where[i]].item() for i in range(n))
        return cost + sum(
            flow[i, j].item() * slot_distance[where[i], where[j]].item() for i in range(n) for j in range(n)
        )

    # The two parts of the recurrent weight with everyone else at the current slots.
    placed = slot_distance[:, assignment], slot_distance[assignment]
    cost = fixed + flow @ placed[0].T + flow.T @ placed[1]
    check_swaps(cost, assignment if moved else None, {"flow": flow, "distance": slot_distance}, total)


def check_swaps(cost, assignment, pair, total):
    """Against really swapping: total(where) is the whole cost with neuron i in slot where[i]."""
    n = len(cost)
    at_rest = torch.arange(n) if assignment is None else assignment
    truth = [[total(at_rest[transposition(n, r, s)]) - total(at_rest) for s in range(n)] for r in range(n)]
    torch.testing.assert_close(
        bf.swap_deltas(cost, assignment, **pair), torch.tensor(truth, dtype=torch.float64), rtol=0, atol=1e-11
    )
    delta, partner = bf.best_swaps(cost, assignment, **pair)
    for r in range(n):
        best = min(range(n), key=lambda s, r=r: (truth[r][s], s)) if min(truth[r]) < -1e-12 else r
        assert partner[r].item() == best
        assert delta[r].item() == pytest.approx(truth[r][best], abs=1e-11)
    assert (partner != torch.arange(n)).any()  # else nothing was tested

"""Relocation: what moves, what must not, and that each strategy finds what it promises."""

import copy
import itertools
import logging

import inputs
import pytest
import torch
from torch import nn

import bimt_fast as bf
import bimt_fast.wiring
from bimt_fast import search

STRATEGIES = ("greedy", "matching", "assignment", "auto")
SHAPE = (5, 8, 6, 4)
SETTINGS = {"plain": {}, "mean": dict(dim=2, reduction="mean", distance_scale=0.3), "no-bias": dict(bias=False)}


def network(*shape, dim=1, **settings):
    shape = shape or SHAPE
    names = ["in", *(f"h{k}" for k in range(1, len(shape) - 1)), "out"]
    positions = {g: inputs.positions(n, dim, "random", g) for g, n in zip(names, shape, strict=True)}
    return inputs.mlp(*shape, positions=positions, **settings)


def data(model, rows=16):
    first, last = model.layers[0].in_features, model.layers[-1].out_features
    x, y = (torch.randn(rows, n, generator=inputs.generator(n), dtype=torch.float64) for n in (first, last))
    return x, y


def train(model, optimizer, steps):
    x, y = data(model)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def same(a, b):
    """Equal to the bit, inside dicts too."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(a, b) if isinstance(a, torch.Tensor) else a == b


def everything(model, optimizer=None):
    """All that a relocation may change, by value."""
    state = {
        "tensors": {k: v for k, v in model.state_dict().items() if isinstance(v, torch.Tensor)},
        "gradients": {k: p.grad for k, p in model.named_parameters() if p.grad is not None},
        "places": {g: model.wiring.permutation(g) for g in model.wiring.groups},
        "slots": {g: model.wiring.slots(g) for g in model.wiring.groups},
        "cost": model.wiring.cost().detach(),
    }
    if optimizer is not None:
        state["optimizer"] = optimizer.state_dict()
    return copy.deepcopy(state)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_relocation(strategy, settings, backend):
    model = network(**settings)
    x, _ = data(model)
    output, before = model(x), model.wiring.cost().item()
    report = model.wiring.relocate(strategy)
    assert report.cost_before == pytest.approx(before, rel=1e-12)
    assert report.cost_after == pytest.approx(model.wiring.cost().item(), rel=1e-12)
    assert report.cost_after < report.cost_before
    torch.testing.assert_close(model(x), output, rtol=1e-12, atol=1e-12)
    assert set(report.groups) == set(model.wiring.groups)
    assert report.swaps == sum(group.swaps for group in report.groups.values()) > 0
    gain = sum(group.gain for group in report.groups.values())
    assert gain == pytest.approx(report.cost_before - report.cost_after, rel=1e-9)
    assert report.seconds >= sum(group.seconds for group in report.groups.values()) >= 0


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_once_is_enough(strategy):
    """A second relocation finds nothing (greedy is made to converge first) and then changes no bit."""
    model = network()
    for _ in range(20 if strategy == "greedy" else 1):
        model.wiring.relocate(strategy)
    before = everything(model)
    report = model.wiring.relocate(strategy)
    assert report.swaps == 0 and report.cost_after == report.cost_before
    assert same(everything(model), before)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("seed", range(5))
def test_cost_never_rises_in_float32(strategy, seed):
    """Nor where all that is left to gain is rounding: many equal positions and weights."""
    model = inputs.mlp(12, 30, 20, 7, seed=seed, dtype=torch.float32)
    if seed > 2:
        for p in model.parameters():
            p.data.round_()
    for _ in range(3):
        before = model.wiring.cost().item()
        report = model.wiring.relocate(strategy)
        assert report.cost_after <= report.cost_before
        assert model.wiring.cost().item() <= before * (1 + 1e-6)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_frozen_groups_stay(strategy):
    model = network(frozen=["in", "h2"])
    rows = model.layers[1].weight.detach().clone()
    report = model.wiring.relocate(strategy)
    assert torch.equal(model.wiring.permutation("in"), torch.arange(5))
    assert set(report.groups) == {"h1", "out"} and report.groups["h1"].swaps > 0
    moved = [k for k in range(8) if not torch.equal(model.layers[1].weight[:, k], rows[:, k])]
    assert moved  # h1 did move, as the columns of this weight; its rows did not:
    assert torch.equal(model.layers[1].weight.sort(1).values, rows.sort(1).values)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_only_named_groups_move(strategy):
    model = network()
    before = copy.deepcopy(model)
    report = model.wiring.relocate(strategy, groups=["h1"])
    assert list(report.groups) == ["h1"] and report.swaps > 0
    assert torch.equal(model.layers[2].weight, before.layers[2].weight)
    for group in ("in", "out"):
        assert torch.equal(model.wiring.permutation(group), before.wiring.permutation(group))
    assert model.wiring.relocate(strategy, groups=[]).swaps == 0


def test_a_single_name_is_a_group():
    assert list(network().wiring.relocate("matching", groups="h1").groups) == ["h1"]


# Greedy against the published loop


class PublishedLoop:
    """BIMT's loop as its paper describes it: swap, recompute the cost of the whole network, swap back.

    Works on slots throughout: row and column p of a weight belong to slot p, those of inputs and outputs too. One
    thing is ours: a group whose swaps gain nothing in total (all of them ties) stays as it was.
    """

    def __init__(self, model):
        self.model, self.wiring = model, model.wiring
        self.weights = [layer.weight.detach().clone() for layer in model.layers]
        self.biases = [layer.bias.detach().clone() for layer in model.layers]
        self.slots = [model.wiring.slots(g).double() for g in model.wiring.groups]
        self.base, self.scale = 0.125, 1.0

    def cost(self):
        total = 0.0
        for k, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            d = (self.slots[k + 1][:, None] - self.slots[k][None]).abs().sum(-1)
            total += (weight.abs() * (self.base + self.scale * d)).sum().item() + self.base * bias.abs().sum().item()
        return total

    def swap(self, layer, p, q):
        if layer < len(self.weights):
            self.weights[layer][:, [p, q]] = self.weights[layer][:, [q, p]]
        if layer > 0:
            self.weights[layer - 1][[p, q]] = self.weights[layer - 1][[q, p]]
            self.biases[layer - 1][[p, q]] = self.biases[layer - 1][[q, p]]

    def relocate(self, top_k):
        for layer, n in enumerate(len(slots) for slots in self.slots):
            before = copy.deepcopy((self.weights, self.biases)), self.cost()
            importance = torch.zeros(n, dtype=torch.float64)
            if layer < len(self.weights):
                importance += self.weights[layer].abs().sum(0)
            if layer > 0:
                importance += self.weights[layer - 1].abs().sum(1)
            for p in importance.argsort(descending=True, stable=True)[:top_k].tolist():
                costs = []
                for q in range(n):
                    self.swap(layer, p, q)
                    costs.append(self.cost())
                    self.swap(layer, p, q)
                self.swap(layer, p, costs.index(min(costs)))
            if self.cost() == before[1]:
                self.weights, self.biases = before[0]


@pytest.mark.parametrize("top_k", (0, 1, 3, 5, 100, None))
@pytest.mark.parametrize("kind", ("continuous", "ties"))
def test_greedy_is_the_published_loop(kind, top_k, backend):
    for seed in range(4):
        if kind == "continuous":
            model = inputs.mlp(*SHAPE, seed=seed, base_length=0.125)
            for g in model.wiring.groups:
                model.wiring.place(g, inputs.positions(len(model.wiring.slots(g)), 2, "random", (g, seed)))
        else:  # every number a small multiple of a power of two, so that equal costs are equal to the bit
            model = inputs.mlp(8, 8, 4, 4, seed=seed, base_length=0.125)
            for p in model.parameters():
                p.data.round_()
        loop = PublishedLoop(model)
        assert loop.cost() == pytest.approx(model.wiring.cost().item(), rel=1e-12)
        # The second time, inputs and outputs no longer sit in their own slots. (Equally important neurons may then
        # be visited in another order.)
        for repeated in range(2 if kind == "continuous" else 1):
            loop.relocate(top_k)
            report = model.wiring.relocate("greedy", top_k=top_k)
            where = {g: model.wiring.permutation(g) for g in ("in", "out")}
            by_slot = [layer.weight.detach().clone() for layer in model.layers]
            by_slot[0] = by_slot[0][:, where["in"].argsort()]
            by_slot[-1] = by_slot[-1][where["out"].argsort()]
            for k, (mine, published) in enumerate(zip(by_slot, loop.weights, strict=True)):
                assert torch.equal(mine, published), f"layer {k}, seed {seed}"
            for layer, published in zip(model.layers[:-1], loop.biases[:-1], strict=True):
                assert torch.equal(layer.bias, published)
            assert report.cost_after == pytest.approx(loop.cost(), rel=1e-12)
            assert repeated or (report.swaps > 0) == (top_k != 0)


# The optima that the other strategies promise


@pytest.mark.parametrize("strategy", ("assignment", "auto"))
@pytest.mark.parametrize("group", ("in", "h1", "out"))
def test_assignment_is_the_best_of_all_permutations(group, strategy, backend):
    model = network(6, 6, 6)
    wiring = model.wiring

    def cost_of(order):
        twin = copy.deepcopy(model)
        if group == "h1":
            twin.wiring.permute_("h1", order)
        else:
            twin.wiring.load_permutations({group: order.argsort()})
        return twin.wiring.cost().item()

    best = min(cost_of(torch.tensor(order)) for order in itertools.permutations(range(6)))
    assert wiring.cost().item() > best + 0.1
    assert wiring.relocate(strategy, groups=[group]).cost_after == pytest.approx(best, rel=1e-12)


def test_assignment_ends_where_every_group_is_optimal():
    model = network(6, 8, 7, 6)
    model.wiring.relocate("assignment")
    for group in model.wiring.groups:
        assert model.wiring.relocate("assignment", groups=[group]).swaps == 0, group


@pytest.mark.parametrize("strategy", ("matching", "assignment"))
def test_ends_where_no_swap_helps(strategy, backend):
    model = network(6, 9, 7, 5, dim=2)
    model.wiring.relocate(strategy)
    at_rest = model.wiring.cost().item()
    for group in model.wiring.groups:
        n = len(model.wiring.slots(group))
        for r, s in itertools.combinations(range(n), 2):
            twin = copy.deepcopy(model)
            order = torch.arange(n)
            order[r], order[s] = s, r
            if group in ("in", "out"):
                where = twin.wiring.permutation(group)
                twin.wiring.load_permutations({group: where[order]})
            else:
                twin.wiring.permute_(group, order)
            assert twin.wiring.cost().item() >= at_rest - 1e-12, (group, r, s)


def test_matching_comes_close_to_the_optimum():
    model = inputs.mlp(60, 80, 60)
    twin = copy.deepcopy(model)
    found = model.wiring.relocate("matching", groups=["h1"])
    best = twin.wiring.relocate("assignment", groups=["h1"])
    gained, possible = (r.cost_before - r.cost_after for r in (found, best))
    assert possible >= gained > 0.95 * possible


def test_auto_uses_matching_without_scipy(monkeypatch):
    model = network()
    expected = copy.deepcopy(model).wiring.relocate("matching")
    monkeypatch.setattr(bimt_fast.wiring.search, "has_linear_assignment", lambda: False)
    with pytest.raises(ImportError, match="SciPy"):
        model.wiring.relocate("assignment")
    report = model.wiring.relocate("auto")
    assert (report.cost_after, report.swaps) == (expected.cost_after, expected.swaps)


def test_distance_scale_zero_leaves_nothing_to_gain():
    model = network(distance_scale=0.0)
    before = everything(model)
    assert model.wiring.relocate("matching").swaps == 0
    assert same(everything(model), before)


def test_unpenalised_connections_do_not_pull():
    """Only the charged connection decides; the other travels."""
    model = network(5, 8, 4)
    names = {"layers.0.weight": ("h1", "in"), "layers.0.bias": ("h1",), "layers.1.weight": ("out", "h1")}
    positions = {g: model.wiring.slots(g) for g in model.wiring.groups}
    alone = copy.deepcopy(model)
    wiring = bf.Wiring(model, positions, names, unpenalised=["layers.1.weight"])
    wiring.relocate("assignment", groups=["h1"])
    alone.layers[1].weight.data.zero_()
    bf.Wiring(alone, positions, names).relocate("assignment", groups=["h1"])
    assert torch.equal(model.layers[0].weight, alone.layers[0].weight)


# What travels with a neuron


@pytest.mark.parametrize("group", ("h1", "h2"))
def test_permute_convention(group):
    model = network()
    x, _ = data(model)
    optimizer = torch.optim.Adam(model.parameters())
    train(model, optimizer, 3)
    before, output = copy.deepcopy(model), model(x)
    gradients = [linear.weight.grad.clone() for linear in model.layers]
    moments = {p: copy.deepcopy(optimizer.state[p]) for p in model.parameters()}
    layer = int(group[1]) - 1
    order = inputs.permutation(SHAPE[layer + 1])
    model.wiring.permute_(group, order, optimizer=optimizer)
    torch.testing.assert_close(model(x), output, rtol=1e-12, atol=1e-12)
    assert model.wiring.permutation(group).equal(torch.arange(len(order)))
    for p, name in enumerate(order.tolist()):  # slot p holds the neuron that was in slot `name`
        new, old = model.layers, before.layers
        assert torch.equal(new[layer].weight[p], old[layer].weight[name])
        assert torch.equal(new[layer].bias[p], old[layer].bias[name])
        assert torch.equal(new[layer + 1].weight[:, p], old[layer + 1].weight[:, name])
        assert torch.equal(new[layer].weight.grad[p], gradients[layer][name])
        assert torch.equal(new[layer + 1].weight.grad[:, p], gradients[layer + 1][:, name])
        for key in ("exp_avg", "exp_avg_sq"):
            state = optimizer.state[new[layer].weight][key], optimizer.state[new[layer + 1].weight][key]
            assert torch.equal(state[0][p], moments[new[layer].weight][key][name])
            assert torch.equal(state[1][:, p], moments[new[layer + 1].weight][key][:, name])
    others = {0, 1, 2} - {layer, layer + 1}
    assert all(torch.equal(model.layers[k].weight, before.layers[k].weight) for k in others)
    assert torch.equal(model.layers[layer + 1].bias, before.layers[layer + 1].bias)


OPTIMIZERS = {
    "sgd-momentum": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=0.01, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.5, centered=True),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
@pytest.mark.parametrize("how", ("permute", *STRATEGIES))
def test_training_goes_on_as_if_nothing_had_moved(make, how):
    model = network()
    twin = copy.deepcopy(model)
    optimizer, other = make(model.parameters()), make(twin.parameters())
    assert train(model, optimizer, 5) == train(twin, other, 5)
    if how == "permute":
        model.wiring.permute_("h1", inputs.permutation(8), optimizer=optimizer)
    else:
        assert model.wiring.relocate(how, optimizer=optimizer).groups["h1"].swaps > 0
    assert not torch.equal(model.layers[0].weight, twin.layers[0].weight)
    assert train(model, optimizer, 15) == pytest.approx(train(twin, other, 15), rel=1e-9)


def test_moments_left_behind_change_the_training():
    """What the test above would see if the optimizer's state did not travel."""
    model = network()
    twin = copy.deepcopy(model)
    optimizer, other = torch.optim.Adam(model.parameters(), lr=0.01), torch.optim.Adam(twin.parameters(), lr=0.01)
    train(model, optimizer, 5), train(twin, other, 5)
    model.wiring.relocate("assignment")
    assert train(model, optimizer, 15) != pytest.approx(train(twin, other, 15), rel=1e-6)


def test_warns_once_when_no_optimizer_is_passed(caplog, monkeypatch):
    monkeypatch.setattr(bimt_fast.wiring, "_warned_about_moments", False)
    with caplog.at_level(logging.WARNING, "bimt_fast"):
        network().wiring.relocate("matching")
        network().wiring.relocate("matching")
    assert sum("no optimizer" in record.message for record in caplog.records) == 1


def test_normalisation_and_buffers_travel():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.second = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)

        def forward(self, x):
            return self.second(self.norm(self.first(x)).tanh())

    model = Net().double()
    for name in ("weight", "bias", "running_mean", "running_var"):
        getattr(model.norm, name).data.copy_(inputs.positions(8, 1, "random", name)[:, 0])
    model.eval()
    axes = {f"norm.{name}": ("h",) for name in ("weight", "bias", "running_mean", "running_var")}
    axes |= {"first.weight": ("h", "in"), "first.bias": ("h",), "second.weight": ("out", "h"), "second.bias": ("out",)}
    wiring = bf.Wiring(model, {g: bf.geometry.line(n) for g, n in (("in", 5), ("h", 8), ("out", 3))}, axes)
    x = torch.rand(9, 5, dtype=torch.float64)
    output, mean = model(x), model.norm.running_mean.clone()
    assert wiring.relocate("assignment").groups["h"].swaps > 0
    assert not torch.equal(model.norm.running_mean, mean)
    torch.testing.assert_close(model(x), output, rtol=1e-12, atol=1e-12)


def test_shared_tensors_move_once():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Linear(4, 8)
            self.same = self.first
            self.last = nn.Linear(8, 3)

        def forward(self, x):
            return self.last(self.first(x).tanh() + self.same(2 * x).sin())

    model = Net().double()
    axes = {"first.weight": ("h", "in"), "same.weight": ("h", "in"), "last.weight": ("out", "h"), "last.bias": ("out",)}
    axes |= {"first.bias": ("h",), "same.bias": ("h",)}
    wiring = bf.Wiring(model, {g: bf.geometry.line(n) for g, n in (("in", 4), ("h", 8), ("out", 3))}, axes)
    x = torch.rand(9, 4, dtype=torch.float64)
    output = model(x)
    report = wiring.relocate("matching")
    assert report.groups["h"].swaps > 0
    torch.testing.assert_close(model(x), output, rtol=1e-12, atol=1e-12)


def test_tensors_are_changed_in_place():
    """Optimizers and others hold the parameters themselves."""
    model = network()
    pointers = [p.data_ptr() for p in model.parameters()]
    parameters = list(model.parameters())
    model.wiring.relocate("assignment")
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert all(a is b for a, b in zip(parameters, model.parameters(), strict=True))
    assert all(p.requires_grad for p in parameters)


# Boundary groups


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_boundary_groups_move_their_positions_only(strategy):
    model = network()
    before = copy.deepcopy(model)
    model.wiring.relocate(strategy, groups=["in", "out"])
    for name, p in model.named_parameters():
        assert torch.equal(p, before.get_parameter(name))
    for group, n in (("in", 5), ("out", 4)):
        where = model.wiring.permutation(group)
        assert where.dtype == torch.int64 and where.sort().values.equal(torch.arange(n))
        assert torch.equal(model.wiring.neuron_positions(group), model.wiring.slots(group)[where])
        assert torch.equal(model.wiring.slots(group), before.wiring.slots(group))
        with pytest.raises(ValueError, match="group must be an inner group"):
            model.wiring.permute_(group, torch.arange(n))
    assert not model.wiring.permutation("in").equal(torch.arange(5))
    # neuron i now sits in slot permutation[i]
    assert inputs.wiring_as_placed(model).cost().item() == pytest.approx(model.wiring.cost().item(), rel=1e-12)


def test_permutation_is_a_copy():
    model = network()
    model.wiring.permutation("in").zero_()
    assert torch.equal(model.wiring.permutation("in"), torch.arange(5))


def test_cached_plans_see_a_relocation():
    """add_grad_ and cost keep arguments between calls: after a boundary group moved they must be new."""
    model = network()
    model.wiring.add_grad_(1.0)
    report = model.wiring.relocate("assignment", groups=["in"])
    assert report.swaps > 0
    assert model.wiring.add_grad_(1.0).item() == pytest.approx(report.cost_after, rel=1e-12)
    assert model.wiring.cost().item() == pytest.approx(report.cost_after, rel=1e-12)


def recurrent(n, metric="l1", dim=1):
    torch.manual_seed(n)
    model = nn.RNNCell(3, n, dtype=torch.float64)
    kinds = {"in": 3, "h": n}
    if metric == "table":
        g = inputs.generator("recurrent", n)
        metric = torch.rand(n + 3, n + 3, generator=g, dtype=torch.float64)  # not symmetric, d(x, x) not 0
        positions = {"in": torch.arange(3), "h": torch.randperm(n, generator=g) + 3}
    else:
        positions = {
            group: inputs.positions(k, dim, "random", group, torch.float64, metric) for group, k in kinds.items()
        }
    axes = {"weight_ih": ("h", "in"), "weight_hh": ("h", "h"), "bias_ih": ("h",), "bias_hh": ("h",)}
    return bf.Wiring(model, positions, axes, metric=metric, distance_scale=0.7, frozen=["in"])


@pytest.mark.parametrize("metric", ["l1", "l2", "table"])
def test_swaps_of_a_recurrent_group_are_those_of_the_cost(metric, backend):
    wiring = recurrent(6, metric)
    delta, partner = wiring.best_swaps("h")
    before = wiring.cost().item()
    change = torch.zeros(6, 6, dtype=torch.float64)
    for r in range(6):
        for s in range(6):
            swap = torch.arange(6)
            swap[[r, s]] = swap[[s, r]]
            wiring.permute_("h", swap)
            change[r, s] = wiring.cost().item() - before
            wiring.permute_("h", swap)
    best = change.min(1).values
    torch.testing.assert_close(delta, best.clamp(max=0), rtol=1e-9, atol=1e-12)
    improves = best < -1e-9
    assert improves.any() and torch.equal(partner[improves], change.argmin(1)[improves])
    first, second = torch.triu_indices(6, 6, offset=1)
    swaps = zip(change[first, second].tolist(), first.tolist(), second.tolist(), strict=True)
    expected = sorted(swap for swap in swaps if swap[0] < -1e-9)
    assert len(expected) > 2
    for top_k in (0, 2, 100):
        delta, pairs = wiring.best_swaps("h", top_k=top_k)
        assert [tuple(pair) for pair in pairs.tolist()] == [(r, s) for _, r, s in expected[:top_k]]
        assert delta.tolist() == pytest.approx([change for change, _, _ in expected[:top_k]], abs=1e-12)


def test_best_pairs_by_lowest_neurons_on_ties():
    index = torch.arange(5.0)
    cost = (index[:, None] - index.flip(0)).abs()  # all would rather sit at the other end: many swaps save as much
    everything = search.best_pairs(cost, torch.arange(5), 100)
    pairs = [tuple(pair) for pair in everything[1].tolist()]
    found = list(zip(everything[0].tolist(), pairs, strict=True))
    assert found == sorted(found) and len(set(everything[0].tolist())) < len(found)
    for k in range(len(found) + 2):
        delta, some = search.best_pairs(cost, torch.arange(5), k)
        assert torch.equal(delta, everything[0][:k]) and torch.equal(some, everything[1][:k])


@pytest.mark.parametrize("metric", ["l1", "l2", "table"])
@pytest.mark.parametrize("strategy", ["greedy", "matching", "tabu", "auto"])
def test_relocating_a_recurrent_group(strategy, metric, backend):
    wiring = recurrent(6, metric, dim=2)
    x, h = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 6, dtype=torch.float64)
    where = torch.arange(6)
    wiring.attach(lambda name: [where] if name == "bias_ih" else [])
    before, output = wiring.cost().item(), wiring.model(x, h)
    report = wiring.relocate(strategy, optimizer=torch.optim.SGD(wiring.model.parameters(), lr=1.0))
    assert report.cost_before == pytest.approx(before) and report.swaps > 0
    assert wiring.cost().item() == pytest.approx(report.cost_after, rel=1e-12) and report.cost_after < before
    torch.testing.assert_close(wiring.model(x, h[:, where]), output[:, where])
    if strategy == "tabu":  # the best of all permutations
        costs = []
        for order in itertools.permutations(range(6)):
            order = torch.tensor(order)
            wiring.permute_("h", order)
            costs.append(wiring._cost_now())
            wiring.permute_("h", order.argsort())
        assert report.cost_after == pytest.approx(min(costs), rel=1e-9)
    if strategy == "matching":
        assert (wiring.best_swaps("h")[0] > -1e-9).all()


def test_assignment_is_refused_for_recurrent_groups():
    with pytest.raises(ValueError, match="recurrent group 'h'"):
        recurrent(5).relocate("assignment")


@pytest.mark.parametrize("where", ["weight", "bias"])
def test_nan_is_refused_by_name(where):
    model = inputs.mlp(4, 6, 3)
    getattr(model.layers[0], where).data[0] = torch.nan
    with pytest.raises(ValueError, match=rf"'layers\.0\.{where}' must be finite"):
        model.wiring.relocate("matching")


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.Adafactor(p, lr=1e-2),
        lambda p: torch.optim.NAdam(p, lr=1e-2),
        lambda p: torch.optim.Rprop(p, lr=1e-2),
    ],
    ids=["Adafactor", "NAdam", "Rprop"],
)
def test_state_of_other_optimizers_follows(make):
    moved, still = inputs.mlp(4, 9, 7, 3), inputs.mlp(4, 9, 7, 3)
    optimizers = [make(m.parameters()) for m in (moved, still)]
    x = inputs.matrix(10, 4)

    def train(network, optimizer):
        for _ in range(5):
            optimizer.zero_grad()
            network(x).pow(2).mean().backward()
            optimizer.step()
        return network(x)

    for network, optimizer in zip((moved, still), optimizers, strict=True):
        train(network, optimizer)
    moved.wiring.permute_("h1", inputs.permutation(9), optimizer=optimizers[0])
    moved.wiring.permute_("h2", inputs.permutation(7), optimizer=optimizers[0])
    a, b = (train(network, optimizer) for network, optimizer in zip((moved, still), optimizers, strict=True))
    torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_optimizers_that_cannot_follow_are_refused():
    model = inputs.mlp(4, 6, 3)
    x = inputs.matrix(10, 4)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=3)

    def closure():
        optimizer.zero_grad()
        loss = model(x).pow(2).mean()
        loss.backward()
        return loss

    optimizer.step(closure)
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="cannot follow its neurons"):
        model.wiring.relocate("matching", optimizer=optimizer)
    with pytest.raises(ValueError, match="held none of them"):
        model.wiring.relocate("matching", optimizer=torch.optim.SGD(inputs.mlp(4, 6, 3).parameters()))
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))


def test_reports_of_groups_follow_the_cost(backend):
    for strategy in ("greedy", "matching"):
        report = network().wiring.relocate(strategy)
        groups = list(report.groups.values())
        assert groups[0].cost_before == report.cost_before
        assert groups[-1 if strategy == "greedy" else 0].cost_after >= report.cost_after - 1e-9
        assert min(group.cost_after for group in groups) == pytest.approx(report.cost_after, rel=1e-9)
        for group in groups:
            assert group.cost_before >= group.cost_after and group.gain >= 0

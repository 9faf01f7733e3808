"""bf.optim.AdamW against torch's on loss + lam * cost, its options, and what it shares with torch."""

import copy
import pickle

import inputs
import pytest
import torch
from torch import nn

import bimt_fast as bf


@pytest.fixture
def data():
    g = inputs.generator("data", 0)
    return torch.randn(20, 5, generator=g, dtype=torch.float64), torch.randn(20, 3, generator=g, dtype=torch.float64)


def model(**settings):
    return inputs.mlp(5, 33, 17, 3, **settings)


def loss_of(network, data):
    x, y = (t.to(next(network.parameters())) for t in data)
    return (network(x) - y).pow(2).mean()


def steps(network, optimizer, data, count, penalty=None):
    for _ in range(count):
        optimizer.zero_grad()
        loss = loss_of(network, data)
        (loss if penalty is None else loss + penalty(network)).backward()
        optimizer.step()


def assert_same(a, b, **tolerance):
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        torch.testing.assert_close(p, q, **tolerance)


EXACT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("distance_scale", [None, 0.0])
@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_equals_torch_with_the_penalty_in_the_loss(bias, distance_scale, reduction, data, backend):
    ours, theirs = model(reduction=reduction), model(reduction=reduction)
    settings = {"lr": 1e-2, "betas": (0.8, 0.95), "eps": 1e-6, "weight_decay": 0.1}
    penalty = {"bias": bias, "distance_scale": distance_scale}
    steps(ours, bf.optim.AdamW(ours.wiring, lam=1e-2, **penalty, **settings), data, 20)
    charge = lambda network: 1e-2 * network.wiring.cost(**penalty)  # noqa: E731
    steps(theirs, torch.optim.AdamW(theirs.parameters(), **settings), data, 20, charge)
    assert_same(ours, theirs, **EXACT)


def test_without_penalty_is_torch_in_float32(data):
    ours, theirs = model(dtype=torch.float32), model(dtype=torch.float32)
    steps(ours, bf.optim.AdamW(ours.wiring, lr=1e-2, weight_decay=0.1, lam=0.0), data, 30)
    steps(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.1), data, 30)
    assert_same(ours, theirs, rtol=1e-4, atol=1e-5)


def test_grad_is_not_changed_and_cost_is_reported(data):
    network = model()
    optimizer = bf.optim.AdamW(network.wiring, lam=1.0)
    assert optimizer.cost is None
    loss_of(network, data).backward()
    before, cost = [p.grad.clone() for p in network.parameters()], network.wiring.cost().item()
    optimizer.step()
    assert optimizer.cost.item() == pytest.approx(cost, rel=1e-12)
    for p, grad in zip(network.parameters(), before, strict=True):
        assert torch.equal(p.grad, grad)


def test_uncharged_parameters_get_plain_adamw(data):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 6, dtype=torch.float64), nn.Linear(6, 3, dtype=torch.float64)
            self.kernel = nn.Parameter(torch.linspace(0.1, 2, 3, dtype=torch.float64).reshape(1, 1, 3))

        def forward(self, x):
            return self.last(self.first(x).tanh()) * self.kernel[0]

    ours = Scaled()
    theirs = copy.deepcopy(ours)
    wiring = bf.Wiring(
        ours,
        {"in": bf.geometry.line(5), "h": bf.geometry.line(6)},
        {"first.weight": ("h", "in"), "first.bias": ("h",)},
    )
    optimizer = bf.optim.AdamW(wiring, lr=1e-2, lam=0.5)
    steps(ours, optimizer, data, 10)
    steps(theirs, torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0), data, 1)
    fresh = Scaled()
    fresh.load_state_dict(theirs.state_dict())
    assert torch.isfinite(ours.kernel).all() and not torch.equal(ours.first.weight, theirs.first.weight)
    one = copy.deepcopy(fresh)
    two = copy.deepcopy(fresh)
    free = bf.Wiring(one, wiring._slots, wiring.axes, unpenalised=wiring.axes)
    steps(one, bf.optim.AdamW(free, lr=1e-2, lam=0.5), data, 5)
    steps(two, torch.optim.AdamW(two.parameters(), lr=1e-2, weight_decay=0), data, 5)
    assert_same(one, two, **EXACT)


def test_proximal_shrinks_to_exact_zeros(data, backend):
    ours, plain = model(), model()
    optimizer = bf.optim.AdamW(ours.wiring, lr=1e-2, lam=3.0, proximal=True)
    steps(ours, optimizer, data, 1)
    steps(plain, torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=0), data, 1)
    w, name = plain.layers[1].weight.detach(), "layers.1.weight"
    lengths = 0.1 + bf.geometry.distances(
        *(ours.wiring.neuron_positions(g).double() for g in ours.wiring.connections[name])
    )
    expected = w.sign() * (w.abs() - 1e-2 * 3.0 * lengths).clamp(min=0)
    torch.testing.assert_close(ours.layers[1].weight.detach(), expected, **EXACT)
    steps(ours, optimizer, data, 60)
    assert (ours.layers[1].weight == 0).sum() > 50


def test_state_follows_relocation_by_itself(data):
    moved, still = model(), model()
    optimizers = [bf.optim.AdamW(network.wiring, lr=1e-2, lam=0.0) for network in (moved, still)]
    for network, optimizer in zip((moved, still), optimizers, strict=True):
        steps(network, optimizer, data, 5)
    assert moved.wiring.relocate("matching").swaps > 0
    for network, optimizer in zip((moved, still), optimizers, strict=True):
        steps(network, optimizer, data, 5)
    torch.testing.assert_close(loss_of(moved, data), loss_of(still, data), **EXACT)


def test_state_dicts_pass_between_ours_and_torch(data):
    ours, theirs = model(), model()
    mine = bf.optim.AdamW(ours.wiring, lr=1e-2, lam=0.3, bias=False)
    other = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    steps(theirs, other, data, 4)
    ours.load_state_dict(theirs.state_dict())
    mine.load_state_dict(copy.deepcopy(other.state_dict()))  # torch keeps the very tensors it is given
    assert mine.param_groups[0]["lam"] == 0.3 and mine.param_groups[0]["bias"] is False
    mine.param_groups[0]["lam"] = 0.0
    back = torch.optim.AdamW(theirs.parameters(), lr=5.0)
    back.load_state_dict(copy.deepcopy(mine.state_dict()))
    steps(ours, mine, data, 4)
    steps(theirs, back, data, 4)
    assert_same(ours, theirs, **EXACT)
    again = bf.optim.AdamW(ours.wiring, lam=0.1)
    again.load_state_dict(mine.state_dict())
    assert again.param_groups[0]["lam"] == 0.0


def test_groups_schedulers_and_closures(data):
    network = model()
    layers = network.layers
    groups = [
        {"params": layers[0].parameters(), "lr": 0.0, "lam": 0.0},
        {"params": [*layers[1].parameters(), *layers[2].parameters()], "weight_decay": 0.5},
    ]
    optimizer = bf.optim.AdamW(network.wiring, groups, lr=1e-2)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.1)
    first = layers[0].weight.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = loss_of(network, data)
        loss.backward()
        return loss

    loss = optimizer.step(closure)
    scheduler.step()
    assert loss.requires_grad and torch.equal(layers[0].weight, first)
    assert optimizer.param_groups[1]["lr"] == pytest.approx(1e-3)


def test_grad_scaler(data):
    scaled, plain = model(dtype=torch.float32), model(dtype=torch.float32)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    optimizer = bf.optim.AdamW(scaled.wiring, lr=1e-2, lam=0.1)
    steps(plain, bf.optim.AdamW(plain.wiring, lr=1e-2, lam=0.1), data, 1)
    scaler.scale(loss_of(scaled, data)).backward()
    scaler.step(optimizer)
    scaler.update()
    assert_same(scaled, plain, rtol=1e-5, atol=1e-6)
    before = [p.detach().clone() for p in scaled.parameters()]
    scaled.layers[0].weight.grad[0, 0] = float("inf")
    scaler.step(optimizer)
    assert all(torch.equal(p, old) for p, old in zip(scaled.parameters(), before, strict=True))


def test_layouts_that_differ(data):
    """Gradients of other strides than their weights, and weights that are transposed."""
    one, two = model(), model()
    for network in (one, two):
        network.layers[1].weight.data = network.layers[1].weight.data.T.contiguous().T
        loss_of(network, data).backward()
    one.layers[0].weight.grad = one.layers[0].weight.grad.T.contiguous().T
    bf.optim.AdamW(one.wiring, lr=1e-2).step()
    with bf.backend("reference"):
        bf.optim.AdamW(two.wiring, lr=1e-2).step()
    assert_same(one, two, **EXACT)


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"lr": -1.0}, ValueError),
        ({"eps": float("nan")}, ValueError),
        ({"lam": -0.1}, ValueError),
        ({"weight_decay": float("inf")}, ValueError),
        ({"betas": (0.9, 1.0)}, ValueError),
        ({"betas": (0.9,)}, ValueError),
        ({"distance_scale": -1.0}, ValueError),
    ],
)
def test_bad_settings(settings, error, data):
    network = model()
    with pytest.raises(error, match=next(iter(settings))):
        optimizer = bf.optim.AdamW(network.wiring, **settings)
        steps(network, optimizer, data, 1)


def test_other_bad_input(data):
    network = model()
    with pytest.raises(TypeError, match="wiring"):
        bf.optim.AdamW(network)
    optimizer = bf.optim.AdamW(network.wiring)
    optimizer.param_groups[0]["amsgrad"] = True
    before = [p.detach().clone() for p in network.parameters()]
    with pytest.raises(ValueError, match="amsgrad"):
        steps(network, optimizer, data, 1)
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))


def test_a_refused_gradient_changes_nothing(data):
    network = model()
    optimizer = bf.optim.AdamW(network.wiring)
    steps(network, optimizer, data, 2)
    weight = network.layers[1].weight
    before = [p.detach().clone() for p in network.parameters()]
    weight.grad = weight.grad.to_sparse()
    with pytest.raises(TypeError, match="grads must be a dense tensor"):
        optimizer.step()
    assert all(torch.equal(p, old) for p, old in zip(network.parameters(), before, strict=True))
    assert optimizer.state[weight]["step"] == 2


def test_what_is_kept_between_steps_follows_the_tensors(data):
    """Gradients at new addresses or with other strides, parameters and moments that are replaced."""
    ours, theirs = model(), model()
    optimizer = bf.optim.AdamW(ours.wiring, lr=1e-2, lam=1e-2)
    peer = torch.optim.AdamW(theirs.parameters(), lr=1e-2, weight_decay=0.0)
    charge = lambda network: 1e-2 * network.wiring.cost()  # noqa: E731
    kept = []
    for k in range(8):
        for network, mine in ((ours, True), (theirs, False)):
            network.zero_grad()
            loss = loss_of(network, data)
            (loss if mine else loss + charge(network)).backward()
        first = ours.layers[0].weight
        kept.append(first.grad)  # so that the next gradient lies elsewhere
        if k == 2:
            first.grad = first.grad.T.contiguous().T
        if k == 4:
            first.data = first.data.clone()
        if k == 6:
            optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
        optimizer.step()
        peer.step()
    assert_same(ours, theirs, **EXACT)


def test_update_is_step_without_hooks(data):
    ours, theirs = model(), model()
    seen = []
    for network, how in ((ours, "update"), (theirs, "step")):
        optimizer = bf.optim.AdamW(network.wiring, lr=1e-2)
        optimizer.register_step_pre_hook(lambda *_, how=how: seen.append(how))
        loss_of(network, data).backward()
        getattr(optimizer, how)()
    assert_same(ours, theirs, rtol=0, atol=0)
    assert seen == ["step"]


def test_steps_of_another_dtype_load(data):
    """torch counts steps in its default dtype."""
    ours, theirs = model(), model()
    peer = torch.optim.AdamW(theirs.parameters(), weight_decay=0.0)
    steps(theirs, peer, data, 3)
    state = copy.deepcopy(peer.state_dict())
    for kept in state["state"].values():
        kept["step"] = kept["step"].double()
    ours.load_state_dict(theirs.state_dict())
    optimizer = bf.optim.AdamW(ours.wiring, lam=0.0)
    optimizer.load_state_dict(state)
    steps(ours, optimizer, data, 2)
    steps(theirs, peer, data, 2)
    assert_same(ours, theirs, **EXACT)
    assert all(kept["step"].dtype == torch.float32 and kept["step"] == 5 for kept in optimizer.state.values())


def test_learned_positions_in_a_group_of_their_own():
    """No group may read positions or weights that an earlier one has already updated."""

    def build():
        g = inputs.generator("own group", 0)
        layer = nn.Linear(3, 4, dtype=torch.float64)
        for p in layer.parameters():
            p.data = torch.randn(p.shape, generator=g, dtype=torch.float64)
        places = {
            k: nn.Parameter(torch.rand(n, 1, generator=g, dtype=torch.float64)) for k, n in (("in", 3), ("out", 4))
        }
        wiring = bf.Wiring(layer, places, {"weight": ("out", "in"), "bias": ("out",)})
        return layer, wiring, [{"params": list(layer.parameters())}, {"params": list(places.values())}]

    layer, wiring, groups = build()
    peer, peer_wiring, peer_groups = build()
    optimizer = bf.optim.AdamW(wiring, groups, lr=0.1, lam=1.0)
    theirs = torch.optim.AdamW(peer_groups, lr=0.1, weight_decay=0.0)
    for _ in range(5):
        optimizer.zero_grad()
        theirs.zero_grad()
        layer.weight.pow(2).sum().backward()
        layer.bias.grad = torch.zeros(4, dtype=torch.float64)
        (peer.weight.pow(2).sum() + peer_wiring.cost()).backward()
        optimizer.step()
        theirs.step()
    for mine, other in zip(groups, peer_groups, strict=True):
        for p, q in zip(mine["params"], other["params"], strict=True):
            torch.testing.assert_close(p, q, **EXACT)


@pytest.mark.parametrize("how", ["deepcopy", "pickle"])
def test_copies_go_on_alike(how, data):
    network = model()
    optimizer = bf.optim.AdamW(network.wiring, lr=1e-2, lam=1e-2)
    steps(network, optimizer, data, 2)
    both = (network, optimizer)
    other, its = copy.deepcopy(both) if how == "deepcopy" else pickle.loads(pickle.dumps(both))
    assert its.wiring is other.wiring and its in other.wiring._optimizers
    for a, b in ((network, optimizer), (other, its)):
        steps(a, b, data, 2)
        a.wiring.relocate("matching")
        steps(a, b, data, 2)
    assert_same(network, other, rtol=0, atol=0)


def test_nothing_steps_where_one_gradient_is_sparse(data):
    network = model()
    first, *rest = network.parameters()
    optimizer = bf.optim.AdamW(network.wiring, [{"params": rest}, {"params": [first]}])
    loss_of(network, data).backward()
    first.grad = first.grad.to_sparse()
    before = [p.clone() for p in network.parameters()]
    with pytest.raises(TypeError, match="grads"):
        optimizer.step()
    assert all(torch.equal(p, q) for p, q in zip(network.parameters(), before, strict=True)) and not optimizer.state


@pytest.mark.parametrize("setting", [{"lr": None}, {"betas": 0.9}, {"eps": "a"}, {"distance_scale": -1.0}])
def test_settings_are_named(setting):
    with pytest.raises((TypeError, ValueError), match=next(iter(setting))):
        bf.optim.AdamW(model().wiring, **setting)

"""Cost, gradient and length of a wiring against sums by hand; what its settings mean."""

import copy
import math

import inputs
import pytest
import torch
from torch import nn

import bimt_fast as bf

PLACES = {"in": inputs.positions(4, 2, "random", "in"), "h1": inputs.positions(6, 2, "random", "h1")}
PLACES["out"] = inputs.positions(3, 2, "random", "out")
AXES = {
    "first.weight": ("h1", "in"),
    "first.bias": ("h1",),
    "norm.weight": ("h1",),
    "norm.bias": ("h1",),
    "norm.running_mean": ("h1",),
    "norm.running_var": ("h1",),
    "second.weight": ("out", "h1"),
    "second.bias": ("out",),
}
BIASES = ("first.bias", "second.bias")


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)
        self.double()
        for name, tensor in self.state_dict().items():
            if tensor.is_floating_point():
                g = inputs.generator(name)
                tensor.copy_(torch.randn(tensor.shape, generator=g, dtype=torch.float64))
        self.norm.running_var.abs_()

    def forward(self, x):
        return self.second(self.norm(self.first(x)).tanh())


def wiring(model=None, **settings):
    return bf.Wiring(Normalised() if model is None else model, PLACES, AXES, **settings)


def by_hand(model, scale=1.0, base=0.1, free=("norm.weight", "norm.bias"), mean=(), bias=True):
    """The cost from its definition; scale and base are values, or dicts by tensor name."""
    total = 0.0
    for name, parameter in model.named_parameters():
        if name in free or (parameter.dim() == 1 and not bias):
            continue
        length = base[name] if isinstance(base, dict) else base
        if parameter.dim() == 2:
            out_pos, in_pos = (PLACES[group] for group in AXES[name])
            d = (out_pos[:, None] - in_pos[None]).abs().sum(-1)
            length = length + (scale[name] if isinstance(scale, dict) else scale) * d
        cost = (parameter.abs() * length).sum()
        total = total + (cost / parameter.numel() if name in mean else cost)
    return total


EVERY = [name for name, _ in Normalised().named_parameters()]
NORM = ["norm.weight", "norm.bias"]
CASES = {  # settings of the wiring, and of by_hand
    "defaults": ({}, {}),
    "scaled": (dict(distance_scale=0.7, base_length=0.3), dict(scale=0.7, base=0.3)),
    "mean": (dict(reduction="mean"), dict(mean=EVERY)),
    "mean-of-one": (dict(reduction={None: "sum", "second.weight": "mean"}), dict(mean=["second.weight"])),
    "scale-by-name": (
        dict(distance_scale={None: 2, "second.weight": 0.5}),
        dict(scale=dict.fromkeys(EVERY, 2) | {"second.weight": 0.5}),
    ),
    "base-by-name": (
        dict(base_length={None: 0.1, "first.weight": 0, "first.bias": 3}),
        dict(base=dict.fromkeys(EVERY, 0.1) | {"first.weight": 0, "first.bias": 3}),
    ),
    "unpenalised": (
        dict(unpenalised=["first.weight", "second.bias"]),
        dict(free=["first.weight", "second.bias", *NORM]),
    ),
    "penalised-norm": (dict(penalised=["norm.weight"]), dict(free=["norm.bias"])),
}


@pytest.mark.parametrize("settings, hand", CASES.values(), ids=CASES)
@pytest.mark.parametrize("bias", (True, False), ids=("bias", "no-bias"))
@pytest.mark.parametrize("override", (None, 0.0, 2.5))
def test_cost_and_gradient(settings, hand, bias, override, backend):
    model = Normalised()
    w = wiring(model, **settings)
    hand = hand if override is None else {**hand, "scale": override}
    expected = by_hand(model, bias=bias, **hand)
    cost = w.cost(bias=bias, distance_scale=override)
    assert cost.dim() == 0 and cost.item() == pytest.approx(expected.item(), rel=1e-12)

    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    cost.backward()
    for (name, p), expected_gradient in zip(parameters.items(), gradients, strict=True):
        torch.testing.assert_close(p.grad, expected_gradient, rtol=1e-12, atol=0, msg=lambda m, n=name: f"{n}: {m}")

    # add_grad_ adds lam times the same to what is there, and creates what is missing.
    before = {name: torch.full_like(p, 5.0) if "first" in name else None for name, p in parameters.items()}
    for name, p in parameters.items():
        p.grad = None if before[name] is None else before[name].clone()
    returned = w.add_grad_(0.25, bias=bias, distance_scale=override)
    assert not returned.requires_grad and returned.item() == pytest.approx(cost.item(), rel=1e-12)
    for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
        if gradient is None:
            assert p.grad is None if before[name] is None else torch.equal(p.grad, before[name]), name
        else:
            base = 0 if before[name] is None else before[name]
            torch.testing.assert_close(p.grad, base + 0.25 * gradient, rtol=1e-12, atol=1e-12)


def test_only_trainable_parameters_cost():
    model = Normalised()
    w = wiring(model)
    model.first.weight.requires_grad_(False)
    free = ("first.weight", "norm.weight", "norm.bias")
    assert w.cost().item() == pytest.approx(by_hand(model, free=free).item(), rel=1e-12)
    w.add_grad_(1.0)
    assert model.first.weight.grad is None and model.second.weight.grad is not None


def test_cost_follows_positions_parameters_and_dtypes():
    model = Normalised()
    w = wiring(model)
    before = w.cost().item()
    w.place("h1", PLACES["h1"] + 1)
    moved = w.cost().item()
    w.place({"h1": PLACES["h1"], "in": PLACES["in"]})
    assert moved > before and w.cost().item() == before
    model.float()
    assert w.cost().dtype == torch.float32 and w.cost().item() == pytest.approx(before, rel=1e-6)
    model.first.weight = nn.Parameter(torch.zeros(6, 4))
    assert w.cost().item() == pytest.approx(by_hand(model.double()).item(), rel=1e-6)


def test_positions_are_copied():
    mine = {group: x.clone() for group, x in PLACES.items()}
    w = bf.Wiring(Normalised(), mine, AXES)
    before = w.cost().item()
    mine["h1"].zero_()
    assert w.cost().item() == before


def test_place():
    w = wiring()
    w.place("in", bf.geometry.grid((2, 2)))
    assert torch.equal(w.slots("in"), bf.geometry.grid((2, 2)))
    before = w.slots("h1").clone()
    for bad, error in (
        ({"h1": PLACES["h1"] + 1, "in": PLACES["out"]}, ValueError),
        ({"h1": PLACES["h1"] + 1, "in": PLACES["in"] * torch.nan}, ValueError),
        ({"h1": PLACES["h1"] + 1, "nowhere": PLACES["in"]}, ValueError),
        ({"h1": PLACES["h1"] + 1, "in": [0.0] * 4}, TypeError),
    ):
        with pytest.raises(error):
            w.place(bad)
        assert torch.equal(w.slots("h1"), before)
    # Numbers of coordinates are compared only when a cost is computed.
    w.place("h1", bf.geometry.line(6))
    with pytest.raises(ValueError, match=r"'first\.weight', must have as many coordinates"):
        w.cost()
    w.place({group: bf.geometry.line(n) for group, n in (("in", 4), ("h1", 6), ("out", 3))})
    w.cost()


def test_length():
    model = Normalised()
    w = wiring(model, distance_scale=3.0, base_length=7.0, reduction="mean")
    names = ("first.weight", "second.weight")
    expected = {name: by_hand(model, base=0, free=set(EVERY) - {name}).item() for name in names}
    length = w.length()
    assert length.by_connection == pytest.approx(expected, rel=1e-12)
    assert length == length.total == pytest.approx(sum(expected.values()), rel=1e-12)
    assert w.length(unit=0.5) == pytest.approx(2 * length, rel=1e-12)
    for name in expected:
        weight = model.get_parameter(name)
        weight.data[weight.abs() <= 0.8] = 0
    assert w.length(threshold=0.8) < length
    assert w.length(threshold=0.8) == pytest.approx(w.length(), rel=1e-12)
    counted = copy.deepcopy(model)
    for name in expected:
        counted.get_parameter(name).data.sign_()
    assert w.length(threshold=0.8, weighted=False) == pytest.approx(wiring(counted).length(), rel=1e-12)


def test_names():
    w = wiring(frozen=["out"])
    assert w.groups == ("in", "h1", "out") and w.frozen == ("out",)
    assert w.connections == {"first.weight": ("h1", "in"), "second.weight": ("out", "h1")}


def test_bio_linear():
    layer = bf.nn.BioLinear(5, 3, out_pos=PLACES["out"][:, :1], base_length=0.5, dtype=torch.float64)
    lengths = 0.5 + bf.geometry.distances(PLACES["out"][:, :1], bf.geometry.line(5, dtype=torch.float64))
    expected = (layer.weight.abs() * lengths).sum() + 0.5 * layer.bias.abs().sum()
    assert layer.wiring.cost().item() == pytest.approx(expected.item(), rel=1e-6)
    no_bias = bf.nn.BioLinear(5, 3, bias=False)
    x = torch.rand(2, 5)
    torch.testing.assert_close(no_bias(x), x @ no_bias.weight.T)
    assert set(no_bias.state_dict()) == {"weight", "_extra_state"}
    layer.wiring.relocate("matching", optimizer=torch.optim.SGD(layer.parameters()))
    other = bf.nn.BioLinear(5, 3, base_length=0.5, dtype=torch.float64)
    other.load_state_dict(layer.state_dict())
    assert other.wiring.cost().item() == layer.wiring.cost().item()


def test_bio_mlp_is_its_layers():
    model = inputs.mlp(4, 6, 5, 3, activation=nn.Tanh)
    x = torch.rand(7, 4, dtype=torch.float64)
    a, b, c = model.layers
    torch.testing.assert_close(model(x), c(b(a(x).tanh()).tanh()))
    assert model.wiring.groups == ("in", "h1", "h2", "out")
    assert model.wiring.connections == {
        "layers.0.weight": ("h1", "in"), "layers.1.weight": ("h2", "h1"), "layers.2.weight": ("out", "h2")
    }  # fmt: skip


def test_bio_mlp_state_dict_keeps_where_inputs_and_outputs_sit(tmp_path):
    model = inputs.mlp(6, 5, 4)
    model.wiring.relocate("assignment")
    assert not torch.equal(model.wiring.permutation("in"), torch.arange(6))
    torch.save(model.state_dict(), tmp_path / "model.pt")
    other = inputs.mlp(6, 5, 4, seed=1)
    other.wiring.cost()  # whatever is cached is renewed
    other.load_state_dict(torch.load(tmp_path / "model.pt", weights_only=True))
    for group in ("in", "out"):
        assert torch.equal(other.wiring.permutation(group), model.wiring.permutation(group))
    assert torch.equal(other.wiring.cost(), model.wiring.cost())
    x = torch.rand(3, 6, dtype=torch.float64)
    assert torch.equal(other(x), model(x))


def test_a_deep_copy_has_a_wiring_of_its_own():
    model = inputs.mlp(6, 5, 4)
    twin = copy.deepcopy(model)
    twin.wiring.relocate("assignment")
    assert torch.equal(model.wiring.permutation("in"), torch.arange(6))
    assert model.wiring.cost() > twin.wiring.cost()
    expected = inputs.wiring_as_placed(twin).cost().item()
    assert twin.wiring.cost().item() == pytest.approx(expected, rel=1e-12)


def test_a_tensor_under_two_names():
    model = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False))
    model[1].weight = model[0].weight
    places = {group: bf.geometry.line(6) for group in ("a", "b", "c")}
    with pytest.raises(ValueError, match=r"'0\.weight' has .*'1\.weight' has"):
        bf.Wiring(model, places, {"0.weight": ("b", "a"), "1.weight": ("c", "b")})
    places.pop("c")
    once = bf.Wiring(model, places, {"0.weight": ("b", "a")})
    twice = bf.Wiring(model, places, {"0.weight": ("b", "a"), "1.weight": ("b", "a")})
    assert twice.cost().item() == once.cost().item()


def test_what_was_forgotten_is_refused():
    model = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3))
    places = {"in": bf.geometry.line(4), "h": bf.geometry.line(6), "out": bf.geometry.line(3)}
    axes = {"0.weight": ("h", "in"), "1.weight": ("out", "h")}
    with pytest.raises(ValueError, match=r"'bias' of the same module as '0\.weight'"):
        bf.Wiring(model, places, axes)
    bf.Wiring(model, places, {**axes, "0.bias": ("h",)})  # the last layer's bias never moves
    with pytest.raises(ValueError, match="'extra'"):
        bf.Wiring(model, {**places, "extra": bf.geometry.line(2)}, {**axes, "0.bias": ("h",)})


def test_add_grad_changes_nothing_when_it_refuses():
    model = inputs.mlp(4, 6, 3)
    model.layers[1].weight.data = model.layers[1].weight.data.float()
    loss = model.layers[0].weight.sum()
    loss.backward()
    model.layers[1].weight.grad = torch.zeros(3, 6).to_sparse()
    before = model.layers[0].weight.grad.clone()
    with pytest.raises(TypeError, match="grads"):
        model.wiring.add_grad_(1.0)
    assert torch.equal(model.layers[0].weight.grad, before)
    assert model.layers[0].bias.grad is None


def test_slots_are_a_copy():
    wiring = inputs.mlp(4, 6, 3).wiring
    cost = wiring.cost().item()
    wiring.slots("in").mul_(5)
    wiring.neuron_positions("h1").mul_(5)
    assert wiring.cost().item() == cost and wiring.relocate("greedy").cost_before == pytest.approx(cost)


def test_length_shows_nan():
    model = inputs.mlp(4, 6, 3)
    model.layers[0].weight.data[0, 0] = torch.nan
    assert math.isnan(model.wiring.length(threshold=0.1))
    for bad, error in ({"unit": 0}, ValueError), ({"threshold": "a"}, TypeError), ({"threshold": -1}, ValueError):
        with pytest.raises(error, match=next(iter(bad))):
            model.wiring.length(**bad)


def test_followers_of_another_shape_are_refused():
    model = inputs.mlp(5, 7, 3)
    with pytest.raises(
        ValueError, match=r"follower must have the shape of 'layers\.0\.weight', \(7, 5\), was \(7, 9\)"
    ):
        model.wiring.attach(inputs.mlp(9, 7, 3))
    model.wiring.attach(lambda name: [torch.zeros(7, 4)] if name == "layers.0.weight" else [])
    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ValueError, match="follower"):
        model.wiring.permute_("h1", torch.arange(7).flip(0))
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_masks_are_neither_pruned_nor_measured():
    model = torch.nn.Linear(7, 7, bias=False)
    model.register_buffer("mask", torch.full((7, 7), 0.01))
    wiring = bf.Wiring(model, {"h": bf.geometry.line(7)}, {"weight": ("h", "h"), "mask": ("h", "h")})
    assert set(wiring.length().by_connection) == {"weight"}
    assert set(wiring.prune_(0.05).removed) == {"weight"} and (model.mask == 0.01).all()


def test_cost_of_several_dtypes_is_of_the_widest():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4, dtype=torch.float64), torch.nn.Linear(4, 2))
    axes = {"0.weight": ("h", "in"), "0.bias": ("h",), "1.weight": ("out", "h"), "1.bias": ("out",)}
    wiring = bf.Wiring(model, {"in": torch.rand(3, 1), "h": torch.rand(4, 1), "out": torch.rand(2, 1)}, axes)
    assert wiring.cost().dtype == wiring.add_grad_(0.0).dtype == torch.float64


def test_expanded_gradients_are_replaced():
    model = inputs.mlp(5, 7, 3)
    twin = inputs.mlp(5, 7, 3)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        p.grad, q.grad = torch.ones_like(p)[:1].sum().mul(0).add(1).expand(p.shape), torch.ones_like(q)
    model.wiring.add_grad_(0.3)
    twin.wiring.add_grad_(0.3)
    for p, q in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_recurrent_groups_in_blocks_stay_where_they_are_unless_named():
    cell = torch.nn.RNNCell(3, 4, bias=False)
    wiring = bf.Wiring(
        cell,
        {"in": bf.geometry.line(3), "h": bf.geometry.line(4)},
        {"weight_ih": ("h", "in"), "weight_hh": ("h", "h")},
        blocks={"h": 2},
    )
    assert list(wiring.relocate("matching").groups) == ["in"]
    with pytest.raises(NotImplementedError, match="'h' in blocks"):
        wiring.relocate("matching", groups=["h"])


def test_nan_in_what_costs_nothing_is_refused_too():
    model = inputs.mlp(5, 7, 3)
    wiring = bf.Wiring(model, model.wiring._slots, model.wiring.axes, unpenalised=["layers.1.weight"])
    model.layers[1].weight.data[0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"'layers\.1\.weight' must be finite"):
        wiring.relocate("greedy")

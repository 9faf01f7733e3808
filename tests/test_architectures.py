"""Every kind of network: cost and gradient entry by entry, training, permutations and relocations."""

import copy

import pytest
import torch
from architectures import ARCHITECTURES
from torch.optim.swa_utils import AveragedModel

import bimt_fast as bf

STRATEGIES = ("greedy", "matching", "assignment", "auto", "tabu")
FOUR_AXES = ("conv2d", "depthwise", "autoencoder", "unet")


@pytest.fixture(params=ARCHITECTURES)
def case(request):
    return ARCHITECTURES[request.param]()


@pytest.fixture(params=[*ARCHITECTURES, *(f"{name}-channels-last" for name in FOUR_AXES)])
def case_in_memory(request):
    made = ARCHITECTURES[request.param.split("-")[0]]()
    if "-" in request.param:
        made.model.to(memory_format=torch.channels_last)
    return made


def by_name(case):
    """Settings in dicts by tensor name, as Wiring and as Case.cost take them."""
    names = list(case.owners)
    scale = {name: 0.1 * k for k, name in enumerate(names)}
    base = {name: 1.0 + k for k, name in enumerate(names)}
    mean, free = names[::2], names[1::3]
    wiring = dict(
        distance_scale={None: 9.0, **scale},
        base_length={None: 9.0, **base},
        reduction={None: "sum", **dict.fromkeys(mean, "mean")},
        unpenalised=free,
    )
    return wiring, dict(scale=scale, base=base, mean=mean, free=free)


def settings_of(case, kind):
    names = list(case.owners)
    return {
        "defaults": ({}, {}, {}),
        "mean": (dict(reduction="mean", distance_scale=0.3), {}, dict(mean=names, scale=0.3)),
        "no-bias": (dict(base_length=0.7), dict(bias=False, distance_scale=2.0), dict(base=0.7, scale=2.0, bias=False)),
        "by-name": (by_name(case)[0], {}, by_name(case)[1]),
    }[kind]


@pytest.mark.parametrize("kind", ("defaults", "mean", "no-bias", "by-name"))
def test_cost_and_gradient(case_in_memory, kind, backend):
    case = case_in_memory
    declared, asked, hand = settings_of(case, kind)
    wiring, parameters = case.wiring(**declared), dict(case.model.named_parameters())
    expected = case.cost(**hand)
    gradients = torch.autograd.grad(expected, list(parameters.values()), allow_unused=True)
    cost = wiring.cost(**asked)
    assert cost.item() == pytest.approx(expected.item(), rel=1e-12)
    cost.backward()
    first = {name: p.grad for name, p in parameters.items()}
    for name, p in parameters.items():  # add_grad_ adds to what is there, and makes what is missing
        p.grad = None if name.endswith("bias") else torch.ones_like(p, memory_format=torch.contiguous_format)
    assert wiring.add_grad_(0.3, **asked).item() == pytest.approx(expected.item(), rel=1e-12)
    for (name, p), gradient in zip(parameters.items(), gradients, strict=True):
        there = 0.0 if name.endswith("bias") else 1.0
        if gradient is None:
            assert first[name] is None and (p.grad is None if there == 0 else bool((p.grad == 1).all())), name
        else:
            torch.testing.assert_close(first[name], gradient, rtol=1e-12, atol=1e-14)
            torch.testing.assert_close(p.grad, there + 0.3 * gradient, rtol=1e-12, atol=1e-14)


def train(case, optimizer, steps, lam=0.0, ema=None):
    for _ in range(steps):
        optimizer.zero_grad()
        loss = case.output(training=True).square().mean() + (lam * case.cost() if lam else 0.0)
        loss.backward()
        optimizer.step()
        if ema is not None:
            ema.update_parameters(case.model)


def test_adamw_is_torch_on_the_penalised_loss(case_in_memory, backend):
    case = case_in_memory
    twin = copy.deepcopy(case)
    train(case, bf.optim.AdamW(case.wiring(), lr=1e-2, weight_decay=0.1, lam=0.05), 4)
    train(twin, torch.optim.AdamW(twin.model.parameters(), lr=1e-2, weight_decay=0.1), 4, lam=0.05)
    for (name, p), q in zip(case.model.named_parameters(), twin.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")


class FactoredSGD(torch.optim.Optimizer):
    """Scales gradients by running means of their rows and columns, kept as HuggingFace's Adafactor keeps them."""

    def __init__(self, params, lr=1e-2):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self):
        for p in self.param_groups[0]["params"]:
            state, square = self.state[p], p.grad.square() + 1e-3
            if p.dim() < 2:
                means = {"exp_avg_sq": square}
            else:
                means = {"exp_avg_sq_row": square.mean(-1), "exp_avg_sq_col": square.mean(-2)}
            for key, mean in means.items():
                state[key] = 0.9 * state.get(key, 0.0) + 0.1 * mean
            if p.dim() < 2:
                scale = state["exp_avg_sq"]
            else:
                scale = state["exp_avg_sq_row"].unsqueeze(-1) * state["exp_avg_sq_col"].unsqueeze(-2)
            p -= self.param_groups[0]["lr"] * p.grad / (1 + scale.sqrt())


OPTIMIZERS = {
    "Adam": lambda wiring, params: torch.optim.Adam(params, lr=1e-2),
    "SGD": lambda wiring, params: torch.optim.SGD(params, lr=1e-2, momentum=0.9),
    "Adafactor": lambda wiring, params: torch.optim.Adafactor(params, lr=1e-2, eps=(1e-4, 1e-3)),
    "FactoredSGD": lambda wiring, params: FactoredSGD(params),
    "bimt_fast": lambda wiring, params: bf.optim.AdamW(wiring, lr=1e-2, lam=0.01, distance_scale=0.0),
}


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_a_permuted_network_trains_on_as_before(case, kind):
    """Output, moments, gradients and averaged copies follow; a copy of the model that was not permuted is the judge."""
    twin = copy.deepcopy(case)
    wirings = case.wiring(), twin.wiring()
    optimizers = [OPTIMIZERS[kind](w, c.model.parameters()) for w, c in zip(wirings, (case, twin), strict=True)]
    averages = [AveragedModel(c.model, avg_fn=lambda a, p, n: 0.5 * a + 0.5 * p) for c in (case, twin)]
    shadow = {name: p.detach().clone() for name, p in case.model.named_parameters()}
    unmoved = copy.deepcopy(shadow)
    wirings[0].attach(averages[0])
    wirings[0].attach(lambda name: [shadow[name]] if name in shadow else [])
    for c, optimizer, ema in zip((case, twin), optimizers, averages, strict=True):
        train(c, optimizer, 2, ema=ema)
    output, before = case.output(), copy.deepcopy(case.model.state_dict())
    permutations = case.inner_permutations()
    for group, permutation in permutations.items():
        wirings[0].permute_(group, permutation, optimizer=None if kind == "bimt_fast" else optimizers[0])
    assert any(not torch.equal(x, before[name]) for name, x in case.model.state_dict().items())
    torch.testing.assert_close(case.output(), output, rtol=1e-10, atol=1e-12)
    for c, optimizer, ema in zip((case, twin), optimizers, averages, strict=True):
        train(c, optimizer, 3, ema=ema)
    torch.testing.assert_close(case.output(), twin.output(), rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(averages[0].eval()(*case.x), averages[1].eval()(*twin.x), rtol=1e-9, atol=1e-10)
    for group, permutation in permutations.items():  # and back
        wirings[0].permute_(group, permutation.argsort(), optimizer=None if kind == "bimt_fast" else optimizers[0])
    for (name, x), y in zip(case.model.state_dict().items(), twin.model.state_dict().values(), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-8, atol=1e-9, msg=lambda m, n=name: f"{n}: {m}")
    assert all(torch.equal(shadow[name], unmoved[name]) for name in shadow)


def feed_forward(case):
    return [g for g in case.sizes if g not in case.recurrent]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_relocation(case, strategy):
    optimizer = torch.optim.Adam(case.model.parameters(), lr=1e-2)
    train(case, optimizer, 1)
    wiring, output = case.wiring(reduction={None: "sum", next(iter(case.axes)): "mean"}), case.output()
    before = wiring.cost().item()
    report = wiring.relocate(strategy, groups=feed_forward(case), optimizer=optimizer)
    assert report.cost_before == pytest.approx(before, rel=1e-12)
    assert report.cost_after == pytest.approx(wiring.cost().item(), rel=1e-12)
    assert report.cost_after < report.cost_before and report.swaps > 0
    gain = sum(group.gain for group in report.groups.values())
    assert gain == pytest.approx(report.cost_before - report.cost_after, rel=1e-9)
    torch.testing.assert_close(case.output(), output, rtol=1e-10, atol=1e-12)
    seats = {g: x[wiring.permutation(g)] for g, x in case.places.items()}
    mean = [next(iter(case.axes))]
    assert wiring.cost().item() == pytest.approx(case.cost(mean=mean, places=seats).item(), rel=1e-12)
    if strategy != "greedy":
        again = wiring.relocate(strategy, groups=feed_forward(case), optimizer=optimizer)
        assert again.swaps == 0 and again.cost_after == again.cost_before

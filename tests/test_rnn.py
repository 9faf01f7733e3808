"""BioRNN against a plain loop in float64: values, gradients, wiring, relocation."""

import pytest
import torch
from torch import nn

import bimt_fast as bf
from bimt_fast._recurrence import states_of


def plain_states(drive: torch.Tensor, weight: torch.Tensor, alpha: float) -> torch.Tensor:
    h, states = torch.zeros_like(drive[0]), []
    for step in drive:
        h = (1 - alpha) * h + alpha * torch.relu(step + h @ weight.T)
        states.append(h)
    return torch.stack(states)


@pytest.mark.parametrize("alpha", (1.0, 0.3))
@pytest.mark.parametrize("steps, batch, n", ((1, 3, 4), (2, 1, 1), (9, 5, 17)))
def test_states_and_gradients_against_a_plain_loop(steps, batch, n, alpha, nan_in_fresh_memory):
    torch.manual_seed(0)
    drive = torch.randn(steps, batch, n, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(n, n, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(steps, batch, n, dtype=torch.float64)
    got, want = states_of(drive, weight, alpha), plain_states(drive, weight, alpha)
    torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)
    for ours, theirs in zip(
        *(torch.autograd.grad(x, (drive, weight), grad, allow_unused=True) for x in (got, want)), strict=True
    ):
        torch.testing.assert_close(ours, torch.zeros_like(ours) if theirs is None else theirs, rtol=1e-11, atol=1e-11)


def test_gradcheck():
    torch.manual_seed(1)
    drive = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(3, 3, dtype=torch.float64, requires_grad=True)
    for alpha in (1.0, 0.6):
        assert torch.autograd.gradcheck(lambda d, w, alpha=alpha: states_of(d, w, alpha), (drive, weight))


def test_gradients_that_are_expanded_or_strided():
    drive = torch.randn(5, 2, 6, dtype=torch.float64).transpose(1, 2).requires_grad_()
    weight = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    for function in (torch.sum, lambda x: x[-1, :, 0].sum()):
        both = [
            torch.autograd.grad(function(f(drive, weight, 1.0)), (drive, weight)) for f in (states_of, plain_states)
        ]
        for ours, theirs in zip(*both, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_model_against_a_plain_loop():
    torch.manual_seed(2)
    model = bf.nn.BioRNN(5, 12, 3, alpha=0.5, noise=0.05, dtype=torch.float64)
    x = torch.randn(7, 4, 5, dtype=torch.float64)
    torch.manual_seed(3)
    got = model(x)
    torch.manual_seed(3)
    noise = 0.05 * (2 / 0.5) ** 0.5 * torch.randn(7, 4, 12, dtype=torch.float64)
    h, outputs = torch.zeros(4, 12, dtype=torch.float64), []
    for t in range(7):
        driven = x[t] @ model.input.weight.T + h @ model.recurrent.weight.T + model.input.bias + noise[t]
        h = 0.5 * h + 0.5 * driven.clamp(min=0)
        outputs.append(h @ model.readout.weight.T + model.readout.bias)
    torch.testing.assert_close(got, torch.stack(outputs), rtol=1e-12, atol=1e-12)
    assert torch.equal(model.recurrent.weight, 0.5 * torch.eye(12, dtype=torch.float64))
    model.eval()
    assert torch.equal(model(x), model(x)) and not torch.allclose(model(x), got)


@pytest.mark.parametrize("strategy", ("greedy", "matching", "tabu"))
def test_relocation_of_the_recurrent_group(strategy):
    """What the model computes stays; tensors and moments travel together on both axes of W_hh."""
    torch.manual_seed(4)
    places = {"in": bf.geometry.ring(5), "h": bf.geometry.grid((4, 5)), "out": bf.geometry.ring(3)}
    model = bf.nn.BioRNN(5, 20, 3, positions=places, frozen=["in", "out"], dtype=torch.float64)
    nn.init.normal_(model.recurrent.weight, std=0.2)
    x = torch.randn(6, 4, 5, dtype=torch.float64)
    optimizer = bf.optim.AdamW(model.wiring)
    model(x).square().mean().backward()
    optimizer.step()
    before = model(x)
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    moments = {name: optimizer.state[p]["exp_avg"].clone() for name, p in model.named_parameters()}
    report = model.wiring.relocate(strategy)
    assert report.swaps > 0 and report.cost_after < report.cost_before
    assert model.wiring.cost().item() == pytest.approx(report.cost_after, rel=1e-12)
    torch.testing.assert_close(model(x), before, rtol=1e-10, atol=1e-12)
    order = torch.stack([(old["input.weight"] == row).all(1).nonzero()[0, 0] for row in model.input.weight])
    assert order.sort()[0].tolist() == list(range(20))
    moved = {
        "input.weight": lambda w: w[order],
        "input.bias": lambda w: w[order],
        "recurrent.weight": lambda w: w[order][:, order],
        "readout.weight": lambda w: w[:, order],
        "readout.bias": lambda w: w,
    }
    for name, p in model.named_parameters():
        assert torch.equal(p, moved[name](old[name])), name
        assert torch.equal(optimizer.state[p]["exp_avg"], moved[name](moments[name])), name
    assert model.wiring.permutation("in").tolist() == list(range(5))


BAD = {
    "neurons": (dict(neurons=0), ValueError, "neurons"),
    "in_features": (dict(in_features=2.0), TypeError, "in_features"),
    "alpha": (dict(alpha=0.0), ValueError, "alpha"),
    "alpha-large": (dict(alpha=1.5), ValueError, "alpha"),
    "noise": (dict(noise=-1.0), ValueError, "noise"),
    "positions": (dict(positions={"hidden": torch.zeros(4, 1)}), ValueError, "positions"),
}


@pytest.mark.parametrize("arguments, error, name", BAD.values(), ids=BAD)
def test_errors(arguments, error, name):
    with pytest.raises(error, match=rf"\b{name}\b"):
        bf.nn.BioRNN(**(dict(in_features=2, neurons=4, out_features=1) | arguments))


def test_what_the_output_does_not_hear_can_be_left_out():
    torch.manual_seed(4)
    model = bf.nn.BioRNN(3, 7, 2, dtype=torch.float64).eval()
    weight, out = model.recurrent.weight, model.readout.weight
    with torch.no_grad():
        weight.copy_(torch.randn(7, 7) * 0.3)
        out[:, 2:] = 0  # neurons 0 and 1 are heard,
        weight[:, 4:] = 0
        weight[[0, 1, 2], 3] = 0
        weight[2, 3] = weight[3, 5] = 0.5  # 2 and 3 through others; 5 too; 4 and 6 by none
    x = torch.randn(6, 4, 3, dtype=torch.float64)
    whole = model(x)
    whole.square().sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    model.only_heard = True
    assert model._heard().tolist() == [0, 1, 2, 3, 5]
    found = model(x)
    found.square().sum().backward()
    torch.testing.assert_close(found, whole)
    for name, p in model.named_parameters():
        kept = p.detach() != 0
        torch.testing.assert_close(p.grad[kept], gradients[name][kept], msg=name)
    assert (model.states(x)[..., 4] != 0).any()
    model.only_heard = False
    model.silence_unheard_()
    torch.testing.assert_close(model(x), whole)
    assert (model.states(x)[..., [4, 6]] == 0).all() and (model.input.bias[[0, 1, 2, 3, 5]] != 0).all()

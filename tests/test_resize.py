"""Wiring.resize: copies and merged twins leave what a model computes; everything else is refused or follows."""

import pytest
import torch
from torch import nn

import bimt_fast as bf
from bimt_fast import analysis


def network(n=6) -> bf.nn.BioRNN:
    torch.manual_seed(0)
    places = {"in": bf.geometry.ring(3), "h": bf.geometry.grid((2, n // 2)), "out": bf.geometry.ring(2)}
    model = bf.nn.BioRNN(3, n, 2, positions=places, frozen=["in", "out"], base_length=0.2, dtype=torch.float64)
    nn.init.normal_(model.recurrent.weight, std=0.5)
    return model


X = torch.randn(7, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_copies_compute_the_same():
    model, copies = network(), torch.tensor([0, 0, 1, 2, 2, 2, 3, 4, 5, 5])
    before = model(X)
    model.wiring.resize("h", bf.geometry.grid((2, 5)), nn.functional.one_hot(copies).double())
    torch.testing.assert_close(model(X), before, rtol=1e-10, atol=1e-12)
    assert model.recurrent.weight.shape == (10, 10) and model.recurrent.in_features == 10
    assert torch.equal(model.wiring.slots("h"), bf.geometry.grid((2, 5)))
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in model.parameters())


def test_merged_twins_compute_the_same_and_the_wiring_goes_on():
    model = network()
    before, frozen = model(X), model.wiring.frozen
    twins = nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 4, 5] * 2)).double()
    model.wiring.resize("h", bf.geometry.grid((3, 4)), twins)
    model.wiring.resize("h", bf.geometry.grid((2, 3)), analysis.merging(torch.tensor([0, 1, 2, 3, 4, 5] * 2)))
    torch.testing.assert_close(model(X), before, rtol=1e-10, atol=1e-12)
    wiring = model.wiring
    assert wiring.frozen == frozen and wiring.settings("recurrent.weight") == (1.0, 1.0, 0.2)
    cost = sum((p.abs() * 0.2).sum() for name, p in model.named_parameters() if "bias" in name)
    for name, (out, source) in wiring.connections.items():
        length = 0.2 + bf.geometry.distances(wiring.slots(out), wiring.slots(source))
        cost = cost + (model.get_parameter(name).abs() * length).sum()
    assert wiring.cost().item() == pytest.approx(cost.item())
    optimizer = bf.optim.AdamW(wiring, lam=0.01)
    model(X).square().mean().backward()
    optimizer.step()
    assert wiring.relocate("matching").cost_after <= wiring.cost().item() + 1e-9


def test_weights_of_a_merger():
    model = network()
    old = {name: p.detach().clone() for name, p in model.named_parameters()}
    labels = torch.tensor([1, 0, 1, 1, 2, 0])
    model.wiring.resize("h", bf.geometry.line(3).expand(3, 2), analysis.merging(labels))
    for k in range(3):
        members = (labels == k).nonzero()[:, 0]
        torch.testing.assert_close(model.input.weight[k], old["input.weight"][members].mean(0))
        torch.testing.assert_close(model.input.bias[k], old["input.bias"][members].mean())
        torch.testing.assert_close(model.readout.weight[:, k], old["readout.weight"][:, members].sum(1))
        for other in range(3):
            block = old["recurrent.weight"][members][:, labels == other]
            torch.testing.assert_close(model.recurrent.weight[k, other], block.sum(1).mean())


def test_a_hidden_layer_of_a_perceptron():
    torch.manual_seed(0)
    model = bf.nn.BioMLP((3, 4, 5, 2), dtype=torch.float64)
    before = model(X)
    model.wiring.resize("h1", bf.geometry.line(6), nn.functional.one_hot(torch.tensor([0, 1, 2, 3, 3, 1])).double())
    torch.testing.assert_close(model(X), before, rtol=1e-10, atol=1e-12)


def test_interpolation():
    mixing = analysis.interpolation((2, 3), (4, 6))
    assert mixing.shape == (24, 6) and torch.allclose(mixing.sum(1), torch.ones(24, dtype=torch.float64))
    old, new = (bf.geometry.grid(shape, dtype=torch.float64) for shape in ((2, 3), (4, 6)))
    low, high = old.amin(0), old.amax(0)
    torch.testing.assert_close(mixing @ old, new.clamp(low, high))  # linear functions are kept, but at the rim
    torch.testing.assert_close(torch.linalg.pinv(mixing) @ mixing, torch.eye(6, dtype=torch.float64))
    assert torch.equal(analysis.interpolation((1, 2), (1, 2)), torch.eye(2, dtype=torch.float64))


MIXING, PLACES = torch.eye(6), bf.geometry.grid((2, 3))
BAD = {
    "unknown": (("hidden", PLACES, MIXING), ValueError, "group"),
    "boundary": (("in", bf.geometry.ring(3), torch.eye(3)), ValueError, "group"),
    "mixing-shape": (("h", PLACES, MIXING[:5]), ValueError, "mixing"),
    "mixing-int": (("h", PLACES, MIXING.long()), TypeError, "mixing"),
    "mixing-nan": (("h", PLACES, MIXING * float("nan")), ValueError, "mixing"),
    "positions-int": (("h", PLACES.long(), MIXING), TypeError, "positions"),
}


@pytest.mark.parametrize("arguments, error, name", BAD.values(), ids=BAD)
def test_errors_change_nothing(arguments, error, name):
    model = network()
    before = model(X)
    with pytest.raises(error, match=rf"\b{name}\b"):
        model.wiring.resize(*arguments)
    assert torch.equal(model(X), before)


def test_what_cannot_be_resized():
    torch.manual_seed(0)
    transformer = bf.nn.BioTransformer(3, 2, width=4, heads=2)
    with pytest.raises(NotImplementedError, match="blocks"):
        transformer.wiring.resize("attn1", bf.geometry.line(4), torch.eye(4))
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    wiring = bf.trace(model, torch.zeros(1, 3))
    (hidden,) = wiring.inner_groups
    with pytest.raises(NotImplementedError, match="LayerNorm"):
        wiring.resize(hidden, bf.geometry.line(4), torch.eye(4))

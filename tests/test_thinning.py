"""Removal of neurons during training."""

import signal
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import functional_call

from bimt_fast.nn import BioMLP, BioRNN
from bimt_fast.tasks import TASKS, _run
from bimt_fast.thinning import Thinning
from bimt_fast.train import ABLATIONS, train

SIXTEEN = {"shape": (53, 16, 17), "batch": 4, "prune_from": None, "swap_every": 2}


@pytest.fixture
def model():
    torch.manual_seed(0)
    model = BioRNN(3, 8, 2, dtype=torch.float64)
    nn.init.normal_(model.recurrent.weight, std=0.4)
    nn.init.constant_(model.input.bias, 1)
    return model


def connected(model):
    """Neurons with any connection."""
    weight = model.recurrent.weight
    return ((weight != 0).any(0) | (weight != 0).any(1) | (model.readout.weight != 0).any(0)).nonzero()[:, 0].tolist()


def test_relevance_is_the_squared_derivative_by_a_factor_before_what_a_neuron_says(model):
    thinning, expected = Thinning(model, 0, 0.5, 4, steps=100), torch.zeros(8, dtype=torch.float64)

    def loss(factor, x):
        weights = {name: p * factor if p.shape[-1] == 8 else p for name, p in model.named_parameters()}
        weights["input.bias"] = model.input.bias
        return functional_call(model, weights, (x,)).square().mean()

    for _ in range(3):
        x, width = torch.rand(5, 4, 3, dtype=torch.float64), 1e-6
        model.zero_grad()
        loss(torch.ones(8, dtype=torch.float64), x).backward()
        thinning.observe()
        with torch.no_grad():
            for k in range(8):
                step = width * torch.eye(8, dtype=torch.float64)[k]
                expected[k] += ((loss(1 + step, x) - loss(1 - step, x)) / (2 * width)) ** 2
    assert expected.max() > 4 * expected.min() > 0
    torch.testing.assert_close(thinning.relevance, expected, rtol=1e-6, atol=0)


def test_the_least_relevant_go_in_equal_numbers(model):
    thinning = Thinning(model, 0.1, 0.5, 2, steps=10)
    assert thinning.first == 1 and thinning.stages == [2, 3, 4, 5]
    left = list(range(8))
    for step, gone in zip(thinning.stages, ([5, 2], [0, 7], [1], [6]), strict=True):
        thinning.relevance += torch.arange(8.0, 16.0)
        thinning.relevance[gone] = torch.tensor([0.5, 1.5][: len(gone)], dtype=torch.float64)
        thinning.remove(step)
        left = [k for k in left if k not in gone]
        assert connected(model) == left and not thinning.relevance.any()
    silent = [k for k in range(8) if k not in left]
    assert (model.input.weight[silent] == 0).all() and (model.input.bias[silent] == 0).all()
    assert (model.input.weight[left] != 0).all() and (model.recurrent.weight[left][:, left] != 0).all()
    thinning.remove(5)
    assert connected(model) == left == [3, 4]


def test_a_network_of_fewer_neurons_keeps_them(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    thinning = Thinning(model, 0, 1, 9, steps=100)
    assert len(thinning.stages) == 20 and thinning.stages[-1] == 99
    thinning.remove(thinning.stages[-1])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_relevance_travels_with_the_neurons(model):
    thinning = Thinning(model, 0, 0.5, 4, steps=100)
    model.wiring.attach(thinning.following)
    with torch.no_grad():
        thinning.relevance += model.input.bias.copy_(torch.arange(8.0))
    model.wiring.permute_("h", torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]))
    assert torch.equal(thinning.relevance, model.input.bias) and thinning.relevance[0] == 3


def test_a_run_ends_with_as_many_neurons_and_resumes_to_the_same_bits(tmp_path):
    task = TASKS["brain"]
    preset = replace(task.preset, **SIXTEEN, steps=24, thin=(0.25, 0.75, 6))
    seen = []

    def loss(prediction, target):
        if len(seen) == 11:
            seen.append(None)
            signal.raise_signal(signal.SIGINT)
        seen.append(prediction.detach())
        return task.loss(prediction, target)

    _, whole = _run.run(task, preset, tmp_path / "whole")
    assert len(connected(whole)) == 6 == len(whole._heard()) and not whole.only_heard
    with pytest.raises(KeyboardInterrupt):
        _run.run(replace(task, loss=loss), preset, tmp_path / "cut")
    _, resumed = _run.run(task, preset, tmp_path / "cut", resume=True)
    for name, p in whole.named_parameters():
        assert torch.equal(p, resumed.get_parameter(name)), name
    assert ABLATIONS["none"]["thin"] is None


def test_removed_neurons_stay_away_without_pruning_too():
    preset = replace(TASKS["brain"].preset, **SIXTEEN, steps=40, thin=(0, 0.25, 5), lr=0.01)
    torch.manual_seed(0)
    model, asked = TASKS["brain"].make_model(preset), []

    def loss(network):
        asked.append((network.only_heard, len(connected(network))))
        return network(torch.ones(3, 2, 53)).square().sum()

    train(model, model.wiring, loss, preset)
    skipped, left = zip(*asked, strict=True)
    assert all(skipped) and left[0] == 16 and list(left) == sorted(left, reverse=True) and set(left[10:]) == {5}


@pytest.mark.parametrize(
    ("thin", "error", "message"),
    [
        ((0.5, 0.5, 4), ValueError, r"end must be above start, 0.5, and at most 1, was 0.5"),
        ((0.5, 1.5, 4), ValueError, r"end must be above start, 0.5, and at most 1, was 1.5"),
        ((-0.5, 0.5, 4), ValueError, r"start must be finite and at least 0, was -0.5"),
        ((0.5, 0.75, 0), ValueError, r"neurons must be .*at least 1, was 0"),
        ((0.5, 0.75, 4.5), TypeError, r"neurons must be an integer, was 4.5"),
    ],
)
def test_a_range_that_makes_no_sense(model, thin, error, message):
    before = model.recurrent.weight.clone()
    with pytest.raises(error, match=message):
        train(model, model.wiring, lambda _: None, replace(TASKS["brain"].preset, thin=thin))
    assert torch.equal(before, model.recurrent.weight)


def test_connections_without_gradients_are_refused(model):
    model.readout.weight.requires_grad_(False)
    with pytest.raises(ValueError, match=r"'readout.weight' must require gradients for neurons to be removed"):
        Thinning(model, 0, 0.5, 4, steps=100)


def test_other_networks_are_refused():
    model = BioMLP([2, 4, 1])
    preset = replace(TASKS["products"].preset, thin=(0.1, 0.2, 2))
    with pytest.raises(TypeError, match=r"model must be a bimt_fast.nn.BioRNN for neurons to be removed, was BioMLP"):
        train(model, model.wiring, lambda _: None, preset)

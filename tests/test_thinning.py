"""Removal of neurons during training."""

import gc
import signal
import weakref
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
    assert not thinning.remove(5)
    assert connected(model) == left == [3, 4]


def test_the_output_is_never_cut_off(model):
    with torch.no_grad():
        model.readout.weight[:, 1:] = 0  # the output hears neuron 0 alone, which hears neuron 1, and so on
        model.recurrent.weight.copy_(torch.ones(8, 8).tril(1).triu(1))
    thinning = Thinning(model, 0, 0.5, 6, steps=100)
    assert len(connected(model)) == 8
    assert thinning.remove(thinning.stages[-1])
    assert connected(model) == [0] and (model.readout.weight[:, 0] != 0).all()


def test_a_network_of_fewer_neurons_keeps_them(model):
    before = {name: p.clone() for name, p in model.named_parameters()}
    thinning = Thinning(model, 0, 1, 9, steps=100)
    assert len(thinning.stages) == 20 and thinning.stages[-1] == 99
    assert not thinning.remove(thinning.stages[-1])
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


def test_relevance_travels_with_the_neurons(model):
    thinning = Thinning(model, 0, 0.5, 4, steps=100)
    with torch.no_grad():
        thinning.relevance += model.input.bias.copy_(torch.arange(8.0))
    model.wiring.permute_("h", torch.tensor([3, 1, 0, 2, 7, 6, 5, 4]))
    assert torch.equal(thinning.relevance, model.input.bias) and thinning.relevance[0] == 3
    gone = weakref.ref(thinning)
    del thinning
    gc.collect()
    assert gone() is None
    model.wiring.permute_("h", torch.arange(7, -1, -1))
    assert model.input.bias.tolist() == [4, 5, 6, 7, 2, 0, 1, 3]


def test_training_removes_the_same_neurons_wherever_they_are():
    preset = replace(TASKS["brain"].preset, steps=40, thin=(0.2, 0.6, 6), prune_from=None, lam=((0.0, 0.0),))
    found = []
    for every in (None, 1):
        torch.manual_seed(0)
        model, x = BioRNN(3, 16, 2, dtype=torch.float64), torch.rand(5, 8, 3, dtype=torch.float64)
        nn.init.normal_(model.recurrent.weight, std=0.4)
        history = train(
            model, model.wiring, lambda m, x=x: (m(x) - 1).square().mean(), replace(preset, swap_every=every)
        )
        found.append(model.input.bias.detach().sort().values)
    assert history.swaps > 0 and len(found[0].nonzero()) == 6
    torch.testing.assert_close(*found)


def test_optimizer_state_stays_where_nothing_goes():
    model, steps = BioRNN(3, 8, 2), []

    def loss(network):
        state = [s for optimizer in network.wiring._optimizers for s in optimizer.state.values()]
        steps.append(int(state[0]["step"]) if state else 0)
        return network(torch.ones(2, 1, 3)).sum()

    train(model, model.wiring, loss, replace(TASKS["brain"].preset, steps=9, thin=(0.2, 0.6, 8), prune_from=None))
    assert steps == list(range(9))


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
    ("thin", "steps"), [((0, 0.5, 4), 2), ((0.9, 1, 4), 10), ((0.99, 1, 4), 100), ((0.4, 0.41, 4), 5)]
)
def test_a_stage_is_always_reached_and_has_been_judged_for(model, thin, steps):
    thinning = Thinning(model, *thin, steps)
    assert 0 <= thinning.first < thinning.stages[0] and thinning.stages[-1] < steps


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
    with pytest.raises(ValueError, match=r"steps must be .*at least 2, was 1"):
        Thinning(model, 0, 0.5, 4, steps=1)
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

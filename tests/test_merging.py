"""Merges of neurons, and the recipe that searches with them."""

import os
import signal
from copy import deepcopy
from dataclasses import replace

import pytest
import torch
from torch import nn

import bimt_fast as bf
from bimt_fast import _run_report, merging
from bimt_fast.nn import BioMLP
from bimt_fast.tasks import TASKS, _run
from bimt_fast.train import Checkpoint, Preset, reliable, train, value_at


def split_product(share: float = 1.0) -> tuple[BioMLP, torch.Tensor]:
    """x1 x2 as the difference of two squares, each in a last hidden neuron of its own; and inputs."""
    torch.manual_seed(0)
    model = BioMLP((2, 6, 6, 2))
    x = torch.rand(60, 2) * 2 - 1
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        first, second, last = model.layers
        for k, (a, b) in enumerate([(1.0, 1.0), (-1.0, -1.0), (1.0, -1.0), (-1.0, 1.0)]):
            first.weight[k] = torch.tensor([a, b])
        second.weight[0, :2] = 0.5 * share
        second.weight[3, 2:4] = 0.5 * share
        last.weight[:, 0] = torch.tensor([1.0, -1.0])
        last.weight[:, 3] = torch.tensor([-1.0, 1.0])
    return model, x


def objective_of(model: BioMLP, x: torch.Tensor, y: torch.Tensor, lam: float = 1e-2):
    def objective() -> float:
        with torch.no_grad():
            return (nn.functional.mse_loss(model(x), y) + lam * model.wiring.cost()).item()

    return objective


def test_two_neurons_that_split_a_feature_become_one():
    model, x = split_product()
    y = model(x).detach()
    before = deepcopy(model.state_dict())
    objective = objective_of(model, x, y)
    found = merging.merges(model, x, objective)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items() if isinstance(v, torch.Tensor))
    best = found[0]
    assert best.layer == 1 and set(best.neurons) == {0, 3} and len(best.neurons) == 2
    merging.put_(model, best.weights)
    assert objective() == pytest.approx(best.objective)
    assert best.objective < objective_of(model, x, torch.zeros_like(y))(), "it still says the product"
    last = model.layers[2].weight
    assert (last.abs() > 0.05).any(0).sum() == 1
    with torch.no_grad():
        error = nn.functional.mse_loss(model(x), y) / y.var()
    assert error < 0.1, "one neuron says nearly all of it, before any training"


def test_merges_come_layer_by_layer_best_first():
    model, x = split_product()
    found = merging.merges(model, x, objective_of(model, x, model(x).detach()))
    layers = [merge.layer for merge in found]
    assert layers == sorted(layers, reverse=True) and set(layers) == {0, 1}
    for layer in (0, 1):
        objectives = [merge.objective for merge in found if merge.layer == layer]
        assert objectives == sorted(objectives)
    assert len({(m.layer, m.neurons) for m in found}) == len(found)


def test_a_neuron_that_others_can_stand_in_for_goes_without_loss():
    torch.manual_seed(1)
    model, x = BioMLP((3, 5, 4, 2)), 8 * torch.rand(50, 3) - 4
    with torch.no_grad():
        model.layers[0].weight[4] = model.layers[0].weight[1]  # says the same
        model.layers[0].bias[4] = model.layers[0].bias[1]
        for layer in model.layers:
            layer.weight += 0.1 * layer.weight.sign()  # every connection counts
    y = model(x).detach()
    found = {m.neurons: m for m in merging.merges(model, x, objective_of(model, x, y, lam=0.0)) if m.layer == 0}
    assert found[(4,)].objective < 1e-10 and found[(1,)].objective < 1e-10
    assert found[(0,)].objective > 1e-6


def test_pairs_are_those_of_which_one_could_say_the_most():
    torch.manual_seed(2)
    model, x = BioMLP((3, 7, 2)), torch.rand(40, 3)
    said = model.hidden(x)[0].detach()
    layer = merging._Layer(model, 0, x, said)
    w = model.layers[1].weight.detach().double()

    def unsaid(pair):
        contribution = (said - said.mean(0)).double()[:, pair] @ w[:, pair].T
        return torch.linalg.svdvals(contribution)[1].item() ** 2

    pairs = [list(pair) for pair in layer._alike()]
    values = [unsaid(pair) for pair in pairs]
    assert values == sorted(values)
    assert len(pairs) == len(layer.alive) * (len(layer.alive) - 1) // 2


def test_prune_takes_out_what_carries_nothing():
    torch.manual_seed(3)
    model, x = BioMLP((2, 4, 4, 1)), torch.rand(20, 2)
    first, second, last = model.layers
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        first.weight[0, 0] = second.weight[1, 0] = last.weight[0, 1] = 1.0
        first.bias[2], second.weight[1, 2] = 3.0, 0.5  # hears nothing: a constant
        second.weight[3, 0] = 0.7  # nothing hears it
        first.weight[1, 1], second.weight[2, 1], last.weight[0, 2] = 0.04, 1.0, 1.0  # hears too little
    y = model(x).detach()
    merging.prune_(model)
    assert torch.allclose(model(x), y, atol=0.03)
    assert [int((layer.weight != 0).sum()) for layer in model.layers] == [1, 1, 1]
    assert first.bias[2] == 0 and second.bias[1].item() == pytest.approx(
        0.5 * nn.functional.silu(torch.tensor(3.0)).item()
    )


def test_prune_never_severs_a_layer():
    model = BioMLP((2, 3, 3, 1))
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.mul_(1e-3)
    merging.prune_(model)
    assert all(layer.weight.any() for layer in model.layers)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        (nn.Sequential(nn.Linear(2, 3)), TypeError, "was Sequential"),
        (BioMLP((2, 3, 1), bias=False), ValueError, "biases"),
    ],
)
def test_what_cannot_be_merged(model, error, words):
    with pytest.raises(error, match=words):
        merging.merges(model, torch.rand(5, 2), float)
    with pytest.raises(error, match=words):
        merging.prune_(model)


def test_the_search_keeps_what_helps_and_undoes_the_rest():
    model, x = split_product()
    y = model(x).detach()
    optimizer = bf.optim.AdamW(model.wiring, lam=0.0)
    answers = iter([1.0, 1.1, 1.2, 1.0, 0.9])  # to beat 1, on the way, too far off; to beat 1, better
    search = merging.MergeSearch(model, optimizer, x, objective_of(model, x, y))
    queue = merging.merges(model, x, search.objective)
    search.queue, search.objective = queue[:2], lambda: next(answers)
    untouched = deepcopy(model.state_dict())
    search.step(last=False)
    assert search.tried == 1 and not same(model, untouched)
    search.step(last=False)
    assert search.before is not None, "within the patience, it goes on"
    search.step(last=False)  # undone, and the next one on trial
    assert search.tried == 2 and search.kept == 0
    tried = deepcopy(model.state_dict())
    search.step(last=True)
    assert search.kept == 1 and same(model, tried) and search.before is None and search.queue is None
    search.queue, search.objective = queue[:1], iter([1.0, 1.01]).__next__
    search.step(last=False)
    search.step(last=True)
    assert same(model, tried), "at the end, what is not better yet is undone"


def same(model: nn.Module, state: dict) -> bool:
    return all(torch.equal(v, state[k]) for k, v in model.state_dict().items() if isinstance(v, torch.Tensor))


SHORT = replace(reliable(TASKS["products"].preset), steps=200, merge_every=20, swap_every=25, seed=0)


def test_pruned_connections_stay_pruned():
    task = TASKS["products"]
    data = task.make_data(0)
    zeros = {}
    torch.manual_seed(0)
    model = task.make_model(SHORT)

    def loss(network):
        zeros[len(zeros)] = sum(int((layer.weight == 0).sum()) for layer in network.layers)
        return task.loss(network(data.train_x), data.train_y)

    train(model, model.wiring, loss, replace(SHORT, merge=None, swap_every=None))
    assert not any(zeros[k] for k in range(170))
    assert zeros[170] > 0 and {zeros[k] for k in range(170, 200)} == {zeros[170]}
    assert sum(int((layer.weight == 0).sum()) for layer in model.layers) == zeros[170]


def test_a_resumed_search_ends_in_the_same_bits(tmp_path):
    task = TASKS["products"]
    whole, model = _run.run(task, SHORT, tmp_path / "whole")
    assert whole["merges"]["tried"] > 1
    data = task.make_data(0)
    steps = []

    def loss(network):
        return task.loss(network(data.train_x), data.train_y)

    def interrupted_loss(network):
        steps.append(1)
        if len(steps) == 150:  # while merges are judged
            os.kill(os.getpid(), signal.SIGINT)
        return loss(network)

    checkpoint = Checkpoint(tmp_path / "state.pt", {})
    torch.manual_seed(0)
    half = task.make_model(SHORT)
    with pytest.raises(KeyboardInterrupt):
        train(half, half.wiring, interrupted_loss, SHORT, inputs=data.train_x, checkpoint=checkpoint)
    assert checkpoint.load()["search"]["before"] is not None
    torch.manual_seed(5)
    fresh = task.make_model(SHORT)
    history = train(fresh, fresh.wiring, loss, SHORT, inputs=data.train_x, checkpoint=checkpoint, resume=True)
    assert history.merges_tried == whole["merges"]["tried"]
    assert all(torch.equal(a, b) for a, b in zip(fresh.parameters(), model.parameters(), strict=True))


def test_schedules_run_smoothly_where_asked():
    schedule = ((0.0, 1e-3), (0.5, 1e-1), (1.0, 1e-1))
    assert value_at(schedule, 0.25) == 1e-3
    assert value_at(schedule, 0.25, smooth=True) == pytest.approx(1e-2)
    assert value_at(schedule, 0.75, smooth=True) == pytest.approx(1e-1)
    assert value_at(schedule, 1.0, smooth=True) == 1e-1


def test_reliable_keeps_network_data_and_steps():
    for name in ("products", "independence", "sharing", "compositionality"):
        published, ours = TASKS[name].preset, TASKS[name].settings("reliable")
        assert isinstance(ours, Preset) and ours.name == "reliable"
        for kept in ("shape", "steps", "seed", "batch", "base_length", "distance_scale", "swap_every"):
            assert getattr(ours, kept) == getattr(published, kept)
    with pytest.raises(ValueError, match="mnist"):
        TASKS["mnist"].settings("reliable")


def test_merges_need_inputs():
    task = TASKS["products"]
    model = task.make_model(SHORT)
    with pytest.raises(ValueError, match="inputs must be given"):
        train(model, model.wiring, lambda m: None, SHORT)


def test_the_table_says_what_was_merged_and_how(tmp_path):
    result, _ = _run.run(TASKS["products"], replace(SHORT, steps=40, merge_every=5, swap_every=None), tmp_path)
    assert dict(_run_report.training_rows(result))["merges of neurons"].endswith(f"{result['merges']['tried']} tried")
    assert dict(_run_report.figure_rows(result))["seed, strategy"] == "0, no relocation, reliable"
    settings = dict(_run_report._settings(result["preset"]))
    assert settings["lr"] == "0.002 at 0, 0.002 at 0.95, 0.0005 at 1 of the steps, geometric between"
    assert settings["bias"] == "no from 0, yes from 0.45, no from 0.9 of the steps"


def test_pruning_in_training_needs_no_biases():
    torch.manual_seed(0)
    model = BioMLP((2, 8, 1), bias=False)
    preset = replace(TASKS["products"].preset, steps=4, batch=None, swap_every=None, prune_from=0.5)
    x = torch.rand(20, 2)
    train(model, model.wiring, lambda network: network(x).square().mean(), preset)
    zero = torch.cat([p.detach().flatten() for p in model.parameters()]) == 0
    assert 0 < int(zero.sum()) < len(zero)

"""The brain: its training run, and what `analyse` makes of it."""

import json
import signal
from dataclasses import replace

import pytest
import torch
from torch import nn

import bimt_fast as bf
from bimt_fast import geometry
from bimt_fast.__main__ import main
from bimt_fast.tasks import TASKS, _analyse, _cognitive, _run, brain
from bimt_fast.train import train


@pytest.fixture(autouse=True)
def few(monkeypatch):
    """Few sequences to judge by."""
    monkeypatch.setattr(brain, "_JUDGED", 60)
    monkeypatch.setattr(_analyse, "_SEQUENCES", 60)


def tiny(**changes):
    task = TASKS["brain"]
    preset = replace(task.preset, shape=(53, 16, 17), batch=4, **{"steps": 8, "swap_every": 3, **changes})
    return replace(task, make_data=lambda seed: data()), preset


def data():
    generator = torch.Generator().manual_seed(0)
    return brain.Data(*_cognitive.batch(3, generator), *_cognitive.batch(3, generator))


def test_the_network_is_that_of_the_paper():
    model = brain.make_model(brain.FULL)
    assert {name: tuple(p.shape) for name, p in model.named_parameters()} == {
        "input.weight": (400, 53),
        "input.bias": (400,),
        "recurrent.weight": (400, 400),
        "readout.weight": (17, 400),
        "readout.bias": (17,),
    }
    wiring = model.wiring
    assert torch.equal(wiring.slots("h"), geometry.grid((20, 20))) and wiring.frozen == ("in", "out")
    inputs, outputs = wiring.slots("in"), wiring.slots("out")
    centre = torch.tensor([0.5, 0.5])
    assert torch.equal(inputs[0], centre) and torch.equal(outputs[0], centre)
    for ring, radius in ((inputs[1:17], 0.2), (inputs[17:33], 0.3), (inputs[33:], 0.45), (outputs[1:], 0.3)):
        assert (ring - centre).norm(dim=1).tolist() == pytest.approx([radius] * len(ring), abs=1e-6)
    assert torch.allclose(outputs[1 + 4], torch.tensor([0.5, 0.8]))  # direction 4 of 16 is up
    assert model.noise == 0.05 and model.alpha == 1 and brain.FULL.clip == 1 and brain.FULL.lr == 1e-3


def test_training_repeats_and_resumes_to_the_same_bits(tmp_path):
    task, preset = tiny()
    result, whole = _run.run(task, preset, tmp_path / "whole")
    assert result["relocation"]["count"] == 2 and result["relocation"]["swaps"] > 0
    calls = []

    def loss(prediction, target):
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        return task.loss(prediction, target)

    with pytest.raises(KeyboardInterrupt):
        _run.run(replace(task, loss=loss), preset, tmp_path / "cut")
    torch.rand(3)
    again, resumed = _run.run(task, preset, tmp_path / "cut", resume=True)
    for name, p in whole.named_parameters():
        assert torch.equal(p, resumed.get_parameter(name)), name
    assert again["structure"] == result["structure"] and len(calls) == 5


def test_batches_differ_from_step_to_step():
    torch.manual_seed(0)
    one, other = brain.make_batch(3), brain.make_batch(3)
    torch.manual_seed(0)
    again = brain.make_batch(3)
    assert not torch.equal(one[0], other[0]) and torch.equal(one[0], again[0])


def test_the_task_gradient_is_clipped_and_the_penalty_is_not():
    model = nn.Linear(3, 2, bias=False)
    wiring = bf.Wiring(model, {"in": geometry.line(3), "out": geometry.line(2)}, {"weight": ("out", "in")})
    preset = replace(brain.FULL, steps=1, swap_every=None, lam=((0.0, 5.0),), clip=0.5)
    train(model, wiring, lambda network: 100 * network.weight.sum(), preset)
    assert model.weight.grad.norm().item() == pytest.approx(0.5, rel=1e-5)


def test_the_bar_shows_the_share_of_right_answers():
    task, _ = tiny()
    loss = _run.task_loss(task, data(), 20)
    model = nn.Linear(53, 17, bias=False)
    nn.init.zeros_(model.weight)
    model.weight.data[0] = 1.0  # always fixates
    loss(model).backward()
    x, y, _ = loss.last
    last = _cognitive.answered(x)
    assert loss.figures() == {"accuracy": pytest.approx((y[last] == 0).double().mean().item())}
    assert 0.02 < loss.figures()["accuracy"] < 0.3


def test_accuracies_count_over_all_batches(monkeypatch):
    monkeypatch.setattr(brain, "_AT_ONCE", 25)
    model = nn.Linear(53, 17)
    state = torch.get_rng_state()
    found = brain.accuracies(model, sequences=60, seed=9)
    assert torch.equal(state, torch.get_rng_state())
    generator, trials, right = torch.Generator().manual_seed(9), [0] * 20, [0] * 20
    for count in (25, 25, 10):
        x, y = _cognitive.batch(count, generator)
        for t in range(99):
            for k in range(count):
                if x[t, k, 0] == 0 and x[t + 1, k, 0] == 1:
                    task = int(x[t, k, 33:].argmax())
                    trials[task] += 1
                    right[task] += int(model(x[t, k]).argmax()) == int(y[t, k])
    assert list(found) == list(_cognitive.NAMES)
    assert list(found.values()) == pytest.approx([r / max(n, 1) for r, n in zip(right, trials, strict=True)])


def test_wire_is_counted_in_grid_spacings(monkeypatch):
    _, preset = tiny()
    torch.manual_seed(1)
    model = brain.make_model(preset)
    weight = model.recurrent.weight
    nn.init.normal_(weight, std=0.06)
    counted = {at: [0.0, 0] for at in ("0.01", "0.05", "0.1")}
    weighted = 0.0
    for i in range(16):
        for j in range(16):
            steps = abs(i // 4 - j // 4) + abs(i % 4 - j % 4)
            w = abs(weight[i, j].item())
            weighted += w * steps
            for at, figures in counted.items():
                if w > float(at):
                    counted[at] = [figures[0] + steps, figures[1] + 1]
    found = _analyse.wire_of(model)
    assert found["weighted"] == pytest.approx(weighted, rel=1e-5)
    for at, (wire, connections) in counted.items():
        assert found["above"][at]["wire"] == pytest.approx(wire, rel=1e-5)
        assert found["above"][at]["connections"] == connections
    structure = brain.structure(model, data())
    assert structure["wire"] == pytest.approx(counted["0.05"][0], rel=1e-5)
    pruned = brain.make_model(preset)
    pruned.load_state_dict(model.state_dict())
    pruned.recurrent.weight.data[weight.abs() <= 0.05] = 0
    assert structure["pruned_error"] == pytest.approx(1 - sum(brain.accuracies(pruned).values()) / 20)
    assert set(structure["falls_short"]) == {
        n for n, share in structure["accuracy"].items() if share < brain.PUBLISHED[n] - 0.02
    }


def test_variances_against_a_plain_loop():
    _, preset = tiny()
    torch.manual_seed(2)
    model = brain.make_model(preset)
    found = _analyse.variances(model, trials=6, seed=4)
    assert found.shape == (16, 20) and model.training
    model.eval()
    generator = torch.Generator().manual_seed(4)
    for task in range(20):
        x, _ = _cognitive.batch(6, generator, steps=_cognitive.longest(task), task=task)
        with torch.no_grad():
            states = model.states(x).double()
        lengths = []
        for k in range(6):
            ends = [t + 1 for t in range(len(x) - 1) if x[t, k, 0] == 0 and x[t + 1, k, 0] == 1]
            lengths.append(ends[0] if ends else len(x))
        steps = []
        for t in range(len(x)):
            values = torch.stack([states[t, k] for k in range(6) if t < lengths[k]] or [states[0, 0]])
            if len(values) > 1:
                steps.append(values.var(0, correction=0))
        torch.testing.assert_close(found[:, task], torch.stack(steps).mean(0), rtol=1e-6, atol=1e-9)


def test_one_trial_of_each_task():
    _, preset = tiny()
    shown = _analyse.one_trial_each(brain.make_model(preset))
    for task, (name, (x, y, answer)) in enumerate(shown.items()):
        assert name == _cognitive.NAMES[task] and len(x) == len(y) == len(answer) <= _cognitive.longest(task)
        assert (x[:, 33 + task] == 1).all() and x[0, 0] == 1 and x[-1, 0] == 0


def test_train_and_analyse_from_the_command_line(tmp_path, capsys, monkeypatch):
    pytest.importorskip("scipy")
    pytest.importorskip("networkx")
    pytest.importorskip("matplotlib")
    run, other = tmp_path / "bimt", tmp_path / "none"
    monkeypatch.setattr(_run, "draw", lambda *arguments: True)
    assert main(["train", "brain", "--preset", "small", "--steps", "3", "--out", str(run)]) == 0
    said = capsys.readouterr().out
    assert "accuracy, multidlydm" in said and "(published 0.9)" in said and "recurrent wire" in said
    assert json.loads((run / "result.json").read_text())["structure"]["mean_accuracy"] < 0.5
    arguments = ["train", "brain", "--preset", "small", "--steps", "2", "--ablation", "none", "--out", str(other)]
    assert main(arguments) == 0
    capsys.readouterr()
    monkeypatch.setattr(_analyse, "_TRIALS", 20)
    assert main(["analyse", "brain", str(run), "--against", str(other)]) == 0
    said = capsys.readouterr().out
    assert "clusters (Ward" in said and "wire of none / this one's" in said
    out = run / "analysis"
    summary = json.loads((out / "analysis.json").read_text())
    assert summary["active"]["of"] == 100 and sum(summary["clusters"]["sizes"]) == summary["active"]["neurons"]
    assert summary["modularity"]["isolated, 4 neighbours"]["p"] > 0 and summary["run"]["step"] == 3
    for name in ("trials", "accuracy", "variance", "brain", "network", "nulls", "distance", "importance"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


def test_what_analyse_refuses(tmp_path, capsys):
    assert main(["analyse", "brain", str(tmp_path)]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err
    assert main(["train", "products", "--steps", "2", "--out", str(tmp_path)]) in (0, 1)
    capsys.readouterr()
    assert main(["analyse", "brain", str(tmp_path)]) == 1
    assert "must be a run of brain, was of 'products'" in capsys.readouterr().err
    assert main(["train", "brain", "--preset", "tiny", "--out", str(tmp_path / "new")]) == 1
    assert "preset of brain must be one of full, small" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["analyse", "products", str(tmp_path)])

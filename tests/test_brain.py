"""The brain: its training run, and what `analyse` makes of it."""

import importlib.util
import json
import math
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
    preset = replace(task.preset, shape=(53, 16, 17), batch=4, **{"steps": 8, "swap_every": 3, "thin": None, **changes})
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
    for ring, radius in ((inputs[1:17], 0.05), (inputs[17:33], 0.08), (inputs[33:], 0.45), (outputs[1:], 0.05)):
        assert (ring - centre).norm(dim=1).tolist() == pytest.approx([radius] * len(ring), abs=1e-6)
    assert torch.allclose(outputs[1 + 4], torch.tensor([0.5, 0.55]))  # direction 4 of 16 is up
    assert model.noise == 0.05 and model.alpha == 1 and brain.FULL.clip == 1 and brain.FULL.lr[0] == (0.0, 1e-3)


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


def test_pruned_weights_stay_zero_and_what_is_not_heard_is_skipped(tmp_path):
    task, preset = tiny(prune_from=0.5)
    make = task.make_model

    def make_model(settings):
        model = make(settings)
        with torch.no_grad():
            model.readout.weight[:, 10:] = 0  # and nothing but they themselves hears these
        return model

    task, seen = replace(task, make_model=make_model), []

    def loss(prediction, target):
        if len(seen) == 6:
            seen.append(None)
            signal.raise_signal(signal.SIGINT)
        seen.append(prediction.detach())
        return task.loss(prediction, target)

    _, whole = _run.run(task, preset, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        _run.run(replace(task, loss=loss), preset, tmp_path / "cut")
    _, resumed = _run.run(task, preset, tmp_path / "cut", resume=True)
    for name, p in whole.named_parameters():
        assert torch.equal(p, resumed.get_parameter(name)), name
    assert not whole.only_heard and (whole.recurrent.weight == 0).double().mean() > 0.8
    heard = whole._heard()
    silent = [k for k in range(16) if k not in heard.tolist()]
    assert 4 <= len(silent) < 16 and (whole.input.weight[silent] == 0).all() and (whole.input.bias[silent] == 0).all()
    pruned = replace(preset, steps=5, prune_from=0.8)
    torch.manual_seed(0)
    model = task.make_model(pruned)
    asked = []

    def ask(network):
        asked.append((network.only_heard, int((network.recurrent.weight != 0).sum())))
        return network(torch.ones(2, 1, 53)).sum()

    train(model, model.wiring, ask, pruned)
    assert [skipped for skipped, _ in asked] == [False, False, False, False, True]
    asked.clear()
    model = task.make_model(preset)
    nn.init.normal_(model.recurrent.weight, std=0.1)
    train(model, model.wiring, ask, replace(preset, steps=6, prune_from=(0.3, 0.8), lr=((0.0, 1e-3), (0.5, 0.05))))
    left = [count for _, count in asked]
    assert left[1] == 256 > left[2] == left[4] > left[5] > 0


def test_batches_differ_from_step_to_step():
    torch.manual_seed(0)
    one, other = brain.make_batch(3), brain.make_batch(3)
    torch.manual_seed(0)
    again = brain.make_batch(3)
    assert not torch.equal(one[0], other[0]) and torch.equal(one[0], again[0])


def test_the_task_gradient_is_clipped_and_the_penalty_is_not():
    model = nn.Linear(3, 2, bias=False)
    wiring = bf.Wiring(model, {"in": geometry.line(3), "out": geometry.line(2)}, {"weight": ("out", "in")})
    preset = replace(brain.FULL, steps=1, swap_every=None, thin=None, lam=((0.0, 5.0),), clip=0.5)
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
    counted = {at: [0.0, 0] for at in ("0.01", "0.02", "0.05", "0.1")}
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
    assert structure["wire"] == pytest.approx(counted["0.02"][0], rel=1e-5)
    pruned = brain.make_model(preset)
    pruned.load_state_dict(model.state_dict())
    pruned.recurrent.weight.data[weight.abs() <= 0.02] = 0
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
    small = replace(TASKS["brain"].more_presets["small"], shape=(53, 25, 17), prune_from=None, thin=None)  # too short
    monkeypatch.setitem(TASKS["brain"].more_presets, "small", small)
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
    assert summary["active"]["of"] == 25 and sum(summary["clusters"]["sizes"]) == summary["active"]["neurons"]
    assert summary["modularity"]["isolated, 4 neighbours"]["p"] > 0 and summary["run"]["step"] == 3
    for name in ("trials", "accuracy", "variance", "brain", "network", "nulls", "distance", "importance"):
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG"), name


@pytest.mark.parametrize("name", brain.BRAINS)
def test_every_surface_trains_and_relocates(name, tmp_path):
    """By the metric that it has: cost and swaps against a plain loop, training with frames, and what is drawn of it."""
    _, preset = tiny()
    preset = replace(preset, distance_scale=TASKS[name].preset.distance_scale)
    torch.manual_seed(3)
    model = TASKS[name].make_model(preset)
    nn.init.normal_(model.recurrent.weight, std=0.3)
    wiring, places = model.wiring, brain.on_the_sheet(model).wiring
    slots = places.slots("h").double()
    x = torch.rand(4, 2, 53)
    before = model.eval()(x)
    report = wiring.relocate("matching", optimizer=torch.optim.SGD(model.parameters()))
    assert report.cost_after < report.cost_before
    torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
    scale, cost = preset.distance_scale, 0.0
    for tensor, (out, source) in wiring.connections.items():
        for i, a in enumerate(places.slots(out).tolist()):
            for j, b in enumerate(places.slots(source).tolist()):
                w = abs(model.get_parameter(tensor)[i, j].item())
                cost += w * (0.1 + scale * SURFACES[name](a, b))
    cost += 0.1 * sum(p.abs().sum().item() for k, p in model.named_parameters() if "bias" in k)
    assert report.cost_after == pytest.approx(cost, rel=1e-4)
    apart = [SURFACES[name](a, b) for a in slots.tolist() for b in slots.tolist() if a != b]
    if name != "brain_saturating":
        assert brain.spacing(model) == pytest.approx(min(apart), rel=1e-4)
    task = replace(TASKS[name], make_data=lambda seed: data())
    result, trained = _run.run(task, preset, tmp_path, animate=4)
    assert result["relocation"]["swaps"] > 0
    if has_matplotlib():
        assert _run.draw(task, trained, result, tmp_path) and (tmp_path / "animation.gif").exists()
    again, settings = _analyse.load(tmp_path)
    assert settings["task"] == name and torch.equal(again.recurrent.weight, trained.recurrent.weight)
    assert torch.equal(again.wiring.slots("h"), trained.wiring.slots("h")) and _same(again.wiring.metric, wiring.metric)


def has_matplotlib():
    return importlib.util.find_spec("matplotlib") is not None


def _same(metric, other):
    return metric == other if isinstance(metric, str) else torch.equal(metric, other)


def around(a, b):
    return sum(min(abs(x - y), 1 - abs(x - y)) for x, y in zip(a, b, strict=True))


def hyperbolic(a, b):
    inside = (1 - a[0] ** 2 - a[1] ** 2) * (1 - b[0] ** 2 - b[1] ** 2)
    return math.acosh(1 + 2 * ((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) / inside)


SURFACES = {
    "brain": lambda a, b: abs(a[0] - b[0]) + abs(a[1] - b[1]),
    "brain_torus": around,
    "brain_disc": hyperbolic,
    "brain_saturating": lambda a, b: 0.2 * (1 - math.exp(-(abs(a[0] - b[0]) + abs(a[1] - b[1])) / 0.2)),
}


def test_what_analyse_refuses(tmp_path, capsys):
    assert main(["analyse", "brain", str(tmp_path)]) == 1
    assert "there is no checkpoint" in capsys.readouterr().err
    assert main(["train", "products", "--steps", "2", "--out", str(tmp_path)]) in (0, 1)
    capsys.readouterr()
    assert main(["analyse", "brain", str(tmp_path)]) == 1
    assert (
        "must be a run of brain, brain_torus, brain_disc, brain_saturating, was of 'products'"
        in capsys.readouterr().err
    )
    assert main(["train", "brain", "--preset", "reliable", "--out", str(tmp_path / "new")]) == 1
    assert "preset must be one that brain has" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["analyse", "products", str(tmp_path)])


def test_a_sweep_runs_its_own_preset_over_all_strategies(tmp_path, monkeypatch, capsys):
    presets = TASKS["brain"].more_presets
    small = replace(presets["sweep"], shape=(53, 16, 17), batch=2, steps=2, swap_every=1)
    monkeypatch.setitem(presets, "sweep", small)
    monkeypatch.setattr(brain, "make_data", lambda seed: data())
    arguments = ["sweep", "brain", "--ablations", "l1", "bimt", "--seeds", "0", "--lam-scales", "1", "2"]
    assert main([*arguments, "--out", str(tmp_path)]) in (0, 1)
    found = {str(path.parent.relative_to(tmp_path / "brain")) for path in tmp_path.rglob("result.json")}
    arms = ["l1-sweep", *(f"bimt-{strategy}-sweep" for strategy in ("greedy", "matching", "tabu"))]
    assert found == {f"{arm}{scale}/seed0" for arm in arms for scale in ("", "-x2")}
    assert "bimt tabu sweep x2" in capsys.readouterr().out

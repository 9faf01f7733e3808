"""Studies of a finished brain, on networks of a few neurons."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from bimt_fast import _brain_figures as figures
from bimt_fast import geometry
from bimt_fast.__main__ import main
from bimt_fast.tasks import _analyse, _run, _studies, brain


@pytest.fixture(autouse=True)
def few(monkeypatch):
    small = {
        (brain, "_JUDGED"): 20,
        (_studies, "_SEQUENCES"): 20,
        (_studies, "REMOVED"): (0.0, 0.5),
        (_studies, "DEVIATIONS"): (0.0, 0.3),
        (_analyse, "_TRIALS"): 10,
    }
    for (owner, name), value in small.items():
        monkeypatch.setattr(owner, name, value)


def connected(make_model):
    """Of a task, but its networks start with connections between all neurons."""

    def made(preset):
        model = make_model(preset)
        nn.init.normal_(model.recurrent.weight, std=0.2)
        return model

    return made


def small(task=brain.TASK, **changes):
    settings = {"shape": (53, 16, 17), "batch": 4, "steps": 2, "prune_from": None, "thin": None, **changes}
    return replace(task, make_model=connected(task.make_model)), replace(task.preset, **settings)


def network(neurons=16, task=brain.TASK):
    torch.manual_seed(0)
    model = task.make_model(replace(task.preset, shape=(53, neurons, 17)))
    nn.init.normal_(model.recurrent.weight, std=0.2)
    return model.eval()


def test_neurons_that_are_removed_send_nothing():
    model, x = network(), torch.rand(5, 3, 53)
    lesioned = _studies.without_neurons(model, torch.tensor([2, 7]))
    h, outputs = torch.zeros(3, 16), []
    for t in range(5):
        h = torch.relu(x[t] @ model.input.weight.T + model.input.bias + h @ model.recurrent.weight.T)
        h[:, [2, 7]] = 0
        outputs.append(h @ model.readout.weight.T + model.readout.bias)
    torch.testing.assert_close(lesioned(x), torch.stack(outputs))
    assert not torch.allclose(model(x), lesioned(x))


def test_noise_falls_on_the_rings():
    model, seen = network(), []
    model.forward = lambda x: seen.append(x)
    x = torch.rand(50, 40, 53)
    _studies._Disturbed(model, 0.3)(x)
    away = seen[0] - x
    assert (away[..., 0] == 0).all() and (away[..., 33:] == 0).all()
    assert away[..., 1:33].std().item() == pytest.approx(0.3, rel=0.02)


def test_coarser_cells():
    labels = _studies.labels_by_position(4, 2)
    assert labels.view(4, 4).tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3]]


def test_neurons_that_say_the_same_are_merged():
    pytest.importorskip("scipy")
    generator = torch.Generator().manual_seed(0)
    signals = torch.rand(200, 3, generator=generator)
    states = torch.stack([signals[:, 0], 3 * signals[:, 1], signals[:, 1] + 1, 2 * signals[:, 0], signals[:, 2]], 1)
    states = torch.cat([states, torch.full((200, 2), 0.25)], 1)
    labels = _studies.labels_by_activity(states, 4).tolist()
    assert labels[0] == labels[3] and labels[1] == labels[2] and labels[5] == labels[6] and len(set(labels)) == 4


def test_merged_neurons_are_placed_where_they_were():
    pytest.importorskip("scipy")
    slots = geometry.grid((2, 2))
    labels = torch.tensor([2, 2, 0, 1, 1, 3])
    positions = torch.tensor([[0.1, 0.1], [0.3, 0.2], [0.8, 0.1], [0.2, 0.9], [0.1, 0.6], [0.9, 0.9]])
    assert _studies.places_for(labels, positions, slots).tolist() == [1, 2, 0, 3]


@pytest.mark.parametrize("task", (brain.TASK, brain.TORUS, brain.DISC), ids=lambda task: task.name)
def test_sheets_of_other_sizes(task):
    pytest.importorskip("scipy")
    model, x = network(task=task), torch.rand(4, 3, 53)
    before = model(x)
    made = dict(_studies.resized(model))
    assert [m.recurrent.in_features for m in made.values()] == [4, 4, 64, 64]
    torch.testing.assert_close(made["8 x 8, copies"](x), before, rtol=1e-4, atol=1e-5)
    scale, offset = (1.2, -0.6) if task is brain.DISC else (1.0, 0.0)
    fine = made["8 x 8, copies"].wiring.slots("h")
    torch.testing.assert_close(fine, geometry.grid((8, 8)) * scale + offset, rtol=0, atol=1e-6)
    assert torch.equal(model(x), before)
    for name, other in made.items():
        assert other(x).isfinite().all(), name


def test_the_study_command(tmp_path, capsys, monkeypatch):
    pytest.importorskip("scipy")
    pytest.importorskip("matplotlib")
    task, preset = small()
    for seed, name in enumerate(("one", "two")):
        _run.run(task, replace(preset, seed=seed), tmp_path / name)
    assert main(["study", "brain", "robustness", str(tmp_path / "one"), str(tmp_path / "two")]) == 0
    found = json.loads((tmp_path / "one" / "study" / "robustness.json").read_text())
    assert set(found) == {"one", "two"} and [point[0] for point in found["two"]["noise"]] == [0.0, 0.3]
    share, middle, draws = found["one"]["removal"][1]
    assert share == 0.5 and len(draws) == 3 and middle == pytest.approx(np.median(draws))
    out = tmp_path / "resized"
    assert main(["study", "brain", "resize", str(tmp_path / "one"), "--steps", "2", "--out", str(out)]) == 0
    found = json.loads((out / "resize.json").read_text())
    assert len(found) == 5 and all(0 <= f["after"] <= 1 for name, f in found.items() if name != "as trained")
    assert "8 x 8, interpolated: 0." in capsys.readouterr().out
    assert main(["study", "brain", "trade_off", str(tmp_path / "one"), str(tmp_path / "two"), "--out", str(out)]) == 0
    ((point,),) = json.loads((out / "trade_off.json").read_text()).values()
    result = json.loads((tmp_path / "two" / "result.json").read_text())
    assert len(point["seeds"]) == 2
    assert 0 < point["seeds"][1]["large_wire"] == result["structure"]["wire"] < point["seeds"][1]["wire"]
    assert "bimt matching x1, 2 seeds: error 0." in capsys.readouterr().out
    for path in (out / "resize.png", out / "trade_off.png", tmp_path / "one" / "study" / "robustness.png"):
        assert path.read_bytes().startswith(b"\x89PNG")


def test_runs_side_by_side(tmp_path, capsys):
    pytest.importorskip("scipy")
    pytest.importorskip("networkx")
    pytest.importorskip("matplotlib")
    runs = []
    for name, kind in (("plane", brain.TASK), ("saturating", brain.SATURATING)):
        runs.append(tmp_path / name / "seed0")
        _run.run(*small(kind), runs[-1])
    out = tmp_path / "out"
    assert main(["study", "brain", "compare", *map(str, runs), "--out", str(out)]) == 0
    found = json.loads((out / "compare.json").read_text())
    assert set(found) == {"plane/seed0", "saturating/seed0"} and (out / "compare.png").exists()
    assert "plane/seed0: error 0." in capsys.readouterr().out
    trained = brain.on_the_sheet(_analyse.load(runs[1])[0])
    weight, slots = trained.recurrent.weight.abs().double(), geometry.grid((4, 4)).double()
    apart = torch.cdist(slots, slots, p=1)
    of_run = found["saturating/seed0"]
    assert of_run["far"] == pytest.approx((weight[apart > 0.51].sum() / weight.sum()).item(), rel=1e-5)
    assert 0 < of_run["far"] < 0.7 and of_run["wire"] == pytest.approx((apart / 0.25).sum().item(), rel=1e-5)
    assert max(of_run["distance"]) == pytest.approx(1.5)
    assert main(["study", "brain", "resize", str(runs[1]), "--out", str(out)]) == 1
    assert "must have distances by a metric's name, had a table" in capsys.readouterr().err


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    runs = [tmp_path / "a" / "seed0", tmp_path / "b" / "seed0", tmp_path / "a" / "seed0"]
    assert list(_studies.named(runs)) == ["a/seed0", "b/seed0"]
    assert list(_studies.named(runs[:1])) == ["a/seed0"]
    assert list(_studies.named([tmp_path / "a" / "seed0", tmp_path / "b" / "seed1"])) == ["a/seed0", "b/seed1"]
    assert list(_studies.named([tmp_path / "a", tmp_path / "b"])) == ["a", "b"] and _studies.named([]) == {}


def test_seeds_of_a_variant_belong_together():
    assert figures.without_seed("a/seed12") == "a" and figures.without_seed("seed1") == "seed1"
    assert figures.without_seed("a/seedling") == "a/seedling"

    def run(z):
        figure = {name: {"z": z} for name in _studies.MODULARITY}
        numbers = dict.fromkeys(("error", "active", "clusters", "wire", "far"), 0.25)
        return {**numbers, "modularity": figure, "agreement": {"adjusted_rand": 0.1}, "distance": [0.0, 1.0]}

    found = {"a/seed0": run(-1.0), "b/seed0": run(9.0), "a/seed1": run(-4.0), "a/seed2": run(-2.0)}
    rows = dict(_studies.rows("compare", found))
    assert list(rows) == [*found, "a, median of 3 seeds"]
    assert "isolated, 4 neighbours z = -2.00" in rows["a, median of 3 seeds"]


def test_wire_at_an_error():
    points = [{"wire": wire, "error": error} for wire, error in ((1000, 0.05), (10, 0.4), (100, 0.1))]
    assert _studies.wire_at(0.1, points) == pytest.approx(100)
    assert _studies.wire_at(0.2, points) == pytest.approx(10 * 10**0.5)
    assert _studies.wire_at(0.5, points) == 10
    assert _studies.wire_at(0.04, points) is None and _studies.wire_at(0.1, []) is None
    unwired = [{"wire": 0.0, "error": 0.5}, {"wire": 100.0, "error": 0.0}]
    assert _studies.wire_at(0.1, unwired) == 100


def test_points_are_medians_over_seeds(tmp_path):
    runs = {}
    for ablation, scale, seeds in (("bimt", 1.0, range(3)), ("bimt", 2.0, range(1)), ("l1", 1.0, range(1))):
        for seed in seeds:
            run = tmp_path / f"{ablation}{scale}{seed}"
            swaps = 1 if ablation == "bimt" else None
            runs[run], _ = _run.run(
                *small(steps=1, seed=seed, lam_scale=scale, swap_every=swaps), run, ablation=ablation
            )
    older = next(iter(runs)) / "result.json"
    result = json.loads(older.read_text())
    del result["preset"]["thin"]  # by a version that had no such setting
    older.write_text(json.dumps(result))
    found = _studies.trade_off([*runs, next(iter(runs))])
    assert [(p["lam_scale"], len(p["seeds"])) for p in found["bimt matching"]] == [(1.0, 3), (2.0, 1)]
    wires = sorted(r["structure"]["wire"] for r in list(runs.values())[:3])
    assert 0 < wires[0] < wires[2] and found["bimt matching"][0]["large_wire"] == wires[1]
    for point in found["bimt matching"][0]["seeds"]:
        slots = geometry.grid((4, 4)).double()
        assert point["wire"] == pytest.approx(torch.cdist(slots, slots, p=1).sum().item() / 0.25, rel=1e-5)
    ratios = dict(_studies.rows("trade_off", found))
    assert ratios[f"l1: wire at error {found['l1'][0]['error']:.4f}"].endswith("times that of bimt matching")
    other = tmp_path / "other"
    _run.run(*small(steps=2, seed=7, swap_every=1), other)
    with pytest.raises(ValueError, match="of bimt matching must differ in the seed alone"):
        _studies.trade_off([*runs, other])
    sweep = tmp_path / "sweep"
    _run.run(*small(name="sweep"), sweep)
    assert set(_studies.trade_off([other, sweep])) == {
        "bimt matching, full",
        "bimt matching, sweep",
    }

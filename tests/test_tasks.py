"""Experiments: data, models, ablations, runs that go on where they were interrupted, sweeps, the command line."""

import copy
import gzip
import json
import math
import signal
import struct
import sys
from dataclasses import asdict, fields, replace
from types import SimpleNamespace

import inputs
import pytest
import torch
from torch import nn

import bimt_fast as bf
from bimt_fast import plot
from bimt_fast.__main__ import main
from bimt_fast.compat import published
from bimt_fast.tasks import TASKS, Data, _run, _sweep, in_context, mnist, permutation_s4
from bimt_fast.train import ABLATIONS, Checkpoint, Preset, ablate, train

SMALL = [name for name in TASKS if name != "mnist_wide" and not name.startswith("brain")]  # test_brain.py has those
FEW = 400  # training points that a test trains on


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def digits(tmp_path_factory):
    """A folder of IDX files: ten blurred digits that are not, with noise."""
    folder = tmp_path_factory.mktemp("mnist")
    generator = torch.Generator().manual_seed(0)
    shapes = nn.functional.interpolate(torch.rand(10, 1, 5, 5, generator=generator), 28, mode="bilinear")[:, 0]
    for prefix, n in (("train", FEW), ("t10k", 50)):
        labels = torch.arange(n) % 10
        images = 200 * shapes[labels] + 55 * torch.rand(n, 28, 28, generator=generator)
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", images.byte())
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", labels.byte())
    return folder


def write_idx(path, entries) -> None:
    content = struct.pack(f">HBB{entries.dim()}I", 0, 8, entries.dim(), *entries.shape) + bytes(
        entries.flatten().tolist()
    )
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def short(name: str, digits=None, **changes):
    """A task on few points, and its preset for a few steps with relocations among them."""
    task = TASKS[name]

    def make_data(seed: int, folder=None) -> Data:
        data = task.make_data(seed, digits) if task.reads_files else task.make_data(seed)
        return Data(*(getattr(data, f.name)[:FEW] for f in fields(data)))

    return replace(task, make_data=make_data), replace(task.preset, **{"steps": 30, "swap_every": 10, **changes})


@pytest.fixture(scope="session")
def runs(digits, tmp_path_factory):
    """Results of short runs by task and ablation, each made once."""
    made = {}

    def result(name: str, ablation: str):
        if (name, ablation) not in made:
            task, preset = short(name, digits)
            out = tmp_path_factory.mktemp("run")
            made[name, ablation] = _run.run(task, ablate(preset, ablation), out, ablation=ablation)[0], out
        return made[name, ablation]

    return result


@pytest.fixture
def no_pictures(monkeypatch):
    monkeypatch.setattr(_run, "draw", lambda *arguments: True)


# Data


@pytest.mark.parametrize("name", SMALL)
def test_data_are_what_the_seed_makes_them(name, digits):
    task = TASKS[name]
    make = (lambda seed: task.make_data(seed, digits)) if task.reads_files else task.make_data
    data, again, other = make(0), make(0), make(1)
    for f in fields(Data):
        assert torch.equal(getattr(data, f.name), getattr(again, f.name))
    assert torch.equal(data.train_x, other.train_x) == task.reads_files
    assert len(data.train_x) == len(data.train_y) and len(data.test_x) == len(data.test_y)


def test_formulas():
    x = TASKS["independence"].make_data(3)
    assert x.train_x.shape == (100, 4) and x.test_x.shape == (1000, 4) and x.train_x.abs().max() <= 1
    a, b, c, d = x.test_x[7].tolist()
    assert x.test_y[7].tolist() == pytest.approx([(a + c) ** 3, b * b + math.sin(math.pi * d)], rel=1e-5)
    y = TASKS["compositionality"].make_data(3)
    a, b, c, d = y.test_x[7].tolist()
    assert y.test_y[7].tolist() == pytest.approx([math.hypot(a - b, c - d)], rel=1e-5)
    z = TASKS["sharing"].make_data(3)
    a, b, c = z.test_x[7].tolist()
    assert z.test_y[7].tolist() == pytest.approx([a * a, a * a + b * b, a * a + b * b + c * c], rel=1e-5)


def test_two_moons_lie_on_half_circles():
    data = TASKS["two_moons"].make_data(0)
    assert len(data.train_x) == 200 and data.train_y.bincount().tolist() == [100, 100]
    centres = torch.tensor([[0.0, 0.0], [1.0, 0.5]])
    radius = (data.test_x - centres[data.test_y]).norm(dim=1)
    assert radius.mean().item() == pytest.approx(1, abs=0.02)
    assert radius.std().item() == pytest.approx(0.1, abs=0.02)
    assert ((data.test_x - centres[data.test_y])[:, 1] * torch.tensor([1, -1])[data.test_y] > -0.4).all()


def test_modular_addition_holds_every_pair_once():
    data = TASKS["modular_addition"].make_data(0)
    pairs = torch.cat([data.train_x, data.test_x])
    assert len(pairs.unique(dim=0)) == len(pairs) == 59 * 59 and len(data.train_x) == round(0.8 * 59 * 59)
    assert torch.equal(data.train_y, data.train_x.sum(1) % 59)


def test_s4_is_the_group():
    data = TASKS["permutation_s4"].make_data(0)
    product = dict(zip(map(tuple, data.train_x.tolist()), data.train_y.tolist(), strict=True))
    product |= dict(zip(map(tuple, data.test_x.tolist()), data.test_y.tolist(), strict=True))
    assert len(product) == 576 and len(data.train_x) == 461
    elements, sign = permutation_s4.ELEMENTS, permutation_s4.parities()
    for (g, h), gh in product.items():
        assert all(elements[gh][i] == elements[g][elements[h][i]] for i in range(4))
        assert sign[gh] == sign[g] * sign[h]
    assert sign[0] == 1 and sign.sum() == 0


def test_in_context_sequences_follow_one_line_each():
    data = TASKS["in_context"].make_data(0)
    assert (
        data.train_x.shape == (8000, 3, 2) and data.train_y.shape == (8000, 2) and data.train_x.dtype == torch.float64
    )
    x, y = data.test_x[:, ::2, 1], data.test_y
    assert torch.equal(data.test_x[:, 1, 0], y[:, 0]) and not data.test_x[:, ::2, 0].any()
    assert (x >= 1).all() and (x <= 3).all()
    w = y / x
    assert torch.allclose(w[:, 0], w[:, 1]) and -1 <= w.min() < -0.99 and 0.99 < w.max() <= 1
    assert y.square().mean().item() == pytest.approx(13 / 9, rel=0.05)
    prediction = torch.full((4, 3, 2), 9.0)
    prediction[:, ::2, 0] = 2.0
    assert in_context.loss(prediction, torch.zeros(4, 2)).item() == 4


# MNIST files


def test_mnist_from_a_folder(digits, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BIMT_FAST_DATA", raising=False)
    data = mnist.make_data(0, digits)
    assert data.train_x.shape == (FEW, 784) and data.train_x.dtype == torch.float32 and data.train_x.max() <= 1
    assert torch.equal(data.test_y.argmax(1), torch.arange(50) % 10) and torch.equal(data.test_y.sum(1), torch.ones(50))
    monkeypatch.setenv("BIMT_FAST_DATA", str(digits))
    assert torch.equal(mnist.make_data(0).train_x, data.train_x)
    (tmp_path / "data" / "mnist").parent.mkdir()
    (tmp_path / "data" / "mnist").symlink_to(digits)
    monkeypatch.setenv("BIMT_FAST_DATA", str(tmp_path / "data"))
    assert torch.equal(mnist.make_data(0).train_x, data.train_x)


def test_idx_files(tmp_path):
    entries = torch.arange(24).byte().view(2, 3, 4)
    for name in ("plain", "packed.gz"):
        write_idx(tmp_path / name, entries)
        assert torch.equal(mnist.read_idx(tmp_path / name), entries)
    whole = (tmp_path / "plain").read_bytes()
    for k, broken in enumerate((whole[:-1], whole + b"x", whole[:6], b"", b"\x00\x00\x0d" + whole[3:], b"text")):
        (tmp_path / f"broken{k}").write_bytes(broken)
        with pytest.raises(ValueError, match="must be an IDX file of bytes"):
            mnist.read_idx(tmp_path / f"broken{k}")
    for broken in (whole, (tmp_path / "packed.gz").read_bytes()[:-9]):
        (tmp_path / "cut.gz").write_bytes(broken)
        with pytest.raises(ValueError, match=r"cut\.gz must be gzipped"):
            mnist.read_idx(tmp_path / "cut.gz")


def test_mnist_nowhere_is_a_sentence(tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BIMT_FAST_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    with pytest.raises(FileNotFoundError, match="no MNIST found: name the folder of its IDX files with --data"):
        mnist.make_data(0)
    with pytest.raises(FileNotFoundError, match="it must hold train-images-idx3-ubyte"):
        mnist.make_data(0, tmp_path)
    for path in digits.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_idx(tmp_path / "train-labels-idx1-ubyte", torch.zeros(7).byte())
    with pytest.raises(ValueError, match=r"labels \(n,\), were \(400, 28, 28\) and \(7,\)"):
        mnist.make_data(0, tmp_path)


def test_mnist_from_torchvision(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BIMT_FAST_DATA", str(tmp_path))
    asked = []

    def images(root, train, download):
        asked.append((root, train, download))
        return SimpleNamespace(data=torch.full((3, 28, 28), 255).byte(), targets=torch.tensor([4, 0, 9]))

    monkeypatch.setitem(sys.modules, "torchvision.datasets", SimpleNamespace(MNIST=images))
    data = mnist.make_data(0)
    assert torch.equal(data.train_x, torch.ones(3, 784)) and data.test_y.argmax(1).tolist() == [4, 0, 9]
    assert asked == [(str(tmp_path), True, True), (str(tmp_path), False, True)]


def test_the_public_files():
    folder = inputs.DATA / "mnist"
    if not folder.is_dir():
        pytest.skip(f"no data in {folder}, BIMT_FAST_DATA may name another folder")
    data = mnist.make_data(0, folder)
    assert data.train_x.shape == (60_000, 784) and data.test_x.shape == (10_000, 784)
    assert data.train_y.sum(0).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]


# Models


def outputs(name: str, model: nn.Module, digits) -> torch.Tensor:
    task, _ = short(name, digits)
    with torch.no_grad():
        return model(task.make_data(0).to(next(model.parameters()).dtype).test_x)


@pytest.mark.parametrize("name", SMALL)
def test_relocation_leaves_what_a_model_computes(name, digits):
    torch.manual_seed(0)
    task = TASKS[name]
    model = task.make_model(task.preset)
    before, cost = outputs(name, model, digits), model.wiring.cost().item()
    optimizer = bf.optim.AdamW(model.wiring)
    for strategy in ("greedy", "assignment", "matching"):
        report = model.wiring.relocate(strategy)
        assert report.cost_after <= report.cost_before
    assert model.wiring.cost().item() < 0.995 * cost
    assert optimizer.wiring is model.wiring
    tolerance = 1e-12 if before.dtype == torch.float64 else 1e-5
    assert torch.allclose(outputs(name, model, digits), before, rtol=tolerance, atol=tolerance)


def test_settings_of_the_presets_reach_the_wiring():
    torch.manual_seed(0)
    for name, task in TASKS.items():
        if name == "mnist_wide" or name.startswith("brain_"):  # too wide; of other metrics, see test_brain.py
            continue
        model = task.make_model(task.preset)
        parameters = dict(model.named_parameters())
        assert {p.dtype for p in parameters.values()} == {getattr(torch, task.preset.dtype)}
        scale = task.preset.distance_scale
        expected = 0.0
        for tensor, axes in model.wiring.axes.items():
            w = parameters[tensor].detach().double().abs()
            length = torch.tensor(task.preset.base_length, dtype=torch.float64)
            if tensor in model.wiring.connections:
                own = scale.get(tensor, scale[None]) if isinstance(scale, dict) else scale
                ends = [places(model.wiring, axis) for axis in axes]
                length = length + own * (ends[0][:, None] - ends[1][None]).abs().sum(-1)
            expected += (w * length).mean() if task.preset.reduction == "mean" else (w * length).sum()
        assert len(model.wiring.axes) == len(parameters)
        assert model.wiring.cost().item() == pytest.approx(expected.item(), rel=1e-5), name


def places(wiring: bf.Wiring, axis: str) -> torch.Tensor:
    folds, _, group = axis.rpartition("*")
    return wiring.neuron_positions(group).double().repeat(int(folds or 1), 1)


def test_folds_and_embedding():
    torch.manual_seed(0)
    model = bf.nn.BioMLP((6, 5, 4), folds=2, vocabulary=7, dtype=torch.float64)
    tokens = torch.tensor([[0, 6], [3, 3]])
    embedded = torch.cat([model.embedding.weight[tokens[:, 0]], model.embedding.weight[tokens[:, 1]]], dim=1)
    hidden = nn.functional.silu(embedded @ model.layers[0].weight.T + model.layers[0].bias)
    assert torch.allclose(model(tokens), hidden @ model.layers[1].weight.T + model.layers[1].bias)
    (found,) = model.hidden(tokens)
    assert torch.allclose(found, hidden)
    assert model.wiring.axes["layers.0.weight"] == ("h1", "2*in") and len(model.wiring.slots("in")) == 3
    saved = copy.deepcopy(model.state_dict())
    model.wiring.relocate("greedy", optimizer=torch.optim.SGD(model.parameters()))
    other = bf.nn.BioMLP((6, 5, 4), folds=2, vocabulary=7, dtype=torch.float64)
    other.load_state_dict(saved)
    assert torch.equal(other.embedding.weight, saved["embedding.weight"])
    torch.manual_seed(0)
    plain = bf.nn.BioMLP((6, 5, 4), dtype=torch.float64)  # the embedding is drawn last
    assert torch.equal(plain.layers[1].weight, saved["layers.1.weight"])
    numbers = bf.nn.BioMLP((6, 5, 4), folds=3)
    assert numbers(torch.rand(2, 6)).shape == (2, 4) and len(numbers.wiring.slots("in")) == 2


def test_transformer():
    torch.manual_seed(0)
    model = bf.nn.BioTransformer(2, 3, width=6, layers=2, heads=2, dtype=torch.float64)
    x = torch.randn(4, 5, 2, dtype=torch.float64)
    stream = model.embed(x)
    for layer in model.layers:
        heads = []
        for part in range(2):
            at = slice(3 * part, 3 * part + 3)
            q, k, v = (layer.attend(stream)[..., 6 * fold : 6 * fold + 6][..., at] for fold in range(3))
            scores = (q @ k.mT / 3**0.5).masked_fill(torch.ones(5, 5).triu(1).bool(), -math.inf)
            heads.append(scores.softmax(-1) @ v)
        stream = stream + layer.project(torch.cat(heads, dim=-1))
        stream = stream + layer.contract(nn.functional.gelu(layer.expand(stream), approximate="tanh"))
    assert torch.allclose(model(x), model.readout(stream))
    changed = x.clone()
    changed[:, 3:] += 1
    assert torch.equal(model(changed)[:, :3], model(x)[:, :3])
    assert model.wiring.blocks == {"attn1": 2, "attn2": 2} and len(model.wiring.slots("mlp1")) == 24
    before = model(x)
    assert model.wiring.relocate("matching").swaps > 0
    assert torch.allclose(model(x), before)
    other = bf.nn.BioTransformer(2, 3, width=6, layers=2, heads=2, dtype=torch.float64)
    other.load_state_dict(model.state_dict())
    assert other.wiring.cost().item() == model.wiring.cost().item()


@pytest.mark.parametrize(
    "make, error, words",
    (
        (lambda: bf.nn.BioMLP((5, 2), folds=2), ValueError, r"folds must divide shape\[0\], 5, were 2"),
        (lambda: bf.nn.BioMLP((4, 2), folds=0), ValueError, "folds must be at least 1"),
        (lambda: bf.nn.BioMLP((4, 2), vocabulary=2.0), TypeError, "vocabulary must be an integer"),
        (lambda: bf.nn.BioTransformer(2, 2, width=6, heads=4), ValueError, "heads must divide width, 6, were 4"),
        (lambda: bf.nn.BioTransformer(2, 0), ValueError, "out_features must be at least 1"),
        (lambda: bf.nn.BioTransformer(2, 2, layers=True), TypeError, "layers must be an integer"),
        (lambda: bf.nn.BioTransformer(2, 2, positions={"h": 0}), ValueError, "positions must be of groups in, stream"),
    ),
)
def test_what_models_refuse(make, error, words):
    with pytest.raises(error, match=words):
        make()


def test_the_wide_preset_is_wide():
    assert TASKS["mnist_wide"].preset.shape == (784, 4096, 4096, 10)


# Runs


@pytest.mark.parametrize("ablation", ABLATIONS)
@pytest.mark.parametrize("name", SMALL)
def test_every_task_learns_with_every_ablation(name, ablation, runs):
    result, _ = runs(name, ablation)
    losses = [row[1] for row in result["history"]["rows"]]
    assert losses[-1] < losses[0]
    swaps = ablation in ("l1+swap", "bimt")
    assert result["relocation"]["count"] == (3 if swaps else 0) and bool(result["relocation"]["swaps"]) == swaps
    assert (result["history"]["rows"][0][3] == 0) == (ablation == "none")


@pytest.mark.parametrize("name", SMALL)
def test_result_holds_what_is_promised(name, runs):
    result, out = runs(name, "bimt")
    assert json.loads((out / "result.json").read_text()) == json.loads(json.dumps(result))
    keys = {
        "task",
        "ablation",
        "preset",
        "versions",
        "machine",
        "backend",
        "loss",
        "train_loss",
        "test_loss",
        "published",
    }
    keys |= {
        "connection_cost",
        "connections",
        "neurons",
        "wiring_length",
        "structure",
        "seconds",
        "relocation",
        "history",
    }
    accuracies = {"train_accuracy", "test_accuracy"} if TASKS[name].classify else set()
    assert result.keys() == keys | accuracies
    assert result["preset"]["steps"] == 30 and result["history"]["rows"][-1][0] == 29
    assert 0 < result["connections"]["active"] <= result["connections"]["of"]
    assert 0 < result["neurons"]["active"] <= result["neurons"]["of"]
    assert set(result["published"]) <= result.keys()
    assert result["seconds"] > 0 and result["wiring_length"] > 0
    assert sorted(path.name for path in out.iterdir()) == ["checkpoint.pt", "result.json"]


def test_ablations_change_the_penalty_as_they_say():
    _, preset = short("products", lam=((0.0, 0.5),), bias=((0.0, True),), steps=1, swap_every=1)
    seen = {}
    for ablation in ABLATIONS:
        torch.manual_seed(0)
        model = TASKS["products"].make_model(preset)
        expected = {"plain": model.wiring.cost(distance_scale=0.0).item(), "by length": model.wiring.cost().item()}
        history = train(model, model.wiring, lambda m: m(torch.ones(1, 4)).sum(), ablate(preset, ablation))
        paid = [kind for kind, cost in expected.items() if history.rows[0][2] == pytest.approx(cost, rel=1e-5)]
        seen[ablation] = (*paid, history.rows[0][3], history.relocations, history.swaps > 0)
    assert seen == {
        "none": ("by length", 0.0, 0, False),
        "l1": ("plain", 0.5, 0, False),
        "l1+local": ("by length", 0.5, 0, False),
        "l1+swap": ("plain", 0.5, 1, True),
        "bimt": ("by length", 0.5, 1, True),
    }
    with pytest.raises(ValueError, match=r"ablation must be one of none, l1, l1\+local, l1\+swap, bimt, was 'l2'"):
        ablate(preset, "l2")


def test_published_loop_and_ours_pay_the_same_at_first():
    torch.manual_seed(0)
    model = TASKS["mnist"].make_model(TASKS["mnist"].preset)
    assert published.cost(model.wiring).item() == pytest.approx(model.wiring.cost().item(), rel=1e-5)


def test_proximal_makes_exact_zeros(tmp_path):
    task, preset = short("products", lam=((0.0, 1.0),), proximal=True)
    _, model = _run.run(task, preset, tmp_path)
    assert sum(int((p == 0).sum()) for p in model.parameters()) > 20
    _, model = _run.run(task, replace(preset, proximal=False), tmp_path)
    assert not any((p == 0).any() for p in model.parameters())


# Interruption


class Interrupted(Exception):
    pass


def everything(model, out) -> tuple[dict, dict, list, torch.Tensor]:
    state = torch.load(out / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(p, state["model"][name]) for name, p in model.named_parameters())
    flat = {f"{k}.{name}": x for k, of in state["optimizer"]["state"].items() for name, x in of.items()}
    flat |= {name: x for name, x in state["model"].items() if torch.is_tensor(x)}
    return flat, state["wiring"]["permutations"], state["history"]["rows"], state["random"]


def same(a, b) -> bool:
    return (
        all(
            of.keys() == other.keys() and all(torch.equal(of[k], other[k]) for k in of)
            for of, other in zip(a[:2], b[:2], strict=True)
        )
        and a[2] == b[2]
        and torch.equal(a[3], b[3])
    )


def run_interrupted_at(call: int, task, preset, out):
    """Ctrl-C in the middle of a step: while the loss is computed for the call-th time. Then the rest."""
    calls = 0

    def loss(prediction, target):
        nonlocal calls
        calls += 1
        if calls == call:
            signal.raise_signal(signal.SIGINT)
        return task.loss(prediction, target)

    with pytest.raises(KeyboardInterrupt):
        _run.run(replace(task, loss=loss), preset, out)
    assert calls == call and not (out / "result.json").exists()
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] == call
    torch.rand(3)  # what another program does with the generator meanwhile
    return _run.run(task, preset, out, resume=True)


@pytest.mark.parametrize(
    "name, changes",
    (
        ("products", {}),
        ("products", {"strategy": "assignment", "proximal": True, "bias": ((0.0, False), (0.5, True))}),
        ("permutation_s4", {"batch": 50}),
        ("in_context", {"batch": 8}),
        ("mnist", {"batch": 20}),
    ),
)
def test_a_resumed_run_ends_in_the_same_bits(name, changes, digits, tmp_path):
    task, preset = short(name, digits, steps=9, swap_every=3, **changes)
    result, model = _run.run(task, preset, tmp_path / "whole")
    whole = everything(model, tmp_path / "whole")
    for call in range(1, 10) if name == "products" else (2, 3, 7):
        again, resumed = run_interrupted_at(call, task, preset, tmp_path / str(call))
        assert same(everything(resumed, tmp_path / str(call)), whole), f"interrupted in step {call}"
        timed = ("seconds", "relocation")
        assert {k: v for k, v in again.items() if k not in timed} == {k: v for k, v in result.items() if k not in timed}
        assert again["relocation"]["swaps"] == result["relocation"]["swaps"] > 0


def test_interrupts_in_every_part_of_a_step(tmp_path, monkeypatch):
    task, preset = short("products", steps=6, swap_every=3)
    _, model = _run.run(task, preset, tmp_path / "whole")
    whole = everything(model, tmp_path / "whole")
    for owner, method in ((bf.optim.AdamW, "update"), (bf.Wiring, "relocate"), (Checkpoint, "save")):
        original, out = getattr(owner, method), tmp_path / method

        def pressed(self, *arguments, original=original, **named):
            signal.raise_signal(signal.SIGINT)
            return original(self, *arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(owner, method, pressed)
            with pytest.raises(KeyboardInterrupt):
                _run.run(task, preset, out)
        _, resumed = _run.run(task, preset, out, resume=True)
        assert same(everything(resumed, out), whole), method
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_interrupt_does_not_wait(tmp_path):
    task, preset = short("products")

    def loss(prediction, target):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        raise AssertionError("not reached")

    (tmp_path / "result.json").write_text("of an earlier run")
    with pytest.raises(KeyboardInterrupt):
        _run.run(replace(task, loss=loss), preset, tmp_path)
    assert not any(tmp_path.iterdir())
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_without_a_checkpoint_an_interrupt_passes_at_once():
    _, preset = short("products")
    model, calls = TASKS["products"].make_model(preset), []

    def loss(network):
        calls.append(1)
        signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        train(model, model.wiring, loss, preset)
    assert len(calls) == 1
    with pytest.raises(ValueError, match="resume needs a checkpoint"):
        train(model, model.wiring, loss, preset, resume=True)


def test_a_save_that_fails_keeps_the_old_checkpoint(tmp_path, monkeypatch):
    checkpoint = Checkpoint(tmp_path / "c.pt", {"task": "t"})
    checkpoint.save({"step": 1, "model": {}, "optimizer": {}})
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(torch, "save", failing)
        checkpoint.save({"step": 2, "model": {}, "optimizer": {}})
    assert checkpoint.load()["step"] == 1


def failing(state, path):
    path.write_bytes(b"half a")
    raise Interrupted


def test_checkpoints_are_written_on_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr("bimt_fast.train._CHECKPOINT_SECONDS", 0.0)
    task, preset = short("products", steps=5)
    calls = []

    def loss(prediction, target):
        calls.append(1)
        if len(calls) == 4:
            raise Interrupted  # as good as a power cut
        return task.loss(prediction, target)

    with pytest.raises(Interrupted):
        _run.run(replace(task, loss=loss), preset, tmp_path / "cut")
    assert torch.load(tmp_path / "cut" / "checkpoint.pt", weights_only=True)["step"] == 3
    _, resumed = _run.run(task, preset, tmp_path / "cut", resume=True)
    _, model = _run.run(task, preset, tmp_path / "whole")
    assert same(everything(resumed, tmp_path / "cut"), everything(model, tmp_path / "whole"))


# The command line


def test_train_from_the_command_line(tmp_path, capsys, monkeypatch):
    out = tmp_path / "new" / "folder"
    arguments = ["train", "products", "--steps", "20", "--seed", "3", "--ablation", "l1+swap", "--out", str(out)]
    arguments += ["--strategy", "matching", "--backend", "reference", "--preset", "proximal", "--lam-scale", "3"]
    assert main(arguments) == 0
    result = json.loads((out / "result.json").read_text())
    assert result["preset"]["seed"] == 3 and result["preset"]["strategy"] == "matching"
    assert result["preset"]["proximal"] and result["preset"]["penalty_scale"] == 0
    assert result["preset"]["lam_scale"] == 3
    assert result["backend"] == "reference" and result["ablation"] == "l1+swap"
    for name in ("network.png", "loss.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().out
    for words in ("3, matching, proximal, l1+swap", "train MSE / test MSE", "structure of the paper found      no"):
        assert words in said
    monkeypatch.setattr(_run, "draw", lambda *arguments: True)
    assert main(["train", "products", "--resume", "--out", str(out)]) == 0  # complete: the same again
    again = json.loads((out / "result.json").read_text())
    assert again.pop("seconds") and {**again, "seconds": result["seconds"]} == result


def test_demo_compares_with_the_published_loop(no_pictures, tmp_path, capsys):
    assert main(["train", "products", "--steps", "200", "--out", str(tmp_path), "--compare-published"]) == 0
    relocation = json.loads((tmp_path / "result.json").read_text())["relocation"]
    assert relocation["published_milliseconds"] > 0 and relocation["greedy_milliseconds"] > 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split("  ")[0] for line in lines[:12]]
    assert names == [
        "seed, strategy",
        "train MSE / test MSE",
        "active connections",
        "active hidden neurons",
        "wiring length, sum |w| d",
        "connection cost",
        "last hidden layer",
        "two parts, nothing shared",
        "structure of the paper found",
        "training",
        "one relocation, mean in training",
        "one relocation, published loop",
    ]


def test_the_table_has_accuracies_beside_the_published(no_pictures, tmp_path, capsys):
    assert main(["train", "permutation_s4", "--steps", "2", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "train / test accuracy" in said and "(published 1.0000)" in said and "parity column" in said


def test_interrupt_and_resume_from_the_command_line(no_pictures, tmp_path, capsys, monkeypatch):
    arguments = ["train", "sharing", "--steps", "12", "--seed", "5", "--ablation", "l1", "--out", str(tmp_path / "cut")]
    original, calls = bf.optim.AdamW.update, []

    def update(self):
        calls.append(1)
        if len(calls) == 5:
            signal.raise_signal(signal.SIGINT)
        original(self)

    with monkeypatch.context() as patch:
        patch.setattr(bf.optim.AdamW, "update", update)
        assert main(arguments) == 130
    assert "--resume goes on from" in capsys.readouterr().err and len(calls) == 5
    assert main(["train", "sharing", "--resume", "--out", str(tmp_path / "cut")]) == 0
    assert main([*arguments[:-1], str(tmp_path / "whole")]) == 0
    cut, whole = (json.loads((tmp_path / name / "result.json").read_text()) for name in ("cut", "whole"))
    assert cut["test_loss"] == whole["test_loss"] and cut["history"] == whole["history"]
    assert cut["ablation"] == "l1" and cut["preset"] == whole["preset"]


@pytest.mark.parametrize(
    "arguments, words",
    (
        (["sharing"], "is of a run with task 'products', asked for 'sharing'"),
        (["products", "--seed", "8"], "preset.seed 7, asked for 8"),
        (["products", "--steps", "4"], "preset.steps 3, asked for 4"),
        (["products", "--strategy", "matching"], "preset.strategy 'greedy', asked for 'matching'"),
        (["products", "--preset", "proximal"], "preset.lam "),
        (["products", "--lam-scale", "2"], "preset.lam_scale 1.0, asked for 2.0"),
        (["products", "--ablation", "none"], "ablation 'bimt', asked for 'none'"),
        (["products", "--backend", "reference"], "asked for 'reference'"),
    ),
)
def test_a_checkpoint_of_another_run_is_refused(arguments, words, tmp_path, capsys, cpu_backend):
    task, preset = short("products", steps=3, swap_every=200)
    _run.run(task, preset, tmp_path)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    assert main(["train", *arguments, "--resume", "--out", str(tmp_path)]) == 1
    assert words in capsys.readouterr().err
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def test_what_the_command_line_refuses(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BIMT_FAST_DATA", raising=False)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", None)
    (tmp_path / "checkpoint.pt").write_bytes(b"no checkpoint")
    torch.save({"step": 3}, tmp_path / "other.pt")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "checkpoint.pt").write_bytes((tmp_path / "other.pt").read_bytes())
    for arguments, words in (
        (["train", "products", "--resume"], "there is no checkpoint runs/products/checkpoint.pt"),
        (["train", "products", "--resume", "--out", "."], "checkpoint.pt is not a checkpoint of bimt_fast"),
        (["train", "products", "--resume", "--out", "full"], "checkpoint.pt is not a checkpoint of bimt_fast"),
        (["train", "products", "--data", "."], "a folder of data was given, and products makes its own"),
        (["train", "mnist"], "no MNIST found"),
        (["train", "mnist", "--data", "full"], "no MNIST in full"),
        (["train", "products", "--backend", "cuda"], "cuda"),
        (["train", "mnist", "--preset", "proximal"], "preset must be one that mnist has, published, was 'proximal'"),
        (["sweep", "products", "mnist", "--presets", "proximal", "--out", "s"], "mnist has, published, was 'proximal'"),
    ):
        assert main(arguments) == 1, arguments
        assert words in capsys.readouterr().err
    for arguments in (
        ["train", "nothing"],
        ["train", "products", "--ablation", "l2"],
        ["train", "products", "--steps", "0"],
        ["train", "products", "--lam-scale", "0"],
        ["train", "products", "--preset", "l1"],
    ):
        with pytest.raises(SystemExit):
            main(arguments)


def test_mnist_is_drawn_with_its_data(digits, tmp_path, capsys):
    arguments = ["--data", str(digits), "--out", str(tmp_path)]
    assert main(["train", "mnist", "--steps", "40", *arguments]) == 0
    assert {"network.png", "features.png", "report.html"} <= {path.name for path in tmp_path.iterdir()}
    assert main(["plot", str(tmp_path), "--data", str(tmp_path)]) == 1
    assert f"no MNIST in {tmp_path}" in capsys.readouterr().err


def test_a_missing_matplotlib_is_said(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert main(["train", "products", "--steps", "2", "--out", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "no picture: figures need matplotlib" in said.err and "connection cost" in said.out
    assert (tmp_path / "result.json").exists() and not (tmp_path / "network.png").exists()


# Sweeps


def test_sweep(tmp_path, capsys, monkeypatch):
    arguments = ["sweep", "products", "--ablations", "l1", "bimt", "--seeds", "0,4"]
    arguments += ["--strategies", "greedy", "assignment", "--steps", "3", "--out", str(tmp_path)]
    assert main(arguments) == 0
    places = sorted(str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("result.json"))
    assert places == [f"products/{v}/seed{s}" for v in ("bimt-assignment", "bimt-greedy", "l1") for s in (0, 4)]
    rows = json.loads((tmp_path / "sweep.json").read_text())
    expected = [("products", variant, [0, 4]) for variant in ("l1", "bimt greedy", "bimt assignment")]
    assert [(row["task"], row["variant"], row["seeds"]) for row in rows] == expected
    lines = capsys.readouterr().out.splitlines()
    head = next(k for k, line in enumerate(lines) if line.startswith("task"))
    assert lines[head].split()[:4] == ["task", "variant", "seeds", "found"] and "0 of 2" in lines[head + 1]
    assert (tmp_path / "trade_off.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(_sweep, "run", None)  # nothing is run again
    monkeypatch.setattr(_sweep, "draw", lambda *arguments: True)
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("(kept)") == 6
    older = tmp_path / "products" / "l1" / "seed0" / "result.json"
    result = json.loads(older.read_text())
    assert result["preset"].pop("thin") is None
    older.write_text(json.dumps(result))
    assert main(arguments) == 0
    assert capsys.readouterr().out.count("(kept)") == 6
    assert main([*arguments[:-3], "4", "--out", str(tmp_path)]) == 1
    assert "holds a run with another steps: choose another --out" in capsys.readouterr().err


def test_what_a_sweep_runs():
    task = TASKS["products"]
    found = _sweep.variants(task, ["none", "l1", "bimt"], ["greedy", "matching"], ["published", "proximal"], [0.5, 1])
    names = ["none", "l1 x0.5", "l1"]
    names += ["bimt greedy x0.5", "bimt greedy", "bimt matching x0.5", "bimt matching"]
    names += [name.replace(" x", " proximal x") if " x" in name else f"{name} proximal" for name in names[1:]]
    assert [_sweep.variant_name(*variant) for variant in found] == names


def test_the_proximal_preset():
    task = replace(TASKS["products"], proximal_scale=50.0)
    published, proximal = task.settings("published"), task.settings("proximal")
    assert published == task.preset and [start for start, _ in proximal.lam] == [start for start, _ in published.lam]
    assert [lam for _, lam in proximal.lam] == pytest.approx([0.05, 0.5, 0.5]), "stronger, and no fall at the end"
    assert proximal.proximal and proximal.strategy == "assignment"


def test_lam_scale_is_a_stronger_penalty(tmp_path):
    task, preset = short("products", steps=4)
    scaled, _ = _run.run(task, replace(preset, lam_scale=3.0), tmp_path / "scaled")
    other = replace(preset, lam=tuple((start, 3 * lam) for start, lam in preset.lam))
    assert scaled["history"] == _run.run(task, other, tmp_path / "other")[0]["history"]


def test_an_interrupted_sweep_goes_on(tmp_path):
    task, preset = short("products", steps=8)
    settings = {"ablations": ["bimt"], "seeds": [1]}
    place = tmp_path / "products" / "bimt-greedy" / "seed1"
    calls = []

    def loss(prediction, target):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return task.loss(prediction, target)

    task = replace(task, preset=preset)
    with pytest.raises(KeyboardInterrupt):
        _sweep.sweep(replace(task, loss=loss), tmp_path, **settings)
    (place / "result.json").write_text("{ half")
    (result,) = _sweep.sweep(task, tmp_path, **settings)
    assert len(calls) == 3 and result["test_loss"] == _run.run(task, replace(preset, seed=1), tmp_path)[0]["test_loss"]


def test_summary_takes_medians():
    preset = asdict(TASKS["products"].preset)

    def made(seed, loss, found, active):
        return {
            "task": "products",
            "ablation": "l1",
            "preset": {**preset, "seed": seed, "swap_every": None},
            "test_loss": loss,
            "structure": {"found": found},
            "connections": {"active": active},
            "neurons": {"active": 9},
            "wiring_length": 2.5,
            "seconds": 1.0,
            "published": {"test_loss": 1e-4},
        }

    (row,) = _sweep.summary([made(0, 3.0, True, 10), made(1, 1.0, False, 30), made(2, 2.0, True, 20)])
    assert row["found"] == 2 and row["test_loss"] == 2 and row["connections"] == 20 and row["seeds"] == [0, 1, 2]
    assert row["variant"] == "l1" and row["test_accuracy"] is None
    text = _sweep.table([row]).splitlines()
    assert "2 of 3" in text[1] and "1.00e-04" in text[1] and text[0].index("found") == text[1].index("2 of 3")


@pytest.mark.parametrize("text, expected", (("0-4", [0, 1, 2, 3, 4]), ("7", [7]), ("3,0-1,3", [3, 0, 1])))
def test_seeds(text, expected, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(_sweep, "sweep", lambda task, out, **settings: seen.append(settings["seeds"]) or [])
    monkeypatch.setattr(_sweep, "draw", lambda *arguments: True)
    assert main(["sweep", "products", "--seeds", text, "--out", str(tmp_path)]) == 0
    assert [list(seeds) for seeds in seen] == [expected]


@pytest.mark.parametrize("text", ("", "a", "1-", "4-2", "-3", "1,,2"))
def test_seeds_that_are_none(text, tmp_path):
    with pytest.raises(SystemExit):
        main(["sweep", "products", f"--seeds={text}", "--out", str(tmp_path)])


# Figures


def test_loss_curve_draws_loss_and_penalty():
    ax = plot.loss_curve([[0, 1.0, 4.0, 0.0], [10, 0.5, 2.0, 0.1]], loss_name="MSE")
    loss, penalty = ax.get_lines()
    assert loss.get_ydata().tolist() == [1.0, 0.5] and penalty.get_ydata()[1] == pytest.approx(0.2)
    assert ax.get_yscale() == "log" and loss.get_label() == "MSE"
    (only,) = plot.loss_curve([[0, 1.0, 4.0, 0.0]]).get_lines()
    assert only.get_ydata().tolist() == [1.0]
    with pytest.raises(ValueError, match="rows must hold at least one step"):
        plot.loss_curve([])


def test_trade_off_draws_medians_and_quartiles(tmp_path):
    l1 = [[(1.0, 10, 5.0), (3.0, 30, 7.0), (2.0, 20, 6.0)], [(4.0, 8, 2.0)]]
    tasks = {"one": {"l1": l1, "bimt": [[(0.5, 8, 2.0)]]}, "two": {"bimt": [[(0.1, 5, 1.0)]]}}
    (left, right), (other, _) = plot.trade_off(tasks, published={"one": 0.1}, path=tmp_path / "t.svg")
    line = next(x for x in left.lines if len(x.get_xdata()) == 2 and x.get_marker() == "o")
    assert line.get_xdata().tolist() == [20, 8] and line.get_ydata().tolist() == [2, 4]
    whiskers = [segment.tolist() for c in right.collections for segment in c.get_segments()]
    assert [[5.5, 2.0], [6.5, 2.0]] in whiskers and [[6.0, 1.5], [6.0, 2.5]] in whiskers
    assert [text.get_text() for text in right.texts] == ["bimt", "l1"]
    colours = {ax: {x.get_color() for x in ax.lines if x.get_marker() == "s"} for ax in (left, other)}
    assert len(colours[left]) == 1 and colours[left] == colours[other], "a method looks the same in every row"
    assert (tmp_path / "t.svg").stat().st_size > 1000
    for tasks, words in (({}, "tasks must hold at least one"), ({"one": {"l1": []}}, "'one' held none")):
        with pytest.raises(ValueError, match=words):
            plot.trade_off(tasks)


def test_labels_stand_apart():
    assert plot._apart([0.5, 0.5, 0.9], 0.1) == pytest.approx([0.45, 0.55, 0.9])
    crowded = plot._apart([0.0, 0.0, 0.01], 0.1)
    assert crowded == pytest.approx([0, 0.1, 0.2], abs=1e-3)


def test_presets_survive_json():
    for task in TASKS.values():
        assert Preset(**json.loads(json.dumps(asdict(task.preset)))).steps == task.preset.steps

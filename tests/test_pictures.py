"""Frames, animations, features and reports of training runs."""

import json
import re
import signal
from dataclasses import replace
from functools import partial
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from bimt_fast import _animation, _frames, geometry, plot
from bimt_fast.__main__ import main
from bimt_fast._figure import save_figure
from bimt_fast._frames import Recorder, read_frames
from bimt_fast.nn import BioMLP
from bimt_fast.tasks import TASKS, Data, _run, mnist
from bimt_fast.train import train

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'bimt_fast[plot]'")

from matplotlib.collections import LineCollection
from PIL import Image

TASK = TASKS["products"]
IMAGES = replace(TASKS["mnist"].preset, lr=1e-2, lam=((0.0, 1e-4),), batch=None)
PRESET = replace(TASK.preset, steps=12, swap_every=4, strategy="assignment", top_k=None)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def recorded(tmp_path, monkeypatch, every: int = 3):
    """A short run: its model, its frames, and what was true when each was added."""
    torch.manual_seed(0)
    model, truth = TASK.make_model(PRESET), []
    wiring = model.wiring
    began = {f"layers.{k}.bias": torch.arange(len(layer.bias)) for k, layer in enumerate(model.layers[:-1])}
    wiring.attach(lambda name: [began[name]] if name in began else [])
    add = Recorder.add

    def added(self, step, *figures):
        weights = {name: model.get_parameter(name).detach().clone() for name in wiring.connections}
        slots = {g: wiring.permutation(g) for g in ("in", "out")}
        slots |= {f"h{k + 1}": x.argsort() for k, x in enumerate(began.values())}
        truth.append((step, weights, slots))
        add(self, step, *figures)

    monkeypatch.setattr(Recorder, "add", added)
    data = TASK.make_data(0)
    train(
        model,
        wiring,
        _run.task_loss(TASK, data, None),
        PRESET,
        recorder=Recorder(tmp_path / "frames.bin", every),
    )
    monkeypatch.setattr(Recorder, "add", add)
    return model, read_frames(tmp_path / "frames.bin"), truth


# Frames


@pytest.mark.parametrize("most", [10_000, 7])
def test_frames_are_what_the_network_was(most, tmp_path, monkeypatch):
    monkeypatch.setattr(_frames, "_EDGES", most)
    _, frames, truth = recorded(tmp_path, monkeypatch)
    assert frames["step"].tolist() == [0, 3, 6, 9, 11] == [step for step, *_ in truth]
    assert (frames["loss"] > 0).all() and (frames["cost"] > 0).all() and (frames["lam"] > 0).all()
    moved = set()
    for frame, (_, weights, slots) in zip(frames, truth, strict=True):
        for group, sits in slots.items():
            assert frame[f"slots {group}"].tolist() == sits.tolist()
            moved |= {group} if not torch.equal(sits, torch.arange(len(sits))) else set()
        for name, weight in weights.items():
            index, found = frame[f"edges {name}"], frame[f"weights {name}"]
            assert found.tolist() == weight.flatten()[torch.tensor(index)].tolist()
            assert sorted(np.abs(found)) == sorted(weight.abs().flatten().tolist())[-min(most, weight.numel()) :]
    assert moved == {"in", "h1", "h2", "out"}


def interrupted(call: int, out) -> None:
    """Ctrl-C while the loss is computed for the call-th time."""
    calls = []

    def loss(prediction, target):
        calls.append(1)
        if len(calls) == call:
            signal.raise_signal(signal.SIGINT)
        return TASK.loss(prediction, target)

    with pytest.raises(KeyboardInterrupt):
        _run.run(replace(TASK, loss=loss), PRESET, out, animate=2)


def test_a_resumed_run_has_the_same_frames(tmp_path):
    _run.run(TASK, PRESET, tmp_path / "whole", animate=2)
    whole = (tmp_path / "whole" / "frames.bin").read_bytes()
    for call, rest in ((6, b"half a frame"), (9, b""), (5, None)):
        path = tmp_path / str(call) / "frames.bin"
        interrupted(call, path.parent)
        state = torch.load(path.with_name("checkpoint.pt"), weights_only=True)
        assert set(state["slots"]) == {"h1", "h2"} and state["settings"]["animate"] == 2
        assert not torch.equal(state["slots"]["h1"], torch.arange(20))
        if rest is None:  # frames of steps that the checkpoint does not know
            path.write_bytes(whole)
        else:
            with open(path, "ab") as file:
                file.write(rest)
        _run.run(TASK, PRESET, path.parent, animate=2, resume=True)
        assert path.read_bytes() == whole


def test_a_new_run_forgets_the_frames_of_the_last(tmp_path):
    _run.run(TASK, PRESET, tmp_path, animate=2)
    (tmp_path / "animation.gif").write_bytes(b"old")
    _run.run(TASK, PRESET, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint.pt", "result.json"]


def test_what_frames_refuse(tmp_path):
    with pytest.raises(ValueError, match="every must be at least 1, was 0"):
        Recorder(tmp_path / "f", 0)
    for content in (b"", b"text\n", b"[1, 2]\n"):
        (tmp_path / "f").write_bytes(content)
        with pytest.raises(ValueError, match="must hold frames of a training run, held none"):
            read_frames(tmp_path / "f")


# Animations


def gif(path):
    """Pictures as RGB arrays, and the milliseconds of each."""
    with Image.open(path) as image:
        found = []
        for k in range(image.n_frames):
            image.seek(k)
            found.append((np.asarray(image.convert("RGB")), image.info["duration"]))
        return zip(*found, strict=True)


def test_an_animation_shows_every_frame_and_every_move(tmp_path, monkeypatch):
    model, frames, _ = recorded(tmp_path, monkeypatch)
    plot.animation(
        model.wiring,
        tmp_path / "frames.bin",
        tmp_path / "a.gif",
        labels=TASK.labels,
        rate=10,
        slides=4,
        loss_name="MSE",
    )
    pictures, times = gif(tmp_path / "a.gif")
    moves = sum(
        any((a[f"slots {g}"] != b[f"slots {g}"]).any() for g in ("in", "h1", "h2", "out")) for a, b in pairwise(frames)
    )
    assert moves == 3 and len(pictures) == 1 + 4 * moves + (4 - moves)
    assert set(times[:-1]) == {100} and times[-1] == 2500
    assert all((a != b).any() for a, b in pairwise(pictures))
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".bin"] == ["a.gif"]


def test_neurons_slide_with_their_connections(tmp_path, monkeypatch):
    model, frames, truth = recorded(tmp_path, monkeypatch)
    stage = _animation._Stage(model.wiring, ("in", "h1", "h2", "out"), {}, 0.0, 1000, "MSE")
    for before, now, (_, weights, _) in zip(frames[:-1], frames[1:], truth[1:], strict=True):
        stage._take(now)
        start, end = (stage._points(before, now, share) for share in (0.0, 1.0))
        middle = stage._points(before, now, 0.5)
        for group in ("in", "h1", "h2", "out"):
            slots = stage.layout.slots[group]
            order = now[f"slots {group}"].argsort() if group in ("h1", "h2") else np.arange(len(slots))
            np.testing.assert_allclose(start[group], slots[before[f"slots {group}"][order]])
            np.testing.assert_allclose(end[group], slots[now[f"slots {group}"][order]])
            np.testing.assert_allclose(middle[group], (start[group] + end[group]) / 2)
        (edges,) = (e for e in stage.edges if e.part.label == "layers.1.weight")
        assert edges.weight.tolist() == weights["layers.1.weight"][edges.out, edges.source].tolist()
        drawn = edges.segments(stage.layout, (middle["h2"], middle["h1"]))
        np.testing.assert_allclose(drawn[:, 0], middle["h1"][edges.source])
        np.testing.assert_allclose(drawn[:, 1], middle["h2"][edges.out])
    stage._picture(end, labels_move=False)
    ax = plot.network(model.wiring, threshold=0.0)
    static = {c.get_gid(): c for c in ax.collections if isinstance(c, LineCollection)}
    for lines in stage.lines:
        np.testing.assert_allclose(lines.get_segments(), static[lines.get_gid()].get_segments(), atol=1e-6)
        np.testing.assert_allclose(lines.get_colors(), static[lines.get_gid()].get_colors(), atol=1e-6)


def test_sheets_move_too(tmp_path):
    torch.manual_seed(0)
    positions = {"in": geometry.grid((4, 4)), "h1": geometry.grid((3, 3)), "out": geometry.ring(5)}
    model = BioMLP((16, 9, 5), positions=positions)
    recorder = Recorder(tmp_path / "frames.bin", 1)
    recorder.start(model.wiring)
    recorder.add(0, 1.0, 1.0, 0.0)
    recorder.follow(model.wiring.relocate("matching", optimizer=torch.optim.SGD(model.parameters())))
    recorder.add(1, 0.5, 0.5, 0.0)
    plot.animation(model.wiring, tmp_path / "frames.bin", tmp_path / "a.gif", labels={"out": list("01234")})
    pictures, _ = gif(tmp_path / "a.gif")
    assert len(pictures) == 4 and (pictures[1] != pictures[2]).any()


def test_what_animations_refuse(tmp_path, monkeypatch):
    model, *_ = recorded(tmp_path, monkeypatch)
    draw = partial(plot.animation, model.wiring, tmp_path / "frames.bin")
    for arguments, named, words in (
        (("a.png",), {}, "path must end in .gif, was 'a.png'"),
        (("a.gif",), {"rate": 0}, "rate and slides must be positive"),
        (("a.gif",), {"slides": 0}, "rate and slides must be positive"),
        (("a.gif",), {"threshold": -1}, "threshold must be finite and at least 0"),
    ):
        with pytest.raises(ValueError, match=words):
            draw(*arguments, **named)
    with pytest.raises(ValueError, match="must hold frames of this network, held those of another"):
        plot.animation(BioMLP((4, 20, 2)).wiring, tmp_path / "frames.bin", "a.gif")
    recorder = Recorder(tmp_path / "none.bin", 1)
    recorder.start(model.wiring)
    with pytest.raises(ValueError, match="must hold frames of a training run, held none"):
        plot.animation(model.wiring, tmp_path / "none.bin", "a.gif")


# Features


def small_image_task() -> tuple[BioMLP, Data]:
    sklearn = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    images, labels = sklearn.load_digits(return_X_y=True)
    x = torch.tensor(images, dtype=torch.float64) / 16
    y = nn.functional.one_hot(torch.tensor(labels), 10).double()
    torch.manual_seed(0)
    grids = {"in": (8, 8), "h1": (3, 4), "h2": (3, 3)}
    positions = {**{name: geometry.grid(shape) for name, shape in grids.items()}, "out": geometry.ring(10)}
    model = BioMLP((64, 12, 9, 10), positions=positions, frozen=["in"], dtype=torch.float64)
    return model, Data(x[:-300], y[:-300], x[-300:], y[-300:])


def test_features_are_gradients_averaged_over_images():
    model, data = small_image_task()
    with torch.no_grad():
        model.layers[2].weight[:, 4] = 0.01  # votes for nothing
    found = mnist.features(model, data, count=20, images=50)
    first, second = found["h1"], found["h2"]
    w1, w2, w3 = (layer.weight.detach() for layer in model.layers)
    importance = w1.abs().sum(1) + w2.abs().sum(0)
    assert first[0].tolist() == importance.argsort(descending=True).tolist()
    assert torch.allclose(first[1].flatten(1), w1[first[0]])
    assert 4 not in second[0] and len(second[0]) == 8
    assert torch.allclose(second[2], w3[:, second[0]].T)
    x = data.test_x[:50]

    def into_second(pixels):
        return model.layers[1](model.activation(model.layers[0](pixels))).mean(0)

    step = 1e-6
    for pixel in (20, 27, 45):
        moved = x.clone()
        moved[:, pixel] += step
        slope = (into_second(moved) - into_second(x)) / step
        assert torch.allclose(slope[second[0]], second[1].flatten(1)[:, pixel], atol=1e-5)
    said = model.activation(model.layers[0](x)).detach()

    def votes(h):
        return model.layers[2](model.activation(model.layers[1](h))).mean(0)

    neuron = first[0][0]
    moved = said.clone()
    moved[:, neuron] += step
    assert torch.allclose((votes(moved) - votes(said)) / step, first[2][0], atol=1e-5)


def test_active_connections_alone_are_judged():
    model, data = small_image_task()
    train(model, model.wiring, lambda m: (m(data.train_x) - data.train_y).square().mean(), replace(IMAGES, steps=150))
    found = mnist.structure(model, data)["accuracy_of_active_connections"]
    with torch.no_grad():
        for layer in model.layers:
            layer.weight[layer.weight.abs() <= 0.05] = 0
    assert found == (model(data.test_x).argmax(1) == data.test_y.argmax(1)).double().mean().item() > 0.5


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_pictures_of_an_image_task(suffix, tmp_path):
    model, data = small_image_task()
    figures = mnist.pictures(model, data)
    assert set(figures) == {"network", "features"}
    axes = figures["features"].axes
    assert len(axes) == 2 * (12 + 9)
    assert all(above.images and len(below.patches) == 10 for above, below in zip(axes[::2], axes[1::2], strict=True))
    for name, figure in figures.items():
        save_figure(figure, tmp_path / f"{name}.{suffix}")
        content = (tmp_path / f"{name}.{suffix}").read_bytes()
        assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml") and len(content) > 10_000


def test_what_features_refuse(tmp_path):
    images, votes = torch.zeros(3, 4, 4), torch.zeros(3, 10)
    for layers, named, words in (
        ({}, {}, "layers must hold neurons, held none"),
        ({"h": (images[0], votes)}, {}, r"layers of 'h' must be images \(k, height, width\) and votes \(k, 10\)"),
        ({"h": (images, votes[:2])}, {}, "layers of 'h' must be images"),
        ({"h": (images, votes)}, {"classes": ["a"]}, r"votes \(k, 1\) of at least one neuron"),
        ({"h": (images, votes)}, {"names": {"h": ["a"]}}, "names of 'h' must be 3, one a neuron, were 1"),
        ({"h": (images, votes)}, {"path": "f.doc"}, "path must end in one of"),
    ):
        with pytest.raises(ValueError, match=words):
            plot.features(layers, **named)
    plot.features({"h": (images, votes)}, path=tmp_path / "f.png")  # nothing to see is no error
    assert (tmp_path / "f.png").exists()


# Reports and the command line


def test_train_animates_and_plot_draws_all_of_it_again(tmp_path, capsys):
    arguments = ["train", "products", "--steps", "300", "--animate", "100", "--strategy", "matching"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    names = ["animation.gif", "loss.png", "network.png", "report.html"]
    said = capsys.readouterr().out
    assert all(f"written: {tmp_path / name}" in said for name in names)
    drawn = {name: (tmp_path / name).read_bytes() for name in names}
    assert len(read_frames(tmp_path / "frames.bin")) == 4
    for name in names:
        (tmp_path / name).unlink()
    assert main(["plot", str(tmp_path)]) == 0
    assert {name: (tmp_path / name).read_bytes() for name in names} == drawn
    assert main(["plot", str(tmp_path), "--format", "svg"]) == 0
    said = capsys.readouterr().out
    assert f"written: {tmp_path / 'network.svg'}" in said and f"written: {tmp_path / 'report.html'}" in said
    assert (tmp_path / "network.svg").read_bytes().startswith(b"<?xml")


def test_a_report_holds_the_whole_run(tmp_path):
    (tmp_path / "network.svg").write_text("<svg/>")  # of an earlier run, and smaller
    assert main(["train", "sharing", "--steps", "20", "--out", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    result = json.loads((tmp_path / "result.json").read_text())
    kinds = re.findall(r"data:([a-z/+]+);base64", page)
    assert kinds == ["image/png", "image/png"] and "http" not in page
    for words in (
        "sharing, seed",
        f"{result['test_loss']:.2e} (published 8.50e-05)",
        "active connections",
        "3-20-20-3",
    ):
        assert words in page, words
    for words in (result["versions"]["torch"], result["machine"], "structure of the paper found"):
        assert words in page, words
    assert plot.report(tmp_path, tmp_path / "other.html") == tmp_path / "other.html"
    assert (tmp_path / "other.html").exists()


def test_what_plot_refuses(tmp_path, capsys):
    assert main(["plot", str(tmp_path)]) == 1
    assert "holds no finished run: there is no result.json in it" in capsys.readouterr().err
    for content in ("{ half", "[]", "{}"):
        (tmp_path / "result.json").write_text(content)
        assert main(["plot", str(tmp_path)]) == 1
        assert "is not a result of bimt_fast" in capsys.readouterr().err

"""Figures: what is drawn where, and what is refused."""

import sys
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import nn

from bimt_fast import Wiring, _drawing, geometry, plot
from bimt_fast.nn import BioMLP

pytest.importorskip("matplotlib", reason="matplotlib is not installed: pip install 'bimt_fast[plot]'")

from matplotlib.collections import LineCollection, PathCollection, PolyCollection
from matplotlib.colors import to_rgba_array
from matplotlib.figure import Figure


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return BioMLP((4, 6, 5, 2))


def collections(ax, kind):
    return {c.get_gid(): c for c in ax.collections if isinstance(c, kind)}


def edges(ax, name):
    """(k, 4) end points from source to target, and (k, 4) colours, in order of drawing."""
    lines = collections(ax, LineCollection)[name]
    return np.array([s[[0, -1]].ravel() for s in lines.get_segments()]).reshape(-1, 4), lines.get_colors()


def expected_edges(wiring, name, level, threshold):
    """Rows x_in, level, x_out, level + 1 of each weight above threshold, weakest first, and their weights."""
    out, source = wiring.connections[name]
    weight = wiring.model.get_parameter(name).detach()
    x_out, x_in = (wiring.neuron_positions(g)[:, 0].tolist() for g in (out, source))
    kept = sorted(
        (abs(w), o, i) for o, row in enumerate(weight.tolist()) for i, w in enumerate(row) if abs(w) > threshold
    )
    rows = [(x_in[i], level, x_out[o], level + 1) for _, o, i in kept]
    return np.array(rows), np.array([weight[o, i].item() for _, o, i in kept])


@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_edges_are_the_weights_above_threshold(mlp, threshold):
    wiring = mlp.wiring
    wiring.relocate("matching")
    ax = plot.network(wiring, threshold=threshold)
    for level, name in enumerate(wiring.connections):
        rows, weights = expected_edges(wiring, name, level, threshold)
        drawn, colours = edges(ax, name)
        np.testing.assert_allclose(drawn, rows, atol=1e-6)
        np.testing.assert_array_equal(colours[:, :3], np.where(weights[:, None] > 0, plot.POSITIVE, plot.NEGATIVE))
        widths = collections(ax, LineCollection)[name].get_linewidths()
        strength = np.abs(weights) / mlp.get_parameter(name).abs().max().item()
        np.testing.assert_allclose(widths / widths[-1], np.maximum(strength, widths[0] / widths[-1]), rtol=1e-5)
        assert (np.diff(colours[:, 3]) >= 0).all() and colours[-1, 3] > colours[0, 3]


def test_one_artist_a_connection_and_a_group(mlp):
    ax = plot.network(mlp.wiring)
    assert set(collections(ax, LineCollection)) == set(mlp.wiring.connections)
    assert set(collections(ax, PathCollection)) == {"in", "h1", "h2", "out"}
    assert len(ax.collections) == 3 + 4 and not ax.lines and not ax.patches and not ax.texts


def test_max_edges_keeps_the_strongest(mlp):
    ax = plot.network(mlp.wiring, threshold=0.0, max_edges=3)
    name = "layers.1.weight"
    rows, _ = expected_edges(mlp.wiring, name, 1, 0.0)
    np.testing.assert_allclose(edges(ax, name)[0], rows[-3:], atol=1e-6)
    areas = collections(ax, PathCollection)["h1"].get_sizes()
    assert areas.min() == areas.max()  # a neuron whose connections were left out is not dead


def test_dead_neurons_are_small_and_faint(mlp):
    with torch.no_grad():
        for layer in mlp.layers:
            layer.weight.fill_(1.0)
        mlp.layers[0].weight[2] = mlp.layers[1].weight[:, 2] = 0.001
        mlp.layers[0].weight[3] = 0.001  # still has outgoing connections
    dots = collections(plot.network(mlp.wiring), PathCollection)["h1"]
    assert dots.get_sizes().argmin() == 2 and dots.get_sizes()[2] < 0.5 * dots.get_sizes()[3]
    assert dots.get_facecolors()[2, 3] < dots.get_facecolors()[3, 3] == 1
    np.testing.assert_array_equal(dots.get_sizes()[3], np.delete(dots.get_sizes(), 2))


def test_labels_sit_where_their_neurons_sit(mlp):
    mlp.wiring.load_permutations({"in": torch.tensor([2, 0, 3, 1]), "out": torch.tensor([1, 0])})
    labels = {"in": ["$x_1$", "$x_2$", "$x_3$", ""], "out": ["sum", "product"], "h1": list("abcdef")}
    ax = plot.network(mlp.wiring, labels=labels)
    sits = {text.get_text(): text.xy for text in ax.texts}
    expected = {"$x_1$": (0.625, 0), "$x_2$": (0.125, 0), "$x_3$": (0.875, 0), "sum": (0.75, 3), "product": (0.25, 3)}
    for text, xy in expected.items():
        assert sits[text] == pytest.approx(xy)
    assert len(sits) == 5 + 6 and sits["b"] == pytest.approx((0.25, 1))
    np.testing.assert_allclose(collections(ax, PathCollection)["in"].get_offsets()[0], (0.625, 0), atol=1e-6)


def test_crowded_labels_do_not_overlap():
    ax = plot.network(BioMLP((40, 2)).wiring, labels={"in": [f"feature {i}" for i in range(40)]})
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    assert not any(a.overlaps(b) for a, b in pairwise(boxes))
    canvas = ax.figure.bbox
    assert all(canvas.x0 <= b.x0 and b.x1 <= canvas.x1 and canvas.y0 <= b.y0 and b.y1 <= canvas.y1 for b in boxes)


def test_sheets_are_stacked_and_keep_their_shape():
    torch.manual_seed(0)
    positions = {"in": geometry.grid((4, 4)), "h1": geometry.line(3), "out": geometry.ring(5)}
    wiring = BioMLP((16, 3, 5), positions=positions).wiring
    ax = plot.network(wiring, labels={"out": list("01234")}, threshold=0.0)
    dots = {g: np.asarray(c.get_offsets()) for g, c in collections(ax, PathCollection).items()}
    assert len(ax.patches) == 3
    for group in ("in", "out"):  # the same affine map for each sheet
        x = wiring.neuron_positions(group).double().numpy()
        across = dots[group][:, 0] - x[:, 0]
        assert np.polyfit(x[:, 1], across, 1)[0] == pytest.approx(-_drawing._SLANT, abs=1e-4)
    assert dots["in"][:, 1].mean() < dots["h1"][:, 1].mean() < dots["out"][:, 1].mean()
    ends = edges(ax, "layers.1.weight")[0]
    assert {tuple(e) for e in ends[:, :2].round(5)} == {tuple(d) for d in dots["h1"].round(5)}
    assert {tuple(e) for e in ends[:, 2:].round(5)} == {tuple(d) for d in dots["out"].round(5)}
    np.testing.assert_allclose([text.xy for text in ax.texts], dots["out"], atol=1e-6)


def tangle(axes, sizes):
    """A wiring of the given connections: {tensor name: (out group, in group)}."""
    model = nn.ParameterDict({name: torch.ones(sizes[out], sizes[source]) for name, (out, source) in axes.items()})
    return Wiring(model, {group: geometry.line(n) for group, n in sizes.items()}, axes)


def levels(ax):
    return {group: dots.get_offsets()[0][1] for group, dots in collections(ax, PathCollection).items()}


def test_layers_follow_the_connections_not_the_declaration():
    sizes = {"out": 2, "h2": 3, "in": 2, "h1": 4, "early": 1}
    axes = {"a": ("out", "h2"), "b": ("h2", "h1"), "skip": ("out", "in"), "c": ("h1", "in"), "d": ("early", "h1")}
    wiring = tangle(axes, sizes)
    assert levels(plot.network(wiring)) == {"in": 0, "h1": 1, "h2": 2, "early": 3, "out": 4}
    ax = plot.network(wiring, groups=["h2", "out"])
    assert levels(ax) == {"h2": 0, "out": 1} and set(collections(ax, LineCollection)) == {"a"}


def test_recurrent_connections_are_arcs():
    ax = plot.network(tangle({"w": ("h", "h"), "u": ("h", "in")}, {"in": 2, "h": 3}))
    assert levels(ax) == {"in": 0, "h": 1}
    arcs = collections(ax, LineCollection)["w"].get_segments()
    assert len(arcs) == 9
    assert all(arc[:, 1].max() > 1 for arc in arcs if arc[0, 0] != arc[-1, 0])


def test_circles_need_named_groups():
    wiring = tangle({"up": ("mlp", "stream"), "down": ("stream", "mlp")}, {"stream": 2, "mlp": 3})
    with pytest.raises(ValueError, match="groups must be named, bottom to top, where they feed each other in a circle"):
        plot.network(wiring)
    assert levels(plot.network(wiring, groups=["stream", "mlp"])) == {"stream": 0, "mlp": 1}


@pytest.mark.parametrize(("suffix", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml")])
def test_files_are_written(mlp, tmp_path, suffix, start):
    path = tmp_path / f"network.{suffix}"
    plot.network(mlp.wiring, labels={"out": ["$x_1x_4$", "b"]}, title="A network", path=path)
    content = path.read_bytes()
    assert content.startswith(start) and len(content) > 5000
    plot.network(mlp.wiring, labels={"out": ["$x_1x_4$", "b"]}, title="A network", path=path)
    assert path.read_bytes() == content


def test_draws_into_given_axes_without_pyplot(mlp):
    had_pyplot = "matplotlib.pyplot" in sys.modules
    left, right = Figure().subplots(1, 2)
    assert plot.network(mlp.wiring, ax=right, title="right") is right
    assert right.get_title() == "right" and not left.collections
    assert had_pyplot or "matplotlib.pyplot" not in sys.modules


def test_wide_networks_stay_within_max_edges():
    positions = {"in": geometry.grid((28, 28)), "h1": geometry.grid((32, 32)), "out": geometry.ring(10)}
    ax = plot.network(BioMLP((784, 1024, 10), positions=positions).wiring, threshold=0.0, max_edges=1000)
    assert [len(c.get_segments()) for c in collections(ax, LineCollection).values()] == [1000, 1000]


@pytest.mark.parametrize("most", [0, 7, 1000])
@pytest.mark.parametrize("shape", [(0, 4), (4, 0), (13, 9), (1, 50)])
def test_the_strongest_are_found_a_block_at_a_time(shape, most, monkeypatch):
    monkeypatch.setattr(_drawing, "_BLOCK", 20)
    weight = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    index, count, alive = _drawing.strongest(weight, 0.8, most, "w")
    size = weight.abs().flatten()
    order = size.argsort(stable=True)
    order = order[size[order] > 0.8]
    assert count == len(order) and index.tolist() == order[len(order) - min(most, count) :].tolist()
    for axis in (0, 1):
        assert alive[axis].tolist() == (weight.abs() > 0.8).any(1 - axis).tolist()


def test_shades_are_tiles_around_their_neurons():
    positions = {"in": geometry.grid((2, 3)), "out": geometry.ring(4)}
    wiring = BioMLP((6, 4), positions=positions).wiring
    wiring.load_permutations({"in": torch.tensor([5, 1, 2, 3, 4, 0]), "out": torch.arange(4)})
    ax = plot.network(wiring, shades={"in": torch.tensor([2.0, 0, 0, 0, 1, 1])})
    tiles = collections(ax, PolyCollection)["in shades"]
    centres = np.array([path.vertices[:4].mean(0) for path in tiles.get_paths()])
    np.testing.assert_allclose(centres, collections(ax, PathCollection)["in"].get_offsets(), atol=1e-6)
    widths = [np.ptp(path.vertices[:2, 0]) for path in tiles.get_paths()]
    np.testing.assert_allclose(widths, 1 / 3, atol=1e-5)
    assert tiles.get_facecolors()[:, 0].tolist() == pytest.approx([0.4, 1, 1, 1, 0.7, 0.7])
    for shades, error, sentence in (
        ([1], TypeError, "shades must be a mapping from group names to numbers, was list"),
        ({"h9": [1]}, ValueError, "shades must be of groups of two coordinates that are drawn, had 'h9'"),
        ({"in": [1.0]}, ValueError, "shades of 'in' must be 6 finite numbers, one a neuron"),
        ({"in": [float("nan")] * 6}, ValueError, "shades of 'in' must be 6 finite numbers, one a neuron"),
    ):
        with pytest.raises(error, match=sentence):
            plot.network(wiring, shades=shades)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_any_dtype_and_a_silent_layer(dtype):
    mlp = BioMLP((3, 4, 2), dtype=dtype)
    nn.init.zeros_(mlp.layers[1].weight)
    ax = plot.network(mlp.wiring, threshold=0.0)
    assert len(edges(ax, "layers.0.weight")[0]) == 12 and len(edges(ax, "layers.1.weight")[0]) == 0
    assert (to_rgba_array(collections(ax, PathCollection)["out"].get_facecolors())[:, 3] < 1).all()


@pytest.mark.parametrize(
    ("arguments", "error", "sentence"),
    [
        ({"threshold": "a"}, TypeError, "threshold must be a number, was 'a'"),
        ({"threshold": -1}, ValueError, "threshold must be finite and at least 0, was -1"),
        ({"threshold": float("nan")}, ValueError, "threshold must be finite and at least 0, was nan"),
        ({"max_edges": 1.5}, TypeError, "max_edges must be an integer, was 1.5"),
        ({"max_edges": -1}, ValueError, "max_edges must be at least 0, was -1"),
        ({"labels": ["a"]}, TypeError, "labels must be a mapping from group names to texts, was list"),
        ({"labels": {"h9": ["a"]}}, ValueError, "labels must be of groups in, h1, h2, out, had 'h9'"),
        ({"labels": {"out": ["a"]}}, ValueError, "labels of 'out' must be 2, one a neuron, were 1"),
        ({"labels": {"out": "ab"}}, TypeError, "labels of 'out' must be a sequence of strings, was 'ab'"),
        ({"labels": {"out": [1, 2]}}, TypeError, "labels of 'out' must be a sequence of strings, was"),
        ({"groups": ["in", "h9"]}, ValueError, "groups must name groups of in, h1, h2, out, named 'h9'"),
        ({"groups": ["in", "in"]}, ValueError, "groups must name at least one group, none twice"),
        ({"groups": []}, ValueError, "groups must name at least one group, none twice"),
        ({"title": 3}, TypeError, "title must be a string or None, was int"),
        ({"ax": "axes"}, TypeError, "ax must be a matplotlib Axes or None, was str"),
        ({"path": 3}, TypeError, "path must be a string, a path or None, was int"),
        ({"path": "figure.doc"}, ValueError, r"path must end in one of .*\.png.*, was 'figure.doc'"),
    ],
)
def test_bad_arguments(mlp, arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        plot.network(mlp.wiring, **arguments)


def test_bad_wirings(mlp):
    with pytest.raises(TypeError, match=r"wiring must be a bimt_fast\.Wiring, was BioMLP"):
        plot.network(mlp)
    with pytest.raises(ValueError, match="ax must be rectilinear, was polar"):
        plot.network(mlp.wiring, ax=Figure().add_subplot(projection="polar"))
    with torch.no_grad():
        mlp.layers[1].weight[0, 0] = float("nan")
    with pytest.raises(ValueError, match=r"weights of 'layers.1.weight' must be finite, held NaN or infinity"):
        plot.network(mlp.wiring)
    cube = BioMLP((8, 2), positions={"in": geometry.grid((2, 2, 2)), "out": geometry.grid((1, 1, 2))})
    with pytest.raises(ValueError, match=r"positions of 'in' must have shape \(n, 1\) or \(n, 2\), was \(8, 3\)"):
        plot.network(cube.wiring)
    with pytest.raises(ValueError, match="wiring must have a connection"):
        plot.network(Wiring(nn.Linear(2, 3), {"out": geometry.line(3)}, {"bias": ("out",)}))


def test_says_how_to_install_matplotlib(mlp, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'bimt_fast\[plot\]'"):
        plot.network(mlp.wiring)

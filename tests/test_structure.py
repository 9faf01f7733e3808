"""Structure checks on networks made by hand that have the structure, and on the same ones damaged."""

import math

import pytest
import torch
from torch import nn

from bimt_fast import _anatomy
from bimt_fast.tasks import TASKS, Data, _structure, permutation_s4


class Square(nn.Module):
    def forward(self, x):
        return x * x


def network(name: str) -> nn.Module:
    """The task's model with every weight zero, and squares for an activation."""
    torch.manual_seed(0)
    model = TASKS[name].make_model(TASKS[name].preset)
    model.activation = Square()
    with torch.no_grad():
        for layer in model.layers:
            layer.weight.zero_()
            layer.bias.zero_()
    return model


def connect(model: nn.Module, *entries: tuple[int, int, int, float]) -> nn.Module:
    with torch.no_grad():
        for layer, out, source, weight in entries:
            model.layers[layer].weight[out, source] = weight
    return model


def judged(name: str, model: nn.Module, data: Data | None = None) -> dict:
    before = {key: x.clone() for key, x in model.named_parameters()}
    figures = TASKS[name].structure(model, TASKS[name].make_data(0) if data is None else data)
    assert all(torch.equal(x, before[key]) for key, x in model.named_parameters())
    return figures


def two_products() -> nn.Module:
    model = connect(
        network("products"),
        *((0, 0, 0, 1.0), (0, 0, 3, 1.0), (0, 1, 0, 1.0), (0, 1, 3, -1.0)),
        *((0, 5, 1, 1.0), (0, 5, 2, 1.0), (0, 6, 1, 1.0), (0, 6, 2, -1.0)),
        *((1, 2, 0, 0.25), (1, 2, 1, -0.25), (1, 9, 5, 0.25), (1, 9, 6, -0.25)),
        *((2, 0, 2, 1.0), (2, 0, 9, 1.0), (2, 1, 2, 1.0), (2, 1, 9, -1.0)),
    )
    with torch.no_grad():
        model.layers[1].bias[[2, 9]] = 10.0  # (x + 10)^2 is nearly linear
    return model


def test_products():
    figures = judged("products", two_products())
    assert figures["active"] == 2 and figures["found"] and figures["parts_separate"]
    assert min(figures["correlations"].values()) > 0.99
    shared = judged("products", connect(two_products(), (1, 9, 0, 0.06)))
    assert not shared["parts_separate"]
    third = judged("products", connect(two_products(), (2, 0, 7, 0.06)))
    assert third["active"] == 3 and not third["found"] and not third["parts_separate"]
    faint = judged("products", connect(two_products(), (2, 0, 7, 0.04), (1, 9, 0, 0.04)))
    assert faint["active"] == 2 and faint["parts_separate"]
    same = judged(
        "products", connect(two_products(), (1, 9, 5, 0.0), (1, 9, 6, 0.0), (1, 9, 0, 0.25), (1, 9, 1, -0.25))
    )
    assert same["active"] == 2 and not same["found"] and same["correlations"]["x2x3"] < 0.5
    assert judged("products", network("products")) == {
        "active": 0,
        "correlations": {"x1x4": 0.0, "x2x3": 0.0},
        "parts_separate": False,
        "found": False,
    }


def test_independence():
    def separate():
        return connect(
            network("independence"),
            *((0, 3, 0, 1.0), (0, 3, 2, 1.0), (1, 3, 3, 1.0), (2, 0, 3, 1.0)),
            *((0, 8, 1, 1.0), (0, 9, 3, 1.0), (1, 8, 8, 1.0), (1, 9, 9, -1.0), (2, 1, 8, 1.0), (2, 1, 9, 1.0)),
        )

    figures = judged("independence", separate())
    assert figures == {"parts": 2, "inputs": {"y1": [1, 3], "y2": [2, 4]}, "right_inputs": True, "found": True}
    joined = judged("independence", connect(separate(), (1, 3, 8, 0.06)))
    assert joined == {"parts": 1, "inputs": {"y1": [1, 2, 3], "y2": [2, 4]}, "right_inputs": False, "found": False}
    assert not judged("independence", connect(separate(), (2, 0, 3, 0.0)))["found"]


def test_sharing():
    def motifs():
        ladder = [(1, k, i, 1.0) for i in range(3) for k in range(i, 3)]
        return connect(
            network("sharing"), *((0, i, i, 1.0) for i in range(3)), *ladder, *((2, k, k, 1.0) for k in range(3))
        )

    figures = judged("sharing", motifs())
    assert figures["motif_sizes"] == [1, 1, 1] and figures["found"] and min(figures["squares"]) > 0.999
    mixed = judged("sharing", connect(motifs(), (0, 2, 0, 0.06)))
    assert mixed["mixed"] == 1 and mixed["motif_sizes"] == [1, 1, 0] and not mixed["found"]
    uneven = judged("sharing", connect(motifs(), (0, 5, 0, 1.0), (1, 0, 5, 1.0)))
    assert uneven["motif_sizes"] == [2, 1, 1] and not uneven["similar"] and not uneven["found"]
    unused = judged("sharing", connect(motifs(), (0, 5, 0, 1.0)))
    assert unused["motif_sizes"] == [1, 1, 1] and unused["found"]
    other = motifs()
    other.activation = nn.Identity()
    assert not judged("sharing", other)["found"]


def test_compositionality():
    def one_neuron():
        return connect(
            network("compositionality"),
            *((0, 0, 0, 1.0), (0, 0, 1, -1.0), (0, 1, 2, 1.0), (0, 1, 3, -1.0)),
            *((1, 4, 0, 1.0), (1, 4, 1, 1.0), (2, 7, 4, 1.0), (3, 2, 7, 1.0), (4, 0, 2, 1.0)),
        )

    figures = judged("compositionality", one_neuron())
    assert figures["active"] == [2, 1, 1, 1] and figures["monotone"] == pytest.approx(1) and figures["found"]
    assert not judged("compositionality", connect(one_neuron(), (3, 2, 8, 0.06)))["found"]
    folded = one_neuron()
    with torch.no_grad():
        folded.layers[1].bias[4] = -1.0  # (s - 1)^2 falls, then rises
    assert judged("compositionality", folded)["monotone"] < 0.95


def two_circles() -> nn.Module:
    """Two trees, each fed by a circle of numbers in the embedding."""
    model = network("modular_addition")
    turns = 2 * math.pi / 59 * torch.arange(59, dtype=torch.float64)
    with torch.no_grad():
        model.embedding.weight.zero_()
        for column, k in ((0, 3), (4, 7)):
            model.embedding.weight[:, column] = (k * turns).cos()
            model.embedding.weight[:, column + 1] = -2 + (k * turns).sin()
        for tree, column in ((0, 0), (1, 4)):
            model.layers[0].weight[tree, [column, 32 + column]] = 1.0
            model.layers[0].weight[2 + tree, [column + 1, 33 + column]] = 1.0
            model.layers[1].weight[tree, [tree, 2 + tree]] = 1.0
        model.layers[2].weight[:, :2] = torch.randn(59, 2, dtype=torch.float64)
        model.layers[2].bias.normal_()
    return model


def own_answers(model: nn.Module, data: Data) -> Data:
    """The same pairs, with what the model says for targets."""
    with torch.no_grad():
        return Data(data.train_x, model(data.train_x).argmax(1), data.test_x, model(data.test_x).argmax(1))


def test_modular_addition():
    model = two_circles()
    data = own_answers(model, TASKS["modular_addition"].make_data(0))
    figures = judged("modular_addition", model, data)
    assert figures["trees"] == 2 and figures["knocking_out_hurts"] and figures["found"]
    assert [c["k"] for c in figures["circles"]] == [3, 7]
    assert all(
        c["radius_spread"] < 1e-6 and c["angle_error"] < 1e-6 and c["planar"] > 0.999 for c in figures["circles"]
    )
    wrong = Data(data.train_x, data.train_y, data.test_x, (data.test_y + 1) % 59)
    assert not judged("modular_addition", two_circles(), wrong)["found"]
    joined = connect(two_circles(), (1, 0, 1, 0.06))
    assert judged("modular_addition", joined, data)["trees"] == 1
    needless = two_circles()
    with torch.no_grad():
        needless.layers[2].weight[:, 1] = 0.06  # the same for every class
    figures = judged("modular_addition", needless, own_answers(needless, data))
    assert figures["trees"] == 2 and not figures["knocking_out_hurts"] and not figures["found"]


def test_permutation_s4():
    model = network("permutation_s4")
    with torch.no_grad():
        model.embedding.weight[:, 5] = 0.3 * permutation_s4.parities() - 2
        model.layers[0].weight[0, 5] = 1.0
        model.layers[0].weight[1, 32 + 9] = 1.0
        model.layers[2].bias[0] = 1.0
    data = own_answers(model, TASKS["permutation_s4"].make_data(0))
    figures = judged("permutation_s4", model, data)
    assert figures["active_inputs"] == 2 and figures["parity_column"] == 5 and figures["found"]
    assert figures["parity"] == pytest.approx(1)
    with torch.no_grad():
        model.layers[0].weight[0, 5] = 0.04  # the column no longer feeds anything
    assert not judged("permutation_s4", model, data)["found"]
    assert judged("permutation_s4", network("permutation_s4"), data)["parity_column"] is None


def test_in_context():
    torch.manual_seed(0)
    task = TASKS["in_context"]
    model, data = task.make_model(task.preset), task.make_data(0)
    with torch.no_grad():
        model.layers[0].project.weight.zero_()  # a head that says nothing
        own = Data(data.train_x, data.train_y, data.test_x, model(data.test_x)[:, ::2, 0])
    figures = judged("in_context", model, own)
    assert figures["last_loss"] == 0 and figures["without_head"]["1.1"] == 0
    assert figures["hurts"] == {"1.1": False, "2.1": True}


def test_without_puts_everything_back_after_an_error():
    weight = torch.rand(3, 4)
    before = weight.clone()
    with pytest.raises(KeyError), _structure.without(weight, [1, 3]):
        assert torch.equal(weight[:, [0, 2]], before[:, [0, 2]]) and not weight[:, [1, 3]].any()
        raise KeyError
    assert torch.equal(weight, before)


def test_trees_join_and_leave_out():
    first = torch.zeros(4, 3)
    first[0, 0] = first[1, 1] = first[2, 1] = 1.0  # the fourth neuron has no input
    second = torch.zeros(5, 4)
    second[0, 0] = second[1, 1] = second[2, 2] = second[3, 3] = 1.0
    second[4, [0, 2]] = 1.0
    tips = lambda *of: sorted(sorted(t.tips) for t in _anatomy.trees([first, second], of))  # noqa: E731
    assert tips(0, 1, 2, 3) == [[0], [1, 2]]
    assert tips(0, 1, 2, 3, 4) == [[0, 1, 2, 4]]
    assert tips(3) == []
    assert _anatomy.trees([first, second], [1, 2])[0].inputs == [1]


@pytest.mark.parametrize("k", (1, 5, 29))
def test_a_turned_mirrored_moved_noisy_circle_is_one(k):
    torch.manual_seed(k)
    angle = 2 * math.pi * k / 59 * torch.arange(59) + 0.7
    flat = torch.stack([angle.cos(), -angle.sin()], dim=1)
    turned = flat @ torch.linalg.qr(torch.randn(6, 6))[0][:2] * 4 + torch.randn(6)
    found = _structure.circle(turned + 0.05 * torch.randn(59, 6))
    assert found.k == k and found.found and found.planar > 0.95
    assert 0 < found.radius_spread < 0.1 and 0 < found.angle_error < 0.1


def test_what_is_no_circle():
    torch.manual_seed(0)
    angle = 2 * math.pi / 59 * torch.arange(59)
    circle = torch.stack([angle.cos(), angle.sin()], dim=1)
    assert not _structure.circle(torch.randn(59, 4)).found
    assert not _structure.circle(circle[torch.randperm(59)]).found  # a constant radius alone
    assert not _structure.circle(circle * torch.tensor([4.0, 1.0])).found  # an ellipse
    assert not _structure.circle(circle * torch.linspace(0.3, 2, 59)[:, None]).found  # a spiral
    for degenerate in (circle[:, :1], circle[:, [0, 0]], circle[:2], torch.zeros(59, 3)):
        assert not _structure.circle(degenerate).found


def test_figures_of_fit():
    x = torch.linspace(0.1, 2, 50)
    assert _structure.monotone(x, -x.exp()) == pytest.approx(1)
    assert _structure.monotone(x, (x - 1).square()) < 0.5
    assert _structure.monotone(x, torch.ones(50)) == 0
    both = torch.stack([x, x.square()], dim=1)
    assert _structure.explained(both, 3 * x.square() - x + 7) == pytest.approx(1)
    assert _structure.explained(both[:, :1], x.square()) < 0.97
    assert _structure.explained(both[:, :0], x) == pytest.approx(0)
    r = _structure.correlations(torch.stack([x, torch.ones(50)], dim=1), torch.stack([-x, x.square()], dim=1))
    assert r.shape == (2, 2) and r[0, 0].item() == pytest.approx(1) and r[1].tolist() == [0, 0]
    assert _structure.folded(torch.tensor([[1.0, -2, 3, 1]]), 2).tolist() == [[3.0, 2.0]]

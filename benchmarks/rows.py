"""What is measured: one function per row of the speed table, each with its contenders and its proof of being right.

The first contender is ours. `check` returns the largest error relative to the largest true value and is called before
anything is timed: a wrong result prints no speed.
"""

import copy
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

import bimt_fast as bf
from bimt_fast.compat import published
from bimt_fast.tasks import TASKS
from bimt_fast.train import train, value_at

BASE, SCALE = 0.1, 1.0
_RECIPE = {"base_length": BASE, "distance_scale": SCALE}


@dataclass
class Row:
    """One line of the table.

    Attributes:
        contenders: name -> function to time; the first is ours.
        check: largest relative error of ours against float64.
        tolerance: that error must stay below.
        bytes_moved: of ours and of each contender named "bandwidth ...", for GB/s.
        rounds: how often each contender runs, interleaved.
        fresh: called untimed before every run, for contenders that change their input.
    """

    name: str
    contenders: dict[str, Callable[[], object]]
    check: Callable[[], float]
    tolerance: float
    bytes_moved: int = 0
    rounds: int = 15
    fresh: Callable[[], None] = field(default=lambda: None)


def penalty(n: int = 4096) -> Row:
    """Connection cost and its gradient, added in place, for one n x n float32 weight on lines."""
    torch.manual_seed(0)
    w = torch.randn(n, n, requires_grad=True)
    x, y = bf.geometry.line(n), bf.geometry.line(n)
    w.grad = torch.zeros(n, n)
    cached = BASE + SCALE * (x - y.T).abs()
    out = torch.empty(n, n)

    def cost(weight, x, y):
        return (weight.abs() * (BASE + SCALE * (x - y.T).abs())).sum()

    def eager():
        cost(w, x, y).backward()

    def eager_cached():
        (w.abs() * cached).sum().backward()

    compiled_cost = torch.compile(cost)

    def compiled():
        compiled_cost(w, x, y).backward()

    def ours():
        bf.add_grad_(w.detach(), w.grad, x, y, **_RECIPE)

    def check():
        grad = torch.zeros(n, n)
        got = bf.add_grad_(w.detach(), grad, x, y, **_RECIPE)
        with torch.no_grad():
            length = BASE + SCALE * (x.double() - y.double().T).abs()
            truth = (w.double().abs() * length).sum()
            off = (grad.double() - w.sign() * length).abs().max() / length.max()
        return max(off.item(), abs(got.item() - truth.item()) / truth.item())

    contenders = {
        "bimt_fast": ours,
        "eager PyTorch, forward and backward": eager,
        "the same with cached distances": eager_cached,
        "torch.compile, forward and backward": compiled,
        "bandwidth: torch.add(out=)": lambda: torch.add(w.detach(), w.grad, out=out),
    }
    return Row(f"cost and gradient, {n} x {n}, L1", contenders, check, 1e-6, bytes_moved=12 * n * n)


def swaps(n: int, slots: torch.Tensor, layout: str) -> Row:
    """All n^2 swap deltas and every best partner, for one incoming and one outgoing float32 weight."""
    torch.manual_seed(0)
    w, v = torch.randn(n, n), torch.randn(n, n)
    d_in = d_out = bf.geometry.distances(slots, slots)

    def ours():
        cost = bf.placement_cost(slots, incoming=[(w, slots)], outgoing=[(v, slots)])
        return cost, bf.best_swaps(cost)

    def products():
        return w.abs() @ d_in.T + v.abs().T @ d_out

    def check():
        cost, (delta, partner) = ours()
        with torch.no_grad():
            truth = w.double().abs() @ d_in.double().T + v.double().abs().T @ d_out.double()
            off = (cost.double() - truth).abs().max() / truth.abs().max()
        with bf.backend("reference"):
            best, _ = bf.best_swaps(cost)
            taken = bf.swap_deltas(cost).gather(1, partner[:, None]).squeeze(1)
        worst = max((best - delta).abs().max().item(), (taken - delta).abs().max().item())
        return max(off.item(), worst / cost.abs().max().item())

    contenders = {"bimt_fast": ours, "two matrix products alone": products}
    return Row(f"all swap deltas, best partners, n = m = {n}, {layout}", contenders, check, 1e-6, rounds=9)


def relocation() -> Row:
    """One relocation of the published MNIST network, 784-100-100-10, top_k 30; the pixel layer never moves."""
    torch.manual_seed(0)
    positions = {
        "in": bf.geometry.grid((28, 28)),
        "h1": bf.geometry.grid((10, 10)),
        "h2": bf.geometry.grid((10, 10)),
        "out": bf.geometry.ring(10, offset=0.5),
    }
    scale = {"layers.2.weight": 0.0, None: 2.0}
    options = {"frozen": ["in"], "base_length": 0.5, "distance_scale": scale, "reduction": "mean"}
    model = bf.nn.BioMLP((784, 100, 100, 10), positions=positions, **options)
    state = {}

    def fresh():
        state["wiring"] = copy.deepcopy(model.wiring)
        state["optimizer"] = torch.optim.AdamW(state["wiring"].model.parameters())

    def ours():
        return state["wiring"].relocate("greedy", top_k=30, optimizer=state["optimizer"])

    def theirs():
        return published.relocate(state["wiring"], 30)

    def check():
        fresh()
        ours()
        got = state["wiring"].cost().item()
        fresh()
        theirs()
        truth = state["wiring"].cost().item()
        return abs(got - truth) / truth

    contenders = {"bimt_fast": ours, "published loop, pixel layer left out": theirs}
    return Row("one relocation, 784-100-100-10, top_k 30", contenders, check, 1e-5, rounds=2, fresh=fresh)


def adamw(n: int, layout: str) -> Row:
    """One AdamW step with the penalty in it, for one n x n float32 weight, against torch's step without."""
    torch.manual_seed(0)
    slots = bf.geometry.line(n) if layout == "1-D" else bf.geometry.grid((64, n // 64))
    model = torch.nn.Linear(n, n, bias=False)
    model.weight.grad = torch.randn(n, n)
    peer = copy.deepcopy(model)
    peer.weight.grad = model.weight.grad
    wiring = bf.Wiring(model, {"in": slots, "out": slots}, {"weight": ("out", "in")})
    ours = bf.optim.AdamW(wiring, lam=1e-3)
    theirs = torch.optim.AdamW(peer.parameters(), weight_decay=0.0, fused=True)
    w, grad, out = model.weight.detach(), model.weight.grad, torch.empty(n, n)

    def check():
        small = torch.nn.Linear(96, 64, bias=False)
        small.weight.grad = torch.randn(64, 96)
        truth = copy.deepcopy(small).double()
        truth.weight.grad = small.weight.grad.double()
        for network, backend in ((small, "cpu"), (truth, "reference")):
            positions = {"in": bf.geometry.line(96), "out": bf.geometry.line(64)}
            optimizer = bf.optim.AdamW(bf.Wiring(network, positions, {"weight": ("out", "in")}), lam=1e-3)
            with bf.backend(backend):
                optimizer.step()
        return ((small.weight - truth.weight).abs().max() / truth.weight.abs().max()).item()

    contenders = {
        "bimt_fast.optim.AdamW, penalty included": ours.step,
        "torch.optim.AdamW(fused=True), no penalty": theirs.step,
        "bandwidth: torch.add(out=), bytes x 3/7": lambda: torch.add(w, grad, out=out),
    }
    return Row(f"AdamW step, {n} x {n}, {layout}", contenders, check, 1e-6, rounds=25)


def small_network() -> Row:
    """600 steps of 4-20-20-2 with three relocations, all overheads included, against the published loop."""
    task = TASKS["products"]
    preset = dataclasses.replace(task.preset, steps=600)
    data = task.make_data(0)

    def new_model():
        torch.manual_seed(0)
        return task.make_model(preset)

    def loss(model):
        return task.loss(model(data.train_x), data.train_y)

    def ours():
        model = new_model()
        train(model, model.wiring, loss, preset)
        return model

    def theirs():
        model = new_model()
        optimizer = torch.optim.AdamW(model.parameters(), lr=preset.lr, weight_decay=0.0)
        for step in range(preset.steps):
            optimizer.zero_grad()
            fraction = step / preset.steps
            cost = published.cost(model.wiring, bias=value_at(preset.bias, fraction))
            (loss(model) + value_at(preset.lam, fraction) * cost).backward()
            optimizer.step()
            if (step + 1) % preset.swap_every == 0:
                published.relocate(model.wiring, preset.top_k)
        return model

    def check():
        return abs(loss(ours()).item() - loss(theirs()).item())  # alike, not equal: moments follow only in ours

    contenders = {"bimt_fast": ours, "published loop": theirs}
    return Row("training 4-20-20-2, 600 steps, 3 relocations", contenders, check, 0.02, rounds=5)


def all_rows() -> list[Callable[[], Row]]:
    """Every row, each built only when its turn comes."""
    return [
        penalty,
        lambda: swaps(1024, bf.geometry.line(1024), "1-D"),
        lambda: swaps(1024, bf.geometry.grid((32, 32)), "2-D"),
        lambda: swaps(4096, bf.geometry.line(4096), "1-D"),
        lambda: swaps(4096, bf.geometry.grid((64, 64)), "2-D"),
        lambda: adamw(4096, "1-D"),
        lambda: adamw(4096, "2-D"),
        relocation,
        small_network,
    ]

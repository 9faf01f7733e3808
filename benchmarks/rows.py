"""What is measured: one class per kind of row, with its contenders, its proof of being right, and its least work.

A Row is cheap until `prepare` allocates what it works on. Its first contender is ours. `check` returns the largest
error relative to the largest true value and is called before anything is timed: a wrong result prints no speed.
"""

import copy
import dataclasses
import importlib.util
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from machine import Work
from torch import Tensor

import bimt_fast as bf
from bimt_fast import search
from bimt_fast.compat import published
from bimt_fast.tasks import TASKS, _run
from bimt_fast.train import train, value_at

BASE, SCALE = 0.1, 1.0
RECIPE = {"base_length": BASE, "distance_scale": SCALE}


DISTANCE_FLOPS = {"l1": 3, "l2": 3, "sql2": 3, "linf": 3, "torus-l1": 6, "torus-l2": 6, "poincare": 3}  # a coordinate
FINISH_FLOPS = {"l2": 1, "torus-l2": 1, "poincare": 12}  # a pair: roots, and poincare's asinh as a dozen


def pair_flops(metric: str, dim: int) -> int:
    """Operations for one distance."""
    return dim * DISTANCE_FLOPS[metric] + FINISH_FLOPS.get(metric, 0)


def penalty_work(n: int, metric: str, dim: int, gradient: bool = True) -> Work:
    """Reads W, and reads and writes its gradient. Length 2 operations, |w| * length 3, sign, step and sum 3."""
    flops = n * n * (pair_flops(metric, dim) + 5 + 3 * gradient)
    return Work(4 * n * n * (1 + gradient), 4 * n * n * gradient, flops)


def adamw_work(n: int, metric: str, dim: int) -> Work:
    """Reads w, g, m, v and writes w, m, v. Length and charge 6 operations, cost 2, moments 7, step 7."""
    return Work(16 * n * n, 12 * n * n, n * n * (pair_flops(metric, dim) + 22))


def placement_work(n: int, metric: str, dim: int, weights: int = 2) -> Work:
    """Reads the weights and writes C. Separable metrics: eight operations a weight and axis; else distances, products.

    Two sums of each weight run over the peers (|w|, w * y, two additions), and each entry of C takes four operations.
    """
    separable = metric in ("l1", "sql2", "torus-l1")
    flops = weights * n * n * dim * 8 if separable else weights * n**3 * 2 + n * n * pair_flops(metric, dim)
    return Work(4 * n * n * weights, 4 * n * n, flops, result=4 * n * n)


def search_work(n: int, matrices: int = 1) -> Work:
    """Reads C (flow and distance too: three matrices). Three operations and two comparisons a pair and matrix."""
    return Work(4 * n * n * matrices, 0, n * n // 2 * 5 * matrices)


def contender(name: str, module: str | None = None) -> Callable:
    """Marks a method of a Row as one to time, under a name; left out where a module that it needs is missing."""

    def mark(method: Callable) -> Callable:
        method.contender = name if module is None or importlib.util.find_spec(module) else None
        return method

    return mark


class Row:
    """One line of the table.

    Attributes:
        name: of the row.
        tolerance: the error must stay below.
        rounds: how often each contender runs, interleaved.
        repeats: calls in a row that are timed as one, for short ones.
        every: contenders that run only every so many calls; that part of their time is added to ours.
    """

    name = ""
    tolerance = 1e-6
    rounds = 15
    repeats = 1
    every: dict[str, int] = {}  # noqa: RUF012
    fresh: Callable[[], None] | None = None  # called untimed before every run, for contenders that change their input

    def prepare(self) -> None:
        """Allocates what the contenders work on."""
        torch.manual_seed(0)

    def check(self) -> float:
        """Largest relative error of ours, against float64 where that is the truth."""
        raise NotImplementedError

    def work(self) -> Work | None:
        """The least work of ours, where a formula says it."""
        return None

    def contenders(self) -> dict[str, Callable[[], object]]:
        """name -> function to time, ours first."""
        members = [item for base in reversed(type(self).__mro__) for item in vars(base).items()]
        names = {key: value.contender for key, value in members if getattr(value, "contender", None)}
        return {name: getattr(self, key) for key, name in names.items()}


def layout_of(n: int, layout: str) -> Tensor:
    """Slots on a line ("1-D") or a grid of 2^k rows ("2-D")."""
    rows = 2 ** ((n.bit_length() - 1) // 2)
    return bf.geometry.line(n) if layout == "1-D" else bf.geometry.grid((rows, n // rows))


def worst(got: Tensor, truth: Tensor, scale: Tensor | None = None) -> float:
    """Largest difference, relative to the largest value of `scale`: of the truth, or of the costs it is made of."""
    return ((got.double() - truth).abs().max() / (truth if scale is None else scale).abs().max()).item()


class Penalty(Row):
    """Connection cost and its gradient, added in place, for one n x n weight; peers run forward and backward."""

    def __init__(self, n: int = 4096, layout: str = "1-D", metric: str = "l1") -> None:
        self.n, self.layout, self.metric, self.rounds = n, layout, metric, 5
        self.name = f"cost and gradient, {n} x {n}, {layout} {metric}"

    def prepare(self) -> None:
        super().prepare()
        self.w = torch.randn(self.n, self.n, requires_grad=True)
        self.w.grad = torch.zeros(self.n, self.n)
        self.slots = layout_of(self.n, self.layout)
        if self.metric == "poincare":
            self.slots = self.slots * 0.6

    def cost(self, weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
        return (weight.abs() * (BASE + SCALE * bf.geometry.distances(x, y, self.metric))).sum()

    def work(self) -> Work:
        return penalty_work(self.n, self.metric, self.slots.shape[1])

    def check(self) -> float:
        grad, truth = torch.zeros(self.n, self.n), torch.zeros(self.n, self.n, dtype=torch.float64)
        w = self.w.detach()
        got = bf.add_grad_(w, grad, self.slots, self.slots, metric=self.metric, **RECIPE)
        with bf.backend("reference"):
            cost = bf.add_grad_(w.double(), truth, self.slots, self.slots, metric=self.metric, **RECIPE)
        return max(worst(grad, truth), worst(got, cost))

    @contender("bimt_fast")
    def ours(self):
        bf.add_grad_(self.w.detach(), self.w.grad, self.slots, self.slots, metric=self.metric, **RECIPE)

    @contender("eager PyTorch")
    def eager(self):
        self.cost(self.w, self.slots, self.slots).backward()


class PenaltyTarget(Penalty):
    """The same with every peer of the target table."""

    def __init__(self, n: int = 4096, layout: str = "1-D") -> None:
        super().__init__(n, layout)
        self.rounds = 9

    @cached_property
    def lengths(self) -> Tensor:
        return BASE + SCALE * bf.geometry.distances(self.slots, self.slots, self.metric)

    @cached_property
    def compiled_cost(self) -> Callable:
        return torch.compile(self.cost)

    @cached_property
    def out(self) -> Tensor:
        return torch.empty(self.n, self.n)

    @contender("the same with cached distances")
    def eager_cached(self):
        (self.w.abs() * self.lengths).sum().backward()

    @contender("torch.compile")
    def compiled(self):
        self.compiled_cost(self.w, self.slots, self.slots).backward()

    @contender("torch.add(out=), as many bytes")
    def add(self):
        torch.add(self.w.detach(), self.w.grad, out=self.out)

    @contender("torch add_, in place, as many bytes")
    def add_in_place(self):
        self.w.grad.add_(self.w.detach(), alpha=1e-6)


class CostAlone(Penalty):
    """Connection cost without a gradient."""

    def __init__(self, n: int = 4096, layout: str = "1-D") -> None:
        super().__init__(n, layout)
        self.name = f"cost alone, {n} x {n}, {layout} l1"

    def work(self) -> Work:
        return penalty_work(self.n, self.metric, self.slots.shape[1], gradient=False)

    def ours(self):
        return bf.connection_cost(self.w.detach(), self.slots, self.slots, **RECIPE)

    def eager(self):
        return self.cost(self.w.detach(), self.slots, self.slots)

    def check(self) -> float:
        with bf.backend("reference"):
            truth = bf.connection_cost(self.w.detach().double(), self.slots, self.slots, **RECIPE)
        return worst(self.ours(), truth)


class AdamW(Row):
    """One AdamW step with the penalty in it, for one n x n weight, against torch's step without."""

    rounds = 25

    def __init__(self, n: int = 4096, layout: str = "1-D") -> None:
        self.n, self.layout = n, layout
        self.name = f"AdamW step, {n} x {n}, {layout}"

    def prepare(self) -> None:
        super().prepare()
        n, self.slots = self.n, layout_of(self.n, self.layout)
        self.model = torch.nn.Linear(n, n, bias=False)
        self.model.weight.grad = torch.randn(n, n)
        wiring = bf.Wiring(self.model, {"in": self.slots, "out": self.slots}, {"weight": ("out", "in")})
        self.optimizer = bf.optim.AdamW(wiring, lam=1e-3)

    def work(self) -> Work:
        return adamw_work(self.n, "l1", self.slots.shape[1])

    def check(self) -> float:
        small = torch.nn.Linear(96, 64, bias=False)
        small.weight.grad = torch.randn(64, 96)
        truth = copy.deepcopy(small).double()
        truth.weight.grad = small.weight.grad.double()
        for network, backend in ((small, "cpu"), (truth, "reference")):
            positions = {"in": layout_of(96, self.layout), "out": layout_of(64, self.layout)}
            optimizer = bf.optim.AdamW(bf.Wiring(network, positions, {"weight": ("out", "in")}), lam=1e-3)
            with bf.backend(backend):
                optimizer.step()
        return worst(small.weight.detach(), truth.weight.detach())

    @cached_property
    def peer(self) -> torch.optim.Optimizer:
        peer = copy.deepcopy(self.model)
        peer.weight.grad = self.model.weight.grad
        return torch.optim.AdamW(peer.parameters(), weight_decay=0.0, fused=True)

    @contender("bimt_fast.optim.AdamW, penalty included")
    def ours(self):
        self.optimizer.step()

    @contender("torch.optim.AdamW(fused=True), no penalty")
    def theirs(self):
        self.peer.step()


class Layer(Row):
    """A group of n neurons with one incoming and one outgoing n x n weight."""

    kind = ""

    def __init__(self, n: int, layout: str, metric: str = "l1") -> None:
        self.n, self.layout, self.metric = n, layout, metric
        self.name = f"{self.kind}, n = m = {n}, {layout} {metric}"

    def prepare(self) -> None:
        super().prepare()
        self.w, self.v = torch.randn(self.n, self.n), torch.randn(self.n, self.n)
        self.slots = layout_of(self.n, self.layout)

    @property
    def sides(self) -> dict:
        return {"incoming": [(self.w, self.slots)], "outgoing": [(self.v, self.slots)], "metric": self.metric}

    def truth(self) -> Tensor:
        distances = bf.geometry.distances(self.slots.double(), self.slots.double(), self.metric)
        return self.w.double().abs() @ distances.T + self.v.double().abs().T @ distances


class Placement(Layer):
    """What every neuron would cost in every slot."""

    kind = "placement cost"

    def work(self) -> Work:
        return placement_work(self.n, self.metric, self.slots.shape[1])

    def check(self) -> float:
        return worst(self.ours(), self.truth())

    @contender("bimt_fast")
    def ours(self):
        return bf.placement_cost(self.slots, **self.sides)


class PlacementAndProducts(Placement):
    """The same with the two matrix products that PyTorch needs for it."""

    rounds = 5

    @cached_property
    def distances(self) -> Tensor:
        return bf.geometry.distances(self.slots, self.slots, self.metric)

    @contender("two matrix products alone")
    def products(self):
        return self.w.abs() @ self.distances.T + self.v.abs().T @ self.distances


class PlacementAndPeers(PlacementAndProducts):
    """The same with SciPy's distances and NumPy's products too."""

    @contender("SciPy cdist, NumPy products", module="scipy")
    def with_scipy(self):
        from scipy.spatial.distance import cdist

        slots, w, v = (x.numpy() for x in (self.slots, self.w, self.v))
        distances = cdist(slots, slots, "cityblock").astype(w.dtype)
        return abs(w) @ distances.T + abs(v).T @ distances


class Swaps(PlacementAndProducts):
    """All n^2 swap deltas and every best partner."""

    kind = "all swap deltas, best partners"

    def work(self) -> Work:
        return super().work() + search_work(self.n)

    def check(self) -> float:
        cost, (delta, partner) = self.ours()
        with bf.backend("reference"):
            best, _ = bf.best_swaps(cost)
            taken = bf.swap_deltas(cost).gather(1, partner[:, None]).squeeze(1)
        off = max((best - delta).abs().max().item(), (taken - delta).abs().max().item())
        return max(worst(cost, self.truth()), off / cost.abs().max().item())

    def ours(self):
        cost = super().ours()
        return cost, bf.best_swaps(cost)


class BestSwaps(Row):
    """Every neuron's best partner on a given placement cost."""

    def __init__(self, n: int = 4096) -> None:
        self.n = n
        self.name = f"best swaps on a matrix, n = {n}"

    def prepare(self) -> None:
        super().prepare()
        self.cost = torch.rand(self.n, self.n).T  # columns contiguous, as placement_cost returns it

    def work(self) -> Work:
        return search_work(self.n)

    def check(self) -> float:
        with bf.backend("reference"):
            truth, _ = bf.best_swaps(self.cost.double())
        return worst(self.ours()[0], truth)

    @contender("bimt_fast")
    def ours(self):
        return bf.best_swaps(self.cost)

    @contender("PyTorch: deltas, then min")
    def eager(self):
        home = self.cost.diagonal()
        return ((self.cost + self.cost.T) - (home[:, None] + home)).min(1)


class MatrixFree(Layer):
    """Every best partner from the weights, without an n x n matrix, through a wiring."""

    kind = "matrix-free best swaps"
    rounds = 7

    def prepare(self) -> None:
        super().prepare()
        model = torch.nn.Sequential(*(torch.nn.Linear(self.n, self.n, bias=False, device="meta") for _ in range(2)))
        model[0].weight, model[1].weight = torch.nn.Parameter(self.w), torch.nn.Parameter(self.v)
        places = dict.fromkeys(("in", "hidden", "out"), self.slots)
        axes = {"0.weight": ("hidden", "in"), "1.weight": ("out", "hidden")}
        self.wiring = bf.Wiring(model, places, axes, metric=self.metric)
        self.out = torch.empty(self.n, self.n)

    def work(self) -> Work:
        placed, searched = placement_work(self.n, self.metric, self.slots.shape[1]), search_work(self.n)
        return Work(placed.read, 0, placed.flops + searched.flops)

    def check(self) -> float:
        cost = self.truth()
        with bf.backend("reference"):
            truth, _ = bf.best_swaps(cost)
        return worst(self.ours()[0], truth, cost)

    @contender("bimt_fast")
    def ours(self):
        return self.wiring.best_swaps("hidden")

    def with_matrix(self):
        return bf.best_swaps(bf.placement_cost(self.slots, **self.sides))

    @contender("torch.add(out=) on n x n")
    def add(self):
        torch.add(self.w, self.v, out=self.out)


class RecurrentSwaps(Row):
    """All n^2 swap deltas and every best partner of a recurrent group, whose pairs need the quadratic correction."""

    rounds = 5

    def __init__(self, n: int = 4096, layout: str = "2-D") -> None:
        self.n, self.layout = n, layout
        self.name = f"recurrent swap deltas, best partners, n = {n}, {layout}"

    def prepare(self) -> None:
        super().prepare()
        self.w, self.slots = torch.randn(self.n, self.n), layout_of(self.n, self.layout)
        self.distance = bf.geometry.distances(self.slots, self.slots)

    def work(self) -> Work:
        """As for a weight on each side, and a search of three matrices, though all weights here are one."""
        return placement_work(self.n, "l1", self.slots.shape[1]) + search_work(self.n, matrices=3)

    def check(self) -> float:
        flow, distance = self.w.double().abs(), bf.geometry.distances(self.slots.double(), self.slots.double())
        cost = flow @ distance.T + flow.T @ distance
        with bf.backend("reference"):
            truth, _ = bf.best_swaps(cost, flow=flow, distance=distance)
        return worst(self.ours()[0], truth, cost)

    @contender("bimt_fast")
    def ours(self):
        cost = bf.placement_cost(self.slots, incoming=[(self.w, self.slots)], outgoing=[(self.w, self.slots)])
        return bf.best_swaps(cost, flow=self.w.abs(), distance=self.distance)

    @contender("two matrix products alone")
    def products(self):
        flow = self.w.abs()
        return flow @ self.distance.T + flow.T @ self.distance

    @contender("PyTorch: products, deltas, then min")
    def eager(self):
        flow = self.w.abs()
        cost = flow @ self.distance.T + flow.T @ self.distance
        return (self.swap_form(cost) + self.swap_form(flow) * self.swap_form(self.distance)).min(1)

    @staticmethod
    def swap_form(x: Tensor) -> Tensor:
        home = x.diagonal()
        return (x + x.T) - (home[:, None] + home)


class Search(Row):
    """A local search on a placement cost against exact solvers of the same assignment; the error is the gap."""

    rounds = 3
    tolerance = 1e-3

    def __init__(self, n: int = 1024) -> None:
        self.n = n
        self.name = f"assignment of n = {n} on a placement cost, error: gap to the optimum"

    def prepare(self) -> None:
        super().prepare()
        slots = layout_of(self.n, "1-D")
        w, v = torch.randn(self.n, self.n).mul_(torch.rand(self.n, self.n) < 0.05), torch.randn(self.n, self.n)
        self.cost = bf.placement_cost(slots, incoming=[(w, slots)], outgoing=[(v, slots)])
        self.matrix = self.cost.contiguous().numpy()

    def check(self) -> float:
        found, _ = self.ours()
        exact = search.assigned_cost(self.cost, search.linear_assignment(self.cost))
        return (search.assigned_cost(self.cost, found) - exact) / exact

    @contender("bimt_fast, matching")
    def ours(self):
        return search.matching(self.cost, torch.arange(self.n))

    @contender("SciPy linear_sum_assignment", module="scipy")
    def scipy(self):
        from scipy.optimize import linear_sum_assignment

        return linear_sum_assignment(self.matrix)

    @contender("lapx lapjv", module="lap")
    def lapx(self):
        from lap import lapjv

        return lapjv(self.matrix)


class ExactAssignment(Search):
    """The cheapest assignment; the error is how far its cost is from SciPy's."""

    rounds, tolerance = 1, 1e-9

    def __init__(self, n: int = 2048) -> None:
        super().__init__(n)
        self.name = f"exact assignment of n = {n} on a placement cost"

    def check(self) -> float:
        mine, theirs = self.ours(), torch.as_tensor(self.scipy()[1])
        costs = [search.assigned_cost(self.cost, found) for found in (mine, theirs)]
        return abs(costs[0] - costs[1]) / costs[1]

    @contender("bimt_fast")
    def ours(self):
        return search.linear_assignment(self.cost)


class QuadraticAssignment(Row):
    """sko100a of QAPLIB by many starts of 2-opt, against SciPy's searches; the error is how far above SciPy's ours is.

    Costs stand in the names of the contenders, after the check.
    """

    name, tolerance, rounds = "quadratic assignment, sko100a of QAPLIB, 2-opt", 0.0, 1

    def prepare(self) -> None:
        path = Path(os.environ.get("BIMT_FAST_DATA", "../shared/data")) / "qaplib" / "sko100a.dat"
        if not path.exists():
            raise NotImplementedError(f"needs {path}")
        n, *numbers = map(int, path.read_text().split())
        self.flow, self.distance = (torch.tensor(numbers[k * n * n :][: n * n]).view(n, n) for k in (0, 1))

    def check(self) -> float:
        """SciPy's 2-opt with its own default start, the first of a generator seeded with 0."""
        self.costs = {"ours": self.ours().cost, "2opt": self.by_scipy("2opt").fun, "faq": self.by_scipy("faq").fun}
        print("  costs (best known 152002): " + ", ".join(f"{name} {cost:.0f}" for name, cost in self.costs.items()))
        return self.costs["ours"] / min(self.costs["2opt"], 1.017 * 152002) - 1

    def by_scipy(self, method: str):
        from scipy.optimize import quadratic_assignment

        options = {"rng": np.random.default_rng(0)}
        return quadratic_assignment(self.flow.numpy(), self.distance.numpy(), method=method, options=options)

    @contender("bimt_fast, 2-opt from 20 starts")
    def ours(self):
        return bf.quadratic_assignment(self.flow, self.distance, strategy="matching", starts=20)

    @contender('SciPy, method="2opt"', "scipy")
    def two_opt(self):
        return self.by_scipy("2opt")

    @contender('SciPy, method="faq"', "scipy")
    def faq(self):
        return self.by_scipy("faq")


class Relocation(Row):
    """One relocation of the published MNIST network, 784-100-100-10, top_k 30; the pixel layer never moves."""

    name = "one relocation, 784-100-100-10, top_k 30"
    rounds = 2
    tolerance = 1e-5

    def prepare(self) -> None:
        super().prepare()
        positions = {
            "in": bf.geometry.grid((28, 28)),
            "h1": bf.geometry.grid((10, 10)),
            "h2": bf.geometry.grid((10, 10)),
            "out": bf.geometry.ring(10, offset=0.5),
        }
        scale = {"layers.2.weight": 0.0, None: 2.0}
        options = {"frozen": ["in"], "base_length": 0.5, "distance_scale": scale, "reduction": "mean"}
        self.model = bf.nn.BioMLP((784, 100, 100, 10), positions=positions, **options)

    def fresh(self) -> None:
        self.wiring = copy.deepcopy(self.model.wiring)
        self.optimizer = torch.optim.AdamW(self.wiring.model.parameters())
        self.wiring.cost()  # as in training, where steps come before

    def check(self) -> float:
        costs = []
        for relocate in (self.ours, self.theirs):
            self.fresh()
            relocate()
            costs.append(self.wiring.cost())
        return worst(*costs)

    @contender("bimt_fast")
    def ours(self):
        return self.wiring.relocate("greedy", top_k=30, optimizer=self.optimizer)

    @contender("published loop, pixel layer left out")
    def theirs(self):
        return published.relocate(self.wiring, 30)


class WideTraining(Row):
    """One training step of 784-4096-4096-10, batch 256, with penalty and relocations, against the step without.

    The relocation is BIMT's, timed by itself.
    """

    name = "training step, 784-4096-4096-10, batch 256, relocation every 200 steps"
    rounds = 7
    relocation = "one relocation, greedy, top_k 30"
    every = {relocation: 200}  # noqa: RUF012

    def prepare(self) -> None:
        super().prepare()
        positions = {"in": bf.geometry.grid((28, 28)), "out": bf.geometry.ring(10, offset=0.5)}
        positions |= dict.fromkeys(("h1", "h2"), layout_of(4096, "2-D"))
        self.model = bf.nn.BioMLP((784, 4096, 4096, 10), positions=positions, frozen=["in"])
        self.peer = copy.deepcopy(self.model)
        self.x, self.y = torch.rand(256, 784), torch.randint(10, (256,))
        self.optimizer = bf.optim.AdamW(self.model.wiring, lam=1e-5)
        self.fused = torch.optim.AdamW(self.peer.parameters(), weight_decay=0.0, fused=True)

    def step(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(self.x), self.y).backward()
        optimizer.step()

    def check(self) -> float:
        """With lam 0 both are one and the same step."""
        ours, theirs = copy.deepcopy(self.model), copy.deepcopy(self.model)
        self.step(ours, bf.optim.AdamW(ours.wiring, lam=0.0))
        self.step(theirs, torch.optim.AdamW(theirs.parameters(), weight_decay=0.0))
        got, truth = ours.layers[1].weight.detach(), theirs.layers[1].weight.detach()
        return worst(got, truth.double())

    @contender("bimt_fast.optim.AdamW, penalty included")
    def ours(self):
        self.step(self.model, self.optimizer)

    @contender("torch.optim.AdamW(fused=True), no penalty")
    def theirs(self):
        self.step(self.peer, self.fused)

    @contender(relocation)
    def relocate(self):
        self.model.wiring.relocate("greedy", top_k=30)


class BrainTraining(Row):
    """One optimizer step of the brain: 32 sequences of 100 steps made anew, 400 neurons, penalty; swaps added."""

    tolerance = 1e-4
    rounds = 7

    def __init__(self) -> None:
        self.name = "training step of the brain, 400 neurons, 32 sequences of 100 steps, with the penalty and matching"

    def prepare(self) -> None:
        super().prepare()
        task = TASKS["brain"]
        self.every = {"relocation, every 200 steps": task.preset.swap_every}
        self.model = task.make_model(task.preset)
        torch.nn.init.normal_(self.model.recurrent.weight, std=0.03)
        self.optimizer = bf.optim.AdamW(self.model.wiring, lr=1e-3, lam=1e-4)
        self.loss = _run.task_loss(task, None, task.preset.batch)
        self.twin = copy.deepcopy(self.model)
        self.plain = torch.optim.Adam(self.twin.parameters(), lr=1e-3)
        self.x, _ = task.make_batch(task.preset.batch)

    def check(self) -> float:
        """Gradients of a fixed batch against the plain loop in float64."""
        ours, truth = copy.deepcopy(self.model).eval(), copy.deepcopy(self.model).double().eval()
        ours(self.x).square().mean().backward()
        _plain_loop(truth, self.x.double()).square().mean().backward()
        pairs = zip(ours.parameters(), truth.parameters(), strict=True)
        return max(worst(p.grad, q.grad) for p, q in pairs)

    @contender("bimt_fast")
    def ours(self) -> None:
        self._step(self.model, self.loss(self.model), self.optimizer.update)

    @contender("a plain loop under autograd, torch's Adam, no penalty, no swaps")
    def autograd(self) -> None:
        x, y = TASKS["brain"].make_batch(TASKS["brain"].preset.batch)
        self._step(self.twin, TASKS["brain"].loss(_plain_loop(self.twin, x), y), self.plain.step)

    @contender("the batch alone")
    def batch(self) -> None:
        TASKS["brain"].make_batch(TASKS["brain"].preset.batch)

    @contender("AdamW step with the penalty alone")
    def update(self) -> None:
        self.optimizer.update()

    @contender("relocation, every 200 steps")
    def relocate(self) -> None:
        order = torch.randperm(400)
        self.model.wiring.permute_("h", order)
        self.model.wiring.relocate("matching")

    @staticmethod
    def _step(model: torch.nn.Module, loss: Tensor, update: Callable[[], object]) -> None:
        for p in model.parameters():
            p.grad = None
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        update()


def _plain_loop(model: torch.nn.Module, x: Tensor) -> Tensor:
    drive = model.input(x)
    if model.training:
        drive = drive + model.noise * 2**0.5 * torch.randn_like(drive)
    state, states = torch.zeros_like(drive[0]), []
    for step in drive:
        state = torch.relu(step + model.recurrent(state))
        states.append(state)
    return model.readout(torch.stack(states))


class SmallCalls(Row):
    """Overhead of a call where there is next to nothing to compute, mean of `repeats` calls."""

    rounds = 25
    repeats = 100

    def prepare(self) -> None:
        super().prepare()
        self.model = bf.nn.BioMLP((4, 20, 20, 2))
        for p in self.model.parameters():
            p.grad = torch.randn_like(p)

    def gradients(self, add: Callable[[], object]) -> list[Tensor]:
        """What a contender adds to every gradient."""
        before = [p.grad.clone() for p in self.model.parameters()]
        add()
        return [p.grad - old for p, old in zip(self.model.parameters(), before, strict=True)]


class AddGradCall(SmallCalls):
    """bf.add_grad_ on one 20 x 20 weight."""

    name = "one call: add_grad_, 20 x 20"

    def prepare(self) -> None:
        super().prepare()
        self.w, self.slots = self.model.layers[1].weight, bf.geometry.line(20)

    def check(self) -> float:
        (got, truth) = (self.gradients(add)[2] for add in (self.ours, self.eager))
        return worst(got, truth.double())

    @contender("bimt_fast.add_grad_")
    def ours(self):
        bf.add_grad_(self.w.detach(), self.w.grad, self.slots, self.slots, **RECIPE)

    @contender("eager PyTorch, forward and backward")
    def eager(self):
        (self.w.abs() * (BASE + SCALE * (self.slots - self.slots.T).abs())).sum().backward()

    @contender("a torch built-in: w.grad.add_(w)")
    def built_in(self):
        self.w.grad.add_(self.w.detach())


class WiringCall(SmallCalls):
    """wiring.add_grad_ on a whole small network."""

    name = "one call: wiring.add_grad_, 4-20-20-2"

    def check(self) -> float:
        got, truth = (torch.cat([g.flatten() for g in self.gradients(add)]) for add in (self.ours, self.eager))
        return worst(got, truth.double())

    @contender("wiring.add_grad_")
    def ours(self):
        self.model.wiring.add_grad_(1.0)

    @contender("eager PyTorch, forward and backward")
    def eager(self):
        published.cost(self.model.wiring).backward()


class OptimizerCall(SmallCalls):
    """The optimizer's step of a whole small network."""

    name = "one call: optimizer step, 4-20-20-2"

    def prepare(self) -> None:
        super().prepare()
        self.optimizer = bf.optim.AdamW(self.model.wiring, lam=1e-3)
        self.peers = {}
        for kind in ("fused", "foreach"):
            peer = copy.deepcopy(self.model)
            for p in peer.parameters():
                p.grad = torch.randn_like(p)
            self.peers[kind] = torch.optim.AdamW(peer.parameters(), weight_decay=0.0, **{kind: True})

    def check(self) -> float:
        ours, theirs = (copy.deepcopy(self.model) for _ in range(2))
        for model, optimizer in (
            (ours, bf.optim.AdamW(ours.wiring, lam=0.0)),
            (theirs, torch.optim.AdamW(theirs.parameters(), weight_decay=0.0)),
        ):
            for p, like in zip(model.parameters(), self.model.parameters(), strict=True):
                p.grad = like.grad
            optimizer.step()
        return worst(ours.layers[1].weight.detach(), theirs.layers[1].weight.detach().double())

    @contender("bimt_fast.optim.AdamW, penalty included")
    def ours(self):
        self.optimizer.step()

    @contender("torch.optim.AdamW(fused=True)")
    def fused(self):
        self.peers["fused"].step()

    @contender("torch.optim.AdamW(foreach=True)")
    def foreach(self):
        self.peers["foreach"].step()


class SmallTraining(Row):
    """600 steps of 4-20-20-2 with three relocations, all overheads included, against the published loop."""

    name = "training 4-20-20-2, 600 steps, 3 relocations"
    rounds = 5
    tolerance = 0.02

    def prepare(self) -> None:
        self.task = TASKS["products"]
        self.preset = dataclasses.replace(self.task.preset, steps=600)
        self.data = self.task.make_data(0)

    def model(self) -> torch.nn.Module:
        torch.manual_seed(0)
        return self.task.make_model(self.preset)

    def loss(self, model: torch.nn.Module) -> Tensor:
        return self.task.loss(model(self.data.train_x), self.data.train_y)

    def check(self) -> float:
        """The losses are alike, not equal: moments follow only in ours."""
        return abs(self.loss(self.ours()).item() - self.loss(self.theirs()).item())

    @contender("bimt_fast")
    def ours(self):
        model = self.model()
        train(model, model.wiring, self.loss, self.preset)
        return model

    @contender("published loop")
    def theirs(self):
        model, preset = self.model(), self.preset
        optimizer = torch.optim.AdamW(model.parameters(), lr=preset.lr, weight_decay=0.0)
        for step in range(preset.steps):
            optimizer.zero_grad()
            fraction = step / preset.steps
            cost = published.cost(model.wiring, bias=value_at(preset.bias, fraction))
            (self.loss(model) + value_at(preset.lam, fraction) * cost).backward()
            optimizer.step()
            if (step + 1) % preset.swap_every == 0:
                published.relocate(model.wiring, preset.top_k)
        return model


def all_rows() -> list[Row]:
    """Every row, none of them prepared."""
    return [
        PenaltyTarget(4096, "1-D"),
        PenaltyTarget(4096, "2-D"),
        *(Penalty(4096, "2-D", metric) for metric in ("l2", "torus-l1", "poincare")),
        CostAlone(4096, "1-D"),
        AdamW(4096, "1-D"),
        AdamW(4096, "2-D"),
        PlacementAndPeers(1024, "2-D"),
        Placement(4096, "1-D"),
        Placement(4096, "2-D"),
        PlacementAndProducts(2048, "2-D", "l2"),
        BestSwaps(4096),
        Swaps(1024, "1-D"),
        Swaps(1024, "2-D"),
        Swaps(4096, "1-D"),
        Swaps(4096, "2-D"),
        MatrixFree(4096, "1-D"),
        MatrixFree(4096, "2-D"),
        RecurrentSwaps(4096, "2-D"),
        Search(1024),
        ExactAssignment(2048),
        QuadraticAssignment(),
        Relocation(),
        WideTraining(),
        BrainTraining(),
        AddGradCall(),
        WiringCall(),
        OptimizerCall(),
        SmallTraining(),
    ]

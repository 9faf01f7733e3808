"""Quadratic assignment: neurons with flows between them to slots with distances between those. Knows no model.

minimise sum_i linear[i, a[i]] + sum_ij flow[i, j] * distance[a[i], a[j]] over permutations a (Koopmans and Beckmann
1957). A recurrent group is such a problem, with |W| for the flow.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import ops
from .backends import host_kernels

Matrix = Tensor | np.ndarray

STRATEGIES = ("greedy", "matching", "tabu")
_SLICE = 0.05  # seconds between two looks at Ctrl-C
_SMALLEST = 8  # members of the first population of a start: as many walks run side by side
_LARGEST = 64  # members, up to which each population that follows one given up has twice as many
_SHORTEST = 8  # times n: iterations of a walk while the population makes progress
_LENGTHEN = 4  # rounds without progress, after which walks get twice as long
_PATIENCE = 20  # and after so many the population is given up
_FAR = 2**30  # iterations that no walk comes to


@dataclass
class QuadraticAssignment:
    """What quadratic_assignment found: total cost, (n,) int64 slot of every neuron, swaps tried or done, seconds."""

    cost: float
    assignment: Tensor
    iterations: int
    seconds: float


def quadratic_assignment(
    flow: Matrix,
    distance: Matrix,
    *,
    strategy: str = "tabu",
    assignment: Matrix | None = None,
    starts: int = 1,
    max_iterations: int | None = None,
    time_limit: float | None = None,
    seed: int = 0,
) -> QuadraticAssignment:
    """A permutation a with a small sum flow[i, j] * distance[a[i], a[j]]; any matrices, also without symmetry.

    Integers are added exactly, where the sums stay below 2^53. Results depend on the seed and not on the number of
    threads; a time limit cuts the sequence that the seed fixes short, and the best so far is kept.

    Args:
        flow: (n, n), tensor or NumPy array of any real dtype.
        distance: (n, n) likewise, by slot.
        strategy: "greedy": every neuron, those with the largest flows first, takes its best swap, once;
            "matching": the best of all swaps again and again until none improves (2-opt);
            "tabu": robust tabu search (Taillard 1991) from a population of assignments that learn from each other.
        assignment: (n,) integers, the slot of each neuron where the first start begins; None: random. Other starts
            are random.
        starts: independent searches; the best result is returned.
        max_iterations: of each start, at most; None: without limit where there is a time limit, else 1000 * n.
        time_limit: seconds, for all together.
        seed: of everything random.

    Returns:
        .cost in float64, .assignment (n,) int64 on flow's device, .iterations of all starts, .seconds.

    Raises:
        TypeError: a matrix is not real, or another argument of the wrong type.
        ValueError: not square, not of one size, NaN or infinity, no permutation, a number out of range.
    """
    began = time.monotonic()
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, was {strategy!r}")
    flow, distance = _matrix("flow", flow), _matrix("distance", distance)
    ops.check_shape("distance", distance, *flow.shape)
    starts, seed = ops.check_integer("starts", starts, 1), ops.check_integer("seed", seed, 0)
    if max_iterations is not None:
        max_iterations = ops.check_integer("max_iterations", max_iterations, 0)
    deadline = float("inf")
    if time_limit is not None:
        deadline = began + ops.check_number("time_limit", time_limit, 0.0)
    n, device = flow.shape[0], flow.device
    if max_iterations is None and time_limit is None:
        max_iterations = 1000 * n
    given = None if assignment is None else _permutation(assignment, n)
    problem = Problem(flow.cpu(), distance.cpu())
    best, iterations = search(problem, strategy, given, starts, max_iterations, deadline, seed)
    return QuadraticAssignment(problem.cost(best), best.to(device), iterations, time.monotonic() - began)


def _matrix(name: str, matrix: Matrix) -> Tensor:
    """Square and finite, in float64."""
    if isinstance(matrix, np.ndarray):
        if matrix.dtype.kind not in "biuf":
            raise TypeError(f"{name} must be real numbers, was {matrix.dtype}")
        matrix = torch.from_numpy(np.array(matrix, dtype=np.float64))
    if not isinstance(matrix, Tensor):
        raise TypeError(f"{name} must be a tensor or a NumPy array, was {type(matrix).__name__}")
    if matrix.is_complex() or matrix.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor of real numbers, was {matrix.dtype}, {matrix.layout}")
    if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
        raise ValueError(f"{name} must have shape (n, n), was {tuple(matrix.shape)}")
    matrix = matrix.detach().double()
    if not matrix.isfinite().all():
        raise ValueError(f"{name} must be finite, held NaN or infinity")
    return matrix


def _permutation(assignment: Matrix, n: int) -> Tensor:
    if isinstance(assignment, np.ndarray) and assignment.dtype.kind in "iu":
        assignment = torch.from_numpy(assignment.astype(np.int64))
    ops.check_assignment("assignment", assignment, n)
    ops.check_permutation("assignment", assignment)
    return assignment.cpu()


class Problem:
    """Matrices (n, n) in float64 on the CPU, and in the form that the walks of the kernels take.

    In NumPy: on small matrices torch's own threads would cost more than the search.
    """

    def __init__(self, flow: Tensor, distance: Tensor, linear: Tensor | None = None) -> None:
        self.flow, self.distance = flow.numpy(), distance.numpy()
        self.linear = None if linear is None else linear.numpy()
        self.n = len(self.flow)
        costs = np.outer(self.flow.diagonal(), self.distance.diagonal())
        costs = costs if self.linear is None else costs + self.linear
        flow, distance = self.flow.copy(), self.distance.copy()
        np.fill_diagonal(flow, 0)
        np.fill_diagonal(distance, 0)
        # Where one matrix is symmetric, only what the other has in both directions together matters.
        self.symmetric = True
        if np.array_equal(distance, distance.T):
            flow = flow + flow.T
        elif np.array_equal(flow, flow.T):
            distance = distance + distance.T
        else:
            self.symmetric = False
        bound = 16 * _largest_change(flow, distance, costs)
        integral = all(np.array_equal(x, np.rint(x)) for x in (flow, distance, costs))
        self.least = 0.0 if integral and bound < 2**53 else 1e-14 * bound
        dtype = torch.int32 if integral and bound < 2**31 else torch.float64
        needed = (flow, distance, costs if costs.any() else None)
        self.walked = tuple(None if x is None else torch.from_numpy(x).to(dtype) for x in needed)

    def cost(self, assignment: Tensor) -> float:
        a = assignment.numpy()
        total = (self.flow * self.distance[np.ix_(a, a)]).sum()
        return float(total if self.linear is None else total + self.linear[np.arange(self.n), a].sum())


def _largest_change(flow: np.ndarray, distance: np.ndarray, linear: np.ndarray) -> float:
    """More than any neuron can cost anywhere."""
    if not flow.size:
        return 0.0
    flow, distance = np.abs(flow), np.abs(distance)
    row, other_row = (max(x.sum(0).max(), x.sum(1).max()) for x in (flow, distance))
    return min(row * distance.max(), other_row * flow.max()) + np.abs(linear).max()


def search(
    problem: Problem,
    strategy: str,
    assignment: Tensor | None,
    starts: int,
    max_iterations: int | None,
    deadline: float,
    seed: int,
) -> tuple[Tensor, int]:
    """The best assignment found, and the iterations of all starts."""
    random = np.random.default_rng(seed)
    begin = torch.from_numpy(random.permuted(np.tile(np.arange(problem.n), (starts, 1)), axis=1))
    if assignment is not None:
        begin[0] = assignment
    if problem.n < 2:
        return begin[0], 0
    if strategy == "tabu":
        return _tabu(problem, begin, assignment is not None, seed, max_iterations, deadline)
    if strategy == "greedy":
        return _greedy(problem, begin, max_iterations, deadline)
    walks = Walks(problem, begin, [0] * starts)
    walks.run([_FAR if max_iterations is None else min(max_iterations, _FAR)] * starts, False, deadline)
    return walks.best(), walks.iterations


class Walks:
    """Walks of the kernels from several assignments, and what they found."""

    def __init__(self, problem: Problem, assignments: Tensor, seeds: Sequence[int]) -> None:
        self.problem = problem
        self.found = assignments.clone(memory_format=torch.contiguous_format)
        self.costs = np.full(len(assignments), np.inf)
        self.seeds = torch.tensor(seeds, dtype=torch.int64)
        self.iterations = 0

    def run(self, limits: list[int], tabu: bool, deadline: float) -> None:
        """At most so many iterations each; afterwards `found` and `costs` are the best of each walk."""
        problem, count = self.problem, len(self.found)
        backend = host_kernels()
        memory = backend.quadratic_memory(problem.n, problem.walked[0].dtype, min(count, torch.get_num_threads()))
        done = torch.zeros(count, dtype=torch.int64)
        results = (self.found, self.seeds, torch.tensor(limits), torch.from_numpy(self.costs), done, memory)
        settings = (tabu, problem.symmetric, problem.least)
        while not backend.quadratic_ended(memory, count) and (left := deadline - time.monotonic()) > 0:
            backend.quadratic_walks(*problem.walked, *results, *settings, min(left, _SLICE))
        self.iterations += int(done.sum())

    def best(self) -> Tensor:
        return self.found[int(self.costs.argmin())]


def _greedy(problem: Problem, begin: Tensor, max_iterations: int | None, deadline: float) -> tuple[Tensor, int]:
    """One pass over the neurons, those with the largest flows first; each takes its best swap."""
    flow = np.abs(problem.flow)
    order = np.argsort(-(flow.sum(0) + flow.sum(1)), kind="stable")[:max_iterations].tolist()
    ends, visits = [], 0
    for start in begin:
        placed = Placed(problem, start)
        for r in order:
            if time.monotonic() >= deadline:
                break
            placed.take_best_swap(r)
            visits += 1
        ends.append(torch.from_numpy(placed.slot))
    return min(ends, key=problem.cost), visits


class Placed:
    """An assignment and what every neuron costs where it is; in NumPy, whose calls on short rows are fast."""

    def __init__(self, problem: Problem, slot: Tensor) -> None:
        self.flow, self.linear, self.slot = problem.flow, problem.linear, slot.numpy().copy()
        self.distance = problem.distance[np.ix_(self.slot, self.slot)]
        flow, distance = self.flow, self.distance
        self.own = np.einsum("ij,ij->i", flow, distance) + np.einsum("ji,ji->i", flow, distance)
        if self.linear is not None:
            self.own += self.linear[np.arange(len(slot)), self.slot]

    def take_best_swap(self, r: int) -> bool:
        """Whether one was taken."""
        flow, distance = self.flow, self.distance
        there = distance @ flow[r] + distance.T @ flow[:, r]  # what r costs at the place of every other
        here = flow @ distance[r] + flow.T @ distance[:, r]
        if self.linear is not None:
            there += self.linear[r, self.slot]
            here += self.linear[:, self.slot[r]]
        pair = _form_row(flow, r) * _form_row(distance, r)
        delta = there + here - (self.own + self.own[r]) + pair
        delta[r] = 0
        s = int(delta.argmin())
        if s != r:
            self._swap(r, s)
        return s != r

    def _swap(self, u: int, v: int) -> None:
        flow, distance = self.flow, self.distance
        self.own += (flow[u] - flow[v]) * (distance[v] - distance[u])
        self.own += (flow[:, u] - flow[:, v]) * (distance[:, v] - distance[:, u])
        both, other = [u, v], [v, u]
        distance[both] = distance[other]
        distance[:, both] = distance[:, other]
        self.slot[both] = self.slot[other]
        for i in both:
            self.own[i] = flow[i] @ distance[i] + flow[:, i] @ distance[:, i]
            if self.linear is not None:
                self.own[i] += self.linear[i, self.slot[i]]


def _form_row(x: np.ndarray, r: int) -> np.ndarray:
    return (x[r] + x[:, r]) - (x.diagonal() + x[r, r])


def _tabu(
    problem: Problem,
    begin: Tensor,
    given: bool,
    seed: int,
    max_iterations: int | None,
    deadline: float,
) -> tuple[Tensor, int]:
    """Every start keeps a population; in each round all its members walk, side by side."""
    limit = float("inf") if max_iterations is None else max_iterations
    crews = [_Crew(a, given and k == 0, limit, np.random.default_rng([seed, k])) for k, a in enumerate(begin)]
    iterations, best, best_cost = 0, begin[0], problem.cost(begin[0])
    while (crews := [crew for crew in crews if crew.left]) and time.monotonic() < deadline:
        limits = [crew.plan() for crew in crews]
        offspring = torch.cat([crew.offspring(len(mine)) for crew, mine in zip(crews, limits, strict=True)])
        seeds = [s for crew, mine in zip(crews, limits, strict=True) for s in crew.seeds(len(mine))]
        walks = Walks(problem, offspring, seeds)
        walks.run([steps for mine in limits for steps in mine], True, deadline)
        iterations += walks.iterations
        done = 0
        for crew, mine in zip(crews, limits, strict=True):
            crew.learn(walks.found[done : done + len(mine)], walks.costs[done : done + len(mine)])
            done += len(mine)
        if walks.costs.min() < best_cost:
            best, best_cost = walks.best(), walks.costs.min()
    return best, iterations


class _Crew:
    """The population of one start: assignments that walk side by side and learn from each other.

    A memetic search (Benlic and Hao 2015, "Memetic search for the quadratic assignment problem"): every member walks
    from what it has in common with another one. While that brings nothing new the walks get longer, and in the end the
    population is given up for a new one of twice the size: small ones suffice for most problems and are fast, large
    ones help where small ones agree too early.
    """

    def __init__(self, begin: Tensor, given: bool, limit: float, random: np.random.Generator) -> None:
        self.n, self.left, self.random, self.size = len(begin), limit, random, _SMALLEST
        self.begin = [begin.numpy()] * (self.size if given else 1)
        self.found: list[np.ndarray] = []
        self.costs: list[float] = []
        self.idle = 0  # rounds without a new best

    def plan(self) -> list[int]:
        """Iterations of each walk of this round."""
        count = int(min(self.size, self.left))
        each = int(min(_SHORTEST * self.n << self.idle // _LENGTHEN, self.left // count))
        self.left -= count * each
        return [each] * count

    def seeds(self, count: int) -> list[int]:
        return self.random.integers(2**62, size=count).tolist()

    def offspring(self, count: int) -> Tensor:
        if len(self.found) < self.size:
            made = self.begin[:count] + [self.random.permutation(self.n) for _ in range(count - len(self.begin))]
        else:
            made = [self._child(k) for k in range(count)]
        return torch.from_numpy(np.stack(made))

    def _child(self, k: int) -> np.ndarray:
        """Places that both parents agree on are kept; the others come from either, and what is left at random."""
        other = int(self.random.integers(self.size - 1))
        a, b = self.found[k], self.found[other + (other >= k)]
        child = np.where(self.random.random(self.n) < 0.5, a, b)
        if (a != b).sum() <= self.n // 10:
            child = a.copy()
            some = self.random.choice(self.n, min(self.n, self.n // 4 + 2), replace=False)
            child[some] = child[self.random.permutation(some)]
            return child
        order = self.random.permutation(self.n)
        keeps = np.zeros(self.n, dtype=bool)
        keeps[order[np.unique(child[order], return_index=True)[1]]] = True
        child[~keeps] = self.random.permutation(np.setdiff1d(np.arange(self.n), child))
        return child

    def learn(self, found: Tensor, costs: np.ndarray) -> None:
        before = min(self.costs, default=float("inf"))
        for k, (assignment, cost) in enumerate(zip(found.numpy().copy(), costs.tolist(), strict=True)):
            if len(self.found) < self.size:
                self.found.append(assignment)
                self.costs.append(cost)
            elif cost <= self.costs[k]:
                self.found[k], self.costs[k] = assignment, cost
        self.idle = 0 if min(self.costs) < before else self.idle + 1
        if self.idle >= _PATIENCE:
            self.begin, self.found, self.costs, self.idle = [], [], [], 0
            self.size = min(_LARGEST, 2 * self.size)

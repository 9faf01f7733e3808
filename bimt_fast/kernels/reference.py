"""Every op in plain PyTorch: the truth that the compiled kernels are tested against.

Shapes, dtypes and devices arrive checked (ops.py); values are checked here, in every backend alike: positions, and
the weights and costs of the searches, must be finite. Shapes: n neurons and n slots, m peers, dim coordinates.
Formulas: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), section 2; swap deltas in the notation of the quadratic
assignment problem.
"""

import time

import numpy as np
import torch
from torch import Tensor

from ..geometry import TABLE, distances, gap, metric_row

_SHUFFLED_AT_ONCE = 2**22  # labels


def can_run(device: torch.device) -> tuple[bool, str]:
    """PyTorch runs wherever its tensors live."""
    return True, ""


def details() -> str:
    """What `python -m bimt_fast info` says of it."""
    return "plain PyTorch, on any device"


def connection_cost(
    weight: Tensor,  # (n_out, n_in)
    out_pos: Tensor,  # (n_out, dim)
    in_pos: Tensor,  # (n_in, dim)
    metric: str,
    distance_scale: float,
    base_length: float,
    table: Tensor | None = None,  # (P, P), with metric "table": then the positions are indices (n,) into it
) -> Tensor:  # (), of the compute dtype: float32 for 16-bit weights
    """sum |W[o, i]| * (base_length + distance_scale * d(x_out[o], x_in[i]))"""
    require_positions(metric, table, out_pos=out_pos, in_pos=in_pos)
    length = base_length + distance_scale * _lengths(out_pos, in_pos, metric, table)
    return (widened(weight).abs() * length).sum()


def connection_cost_backward(
    grad: Tensor,  # ()
    weight: Tensor,  # (n_out, n_in)
    out_pos: Tensor,  # (n_out, dim)
    in_pos: Tensor,  # (n_in, dim)
    metric: str,
    distance_scale: float,
    base_length: float,
    need: tuple[bool, bool, bool],
    table: Tensor | None = None,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of connection_cost for the weight and both positions, each None where not needed."""
    by_weight = by_out = by_in = None
    w = widened(weight)
    if need[0]:
        length = base_length + distance_scale * _lengths(out_pos, in_pos, metric, table)
        by_weight = (grad * w.sign() * length).to(weight.dtype)
    if need[1] or need[2]:
        by_out, by_in = _distance_backward(grad * distance_scale * w.abs(), out_pos, in_pos, metric)
    return by_weight, by_out if need[1] else None, by_in if need[2] else None


def add_grad(
    weights: list[Tensor],  # each (n_out, n_in), or (n,) for a tensor with one axis
    grads: list[Tensor],  # the same shapes; changed in place
    out_pos: list[Tensor],  # each (n_out, dim); ignored for one axis
    in_pos: list[Tensor],  # each (n_in, dim); ignored for one axis
    metric: str,
    lam: float,
    coefficients: list[float],
    distance_scales: list[float],
    base_lengths: list[float],
    table: Tensor | None = None,
    memo: dict | None = None,  # what a backend keeps between calls with the same tensors; nothing here
) -> Tensor:  # (), of the compute dtype
    """grad += lam * coefficient * sign(W) * length for every tensor; returns sum coefficient * sum |W| * length."""
    for w, x, y in zip(weights, out_pos, in_pos, strict=True):
        if w.dim() > 1:
            require_positions(metric, table, out_pos=x, in_pos=y)
    total = torch.zeros((), dtype=torch.float64, device=weights[0].device)
    for w, g, x, y, coefficient, scale, base in zip(
        weights, grads, out_pos, in_pos, coefficients, distance_scales, base_lengths, strict=True
    ):
        length = base if w.dim() == 1 else base + scale * _lengths(x, y, metric, table)
        wide = widened(w)
        g.copy_(widened(g).add(wide.sign() * length, alpha=lam * coefficient))
        total += coefficient * (wide.abs() * length).sum()
    return total.to(widened(weights[0]).dtype)


def total_cost(
    weights: list[Tensor],  # as in add_grad
    out_pos: list[Tensor],
    in_pos: list[Tensor],
    metric: str,
    coefficients: list[float],
    distance_scales: list[float],
    base_lengths: list[float],
    table: Tensor | None = None,
) -> float:
    """sum coefficient * sum |W| * length, without gradients."""
    grads = [torch.zeros_like(w) for w in weights]
    settings = (coefficients, distance_scales, base_lengths, table)
    return add_grad(weights, grads, out_pos, in_pos, metric, 0.0, *settings).item()


def adamw(
    weights: list[Tensor],  # any shape; changed in place, as are the moments
    grads: list[Tensor],
    exp_avgs: list[Tensor],
    exp_avg_sqs: list[Tensor],
    steps: list[Tensor],  # each (), float32: how many were taken; counted up
    out_pos: list[Tensor],  # (n_out, dim) for a weight (n_out, n_in), else ignored
    in_pos: list[Tensor],  # (n_in, dim) likewise
    metric: str,
    coefficients: list[float],  # 0 where a weight is not charged
    distance_scales: list[float],
    base_lengths: list[float],
    settings: list[float],  # lr, beta1, beta2, eps, weight_decay, lam
    proximal: bool,
    table: Tensor | None = None,
    memo: dict | None = None,  # as in add_grad
) -> Tensor:  # ()
    """One step of AdamW with lam * coefficient * sign(W) * length in the gradient; returns the cost before it.

    Proximal: the penalty is left out of the gradient and shrinks the result by lr * lam * coefficient * length.
    """
    lr, beta1, beta2, eps, weight_decay, lam = settings
    total = torch.zeros((), dtype=torch.float64, device=weights[0].device)
    lengths = []
    for w, x, y, coefficient, scale, base in zip(
        weights, out_pos, in_pos, coefficients, distance_scales, base_lengths, strict=True
    ):
        connects = coefficient and w.dim() == 2
        if connects:
            require_positions(metric, table, out_pos=x, in_pos=y)
        lengths.append(base + scale * _lengths(x, y, metric, table) if connects else base)
    for k, (weight, g, exp_avg, exp_avg_sq) in enumerate(zip(weights, grads, exp_avgs, exp_avg_sqs, strict=True)):
        w, g, m, v = (widened(x) for x in (weight, g, exp_avg, exp_avg_sq))
        total += coefficients[k] * (w.abs() * lengths[k]).sum()
        charge = lam * coefficients[k] * lengths[k]
        if not proximal:
            g = g + w.sign() * charge
        m = m.lerp(g, 1 - beta1)
        v = v * beta2 + (1 - beta2) * g * g
        step = steps[k].item() + 1
        root = v.sqrt() / (1 - beta2**step) ** 0.5 + eps
        w = w * (1 - lr * weight_decay) - m / root * (lr / (1 - beta1**step))
        if proximal:
            w = w.sign() * (w.abs() - lr * charge).clamp(min=0)
        for old, new in ((weight, w), (exp_avg, m), (exp_avg_sq, v)):
            old.copy_(new)
        steps[k] += 1
    return total.to(widened(weights[0]).dtype)


def placement_cost(
    slots: Tensor,  # (n, dim)
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
    table: Tensor | None = None,  # (P, P), with metric "table": then slots and peers are indices into it
) -> Tensor:  # (n, n), of the compute dtype
    """C[i, p] = sum of coefficient * |W| * d over the connections of neuron i, were it in slot p."""
    require_positions(metric, table, slots=slots)
    for w, y in zip(weights, peers, strict=True):
        require_finite(weights=w)
        require_positions(metric, table, peers=y)
    n = slots.shape[0]
    dtype = slots.dtype if table is None else table.dtype
    by_slot = torch.zeros(n, n, dtype=dtype, device=slots.device)  # in memory, slots are rows
    for k, (w, y, coefficient) in enumerate(zip(weights, peers, coefficients, strict=True)):
        flow = widened(w).abs()
        if k < incoming:
            by_slot = by_slot + coefficient * (_lengths(slots, y, metric, table) @ flow.T)
        else:
            by_slot = by_slot + coefficient * (_lengths(y, slots, metric, table).T @ flow)
    return by_slot.T


def placement_cost_backward(
    grad: Tensor,  # (n, n)
    slots: Tensor,  # (n, dim)
    weights: list[Tensor],
    peers: list[Tensor],
    incoming: int,
    metric: str,
    coefficients: list[float],
    table: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of placement_cost for slots, every weight and every peer position, in this order; indices get zeros."""
    by_slots, by_weights, by_peers = torch.zeros_like(slots), [], []
    for k, (w, y, coefficient) in enumerate(zip(weights, peers, coefficients, strict=True)):
        neuron_first, scaled = widened(w if k < incoming else w.T), coefficient * grad
        length = _lengths(slots, y, metric, table) if k < incoming else _lengths(y, slots, metric, table).T
        by_neuron = (neuron_first.sign() * (scaled @ length)).to(w.dtype)
        by_weights.append(by_neuron if k < incoming else by_neuron.T)
        if table is not None:
            by_peers.append(torch.zeros_like(y))
            continue
        from_slots, from_peers = _distance_backward(scaled.T @ neuron_first.abs(), slots, y, metric)
        by_slots += from_slots
        by_peers.append(from_peers)
    return [by_slots, *by_weights, *by_peers]


def swap_deltas(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> Tensor:  # (n, n)
    """delta[r, s]: the change of the total cost when neurons r and s trade slots.

    With the swap form [X]_rs = (X_rs + X_sr) - (X_rr + X_ss), this is [C_a] + [F] * [D_a], where C_a and D_a are the
    placement cost and the slot distances read at the current slots. The product is the whole correction for the
    pair itself, also where D is asymmetric or has a non-zero diagonal.
    """
    require_finite(cost=cost)
    delta = _swap_form(cost if assignment is None else cost[:, assignment])
    if flow is not None and distance is not None:
        require_finite(flow=flow, distance=distance)
        placed = distance if assignment is None else distance[assignment][:, assignment]
        delta = delta + _swap_form(flow) * _swap_form(placed)
    return delta


def swap_deltas_backward(
    grad: Tensor,  # (n, n)
    cost: Tensor,
    assignment: Tensor | None,
    flow: Tensor | None,
    distance: Tensor | None,
) -> list[Tensor]:
    """Gradients of swap_deltas for cost and, where given, flow and distance."""
    itself = torch.arange(cost.shape[0], device=cost.device)
    slot = itself if assignment is None else assignment
    by_cost = torch.empty_like(cost)
    by_cost[:, slot] = _swap_form_backward(grad)
    if flow is None or distance is None:
        return [by_cost]
    placed = distance[slot][:, slot]
    by_distance = torch.empty_like(distance)
    by_distance[slot[:, None], slot[None, :]] = _swap_form_backward(grad * _swap_form(flow))
    return [by_cost, _swap_form_backward(grad * _swap_form(placed)), by_distance]


def best_swaps(
    cost: Tensor,  # (n, n)
    assignment: Tensor | None,  # (n,) int64
    flow: Tensor | None,  # (n, n)
    distance: Tensor | None,  # (n, n), by slot
) -> tuple[Tensor, Tensor]:  # (n,), (n,) int64
    """The best partner of every neuron: the lowest index on ties, itself with delta 0 where nothing improves."""
    delta = swap_deltas(cost, assignment, flow, distance)
    n = delta.shape[0]
    itself = torch.arange(n, device=delta.device)
    if n == 0:
        return delta.new_zeros(0), itself
    partner = (delta == delta.amin(1, keepdim=True)).to(torch.uint8).argmax(1)
    best = delta.gather(1, partner[:, None]).squeeze(1)
    improves = best < 0
    return torch.where(improves, best, 0), torch.where(improves, partner, itself)


def greedy_swaps(
    cost: Tensor,  # (n, n)
    neuron_in: Tensor,  # (n,) int64, by slot; changed in place
    slots: Tensor,  # (k,) int64
) -> int:
    """Slot after slot, the neuron there takes its best swap, the first in order of slots, or stays; counts swaps."""
    placed = cost[neuron_in]  # [p, q]: the cost of the neuron in slot p, were it in slot q
    swaps = 0
    for p in slots.tolist():
        at_home = placed.diagonal()
        delta = (placed[p] + placed[:, p]) - (at_home + at_home[p])
        delta[p] = 0
        q = int((delta == delta.min()).nonzero()[0])  # argmin may return any of several
        if q != p:
            placed[[p, q]], neuron_in[[p, q]] = placed[[q, p]], neuron_in[[q, p]]
            swaps += 1
    return swaps


def linear_assignment(
    cost: Tensor,  # (n, n)
    start: Tensor,  # (n,) int64
) -> Tensor:  # (n,) int64
    """The cheapest assignment of all, by scipy.optimize.linear_sum_assignment (Crouse 2016), wherever it starts."""
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise ImportError(
            "strategy 'assignment' needs the cpu extension or SciPy: pip install 'bimt_fast[search]'"
        ) from error
    if not cost.isfinite().all():
        raise ValueError("cost must be finite, held NaN or infinity")
    _, slots = linear_sum_assignment(cost.numpy())
    return torch.as_tensor(slots, dtype=torch.int64)


def assignment_bound(
    cost: Tensor,  # (n, n)
    start: Tensor,  # (n,) int64
    rounds: int,
) -> float:
    """The largest sum of prices in so many rounds of Bellman and Ford: each neuron lowers the price of its own slot."""
    if not cost.isfinite().all():
        raise ValueError("cost must be finite, held NaN or infinity")
    if len(cost) == 0:
        return 0.0
    cost = cost.double()
    price, bound = torch.zeros(len(cost), dtype=torch.float64), float("-inf")
    for _ in range(rounds + 1):
        lowest = (cost - price).amin(1)
        bound = max(bound, (lowest.sum() + price.sum()).item())
        price[start] = cost.gather(1, start[:, None]).squeeze(1) - lowest
    return bound


def placement_swaps(
    slots: Tensor,  # (n, dim), neuron i in slot i
    weights: list[Tensor],  # each incoming (n, m), each outgoing (m, n)
    peers: list[Tensor],  # each (m, dim)
    incoming: int,  # how many of the lists' first entries are incoming
    metric: str,
    coefficients: list[float],
    top_k: int | None,
    table: Tensor | None = None,
) -> tuple[Tensor, Tensor]:  # (n,), (n,) int64; with top_k (k,), (k, 2) int64, k = min(top_k, n (n - 1) / 2)
    """best_swaps of placement_cost; or the best pairs, smallest delta first, then lowest indices, padded with 0."""
    cost = placement_cost(slots, weights, peers, incoming, metric, coefficients, table)
    if top_k is None:
        return best_swaps(cost, None, None, None)
    pairs = torch.triu_indices(*cost.shape, offset=1, device=cost.device).T
    delta = swap_deltas(cost, None, None, None)[pairs[:, 0], pairs[:, 1]]
    order = delta.argsort(stable=True)[:top_k]
    improves = delta[order] < 0
    return torch.where(improves, delta[order], 0), torch.where(improves[:, None], pairs[order], 0)


def quadratic_memory(n: int, dtype: torch.dtype, slots: int) -> Tensor:
    """What quadratic_walks keeps from one call to the next: first, how many walks were taken up."""
    return torch.zeros(1, dtype=torch.int64)


def quadratic_ended(memory: Tensor, walks: int) -> bool:
    """Whether none of the walks goes on in another call."""
    return memory[0].item() >= walks


def quadratic_walks(
    flow: Tensor,  # (n, n) int32 or float64, its diagonal 0, as that of distance
    distance: Tensor,  # (n, n)
    linear: Tensor | None,  # (n, n), by neuron and slot
    assignments: Tensor,  # (walks, n) int64: where each walk starts, and then the best that it found
    seeds: Tensor,  # (walks,) int64
    limits: Tensor,  # (walks,) int64: iterations, at most
    costs: Tensor,  # (walks,) float64: the total of the best
    done: Tensor,  # (walks,) int64: iterations
    memory: Tensor | None,  # of quadratic_memory; None: all walks in one call
    tabu: bool,
    symmetric: bool,
    least: float,
    seconds: float,
) -> None:
    """Walks from swap to swap that lower sum linear[i, a[i]] + sum of flow[i, j] * distance[a[i], a[j]].

    The second sum is over pairs i < j where symmetric, else over all i != j. A walk takes the best of all swaps in
    every iteration. It ends where none improves by more than `least`; or with tabu (Taillard 1991, "Robust taboo search
    for the quadratic assignment problem") it goes on to the end of its iterations: two neurons may not both return to
    slots that they left a short, random time ago, unless to a new best. No walk is begun after `seconds`; what is left
    is for another call. Integers are exact.
    """
    deadline = time.monotonic() + seconds
    flows, distances = (x.numpy().astype(np.float64) for x in (flow, distance))
    own = np.zeros_like(flows) if linear is None else linear.numpy().astype(np.float64)
    memory = memory if memory is not None else quadratic_memory(0, flow.dtype, 1)
    while memory[0] < len(assignments):
        walk = memory[0].item()
        memory[0] += 1
        state = _Walk(flows, distances, own, assignments[walk].numpy(), seeds[walk].item(), symmetric)
        cost, count = state.run(limits[walk].item(), tabu, least, assignments[walk].numpy())
        costs[walk], done[walk] = cost, count
        if time.monotonic() >= deadline:
            return


class _Walk:
    def __init__(self, flow, distance, linear, assignment, seed, symmetric):
        self.flow, self.symmetric, self.random = flow, symmetric, seed
        self.slot = assignment.copy()
        self.placed = distance[np.ix_(self.slot, self.slot)]
        # placement[i, j]: what neuron i would cost in the place of neuron j, all others where they are.
        self.placement = linear[:, self.slot] + flow @ self.placed.T
        if not symmetric:
            self.placement += flow.T @ self.placed
        # Every pair is in the placement cost of both its neurons.
        self.cost = (self.placement.trace() + linear[np.arange(len(self.slot)), self.slot].sum()) / 2
        self.until = np.zeros(flow.shape, dtype=np.int64)  # by neuron and slot: tabu up to which iteration

    def run(self, iterations: int, tabu: bool, least: float, best_assignment: np.ndarray) -> tuple[float, int]:
        n = len(self.slot)
        rows, upper = np.arange(n), np.triu(np.ones((n, n), dtype=bool), 1)
        current = best = self.cost
        for iteration in range(iterations):
            random = self._next_random()
            order = np.roll(rows, -((random & 0xFFFF) * n >> 16))  # of rows, for ties
            delta = np.where(upper, self._deltas(), np.inf)[order]
            u, v = np.unravel_index(delta.argmin(), delta.shape) if n else (0, 0)
            if tabu and n and not current + delta[u, v] < best - least:
                until = self.until[:, self.slot]
                free = np.minimum(until, until.T)[order] <= iteration
                delta = np.where(free, delta, np.inf)
                u, v = np.unravel_index(delta.argmin(), delta.shape)
            change = delta[u, v] if n else np.inf
            if not tabu and not change < -least:
                return best, iteration
            if change < np.inf:
                u = order[u]
                self._swap(u, v)
                self.until[u, self.slot[v]] = iteration + self._tenure(random >> 16 & 0xFFFFFF)
                self.until[v, self.slot[u]] = iteration + self._tenure(random >> 40)
                current += change
                if current < best - least:
                    best = current
                    best_assignment[:] = self.slot
        return best, iterations

    def _deltas(self) -> np.ndarray:
        own = self.placement.diagonal()
        flow, distance = self.flow + self.flow.T, self.placed + self.placed.T
        pair = flow * distance / (2 if self.symmetric else 1)
        return self.placement + self.placement.T - (own[:, None] + own) + pair

    def _swap(self, u: int, v: int) -> None:
        change = np.outer(self.flow[u] - self.flow[v], self.placed[v] - self.placed[u])
        if not self.symmetric:
            change += np.outer(self.flow[:, u] - self.flow[:, v], self.placed[:, v] - self.placed[:, u])
        self.placement += change
        both, other = [u, v], [v, u]
        self.placement[:, both] = self.placement[:, other]
        self.placed[both] = self.placed[other]
        self.placed[:, both] = self.placed[:, other]
        self.slot[both] = self.slot[other]

    def _tenure(self, random: int) -> int:
        """From 2 on, mostly short: n on average, and up to 4 n."""
        part = random * 2.0**-24
        return 2 + int(part * part * part * (4 * len(self.slot)))

    def _next_random(self) -> int:
        """SplitMix64 (Steele, Lea and Flood 2014)."""
        self.random = (self.random + 0x9E3779B97F4A7C15) % 2**64
        z = self.random
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        return z ^ z >> 31


def permute_(
    tensor: Tensor,  # changed in place
    axis: int,
    to: Tensor,  # (k,) int64
    source: Tensor,  # (k,) int64, the same places in another order
) -> None:
    """Along an axis, place to[k] takes what was in place source[k]."""
    tensor.index_copy_(axis, to, tensor.index_select(axis, source))


def label_nulls(
    labels: Tensor,  # (n,) int64, from 0 to clusters - 1
    neighbours: Tensor,  # (n, degree) int64, -1 for none
    positions: Tensor,  # (n, dim) float64
    clusters: int,
    permutations: int,
    seed: int,
) -> Tensor:  # (1 + permutations, 3) float64
    """Modularity figures of the labels (row 0) and of permutation p of them (row p); zeros where n is 0.

    Columns: the fraction of isolated neurons, none of whose neighbours has their label; the variance of the neurons'
    indices within clusters; the mean squared distance to the centroid of the cluster. The last two are means over the
    clusters that have neurons. Permutation p shuffles labels as Durstenfeld (1964) does, from the last neuron down:
    neuron i trades labels with neuron (h * (i + 1)) >> 32, h being the upper half of number p * n + i of SplitMix64.
    """
    n = len(labels)
    if n == 0:
        return positions.new_zeros(1 + permutations, 3)
    points = torch.cat([torch.arange(n, device=labels.device)[:, None].to(positions), positions], 1)
    figures = [_label_figures(labels[None], neighbours, points, clusters)]
    for chunk in torch.arange(1, 1 + permutations, device=labels.device).split(max(1, _SHUFFLED_AT_ONCE // n)):
        figures.append(_label_figures(_shuffled(labels, chunk, seed), neighbours, points, clusters))
    return torch.cat(figures)


def _shuffled(labels: Tensor, permutation: Tensor, seed: int) -> Tensor:
    """(permutations, n)"""
    n, rows = len(labels), torch.arange(len(permutation), device=labels.device)
    shuffled = labels.repeat(len(permutation), 1)
    for i in range(n - 1, 0, -1):
        z = seed + (permutation * n + i + 1) * _signed(0x9E3779B97F4A7C15)
        z = (z ^ _shifted(z, 30)) * _signed(0xBF58476D1CE4E5B9)
        z = (z ^ _shifted(z, 27)) * _signed(0x94D049BB133111EB)
        other = _shifted(z ^ _shifted(z, 31), 32) * (i + 1) >> 32
        label = shuffled[:, i].clone()
        shuffled[:, i] = shuffled[rows, other]
        shuffled[rows, other] = label
    return shuffled


def _signed(word: int) -> int:
    """The int64 with the bits of an unsigned one; torch's int64 wraps round as that does."""
    return word - 2**64 if word >= 2**63 else word


def _shifted(x: Tensor, bits: int) -> Tensor:
    """x >> bits of unsigned numbers."""
    return (x >> bits) & (2 ** (64 - bits) - 1)


def _label_figures(
    labels: Tensor,  # (rows, n)
    neighbours: Tensor,  # (n, degree)
    points: Tensor,  # (n, 1 + dim), the indices first
    clusters: int,
) -> Tensor:  # (rows, 3)
    accompanied = torch.zeros_like(labels, dtype=torch.bool)
    for near in neighbours.T:
        accompanied |= (labels == labels[:, near]) & (near >= 0)
    counts = points.new_zeros(len(labels), clusters).scatter_add_(1, labels, torch.ones_like(labels).to(points))
    variances = []
    for x in points.T:
        x = x.expand_as(labels)
        mean = points.new_zeros(counts.shape).scatter_add_(1, labels, x) / counts
        squares = (x - mean.gather(1, labels)).square()
        within = points.new_zeros(counts.shape).scatter_add_(1, labels, squares) / counts.clamp(min=1)
        variances.append(within.sum(1) / (counts > 0).sum(1))
    isolated = (~accompanied).sum(1).to(points) / labels.shape[1]
    return torch.stack([isolated, variances[0], sum(variances[1:], torch.zeros_like(isolated))], 1)


def _swap_form(x: Tensor) -> Tensor:
    diagonal = x.diagonal()
    return (x + x.T) - (diagonal[:, None] + diagonal[None, :])


def _swap_form_backward(grad: Tensor) -> Tensor:
    return grad + grad.T - torch.diag(grad.sum(0) + grad.sum(1))


def widened(x: Tensor) -> Tensor:
    """In the dtype that kernels compute in: float32 for the 16-bit ones."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def _lengths(x: Tensor, y: Tensor, metric: str, table: Tensor | None) -> Tensor:
    return distances(x, y, metric if table is None else table)


def _distance_backward(grad: Tensor, x: Tensor, y: Tensor, metric: str) -> tuple[Tensor, Tensor]:
    """Gradients of sum grad[p, k] * d(x[p], y[k]) for x and y; d is symmetric, so one derivative gives both."""
    gradient = metric_row(metric).gradient
    by_x = (grad[:, :, None] * gradient(x, y)).sum(1)
    by_y = (grad.T[:, :, None] * gradient(y, x)).sum(1)
    return by_x, by_y


def require_finite(**tensors: Tensor) -> None:
    """Refuses NaN and infinity, by the name of the argument."""
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} must be finite, held NaN or infinity")


def require_positions(metric: str, table: Tensor | None, **positions: Tensor) -> None:
    """Refuses NaN and infinity, points outside the unit ball where the metric needs it, and indices out of range."""
    if table is None:
        require_finite(**positions)
    for name, x in positions.items():
        if metric == TABLE:
            if x.numel() and not 0 <= x.min() <= x.max() < len(table):
                raise ValueError(f"{name} must hold indices of rows of the table, from 0 to {len(table) - 1}, did not")
        elif metric_row(metric).in_ball and not (gap(x.double()) > 0).all():
            raise ValueError(f"{name} must lie inside the unit ball for metric {metric!r}, |x| reached 1")

"""What the neurons of a trained network do, and how modular they lie: figures, their nulls, and modules of the wiring.

Sources: task variance, Yang et al. 2019 (Nature Neuroscience 22, 297); isolated neurons and the variance of indices,
Liu, Khona, Fiete, Tegmark 2023 (arXiv 2310.07711). clusters needs SciPy, modules_of networkx; imported when called.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from . import functional, geometry
from ._resize import interpolation, merging

__all__ = [
    "SILENT",
    "AgainstNull",
    "Clustering",
    "Decay",
    "against_null",
    "agreement",
    "clusters",
    "fit_decay",
    "importance",
    "interpolation",
    "line_neighbours",
    "merging",
    "modularity",
    "modules_of",
    "normalised_variance",
    "sheet_neighbours",
    "silhouette",
    "strength_by_distance",
    "task_variance",
]

SILENT = 1e-6  # a unit whose variances sum to less has no part in any task


def task_variance(states: Tensor, running: Tensor | None = None) -> Tensor:
    """The variance of each unit over trials of one task, averaged over time.

    Args:
        states: (steps, trials, units).
        running: (steps, trials) bool, which trials still last; None: all do. A step in which fewer than two last does
            not count.

    Returns:
        (units,) float64; the variance divides by the number of trials.

    Raises:
        ValueError: shapes do not fit, or no step has two trials.
    """
    if states.dim() != 3 or (running is not None and running.shape != states.shape[:2]):
        raise ValueError("states must be (steps, trials, units) and running (steps, trials), were not")
    states = states.double()
    weight = torch.ones(states.shape[:2]) if running is None else running
    weight = weight.double()[..., None]
    count = weight.sum(1)
    kept = count[:, 0] > 1
    if not kept.any():
        raise ValueError("states must have a step with two trials, had none")
    states, weight, count = states[kept], weight[kept], count[kept]
    mean = (states * weight).sum(1) / count
    return (((states - mean[:, None]).square() * weight).sum(1) / count).mean(0)


def normalised_variance(variance: Tensor, silent: float = SILENT) -> tuple[Tensor, Tensor]:
    """Units that take part in a task, and what share of its largest variance each shows in every task.

    Args:
        variance: (units, tasks), at least 0.
        silent: units whose sum is below are left out.

    Returns:
        active: (n,) int64, the units that are left, in order.
        normalised: (n, tasks), each row divided by its largest entry.
    """
    active = (variance.sum(1) >= silent).nonzero()[:, 0]
    return active, variance[active] / variance[active].amax(1, keepdim=True)


@dataclass(frozen=True)
class Clustering:
    """Clusters of rows: labels (n,) int64 from 0, and the mean silhouette by number of clusters tried."""

    labels: Tensor
    silhouettes: dict[int, float]

    @property
    def count(self) -> int:
        return int(self.labels.max()) + 1


def clusters(vectors: Tensor, counts: Iterable[int] = range(2, 20)) -> Clustering:
    """Ward's agglomerative clusters of rows, as many of them as have the best mean silhouette.

    Labels are in the order in which the clusters' rows reach their largest entries: those that prefer the first columns
    come first.

    Args:
        vectors: (n, features), n at least 3, finite.
        counts: numbers of clusters to try; those of n and more are left out. Equal scores: the first.

    Raises:
        ValueError: fewer than three rows, or no count is left.
        ImportError: SciPy is missing.
    """
    try:
        from scipy.cluster.hierarchy import cut_tree, ward
    except ImportError:
        raise ImportError("clusters need SciPy: pip install 'bimt_fast[analysis]'") from None
    counts = [k for k in counts if 2 <= k < len(vectors)]
    if len(vectors) < 3 or not counts:
        raise ValueError(
            f"vectors must be at least three rows, and counts below their number; rows were {len(vectors)}"
        )
    rows = vectors.double()
    tree, distance = ward(rows.numpy()), _pairwise(rows)
    cuts = {k: torch.from_numpy(cut_tree(tree, k)[:, 0].astype("int64")) for k in counts}
    scores = {k: silhouette(distance, labels) for k, labels in cuts.items()}
    labels = cuts[max(scores, key=scores.get)]
    return Clustering(_by_preference(rows, labels), scores)


def _pairwise(rows: Tensor) -> Tensor:
    return (rows[:, None] - rows[None]).square().sum(-1).sqrt()


def _by_preference(rows: Tensor, labels: Tensor) -> Tensor:
    columns = torch.arange(rows.shape[1], dtype=rows.dtype)
    means = [rows[labels == k].mean(0) for k in range(int(labels.max()) + 1)]
    centre = torch.stack([(mean * columns).sum() / mean.sum().clamp(min=1e-300) for mean in means])
    return centre.argsort(stable=True).argsort()[labels]


def silhouette(distance: Tensor, labels: Tensor) -> float:
    """The mean over points of (b - a) / max(a, b): a, the mean distance to the others of its cluster; b, the least mean
    distance to another cluster. A point alone in its cluster counts 0.

    Args:
        distance: (n, n), symmetric, 0 on the diagonal.
        labels: (n,) int64 from 0, at least two of them.

    Source: Rousseeuw 1987 (J. Comput. Appl. Math. 20, 53).
    """
    member = torch.nn.functional.one_hot(labels).to(distance.dtype)
    member = member[:, member.any(0)]
    size = member.sum(0)
    to_cluster = distance @ member  # (n, clusters)
    own = member.bool()
    among = size.expand_as(own)[own]
    inside = to_cluster[own] / (among - 1).clamp(min=1)
    outside = (to_cluster / size).masked_fill(own, math.inf).amin(1)
    scores = (outside - inside) / torch.maximum(outside, inside).clamp(min=1e-300)
    return scores.masked_fill(among == 1, 0).mean().item()


def sheet_neighbours(places: Tensor, shape: tuple[int, int], diagonal: bool = False) -> Tensor:
    """The neighbours on a grid of cells some of which are taken.

    Args:
        places: (n,) int64, the cells that are taken, row-major, each once.
        shape: rows and columns of the grid.
        diagonal: eight neighbours a cell, not four.

    Returns:
        (n, 4 or 8) int64: for each place the numbers, among those given, of its neighbours; -1 where there is none.
    """
    rows, columns = shape
    number = torch.full((rows + 2, columns + 2), -1)  # with a margin round the grid
    row, column = places // columns + 1, places % columns + 1
    number[row, column] = torch.arange(len(places))
    steps = [(0, 1), (0, -1), (1, 0), (-1, 0)] + ([(1, 1), (1, -1), (-1, 1), (-1, -1)] if diagonal else [])
    return torch.stack([number[row + down, column + right] for down, right in steps], 1)


def line_neighbours(n: int) -> Tensor:
    """(n, 2) int64: the one before and the one behind in a row of n, -1 at its ends."""
    row = torch.arange(n)
    return torch.stack([row - 1, torch.where(row == n - 1, -1, row + 1)], 1)


@dataclass(frozen=True)
class AgainstNull:
    """A figure beside the same figure with labels permuted at random.

    Attributes:
        value: of the labels as they are.
        mean, deviation: of the null.
        z: (value - mean) / deviation; NaN where the deviation is 0.
        p: the share of permutations, that of no permutation with them, whose figure is as small.
        null: (permutations,) float64.
    """

    value: float
    mean: float
    deviation: float
    z: float
    p: float
    null: Tensor


def against_null(figures: Tensor) -> AgainstNull:
    """The first of some figures beside the others, as bimt_fast.functional.label_nulls gives them."""
    value, null = figures[0].item(), figures[1:]
    mean, deviation = null.mean().item(), null.std(correction=0).item()
    z = (value - mean) / deviation if deviation else math.nan
    as_small = (null <= value + 1e-12 * abs(value)).sum().item()
    return AgainstNull(value, mean, deviation, z, (1 + as_small) / (1 + len(null)), null)


def modularity(
    labels: Tensor,
    places: Tensor,
    shape: tuple[int, int],
    *,
    positions: Tensor | None = None,
    permutations: int = 10_000,
    seed: int = 0,
) -> dict[str, AgainstNull]:
    """How close together the neurons of a cluster lie on a sheet, against labels permuted among the active neurons.

    Args:
        labels: (n,) int64 from 0, the cluster of each active neuron.
        places: (n,) int64, the cell of the sheet that each is in, row-major, rising.
        shape: rows and columns of the sheet.
        positions: (n, dim), where they are; None: the cells' centres in [0, 1]^2.
        permutations, seed: as bimt_fast.functional.label_nulls.

    Returns:
        By name: "isolated, 4 neighbours", "isolated, 8 neighbours" and "isolated, in a row", the share of neurons
        none of whose neighbours (in the four or eight cells beside it; before and behind it in the row of active
        neurons) has their label; "variance of indices", within clusters, of the numbers from 0 to n - 1; "variance of
        places", the same of `places`; "spread", the mean squared distance to the cluster's centroid.
    """
    points = geometry.grid(shape, dtype=torch.float64)[places] if positions is None else positions
    cells = places.double()[:, None]
    settings = {"permutations": permutations, "seed": seed}
    four, eight = (sheet_neighbours(places, shape, diagonal) for diagonal in (False, True))
    on_four = functional.label_nulls(labels, four, points, **settings)
    on_eight = functional.label_nulls(labels, eight, cells, **settings)
    on_line = functional.label_nulls(labels, line_neighbours(len(labels)), cells, **settings)
    columns = {
        "isolated, 4 neighbours": on_four[:, 0],
        "isolated, 8 neighbours": on_eight[:, 0],
        "isolated, in a row": on_line[:, 0],
        "variance of indices": on_four[:, 1],
        "variance of places": on_eight[:, 2],
        "spread": on_four[:, 2],
    }
    return {name: against_null(column) for name, column in columns.items()}


def strength_by_distance(weight: Tensor, distance: Tensor, width: float) -> tuple[Tensor, Tensor, Tensor]:
    """Mean |w| of the connections of about the same length.

    Args:
        weight: any shape.
        distance: of the same shape.
        width: of a bin; bin k holds distances of (k +- 1/2) * width.

    Returns:
        distance, mean |w| and number of connections, (bins,) each, of the bins that hold any; the first two float64,
        the distance of a bin being k * width.
    """
    k = (distance.double() / width).round().long().flatten()
    count = k.bincount()
    total = torch.zeros(len(count), dtype=torch.float64).index_add_(0, k, weight.detach().double().abs().flatten())
    kept = count > 0
    return (torch.arange(len(count), dtype=torch.float64) * width)[kept], total[kept] / count[kept], count[kept]


@dataclass(frozen=True)
class Decay:
    """Straight lines through log |w| against log distance (a power law) and against distance (an exponential).

    Attributes:
        exponent, power_factor, power_r2: |w| = power_factor * distance^-exponent, and the part of the variance of
            log |w| that this explains.
        scale, exponential_factor, exponential_r2: |w| = exponential_factor * exp(-distance / scale), and likewise.
        best: "power law" or "exponential", the one that explains more. Both have two parameters and normal errors of
            log |w|, so it is the likelier one too.
    """

    exponent: float
    power_factor: float
    power_r2: float
    scale: float
    exponential_factor: float
    exponential_r2: float

    @property
    def best(self) -> str:
        return "power law" if self.power_r2 > self.exponential_r2 else "exponential"


def fit_decay(distance: Tensor, strength: Tensor, count: Tensor | None = None) -> Decay:
    """How strength falls with distance.

    Args:
        distance: (bins,); those at distance 0 are left out, a power law being infinite there, and those of strength 0.
        strength: (bins,) mean |w|.
        count: (bins,) connections, the weight of each bin in the least squares; None: all weigh the same.

    Raises:
        ValueError: fewer than three bins are left.
    """
    kept = (distance > 0) & (strength > 0)
    if kept.sum() < 3:
        raise ValueError(f"distance must have at least three bins of some strength above 0, had {int(kept.sum())}")
    y = strength[kept].double().log()
    weight = torch.ones_like(y) if count is None else count[kept].double()
    slope, power_factor, power_r2 = _line(distance[kept].double().log(), y, weight)
    rate, exponential_factor, exponential_r2 = _line(distance[kept].double(), y, weight)
    scale = -1 / rate if rate else math.inf
    return Decay(-slope, power_factor, power_r2, scale, exponential_factor, exponential_r2)


def _line(x: Tensor, y: Tensor, weight: Tensor) -> tuple[float, float, float]:
    """Slope, exp(intercept) and R^2 of the weighted least squares line."""
    weight = weight / weight.sum()
    at, middle = (weight * x).sum().item(), (weight * y).sum().item()
    dx, dy = x - at, y - middle
    xx, xy, yy = ((weight * a * b).sum().item() for a, b in ((dx, dx), (dx, dy), (dy, dy)))
    slope = xy / xx
    return slope, math.exp(middle - slope * at), xy * xy / (xx * yy) if yy else 1.0


def modules_of(weight: Tensor, seed: int = 0) -> Tensor:
    """Modules found from the wiring alone: Louvain communities of |w| + |w|^T.

    Args:
        weight: (n, n), of neurons among themselves; the diagonal does not count.
        seed: of the order in which neurons are visited.

    Returns:
        (n,) int64, the module of each neuron, the largest first.

    Raises:
        ImportError: networkx is missing.

    Source: Blondel et al. 2008 (J. Stat. Mech. P10008).
    """
    try:
        import networkx
    except ImportError:
        raise ImportError("modules need networkx: pip install 'bimt_fast[analysis]'") from None
    size = weight.detach().double().abs()
    size = (size + size.t()).fill_diagonal_(0)
    graph = networkx.from_numpy_array(size.numpy())
    labels = torch.empty(len(size), dtype=torch.int64)
    found = networkx.community.louvain_communities(graph, seed=seed)
    for k, members in enumerate(sorted(found, key=lambda m: (-len(m), min(m)))):
        labels[sorted(members)] = k
    return labels


def agreement(first: Tensor, second: Tensor) -> dict[str, float]:
    """How well two clusterings of the same neurons agree: {"adjusted_rand", "nmi"}.

    Both are 1 where they are the same but for names. The adjusted Rand index is 0 on average for random labels (1 where
    neither says anything: one cluster, or as many as neurons); the normalised mutual information divides by the mean of
    both entropies and is 0 only for independent ones.

    Args:
        first, second: (n,) int64 from 0.

    Source: Hubert and Arabie 1985 (J. Classification 2, 193); Strehl and Ghosh 2002 (JMLR 3, 583).
    """
    one, other = (torch.nn.functional.one_hot(labels).double() for labels in (first, second))
    table = one.t() @ other
    sizes = table.sum(1), table.sum(0)
    together, a, b = (_pairs(x) for x in (table, *sizes))
    expected = a * b / max(_pairs(torch.tensor([float(len(first))])), 1e-300)
    most = (a + b) / 2
    rand = (together - expected) / (most - expected) if most != expected else 1.0
    of_first, of_second, of_both = (_entropy(x) for x in (*sizes, table))
    mean = (of_first + of_second) / 2
    return {"adjusted_rand": rand, "nmi": (of_first + of_second - of_both) / mean if mean else 1.0}


def _pairs(counts: Tensor) -> float:
    return (counts * (counts - 1) / 2).sum().item()


def _entropy(counts: Tensor) -> float:
    share = counts[counts > 0] / counts.sum()
    return -(share * share.log()).sum().item()


def importance(weights: Sequence[tuple[Tensor, int]]) -> Tensor:
    """The sum of |w| over all connections of each neuron, as greedy relocation ranks them.

    Args:
        weights: connections of a group, each with the axis on which its n neurons are.

    Returns:
        (n,) float64
    """
    return sum(w.detach().double().abs().sum(1 - axis) for w, axis in weights)

"""Sample inputs of every op, in the order of its schema: parity, gradient, opcheck and thread tests all use them.

SAMPLES[op](dtype, metric, n) yields (id, arguments) with one axis of n neurons; every call makes the same numbers.
`smooth=True` keeps away from kinks and ties, so that finite differences hold.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

import bimt_fast as bf

# Public data that are not in the repository: MNIST and QAPLIB files.
DATA = Path(os.environ.get("BIMT_FAST_DATA") or Path(__file__).parents[2] / "shared" / "data")
SIZES = (0, 1, 15, 17, 33, 63, 65, 97, 257)  # around the widths of vectors and tiles
DTYPES = (torch.float64, torch.float32)  # of positions, costs and results
NARROW_DTYPES = (torch.bfloat16, torch.float16)  # of weights and their gradients only
# Of the largest magnitude involved; for the narrow ones half a unit in the last place, and float32's own error.
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 2**-8 + 4e-6, torch.float16: 2**-11 + 4e-6}
METRICS = (*bf.geometry.METRICS, "table")
TABLE_ROWS = 40
# What serves CPU tensors, in earnest or for tests. What imitates a GPU is slow and meets a part of the cases.
BACKENDS = ("cpu", "cuda-sim", "triton", "reference")
GPU = torch.cuda.is_available()
if GPU:  # the same cases on the GPU, where nothing is imitated: make gpu-test
    BACKENDS += ("cuda",)
_IMITATIONS = ("cuda-sim", "triton")
_ALL = os.environ.get("BIMT_FAST_TEST_ALL") == "1"  # make test-all
METRIC_FREE = ("swap_deltas", "swap_deltas_backward", "best_swaps", "quadratic_walks", "label_nulls", "permute_")

Sample = tuple[str, tuple]


def is_tested(backend: str, dtype: torch.dtype, n: int) -> bool:
    """Whether a case of the parity tests is run for a backend."""
    imitation = backend in _IMITATIONS and not (GPU and backend == "triton")
    return _ALL or not imitation or (dtype in (torch.float32, torch.bfloat16) and n in (1, 17, 65))


def is_walked(backend: str, dtype: torch.dtype, n: int) -> bool:
    """The same for walks and greedy swaps, whose many steps what imitates a GPU takes one after the other."""
    more = backend == "cuda-sim" and (dtype, n) in ((torch.float32, 65), (torch.float64, 2))  # 65: more than a warp
    return _ALL or more or backend not in _IMITATIONS or (dtype, n) == (torch.float32, 17)


def met_by(backend: str, samples: list, op: str, *case: object) -> list:
    """All samples of a case, or of those that imitate a GPU a fifth, of placements a few: others for each case."""
    if _ALL or backend not in _IMITATIONS:
        return samples
    step = 15 if op.startswith("placement") else 5
    start = zlib.crc32(repr((op, *case)).encode()) % min(step, max(len(samples), 1))
    return samples[start::step]


def generator(*seed: object) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(repr(seed).encode()))


def compute(dtype: torch.dtype) -> torch.dtype:
    """The dtype of positions and results where weights have this one."""
    return torch.float32 if dtype in NARROW_DTYPES else dtype


def table(metric: str, dtype: torch.dtype) -> Tensor | None:
    """Distances that are neither symmetric nor zero on the diagonal, for the metric "table" only."""
    if metric != "table":
        return None
    random = torch.rand(TABLE_ROWS, TABLE_ROWS, generator=generator("table"), dtype=torch.float64)
    return random.to(compute(dtype)).T


def positions(
    n: int, dim: int, kind: str, seed: object = 0, dtype: torch.dtype = torch.float64, metric: str = "l1"
) -> Tensor:
    """(n, dim) points in [0, 1): random, on a grid, many at the same places, or far from the origin.

    For poincare they are inside the unit ball, "far" ones close to its edge; for "table", indices (n,).
    """
    dtype = compute(dtype)
    if metric == "table":
        return torch.randint(TABLE_ROWS, (n,), generator=generator("indices", n, seed))
    random = torch.rand(n, dim, generator=generator("positions", n, dim, kind, seed), dtype=torch.float64)
    if kind == "grid":
        side = max(1, round(n ** (1 / dim)))
        index = torch.arange(n)
        cells = [index // side**axis % side for axis in range(dim - 1)] + [index // side ** (dim - 1)]
        random = (torch.stack(cells, 1) + 0.5) / side
        if metric != "l1":  # exact in every dtype, so that coordinates that tie do so everywhere
            random = (64 * random).floor() / 64
    elif kind == "duplicates":
        random = (3 * random).floor() / 4
    elif kind == "far":
        random = random + 1000
    if metric == "poincare":
        centred = random % 1 - 0.5
        norm = centred.square().sum(1, keepdim=True).sqrt()
        random = 0.999 * centred / norm if kind == "far" else 1.8 * centred / dim**0.5
    return random.to(dtype)


def matrix(
    rows: int, cols: int, layout: str = "contiguous", seed: object = 0, dtype: torch.dtype = torch.float64, smooth=False
) -> Tensor:
    """(rows, cols) weights, some of them exactly 0, laid out contiguous, transposed or with gaps in memory."""
    shape = {"contiguous": (rows, cols), "transposed": (cols, rows), "strided": (2 * rows + 1, 3 * cols + 1)}[layout]
    g = generator("matrix", rows, cols, layout, seed)
    values = torch.randn(shape, generator=g, dtype=torch.float64)
    if smooth:
        values = values.sign() * (0.1 + values.abs())
    else:
        values[torch.rand(shape, generator=g) < 0.1] = 0
    values = values.to(dtype)
    if layout == "transposed":
        return values.T
    return values[1::2, 1::3] if layout == "strided" else values


def flow_matrix(n: int, *seed: object, dtype: torch.dtype = torch.float64, smooth=False) -> Tensor:
    """(n, n), neither symmetric nor zero on the diagonal: what flow and distance may be."""
    return matrix(n, n, "strided", ("flow", *seed), dtype, smooth).abs()


def permutation(n: int, seed: object = 0) -> Tensor:
    return torch.randperm(n, generator=generator("permutation", n, seed))


def other_size(n: int) -> int:
    """A second awkward size, to make a matrix of n by something else."""
    return {0: 5, 1: 17, 15: 1, 17: 33, 33: 97, 63: 15, 65: 63, 97: 0, 257: 65}.get(n, n // 2 + 1)


LAYOUTS = ("contiguous", "transposed", "strided")
KINDS = ("random", "grid", "duplicates", "far")


DIMS = (1, 2, 3, 8)


def _variants(sampled: tuple, smooth: bool, shift: int = 0, step: int = 1) -> Iterator[tuple[str, int, str]]:
    """(weight layout, dimension, kind of positions): every dimension with every kind, each with one of the layouts.

    A step takes every step-th of them; three shifts together then still meet all layouts and dimensions. Where a
    metric or dtype shares its code with "l1" in float64 and float32, a few will do: others for each metric, dtype and
    size, which `sampled` are.
    """
    kinds = KINDS[:1] if smooth else KINDS
    metric, dtype, _ = sampled
    if metric != "l1" or dtype in NARROW_DTYPES:
        step, shift = step if smooth else 5 * step, shift + zlib.crc32(repr(sampled).encode())
    every = [(LAYOUTS[(dim + k) % 3], dim, kind) for k, kind in enumerate(kinds) for dim in DIMS]
    yield from every[shift % step :: step]


def connection_cost(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    m = other_size(n)
    lengths = table(metric, dtype)
    for shift, (rows, cols) in enumerate(((n, m), (m, n), (n, n))):
        for layout, dim, kind in _variants((metric, dtype, n), smooth, shift, 2):
            weight = matrix(rows, cols, layout, dtype=dtype, smooth=smooth)
            out_pos = positions(rows, dim, kind, "out", dtype, metric)
            in_pos = positions(cols, dim, kind, "in", dtype, metric)
            yield f"{rows}x{cols}-{layout}-{kind}{dim}", (weight, out_pos, in_pos, metric, 0.7, 0.3, lengths)


def connection_cost_backward(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    needs = [[bool(k & 1), bool(k & 2), bool(k & 4)] for k in range(1, 8)]
    for k, (name, (*arguments, lengths)) in enumerate(connection_cost(dtype, metric, n, smooth)):
        need = needs[k % 7] if metric != "table" else [True, False, False]
        yield name, (torch.tensor(-1.7, dtype=compute(dtype)), *arguments, need, lengths)


def add_grad(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    m = other_size(n)
    for layout, dim, kind in _variants((metric, dtype, n), smooth):
        out_pos = positions(n, dim, kind, "out", dtype, metric)
        in_pos = positions(m, dim, kind, "in", dtype, metric)
        weights = [
            matrix(n, m, layout, dtype=dtype, smooth=smooth),
            matrix(1, n, seed="bias", dtype=dtype, smooth=smooth)[0],
            matrix(m, n, "contiguous", dtype=dtype, smooth=smooth),
            matrix(m, 3, seed="bias", dtype=dtype, smooth=smooth)[:, 1],
        ]
        grads = [matrix(n, m, "strided", "grad", dtype), matrix(1, n, seed="grad", dtype=dtype)[0]]
        grads += [matrix(m, n, "transposed", "grad", dtype), matrix(m, 2, seed="grad", dtype=dtype)[:, 0]]
        outs, ins = [out_pos, out_pos, in_pos, in_pos], [in_pos, out_pos, out_pos, in_pos]
        settings = (metric, -0.6, [1.0, 0.5, 0.25, 2.0], [0.7, 0.0, 1.3, 1.0], [0.3, 0.1, 0.0, 2.0])
        yield f"{n}-{m}-{layout}-{kind}{dim}", (weights, grads, outs, ins, *settings, table(metric, dtype))


def adamw(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    """A connection, a charged bias, a connection that is not charged, and a tensor of three axes."""
    m = other_size(n)
    nowhere = torch.empty(0, 0, dtype=compute(dtype))
    for layout, dim, kind in _variants((metric, dtype, n), smooth):
        out_pos = positions(n, dim, kind, "out", dtype, metric)
        in_pos = positions(m, dim, kind, "in", dtype, metric)
        shapes = ((n, m, layout), (1, n, "contiguous"), (m, n, layout), (m, 6, "contiguous"))

        def tensors(seed, shapes=shapes):
            made = [matrix(a, b, kind, seed, dtype, smooth) for a, b, kind in shapes]
            return [made[0], made[1][0], made[2], made[3].reshape(len(made[3]), 2, 3)]

        squares = [x * x + 0.1 for x in tensors("square")]  # away from 0, where the step amplifies rounding
        outs, ins = [out_pos, nowhere, nowhere, nowhere], [in_pos, nowhere, nowhere, nowhere]
        settings = (
            [torch.tensor(float(taken)) for taken in (0, 6, 0, 299)],
            outs,
            ins,
            metric,
            [1.0, 0.5, 0.0, 0.0],
            [0.7, 0.0, 1.0, 1.0],
            [0.3, 0.1, 1.0, 1.0],
        )
        for proximal in (False, True):
            hyper = [1e-2, 0.9, 0.99, 1e-3, 0.1, 0.5]
            name = f"{n}-{m}-{layout}-{kind}{dim}{'-proximal' if proximal else ''}"
            state = (tensors("w"), tensors("grad"), tensors("mean"), squares)
            yield name, (*state, *settings, hyper, proximal, table(metric, dtype))


def placement_cost(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    sizes = (other_size(n), n, 16)
    for shift, (incoming, outgoing) in enumerate(((0, 0), (1, 0), (0, 1), (2, 1), (1, 2))):
        for layout, dim, kind in _variants((metric, dtype, n), smooth, shift, 3):
            slots = positions(n, dim, kind, "slots", dtype, metric)
            peer_sizes = sizes[: incoming + outgoing]
            weights = [
                matrix(*((n, m) if k < incoming else (m, n)), layout, k, dtype, smooth)
                for k, m in enumerate(peer_sizes)
            ]
            peers = [positions(m, dim, kind, k, dtype, metric) for k, m in enumerate(peer_sizes)]
            name = f"{n}-{incoming}in{outgoing}out-{layout}-{kind}{dim}"
            coefficients = [0.7, 1.0, 0.2][: len(weights)]
            yield name, (slots, weights, peers, incoming, metric, coefficients, table(metric, dtype))


def placement_cost_backward(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    for name, arguments in placement_cost(dtype, metric, n, smooth):
        yield name, (matrix(n, n, "transposed", "grad", compute(dtype)), *arguments)


def swap_deltas(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    """Any cost matrix will do; the metric plays no part."""
    for layout in LAYOUTS:
        cost = matrix(n, n, layout, "cost", dtype, smooth)
        for moved in (None, permutation(n)):
            name = f"{n}-{layout}{'' if moved is None else '-moved'}"
            yield name, (cost, moved, None, None)
            flow, distance = (flow_matrix(n, k, dtype=dtype, smooth=smooth) for k in ("flow", "distance"))
            yield f"{name}-recurrent", (cost, moved, flow, distance)
    if not smooth:
        # Small integers: exact in every dtype, so that ties are ties everywhere.
        tied = matrix(n, n, "contiguous", "ties", dtype).round()
        yield f"{n}-ties", (tied, None, None, None)
        yield f"{n}-ties-moved-recurrent", (tied.T, permutation(n), tied.abs(), tied.T.abs())
        index = torch.arange(n, dtype=dtype)
        yield f"{n}-best-as-it-is", ((index[:, None] - index).abs(), None, None, None)
        yield f"{n}-all-equal", (torch.full((n, n), 0.1, dtype=dtype), permutation(n), None, None)


def swap_deltas_backward(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    for name, arguments in swap_deltas(dtype, metric, n, smooth):
        yield name, (matrix(n, n, "transposed", "grad", dtype), *arguments)


def placement_swaps(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    for name, arguments in placement_cost(dtype, metric, n, smooth):
        for top_k in (None, 0, 9):
            yield f"{name}-{top_k}", (*arguments[:-1], top_k, arguments[-1])


def quadratic_walks(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    """Three walks each, on integers, so that every backend goes the same way; in int32 for the dtype float32."""
    kept = torch.int32 if dtype == torch.float32 else torch.float64
    off_diagonal = 1 - torch.eye(n, dtype=torch.float64)

    def whole(seed):
        return (20 * flow_matrix(n, seed)).round() * off_diagonal

    for symmetric, sparse, tabu in (
        (True, False, True),
        (False, True, True),
        (True, True, False),
        (False, False, False),
    ):
        flow, distance, linear = (whole((k, symmetric)) for k in ("flow", "distance", "linear"))
        if symmetric:
            flow, distance = flow + flow.T, distance + distance.T
        if sparse:
            flow = flow * (flow > 40)
        matrices = [None if x is None else x.to(kept) for x in (flow, distance, 9 * linear if sparse else None)]
        starts = torch.stack([permutation(n, k) for k in range(3)])
        seeds = torch.arange(5, 8) * 2**59
        limits, costs = torch.tensor([40, 0, 55]), torch.zeros(3, dtype=torch.float64)
        results = (starts, seeds, limits, costs, torch.zeros_like(limits), None)
        name = f"{n}-{'symmetric' if symmetric else 'general'}-{'tabu' if tabu else 'descent'}"
        yield name, (*matrices, *results, tabu, symmetric, 0.0, float("inf"))


def labelled(n: int, clusters: int, dim: int, permutations: int = 3) -> tuple:
    """Labels of which some clusters may have none, up to three neighbours each, points; and the numbers of an op."""
    g = generator("labels", n, clusters, dim)
    labels = torch.randint(clusters, (n,), generator=g) if n else torch.empty(0, dtype=torch.int64)
    near = torch.randint(-1, max(n, 1), (n, 3), generator=g)
    return labels, near, positions(n, dim, "random", "labels"), clusters, permutations, 2**62 + n


def label_nulls(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    """In float64, whatever the dtype."""
    for clusters, dim in ((1, 1), (4, 2), (n + 3, 5)):
        labels, near, points, *numbers = labelled(n, clusters, dim)
        yield f"{n}-{clusters}-{dim}", (labels, near, points, *numbers)
        yield f"{n}-{clusters}-{dim}-strided", (labels, near.T.contiguous().T, points.repeat(1, 2)[:, ::2], *numbers)


def permute_(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    """Tensors of one to four axes in several layouts, of which some of the places along one axis move."""
    place = permutation(n, "moving")
    to = place[: n - n // 3]
    source = to.roll(1)
    m = 16
    along = {
        "vector": (matrix(1, n, dtype=dtype)[0], 0),
        "strided-vector": (matrix(n, 3, dtype=dtype)[:, 1], 0),
        "rows": (matrix(n, m, dtype=dtype), 0),
        "odd-rows": (matrix(n, 7, dtype=dtype), 0),
        "columns": (matrix(m, n, dtype=dtype), 1),
        "rows-of-a-transpose": (matrix(n, m, "transposed", dtype=dtype), 0),
        "strided-rows": (matrix(n, m, "strided", dtype=dtype), 0),
        "kernel": (matrix(4 * n, 9, dtype=dtype).reshape(4, n, 3, 3), 1),
        "channels-last": (
            matrix(4 * n, 12, dtype=dtype).reshape(4, n, 3, 4).to(memory_format=torch.channels_last),
            1,
        ),
        "gaps-everywhere": (matrix(6 * n, 30, dtype=dtype).reshape(6, n, 5, 6)[::2, :, 1::2, ::3], 1),
    }
    for name, (tensor, axis) in along.items():
        yield f"{n}-{name}", (tensor, axis, to, source)
    yield f"{n}-nothing", (matrix(n, m, dtype=dtype), 0, to[:0], source[:0])


SAMPLES: dict[str, Callable[..., Iterator[Sample]]] = {
    "connection_cost": connection_cost,
    "connection_cost_backward": connection_cost_backward,
    "add_grad": add_grad,
    "adamw": adamw,
    "placement_cost": placement_cost,
    "placement_cost_backward": placement_cost_backward,
    "swap_deltas": swap_deltas,
    "swap_deltas_backward": swap_deltas_backward,
    "best_swaps": swap_deltas,
    "placement_swaps": placement_swaps,
    "quadratic_walks": quadratic_walks,
    "label_nulls": label_nulls,
    "permute_": permute_,
}


def mapped(arguments: object, change: Callable[[Tensor], object]) -> object:
    """The same arguments with every tensor changed, inside lists and tuples too."""
    if isinstance(arguments, Tensor):
        return change(arguments)
    if isinstance(arguments, (list, tuple)):
        return type(arguments)(mapped(value, change) for value in arguments)
    return arguments


def tensors(arguments: object) -> list[Tensor]:
    found: list[Tensor] = []
    mapped(arguments, found.append)
    return found


def fresh(arguments: tuple, dtype: torch.dtype | None = None, device: str = "cpu") -> tuple:
    """Copies with the same strides, float tensors in another dtype if wanted."""

    def copy(x: Tensor) -> Tensor:
        kind = dtype if dtype is not None and x.is_floating_point() else x.dtype
        last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        memory = torch.zeros(last + 1 if x.numel() else 0, dtype=kind, device=device)
        return memory.as_strided(x.shape, x.stride()).copy_(x)

    return mapped(arguments, copy)


device = "cpu"  # where call puts its arguments: where the backend under test is (conftest.py)
CHANGED = {  # the arguments that an op changes in place
    "add_grad": (1,),
    "adamw": (0, 2, 3, 4),
    "quadratic_walks": (3, 6, 7),
    "permute_": (0,),
}


def call(op: str, arguments: tuple, where: str | None = None) -> list[Tensor]:
    """Runs an op on copies of its arguments, where the backend is if nowhere else; what it returned or changed."""
    arguments = fresh(arguments, device=where or device)
    result = getattr(torch.ops.bimt_fast, op)(*arguments)
    results = [result] if isinstance(result, Tensor) else list(result or ())
    changed = [arguments[k] for k in CHANGED.get(op, ())]
    results += [x for part in changed for x in ([part] if isinstance(part, Tensor) else part)]
    return [x.cpu() for x in results]


def mlp(*shape: int, seed: object = 0, dtype: torch.dtype = torch.float64, **settings) -> bf.nn.BioMLP:
    """A BioMLP whose weights depend on nothing but the seed."""
    model = bf.nn.BioMLP(shape, dtype=dtype, **settings)
    for name, parameter in model.named_parameters():
        parameter.data = torch.randn(parameter.shape, generator=generator(name, seed), dtype=torch.float64).to(dtype)
    return model


def wiring_as_placed(model: bf.nn.BioMLP) -> bf.Wiring:
    """A fresh wiring of a BioMLP in which every neuron is declared where it now sits."""
    groups = model.wiring.groups
    axes = {f"layers.{k}.weight": (groups[k + 1], groups[k]) for k in range(len(groups) - 1)}
    axes |= {f"layers.{k}.bias": (groups[k + 1],) for k in range(len(groups) - 1)}
    return bf.Wiring(model, {g: model.wiring.neuron_positions(g) for g in groups}, axes)

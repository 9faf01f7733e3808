"""Sample inputs of every op, in the order of its schema: parity, gradient, opcheck and thread tests all use them.

SAMPLES[op](dtype, metric, n) yields (id, arguments) with one axis of n neurons; every call makes the same numbers.
`smooth=True` keeps away from kinks and ties, so that finite differences hold.
"""

import zlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

import bimt_fast as bf

SIZES = (0, 1, 15, 17, 33, 63, 65, 97, 257)  # around the widths of vectors and tiles
DTYPES = (torch.float64, torch.float32)
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}  # of the largest magnitude involved

Sample = tuple[str, tuple]


def generator(*seed: object) -> torch.Generator:
    return torch.Generator().manual_seed(zlib.crc32(repr(seed).encode()))


def positions(n: int, dim: int, kind: str, seed: object = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """(n, dim) points in [0, 1): random, on a grid, many at the same places, or far from the origin."""
    random = torch.rand(n, dim, generator=generator("positions", n, dim, kind, seed), dtype=torch.float64)
    if kind == "grid":
        side = max(1, round(n ** (1 / dim)))
        index = torch.arange(n)
        cells = [index // side**axis % side for axis in range(dim - 1)] + [index // side ** (dim - 1)]
        random = (torch.stack(cells, 1) + 0.5) / side
    elif kind == "duplicates":
        random = (3 * random).floor() / 4
    elif kind == "far":
        random = random + 1000
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


def _variants(smooth: bool, shift: int = 0, step: int = 1) -> Iterator[tuple[str, int, str]]:
    """(weight layout, dimension, kind of positions): every dimension with every kind, each with one of the layouts.

    A step takes every step-th of them; three shifts together then still meet all layouts and dimensions.
    """
    kinds = KINDS[:1] if smooth else KINDS
    every = [(LAYOUTS[(dim + k) % 3], dim, kind) for k, kind in enumerate(kinds) for dim in (1, 2, 3)]
    yield from every[shift % step :: step]


def connection_cost(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    m = other_size(n)
    for shift, (rows, cols) in enumerate(((n, m), (m, n), (n, n))):
        for layout, dim, kind in _variants(smooth, shift, 2):
            weight = matrix(rows, cols, layout, dtype=dtype, smooth=smooth)
            out_pos = positions(rows, dim, kind, "out", dtype)
            in_pos = positions(cols, dim, kind, "in", dtype)
            yield f"{rows}x{cols}-{layout}-{kind}{dim}", (weight, out_pos, in_pos, metric, 0.7, 0.3)


def connection_cost_backward(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    needs = [[bool(k & 1), bool(k & 2), bool(k & 4)] for k in range(1, 8)]
    for k, (name, arguments) in enumerate(connection_cost(dtype, metric, n, smooth)):
        yield name, (torch.tensor(-1.7, dtype=dtype), *arguments, needs[k % 7])


def add_grad(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    m = other_size(n)
    for layout, dim, kind in _variants(smooth):
        out_pos, in_pos = positions(n, dim, kind, "out", dtype), positions(m, dim, kind, "in", dtype)
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
        yield f"{n}-{m}-{layout}-{kind}{dim}", (weights, grads, outs, ins, *settings)


def placement_cost(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    sizes = (other_size(n), n, 16)
    for shift, (incoming, outgoing) in enumerate(((0, 0), (1, 0), (0, 1), (2, 1), (1, 2))):
        for layout, dim, kind in _variants(smooth, shift, 3):
            slots = positions(n, dim, kind, "slots", dtype)
            peer_sizes = sizes[: incoming + outgoing]
            weights = [
                matrix(*((n, m) if k < incoming else (m, n)), layout, k, dtype, smooth)
                for k, m in enumerate(peer_sizes)
            ]
            peers = [positions(m, dim, kind, k, dtype) for k, m in enumerate(peer_sizes)]
            name = f"{n}-{incoming}in{outgoing}out-{layout}-{kind}{dim}"
            yield name, (slots, weights, peers, incoming, metric, [0.7, 1.0, 0.2][: len(weights)])


def placement_cost_backward(dtype: torch.dtype, metric: str, n: int, smooth=False) -> Iterator[Sample]:
    for name, arguments in placement_cost(dtype, metric, n, smooth):
        yield name, (matrix(n, n, "transposed", "grad", dtype), *arguments)


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
            yield f"{name}-{top_k}", (*arguments, top_k)


SAMPLES: dict[str, Callable[..., Iterator[Sample]]] = {
    "connection_cost": connection_cost,
    "connection_cost_backward": connection_cost_backward,
    "add_grad": add_grad,
    "placement_cost": placement_cost,
    "placement_cost_backward": placement_cost_backward,
    "swap_deltas": swap_deltas,
    "swap_deltas_backward": swap_deltas_backward,
    "best_swaps": swap_deltas,
    "placement_swaps": placement_swaps,
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


def fresh(arguments: tuple, dtype: torch.dtype | None = None) -> tuple:
    """Copies with the same strides, float tensors in another dtype if wanted."""

    def copy(x: Tensor) -> Tensor:
        kind = dtype if dtype is not None and x.is_floating_point() else x.dtype
        last = sum((size - 1) * stride for size, stride in zip(x.shape, x.stride(), strict=True))
        memory = torch.zeros(last + 1 if x.numel() else 0, dtype=kind)
        return memory.as_strided(x.shape, x.stride()).copy_(x)

    return mapped(arguments, copy)


def call(op: str, arguments: tuple) -> list[Tensor]:
    """Runs an op on copies of the arguments; the tensors it returned or changed, in a list."""
    arguments = fresh(arguments)
    result = getattr(torch.ops.bimt_fast, op)(*arguments)
    results = [result] if isinstance(result, Tensor) else list(result)
    return results + (arguments[1] if op == "add_grad" else [])


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

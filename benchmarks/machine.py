"""What this machine can do, measured in the run that uses it: bandwidth, arithmetic, and what fresh memory costs."""

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass
from itertools import pairwise
from statistics import median
from time import perf_counter

import numpy as np
import torch

from bimt_fast import backends

try:
    import resource
except ImportError:  # Windows
    resource = None

ELEMENTS = 1 << 26  # of each array, in float32: 256 MiB, several times the largest cache
SIDE = 2048  # of the matrices whose product gives the rate of arithmetic
ROUNDS = 9


@dataclass(frozen=True)
class Work:
    """What a kernel cannot avoid, by formula: arrays read and written once, and operations.

    Attributes:
        read: bytes.
        written: bytes.
        flops: additions, multiplications, absolute values, minima, roots and the like, each one.
        result: bytes among the written ones that go to a fresh result.
    """

    read: int
    written: int
    flops: int
    result: int = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Limits:
    """The best that anything reached here: bytes read, bytes moved either way, and operations, each a second.

    Write-backs go on beside reads, so that neither of the first two rates says it all.
    """

    reading: float
    moving: float
    arithmetic: float

    def floor(self, work: Work) -> float:
        """Seconds below which work cannot come, at the rate that it meets first."""
        moved = (work.read + work.written) / self.moving
        return max(work.read / self.reading, moved, work.flops / self.arithmetic)


def describe() -> None:
    """Prints processor, threads, versions, and the backends with the instruction set in use."""
    print(f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, NumPy {np.__version__}")
    for name, able, text in backends.describe():
        print(f"backend {name}: {'available' if able else 'not available'} ({text})")


def measure() -> Limits:
    """Measures reading, copy, triad and a matrix product by every implementation at hand, and prints them."""
    a, b, c = (torch.rand(ELEMENTS) for _ in range(3))
    x, product = torch.rand(SIDE, SIDE), torch.empty(SIDE, SIDE)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        implementations = _implementations(a, b, c, pool)
        times = interleaved({name: run for name, (_, _, run) in implementations.items()})
    print(f"bandwidth, float32 arrays of {4 * ELEMENTS >> 20} MiB, median; write-allocates are not counted:")
    reading, moving = [], []
    for name, (reads, writes, _) in implementations.items():
        seconds = median(times[name])
        reading.append(4 * ELEMENTS * reads / seconds)
        moving.append(4 * ELEMENTS * (reads + writes) / seconds)
        print(f"  {name:<42} {1e3 * seconds:10.3f} ms  {moving[-1] / 1e9:6.1f} GB/s")
    seconds = median(interleaved({"product": lambda: torch.mm(x, x, out=product)})["product"])
    limits = Limits(max(reading), max(moving), 2 * SIDE**3 / seconds)
    print(
        f"the floors follow from the best of these: {limits.reading / 1e9:.1f} GB/s read, {limits.moving / 1e9:.1f}"
        f" GB/s read and written, {limits.arithmetic / 1e9:.0f} GFLOP/s (torch.mm, {SIDE} x {SIDE})"
    )
    return limits


def _implementations(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, pool: ThreadPoolExecutor
) -> dict[str, tuple[int, int, Callable[[], object]]]:
    """name -> (arrays read, arrays written, function). NumPy runs one part a thread."""
    x, y, z = a.numpy(), b.numpy(), c.numpy()
    edges = np.linspace(0, ELEMENTS, torch.get_num_threads() + 1, dtype=int)
    parts = [slice(*pair) for pair in pairwise(edges)]

    def in_parts(run: Callable[[slice], object]) -> Callable[[], object]:
        return lambda: list(pool.map(run, parts))

    return {
        "read: torch.sum": (1, 0, a.sum),
        "read: torch.dot": (2, 0, lambda: torch.dot(a, b)),
        "copy: torch copy_": (1, 1, lambda: c.copy_(a)),
        "copy: NumPy copyto, one thread": (1, 1, lambda: np.copyto(z, x)),
        "copy: NumPy copyto, all threads": (1, 1, in_parts(lambda part: np.copyto(z[part], x[part]))),
        "copy: torch clone, fresh result": (1, 1, a.clone),
        "scale: torch mul_, in place": (1, 1, lambda: c.mul_(1.000001)),
        "triad: torch.add(out=)": (2, 1, lambda: torch.add(a, b, alpha=0.5, out=c)),
        "triad: torch add_, in place": (2, 1, lambda: c.add_(a, alpha=1e-6)),
        "triad: NumPy add(out=), all threads": (2, 1, in_parts(lambda part: np.add(x[part], y[part], out=z[part]))),
        "triad: torch.add, fresh result": (2, 1, lambda: torch.add(a, b, alpha=0.5)),
    }


def interleaved(
    functions: dict[str, Callable[[], object]],
    rounds: int = ROUNDS,
    warm_up: int = 1,
    repeats: int = 1,
    fresh: Callable[[], None] | None = None,
) -> dict[str, list[float]]:
    """Seconds of each call, the functions taking turns; `fresh` runs untimed before each."""
    times: dict[str, list[float]] = {name: [] for name in functions}
    for round_ in range(warm_up + rounds):
        for name, function in functions.items():
            if fresh is not None:
                fresh()
            start = perf_counter()
            for _ in range(repeats):
                function()
            elapsed = perf_counter() - start
            if round_ >= warm_up:
                times[name].append(elapsed / repeats)
    return times


def page_faults(function: Callable[[], object]) -> int | None:
    """How many pages a call had the system map and zero; None where the system does not say."""
    if resource is None:
        return None
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    function()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def allocation(count: int) -> tuple[float, float]:
    """Seconds to write a fresh result of so many bytes, and to write the same memory again."""
    reused = torch.empty(count, dtype=torch.uint8)
    times = interleaved({"fresh": lambda: torch.empty_like(reused).zero_(), "reused": reused.zero_}, rounds=5)
    return median(times["fresh"]), median(times["reused"])


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()

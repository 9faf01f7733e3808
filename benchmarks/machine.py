"""What this machine can do, measured in the run that uses it: bandwidth, arithmetic, and what fresh memory costs."""

import platform
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from statistics import median
from time import perf_counter

import numpy as np
import torch

from bimt_fast import backends

try:
    import resource
except ImportError:  # Windows
    resource = None

ELEMENTS = 1 << 25  # of each array, in float32: 128 MiB, several times the largest cache
SIDE = 2048  # of the matrices whose product gives the rate of arithmetic
ROUNDS = 9


@dataclass(frozen=True)
class Limits:
    """Bytes and operations a second, the best that anything reached here."""

    bandwidth: float
    arithmetic: float

    def floor(self, bytes_moved: int, flops: int) -> float:
        """Seconds below which work cannot come: moving its bytes, or doing its arithmetic, whichever takes longer."""
        return max(bytes_moved / self.bandwidth, flops / self.arithmetic)


def describe() -> None:
    """Prints processor, threads, versions, and the backends with the instruction set in use."""
    print(f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}, NumPy {np.__version__}")
    for name, able, text in backends.describe():
        print(f"backend {name}: {'available' if able else 'not available'} ({text})")


def measure() -> Limits:
    """Measures copy, triad and a matrix product by every implementation at hand, interleaved, and prints them."""
    a, b, c = (torch.rand(ELEMENTS) for _ in range(3))
    x, product = torch.rand(SIDE, SIDE), torch.empty(SIDE, SIDE)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        moved = {name: (arrays, run) for name, (arrays, run) in _implementations(a, b, c, pool).items()}
        times = interleaved({name: run for name, (_, run) in moved.items()})
    print(f"bandwidth, arrays of {4 * ELEMENTS >> 20} MiB:")
    rates = {}
    for name, (arrays, _) in moved.items():
        rates[name] = 4 * ELEMENTS * arrays / median(times[name])
        print(f"  {name:<38} {1e3 * median(times[name]):10.3f} ms  {rates[name] / 1e9:6.1f} GB/s")
    seconds = median(interleaved({"product": lambda: torch.mm(x, x, out=product)})["product"])
    limits = Limits(max(rates.values()), 2 * SIDE**3 / seconds)
    print(
        f"floors below: {limits.bandwidth / 1e9:.1f} GB/s, the best of these, and {limits.arithmetic / 1e9:.0f}"
        f" GFLOP/s, torch.mm at {SIDE}"
    )
    return limits


def _implementations(
    a: torch.Tensor, b: torch.Tensor, c: torch.Tensor, pool: ThreadPoolExecutor
) -> dict[str, tuple[int, Callable[[], object]]]:
    """name -> (arrays read and written, function). NumPy runs one part a thread; its copy may pass by the caches."""
    x, y, z = a.numpy(), b.numpy(), c.numpy()
    parts = [slice(int(p[0]), int(p[-1]) + 1) for p in np.array_split(np.arange(ELEMENTS), pool._max_workers)]
    return {
        "copy: torch copy_": (2, lambda: c.copy_(a)),
        "copy: NumPy copyto, one thread": (2, lambda: np.copyto(z, x)),
        "copy: NumPy copyto, all threads": (2, lambda: list(pool.map(lambda p: np.copyto(z[p], x[p]), parts))),
        "copy: torch clone, fresh result": (2, a.clone),
        "triad: torch.add(out=)": (3, lambda: torch.add(a, b, alpha=0.5, out=c)),
        "triad: torch add_, in place": (3, lambda: c.add_(a, alpha=1e-6)),
        "triad: NumPy add(out=), all threads": (
            3,
            lambda: list(pool.map(lambda p: np.add(x[p], y[p], out=z[p]), parts)),
        ),
        "triad: torch.add, fresh result": (3, lambda: torch.add(a, b, alpha=0.5)),
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

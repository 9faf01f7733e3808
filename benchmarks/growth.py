"""How time grows from n = 256 to 16384: the matrix-free swap search against torch.add on n x n, and the other kernels.

Prints time, ratio and extra memory of the search for grids and lines, the exponent of the ratio from n = 2048 on, the
search for l2 against one on its placement cost, and the times of the rest, and writes the picture. Part of
`make bench`; `--largest 4096` for a short run. Peak memory is read on Linux only.
"""

import argparse
import ctypes
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median

import numpy as np
from machine import interleaved
from rows import AdamW, MatrixFree, Penalty, Row, Swaps

ROUNDS = 7
FIT_FROM = 2048
LARGEST_PRODUCT = 4096  # O(n^3), seconds at this size
KERNELS: dict[str, Callable[[int], Row]] = {
    "cost and gradient, 1-D": Penalty,
    "AdamW step with penalty, 1-D": AdamW,
    "all swap deltas and partners, 2-D": lambda n: Swaps(n, "2-D"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=16384, help="largest n")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/growth.png"), help="where to draw")
    options = parser.parse_args()
    sizes = [2**k for k in range(8, 1 + int(math.log2(options.largest)))]
    searches = {layout: _search(sizes, layout) for layout in ("2-D", "1-D")}
    _product_search([n for n in sizes if FIT_FROM <= n <= LARGEST_PRODUCT])
    kernels = {name: _kernel(sizes, name, make) for name, make in KERNELS.items()}
    _draw(sizes, searches, kernels, options.out)
    print(f"written: {options.out}")
    return 0


def _search(sizes: list[int], layout: str) -> list[tuple[float, float]]:
    """Seconds of the matrix-free search and of torch.add, for every size."""
    print(f"matrix-free swap search, two n x n float32 weights, {layout}: median of interleaved runs")
    found, ratios = [], []
    for n in sizes:
        row = MatrixFree(n, layout)
        row.prepare()
        row.add()
        extra = _peak_of(row.ours)
        times = interleaved({"ours": row.ours, "add": row.add}, ROUNDS, warm_up=0)
        ours, add = median(times["ours"]), median(times["add"])
        line = f"  n = {n:5d} {1e3 * ours:9.2f} ms   torch.add {1e3 * add:8.2f} ms   {ours / add:6.2f}x"
        if n >= FIT_FROM:  # below, the allocator's own pages are all one sees
            ratios.append((math.log(n), math.log(ours / add)))
            if extra is not None:
                line += f"   extra memory {100 * extra / (8 * n * n):4.1f} % of the weights"
        print(line)
        found.append((ours, add))
    if len(ratios) > 1:
        print(f"  the ratio grows with exponent {np.polyfit(*zip(*ratios, strict=True), 1)[0]:.3f} in n")
    return found


def _product_search(sizes: list[int]) -> None:
    """The search for a metric that is no sum over coordinates, against its placement cost and a search on that."""
    print("matrix-free swap search, two n x n float32 weights, 2-D l2: median of interleaved runs")
    for n in sizes:
        row = MatrixFree(n, "2-D", "l2")
        row.prepare()
        extra = _peak_of(row.ours)
        times = interleaved({"ours": row.ours, "matrix": row.with_matrix}, 3, warm_up=0)
        ours, matrix = median(times["ours"]), median(times["matrix"])
        line = f"  n = {n:5d} {1e3 * ours:9.2f} ms   with the matrix {1e3 * matrix:9.2f} ms   {ours / matrix:6.2f}x"
        print(line + ("" if extra is None else f"   extra memory {100 * extra / (8 * n * n):4.1f} % of the weights"))


def _kernel(sizes: list[int], name: str, make: Callable[[int], Row]) -> list[float]:
    """Seconds of another kernel for every size."""
    seconds = []
    for n in sizes:
        row = make(n)
        row.prepare()
        seconds.append(median(interleaved({name: row.ours}, ROUNDS)[name]))
    print(f"{name}: " + ", ".join(f"{n}: {1e3 * s:.3g} ms" for n, s in zip(sizes, seconds, strict=True)))
    return seconds


def _peak_of(run: Callable[[], object]) -> int | None:
    try:
        ctypes.CDLL(None).malloc_trim(0)  # else what earlier calls freed would be used again, unseen
        Path("/proc/self/clear_refs").write_text("5")  # forgets the peak so far
        before = _status("VmRSS")
        run()
        return _status("VmHWM") - before
    except (OSError, AttributeError):
        run()
        return None


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def _draw(
    sizes: list[int], searches: dict[str, list[tuple[float, float]]], kernels: dict[str, list[float]], path: Path
) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for layout, times in searches.items():
        ours, add = 1e3 * np.array(times).T
        left.loglog(sizes, ours, "o-", markersize=3, label=f"all best swaps, matrix-free, {layout}")
    left.loglog(sizes, add, "k--", linewidth=1, label="torch.add on n x n")
    for name, seconds in kernels.items():
        right.loglog(sizes, 1e3 * np.array(seconds), "o-", markersize=3, label=name)
    for ax in (left, right):
        ax.set(xlabel="neurons n")
        ax.legend(frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    left.set(ylabel="milliseconds")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    sys.exit(main())

"""How the matrix-free swap search grows: n = 256 to 16384, against torch.add on n x n in the same run.

Prints time, ratio and extra memory for grids and lines, the exponent of the ratio from n = 2048 on, and writes the
picture. Part of `make bench`; `--largest 4096` for a short run. Peak memory is read on Linux only.
"""

import argparse
import ctypes
import math
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import torch

import bimt_fast as bf

ROUNDS = 7
FIT_FROM = 2048


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--largest", type=int, default=16384, help="largest n")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/growth.png"), help="where to draw")
    options = parser.parse_args()
    sizes = [2**k for k in range(8, 1 + int(math.log2(options.largest)))]
    print("matrix-free swap search, two n x n float32 weights: median of interleaved runs")
    curves = {}
    for layout in ("grid", "line"):
        rows = [(n, *_measure(n, layout)) for n in sizes]
        for n, ours, add, extra in rows:
            line = f"  {layout} n = {n:5d} {1e3 * ours:9.2f} ms   torch.add {1e3 * add:8.2f} ms   {ours / add:6.2f}x"
            if extra is not None and n >= FIT_FROM:  # below, the allocator's own pages are all one sees
                line += f"   extra memory {100 * extra / (8 * n * n):4.1f} % of the weights"
            print(line)
        fitted = [(math.log(n), math.log(ours / add)) for n, ours, add, _ in rows if n >= FIT_FROM]
        if len(fitted) > 1:
            print(f"  {layout}: the ratio grows with exponent {np.polyfit(*zip(*fitted, strict=True), 1)[0]:.3f} in n")
        curves[layout] = rows
    _draw(curves, options.out)
    print(f"written: {options.out}")
    return 0


def _measure(n: int, layout: str) -> tuple[float, float, int | None]:
    """Seconds of ours and of torch.add, and bytes by which ours raised the peak."""
    rows = 2 ** (int(math.log2(n)) // 2)
    slots = bf.geometry.line(n) if layout == "line" else bf.geometry.grid((rows, n // rows))
    model = torch.nn.Sequential(torch.nn.Linear(n, n, bias=False), torch.nn.Linear(n, n, bias=False))
    places = {group: slots for group in ("in", "hidden", "out")}
    wiring = bf.Wiring(model, places, {"0.weight": ("hidden", "in"), "1.weight": ("out", "hidden")})
    w, v, out = model[0].weight.detach(), model[1].weight.detach(), torch.empty(n, n)
    torch.add(w, v, out=out)
    extra = _peak_of(lambda: wiring.best_swaps("hidden"))
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(ROUNDS):
        for seconds, run in zip(
            times, (lambda: wiring.best_swaps("hidden"), lambda: torch.add(w, v, out=out)), strict=True
        ):
            start = perf_counter()
            run()
            seconds.append(perf_counter() - start)
    return median(times[0]), median(times[1]), extra


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


def _draw(curves: dict[str, list[tuple]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3.6), layout="constrained")
    ax = figure.subplots()
    for (layout, rows), colour in zip(curves.items(), ("tab:blue", "tab:red"), strict=True):
        n, ours, add, _ = (np.array(column) for column in zip(*rows, strict=True))
        ax.loglog(n, 1e3 * ours, "o-", color=colour, markersize=3, label=f"all best swaps, {layout}")
    ax.loglog(n, 1e3 * add, "k--", linewidth=1, label="torch.add on n x n")
    ax.set(xlabel="neurons n", ylabel="milliseconds")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160)


if __name__ == "__main__":
    sys.exit(main())

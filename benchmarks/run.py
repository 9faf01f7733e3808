"""Measures every row of rows.py, contenders interleaved in one run, and prints a table. `make bench`."""

import argparse
import json
import platform
import sys
from pathlib import Path
from statistics import median, quantiles
from time import perf_counter

import torch
from rows import Row, all_rows

from bimt_fast import backends


def main() -> int:
    """Returns how many rows were wrong."""
    options = _options()
    print(f"{_processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    for name, able, text in backends.describe():
        print(f"backend {name}: {'available' if able else 'not available'} ({text})")
    medians, wrong = {}, 0
    for build in all_rows():
        try:
            row = build()
        except (AttributeError, TypeError, NotImplementedError) as error:
            print(f"\nleft out: {error}")  # another revision's package, without what the row needs
            continue
        if options.only in row.name:
            if options.ours:
                row.contenders = dict(list(row.contenders.items())[:1])
            seconds = _report(row)
            wrong += seconds is None
            medians[row.name] = seconds
    if options.json:
        options.json.write_text(json.dumps({name: s for name, s in medians.items() if s is not None}))
    return wrong


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--ours", action="store_true", help="only our contender of each row")
    parser.add_argument("--json", type=Path, help="where to write our medians in seconds, by row")
    return parser.parse_args()


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as lines:
            return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _report(row: Row) -> float | None:
    """Prints one row; returns our median in seconds, None where the result was wrong."""
    print(f"\n{row.name}")
    error = row.check()
    if not error <= row.tolerance:
        print(f"  WRONG: relative error {error:.1e}, allowed {row.tolerance:.0e}; no speed is shown")
        return None
    times = _measure(row)
    first, *_ = times
    for name, seconds in times.items():
        middle = median(seconds)
        ratio = "" if name == first else f"  {middle / median(times[first]):8.2f}x"
        moves = row.bytes_moved and (name == first or name.startswith("bandwidth"))
        rate = f"  {row.bytes_moved / middle / 1e9:5.1f} GB/s" if moves else ""
        print(f"  {name:<38} {1e3 * middle:10.3f} ms  ±{1e3 * _spread(seconds):.3f}{ratio}{rate}")
    print(f"  relative error of bimt_fast against float64: {error:.1e}")
    return median(times[first])


def _measure(row: Row) -> dict[str, list[float]]:
    times: dict[str, list[float]] = {name: [] for name in row.contenders}
    for round_ in range(row.rounds + 1):
        for name, function in row.contenders.items():
            row.fresh()
            start = perf_counter()
            function()
            elapsed = perf_counter() - start
            if round_ or row.rounds < 3:  # the first round warms up, unless runs are few and long
                times[name].append(elapsed)
    return times


def _spread(seconds: list[float]) -> float:
    """Half the distance between the quartiles."""
    low, _, high = quantiles(seconds, n=4)
    return (high - low) / 2


if __name__ == "__main__":
    sys.exit(main())

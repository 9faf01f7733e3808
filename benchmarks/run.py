"""Measures every row of rows.py, contenders interleaved in one run, and prints a table. `make bench`."""

import argparse
import json
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import median, quantiles

import machine
from rows import Row, all_rows


def main() -> int:
    """Returns how many rows were wrong."""
    options = _options()
    machine.describe()
    limits = None if options.ours else machine.measure()
    medians, wrong = {}, 0
    for row in all_rows():
        if options.only not in row.name:
            continue
        try:
            row.prepare()
        except (AttributeError, TypeError, NotImplementedError) as error:
            print(f"\n{row.name}\n  left out: {error}")  # another revision's package, without what the row needs
            continue
        seconds = _report(row, limits)
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


def _report(row: Row, limits: machine.Limits | None) -> float | None:
    """Prints one row; returns our median in seconds, None where the result was wrong."""
    print(f"\n{row.name}")
    error = row.check()
    if not error <= row.tolerance:
        print(f"  WRONG: relative error {error:.1e}, allowed {row.tolerance:.0e}; no speed is shown")
        return None
    contenders = row.contenders()
    first, *_ = contenders
    if limits is None:
        contenders = {first: contenders[first]}
    times = machine.interleaved(contenders, row.rounds, int(row.rounds > 2), row.repeats, row.fresh)
    parts = {name: median(times[name]) / often for name, often in row.every.items() if name in times}
    own = median(times[first]) + sum(parts.values())
    for name, seconds in times.items():
        ratio = "" if name == first else f"  {median(seconds) / own:8.2f}x"
        if name in parts:
            ratio = f"  1/{row.every[name]} of it is counted as ours"
        print(f"  {name:<42} {1e3 * median(seconds):10.3f} ms  {_spread(seconds)}{ratio}")
    if limits is not None:
        _print_floor(row, contenders[first], own, limits)
    print(f"  relative error of bimt_fast: {error:.1e}")
    return own


def _print_floor(row: Row, ours: Callable[[], object], seconds: float, limits: machine.Limits) -> None:
    work = row.work()
    if work is None:
        return
    floor, moved = limits.floor(work), work.read + work.written
    print(
        f"  floor {1e3 * floor:.3f} ms for {moved / 1e6:.0f} MB and {work.flops / 1e9:.2f} GFLOP:"
        f" {100 * floor / seconds:.0f} % of it reached, {moved / seconds / 1e9:.1f} GB/s"
    )
    faults = machine.page_faults(ours)
    if work.result:
        fresh, reused = machine.allocation(work.result)
        print(
            f"  allocation: {faults} page faults in a call; a fresh result of {work.result >> 20} MiB is written in"
            f" {1e3 * fresh:.3f} ms by torch, a reused one in {1e3 * reused:.3f} ms"
        )
    elif faults is not None:
        print(f"  allocation: {faults} page faults in a call")


def _spread(seconds: list[float]) -> str:
    """Half the distance between the quartiles, in milliseconds."""
    if len(seconds) < 2:
        return "once"
    low, _, high = quantiles(seconds, n=4)
    return f"±{1e3 * (high - low) / 2:.3f}"


if __name__ == "__main__":
    sys.exit(main())

"""This working tree against another git revision, in a worktree of its own. `make bench-compare REV=main~3`."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent


def main() -> int:
    """Prints the median of ours in both, row by row, measured by this tree's benchmarks in turns."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision")
    parser.add_argument("--only", default="", help="rows whose name contains this")
    parser.add_argument("--turns", type=int, default=3, help="how often each tree runs; the best median counts")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "worktree", "add", "--detach", str(other), options.revision], cwd=ROOT, check=True)
        try:
            subprocess.run([sys.executable, "setup.py", "-q", "build_ext", "--inplace"], cwd=other, check=True)
            trees = {"here": ROOT, options.revision: other}
            best: dict[str, dict[str, float]] = {name: {} for name in trees}
            for _ in range(options.turns):
                for name, tree in trees.items():
                    for row, seconds in _measure(tree, options.only, Path(folder) / "result.json").items():
                        best[name][row] = min(seconds, best[name].get(row, seconds))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)
    for row, seconds in best["here"].items():
        before = best[options.revision].get(row)
        against = "not there" if before is None else f"{1e3 * before:10.3f} ms  {before / seconds:6.2f}x"
        print(f"{row:<58} {1e3 * seconds:10.3f} ms here, {options.revision}: {against}")
    return 0


def _measure(tree: Path, only: str, result: Path) -> dict[str, float]:
    """This tree's benchmarks on the package of another tree; rows that it cannot run yet are left out."""
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    command = [sys.executable, str(ROOT / "benchmarks" / "run.py"), "--ours", "--only", only, "--json", str(result)]
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return json.loads(result.read_text())


if __name__ == "__main__":
    sys.exit(main())

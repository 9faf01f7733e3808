"""Fits four tables and writes a page for each to runs/tables: one from a formula, three that scikit-learn ships.

Each is a CSV file first, so that `python -m bimt_fast fit` can be tried on it by hand.
"""

import csv
import sys
from pathlib import Path

import numpy as np
from sklearn import datasets

from bimt_fast.__main__ import main

OUT = Path("runs/tables")


def formula() -> dict[str, np.ndarray]:
    """y = x1 x2 and z = sin(3 x3) + x4^2; nothing depends on x5."""
    x = np.random.default_rng(0).uniform(-1, 1, (1000, 5))
    columns = {f"x{k + 1}": column for k, column in enumerate(x.T)}
    return columns | {"y": x[:, 0] * x[:, 1], "z": np.sin(3 * x[:, 2]) + x[:, 3] ** 2}


def shipped(name: str, target: str, **options: bool) -> dict[str, np.ndarray]:
    bunch = getattr(datasets, f"load_{name}")(**options)
    goal = bunch.target_names[bunch.target] if "target_names" in bunch else bunch.target
    return dict(zip(bunch.feature_names, bunch.data.T, strict=True)) | {target: goal}


TABLES = {
    "formula": (formula(), ["--targets", "y,z"]),
    "diabetes": (shipped("diabetes", "progression", scaled=False), ["--targets", "progression"]),
    "breast_cancer": (shipped("breast_cancer", "tumour"), ["--targets", "tumour", "--classify"]),
    "wine": (shipped("wine", "cultivar"), ["--targets", "cultivar", "--classify"]),
}


def run(names: list[str]) -> int:
    OUT.mkdir(parents=True, exist_ok=True)
    for name in names or TABLES:
        columns, arguments = TABLES[name]
        path = OUT / f"{name}.csv"
        with path.open("w", newline="") as file:
            rows = csv.writer(file)
            rows.writerow(columns)
            rows.writerows(zip(*columns.values(), strict=True))
        print(f"\npython -m bimt_fast fit {path} {' '.join(arguments)}", flush=True)
        if main(["fit", str(path), *arguments, "--out", str(OUT / name)]):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))

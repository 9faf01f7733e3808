"""Full experiments, minutes long: `make experiments`. They print the tables that README quotes."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
import torch

from bimt_fast.compat import published
from bimt_fast.tasks import TASKS, _sweep, mnist
from bimt_fast.train import train
from bimt_fast.wiring import RelocationReport

SEEDS = range(15)
# The published preset of each experiment: seeds, and the worst median test loss that counts as reproduced.
EXPERIMENTS = {
    "independence": (5, 7.4e-3),
    "sharing": (5, 8.5e-4),
    "compositionality": (5, 3e-3),
    "two_moons": (5, 0.2),
    "modular_addition": (3, 1.0),
    "permutation_s4": (3, 1.0),
    "in_context": (3, 13 / 18 + 0.1),
    "mnist": (3, 0.05),
}


def run_products(strategy: str, seed: int) -> dict:
    """One full run of the published preset; figures only, so that it can cross processes."""
    torch.set_num_threads(1)
    task = TASKS["products"]
    preset = replace(task.preset, strategy=strategy, seed=seed)
    data = task.make_data(seed)
    torch.manual_seed(seed)
    model = task.make_model(preset)
    if strategy == "published":
        _relocate_as_published(model.wiring)
    history = train(model, model.wiring, lambda network: task.loss(network(data.train_x), data.train_y), preset)
    with torch.no_grad():
        test = task.loss(model(data.test_x), data.test_y).item()
    cost = model.wiring.cost().item()
    return {"seed": seed, "test": test, "cost": cost, "seconds": history.seconds, **task.structure(model, data)}


def _relocate_as_published(wiring) -> None:
    """Puts the published loop in place of wiring.relocate; it leaves the optimizer's moments behind."""

    def relocate(strategy, top_k):
        start = perf_counter()
        swaps = published.relocate(wiring, TASKS["products"].preset.top_k)
        return RelocationReport(float("nan"), float("nan"), swaps, perf_counter() - start)

    wiring.relocate = relocate


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["published", "greedy", "assignment"])
def test_products_structure_over_seeds(strategy):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(run_products, [strategy] * len(SEEDS), SEEDS))
    print(f"\nproducts, {strategy} relocation, published schedule")
    for run in runs:
        r = run["correlations"]
        print(
            f"  seed {run['seed']:2d}  test MSE {run['test']:.2e}  cost {run['cost']:.2f}  active {run['active']}"
            f"  |r| {r['x1x4']:.4f} {r['x2x3']:.4f}  {'found' if run['found'] else '-':5s}  {run['seconds']:.1f} s"
        )
    found = sum(run["found"] for run in runs)
    print(f"  found in {found} of {len(runs)}; median test MSE {median(run['test'] for run in runs):.2e}")
    assert found >= (0 if strategy == "published" else 2), "the published loop finds it in about 2 of 15 seeds"
    assert median(run["test"] for run in runs) <= 1.5e-3, "the worst test MSE of the published loop"


def run_experiment(name: str, seed: int, out: Path) -> dict:
    """One full run of the published preset."""
    torch.set_num_threads(1)
    return _sweep.sweep(TASKS[name], out, ablations=["bimt"], seeds=[seed])[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", EXPERIMENTS)
def test_published_presets_over_seeds(name, tmp_path):
    if name == "mnist":
        try:
            mnist.make_data(0)
        except FileNotFoundError as error:
            pytest.skip(str(error))
    count, worst = EXPERIMENTS[name]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = list(pool.map(run_experiment, [name] * count, range(count), [tmp_path] * count))
    print()
    for run in runs:
        print(f"  seed {run['preset']['seed']}  {run['structure']}")
    rows = _sweep.summary(runs)
    print(_sweep.table(rows))
    assert rows[0]["test_loss"] <= worst

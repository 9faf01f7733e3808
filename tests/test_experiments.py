"""Full experiments, minutes long: `make experiments`. They print the tables that README quotes."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from statistics import median

import pytest
import torch

from bimt_fast.tasks import TASKS
from bimt_fast.train import train

SEEDS = range(15)


def run_products(strategy: str, seed: int) -> dict:
    """One full run of the published preset; figures only, so that it can cross processes."""
    torch.set_num_threads(1)
    task = TASKS["products"]
    preset = replace(task.preset, strategy=strategy, seed=seed)
    data = task.make_data(seed)
    torch.manual_seed(seed)
    model = task.make_model(preset)
    history = train(model, model.wiring, lambda network: task.loss(network(data.train_x), data.train_y), preset)
    with torch.no_grad():
        test = task.loss(model(data.test_x), data.test_y).item()
    cost = model.wiring.cost().item()
    return {"seed": seed, "test": test, "cost": cost, "seconds": history.seconds, **task.structure(model, data)}


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["greedy", "assignment"])
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
    assert found >= 2, "the published loop finds the structure in 2 of 15 seeds"
    assert median(run["test"] for run in runs) <= 1.5e-3, "the worst test MSE of the published loop"

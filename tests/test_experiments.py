"""Full experiments, minutes long: `make experiments`. They print the tables that README quotes."""

from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
import torch

from bimt_fast import compat
from bimt_fast.compat import published
from bimt_fast.tasks import TASKS, Task, _analyse, _run, _sweep, mnist
from bimt_fast.train import History, train, value_at
from bimt_fast.wiring import RelocationReport

SEEDS = range(15)
# The published preset of each experiment: seeds, and the worst median test loss that counts as reproduced.
EXPERIMENTS = {
    "products": (5, 1.5e-3),
    "independence": (5, 7.4e-3),
    "sharing": (5, 8.5e-4),
    "compositionality": (5, 3e-3),
    "two_moons": (5, 0.2),
    "modular_addition": (3, 1.0),
    "permutation_s4": (3, 1.0),
    "in_context": (3, 13 / 18 + 0.1),
    "mnist": (3, 0.05),
}
# For these the published loop runs too, on the same data, seed by seed: what is luck of the seed, and what is ours.
NOTEBOOKS = {
    "independence": compat.symbolic_formulas,
    "sharing": compat.symbolic_formulas,
    "compositionality": compat.symbolic_formulas,
    "permutation_s4": compat.permutation_s4,
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


def run_published_loop(name: str, seed: int) -> dict:
    """The notebook's loop, on the data and the initial weights that our run with this seed has.

    torch.optim.AdamW on loss + lam * get_cc(), relocation judged by get_cc() with its default arguments, moments that
    stay behind.
    """
    torch.set_num_threads(1)
    task = TASKS[name]
    preset = replace(task.preset, seed=seed)
    dtype = getattr(torch, preset.dtype)
    data = task.make_data(seed).to(dtype)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        torch.manual_seed(seed)
        model = _notebook_model(task, preset)
        history = _train_as_published(task, preset, model, data)
    finally:
        torch.set_default_dtype(before)
    return _run.figures(task, preset, _as_ours(task, preset, model), data, history, "published loop")


def _notebook_model(task: Task, preset):
    """With a token embedding where our model has one."""
    module = NOTEBOOKS[task.name]
    if module is compat.symbolic_formulas:
        return module.BioMLP(shp=preset.shape)
    size = (preset.shape[-1], preset.shape[0] // 2)
    return module.BioMLP(shp=preset.shape, token_embedding=True, embedding_size=size)


def _train_as_published(task, preset, model, data) -> History:
    optimizer = torch.optim.AdamW(model.parameters(), lr=preset.lr, weight_decay=0.0)
    start = perf_counter()
    for step in range(preset.steps):
        fraction = step / preset.steps
        x = model.embedding[data.train_x].flatten(1) if model.token_embedding else data.train_x
        cost = model.get_cc(weight_factor=preset.distance_scale, bias_penalize=value_at(preset.bias, fraction))
        optimizer.zero_grad()
        (task.loss(model(x), data.train_y) + value_at(preset.lam, fraction) * cost).backward()
        optimizer.step()
        if (step + 1) % preset.swap_every == 0:
            model.relocate()
    return History(100, seconds=perf_counter() - start)


@torch.no_grad()
def _as_ours(task, preset, notebook):
    """The same network as our class holds it: neurons of inputs and outputs in the caller's order, in their places."""
    model = task.make_model(preset)
    place_of_input, place_of_output = notebook.in_perm.argsort(), notebook.out_perm.argsort()
    for ours, theirs in zip(model.layers, notebook.linears, strict=True):
        ours.weight.copy_(theirs.linear.weight)
        ours.bias.copy_(theirs.linear.bias)
    folds = notebook.linears[0].in_fold
    first, last = model.layers[0].weight, model.layers[-1]
    first.copy_(first.unflatten(1, (folds, -1))[..., place_of_input].flatten(1))
    last.weight.copy_(last.weight[place_of_output])
    last.bias.copy_(last.bias[place_of_output])
    if model.embedding is not None:
        model.embedding.weight.copy_(notebook.embedding)
    model.wiring.load_permutations({"in": place_of_input, "out": place_of_output})
    return model


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
        runs = [pool.submit(run_experiment, name, seed, tmp_path) for seed in range(count)]
        if name in NOTEBOOKS:
            runs += [pool.submit(run_published_loop, name, seed) for seed in range(count)]
        runs = [run.result() for run in runs]
    print()
    for run in runs:
        print(f"  seed {run['preset']['seed']}  test loss {run['test_loss']:.2e}  {run['structure']}")
    rows = _sweep.summary(runs)
    print(_sweep.table(rows))
    assert rows[0]["test_loss"] <= worst


# How many of 15 seeds must show the structure, and the largest median test loss. Seen: 14 and 15, 15 and 15, 15 and 14,
# 14 and 11 of 15.
RELIABLE = {
    "products": (12, 7.0e-4),
    "independence": (12, 7.4e-3),
    "sharing": (12, 8.5e-5),
    "compositionality": (10, 3e-3),
}


def run_preset(name: str, preset: str, seed: int, out: Path) -> dict:
    torch.set_num_threads(1)
    return _sweep.sweep(TASKS[name], out, ablations=["bimt"], seeds=[seed], presets=[preset])[0]


@pytest.mark.slow
@pytest.mark.parametrize("first", [0, 100])
@pytest.mark.parametrize("name", RELIABLE)
def test_reliable_recipe_over_seeds(name, first, tmp_path):
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        runs = [
            pool.submit(run_preset, name, preset, seed, tmp_path)
            for preset in ("published", "reliable")
            for seed in range(first, first + 15)
        ]
        runs = [run.result() for run in runs]
    print()
    for run in runs:
        print(f"  {run['preset']['name']} seed {run['preset']['seed']}  test loss {run['test_loss']:.2e}", end="")
        print(f"  {run['structure']}  {run.get('merges', '')}")
    rows = _sweep.summary(runs)
    print(_sweep.table(rows))
    least, worst = RELIABLE[name]
    assert rows[1]["found"] >= least and rows[1]["test_loss"] <= worst


# Preset, strategy, and what a run has to reach: mean accuracy, recurrent wire, z of the isolated neurons. Seen, seed 0:
# .903 and 5.1e3 (no modules on a sheet this small); .972, 9.1e3 and -6.1. The published network has .969, 2.0e4 and -5.
BRAINS = {"small": ("matching", 0.88, 1e4, None), "full": ("tabu", 0.969, 2.0e4, -4.0)}


@pytest.mark.slow
@pytest.mark.parametrize("name", BRAINS)
def test_brains(name, tmp_path):
    strategy, least, most, z = BRAINS[name]
    preset = replace(TASKS["brain"].settings(name), strategy=strategy)
    result, _ = _run.run(TASKS["brain"], preset, tmp_path)
    structure = result["structure"]
    print(f"\n  {structure}  {result['seconds']:.0f} s")
    assert structure["mean_accuracy"] >= least and structure["wire"] <= most
    if z is not None:
        found = _analyse.analyse(tmp_path)
        for row in _analyse.table(found.summary):
            print("  " + ": ".join(row))
        assert not structure["falls_short"] and found.summary["modularity"]["isolated, 4 neighbours"]["z"] <= z

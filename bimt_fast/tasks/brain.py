"""Growing brains: a recurrent network of 400 neurons on a 20 x 20 sheet learns 20 cognitive tasks.

The structure to find: neurons that serve the same tasks lie together (bimt_fast.analysis measures it). Settings of the
network and the tasks: Liu, Khona, Fiete, Tegmark 2023 (arXiv 2310.07711); batch, strength and course of the penalty,
swap interval, number of steps and where inputs sit are ours, since the paper does not say. `brain_torus` and
`brain_disc` are the same on other surfaces; in `brain_saturating` the length that is charged saturates with distance.
"""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from .. import geometry
from ..nn import BioRNN
from ..train import Preset
from . import _cognitive
from ._cognitive import INPUTS, NAMES, OUTPUTS, RING
from ._task import BIAS_ALWAYS, Data, Task

NOISE = 0.05
WIRED = (
    0.02  # a recurrent connection counts as wire where |w| is above: without the others the full network does as well
)
SATURATION = 0.2  # s of the length s (1 - exp(-d / s)) in brain_saturating, which stays below s
# Accuracies read off the published bar plot, by task; those not named are 1.
PUBLISHED = dict.fromkeys(NAMES, 1.0) | {
    "dm1": 0.905,
    "dm2": 0.915,
    "ctxdm1": 0.87,
    "ctxdm2": 0.89,
    "multidm": 0.88,
    "dlydm1": 0.99,
    "multidlydm": 0.90,
    "dnms": 0.945,
}
PUBLISHED_MEAN = 0.965
# (mean error, wire) read off the published plot, by ablation.
PUBLISHED_TRADE_OFF = {
    "bimt": (
        (0.175, 9.8e2),
        (0.095, 3.0e3),
        (0.057, 6.1e3),
        (0.0445, 1.1e4),
        (0.031, 2.0e4),
        (0.026, 4.9e4),
        (0.028, 1.0e5),
    ),
    "l1": ((0.196, 1.35e4), (0.098, 3.8e4), (0.0445, 6.8e4), (0.031, 1.0e5)),
    "none": ((0.0335, 2.0e6),),
}
PUBLISHED_ACTIVE = 109, 0.031  # neurons of BIMT's network, and its mean error
_TRAIN, _TEST, _JUDGED = 64, 256, 4000  # sequences: for the losses in result.json, and to count right answers
_AT_ONCE = 250


def make_data(seed: int) -> Data:
    """Sequences to report losses on: inputs (100, n, 53), targets (100, n). Training makes its own batches."""
    generator = torch.Generator().manual_seed(seed)
    return Data(*_cognitive.batch(_TRAIN, generator), *_cognitive.batch(_TEST, generator))


def make_batch(sequences: int) -> tuple[Tensor, Tensor]:
    """Inputs (100, sequences, 53) and targets (100, sequences), by a seed from torch's global generator."""
    seed = int(torch.randint(2**62, ()))
    return _cognitive.batch(sequences, torch.Generator().manual_seed(seed))


def positions(neurons: int) -> dict[str, Tensor]:
    """The sheet of a square number of neurons, rings of inputs below it, the ring of outputs above.

    Inputs: fixation at the centre, the two rings of stimuli at radii 0.05 and 0.08, the tasks at 0.45. Outputs:
    fixation at the centre, directions at 0.05. So no direction draws a neuron far to one side, and its tasks do; with
    rings of 0.2, 0.3 and 0.3 instead, clusters of tasks are less compact.
    """
    side = math.isqrt(neurons)
    centre = torch.tensor([[0.5, 0.5]])
    rings = [geometry.ring(n, radius) for n, radius in ((RING, 0.05), (RING, 0.08), (len(NAMES), 0.45))]
    return {
        "in": torch.cat([centre, *rings]),
        "h": geometry.grid((side, side)),
        "out": torch.cat([centre, geometry.ring(RING, 0.05)]),
    }


def make_model(preset: Preset, metric: str = "l1", scale: float = 1.0, offset: float = 0.0) -> BioRNN:
    """The sheet is scale long and wide, with its first corner at (offset, offset)."""
    places = {group: x * scale + offset for group, x in positions(preset.shape[1]).items()}
    return _model(preset, places, metric)


def make_saturating(preset: Preset) -> BioRNN:
    """A connection counts as s (1 - exp(-d / s)) long, d being its length on the sheet and s = 0.2."""
    places = positions(preset.shape[1])
    everything = torch.cat(list(places.values()))
    table = -SATURATION * torch.expm1(-geometry.distances(everything, everything, "l1") / SATURATION)
    numbers = torch.arange(len(everything)).split([len(x) for x in places.values()])
    return _model(preset, dict(zip(places, numbers, strict=True)), table)


def _model(preset: Preset, places: Mapping[str, Tensor], metric: str | Tensor) -> BioRNN:
    settings = preset.wiring | {"noise": NOISE, "frozen": ["in", "out"], "metric": metric}
    return BioRNN(*preset.shape, positions=dict(places), **settings)


@torch.no_grad()
def on_the_sheet(model: BioRNN) -> BioRNN:
    """The model as it is measured and drawn: itself, or a copy on the plane where its distances come from a table."""
    if isinstance(model.wiring.metric, str):
        return model
    weight = model.recurrent.weight
    shape = model.input.in_features, len(weight), model.readout.out_features
    with torch.random.fork_rng(devices=[]):  # its first weights are replaced
        copied = make_model(replace(FULL, shape=shape, dtype=str(weight.dtype).removeprefix("torch.")))
    for name, p in copied.named_parameters():
        p.copy_(model.get_parameter(name))
    copied.wiring.load_permutations(model.wiring.permutations())
    return copied.train(model.training)


def spacing(model: BioRNN) -> float:
    """The distance of the two neurons of the sheet that are closest together."""
    slots = model.wiring.slots("h")
    return geometry.distances(slots, slots, model.wiring.metric).fill_diagonal_(math.inf).min().item()


def loss(prediction: Tensor, target: Tensor) -> Tensor:
    """Cross entropy at every step: (steps, sequences, 17), (steps, sequences) -> 0-d."""
    return nn.functional.cross_entropy(prediction.flatten(0, 1), target.flatten())


@torch.no_grad()
def accuracies(model: nn.Module, sequences: int | None = None, seed: int = 2**40) -> dict[str, float]:
    """The share of trials answered right, by task: the largest output at the last step of the decision.

    In 4000 sequences, or so many, there are about 900 trials of a task; those that a sequence cuts off do not count.
    Noise is as in training, from a generator that is put back behind it.
    """
    sequences = _JUDGED if sequences is None else sequences
    dtype = next(model.parameters()).dtype
    generator = torch.Generator().manual_seed(seed)
    trials, right = torch.zeros(2, len(NAMES), dtype=torch.int64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for start in range(0, sequences, _AT_ONCE):
            x, y = _cognitive.batch(min(_AT_ONCE, sequences - start), generator)
            counts = _cognitive.count_right(x, y, model(x.to(dtype)))
            trials, right = trials + counts[0], right + counts[1]
    return dict(zip(NAMES, (right / trials.clamp(min=1)).tolist(), strict=True))


@torch.no_grad()
def error_without(model: BioRNN, threshold: float, sequences: int | None = None) -> float:
    """1 - mean accuracy of a copy whose recurrent connections of |w| <= threshold are removed."""
    pruned = copy.deepcopy(model)
    weight = pruned.recurrent.weight
    weight[weight.abs() <= threshold] = 0
    return 1 - sum(accuracies(pruned, sequences).values()) / len(NAMES)


def batch_accuracy(x: Tensor, y: Tensor, prediction: Tensor) -> dict[str, float]:
    trials, right = _cognitive.count_right(x, y, prediction)
    return {"accuracy": (right.sum() / trials.sum().clamp(min=1)).item()}


@torch.no_grad()
def structure(model: BioRNN, data: Data) -> dict:
    """Accuracies, and the wire of the recurrent connections.

    Returns:
        accuracy: by task.
        mean_accuracy, error: over tasks; error is 1 - mean_accuracy.
        pruned_error: the same with every recurrent connection of |w| <= 0.02 removed.
        wire: the recurrent connections above that, each counted with its distance in grid spacings.
        weighted_wire: all of them, |w| times their distance in grid spacings.
        falls_short: tasks more than .02 below the published figure.
    """
    found = accuracies(model)
    mean = sum(found.values()) / len(NAMES)
    measured = on_the_sheet(model)
    wiring, unit = measured.wiring, spacing(measured)
    counted = wiring.length(threshold=WIRED, weighted=False, unit=unit)
    return {
        "accuracy": found,
        "mean_accuracy": mean,
        "error": 1 - mean,
        "pruned_error": error_without(model, WIRED),
        "wire": counted.by_connection["recurrent.weight"],
        "weighted_wire": wiring.length(unit=unit).by_connection["recurrent.weight"],
        "falls_short": [name for name in NAMES if found[name] < PUBLISHED[name] - 0.02],
    }


def describe(figures: Mapping) -> Sequence[tuple[str, str]]:
    """Rows of the table: accuracy by task beside the published one, then the rest."""
    rows = [(f"accuracy, {name}", f"{figures['accuracy'][name]:.3f} (published {PUBLISHED[name]:g})") for name in NAMES]
    return [
        *rows,
        ("mean accuracy", f"{figures['mean_accuracy']:.4f} (published about {PUBLISHED_MEAN:g})"),
        ("more than .02 below the published", ", ".join(figures["falls_short"]) or "none"),
        (f"mean error without |w| <= {WIRED:g}", f"{figures['pruned_error']:.4f}"),
        (f"recurrent wire, |w| > {WIRED:g} by distance in spacings", f"{figures['wire']:.4g}"),
        ("recurrent wire, |w| by distance in spacings", f"{figures['weighted_wire']:.4g}"),
    ]


# Under a strong penalty the two rings merge, since most tasks treat them alike, and the tasks with a context stay at
# what the sum of both rings tells: they are learned while the penalty is weak and the network dense. Then neurons go,
# down to the number of the published network, and after the pruning of connections the penalty can be strong, and
# neurons have half of the steps to find their places.
FULL = Preset(
    shape=(INPUTS, 400, OUTPUTS),
    steps=30_000,
    lr=((0.0, 1e-3), (0.5, 5e-4), (0.9, 2e-4)),
    lam=((0.0, 3e-6), (0.3, 2e-5), (0.5, 8e-5), (0.8, 1e-5)),
    bias=BIAS_ALWAYS,
    base_length=0.1,
    distance_scale=1.0,
    swap_every=200,
    strategy="matching",
    prune_from=(0.5, 0.8),
    thin=(0.2, 0.45, PUBLISHED_ACTIVE[0]),
    name="full",
    batch=32,
    clip=1.0,
)

TASK = Task(
    name="brain",
    labels={},
    preset=FULL,
    more_presets={
        "full": FULL,
        "small": replace(FULL, shape=(INPUTS, 100, OUTPUTS), steps=8000, thin=(0.2, 0.45, 60)),
        # Strong first, and weak behind the pruning: in so few steps the tasks with a context are not learned anyway.
        "sweep": replace(
            FULL,
            steps=2000,
            lr=((0.0, 1e-3), (0.9, 3e-4)),
            lam=((0.0, 1e-5), (0.02, 1e-4), (0.3, 1e-5)),
            prune_from=(0.3, 0.85),
            thin=None,
        ),
    },
    make_data=make_data,
    make_model=make_model,
    loss=loss,
    structure=structure,
    loss_name="cross entropy",
    make_batch=make_batch,
    shown=batch_accuracy,
    layers=("in", "h", "out"),
    drawn=on_the_sheet,
    describe=describe,
    swept={
        "presets": ("sweep",),
        "seeds": range(3),
        "strategies": ("greedy", "matching", "tabu"),
        "lam_scales": (0.1, 0.3, 1.0, 2.0, 4.0),
    },
)

# Opposite rims are neighbours.
TORUS = replace(TASK, name="brain_torus", make_model=partial(make_model, metric="torus-l1"))
# The sheet inside the unit disc, its corners at radius 0.85; distances are 2.3 times those on the plane, on average.
DISC = replace(
    TASK,
    name="brain_disc",
    preset=replace(FULL, distance_scale=0.3),
    more_presets={name: replace(preset, distance_scale=0.3) for name, preset in TASK.more_presets.items()},
    make_model=partial(make_model, metric="poincare", scale=1.2, offset=-0.6),
)
SATURATING = replace(TASK, name="brain_saturating", make_model=make_saturating)
BRAINS = {task.name: task for task in (TASK, TORUS, DISC, SATURATING)}

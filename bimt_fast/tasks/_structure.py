"""What to look for in a trained network: functions of weights and activations, without a model or a task.

Weights are lists of (out, in) matrices, from the input to the output. A connection is active where |w| > threshold.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from ._task import ACTIVE


def folded(weight: Tensor, folds: int) -> Tensor:
    """(n, folds * m) -> (n, m): the strongest of each neuron's connections."""
    return weight.detach().abs().unflatten(1, (folds, -1)).amax(1)


def active_neurons(outgoing: Tensor, threshold: float = ACTIVE) -> Tensor:
    """Indices of the columns of (out, n) weights that have an active connection."""
    return (outgoing.detach().abs() > threshold).any(0).nonzero().flatten()


def correlations(features: Tensor, targets: Tensor) -> Tensor:
    """|Pearson r| of (n, k) features with (n, m) targets: (k, m), 0 where one is constant."""
    k = features.shape[1]
    both = torch.cat([features, targets], dim=1)
    return torch.corrcoef(both.T).view(both.shape[1], -1)[:k, k:].abs().nan_to_num()


def monotone(x: Tensor, y: Tensor) -> float:
    """|Spearman rank correlation| of two vectors: 1 where y is a monotone function of x, 0 where y is constant."""
    if y.max() == y.min() or x.max() == x.min():
        return 0.0
    ranks = torch.stack([v.argsort().argsort() for v in (x, y)]).double()
    return torch.corrcoef(ranks)[0, 1].abs().item()


def explained(features: Tensor, target: Tensor) -> float:
    """R^2 of the best affine function of (n, k) features for a target (n,)."""
    x = torch.cat([features, torch.ones(len(features), 1, dtype=features.dtype)], dim=1).double()
    y = target.double()[:, None]
    rest = y - x @ torch.linalg.lstsq(x, y, driver="gelsd").solution
    return 1 - (rest.square().sum() / (y - y.mean()).square().sum()).item()


@dataclass
class Circle:
    """How well points lie on a circle in the order of k * number mod n.

    Attributes:
        k: the frequency, 1 to n // 2.
        radius_spread: standard deviation of the radius over its mean.
        angle_error: root mean square of the angles' distances from k * number * 2 pi / n, in radians.
        planar: share of the points' variance that the 2-D projection keeps.
    """

    k: int
    radius_spread: float
    angle_error: float
    planar: float

    @property
    def found(self) -> bool:
        """A radius constant to 20 %, angles within a third of a radian."""
        return self.radius_spread < 0.2 and self.angle_error < 1 / 3


def circle(points: Tensor) -> Circle:
    """Projects points (n, d), number a in row a, onto their two main directions and fits the circle.

    Returns:
        Circle; with infinite errors where the points lie on a line or are fewer than three.
    """
    centred = points.detach().double() - points.detach().double().mean(0)
    n = len(centred)
    if n < 3 or centred.shape[1] < 2:
        return Circle(0, math.inf, math.inf, 0.0)
    _, singular, directions = torch.linalg.svd(centred, full_matrices=False)
    if singular[1] <= 1e-9 * singular[0]:
        return Circle(0, math.inf, math.inf, 1.0)
    flat = torch.view_as_complex((centred @ directions[:2].T).contiguous())
    radius, turn = flat.abs(), flat / flat.abs().clamp_min(1e-12)
    numbers = torch.arange(n, dtype=torch.float64)
    best = Circle(0, (radius.std() / radius.mean()).item(), math.inf, 0.0)
    planar = (singular[:2].square().sum() / singular.square().sum()).item()
    for k in range(1, n // 2 + 1):
        ideal = torch.polar(torch.ones(n, dtype=torch.float64), 2 * math.pi * k / n * numbers)
        for direction in (turn, turn.conj()):
            off = direction * ideal.conj()
            error = (off / off.mean()).angle().square().mean().sqrt().item()
            if error < best.angle_error:
                best = Circle(k, best.radius_spread, error, planar)
    return best


@contextmanager
def without(weight: Tensor, columns: Sequence[int] | Tensor | slice) -> Iterator[None]:
    """While inside, what the columns of a weight carry is knocked out."""
    with torch.no_grad():
        before = weight[:, columns].clone()
        weight[:, columns] = 0
    try:
        yield
    finally:
        with torch.no_grad():
            weight[:, columns] = before

"""In what the published notebooks differ, in one table."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class Notebook:
    """The defaults of one notebook.

    Attributes:
        l0: length of a connection between neurons at the same place, and what a bias costs.
        top_k: how many important neurons of each group a relocation visits.
        reduction: "sum", or "mean": the cost of each tensor divided by its number of elements.
        weight_factor: of the distance, where get_cc is not told otherwise.
        in_fold: of the first layer.
        activation: between the layers.
    """

    l0: float
    top_k: int
    reduction: str
    weight_factor: float
    in_fold: int = 1
    activation: Callable[[Tensor], Tensor] = F.silu


SYMBOLIC_FORMULAS = Notebook(l0=0.1, top_k=5, reduction="sum", weight_factor=1.0)
TWO_MOONS = Notebook(l0=0.2, top_k=10, reduction="sum", weight_factor=1.0)
MODULAR_ADDITION = Notebook(l0=0.5, top_k=30, reduction="mean", weight_factor=2.0, in_fold=2)
PERMUTATION_S4 = Notebook(l0=0.5, top_k=30, reduction="mean", weight_factor=2.0, in_fold=2)
IN_CONTEXT = Notebook(
    l0=0.5, top_k=20, reduction="mean", weight_factor=2.0, activation=partial(F.gelu, approximate="tanh")
)
MNIST = Notebook(l0=0.5, top_k=30, reduction="mean", weight_factor=2.0)

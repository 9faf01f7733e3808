"""The classes of the MNIST notebook: grids, outputs on a ring, l0 .5, top_k 30, costs averaged."""

from ._layers import BioLinear2D
from ._mlp import BioMLP2D as _BioMLP2D
from ._notebooks import MNIST

__all__ = ["BioLinear2D", "BioMLP2D"]


class BioMLP2D(_BioMLP2D):
    __doc__ = _BioMLP2D.__doc__
    notebook = MNIST

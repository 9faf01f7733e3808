"""The classes of the modular addition notebook: first layer folded twice, l0 .5, top_k 30, costs averaged."""

from ._layers import BioLinear
from ._mlp import BioMLP as _BioMLP
from ._notebooks import MODULAR_ADDITION

__all__ = ["BioLinear", "BioMLP"]


class BioMLP(_BioMLP):
    __doc__ = _BioMLP.__doc__
    notebook = MODULAR_ADDITION

"""The classes of the symbolic formulas notebook: l0 .1, top_k 5, costs added up."""

from ._layers import BioLinear
from ._mlp import BioMLP as _BioMLP
from ._notebooks import SYMBOLIC_FORMULAS

__all__ = ["BioLinear", "BioMLP"]


class BioMLP(_BioMLP):
    __doc__ = _BioMLP.__doc__
    notebook = SYMBOLIC_FORMULAS

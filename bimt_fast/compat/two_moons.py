"""The classes of the two moons notebook: l0 .2, top_k 10, costs added up."""

from ._layers import BioLinear
from ._mlp import BioMLP as _BioMLP
from ._notebooks import TWO_MOONS

__all__ = ["BioLinear", "BioMLP"]


class BioMLP(_BioMLP):
    __doc__ = _BioMLP.__doc__
    notebook = TWO_MOONS

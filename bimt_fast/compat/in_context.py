"""The classes of the in-context notebook: l0 .5, top_k 20, costs averaged, q, k and v in three folds."""

from ._layers import BioLinear
from ._mlp import BioMLP as _BioMLP
from ._notebooks import IN_CONTEXT
from ._transformer import BioAttention, BioBlock, BioTransformer

__all__ = ["BioAttention", "BioBlock", "BioLinear", "BioMLP", "BioTransformer"]


class BioMLP(_BioMLP):
    __doc__ = _BioMLP.__doc__
    notebook = IN_CONTEXT

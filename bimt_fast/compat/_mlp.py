"""The fully connected networks of the notebooks."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from ..wiring import Wiring
from ._layers import BioLinear, BioLinear2D, Group, check_count
from ._network import BioNetwork


class BioMLP(BioNetwork):
    """A fully connected network whose neurons have coordinates and relocate; `i` counts groups from 0, the inputs.

    Attributes:
        shp: widths from input to output.
        in_dim, out_dim, depth: the first and the last of them, and the number of layers.
        linears: nn.ModuleList of BioLinear, each with its nn.Linear in `.linear`.
        in_perm, out_perm, embedding, l0, top_k: as BioNetwork.

    Args:
        in_dim, out_dim, w, depth: widths of inputs, outputs and the depth - 1 hidden layers, where shp is not given.
        shp: all widths.
        token_embedding: whether there is an embedding, drawn last from the standard normal distribution.
        embedding_size: its shape (tokens, dim).

    Raises:
        TypeError: a width is not an integer, shp or embedding_size is no sequence of them.
        ValueError: a width or depth is below 1, the first width does not fall into the notebook's folds,
            token_embedding without embedding_size.

    Source: Liu, Gan, Tegmark 2023 (arXiv 2305.08746).
    """

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 2,
        w: int = 2,
        depth: int = 2,
        shp: Sequence[int] | None = None,
        token_embedding: bool = False,
        embedding_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        if shp is None:
            check_count("depth", depth)
            shp = [in_dim, *[w] * (depth - 1), out_dim]
        self.shp = _checked_widths("shp", shp, 2)
        self.in_dim, self.out_dim, self.depth = self.shp[0], self.shp[-1], len(self.shp) - 1
        if token_embedding and embedding_size is None:
            raise ValueError("embedding_size must be (tokens, dim) where token_embedding is True, was None")
        size = _checked_widths("embedding_size", embedding_size, 2) if token_embedding else None
        self.linears = nn.ModuleList(self._layer(k, m, n) for k, (m, n) in enumerate(pairwise(self.shp)))
        self._finish(self.in_dim // self.linears[0].in_fold, self.out_dim, size)

    def _layer(self, k: int, in_dim: int, out_dim: int) -> BioLinear:
        return BioLinear(in_dim, out_dim, in_fold=1 if k else self.notebook.in_fold)

    def forward(self, x: Tensor) -> Tensor:
        """(..., in_dim) -> (..., out_dim), inputs and outputs in the caller's order, wherever they stand.

        Embedded tokens are the caller's to look up in `embedding` and to lay side by side.
        """
        x = self._places(x)
        *hidden, last = self.linears
        for layer in hidden:
            x = self.notebook.activation(layer(x))
        return self._outputs(last(x))

    def groups(self) -> list[Group]:
        """Inputs, hidden layers, outputs."""
        first, last = self.linears[0], self.linears[-1]
        hidden = [Group((below,), (above,)) for below, above in pairwise(self.linears)]
        return [Group(outgoing=(first,), perm=self.in_perm), *hidden, Group(incoming=(last,), perm=self.out_perm)]

    def _picture(self) -> Wiring:
        names = ["in", *(f"h{k}" for k in range(1, self.depth)), "out"]
        positions, axes = {}, {}
        for k, (layer, (below, above)) in enumerate(zip(self.linears, pairwise(names), strict=True)):
            positions[above], positions[below] = layer.one_fold()
            axes[f"linears.{k}.linear.weight"] = (above, f"{layer.in_fold}*{below}")
            axes[f"linears.{k}.linear.bias"] = (above,)
        return Wiring(self, positions, axes)


class BioMLP2D(BioMLP):
    """The image network: grids of neurons, outputs on a ring, and pixels that never move.

    Swaps and relocations of group 0 do nothing. `get_top_id` returns the scores too.

    Attributes, Args, Raises: as BioMLP; all widths but the last are square numbers.

    Source: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), MNIST.
    """

    def __init__(
        self,
        in_dim: int = 784,
        out_dim: int = 10,
        w: int = 100,
        depth: int = 3,
        shp: Sequence[int] | None = None,
        token_embedding: bool = False,
        embedding_size: Sequence[int] | None = None,
    ) -> None:
        super().__init__(in_dim, out_dim, w, depth, shp, token_embedding, embedding_size)

    def _layer(self, k: int, in_dim: int, out_dim: int) -> BioLinear2D:
        in_fold = 1 if k else self.notebook.in_fold
        return BioLinear2D(in_dim, out_dim, in_fold=in_fold, out_ring=k == self.depth - 1)

    def groups(self) -> list[Group]:
        """Pixels, which are fixed, hidden layers, outputs."""
        return [Group(outgoing=(self.linears[0],), fixed=True), *super().groups()[1:]]

    def get_top_id(self, i: int, top_k: int = 20) -> tuple[Tensor, Tensor]:
        """The slots of the top_k most important neurons of group i, and the importance of every neuron.

        Returns:
            ids: int64 on the CPU, at most top_k, as BioMLP.get_top_id.
            scores: (n,) float64 on the CPU, the sum of |W| over all connections of each neuron, by slot.

        Raises:
            TypeError, ValueError: as BioMLP.get_top_id.
        """
        return super().get_top_id(i, top_k), self._group(i).importance(self._means_folds)


def _checked_widths(name: str, widths: object, least: int) -> list[int]:
    if isinstance(widths, str) or not isinstance(widths, Sequence):
        raise TypeError(f"{name} must be a sequence of integers, was {widths!r}")
    if len(widths) < least:
        raise ValueError(f"{name} must hold at least {least} integers, was {widths!r}")
    for width in widths:
        check_count(name, width)
    return list(widths)

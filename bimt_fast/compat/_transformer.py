"""The transformer of the in-context notebook."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..wiring import Wiring
from ._cost import Charged, connection_cost
from ._layers import BioLinear, Group, check_count, checked_index, checked_top_k
from ._network import BioNetwork
from ._notebooks import IN_CONTEXT


class BioAttention(nn.Module):
    """Causal self-attention between BioLinear layers.

    Attributes:
        c_attn: BioLinear to q, k and v, three folds of n_embed neurons in n_head heads.
        c_proj: BioLinear back to the residual stream.

    Args:
        n_head: heads.
        n_embed: width of the residual stream, and of all heads together.
        block_size: longest sequence.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: one is below 1, n_head does not divide n_embed.
    """

    def __init__(self, n_head: int = 2, n_embed: int = 20, block_size: int = 19) -> None:
        super().__init__()
        for name, value in (("n_head", n_head), ("n_embed", n_embed), ("block_size", block_size)):
            check_count(name, value)
        if n_embed % n_head:
            raise ValueError(f"n_head must divide n_embed, {n_embed}, was {n_head}")
        self.n_head, self.n_embed, self.block_size = n_head, n_embed, block_size
        self.c_attn = BioLinear(n_embed, 3 * n_embed, out_fold=3, out_head=n_head)
        self.c_proj = BioLinear(n_embed, n_embed, in_head=n_head)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, n_embed) -> the same; a token attends to itself and those before.

        Raises:
            ValueError: the sequence is longer than block_size.
        """
        if x.shape[-2] > self.block_size:
            raise ValueError(f"x must have at most {self.block_size} tokens, had {x.shape[-2]}")
        q, k, v = self.c_attn(x).unflatten(-1, (3, self.n_head, -1)).movedim((-3, -2), (0, -3))
        heads = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.c_proj(heads.transpose(-3, -2).flatten(-2))


class BioBlock(nn.Module):
    """Attention and a network of one hidden layer, four times as wide, each added to the residual stream.

    Attributes:
        attn: BioAttention.
        mlp: nn.ModuleDict of two BioLinear layers, "c_fc" and "c_proj".
        ln_1, ln_2: LayerNorm modules; they move with the stream, forward leaves them out.

    Args, Raises: as BioAttention.
    """

    def __init__(self, n_head: int = 2, n_embed: int = 20, block_size: int = 19) -> None:
        super().__init__()
        self.attn = BioAttention(n_head, n_embed, block_size)
        self.mlp = nn.ModuleDict({"c_fc": BioLinear(n_embed, 4 * n_embed), "c_proj": BioLinear(4 * n_embed, n_embed)})
        self.ln_1, self.ln_2 = nn.LayerNorm(n_embed), nn.LayerNorm(n_embed)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, n_embed) -> the same."""
        x = x + self.attn(x)
        return x + self.mlp["c_proj"](IN_CONTEXT.activation(self.mlp["c_fc"](x)))


class BioTransformer(BioNetwork):
    """A causal transformer without normalisation whose neurons have coordinates and relocate.

    Groups are counted from the inputs: 0 inputs, 1 the residual stream, which moves as one in all its tensors; then
    for each block the neurons between q, k, v and the projection, which move together in the three folds, and the
    hidden neurons; at last the outputs. Importance averages over folds. `top_k` cuts the list of heads, and every
    neuron of each head is visited; a group without heads is one head.

    Attributes:
        linear_in, linear_out: BioLinear layers to and from the residual stream.
        blocks: nn.ModuleList of BioBlock.
        ln_f: LayerNorm; it moves with the stream, forward leaves it out.
        linears: all BioLinear layers, in order.
        in_perm, out_perm, l0, top_k: as BioNetwork.

    Args:
        in_dim, out_dim: numbers of a token's components.
        n_head, n_embed, block_size: as BioAttention.
        n_layer: number of blocks.

    Raises:
        TypeError: an argument is not an integer.
        ValueError: one is below 1, n_head does not divide n_embed.

    Source: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), in-context learning.
    """

    notebook = IN_CONTEXT
    _means_folds = True
    _last_first = True

    def __init__(
        self,
        in_dim: int = 2,
        out_dim: int = 2,
        n_head: int = 2,
        n_embed: int = 20,
        n_layer: int = 2,
        block_size: int = 19,
    ) -> None:
        super().__init__()
        check_count("n_layer", n_layer)
        self.in_dim, self.out_dim = in_dim, out_dim
        self.n_head, self.n_embed, self.n_layer, self.block_size = n_head, n_embed, n_layer, block_size
        self.linear_in = BioLinear(in_dim, n_embed)
        self.blocks = nn.ModuleList(BioBlock(n_head, n_embed, block_size) for _ in range(n_layer))
        self.ln_f = nn.LayerNorm(n_embed)
        self.linear_out = BioLinear(n_embed, out_dim)
        self._finish(in_dim, out_dim)

    def forward(self, x: Tensor) -> Tensor:
        """(batch, length, in_dim) -> (batch, length, out_dim).

        Raises:
            ValueError: a sequence is longer than block_size.
        """
        x = self.linear_in(self._places(x))
        for block in self.blocks:
            x = block(x)
        return self._outputs(self.linear_out(x))

    @property
    def linears(self) -> list[BioLinear]:
        return [layer for layer in self.get_linear_layers() if isinstance(layer, BioLinear)]

    def get_linear_layers(self) -> list[nn.Module]:
        """BioLinear and LayerNorm modules, in order; the `i` of intervening counts them."""
        layers = [self.linear_in]
        for block in self.blocks:
            layers += [block.ln_1, block.attn.c_attn, block.attn.c_proj, block.ln_2, *block.mlp.values()]
        return [*layers, self.ln_f, self.linear_out]

    def get_cc(
        self,
        weight_factor: float | None = None,
        bias_penalize: bool = True,
        no_penalize_last: bool = False,
        ln_penalize: bool = False,
    ) -> Tensor:
        """The connection cost, as BioMLP.get_cc.

        Args:
            weight_factor, bias_penalize, no_penalize_last: as BioMLP.get_cc.
            ln_penalize: whether weights and biases of LayerNorm modules cost l0 each as well.
        """
        charged = self._charged(weight_factor, bias_penalize, no_penalize_last)
        if ln_penalize:
            charged += [Charged(p, self._coefficient(p)) for norm in self._norms() for p in norm.parameters()]
        return connection_cost(charged, self.l0)

    def _norms(self) -> tuple[nn.LayerNorm, ...]:
        return tuple(layer for layer in self.get_linear_layers() if isinstance(layer, nn.LayerNorm))

    def groups(self) -> list[Group]:
        """Inputs, residual stream, attention and hidden neurons of each block, outputs."""
        adding = [layer for block in self.blocks for layer in (block.attn.c_proj, block.mlp["c_proj"])]
        reading = [layer for block in self.blocks for layer in (block.attn.c_attn, block.mlp["c_fc"])]
        stream = Group((self.linear_in, *adding), (*reading, self.linear_out), self._norms())
        inner = [
            group
            for block in self.blocks
            for group in (
                Group((block.attn.c_attn,), (block.attn.c_proj,)),
                Group((block.mlp["c_fc"],), (block.mlp["c_proj"],)),
            )
        ]
        outer = Group(outgoing=(self.linear_in,), perm=self.in_perm), Group((self.linear_out,), perm=self.out_perm)
        return [outer[0], stream, *inner, outer[1]]

    def swap_head(self, i: int, j: int, k: int) -> None:
        """Swaps heads j and k of group i whole, in all folds; the network computes the same.

        Raises:
            TypeError, ValueError: i is not a group, j or k is not a head of it.
        """
        group = self._group(i)
        j, k = (checked_index(name, value, group.heads, "head") for name, value in (("j", j), ("k", k)))
        self._exchange(group, j, k, group.size // group.heads)

    def relocate_head(self, i: int, j: int) -> int:
        """The head in place j of group i takes its best swap with a whole head.

        Returns:
            The number of swaps, 0 or 1.

        Raises:
            TypeError, ValueError: as swap_head; a weight is not finite.
        """
        group = self._group(i)
        place = checked_index("j", j, group.heads, "head")
        return self._visit(group, torch.tensor([place]), torch.arange(0))

    def get_top_id(self, i: int, top_k: int = 20) -> Tensor:
        """The slots of all neurons of the top_k most important heads of group i, head by head.

        Importance is the sum over layers of the mean over folds of the sums of |W|; that of a head the sum over its
        neurons. The most important heads come first, and in each its most important neurons.

        Returns:
            int64 on the CPU, top_k times the size of a head at most.

        Raises:
            TypeError, ValueError: i is not a group, top_k is not an integer of at least 0.
        """
        return super().get_top_id(i, top_k)

    def _ranked(self, group: Group, top_k: int) -> tuple[Tensor, Tensor]:
        by_head = group.importance(self._means_folds).view(group.heads, -1)
        places = by_head.sum(1).argsort(descending=True, stable=True)[: checked_top_k(top_k)]
        within = by_head.argsort(descending=True, stable=True)
        return places, (places[:, None] * by_head.shape[1] + within[places]).flatten()

    def _picture(self) -> Wiring:
        """The residual stream once before, between and behind the layers that add to it."""
        positions, axes = {}, {}

        def add(name: str, out: str, source: str) -> None:
            layer = self.get_submodule(name)
            positions[out], positions[source] = layer.one_fold()
            axes[f"{name}.linear.weight"] = f"{layer.out_fold}*{out}", f"{layer.in_fold}*{source}"
            axes[f"{name}.linear.bias"] = (f"{layer.out_fold}*{out}",)

        add("linear_in", "stream0", "in")
        for k in range(self.n_layer):
            add(f"blocks.{k}.attn.c_attn", f"attn{k + 1}", f"stream{2 * k}")
            add(f"blocks.{k}.attn.c_proj", f"stream{2 * k + 1}", f"attn{k + 1}")
            add(f"blocks.{k}.mlp.c_fc", f"h{k + 1}", f"stream{2 * k + 1}")
            add(f"blocks.{k}.mlp.c_proj", f"stream{2 * k + 2}", f"h{k + 1}")
        add("linear_out", "out", f"stream{2 * self.n_layer}")
        return Wiring(self, positions, axes)

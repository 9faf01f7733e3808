"""What all published networks can do: cost their connections, relocate their neurons, be drawn."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from .. import plot
from ..ops import check_number
from ..wiring import Wiring
from ._cost import Charged, connection_cost
from ._cuts import Cuts
from ._layers import BioLinear, Group, check_state, checked_index, checked_top_k, visit
from ._notebooks import Notebook

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_MOST_LABELS = 64  # neurons of an input or output layer


class BioNetwork(Cuts):
    """A network of BioLinear layers between groups of neurons.

    Attributes:
        l0: length of a connection between neurons at the same place; may be set.
        top_k: how many important neurons of each group a relocation visits; may be set.
        linears: the BioLinear layers, in order.
        in_perm: (n_in,) int64, the input feature that each input place reads, within each fold.
        out_perm: (n_out,) int64, the output that stands in each output place.
        embedding: (tokens, dim) parameter where asked for; forward never looks tokens up.
    """

    notebook: Notebook
    _means_folds = False  # whether importance averages over folds
    _last_first = False  # whether relocate goes from the last group to the first
    linears: Sequence[BioLinear]

    def _finish(self, in_dim: int, out_dim: int, embedding_size: Sequence[int] | None = None) -> None:
        """What comes after the layers; the embedding is the last to be drawn."""
        self.l0, self.top_k = self.notebook.l0, self.notebook.top_k
        self.token_embedding = embedding_size is not None
        if embedding_size is not None:
            self.embedding = nn.Parameter(torch.normal(0.0, 1.0, size=embedding_size))
        self.register_buffer("in_perm", torch.arange(in_dim))
        self.register_buffer("out_perm", torch.arange(out_dim))
        self._attached: tuple[torch.optim.Optimizer, dict] | None = None

    def __getstate__(self) -> dict:
        return {**self.__dict__, "_attached": None, "_before": None}

    def groups(self) -> list[Group]:
        """The groups of neurons, from inputs to outputs; the `i` of swap, get_top_id and relocate_i counts them."""
        raise NotImplementedError

    def get_linear_layers(self) -> Sequence[nn.Module]:
        """The layers, in order; the `i` of intervening counts them."""
        return self.linears

    def _places(self, x: Tensor) -> Tensor:
        """(..., in_dim) from features to places."""
        folds = self.linears[0].in_fold
        return x[..., self.in_perm] if folds == 1 else x.unflatten(-1, (folds, -1))[..., self.in_perm].flatten(-2)

    def _outputs(self, x: Tensor) -> Tensor:
        """(..., out_dim) from places to outputs."""
        return x[..., self.out_perm.argsort()]

    # Cost

    def get_cc(
        self, weight_factor: float | None = None, bias_penalize: bool = True, no_penalize_last: bool = False
    ) -> Tensor:
        """The connection cost: for every layer |W| * (weight_factor * d + l0), and |b| * l0; |embedding| * l0.

        Added up or averaged over each tensor as in the notebook. Differentiable, once.

        Args:
            weight_factor: of the distance; None: the notebook's.
            bias_penalize: whether biases cost.
            no_penalize_last: weight_factor is 0 for the last layer.

        Returns:
            0-d tensor of the parameters' dtype.

        Raises:
            TypeError, ValueError: weight_factor is not a finite number.
        """
        return connection_cost(self._charged(weight_factor, bias_penalize, no_penalize_last), self.l0)

    def _charged(self, weight_factor: float | None, bias_penalize: bool, no_penalize_last: bool) -> list[Charged]:
        charged = []
        for layer, factor in self._factors(weight_factor, no_penalize_last).items():
            weight, bias = layer.linear.weight, layer.linear.bias
            charged.append(Charged(weight, self._coefficient(weight), factor, layer.positions()))
            if bias_penalize:
                charged.append(Charged(bias, self._coefficient(bias)))
        if self.token_embedding:
            charged.append(Charged(self.embedding.flatten(), self._coefficient(self.embedding)))
        return charged

    def _factors(self, weight_factor: float | None = None, no_penalize_last: bool = False) -> dict[BioLinear, float]:
        """The weight_factor of each layer."""
        if weight_factor is None:
            weight_factor = self.notebook.weight_factor
        factors = dict.fromkeys(self.linears, check_number("weight_factor", weight_factor))
        if no_penalize_last:
            factors[self.linears[-1]] = 0.0
        return factors

    def _coefficient(self, tensor: Tensor) -> float:
        return 1 / tensor.numel() if self.notebook.reduction == "mean" else 1.0

    # Neurons trade places

    def attach(self, optimizer: torch.optim.Optimizer, **settings: float | bool) -> None:
        """Switches the corrected behaviour on: moments follow their neurons, swaps are judged as training is.

        Without it, as published, the moments stay with the slots and get_cc() judges with its default arguments.
        Not copied or pickled with the network.

        Args:
            optimizer: its state for the network's parameters moves with every swap from now on, gradients too.
            settings: weight_factor and no_penalize_last of the get_cc that training uses.

        Raises:
            TypeError: optimizer is not a torch optimizer, a setting is unknown.
            ValueError: the optimizer holds no parameter of the network, or state that cannot follow.
        """
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, was {type(optimizer).__name__}")
        for name in settings:
            if name not in ("weight_factor", "no_penalize_last"):
                raise TypeError(f"settings must be weight_factor or no_penalize_last, had {name!r}")
        self._factors(**settings)
        held = {id(p) for group in optimizer.param_groups for p in group["params"]}
        if not held & {id(p) for p in self.parameters()}:
            raise ValueError("optimizer must hold parameters of the network, held none of them")
        for parameter in self.parameters():
            check_state(optimizer, parameter)
        self._attached = optimizer, settings

    @torch.no_grad()
    def swap_weight(self, weights: Tensor, j: int, k: int, swap_type: str = "out") -> None:
        """Swaps two rows ("out") or columns ("in") of a weight (out, in) in place.

        Raises:
            ValueError: swap_type is neither.
        """
        if swap_type not in ("in", "out"):
            raise ValueError(f"swap_type must be 'in' or 'out', was {swap_type!r}")
        self.swap_bias(weights if swap_type == "out" else weights.T, j, k)

    @torch.no_grad()
    def swap_bias(self, biases: Tensor, j: int, k: int) -> None:
        """Swaps two entries of a vector in place."""
        j, k = int(j), int(k)
        biases[[j, k]] = biases[[k, j]]

    def swap(self, i: int, j: int, k: int) -> None:
        """Swaps the neurons in slots j and k of group i in every tensor, in all folds; the network computes the same.

        Raises:
            TypeError, ValueError: i is not a group, j or k is not a slot of it, or they lie in different heads.
        """
        group = self._group(i)
        j, k = (checked_index(name, value, group.size, "slot") for name, value in (("j", j), ("k", k)))
        size = group.size // group.heads
        if j // size != k // size:
            raise ValueError(f"j and k must lie in one head of {size} neurons, were {j} and {k}")
        self._exchange(group, j, k, 1)

    def _exchange(self, group: Group, j: int, k: int, size: int) -> None:
        """Swaps two blocks of `size` consecutive slots."""
        order = torch.arange(group.size).view(-1, size)
        order[[j, k]] = order[[k, j]]
        self._permute(group, order.flatten())

    def _permute(self, group: Group, order: Tensor) -> None:
        if not group.fixed:
            group.permute_(order, None if self._attached is None else self._attached[0])

    def get_top_id(self, i: int, top_k: int = 20) -> Tensor:
        """The slots of the top_k most important neurons of group i, most important first.

        Importance is the sum of |W| over all incoming and outgoing connections, all folds added.

        Returns:
            int64 on the CPU, at most top_k; the lower slot first where equal.

        Raises:
            TypeError, ValueError: i is not a group, top_k is not an integer of at least 0.
        """
        return self._ranked(self._group(i), top_k)[1]

    def _ranked(self, group: Group, top_k: int) -> tuple[Tensor, Tensor]:
        """Places of heads and slots that relocate_i visits, in order."""
        ids = group.importance(self._means_folds).argsort(descending=True, stable=True)
        return torch.arange(0), ids[: checked_top_k(top_k)]

    def relocate_ij(self, i: int, j: int) -> int:
        """The neuron in slot j of group i takes its best swap: the first of the cheapest slots, its own included.

        Returns:
            The number of swaps, 0 or 1.

        Raises:
            TypeError, ValueError: as swap; a weight is not finite.
        """
        group = self._group(i)
        slot = checked_index("j", j, group.size, "slot")
        return self._visit(group, torch.arange(0), torch.tensor([slot]))

    def relocate_i(self, i: int) -> int:
        """The same for the slots of the top_k most important neurons of group i, ranked once, one after the other.

        Returns:
            The number of swaps. Swaps that gain nothing in total are not done.

        Raises:
            TypeError, ValueError: as relocate_ij.
        """
        group = self._group(i)
        return 0 if group.fixed else self._visit(group, *self._ranked(group, self.top_k))

    def relocate(self) -> int:
        """relocate_i for every group, from inputs to outputs (in a transformer from outputs to inputs).

        The published loop computes get_cc() for every candidate swap; here one placement cost serves all swaps of a
        group (Liu, Gan, Tegmark 2023, section 2.2).

        Returns:
            The number of swaps.

        Raises:
            ValueError: the connection cost is not finite. Nothing is moved then.
        """
        with torch.no_grad():
            if not self.get_cc().isfinite():
                raise ValueError("parameters must be finite to be relocated, held NaN or infinity")
        order = range(len(self.groups()))
        return sum(self.relocate_i(i) for i in (reversed(order) if self._last_first else order))

    @torch.no_grad()
    def _visit(self, group: Group, heads: Tensor, slots: Tensor) -> int:
        if group.fixed:
            return 0
        settings = {} if self._attached is None else self._attached[1]
        factors = {
            layer: factor * self._coefficient(layer.linear.weight)
            for layer, factor in self._factors(**settings).items()
        }
        order, swaps = visit(group.placement_cost(factors), group.heads, heads, slots)
        if swaps:
            self._permute(group, order)
        return swaps

    def _group(self, i: int) -> Group:
        groups = self.groups()
        return groups[checked_index("i", i, len(groups), "group of neurons")]

    # Pictures

    def plot(self, **options: object) -> "Axes":
        """Draws the network where its neurons are, into a new pyplot figure unless `ax` is given.

        Small input and output layers are labelled with the numbers of their features.

        Args:
            options: of bimt_fast.plot.network. Groups are named "in", "h1", "h2", ..., "out"; between "in" and "out", a
                transformer has "stream0", "attn1", "stream1", "h1", "stream2", ...

        Returns:
            The matplotlib Axes.

        Raises:
            ImportError: matplotlib is missing.
            TypeError, ValueError: as bimt_fast.plot.network.
        """
        wiring = self._picture()
        labels = {
            name: [str(k) for k in perm.tolist()]
            for name, perm in (("in", self.in_perm), ("out", self.out_perm))
            if len(perm) <= _MOST_LABELS
        }
        options = {"labels": labels, **options}
        if options.get("ax") is None:
            options["ax"] = _pyplot_axes(len(wiring.groups))
        return plot.network(wiring, **options)

    def _picture(self) -> Wiring:
        """Positions and axes of the network as it stands, for a figure."""
        raise NotImplementedError


def _pyplot_axes(layers: int) -> "Axes":
    try:
        from matplotlib import pyplot
    except ImportError:
        raise ImportError("figures need matplotlib: pip install 'bimt_fast[plot]'") from None
    return pyplot.subplots(figsize=(5.0, 1.2 * layers), layout="constrained")[1]

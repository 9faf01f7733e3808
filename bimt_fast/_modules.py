"""What torch's modules mean by the axes of their tensors: which come first, which are one, which fall into groups."""

import re
from dataclasses import dataclass

from torch import nn

_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
_CONVOLUTION = nn.modules.conv._ConvNd
_TRANSPOSED = nn.modules.conv._ConvTransposeNd
_RECURRENT = (nn.RNNBase, nn.modules.rnn.RNNCellBase)


@dataclass(frozen=True)
class Shared:
    """One axis of a tensor that is `times` an axis which others have too."""

    owner: nn.Module
    attribute: str
    axis: int
    times: int = 1


@dataclass(frozen=True)
class Grouped:
    """An axis whose entries fall into groups of `size` consecutive ones, which a module keeps apart.

    Where `alike` is False entries of one group are not alike: a neuron must have whole groups.
    """

    attribute: str
    axis: int
    size: int
    alike: bool = True


def is_normalisation(owner: nn.Module) -> bool:
    """torch's own, and modules named like them ("LlamaRMSNorm", "LayerNorm2d")."""
    return isinstance(owner, _NORMALISATION) or re.search(r"Norm(\d[dD])?$", type(owner).__name__) is not None


def input_first(owner: nn.Module, attribute: str) -> bool:
    """Weights stored as (in, out): transposed convolutions, and the Conv1D of HuggingFace's GPT-2."""
    return attribute == "weight" and (isinstance(owner, _TRANSPOSED) or type(owner).__name__ == "Conv1D")


def is_grouped_convolution(owner: nn.Module) -> bool:
    """Whose weight has the inputs of one group on axis 1."""
    return isinstance(owner, _CONVOLUTION) and owner.groups > 1


def shared_axes(owner: nn.Module) -> list[list[Shared]]:
    """Axes of a module's tensors that are one and the same, each list one axis."""
    if isinstance(owner, (nn.Linear, _CONVOLUTION)) or input_first(owner, "weight"):
        return _outputs(owner)
    if isinstance(owner, (nn.modules.batchnorm._NormBase, nn.GroupNorm)):
        return [[Shared(owner, name, 0) for name in ("weight", "bias", "running_mean", "running_var")]]
    if isinstance(owner, (nn.LayerNorm, nn.RMSNorm)):
        return [[Shared(owner, name, k) for name in ("weight", "bias")] for k in range(len(owner.normalized_shape))]
    if isinstance(owner, nn.MultiheadAttention):
        shared = [Shared(owner, name, 0, 3) for name in ("in_proj_weight", "in_proj_bias")]
        shared += [Shared(owner, f"{name}_proj_weight", 0) for name in "qkv"]
        return [[*shared, Shared(owner, "bias_k", 2), Shared(owner, "bias_v", 2), Shared(owner.out_proj, "weight", 1)]]
    if isinstance(owner, _RECURRENT):
        suffixes = {name.removeprefix("weight_hh") for name in owner._parameters if name.startswith("weight_hh")}
        return [axis for suffix in sorted(suffixes) for axis in _gates(owner, suffix)]
    return []


def _outputs(owner: nn.Module) -> list[list[Shared]]:
    if isinstance(owner, _TRANSPOSED) and owner.groups > 1:  # as many outputs as inputs only where depthwise
        return (
            [[Shared(owner, "weight", 0), Shared(owner, "bias", 0)]] if owner.in_channels == owner.out_channels else []
        )
    return [[Shared(owner, "weight", 1 if input_first(owner, "weight") else 0), Shared(owner, "bias", 0)]]


def _gates(owner: nn.Module, suffix: str) -> list[list[Shared]]:
    """The hidden state of one layer and direction: folds of gates, and once where it is read."""
    hidden = owner.hidden_size
    gates = owner._parameters[f"weight_hh{suffix}"].shape[0] // max(hidden, 1)
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    cells = [Shared(owner, kind + suffix, 0, gates) for kind in kinds]
    if not getattr(owner, "proj_size", 0):
        return [[*cells, Shared(owner, f"weight_hh{suffix}", 1)]]
    projection = f"weight_hr{suffix}"
    return [
        [*cells, Shared(owner, projection, 1)],
        [Shared(owner, projection, 0), Shared(owner, f"weight_hh{suffix}", 1)],
    ]


def grouped_axes(owner: nn.Module) -> list[Grouped]:
    """Axes that a module reads in groups: attention heads, GroupNorm, grouped convolution."""
    if isinstance(owner, nn.MultiheadAttention):
        names = ("in_proj_weight", "in_proj_bias", "q_proj_weight", "k_proj_weight", "v_proj_weight")
        axes = [*((name, 0) for name in names), ("bias_k", 2), ("bias_v", 2)]
        return [Grouped(name, axis, owner.head_dim) for name, axis in axes]
    if isinstance(owner, nn.GroupNorm) and owner.num_groups > 1:
        return [Grouped(name, 0, owner.num_channels // owner.num_groups) for name in ("weight", "bias")]
    if is_grouped_convolution(owner):
        first = owner.in_channels if isinstance(owner, _TRANSPOSED) else owner.out_channels
        of_bias = Grouped("bias", 0, owner.out_channels // owner.groups, alike=False)
        return [Grouped("weight", 0, first // owner.groups, alike=False), of_bias]
    return []

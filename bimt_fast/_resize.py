"""A group with more or fewer neurons: tensors that act as before on mixtures of the old neurons."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from ._declaration import Entry, checked_positions
from .ops import check_float, check_shape

if TYPE_CHECKING:
    from .wiring import Wiring


@torch.no_grad()
def resize(wiring: "Wiring", group: str, positions: Tensor, mixing: Tensor) -> None:
    """As Wiring.resize, but for the check that the group is known."""
    positions = checked_positions(group, positions, wiring.metric)
    old = len(wiring.slots(group))
    check_float("mixing", mixing, (torch.float32, torch.float64))
    check_shape("mixing", mixing, len(positions), old)
    if not mixing.isfinite().all():
        raise ValueError("mixing must be finite, held NaN or infinity")
    if group not in wiring.inner_groups:
        raise ValueError(f"group must be an inner group, {group!r} is an input or output of the model")
    if group in wiring.blocks:
        raise NotImplementedError(f"resizing the group {group!r} in blocks is not available")
    entries = [entry for entry in wiring._entries if group in entry.groups]
    for entry in entries:
        _check(entry, group)
    state = wiring.to_dict()
    mixing = mixing.to(torch.float64)
    back = torch.linalg.pinv(mixing)
    made = {entry: _resized(entry, group, mixing, back) for entry in entries}
    for entry, tensor in made.items():
        setattr(entry.owner, entry.attribute, nn.Parameter(tensor, requires_grad=entry.tensor.requires_grad))
        if entry.attribute == "weight":
            entry.owner.out_features, entry.owner.in_features = tensor.shape
    saved = {"dtype": str(positions.dtype).removeprefix("torch."), "shape": list(positions.shape)}
    state["positions"][group] = saved | {"values": positions.tolist()}
    wiring.__dict__.update(type(wiring).from_dict(wiring.model, state).__dict__)


def _check(entry: Entry, group: str) -> None:
    if type(entry.owner) is not nn.Linear:
        raise NotImplementedError(f"resizing {entry.name!r} of a {type(entry.owner).__name__} is not available")
    if any(group in axis.groups and not axis.is_plain for axis in entry.axes):
        raise NotImplementedError(f"resizing {entry.name!r}, whose axes are {entry.texts}, is not available")


def _resized(entry: Entry, group: str, mixing: Tensor, back: Tensor) -> Tensor:
    """What neurons receive is mixed as they are; what they send is read back from the mixture."""
    tensor = entry.tensor
    found = tensor.to(torch.float64)
    for k, axis in enumerate(entry.axes):
        if group in axis.groups:
            sends = entry.is_connection and k == entry.ends[1]
            found = torch.tensordot(back.t() if sends else mixing, found, ([1], [k])).movedim(0, k)
    return found.to(tensor.dtype).contiguous()


def merging(labels: Tensor) -> Tensor:
    """The mixing of Wiring.resize that merges neurons: each new one is the mean of those with its label.

    Args:
        labels: (n,) int64 from 0, each used.

    Returns:
        (labels, n) float64
    """
    member = nn.functional.one_hot(labels).t().double()
    return member / member.sum(1, keepdim=True)


def interpolation(old: tuple[int, int], new: tuple[int, int]) -> Tensor:
    """The mixing of Wiring.resize that refines a sheet: each new neuron is the bilinear mean of the old ones round it.

    Args:
        old, new: rows and columns of cells of the same square; beyond the outermost centres the nearest counts.

    Returns:
        (new cells, old cells) float64, both row-major.
    """
    return torch.kron(*(_along(*sizes) for sizes in zip(old, new, strict=True)))


def _along(old: int, new: int) -> Tensor:
    at = ((torch.arange(new, dtype=torch.float64) + 0.5) * old / new - 0.5).clamp(0, old - 1)
    below = at.floor().long().clamp(max=max(old - 2, 0))
    part = (at - below)[:, None]
    one_hot = nn.functional.one_hot
    return (1 - part) * one_hot(below, old) + part * one_hot((below + 1).clamp(max=old - 1), old)

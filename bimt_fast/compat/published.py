"""The published relocation loop, re-implemented plainly: the yardstick of speed, and a judge of `strategy="greedy"`.

For each important neuron it performs every swap, recomputes the cost of the whole network, and swaps back:
O(layers * top_k * n * parameters). Method: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), section 2.2.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from ..kernels import reference
from ..wiring import Wiring


@torch.no_grad()
def relocate(wiring: Wiring, top_k: int | None = None, groups: Iterable[str] | None = None) -> int:
    """Relocates as the published notebooks do, brute force; the optimizer's moments stay behind, as they do there.

    Args:
        wiring: of a feed-forward network, changed in place.
        top_k: how many neurons of each group to visit; None: all.
        groups: names in the order to visit; None: all that are not frozen.

    Returns:
        The number of swaps done.

    Raises:
        ValueError: the wiring is not plain: a tensor has folds, runs, sums or axes without neurons, two names, the
            same group twice, inputs first or no cost, or a group falls into blocks.
    """
    network = _Network(wiring)
    swaps = 0
    for group in [g for g in wiring.groups if g not in wiring.frozen] if groups is None else groups:
        n = len(wiring.slots(group))
        for i in network.importance(group).argsort(descending=True, stable=True)[:top_k].tolist():
            costs = []
            for j in range(n):
                network.swap(group, i, j)
                costs.append(network.cost())
                network.swap(group, i, j)
            best = int(torch.stack(costs).argmin())
            if best != i:
                network.swap(group, i, best)
                swaps += 1
    wiring.load_permutations({g: p for g, p in network.slot_of.items() if not network.inner[g]})
    return swaps


def cost(wiring: Wiring, bias: bool = True) -> Tensor:
    """wiring.cost() in plain differentiable PyTorch, as the published notebooks write it; ValueError as relocate."""
    return _Network(wiring).cost(bias)


class _Network:
    """The tensors of a wiring by slot, as the published classes hold them, with in-place swaps of two slots."""

    def __init__(self, wiring: Wiring) -> None:
        _check_plain(wiring)
        self.wiring = wiring
        self.slot_of = {g: wiring.permutation(g) for g in wiring.groups}
        self.inner = {g: g in wiring.inner_groups for g in wiring.groups}
        self.tensors = [(wiring.model.get_parameter(name), axes) for name, axes in wiring.axes.items()]
        self.settings = [wiring.settings(name) for name in wiring.axes]
        self.neuron_positions = {g: wiring.neuron_positions(g).clone() for g in wiring.groups}

    def cost(self, bias: bool = True) -> Tensor:
        """The cost of the whole network, from scratch."""
        total = torch.zeros(())
        for (tensor, axes), (coefficient, scale, base) in zip(self.tensors, self.settings, strict=True):
            if len(axes) == 2:
                x, y = (self.neuron_positions[g] for g in axes)
                distance = reference.distances(x, y, self.wiring.metric)
                total = total + coefficient * (tensor.abs() * (base + scale * distance)).sum()
            elif bias:
                total = total + coefficient * base * tensor.abs().sum()
        return total

    def importance(self, group: str) -> Tensor:
        """Sum of |W| over all connections, by slot."""
        by_neuron = torch.zeros(len(self.slot_of[group]))
        for tensor, axes in self.tensors:
            if len(axes) == 2 and group in axes:
                by_neuron += tensor.abs().sum(1 - axes.index(group))
        return by_neuron[self.slot_of[group].argsort()]

    def swap(self, group: str, p: int, q: int) -> None:
        """The neurons in slots p and q trade places."""
        if not self.inner[group]:
            slot_of, places = self.slot_of[group], self.neuron_positions[group]
            r, s = int((slot_of == p).nonzero()), int((slot_of == q).nonzero())
            slot_of[[r, s]], places[[r, s]] = slot_of[[s, r]], places[[s, r]]
            return
        for tensor, axes in self.tensors:
            if axes[0] == group:
                tensor[[p, q]] = tensor[[q, p]]
            if len(axes) == 2 and axes[1] == group:
                tensor[:, [p, q]] = tensor[:, [q, p]]


def _check_plain(wiring: Wiring) -> None:
    """The published loop knows matrices (out, in) between two groups, and vectors of one."""
    parameters = dict(wiring.model.named_parameters())  # each once
    for name, axes in wiring.axes.items():
        plain = len(axes) <= 2 and set(axes) <= set(wiring.groups) and len(set(axes)) == len(axes)
        if not plain or name not in parameters or wiring.connections.get(name, axes) != axes:
            raise ValueError(f"wiring must have plain parameters (out, in) or (group,) only, {name!r} had {axes}")
        if all(entry.name != name for entry in wiring._charged):
            raise ValueError(f"wiring must charge every tensor, {name!r} costs nothing")
    for group in wiring.blocks:
        raise ValueError(f"wiring must have no blocks, {group!r} had {wiring.blocks[group]}")

"""Modules that carry their wiring."""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from . import geometry
from .wiring import Wiring


class _CarriesWiring:
    """state_dict with the positions of all groups and the places of inputs and outputs."""

    wiring: Wiring

    def get_extra_state(self) -> dict[str, dict[str, Tensor]]:
        wiring = self.wiring
        return {
            "positions": {group: wiring.slots(group) for group in wiring.groups},
            "permutations": wiring.permutations(),
        }

    def set_extra_state(self, state: dict[str, dict[str, Tensor]]) -> None:
        self.wiring.place(state["positions"])
        self.wiring.load_permutations(state["permutations"])


class BioLinear(_CarriesWiring, nn.Linear):
    """nn.Linear whose neurons have positions; its wiring of the groups "in" and "out" is in `.wiring`.

    Args:
        in_features, out_features, bias, device, dtype: as nn.Linear.
        in_pos: (in_features, dim) positions; a line when None.
        out_pos: (out_features, dim) positions; a line when None.
        metric, distance_scale, base_length, reduction: as Wiring.

    Raises:
        TypeError, ValueError: as Wiring.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        in_pos: Tensor | None = None,
        out_pos: Tensor | None = None,
        metric: str | Tensor = "l1",
        distance_scale: float = 1.0,
        base_length: float = 0.1,
        reduction: str = "sum",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self.wiring = Wiring(
            self,
            positions={
                "in": geometry.line(in_features) if in_pos is None else in_pos,
                "out": geometry.line(out_features) if out_pos is None else out_pos,
            },
            axes={"weight": ("out", "in"), **({"bias": ("out",)} if bias else {})},
            metric=metric,
            distance_scale=distance_scale,
            base_length=base_length,
            reduction=reduction,
        )


class BioMLP(_CarriesWiring, nn.Module):
    """The fully connected network of BIMT: layers of neurons at positions, with its wiring in `.wiring`.

    Groups are named "in", "h1", "h2", ..., "out". `state_dict` includes where inputs and outputs sit.

    Args:
        shape: widths from input to output, at least two.
        activation: makes the module between layers; nn.SiLU as in the published experiments.
        positions: by group name, slot positions (n, dim) where they are not a line.
        bias: whether layers have biases.
        frozen, metric, distance_scale, base_length, reduction: as Wiring.
        device, dtype: of the parameters.

    Raises:
        TypeError, ValueError: as Wiring; shape holds fewer than two widths, or one below 1.

    Source: Liu, Gan, Tegmark 2023 (arXiv 2305.08746), section 3.
    """

    def __init__(
        self,
        shape: Sequence[int],
        *,
        activation: Callable[[], nn.Module] = nn.SiLU,
        positions: dict[str, Tensor] | None = None,
        bias: bool = True,
        frozen: Iterable[str] = (),
        metric: str | Tensor = "l1",
        distance_scale: float | dict = 1.0,
        base_length: float | dict = 0.1,
        reduction: str | dict = "sum",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(shape, (tuple, list)):
            raise TypeError(f"shape must be a tuple of integers, was {shape!r}")
        if not callable(activation) or isinstance(activation, nn.Module):
            raise TypeError("activation must make a module when called, as nn.SiLU does, was not such a function")
        shape = tuple(shape)
        if len(shape) < 2 or any(not isinstance(width, int) or width < 1 for width in shape):
            raise ValueError(f"shape must hold at least two positive integers, was {shape}")
        names = ["in", *(f"h{k}" for k in range(1, len(shape) - 1)), "out"]
        positions = dict(positions or {})
        for unknown in set(positions) - set(names):
            raise ValueError(f"positions must be of groups {', '.join(names)}, had {unknown!r}")
        placed = {name: positions.get(name, geometry.line(width)) for name, width in zip(names, shape, strict=True)}
        pairs = pairwise(shape)
        self.layers = nn.ModuleList(nn.Linear(m, n, bias, device=device, dtype=dtype) for m, n in pairs)
        self.activation = activation()
        axes = {}
        for k, (below, above) in enumerate(pairwise(names)):
            axes[f"layers.{k}.weight"] = (above, below)
            if bias:
                axes[f"layers.{k}.bias"] = (above,)
        self.wiring = Wiring(
            self,
            placed,
            axes,
            frozen=frozen,
            metric=metric,
            distance_scale=distance_scale,
            base_length=base_length,
            reduction=reduction,
        )

    def forward(self, x: Tensor) -> Tensor:
        """(..., shape[0]) -> (..., shape[-1]), inputs and outputs in the caller's order, wherever they sit."""
        *hidden, last = self.layers  # a slice of them would be a new module at each call
        activation = self.activation
        for layer in hidden:
            x = activation(layer(x))
        return last(x)

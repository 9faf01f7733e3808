"""Weights of a network are cut or set by hand, and restored."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..ops import check_number
from ._layers import BioLinear, checked_index


class Cuts(nn.Module):
    """thresholding, intervening and revert, for a network with `linears` and `get_linear_layers()`."""

    linears: Sequence[BioLinear]
    _before: tuple[dict[str, Tensor], list[int]] | None = None  # state before the first cut, versions after the last

    def thresholding(self, threshold: float, checkpoint: str | os.PathLike | None = None) -> int:
        """Sets weights with |w| <= threshold to zero; biases and embedding stay.

        Args:
            threshold: at least 0.
            checkpoint: file to save the state_dict to first. It is kept in memory for revert as well.

        Returns:
            How many weights were set to zero.

        Raises:
            TypeError, ValueError: threshold is not a number of at least 0.
        """
        threshold = check_number("threshold", threshold, 0)
        with self._restorable(checkpoint), torch.no_grad():
            removed = 0
            for layer in self.linears:
                weight = layer.linear.weight
                small = weight.abs() <= threshold
                removed += int((small & (weight != 0)).sum())
                weight.masked_fill_(small, 0)
        return removed

    def intervening(
        self,
        i: int,
        pos: object,
        value: float | Tensor,
        ptype: str = "weight",
        checkpoint: str | os.PathLike | None = None,
    ) -> None:
        """Sets entries of layer i by hand.

        Args:
            i: layer of get_linear_layers().
            pos: any index of the parameter: (out slot, in slot) of a weight, slot of a bias.
            value: what to set them to.
            ptype: "weight" or "bias".
            checkpoint: as in thresholding.

        Raises:
            TypeError, ValueError: i is not a layer, pos is not in the parameter, value is not a finite number or a
                tensor that fits, ptype is unknown. Nothing is changed then.
        """
        layers = self.get_linear_layers()
        i = checked_index("i", i, len(layers), "layer")
        if ptype not in ("weight", "bias"):
            raise ValueError(f"ptype must be 'weight' or 'bias', was {ptype!r}")
        if not isinstance(value, Tensor):
            value = check_number("value", value)
        parameter = getattr(getattr(layers[i], "linear", layers[i]), ptype)
        try:
            parameter.detach().clone()[pos] = value
        except (IndexError, RuntimeError) as error:
            shape = tuple(parameter.shape)
            raise ValueError(f"pos must be an index of a {ptype} of shape {shape} that fits value: {error}") from None
        with self._restorable(checkpoint), torch.no_grad():
            parameter[pos] = value

    def revert(self, checkpoint: str | os.PathLike | None = None) -> None:
        """Takes back every thresholding and intervening since the network was last trained, relocated or reverted.

        Args:
            checkpoint: file with a state_dict to load instead.

        Raises:
            ValueError: nothing has been done, and there is no checkpoint.
        """
        if checkpoint is None and self._before is None:
            raise ValueError("checkpoint must be a file where there is nothing to take back, was None")
        self.load_state_dict(self._before[0] if checkpoint is None else torch.load(checkpoint, weights_only=True))
        self._before = None

    @contextmanager
    def _restorable(self, checkpoint: str | os.PathLike | None) -> Iterator[None]:
        """Keeps the state as it is before a cut, unless nothing but cuts has happened since it was kept."""
        if self._before is None or self._before[1] != self._versions():
            self._before = {name: value.clone() for name, value in self.state_dict().items()}, []
        if checkpoint is not None:
            torch.save(self.state_dict(), checkpoint)
        yield
        self._before = self._before[0], self._versions()

    def _versions(self) -> list[int]:
        """Counts of in-place changes, which optimizers and relocation raise."""
        return [parameter._version for parameter in self.parameters()]

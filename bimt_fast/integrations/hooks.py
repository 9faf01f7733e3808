"""BIMT as hooks of a torch optimizer: the training loop stays as it is."""

import torch

from ._schedule import Schedule


class Hooked(Schedule):
    """The schedule of an optimizer, with `remove()`; `steps` counts from 0 on."""

    def __init__(self, optimizer: torch.optim.Optimizer, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if not isinstance(optimizer, torch.optim.Optimizer):
            raise TypeError(f"optimizer must be a torch.optim.Optimizer, was {type(optimizer).__name__}")
        self.steps = 0
        self._handles = [
            optimizer.register_step_pre_hook(lambda *_: self.before_step()),
            optimizer.register_step_post_hook(self._after),
        ]

    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self.steps += 1
        self.after_step(self.steps, optimizer)

    def remove(self) -> None:
        """Takes the hooks off the optimizer."""
        for handle in self._handles:
            handle.remove()


def register(optimizer: torch.optim.Optimizer, *args, **kwargs) -> Hooked:
    """Adds the penalty before each step of an optimizer and relocates after every so many.

        hooks.register(optimizer, wiring, every=200, lam=1e-3)

    With gradient clipping the penalty comes behind it, and with GradScaler behind the unscaling; a step that the scaler
    skips has no hooks. A step with a closure is charged before the closure runs, so its gradient must not be reset
    there: leave lam to bimt_fast.optim.AdamW then.

    Args:
        optimizer: any torch optimizer whose state has its parameters' shapes or one value an axis.
        wiring, every, lam, strategy, top_k, bias: of Schedule.

    Returns:
        Hooked: `.report` of the last relocation, `.remove()`.

    Raises:
        TypeError, ValueError: as Schedule; optimizer is not one.
    """
    return Hooked(optimizer, *args, **kwargs)

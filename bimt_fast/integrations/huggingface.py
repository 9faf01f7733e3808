"""BIMT as a callback of HuggingFace's Trainer: `Trainer(..., callbacks=[BIMT(wiring, every=200, lam=1e-3)])`."""

from typing import Any

try:
    from transformers import TrainerCallback
except ImportError:
    raise ImportError("bimt_fast.integrations.huggingface needs transformers: pip install transformers") from None

from ._schedule import Schedule


class BIMT(Schedule, TrainerCallback):
    """Adds the penalty before each optimizer step, behind gradient clipping, and relocates after every so many.

    Args, attributes, errors: as Schedule. The Trainer saves the model only: keep where inputs and outputs sit with
    wiring.permutation, or freeze them.
    """

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.before_step()

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.after_step(state.global_step, getattr(optimizer, "optimizer", optimizer))  # unwrapped from accelerate's

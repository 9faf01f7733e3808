"""BIMT as a callback of Lightning: `Trainer(callbacks=[BIMT(wiring, every=200, lam=1e-3)])`."""

from typing import Any

try:
    from lightning.pytorch import Callback
except ImportError:
    try:
        from pytorch_lightning import Callback
    except ImportError:
        raise ImportError("bimt_fast.integrations.lightning needs Lightning: pip install lightning") from None

from ._schedule import Schedule


class BIMT(Schedule, Callback):
    """Adds the penalty before each optimizer step and relocates after every so many; one optimizer only.

    Lightning clips gradients behind this hook, the penalty's too; bimt_fast.optim.AdamW(lam=...) with lam=None here
    charges behind the clipping. Checkpoints keep where inputs and outputs sit.

    Args, attributes, errors: as Schedule. A trainer with several optimizers is a ValueError when training starts.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        if len(trainer.optimizers) != 1:
            raise ValueError(f"the trainer must have one optimizer for BIMT, had {len(trainer.optimizers)}")
        self._seen = trainer.global_step

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        self.before_step()

    def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
        if trainer.global_step != self._seen:  # not where gradients are only accumulated
            self._seen = trainer.global_step
            self.after_step(self._seen, trainer.optimizers[0])

    def state_dict(self) -> dict[str, Any]:
        return {"permutations": self.wiring.permutations()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.wiring.load_permutations(state_dict["permutations"])

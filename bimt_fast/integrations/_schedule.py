"""What every integration does: the penalty before each optimizer step, a relocation after every so many."""

import torch

from ..ops import check_number
from ..wiring import STRATEGIES, RelocationReport, Wiring


class Schedule:
    """Penalty and relocations of one wiring.

    Args:
        wiring: of the model in training.
        every: optimizer steps between relocations; None: none.
        lam: strength of the penalty, read at each step; None where bimt_fast.optim.AdamW charges it.
        strategy, top_k: as Wiring.relocate.
        bias: as Wiring.add_grad_.

    Attributes:
        report: of the last relocation; None at first.

    Raises:
        TypeError: wiring is not a Wiring, every is no integer.
        ValueError: every is below 1, strategy is unknown.
    """

    def __init__(
        self,
        wiring: Wiring,
        every: int | None = 200,
        lam: float | None = None,
        strategy: str = "auto",
        top_k: int | None = None,
        bias: bool = True,
    ) -> None:
        if not isinstance(wiring, Wiring):
            raise TypeError(f"wiring must be a bimt_fast.Wiring, was {type(wiring).__name__}")
        if every is not None and (isinstance(every, bool) or not isinstance(every, int)):
            raise TypeError(f"every must be an integer or None, was {every!r}")
        if every is not None and every < 1:
            raise ValueError(f"every must be at least 1, was {every}")
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy must be one of {', '.join(STRATEGIES)}, was {strategy!r}")
        if top_k is not None and strategy != "greedy":
            raise ValueError(f"top_k belongs to strategy 'greedy', strategy was {strategy!r}")
        if lam is not None:
            check_number("lam", lam)
        self.wiring, self.every, self.lam, self.bias = wiring, every, lam, bias
        self.strategy, self.top_k = strategy, top_k
        self.report: RelocationReport | None = None

    def before_step(self) -> None:
        if self.lam is not None:
            self.wiring.add_grad_(self.lam, bias=self.bias)

    def after_step(self, steps: int, optimizer: torch.optim.Optimizer) -> None:
        """`steps` counts from 1."""
        if self.every is not None and steps % self.every == 0:
            self.report = self.wiring.relocate(self.strategy, top_k=self.top_k, optimizer=optimizer)

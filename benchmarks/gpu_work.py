"""What is known of every CUDA kernel beforehand: its threads, the registers it may take, bytes and flops of a call.

Bytes and flops are formulas in n (neurons), m (peers), dim (coordinates) and b (bytes of a stored number), for square
weights and one connection; k stands for what a caller chooses.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Work:
    """One kernel."""

    threads: int  # of a block
    registers: int  # at most, on every architecture and for every dtype
    bytes: str
    flops: str


WORK = {
    "penalty_kernel": Work(256, 96, "3 * b * n * m", "(2 * dim + 5) * n * m"),
    "adamw_kernel": Work(256, 128, "7 * b * n * m", "(2 * dim + 17) * n * m"),
    "count_steps": Work(32, 32, "8", "1"),
    "add_partial_sums": Work(256, 40, "n * m / 512", "n * m / 4096"),
    "position_kernel": Work(256, 96, "dim * b * n * m", "dim * (5 * dim + 2) * n * m"),
}

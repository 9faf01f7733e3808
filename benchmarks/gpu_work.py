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
    "moments_kernel": Work(64, 96, "b * n * m + n * m / 4", "3 * n * m"),
    "borders_kernel": Work(64, 72, "n * m / 2", "n * m / 32"),
    "walk_kernel": Work(64, 112, "2 * b * n * m + b * n * n", "6 * n * m + 8 * n * n"),
    "walk_diagonal_kernel": Work(64, 72, "1024 * n", "96 * n"),
    "product_kernel": Work(128, 240, "b * n * (m + n)", "2 * n * n * m"),
    "position_gradient_kernel": Work(128, 232, "b * n * (m + n)", "2 * n * n * m + 10 * dim * n * m"),
    "add_parts_kernel": Work(128, 40, "dim * n * m / 4", "dim * n * m / 32"),
    "deltas_kernel": Work(256, 72, "2 * b * n * n", "1.5 * n * n"),
    "best_kernel": Work(256, 112, "(b + 0.16) * n * n", "1.5 * n * n"),
    "best_of_parts": Work(256, 40, "0.16 * n * n", "0.02 * n * n"),
    "gradient_kernel": Work(256, 128, "(2 * b + 0.16) * n * n", "1.5 * n * n"),
    "gradient_diagonal": Work(256, 48, "0.16 * n * n", "0.02 * n * n"),
    "label_kernel": Work(
        128, 104, "n * (36 + 8 * dim)", "24 * n * (1 + dim)"
    ),  # one permutation, 8 neighbours, 6 labels
    "copy_slices": Work(256, 32, "2 * b * n * m", "0"),
    "greedy_kernel": Work(256, 88, "(4 * b + 8) * n * n", "4 * n * n"),  # n visits
    "quadratic_kernel": Work(256, 128, "(4 * b + 2) * n * n", "6.5 * n * n"),  # one iteration
}

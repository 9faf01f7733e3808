"""The CUDA kernels of csrc/cuda on CUDA tensors: allocation and launches. Only what says so waits for the device.

The functions are those of reference.py, whose docstrings say what each computes.
"""

import re

import torch

from . import cuda_native
from .build import why_missing
from .cuda_penalty import adamw, add_grad, connection_cost, connection_cost_backward, total_cost
from .cuda_placement import placement_cost, placement_cost_backward, placement_swaps
from .cuda_search import greedy_swaps, label_nulls, permute_, quadratic_ended, quadratic_memory, quadratic_walks
from .cuda_swaps import best_swaps, best_swaps_unchecked, swap_deltas, swap_deltas_backward

__all__ = [
    "adamw",
    "add_grad",
    "best_swaps",
    "best_swaps_unchecked",
    "can_run",
    "connection_cost",
    "connection_cost_backward",
    "details",
    "greedy_swaps",
    "label_nulls",
    "permute_",
    "placement_cost",
    "placement_cost_backward",
    "placement_swaps",
    "quadratic_ended",
    "quadratic_memory",
    "quadratic_walks",
    "swap_deltas",
    "swap_deltas_backward",
    "total_cost",
]


def can_run(device: torch.device) -> tuple[bool, str]:
    """CUDA tensors, where bimt_fast._cuda was built and torch sees a GPU; CPU tensors in tests that simulate one."""
    if device.type == "cpu" and cuda_native.simulator is not None:
        return True, ""
    if device.type != "cuda":
        return False, f"the cuda backend serves CUDA tensors, not {device.type}"
    if cuda_native._cuda is None:
        return False, why_missing("_cuda", cuda_native.import_error)
    if not torch.cuda.is_available() or torch.version.cuda is None:
        return False, f"bimt_fast._cuda is built ({details()}), but torch sees no CUDA device"
    major, minor = torch.cuda.get_device_capability(device)
    if not holds_code_for(details(), major, minor):
        return False, f"bimt_fast._cuda holds {details()}, nothing that runs on compute capability {major}.{minor}"
    return True, ""


def holds_code_for(architectures: str, major: int, minor: int) -> bool:
    """Whether one of "sm_90, PTX 120" runs on a chip: machine code of its own generation, or PTX not newer than it."""
    for name in architectures.split(", "):
        number = int(re.search(r"\d+", name)[0])
        own, rest = divmod(number, 10)
        if (name.startswith("PTX") and number <= 10 * major + minor) or (own == major and rest <= minor):
            return True
    return False


def details() -> str:
    """What was compiled, for `python -m bimt_fast info`."""
    return cuda_native._cuda.architectures()

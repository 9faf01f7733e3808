"""The ops as Triton kernels, on CUDA and HIP tensors; under TRITON_INTERPRET=1 on CPU tensors too, for tests.

The functions are those of reference.py, whose docstrings say what each computes. Triton is imported with this module
and nowhere else.
"""

import os

import torch

try:
    import triton

    from .triton_labels import label_nulls
    from .triton_penalty import adamw, add_grad, connection_cost, connection_cost_backward, total_cost
    from .triton_permute import permute_
    from .triton_placement import placement_cost, placement_cost_backward, placement_swaps
    from .triton_search import (
        best_swaps,
        best_swaps_unchecked,
        greedy_swaps,
        quadratic_ended,
        quadratic_memory,
        quadratic_walks,
        swap_deltas,
        swap_deltas_backward,
    )
except ImportError as error:
    triton = None
    _import_error = str(error)

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

_OLDEST = (3, 9)  # that it was tried with; older autotuners fail on arguments that are None


def can_run(device: torch.device) -> tuple[bool, str]:
    """GPU tensors where Triton is installed and has a driver; CPU tensors where it interprets."""
    if triton is None:
        return False, f"Triton cannot be imported: {_import_error}"
    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < _OLDEST:
        return False, f"needs Triton {'.'.join(map(str, _OLDEST))} or newer, is {triton.__version__}"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return device.type == "cpu", "" if device.type == "cpu" else "TRITON_INTERPRET=1: it serves CPU tensors only"
    if device.type == "cpu":
        return False, "Triton serves CPU tensors under TRITON_INTERPRET=1 only, for tests"
    if device.type != "cuda":
        return False, f"the triton backend serves CUDA and HIP tensors, not {device.type}"
    if not torch.cuda.is_available():
        return False, f"Triton {triton.__version__} is installed, but torch sees no GPU"
    return True, ""


def details() -> str:
    """What `python -m bimt_fast info` says of it."""
    return f"Triton {triton.__version__}"

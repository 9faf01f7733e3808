"""The CUDA kernels of csrc/cuda on CUDA tensors: allocation, streams, addresses and strides for bimt_fast._cuda.

The functions are those of reference.py, whose docstrings say what each computes.
"""

import torch

try:
    from .. import _cuda
except ImportError as error:
    _cuda = None
    _import_error = str(error)


def can_run(device: torch.device) -> tuple[bool, str]:
    """CUDA tensors, where bimt_fast._cuda was built and torch sees a GPU."""
    if device.type != "cuda":
        return False, f"the cuda backend serves CUDA tensors, not {device.type}"
    if _cuda is None:
        return False, f"bimt_fast._cuda cannot be imported: {_import_error}"
    if not torch.cuda.is_available():
        return False, f"bimt_fast._cuda is built ({details()}), but torch sees no GPU"
    return True, ""


def details() -> str:
    """What was compiled, for `python -m bimt_fast info`."""
    return ", ".join(_cuda.architectures())

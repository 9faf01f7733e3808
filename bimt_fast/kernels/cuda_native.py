"""bimt_fast._cuda, and what every call of it needs: addresses, sizes and strides of tensors, device and stream."""

from types import ModuleType

import torch
from torch import Tensor

from ..geometry import TABLE, TABLE_CODE, metric_row

try:
    from .. import _cuda
except ImportError as error:
    _cuda = None
    import_error = str(error)

DTYPES = {torch.float32: 0, torch.float64: 1, torch.bfloat16: 2, torch.float16: 3}  # the codes of csrc/bind.h
ABSENT = (0, 0, 0, 1, 1)

# The same kernels built for the CPU (tests/gpu), where tests have put them: they then serve CPU tensors.
simulator: ModuleType | None = None


def native(device: torch.device) -> ModuleType:
    """The module whose kernels run on a device."""
    return _cuda if device.type == "cuda" else simulator


def queue(device: torch.device) -> tuple[int, int]:
    """The device's index and its current stream: where kernels are launched."""
    if device.type != "cuda":
        return 0, 0
    index = torch.cuda.current_device() if device.index is None else device.index
    return index, torch.cuda.current_stream(index).cuda_stream


def matrix(x: Tensor | None) -> tuple[int, int, int, int, int]:
    """Address, rows, columns, row stride, column stride; a tensor with one axis is a row."""
    if x is None:
        return ABSENT
    if x.dim() == 1:
        return (x.data_ptr(), 1, x.shape[0], 1, x.stride(0))
    return (x.data_ptr(), *x.shape, *x.stride())


def address(x: Tensor | None) -> int:
    """Where a tensor's data begin, 0 for none."""
    return 0 if x is None else x.data_ptr()


def metric_arguments(metric: str, table: Tensor | None) -> tuple[int, tuple[int, int, int, int, int]]:
    """Code and distance tensor, which is absent for the metrics of the table of geometry.py."""
    return (TABLE_CODE if metric == TABLE else metric_row(metric).code), matrix(table)


def coordinates(positions: Tensor, table: Tensor | None) -> Tensor:
    """Contiguous (n, dim); indices into a table as one column of numbers: exact, as no table has 2^24 rows."""
    if table is not None and positions.dim() == 1:
        positions = positions.to(table.dtype)[:, None]
    return positions.contiguous()

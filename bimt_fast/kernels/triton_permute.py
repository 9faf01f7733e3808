"""Permutation of a tensor along one axis as Triton kernels: integers of the size of its elements are copied."""

from collections.abc import Iterator

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import reference
from .slices import axes_of

_BLOCK = 1024
_INTEGER = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@triton.jit
def _copy_slices(
    data, workspace, places, count, size1, size2, size3, stride0, stride1, stride2, stride3,
    MOVING: tl.constexpr, FROM_WORKSPACE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """The axis MOVING is read at `places`; elements are numbered along the tensor's memory."""
    own = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    there = own < count
    at3 = own % size3
    rest = own // size3
    at2 = rest % size2
    rest = rest // size2
    at1 = rest % size1
    at0 = rest // size1
    if MOVING == 0:
        at0 = tl.load(places + at0, mask=there, other=0)
    if MOVING == 1:
        at1 = tl.load(places + at1, mask=there, other=0)
    if MOVING == 2:
        at2 = tl.load(places + at2, mask=there, other=0)
    if MOVING == 3:
        at3 = tl.load(places + at3, mask=there, other=0)
    offset = at0 * stride0 + at1 * stride1 + at2 * stride2 + at3 * stride3
    if FROM_WORKSPACE:
        tl.store(data + offset, tl.load(workspace + own, mask=there), mask=there)
    else:
        tl.store(workspace + own, tl.load(data + offset, mask=there), mask=there)


def permute_(
    tensor: Tensor,
    axis: int,
    to: Tensor,  # (k,) int64
    source: Tensor,  # (k,) int64
) -> None:
    if not tensor.numel() or not len(to):
        return
    words = torch.view_as_real(tensor) if tensor.element_size() == 16 else tensor
    words = words.view(_INTEGER[words.element_size()])
    axes, moving = axes_of(words, axis, len(to))
    size = words.element_size()
    axes = [*((n, step // size) for n, step in axes[:-1]), (axes[-1][0] // size, 1)]
    if len(axes) > 4:
        return reference.permute_(tensor, axis, to, source)
    moving += 4 - len(axes)
    (_, stride0), *others = [(1, 0)] * (4 - len(axes)) + axes
    count = words.numel() // words.shape[axis] * len(to)
    workspace = words.new_empty(count)
    sizes, strides = (n for n, _ in others), (step for _, step in others)
    arguments = (count, *sizes, stride0, *strides)
    grid = (triton.cdiv(count, _BLOCK),)
    with torch.cuda.device_of(tensor):
        for places, back in ((source, False), (to, True)):
            _copy_slices[grid](
                words, workspace, places.contiguous(), *arguments, MOVING=moving, FROM_WORKSPACE=back, BLOCK=_BLOCK
            )


def aot_cases() -> Iterator[tuple]:
    """For tests/gpu/aot.py."""
    arguments = (1, 300, 4096, 1, 0, 4096, 1, 1)  # rows of a matrix
    for dtype in (torch.int32, torch.int16, torch.int64, torch.int8):
        for moving, back in ((2, False), (2, True), (1, False)):
            constants = {"MOVING": moving, "FROM_WORKSPACE": back, "BLOCK": _BLOCK}
            yield _copy_slices, (dtype, dtype, torch.int64, 300 * 4096, *arguments[1:]), constants, 96

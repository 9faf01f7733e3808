"""How the slices of a tensor along one axis lie in memory: for the kernels that move them."""

from torch import Tensor


def axes_of(tensor: Tensor, axis: int, count: int) -> tuple[list[tuple[int, int]], int]:
    """(size, stride) in bytes of the axes of a tensor, those joined that lie in memory as one; where the given one is.

    The largest stride comes first, the bytes of an element last; the given axis has the size `count`.
    """
    size = tensor.element_size()
    strides = [(step * size, n, k) for k, (n, step) in enumerate(zip(tensor.shape, tensor.stride(), strict=True))]
    axes: list[tuple[int, int]] = []
    moving = -1
    for step, n, k in [*sorted((x for x in strides if x[1] > 1 or x[2] == axis), reverse=True), (1, size, -1)]:
        if k == axis:
            moving = len(axes)
            axes.append((count, step))
        elif axes and moving != len(axes) - 1 and axes[-1][1] == n * step:
            axes[-1] = (axes[-1][0] * n, step)
        else:
            axes.append((n, step))
    return axes, moving

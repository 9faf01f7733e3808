"""How each ATen op relates the axes of its results to those of its arguments, for bimt_fast._trace.

A rule takes the op's arguments by name and returns what its results' axes are made of. It says only what holds for
every permutation of the atoms it leaves free; an op without a rule freezes all it touches.
"""

import math
import string
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from ._atoms import (
    Axis,
    atoms,
    cut,
    fixed,
    free,
    freeze,
    mark_neurons,
    meet,
    resolve,
    side_by_side,
    size_of,
    split,
    unify,
    wild,
)

POSITION = "it is a position in a picture or a sequence"
_SIDES_KEPT = 64


@dataclass
class Value:
    """A tensor of the traced graph.

    Attributes:
        axes: what each axis is made of.
        weight: whether it is made of parameters only.
        leads: the axis to which it leads, as a weight.
        items: tensors of different meaning stacked along axis 0 (the states of a recurrent network's layers), or None.
    """

    axes: list[Axis]
    weight: bool = False
    leads: int | None = None
    items: "list[Value] | None" = None

    @property
    def shape(self) -> list[int]:
        return [size_of(axis) for axis in self.axes]


@dataclass
class Call:
    """One call of an op: its name without namespace and overload, arguments by name, shapes of its results."""

    name: str
    where: str
    target: Any
    arguments: dict[str, Any]
    shapes: list[list[int]]
    records: list[list[Axis]]

    def __getitem__(self, argument: str) -> Any:
        return self.arguments[argument]

    def get(self, argument: str, default: Any = None) -> Any:
        return self.arguments.get(argument, default)

    @property
    def values(self) -> list[Value]:
        """All tensor arguments."""
        return [value for argument in self.arguments.values() for value in _values(argument)]

    @property
    def weight(self) -> bool:
        return bool(self.values) and all(value.weight for value in self.values)

    def order(self) -> str:
        return f"{self.where} depends on its order"

    def constant(self) -> str:
        return f"it meets a constant made by {self.where}"

    def mismatch(self) -> str:
        return f"its parts do not fit together in {self.where}"


def _values(argument: Any) -> Iterable[Value]:
    if isinstance(argument, Value):
        yield argument
    elif isinstance(argument, (list, tuple)):
        for item in argument:
            yield from _values(item)


RULES: dict[str, Callable[[Call], Any]] = {}


def rule(*names: str) -> Callable:
    def register(function: Callable) -> Callable:
        RULES.update(dict.fromkeys(names, function))
        return function

    return register


# Element by element


def broadcast(call: Call, values: Iterable[Value], shape: list[int]) -> list[Axis]:
    found: list[Axis | None] = [None] * len(shape)
    for value in values:
        for k, axis in enumerate(reversed(value.axes), start=1):
            if size_of(axis) == shape[-k]:
                found[-k] = axis if found[-k] is None else meet(found[-k], axis, call.mismatch())
    return [() if axis is None else axis for axis in found]


@rule(
    "dropout", "native_dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "bernoulli",
    "copy", "fill", "zero", "masked_fill", "where", "softmax", "log_softmax", "_softmax", "_log_softmax",
    "_weight_norm", "relu6", "selu", "celu",
    "mish", "hardswish", "hardsigmoid", "hardtanh", "leaky_relu", "elu", "rrelu", "softplus", "_safe_softmax",
    "nan_to_num", "isnan", "isfinite", "__and__", "__or__", "logical_and",
)  # fmt: skip
def elementwise(call: Call) -> Any:
    results = [Value(broadcast(call, call.values, shape), call.weight) for shape in call.shapes]
    return results if len(results) > 1 else results[0]


@rule("clone", "contiguous", "to", "_to_copy", "alias", "detach", "lift_fresh", "lift_fresh_copy", "type_as")
def same(call: Call) -> Value:
    x = next(iter(call.values))
    return Value(x.axes, x.weight)


@rule("prelu")
def prelu(call: Call) -> Value:
    x, weight = call["self"], call["weight"]
    if len(x.axes) > 1 and size_of(weight.axes[0]) > 1:
        unify(x.axes[1], weight.axes[0], call.mismatch())
    return Value(x.axes)


@rule("glu")
def glu(call: Call) -> Value:
    x, dim = call["self"], call["dim"]
    first, second = _sections(call, x.axes[dim], [x.shape[dim] // 2] * 2)
    axes = list(x.axes)
    axes[dim] = meet(first, second, call.mismatch())
    return Value(axes)


# Tensors made on the spot


@rule("zeros", "ones", "full", "empty", "new_zeros", "new_ones", "new_full", "new_empty", "zeros_like", "ones_like",
      "full_like", "empty_like", "scalar_tensor", "empty_strided", "new_empty_strided")  # fmt: skip
def uniform(call: Call) -> Value:
    return Value([wild(n) for n in call.shapes[0]])


@rule("arange", "eye", "linspace", "logspace", "rand", "randn", "randint", "normal", "randperm", "tril_indices",
      "triu_indices", "hann_window", "hamming_window")  # fmt: skip
def constant(call: Call) -> Value:
    return Value([fixed(n, call.constant()) for n in call.shapes[0]])


# Shapes


@rule("view", "reshape", "_unsafe_view", "flatten", "unflatten", "view_as", "reshape_as", "squeeze", "unsqueeze",
      "ravel", "atleast_1d", "atleast_2d", "atleast_3d", "_reshape_alias", "view_copy")  # fmt: skip
def reshape(call: Call) -> Value:
    x = next(iter(call.values))
    return Value(reshaped(call, x.axes, call.shapes[0]), x.weight)


def reshaped(call: Call, axes: list[Axis], shape: list[int]) -> list[Axis]:
    rest = tuple(factor for axis in axes for factor in resolve(axis))
    found: list[Axis] = []
    for size in shape:
        halves = None if size_of(rest) % size else split(rest, size)
        if halves is None:
            freeze(rest, call.mismatch())
            return found + [fixed(n, call.mismatch()) for n in shape[len(found) :]]
        found.append(halves[0])
        rest = halves[1]
    return found


@rule("permute", "transpose", "t", "swapaxes", "swapdims", "movedim", "moveaxis", "numpy_T", "mT", "matrix_H",
      "adjoint")  # fmt: skip
def permute(call: Call) -> Value:
    x, others = next(iter(call.values)), list(call.arguments.values())[1:]
    probe = torch.empty([2 + k for k in range(len(x.axes))], device="meta")
    return Value([x.axes[n - 2] for n in call.target(probe, *others).shape], x.weight)


@rule("expand", "expand_as", "broadcast_to")
def expand(call: Call) -> Value:
    x = next(iter(call.values))
    shape = call.shapes[0]
    axes: list[Axis] = [()] * (len(shape) - len(x.axes)) + x.axes
    found = [a if size_of(a) == n else wild(n) for a, n in zip(axes, shape, strict=True)]
    return Value(found, x.weight and x.shape == shape)


@rule("repeat", "tile")
def repeat(call: Call) -> Value:
    x, shape = call["self"], call.shapes[0]
    axes: list[Axis] = [()] * (len(shape) - len(x.axes)) + x.axes
    return Value([wild(n // size_of(a)) + a for a, n in zip(axes, shape, strict=True)])


@rule("repeat_interleave")
def repeat_interleave(call: Call) -> Value | None:
    x, times, dim = call["self"], call.get("repeats"), call.get("dim")
    if not isinstance(times, int):
        return None
    axes = reshaped(call, x.axes, [math.prod(x.shape)]) if dim is None else list(x.axes)
    dim = 0 if dim is None else dim
    axes[dim] = axes[dim] + wild(times)
    return Value(axes, x.weight)


@rule("cat", "concat", "concatenate")
def cat(call: Call) -> Value:
    tensors = [value for value in call["tensors"] if math.prod(value.shape)]
    dim, weight = call.get("dim", 0) % len(tensors[0].axes), all(value.weight for value in tensors)
    axes = list(tensors[0].axes)
    for k in range(len(axes)):
        for value in tensors[1:] if k != dim else ():
            axes[k] = meet(axes[k], value.axes[k], call.mismatch())
    axes[dim] = side_by_side([resolve(value.axes[dim]) for value in tensors])
    parts = atoms(axes[dim])
    if len(parts) > _SIDES_KEPT and all(part.frozen for part in parts):
        axes[dim] = fixed(size_of(axes[dim]), parts[0].frozen)
    return Value(axes, weight)


@rule("stack")
def stack(call: Call) -> Value:
    tensors, dim = call["tensors"], call.get("dim", 0) % len(call.shapes[0])
    shape = [n for k, n in enumerate(call.shapes[0]) if k != dim]
    axes = broadcast(call, tensors, shape)
    axes.insert(dim, fixed(len(tensors), call.order()))
    return Value(axes, all(value.weight for value in tensors))


@rule("pad", "constant_pad_nd")
def pad(call: Call) -> Value:
    x, widths, axes = call["self"], list(call["pad"]), list(call["self"].axes)
    for k in range(len(widths) // 2):
        before, after = widths[2 * k : 2 * k + 2]
        if (before or after) and call.get("mode", "constant") == "constant" and min(before, after) >= 0:
            axes[-1 - k] = side_by_side([wild(before) if before else (), axes[-1 - k]] if before else [axes[-1 - k]])
            axes[-1 - k] = side_by_side([axes[-1 - k], wild(after)]) if after else axes[-1 - k]
        elif before or after:
            freeze(axes[-1 - k], call.order())
            axes[-1 - k] = fixed(call.shapes[0][-1 - k], POSITION)
    return Value(axes, x.weight)


# Parts


def _sections(call: Call, axis: Axis, sizes: list[int]) -> list[Axis]:
    """Consecutive parts of an axis; frozen where it cannot be cut there."""
    found: list[Axis] = []
    rest: Axis | None = axis
    for k, size in enumerate(sizes):
        halves = cut(rest, size) if rest is not None and size else None
        if halves is None:
            freeze(axis, call.order())
            return found + [fixed(n, call.order()) for n in sizes[k:]]
        found.append(halves[0])
        rest = halves[1]
    return [resolve(part) for part in found]


@rule("slice", "narrow", "slice_copy")
def slice_(call: Call) -> Value:
    x, dim, size = call["self"], call.get("dim", 0), call.shapes[0][call.get("dim", 0)]
    if x.items is not None and dim == 0:
        items = x.items[call.get("start") : call.get("end") : call.get("step", 1)]
        return Value([fixed(size, call.order()), *x.axes[1:]], items=items)
    if size == x.shape[dim]:
        return x
    start = call.get("start") or 0
    start, axes = start % x.shape[dim], list(x.axes)
    if call.get("step", 1) != 1 or not size:
        freeze(axes[dim], call.order())
        axes[dim] = fixed(size, call.order())
    else:
        sizes = [n for n in (start, size, x.shape[dim] - start - size) if n]
        axes[dim] = _sections(call, axes[dim], sizes)[1 if start else 0]
    return Value(axes, x.weight)


@rule("split", "split_with_sizes", "chunk", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes", "tensor_split")
def split_(call: Call) -> list[Value]:
    x, dim = call["self"], call.get("dim", 0)
    parts = _sections(call, x.axes[dim], [shape[dim] for shape in call.shapes])
    dim %= len(x.axes)
    return [Value([*x.axes[:dim], part, *x.axes[dim + 1 :]], x.weight) for part in parts]


@rule("select", "unbind")
def select(call: Call) -> Any:
    x, dim = call["self"], call.get("dim", 0) % len(call["self"].axes)
    if x.items is not None and dim == 0:
        return x.items[call["index"]] if call.name == "select" else x.items
    freeze(x.axes[dim], call.order())
    part = Value([axis for k, axis in enumerate(x.axes) if k != dim], x.weight)
    return part if call.name == "select" else [part] * len(call.shapes)


@rule("select_scatter", "slice_scatter")
def scatter_part(call: Call) -> Value:
    x, source, dim = call["self"], call["src"], call.get("dim", 0) % len(call["self"].axes)
    freeze(x.axes[dim], call.order())
    axes = list(source.axes)
    if call.name == "select_scatter":
        axes.insert(dim, ())
    else:
        freeze(axes[dim], call.order())
    kept = [meet(a, b, call.mismatch()) if k != dim else a for k, (a, b) in enumerate(zip(x.axes, axes, strict=True))]
    kept[dim] = fixed(x.shape[dim], call.order())
    return Value(kept)


@rule("embedding")
def embedding(call: Call) -> Value:
    weight, indices = call["weight"], call["indices"]
    freeze(weight.axes[0], call.order())
    _leads(weight, 1)
    return Value([*indices.axes, weight.axes[1]])


@rule("embedding_bag", "_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(call: Call) -> list[Value]:
    weight, *others = call.values
    freeze(weight.axes[0], call.order())
    _leads(weight, 1)
    for value in others:
        for axis in value.axes:
            freeze(axis, call.order())
    first, *rest = _unknown(call, call.shapes)
    return [Value([first.axes[0], weight.axes[1]]), *rest]


@rule("index_select")
def index_select(call: Call) -> Value:
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    freeze(x.axes[dim], call.order())
    return Value([*x.axes[:dim], *call["index"].axes, *x.axes[dim + 1 :]], x.weight)


@rule("index")
def index(call: Call) -> Value:
    x, indices = call["self"], [*call["indices"]]
    indices += [None] * (len(x.axes) - len(indices))
    at = [k for k, item in enumerate(indices) if item is not None]
    for k in at:
        freeze(x.axes[k], call.order())
    rank = len(call.shapes[0]) - (len(x.axes) - len(at))
    first = at[0] if at == list(range(at[0], at[-1] + 1)) else 0
    axes = [axis for k, axis in enumerate(x.axes) if k not in at]
    found = broadcast(call, [indices[k] for k in at], call.shapes[0][first : first + rank])
    return Value([*axes[:first], *found, *axes[first:]], x.weight)


@rule("gather", "take_along_dim")
def gather(call: Call) -> Value:
    x, dim = call["self"], call["dim"] % len(call["self"].axes)
    indices = call.get("index", call.get("indices"))
    axes = []
    for k, (a, b) in enumerate(zip(x.axes, indices.axes, strict=True)):
        if k == dim or size_of(a) != size_of(b):
            freeze(a, call.order())
            axes.append(b)
        else:
            axes.append(meet(a, b, call.mismatch()))
    return Value(axes)


@rule("view_as_complex", "view_as_real")
def complex_view(call: Call) -> Value:
    x = call["self"]
    if call.name == "view_as_real":
        return Value([*x.axes, fixed(2, call.order())], x.weight)
    freeze(x.axes[-1], call.order())
    return Value(x.axes[:-1], x.weight)


# Order within an axis


@rule("cumsum", "cumprod", "logcumsumexp", "flip", "roll", "tril", "triu", "sort", "argsort", "topk", "cummax",
      "cummin")  # fmt: skip
def ordered(call: Call) -> Any:
    x = call["self"]
    dims = call.get("dims", call.get("dim", (-2, -1)))
    dims = [dims] if isinstance(dims, int) else list(dims) or list(range(len(x.axes)))
    for dim in dims:
        freeze(x.axes[dim], call.order())
    dims = {dim % len(x.axes) for dim in dims}
    results = [
        Value([fixed(n, call.order()) if k in dims else a for k, (a, n) in enumerate(zip(x.axes, shape, strict=True))])
        for shape in call.shapes
    ]
    return results if len(results) > 1 else results[0]


# Sums and other symmetric functions of an axis


@rule("sum", "mean", "nansum", "nanmean", "amax", "amin", "aminmax", "prod", "any", "all", "logsumexp", "std", "var",
      "var_mean", "std_mean", "norm", "linalg_vector_norm", "linalg_norm", "count_nonzero")  # fmt: skip
def reduce(call: Call) -> Any:
    results = [_reduced(call, shape) for shape in call.shapes]
    return results if len(results) > 1 else results[0]


@rule("max", "min", "argmax", "argmin", "median", "nanmedian", "mode", "kthvalue")
def reduce_with_index(call: Call) -> Any:
    if call.get("other") is not None:
        return elementwise(call)
    x, dim = call["self"], call.get("dim")
    if call.name not in ("max", "min") or len(call.shapes) > 1:
        for axis in x.axes if dim is None else [x.axes[dim]]:
            freeze(axis, call.order())
    return reduce(call)


def _reduced(call: Call, shape: list[int]) -> Value:
    x, dims = call["self"], call.get("dim")
    dims = list(range(len(x.axes))) if dims is None or dims == [] else [dims] if isinstance(dims, int) else dims
    dims = {dim % len(x.axes) for dim in dims} if x.axes else set()
    axes = [() if k in dims else axis for k, axis in enumerate(x.axes)]
    if len(shape) != len(axes):
        axes = [axis for k, axis in enumerate(axes) if k not in dims]
    return Value(axes, x.weight)


@rule("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss", "binary_cross_entropy",
      "binary_cross_entropy_with_logits")  # fmt: skip
def loss(call: Call) -> Value:
    x = call["self"]
    broadcast(call, [call["self"], call["target"]], x.shape)
    return Value([()] * len(call.shapes[0]) if len(call.shapes[0]) != len(x.axes) else x.axes)


# Products


def contract(call: Call, operands: list[tuple[Value, str]], result: str, weights: Iterable[int] = ()) -> Value:
    """A sum of products as einsum writes it; `weights`: operands whose axes are neurons whatever the others are."""
    found: dict[str, Axis] = {}
    for value, labels in operands:
        for axis, label in zip(value.axes, labels, strict=True):
            other = found.get(label, ())
            found[label] = (
                meet(other, axis, call.mismatch()) if size_of(other) == size_of(axis) else max(other, axis, key=size_of)
            )
    call.records.append(list(found.values()))
    for k, (value, labels) in enumerate(operands):
        others = {label for j, (_, other) in enumerate(operands) if j != k for label in other}
        led_through = k in weights or not all(other.weight for j, (other, _) in enumerate(operands) if j != k)
        for axis, label in enumerate(labels if value.weight else ()):
            if label in others and label not in result:
                mark_neurons(found[label])
            elif label in result and label not in others and led_through:
                mark_neurons(found[label])
                _leads(value, axis)
    return Value([found[label] for label in result], all(value.weight for value, _ in operands))


def _leads(weight: Value, axis: int) -> None:
    weight.leads = axis if weight.leads is None else weight.leads


def _letters(count: int) -> str:
    return string.ascii_uppercase[: max(count, 0)]


@rule("linear")
def linear(call: Call) -> Value:
    x, weight, bias = call["input"], call["weight"], call.get("bias")
    batch = _letters(len(x.axes) - 1)
    out = "o" * (len(weight.axes) - 1)
    y = contract(call, [(x, batch + "i"), (weight, out + "i")], batch + out, weights=[1])
    return _with_bias(call, y, bias)


def _with_bias(call: Call, y: Value, bias: Value | None) -> Value:
    return y if bias is None else Value(broadcast(call, [y, bias], y.shape), y.weight)


@rule("addmm", "baddbmm", "addmv", "addbmm")
def add_product(call: Call) -> Value | None:
    values = call.values
    if call.name == "addbmm":
        return None
    bias, a, b = values
    batch = "b" if call.name == "baddbmm" else ""
    last = "" if call.name == "addmv" else "k"
    return _with_bias(call, contract(call, [(a, batch + "ij"), (b, batch + "j" + last)], batch + "i" + last), bias)


@rule("mm", "bmm", "mv", "dot", "vdot", "matmul", "__matmul__", "inner")
def matmul(call: Call) -> Value:
    a, b = call.values
    batch = _letters(max(len(a.axes), len(b.axes)) - 2)
    left = batch[len(batch) - max(len(a.axes) - 2, 0) :] + ("ij" if len(a.axes) > 1 else "j")
    right = batch[len(batch) - max(len(b.axes) - 2, 0) :] + ("jk" if len(b.axes) > 1 else "j")
    if call.name == "inner" and len(b.axes) > 1:
        right = right[:-2] + "kj"
    result = batch + ("i" if len(a.axes) > 1 else "") + ("k" if len(b.axes) > 1 else "")
    return contract(call, [(a, left), (b, right)], result)


@rule("cdist", "_cdist_forward", "_euclidean_dist")
def distances(call: Call) -> Value:
    a, b = call["x1"], call["x2"]
    batch = _letters(max(len(a.axes), len(b.axes)) - 2)
    left, right = (batch[len(batch) - len(v.axes) + 2 :] + end for v, end in ((a, "ij"), (b, "kj")))
    return contract(call, [(a, left), (b, right)], batch + "ik")


@rule("cosine_similarity", "pairwise_distance")
def similarity(call: Call) -> Value:
    a, b, dim = call["x1"], call["x2"], call.get("dim", -1)
    rank = max(len(a.axes), len(b.axes))
    axes = broadcast(
        call, [a, b], [max(sizes) for sizes in zip(*(_padded(v.shape, rank) for v in (a, b)), strict=True)]
    )
    call.records.append(list(axes))
    axes[dim] = ()
    return Value(axes if len(call.shapes[0]) == rank else [x for k, x in enumerate(axes) if k != dim % rank])


def _padded(shape: list[int], rank: int) -> list[int]:
    return [1] * (rank - len(shape)) + shape


@rule("einsum")
def einsum(call: Call) -> Value:
    operands, equation = list(call["tensors"]), call["equation"].replace(" ", "")
    left, arrow, result = equation.partition("->")
    inputs = left.split(",")
    dots = max(len(v.axes) - len(labels.replace("...", "")) for labels, v in zip(inputs, operands, strict=True))
    names = [chr(0x3B1 + k) for k in range(dots)]  # labels of the ellipsis: no letter of the equation
    if not arrow:
        letters = left.replace(",", "").replace("...", "")
        result = ("..." if "..." in left else "") + "".join(sorted(x for x in set(letters) if letters.count(x) == 1))
    labelled = []
    for labels, value in zip(inputs, operands, strict=True):
        width = len(value.axes) - len(labels.replace("...", ""))
        labelled.append((value, labels.replace("...", "".join(names[len(names) - width :]))))
    return contract(call, labelled, result.replace("...", "".join(names)))


@rule("scaled_dot_product_attention", "_scaled_dot_product_flash_attention_for_cpu",
      "_scaled_dot_product_flash_attention", "_scaled_dot_product_efficient_attention",
      "_scaled_dot_product_cudnn_attention", "_scaled_dot_product_attention_math")  # fmt: skip
def attention(call: Call) -> Any:
    query, key, value = call["query"], call["key"], call["value"]
    mask = call.get("attn_mask", call.get("attn_bias"))
    if call.get("enable_gqa") and query.shape[-3] != key.shape[-3]:
        times = wild(query.shape[-3] // key.shape[-3])
        key, value = (Value([*v.axes[:-3], v.axes[-3] + times, *v.axes[-2:]]) for v in (key, value))
    batch = _letters(len(query.axes) - 2)
    scores = contract(call, [(query, batch + "ld"), (key, batch + "sd")], batch + "ls")
    if call.get("is_causal"):
        freeze(scores.axes[-1] + scores.axes[-2], call.order())
    if mask is not None:
        scores = Value(broadcast(call, [scores, mask], scores.shape))
    result = contract(call, [(scores, batch + "ls"), (value, batch + "sv")], batch + "lv")
    return result if len(call.shapes) == 1 else [result, *_unknown(call, call.shapes[1:])]


# Convolutions, pooling: channels are neurons, positions stay


@rule("conv1d", "conv2d", "conv3d", "convolution", "_convolution", "conv_transpose1d", "conv_transpose2d",
      "conv_transpose3d", "mkldnn_convolution", "cudnn_convolution")  # fmt: skip
def convolution(call: Call) -> Value:
    x, weight, bias, groups = call.get("input", call.get("self")), call["weight"], call.get("bias"), call["groups"]
    transposed = call.get("transposed", "transpose" in call.name)
    rank = len(weight.axes) - 2
    channels = x.axes[-1 - rank]
    for axis in weight.axes[2:]:
        freeze(axis, "it is the extent of a kernel")
    if groups == 1:
        inner, out = (weight.axes[0], weight.axes[1]) if transposed else (weight.axes[1], weight.axes[0])
        inner = meet(channels, inner, call.mismatch())
    else:
        inner, out = _grouped(call, channels, weight, groups, transposed)
    if weight.weight:
        mark_neurons(inner)
        mark_neurons(out)
        _leads(weight, 1 if transposed else 0)
    if bias is not None:
        unify(out, bias.axes[0], call.mismatch())
    space = _positions(call, x.axes[len(x.axes) - rank :], call.shapes[0][-rank:], weight.shape[2:])
    call.records.append([inner, out])
    return Value([*x.axes[: -1 - rank], out, *space])


def _grouped(call: Call, channels: Axis, weight: Value, groups: int, transposed: bool) -> tuple[Axis, Axis]:
    """(in, out) channels of a convolution whose groups of channels do not see each other."""
    ours, theirs = split(channels, groups), split(weight.axes[0], groups)
    if ours is None or theirs is None:
        freeze(channels + weight.axes[0] + weight.axes[1], call.mismatch())
        return channels, fixed(call.shapes[0][-1 - (len(weight.axes) - 2)], call.mismatch())
    seen = weight.axes[1]
    unify(ours[0], theirs[0], call.mismatch())
    unify(ours[1], theirs[1] if transposed else seen, call.mismatch())
    freeze(seen, f"the groups of {call.where} see their own channels only")
    weight.axes[1] = fixed(size_of(seen), POSITION)
    return channels, (ours[0] + seen if transposed else weight.axes[0])


def _positions(call: Call, before: list[Axis], after: list[int], kernel: list[int]) -> list[Axis]:
    found = []
    for axis, size, extent in zip(before, after, kernel, strict=True):
        if extent == 1 and size == size_of(axis):
            found.append(axis)
        else:
            freeze(axis, call.order())
            found.append(fixed(size, POSITION))
    return found


@rule(*(f"{kind}{rank}d" for kind in ("max_pool", "avg_pool", "lp_pool", "adaptive_avg_pool", "_adaptive_avg_pool",
      "adaptive_max_pool", "upsample_nearest", "_upsample_nearest_exact", "reflection_pad", "replication_pad",
      "fractional_max_pool") for rank in "123"), "upsample_linear1d", "upsample_bilinear2d", "upsample_trilinear3d",
      "upsample_bicubic2d", "max_pool1d_with_indices", "max_pool2d_with_indices", "max_pool3d_with_indices",
      "mkldnn_max_pool2d", "_upsample_bilinear2d_aa")  # fmt: skip
def pool(call: Call) -> Any:
    x = next(iter(call.values))
    rank = int(next(letter for letter in call.name if letter in "123"))
    results = []
    for shape in call.shapes:
        space = _positions(call, x.axes[-rank:], shape[-rank:], [0] * rank)
        results.append(Value([*x.axes[:-rank], *space]))
    return results if len(results) > 1 else results[0]


@rule("pixel_shuffle")
def pixel_shuffle(call: Call) -> Value:
    x = call["self"]
    halves = split(x.axes[-3], call.shapes[0][-3])
    channels = halves[0] if halves else fixed(call.shapes[0][-3], call.mismatch())
    freeze(halves[1] if halves else x.axes[-3], call.order())
    space = _positions(call, x.axes[-2:], call.shapes[0][-2:], [0, 0])
    return Value([*x.axes[:-3], channels, *space])


@rule("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Value:
    x, size = call["self"], call.shapes[0][-3]
    space = _positions(call, x.axes[-2:], call.shapes[0][-2:], [0, 0])
    return Value([*x.axes[:-3], x.axes[-3] + fixed(size // x.shape[-3], POSITION), *space])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(call: Call) -> Value:
    x = call["self"]
    halves = split(x.axes[1], call["groups"])
    return Value([x.axes[0], halves[1] + halves[0], *x.axes[2:]])


# Normalisation: each statistic is a symmetric function


@rule("batch_norm", "instance_norm", "native_batch_norm", "_native_batch_norm_legit", "_batch_norm_impl_index",
      "_native_batch_norm_legit_no_training", "_native_batch_norm_legit_functional", "cudnn_batch_norm",
      "_batch_norm_with_update", "_batch_norm_with_update_functional", "_batch_norm_no_update")  # fmt: skip
def batch_norm(call: Call) -> Any:
    x, *statistics = call.values
    for value in statistics:
        unify(x.axes[1], value.axes[0], call.mismatch())
    if len(call.shapes) == 1:
        return Value(x.axes)
    return [Value([x.axes[1]] if shape == [x.shape[1]] else x.axes) for shape in call.shapes]


@rule("layer_norm", "native_layer_norm", "rms_norm", "_fused_rms_norm")
def layer_norm(call: Call) -> Any:
    x, *affine = call.values
    axes = list(x.axes)
    for value in affine:
        rank = len(value.axes)
        axes[len(axes) - rank :] = broadcast(call, [Value(axes[len(axes) - rank :]), value], value.shape)
    if len(call.shapes) == 1:
        return Value(axes)
    rank = len(call["normalized_shape"])
    return [Value(axes), *([Value([*axes[:-rank], *[()] * rank])] * (len(call.shapes) - 1))]


@rule("group_norm", "native_group_norm")
def group_norm(call: Call) -> Any:
    x, *affine = call.values
    groups = call.get("num_groups", call.get("group"))
    halves = split(x.axes[1], groups)
    if halves is None:
        freeze(x.axes[1], call.order())
    for value in affine:
        unify(x.axes[1], value.axes[0], call.mismatch())
    if len(call.shapes) == 1:
        return Value(x.axes)
    return [Value(x.axes), *([Value([x.axes[0], halves[0] if halves else fixed(groups, call.order())])] * 2)]


# Recurrent networks: the gates are folds of the hidden neurons

_GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _cell(call: Call, x: Axis, weights: list[Value], gates: int, projected: bool) -> tuple[Axis, Axis]:
    """(output, cell) neurons of one direction of one layer."""
    from_input, from_state, *rest = weights
    biases, projection = (rest[:-1], rest[-1]) if projected else (rest, None)
    order, hidden = split(from_input.axes[0], gates)
    freeze(order, "gates have an order")
    state = hidden if projection is None else projection.axes[0]
    for value in (from_state, *biases):
        unify(from_input.axes[0], value.axes[0], call.mismatch())
    unify(from_input.axes[1], x, call.mismatch())
    unify(from_state.axes[1], state, call.mismatch())
    if projection is not None:
        unify(projection.axes[1], hidden, call.mismatch())
    for value in (from_input, from_state, *([] if projection is None else [projection])):
        call.records.append(list(value.axes))
        mark_neurons(value.axes[0])
        mark_neurons(value.axes[1])
        _leads(value, 0)
    return resolve(state), resolve(hidden)


@rule(*_GATES)
def recurrent(call: Call) -> Any:
    if "data" in call.arguments:
        return None
    gates, x, weights = _GATES[call.name], call["input"], list(call["params"])
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    directions = 2 if call["bidirectional"] else 1
    each = len(weights) // (call["num_layers"] * directions)
    projected = call.name == "lstm" and each % 2 == 1
    axis, last = x.axes[-1], []
    for layer in range(call["num_layers"]):
        outputs = []
        for direction in range(directions):
            k = layer * directions + direction
            output, cell = _cell(call, axis, weights[k * each : (k + 1) * each], gates, projected)
            for state, at in zip(states, (output, cell), strict=False):
                unify(_item(state, k), at, call.mismatch())
            outputs.append(output)
            last.append((output, cell))
        axis = side_by_side(outputs)
    batch = states[0].axes[1:-1]
    finals = [
        Value(
            [fixed(len(last), call.order()), *batch, fixed(size_of(items[0]), call.order())],
            items=[Value([*batch, item]) for item in items],
        )
        for items in zip(*last, strict=True)
    ]
    return [Value([*x.axes[:-1], axis]), *finals[: len(call.shapes) - 1]]


def _item(state: Value, k: int) -> Axis:
    return state.axes[-1] if state.items is None else state.items[k].axes[-1]


@rule("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell")
def recurrent_cell(call: Call) -> Any:
    x, gates = call["input"], _GATES[call.name.removesuffix("_cell")]
    weights = [call[name] for name in ("w_ih", "w_hh", "b_ih", "b_hh") if call.get(name) is not None]
    output, cell = _cell(call, x.axes[-1], weights, gates, False)
    states = call["hx"] if isinstance(call["hx"], (list, tuple)) else [call["hx"]]
    for state in states:
        unify(state.axes[-1], output, call.mismatch())
    results = [Value([*x.axes[:-1], axis]) for axis in (output, cell)]
    return results if call.name == "lstm_cell" else results[0]


# Running a graph


def _unknown(call: Call, shapes: list[list[int]]) -> list[Value]:
    return [Value([fixed(n, call.order()) for n in shape]) for shape in shapes]


def _freeze_all(call: Call) -> Any:
    for value in call.values:
        for axis in value.axes:
            freeze(axis, f"{call.where} is not known to keep its neurons apart")
    results = _unknown(call, call.shapes)
    return results if len(results) != 1 else results[0]


def apply(call: Call) -> Any:
    """The results' values: by its rule, element by element where ATen says so, else frozen."""
    name = call.name
    function = RULES.get(name)
    if function is None and torch.Tag.pointwise in getattr(call.target, "tags", ()):
        function = elementwise
    if name not in ("select", "unbind", "slice", *_GATES):
        for value in call.values:
            _collapse(call, value)
    try:
        result = None if function is None or not call.shapes else function(call)
    except (AttributeError, LookupError, TypeError, ValueError):  # arguments of a kind that its rule does not know
        result = None
    return _freeze_all(call) if result is None else result


def _collapse(call: Call, value: Value) -> None:
    """Makes stacked tensors one: their neurons trade places together."""
    if value.items is not None:
        first, *others = value.items
        for other in others:
            for a, b in zip(first.axes, other.axes, strict=True):
                unify(a, b, call.mismatch())
        value.axes, value.items = [value.axes[0], *first.axes], None


class Interpreter:
    """Walks an exported graph and finds what every tensor's axes are made of.

    Attributes:
        records: axes of every tensor met, and of every product before it is summed.
    """

    def __init__(self) -> None:
        self.records: list[list[Axis]] = []

    def run(self, module: fx.GraphModule, inputs: list[Any]) -> list[Any]:
        """The graph's outputs, for values of its placeholders in order."""
        environment: dict[fx.Node, Any] = {}
        placeholders = iter(inputs)
        written = _written(module.graph)
        for node in module.graph.nodes:
            if node.op == "placeholder":
                environment[node] = next(placeholders)
            elif node.op == "get_attr":
                environment[node] = _attribute(module, node)
            elif node.op == "output":
                return list(fx.map_arg(node.args[0], environment.__getitem__))
            else:
                environment[node] = self._call(node, environment, node in written)
                self.records += [value.axes for value in _values(environment[node])]
        return []

    def _call(self, node: fx.Node, environment: dict[fx.Node, Any], written: bool) -> Any:
        args, kwargs = fx.map_arg((node.args, node.kwargs), environment.__getitem__)
        if not hasattr(node.target, "_schema"):
            graphs = [k for k, item in enumerate(args) if isinstance(item, fx.GraphModule)]
            if len(graphs) == 1:
                return self.run(args[graphs[0]], list(args[graphs[0] + 1 :]))
            if getattr(node.target, "__name__", "") == "getitem":
                return args[0][args[1]]
            call = Call(str(node.target), _where(node), node.target, dict(enumerate(args)), _shapes(node), self.records)
            return _freeze_all(call)
        schema = node.target._schema
        named = {
            argument.name: args[k] if k < len(args) else kwargs.get(argument.name, argument.default_value)
            for k, argument in enumerate(schema.arguments)
        }
        name = schema.name.split("::")[-1]
        name = name if name.startswith("__") else name.rstrip("_") or name
        call = Call(name, _where(node), node.target, named, _shapes(node), self.records)
        if name.startswith(("_assert", "sym_", "_local_scalar", "is_")) and not call.shapes:
            if name == "_local_scalar_dense":
                _freeze_all(call)
            return None
        if written and RULES.get(name) is uniform:
            return Value([free(n) for n in call.shapes[0]])
        return apply(call)


def _written(graph: fx.Graph) -> set[fx.Node]:
    """Tensors that something is written into: made of equal entries, they need not stay so."""
    found = set()
    for node in graph.nodes:
        if _schema(node) is not None and _schema(node).is_mutable:
            root = node.args[0]
            while isinstance(root, fx.Node) and _schema(root) is not None and _schema(root).returns[0].alias_info:
                root = root.args[0]
            found.add(root)
    return found


def _schema(node: fx.Node) -> Any:
    schema = getattr(node.target, "_schema", None)
    return schema if schema is not None and schema.returns else None


def _attribute(module: fx.GraphModule, node: fx.Node) -> Any:
    found = module
    for part in node.target.split("."):
        found = getattr(found, part)
    if isinstance(found, torch.Tensor):
        return Value([fixed(n, "it meets a constant") for n in found.shape])
    return found


def _where(node: fx.Node) -> str:
    stack = list((node.meta.get("nn_module_stack") or {}).values())
    path = stack[-1][0] if stack else ""
    name = str(node.target).removesuffix(".default")
    return f"{name} in {path}" if path else name


def _shapes(node: fx.Node) -> list[list[int]]:
    found = node.meta.get("val")
    tensors = [x for x in (found if isinstance(found, (list, tuple)) else [found]) if isinstance(x, torch.Tensor)]
    if any(not isinstance(n, int) for x in tensors for n in x.shape):
        raise ValueError(f"model must have shapes that its data do not decide, {_where(node)} gave {tensors[0].shape}")
    return [list(x.shape) for x in tensors]

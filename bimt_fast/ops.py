"""Every op once: schema, checks, fake, autograd. backends.py says whose kernels run.

Ops are registered with torch.library.Library, which costs a few microseconds a call, so they work under autograd,
torch.compile(fullgraph=True) and opcheck. Use bimt_fast.functional; the ops take every argument, in order, and do
not convert any.
"""

from collections.abc import Callable, Collection
from numbers import Integral, Real

import torch
from torch import Tensor

from .backends import kernels
from .geometry import TABLE, metric_row

_library = torch.library.Library("bimt_fast", "DEF")
# How weights may be stored, and the dtype of the positions and results that go with them.
COMPUTE_DTYPE = {dtype: dtype for dtype in (torch.float32, torch.float64)}
COMPUTE_DTYPE |= dict.fromkeys((torch.bfloat16, torch.float16), torch.float32)


def _register(schema: str, run: Callable, fake: Callable) -> None:
    name = schema.split("(", 1)[0]
    _library.define(schema)
    _library.impl(name, run, "CompositeExplicitAutograd")
    torch.library.register_fake(f"bimt_fast::{name}", fake, lib=_library)


def _register_autograd(name: str, backward: Callable, setup_context: Callable) -> None:
    torch.library.register_autograd(f"bimt_fast::{name}", backward, setup_context=setup_context, lib=_library)


# Checks. Each raises one sentence: the argument, what it must be, what it was.


def check_float(name: str, tensor: Tensor, dtypes: Collection[torch.dtype] = tuple(COMPUTE_DTYPE)) -> None:
    """TypeError unless a tensor of one of the dtypes, all that kernels take if none are given."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a tensor, was {type(tensor).__name__}")
    if tensor.dtype not in dtypes:
        *others, last = (str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise TypeError(f"{name} must be {', '.join(others)} or {last}, was {tensor.dtype}")
    if tensor.layout != torch.strided:
        raise TypeError(f"{name} must be a dense tensor, was {tensor.layout}")


def check_number(name: str, value: object, least: float = float("-inf")) -> float:
    """The value as a float; TypeError unless a real number, ValueError unless finite and at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, was {value!r}")
    if not least <= value < float("inf") or value == float("-inf"):
        raise ValueError(
            f"{name} must be finite{f' and at least {least}' if least > float('-inf') else ''}, was {value}"
        )
    return float(value)


def check_integer(name: str, value: object, least: int) -> int:
    """The value as an int; TypeError unless an integer, ValueError unless at least `least`."""
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} must be an integer, was {value!r}")
    if value < least:
        raise ValueError(f"{name} must be at least {least}, was {value}")
    return int(value)


def check_shape(name: str, tensor: Tensor, *sizes: int | None) -> None:
    """ValueError unless the shape is as given, None standing for any size."""
    shape = tuple(tensor.shape)
    if len(shape) != len(sizes) or any(want not in (None, got) for want, got in zip(sizes, shape, strict=True)):
        wanted = ", ".join("any" if size is None else str(size) for size in sizes)
        raise ValueError(f"{name} must have shape ({wanted}), was {shape}")


def check_like(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    """Same dtype (TypeError) and same device (ValueError) as another tensor."""
    if tensor.dtype != other.dtype:
        raise TypeError(f"{name} must have the dtype of {other_name}, {other.dtype}, was {tensor.dtype}")
    _check_device(name, tensor, other_name, other)


def _check_device(name: str, tensor: Tensor, other_name: str, other: Tensor) -> None:
    if tensor.device != other.device:
        raise ValueError(f"{name} must be on the device of {other_name}, {other.device}, was on {tensor.device}")


def _check_metric(metric: str, table: Tensor | None) -> None:
    if metric != TABLE and table is None:
        metric_row(metric)
    elif metric != TABLE or table is None:
        raise ValueError(f"table must be given with metric {TABLE!r} and only then, metric was {metric!r}")
    else:
        check_float("table", table, (torch.float32, torch.float64))
        check_shape("table", table, table.shape[0] if table.dim() else None, table.shape[0] if table.dim() else None)


def _check_positions(
    name: str, positions: Tensor, count: int | None, dim: int | None, like: Tensor, table: Tensor | None
) -> None:
    """Coordinates (count, dim) in the compute dtype of a weight; with a table, indices (count,) into it."""
    if table is None:
        check_shape(name, positions, count, dim)
        dtype = COMPUTE_DTYPE[like.dtype]
        if positions.dtype != dtype:
            raise TypeError(f"{name} must be {dtype} where weight is {like.dtype}, was {positions.dtype}")
    else:
        if positions.dtype != torch.int64:
            raise TypeError(f"{name} must be int64 indices of rows of the table, was {positions.dtype}")
        check_shape(name, positions, count)
        if table.dtype != COMPUTE_DTYPE[like.dtype]:
            raise TypeError(
                f"table must be {COMPUTE_DTYPE[like.dtype]} where weight is {like.dtype}, was {table.dtype}"
            )
        _check_device("table", table, "weight", like)
    _check_device(name, positions, "weight", like)


def check_assignment(name: str, assignment: Tensor, n: int, device: torch.device | None = None) -> None:
    """TypeError unless int64, ValueError unless of n entries and on the device, if one is given."""
    if not isinstance(assignment, Tensor) or assignment.dtype != torch.int64:
        was = assignment.dtype if isinstance(assignment, Tensor) else type(assignment).__name__
        raise TypeError(f"{name} must be an int64 tensor, was {was}")
    check_shape(name, assignment, n)
    if device is not None and assignment.device != device:
        raise ValueError(f"{name} must be on {device}, was on {assignment.device}")


def check_permutation(name: str, assignment: Tensor) -> None:
    """ValueError unless the values are 0..n-1, each once."""
    n = assignment.shape[0]
    if not torch.equal(assignment.sort().values, torch.arange(n, device=assignment.device)):
        raise ValueError(f"{name} must hold every index from 0 to {n - 1} once, did not")


def check_connection(weight: Tensor, out_pos: Tensor, in_pos: Tensor, metric: str, table: Tensor | None = None) -> None:
    """A weight (n_out, n_in), positions (n_out, dim) and (n_in, dim) like it, and a metric of the table."""
    _check_metric(metric, table)
    check_float("weight", weight)
    check_shape("weight", weight, None, None)
    _check_positions("out_pos", out_pos, weight.shape[0], None, weight, table)
    dim = None if table is not None else out_pos.shape[1]
    _check_positions("in_pos", in_pos, weight.shape[1], dim, weight, table)


# connection_cost


def _connection_cost(weight, out_pos, in_pos, metric, distance_scale, base_length, table=None):
    check_connection(weight, out_pos, in_pos, metric, table)
    return kernels(weight.device).connection_cost(weight, out_pos, in_pos, metric, distance_scale, base_length, table)


def _connection_cost_fake(weight, out_pos, in_pos, metric, distance_scale, base_length, table=None):
    check_connection(weight, out_pos, in_pos, metric, table)
    return weight.new_empty((), dtype=COMPUTE_DTYPE[weight.dtype])


def _connection_cost_backward(grad, weight, out_pos, in_pos, metric, distance_scale, base_length, need, table=None):
    backward = kernels(weight.device).connection_cost_backward
    grads = backward(grad, weight, out_pos, in_pos, metric, distance_scale, base_length, tuple(need), table)
    inputs = (weight, out_pos, in_pos)
    return tuple(x.new_empty(0) if g is None else g.contiguous() for x, g in zip(inputs, grads, strict=True))


def _connection_cost_backward_fake(
    grad, weight, out_pos, in_pos, metric, distance_scale, base_length, need, table=None
):
    inputs = (weight, out_pos, in_pos)
    return tuple(x.new_empty(x.shape if n else 0) for x, n in zip(inputs, need, strict=True))


def _connection_cost_context(ctx, inputs, output):
    *saved, table = (*inputs[:3], inputs[6])
    ctx.settings = inputs[3:6]
    ctx.save_for_backward(*saved, table)


def _connection_cost_autograd(ctx, grad):
    *inputs, table = ctx.saved_tensors
    need = ctx.needs_input_grad[:3]
    grads = torch.ops.bimt_fast.connection_cost_backward(grad, *inputs, *ctx.settings, list(need), table)
    return *(g if n else None for g, n in zip(grads, need, strict=True)), None, None, None, None


_register(
    "connection_cost(Tensor weight, Tensor out_pos, Tensor in_pos, str metric, float distance_scale,"
    " float base_length, Tensor? table=None) -> Tensor",
    _connection_cost,
    _connection_cost_fake,
)
_register(
    "connection_cost_backward(Tensor grad, Tensor weight, Tensor out_pos, Tensor in_pos, str metric,"
    " float distance_scale, float base_length, bool[] need, Tensor? table=None) -> (Tensor, Tensor, Tensor)",
    _connection_cost_backward,
    _connection_cost_backward_fake,
)
_register_autograd("connection_cost", _connection_cost_autograd, _connection_cost_context)


# add_grad


def check_add_grad(
    weights, grads, out_pos, in_pos, metric, lam, coefficients, distance_scales, base_lengths, table=None
):
    """Everything that add_grad refuses but values of positions; nothing has been changed then."""
    _check_metric(metric, table)
    if not weights:
        raise ValueError("weights must hold at least one tensor, was empty")
    lists = {"grads": grads, "out_pos": out_pos, "in_pos": in_pos, "coefficients": coefficients}
    lists |= {"distance_scales": distance_scales, "base_lengths": base_lengths}
    for name, values in lists.items():
        if len(values) != len(weights):
            raise ValueError(f"{name} must have one entry for each of the {len(weights)} weights, had {len(values)}")
    like = weights[0]
    for weight, grad, x, y in zip(weights, grads, out_pos, in_pos, strict=True):
        if table is None and add_grad_fits(weight, grad, x, y, like):
            continue
        check_float("weights", weight)
        check_like("weights", weight, "weights[0]", like)
        if weight.dim() == 2:
            check_connection(weight, x, y, metric, table)
        else:
            check_shape("weights", weight, None)
        check_float("grads", grad)
        check_shape("grads", grad, *weight.shape)
        check_like("grads", grad, "weights", weight)
        if _overlaps(grad):
            raise ValueError(f"grads must not hold expanded axes, had strides {grad.stride()}")


def _overlaps(tensor):
    return 0 in tensor.stride() and any(n > 1 and s == 0 for n, s in zip(tensor.shape, tensor.stride(), strict=True))


def add_grad_fits(weight, grad, x, y, like) -> bool:
    """Whether the arguments are plainly right; if not, the checks say what is wrong, and take ten times as long."""
    if not all(isinstance(value, Tensor) for value in (weight, grad, x, y)):
        return False
    dtype, device, shape = like.dtype, like.device, weight.shape
    compute = COMPUTE_DTYPE.get(dtype)
    if compute is None or weight.dtype != dtype or weight.device != device:
        return False
    if weight.layout != torch.strided or grad.layout != torch.strided or _overlaps(grad):
        return False
    if grad.dtype != dtype or grad.device != device or grad.shape != shape:
        return False
    if len(shape) == 1:
        return True
    same = x.dtype == y.dtype == compute and x.device == y.device == device
    return same and (x.shape[0], y.shape[0]) == shape and x.shape[1:] == y.shape[1:] and x.dim() == 2


def _add_grad(weights, grads, *settings):
    check_add_grad(weights, grads, *settings)
    return kernels(weights[0].device).add_grad(weights, grads, *settings)


def _add_grad_fake(weights, grads, *settings):
    check_add_grad(weights, grads, *settings)
    return weights[0].new_empty((), dtype=COMPUTE_DTYPE[weights[0].dtype])


_register(
    "add_grad(Tensor[] weights, Tensor(a!)[] grads, Tensor[] out_pos, Tensor[] in_pos, str metric, float lam,"
    " float[] coefficients, float[] distance_scales, float[] base_lengths, Tensor? table=None) -> Tensor",
    _add_grad,
    _add_grad_fake,
)


def add_grad(*arguments, memo: dict | None = None):
    """torch.ops.bimt_fast.add_grad, outside torch.compile without the dispatcher.

    Boxing the tensor lists of a small network costs more than the kernel does, and so do checking and describing them.

    Args:
        memo: a dict kept by a caller who comes again with the same tensors and settings (lam aside): as long as they
            stay where they are, they are checked and described once.
    """
    if torch.compiler.is_compiling():
        return torch.ops.bimt_fast.add_grad(*arguments)
    weights, grads, *_ = arguments
    module = kernels(weights[0].device)
    places = None if memo is None else _places(module, grads, weights)
    if memo is None or memo.get("places") != places:
        check_add_grad(*arguments)
    memo = _remember(memo, places)
    cost = module.add_grad(*arguments, memo=memo)
    torch.autograd.graph.increment_version(grads)
    return cost


def total_cost(weights, *settings) -> float:
    """The cost that add_grad returns, where no gradient is wanted; settings are those of add_grad without lam."""
    out_pos, in_pos, metric, *rest = settings
    check_add_grad(weights, weights, out_pos, in_pos, metric, 0.0, *rest)
    return kernels(weights[0].device).total_cost(weights, *settings)


def _places(module, grads, tensors):
    """What must be as before for a description to hold; NaN, which nothing equals, where a gradient is sparse.

    Not the addresses of gradients: every backward pass makes new ones.
    """
    try:
        formats = [(g.numel(), g.stride(), g.dtype) for g in grads]
        return [module, formats, [(x.data_ptr(), x.numel(), x.stride(), x.dtype) for x in tensors]]
    except RuntimeError:
        return float("nan")


def _remember(memo, places):
    """The memo, emptied unless it is of these places."""
    if memo is not None and memo.get("places") != places:
        memo.clear()
        memo["places"] = places
    return memo


# adamw


def check_adamw(weights, grads, exp_avgs, exp_avg_sqs, steps, out_pos, in_pos, metric, coefficients, *rest):
    """Everything that adamw refuses but values of positions; nothing has been changed then."""
    table = rest[4] if len(rest) > 4 else None
    _check_metric(metric, table)
    if not weights:
        raise ValueError("weights must hold at least one tensor, was empty")
    like = weights[0]
    for step in steps:
        check_float("steps", step, (torch.float32, torch.float64))
        if step.dim():
            raise ValueError(f"steps must have shape (), was {tuple(step.shape)}")
    for weight, x, y, coefficient, *states in zip(
        weights, out_pos, in_pos, coefficients, grads, exp_avgs, exp_avg_sqs, strict=True
    ):
        charged = coefficient and weight.dim() == 2
        if _adamw_fits(weight, states, like) and (not charged or add_grad_fits(weight, states[0], x, y, like)):
            continue  # the checks below say what is wrong, and take ten times as long
        check_float("weights", weight)
        check_like("weights", weight, "weights[0]", like)
        for name, state in zip(("grads", "exp_avgs", "exp_avg_sqs"), states, strict=True):
            check_float(name, state)
            check_shape(name, state, *weight.shape)
            check_like(name, state, "weights", weight)
        if charged:
            check_connection(weight, x, y, metric, table)


def _adamw_fits(weight, states, like):
    dtype, device, shape = like.dtype, like.device, weight.shape
    if dtype not in COMPUTE_DTYPE or weight.dtype != dtype or weight.device != device:
        return False
    return all(
        s.dtype == dtype and s.shape == shape and s.device == device and s.layout == torch.strided for s in states
    )


def _adamw(*arguments):
    check_adamw(*arguments)
    return kernels(arguments[0][0].device).adamw(*arguments)


def _adamw_fake(*arguments):
    check_adamw(*arguments)
    return arguments[0][0].new_empty((), dtype=COMPUTE_DTYPE[arguments[0][0].dtype])


_register(
    "adamw(Tensor(a!)[] weights, Tensor[] grads, Tensor(b!)[] exp_avgs, Tensor(c!)[] exp_avg_sqs, Tensor(d!)[] steps,"
    " Tensor[] out_pos, Tensor[] in_pos, str metric, float[] coefficients, float[] distance_scales,"
    " float[] base_lengths, float[] settings, bool proximal, Tensor? table=None) -> Tensor",
    _adamw,
    _adamw_fake,
)


def adamw(*arguments, memo: dict | None = None):
    """torch.ops.bimt_fast.adamw, outside torch.compile without the dispatcher; memo as in add_grad."""
    if torch.compiler.is_compiling():
        return torch.ops.bimt_fast.adamw(*arguments)
    weights, grads, exp_avgs, exp_avg_sqs, steps, *_ = arguments
    module = kernels(weights[0].device)
    places = None if memo is None else _places(module, grads, (*weights, *exp_avgs, *exp_avg_sqs, *steps))
    if memo is None or memo.get("places") != places:
        check_adamw(*arguments)
    memo = _remember(memo, places)
    cost = module.adamw(*arguments, memo=memo)
    torch.autograd.graph.increment_version([*weights, *exp_avgs, *exp_avg_sqs, *steps])
    return cost


# placement_cost


def _placement_cost_check(slots, weights, peers, incoming, metric, coefficients, table=None):
    _check_metric(metric, table)
    if not len(weights) == len(peers) == len(coefficients) or not 0 <= incoming <= len(weights):
        raise ValueError("weights, peers and coefficients must be of one length, and incoming at most that length")
    for k, weight in enumerate(weights):
        check_float("incoming weight" if k < incoming else "outgoing weight", weight)
    like = weights[0] if weights else slots if table is None else table
    if table is None:
        check_float("slots", slots)
    _check_positions("slots", slots, None, None, like, table)
    n, dim = slots.shape[0], None if table is not None else slots.shape[1]
    for k, (weight, peer) in enumerate(zip(weights, peers, strict=True)):
        side = "incoming" if k < incoming else "outgoing"
        check_like(f"{side} weight", weight, "the first weight", like)
        check_shape(f"{side} weight", weight, *((n, None) if k < incoming else (None, n)))
        _check_positions(f"{side} positions", peer, weight.shape[1 if k < incoming else 0], dim, weight, table)


def _placement_cost(slots, *rest):
    _placement_cost_check(slots, *rest)
    return kernels(slots.device).placement_cost(slots, *rest)


def placement_cost(*arguments):
    """torch.ops.bimt_fast.placement_cost without the dispatcher, which takes longer than the cost of a small group."""
    return _placement_cost(*arguments)


def _placement_cost_fake(slots, weights, peers, incoming, metric, coefficients, table=None):
    _placement_cost_check(slots, weights, peers, incoming, metric, coefficients, table)
    dtype = slots.dtype if table is None else table.dtype
    return slots.new_empty(slots.shape[0], slots.shape[0], dtype=dtype).T  # in memory, slots are rows


def _placement_cost_backward(grad, slots, weights, *rest):
    grads = kernels(slots.device).placement_cost_backward(grad, slots, weights, *rest)
    return [g.contiguous() for g in grads]


def _placement_cost_backward_fake(grad, slots, weights, peers, *settings):
    return [x.new_empty(x.shape) for x in (slots, *weights, *peers)]


def _placement_cost_context(ctx, inputs, output):
    slots, weights, peers, *ctx.settings, table = inputs
    ctx.count = len(weights)
    ctx.save_for_backward(slots, *weights, *peers, table)


def _placement_cost_autograd(ctx, grad):
    slots, *parts, table = ctx.saved_tensors
    weights, peers = parts[: ctx.count], parts[ctx.count :]
    grads = torch.ops.bimt_fast.placement_cost_backward(grad, slots, weights, peers, *ctx.settings, table)
    of_weights = grads[1 : 1 + ctx.count]
    no_coefficients = None if ctx.count else []  # torch wants the structure of an empty list back
    if table is None:  # nor does torch count a last argument that has its default
        return grads[0], of_weights, grads[1 + ctx.count :], None, None, no_coefficients
    return None, of_weights, [None] * ctx.count, None, None, no_coefficients, None


_register(
    "placement_cost(Tensor slots, Tensor[] weights, Tensor[] peers, int incoming, str metric,"
    " float[] coefficients, Tensor? table=None) -> Tensor",
    _placement_cost,
    _placement_cost_fake,
)
_register(
    "placement_cost_backward(Tensor grad, Tensor slots, Tensor[] weights, Tensor[] peers, int incoming, str metric,"
    " float[] coefficients, Tensor? table=None) -> Tensor[]",
    _placement_cost_backward,
    _placement_cost_backward_fake,
)
_register_autograd("placement_cost", _placement_cost_autograd, _placement_cost_context)


# swap_deltas and best_swaps


def _swap_check(cost, assignment, flow, distance):
    check_float("cost", cost, (torch.float32, torch.float64))
    n = cost.shape[0] if cost.dim() else 0
    if tuple(cost.shape) != (n, n):
        raise ValueError(f"cost must have shape (n, n), was {tuple(cost.shape)}")
    if assignment is not None:
        check_assignment("assignment", assignment, n, cost.device)
    if (flow is None) != (distance is None):
        raise ValueError(f"flow and distance must be given together, {'flow' if flow is None else 'distance'} was None")
    for name, tensor in (("flow", flow), ("distance", distance)):
        if tensor is not None:
            check_float(name, tensor)
            check_shape(name, tensor, n, n)
            check_like(name, tensor, "cost", cost)


def _swap_deltas(cost, assignment=None, flow=None, distance=None):
    _swap_check(cost, assignment, flow, distance)
    if assignment is not None:
        check_permutation("assignment", assignment)
    return kernels(cost.device).swap_deltas(cost, assignment, flow, distance).contiguous()


def _swap_deltas_fake(cost, assignment=None, flow=None, distance=None):
    _swap_check(cost, assignment, flow, distance)
    return cost.new_empty(cost.shape)


def _swap_deltas_backward(grad, cost, assignment=None, flow=None, distance=None):
    grads = kernels(cost.device).swap_deltas_backward(grad, cost, assignment, flow, distance)
    return [g.contiguous() for g in grads]


def _swap_deltas_backward_fake(grad, cost, assignment=None, flow=None, distance=None):
    return [x.new_empty(x.shape) for x in (cost, flow, distance) if x is not None]


def _swap_context(ctx, inputs, output):
    cost, assignment, flow, distance = inputs
    ctx.recurrent = flow is not None
    partner = output[1] if isinstance(output, tuple) else None
    if partner is not None:
        ctx.mark_non_differentiable(partner)
    ctx.save_for_backward(cost, assignment, flow, distance, partner)


def _swap_autograd(ctx, grad, _=None):
    *inputs, partner = ctx.saved_tensors
    if partner is not None:  # the gradient of a best swap belongs to one entry of its row; a zero swap has none
        rows = torch.arange(partner.shape[0], device=partner.device)
        moved = torch.where(partner == rows, 0, grad)
        grad = torch.zeros_like(inputs[0]).index_put((rows, partner), moved)
    grads = torch.ops.bimt_fast.swap_deltas_backward(grad, *inputs)
    return grads[0], None, *(grads[1:] if ctx.recurrent else (None, None))


def _best_swaps(cost, assignment=None, flow=None, distance=None):
    _swap_check(cost, assignment, flow, distance)
    if assignment is not None:
        check_permutation("assignment", assignment)
    return kernels(cost.device).best_swaps(cost, assignment, flow, distance)


def best_swaps_unchecked(*arguments):
    """best_swaps of a cost that it has served before and of a permutation; a GPU backend waits for nothing then."""
    module = kernels(arguments[0].device)
    run = getattr(module, "best_swaps_unchecked", module.best_swaps)
    return run(*arguments, *[None] * (4 - len(arguments)))


def _best_swaps_fake(cost, assignment=None, flow=None, distance=None):
    _swap_check(cost, assignment, flow, distance)
    n = cost.shape[0]
    return cost.new_empty(n), cost.new_empty(n, dtype=torch.int64)


_SWAP_ARGUMENTS = "Tensor cost, Tensor? assignment=None, Tensor? flow=None, Tensor? distance=None"
_register(f"swap_deltas({_SWAP_ARGUMENTS}) -> Tensor", _swap_deltas, _swap_deltas_fake)
_register(f"best_swaps({_SWAP_ARGUMENTS}) -> (Tensor, Tensor)", _best_swaps, _best_swaps_fake)
_register(
    f"swap_deltas_backward(Tensor grad, {_SWAP_ARGUMENTS}) -> Tensor[]",
    _swap_deltas_backward,
    _swap_deltas_backward_fake,
)
_register_autograd("swap_deltas", _swap_autograd, _swap_context)
_register_autograd("best_swaps", _swap_autograd, _swap_context)


# placement_swaps: not differentiable; best_swaps of placement_cost is.


def _placement_swaps_check(slots, weights, peers, incoming, metric, coefficients, top_k, table=None):
    _placement_cost_check(slots, weights, peers, incoming, metric, coefficients, table)
    if top_k is not None and top_k < 0:
        raise ValueError(f"top_k must be a non-negative integer or None, was {top_k}")


def _placement_swaps(slots, *rest):
    _placement_swaps_check(slots, *rest)
    return kernels(slots.device).placement_swaps(slots, *rest)


def _placement_swaps_fake(slots, weights, peers, incoming, metric, coefficients, top_k, table=None):
    _placement_swaps_check(slots, weights, peers, incoming, metric, coefficients, top_k, table)
    n, like = slots.shape[0], slots if table is None else table
    if top_k is None:
        return like.new_empty(n), like.new_empty(n, dtype=torch.int64)
    k = min(top_k, n * (n - 1) // 2)
    return like.new_empty(k), like.new_empty(k, 2, dtype=torch.int64)


_register(
    "placement_swaps(Tensor slots, Tensor[] weights, Tensor[] peers, int incoming, str metric,"
    " float[] coefficients, int? top_k, Tensor? table=None) -> (Tensor, Tensor)",
    _placement_swaps,
    _placement_swaps_fake,
)


# quadratic_walks: not differentiable


def _quadratic_check(flow, distance, linear, assignments, seeds, limits, costs, done, memory, *settings):
    check_float("flow", flow, (torch.int32, torch.float64))
    n = flow.shape[0] if flow.dim() else 0
    for name, matrix in (("flow", flow), ("distance", distance), ("linear", linear)):
        if matrix is not None:
            check_shape(name, matrix, n, n)
            check_like(name, matrix, "flow", flow)
    check_shape("assignments", assignments, None, n)
    walks = assignments.shape[0]
    tensors = {"assignments": assignments, "seeds": seeds, "limits": limits, "costs": costs, "done": done}
    for name, tensor in tensors.items():
        check_float(name, tensor, (torch.float64 if name == "costs" else torch.int64,))
        check_shape(name, tensor, walks, *((n,) if name == "assignments" else ()))
        if not tensor.is_contiguous():
            raise ValueError(f"{name} must be contiguous, had strides {tensor.stride()}")


def _quadratic_walks(flow, *rest):
    _quadratic_check(flow, *rest)
    kernels(flow.device).quadratic_walks(flow, *rest)


_register(
    "quadratic_walks(Tensor flow, Tensor distance, Tensor? linear, Tensor(a!) assignments, Tensor seeds,"
    " Tensor limits, Tensor(b!) costs, Tensor(c!) done, Tensor(d!)? memory, bool tabu, bool symmetric, float least,"
    " float seconds) -> ()",
    _quadratic_walks,
    lambda *arguments: _quadratic_check(*arguments),
)


# permute_: not differentiable; that the places are there, and the same ones in both lists, is not checked


def _permute_check(tensor, axis, to, source):
    if tensor.layout != torch.strided:
        raise TypeError(f"tensor must be a dense tensor, was {tensor.layout}")
    if _overlaps(tensor):
        raise ValueError(f"tensor must not hold expanded axes, had strides {tensor.stride()}")
    if not 0 <= axis < tensor.dim():
        raise ValueError(f"axis must be from 0 to {tensor.dim() - 1}, was {axis}")
    for name, places in (("to", to), ("source", source)):
        check_assignment(name, places, to.shape[0] if to.dim() else 1, tensor.device)


def permute_(tensor, axis, to, source):
    """torch.ops.bimt_fast.permute_ without the dispatcher."""
    _permute_check(tensor, axis, to, source)
    kernels(tensor.device).permute_(tensor, axis, to, source)
    torch.autograd.graph.increment_version(tensor)


_register(
    "permute_(Tensor(a!) tensor, int axis, Tensor to, Tensor source) -> ()",
    permute_,
    lambda *arguments: _permute_check(*arguments),
)


# label_nulls: not differentiable


def _label_nulls_check(labels, neighbours, positions, clusters, permutations, seed):
    check_float("labels", labels, (torch.int64,))
    check_shape("labels", labels, None)
    check_float("neighbours", neighbours, (torch.int64,))
    check_float("positions", positions, (torch.float64,))
    n = labels.shape[0]
    for name, tensor in (("neighbours", neighbours), ("positions", positions)):
        check_shape(name, tensor, n, None)
        _check_device(name, tensor, "labels", labels)
    for name, value in (("clusters", clusters), ("permutations", permutations), ("seed", seed)):
        check_integer(name, value, 0)
    if max(n, clusters) >= 2**31:
        raise ValueError(f"labels and clusters must be fewer than 2^31, were {n} and {clusters}")


def _label_nulls(labels, neighbours, positions, clusters, permutations, seed):
    _label_nulls_check(labels, neighbours, positions, clusters, permutations, seed)
    for name, values, least, end in (("labels", labels, 0, clusters), ("neighbours", neighbours, -1, len(labels))):
        if values.numel() and not least <= values.min() <= values.max() < end:
            raise ValueError(
                f"{name} must be from {least} to {end - 1}, were from {int(values.min())} to {int(values.max())}"
            )
    if not positions.isfinite().all():
        raise ValueError("positions must be finite, held NaN or infinity")
    return kernels(labels.device).label_nulls(labels, neighbours, positions, clusters, permutations, seed)


def _label_nulls_fake(labels, neighbours, positions, clusters, permutations, seed):
    _label_nulls_check(labels, neighbours, positions, clusters, permutations, seed)
    return positions.new_empty(1 + permutations, 3)


_register(
    "label_nulls(Tensor labels, Tensor neighbours, Tensor positions, int clusters, int permutations, int seed)"
    " -> Tensor",
    _label_nulls,
    _label_nulls_fake,
)


# The gradients are exact first derivatives and not differentiable again: say so instead of returning zeros.


def _refuse_second_derivative(ctx, *grads):
    raise NotImplementedError("bimt_fast: second derivatives of its ops are not implemented")


for _name in ("connection_cost_backward", "placement_cost_backward", "swap_deltas_backward"):
    _register_autograd(_name, _refuse_second_derivative, lambda ctx, inputs, output: None)

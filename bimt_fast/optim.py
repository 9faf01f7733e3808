"""AdamW with the connection cost in it: one pass over weight, gradient and moments, several tensors a native call."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor

from .ops import adamw, check_adamw, check_float, check_number
from .wiring import Plan, Wiring

# What torch.optim.AdamW keeps in a param group beside ours, so that each loads the other's state_dict.
_TORCH_ONLY = {
    "amsgrad": False,
    "maximize": False,
    "foreach": None,
    "capturable": False,
    "differentiable": False,
    "fused": None,
    "decoupled_weight_decay": True,
}


class AdamW(torch.optim.Optimizer):
    """AdamW whose gradient includes lam * d wiring.cost() / d p, in the pass that updates the parameter.

    The steps of torch.optim.AdamW on loss + lam * wiring.cost(), to rounding. `.grad` is not changed: clipping
    sees the task's gradient only, and under GradScaler the penalty enters after unscaling. Parameters that the wiring
    does not charge get plain AdamW. The state (step, exp_avg, exp_avg_sq) is torch's, follows every relocation by
    itself, and state_dicts load either way; settings that torch's does not hold keep the values they have here.

    With proximal=True the penalty stays out of the gradient: after the step, w <- sign(w) max(|w| - lr lam length, 0),
    which makes exact zeros. The same lam then acts about a hundred times more weakly, since Adam does not rescale it.

    Left out on purpose: amsgrad and maximize (a cost is minimised), foreach, fused, capturable and differentiable (the
    step is one native call already). A param group that sets amsgrad, maximize, capturable or differentiable is a
    ValueError; foreach and fused are ignored.

    Args:
        wiring: of the model.
        params: parameters, or torch-style groups; None: all parameters of the wiring's model.
        lr: learning rate, at least 0. This and all below but proximal are keys of `param_groups`, read at each step.
        betas: decay rates of the two moments, each in [0, 1).
        eps: added to the root of the second moment, at least 0.
        weight_decay: decoupled, at least 0.
        lam: strength of the penalty, at least 0.
        bias: whether tensors of one axis are charged.
        distance_scale: replaces the wiring's own in the penalty; None keeps it.
        proximal: shrink behind the step instead of adding to the gradient.

    Attributes:
        cost: 0-d tensor, the connection cost of the last step's parameters as they were before it; None at first.

    Raises:
        TypeError: wiring is not a Wiring.
        ValueError: a setting is out of its range.

    Source: Loshchilov and Hutter 2019 (arXiv 1711.05101); penalty of Liu, Gan, Tegmark 2023 (arXiv 2305.08746).
    """

    def __init__(
        self,
        wiring: Wiring,
        params: Iterable[Tensor] | Iterable[dict[str, Any]] | None = None,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        lam: float = 1e-3,
        bias: bool = True,
        distance_scale: float | None = None,
        proximal: bool = False,
    ) -> None:
        if not isinstance(wiring, Wiring):
            raise TypeError(f"wiring must be a bimt_fast.Wiring, was {type(wiring).__name__}")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        defaults |= {"lam": lam, "bias": bias, "distance_scale": distance_scale}
        self.wiring = wiring
        self.proximal = proximal
        self.cost: Tensor | None = None
        super().__init__(wiring.model.parameters() if params is None else params, defaults | _TORCH_ONLY)
        wiring.attach(self)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in torch; a setting out of its range is a ValueError, before the group is added."""
        if isinstance(param_group, dict):
            _check(self.defaults | param_group)
        super().add_param_group(param_group)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "wiring": self.wiring, "proximal": self.proximal, "cost": self.cost}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        if "wiring" in state:  # a copy; load_state_dict comes here too
            self.wiring.attach(self)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state_dict of this class or of torch.optim.AdamW; lam, bias, distance_scale may be missing."""
        own = [{key: group[key] for key in ("lam", "bias", "distance_scale")} for group in self.param_groups]
        super().load_state_dict(state_dict)
        for group, kept in zip(self.param_groups, own, strict=True):
            for key, value in {**_TORCH_ONLY, **kept}.items():
                group.setdefault(key, value)
        for state in self.state.values():
            if "step" in state:  # which torch keeps in its default dtype, and on the CPU where not fused
                state["step"] = torch.as_tensor(state["step"]).to(state["exp_avg"].device, torch.float32)

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One step for every parameter that has a gradient.

        Args:
            closure: evaluates the model again and returns the loss.

        Returns:
            The closure's loss.

        Raises:
            TypeError, ValueError: a gradient is sparse or does not fit, a setting is out of its range.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.update()
        return loss

    @torch.no_grad()
    def update(self) -> None:
        """What step does without closure, hooks and profiler range, which take as long as a small network's update."""
        for group in self.param_groups:
            _check(group)
            for p in group["params"]:
                if p.grad is not None and p.grad.layout is not torch.strided:
                    check_float("grads", p.grad)
        calls = [call for group in self.param_groups for call in self._calls(group)]
        for _, arguments in calls if len(calls) > 1 else ():
            check_adamw(*arguments)  # all before the first changes a parameter, or a position that another reads
        costs = [adamw(*arguments, memo=memo) for memo, arguments in calls]
        self.cost = sum((cost.to(costs[0].device) for cost in costs[1:]), costs[0]) if costs else None

    def _calls(self, group: dict[str, Any]) -> list[tuple[dict, tuple]]:
        """The native calls of a param group: what each keeps between steps, and its arguments."""
        settings = [float(group["lr"]), *map(float, group["betas"]), group["eps"], group["weight_decay"], group["lam"]]
        grads = {id(p): p.grad for p in group["params"] if p.grad is not None}
        if group["lam"]:
            for x, grad in self.wiring.position_gradients(group["bias"], group["distance_scale"]):
                grads[id(x)] = grads.get(id(x), 0) + group["lam"] * grad
        tensors = [p for p in group["params"] if id(p) in grads]
        calls = []
        for plan in self.wiring.plans(tensors, group["bias"], group["distance_scale"]):
            states = [self._state_of(p) for p in plan.tensors]
            arguments = (
                plan.views(plan.tensors),
                plan.views(plan.aligned([grads[id(p)] for p in plan.tensors])),
                self._moments(plan, states, "exp_avg"),
                self._moments(plan, states, "exp_avg_sq"),
                [state["step"] for state in states],
                plan.out_pos,
                plan.in_pos,
                plan.metric,
                *plan.settings[:3],
                settings,
                self.proximal,
                plan.table,
            )
            calls.append((plan.memos["adamw"], arguments))
        return calls

    @staticmethod
    def _moments(plan: Plan, states: list[dict[str, Tensor]], key: str) -> list[Tensor]:
        """As kernels see them; those that were loaded with other strides than their parameter's are laid out anew."""
        aligned = plan.aligned([state[key] for state in states])
        for state, tensor in zip(states, aligned, strict=True):
            state[key] = tensor
        return plan.views(aligned)

    def _state_of(self, p: Tensor) -> dict[str, Tensor]:
        state = self.state[p]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=p.device)  # counted without waiting for a GPU
            state["exp_avg"] = torch.zeros_like(p, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(p, memory_format=torch.preserve_format)
        return state


def _check(group: dict[str, Any]) -> None:
    for key in ("lr", "eps", "weight_decay", "lam"):
        value = group[key]
        check_number(key, value.item() if isinstance(value, Tensor) else value, 0)
    betas = group["betas"]
    if not isinstance(betas, (tuple, list)) or len(betas) != 2 or not all(0 <= float(beta) < 1 for beta in betas):
        raise ValueError(f"betas must be two numbers of [0, 1), were {betas}")
    if group["distance_scale"] is not None:
        check_number("distance_scale", group["distance_scale"], 0)
    for key in ("amsgrad", "maximize", "capturable", "differentiable"):
        if group.get(key):
            raise ValueError(f"{key} must be False, it is left out of bimt_fast.optim.AdamW")

"""A wiring as plain lists, numbers and strings that json keeps, and back."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from .wiring import Wiring

KEYS = {
    "positions", "axes", "frozen", "blocks", "metric", "distance_scale", "base_length", "reduction", "penalised",
    "unpenalised", "permutations", "notes",
}  # fmt: skip


def to_dict(wiring: "Wiring") -> dict[str, object]:
    parameters = {id(p): name for name, p in wiring.model.named_parameters()}
    return {
        "positions": {group: _slots(x, parameters.get(id(x))) for group, x in wiring._slots.items()},
        "axes": {name: list(texts) for name, texts in wiring.axes.items()},
        "frozen": list(wiring.frozen),
        "blocks": dict(wiring.blocks),
        "metric": _values(wiring.metric) if isinstance(wiring.metric, Tensor) else wiring.metric,
        "distance_scale": dict(wiring._distance_scale),
        "base_length": dict(wiring._base_length),
        "reduction": dict(wiring._reduction),
        "penalised": sorted(wiring._penalised),
        "unpenalised": sorted(wiring._unpenalised),
        "permutations": {group: places.tolist() for group, places in wiring.permutations().items()},
        "notes": list(wiring.notes),
    }


def from_dict(kind: type["Wiring"], model: nn.Module, state: Mapping[str, object]) -> "Wiring":
    if not isinstance(state, Mapping):
        raise TypeError(f"state must be a dict of to_dict, was {type(state).__name__}")
    if state.keys() != KEYS:
        missing, unknown = sorted(KEYS - state.keys()), sorted(map(str, state.keys() - KEYS))
        raise ValueError(f"state must have the keys of to_dict, lacked {missing}, had {unknown} besides")
    settings = {key: state[key] for key in KEYS - {"positions", "axes", "metric", "permutations", "notes"}}
    metric = state["metric"]
    wiring = kind(
        model,
        {group: _loaded_slots(model, group, x) for group, x in state["positions"].items()},
        state["axes"],
        metric=_tensor("metric", metric) if isinstance(metric, Mapping) else metric,
        **settings,
    )
    wiring.load_permutations({g: torch.tensor(p, dtype=torch.int64) for g, p in state["permutations"].items()})
    wiring.notes = tuple(state["notes"])
    return wiring


def _values(x: Tensor) -> dict[str, object]:
    return {"dtype": str(x.dtype).removeprefix("torch."), "shape": list(x.shape), "values": x.detach().tolist()}


def _slots(x: Tensor, parameter: str | None) -> dict[str, object]:
    """Positions that are learned say so, and under which name the model has them, if it does."""
    learned = {"learned": x.requires_grad, "parameter": parameter} if isinstance(x, nn.Parameter) else {}
    return _values(x) | learned


def _loaded_slots(model: nn.Module, group: str, saved: Mapping[str, object]) -> Tensor:
    if saved.get("parameter") is not None:
        return model.get_parameter(saved["parameter"])
    x = _tensor(f"positions of {group!r}", saved)
    return nn.Parameter(x, requires_grad=saved["learned"]) if "learned" in saved else x


def _tensor(name: str, saved: Mapping[str, object]) -> Tensor:
    dtype = getattr(torch, saved["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{name} must have a dtype of torch, had {saved['dtype']!r}")
    return torch.tensor(saved["values"], dtype=dtype).reshape(saved["shape"])

"""Which backend serves which device, and why the others do not.

Every backend is a module of bimt_fast.kernels with the functions of kernels/reference.py and a
`can_run(device) -> (yes or no, reason)`. The first of PREFERENCE that can run serves a type of device; a fallback is
logged once. `BIMT_FAST_BACKEND=name` in the environment, or `with bf.backend(name):`, force one.
"""

import importlib
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import ModuleType

import torch

BACKENDS = ("cpu", "cuda", "triton", "reference")
PREFERENCE = {"cpu": ("cpu", "reference"), "cuda": ("cuda", "triton", "reference")}  # elsewhere: the reference

_log = logging.getLogger("bimt_fast")
_forced: ContextVar[str | None] = ContextVar("bimt_fast_backend", default=None)
_chosen: dict[tuple[str | None, str, int | None], ModuleType] = {}


def load(name: str) -> ModuleType:
    """The module of a backend, whether or not it can serve anything here."""
    return importlib.import_module(f"{__package__}.kernels.{name}")


def _check_name(name: str, source: str) -> str:
    if name not in BACKENDS:
        raise ValueError(f"{source} must be one of {', '.join(BACKENDS)}, was {name!r}")
    return name


@contextmanager
def backend(name: str) -> Iterator[None]:
    """Forces one backend inside a with block: `with bf.backend("reference"): ...`; other threads are not affected.

    Args:
        name: "cpu", "cuda", "triton" or "reference".

    Raises:
        ValueError: no backend has that name.
        RuntimeError: by the first op inside the block that the backend cannot serve, with the reason.
    """
    token = _forced.set(_check_name(name, "name"))
    try:
        yield
    finally:
        _forced.reset(token)


def kernels(device: torch.device) -> ModuleType:
    """The module that serves a device.

    Raises:
        ValueError: BIMT_FAST_BACKEND names no backend.
        RuntimeError: a backend was forced that cannot serve the device; says why.
    """
    return _remembered(_forced_name(), device)


def host_kernels() -> ModuleType:
    """The module for searches that run on the CPU wherever the tensors are, also where a GPU's backend is forced."""
    forced = _forced_name()
    return _remembered(forced if forced in PREFERENCE["cpu"] else None, torch.device("cpu"))


def _forced_name() -> str | None:
    return _forced.get() or os.environ.get("BIMT_FAST_BACKEND") or None


def _remembered(forced: str | None, device: torch.device) -> ModuleType:
    key = (forced, device.type, device.index)  # GPUs of one machine may differ
    if key not in _chosen:
        _chosen[key] = _choose(forced, device)
    return _chosen[key]


def _choose(forced: str | None, device: torch.device) -> ModuleType:
    if forced is not None:
        module = load(_check_name(forced, "BIMT_FAST_BACKEND"))
        able, reason = module.can_run(device)
        if not able:
            raise RuntimeError(f"backend {forced} was asked for and cannot serve {device.type} tensors: {reason}")
        return module
    reasons = []
    for name in PREFERENCE.get(device.type, ("reference",)):
        module = load(name)
        able, reason = module.can_run(device)
        if able:
            if reasons:
                _log.warning("backend %s serves %s tensors (%s)", name, device.type, "; ".join(reasons))
            return module
        reasons.append(f"{name}: {reason}")
    raise RuntimeError(f"no backend serves {device.type} tensors: {'; '.join(reasons)}")


def describe() -> list[tuple[str, bool, str]]:
    """(name, whether it serves the tensors it is there for, what it is or why not) for every backend.

    "cuda" and "triton" are there for CUDA tensors, the others for CPU tensors.
    """
    found = []
    for name in BACKENDS:
        module = load(name)
        able, reason = module.can_run(torch.device("cuda" if name in ("cuda", "triton") else "cpu"))
        found.append((name, able, module.details() if able else reason))
    return found

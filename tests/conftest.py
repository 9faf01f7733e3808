"""Fixtures of all tests: the backends, and memory that is never zero by luck."""

import os
from importlib import import_module

# Before torch is imported: threads without work sleep. Spinning, they take minutes where others use the machine too.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what deterministic algorithms want of a GPU

import pytest
import torch

if not torch.cuda.is_available():  # before triton is imported, which torch leaves to its users
    os.environ.setdefault("TRITON_INTERPRET", "1")

import inputs

import bimt_fast as bf
from bimt_fast import backends


def usable(name: str, device: str = "cpu") -> tuple[bool, str]:
    try:
        return import_module(f"bimt_fast.kernels.{name}").can_run(torch.device(device))
    except ImportError as error:
        return False, str(error)


@pytest.fixture(params=backends.PREFERENCE["cpu"])
def backend(request, monkeypatch):
    """Forces each backend in turn; one that cannot run is skipped with its reason."""
    name = request.param
    if name == "cuda-sim":
        request.getfixturevalue("simulated_gpu")
        name = "cuda"
    device = "cuda" if inputs.GPU and request.param in ("cuda", "triton") else "cpu"
    able, reason = usable(name, device)
    if not able:
        pytest.skip(f"backend {request.param}: {reason}")
    monkeypatch.setattr(inputs, "device", device)
    with bf.backend(name):
        yield request.param


@pytest.fixture
def simulated_gpu(monkeypatch):
    """Lets the cuda backend serve CPU tensors: its kernels on fibers (tests/gpu)."""
    from gpu import simulated

    from bimt_fast.kernels import cuda_native

    if simulated.compiler() is None:
        pytest.skip("no C++ compiler to build the simulated CUDA kernels")
    monkeypatch.setattr(backends, "_chosen", {})
    monkeypatch.setattr(cuda_native, "simulator", simulated.module())


@pytest.fixture
def cpu_backend():
    able, reason = usable("cpu")
    if not able:
        pytest.skip(f"backend cpu: {reason}")
    with bf.backend("cpu"):
        yield


@pytest.fixture
def nan_in_fresh_memory():
    """Fills what torch allocates with NaN, so that an element nobody wrote shows."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)

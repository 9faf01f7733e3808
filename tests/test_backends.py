"""Which backend runs, by choice and by force, and what is said where one cannot."""

import logging
import os
import subprocess
import sys

import pytest
import torch

import bimt_fast as bf
from bimt_fast import backends

CPU = torch.device("cpu")


@pytest.fixture
def nothing_chosen_yet(monkeypatch):
    """Forgets earlier choices, and any force from the environment."""
    monkeypatch.setattr(backends, "_chosen", {})
    monkeypatch.delenv("BIMT_FAST_BACKEND", raising=False)


@pytest.fixture
def cpu_unusable(monkeypatch, nothing_chosen_yet):
    from bimt_fast.kernels import cpu

    monkeypatch.setattr(cpu, "can_run", lambda device: (False, "a test says so"))


def name_of(module):
    return module.__name__.rpartition(".")[2]


def in_new_process(code, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("BIMT_FAST_")}
    return subprocess.run(
        [sys.executable, "-c", code], env={**inherited, **environment}, capture_output=True, text=True, timeout=120
    )


def test_force_by_context_manager(nothing_chosen_yet):
    usual = name_of(backends.kernels(CPU))
    with bf.backend("reference"):
        assert name_of(backends.kernels(CPU)) == "reference"
        with bf.backend(usual):
            assert name_of(backends.kernels(CPU)) == usual
        assert name_of(backends.kernels(CPU)) == "reference"
    assert name_of(backends.kernels(CPU)) == usual
    with pytest.raises(KeyError), bf.backend("reference"):
        raise KeyError
    assert name_of(backends.kernels(CPU)) == usual


def test_ops_go_to_the_forced_backend(nothing_chosen_yet, monkeypatch):
    from bimt_fast.kernels import reference

    monkeypatch.setattr(reference, "connection_cost", lambda *_: torch.tensor(-7.0))
    with bf.backend("reference"):
        assert bf.connection_cost(torch.ones(2, 2), torch.zeros(2, 1), torch.zeros(2, 1)) == -7


def test_force_by_environment():
    code = "import torch, bimt_fast.backends as b; print(b.kernels(torch.device('cpu')).__name__)"
    for name in backends.PREFERENCE["cpu"]:
        if dict((n, able) for n, able, _ in backends.describe())[name]:
            done = in_new_process(code, BIMT_FAST_BACKEND=name)
            assert done.stdout.strip() == f"bimt_fast.kernels.{name}", done.stderr
    unknown = in_new_process(code, BIMT_FAST_BACKEND="abacus")
    assert "ValueError: BIMT_FAST_BACKEND must be one of" in unknown.stderr and "'abacus'" in unknown.stderr


def test_context_manager_is_stronger_than_the_environment(nothing_chosen_yet, monkeypatch):
    monkeypatch.setenv("BIMT_FAST_BACKEND", "abacus")
    with bf.backend("reference"):
        assert name_of(backends.kernels(CPU)) == "reference"
    with pytest.raises(ValueError, match="BIMT_FAST_BACKEND must be one of"):
        backends.kernels(CPU)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"name must be one of .*'abacus'"), bf.backend("abacus"):
        pass


def test_preference_and_description(nothing_chosen_yet):
    rows = backends.describe()
    assert [name for name, _, _ in rows] == list(backends.BACKENDS)
    assert rows[-1][:2] == ("reference", True)
    for _, able, reason in rows:
        assert able or reason
    able = {name: yes for name, yes, _ in rows}
    assert name_of(backends.kernels(CPU)) == next(name for name in backends.PREFERENCE["cpu"] if able[name])


def test_fallback_is_logged_once(cpu_unusable, caplog):
    with caplog.at_level(logging.WARNING, "bimt_fast"):
        for _ in range(3):
            assert name_of(backends.kernels(CPU)) == "reference"
    assert [r.message.count("cpu: a test says so") for r in caplog.records] == [1]
    assert backends.describe()[0] == ("cpu", False, "a test says so")


def test_forced_but_unusable_gives_its_reason(cpu_unusable):
    with bf.backend("cpu"), pytest.raises(RuntimeError, match=r"cpu was asked for .*: a test says so"):
        bf.connection_cost(torch.ones(2, 2), torch.zeros(2, 1), torch.zeros(2, 1))


def test_cpu_backend_serves_cpu_tensors_only(nothing_chosen_yet):
    from bimt_fast.kernels import cpu

    assert not cpu.can_run(torch.device("cuda"))[0]


def test_missing_extension_explains_itself():
    """Without bimt_fast._cpu everything works, slower, and says why."""
    code = (
        "import sys; sys.modules['bimt_fast._cpu'] = None\n"
        "import torch, bimt_fast as bf\n"
        "from bimt_fast import backends\n"
        "print(backends.describe()[0])\n"
        "print(bf.connection_cost(torch.ones(2, 2), torch.zeros(2, 1), torch.zeros(2, 1)).item())\n"
        "with bf.backend('cpu'):\n"
        "    bf.connection_cost(torch.ones(2, 2), torch.zeros(2, 1), torch.zeros(2, 1))\n"
    )
    done = in_new_process(code)
    described, value = done.stdout.splitlines()
    assert described.startswith("('cpu', False, 'bimt_fast._cpu was") and (
        "halted" in described or "not built" in described
    )
    assert float(value) == pytest.approx(0.4)
    assert "RuntimeError: backend cpu was asked for and cannot serve cpu tensors: bimt_fast._cpu" in done.stderr


def test_a_gpu_falls_back_with_reasons(nothing_chosen_yet, monkeypatch, caplog):
    from bimt_fast.kernels import cuda, triton

    monkeypatch.setattr(cuda, "can_run", lambda device: (False, "no cuda here"))
    monkeypatch.setattr(triton, "can_run", lambda device: (False, "no triton here"))
    with caplog.at_level(logging.WARNING, "bimt_fast"):
        assert name_of(backends.kernels(torch.device("cuda"))) == "reference"
    (record,) = caplog.records
    assert record.message == "backend reference serves cuda tensors (cuda: no cuda here; triton: no triton here)"


def test_triton_is_imported_only_when_used():
    code = (
        "import sys, torch, bimt_fast as bf\n"
        "bf.connection_cost(torch.ones(2, 2), torch.zeros(2, 1), torch.zeros(2, 1))\n"
        "print('triton' in sys.modules)"
    )
    assert in_new_process(code).stdout.strip() == "False"


@pytest.mark.parametrize(
    "architectures, capability, runs",
    [
        ("sm_80, sm_90, PTX 90", (8, 6), True),
        ("sm_80, sm_90, PTX 90", (7, 5), False),
        ("sm_90", (8, 0), False),
        ("sm_90", (10, 0), False),
        ("sm_90, PTX 90", (10, 0), True),
        ("sm_120, PTX 120", (12, 1), True),
    ],
)
def test_what_a_chip_can_run(architectures, capability, runs):
    from bimt_fast.kernels import cuda

    assert cuda.holds_code_for(architectures, *capability) is runs


def test_cuda_comes_before_triton(nothing_chosen_yet, monkeypatch):
    from bimt_fast.kernels import cuda, triton

    monkeypatch.setattr(triton, "can_run", lambda device: (True, ""))
    monkeypatch.setattr(cuda, "can_run", lambda device: (False, "no cuda here"))
    assert name_of(backends.kernels(torch.device("cuda:0"))) == "triton"
    monkeypatch.setattr(cuda, "can_run", lambda device: (True, ""))
    assert name_of(backends.kernels(torch.device("cuda:1"))) == "cuda"

"""The parity tests again under every instruction set that was compiled in and that this CPU has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

FORCED = ("baseline", "avx2", "avx512")


def in_new_process(*arguments, instruction_set):
    environment = {**os.environ, "BIMT_FAST_ISA": instruction_set}
    return subprocess.run(
        [sys.executable, *arguments],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.fixture
def native(cpu_backend):
    from bimt_fast import _cpu

    return _cpu


@pytest.mark.parametrize("name", FORCED)
def test_parity(name, native):
    if name not in native.instruction_sets():
        pytest.skip(f"{name}: not compiled in, or this CPU does not have it")
    used = in_new_process(
        "-c", "import bimt_fast; from bimt_fast import _cpu; print(_cpu.instruction_set())", instruction_set=name
    )
    assert used.stdout.strip() == name, used.stderr
    tests = ("tests/test_parity.py", "tests/test_matrix_free.py")
    done = in_new_process("-m", "pytest", "-q", "-k", "cpu", *tests, instruction_set=name)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and " skipped" not in done.stdout


def test_the_fastest_is_the_default(native):
    names = native.instruction_sets()
    assert names[0] == "baseline" and set(names) <= set(FORCED)
    assert native.instruction_set() == (os.environ.get("BIMT_FAST_ISA") or names[-1])


def test_unknown_name_is_a_reason(native):
    code = "from bimt_fast import backends; print(backends.describe()[0])"
    done = in_new_process("-c", code, instruction_set="mmx")
    assert done.stdout.startswith("('cpu', False,"), done.stderr
    assert "BIMT_FAST_ISA must be one of baseline" in done.stdout and "'mmx'" in done.stdout

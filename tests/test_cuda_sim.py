"""The CUDA kernels on fibers, under sanitizers; and by planted defects, that these see what they are said to see.

A driver in C++ runs every kernel on small inputs against plain loops. Float kernels only here; `make gpu-check` builds
all. A planted defect is a change of the text of a real kernel.
"""

import os
import re
import subprocess
from pathlib import Path

import pytest
from gpu import simulated

SANITIZERS = {
    "plain": ["-O1"],
    "address": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
    "thread": ["-O1", "-fsanitize=thread"],
}
DRIVER = sorted(simulated.HERE.glob("driver*.cpp"))
KERNELS = sorted((simulated.ROOT / "csrc/cuda").glob("*.cu"))
MESSAGE = {  # by which detector, and what it says
    "refused": "REFUSED",
    "wrong": "WRONG",
    "address": "AddressSanitizer",
    "alignment": "misaligned address",
    "race": "data race",
}

pytestmark = pytest.mark.skipif(simulated.compiler() is None, reason="no C++ compiler to build the simulated kernels")


def float_only(source: Path, folder: Path) -> Path:
    """A copy of a kernel file that makes its kernels for float alone: quick to compile."""
    text = re.sub(r"^BIMT_INSTANTIATE\w*\((double|BFloat16|Float16)\)\n", "", source.read_text(), flags=re.M)
    copy = folder / source.name
    if not copy.exists() or copy.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        copy.write_text(text)
    return copy


def compiled(sanitizer: str, sources: list[Path], *flags: str) -> list[str]:
    folder = simulated.ROOT / "build/cuda-sim" / sanitizer
    return simulated.objects(sources, folder, [*flags, *SANITIZERS[sanitizer]])


def linked(sanitizer: str, objects: list[str], target: str) -> Path:
    return simulated.link(objects, simulated.ROOT / "build/cuda-sim" / sanitizer / target, SANITIZERS[sanitizer])


def run(program: Path, brief: bool = False) -> subprocess.CompletedProcess:
    """Without randomised addresses, which the thread sanitizer does not take; brief: up to the first finding."""
    options = "symbolize=0:halt_on_error=1" if brief else "halt_on_error=0"
    environment = {**os.environ, "TSAN_OPTIONS": options, "ASAN_OPTIONS": f"detect_leaks=0:{options}"}
    command = ["setarch", "-R", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
    return subprocess.CompletedProcess(command, done.returncode, done.stdout + done.stderr)


@pytest.mark.parametrize("sanitizer", SANITIZERS)
def test_driver(sanitizer):
    kernels = [float_only(source, simulated.ROOT / "build/cuda-sim/float") for source in KERNELS]
    done = run(linked(sanitizer, compiled(sanitizer, [*kernels, *DRIVER]), "driver"))
    assert done.returncode == 0 and "all right" in done.stdout, done.stdout[:4000]
    assert "runtime error" not in done.stdout and "WARNING: ThreadSanitizer" not in done.stdout, done.stdout[:4000]


# What is planted: file, text, what is put in its place (its first occurrence), sanitizer, what must be said.
DEFECTS = {
    "missing barrier": ("device.h", "  __syncthreads();\n  double sum", "  double sum", "thread", "race"),
    "race": ("penalty.cu", "if (threadIdx.x == 0) *sum", "if (threadIdx.x < 2) *sum", "thread", "race"),
    "overrun": ("penalty.cu", "if (j < count) narrow_to(", "narrow_to(", "address", "address"),
    "unaligned vector": ("penalty.cu", "stride == 1 && is_aligned(from)", "stride == 1", "address", "alignment"),
    "divergent shuffle": (
        "device.h",
        "  x = warp_sum(x);",
        "  if (threadIdx.x % 3) x = warp_sum(x);",
        "plain",
        "refused",
    ),
    "divergent barrier": (
        "device.h",
        "  __syncthreads();\n  double sum",
        "  if (threadIdx.x < 64) __syncthreads();\n  double sum",
        "plain",
        "refused",
    ),
    "wrong result": ("penalty.cu", "sum += of_warps[k][lane]", "sum = of_warps[k][lane]", "plain", "wrong"),
}


@pytest.mark.parametrize("defect", DEFECTS)
def test_planted_defects_are_seen(defect, tmp_path):
    name, old, new, sanitizer, message = DEFECTS[defect]
    source = simulated.ROOT / "csrc/cuda" / name
    assert old in source.read_text(), f"the text to change is no longer in {name}"
    changed = tmp_path / "cuda" / name
    changed.parent.mkdir()
    changed.write_text(source.read_text().replace(old, new, 1))
    penalty = changed if name == "penalty.cu" else simulated.ROOT / "csrc/cuda/penalty.cu"
    objects = compiled(sanitizer, [float_only(penalty, tmp_path)], f"-I{tmp_path}")
    objects += compiled(
        sanitizer, [simulated.HERE / "driver_penalty.cpp", simulated.HERE / "driver.cpp"], "-DPENALTY_ONLY"
    )
    done = run(linked(sanitizer, objects, "planted"), brief=True)
    assert done.returncode != 0 and MESSAGE[message] in done.stdout, done.stdout[:4000] or "nothing was seen"


@pytest.mark.parametrize("defect", (None, "MISSING_SYNCWARP", "MISSING_FENCE"))
def test_missing_fences_are_seen(defect):
    defines = [f"-D{defect}"] if defect else []
    done = run(linked("thread", compiled("thread", [simulated.HERE / "planted.cpp"], *defines), "fences"), brief=True)
    assert (done.returncode == 0) == (defect is None), done.stdout[:4000]
    assert ("data race" in done.stdout) == (defect is not None), done.stdout[:4000]

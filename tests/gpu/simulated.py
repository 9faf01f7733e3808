"""Builds the CUDA kernels for the CPU, on fibers (cudasim.h), as a module with the functions of bimt_fast._cuda.

Kept in build/, and built again where a source has changed. Run as a program it builds the module and says where it is.
"""

import fcntl
import hashlib
import importlib.util
import os
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from shutil import which
from types import ModuleType

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
NAME = "_cuda_sim"
# The compiler must take a __restrict__ or an alignment at its word here too, so that sanitizers see what is wrong.
FLAGS = ["-std=c++17", "-fPIC", "-fvisibility=hidden", "-ffp-contract=off", "-Wall", "-Wno-unknown-pragmas"]
FLAGS += ["-Wno-clobbered", f"-I{ROOT / 'csrc'}", f"-I{HERE}"]


def compiler() -> str | None:
    """The C++ compiler's command, None where there is none."""
    return which(os.environ.get("CXX", "g++"))


def objects(sources: list[Path], folder: Path, flags: list[str]) -> list[str]:
    """Compiles sources that have no object of the same text, headers, compiler and flags yet; one process at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _objects(sources, folder, flags)


def _objects(sources: list[Path], folder: Path, flags: list[str]) -> list[str]:
    headers = sorted([*(ROOT / "csrc").glob("*.h"), *(ROOT / "csrc/cuda").glob("*.h"), *HERE.glob("*.h")])
    common = hashlib.sha256(repr([compiler(), flags]).encode() + b"".join(h.read_bytes() for h in headers))

    def compiled(source: Path) -> str:
        state = common.copy()
        state.update(source.read_bytes())
        target = folder / f"{source.name}.{state.hexdigest()[:16]}.o"
        if not target.exists():
            partial = target.with_suffix(f".{os.getpid()}")
            command = [compiler(), *flags, *FLAGS, "-x", "c++", "-c", str(source), "-o", str(partial)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode:
                raise RuntimeError(f"{source.name} does not compile for the simulator:\n{done.stderr}")
            partial.replace(target)
        return str(target)

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(compiled, sources))


def link(objects: list[str], target: Path, flags: list[str]) -> Path:
    """Links objects, unless that was done."""
    name = hashlib.sha256(repr([objects, flags]).encode()).hexdigest()[:16]
    target = target.with_name(f"{target.stem}.{name}{target.suffix}")
    if not target.exists():
        partial = target.with_suffix(f".{os.getpid()}")
        subprocess.run([compiler(), *objects, *flags, "-o", str(partial)], check=True)
        partial.replace(target)
    return target


@cache
def module() -> ModuleType:
    """The simulated module.

    Raises:
        RuntimeError: there is no C++ compiler, or a kernel does not compile.
    """
    if compiler() is None:
        raise RuntimeError("no C++ compiler to build the simulated CUDA kernels")
    import pybind11

    includes = [f"-I{pybind11.get_include()}", f"-I{sysconfig.get_paths()['include']}"]
    sources = [*sorted((ROOT / "csrc/cuda").glob("*.cu")), ROOT / "csrc/bind_cuda.cpp"]
    folder = ROOT / "build/cuda-sim"
    made = objects(sources, folder, ["-O1", f"-DBIMT_MODULE={NAME}", *includes])
    library = link(made, folder / f"{NAME}.so", ["-shared"])
    spec = importlib.util.spec_from_file_location(NAME, library)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


if __name__ == "__main__":
    print(module().__file__)
    sys.exit(0)

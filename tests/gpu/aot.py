"""Compiles every Triton kernel ahead of time, without a GPU, and holds it to its budget.

    python tests/gpu/aot.py [--short] [FILE ...]

A module bimt_fast/kernels/triton_*.py that holds kernels has a function

    aot_cases() -> Iterator[tuple[kernel, tuple, dict, int]]

that yields (kernel, arguments, constants, registers) for the launches worth compiling, for every dtype and two or
three metrics; of each kernel the most usual one first, as `--short` compiles no other, and that in one configuration.

- kernel: what @triton.autotune or @triton.jit made. Every configuration of the former is compiled.
- arguments: of a launch, in order, up to the first constexpr. A torch.dtype stands for a tensor of it, None for one
  that is absent; integers and floats are as in a launch, where 1 becomes a constant and multiples of 16 are known.
- constants: the other arguments by name: constexprs that no configuration sets, and num_warps without autotune.
- registers: how many a thread may take, on NVIDIA's chips.

Kernels have public names, functions that they call private ones: each public one must occur in a case. FILEs that
declare cases are checked instead of the package's modules. Prints a line for each kernel and target, and one for each
launch that spills, takes more registers than its budget or more shared memory than a block may have, or does not
compile; fails if there is any. It runs in a process of its own: it replaces Triton's driver, and Triton must not have
been imported with TRITON_INTERPRET set.
"""

import argparse
import importlib
import importlib.util
import multiprocessing
import os
import pkgutil
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType

os.environ.pop("TRITON_INTERPRET", None)
os.environ["TRITON_DEFAULT_FP_FUSION"] = "1"  # a * b + c in one rounding, as Triton's own default is

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime.autotuner import Autotuner
from triton.runtime.driver import driver
from triton.runtime.jit import JITFunction

import bimt_fast.kernels

KIB = 1024
TARGETS = {  # and the shared memory that one block may have
    "sm_80": (GPUTarget("cuda", 80, 32), 163 * KIB),
    "sm_90": (GPUTarget("cuda", 90, 32), 227 * KIB),
    "sm_100": (GPUTarget("cuda", 100, 32), 227 * KIB),
    "sm_120": (GPUTarget("cuda", 120, 32), 99 * KIB),
    "gfx942": (GPUTarget("hip", "gfx942", 64), 64 * KIB),
}
SHORT = ("sm_90", "gfx942")
WITHOUT_KERNELS = ("triton_metric",)


class NoDriver:
    """Enough of a driver for JITFunction.warmup; the device id, another for each target, keys its cache of kernels."""

    def __init__(self, target: GPUTarget, device: int):
        self.target, self.device = target, device

    def get_current_target(self):
        return self.target

    def get_current_device(self):
        return self.device

    def get_current_stream(self, device):
        return 0


@dataclass
class Use:
    """What one kernel was seen to take on one target."""

    launches: int = 0
    registers: list[int] = field(default_factory=list)
    shared: int = 0
    faults: list[str] = field(default_factory=list)


def modules(files: list[str]) -> list[ModuleType]:
    """Those given, or all of the package that declare kernels."""
    if files:
        return [load(Path(file)) for file in files]
    names = sorted(m.name for m in pkgutil.iter_modules(bimt_fast.kernels.__path__) if m.name.startswith("triton_"))
    return [importlib.import_module(f"bimt_fast.kernels.{name}") for name in names if name not in WITHOUT_KERNELS]


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def undeclared(module: ModuleType, cases: list[tuple]) -> list[str]:
    """Public kernels of the module that no case compiles."""
    compiled = {id(kernel) for kernel, *_ in cases}
    return [
        f"{module.__name__}.{name}: in no case of aot_cases"
        for name, value in vars(module).items()
        if isinstance(value, (Autotuner, JITFunction)) and not name.startswith("_")
        if name_and_module(value)[1] == module.__name__ and id(value) not in compiled
    ]


def name_and_module(kernel: Autotuner | JITFunction) -> tuple[str, str]:
    function = kernel.fn
    while not hasattr(function, "__code__"):
        function = function.fn
    return function.__name__, function.__module__


def warmed(kernel: Autotuner | JITFunction, arguments: tuple, constants: dict, short: bool) -> Iterator[tuple]:
    """(configuration, compiled kernel or the exception) for all that apply, or for the first."""
    configurations = [{}]
    if isinstance(kernel, Autotuner):
        kernel.nargs = dict(zip(kernel.arg_names, arguments, strict=False))
        configurations = [config.all_kwargs() for config in kernel.prune_configs(constants)]
        kernel = kernel.fn
    for configuration in configurations[:1] if short else configurations:
        try:
            yield configuration, kernel.warmup(*arguments, grid=(1,), **constants, **configuration)
        except Exception as error:  # of any kind: the compiler's passes raise their own
            yield configuration, error


def use_of(compiled) -> tuple[int, int]:
    """Registers and bytes of stack, which hold nothing but what registers do not, of a compiled kernel."""
    if "cubin" not in compiled.asm:
        notes = re.findall(r"\.(\w+):\s+(\d+)\s*$", compiled.asm["amdgcn"], re.MULTILINE)
        found = {key: int(value) for key, value in notes}
        spilled = found["vgpr_spill_count"] + found["sgpr_spill_count"]
        return found["vgpr_count"], found["private_segment_fixed_size"] + 4 * spilled
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {key: int(value) for key, value in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    return found["REG"], found["STACK"] + found["LOCAL"]


def reason(error: BaseException) -> str:
    """Of a failed compilation: the first error of the chain; the later ones point at the calls that led to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {error}"


def check(case: tuple, target: str, use: Use, short: bool) -> None:
    kernel, arguments, constants, budget = case
    dtypes = ", ".join(str(x).removeprefix("torch.") for x in arguments if str(x).startswith("torch."))
    for configuration, compiled in warmed(kernel, arguments, constants, short):
        label = f"({dtypes}) {constants | configuration}"
        use.launches += 1
        if isinstance(compiled, Exception):
            use.faults.append(f"{label}: {reason(compiled)}")
            continue
        registers, stack = use_of(compiled)
        use.registers.append(registers)
        use.shared = max(use.shared, compiled.metadata.shared)
        if stack:
            use.faults.append(f"{label}: {stack} bytes spilled")
        if target.startswith("sm_") and registers > budget:
            use.faults.append(f"{label}: {registers} registers, may take {budget}")
        if compiled.metadata.shared > TARGETS[target][1]:
            use.faults.append(f"{label}: {compiled.metadata.shared} bytes shared, a block has {TARGETS[target][1]}")


def checked(target: str, cases: list[tuple], short: bool) -> dict[str, Use]:
    """What every kernel takes on a target, by module and name."""
    driver.set_active(NoDriver(TARGETS[target][0], list(TARGETS).index(target)))
    uses: dict[str, Use] = {}
    for case in cases:
        name, module = name_and_module(case[0])
        key = f"{module.rpartition('.')[2]}.{name}"
        if not short or key not in uses:
            check(case, target, uses.setdefault(key, Use()), short)
    return uses


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("files", nargs="*", metavar="FILE", help="modules with aot_cases; default: the package's")
    parser.add_argument("--short", action="store_true", help=f"one launch of each kernel, for {' and '.join(SHORT)}")
    options = parser.parse_args()
    declared = {module: list(module.aot_cases()) for module in modules(options.files)}
    faults = [text for module, cases in declared.items() for text in undeclared(module, cases)]
    targets = SHORT if options.short else tuple(TARGETS)
    cases = [case for cases in declared.values() for case in cases]
    workers = min(len(targets), os.cpu_count() or 1)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("fork")) as pool:  # what is imported, all have
        _workers_know.update(cases=cases, short=options.short)
        for target, uses in zip(targets, pool.map(_checked_by_worker, targets), strict=True):
            for key, use in uses.items():
                low, high = min(use.registers, default=0), max(use.registers, default=0)
                counts = f"{use.launches:3} launches, {low}-{high} registers, {use.shared} bytes shared"
                print(f"{target:7} {key:40} {counts}", flush=True)
                faults += [f"{target} {key} {fault}" for fault in use.faults]
    print("\n".join(faults) or "all within their budgets", flush=True)
    return min(len(faults), 1)


_workers_know: dict = {}  # kernels cannot be sent to a process, only inherited by it


def _checked_by_worker(target: str) -> dict[str, Use]:
    return checked(target, **_workers_know)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TRITON_CACHE_DIR"] = cache
        sys.exit(main())

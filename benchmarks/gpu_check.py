"""What compilers say of the GPU kernels, where there is no GPU: registers, spills, shared memory, occupancy, floors.

    python benchmarks/gpu_check.py            every CUDA kernel for every architecture, warnings and spills as errors,
                                              then every Triton kernel ahead of time; writes benchmarks/gpu_kernels.md
    python benchmarks/gpu_check.py --short    the CUDA kernels that bimt_fast._cuda as built here holds; writes nothing

Ends with status 1 where a kernel is over its budget, spills or does not compile.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import which

from gpu_work import WORK, Work

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "benchmarks/gpu_kernels.md"
ARCHITECTURES = (80, 90, 100, 120)
# Of a multiprocessor, by architecture: threads, blocks, KiB of shared memory (a block leaves one to the system).
THREADS = {80: 2048, 90: 2048, 100: 2048, 120: 1536}
BLOCKS = {80: 32, 90: 32, 100: 32, 120: 24}
SHARED = {80: 164, 90: 228, 100: 228, 120: 100}
REGISTERS = 65536
# Makers' data sheets, SXM modules: bytes a second, and float32 operations without tensor cores.
CHIPS = {"A100": (2.04e12, 19.5e12), "H100": (3.35e12, 67e12), "B200": (8.0e12, 75e12)}
SIZES = {"n": 4096, "m": 4096, "dim": 2, "b": 4}


@dataclass(frozen=True)
class Usage:
    """What one kernel takes on one architecture."""

    kernel: str  # with its template arguments
    architecture: int
    registers: int
    stack: int  # bytes of local memory: spills, or arrays that are not in registers
    shared: int

    @property
    def name(self) -> str:
        """Without template arguments."""
        return self.kernel.split("<", 1)[0]

    def occupancy(self, threads: int) -> float:
        """The part of a multiprocessor's threads that are resident, by registers, shared memory and block limits."""
        warps = -(-threads // 32)
        by_registers = REGISTERS // (-(-self.registers * 32 // 256) * 256 * warps)
        by_shared = SHARED[self.architecture] * 1024 // (self.shared + 1024)
        most = THREADS[self.architecture]
        return min(by_registers, by_shared, most // threads, BLOCKS[self.architecture]) * threads / most


def main(arguments: list[str] | None = None) -> int:
    """Checks, prints what was found; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--short", action="store_true", help="only what is built already")
    parser.add_argument("--source", type=Path, help="one .cu file instead of all (with its budget by kernel name)")
    options = parser.parse_args(arguments)
    try:
        usages = of_built_module() if options.short else of_sources([options.source] if options.source else None)
    except (OSError, RuntimeError) as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 1
    faults = [fault for usage in usages for fault in faults_of(usage, WORK.get(usage.name))]
    for usage in sorted(usages, key=lambda u: (u.kernel, u.architecture)):
        print(f"{usage.kernel} sm_{usage.architecture}: {usage.registers} registers, {usage.shared} B shared")
    print("\n".join(faults) or f"{len(usages)} CUDA kernels: within their budgets, no spills")
    whole = not options.short and not options.source
    if whole and not faults:
        TABLE.write_text(table(usages))
        print(f"written: {TABLE.relative_to(ROOT)}", flush=True)
    triton = _check_triton() if whole else 0
    return 1 if faults or triton or not usages else 0


def faults_of(usage: Usage, work: Work | None) -> list[str]:
    """What is wrong with a kernel, in sentences."""
    where = f"{usage.kernel} on sm_{usage.architecture}"
    if work is None:
        return [f"FAULT: {where} has no row in benchmarks/gpu_work.py"]
    faults = []
    if usage.stack:
        faults.append(f"FAULT: {where} keeps {usage.stack} bytes in local memory, must keep none")
    if usage.registers > work.registers:
        faults.append(f"FAULT: {where} takes {usage.registers} registers, may take {work.registers}")
    if usage.shared > (SHARED[usage.architecture] - 1) * 1024:
        faults.append(f"FAULT: {where} takes {usage.shared} bytes of shared memory, more than a block has")
    return faults


def of_built_module() -> list[Usage]:
    """By cuobjdump, which comes with Triton."""
    modules = list((ROOT / "bimt_fast").glob("_cuda*.so"))
    if not modules:
        raise RuntimeError("bimt_fast._cuda is not built here")
    text = _output([_cuobjdump(), "-res-usage", str(modules[0])])
    usages, architecture, kernel = [], 0, ""
    for line in text.splitlines():
        if match := re.match(r"arch = sm_(\d+)", line):
            architecture = int(match[1])
        elif match := re.match(r"\s*Function (\S+):", line):
            kernel = match[1]
        elif match := re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            registers, stack, shared, local = map(int, match.groups())
            usages.append(Usage(kernel, architecture, registers, stack + local, shared))
    return _demangled(usages)


def of_sources(sources: Iterable[Path] | None) -> list[Usage]:
    """By nvcc, every source for every architecture, with every warning as an error."""
    nvcc = which("nvcc")
    if nvcc is None:
        raise RuntimeError("the command nvcc was not found")
    sources = sorted((ROOT / "csrc/cuda").glob("*.cu")) if sources is None else sources
    jobs = [(nvcc, source, architecture) for source in sources for architecture in ARCHITECTURES]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return _demangled([usage for found in pool.map(lambda job: _compiled(*job), jobs) for usage in found])


def _compiled(nvcc: str, source: Path, architecture: int) -> list[Usage]:
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++17", "-O3", f"-I{ROOT / 'csrc'}", f"-arch=sm_{architecture}", "-cubin"]
        command += ["-Werror", "all-warnings", "-Xptxas=-v,-warn-spills,-warn-lmem-usage"]
        done = subprocess.run([*command, "-o", f"{folder}/x", str(source)], capture_output=True, text=True)
    if done.returncode:
        said = [line for line in (done.stdout + done.stderr).splitlines() if "error" in line]
        raise RuntimeError("\n".join([f"{source.name} does not compile for sm_{architecture}:", *said]))
    usages, kernel, stack = [], "", 0
    for line in (done.stdout + done.stderr).splitlines():
        if match := re.search(r"Compiling entry function '(\S+)'", line):
            kernel = match[1]
        elif match := re.search(r"(\d+) bytes stack frame", line):
            stack = int(match[1])
        elif kernel and (match := re.search(r"Used (\d+) registers", line)):
            shared = re.search(r"(\d+) bytes smem", line)
            usages.append(Usage(kernel, architecture, int(match[1]), stack, int(shared[1]) if shared else 0))
            kernel = ""
    return usages


def _demangled(usages: list[Usage]) -> list[Usage]:
    """With the names that people gave the kernels: name<dtypes and flags>."""
    names = subprocess.run(
        ["c++filt"], input="\n".join(u.kernel for u in usages), capture_output=True, text=True, check=True
    ).stdout.splitlines()
    return [Usage(_short(name), u.architecture, u.registers, u.stack, u.shared) for name, u in zip(names, usages)]  # noqa: B905


def _short(name: str) -> str:
    name = name.replace("(anonymous namespace)::", "").replace("bimt::gpu::", "").replace("bimt::", "")
    match = re.match(r"(?:void )?(\w+)(<[^()]*(?:\([^()]*\)[^()]*)*>)?\(", name)
    return f"{match[1]}{match[2] or ''}" if match else name


def _check_triton() -> int:
    script = ROOT / "tests/gpu/aot.py"
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run([sys.executable, str(script)], env=environment).returncode


def _cuobjdump() -> str:
    found = which("cuobjdump")
    if found is None:
        try:
            from triton import knobs
        except ImportError:
            raise RuntimeError("cuobjdump was found neither on PATH nor in Triton") from None
        found = knobs.nvidia.cuobjdump.path
    return found


def _output(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def table(usages: list[Usage]) -> str:
    """The figures of every kernel, in Markdown."""
    sizes = f"n = m = {SIZES['n']}, {SIZES['dim']} coordinates, float32"
    lines = [
        "# GPU kernels: what compilers and formulas say",
        "",
        "Written by `make gpu-check`; no GPU has run them. Floors: bytes and operations of one call on"
        f" {sizes} at the chips' data sheets ({', '.join(CHIPS)}; the larger of both counts), in microseconds."
        " Registers, shared memory and occupancy: the most and the least over all dtypes, by architecture"
        f" ({', '.join(f'sm_{a}' for a in ARCHITECTURES)}).",
        "",
        "| kernel | bytes | flops | floor A100, H100, B200 | threads | registers | shared, bytes | occupancy, % |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in WORK:
        of_kernel = [u for u in usages if u.name == name]
        if of_kernel:
            lines.append(_row(name, WORK[name], of_kernel))
    return "\n".join([*lines, "", *_LAUNCHES, ""])


_LAUNCHES = [
    "`b`: bytes of a stored number (4, 8 or 2); workspaces are float64, and what is computed in them is counted at the"
    " float32 rate, of which consumer chips reach a small part in float64. Occupancy is that of blocks of the threads"
    " named; some kernels have smaller ones too.",
    "",
    "Launches, by kernel name, for float32 weights with whole rows:",
    "",
    "| operation | launches |",
    "|---|---|",
    "| penalty and gradient of T tensors | penalty_kernel ceil(T / 20), add_partial_sums 1 |",
    "| AdamW step of T tensors | adamw_kernel and count_steps ceil(T / 20) each, add_partial_sums 1 |",
    "| placement cost, l1 and sql2, P connections | for each axis: moments_kernel and borders_kernel P each,"
    " walk_kernel 1 for as many connections as fit its parameters (torus-l1: 2) |",
    "| placement cost, other metrics | product_kernel 1 for as many connections as fit its parameters |",
    "| best swaps | best_kernel 1, best_of_parts 1 |",
    "| one round of matching | best_kernel 1, best_of_parts 1, and four small ones of torch |",
    "| greedy relocation of one group | the placement cost, greedy_kernel 1, copy_slices 2 an axis of a tensor moved |",
]


def _row(name: str, work: Work, usages: list[Usage]) -> str:
    moved, computed = (eval(text, {}, SIZES) for text in (work.bytes, work.flops))
    floors = ", ".join(f"{1e6 * max(moved / bytes, computed / flops):.3g}" for bytes, flops in CHIPS.values())

    def by_architecture(pick, value):
        return ", ".join(str(pick(value(u) for u in usages if u.architecture == a)) for a in ARCHITECTURES)

    columns = [name, work.bytes, work.flops, floors, work.threads]
    columns += [by_architecture(max, lambda u: u.registers), max(u.shared for u in usages)]
    columns.append(by_architecture(min, lambda u: round(100 * u.occupancy(work.threads))))
    return f"| {' | '.join(str(c).replace('**', '^') for c in columns)} |"


if __name__ == "__main__":
    sys.exit(main())

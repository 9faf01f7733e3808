"""Builds bimt_fast._cpu, and where nvcc is found bimt_fast._cuda. Neither torch, nor numpy, nor a GPU is needed here.

TORCH_CUDA_ARCH_LIST, as torch's own extensions read it ("8.0;9.0+PTX"), names other GPU architectures than the usual.

A build that fails does not fail the installation: the reason is written to bimt_fast/_build.json, from where
`python -m bimt_fast info` and the error of a forced backend take it.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

ParallelCompile("BIMT_FAST_BUILD_JOBS").install()

# Every file of csrc/cpu/kernels is compiled once for each of these; the choice among them is made at run time.
INSTRUCTION_SETS = {"baseline": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx512"] = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mf16c"]
    INSTRUCTION_SETS["avx512"] += ["-mprefer-vector-width=512"]


@contextmanager
def _first_error_in_message():
    """A failed compiler run raises the compiler's first error, not its command line; all it says is shown as ever."""
    sys.stderr.flush()
    with tempfile.TemporaryFile("w+") as captured:
        screen = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except CompileError as error:
            captured.seek(0)
            raise CompileError(next((line.strip() for line in captured if "error" in line), str(error))) from error
        finally:
            os.dup2(screen, 2)
            captured.seek(0)
            sys.stderr.write(captured.read())


USUAL_ARCHITECTURES = "8.0;9.0;10.0;12.0"  # and PTX of the last that nvcc knows


def nvcc_targets(nvcc):
    """(names for people, -gencode options) of the GPU architectures to compile for, as far as this nvcc knows them."""
    known = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=True).stdout.split()
    wanted = os.environ.get("TORCH_CUDA_ARCH_LIST")
    names, options, portable = [], [], None
    for item in re.split(r"[;, ]+", (wanted or USUAL_ARCHITECTURES).strip()):
        match = re.fullmatch(r"(\d+)\.(\d+[a-z]?)(\+PTX)?", item)
        if match is None:
            raise RuntimeError(f"TORCH_CUDA_ARCH_LIST must hold numbers as 9.0 or 9.0+PTX, held {item!r}")
        number = match[1] + match[2]
        if f"compute_{number}" not in known and not wanted:
            continue
        names.append(f"sm_{number}")
        options.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if match[3] or not wanted:
            portable = number
    if portable:  # of the newest, for chips to come
        names.append(f"PTX {portable}")
        options.append(f"-gencode=arch=compute_{portable},code=compute_{portable}")
    return names, options


def _run(command):
    """Runs a compiler; its first error becomes the message."""
    done = subprocess.run(command, capture_output=True, text=True)
    sys.stderr.write(done.stderr)
    if done.returncode:
        lines = (done.stderr + done.stdout).splitlines()
        raise RuntimeError(next((line.strip() for line in lines if "error" in line), f"{command[0]} failed"))


class BuildNative(build_ext):
    """Compiles the CPU kernels once per instruction set, and the CUDA kernels with nvcc; a failure becomes a note."""

    def run(self):
        self.notes = {}
        in_place = self.inplace or self.editable_mode
        super().run()
        package = Path("bimt_fast") if in_place else Path(self.build_lib) / "bimt_fast"
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.json").write_text(json.dumps(self.notes, indent=2) + "\n")

    def build_extension(self, ext):
        try:
            build = self._build_cuda if ext.name.endswith("._cuda") else self._build_cpu
            self._report(ext, True, build(ext))
        except Exception as error:
            if os.environ.get("BIMT_FAST_REQUIRE_NATIVE") and not isinstance(error, FileNotFoundError):
                raise
            # An older build would serve in silence.
            for stale in (self.get_ext_fullpath(ext.name), *glob(f"{ext.name.replace('.', '/')}.*")):
                Path(stale).unlink(missing_ok=True)
            self._report(ext, False, " ".join(str(error).split()) or type(error).__name__)

    def _build_cpu(self, ext):
        """Compiles and links; returns what there is to say of it, as _build_cuda does."""
        compiler = self._compiler()
        openmp = compiler.startswith("gcc") and platform.system() == "Linux"
        # The OpenMP runtime is not linked: torch brings its own, and both then share one thread pool.
        ext.extra_compile_args += ["-O3", "-Wall", *(["-fopenmp"] if openmp else [])]
        ext.extra_compile_args += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
        with _first_error_in_message():
            ext.extra_objects = self._compile_kernels(ext)
            super().build_extension(ext)
        return f"{compiler}, {', '.join(INSTRUCTION_SETS)}, OpenMP {'yes' if openmp else 'no (serial)'}"

    def _build_cuda(self, ext):
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise FileNotFoundError("the command nvcc was not found")
        names, options = nvcc_targets(nvcc)
        text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
        note = f"nvcc {re.search(r'release ([0-9.]+)', text)[1]}, {', '.join(names)}"
        folder, target = Path(self.build_temp) / "cuda", Path(self.get_ext_fullpath(ext.name))
        for path in (folder, target.parent):
            path.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{path}" for path in (*ext.include_dirs, *self.include_dirs)]
        common = [nvcc, "-std=c++17", "-O3", "-Xcompiler", "-fPIC,-fvisibility=hidden,-Wall", *includes]
        common += ["-DBIMT_MODULE=_cuda", f"-DBIMT_ARCHITECTURES={json.dumps(', '.join(names))}"]

        def compiled(source):
            to = folder / f"{Path(source).name}.o"
            _run([*common, *(options if source.endswith(".cu") else []), "-c", source, "-o", str(to)])
            return str(to)

        with ThreadPoolExecutor(int(os.environ.get("BIMT_FAST_BUILD_JOBS") or os.cpu_count())) as pool:
            objects = list(pool.map(compiled, ext.sources))
        # Nothing of CUDA is linked but its static runtime: the module imports without a GPU and without a driver.
        _run([nvcc, "-shared", "-cudart", "static", *options, *objects, "-o", str(target)])
        return note

    def _compiler(self):
        """Name and version of the C++ compiler, or an error that says which command is missing."""
        if self.compiler.compiler_type != "unix":
            raise RuntimeError(f"needs GCC or clang, the configured compiler is {self.compiler.compiler_type}")
        command = self.compiler.compiler_cxx
        if shutil.which(command[0]) is None:
            raise RuntimeError(f"no C++ compiler: the command {command[0]} was not found")
        macros = subprocess.run(
            [*command, "-dM", "-E", "-x", "c++", os.devnull], capture_output=True, text=True, check=True
        ).stdout
        values = dict(line.split(maxsplit=2)[1:] for line in macros.splitlines() if len(line.split(maxsplit=2)) == 3)
        name = "clang" if "__clang__" in values else "gcc"
        return f"{name} {values.get('__clang_major__', values.get('__GNUC__'))}"

    def _compile_kernels(self, ext):
        sources = sorted(glob("csrc/cpu/kernels/*.cpp"))
        objects = []
        for name, flags in INSTRUCTION_SETS.items():
            objects += self.compiler.compile(
                sources,
                output_dir=os.path.join(self.build_temp, name),
                macros=[("BIMT_ISA", name)],
                include_dirs=ext.include_dirs,
                extra_postargs=[*ext.extra_compile_args, *flags],
            )
        return objects

    def _report(self, ext, built, note):
        """One line for the log, and the same for bimt_fast/_build.json (written at the end of run)."""
        print(f"{ext.name}: {'built' if built else 'not built'}: {note}", flush=True)
        self.notes[ext.name] = {"built": built, "note": note}


setup(
    ext_modules=[
        Pybind11Extension(
            "bimt_fast._cpu",
            ["csrc/bind_cpu.cpp", *sorted(glob("csrc/cpu/*.cpp"))],
            include_dirs=["csrc"],
            depends=[*glob("csrc/*.h"), *glob("csrc/cpu/**/*", recursive=True)],
            define_macros=[(f"BIMT_HAS_{name.upper()}", "1") for name in INSTRUCTION_SETS],
            cxx_std=17,
            optional=True,
        ),
        Pybind11Extension(
            "bimt_fast._cuda",
            ["csrc/bind_cuda.cpp", *sorted(glob("csrc/cuda/*.cu"))],
            include_dirs=["csrc"],
            depends=[*glob("csrc/*.h"), *glob("csrc/cuda/*.h")],
            optional=True,
        ),
    ],
    cmdclass={"build_ext": BuildNative},
)

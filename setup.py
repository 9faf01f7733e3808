"""Builds bimt_fast._cpu. Everything else is in pyproject.toml. Neither torch nor numpy is needed here.

A build that fails does not fail the installation: the reason is written to bimt_fast/_build.json, from where
`python -m bimt_fast info` and the error of a forced backend take it.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
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


class BuildNative(build_ext):
    """Compiles the CPU kernels once per instruction set and links the objects into one module."""

    def run(self):
        self.notes = {}
        in_place = self.inplace or self.editable_mode
        super().run()
        package = Path("bimt_fast") if in_place else Path(self.build_lib) / "bimt_fast"
        package.mkdir(parents=True, exist_ok=True)
        (package / "_build.json").write_text(json.dumps(self.notes, indent=2) + "\n")

    def build_extension(self, ext):
        try:
            compiler = self._compiler()
            openmp = compiler.startswith("gcc") and platform.system() == "Linux"
            # The OpenMP runtime is not linked: torch brings its own, and both then share one thread pool.
            ext.extra_compile_args += ["-O3", "-Wall", *(["-fopenmp"] if openmp else [])]
            ext.extra_compile_args += ["-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
            with _first_error_in_message():
                ext.extra_objects = self._compile_kernels(ext)
                super().build_extension(ext)
            note = f"{compiler}, {', '.join(INSTRUCTION_SETS)}, OpenMP {'yes' if openmp else 'no (serial)'}"
            self._report(ext, True, note)
        except Exception as error:
            if os.environ.get("BIMT_FAST_REQUIRE_NATIVE"):
                raise
            # An older build would serve in silence.
            for stale in (self.get_ext_fullpath(ext.name), *glob(f"{ext.name.replace('.', '/')}.*")):
                Path(stale).unlink(missing_ok=True)
            self._report(ext, False, " ".join(str(error).split()) or type(error).__name__)

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
            depends=glob("csrc/**/*", recursive=True),
            define_macros=[(f"BIMT_HAS_{name.upper()}", "1") for name in INSTRUCTION_SETS],
            cxx_std=17,
            optional=True,
        )
    ],
    cmdclass={"build_ext": BuildNative},
)

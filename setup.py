"""Builds the C kernels; everything else about the package stands in pyproject.toml."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SUFFIX = ".dll" if sys.platform == "win32" else ".so"
# No fused multiply-add: the same weights must give the same bytes on every processor.
FLAGS = ["-O3", "-ffp-contract=off"]


class BuildKernels(build_ext):
    """Builds plain shared libraries that ctypes opens, not Python extension modules."""

    def get_ext_filename(self, fullname: str) -> str:
        # One name for every Python version: the library uses nothing of Python.
        return fullname.replace(".", os.sep) + SUFFIX

    def get_export_symbols(self, ext: Extension) -> list[str]:
        # The default adds PyInit_<name>, which the library does not have.
        return list(ext.export_symbols)

    def build_extension(self, ext: Extension) -> None:
        ext.extra_compile_args = [] if self.compiler.compiler_type == "msvc" else FLAGS
        super().build_extension(ext)


HERE = Path(__file__).parent
# Optional: without a C compiler the installation goes on, and torch does the work.
kernels = Extension(
    "sprue.weights._kernels",
    ["src/sprue/weights/_kernels.c", "src/sprue/weights/_columns.c"],
    depends=sorted(str(h.relative_to(HERE)) for h in HERE.glob("src/sprue/weights/*.h")),
    optional=True,
)

setup(ext_modules=[kernels], cmdclass={"build_ext": BuildKernels})

"""Every way in which this machine can run the kernels."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

import sprue.weights
from sprue.weights import kernels

SOURCES = sorted(Path(sprue.weights.__file__).parent.glob("_*.c"))


@pytest.fixture(scope="session", params=[128, 256])
def narrow(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """The C kernels as a processor without AVX2, or without AVX-512, runs them."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    path = tmp_path_factory.mktemp("kernels") / f"narrow{request.param}.so"
    command = [compiler, "-O1", "-ffp-contract=off", "-fPIC", "-shared"]
    command += [f"-DWIDEST={request.param}", "-o", str(path), *map(str, SOURCES)]
    subprocess.run(command, check=True)
    return kernels._declared(ctypes.CDLL(str(path)))

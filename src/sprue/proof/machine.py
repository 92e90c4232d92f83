"""What a measurement ran on."""

from __future__ import annotations

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
import torch

import sprue
from sprue.proof.cores import cores

_CPU_INFO = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Machine:
    """The stamp of a measurement.

    Attributes:
        processor: name of the CPU.
        cores: that this process may use.
        threads: that torch uses.
        memory_bytes: of the machine.
        system: operating system and architecture.
        accelerator: name of the device, None on a CPU.
        versions: package -> version, python among them.
        date: UTC, ISO 8601, to the second.
    """

    processor: str
    cores: int
    threads: int
    memory_bytes: int
    system: str
    accelerator: str | None
    versions: dict[str, str]
    date: str


def stamp(device: str = "cpu") -> Machine:
    """This machine, now."""
    cuda = torch.device(device).type == "cuda"
    packages = {name: version(name) for name in ("torch", "transformers")}
    return Machine(
        processor=_processor(),
        cores=cores(),
        threads=torch.get_num_threads(),
        memory_bytes=psutil.virtual_memory().total,
        system=f"{platform.system()} {platform.machine()}",
        accelerator=torch.cuda.get_device_name(device) if cuda else None,
        versions={"sprue": sprue.__version__, "python": platform.python_version(), **packages},
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _processor() -> str:
    if _CPU_INFO.is_file():
        for line in _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

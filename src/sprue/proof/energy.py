"""Energy, read from a counter where there is one, and modelled with a label where there is none.

Counters: RAPL (Linux powercap; the CPU packages and their DRAM, whoever uses them) and NVML (one
GPU). The model: CPU seconds times a range of watts for a core, plus bytes moved times a range of
picojoules for a byte. Watts: a busy core of a laptop to that of a server, its share of the package
included. Picojoules: 1.3 to 2.6 nJ for 64 bits from DRAM (Horowitz, Computing's energy problem,
ISSCC 2014, figure 1.1.9).
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

WATTS_PER_CORE = (3.0, 12.0)
PICOJOULES_PER_BYTE = (160.0, 330.0)
MODELLED = "modelled"

_POWERCAP = Path("/sys/class/powercap")
_NVML = "libnvidia-ml.so.1"


class Counter(Protocol):
    """Something that counts joules; only differences have a meaning."""

    source: str

    def joules(self) -> float:
        """What was used up to now."""


@dataclass(frozen=True)
class Energy:
    """What a token costs.

    Attributes:
        source: "rapl", "nvml", both joined by a plus, or "modelled".
        joules_per_token: low and high end; equal where a counter was read.
        constants: what the model assumed; empty where a counter was read.
    """

    source: str
    joules_per_token: tuple[float, float]
    constants: dict[str, Any] = field(default_factory=dict)


def read(source: str, joules_per_token: float) -> Energy:
    """What a counter said."""
    return Energy(source, (joules_per_token, joules_per_token))


def model(cpu_seconds: float, bytes_moved: float) -> Energy:
    """The modelled energy of a token.

    Args:
        cpu_seconds: of all cores, for a token.
        bytes_moved: between memory and cores, for a token.
    """
    low, high = (
        cpu_seconds * watts + bytes_moved * picojoules * 1e-12
        for watts, picojoules in zip(WATTS_PER_CORE, PICOJOULES_PER_BYTE, strict=True)
    )
    constants = {
        "watts_per_core": list(WATTS_PER_CORE),
        "picojoules_per_byte": list(PICOJOULES_PER_BYTE),
        "cpu_seconds_per_token": cpu_seconds,
        "bytes_per_token": bytes_moved,
    }
    return Energy(MODELLED, (low, high), constants)


def counter(device: str = "cpu", powercap: Path = _POWERCAP) -> Counter | None:
    """All counters that cover a run on `device`; None where that cannot be read."""
    where = torch.device(device)
    rapl = Rapl.find(powercap)
    if where.type == "cpu":
        return rapl
    gpu = Nvml.find(where.index or 0) if where.type == "cuda" else None
    if gpu is None:
        return None  # the CPU's share alone would pass for the whole
    return _Sum([gpu] if rapl is None else [rapl, gpu])


class Rapl:
    """The CPU packages and their DRAM. Counters of 32 bits and less wrap around every few minutes;
    a wrap is seen as long as less than one whole turn passes between two readings."""

    source = "rapl"

    def __init__(self, domains: Sequence[Path]) -> None:
        self._files = [domain / "energy_uj" for domain in domains]
        self._turns = [_number(domain / "max_energy_range_uj") for domain in domains]
        self._last = [_number(file) for file in self._files]
        self._total = 0

    @classmethod
    def find(cls, powercap: Path) -> Rapl | None:
        """None where the kernel offers no package, or lets only the administrator read it."""
        domains = [path for path in sorted(powercap.glob("intel-rapl:*")) if _counts(path)]
        try:
            return cls(domains) if domains else None
        except PermissionError:
            return None

    def joules(self) -> float:
        """What was used since the counter was found."""
        now = [_number(file) for file in self._files]
        for new, old, turn in zip(now, self._last, self._turns, strict=True):
            self._total += new - old if new >= old else new - old + turn
        self._last = now
        return self._total * 1e-6


class Nvml:
    """One NVIDIA GPU, through its driver's library."""

    source = "nvml"

    def __init__(self, library: Any, index: int) -> None:
        self._library = library
        self._handle = ctypes.c_void_p()
        _succeed(library.nvmlInit_v2())
        _succeed(library.nvmlDeviceGetHandleByIndex_v2(index, ctypes.byref(self._handle)))
        self.joules()

    @classmethod
    def find(cls, index: int) -> Nvml | None:
        """None where there is no driver, or a GPU too old to count."""
        try:
            return cls(ctypes.CDLL(_NVML), index)
        except OSError:
            return None

    def joules(self) -> float:
        """What was used since the driver was loaded."""
        used = ctypes.c_ulonglong()
        _succeed(
            self._library.nvmlDeviceGetTotalEnergyConsumption(self._handle, ctypes.byref(used))
        )
        return used.value * 1e-3


class _Sum:
    def __init__(self, counters: Sequence[Counter]) -> None:
        self._counters = counters
        self.source = "+".join(c.source for c in counters)

    def joules(self) -> float:
        return sum(c.joules() for c in self._counters)


def _counts(domain: Path) -> bool:
    """Whether to add a domain: packages, and DRAM, which is not part of them; psys holds both."""
    file = domain / "name"
    return file.is_file() and file.read_text().strip().startswith(("package", "dram"))


def _number(file: Path) -> int:
    return int(file.read_text())


def _succeed(code: int) -> None:
    if code != 0:
        raise OSError(f"NVML answers with error {code}")

"""The report of a comparison: the same figures for a program, a terminal and a browser."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sprue.proof import figures, table
from sprue.proof.energy import Energy
from sprue.proof.form import sentence
from sprue.proof.machine import Machine
from sprue.proof.memory import Memory
from sprue.proof.page import render
from sprue.proof.quality import Quality, Sample, Verdict
from sprue.proof.speed import Speed


@dataclass(frozen=True)
class Costs:
    """What running both models took; pairs are (original, result).

    Attributes:
        speed: of both, timed in turns.
        memory: of both, each in a fresh process.
        energy: of both, for a written token; None where it can neither be read nor modelled.
    """

    speed: Speed
    memory: tuple[Memory, Memory]
    energy: tuple[Energy, Energy] | None


@dataclass(frozen=True)
class Met:
    """Zeros that weights met while the text was read.

    Attributes:
        share: of the weights of all linears with a threshold.
        shares: module name -> share of its inputs.
    """

    share: float
    shares: Mapping[str, float]


@dataclass(frozen=True)
class Report:
    """What `verify` found.

    Attributes:
        original, result: as they were given.
        device, context, seed: how it was measured.
        paths: the data files.
        fingerprint: sha256 over their bytes.
        samples: the windows of each file, under a name that is unique.
        files: the figures of each file, in the same order.
        quality: their mean.
        verdict: whether the margin was met.
        nbytes: of all tensors on disk, (original, result).
        bits_per_weight: "linears" and "file"; None where it is not known.
        costs: speed, memory and energy; None where they were not asked for.
        artifact: sprue.json of the result; None where it has none.
        machine: what it ran on.
        zeros: of the result's activations; None where it has no thresholds.
    """

    original: str
    result: str
    device: str
    context: int
    seed: int
    paths: tuple[str, ...]
    fingerprint: str
    samples: tuple[Sample, ...]
    files: tuple[Quality, ...]
    quality: Quality
    verdict: Verdict
    nbytes: tuple[int, int]
    bits_per_weight: Mapping[str, float | None]
    costs: Costs | None
    artifact: Mapping[str, Any] | None
    machine: Machine
    zeros: Met | None = None

    @property
    def passed(self) -> bool:
        """Whether what was asked for was kept; True where nothing was asked for."""
        return self.verdict.passed

    @property
    def statement(self) -> str:
        """The verdict in one sentence."""
        return sentence(self.verdict, self.quality)

    def as_dict(self, full: bool = False) -> dict[str, Any]:
        """Every figure, ready for JSON.

        Args:
            full: with the figures of every window, and with sprue.json of the result.
        """
        return figures.of(self, full)

    def table(self) -> str:
        """For a terminal: the verdict, and the figures of both models beside one another."""
        return f"{self.statement}\n\n{table.text(self)}"

    def html(self) -> str:
        """One page with everything in it: it asks the network for nothing."""
        return render(self)

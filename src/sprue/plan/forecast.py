"""Peak memory, disk and time, said before anything is spent."""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import prod
from pathlib import Path
from typing import Any

import psutil
import torch

from sprue.errors import ResourceError
from sprue.models import Source
from sprue.plan import context as compressed
from sprue.plan.design import Matrices
from sprue.plan.room import RESIDENT, batch_of
from sprue.plan.survey import QUICK
from sprue.weights import sparse, zeros
from sprue.weights.choice import Choice
from sprue.weights.decompose import decompose
from sprue.weights.factor import WIDE

_PASSES = 9  # forward passes of a block: survey 4, statistics about 3 and a half, advancing 2
_COPIES = 5  # of the largest matrix, float32, while it is packed
_SEARCHED = 11  # the same where a mask is looked for
_BUFFERS = 128 << 20  # what the libraries take once they compute
_LOGITS, _LABELS = 8 << 20, 32  # logits at once while labels are drawn, bytes for each of them


@dataclass(frozen=True)
class Search:
    """Zeros that are found together with what stays, in every linear.

    Attributes:
        choices: of zeros that the survey tries on each.
    """

    choices: int = 0

    def flops(self, shape: Sequence[int], refined: bool) -> float:
        """Of all that is looked for in a matrix (out, in)."""
        out, width = shape
        total = zeros.flops(out, width, Choice().mask_steps)
        if self.choices:
            rows = len(range(0, out, max(1, out // sparse.FEW)))
            # half of the choices have factors beside them, and inverses of their own
            total += 2 * zeros.flops(rows * self.choices // 2, width, QUICK)
        if refined:
            total += zeros.flops(out, width, compressed.MASK_STEPS)
        return total


@dataclass(frozen=True)
class Forecast:
    """What a compression will take; estimates, the memory a bound by design.

    Attributes:
        peak_bytes: resident memory of the process at its peak.
        added_bytes: of that, what is not in use yet.
        disk_bytes: the result, and activations that wait in a file.
        seconds: of work on this machine, as busy as it is now.
    """

    peak_bytes: int
    added_bytes: int
    disk_bytes: int
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)

    def line(self) -> str:
        """One line for a terminal."""
        return (
            f"about {_bytes(self.peak_bytes)} of memory at the peak, {_bytes(self.disk_bytes)} of "
            f"disk, {_time(self.seconds)}"
        )

    def announce(self, folder: Path, progress: bool) -> None:
        """Say it on standard error, where `progress` is wanted, and `check`."""
        if progress:
            print(f"this will take {self.line()}", file=sys.stderr)
        self.check(folder)

    def check(self, folder: Path) -> None:
        """Refuse what this machine does not have.

        Raises:
            ResourceError: less memory or disk than will be needed.
        """
        free = psutil.virtual_memory().available
        if self.added_bytes > free:
            raise ResourceError(
                f"this needs about {_bytes(self.added_bytes)} more memory and the machine has "
                f"{_bytes(free)} available: take fewer --windows or a shorter --context, or a "
                "machine with more"
            )
        room = shutil.disk_usage(folder).free
        if self.disk_bytes > room:
            raise ResourceError(
                f"this needs about {_bytes(self.disk_bytes)} of disk and {folder} has "
                f"{_bytes(room)}: free some space, or give an --out elsewhere"
            )


def forecast(
    source: Source,
    m: Matrices,
    ids: Sequence[int],
    result: int,
    surveyed: bool,
    trellis: bool,
    refined: bool = False,
    search: Search | None = None,
) -> Forecast:
    """What compressing `source` will take.

    Args:
        source: the original.
        m: its matrices.
        ids: (windows, context) of the calibration.
        result: bytes of the result, at most.
        surveyed: whether the model is surveyed first.
        trellis: whether matrices are coded on the trellis, which takes longest.
        refined: whether damage is measured in the compressed context too.
        search: zeros that are looked for; None: none.
    """
    windows, context = ids
    width = int(source.config.hidden_size)
    block = 4 * sum(prod(s) for s in m.linears.values()) // source.blocks
    widest = max(s[1] for s in m.linears.values())
    largest = max(prod(s) for s in m.linears.values())
    outer = 4 * max(prod(s) for s in m.outer.values())
    activations = 4 * windows * context * width
    batch = (
        4 * batch_of(context) * context * (6 * width + 4 * max(s[0] for s in m.linears.values()))
    )
    # H, C and a factor in single precision; else one in double, and its copy in single; with a
    # search H, a factor, H once more, an inverse, and what makes it
    statistics = (12 if widest > WIDE and search is None else 20) * widest**2
    inside = block + statistics + 4 * (_SEARCHED if search else _COPIES) * largest
    logits = min(windows * context * max(s[0] for s in m.outer.values()), _LOGITS)
    labels = outer + _LABELS * logits if surveyed else 0
    added = max(inside, 2 * outer, labels) + batch + 3 * min(activations, RESIDENT) + _BUFFERS
    kept = 2 * activations if activations > RESIDENT else 0
    saved = 4 * min(windows, 32) * context * width * source.blocks if surveyed else 0
    kept += saved if saved > RESIDENT else 0
    extra = 2 * compressed.windows_for(len(m.linears)) * min(context, compressed.TOKENS)
    others = 4 * len(m.linears) * extra * width if refined else 0
    kept += others if others > RESIDENT else 0
    kept += 4 * activations  # two streams saved, while the state saved before is still there
    again = extra * len(m.linears) // 2 if refined else 0  # each runs through the blocks after it
    seconds = _seconds(m, windows * context, again, trellis)
    if search is not None:
        found = sum(search.flops(shape, refined) for shape in m.linears.values())
        seconds += found / flops_per_second()
    now = psutil.Process().memory_info().rss
    return Forecast(now + added, added, result + kept, seconds)


def _seconds(m: Matrices, tokens: int, again: int, trellis: bool) -> float:
    weights = sum(prod(s) for s in m.linears.values())
    flops = 2.0 * weights * (tokens * _PASSES + again)
    flops += sum(2.0 * 4 * width**3 for _, width in m.linears.values())
    coding = (weights + sum(prod(s) for s in m.outer.values())) * _coding_seconds()
    return flops / flops_per_second() + (coding if trellis else 0.1 * coding)


def flops_per_second() -> float:
    """Of a product of float32 matrices, on this machine as busy as it is now."""
    n = 512
    a = torch.ones(n, n)
    a @ a
    start = time.perf_counter()
    for _ in range(4):
        a @ a
    return 4 * 2 * n**3 / max(time.perf_counter() - start, 1e-6)


def _coding_seconds() -> float:
    """For one weight, on one thread."""
    W = torch.linspace(-1, 1, 64 * 64).reshape(64, 64)
    start = time.perf_counter()
    decompose(W, torch.eye(64), Choice(bits=3.0))
    return (time.perf_counter() - start) / W.numel()


def _bytes(count: float) -> str:
    for unit in ("bytes", "kB", "MB"):
        if count < 999.5:
            return f"{count:.0f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def _time(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} seconds"
    if seconds < 5400:
        return f"{seconds / 60:.0f} minutes"
    return f"{seconds / 3600:.1f} hours"

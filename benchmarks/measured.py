"""One `sprue` command, with what it cost: CPU seconds, peak resident memory, and who held it.

    python benchmarks/measured.py FIGURES.json compress MODEL --out DIR ...

FIGURES.json holds, beside the totals, the highest resident memory seen in every phase. A phase is
named by the innermost function of the package that ran, and the step of the walk above it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_INTERVAL = 0.02  # seconds between samples
_STEPS = ("compress.py", "plan/", "models/fisher.py")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class Sampler(threading.Thread):
    """Watches the resident memory of this process until `stop`."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.phases: dict[str, dict[str, Any]] = {}
        self.curve: list[tuple[float, int]] = []  # one point a second: its highest
        self._start, self._over = time.monotonic(), threading.Event()

    def run(self) -> None:
        while not self._over.wait(_INTERVAL):
            now, resident = time.monotonic() - self._start, _resident()
            phase = self.phases.setdefault(_phase(self.ident), {"samples": 0, "peak_bytes": 0})
            phase["samples"] += 1
            if resident > phase["peak_bytes"]:
                phase["peak_bytes"], phase["at_seconds"] = resident, round(now, 2)
            if not self.curve or now - self.curve[-1][0] >= 1:
                self.curve.append((round(now, 1), resident))
            elif resident > self.curve[-1][1]:
                self.curve[-1] = (self.curve[-1][0], resident)

    def stop(self) -> None:
        """End it."""
        self._over.set()
        self.join()


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE


def _phase(own: int | None) -> str:
    """Where the main thread is; where it waits for others, where the first of them is."""
    frames = sys._current_frames()
    main = list(_inside(frames.pop(threading.main_thread().ident or 0)))
    frames.pop(own or 0, None)
    step = next((place for place in main if place.startswith(_STEPS)), "start")
    others = [place for frame in frames.values() for place in list(_inside(frame))[:1]]
    innermost = others[0] if others else (main[0] if main else "start")
    return step if innermost == step else f"{step} > {innermost}"


def _inside(frame: FrameType | None) -> Iterator[str]:
    """Places within the package, innermost first: "plan/walk.py:_block:128"."""
    while frame is not None:
        _, mark, place = frame.f_code.co_filename.rpartition("/sprue/")
        if mark:
            yield f"{place}:{frame.f_code.co_name}:{frame.f_lineno}"
        frame = frame.f_back


def main(arguments: list[str]) -> int:
    """Run the command and write its figures."""
    figures, command = Path(arguments[0]), arguments[1:]
    sampler = Sampler()
    sampler.start()
    from sprue.cli import main as cli
    from sprue.proof.memory import peak_bytes

    start = time.monotonic()
    code = cli(command)
    sampler.stop()
    top = sorted(sampler.phases.items(), key=lambda item: -item[1]["peak_bytes"])
    content = {
        "seconds": time.monotonic() - start,
        "cpu_seconds": time.process_time(),
        "peak_bytes": peak_bytes(),
        "phases": [{"phase": name, **fields} for name, fields in top[:40]],
        "curve": sampler.curve,
    }
    figures.write_text(json.dumps(content) + "\n", encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

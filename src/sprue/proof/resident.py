"""Peak resident memory of a network in its engine, in a fresh process that loads it and runs once.

Run as a module, it measures itself: `python -m sprue.proof.resident REQUEST` prints one line of
JSON; REQUEST is JSON with path, names, engine, threads, and dtype and shape of each argument.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.proof.memory import peak_bytes
from sprue.runtime import engines


@dataclass(frozen=True)
class Resident:
    """Of one process.

    Attributes:
        peak_bytes: most resident memory, the interpreter and the engine included.
        baseline_bytes: the same before the network was loaded, the engine imported.
    """

    peak_bytes: int
    baseline_bytes: int

    @property
    def own_bytes(self) -> int:
        """What the network adds."""
        return max(1, self.peak_bytes - self.baseline_bytes)


def measure(
    path: Path, names: Sequence[str], inputs: Sequence[NDArray[Any]], engine: str, threads: int
) -> Resident:
    """Load a network in a process of its own, and run it once on zeros of these shapes.

    Raises:
        InputError: the process could not do it.
    """
    request = {
        "path": str(path),
        "names": list(names),
        "engine": engine,
        "threads": threads,
        "inputs": [[str(x.dtype), list(x.shape)] for x in inputs],
    }
    done = subprocess.run(
        [sys.executable, "-m", "sprue.proof.resident", json.dumps(request)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise InputError(f"the memory of {path} could not be measured: {reason}")
    return Resident(**json.loads(done.stdout.splitlines()[-1]))


def _run(request: dict[str, Any]) -> Resident:
    if request["engine"] == engines.OPENVINO:
        engines.core_of_openvino()
    else:
        import onnxruntime  # noqa: F401
    before = peak_bytes()
    inputs = [np.zeros(shape, dtype) for dtype, shape in request["inputs"]]
    session = engines.open_session(
        Path(request["path"]),
        request["names"],
        engine=request["engine"],
        threads=request["threads"],
        shapes=[shape for _, shape in request["inputs"]],
    )
    session.run(inputs)
    return Resident(peak_bytes(), before)


if __name__ == "__main__":
    print(json.dumps(asdict(_run(json.loads(sys.argv[1])))))

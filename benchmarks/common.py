"""What every benchmark shares: where things lie, the stamp of a measurement, its file.

Import it before torch: it asks for one thread, where the environment says nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

for _variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
RESULTS = HERE / "results"
PEERS = HERE / "peers"
ASSETS = Path(os.environ.get("SPRUE_ASSETS", ROOT.parent / "shared/assets"))
BASE = ASSETS / "models/base6m"
TEXTS = ("stories", "code", "legal", "security")

# What decides the bytes of a result and the figures measured on it.
_DECIDES = (
    *("weights", "structure", "models", "plan", "data", "runtime"),
    *("compress.py", "experts.py", "proof/quality.py"),
)

Json = dict[str, Any]


def stamp() -> Json:
    """The machine, the versions, the date and the code of a measurement."""
    from sprue.proof import machine

    return {"machine": asdict(machine.stamp()), "commit": _commit(), "source": source()}


def source() -> str:
    """sha256 over the code that decides results; a point measured by other code is out of date."""
    package, digest = _package(), hashlib.sha256()
    for name in _DECIDES:
        path = package / name
        files = [path] if path.is_file() else sorted(path.rglob("*.[pch]*"))
        for file in (f for f in files if f.suffix in (".py", ".c", ".h")):
            digest.update(str(file.relative_to(package)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def save(name: str, content: Json) -> None:
    """Write results/NAME.json, all of it or nothing."""
    path = RESULTS / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def load(name: str) -> Json | None:
    """What results/NAME.json holds; None where it is not there."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        return None
    found: Json = json.loads(path.read_text(encoding="utf-8"))
    return found


def fresh(name: str, keep: bool) -> bool:
    """Whether NAME need not be measured again: it is there, and this code (or `keep`) made it."""
    found = load(name)
    return found is not None and (keep or found["stamp"]["source"] == source())


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [f"| {' | '.join(row)} |" for row in (head, ["---"] * len(head), *rows)]


def peers(name: str) -> Json:
    """peers/NAME.json."""
    found: Json = json.loads((PEERS / f"{name}.json").read_text(encoding="utf-8"))
    return found


def require_assets() -> None:
    """Stop with a clear message where the models and texts are not there."""
    if not BASE.is_dir():
        sys.exit(f"{ASSETS} holds no models/base6m: name the folder of assets in SPRUE_ASSETS")


def sprue(
    arguments: Sequence[str | Path],
    figures: Path,
    threads: int = 1,
    codes: Sequence[int] = (0,),
) -> Json:
    """Run the command line in a process of its own; what it printed as JSON, and what it cost.

    Args:
        arguments: as typed after `sprue`, with --json among them.
        figures: a file for `measured.py` to write to.
        threads: of that process.
        codes: that it may end with.
    """
    variables = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    command = [sys.executable, str(HERE / "measured.py"), str(figures), *map(str, arguments)]
    environment = {**os.environ, **dict.fromkeys(variables, str(threads))}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode not in codes:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    cost: Json = json.loads(figures.read_text(encoding="utf-8"))
    return {"printed": json.loads(done.stdout), "cost": cost}


def _commit() -> str:
    """The commit of the package, with a plus where it has changed since."""
    head = _git("rev-parse", "--short=12", "HEAD")
    return head + ("+" if _git("status", "--porcelain", "--", ".") else "")


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=_package(), capture_output=True, text=True)
    return done.stdout.strip()


def _package() -> Path:
    """The package that is measured: the one that is imported."""
    import sprue as imported

    return Path(imported.__file__).parent

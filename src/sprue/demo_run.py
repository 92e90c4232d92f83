"""The demo: compress the embedded model, verify the result, show what changed."""

from __future__ import annotations

import json
import platform
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from sprue import demo
from sprue.compress import compress
from sprue.errors import InputError
from sprue.generate import generate
from sprue.proof.cores import cores
from sprue.verify import verify

MODEL, REPORT, FIGURES = "model", "report.html", "demo.json"
PROMPT = "The court shall"
TOKENS = 40
CONTEXT = 256
WINDOWS = 64
MEASURED = 40  # windows of each text
KEEP = 0.99
_MARK = ".sprue-demo"  # says that a folder is a demo's, so that the next demo may replace it


@dataclass(frozen=True)
class DemoReport:
    """What a demo measured.

    Attributes:
        out: the folder with the compressed model, the report and the figures.
        figures: what demo.json holds; JSON-able.
    """

    out: Path
    figures: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """The figures."""
        return self.figures

    def table(self) -> str:
        """Before and after, one sample of each, and where the report is."""
        sample = self.figures["sample"]
        return "\n".join(
            [
                before_and_after(self.figures["verify"]),
                "",
                f"original:   {_quoted(sample['prompt'], sample['original'])}",
                f"compressed: {_quoted(sample['prompt'], sample['result'])}",
                "",
                f"{self.figures['seconds']:.0f} seconds; {self.figures['machine']}",
                f"model:  {self.out / MODEL}",
                f"report: {self.out / REPORT}",
            ]
        )


def run(
    out: Path,
    *,
    bits: float,
    seed: int = 0,
    device: str = "cpu",
    progress: bool = True,
    windows: int = WINDOWS,
) -> DemoReport:
    """Compress the embedded model into `out`, verify it and write report and figures there.

    Args:
        out: folder to make; an earlier demo there is replaced.
        bits: bits per weight.
        seed: of everything that is random.
        device: "cpu" or "cuda".
        progress: whether to show progress on standard error.
        windows: calibration windows of 256 tokens.

    Raises:
        InputError: `out` exists and is not a demo's.
    """
    started = time.monotonic()
    _make_room(out)
    compress(
        str(demo.model_path()),
        out / MODEL,
        preset=None,
        bits=bits,
        size=None,
        recipe=None,
        calibrate=demo.calibration_files(),
        seed=seed,
        device=device,
        windows=windows,
        context=CONTEXT,
        progress=progress,
    )
    verified = verify(
        str(demo.model_path()),
        out / MODEL,
        data=demo.test_files(),
        context=CONTEXT,
        windows=MEASURED,
        keep=KEEP,
        report=out / REPORT,
        seed=seed,
        device=device,
        progress=progress,
    )
    figures = {
        "bits": bits,
        "seed": seed,
        "machine": machine(),
        "verify": verified.as_dict(),
        "sample": _sample(out, seed, device),
        "seconds": time.monotonic() - started,
    }
    (out / FIGURES).write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return DemoReport(out, figures)


def read(out: Path) -> DemoReport:
    """The report of a demo that was run before.

    Raises:
        InputError: `out` holds no finished demo.
    """
    file = out / FIGURES
    if not file.is_file():
        raise InputError(f"{file} is missing: run 'sprue demo --out {out}' first")
    return DemoReport(out, json.loads(file.read_text(encoding="utf-8")))


def machine() -> str:
    """Cores, system and versions, in one line."""
    return (
        f"{cores()} cores, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, torch {version('torch')}"
    )


def _make_room(out: Path) -> None:
    """Make `out`, over an earlier demo."""
    ours = not out.exists() or (out / _MARK).is_file() or (out.is_dir() and not any(out.iterdir()))
    if not ours:
        raise InputError(
            f"{out} exists and is not an earlier demo: give another --out, or remove it"
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / _MARK).touch()
    if (out / MODEL).exists():
        shutil.rmtree(out / MODEL)
    for name in (REPORT, FIGURES):
        (out / name).unlink(missing_ok=True)


def _sample(out: Path, seed: int, device: str) -> dict[str, str]:
    """What both models make of the same prompt."""
    result, original = generate(
        out / MODEL,
        PROMPT,
        beside=demo.model_path(),
        max_new_tokens=TOKENS,
        seed=seed,
        device=device,
    )
    return {"prompt": PROMPT, "original": original.text, "result": result.text}


def before_and_after(verified: Mapping[str, Any]) -> str:
    """The table of what changed, from the figures of `verify`."""
    rows = [
        ("", "original", "compressed", "ratio"),
        _row("bytes, all tensors", verified["bytes"], "{:,.0f}"),
        _row("perplexity", verified["perplexity"], "{:.3f}"),
        _row("tokens per second", verified["tokens_per_second"], "{:,.0f}"),
        _row("peak memory, bytes", verified["peak_rss_bytes"], "{:,.0f}"),
    ]
    bits = verified["bits_per_weight"]
    lines = [f"{name:<20} {a:>15} {b:>15} {c:>8}" for name, a, b, c in rows]
    lines += [
        f"bits per weight: {bits['linears']:.3f} of the linears, {bits['file']:.3f} of the file",
        f"divergence: {verified['kl_nats']:.4f} nats per token; "
        f"same likeliest token: {100 * verified['top1_agreement']:.1f}%",
    ]
    return "\n".join(lines)


def _quoted(prompt: str, answer: str) -> str:
    """Prompt and continuation on one line."""
    return " ".join((prompt + answer).split())


def _row(name: str, pair: Mapping[str, float], form: str) -> tuple[str, str, str, str]:
    original, result = pair["original"], pair["result"]
    return name, form.format(original), form.format(result), f"{result / original:.3f}"

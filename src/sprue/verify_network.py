"""The verb `verify` for a network: a result, as its engine loads it, beside the original."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sprue.degate import Given, has_attention
from sprue.degating import artifact
from sprue.degating.bench import Bench
from sprue.degating.report import report_of
from sprue.errors import InputError
from sprue.formats.onnx_export import to_onnx
from sprue.models import nets
from sprue.plan import precision
from sprue.plan.workshop import sha256_of
from sprue.proof import energy
from sprue.proof.network_report import NetworkReport
from sprue.runtime.engines import engine_of


def verify_network(
    given: Given,
    result: str | Path,
    *,
    keep: float | None = None,
    threads: int = 1,
    seed: int = 0,
    report: str | Path | None = None,
    progress: Callable[[str], object] = lambda words: None,
) -> NetworkReport:
    """Measure what a result kept of a network, and what both cost in the result's engine.

    Args:
        given: the original, and the data to measure with.
        result: a folder that `degate` made, or an .onnx or .xml file with the same arguments.
        keep: share that must be kept; None asks for nothing.
        threads: of the engine.
        seed: of resampling.
        report: write the page here.
        progress: called with a few words before every step.

    Raises:
        ArtifactError: a damaged result.
        InputError: a model or data that cannot be used, or a result of another network.
    """
    if given.data is None:
        raise InputError("expected data to measure with: add --data FILE")
    found = _found(Path(result))
    progress("the original")
    net = given.open()
    _check_same(net, found, str(result))
    examples = given.read(net, given.data, None, seed)
    with tempfile.TemporaryDirectory() as scratch:
        original = _exported(net, found.file, Path(scratch), examples)
        bench = Bench(
            net=net,
            engine=engine_of(found.file),
            original=original,
            examples=examples,
            threads=threads,
            seed=seed,
            counter=energy.counter(),
        )
        progress("answers")
        kept = bench.judge(found.file)
        progress("costs")
        done = report_of(
            bench,
            found.file,
            kept,
            original=given.model,
            result=str(result),
            data=[str(given.data)],
            keep=keep,
            limits={},
            artifact=found.told or None,
            parameters=_parameters(net, found.told),
        )
    if found.told:
        _record(found, done)
    if report is not None:
        Path(report).write_text(done.html(), encoding="utf-8")
    return done


@dataclass(frozen=True)
class _Found:
    file: Path
    folder: Path | None
    told: Mapping[str, Any]


def _found(result: Path) -> _Found:
    if result.is_dir():
        one = artifact.read(result)
        return _Found(one.file, one.folder, one.told)
    if not result.is_file():
        raise InputError(f"no such folder or file: {result}")
    engine_of(result)
    return _Found(result, None, {})


def _check_same(net: nets.Net, found: _Found, name: str) -> None:
    told = found.told.get("original", {}).get("sha256")
    if told is not None and told != sha256_of(net.source):
        raise InputError(
            f"{name} was made from another model than {net.source}: its sprue.json names the "
            f"sha256 {told[:16]}…"
        )


def _exported(net: nets.Net, like: Path, scratch: Path, examples: Any) -> Path:
    """The original in the format of the result."""
    source = scratch / "source.onnx"
    check = examples.batches(len(net.example[0]))[0]
    to_onnx(net.module, net.example, net.inputs, net.varying, source, check)
    path = scratch / f"original{like.suffix}"
    whole = precision.Source(source, net.inputs, [], has_attention(net.module))
    precision.write(engine_of(like), precision.FP32, whole, path, portable=False)
    return path


def _parameters(net: nets.Net, told: Mapping[str, Any]) -> tuple[int, int] | None:
    after = told.get("cut", {}).get("parameters")
    return None if after is None else (net.parameters, int(after))


def _record(found: _Found, report: NetworkReport) -> None:
    """The verdict goes into sprue.json, so that it travels with what it was found on."""
    assert found.folder is not None
    content = {k: v for k, v in found.told.items() if k != "files"}
    artifact.write_told(found.folder, content | {"verdict": report.as_dict()})


def data_of(given: Given, result: Path) -> Given:
    """As the result was made: its length of texts, where none is stated."""
    if given.length is not None or not artifact.is_network(result):
        return given
    told = json.loads((result / "sprue.json").read_text(encoding="utf-8"))
    length = told.get("asked", {}).get("length")
    return given if length is None else replace(given, length=int(length))

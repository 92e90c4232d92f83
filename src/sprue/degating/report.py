"""What `compress --target` and `verify` say of a network: measured the same way by both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sprue.degating.bench import THROUGHPUT, Bench
from sprue.plan import precision
from sprue.proof import machine, resident
from sprue.proof.network_report import NetworkReport, judged
from sprue.proof.scores import Kept
from sprue.runtime import engines


def report_of(
    bench: Bench,
    path: Path,
    kept: tuple[Kept, ...],
    *,
    original: str,
    result: str,
    data: Sequence[str],
    keep: float | None,
    limits: Mapping[str, float | None],
    artifact: Mapping[str, Any] | None,
    parameters: tuple[int, int] | None,
    trials: Sequence[Mapping[str, Any]] = (),
    memory: bool = True,
) -> NetworkReport:
    """Measure what a file costs, and put it beside what it kept.

    Args:
        bench: with the original and the examples.
        path: the file.
        kept: what it kept of the answers.
        original, result, data: as they were given.
        keep: share that must be kept.
        limits: latency, size and energy that are allowed, as shares of the original's.
        artifact: sprue.json of the result.
        parameters: of original and result.
        trials: what was tried.
        memory: whether to measure it, in processes of their own.
    """
    costs = bench.costs(path)
    found = {
        "latency": costs.single.ratio.value,
        "size": precision.bytes_of(path) / precision.bytes_of(bench.original),
        "energy": costs.energy_ratio,
    }
    broken = {k: (found[k], most) for k, most in limits.items() if most and found[k] > most}
    one = [x[:1].numpy() for x in bench.examples.inputs]
    files = (bench.original, path)
    measured = [
        resident.measure(f, bench.net.inputs, one, bench.engine, bench.threads)
        for f in (files if memory else ())
    ]
    return NetworkReport(
        original=original,
        result=result,
        task=bench.net.task,
        engine=f"{bench.engine} {engines.version(bench.engine)}",
        threads=bench.threads,
        shape={n: list(x.shape) for n, x in zip(bench.net.inputs, one, strict=True)},
        data=tuple(data),
        examples=len(bench.examples),
        fingerprint=bench.examples.fingerprint,
        scores=kept,
        verdict=judged(kept[0], keep),
        broken=broken,
        nbytes=(precision.bytes_of(bench.original), precision.bytes_of(path)),
        parameters=parameters,
        single=costs.single,
        many=costs.many,
        many_examples=THROUGHPUT,
        memory=(measured[0], measured[1]) if memory else None,
        energy=costs.energy,
        trials=tuple(trials),
        artifact=artifact,
        machine=machine.stamp(),
        seed=bench.seed,
    )

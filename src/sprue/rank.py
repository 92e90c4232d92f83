"""The verb `rank`: what users ask for, from the largest by the compute that it takes."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from sprue.errors import InputError
from sprue.outputs import check_writable
from sprue.proof.cores import cores
from sprue.usage import needs, reading, totals
from sprue.usage.asked import SAMPLE, TOP, Asked
from sprue.usage.reading import Log
from sprue.usage.report import RankReport, ordered
from sprue.usage.store import Classify, Rows
from sprue.usage.totals import Ranked, added

MEMORY = "1GB"

_NAMED = 8  # tenants that a message lists


def rank(
    logs: str | Path | Sequence[str | Path],
    *,
    by: str = totals.COMPUTE,
    tenants: Sequence[str] = (),
    since: float | None = None,
    until: float | None = None,
    flops: Mapping[str, float] | None = None,
    top: int = TOP,
    min_cluster: int | None = None,
    sample: int = SAMPLE,
    classify: Classify | None = None,
    seed: int = 0,
    threads: int | None = None,
    memory: str = MEMORY,
    report: str | Path | None = None,
    progress: Callable[[str], object] = lambda words: None,
) -> RankReport:
    """Rank what a log holds, and change nothing of it.

    Args:
        logs: files, folders or patterns: segments of `usage.segments`, and OpenAI-style JSONL.
        by, tenants, since, until, flops, top, min_cluster, sample, seed: as `usage.asked.Asked`
            takes them.
        classify: texts -> their capabilities, None where unknown; for requests without one.
        threads: to read with; None: all that this process may use.
        memory: that reading takes at most before it goes to disk (in TMPDIR), such as "1GB".
        report: write the page here.
        progress: called with a few words before every step.

    Raises:
        InputError: nothing that can be read, nothing that was asked for, or a missing package.
        ResourceError: neither memory nor disk suffice.
    """
    asked = Asked(
        *(by, tuple(tenants), since, until, dict(flops or {})), *(top, min_cluster, sample, seed)
    )
    threads = threads or cores()
    _check(threads, memory, report)
    with tempfile.TemporaryDirectory(prefix="sprue-rank-") as scratch:
        paths = [logs] if isinstance(logs, str | Path) else logs
        log = reading.read(paths, Path(scratch), threads, progress)
        rows = Rows(log, Path(scratch), asked, threads, memory)
        try:
            done = _ranked(rows, log, asked, classify, progress)
        finally:
            rows.close()
    if report is not None:
        Path(report).write_text(done.html(), encoding="utf-8")
    return done


def _ranked(
    rows: Rows,
    log: Log,
    asked: Asked,
    classify: Classify | None,
    progress: Callable[[str], object],
) -> RankReport:
    if classify is not None:
        progress("naming capabilities")
        rows.name(classify)
    progress("summing up")
    rows.sum_up()
    whole = rows.whole()
    if not whole.requests:
        raise InputError(_nothing(rows, asked))
    by, why = totals.settle(asked.by, whole)
    capabilities = rows.capabilities()
    tenants, count = rows.tenants(by, asked.top)
    unit, slots, untimed = rows.slots()
    progress("looking for new needs")
    some = rows.unknown(asked.sample, asked.seed)
    return RankReport(
        asked=asked,
        by=by,
        why=why,
        log=log,
        whole=whole,
        unknown=added(one.total for one in capabilities if one.name is None),
        capabilities=ordered([one for one in capabilities if one.name is not None], by),
        tenants=tuple(Ranked(t.name, t.total, ordered(t.inside, by)) for t in tenants),
        tenant_count=count,
        models=ordered(rows.models(), by),
        span=rows.span(),
        unit=unit,
        slots=tuple(slots),
        untimed=untimed,
        needs=needs.find(
            some.texts, some.totals, some.of, some.without, asked.min_cluster, asked.seed
        ),
    )


def _nothing(rows: Rows, asked: Asked) -> str:
    """Why no row counts, and what would."""
    names = rows.known_tenants(_NAMED + 1)
    if not names:
        return "the log holds no requests: give one with some in it"
    strange = [name for name in asked.tenants if name not in names]
    if strange and asked.since is None and asked.until is None:
        known = ", ".join(map(repr, names[:_NAMED])) + (" ..." if len(names) > _NAMED else "")
        return f"no request of tenant {strange[0]!r} in the log; it has {known}"
    return "no request in the log is of these tenants and of this time: ask for more"


def _check(threads: int, memory: str, report: str | Path | None) -> None:
    if threads < 1:
        raise InputError(f"--threads must be 1 or more, got {threads}")
    if not re.fullmatch(r"[1-9]\d*(\.\d+)?\s*([kMGT]i?)?B", memory):
        raise InputError(f"--memory must be a size such as 1GB or 500MB, got {memory!r}")
    check_writable(report)

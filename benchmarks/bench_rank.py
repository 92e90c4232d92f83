"""`sprue rank` over ten million requests: seconds, memory, and a damaged segment among them.

The log is made up, from a seed: capabilities as skewed as Zipf's law, 20 tenants, 30 days with
their nights, a text on every row. What no capability is known of asks for one of four planted
needs, or for nothing in particular. One more segment has a byte flipped: it must be named, and be
all that is left out.

    python benchmarks/bench_rank.py [--rows 10000000] [--threads 2] [--folder DIR]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import common  # isort: skip
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sprue.usage import record

SEED, SEGMENT = 0, 50_000
TENANTS, DAYS, START = 20, 30, 1_767_225_600  # from the first of January 2026
CAPABILITIES = (
    *("legal", "code", "stories", "security", "billing", "travel", "health", "recipes"),
    *("translation", "summaries", "tables", "mail", "math", "history", "music", "sports"),
    *("gardening", "cars", "movies", "weather"),
)
UNKNOWN = 0.12  # of all requests
MODELS = {"small-legal": 2e8, "small-code": 2e8, "full": 1e9}  # FLOPs of a token
NEEDS = {  # planted: a sentence, and what is put into it
    "renew my {} passport before {}": 0.25,
    "write a wedding speech for my {} {}": 0.2,
    "which tax form do I file for {} in {}": 0.15,
    "tune the {} of my sourdough at {}": 0.1,
}
WORDS = (  # noqa: SIM905
    "old new red green small large brother sister friend cousin spring summer march april june "
    "berlin paris rome oslo income rent lease farm oven starter dough night morning noon river "
    "mountain paper glass silver copper window garden engine letter number answer question"
).split()


def texts(rng: np.random.Generator, count: int) -> tuple[list[str], list[str]]:
    """Distinct texts of known capabilities, and of unknown ones: planted needs, and others."""

    def words(n: int) -> list[str]:
        return [str(w) for w in rng.choice(WORDS, n)]

    known = [f"please help with {c}: {' '.join(words(6))}" for c in CAPABILITIES for _ in range(50)]
    unknown = []
    for sentence, share in NEEDS.items():
        unknown += [sentence.format(*words(2)) for _ in range(round(share * count))]
    letters = np.array(list("abcdefghijklmnopqrstuvwxyz"))
    while len(unknown) < count:
        made = ["".join(rng.choice(letters, int(rng.integers(3, 10)))) for _ in range(8)]
        unknown.append(" ".join(made))
    return known, unknown


def segment(
    rng: np.random.Generator, first: int, count: int, of: int, pools: tuple[list[str], list[str]]
) -> pa.Table:
    """Rows `first` to `first + count` of `of`."""
    days = (first + np.sort(rng.uniform(0, count, count))) / of * DAYS
    moment = START + (days + 0.11 * np.sin(2 * np.pi * days)) * 86_400  # three times as many by day
    weights = 1 / np.arange(1, len(CAPABILITIES) + 1) ** 1.1
    capability = rng.choice(len(CAPABILITIES), count, p=weights / weights.sum()).astype(np.int32)
    unknown = rng.random(count) < UNKNOWN
    tenants = 1 / np.arange(1, TENANTS + 1)
    tenant = rng.choice(TENANTS, count, p=tenants / tenants.sum()).astype(np.int32)
    model = np.where(unknown, 2, np.minimum(capability, 2)).astype(np.int32)
    tokens_in = rng.lognormal(5, 0.8, count).astype(np.int64) + 1
    tokens_out = rng.lognormal(4.5, 0.9, count).astype(np.int64) + 1
    flops = np.array(list(MODELS.values()))[model] * (tokens_in + tokens_out)
    escalated = np.where(rng.random(count) < 0.1, rng.integers(0, 9, count), 0)
    known, new = pools
    text = np.where(
        unknown,
        len(known) + rng.integers(0, len(new), count),
        50 * capability + rng.integers(0, 50, count),
    )
    columns = {
        "time": moment,
        "model": _picked(model, list(MODELS)),
        "request": pa.array(np.char.add("r", (first + np.arange(count)).astype(str))),
        "tenant": _picked(tenant, [f"tenant-{i:02}" for i in range(TENANTS)]),
        "capability": _picked(capability, CAPABILITIES, unknown),
        "scores": pa.array([[]] * count, record.schema().field("scores").type),
        "node": _picked(model, ["node-a", "node-b", "node-c"]),
        "tokens_in": tokens_in,
        "tokens_out": tokens_out,
        "flops": flops,
        "cpu_seconds": flops / 2e10,
        "escalated": escalated,
        "steps": tokens_out,
        "text": _picked(text.astype(np.int32), known + new),
    }
    return pa.table(columns, schema=record.schema())


def _picked(places: np.ndarray, names: object, missing: np.ndarray | None = None) -> pa.Array:
    indices = pa.array(places, mask=missing)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string())).cast(pa.string())


def write(folder: Path, rows: int) -> Path:
    """The log; returns the segment that is damaged, which is one more than there should be."""
    rng = np.random.default_rng(SEED)
    pools = texts(rng, 20_000)
    for first in range(0, rows, SEGMENT):
        table = segment(rng, first, min(SEGMENT, rows - first), rows, pools)
        _save(table, folder / f"{first:012}.parquet")
    damaged = folder / "damaged.parquet"
    _save(segment(rng, 0, 1_000, rows, pools), damaged)
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(bytes(content))
    return damaged


def _save(table: pa.Table, file: Path) -> None:
    """As `usage.segments` writes."""
    pq.write_table(table, file, compression="zstd", write_page_checksum=True)


def measure(folder: Path, rows: int, threads: int) -> common.Json:
    """Make the log, rank it in a process of its own, and check what came."""
    start = time.monotonic()
    damaged = write(folder, rows)
    made = time.monotonic() - start
    size = sum(file.stat().st_size for file in folder.iterdir())
    page = folder / "report.html"
    done = common.sprue(
        ["rank", folder, "--json", "--quiet", "--threads", str(threads), "--report", page],
        folder / "figures.json",
        threads=1,
    )
    told, cost = done["printed"], done["cost"]
    assert told["total"]["requests"] == rows
    named = [one["file"] for one in told["log"]["skipped"]] == [str(damaged)]
    return {
        "rows": rows,
        "segments": -(-rows // SEGMENT),
        "bytes": size,
        "threads": threads,
        "seconds": cost["seconds"],
        "cpu_seconds": cost["cpu_seconds"],
        "peak_bytes": cost["peak_bytes"],
        "rows_per_second": rows / cost["seconds"],
        "seconds_to_make": made,
        "damaged_named": named,
        "reason": told["log"]["skipped"][0]["reason"],
        "statement": told["statement"],
        "unknown": told["unknown"]["share"],
        "planted": planted(told["needs"]["found"]),
        "needs": told["needs"]["count"],
        "page_bytes": page.stat().st_size,
        "stamp": common.stamp(),
    }


def planted(found: list[common.Json]) -> common.Json:
    """For each planted need its share, and that of the need found whose examples ask for it."""
    shares = {}
    for sentence, share in NEEDS.items():
        start = sentence.partition("{")[0].strip()
        mine = [n for n in found if all(e.startswith(start) for e in n["examples"])]
        shares[start] = {"planted": share, "found": sum(n["share_of_unknown"] for n in mine)}
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000, metavar="N")
    parser.add_argument("--threads", type=int, default=2, metavar="N")
    parser.add_argument("--folder", type=Path, help="where to make the log (default: TMPDIR)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.folder) as folder:
        found = measure(Path(folder), args.rows, args.threads)
    common.save(f"rank/{args.rows}", found)
    print(
        f"{found['rows']:,} rows in {found['seconds']:.1f} s, {found['rows_per_second']:,.0f} a "
        f"second, peak {found['peak_bytes'] / 1e6:,.0f} MB; damaged segment named: "
        f"{found['damaged_named']}"
    )


if __name__ == "__main__":
    main()

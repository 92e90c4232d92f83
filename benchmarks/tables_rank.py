"""The section of RESULTS.md on ranking logs, from results/rank."""

from __future__ import annotations

import common


def section() -> str:
    """Empty where nothing was measured."""
    names = sorted((path.stem for path in (common.RESULTS / "rank").glob("*.json")), key=int)
    found = [one for name in names if (one := common.load(f"rank/{name}")) is not None]
    if not found:
        return ""
    head = [
        *("requests", "segments", "bytes", "seconds", "a second", "CPU s", "peak MB"),
        *("damaged segment", "needs found, of planted"),
    ]
    return "\n".join(
        [
            "## Ranking a log",
            "",
            "`sprue rank` with JSON and page, in a process of its own: `bench_rank.py`, requests "
            "made up from a seed. One byte of one more segment was flipped. Planted: needs of "
            "known shares among what no capability is known of; found: the share that the report "
            "states over the one planted.",
            "",
            *common.table(head, [_row(one) for one in found]),
            "",
            _stamp(found[-1]),
        ]
    )


def _row(one: common.Json) -> list[str]:
    planted = one["planted"].values()
    ratios = ", ".join(f"{need['found'] / need['planted']:.2f}" for need in planted)
    return [
        f"{one['rows']:,}",
        f"{one['segments']:,}",
        f"{one['bytes']:,}",
        f"{one['seconds']:.1f}",
        f"{one['rows_per_second']:,.0f}",
        f"{one['cpu_seconds']:.1f}",
        f"{one['peak_bytes'] / 1e6:,.0f}",
        "named, left out" if one["damaged_named"] else "**not named**",
        ratios,
    ]


def _stamp(one: common.Json) -> str:
    machine = one["stamp"]["machine"]
    return (
        f"Measured {machine['date'][:10]} at {one['stamp']['commit']}: {machine['processor']}, "
        f"{one['threads']} threads."
    )


if __name__ == "__main__":
    print(section())

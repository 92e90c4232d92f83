"""The section of RESULTS.md on killed and resumed runs, from results/resume."""

from __future__ import annotations

import common


def section() -> str:
    """Empty where nothing was measured."""
    names = sorted(path.stem for path in (common.RESULTS / "resume").glob("*.json"))
    found = [one for name in names if (one := common.load(f"resume/{name}")) is not None]
    rows = [_row(one) for one in found]
    if not rows:
        return ""
    head = ["what", "killed", "of these twice", "had saved", "identical bytes", "left alone, s"]
    return "\n".join(
        [
            "## Killed and resumed",
            "",
            "`kill -9` at moments drawn evenly from the time that the run left alone took, then "
            "`--resume`: `bench_resume.py`, the embedded model.",
            "",
            *common.table(head, rows),
        ]
    )


def _row(one: common.Json) -> list[str]:
    runs = one["runs"]
    return [
        one["way"],
        str(sum(run["killed"][0] for run in runs)),
        str(sum(len(run["killed"]) > 1 for run in runs)),
        str(sum(run["saved"] for run in runs)),
        f"{sum(run['identical'] for run in runs)} of {len(runs)}",
        f"{one['seconds']:.0f}",
    ]

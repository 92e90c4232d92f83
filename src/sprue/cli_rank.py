"""`sprue rank` for a terminal."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from sprue import cli_common

ABOUT = """\
Rank what users ask for, from the largest by the compute that it takes: capabilities, per tenant
and over time, what is of no known capability, and the new needs among it. LOG is a file, a
folder or a pattern: segments of the usage log, or OpenAI-style JSONL (chat completions and
batches). What cannot be read is named and left out."""

EXAMPLES = """\
  sprue rank usage/ --report report.html
  sprue rank 'logs/*.jsonl' --flops gpt-4o=4e11 --since 2026-01-01
  sprue rank usage/ --tenant acme --by tokens --json"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("logs", metavar="LOG", nargs="+", help="files, folders or patterns of a log")
    add(
        "--by",
        choices=("compute", "tokens", "requests"),
        default="compute",
        help="what ranks (default: %(default)s; where the log does not tell it, the next one)",
    )
    add(
        "--tenant",
        metavar="T",
        dest="tenants",
        action="append",
        default=[],
        help="count this tenant's requests alone; repeatable",
    )
    add("--since", metavar="TIME", type=_moment, help="count from here on (2026-01-31, UTC)")
    add("--until", metavar="TIME", type=_moment, help="count what came before")
    add(
        "--flops",
        metavar="MODEL=N",
        type=_flops,
        action="append",
        default=[],
        help="FLOPs of one token of a model, where the log tells none; repeatable",
    )
    add(
        "--router",
        metavar="FILE",
        type=Path,
        help="of `sprue route --train`: names capabilities where the log does not",
    )
    add(
        "--top",
        metavar="N",
        type=cli_common.at_least(1, "a whole number"),
        default=20,
        help="of every list, how many are told (default: %(default)s)",
    )
    add(
        "--min-cluster",
        metavar="N",
        type=cli_common.at_least(2, "a whole number of requests"),
        help="requests that a new need must have (default: 0.4%% of the sample, at least 10)",
    )
    add(
        "--sample",
        metavar="N",
        type=cli_common.at_least(0, "a whole number of texts"),
        default=5_000,
        help="texts that new needs are looked for in, at most (default: %(default)s)",
    )
    add(
        "--seed",
        metavar="N",
        type=cli_common.at_least(0, "a whole number"),
        default=0,
        help="same seed, same result (default: %(default)s)",
    )
    add(
        "--threads",
        metavar="N",
        type=cli_common.at_least(1, "a whole number"),
        help="to read with (default: all cores)",
    )
    add(
        "--memory",
        metavar="SIZE",
        default="1GB",
        help="that reading takes before it goes to disk, in TMPDIR (default: %(default)s)",
    )
    add("--report", metavar="FILE", type=Path, help="write a report in one HTML file")
    add("--quiet", action="store_true", help="show no progress")
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.rank import rank

    classify = None if args.router is None else _classifier(args.router)
    with cli_common.steps(not args.quiet, leave=False) as progress:
        found = rank(
            args.logs,
            by=args.by,
            tenants=args.tenants,
            since=args.since,
            until=args.until,
            flops=dict(args.flops),
            top=args.top,
            min_cluster=args.min_cluster,
            sample=args.sample,
            classify=classify,
            seed=args.seed,
            threads=args.threads,
            memory=args.memory,
            report=args.report,
            progress=progress,
        )
    if args.json:
        for one in found.left_out:
            print(f"sprue: left out: {one}", file=sys.stderr)
    cli_common.show(found.as_dict() if args.json else found.table())
    return 0


def _classifier(file: Path) -> Callable[[list[str]], list[str | None]]:
    """What a router says that texts need; None: nothing that it knows."""
    from sprue.fleet.router import Router

    router = Router.load(file)
    return lambda texts: [router.route(text).capability for text in texts]


def _moment(text: str) -> float:
    """Seconds since 1970: of a date or a time, in UTC where no zone is given, or as they are."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return cli_common.finite(text, "a time such as 2026-01-31 or 2026-01-31T12:00")
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


def _flops(text: str) -> tuple[str, float]:
    """A model and the FLOPs of a token."""
    model, mark, number = text.rpartition("=")
    expected = "a model and FLOPs above 0, such as gpt-4o=4e11"
    value = cli_common.finite(number, expected, text)
    if not (mark and model and value > 0):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {text!r}")
    return model, value

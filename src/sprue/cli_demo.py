"""`sprue demo` for a terminal."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from sprue import cli_common

ABOUT = """\
Compress the small model that ships with sprue, verify the result on text that it was
never trained on, write the report, and show one sample from both models."""

EXAMPLES = """\
  sprue demo
  sprue demo --out out/demo --json
  sprue demo --fleet --out out/fleet"""


NOT_KEPT = 1
DEFAULT_BITS = 3.0  # a quarter of the embedded model's bytes, and 99% of its quality


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add(
        "--out",
        metavar="DIR",
        type=Path,
        default=Path("sprue-demo"),
        help="folder for the result and the report; an earlier demo there is replaced "
        "(default: %(default)s)",
    )
    add(
        "--bits",
        metavar="B",
        type=cli_common.bits,
        default=DEFAULT_BITS,
        help="bits per weight (default: %(default)g)",
    )
    add(
        "--fleet",
        action="store_true",
        help="instead: make a log of requests, rank it, cut specialists for the three capabilities "
        "that take most, and prove what a fleet of them saves",
    )
    add(
        "--tune",
        metavar="MINUTES",
        type=cli_common.minutes,
        help="with --fleet: training of each specialist (default: 4500 steps, whatever they take)",
    )
    cli_common.add_common(parser)
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    cli_common.hush()
    if args.fleet:
        return _fleet(args)
    from sprue import demo_run

    report = demo_run.run(
        args.out,
        bits=args.bits,
        seed=args.seed,
        device=args.device,
        progress=not args.quiet,
    )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0


def _fleet(args: argparse.Namespace) -> int:
    from sprue import demo_fleet

    if not args.quiet:
        print(demo_fleet.takes(args.out, args.tune), file=sys.stderr)
    with cli_common.steps(not args.quiet) as progress:
        report = demo_fleet.run(
            args.out,
            minutes=args.tune,
            seed=args.seed,
            progress=progress,
        )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0 if report.replayed.passed else NOT_KEPT

"""`sprue demo` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue import cli_common

ABOUT = """\
Compress the small model that ships with sprue, verify the result on text that it was
never trained on, write the report, and show one sample from both models."""

EXAMPLES = """\
  sprue demo
  sprue demo --out out/demo --json"""


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
    cli_common.add_common(parser)
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue import demo_run

    cli_common.hush()
    report = demo_run.run(
        args.out,
        bits=args.bits,
        seed=args.seed,
        device=args.device,
        progress=not args.quiet,
    )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0

"""`sprue verify` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue import cli_common, cli_network

ABOUT = """\
Compare RESULT, as it is read back from disk, with ORIGINAL on the same data: perplexity,
divergence and agreement with 95% intervals, bytes, speed, memory, energy.
Exits with 1 when --keep is not met."""

EXAMPLES = """\
  sprue verify path/to/model small --data mine.txt
  sprue verify path/to/model small --data code.txt --data law.txt --keep 99% --json"""

NOT_MET = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("original", metavar="ORIGINAL", help="the original: model folder or hub name")
    add("result", metavar="RESULT", type=Path, help="folder that 'sprue compress' made")
    add(
        "--data",
        metavar="FILE",
        type=Path,
        action="append",
        required=True,
        help="text to measure with, not the one used for calibration; repeatable: figures "
        "are given for each file and for their mean",
    )
    cli_common.add_context(parser)
    cli_network.add_model(parser)
    add(
        "--keep",
        metavar="SHARE",
        type=cli_common.share,
        help="quality that must be kept, such as 99%%",
    )
    add("--report", metavar="FILE", type=Path, help="write a report in one HTML file")
    cli_common.add_common(parser)
    add("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if cli_network.is_network(args.original):
        return cli_network.verify(args)
    from sprue.verify import verify

    report = verify(
        args.original,
        args.result,
        data=args.data,
        context=args.context,
        keep=args.keep,
        report=args.report,
        seed=args.seed,
        device=args.device,
        progress=not args.quiet,
    )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0 if report.passed else NOT_MET

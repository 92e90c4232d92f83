"""`sprue plan` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue import cli_common, cli_compress

ABOUT = """\
Say what compressing MODEL under a budget would take and give: memory, disk and time, and for every
matrix bits, rank and zeros, with the damage that is predicted. Nothing is compressed."""

EXAMPLES = """\
  sprue plan path/to/model --size 25% --sparsity 50% --calibrate mine.txt
  sprue plan path/to/model --keep 99% --out recipe.yaml"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder or hub name")
    add("--out", metavar="FILE", type=Path, help="write the recipe as YAML; must not exist")
    budget = parser.add_argument_group("budget, one of").add_mutually_exclusive_group()
    cli_compress.add_size(budget)
    budget.add_argument(
        "--keep",
        metavar="SHARE",
        type=cli_common.share,
        help="the smallest size that is predicted to keep this much of the quality (99%%)",
    )
    cli_compress.add_demands(parser)
    cli_compress.add_ways(parser)
    cli_common.add_common(parser, seed=None)
    add("--json", action="store_true", help="print the plan as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.outline import plan
    from sprue.plan.room import lean

    lean()
    report = plan(
        args.model,
        out=args.out,
        keep=args.keep,
        progress=not args.quiet,
        **cli_compress.asked(args),
    )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0

"""`sprue activations` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue import cli_common

ABOUT = """\
Give every linear of a model a threshold: inputs of a smaller magnitude count as zero, and
when one token at a time is written, the columns of the weights that meet them are not read.
MODEL is a folder in the Hugging Face layout (safetensors) or a hub name. DIR becomes an
ordinary model folder that transformers loads after 'import sprue'."""

EXAMPLES = """\
  sprue activations path/to/model --out sparse --zeros 50% --calibrate mine.txt
  sprue activations path/to/model --out sparse --zeros 40% --report zeros.html --json"""

DEFAULT_WINDOWS = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder or hub name")
    add("--out", metavar="DIR", type=Path, required=True, help="folder to make; must not exist")
    add(
        "--zeros",
        metavar="SHARE",
        type=cli_common.share,
        required=True,
        help="share of the weights of all linears that are to meet a zero (50%%); which linear "
        "bears how many is decided by what it costs",
    )
    cli_common.add_calibration(parser, DEFAULT_WINDOWS)
    add(
        "--report",
        metavar="FILE",
        type=Path,
        help="write a page in one HTML file, and its figures beside it as .json",
    )
    cli_common.add_common(parser)
    add("--json", action="store_true", help="print the report as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.activations import activations
    from sprue.plan.room import lean

    lean()
    report = activations(
        args.model,
        args.out,
        zeros=args.zeros,
        calibrate=args.calibrate,
        windows=args.windows,
        context=args.context,
        seed=args.seed,
        device=args.device,
        report=args.report,
        progress=not args.quiet,
    )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0

"""`sprue audit` for a terminal."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

from sprue import cli_common, cli_network

ABOUT = """\
Show where the fat of MODEL is, before anything is cut: for every layer the parameters that
a refit can do without, connections that do nothing, features that others repeat, and what
8 and 4 bits, zeros, low rank and fewer inputs would save there and are predicted to cost.
MODEL is a network or a causal language model. Without --data a network's weights alone
tell: then nothing is predicted; a language model reads a small embedded text."""

EXAMPLES = """\
  sprue audit path/to/classifier --data photos.zip --report audit.html
  sprue audit path/to/language-model --data my.txt --json
  sprue audit net.py:small --weights net.safetensors --input 3x32x32 --data photos.zip"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder, hub name, .onnx file or package.module:factory")
    add(
        "--data",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="what the network is for: images, labelled text, or plain text for a language model; "
        "half of it is fitted to, half held out to measure with",
    )
    add(
        "--examples",
        metavar="N",
        type=cli_common.at_least(2, "a whole number of examples"),
        help="of the data, at most (default: as many as take a few minutes)",
    )
    cli_network.add_model(parser)
    add(
        "--error",
        metavar="SHARE",
        type=cli_common.share,
        default=0.01,
        help="of a layer's output that may be lost where something is said to be spare "
        "(default: 1%%)",
    )
    add(
        "--dead",
        metavar="SHARE",
        dest="share",
        type=cli_common.share,
        default=1e-3,
        help="of an output's root mean square, below which a connection is said to be dead "
        "(default: 0.1%%)",
    )
    add(
        "--r2",
        metavar="SHARE",
        type=cli_common.share,
        default=0.99,
        help="of a feature's variance that others explain where it is said to be repeated "
        "(default: 99%%)",
    )
    add(
        "--seed",
        metavar="N",
        type=cli_common.at_least(0, "a whole number"),
        default=0,
        help="same seed, same result (default: %(default)s)",
    )
    add("--report", metavar="FILE", type=Path, help="write a report in one HTML file")
    add("--quiet", action="store_true", help="show no progress")
    add("--json", action="store_true", help="print the figures as JSON")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.audit import Subject, audit

    cli_common.hush()
    told = asdict(cli_network.given(args, args.model))
    told.pop("calibrate")
    with cli_common.steps(not args.quiet) as progress:
        found = audit(
            Subject(**told),
            error=args.error,
            share=args.share,
            r2=args.r2,
            seed=args.seed,
            report=args.report,
            progress=progress,
        )
    cli_common.show(found.as_dict() if args.json else found.table())
    return 0

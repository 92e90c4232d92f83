"""`sprue generate` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue import cli_common

ABOUT = """\
Continue a text with a compressed model, and with its original beside it if asked."""

EXAMPLES = """\
  sprue generate small --prompt "Once upon a time"
  sprue generate small --prompt "def main():" --beside path/to/model --tokens 80"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("result", metavar="DIR", type=Path, help="folder that 'sprue compress' made")
    add("--prompt", metavar="TEXT", required=True, help="text to continue")
    add("--beside", metavar="ORIGINAL", help="also show what this model says")
    add(
        "--tokens",
        metavar="N",
        type=cli_common.at_least(1, "a whole number of tokens"),
        default=60,
        help="tokens to add (default: %(default)s)",
    )
    add(
        "--temperature",
        metavar="T",
        type=cli_common.temperature,
        default=0.0,
        help="0 takes the likeliest token, larger values vary more (default: %(default)g)",
    )
    cli_common.add_common(parser, progress=False)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.generate import generate

    cli_common.hush()
    samples = generate(
        args.result,
        args.prompt,
        beside=args.beside,
        max_new_tokens=args.tokens,
        temperature=args.temperature,
        seed=args.seed,
        device=args.device,
    )
    cli_common.show(samples.table())
    return 0

"""`sprue specialize` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue import cli_common

ABOUT = """\
Cut out of a language model the part that one capability needs: vocabulary, layers, heads
and neurons leave, what stays is fitted and taught by the full model on text of the
capability, and quantized. It is admitted only where it is not worse than the full model
on text of the capability that nothing else has seen; what it has forgotten is told too."""

EXAMPLES = """\
  sprue specialize path/to/model --capability legal --data legal.txt --out legal
  sprue specialize path/to/model --capability legal --data log.jsonl --size 30% --out legal
  sprue specialize path/to/model --capability code --data src.jsonl --tune 60 --out code
  sprue specialize path/to/model --capability code --data src.jsonl --adapters base --out code"""

NOT_ADMITTED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL", help="folder of the full model, or a hub name")
    add("--capability", metavar="NAME", required=True, help="what the specialist is for")
    add(
        "--data",
        metavar="FILE|LOG",
        type=Path,
        action="append",
        required=True,
        help="text of the capability (.txt, .jsonl, .parquet), or a log, of which the requests of "
        "the capability are taken; repeatable",
    )
    add("--out", metavar="DIR", type=Path, required=True, help="folder to make; must not exist")
    add(
        "--size",
        metavar="SIZE",
        default="40%",
        help="bytes of all tensors at most: a share of the full model's, or bytes (default: 40%%)",
    )
    add(
        "--flops",
        metavar="SHARE",
        type=cli_common.share,
        help="operations of linears and head for a token, at most (default: the share of --size)",
    )
    add(
        "--keep",
        metavar="SHARE",
        type=cli_common.share,
        default=0.99,
        help="of the full model's quality on the capability, with 95%% confidence; exits with 1 "
        "where that is not met (default: 99%%)",
    )
    time = parser.add_argument_group("training, one of").add_mutually_exclusive_group()
    time.add_argument(
        "--tune",
        metavar="MINUTES",
        type=_minutes,
        help="so long, by the clock; 0: none (default: 15)",
    )
    time.add_argument(
        "--steps",
        metavar="N",
        type=cli_common.at_least(0, "a whole number of steps"),
        help="so many steps: the same bytes every time",
    )
    add(
        "--vocabulary",
        metavar="N",
        type=cli_common.at_least(0, "a whole number of tokens"),
        help="tokens that stay, what spells any text among them; 0: all (default: as few as hardly "
        "cost anything on the text of the capability)",
    )
    add(
        "--prove",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="text of the capability to prove it with; repeatable (default: a part of --data, "
        "which is then not learned from)",
    )
    add(
        "--beside",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="other text, to tell what was forgotten of it; repeatable (default: embedded texts)",
    )
    light = parser.add_argument_group("the light kind: low-rank parts over one base")
    light.add_argument(
        "--adapters",
        metavar="BASE",
        type=Path,
        help="cut nothing: make a low-rank part over the compressed model in BASE, which all "
        "capabilities share; where there is none, it is made, of --size",
    )
    light.add_argument(
        "--rank",
        metavar="R",
        type=cli_common.at_least(1, "a whole number"),
        default=16,
        help="of the parts (default: %(default)s)",
    )
    cli_common.add_context(parser)
    add("--report", metavar="FILE", type=Path, help="write a page with plots here")
    add("--figures", metavar="FILE", type=Path, help="write all figures here as JSON")
    add("--resume", action="store_true", help="go on where this command was interrupted")
    cli_common.add_common(parser)
    add("--json", action="store_true", help="print the figures as JSON")


def _minutes(text: str) -> float:
    return 0.0 if text.strip() == "0" else cli_common.minutes(text)


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.specialize import Asked, specialize

    asked = Asked(
        args.capability,
        size=args.size,
        flops=args.flops,
        keep=args.keep,
        minutes=args.tune,
        steps=args.steps,
        vocabulary=args.vocabulary,
        context=args.context,
        seed=args.seed,
        base=None if args.adapters is None else str(args.adapters),
        rank=args.rank,
    )
    cli_common.hush()
    with cli_common.steps(not args.quiet) as progress:
        found = specialize(
            args.model,
            args.data,
            args.out,
            asked,
            prove=args.prove,
            beside=args.beside,
            resume=args.resume,
            report=args.report,
            figures=args.figures,
            progress=progress,
        )
    cli_common.show(found.as_dict() if args.json else found.table())
    return 0 if found.admitted else NOT_ADMITTED

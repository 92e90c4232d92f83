"""`sprue experts` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sprue import cli_common

if TYPE_CHECKING:
    from sprue.experts import DropReport, ExpertsReport

ABOUT = """\
Make every feed-forward layer of a dense language model a set of experts, of which a token
computes a few; the rest is really not computed. Neurons that are active together go
together, a router is fitted, the layers are repaired, and with --tune or --steps the
result is distilled from the original. DIR loads after 'import sprue'.
With --drop, a model that has experts already loses those that it needs least, the same
number in every block; DIR is then an ordinary model."""

EXAMPLES = """\
  sprue experts path/to/model --out sparse --experts 8 --active 2 --tune 20
  sprue experts path/to/model --out sparse --active 3 --shared 1 --calibrate mine.txt
  sprue experts path/to/mixtral --out smaller --drop 50% --calibrate mine.txt"""

DEFAULT_WINDOWS = 128
DEFAULT_EXPERTS, DEFAULT_ACTIVE = 8, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder or hub name")
    add("--out", metavar="DIR", type=Path, required=True, help="folder to make; must not exist")
    add(
        "--experts",
        metavar="N",
        type=cli_common.at_least(2, "a whole number of experts"),
        help=f"experts of every feed-forward layer (default: {DEFAULT_EXPERTS})",
    )
    add(
        "--active",
        metavar="N",
        type=cli_common.at_least(1, "a whole number of experts"),
        help=f"experts that a token computes, shared ones included (default: {DEFAULT_ACTIVE})",
    )
    add(
        "--shared",
        metavar="N",
        type=cli_common.at_least(0, "a whole number of experts"),
        help="of these, experts that always compute (default: 0)",
    )
    add(
        "--drop",
        metavar="SHARE",
        type=cli_common.share,
        help="of a model that has experts, leave out this share of them (50%%)",
    )
    _add_distillation(parser)
    cli_common.add_calibration(
        parser,
        DEFAULT_WINDOWS,
        "calibration windows for the statistics; a distillation reads all of the text",
    )
    add("--report", metavar="FILE", type=Path, help="write a report in one HTML file")
    cli_common.add_common(parser)
    add("--json", action="store_true", help="print the report as JSON")


def _add_distillation(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("distillation, one of").add_mutually_exclusive_group()
    group.add_argument(
        "--tune",
        metavar="MINUTES",
        type=cli_common.minutes,
        help="distill from the original for so long, by the clock",
    )
    group.add_argument(
        "--steps",
        metavar="N",
        type=cli_common.at_least(1, "a whole number of steps"),
        help="or for so many steps: same seed, same bytes",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.plan.room import lean

    lean()
    cli_common.hush()
    report = _convert(args) if args.drop is None else _drop(args)
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0


def _convert(args: argparse.Namespace) -> ExpertsReport:
    from sprue.experts import experts
    from sprue.plan.split import Split

    split = Split(
        args.experts or DEFAULT_EXPERTS, args.active or DEFAULT_ACTIVE, args.shared or 0, args.seed
    )
    given = {"tune": args.tune, "steps": args.steps, "report": args.report}
    return experts(args.model, args.out, split, **given, **_common(args))


def _drop(args: argparse.Namespace) -> DropReport:
    from sprue.errors import InputError
    from sprue.experts import drop

    beside = ("experts", "active", "shared", "tune", "steps", "report")
    given = [f"--{name}" for name in beside if getattr(args, name) is not None]
    if given:
        raise InputError(
            f"{', '.join(given)} beside --drop: that is for models without experts; leave it out"
        )
    return drop(args.model, args.out, args.drop, seed=args.seed, **_common(args))


def _common(args: argparse.Namespace) -> dict[str, Any]:
    return {
        "calibrate": args.calibrate,
        "windows": args.windows,
        "context": args.context,
        "device": args.device,
        "progress": not args.quiet,
    }

"""`sprue replay` for a terminal."""

from __future__ import annotations

import argparse
import math
from pathlib import Path

from sprue import cli_common

ABOUT = """\
Ask everything in a log again, of a fleet and of its full model, and prove what the fleet is
worth: how likely both find the answers, with intervals, latency, and the one figure that says
how much compute is saved with all that the fleet computes counted (specialists, router, checks
and what was handed over to the full model). LOG is JSON lines of requests with their answers."""

EXAMPLES = """\
  sprue replay log.jsonl --fleet fleet.yaml --report replay.html
  sprue replay log.jsonl --fleet fleet.yaml --shadow last-week.jsonl --risk 0.01
  sprue replay log.jsonl --fleet fleet.yaml --keep 99.5% --json"""

NOT_KEPT = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("logs", metavar="LOG", nargs="+", type=Path, help="requests with answers, JSON lines")
    add(
        "--fleet",
        metavar="FLEET.yaml",
        type=Path,
        required=True,
        help="full model, router and specialists",
    )
    add(
        "--keep",
        metavar="SHARE",
        type=cli_common.share,
        default=0.99,
        help="of the quality of all answers together, with 95%% confidence; exits with 1 where "
        "that is not met (default: 99%%)",
    )
    group = parser.add_argument_group("the reserve")
    group.add_argument(
        "--shadow",
        metavar="LOG",
        type=Path,
        action="append",
        default=[],
        help="find the thresholds on this traffic, by conformal risk control; repeatable "
        "(default: those that the fleet's file says)",
    )
    group.add_argument(
        "--risk",
        metavar="NATS",
        type=_nats,
        default=0.02,
        help="what may be lost with answers that stay with specialists: nats a token beyond the "
        "tolerance, in the mean over answers (default: %(default)s)",
    )
    group.add_argument(
        "--tolerance",
        metavar="NATS",
        type=_nats,
        default=0.1,
        help="nats a token by which a single answer may be less likely and nothing counts as lost "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--doubt", choices=("entropy", "margin"), default="entropy", help="default: %(default)s"
    )
    group.add_argument(
        "--over",
        metavar="STEPS",
        type=cli_common.at_least(1, "a whole number of steps"),
        default=16,
        help="steps over which the doubt is averaged (default: %(default)s)",
    )
    group.add_argument(
        "--hold",
        metavar="TOKENS",
        type=cli_common.at_least(1, "a whole number of tokens"),
        help="tokens that the full model writes before the specialist takes over again (default: "
        "the rest of the answer)",
    )
    add(
        "--timed",
        metavar="N",
        type=cli_common.at_least(0, "a whole number of requests"),
        default=60,
        help="requests served step by step by both, by the clock (default: %(default)s)",
    )
    add(
        "--most",
        metavar="N",
        type=cli_common.at_least(2, "a whole number of requests"),
        help="replay the first N requests (default: all)",
    )
    add("--report", metavar="FILE", type=Path, help="write a page with plots here")
    add("--figures", metavar="FILE", type=Path, help="write all figures here as JSON")
    cli_common.add_common(parser)
    add("--json", action="store_true", help="print the figures as JSON")


def _nats(text: str) -> float:
    value = cli_common.finite(text, "nats, such as 0.02")
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected nats of 0 or more, got {text!r}")
    return value


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.fleet.reserve import Reserve
    from sprue.fleet.shadow import Risk
    from sprue.replay import Terms, replay

    terms = Terms(
        keep=args.keep,
        shadow=tuple(args.shadow),
        risk=Risk(args.risk, args.tolerance),
        form=Reserve(math.inf, args.doubt, args.hold, args.over),
        timed=args.timed,
        most=args.most,
        seed=args.seed,
    )
    cli_common.hush()
    with cli_common.steps(not args.quiet) as progress:
        found = replay(
            args.logs,
            args.fleet,
            terms,
            report=args.report,
            figures=args.figures,
            progress=progress,
        )
    cli_common.show(found.as_dict() if args.json else found.table())
    return 0 if found.passed else NOT_KEPT

"""`sprue route` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue import cli_common
from sprue.errors import InputError

ABOUT = """\
Show who of a fleet would answer TEXT: its parts, the capability of each with its scores, and
the model that gets it. What is not known goes to the full model. FLEET.yaml names the models:

  full: path/to/model
  router: router.safetensors
  specialists: {legal: path/to/legal, code: path/to/code}

With --train the router is made first, from labelled texts."""

EXAMPLES = """\
  sprue route "what does section 3 say about leases, and sort this list in python" --fleet f.yaml
  sprue route "def f(x):" --fleet f.yaml --capability code --json
  sprue route "def f(x):" --fleet f.yaml --answer 40
  sprue route --train requests.csv --unknown others.csv --out router.safetensors"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("text", metavar="TEXT", nargs="?", help="a request")
    add("--fleet", metavar="FILE", type=Path, help="YAML that names the models")
    add(
        "--capability",
        metavar="NAME",
        help="what the caller says it needs: then the text is not looked at",
    )
    add(
        "--answer",
        metavar="TOKENS",
        type=cli_common.at_least(1, "a whole number of tokens"),
        help="let the fleet answer, each need in up to so many tokens, and show who wrote what",
    )
    add("--json", action="store_true", help="print the decision as JSON")
    group = parser.add_argument_group("making a router")
    group.add_argument(
        "--train",
        metavar="FILE",
        action="append",
        default=[],
        help="labelled texts (CSV, TSV, JSONL, FILE.json#LIST); labels are capabilities",
    )
    group.add_argument(
        "--unknown",
        metavar="FILE",
        action="append",
        default=[],
        help="texts that need none of them",
    )
    group.add_argument(
        "--spilled",
        metavar="SHARE",
        type=cli_common.share,
        help="of known texts, that may go to the full model so that what is unknown does "
        "(default: 5%%); with --unknown both are told apart as well as can be instead",
    )
    group.add_argument("--out", metavar="FILE", type=Path, help="the router; must not exist")
    group.add_argument("--seed", metavar="N", type=int, default=0, help="(default: 0)")


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.train or args.out or args.unknown or args.spilled is not None:
        return _train(args)
    if args.text is None or args.fleet is None:
        raise InputError("expected TEXT and --fleet FILE, or --train FILE with --out FILE")
    from sprue.route import route

    if args.answer is not None:
        return _answer(args)
    found = route(args.text, args.fleet, args.capability)
    cli_common.show(found.as_dict() if args.json else found.table())
    return 0


def _answer(args: argparse.Namespace) -> int:
    from sprue.route import answer

    cli_common.hush()
    answered = answer(args.text, args.fleet, args.answer, args.capability)
    cli_common.show(answered.as_dict() if args.json else answered.table())
    return 0


def _train(args: argparse.Namespace) -> int:
    if not args.train or args.out is None:
        raise InputError("a router is made with --train FILE and --out FILE: one is missing")
    if args.text is not None or args.fleet is not None:
        raise InputError("--train makes a router: give TEXT and --fleet in a command of its own")
    if args.unknown and args.spilled is not None:
        raise InputError("--spilled is for routers that are shown nothing --unknown: leave one out")
    from sprue.route import train

    router = train(args.train, args.out, args.unknown, args.seed, args.spilled)
    told = {
        "router": str(args.out),
        "capabilities": list(router.capabilities),
        "threshold": router.threshold,
    }
    words = f"{args.out}: {', '.join(router.capabilities)}; unknown below {router.threshold:.3f}"
    cli_common.show(told if args.json else words)
    return 0

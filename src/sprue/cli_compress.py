"""`sprue compress` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path

from sprue import cli_common

ABOUT = """\
Make a smaller model. MODEL is a folder in the Hugging Face layout (safetensors) or a
hub name. DIR becomes an ordinary model folder that transformers loads after
'import sprue'. Peak memory, disk and time are stated before the work starts."""

EXAMPLES = """\
  sprue compress path/to/model --out small
  sprue compress path/to/model --out small --size 30% --calibrate mine.jsonl
  sprue compress path/to/model --out small --preset gptq --bits 4 --json"""

PRESETS = ("rtn", "gptq", "svd", "caldera", "wanda", "sparsegpt", "slim")
DEFAULT_WINDOWS = 128


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder or hub name")
    add("--out", metavar="DIR", type=Path, required=True, help="folder to make; must not exist")
    budget = parser.add_argument_group("budget, one of").add_mutually_exclusive_group()
    budget.add_argument(
        "--bits",
        metavar="B",
        type=cli_common.bits,
        help="bits per weight over the compressed linears, everything stored counted; "
        f"fractions allowed (default: {cli_common.DEFAULT_BITS:g}, when no budget is given)",
    )
    budget.add_argument(
        "--size",
        metavar="SIZE",
        help="bytes of the whole result: a share of the original's (30%%) or bytes "
        "(1964544, 2MB, 1.5GiB)",
    )
    budget.add_argument(
        "--recipe", metavar="FILE", type=Path, help="YAML recipe that says how to store each tensor"
    )
    add_demands(parser)
    add(
        "--preset",
        choices=PRESETS,
        help="use one named method (default: the best that the solver knows)",
    )
    add(
        "--calibrate",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="text that the model should stay good at: .txt, .jsonl or .parquet; repeatable "
        "(default: a small embedded text; your own is better)",
    )
    add(
        "--windows",
        metavar="N",
        type=cli_common.at_least(1, "a whole number of windows"),
        default=DEFAULT_WINDOWS,
        help="calibration windows to read (default: %(default)s)",
    )
    add(
        "--context",
        metavar="N",
        type=cli_common.at_least(2, "a whole number of tokens"),
        help="tokens in a window (default: what the model allows, within reason)",
    )
    add(
        "--resume",
        action="store_true",
        help="go on where this same command was killed or interrupted, and refuse to begin anew "
        "(without it: go on where that can be, else begin)",
    )
    cli_common.add_common(parser, seed=None)
    add("--json", action="store_true", help="print the report as JSON")


def add_demands(parser: argparse.ArgumentParser) -> None:
    """Declare zeros and FLOPs."""
    group = parser.add_argument_group("beside it, any of")
    group.add_argument(
        "--sparsity",
        metavar="SHARE",
        type=cli_common.share,
        help="zeros among the weights of the linears, at least (50%%); which matrix bears how many "
        "is decided with the rest of the budget",
    )
    group.add_argument(
        "--pattern",
        metavar="P",
        help="of the zeros: unstructured, N:M (2:4: of every 4 neighbors 2 stay), RxC (blocks of "
        "outputs x inputs); N:M alone gives every linear that pattern",
    )
    group.add_argument(
        "--flops",
        metavar="SHARE",
        type=cli_common.share,
        help="operations of linears and head for a token, as a share of the original's, at most",
    )


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    from sprue.compress import compress
    from sprue.plan.room import lean

    lean()
    report = compress(
        args.model,
        args.out,
        preset=args.preset,
        bits=args.bits,
        size=args.size,
        recipe=args.recipe,
        sparsity=args.sparsity,
        pattern=args.pattern,
        flops=args.flops,
        calibrate=args.calibrate,
        seed=args.seed,
        device=args.device,
        windows=args.windows,
        context=args.context,
        resume=args.resume,
        progress=not args.quiet,
    )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0

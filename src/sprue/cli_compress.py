"""`sprue compress` for a terminal."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from sprue import cli_common, cli_network
from sprue.errors import InputError

ABOUT = """\
Make a smaller model. MODEL is a folder in the Hugging Face layout (safetensors) or a
hub name. DIR becomes an ordinary model folder that transformers loads after
'import sprue'. Peak memory, disk and time are stated before the work starts.
With --target, MODEL is a classifier, an encoder or a detector (such a folder, an .onnx
file, or package.module:factory), and DIR holds what that engine runs."""

EXAMPLES = """\
  sprue compress path/to/model --out small
  sprue compress path/to/model --out small --size 30% --calibrate mine.jsonl
  sprue compress path/to/model --out small --preset gptq --bits 4 --json
  sprue compress path/to/model --out small --sparsity 50% --pattern 2:4 --size 25%
  sprue compress path/to/model --out small --keep 99% --calibrate mine.jsonl
  sprue compress path/to/bert --out small --target openvino --keep 99% --calibrate train.tsv"""

PRESETS = ("rtn", "gptq", "svd", "caldera", "wanda", "sparsegpt", "slim")
DEFAULT_WINDOWS = 128
NOT_MET = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder or hub name")
    add("--out", metavar="DIR", type=Path, required=True, help="folder to make; must not exist")
    budget = parser.add_argument_group("budget, one of").add_mutually_exclusive_group()
    add_size(budget)
    budget.add_argument(
        "--recipe", metavar="FILE", type=Path, help="YAML recipe that says how to store each tensor"
    )
    add_demands(parser)
    group = parser.add_argument_group("quality")
    group.add_argument(
        "--keep",
        metavar="SHARE",
        type=cli_common.share,
        help="quality that must be kept, such as 99%%, proven on text that nothing else has seen; "
        "without a budget: in the smallest result that does. Exits with 1 when it is not met",
    )
    group.add_argument(
        "--data",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="text to prove it with, apart from --calibrate; repeatable (default: three tenths of "
        "the calibration text, which is then not calibrated on)",
    )
    add_ways(parser)
    cli_network.add_target(parser)
    cli_network.add_model(parser)
    add(
        "--resume",
        action="store_true",
        help="go on where this same command was killed or interrupted, and refuse where what was "
        "left is of another model, text, budget or version (without it: such is replaced)",
    )
    cli_common.add_common(parser, seed=None)
    add("--json", action="store_true", help="print the report as JSON")


def add_size(budget: argparse._MutuallyExclusiveGroup) -> None:
    """Declare budgets of bits and bytes."""
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


def add_ways(parser: argparse.ArgumentParser) -> None:
    """Declare preset and calibration."""
    parser.add_argument(
        "--preset",
        choices=PRESETS,
        help="use one named method (default: the best that the solver knows)",
    )
    cli_common.add_calibration(parser, DEFAULT_WINDOWS)


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


def asked(args: argparse.Namespace) -> dict[str, Any]:
    """What budgets and ways were stated, as `compress` and `plan` take it."""
    names = ("preset", "bits", "size", "sparsity", "pattern", "flops", "calibrate", "seed")
    more = ("device", "windows", "context")
    return {name: getattr(args, name) for name in (*names, *more)}


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    if args.target is not None or cli_network.is_network(args.model):
        return cli_network.compress(args)
    if args.keep is not None:
        return _run_to_keep(args)
    if args.data:
        raise InputError("--data is what --keep is proven with: add --keep 99%, or leave it out")
    from sprue.compress import compress
    from sprue.plan.room import lean

    lean()
    report = compress(
        args.model,
        args.out,
        recipe=args.recipe,
        resume=args.resume,
        progress=not args.quiet,
        **asked(args),
    )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0


def _run_to_keep(args: argparse.Namespace) -> int:
    from sprue.plan.room import lean
    from sprue.smallest import compress_to_keep

    lean()
    report = compress_to_keep(
        args.model,
        args.out,
        args.keep,
        data=args.data,
        recipe=args.recipe,
        resume=args.resume,
        progress=not args.quiet,
        **asked(args),
    )
    cli_common.show(report.as_dict() if args.json else report.table())
    return 0 if report.passed else NOT_MET

"""`sprue sweep` for a terminal."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from sprue import cli_common
from sprue.errors import InputError

ABOUT = """\
Measure which ratio of zeros fits which task. For every task and pattern the linears of
MODEL are pruned at a row of ratios, calibrated on the task's text, and compared with the
original on text that was kept apart, and on that of every other task. DIR gets sweep.html,
sweep.json and every point as soon as it is measured: the same command goes on from there.
Exits with 1 when --pick finds nothing that keeps --keep."""

EXAMPLES = """\
  sprue sweep path/to/model --data code=code.txt --data law=law.jsonl --out sweep
  sprue sweep path/to/model --data code=code.txt --out sweep --pattern 2:4 --pattern N:8
  sprue sweep path/to/model --data code=train.txt,test.txt --out sweep --pick code --keep 99%"""

ROW, PATTERNS, WINDOWS = "0..90%", ("unstructured", "N:4"), 128
NOT_MET = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments and what to call with them."""
    parser.set_defaults(run=run)
    add = parser.add_argument
    add("model", metavar="MODEL", help="model folder or hub name")
    add(
        "--data",
        metavar="NAME=FILE[,FILE]",
        type=task,
        action="append",
        required=True,
        help="a task and its text, .txt, .jsonl or .parquet; one file is split by documents into "
        "a part to calibrate on and a part to measure with, two are taken as these; repeatable",
    )
    add("--out", metavar="DIR", type=Path, required=True, help="folder for what is found")
    add(
        "--sparsity",
        metavar="ROW",
        default=ROW,
        help="ratios of zeros: a row in steps of 10 points, 50%%, or 30%%,50%%,70%% (default: "
        f"{ROW.replace('%', '%%')})",
    )
    add(
        "--pattern",
        metavar="P",
        action="append",
        default=[],
        help="of the zeros: unstructured, RxC (blocks of outputs x inputs), 2:4 (of every 4 "
        "neighbors 2 stay), N:4 (3:4, 2:4 and 1:4); repeatable (default: unstructured and N:4)",
    )
    add("--pick", metavar="NAME", help="write DIR/recipe.yaml for this task")
    add(
        "--keep",
        metavar="SHARE",
        type=cli_common.share,
        default=0.99,
        help="quality that must be kept (default: 99%%)",
    )
    add(
        "--windows",
        metavar="N",
        type=cli_common.at_least(2, "a whole number of windows"),
        default=WINDOWS,
        help="windows of each task to calibrate on, and to measure with (default: %(default)s)",
    )
    cli_common.add_context(parser)
    add(
        "--seed",
        metavar="N",
        type=cli_common.at_least(0, "a whole number"),
        default=0,
        help="same seed, same result (default: %(default)s)",
    )
    add("--quiet", action="store_true", help="show no progress")
    add("--json", action="store_true", help="print the figures as JSON")


def task(text: str) -> tuple[str, list[Path]]:
    """The name and the files of NAME=FILE or NAME=CALIBRATION,EVALUATION."""
    name, mark, files = text.partition("=")
    if not (name and mark and files):
        raise argparse.ArgumentTypeError(
            f"expected NAME=FILE or NAME=CALIBRATION,EVALUATION, got {text!r}"
        )
    # a comma may be part of a file's own name
    return name, [Path(files)] if Path(files).is_file() else [Path(f) for f in files.split(",")]


def run(args: argparse.Namespace) -> int:
    """Run the command; returns the exit code."""
    _refuse_twice([name for name, _ in args.data])
    from sprue.plan.room import lean
    from sprue.sweep import sweep

    cli_common.hush()
    lean()
    found = sweep(
        args.model,
        dict(args.data),
        args.out,
        sparsity=args.sparsity,
        pattern=args.pattern or PATTERNS,
        pick=args.pick,
        keep=args.keep,
        windows=args.windows,
        context=args.context,
        seed=args.seed,
        progress=not args.quiet,
    )
    cli_common.show(found.as_dict() if args.json else found.table())
    return 0 if found.passed else NOT_MET


def _refuse_twice(names: Sequence[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise InputError(f"the task {twice[0]!r} is given twice: name every task once")

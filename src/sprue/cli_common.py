"""What the commands share: values checked as they are read, common options, output."""

from __future__ import annotations

import argparse
import json
import math
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

from sprue.errors import SprueWarning

MAX_BITS = 16.0
DEFAULT_BITS = 4.0


def bits(text: str) -> float:
    """Bits per weight, fractions allowed."""
    value = finite(text, "bits per weight, such as 4 or 2.5")
    if not 1 <= value <= MAX_BITS:
        raise argparse.ArgumentTypeError(
            f"expected 1 to {MAX_BITS:g} bits per weight, got {text!r}: "
            "use --size to state a budget in bytes or percent"
        )
    return value


def share(text: str) -> float:
    """A share above 0 and up to 1, written as '99%' or '0.99'."""
    number = text.strip().removesuffix("%")
    value = finite(number, "a share such as 99% or 0.99", shown=text)
    if text.strip().endswith("%"):
        value = round(value / 100, 12)  # 99.99% is 0.9999, as typed
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(
            f"expected a share above 0% and up to 100%, got {text!r}: write 99% or 0.99"
        )
    return value


def at_least(least: int, what: str) -> Callable[[str], int]:
    """`what` (such as "a whole number of windows"), `least` or more."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"expected {what}, {least} or more, got {text!r}")
        return value

    return convert


def minutes(text: str) -> float:
    """A time by the clock, above 0, in minutes."""
    value = finite(text, "minutes, such as 20 or 2.5")
    if value <= 0:
        raise argparse.ArgumentTypeError(f"expected minutes above 0, got {text!r}")
    return value


def temperature(text: str) -> float:
    """A sampling temperature; 0 takes the likeliest token."""
    value = finite(text, "a temperature such as 0 or 0.8")
    if value < 0:
        raise argparse.ArgumentTypeError(f"expected a temperature of 0 or more, got {text!r}")
    return value


def finite(text: str, expected: str, shown: str | None = None) -> float:
    """A finite number; the message shows `shown` where the number is only a part of what came."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected {expected}, got {shown or text!r}")
    return value


def add_common(
    parser: argparse.ArgumentParser, progress: bool = True, seed: int | None = 0
) -> None:
    """Declare the options that every command has; without a default seed the verb has one."""
    parser.add_argument(
        "--seed",
        metavar="N",
        type=at_least(0, "a whole number"),
        default=seed,
        help="same seed, same result (default: %(default)s)"
        if seed is not None
        else "same seed, same result (default: the recipe's, or 0)",
    )
    parser.add_argument(
        "--device", metavar="NAME", default="cpu", help="cpu or cuda (default: %(default)s)"
    )
    if progress:
        parser.add_argument("--quiet", action="store_true", help="show no progress")


def add_calibration(
    parser: argparse.ArgumentParser, windows: int, what: str = "calibration windows to read"
) -> None:
    """Declare the calibration text, and how much of it is read."""
    parser.add_argument(
        "--calibrate",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="text that the model should stay good at: .txt, .jsonl or .parquet; repeatable "
        "(default: a small embedded text; your own is better)",
    )
    parser.add_argument(
        "--windows",
        metavar="N",
        type=at_least(1, "a whole number of windows"),
        default=windows,
        help=f"{what} (default: %(default)s)",
    )
    add_context(parser)


def add_context(parser: argparse.ArgumentParser) -> None:
    """Declare the tokens of a window."""
    parser.add_argument(
        "--context",
        metavar="N",
        type=at_least(2, "a whole number of tokens"),
        help="tokens in a window (default: what the model allows, within reason)",
    )


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Within a `with`, our own warnings are lines without a file name; others are left out.

    Whoever asks Python for warnings (-W, PYTHONWARNINGS) gets all of them as usual.
    """
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
            warnings.simplefilter("always", SprueWarning)
            warnings.showwarning = _show_warning
        yield


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """In the place of Python's own, which adds where the warning was given."""
    print(f"sprue: warning: {message}", file=sys.stderr)


def hush() -> None:
    """Keep `transformers` from drawing a bar for every model that it loads; downloads keep theirs.

    This imports it: call it where it is needed anyway.
    """
    from huggingface_hub import utils
    from transformers.utils import logging

    downloads = not utils.are_progress_bars_disabled()
    logging.disable_progress_bar()
    if downloads:
        utils.enable_progress_bars()


@contextmanager
def steps(shown: bool, leave: bool = True) -> Iterator[Callable[[str], object]]:
    """One line on standard error that says what is being done; nothing where it is no terminal.

    Args:
        shown: False: nothing at all.
        leave: whether the last words stay when it is done.
    """
    from tqdm import tqdm

    with tqdm(
        bar_format="{desc} [{elapsed}]",
        disable=None if shown else True,
        file=sys.stderr,
        leave=leave,
    ) as bar:
        yield lambda words: bar.set_description_str(words)


def show(answer: str | Mapping[str, Any]) -> None:
    """Print a text as it is, and anything else as JSON."""
    print(answer if isinstance(answer, str) else json.dumps(answer, indent=2))

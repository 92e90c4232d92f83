"""Packages that only a part of sprue needs, imported when it does."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sprue.errors import InputError


def needed(module: str, extra: str, what: str) -> Any:
    """A module of a package that came with an extra.

    Args:
        module: its name, such as "pyarrow.parquet".
        extra: of sprue.
        what: it is needed for, in a message.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise missing(error.name or module, extra, what) from error


def missing(module: str, extra: str, what: str) -> InputError:
    """What to say where a module is not installed."""
    package = module.partition(".")[0]
    return InputError(
        f"{what} needs {package}, which is not installed: install sprue with its extra, "
        f"pip install 'sprue[{extra}]'"
    )

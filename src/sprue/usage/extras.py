"""Packages that only the ranking of logs needs, imported when it does."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from sprue.errors import InputError

EXTRA = "usage"


def needed(name: str, what: str) -> Any:
    """A module of the extra, such as "pyarrow.parquet".

    Args:
        name: of the module.
        what: it is needed for, in a message.

    Raises:
        InputError: it is not installed.
    """
    try:
        return import_module(name)
    except ImportError as error:
        package = name.partition(".")[0]
        raise InputError(
            f"{what} needs {package}, which is not installed: pip install 'sprue[{EXTRA}]'"
        ) from error

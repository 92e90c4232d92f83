"""Files that a command will write: whether they can be, before the work and not after it."""

from __future__ import annotations

from pathlib import Path

from sprue.errors import InputError


def check_writable(*paths: str | Path | None) -> None:
    """Refuse a name that no file can have; None is a file that nobody asked for.

    Raises:
        InputError: its folder does not exist, or it is one itself.
    """
    for path in (Path(path) for path in paths if path is not None):
        if not path.absolute().parent.is_dir() or path.is_dir():
            raise InputError(f"cannot write {path}: expected a file name in a folder that exists")

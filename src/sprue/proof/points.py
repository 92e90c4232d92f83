"""The points of a sweep in its folder: each saved as soon as it was measured."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from sprue.errors import InputError
from sprue.proof.point import Point

SETTINGS, POINTS = "settings.json", "points"
_LOCK = ".lock"


class Points:
    """A sweep's folder; in a `with`, which removes a folder that it made and nothing came into.

    Args:
        folder: to make, or of the same sweep.
        settings: what decides every point, JSON-able.

    Raises:
        InputError: the folder holds something else, or the points of other settings.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self.folder = folder
        self._made = not folder.exists()
        if not self._made:
            _check(folder, settings)
        try:
            (folder / POINTS).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{folder} cannot be made: {error.strerror}") from error
        self._lock = _locked(folder)
        replace(folder / SETTINGS, _json(settings))

    def __enter__(self) -> Points:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and self._made and not any((self.folder / POINTS).glob("*.json")):
            shutil.rmtree(self.folder)
        self._lock.close()

    def get(self, task: str, pattern: str, ratio: float) -> Point | None:
        """A point that was measured; None: it was not.

        Raises:
            InputError: its file is damaged.
        """
        file = self._file(task, pattern, ratio)
        if not file.is_file():
            return None
        try:
            return Point.from_dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(
                f"{file} is damaged: remove it, and the same command measures it again"
            ) from error

    def put(self, point: Point) -> None:
        """Save a point."""
        file = self._file(point.task, point.pattern, point.ratio)
        replace(file, _json(point.as_dict()))

    def _file(self, task: str, pattern: str, ratio: float) -> Path:
        name = f"{task}-{pattern.replace(':', 'of')}-{100 * ratio:g}.json"
        return self.folder / POINTS / name


def replace(file: Path, text: str) -> None:
    """Write a file, all of it or as it was."""
    partial = file.with_name(f"{file.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


def _locked(folder: Path) -> IO[bytes]:
    """A file that this process holds until it ends; another one may not write the folder."""
    file = (folder / _LOCK).open("ab")
    if sys.platform != "win32":
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.close()
            raise InputError(f"another process is writing {folder} now: wait for it") from None
    return file


def _check(folder: Path, settings: Mapping[str, Any]) -> None:
    if not folder.is_dir():
        raise InputError(f"{folder} is a file: give a folder as --out")
    if not any(folder.iterdir()):
        return
    if not (folder / SETTINGS).is_file():
        raise InputError(f"{folder} holds something else than a sweep: give another --out")
    try:
        found = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        differ = [name for name in settings if found.get(name) != json.loads(_json(settings))[name]]
    except (ValueError, AttributeError) as error:
        raise InputError(f"{folder / SETTINGS} is damaged: give another --out") from error
    if differ:
        name = differ[0]
        raise InputError(
            f"{folder} holds the sweep of another {' and '.join(differ)} ({name}: "
            f"{_short(found.get(name))}, now {_short(settings[name])}): give another --out, or the "
            "same arguments again"
        )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1) + "\n"  # linears stay in the order of the model

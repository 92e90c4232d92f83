"""A folder that a result grows in beside its place, and that a killed command goes on from.

What is done is noted under the key of the command; files that a note speaks of are whole. The
folder takes its place at the end, all at once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from sprue.errors import InputError, ResourceError, SprueError
from sprue.models.write import refuse_existing

_NOTES = "notes.json"
_RESULT = "result"


class Workshop:
    """A place to work in.

    Args:
        out: where the result goes; must not exist.
        key: of the command and all it reads, JSON-able.
        resume: whether notes of the same key are taken up, and those of another refused.

    Attributes:
        folder: for files of any name.
        result: the folder that will stand at `out`.

    Raises:
        InputError: `out` exists, or notes of another command were left and `resume` was asked for.
        ResourceError: the folder cannot be made.
    """

    def __init__(self, out: Path, key: Mapping[str, Any], resume: bool) -> None:
        refuse_existing(out)
        self._out = out
        self.folder = out.parent / f".{out.name}.partial"
        self.result = self.folder / _RESULT
        self._notes: dict[str, Any] = {}
        if resume:
            self._take_up(key)
        if not self._notes:
            self._begin(key)
        shutil.rmtree(self.result, ignore_errors=True)

    def __enter__(self) -> Workshop:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None
    ) -> None:
        """Interrupted work stays for --resume; what failed for a reason that was said does not."""
        if kind is None or issubclass(kind, (SprueError, OSError)):
            shutil.rmtree(self.folder, ignore_errors=True)

    def noted(self, name: str) -> Any:
        """What an earlier run noted; None: nothing."""
        return self._notes.get(name)

    def note(self, name: str, told: Any) -> None:
        """Note something JSON-able."""
        self._notes[name] = told
        whole = self.folder / f"{_NOTES}.new"
        whole.write_text(json.dumps(self._notes), encoding="utf-8")
        whole.replace(self.folder / _NOTES)

    def finish(self) -> None:
        """The result takes its place.

        Raises:
            InputError: something came to stand there meanwhile.
        """
        refuse_existing(self._out)
        self.result.replace(self._out)

    def _take_up(self, key: Mapping[str, Any]) -> None:
        file = self.folder / _NOTES
        if not file.is_file():
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            return
        other = [k for k in key if found.get("key", {}).get(k) != json.loads(json.dumps(key[k]))]
        if other:
            raise InputError(
                f"{self.folder} was left by a command with another {other[0]}: run that one again, "
                "or leave out --resume to begin anew"
            )
        self._notes = found

    def _begin(self, key: Mapping[str, Any]) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        try:
            self.folder.mkdir(parents=True)
        except OSError as error:
            raise ResourceError(f"{self.folder} cannot be made: {error.strerror}") from error
        self.note("key", dict(key))


def sha256_of(path: Path) -> str:
    """Of a file, or of all files in a folder with their names, in hexadecimal."""
    digest = hashlib.sha256()
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        if path.is_dir():
            digest.update(file.relative_to(path).as_posix().encode() + b"\0")
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()

"""What an unfinished run has done, beside the shards that it wrote: enough to go on.

A folder `progress` holds arrays and one JSON file, which names the arrays that count and comes
last, so that whenever a run is killed the state that was saved before it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from sprue.errors import InputError
from sprue.models import tensorfile

FOLDER = "progress"
_STATE = "state.json"
_PIECE = 1 << 20


class Progress:
    """The saved state in `partial`, the folder that a run is writing."""

    def __init__(self, partial: Path) -> None:
        self._folder = partial / FOLDER
        self._arrays: dict[str, str] = {}  # file name -> sha256

    @property
    def exists(self) -> bool:
        """Whether a state was saved."""
        return (self._folder / _STATE).is_file()

    def read(self) -> dict[str, Any] | None:
        """What `commit` stored last; None where nothing was, or an array is damaged."""
        try:
            content = json.loads((self._folder / _STATE).read_text(encoding="utf-8"))
            arrays = dict(content["arrays"])
            if any(sha256(self._folder / name) != digest for name, digest in arrays.items()):
                return None
        except (OSError, ValueError, LookupError, TypeError):
            return None
        self._arrays = arrays
        return dict(content["content"])

    def key(self) -> str | None:
        """The "key" of what `commit` stored last, whether or not its arrays are whole."""
        try:
            text = (self._folder / _STATE).read_text(encoding="utf-8")
            return str(json.loads(text)["content"]["key"])
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def put(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write an array file; it counts from the next `commit` on."""
        self._folder.mkdir(exist_ok=True)
        file = f"{name}.safetensors"
        self._arrays[file] = write(self._folder / file, tensorfile.encode(tensors))

    def get(self, name: str) -> dict[str, Tensor]:
        """The tensors of an array file that counts.

        Raises:
            InputError: the file was damaged since it was checked.
        """
        entries = tensorfile.read_header(self._folder / f"{name}.safetensors")
        return {key: tensorfile.read(entry) for key, entry in entries.items()}

    def drop(self, names: Iterable[str]) -> None:
        """These arrays do not count from the next `commit` on."""
        for name in names:
            self._arrays.pop(f"{name}.safetensors", None)

    def commit(self, content: Mapping[str, Any]) -> None:
        """Replace what was saved before by `content` (JSON-able) and the arrays that now count."""
        self._folder.mkdir(exist_ok=True)
        text = json.dumps({"arrays": self._arrays, "content": content})
        write(self._folder / _STATE, [text.encode()])
        for file in self._folder.iterdir():
            if file.name != _STATE and file.name not in self._arrays:
                file.unlink()

    def remove(self) -> None:
        """Forget everything."""
        self._arrays = {}
        shutil.rmtree(self._folder, ignore_errors=True)


def write(path: Path, pieces: Iterable[bytes | memoryview]) -> str:
    """One file, complete under its name or not there at all; its sha256."""
    digest = hashlib.sha256()
    temporary = path.with_name(f"{path.name}.tmp")
    with temporary.open("wb") as stream:
        for piece in pieces:
            stream.write(piece)
            digest.update(piece)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    return digest.hexdigest()


def sha256(path: Path) -> str:
    """Of a file's bytes, hex.

    Raises:
        InputError: the file is gone.
    """
    try:
        with path.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing") from error

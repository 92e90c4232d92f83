"""An output folder that appears all at once, or not at all.

Everything is written into a hidden sibling `.NAME.partial`; config.json, without which nothing
loads, comes last there; then one rename makes the folder. A run that is killed leaves at most the
sibling, which the next run recognizes and replaces.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from sprue.errors import InputError, ResourceError
from sprue.models.tensorfile import encode

_MARK = ".sprue-partial"  # says that a partial folder is ours, and is locked while one writes it
_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_INDEX = "model.safetensors.index.json"
_PIECE = 1 << 20


class Writer:
    """A Hugging Face folder in the making; use it in a `with`, which discards what is not finished.

    Args:
        out: the folder to make; its missing parents are made too.
        needs: bytes that will be written; more than the disk has free is refused at once.

    Attributes:
        files: name -> sha256 (hex) of every file written so far.
        nbytes: bytes of all tensors written so far.

    Raises:
        InputError: `out` exists, cannot be made, or another process is writing it.
        ResourceError: the disk has less than `needs` free.
    """

    def __init__(self, out: Path, needs: int = 0) -> None:
        self.out = Path(out)
        self.files: dict[str, str] = {}
        self.nbytes = 0
        self._index: dict[str, str] = {}
        self._partial = self.out.parent / f".{self.out.name}.partial"
        self._made: list[Path] = []
        self._lock: int | None = None
        self._over = False
        _refuse_existing(self.out)
        with self._guarded():
            self._make_parents()
            _check_free(self.out.parent, needs)
            self._claim()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *exception: object) -> None:
        self.discard()

    def block(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write `tensors` (name -> any dtype) as the shard model-NAME.safetensors.

        Raises:
            ResourceError: the disk is full; nothing is left behind.
            ValueError: a tensor or a shard of that name was written before.
        """
        file = f"model-{name}.safetensors"
        twice = [file, *tensors] if file in self.files else sorted(set(tensors) & set(self._index))
        if twice:
            raise ValueError(f"written before: {twice[0]}")
        with self._guarded():
            self._add(file, encode(tensors))
        self._index.update(dict.fromkeys(tensors, file))
        self.nbytes += sum(tensor.nbytes for tensor in tensors.values())

    def finish(
        self, config: Mapping[str, Any], sprue: Mapping[str, Any], copy: Iterable[Path] = ()
    ) -> None:
        """Add index, companions, sprue.json and config.json; then the folder appears.

        Args:
            config: content of config.json.
            sprue: content of sprue.json; "files" (name -> sha256 of every other file) is added.
            copy: files to stand beside the weights (tokenizer, generation_config.json, licence).

        Raises:
            ResourceError: the disk is full; nothing is left behind.
            InputError: `out` came into being meanwhile.
        """
        with self._guarded():
            index = {"metadata": {"total_size": self.nbytes}, "weight_map": self._index}
            self._add(_INDEX, [_json(index)])
            for path in copy:
                self._add(path.name, _pieces(path))
            last = _json(config)
            files = {**self.files, "config.json": hashlib.sha256(last).hexdigest()}
            self._add("sprue.json", [_json({**sprue, "files": files})])
            self._add("config.json", [last])
            self._appear()

    def discard(self) -> None:
        """Remove everything that was written; nothing happens once the folder has appeared."""
        if self._over:
            return
        if self._lock is not None:
            shutil.rmtree(self._partial)
        self._end()
        for parent in self._made:
            if any(parent.iterdir()):
                break
            parent.rmdir()

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Errors of the disk become messages, with nothing left behind."""
        try:
            yield
        except BaseException as error:
            self.discard()
            if not isinstance(error, OSError):
                raise
            if error.errno in _FULL:
                raise ResourceError(
                    f"the disk is full: {self.out} cannot be written; free some space, or give "
                    "another --out"
                ) from error
            raise InputError(f"{self.out} cannot be written: {error.strerror}") from error

    def _make_parents(self) -> None:
        missing = [p for p in self.out.parents if not p.exists()]
        for parent in reversed(missing):
            parent.mkdir()
            self._made.insert(0, parent)

    def _claim(self) -> None:
        """Make the partial folder ours, over what a killed run left."""
        partial = self._partial
        if partial.exists() and any(partial.iterdir()) and not (partial / _MARK).is_file():
            raise InputError(f"{partial} is in the way and is not sprue's: remove or rename it")
        partial.mkdir(exist_ok=True)
        self._lock = os.open(partial / _MARK, os.O_RDWR | os.O_CREAT, 0o644)
        if not _locked(self._lock):
            os.close(self._lock)
            self._lock = None
            raise InputError(f"another process is writing {self.out} now: wait for it")
        for left in partial.iterdir():
            if left.name != _MARK:
                left.unlink()

    def _add(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """One file, complete under its name or not there at all."""
        if name in self.files:
            raise ValueError(f"written before: {name}")
        digest = hashlib.sha256()
        temporary = self._partial / f"{name}.tmp"
        with temporary.open("wb") as stream:
            for piece in pieces:
                stream.write(piece)
                digest.update(piece)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.rename(self._partial / name)
        self.files[name] = digest.hexdigest()

    def _appear(self) -> None:
        _refuse_existing(self.out)
        _sync(self._partial)
        self._partial.rename(self.out)
        # gone only now: were it removed before, a run killed in between would leave a folder
        # that the next one does not recognize
        (self.out / _MARK).unlink()
        _sync(self.out.parent)
        self._end()

    def _end(self) -> None:
        self._over = True
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _refuse_existing(out: Path) -> None:
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already; give a new --out, or remove it")


def _check_free(folder: Path, needs: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needs:
        raise ResourceError(f"{folder} has {free} bytes free, {needs} are needed")


def _locked(descriptor: int) -> bool:
    """Take the lock, which ends with the process however that ends; False when another has it."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _pieces(path: Path) -> Iterator[bytes]:
    with path.open("rb") as stream:
        while piece := stream.read(_PIECE):
            yield piece


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _sync(folder: Path) -> None:
    """Make renames in `folder` survive a power cut."""
    if sys.platform == "win32":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

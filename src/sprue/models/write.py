"""An output folder that appears all at once, or not at all.

Everything is written into a hidden sibling `.NAME.partial`; config.json, without which nothing
loads, comes last there; then one rename makes the folder. A run that is killed leaves at most the
sibling, which the next run recognizes: it goes on where that one saved its state, or replaces it.
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

from sprue.errors import InputError, ResourceError, SprueError
from sprue.models import progress
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
        self._progress = progress.Progress(self._partial)
        self._key: str | None = None
        self._begun = self._saved = False
        refuse_existing(self.out)
        with self._guarded():
            self._make_parents()
            _check_free(self.out.parent, needs)
            self._claim()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._leave(kind)

    @property
    def resumable(self) -> bool:
        """Whether the same command would go on from a state that was saved."""
        return self._saved

    @property
    def saved_key(self) -> str | None:
        """Under which key an earlier run saved a state; None: it saved none."""
        return self._progress.key()

    def resume(self, key: str) -> dict[str, Any] | None:
        """The state that a run under the same `key` saved before it stopped; None: none.

        The shards that belong to it count as written. Whatever else such a run left is removed. To
        be called before anything is written.

        Raises:
            ResourceError, InputError: what was left cannot be removed.
        """
        self._key, self._begun = key, True
        with self._guarded():
            content = self._progress.read()
            if content is None or content["key"] != key or not self._taken_up(content):
                _clear(self._partial)
                return None
            _clear(self._partial, {*self.files, progress.FOLDER})
        self._saved = True
        return dict(content["state"])

    def kept(self, name: str) -> dict[str, Tensor]:
        """The tensors that were kept under a name and saved.

        Raises:
            InputError: they were damaged since.
        """
        return self._progress.get(name)

    def keep(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Put tensors beside the result, for the state that is saved next.

        Raises:
            ResourceError: the disk is full; nothing is left behind.
        """
        with self._guarded():
            self._progress.put(name, tensors)

    def drop(self, names: Iterable[str]) -> None:
        """What was kept under these names does not belong to the state that is saved next."""
        self._progress.drop(names)

    def save(self, state: Mapping[str, Any]) -> None:
        """Save `state` (JSON-able), what is kept and which shards are written, all at once.

        From here on a run that is killed or interrupted can be resumed under its key.

        Raises:
            ResourceError: the disk is full; nothing is left behind.
        """
        written = {"files": self.files, "index": self._index, "nbytes": self.nbytes}
        with self._guarded():
            self._progress.commit({"key": self._key, "written": written, "state": dict(state)})
        self._saved = True

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
        self._begin()
        with self._guarded():
            self._add(file, encode(tensors))
        self._index.update(dict.fromkeys(tensors, file))
        self.nbytes += sum(tensor.nbytes for tensor in tensors.values())

    def finish(
        self,
        config: Mapping[str, Any],
        sprue: Mapping[str, Any],
        copy: Iterable[Path] = (),
        texts: Mapping[str, str] | None = None,
    ) -> None:
        """Add index, companions, sprue.json and config.json; then the folder appears.

        Args:
            config: content of config.json.
            sprue: content of sprue.json; "files" (name -> sha256 of every other file) is added.
            copy: files to stand beside the weights (tokenizer, generation_config.json, licence).
            texts: the same, name -> content.

        Raises:
            ResourceError: the disk is full; nothing is left behind.
            InputError: `out` came into being meanwhile.
        """
        self._begin()
        with self._guarded():
            index = {"metadata": {"total_size": self.nbytes}, "weight_map": self._index}
            self._add(_INDEX, [_json(index)])
            for path in copy:
                self._add(path.name, _pieces(path))
            for name, text in (texts or {}).items():
                self._add(name, [text.encode()])
            last = _json(config)
            files = {**self.files, "config.json": hashlib.sha256(last).hexdigest()}
            self._add("sprue.json", [_json({**sprue, "files": files})])
            self._add("config.json", [last])
            self._saved = False  # from here on there is nothing to go on from
            self._progress.remove()
            self._appear()

    def discard(self) -> None:
        """Remove everything that was written; nothing happens once the folder has appeared."""
        if self._over:
            return
        if self._lock is not None:
            self._remove()
        self._end()
        for folder in filter(Path.exists, self._made):
            if any(folder.iterdir()):
                break
            folder.rmdir()

    def leave(self) -> None:
        """End without a folder: what was saved stays, and the next run goes on from there."""
        self._end()

    def _leave(self, kind: type[BaseException] | None) -> None:
        """Interrupted, or failed for no reason that was foreseen: keep what can be resumed.

        What an earlier run saved also stays where this one failed before it could ask for it.
        """
        stopped = kind is not None and not issubclass(kind, (SprueError, OSError))
        if (self._saved and stopped) or (not self._begun and self._progress.exists):
            self._end()
        else:
            self.discard()

    def _begin(self) -> None:
        """Nothing is taken up: what an earlier run left goes before the first file comes."""
        if not self._begun:
            self._begun = True
            with self._guarded():
                _clear(self._partial)

    def _taken_up(self, content: Mapping[str, Any]) -> bool:
        """Whether the shards of a saved state are all there, as they were; then they are ours."""
        written = content["written"]
        for name, digest in written["files"].items():
            file = self._partial / name
            if not file.is_file() or progress.sha256(file) != digest:
                return False
        self.files, self._index = dict(written["files"]), dict(written["index"])
        self.nbytes = int(written["nbytes"])
        return True

    def _remove(self) -> None:
        partial = self._partial
        if not partial.exists() and (self.out / _MARK).is_file():
            self.out.rename(partial)  # what came after the rename has failed: take it back
        if partial.exists():  # else someone else has removed it
            _clear(partial)
            shutil.rmtree(partial)

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Errors of the disk become messages, with nothing left behind."""
        try:
            yield
        except BaseException as error:
            self._leave(type(error))
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
            self._make(parent)

    def _make(self, folder: Path) -> None:
        """A folder that goes again if nothing comes of it."""
        self._made.insert(0, folder)  # before it is there: an interruption may follow at once
        folder.mkdir(exist_ok=True)  # another command may make it at the same time

    def _claim(self) -> None:
        """Make the partial folder ours, over what a killed run left."""
        partial = self._partial
        if partial.exists() and not _is_ours(partial):
            raise InputError(f"{partial} is in the way and is not sprue's: remove or rename it")
        if not partial.exists():
            self._make(partial)
        lock = os.open(partial / _MARK, os.O_RDWR | os.O_CREAT, 0o644)
        if not _locked(lock):
            os.close(lock)
            raise InputError(f"another process is writing {self.out} now: wait for it")
        self._lock = lock  # from here on, what lies in the folder is ours to discard
        if not self._progress.exists:
            _clear(partial)

    def _add(self, name: str, pieces: Iterable[bytes | memoryview]) -> None:
        """One file, complete under its name or not there at all."""
        if name in self.files:
            raise ValueError(f"written before: {name}")
        self.files[name] = progress.write(self._partial / name, pieces)

    def _appear(self) -> None:
        refuse_existing(self.out)
        _sync(self._partial)
        self._partial.rename(self.out)
        _sync(self.out.parent)
        # gone only now: were it removed before, a run killed in between would leave a folder
        # that the next one does not recognize, and one that fails would not find what to discard
        (self.out / _MARK).unlink()
        self._end()

    def _end(self) -> None:
        self._over = True
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def refuse_existing(out: Path) -> None:
    """Refuse a path where something is.

    Raises:
        InputError: there is.
    """
    if out.exists() or out.is_symlink():
        raise InputError(f"{out} exists already; give a new --out, or remove it")


def _is_ours(partial: Path) -> bool:
    """Whether a run left it: one may be killed before it sets the mark."""
    return partial.is_dir() and ((partial / _MARK).is_file() or not any(partial.iterdir()))


def _clear(partial: Path, spared: Iterable[str] = ()) -> None:
    """Remove all but the mark: whoever is killed here leaves what the next run recognizes.

    The saved state goes first: it must not outlive what it speaks of.
    """
    spared = {_MARK, *spared}
    order = sorted(partial.iterdir(), key=lambda path: path.name != progress.FOLDER)
    for left in (path for path in order if path.name not in spared):
        if left.is_dir():
            shutil.rmtree(left)
        else:
            left.unlink()


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

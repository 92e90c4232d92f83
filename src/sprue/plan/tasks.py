"""The tasks of a sweep: for each a text to calibrate on and a text to measure with."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprue import data
from sprue.data import split
from sprue.errors import InputError
from sprue.models import Source
from sprue.plan import calibration
from sprue.plan.calibration import Calibration

FOLDER = "texts"  # of a sweep's folder, where the parts of split files stand
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")


@dataclass(frozen=True)
class Texts:
    """The documents of one task, before a model's tokenizer sees them.

    Attributes:
        name: of the task.
        files: that were given: one that is split, or one to calibrate on and one to measure with.
        parts: the documents of both parts.
        fingerprint: sha256 over the files.
    """

    name: str
    files: tuple[Path, ...]
    parts: tuple[list[data.Document], list[data.Document]]
    fingerprint: str

    @classmethod
    def read(cls, name: str, files: Sequence[Path], seed: int) -> Texts:
        """Both parts, which share no document.

        Raises:
            InputError: a name that is none, files that cannot be used, or that cannot be split.
        """
        if _NAME.fullmatch(name) is None:
            raise InputError(
                f"a task's name has letters, digits, '-', '_' and '.', 40 at most; got {name!r}"
            )
        if len(files) not in (1, 2):
            raise InputError(
                f"{name}: expected FILE, or CALIBRATION,EVALUATION; received {len(files)} files"
            )
        documents = data.read(files)
        if len(files) == 1:
            parts = split.halves(documents, seed)
        else:
            parts = data.read(files[:1]), data.read(files[1:])
            split.refuse_shared(*parts)
        return cls(name, tuple(files), parts, data.fingerprint(files))

    def written(self, folder: Path) -> tuple[Path, Path]:
        """Files of both parts: those that were given, or the halves as `.jsonl` files."""
        if len(self.files) == 2:
            return self.files[0], self.files[1]
        folder.mkdir(exist_ok=True)
        paths = tuple(
            folder / f"{self.name}.{part}.jsonl" for part in ("calibration", "evaluation")
        )
        for path, documents in zip(paths, self.parts, strict=True):
            split.write(path, documents)
        return paths[0], paths[1]


@dataclass(frozen=True)
class Task:
    """A task as a model sees it.

    Attributes:
        name: as it was given.
        calibration: windows to calibrate on, as `compress --calibrate` draws them.
        evaluation: windows to measure with, int64 [windows, context].
        files: of both.
        fingerprint: sha256 over the files that were given.
    """

    name: str
    calibration: Calibration
    evaluation: Tensor
    files: tuple[Path, Path]
    fingerprint: str

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "files": [path.name for path in self.files],
            "fingerprint": self.fingerprint,
            "calibration_windows": len(self.calibration.ids),
            "evaluation_windows": len(self.evaluation),
        }


def read(files: Mapping[str, Sequence[str | Path]], seed: int) -> list[Texts]:
    """The texts of every task.

    Args:
        files: task -> one file, or two.
        seed: of the split.

    Raises:
        InputError: no task, or as for `Texts.read`.
    """
    if not files:
        raise InputError("no task given: expected --data NAME=FILE, once for each task")
    return [Texts.read(name, [Path(p) for p in paths], seed) for name, paths in files.items()]


def tokenized(
    source: Source, texts: Texts, folder: Path, windows: int, context: int | None, seed: int
) -> Task:
    """The windows of a task.

    Args:
        source: the model, whose tokenizer is used.
        texts: its documents.
        folder: where the parts of a split file are put.
        windows: at most so many of each part, at least 2 to measure with.
        context: tokens in a window; None: what the model allows, at most 512.
        seed: of the sample.

    Raises:
        InputError: too little text, or a context that is too long.
    """
    files = texts.written(folder)
    found = calibration.read(source, files[:1], windows, context, seed)
    size = found.ids.shape[1]
    measured = data.read(files[1:])
    ids = data.windows(calibration.tokenizer(source), measured, size, windows, seed)
    distinct = torch.unique(ids, dim=0)
    if len(distinct) < 2:
        raise InputError(
            f"{texts.name}: {files[1]} gives {len(distinct)} window of {size} tokens to measure "
            "with, and an interval needs two: give more text or a smaller context"
        )
    return Task(texts.name, found, ids, files, texts.fingerprint)

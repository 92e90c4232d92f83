"""Calibration windows: from the user's text to token ids that the model takes."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprue import data, demo
from sprue.errors import InputError, SprueWarning
from sprue.models import Source

_LONGEST = 512  # tokens in a window, where the model allows more
_VOCABULARIES = ("tokenizer.json", "vocab*", "*.model", "*.tiktoken")


@dataclass(frozen=True)
class Calibration:
    """What a model is calibrated on.

    Attributes:
        ids: token ids, int64 [windows, context].
        paths: the files that they come from.
        held: documents, or parts of them, that were left out of the windows.
    """

    ids: Tensor
    paths: tuple[Path, ...]
    held: tuple[data.Document, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """What sprue.json says of it."""
        return {
            "fingerprint": data.fingerprint(self.paths),
            "files": [path.name for path in self.paths],
            "windows": self.ids.shape[0],
            "context": self.ids.shape[1],
        }


def read(
    source: Source,
    paths: Sequence[str | Path],
    windows: int,
    context: int | None,
    seed: int,
    held: float = 0.0,
) -> Calibration:
    """Sample windows of the files, of every file its share.

    Args:
        source: the model, whose tokenizer is used.
        paths: the files; none: the embedded text, with a SprueWarning.
        windows: at most so many.
        context: tokens in a window; None: what the model allows, at most 512.
        seed: of the sample, and of what is held.
        held: share of every file that is left out, to measure with.

    Raises:
        InputError: text or a tokenizer that cannot be used, or a context that is too long.
    """
    files = tuple(Path(path) for path in paths) or _embedded()
    limit = getattr(source.config, "max_position_embeddings", None) or _LONGEST
    if context is not None and context > limit:
        raise InputError(
            f"the model takes at most {limit} tokens, a context of {context} was given"
        )
    documents, rest = data.set_apart(data.read(files), held, seed)
    size = context or min(limit, _LONGEST)
    ids = data.windows(tokenizer(source), documents, size, windows, seed)
    return Calibration(ids, files, tuple(rest))


def tokenizer(source: Source) -> Any:
    """The model's own tokenizer.

    Raises:
        InputError: it has none, or one that cannot be read.
    """
    from transformers import AutoTokenizer

    # without any vocabulary, transformers makes empty tokenizers for some architectures
    if not any(file for pattern in _VOCABULARIES for file in source.path.glob(pattern)):
        raise InputError(
            f"{source.path} has no tokenizer: put the files of the model's tokenizer "
            "(tokenizer.json and tokenizer_config.json) beside its weights"
        )
    try:
        return AutoTokenizer.from_pretrained(
            source.path, trust_remote_code=False, local_files_only=True
        )
    except Exception as error:  # each tokenizer class raises its own kinds
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise InputError(
            f"the tokenizer of {source.path} cannot be read ({reason}): fetch or copy its files "
            "again"
        ) from error


def _embedded() -> tuple[Path, ...]:
    warnings.warn(
        "calibrating on a small embedded text: text of your own (--calibrate FILE) keeps more of "
        "what you use the model for",
        SprueWarning,
        stacklevel=2,
    )
    return tuple(demo.calibration_files())


def spaced(rows: Tensor, most: int) -> Tensor:
    """At most so many of `rows` [rows, ...], evenly spaced, so that every text takes part."""
    return rows[torch.linspace(0, len(rows) - 1, min(len(rows), most)).long()]

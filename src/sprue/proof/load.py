"""Both models of a comparison: opened, checked against one another, and counted on disk."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from sprue.errors import InputError
from sprue.models import tensorfile
from sprue.models.tensorfile import Entry
from sprue.runtime import load as runtime

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")


def config(folder: Path) -> Any:
    """The `transformers` config of a model folder.

    Raises:
        InputError: there is none that `transformers` knows.
    """
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise InputError(f"{folder} holds no model: expected a folder with config.json")
    try:
        return AutoConfig.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{folder / 'config.json'} cannot be read: {error}") from error


def model(folder: Path, device: str) -> Any:
    """The model of a folder, in evaluation mode; float32 on a CPU, else as it is stored.

    Raises:
        ArtifactError: a damaged artifact.
        InputError: no model, or one whose files lack some of its weights.
    """
    with quiet():
        if runtime.is_artifact(folder):
            return runtime.load(folder, device=device)
        return _whole(folder, device)


def tokenizer(original: Path, result: Path) -> Any:
    """The tokenizer of the original, which must be that of the result where it has one.

    Raises:
        InputError: none that can be loaded, or two that differ.
    """
    found = _tokenizer(original)
    if any((result / name).is_file() for name in _TOKENIZERS):
        other = _tokenizer(result)
        if found.get_vocab() != other.get_vocab():
            raise InputError(
                f"{original} and {result} have different tokenizers ({len(found)} and "
                f"{len(other)} tokens): a result can only be compared with the model that it was "
                "made from"
            )
    return found


def check_vocabularies(original: Any, result: Any) -> None:
    """Refuse two configs whose models give logits over different vocabularies.

    Raises:
        InputError: they differ.
    """
    sizes = [config.get_text_config().vocab_size for config in (original, result)]
    if sizes[0] != sizes[1]:
        raise InputError(
            f"the original has a vocabulary of {sizes[0]} tokens, the result one of {sizes[1]}: a "
            "result can only be compared with the model that it was made from"
        )


def stored(folder: Path) -> dict[str, Entry]:
    """Every tensor on disk that belongs to the model, by its name.

    Raises:
        InputError: no safetensors, or a damaged file.
    """
    return {
        name: entry
        for file in _shards(folder)
        for name, entry in tensorfile.read_header(file).items()
    }


def nbytes(entries: Mapping[str, Entry]) -> int:
    """Bytes of all tensors."""
    return sum(entry.nbytes for entry in entries.values())


def bits_per_weight(loaded: Any, entries: Mapping[str, Entry]) -> dict[str, float | None]:
    """Bits on disk over the number of weights of the original.

    Args:
        loaded: the original model.
        entries: of the result.

    Returns:
        "linears": over the matrices between embedding and head, None where they are not stored
        under their own names; "file": everything over everything.
    """
    total = sum(parameter.numel() for parameter in loaded.parameters())
    weights = _linear_weights(loaded)
    mine = [entry for name, entry in entries.items() if name in weights]
    count = sum(_numel(entry) for entry in mine)
    linears = 8 * sum(entry.nbytes for entry in mine) / count if count else None
    return {"linears": linears, "file": 8 * nbytes(entries) / total}


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and the loading report of `transformers`."""
    from transformers.utils import logging as hf_logging

    bars, level = hf_logging.is_progress_bar_enabled(), hf_logging.get_verbosity()
    hf_logging.disable_progress_bar()
    hf_logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"{folder} has no tokenizer that can be loaded ({error}): copy its tokenizer there"
        ) from error


def _shards(folder: Path) -> list[Path]:
    if (folder / _SINGLE).is_file():
        return [folder / _SINGLE]
    if not (folder / _INDEX).is_file():
        raise InputError(f"{folder} has no weights: expected {_SINGLE} or {_INDEX}")
    try:
        names = json.loads((folder / _INDEX).read_text(encoding="utf-8"))["weight_map"].values()
        files = [folder / name for name in sorted(set(names))]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / _INDEX} cannot be read: {error}") from error
    absent = [file.name for file in files if not file.is_file()]
    if absent:
        raise InputError(f"{folder} lacks the shard {absent[0]} that {_INDEX} names")
    return files


def _whole(folder: Path, device: str) -> Any:
    """An ordinary model, no weight of which is missing.

    `transformers` fills weights that the files lack with random numbers and logs it; a comparison
    with such a model would mean nothing.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    _shards(folder)
    try:
        loaded, report = AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=torch.float32 if torch.device(device).type == "cpu" else "auto",
            use_safetensors=True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise InputError(f"{folder} cannot be loaded as a language model: {error}") from error
    absent = sorted(report["missing_keys"])
    if absent:
        raise InputError(
            f"{folder} lacks {len(absent)} of its model's weights, first {absent[0]}: fetch or "
            "copy the folder again"
        )
    return loaded.to(device).eval()


def _linear_weights(loaded: Any) -> set[str]:
    """Names of the matrices between embedding and head, with and without the model's prefix."""
    from transformers.pytorch_utils import Conv1D

    head = loaded.get_output_embeddings()
    names = {
        f"{name}.weight"
        for name, module in loaded.named_modules()
        if isinstance(module, nn.Linear | Conv1D) and module is not head
    }
    return names | {name.removeprefix(f"{loaded.base_model_prefix}.") for name in names}


def _numel(entry: Entry) -> int:
    return torch.Size(entry.shape).numel()

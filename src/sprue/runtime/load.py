"""Opens a model folder to run it: an artifact, or an ordinary model beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from sprue.errors import ArtifactError, InputError
from sprue.runtime import artifact


def is_artifact(folder: str | Path) -> bool:
    """Whether `sprue compress` made the folder: it has sprue.json, or config.json names us."""
    folder = Path(folder)
    return (folder / "sprue.json").is_file() or _quant_method(folder) == artifact.METHOD


def load(
    folder: str | Path,
    *,
    device: str | torch.device = "cpu",
    dtype: torch.dtype | None = None,
) -> Any:
    """The causal language model in a folder, in evaluation mode, packed where it is packed.

    Args:
        folder: on this machine; pickled weights are refused.
        device: where it will run.
        dtype: of what is not packed. None: float32 on a CPU (16-bit floats are slower on most),
            the stored dtype elsewhere.

    Returns:
        The transformers model.

    Raises:
        ArtifactError: a file of an artifact is missing, cut short or changed.
        InputError: no model that transformers can load, or no such device.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    folder, where = Path(folder), _device(device)
    if not (folder / "config.json").is_file() and not (folder / "sprue.json").is_file():
        raise InputError(f"{folder} holds no model: expected a folder with config.json")
    if is_artifact(folder):
        _check_before(folder)
    kind = dtype or (torch.float32 if where.type == "cpu" else "auto")
    try:
        model = AutoModelForCausalLM.from_pretrained(
            folder, dtype=kind, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(f"{folder} cannot be loaded as a language model: {error}") from error
    return model.to(where).eval()


def _check_before(folder: Path) -> None:
    """What `from_pretrained` could stumble over before the quantizer compares all hashes."""
    sprue = artifact.check(folder, weights=False)
    if sprue.get("target") == "dense":  # an ordinary model: nothing else compares its weights
        artifact.check(folder)
        return
    method = _quant_method(folder)
    if method != artifact.METHOD:
        raise ArtifactError(
            f"{folder / 'config.json'}: expected quant_method {artifact.METHOD!r}, received "
            f"{method!r}. Copy the whole folder again, or compress the model again."
        )


def _quant_method(folder: Path) -> object:
    path = folder / "config.json"
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None  # whoever loads the folder reports it
    found = config.get("quantization_config") if isinstance(config, dict) else None
    return found.get("quant_method") if isinstance(found, dict) else None


def _device(device: str | torch.device) -> torch.device:
    try:
        where = torch.device(device)
        torch.empty(0, device=where)
    except (RuntimeError, AssertionError) as error:
        first = str(error).partition("\n")[0]
        raise InputError(f"device {str(device)!r} cannot be used here: {first}") from error
    return where

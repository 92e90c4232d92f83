"""From what the user typed to a folder on disk: a path, or a name on the hub."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from sprue.errors import InputError, ResourceError

_HUB_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)?")
_TIMEOUT = 5.0  # seconds until a hub that does not answer counts as out of reach
_WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja", "LICENSE*", "NOTICE*"]


def folder(model: str) -> Path:
    """The local folder of `model`: itself, or the hub's snapshot in the local cache.

    Raises:
        InputError: no such folder, no such name, or the hub cannot be reached.
    """
    if not model.strip():
        raise InputError("no model given; expected a folder or a name on the hub")
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise InputError(f"{model} is a file; expected the model folder that has config.json in it")
    if _looks_like_path(model):
        raise InputError(f"no such folder: {model}")
    return _cached(model) if offline() else _fetched(model)


def offline() -> bool:
    """Whether the environment forbids the network (HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE)."""
    values = (os.environ.get(key, "") for key in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return any(value.upper() in {"1", "ON", "YES", "TRUE"} for value in values)


def _looks_like_path(model: str) -> bool:
    if not _HUB_NAME.fullmatch(model) or ".." in model or "--" in model:
        return True
    parent = Path(model).parent
    return parent != Path() and parent.is_dir()


def _cached(model: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return Path(snapshot_download(model, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise InputError(
            f"{model!r} is no folder here, and as a hub name it is not in the local cache and "
            "cannot be fetched offline. Give a folder, or go online (unset HF_HUB_OFFLINE)."
        ) from error


def _fetched(model: str) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        _check_listing(model)
        return Path(snapshot_download(model, allow_patterns=_WANTED, etag_timeout=_TIMEOUT))
    except errors.GatedRepoError as error:
        raise InputError(
            f"the hub shows {model!r} only to those who accepted its terms: accept them on its "
            "page, then log in with `hf auth login`"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(f"{model!r} is neither a folder here nor a model on the hub") from error
    except errors.HfHubHTTPError as error:
        raise InputError(f"the hub did not give {model!r}: {error}") from error
    except (_transport_error(), errors.LocalEntryNotFoundError) as error:
        return _cached_after(model, error)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            return _cached_after(model, error)
        raise ResourceError(
            f"the disk is full: {model!r} cannot be fetched from the hub"
        ) from error


def _check_listing(model: str) -> None:
    from huggingface_hub import HfApi

    siblings = HfApi().model_info(model, timeout=_TIMEOUT).siblings or []
    names = [file.rfilename for file in siblings]
    if not any(name.endswith(".safetensors") for name in names):
        raise InputError(
            f"{model!r} on the hub has no safetensors weights (found: {', '.join(names[:8])}); "
            "pickled weights are refused, since loading them can run code"
        )


def _transport_error() -> type[Exception]:
    """What an unreachable hub raises: the base class of the HTTP client's errors."""
    from huggingface_hub.errors import HfHubHTTPError

    base: type[Exception] = HfHubHTTPError.__bases__[0]
    return base


def _cached_after(model: str, error: Exception) -> Path:
    try:
        return _cached(model)
    except InputError:
        raise InputError(
            f"{model!r} is no folder here, and the hub cannot be reached to look for it "
            f"({error or type(error).__name__}). Give a folder, or check the network."
        ) from error

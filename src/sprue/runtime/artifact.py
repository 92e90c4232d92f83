"""What makes a folder an artifact: the list of its files in sprue.json, and their hashes.

Nothing here imports torch or transformers.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from sprue.errors import ArtifactError

METHOD = "sprue"
VERSION = 1

# Files beside the listed ones that could change what is loaded. A licence or a report could not.
_LOADED = (
    *(".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".h5"),
    *(".msgpack", ".pkl", ".py"),
)
_AGAIN = "Copy or download the whole folder again, or compress the model again"


def quantization_config(
    modules: Mapping[str, Mapping[str, Any]],
    experts: Mapping[str, Mapping[str, Any]] | None = None,
) -> dict[str, Any]:
    """What config.json holds under "quantization_config".

    Args:
        modules: module name -> `weights.packed.layout` of its matrix. Names are those of the
            modules of the model's own class ("model.layers.0.mlp.up_proj"); its tensors are stored
            as "{module}.{tensor}". A head that is tied to a packed embedding is not listed.
        experts: name of a feed-forward layer -> layout of the `runtime.experts.Experts` that takes
            its place. Linears of experts can be among `modules`.
    """
    listed = {name: dict(layout) for name, layout in modules.items()}
    told = {"quant_method": METHOD, "version": VERSION, "modules": listed}
    if experts:
        told["experts"] = {name: dict(layout) for name, layout in experts.items()}
    return told


def check(folder: str | Path, *, weights: bool = True) -> dict[str, Any]:
    """Compares every file of an artifact with its hash in sprue.json; returns sprue.json.

    First what costs little (names, lengths), then the bytes of every file.

    Args:
        folder: the artifact.
        weights: False leaves the bytes of the safetensors files for later (their lengths are
            compared all the same); `from_pretrained` always reads them.

    Raises:
        ArtifactError: sprue.json is missing or damaged, a file is missing, cut short or changed,
            or there are weights or code that it does not list.
    """
    folder = Path(folder)
    sprue = _read_sprue(folder)
    files = _listed(folder, sprue)
    for name in files:
        if not (folder / name).is_file():
            raise ArtifactError(f"{folder / name} is missing: sprue.json lists it. {_AGAIN}.")
    _refuse_extra(folder, files)
    for name in files:
        if name.endswith(".safetensors"):
            _check_length(folder / name)
    for name, expected in files.items():
        if weights or not name.endswith(".safetensors"):
            _check_hash(folder / name, expected)
    return sprue


def seal(folder: str | Path, like: str | Path | None = None) -> None:
    """Writes sprue.json for a folder that `save_pretrained` made of a loaded artifact.

    Args:
        folder: with config.json and the weights; all files in it are listed with their hashes.
        like: the artifact that it was loaded from: what its sprue.json tells of the original, the
            recipe and the data is carried over (the verdict is not: it was on the other files).

    Raises:
        ArtifactError: the folder holds no packed model, or `like` is damaged.
    """
    folder = Path(folder)
    config = _read_json(folder / "config.json")
    found = config.get("quantization_config")
    if not isinstance(found, dict) or found.get("quant_method") != METHOD:
        raise ArtifactError(
            f"{folder / 'config.json'} describes no packed model: expected a quantization_config "
            f"with quant_method {METHOD!r}. Save a model that was loaded from an artifact there."
        )
    told = {} if like is None else {**check(like), "verdict": None}
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != "sprue.json")
    files = {name: _sha256(folder / name) for name in names}
    _write_sprue(folder, {**told, "files": files})


def record_verdict(folder: str | Path, verdict: Mapping[str, Any]) -> None:
    """Puts what a verification found into sprue.json, all at once; the other files stay as sealed.

    Args:
        folder: the artifact.
        verdict: JSON-able.

    Raises:
        ArtifactError: sprue.json is missing or damaged.
        OSError: the folder cannot be written.
    """
    _write_sprue(Path(folder), {**_read_sprue(Path(folder)), "verdict": verdict})


def _write_sprue(folder: Path, content: Mapping[str, Any]) -> None:
    """sprue.json, all of it or as it was."""
    path = folder / "sprue.json"
    text = json.dumps(content, indent=2, sort_keys=True)
    temporary = path.with_suffix(".json.tmp")
    try:
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _read_sprue(folder: Path) -> dict[str, Any]:
    path = folder / "sprue.json"
    if not path.is_file():
        raise ArtifactError(
            f"{path} is missing: it lists the files of the compressed model and their sha256. "
            f"{_AGAIN}; from the hub, fetch all files first (huggingface_hub.snapshot_download); "
            "after save_pretrained, call sprue.runtime.seal on the new folder."
        )
    return _read_json(path)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ArtifactError(f"{path} is missing. {_AGAIN}.") from error
    except ValueError as error:
        raise ArtifactError(f"{path} is not valid JSON ({error}). {_AGAIN}.") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path}: expected a JSON object. {_AGAIN}.")
    return content


def _listed(folder: Path, sprue: Mapping[str, Any]) -> dict[str, str]:
    """File name -> sha256, in the order in which they are checked."""
    files = sprue.get("files")
    path = folder / "sprue.json"
    if not isinstance(files, dict) or not all(isinstance(v, str) for v in files.values()):
        raise ArtifactError(f'{path}: expected "files" with a sha256 for every file. {_AGAIN}.')
    for name in files:
        if Path(name).name != name:
            raise ArtifactError(f"{path} lists {name!r}: expected files of this folder. {_AGAIN}.")
    if "config.json" not in files or not any(n.endswith(".safetensors") for n in files):
        raise ArtifactError(f"{path} lists no config.json or no safetensors file. {_AGAIN}.")
    return cast(dict[str, str], files)


def _refuse_extra(folder: Path, files: Mapping[str, str]) -> None:
    for path in sorted(folder.iterdir()):
        if path.name not in files and path.name.endswith(_LOADED):
            raise ArtifactError(
                f"{path} is not part of the compressed model: sprue.json does not list it. "
                "Move it out of the folder."
            )


def _check_length(path: Path) -> None:
    """The length that a safetensors header announces, against the length of the file."""
    received = path.stat().st_size
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
        expected = 8 + header
        if received >= expected > 8:
            expected += _data_bytes(path, file.read(header))
    if received < expected:
        raise ArtifactError(
            f"{path} is truncated: expected {expected} bytes, received {received}. {_AGAIN}."
        )


def _data_bytes(path: Path, header: bytes) -> int:
    try:
        entries = json.loads(header)
        ends = [entry["data_offsets"][1] for n, entry in entries.items() if n != "__metadata__"]
        return int(max(ends, default=0))
    except (ValueError, TypeError, KeyError, AttributeError, IndexError) as error:
        raise ArtifactError(f"{path}: its header is damaged ({error}). {_AGAIN}.") from error


def _check_hash(path: Path, expected: str) -> None:
    received = _sha256(path)
    if received != expected:
        raise ArtifactError(
            f"{path} was changed or damaged: expected sha256 {expected}, received {received}. "
            f"{_AGAIN}."
        )


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

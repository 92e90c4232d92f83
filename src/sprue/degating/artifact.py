"""The folder of a network that was cut: the file that an engine runs, and what is told of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from sprue import __version__
from sprue.degating.picks import Trial
from sprue.errors import ArtifactError, InputError
from sprue.models import nets
from sprue.plan import precision
from sprue.plan.workshop import sha256_of

KIND = "network"
_FORMAT = 1
_COMPANIONS = (
    *("tokenizer*", "special_tokens_map.json", "added_tokens.json", "vocab.*", "merges.txt"),
    *("spiece.model", "preprocessor_config.json", "modules.json", "sentence_bert_config.json"),
    *("config_sentence_transformers.json", "LICENSE*", "NOTICE*"),
)
_PACKAGES = ("torch", "onnx", "onnxruntime", "openvino", "nncf", "transformers")


@dataclass(frozen=True)
class Result:
    """A network of ours on disk.

    Attributes:
        folder: that it lies in.
        file: that its engine loads.
        told: the content of sprue.json.
    """

    folder: Path
    file: Path
    told: Mapping[str, Any]


def assemble(
    folder: Path,
    source: Path,
    trial: Trial,
    net: nets.Net,
    told: Mapping[str, Any],
    beside: Mapping[str, Path],
) -> Path:
    """Make the folder of a result; its main file.

    Args:
        folder: to make.
        source: the file of the trial.
        trial: what it is.
        net: the original.
        told: more for sprue.json.
        beside: name -> file to stand beside it.
    """
    folder.mkdir()
    target = folder / f"model{source.suffix}"
    shutil.copyfile(source, target)
    if source.suffix == ".xml":
        shutil.copyfile(source.with_suffix(".bin"), target.with_suffix(".bin"))
    for name, file in beside.items():
        shutil.copyfile(file, folder / name)
    if net.source.is_dir():
        for pattern in _COMPANIONS:
            for file in sorted(net.source.glob(pattern)):
                if file.is_file():
                    shutil.copyfile(file, folder / file.name)
    content = {
        "kind": KIND,
        "format": _FORMAT,
        "sprue": __version__,
        "task": net.task,
        "inputs": list(net.inputs),
        "classes": None if net.classes is None else list(net.classes),
        "preprocess": dict(net.preprocess),
        "decoder": net.decoder,
        "length": net.length,
        "original": {
            "name": str(net.source.name),
            "sha256": sha256_of(net.source),
            "parameters": net.parameters,
        },
        "file": target.name,
        "bytes": precision.bytes_of(target),
        "cut": asdict(trial),
        "saturation": asdict(precision.saturation(target)),
        "versions": versions(),
        "verdict": None,
        **told,
    }
    write_told(folder, content)
    return target


def write_told(folder: Path, content: Mapping[str, Any]) -> None:
    """sprue.json, with the hashes of all files beside it."""
    names = sorted(f.name for f in folder.iterdir() if f.is_file() and f.name != "sprue.json")
    hashes = {name: sha256_of(folder / name) for name in names}
    text = json.dumps({**content, "files": hashes}, indent=2)
    (folder / "sprue.json").write_text(text + "\n", encoding="utf-8")


def is_network(path: Path) -> bool:
    """Whether this is a folder that `assemble` made."""
    file = path / "sprue.json"
    if not file.is_file():
        return False
    try:
        return bool(json.loads(file.read_text(encoding="utf-8")).get("kind") == KIND)
    except (OSError, ValueError, AttributeError):
        return False


def read(folder: Path) -> Result:
    """A result, with its files checked against their hashes.

    Raises:
        ArtifactError: a file that is missing, or is not what was written.
        InputError: no such result.
    """
    if not is_network(folder):
        raise InputError(
            f"{folder} holds no network that sprue made: expected a folder with sprue.json"
        )
    told = json.loads((folder / "sprue.json").read_text(encoding="utf-8"))
    try:
        hashes, name = dict(told["files"]), str(told["file"])
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(
            f"{folder / 'sprue.json'} lacks {error}: make the result anew"
        ) from None
    for file, expected in hashes.items():
        if not (folder / file).is_file():
            raise ArtifactError(f"{folder / file} is missing: make the result anew")
        if sha256_of(folder / file) != expected:
            raise ArtifactError(f"{folder / file} is not what was written: make the result anew")
    return Result(folder, folder / name, told)


def versions() -> dict[str, str]:
    """Of the packages that had a part in it."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found

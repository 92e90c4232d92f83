"""Data in the form that a network takes: whatever its task, files become `Examples`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import Tensor

from sprue.data.examples import Examples
from sprue.data.images import Preprocess, read_images
from sprue.errors import InputError
from sprue.models import nets

# what the training code of a family does to an image, where nobody says otherwise
_HABITS: Mapping[str, Mapping[str, Any]] = {
    "yolox": {"color": "bgr", "top": 255, "anchor": "corner"},
    "detr": {"letterbox": False},
}
LENGTH = 128  # tokens of a text where a model allows more: what most texts of these tasks fit into


def read_examples(
    net: nets.Net,
    path: str | Path,
    *,
    preprocess: Path | None = None,
    count: int | None = None,
    seed: int = 0,
    length: int | None = None,
    tokenizer: Path | None = None,
) -> Examples:
    """The examples of a file or folder, as the network takes them.

    Args:
        net: whose task says what the data is.
        path: images in CLASS/NAME.jpg, in a folder or zip; labelled text in CSV, TSV, JSONL or
            JSON; images with YOLO or COCO labels.
        preprocess: YAML with what is done to an image; None: PATH's own name with the ending .yaml,
            preprocess.yaml in it or beside it, then what the model's files say.
        count: at most so many, drawn with `seed`; None takes all.
        length: tokens that a text is cut and filled up to; None: the model's limit, up to LENGTH.
        tokenizer: folder of the tokenizer, where the model has none.

    Raises:
        InputError: data that cannot be read, or is not of this network.
    """
    if net.task == nets.IMAGES:
        images = read_images(path, _classes(net, Path(path), preprocess))
        images = images if count is None else images.sample(count, seed)
        inputs = (images.arrays(_preprocess(net, Path(path), preprocess)),)
        found = Examples(inputs, images.labels.tolist(), images.fingerprint())
    elif net.task == nets.BOXES:
        found = _boxes(net, Path(path), preprocess, count, seed)
    else:
        found = _texts(net, path, count, seed, length, tokenizer)
    return _fitting(net, found, Path(path))


def how_told(path: Path, stated: Path | None) -> dict[str, Any]:
    """What a YAML file beside the data says; empty where there is none.

    Raises:
        InputError: it cannot be read.
    """
    candidates = [path.with_suffix(".yaml"), path.parent / "preprocess.yaml"]
    candidates = [path / "preprocess.yaml", *candidates] if path.is_dir() else candidates
    file = stated or next((c for c in candidates if c.is_file()), None)
    if file is None:
        return {}
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"no such file: {file}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"{file} is no readable YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(told, dict):
        raise InputError(f"{file}: expected names with values, such as 'size: [32, 32]'")
    return told


def _classes(net: nets.Net, path: Path, stated: Path | None) -> Sequence[str] | None:
    """Of the outputs: what the YAML says, what the folders are called, what the model says."""
    told = how_told(path, stated).get("classes")
    if told is not None:
        return [str(name) for name in told]
    return net.classes


def _preprocess(net: nets.Net, path: Path, stated: Path | None) -> Preprocess:
    told = {k: v for k, v in how_told(path, stated).items() if k != "classes"}
    how = Preprocess.from_dict({**net.preprocess, **told}, str(stated or path))
    if how.size is None and net.preprocess == {} and net.source.suffix == ".onnx":
        height, width = net.example[0].shape[-2:]
        return Preprocess.from_dict({**told, "size": [height, width]}, str(path))
    return how


def _boxes(
    net: nets.Net, path: Path, stated: Path | None, count: int | None, seed: int
) -> Examples:
    from sprue.data.boxes import Letterbox, read_boxes

    told = {k: v for k, v in how_told(path, stated).items() if k != "classes"}
    images = read_boxes(path, _classes(net, path, stated))
    images = images if count is None else images.sample(count, seed)
    size = list(net.example[0].shape[-2:])
    how = {"size": size, **_HABITS.get(net.decoder or "", {}), **net.preprocess, **told}
    return images.arrays(Letterbox.from_dict(how, str(stated or path)))


def _texts(
    net: nets.Net,
    path: str | Path,
    count: int | None,
    seed: int,
    length: int | None,
    folder: Path | None,
) -> Examples:
    from sprue.data.labelled import read_rows

    rows = read_rows(path, net.task, net.classes)
    rows = rows if count is None else rows.sample(count, seed)
    most = length or min(net.length or LENGTH, LENGTH)
    return _tokenized(net, rows, _tokenizer(net, folder), most)


def _tokenized(net: nets.Net, rows: Any, tokenizer: Any, most: int) -> Examples:
    """All rows as long as the longest, up to `most` tokens."""
    if net.task == nets.SENTENCES and rows.second is not None:
        pairs = zip(rows.first, rows.second, strict=True)
        texts: tuple[Any, ...] = ([text for pair in pairs for text in pair],)
    else:
        texts = (list(rows.first), *([list(rows.second)] if rows.second is not None else []))
    answers = net.task == nets.ANSWERS
    try:
        found = tokenizer(
            *texts,
            padding="max_length" if _one_length(net) else "longest",
            truncation="only_second" if answers else True,
            max_length=most,
            is_split_into_words=net.task == nets.TOKENS,
            return_offsets_mapping=answers,
            return_token_type_ids="token_type_ids" in net.inputs,
        )
    except Exception as error:  # a question that is longer than all that a model reads
        raise InputError(f"{rows.source} cannot be cut to {most} tokens: {error}") from error
    inputs = tuple(as_tensor(found[name]) for name in net.inputs)
    each = len(inputs[0]) // len(rows)
    return Examples(inputs, _truth(net, rows, found), rows.fingerprint, each)


def _one_length(net: nets.Net) -> bool:
    """Whether the network takes texts of one length only."""
    return not any(1 in dims for dims in net.varying)


def _truth(net: nets.Net, rows: Any, found: Any) -> Sequence[Any] | None:
    from sprue.data.labelled import Answer, align_tags

    if rows.truth is None:
        return None
    if net.task == nets.TOKENS:
        return [align_tags(found.word_ids(i), tags) for i, tags in enumerate(rows.truth)]
    if net.task == nets.ANSWERS:
        return [
            Answer(context, gold.texts, _offsets(found, i))
            for i, (context, gold) in enumerate(zip(rows.second, rows.truth, strict=True))
        ]
    return list(rows.truth)


def _offsets(found: Any, i: int) -> Any:
    """Characters of the context for its tokens, -1 for others, int64 [tokens, 2]."""
    pairs = zip(found["offset_mapping"][i], found.sequence_ids(i), strict=True)
    return np.array([span if part == 1 else (-1, -1) for span, part in pairs], np.int64)


def _tokenizer(net: nets.Net, folder: Path | None) -> Any:
    from sprue.models.wired import tokenizer

    where = folder or (net.source if net.source.is_dir() else net.source.parent)
    try:
        return tokenizer(where)
    except InputError as error:
        raise InputError(f"{error}; name a folder that has one with --tokenizer") from error


def _fitting(net: nets.Net, examples: Examples, path: Path) -> Examples:
    """Refuse what the network does not take.

    Raises:
        InputError: another number of channels, or another size where the network has only one.
    """
    if not len(examples):
        raise InputError(f"{path} holds no examples")
    for name, x, one, dims in zip(
        net.inputs, examples.inputs, net.example, _free(net), strict=True
    ):
        fixed = [i for i in range(1, one.dim()) if i not in dims]
        if x.dim() != one.dim() or any(x.shape[i] != one.shape[i] for i in fixed):
            raise InputError(
                f"{path} gives {name} of shape {list(x.shape[1:])} for an example; the network "
                f"expects {list(one.shape[1:])}: state its size in a YAML file beside the data"
            )
    return examples


def _free(net: nets.Net) -> list[tuple[int, ...]]:
    """Dimensions that data may have as it likes: of images height and width, where no file says."""
    if net.source.suffix == ".onnx":
        return [dims or () for dims in net.varying]
    return [(0, 2, 3) if x.dim() == 4 else (0, 1) for x in net.example]


def sha256(*parts: bytes) -> str:
    """Of all parts, one after the other, in hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()


def as_tensor(rows: Sequence[Sequence[int]]) -> Tensor:
    """int64 [rows, numbers]."""
    return torch.from_numpy(np.asarray(rows, np.int64))

"""Labelled images in a folder or a zip file, CLASS/NAME.jpg, and the arrays that a network gets."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from sprue.errors import InputError
from sprue.extras import needed

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_COLORS = ("rgb", "bgr")
_RESAMPLES = ("bilinear", "bicubic")
_NOT_TOLD = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


@dataclass(frozen=True)
class Preprocess:
    """What is done to an image before a network sees it.

    Attributes:
        size: (height, width) that it is scaled to; None: it stays as it is.
        shortest: pixels that its shorter side is scaled to first; `size` is then cut from the
            middle. None: it is scaled to `size` as a whole.
        mean: of each channel, subtracted once values lie between 0 and `top`.
        std: of each channel, divided by.
        color: the order of the channels, "rgb" or "bgr".
        top: the value of a full channel: 1, or 255 for networks that take bytes as they are.
        resample: how it is scaled, "bilinear" or "bicubic".
    """

    size: tuple[int, int] | None = None
    shortest: int | None = None
    mean: tuple[float, float, float] = _NOT_TOLD[0]
    std: tuple[float, float, float] = _NOT_TOLD[1]
    color: str = "rgb"
    top: float = 1.0
    resample: str = "bilinear"

    @classmethod
    def read(cls, path: str | Path) -> Preprocess:
        """From a YAML file with any of these attributes.

        Raises:
            InputError: no such file, not YAML, unknown names or impossible values.
        """
        file = Path(path)
        try:
            told = yaml.safe_load(file.read_text(encoding="utf-8"))
        except FileNotFoundError as error:
            raise InputError(f"no such file: {file}") from error
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise InputError(f"{file} is no readable YAML: {str(error).splitlines()[0]}") from error
        if not isinstance(told, dict):
            raise InputError(f"{file}: expected names with values, such as 'size: [32, 32]'")
        return cls.from_dict(told, str(file))

    @classmethod
    def from_dict(cls, told: Mapping[str, Any], source: str) -> Preprocess:
        """The same from a mapping; `source` names it in messages.

        Raises:
            InputError: unknown names or impossible values.
        """
        unknown = sorted(set(told) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"{source}: unknown {unknown[0]!r}; known are {known}")
        found: dict[str, Any] = dict(told)
        if found.get("size") is not None:
            found["size"] = tuple(_numbers(found, "size", 2, source, whole=True))
        for name in ("mean", "std"):
            if name in found:
                found[name] = tuple(_numbers(found, name, 3, source))
        if min(found.get("std", (1.0,))) <= 0:
            raise InputError(f"{source}: std must be above 0, got {found['std']}")
        if found.get("color", "rgb") not in _COLORS:
            raise InputError(f"{source}: color must be rgb or bgr, got {found['color']!r}")
        top = found.get("top", 1.0)
        if isinstance(top, bool) or not isinstance(top, int | float) or top <= 0:
            raise InputError(f"{source}: top must be a number above 0, got {top!r}")
        if found.get("resample", "bilinear") not in _RESAMPLES:
            raise InputError(
                f"{source}: resample must be {' or '.join(_RESAMPLES)}, got {found['resample']!r}"
            )
        shortest = found.get("shortest")
        if shortest is not None and (not isinstance(shortest, int) or shortest < 1):
            raise InputError(f"{source}: shortest must be a number of pixels, got {shortest!r}")
        if shortest is not None and found.get("size") is None:
            raise InputError(f"{source}: shortest needs a size that is cut from the middle")
        return cls(**found)

    def array(self, image: Any) -> NDArray[np.float32]:
        """A Pillow image as the network gets it, float32 [3, height, width]."""
        image = self._sized(image.convert("RGB"))
        pixels = np.asarray(image, np.float32) * np.float32(self.top / 255)
        x = pixels[:, :, ::-1] if self.color == "bgr" else pixels
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        return np.ascontiguousarray(((x - mean) / std).transpose(2, 0, 1), np.float32)

    def _sized(self, image: Any) -> Any:
        from PIL import Image

        way = Image.Resampling.BICUBIC if self.resample == "bicubic" else Image.Resampling.BILINEAR
        if self.size is None:
            return image
        height, width = self.size
        if self.shortest is not None:
            scale = self.shortest / min(image.size)
            whole = [max(self.shortest, round(side * scale)) for side in image.size]
            image = image.resize(whole, way)
            left, top = (whole[0] - width) // 2, (whole[1] - height) // 2
            return image.crop((left, top, left + width, top + height))
        return image if image.size == (width, height) else image.resize((width, height), way)


@dataclass(frozen=True)
class Images:
    """Labelled images that are read when they are asked for.

    Attributes:
        path: the folder or zip file.
        files: one name for each image, within it.
        labels: int64 [images], numbers of classes.
        classes: their names, in the order of their numbers.
    """

    path: Path
    files: tuple[str, ...]
    labels: Tensor
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, count: int, seed: int) -> Images:
        """So many of them, drawn evenly over the classes; all where there are no more."""
        rng = np.random.default_rng(seed)
        order = rng.permutation(len(self))
        rank = np.zeros(len(self), np.int64)  # the how-manieth of its class in this order
        seen: dict[int, int] = {}
        for i in order:
            label = int(self.labels[i])
            rank[i] = seen[label] = seen.get(label, -1) + 1
        chosen = sorted(sorted(order.tolist(), key=lambda i: rank[i])[:count])
        return self._some(chosen)

    def _some(self, chosen: Sequence[int]) -> Images:
        files = tuple(self.files[i] for i in chosen)
        return Images(self.path, files, self.labels[list(chosen)], self.classes)

    def arrays(self, how: Preprocess) -> Tensor:
        """All images, float32 [images, 3, height, width].

        Raises:
            InputError: an image that cannot be read, or images of several sizes and none stated.
        """
        with _opened(self.path) as read:
            found = [self._array(read(name), name, how) for name in self.files]
        sizes = {x.shape for x in found}
        if len(sizes) > 1:
            raise InputError(
                f"{self.path} holds images of several sizes: state one as 'size: [height, width]'"
            )
        return torch.from_numpy(np.stack(found))

    def _array(self, data: bytes, name: str, how: Preprocess) -> NDArray[np.float32]:
        image = pillow()
        try:
            return how.array(image.open(io.BytesIO(data)))
        except (OSError, SyntaxError, ValueError, image.DecompressionBombError) as error:
            raise InputError(f"{name} in {self.path} is no readable image: {error}") from error

    def fingerprint(self) -> str:
        """sha256, in hexadecimal, over names and bytes."""
        digest = hashlib.sha256()
        with _opened(self.path) as read:
            for name in self.files:
                digest.update(name.encode() + b"\0" + hashlib.sha256(read(name)).digest())
        return digest.hexdigest()


def read_images(path: str | Path, classes: Sequence[str] | None = None) -> Images:
    """The labelled images of a folder or zip file with one sub-folder for each class.

    Args:
        path: holds CLASS/NAME.jpg (png, bmp, webp too), at any depth; the last folder counts.
        classes: names in the order of the network's outputs; None: in alphabetical order.

    Raises:
        InputError: nothing there, no zip file, no images, or a class that is not among `classes`.
    """
    pillow()
    root = Path(path)
    files = sorted(_names(root))
    if not files:
        raise InputError(f"{root} holds no images: expected CLASS/NAME.jpg in a folder or zip file")
    found = [Path(name).parent.name for name in files]
    if "" in found:
        stray = files[found.index("")]
        raise InputError(f"{stray} in {root} has no class: expected CLASS/NAME.jpg")
    names = tuple(classes) if classes is not None else tuple(sorted(set(found)))
    unknown = sorted(set(found) - set(names))
    if unknown:
        raise InputError(
            f"{root} has a class {unknown[0]!r} that the model does not know; it knows "
            f"{', '.join(names[:8])}{' ...' if len(names) > 8 else ''}"
        )
    labels = torch.tensor([names.index(name) for name in found])
    return Images(root, tuple(files), labels, names)


def _names(root: Path) -> Iterable[str]:
    if root.is_dir():
        inside: Iterable[str] = (p.relative_to(root).as_posix() for p in root.rglob("*"))
    else:
        with _zip(root) as archive:
            inside = archive.namelist()
    return [name for name in inside if Path(name).suffix.lower() in _ENDINGS and _shown(name)]


def _shown(name: str) -> bool:
    """Neither hidden nor what an operating system adds to archives."""
    return not any(part.startswith((".", "__MACOSX")) for part in Path(name).parts)


@contextmanager
def _opened(root: Path) -> Iterator[Any]:
    """A function that reads a file by name."""
    if root.is_dir():
        yield lambda name: (root / name).read_bytes()
    else:
        with _zip(root) as archive:
            yield archive.read


def _zip(root: Path) -> zipfile.ZipFile:
    if not root.exists():
        raise InputError(f"no such folder or zip file: {root}")
    try:
        return zipfile.ZipFile(root)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"{root} is neither a folder nor a zip file of images") from error


def _numbers(
    told: Mapping[str, Any], name: str, count: int, source: str, whole: bool = False
) -> list[Any]:
    kind = int if whole else (int, float)
    values = told[name]
    good = isinstance(values, list | tuple) and len(values) == count
    if not good or any(isinstance(v, bool) or not isinstance(v, kind) for v in values):
        what = "whole numbers" if whole else "numbers"
        raise InputError(f"{source}: {name} must be {count} {what}, got {values!r}")
    if whole and min(values) < 1:
        raise InputError(f"{source}: {name} must be above 0, got {values!r}")
    return list(values)


def pillow() -> Any:
    """What reads images.

    Raises:
        InputError: it is not installed.
    """
    return needed("PIL.Image", "vision", "reading images")

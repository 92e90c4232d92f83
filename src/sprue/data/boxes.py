"""Images with boxes, as YOLO and COCO write them, and the arrays that a detector gets."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from sprue.data.examples import Examples
from sprue.data.images import Preprocess, pillow
from sprue.errors import InputError

_ENDINGS = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}
_ANCHORS = ("center", "corner")
_OWN = ("letterbox", "anchor", "pad")
_UNNAMED = re.compile(r"(label|class)?[ _-]?\d+", re.IGNORECASE)
_SLACK = 1e-3  # by how much a relative box may stick out: files round to a few digits
_NAMED = 8  # classes that a message lists


@dataclass(frozen=True)
class Truth:
    """What is to be seen in an image, and where it lies in the array that a network gets.

    Attributes:
        boxes: float32 [n, 4], left, top, right, bottom in pixels of the original image.
        classes: int64 [n].
        crowd: bool [n], regions of many objects, in which detections count neither way.
        size: (height, width) of the original image, pixels.
        scale: pixels of the array for one of the original, (across, down).
        shift: pixels of the array left of the image and above it.
    """

    boxes: NDArray[np.float32]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_]
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    shift: tuple[int, int] = (0, 0)

    def original(self, boxes: NDArray[np.float32]) -> NDArray[np.float32]:
        """Boxes [n, 4] in pixels of the array, as pixels of the original image, cut at its edge."""
        height, width = self.size
        found = (boxes - np.array(self.shift * 2)) / np.array(self.scale * 2)
        found = np.clip(found, 0, np.array([width, height] * 2))
        return np.asarray(found, np.float32)


@dataclass(frozen=True)
class Letterbox:
    """What is done to an image before a detector sees it.

    Attributes:
        size: (height, width) of the array.
        letterbox: the image keeps its proportions, the rest is filled up; False: it is stretched,
            as DETR and YOLOS take it at one size.
        anchor: where the image lies then, in the "center" (YOLOv5, YOLOv8) or the upper left
            "corner" (YOLOX).
        pad: what the rest is filled with, 0 to 255.
        mean, std, color, top, resample: as of `Preprocess`; top is 255 and color "bgr" for YOLOX.
    """

    size: tuple[int, int]
    letterbox: bool = True
    anchor: str = "center"
    pad: int = 114
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    color: str = "rgb"
    top: float = 1.0
    resample: str = "bilinear"

    @classmethod
    def from_dict(cls, told: Mapping[str, Any], source: str) -> Letterbox:
        """From any of these attributes and a size; `source` names it in messages.

        `shortest`, which files of classifiers have as well, is left aside: boxes are of the whole
        image.

        Raises:
            InputError: no size, unknown names or impossible values.
        """
        unknown = sorted(set(told) - set(cls.__dataclass_fields__) - {"shortest"})
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise InputError(f"{source}: unknown {unknown[0]!r}; known are {known}")
        if told.get("size") is None:
            raise InputError(f"{source}: a detector needs a size, as 'size: [640, 640]'")
        own = {name: told[name] for name in _OWN if name in told}
        _check_own(own, source)
        rest = {name: told[name] for name in told if name not in (*_OWN, "shortest")}
        how = Preprocess.from_dict(rest, source)
        return cls(**own, **{name: getattr(how, name) for name in rest})

    def array(self, image: Any) -> tuple[NDArray[np.float32], tuple[float, float], tuple[int, int]]:
        """A Pillow image as the network gets it.

        Returns:
            float32 [3, height, width], and the scale and shift of `Truth`.
        """
        reader = pillow()
        height, width = self.size
        inner = self._inner(image.size)
        spare = (width - inner[0], height - inner[1])
        shift = (0, 0) if self.anchor == "corner" else (spare[0] // 2, spare[1] // 2)
        whole = reader.new("RGB", (width, height), (self.pad,) * 3)
        whole.paste(self._scaled(image.convert("RGB"), inner), shift)
        how = Preprocess(mean=self.mean, std=self.std, color=self.color, top=self.top)
        scale = (inner[0] / image.size[0], inner[1] / image.size[1])
        return how.array(whole), scale, shift

    def _scaled(self, image: Any, size: tuple[int, int]) -> Any:
        """At `size`, (width, height).

        Stretched images are smoothed as they shrink, as Pillow does it and DETR is trained;
        letterboxed ones are not, as OpenCV does it and the YOLOs are trained: smoothing costs YOLOX
        nano 1.4 points of mAP50 on 64 images of COCO.
        """
        reader = pillow()
        bicubic = self.resample == "bicubic"
        way = reader.Resampling.BICUBIC if bicubic else reader.Resampling.BILINEAR
        if not self.letterbox:
            return image.resize(size, way)
        step = (image.size[0] / size[0], 0, 0, 0, image.size[1] / size[1], 0)
        return image.transform(size, reader.Transform.AFFINE, step, way)

    def _inner(self, size: tuple[int, int]) -> tuple[int, int]:
        """(width, height) that an image of `size` is scaled to."""
        height, width = self.size
        if not self.letterbox:
            return width, height
        ratio = min(width / size[0], height / size[1])
        cut = 1e-6 if self.anchor == "corner" else 0.5  # YOLOX drops the fraction, others round
        return max(1, int(size[0] * ratio + cut)), max(1, int(size[1] * ratio + cut))


@dataclass(frozen=True)
class BoxImages:
    """Images with boxes; images are read when they are asked for.

    Attributes:
        path: the folder or file that was given.
        files: of the images.
        boxes: for each image float64 [n, 4], left, top, right, bottom: as shares of its sides where
            `relative`, else in pixels.
        labels: for each image int64 [n], numbers of classes.
        crowd: for each image bool [n].
        classes: names in the order of the numbers.
        relative: the unit of `boxes`.
    """

    path: Path
    files: tuple[Path, ...]
    boxes: tuple[NDArray[np.float64], ...]
    labels: tuple[NDArray[np.int64], ...]
    crowd: tuple[NDArray[np.bool_], ...]
    classes: tuple[str, ...]
    relative: bool

    def __len__(self) -> int:
        return len(self.files)

    def sample(self, count: int, seed: int) -> BoxImages:
        """So many of them, drawn without replacement; all where there are no more."""
        order = np.random.default_rng(seed).permutation(len(self))[:count]
        chosen = sorted(order.tolist())
        files, boxes, labels, crowd = (
            tuple(column[i] for i in chosen)
            for column in (self.files, self.boxes, self.labels, self.crowd)
        )
        return BoxImages(self.path, files, boxes, labels, crowd, self.classes, self.relative)

    def arrays(self, how: Letterbox) -> Examples:
        """All images, float32 [images, 3, height, width], with a `Truth` for each.

        Raises:
            InputError: an image that cannot be read.
        """
        found = [self._array(i, how) for i in range(len(self))]
        inputs = torch.from_numpy(np.stack([x for x, _ in found]))
        return Examples((inputs,), [truth for _, truth in found], self.fingerprint())

    def _array(self, i: int, how: Letterbox) -> tuple[NDArray[np.float32], Truth]:
        reader = pillow()
        try:
            with reader.open(self.files[i]) as image:
                x, scale, shift = how.array(image)
                width, height = image.size
        except (OSError, SyntaxError, ValueError, reader.DecompressionBombError) as error:
            raise InputError(f"{self.files[i]} is no readable image: {error}") from error
        sides = [width, height, width, height] if self.relative else [1]
        boxes = (self.boxes[i] * sides).astype(np.float32)
        return x, Truth(boxes, self.labels[i], self.crowd[i], (height, width), scale, shift)

    def fingerprint(self) -> str:
        """sha256, in hexadecimal, over names and bytes of the images, and over the boxes."""
        digest = hashlib.sha256()
        for file, *columns in zip(self.files, self.boxes, self.labels, self.crowd, strict=True):
            digest.update(file.name.encode() + b"\0" + hashlib.sha256(file.read_bytes()).digest())
            for column in columns:
                digest.update(np.ascontiguousarray(column).tobytes())
        return digest.hexdigest()


def read_boxes(path: str | Path, classes: Sequence[str] | None = None) -> BoxImages:
    """Images with boxes.

    Args:
        path: a folder with images/NAME.jpg and labels/NAME.txt, or its images/ folder (YOLO: lines
            of class, center x, center y, width, height, as shares of the image; an image without a
            label file, or with an empty one, shows nothing), a COCO JSON file with the images
            beside it or in images/, or a folder with such a file, instances*.json.
        classes: names in the order of the network's outputs. COCO's categories are found among them
            by name. YOLO's numbers are theirs, not counting those named N/A, which COCO's own
            numbering has and YOLO's has not. None: COCO's categories in the order of their ids.

    Raises:
        InputError: nothing there, no boxes, labels without an image, lines that are no boxes, boxes
            outside of the image, or classes that the network does not know.
    """
    pillow()
    root = Path(path)
    if root.is_dir():
        listed = sorted(root.glob("instances*.json"))
        if len(listed) > 1:
            raise InputError(f"{root} holds several instances*.json: name one of them")
        return _coco(root, listed[0], classes) if listed else _yolo(root, classes)
    if root.suffix.lower() == ".json" and root.is_file():
        return _coco(root, root, classes)
    raise InputError(f"no such folder: {root}; expected images/ and labels/, or a COCO .json file")


def _check_own(own: Mapping[str, Any], source: str) -> None:
    if own.get("anchor", "center") not in _ANCHORS:
        raise InputError(f"{source}: anchor must be center or corner, got {own['anchor']!r}")
    if not isinstance(own.get("letterbox", True), bool):
        raise InputError(f"{source}: letterbox must be true or false, got {own['letterbox']!r}")
    pad = own.get("pad", 0)
    if isinstance(pad, bool) or not isinstance(pad, int) or not 0 <= pad <= 255:
        raise InputError(f"{source}: pad must be a whole number from 0 to 255, got {pad!r}")


def _yolo(root: Path, classes: Sequence[str] | None) -> BoxImages:
    images, labels = _folders(root)
    found = sorted(p for p in images.rglob("*") if p.suffix.lower() in _ENDINGS)
    files = tuple(p for p in found if not p.name.startswith("."))
    texts = {p.relative_to(labels).with_suffix("") for p in labels.rglob("*.txt")}
    names = [p.relative_to(images).with_suffix("") for p in files]
    stray = sorted(texts - set(names) - {Path("classes")})
    if not files or stray:
        what = f"no image for {labels / stray[0]}.txt" if stray else "no images"
        raise InputError(f"{root}: {what}; expected images/NAME.jpg and labels/NAME.txt")
    tables = [_lines(labels / f"{name}.txt") for name in names]
    if not sum(map(len, tables)):
        raise InputError(f"{root} holds no boxes: every label file in {labels} is empty or missing")
    numbers, known = _yolo_classes(tables, names, labels, classes)
    boxes = tuple(_corners(t[:, 1:]) for t in tables)
    crowd = tuple(np.zeros(len(t), np.bool_) for t in tables)
    return BoxImages(root, files, boxes, numbers, crowd, known, relative=True)


def _folders(root: Path) -> tuple[Path, Path]:
    """Of the images, and of the labels: the last "images" on the way there becomes "labels"."""
    if (root / "images").is_dir():
        root = root / "images"
    parts = list(root.absolute().parts)
    if "images" not in parts:
        raise InputError(f"{root} has no images/ in it; expected images/ and labels/")
    last = len(parts) - 1 - parts[::-1].index("images")
    labels = Path(*parts[:last], "labels", *parts[last + 1 :])
    if not labels.is_dir():
        raise InputError(f"{root} has no labels: expected {labels} with NAME.txt for NAME.jpg")
    return root, labels


def _lines(file: Path) -> NDArray[np.float64]:
    """[boxes, 5], class, center, width and height; none where there is no file."""
    if not file.is_file():
        return np.zeros((0, 5))
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file} is no readable text: {error}") from error
    rows = [_row(file, number, line) for number, line in enumerate(lines, 1) if line.strip()]
    return np.array(rows, np.float64).reshape(-1, 5)


def _row(file: Path, number: int, line: str) -> list[float]:
    try:
        row = [float(cell) for cell in line.split()]
    except ValueError:
        row = []
    if len(row) != 5 or not np.isfinite(row).all() or row[0] < 0 or row[0] != int(row[0]):
        raise InputError(
            f"{file}, line {number}: expected a class and center x, center y, width, height of a "
            f"box, got {line[:60]!r}"
        )
    _, x, y, w, h = row
    least, most = min(x - w / 2, y - h / 2), max(x + w / 2, y + h / 2)
    if min(w, h) <= 0 or least < -_SLACK or most > 1 + _SLACK:
        raise InputError(
            f"{file}, line {number}: a box outside of the image, {line[:60]!r}; expected shares of "
            "its width and height, from 0 to 1"
        )
    return row


def _yolo_classes(
    tables: Sequence[NDArray[np.float64]],
    names: Sequence[Path],
    labels: Path,
    classes: Sequence[str] | None,
) -> tuple[tuple[NDArray[np.int64], ...], tuple[str, ...]]:
    most = int(max(t[:, 0].max() for t in tables if len(t)))
    known = tuple(map(str, range(most + 1))) if classes is None else tuple(classes)
    order = np.array([i for i, name in enumerate(known) if name.upper() != "N/A"], np.int64)
    if most >= len(order):
        at = next(i for i, t in enumerate(tables) if len(t) and t[:, 0].max() == most)
        raise InputError(
            f"{labels / names[at]}.txt has the class {most}, and the model knows {len(order)}, "
            f"numbered from 0: {_listed(known)}"
        )
    return tuple(order[t[:, 0].astype(np.int64)] for t in tables), known


def _corners(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    """[n, 4] of center, width, height as left, top, right, bottom."""
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return np.clip(np.concatenate((center - half, center + half), 1), 0, 1)


def _coco(root: Path, file: Path, classes: Sequence[str] | None) -> BoxImages:
    told = _loaded(file)
    try:
        ids, known = _categories(told["categories"], file, classes)
        images = {image["id"]: image for image in told["images"]}
        rows: dict[Any, list[tuple[Any, ...]]] = {key: [] for key in images}
        for row in told["annotations"]:
            rows[row["image_id"]].append(_annotation(row, ids, images[row["image_id"]], file))
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{file}: expected COCO's images, annotations and categories; wrong or missing: {error}"
        ) from error
    if not any(rows.values()):
        raise InputError(f"{file} holds no boxes")
    files = tuple(_beside(file, str(image["file_name"])) for image in images.values())
    boxes, labels, crowd = zip(*(_columns(some) for some in rows.values()), strict=True)
    return BoxImages(root, files, boxes, labels, crowd, known, relative=False)


def _loaded(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{file}, line {error.lineno}: no JSON: {error.msg}") from error
    except (OSError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{file} cannot be read as JSON: {error}") from error


def _categories(
    told: Sequence[Mapping[str, Any]], file: Path, classes: Sequence[str] | None
) -> tuple[dict[Any, int], tuple[str, ...]]:
    """The number of each category id, and the names of the numbers."""
    named = {one["id"]: str(one["name"]) for one in sorted(told, key=lambda one: one["id"])}
    if classes is None or all(_UNNAMED.fullmatch(name) for name in classes):
        if classes is not None and len(named) > len(classes):
            raise InputError(f"{file} has {len(named)} categories; the model knows {len(classes)}")
        return {key: i for i, key in enumerate(named)}, tuple(named.values())
    unknown = [name for name in named.values() if name not in classes]
    if unknown:
        raise InputError(
            f"{file} has a category {unknown[0]!r} that the model does not know; it knows "
            f"{_listed(classes)}"
        )
    return {key: list(classes).index(name) for key, name in named.items()}, tuple(classes)


def _annotation(
    row: Mapping[str, Any], ids: Mapping[Any, int], image: Mapping[str, Any], file: Path
) -> tuple[list[float], int, bool]:
    x, y, w, h = (float(value) for value in row["bbox"])
    outside = x < -1 or y < -1 or x + w > image["width"] + 1 or y + h > image["height"] + 1
    if not np.isfinite([x, y, w, h]).all() or min(w, h) < 0 or outside:
        raise InputError(
            f"{file}: annotation {row.get('id')!r} has a box outside of its image, {row['bbox']}; "
            "expected left, top, width, height in pixels"
        )
    return [x, y, x + w, y + h], ids[row["category_id"]], bool(row.get("iscrowd", 0))


def _columns(
    rows: Sequence[tuple[Any, ...]],
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.bool_]]:
    return (
        np.array([row[0] for row in rows], np.float64).reshape(-1, 4),
        np.array([row[1] for row in rows], np.int64),
        np.array([row[2] for row in rows], np.bool_),
    )


def _beside(file: Path, name: str) -> Path:
    """Where an image of a COCO file lies: no further than its own folder and images/."""
    places: Iterator[Path] = (file.parent / folder / name for folder in ("", "images"))
    found = next((p for p in places if p.is_file()), None)
    if found is None or ".." in Path(name).parts or Path(name).is_absolute():
        raise InputError(f"{file} names an image {name!r} that is neither beside it nor in images/")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + (" ..." if len(names) > _NAMED else "")

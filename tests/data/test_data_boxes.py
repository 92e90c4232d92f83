"""Images with boxes: read as YOLO and COCO write them, laid into arrays, refused where damaged."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from sprue.data.boxes import Letterbox, Truth, read_boxes
from sprue.errors import InputError


def _image(path: Path, size: tuple[int, int], seed: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def _labels(root: Path, name: str, text: str) -> None:
    (root / "labels").mkdir(parents=True, exist_ok=True)
    (root / "labels" / f"{name}.txt").write_text(text)


@pytest.fixture
def yolo(tmp_path: Path) -> Path:
    """Two boxes in a (40 wide, 20 high), one in b (10, 30), none in c, no label file for d."""
    root = tmp_path / "set"
    for i, (name, size) in enumerate(
        {"a": (40, 20), "b": (10, 30), "c": (8, 8), "d": (9, 9)}.items()
    ):
        _image(root / "images" / f"{name}.png", size, i)
    _labels(root, "a", "2 0.5 0.5 0.5 0.5\n0 0.1 0.25 0.2 0.5\n")
    _labels(root, "b", "1 0.5 0.5 1 1\n")
    _labels(root, "c", "")
    return root


BOX = [5.0, 4.0, 20.0, 10.0]  # left, top, width, height


@pytest.fixture
def coco(tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    """A file, not yet written, with a crowd and categories out of order."""
    root = tmp_path / "coco"
    _image(root / "images" / "1.png", (40, 20))
    _image(root / "2.png", (10, 30))
    told = {
        "images": [
            {"id": 7, "file_name": "1.png", "width": 40, "height": 20},
            {"id": 3, "file_name": "2.png", "width": 10, "height": 30},
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 1, "name": "person"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 18, "bbox": BOX, "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 1, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
    }
    return root, told


def _write(root: Path, told: Any) -> Path:
    path = root / "instances_val.json"
    path.write_text(json.dumps(told))
    return path


def test_yolo_folders(yolo: Path) -> None:
    found = read_boxes(yolo)
    assert [p.name for p in found.files] == ["a.png", "b.png", "c.png", "d.png"]
    assert found.classes == ("0", "1", "2")
    made = found.arrays(Letterbox((20, 40)))
    assert made.inputs[0].shape == (4, 3, 20, 40)
    a, b, c, d = made.truth or ()
    np.testing.assert_allclose(a.boxes, [[10, 5, 30, 15], [0, 0, 8, 10]], rtol=1e-6)
    assert (a.classes.tolist(), a.crowd.tolist(), a.size) == ([2, 0], [False, False], (20, 40))
    assert (a.boxes.dtype, a.classes.dtype) == (np.float32, np.int64)
    np.testing.assert_allclose(b.boxes, [[0, 0, 10, 30]])
    assert (c.boxes.shape, d.classes.shape) == ((0, 4), (0,))


def test_folders_in_folders(yolo: Path) -> None:
    """images/val/NAME with labels/val/NAME; the folder of the images may be named itself."""
    for kind in ("images", "labels"):
        (yolo / kind).rename(yolo / "moved")
        (yolo / kind).mkdir()
        (yolo / "moved").rename(yolo / kind / "val")
    whole, part = read_boxes(yolo), read_boxes(yolo / "images" / "val")
    assert [len(x) for x in whole.labels] == [len(x) for x in part.labels] == [2, 1, 0, 0]
    assert whole.fingerprint() == part.fingerprint()


def test_numbers_skip_classes_without_a_name(yolo: Path) -> None:
    """COCO's own numbering has gaps, which models of DETR's kind call N/A; YOLO's has none."""
    found = read_boxes(yolo, ["N/A", "person", "N/A", "car", "dog"])
    assert [x.tolist() for x in found.labels] == [[4, 1], [3], [], []]
    with pytest.raises(InputError, match=r"a\.txt has the class 2, and the model knows 2"):
        read_boxes(yolo, ["N/A", "person", "car"])


def test_coco_files(coco: tuple[Path, dict[str, Any]]) -> None:
    root, told = coco
    path = _write(root, told)
    found = read_boxes(path)
    assert found.classes == ("person", "dog")
    truth, nothing = found.arrays(Letterbox((20, 40))).truth or ()
    assert truth.boxes.tolist() == [[5, 4, 25, 14], [0, 0, 40, 20]]
    assert (truth.classes.tolist(), truth.crowd.tolist()) == ([1, 0], [False, True])
    assert (nothing.boxes.shape, nothing.size) == ((0, 4), (30, 10))
    assert read_boxes(root).fingerprint() == found.fingerprint()
    assert read_boxes(path, ["cat", "dog", "person"]).labels[0].tolist() == [1, 2]
    assert read_boxes(path, ["LABEL_0", "LABEL_1", "LABEL_2"]).labels[0].tolist() == [1, 0]
    with pytest.raises(
        InputError, match=r"category 'person' that the model does not know.*cat, dog"
    ):
        read_boxes(path, ["cat", "dog"])
    with pytest.raises(InputError, match="has 2 categories; the model knows 1"):
        read_boxes(path, ["class 0"])


def test_a_sample_is_drawn_with_a_seed(yolo: Path) -> None:
    found = read_boxes(yolo)
    some = found.sample(2, 1)
    assert len(some) == 2
    assert some.files == found.sample(2, 1).files
    assert len({found.sample(2, seed).files for seed in range(8)}) > 1
    assert len(found.sample(9, 0)) == 4
    assert some.fingerprint() != found.fingerprint()


def test_the_fingerprint_knows_the_labels(yolo: Path) -> None:
    before = read_boxes(yolo).fingerprint()
    assert read_boxes(yolo).fingerprint() == before
    _labels(yolo, "c", "1 0.5 0.5 0.5 0.5")
    assert read_boxes(yolo).fingerprint() != before


@pytest.mark.parametrize(("width", "height"), [(37, 23), (13, 50), (150, 90), (64, 48)])
@pytest.mark.parametrize("anchor", ["center", "corner"])
def test_a_letterbox_is_scaled_as_opencv_scales(width: int, height: int, anchor: str) -> None:
    """Bilinear without smoothing, half-pixel centers; Pillow rounds to bytes, so up to one off."""
    pixels = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    how = Letterbox((48, 64), anchor=anchor, top=255)
    x, scale, (left, top) = how.array(Image.fromarray(pixels))
    ratio = min(48 / height, 64 / width)
    across, down = round(width * scale[0]), round(height * scale[1])
    even = round if anchor == "center" else int
    assert (across, down) == (even(width * ratio), even(height * ratio))
    assert (left, top) == ((0, 0) if anchor == "corner" else ((64 - across) // 2, (48 - down) // 2))
    source = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
    expected = functional.interpolate(source, (down, across), mode="bilinear")[0].numpy()
    inner = x[:, top : top + down, left : left + across]
    np.testing.assert_allclose(inner, expected, atol=1.01)
    outside = np.ones((48, 64), bool)
    outside[top : top + down, left : left + across] = False
    assert (x[:, outside] == 114).all()


def test_boxes_go_there_and_back() -> None:
    image = Image.new("RGB", (100, 60))
    for how in (
        Letterbox((64, 64)),
        Letterbox((64, 64), anchor="corner"),
        Letterbox((30, 90), letterbox=False),
    ):
        _, scale, shift = how.array(image)
        box = np.array([[10, 5, 90, 55]], np.float32)
        truth = Truth(box, np.zeros(1, np.int64), np.zeros(1, bool), (60, 100), scale, shift)
        there = box * np.array(scale * 2) + np.array(shift * 2)
        np.testing.assert_allclose(truth.original(there.astype(np.float32)), box, rtol=1e-5)
        np.testing.assert_allclose(
            truth.original(np.array([[-50, -50, 500, 500]], np.float32)), [[0, 0, 100, 60]]
        )
    assert scale == (0.9, 0.5)


def test_colors_and_values() -> None:
    image = Image.new("RGB", (4, 2), (255, 0, 51))
    bgr, _, _ = Letterbox((4, 4), color="bgr", top=255, pad=7).array(image)
    assert bgr[:, 1, 0].tolist() == [51, 0, 255]
    assert bgr[:, 0, 0].tolist() == [7, 7, 7]
    how = Letterbox((2, 4), letterbox=False, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    np.testing.assert_allclose(how.array(image)[0][:, 0, 0], [1, -1, -0.6], atol=1e-6)


def test_a_letterbox_is_told_in_words() -> None:
    told = {"size": [32, 48], "anchor": "corner", "color": "bgr", "top": 255, "shortest": 32}
    assert Letterbox.from_dict(told, "x") == Letterbox(
        (32, 48), anchor="corner", color="bgr", top=255
    )
    assert Letterbox.from_dict({"size": [8, 8], "letterbox": False}, "x").letterbox is False


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ({}, "a detector needs a size"),
        ({"size": [8]}, "size must be 2 whole numbers"),
        ({"size": [8, 8], "anchor": "left"}, "anchor must be center or corner, got 'left'"),
        ({"size": [8, 8], "pad": 256}, "pad must be a whole number from 0 to 255, got 256"),
        ({"size": [8, 8], "pad": 1.5}, "pad must be a whole number"),
        ({"size": [8, 8], "letterbox": "no"}, "letterbox must be true or false, got 'no'"),
        ({"size": [8, 8], "scale": 2}, "unknown 'scale'; known are size, letterbox, anchor, pad"),
        ({"size": [8, 8], "top": 0}, "top must be a number above 0"),
    ],
)
def test_a_letterbox_that_makes_no_sense_is_refused(told: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=f"how.yaml: {message}"):
        Letterbox.from_dict(told, "how.yaml")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("0 0.5 0.5 0.5", "line 1: expected a class and center x"),
        ("0 0.5 0.5 0.5 0.5 0.9", "line 1: expected a class and center x"),
        ("cat 0.5 0.5 0.5 0.5", "line 1: expected a class"),
        ("0.5 0.5 0.5 0.5 0.5", "line 1: expected a class"),
        ("-1 0.5 0.5 0.5 0.5", "line 1: expected a class"),
        ("0 nan 0.5 0.5 0.5", "line 1: expected a class"),
        ("0 0.5 0.5 1.2 0.5", "line 1: a box outside of the image"),
        ("0 20 20 10 10", "line 1: a box outside of the image"),
        ("0 0.5 0.5 0 0.5", "line 1: a box outside of the image"),
    ],
)
def test_lines_that_are_no_boxes_are_refused(line: str, message: str, yolo: Path) -> None:
    _labels(yolo, "c", line + "\n")
    with pytest.raises(InputError, match=rf"c\.txt, {message}"):
        read_boxes(yolo)


def test_folders_that_do_not_belong_together_are_refused(yolo: Path, tmp_path: Path) -> None:
    _labels(yolo, "z", "0 0.5 0.5 0.5 0.5")
    with pytest.raises(InputError, match=r"no image for .*z\.txt"):
        read_boxes(yolo)
    (yolo / "labels" / "z.txt").unlink()
    (yolo / "labels" / "classes.txt").write_text("a\nb\nc\n")  # as labelling tools leave it there
    assert len(read_boxes(yolo)) == 4
    for name in "abc":
        _labels(yolo, name, "")
    with pytest.raises(InputError, match="holds no boxes: every label file"):
        read_boxes(yolo)
    (yolo / "labels").rename(yolo / "elsewhere")
    with pytest.raises(InputError, match=r"has no labels: expected .*labels"):
        read_boxes(yolo)
    (tmp_path / "empty" / "images").mkdir(parents=True)
    (tmp_path / "empty" / "labels").mkdir()
    with pytest.raises(InputError, match=r"no images; expected images/NAME\.jpg"):
        read_boxes(tmp_path / "empty")
    with pytest.raises(InputError, match="no such folder"):
        read_boxes(tmp_path / "none")


def test_images_that_cannot_be_read_are_named(yolo: Path) -> None:
    (yolo / "images" / "b.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(InputError, match=r"b\.png is no readable image"):
        read_boxes(yolo).arrays(Letterbox((8, 8)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("annotations"), "wrong or missing: 'annotations'"),
        (lambda t: t["annotations"].clear(), "holds no boxes"),
        (lambda t: t["annotations"][0].update(bbox=[5, 4, 50, 10]), "box outside of its image"),
        (lambda t: t["annotations"][0].update(bbox=[5, 4, -2, 10]), "box outside of its image"),
        (lambda t: t["annotations"][0].update(bbox=[5, 4]), "wrong or missing"),
        (lambda t: t["annotations"][0].update(category_id=99), "wrong or missing: 99"),
        (lambda t: t["annotations"][0].update(image_id=99), "wrong or missing: 99"),
        (lambda t: t["images"][0].update(file_name="9.png"), "names an image '9.png'"),
        (lambda t: t["images"][0].update(file_name="../coco/2.png"), "neither beside it"),
    ],
)
def test_coco_files_that_cannot_be_used_are_refused(
    change: Any, message: str, coco: tuple[Path, dict[str, Any]]
) -> None:
    root, told = coco
    change(told)
    with pytest.raises(InputError, match=message):
        read_boxes(_write(root, told))


def test_files_that_are_no_json_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "instances.json"
    path.write_text('{\n"images": ')
    with pytest.raises(InputError, match="line 2: no JSON"):
        read_boxes(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="cannot be read as JSON"):
        read_boxes(tmp_path)
    path.write_text("[]")
    with pytest.raises(InputError, match="expected COCO's images"):
        read_boxes(path)
    (tmp_path / "instances_2.json").write_text("{}")
    with pytest.raises(InputError, match="several instances"):
        read_boxes(tmp_path)


def test_without_pillow_the_extra_is_named(yolo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(InputError, match=r"pip install 'sprue\[vision\]'"):
        read_boxes(yolo)


ASSETS = Path(os.environ.get("SPRUE_ASSETS", Path(__file__).resolve().parents[3] / "shared/assets"))


@pytest.mark.skipif(
    not (ASSETS / "vision").is_dir(), reason="SPRUE_ASSETS (default ../shared/assets) is absent"
)
def test_real_images() -> None:
    found = read_boxes(ASSETS / "vision/coco-val")
    assert (len(found), sum(map(len, found.labels))) == (64, 483)
    made = found.sample(2, 0).arrays(Letterbox((416, 416), color="bgr", top=255, anchor="corner"))
    assert made.inputs[0].shape == (2, 3, 416, 416)
    for truth in made.truth or ():
        height, width = truth.size
        assert (truth.boxes >= 0).all()
        assert (truth.boxes <= np.array([width, height] * 2) + 1e-3).all()

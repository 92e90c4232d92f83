"""Labelled images: found, read, scaled, and refused where they are damaged."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from sprue.data.images import Images, Preprocess, read_images
from sprue.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes, three images of the first and two of the second, 6 wide and 4 high."""
    root = tmp_path_factory.mktemp("images") / "set"
    rng = np.random.default_rng(0)
    for label, count in (("cat", 3), ("dog", 2)):
        (root / label).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / label / f"{i}.png")
    (root / "cat" / ".hidden.png").write_bytes(b"not an image")
    (root / "notes.txt").write_text("not an image either")
    return root


@pytest.fixture(scope="module")
def archive(folder: Path) -> Path:
    path = folder.parent / "set.zip"
    with zipfile.ZipFile(path, "w") as made:
        for file in sorted(folder.rglob("*.*")):
            made.write(file, f"some/where/{file.relative_to(folder).as_posix()}")
    return path


def test_folder_and_zip_hold_the_same(folder: Path, archive: Path) -> None:
    a, b = read_images(folder), read_images(archive)
    assert a.classes == b.classes == ("cat", "dog")
    assert a.labels.tolist() == b.labels.tolist() == [0, 0, 0, 1, 1]
    assert torch.equal(a.arrays(Preprocess()), b.arrays(Preprocess()))
    assert a.fingerprint() == read_images(folder).fingerprint()
    assert a.fingerprint() != b.fingerprint()  # other names


def test_values_are_those_of_the_pixels(folder: Path) -> None:
    found = read_images(folder)
    pixels = np.asarray(Image.open(folder / "dog" / "1.png"), np.float32)
    x = found.arrays(Preprocess())[4]
    assert x.shape == (3, 4, 6)
    torch.testing.assert_close(x, torch.from_numpy(pixels).permute(2, 0, 1) / 255)
    mean, std = (0.5, 0.4, 0.3), (0.2, 0.25, 0.5)
    y = found.arrays(Preprocess(mean=mean, std=std))[4]
    torch.testing.assert_close(
        y, (x - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]
    )
    z = found.arrays(Preprocess(color="bgr", top=255))[4]
    torch.testing.assert_close(z, 255 * x.flip(0))
    assert found.arrays(Preprocess(size=(8, 5))).shape == (5, 3, 8, 5)


def test_the_order_of_the_classes_may_be_given(folder: Path) -> None:
    found = read_images(folder, ["dog", "bird", "cat"])
    assert found.labels.tolist() == [2, 2, 2, 0, 0]
    with pytest.raises(InputError, match="has a class 'cat' that the model does not know"):
        read_images(folder, ["dog", "bird"])


def test_a_sample_is_even_over_the_classes(folder: Path) -> None:
    found = read_images(folder)
    for seed in range(4):
        some = found.sample(4, seed)
        assert sorted(some.labels.tolist()) == [0, 0, 1, 1]
        assert some.files == found.sample(4, seed).files
    assert len(found.sample(99, 0)) == 5
    assert len({found.sample(2, seed).files for seed in range(8)}) > 1


def test_images_of_several_sizes_take_a_stated_one(folder: Path, tmp_path: Path) -> None:
    for i, size in enumerate([(3, 3), (4, 3)]):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.new("L", size).save(tmp_path / "a" / f"{i}.png")
    found = read_images(tmp_path)
    with pytest.raises(InputError, match="several sizes: state one"):
        found.arrays(Preprocess())
    assert found.arrays(Preprocess(size=(2, 2))).shape == (2, 3, 2, 2)


def test_what_is_no_image_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "broken.jpg").write_bytes(b"\xff\xd8 and no more")
    with pytest.raises(InputError, match=r"a/broken\.jpg in .* is no readable image"):
        read_images(tmp_path).arrays(Preprocess())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: p / "nowhere", "no such folder or zip file"),
        (lambda p: p, "holds no images: expected CLASS/NAME.jpg"),
        (lambda p: _file(p / "x.zip", b"no zip"), "neither a folder nor a zip file"),
        (lambda p: _file(p / "y.zip", _archive(["stray.png"])), "stray.png in .* has no class"),
    ],
)
def test_what_holds_no_images_is_refused(make: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=message):
        read_images(make(tmp_path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("size: 32", "size must be 2 whole numbers, got 32"),
        ("size: [32, 0]", "size must be above 0"),
        ("mean: [0, 0]", r"mean must be 3 numbers, got \[0, 0\]"),
        ("std: [1, 0, 1]", "std must be above 0"),
        ("color: gray", "color must be rgb or bgr, got 'gray'"),
        ("top: many", "top must be a number above 0"),
        ("scale: 2", "unknown 'scale'; known are size, shortest, mean"),
        ("resample: best", "resample must be bilinear or bicubic, got 'best'"),
        ("shortest: 0\nsize: [2, 2]", "shortest must be a number of pixels, got 0"),
        ("shortest: 32", "shortest needs a size"),
        ("just text", "expected names with values"),
        ("a: [", "no readable YAML"),
    ],
)
def test_preprocessing_that_makes_no_sense_is_refused(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        Preprocess.read(_file(tmp_path / "how.yaml", text.encode()))


def test_preprocessing_is_read(tmp_path: Path) -> None:
    text = "size: [32, 48]\nmean: [1, 2, 3]\ncolor: bgr\ntop: 255"
    found = Preprocess.read(_file(tmp_path / "how.yaml", text.encode()))
    assert found == Preprocess((32, 48), mean=(1, 2, 3), color="bgr", top=255)
    with pytest.raises(InputError, match="no such file"):
        Preprocess.read(tmp_path / "none.yaml")


def test_the_middle_is_cut_from_what_was_scaled() -> None:
    """A picture twice as wide as high, whose middle is white, and nothing of its sides stays."""
    from PIL import Image

    pixels = np.zeros((10, 20, 3), np.uint8)
    pixels[:, 5:15] = 255
    how = Preprocess((8, 8), shortest=10)
    found = how.array(Image.fromarray(pixels))
    assert found.shape == (3, 8, 8)
    assert found.min() == found.max() == 1.0


def test_without_pillow_the_extra_is_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(InputError, match=r"pip install 'sprue\[vision\]'"):
        read_images(folder)


def _file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def _archive(names: list[str]) -> bytes:
    import io

    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    return made.getvalue()


def test_the_type_is_exported() -> None:
    from sprue import data

    assert data.Images is Images
    assert data.read_images is read_images

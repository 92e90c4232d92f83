"""The verb `sweep`: points, marks, recipes, and what it refuses."""

from __future__ import annotations

import json
import random
import re
import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from sprue import cli, models
from sprue import sweep as verb
from sprue.errors import BudgetError, InputError
from sprue.plan import ratio
from sprue.plan.recipe import read
from sprue.sweep import sweep
from sprue.verify import verify

WINDOWS, CONTEXT = 8, 16
SVG = "{http://www.w3.org/2000/svg}"
_WORDS = "the court shall have power to hear a model of weight def class import value is not and"


def write(path: Path, seed: int, documents: int = 12, words: int = 60) -> Path:
    drawn = random.Random(seed)
    texts = (" ".join(drawn.choices(_WORDS.split(), k=words)) for _ in range(documents))
    path.write_text("<|endoftext|>".join(texts), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Path]]:
    """Two tasks: one file to be split, and two."""
    folder = tmp_path_factory.mktemp("texts")
    law = [write(folder / "train.txt", 2), write(folder / "test.txt", 3)]
    return {"code": [write(folder / "code.txt", 1)], "law": law}


def run(model: Path, data: Any, out: Path, **changes: Any) -> Any:
    plain = {"windows": WINDOWS, "context": CONTEXT, "progress": False}
    return sweep(model, data, out, **{**plain, **changes})


@pytest.fixture(scope="module")
def swept(
    taught: Callable[..., Path],
    texts: dict[str, list[Path]],
    tmp_path_factory: pytest.TempPathFactory,
) -> SimpleNamespace:
    """A sweep of both tasks, made once; read only."""
    out = tmp_path_factory.mktemp("swept") / "sweep"
    model = taught(torch.bfloat16)
    state = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    report = run(model, texts, out, sparsity="30%,80%", pick="code", keep=0.9)
    after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    untouched = torch.equal(state[0], after[0]) and state[1:] == after[1:]
    return SimpleNamespace(model=model, out=out, report=report, untouched=untouched)


def test_every_point_is_there(swept: SimpleNamespace) -> None:
    kinds = [(curve.task, curve.family) for curve in swept.report.curves]
    assert kinds == [(t, p) for t in ("code", "law") for p in ("unstructured", "N:4")]
    for curve in swept.report.curves:
        assert curve.ratios == sorted(curve.ratios)
        asked = {0.3, 0.8} if curve.family == "unstructured" else {0.25, 0.5, 0.75}
        assert asked <= set(curve.ratios)
        assert len(curve.points) <= len(asked) + 2
        for point in curve.points:
            assert point.zeros == pytest.approx(point.ratio, abs=1e-3)
            assert set(point.samples) == {"code", "law"}
            assert len(point.samples[curve.task].kl) == WINDOWS
    assert swept.untouched, "the global random generators are not ours"
    assert sorted(p.name for p in swept.out.iterdir()) == [
        *(".lock", "code.survey.safetensors", "law.survey.safetensors", "points", "recipe.yaml"),
        *("settings.json", "sweep.html", "sweep.json", "texts"),
    ]


def test_zeros_cost_more_the_more_there_are(swept: SimpleNamespace) -> None:
    for curve in swept.report.curves:
        divergence = [point.quality.kl_nats.value for point in curve.points]
        assert divergence[0] > 0
        assert divergence == sorted(divergence)


def test_compress_carries_the_recipe_out_to_the_same_figures(
    swept: SimpleNamespace, tmp_path: Path
) -> None:
    """What was measured is what `compress --recipe` writes, to the last bit of the weights."""
    point, texts = swept.report.pick.point, swept.report.texts["code"]
    command = swept.report.command.split()
    assert command[:5] == [
        "sprue",
        "compress",
        str(swept.model),
        "--recipe",
        f"{swept.out}/recipe.yaml",
    ]
    assert cli.main([*command[1:-1], str(tmp_path / "pruned"), "--quiet"]) == 0
    zeros = _zeros(tmp_path / "pruned", swept.model)
    assert zeros == {n: pytest.approx(s) for n, s in point.layers.items()}
    found = verify(
        *(swept.model, tmp_path / "pruned", [texts[1]]),
        context=CONTEXT,
        windows=WINDOWS,
        costs=False,
        progress=False,
    )
    # the original's answers come block by block here, whole there: the same but for rounding
    assert found.quality.kept.value == pytest.approx(point.quality.kept.value, rel=1e-5)
    assert found.quality.kept_at_least == pytest.approx(point.quality.kept_at_least, rel=1e-5)
    assert found.quality.kl_nats.value == pytest.approx(point.quality.kl_nats.value, rel=1e-3)
    sample, mine = found.samples[0], point.samples["code"]
    np.testing.assert_allclose(sample.result, mine.result, rtol=1e-12)


def _zeros(folder: Path, model: Path) -> dict[str, float]:
    """The share of zeros of every linear as it is stored, counted in its mask."""
    source = models.open(model)
    config = json.loads((folder / "config.json").read_text())["quantization_config"]["modules"]
    found = {}
    for name in (n for i in range(2) for n in _linears(source, i)):
        rows, columns = source.shape(f"{name}.weight")
        kept = config[name]["mask"]["kept"] if name in config else rows * columns
        found[name] = 1 - kept / (rows * columns)
    return found


def _linears(source: Any, block: int) -> Iterator[str]:
    for local in source.family.linears(source.config):
        yield f"{source.family.block(block)}.{local}"


def test_the_pick_is_the_largest_that_keeps_enough(swept: SimpleNamespace) -> None:
    pick = swept.report.pick
    enough = [c.keeps(0.9) for c in swept.report.curves if c.task == "code"]
    assert pick.passed == any(p is not None for p in enough)
    if pick.passed:
        assert pick.point.quality.kept_at_least >= 0.9
        assert pick.point.zeros == max(p.zeros for p in enough if p is not None)
    recipe = read(swept.out / "recipe.yaml")
    assert recipe.as_dict() == dict(pick.point.recipe)
    told = json.loads((swept.out / "sweep.json").read_text())
    assert told["pick"]["zeros"] == pick.point.zeros


def test_the_parts_share_no_document(swept: SimpleNamespace) -> None:
    files = [swept.out / "texts" / f"code.{part}.jsonl" for part in ("calibration", "evaluation")]
    a, b = (set(file.read_text().splitlines()) for file in files)
    assert a
    assert b
    assert not a & b
    assert [Path(f).name for f in swept.report.texts["law"]] == ["train.txt", "test.txt"]


def test_the_same_command_measures_nothing_twice_and_gives_the_same(
    swept: SimpleNamespace, texts: dict[str, list[Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {p.name: p.read_bytes() for p in (swept.out / "points").iterdir()}
    figures = json.loads((swept.out / "sweep.json").read_text())
    monkeypatch.setattr(verb, "_prune", _never)
    again = run(swept.model, texts, swept.out, sparsity="30%,80%", pick="code", keep=0.9)
    assert {p.name: p.read_bytes() for p in (swept.out / "points").iterdir()} == before
    told = again.as_dict()
    for one in (figures, told):
        one.pop("machine")
    assert json.loads(json.dumps(told)) == figures


def test_a_narrower_sweep_goes_on_in_the_same_folder(
    swept: SimpleNamespace,
    texts: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(verb, "_prune", _never)
    out = shutil.copytree(swept.out, tmp_path / "copy")
    found = run(swept.model, texts, out, sparsity="80%", pattern=["2:4"], keep=0.9)
    assert [(c.family, c.ratios) for c in found.curves] == [("2:4", [0.5])] * 2


def _never(*_: Any, **__: Any) -> None:
    raise AssertionError("measured again")


def test_an_interrupted_sweep_goes_on_to_the_same_bytes(
    speaking: Callable[..., Path],
    texts: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = speaking("gpt2", num_hidden_layers=1)
    data = {"law": texts["law"]}
    plain = {"sparsity": "50%,70%", "pattern": ["unstructured"], "keep": 0.5}
    run(model, data, tmp_path / "whole", **plain)
    prune, calls = verb._prune, []

    def stop(*args: Any) -> None:
        calls.append(args)
        if len(calls) == 2:
            raise KeyboardInterrupt
        prune(*args)

    monkeypatch.setattr(verb, "_prune", stop)
    with pytest.raises(KeyboardInterrupt, match="goes on from here"):
        run(model, data, tmp_path / "cut", **plain)
    monkeypatch.setattr(verb, "_prune", prune)
    assert [p.name for p in (tmp_path / "cut/points").iterdir()] == ["law-unstructured-50.json"]
    assert not (tmp_path / "cut/scratch").exists()
    monkeypatch.setattr(verb, "survey", _never)  # it was saved
    run(model, data, tmp_path / "cut", **plain)
    for file in (tmp_path / "whole/points").iterdir():
        assert (tmp_path / "cut/points" / file.name).read_bytes() == file.read_bytes()


def test_shared_zeros_do_less_damage_than_even_ones(
    speaking: Callable[..., Path],
    texts: dict[str, list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On its own objective, measured: the divergence on the text that it was calibrated on."""
    model = speaking("qwen3", num_hidden_layers=2)
    data = {"law": [texts["law"][0], write(tmp_path / "new.txt", 9)]}
    plain = {"sparsity": "60%", "pattern": ["unstructured"], "keep": 0.001}
    mine = run(model, data, tmp_path / "shared", **plain).curves[0].points[0]

    def alike(pattern: str, share: float, shapes: Any, _: Any) -> ratio.Share:
        return ratio.Share(dict.fromkeys(shapes, ratio.choice(pattern, share)), share, None)

    monkeypatch.setattr(ratio, "shared", alike)
    even = run(model, data, tmp_path / "even", **plain).curves[0].points[0]
    assert mine.zeros == pytest.approx(even.zeros, abs=2e-3)
    assert len(set(even.layers.values())) == 1
    assert mine.quality.kl_nats.value < even.quality.kl_nats.value


def test_zeros_follow_the_text_that_they_are_calibrated_on(swept: SimpleNamespace) -> None:
    a, b = (
        next(c for c in swept.report.curves if (c.task, c.family) == (task, "unstructured"))
        for task in ("code", "law")
    )
    assert a.points[0].layers != b.points[0].layers


def test_nothing_that_keeps_enough_is_said_and_ends_with_one(
    swept: SimpleNamespace,
    texts: dict[str, list[Path]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = shutil.copytree(swept.out, tmp_path / "copy")
    law = ",".join(map(str, texts["law"]))
    given = ["--data", f"code={texts['code'][0]}", "--data", f"law={law}"]
    options = ["--windows", str(WINDOWS), "--context", str(CONTEXT), "--sparsity", "80%"]
    command = ["sweep", str(swept.model), *given, "--out", str(out), *options, "--quiet"]
    code = cli.main([*command, "--pattern", "1:4", "--pick", "law", "--keep", "100%", "--json"])
    told = json.loads(capsys.readouterr().out)
    assert code == 1
    assert not told["pick"]["passed"]
    assert "no ratio that was measured keeps 100%" in told["statement"]
    assert told["pick"]["pattern"] == "1:4"
    assert cli.main([*command, "--pattern", "1:4"]) == 0  # nothing was picked
    assert "points measured" in capsys.readouterr().out


def test_the_page_is_whole_and_asks_for_nothing(swept: SimpleNamespace) -> None:
    page = (swept.out / "sweep.html").read_text(encoding="utf-8")
    HTMLParser().feed(page)
    drawings = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawings) >= 2 * 2 + 2 + 2  # curves, other tasks, layers
    for drawing in drawings:
        assert ElementTree.fromstring(drawing).tag.removeprefix(SVG) == "svg"
    assert not re.findall(r"(?:src|href)=|@import|url\(", page)
    assert "nan" not in re.sub(r"[a-zA-Z]*nan[a-zA-Z]+", "", page.lower())
    for name in ("code", "law", "unstructured", "N:4", swept.report.command):
        assert name in page


def test_it_works_where_a_linear_is_stored_transposed(
    speaking: Callable[..., Path], texts: dict[str, list[Path]], tmp_path: Path
) -> None:
    model = speaking("gpt2", num_hidden_layers=1)
    found = run(
        model, {"law": texts["law"]}, tmp_path / "o", sparsity="50%", pattern=["4x1", "2:8"]
    )
    assert [c.points[0].pattern for c in found.curves] == ["4x1", "2:8"]
    assert all(p.quality.kl_nats.value > 0 for c in found.curves for p in c.points)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"pick": "sport"}, "no task 'sport' to pick: known are code, law"),
        ({"keep": 0.0}, "share to keep"),
        ({"windows": 1}, "2 windows or more"),
        ({"pattern": []}, "no pattern given"),
        ({"pattern": ["4:2"]}, "N must be below M"),
        ({"pattern": ["half"]}, "unknown pattern"),
        ({"sparsity": "0%"}, "takes a ratio above 0%"),
        ({"sparsity": "some"}, "expected ratios such as"),
        ({"context": 1000}, "at most 64 tokens"),
        ({"windows": 4, "context": 64, "short": True}, "window"),
        ({"data": {}}, "no task given"),
        ({"data": {"a b": ["x"]}}, "a task's name"),
        ({"data": {"a": []}}, "received 0 files"),
        ({"data": {"a": ["missing.txt"]}}, "no such data file"),
    ],
)
def test_what_cannot_be_done_is_refused_and_leaves_nothing(
    changes: dict[str, Any],
    words: str,
    speaking: Callable[..., Path],
    texts: dict[str, list[Path]],
    tmp_path: Path,
) -> None:
    model = speaking("llama", torch.bfloat16, num_hidden_layers=2)
    data = changes.pop("data", texts)
    if changes.pop("short", False):
        data = {"law": [write(tmp_path / "short.txt", 1, 2, 12)]}
    with pytest.raises(InputError, match=re.escape(words)):
        run(model, data, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_too_many_zeros_and_bad_text_are_refused(
    speaking: Callable[..., Path], texts: dict[str, list[Path]], tmp_path: Path
) -> None:
    model = speaking("llama", torch.bfloat16, num_hidden_layers=2)
    with pytest.raises(BudgetError, match="below 100%"):
        run(model, texts, tmp_path / "out", sparsity="100%")
    with pytest.raises(BudgetError, match="at most"):
        run(
            model, {"law": texts["law"]}, tmp_path / "out", sparsity="99%", pattern=["unstructured"]
        )
    assert not (tmp_path / "out").exists()
    (tmp_path / "empty.txt").write_text(" \n")
    with pytest.raises(InputError, match="is empty"):
        run(model, {"a": [tmp_path / "empty.txt"]}, tmp_path / "out")
    (tmp_path / "one.txt").write_text("one document, and no more")
    with pytest.raises(InputError, match="one document"):
        run(model, {"a": [tmp_path / "one.txt"]}, tmp_path / "out")
    twice = [texts["law"][0], write(tmp_path / "same.txt", 2)]
    with pytest.raises(InputError, match="12 of the 12 documents"):
        run(model, {"a": twice}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_models_are_refused(
    speaking: Callable[..., Path], texts: dict[str, list[Path]], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(speaking("llama", torch.bfloat16, num_hidden_layers=2), model)
    weights = load_file(model / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="NaN"):
        run(model, texts, tmp_path / "out")
    (model / "model.safetensors").rename(model / "pytorch_model.bin")
    with pytest.raises(InputError, match="pickled"):
        run(model, texts, tmp_path / "out")
    (model / "config.json").write_text('{"model_type": "unheard_of"}')
    with pytest.raises(InputError):
        run(model, texts, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_of_something_else_is_refused(
    swept: SimpleNamespace, texts: dict[str, list[Path]], tmp_path: Path
) -> None:
    for changes, words in (({"seed": 1}, "seed: 0, now 1"), ({"windows": 6}, "windows: 8, now 6")):
        with pytest.raises(InputError, match=words):
            run(swept.model, texts, swept.out, **changes)
    with pytest.raises(InputError, match="another data"):
        run(swept.model, {"code": texts["code"]}, swept.out)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/notes.txt").write_text("x")
    with pytest.raises(InputError, match="something else"):
        run(swept.model, texts, tmp_path / "mine")
    with pytest.raises(InputError, match="is a file"):
        run(swept.model, texts, tmp_path / "mine/notes.txt")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]


def test_a_folder_that_another_process_writes_is_left_alone(
    swept: SimpleNamespace, texts: dict[str, list[Path]]
) -> None:
    import fcntl

    with (swept.out / ".lock").open("ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="another process is writing"):
            run(swept.model, texts, swept.out)


def test_a_damaged_point_is_named(
    speaking: Callable[..., Path], texts: dict[str, list[Path]], tmp_path: Path
) -> None:
    model, data = speaking("gpt2", num_hidden_layers=1), {"law": texts["law"]}
    run(model, data, tmp_path / "o", pattern=["2:4"])
    file = tmp_path / "o/points/law-2of4-50.json"
    for damage in (file.read_text()[:100], "[]", "{}"):
        file.write_text(damage)
        with pytest.raises(InputError, match=r"law-2of4-50\.json is damaged: remove it"):
            run(model, data, tmp_path / "o", pattern=["2:4"])
    file.unlink()
    run(model, data, tmp_path / "o", pattern=["2:4"])
    (tmp_path / "o/settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json is damaged"):
        run(model, data, tmp_path / "o", pattern=["2:4"])


def test_wrong_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    for argv, words in (
        (["--data", "code"], "expected NAME=FILE"),
        (["--data", "=x.txt"], "expected NAME=FILE"),
        (["--data", "a=x", "--windows", "1"], "2 or more"),
        (["--data", "a=x", "--keep", "120%"], "up to 100%"),
        ([], "--data"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["sweep", "m", "--out", "o", *argv])
        assert words in capsys.readouterr().err
    assert cli.main(["sweep", "m", "--out", "o", "--data", "a=x", "--data", "a=y"]) == 2
    assert "given twice" in capsys.readouterr().err

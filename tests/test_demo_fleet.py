"""The demo of a fleet: its traffic. What becomes of that is tested with smaller models."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sprue import demo, demo_fleet
from sprue.errors import InputError
from sprue.specialize import Asked
from sprue.usage.exchanges import Exchange, read


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Exchange], list[Exchange], Path]:
    """The traffic and the earlier one, of the embedded texts."""
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPRUE_ASSETS", str(out / "none"))
        texts = demo_fleet.Texts.found()
    demo_fleet._logs(out, texts, demo.model_path(), 0)
    bad: list[int] = []
    a, b = (
        list(read(out / name, lambda number, why: bad.append(number)))
        for name in (demo_fleet.LOG, demo_fleet.SHADOW)
    )
    assert not bad
    return a, b, out


def test_the_mix_is_skewed_and_some_have_two_needs(
    logs: tuple[list[Exchange], list[Exchange], Path],
) -> None:
    log, _, _ = logs
    assert len(log) >= 1000
    counts = Counter(name for one in log for name in str(one.capability).split("+"))
    assert [name for name, _ in counts.most_common()] == ["legal", "code", "security", "stories"]
    assert counts["legal"] > 5 * counts["stories"] > 0
    several = [one for one in log if len(one.asked) == 2]
    assert 0.08 < len(several) / len(log) < 0.16
    assert all(len(one.answered) == len(one.asked) for one in log)
    assert 0 < sum(one.named is not None for one in log) < len(log) / 3
    assert not any(one.named for one in log if one.capability == "stories")


def test_no_passage_is_asked_twice_or_before(
    logs: tuple[list[Exchange], list[Exchange], Path],
) -> None:
    log, shadow, _ = logs
    pairs = [
        (said, answer)
        for one in (*log, *shadow)
        for said, answer in zip(one.asked, one.answered, strict=True)
    ]
    assert len(set(pairs)) > 0.995 * len(pairs)  # texts repeat a few lines themselves


def test_answers_are_what_follows_in_the_text(
    logs: tuple[list[Exchange], list[Exchange], Path],
) -> None:
    whole = {path.stem: path.read_text(encoding="utf-8") for path in demo.test_files()}
    for one in logs[0][::50]:
        names = str(one.capability).split("+")
        for name, said, answer in zip(names, one.asked, one.answered, strict=True):
            assert said + answer in whole[name]


def test_the_same_seed_gives_the_same_traffic(
    logs: tuple[list[Exchange], list[Exchange], Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SPRUE_ASSETS", str(tmp_path / "none"))
    demo_fleet._logs(tmp_path, demo_fleet.Texts.found(), demo.model_path(), 0)
    first = (logs[2] / demo_fleet.LOG).read_bytes()
    assert (tmp_path / demo_fleet.LOG).read_bytes() == first
    assert json.loads(first.splitlines()[0])["id"] == "r00000"


def test_how_long_it_takes_depends_on_what_is_there(tmp_path: Path) -> None:
    assert "about 61 minutes" in demo_fleet.takes(tmp_path, 15)
    tried = int(demo_fleet.takes(tmp_path).split("about ")[1].split()[0])
    assert tried > 4  # by what a step takes here
    (tmp_path / "specialists").mkdir()
    for name in ("legal", "code", "security"):
        (tmp_path / "specialists" / f"{name}.key.json").touch()
    assert "about 4 minutes" in demo_fleet.takes(tmp_path, 15)
    assert "about 4 minutes" in demo_fleet.takes(tmp_path)


def test_a_specialist_is_gone_on_with_or_taken_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where the same is asked for."""
    monkeypatch.setenv("SPRUE_ASSETS", str(tmp_path / "none"))
    texts, model = demo_fleet.Texts.found(), demo.model_path()
    resumed: list[bool] = []

    class Made:
        def as_dict(self) -> dict[str, str]:
            return {"statement": "made"}

    def specialize(model: Path, text: list[Path], out: Path, *args: Any, **how: Any) -> Made:
        resumed.append(how["resume"])
        if len(resumed) < 3:
            raise KeyboardInterrupt
        out.mkdir()
        (out / "specialist.json").write_text(json.dumps({"statement": "found"}), encoding="utf-8")
        return Made()

    def run(steps: int) -> str:
        asked = Asked("legal", steps=steps)
        done = demo_fleet._specialist(tmp_path, texts, model, asked, lambda words: None)
        return str(done["statement"])

    monkeypatch.setattr(demo_fleet, "specialize", specialize)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(5)
    assert run(5) == "made"
    assert run(5) == "found"
    assert resumed == [False, True, True]
    assert run(6) == "made"
    assert resumed[3:] == [False]


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="not an earlier demo"):
        demo_fleet.run(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]

"""Who would answer a request, from the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sprue.cli import main

pytest.importorskip("sklearn", reason="the extra fleet is not installed")

WORDS = {
    "law": ["statute", "lease", "tenant", "court", "section", "liability", "clause"],
    "code": ["python", "function", "loop", "list", "compile", "import", "class"],
}


def rows(name: str) -> list[str]:
    words = WORDS[name]
    pairs = [(a, b, c) for a in words for b in words for c in words if len({a, b, c}) == 3]
    return [f"what about {a} {b} {c}" for a, b, c in pairs[::3]]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with labelled texts, a router that the command made, models, and fleet.yaml."""
    folder = tmp_path_factory.mktemp("fleet")
    lines = ["text,label", *(f"{text},{name}" for name in WORDS for text in rows(name))]
    (folder / "texts.csv").write_text("\n".join(lines))
    others = [f"the {a} of the {b}" for a in ("moon", "sea", "wind") for b in ("night", "day")]
    (folder / "others.csv").write_text("text,label\n" + "\n".join(f"{t},x" for t in others))
    for name in ("full", "law"):
        (folder / name).mkdir()
    told = "full: full\nrouter: r.safetensors\nspecialists: {law: law}\n"
    (folder / "fleet.yaml").write_text(told)
    words = ["route", "--train", str(folder / "texts.csv"), "--out", str(folder / "r.safetensors")]
    assert main([*words, "--unknown", str(folder / "others.csv")]) == 0
    return folder


def asked(fleet: Path, capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, object]]:
    assert main(["route", *words, "--fleet", str(fleet / "fleet.yaml"), "--json"]) == 0
    found: list[dict[str, object]] = json.loads(capsys.readouterr().out)["steps"]
    return found


def test_a_need_goes_to_its_specialist(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (step,) = asked(fleet, capsys, "about the tenant clause of a lease in court")
    assert (step["model"], step["capability"], step["how"]) == ("law", "law", "classified")
    assert set(step["scores"]) == {"law", "code"}  # type: ignore[call-overload]


def test_what_has_no_specialist_goes_to_the_full_model(
    fleet: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (step,) = asked(fleet, capsys, "python class with a list loop")
    assert (step["model"], step["capability"]) == ("full", "code")
    (step,) = asked(fleet, capsys, "the wind of the sea at night")
    assert (step["model"], step["capability"], step["how"]) == ("full", None, "unknown")


def test_two_needs_are_taken_apart(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "what about tenant liability in court, and what about python class import"
    steps = asked(fleet, capsys, text)
    assert [s["model"] for s in steps] == ["law", "full"]
    assert [text[s["start"] : s["end"]] for s in steps] == [s["text"] for s in steps]  # type: ignore[misc]


def test_a_caller_may_say_what_it_needs(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (step,) = asked(fleet, capsys, "python class", "--capability", "law")
    assert (step["model"], step["how"], step["scores"]) == ("law", "named", {})


def test_how_many_known_texts_may_go_to_the_full_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Texts with words of both are less sure than others."""
    mixed = [
        (" ".join((*WORDS[name][i : i + 2], *WORDS[other][j : j + 2])), name)
        for name, other in (("law", "code"), ("code", "law"))
        for i in range(4)
        for j in range(4)
    ]
    lines = ["text,label", *(f"{text},{name}" for text, name in mixed)]
    (tmp_path / "texts.csv").write_text("\n".join(lines))
    words = ["route", "--train", str(tmp_path / "texts.csv"), "--json"]
    found = []
    for i, share in enumerate(("1%", "10%", "40%")):
        assert main([*words, "--spilled", share, "--out", str(tmp_path / f"{i}.safetensors")]) == 0
        found.append(json.loads(capsys.readouterr().out)["threshold"])
    assert found == sorted(set(found))
    with pytest.raises(SystemExit):
        main([*words, "--spilled", "0%", "--out", str(tmp_path / "new")])


def test_for_a_reader(fleet: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["route", "tenant lease court", "--fleet", str(fleet / "fleet.yaml")]
    assert main(words) == 0
    said = capsys.readouterr().out
    assert "-> law (classified: law 0." in said or "-> law (classified: law 1." in said
    assert main([*words[:1], "wind of the sea", *words[2:]]) == 0
    assert "none reaches" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "expected TEXT and --fleet FILE, or --train"),
        (["x"], "expected TEXT and --fleet FILE, or --train"),
        (["x", "--fleet", "none.yaml"], "there is no fleet"),
        (["  ", "--fleet", "fleet.yaml"], "got an empty text"),
        (["x", "--fleet", "fleet.yaml", "--capability", "art"], "no capability 'art'"),
        (["--train", "texts.csv"], "--out FILE: one is missing"),
        (["--out", "new"], "--train FILE and --out FILE: one is missing"),
        (["x", "--train", "texts.csv", "--out", "new"], "in a command of its own"),
        (["--train", "texts.csv", "--out", "r.safetensors"], "exists: remove it"),
        (["--train", "none.csv", "--out", "new"], "none.csv"),
        (["--spilled", "2%"], "--train FILE and --out FILE: one is missing"),
        (
            ["--train", "texts.csv", "--unknown", "others.csv", "--spilled", "2%", "--out", "new"],
            "--spilled is for routers that are shown nothing --unknown",
        ),
    ],
)
def test_wrong_commands(
    fleet: Path,
    words: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(fleet)
    before = sorted(fleet.iterdir())
    assert main(["route", *words]) == 2
    assert message in capsys.readouterr().err
    assert sorted(fleet.iterdir()) == before


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("", "expected full, router, specialists"),
        ("full: [", "no YAML that can be read"),
        ("full: full\nrouter: r.safetensors\n", "expected 'specialists'"),
        ("full: full\nrouter: r.safetensors\nspecialists: {}\n", "expected 'specialists'"),
        ("full: full\nrouter: r.safetensors\nspecialists: {law: law}\nold: 1\n", "got old too"),
        ("full: none\nrouter: r.safetensors\nspecialists: {law: law}\n", "which 'full' names"),
        ("full: full\nrouter: r.safetensors\nspecialists: {law: 3}\n", "a path for 'law', got 3"),
        ("full: full\nrouter: full\nspecialists: {law: law}\n", "there is no router"),
        (
            "full: full\nrouter: r.safetensors\nspecialists: {art: law}\n",
            "the router knows nothing of art",
        ),
    ],
)
def test_fleets_that_make_no_sense(
    fleet: Path, told: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("full", "law", "r.safetensors"):
        (tmp_path / name).symlink_to(fleet / name)
    (tmp_path / "fleet.yaml").write_text(told)
    assert main(["route", "x", "--fleet", str(tmp_path / "fleet.yaml")]) == 2
    assert message in capsys.readouterr().err

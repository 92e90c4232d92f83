"""`sprue rank` from the command line and from Python."""

from __future__ import annotations

import json
import random
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sprue.cli import main
from sprue.errors import InputError
from sprue.rank import rank
from sprue.usage.record import Record
from sprue.usage.segments import Segments

NEEDS = {"renew my passport in": 60, "write a wedding speech for": 40}
FILLERS = [
    *("rome", "oslo", "paris", "berlin", "anna", "bert", "cora", "dave", "june", "july", "friday"),
    *("monday", "tonight", "tomorrow", "again", "slowly", "brother", "cousin", "garden", "river"),
]
NOISE = 50


def asked(draw: random.Random) -> list[str]:
    """What is of no known capability: planted needs, and letters that mean nothing."""
    found = [
        f"{sentence} {' '.join(draw.choices(FILLERS, k=3))}"
        for sentence, count in NEEDS.items()
        for _ in range(count)
    ]
    letters = "abcdefghijklmnopqrstuvwxyz"
    for _ in range(NOISE):
        words = ("".join(draw.choices(letters, k=draw.randrange(3, 10))) for _ in range(7))
        found.append(" ".join(words))
    draw.shuffle(found)
    return found


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of segments as the log writes them: five capabilities, three days, three tenants."""
    folder, draw = tmp_path_factory.mktemp("logs"), random.Random(0)
    new = asked(draw)
    with Segments(folder, rows=200) as log:
        for i in range(1500):
            known = i % 10 != 0
            name = draw.choices(["legal", "code", "mail", "travel", "math"], [5, 4, 3, 2, 1])[0]
            text = f"{name} {i}" if known else new.pop()
            log.put(
                Record(
                    time=1_767_225_600 + 172 * i,
                    model="big" if name == "code" else "small",
                    request=f"r{i}",
                    tenant=["acme", "o'neil", "zeta"][i % 3],
                    capability=name if known else None,
                    tokens_in=20,
                    tokens_out=30,
                    flops=5e9 if name == "code" else 1e9,
                    cpu_seconds=0.5,
                    steps=30,
                    escalated=3 if name == "mail" else 0,
                    text=f"{text}, write to user{i}@example.com",
                )
            )
    assert log.lost == 0
    return folder


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A file as OpenAI-style gateways write it."""
    lines = [
        {
            "created": 1_767_225_600 + i,
            "model": "gpt-4o" if i % 4 else "gpt-4o-mini",
            "user": f"org-{i % 3}",
            "messages": [{"role": "user", "content": f"question {i % 5} about law"}],
            "usage": {"prompt_tokens": 10, "completion_tokens": 10},
        }
        for i in range(200)
    ]
    file = tmp_path / "chat.jsonl"
    file.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return file


def printed(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> Any:
    assert main(["rank", *map(str, argv), "--json", "--quiet"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: pytest.CaptureFixture[str], *argv: str | Path) -> str:
    try:
        code = main(["rank", *map(str, argv)])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    output = capsys.readouterr()
    assert (code, output.out) == (2, "")
    assert "Traceback" not in output.err
    return output.err


def test_ranked_by_what_it_takes(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = printed(capsys, logs)
    names = [one["name"] for one in told["capabilities"]]
    assert names == ["code", "legal", "mail", "travel", "math"]
    by_tokens = printed(capsys, logs, "--by", "tokens")
    assert [one["name"] for one in by_tokens["capabilities"]][:2] == ["legal", "code"]
    assert told["capabilities"][0]["flops"] == 5e9 * told["capabilities"][0]["requests"]
    mail = next(one for one in told["capabilities"] if one["name"] == "mail")
    assert mail["escalated"] == 3 * mail["requests"]
    assert {tenant["name"] for tenant in told["tenants"]} == {"acme", "o'neil", "zeta"}
    assert told["time"]["unit"] == "hour"
    assert told["log"]["from"] == "2026-01-01 00:00"
    assert sum(sum(c["compute"]) for c in told["time"]["capabilities"]) == told["total"]["flops"]


def test_planted_needs_come_out_with_nothing_personal(
    logs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = printed(capsys, logs)["needs"]["found"]
    assert ["passport" in need["words"] for need in found] == [True, False]
    assert "wedding" in found[1]["words"]
    for need, count in zip(found, NEEDS.values(), strict=True):
        assert 0.7 * count <= need["requests"] <= 1.05 * count
    assert "example.com" not in json.dumps(found)
    assert printed(capsys, logs, "--min-cluster", "45")["needs"]["count"] == 1


def test_the_same_log_gives_the_same_bytes(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outputs = []
    for threads in ("1", "1", "2"):
        argv = ["rank", str(logs), "--json", "--quiet", "--threads", threads]
        assert main([*argv, "--sample", "100", "--report", str(tmp_path / f"{threads}.html")]) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] == outputs[2]
    assert (tmp_path / "1.html").read_bytes() == (tmp_path / "2.html").read_bytes()
    other = printed(capsys, logs, "--sample", "100", "--seed", "5", "--threads", "1")
    assert other["needs"] != json.loads(outputs[0])["needs"]
    assert other["capabilities"] == json.loads(outputs[0])["capabilities"]


def test_only_what_was_asked_for(logs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = printed(capsys, logs, "--tenant", "o'neil")
    assert (one["total"]["requests"], one["tenant_count"]) == (500, 1)
    two = printed(capsys, logs, "--tenant", "o'neil", "--tenant", "acme")
    assert two["total"]["requests"] == 1000
    day = printed(capsys, logs, "--since", "2026-01-02", "--until", "2026-01-03T00:00+00:00")
    assert day["total"]["requests"] == sum(86_400 <= 172 * i < 172_800 for i in range(1500))
    assert printed(capsys, logs, "--top", "2")["rest"]["count"] == 3


def test_openai_logs_are_ranked_by_tokens_and_say_so(
    chats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = printed(capsys, chats)
    assert (told["by"], told["asked"]["by"]) == ("tokens", "compute")
    assert "FLOPs are not known of any of the tokens" in told["why"]
    assert any("--flops MODEL=N" in note and "gpt-4o" in note for note in told["notes"])
    some = printed(capsys, chats, "--flops", "gpt-4o=4e11")
    assert some["by"] == "tokens"  # a quarter of the tokens still lacks them
    whole = printed(capsys, chats, "--flops", "gpt-4o=4e11", "--flops", "gpt-4o-mini=1e10")
    assert whole["by"] == "compute"
    assert whole["total"]["flops"] == 150 * 20 * 4e11 + 50 * 20 * 1e10
    assert whole["total"]["estimated"] == whole["total"]["flops"]
    assert "100.0% of the FLOPs are estimated" in whole["notes"][0]


def test_logs_of_both_kinds_are_one(
    logs: Path, chats: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = printed(capsys, logs, f"{chats.parent}/*.jsonl")
    assert told["total"]["requests"] == 1700
    assert told["log"]["lines"] == 200
    assert told["unknown"]["requests"] == 150 + 200


def test_a_classifier_may_name_what_the_log_does_not(chats: Path) -> None:
    def classify(texts: list[str]) -> list[str | None]:
        return [None if "question 4" in text else "law" for text in texts]

    found = rank(chats, classify=classify, by="requests")
    assert [(one.name, one.total.requests) for one in found.capabilities] == [("law", 160)]
    assert found.unknown.requests == 40


def test_a_router_names_what_the_log_does_not(
    chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from sprue.fleet.router import Router

    examples = [(f"{word} question {i} please", "law") for i in range(9) for word in ("a", "the")]
    others = [
        (f"bake {word} bread in an oven", "food") for word in ["brown", "white", "good", "soft"]
    ]
    Router.train([*examples, *others]).save(tmp_path / "router")
    argv = ["rank", str(chats), "--by", "requests", "--json", "--quiet"]
    assert main([*argv, "--router", str(tmp_path / "router")]) == 0
    named = json.loads(capsys.readouterr().out)["capabilities"]
    assert {one["name"] for one in named} <= {"law", "food", None}
    assert any(one["name"] == "law" for one in named)
    assert main([*argv, "--router", str(tmp_path / "none")]) == 2
    assert "there is no router" in capsys.readouterr().err


def test_what_is_damaged_is_named_everywhere(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "log"
    shutil.copytree(logs, folder)
    torn = min(folder.iterdir())
    content = bytearray(torn.read_bytes())
    content[len(content) // 2] ^= 4
    torn.write_bytes(bytes(content))
    (folder / "crash.parquet.partial").write_bytes(b"PAR1")
    assert main(["rank", str(folder), "--json", "--report", str(tmp_path / "page.html")]) == 0
    output = capsys.readouterr()
    told = json.loads(output.out)
    assert [one["file"] for one in told["log"]["skipped"]] == [str(torn)]
    assert told["total"]["requests"] == 1300
    assert f"left out: {torn}: damaged" in output.err
    assert torn.name in (tmp_path / "page.html").read_text(encoding="utf-8")
    assert main(["rank", str(folder)]) == 0
    table = capsys.readouterr().out
    assert f"left out: {torn}: damaged" in table
    assert "1 unfinished segment not read" in table


def test_what_cannot_be_ranked_is_one_line(
    logs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    with Segments(tmp_path / "hollow") as log:
        log._dropped = 1  # lost, and nothing else to write
    (tmp_path / "bad.jsonl").write_text("no\n")
    for argv, says in (
        ((tmp_path / "none",), "no such file or folder"),
        ((tmp_path / "empty",), "no log in"),
        ((tmp_path / "hollow",), "holds no requests"),
        ((tmp_path / "bad.jsonl",), "line 1: no JSON"),
        ((logs, "--tenant", "nobody"), "no request of tenant 'nobody'.*'acme', \"o'neil\""),
        ((logs, "--since", "2030-01-01"), "no request in the log is of"),
        ((logs, "--since", "2026-02-01", "--until", "2026-01-01"), "--since must lie before"),
        ((logs, "--since", "soon"), "expected a time such as"),
        ((logs, "--by", "money"), "invalid choice"),
        ((logs, "--flops", "gpt-4o"), "expected a model and FLOPs"),
        ((logs, "--flops", "gpt-4o=-1"), "expected a model and FLOPs"),
        ((logs, "--memory", "lots"), "--memory must be a size"),
        ((logs, "--top", "0"), "a whole number"),
        ((logs, "--report", tmp_path), "cannot write"),
        ((logs, "--report", tmp_path / "no" / "page.html"), "cannot write"),
    ):
        err = refused(capsys, *argv)
        assert re.search(says, err), err


def test_nothing_is_left_behind(
    chats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "tmp"
    folder.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(folder))
    rank(chats, threads=1)
    with pytest.raises(InputError):
        rank(chats, tenants=["nobody"])
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("package", ["duckdb", "sklearn.cluster", "pyarrow"])
def test_a_missing_package_is_named_with_its_extra(
    package: str, logs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'sprue[usage]'" in refused(capsys, logs)


def test_the_command_line_takes_what_the_verb_takes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import inspect
    from types import ModuleType, SimpleNamespace

    from sprue.usage.asked import SAMPLE, TOP

    seen: dict[str, Any] = {}

    def record(*args: Any, **options: Any) -> Any:
        inspect.signature(rank).bind(*args, **options)
        seen.update(options)
        return SimpleNamespace(table=lambda: "a table", left_out=[])

    fake = ModuleType("sprue.rank")
    fake.rank = record  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sprue.rank", fake)
    assert main(["rank", "a", "b", "--flops", "a=b=3e9", "--since", "0"]) == 0
    assert capsys.readouterr().out == "a table\n"
    assert (seen["top"], seen["sample"], seen["since"]) == (TOP, SAMPLE, 0.0)
    assert seen["flops"] == {"a=b": 3e9}


def test_ranking_does_without_torch() -> None:
    """It takes longer to import than a small log does to rank."""
    words = "import sys, sprue.rank; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", words], check=False).returncode == 0

"""Lines of OpenAI-style logs, of every shape that they come in."""

from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from sprue.usage import jsonl
from sprue.usage.jsonl import ANSWERED, ASKED, WHOLE, ForeignError
from sprue.usage.record import Record

CHAT: dict[str, Any] = {
    "id": "chatcmpl-1",
    "created": 1_767_225_600,
    "model": "gpt-4o",
    "user": "acme",
    "messages": [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "and then?"},
        {"role": "assistant", "content": "no"},
    ],
    "choices": [{"message": {"role": "assistant", "content": "no"}}],
    "usage": {"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15},
}


def parsed(found: Any) -> jsonl.Line:
    return jsonl.parse(json.dumps(found).encode())


def without(found: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name not in names}


def test_a_request_and_its_answer_in_one_object() -> None:
    line = parsed(CHAT)
    assert line.kind == WHOLE
    assert line.record == Record(
        time=1_767_225_600.0,
        model="gpt-4o",
        request="chatcmpl-1",
        tenant="acme",
        tokens_in=12,
        tokens_out=3,
        text="and then?",
    )


def test_a_pair_under_request_and_response() -> None:
    asked = {"model": "gpt-4o", "user": "acme", "messages": CHAT["messages"]}
    answer = {"id": "x", "model": "gpt-4o-2024", "usage": CHAT["usage"], "created": 5}
    line = parsed({"request": asked, "response": answer})
    assert line.kind == WHOLE
    one = line.record
    assert (one.model, one.request, one.tenant, one.time) == ("gpt-4o-2024", "x", "acme", 5.0)
    assert (one.tokens_in, one.text) == (12, "and then?")
    nested = parsed({"request": {"body": asked}, "response": {"status_code": 200, "body": answer}})
    assert nested.record == one


def test_halves_of_a_batch() -> None:
    body = without(CHAT, "choices", "usage", "created", "id")
    asked = parsed({"custom_id": "q1", "method": "POST", "url": "/v1/chat", "body": body})
    assert (asked.kind, asked.record.request, asked.record.text) == (ASKED, "q1", "and then?")
    assert math.isnan(asked.record.time)
    assert asked.record.tokens_in is None
    answer = {"status_code": 200, "request_id": "z", "body": without(CHAT, "messages", "user")}
    answered = parsed({"id": "b", "custom_id": "q1", "response": answer, "error": None})
    assert (answered.kind, answered.record.request) == (ANSWERED, "q1")
    assert (answered.record.tokens_out, answered.record.text) == (3, None)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("plain", "plain"),
        ([{"type": "text", "text": "a"}, {"type": "image_url"}, {"text": "b"}], "a\nb"),
        ([{"type": "image_url"}], None),
        (None, None),
        ({"odd": 1}, None),
        ("é" * 5000, "é" * jsonl.CHARACTERS),
        ([{"text": "y" * 9000}, {"text": "z"}], "y" * jsonl.CHARACTERS),
    ],
)
def test_what_the_user_said_last(content: Any, text: str | None) -> None:
    line = parsed({**CHAT, "messages": [{"role": "user", "content": content}]})
    assert line.record.text == text


def test_other_interfaces() -> None:
    bare = without(CHAT, "messages", "usage", "choices")
    usage = {"input_tokens": 4, "output_tokens": 6}
    for found, text in (
        ({**bare, "prompt": "once upon", "usage": usage}, "once upon"),
        ({**bare, "input": "hello", "usage": usage}, "hello"),
        ({**bare, "input": [{"role": "user", "content": "hi"}], "usage": usage}, "hi"),
        ({**bare, "prompt": ["a", "b"], "usage": usage}, "b"),
    ):
        one = parsed(found).record
        assert (one.text, one.tokens_in, one.tokens_out) == (text, 4, 6)


@pytest.mark.parametrize(
    ("told", "time"),
    [
        ({"created": 1.5}, 1.5),
        ({"created": 1_767_225_600_123}, 1_767_225_600.123),
        ({"created": "2026-01-01T00:00:00Z"}, 1_767_225_600.0),
        ({"created": None, "timestamp": "2026-01-01T02:00:00+02:00"}, 1_767_225_600.0),
        ({"created": None, "created_at": "2026-01-01"}, 1_767_225_600.0),
        ({"created": "1767225600"}, 1_767_225_600.0),
        ({"created": "yesterday"}, math.nan),
        ({"created": True}, math.nan),
        ({"created": [1]}, math.nan),
        ({"created": None}, math.nan),
    ],
)
def test_times(told: dict[str, Any], time: float) -> None:
    found = parsed({**CHAT, **told}).record.time
    assert found == time or (math.isnan(found) and math.isnan(time))


def test_tenant_and_capability_are_read_where_they_stand() -> None:
    bare = without(CHAT, "user")
    assert parsed(bare).record.tenant == ""
    assert parsed({**bare, "metadata": {"tenant": "x"}}).record.tenant == "x"
    assert parsed({**bare, "safety_identifier": "y"}).record.tenant == "y"
    assert parsed({**CHAT, "metadata": {"capability": "legal"}}).record.capability == "legal"
    assert parsed({**CHAT, "capability": "code"}).record.capability == "code"
    assert parsed({**CHAT, "capability": ""}).record.capability is None


def test_odd_counts_are_no_counts() -> None:
    usage = {"prompt_tokens": "12", "completion_tokens": True}
    one = parsed({**CHAT, "usage": usage}).record
    assert (one.tokens_in, one.tokens_out) == (None, None)
    assert parsed({**CHAT, "usage": {"prompt_tokens": -3}}).record.tokens_in == -3


@pytest.mark.parametrize(
    ("line", "why"),
    [
        (b'{"model": ', "no JSON: Expecting value"),
        (b"", "no JSON"),
        (b"\xff\xfe{}", "not UTF-8"),
        (b"[1, 2]", "expected an object, got a list"),
        (b'"text"', "expected an object, got a str"),
        (b"{}", "neither messages nor usage"),
        (b'{"level": "info", "message": "started"}', "neither messages nor usage"),
        (b'{"error": {"code": "x"}, "messages": [], "model": "m"}', r"that failed \(x\)"),
        (b'{"custom_id": "a"}', "custom_id with neither"),
        (b'{"custom_id": "a", "response": null, "error": {"code": "gone"}}', r"failed \(gone\)"),
        (b'{"custom_id": "a", "response": {"status_code": 429, "body": {}}}', r"failed \(429\)"),
        (b'{"request": {"body": 3}, "response": {}}', "expected objects"),
        (b"[" * 100_000, "nested too deeply|no JSON"),
        (b'{"messages": "x", "created": 1' + b"0" * 400 + b"}", "too large"),
    ],
)
def test_a_line_that_is_none_of_these_says_why(line: bytes, why: str) -> None:
    with pytest.raises(ForeignError, match=why):
        jsonl.parse(line)


def read(file: Path) -> tuple[int, list[str], list[tuple[int, str]]]:
    """Lines read, requests in their order, and lines left out."""
    requests: list[str] = []
    bad: list[tuple[int, str]] = []
    count = jsonl.convert(
        file,
        lambda kind, some: requests.extend(one.request for one in some),
        lambda number, why: bad.append((number, why)),
    )
    return count, requests, bad


def lines(*numbers: int) -> bytes:
    return b"".join(json.dumps({**CHAT, "id": f"r{i}"}).encode() + b"\n" for i in numbers)


def test_lines_are_numbered_and_blank_ones_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + lines(1) + b"\n  \nbroken\n" + lines(2, 3).rstrip())
    count, requests, bad = read(file)
    assert (count, requests) == (3, ["r1", "r2", "r3"])
    assert [number for number, _ in bad] == [4]


def test_packed_files_are_read_and_a_torn_one_as_far_as_it_goes(tmp_path: Path) -> None:
    whole = gzip.compress(lines(*range(2000)))
    file = tmp_path / "a.jsonl.gz"
    file.write_bytes(whole)
    assert read(file)[0] == 2000
    file.write_bytes(whole[: len(whole) // 2])
    count, _, bad = read(file)
    assert 0 < count < 2000
    assert "the rest cannot be read" in bad[-1][1]


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jsonl, "_LONGEST", 1 << 20)
    file = tmp_path / "a.jsonl"
    file.write_bytes(lines(1) + b"x" * 3_500_000 + b"\n" + lines(2))
    count, requests, bad = read(file)
    assert (count, requests) == (2, ["r1", "r2"])
    assert bad == [(2, "longer than 1 MB")]

"""Requests with their answers, out of a log."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from sprue.errors import InputError
from sprue.usage.exchanges import Exchange, parse, read
from sprue.usage.jsonl import ForeignError


def line(asked: Any, answered: Any = "an answer", **more: Any) -> dict[str, Any]:
    return {
        "id": "r1",
        "model": "m",
        "messages": [{"role": "system", "content": "be kind"}, {"role": "user", "content": asked}],
        "choices": [{"message": {"role": "assistant", "content": answered}}],
        **more,
    }


def parts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]


def test_a_request_and_its_answer() -> None:
    found = parse(line("what?", "that", metadata={"tenant": "acme", "capability": "law"}))
    assert found == Exchange("r1", "acme", "law", ("what?",), ("that",))
    assert found.text == "what?"


def test_texts_are_whole_however_long() -> None:
    found = parse(line("w" * 9000, "a" * 9000))
    assert len(found.asked[0]) == len(found.answered[0]) == 9000


def test_parts_are_needs() -> None:
    found = parse(line(parts("one", "two"), parts("first", "second")))
    assert (found.asked, found.answered) == (("one", "two"), ("first", "second"))
    assert found.text == "one\n\ntwo"


def test_parts_without_as_many_answers_are_one_need() -> None:
    found = parse(line(parts("one", "two"), "both"))
    assert (found.asked, found.answered) == (("one\n\ntwo",), ("both",))


def test_a_label_says_more_than_the_capability_that_was_routed_by() -> None:
    told = {"capability": "law", "label": "code", "named": True, "conversation": "c7"}
    found = parse(line("x y", metadata=told))
    assert (found.capability, found.named, found.conversation) == ("code", "law", "c7")


def test_pairs_of_request_and_response() -> None:
    asked = {"model": "m", "messages": [{"role": "user", "content": "q"}]}
    answer = {"choices": [{"message": {"content": "a"}}], "usage": {"prompt_tokens": 1}}
    pair = {"custom_id": "c", "request": {"body": asked}, "response": {"body": answer}}
    found = parse(pair)
    assert (found.asked, found.answered) == (("q",), ("a",))


def test_plain_completions() -> None:
    found = parse({"model": "m", "prompt": "once upon", "choices": [{"text": " a time"}]})
    assert (found.asked, found.answered) == (("once upon",), (" a time",))


@pytest.mark.parametrize("answered", [None, "", "  ", []])
def test_no_answer(answered: Any) -> None:
    assert parse(line("q", answered)).answered == ()


def test_nothing_asked_is_no_request() -> None:
    with pytest.raises(ForeignError, match="no text"):
        parse(line("   "))


def test_bad_lines_are_told_and_skipped(tmp_path: Path) -> None:
    file, bad = tmp_path / "log.jsonl", list[tuple[int, str]]()
    rows = [json.dumps(line("a")), "{", "[]", json.dumps({"error": {"code": 500}}), "", "\udc80"]
    file.write_bytes("\n".join([*rows, json.dumps(line("b"))]).encode("utf-8", "surrogateescape"))
    found = [one.text for one in read(file, lambda number, why: bad.append((number, why)))]
    assert found == ["a", "b"]
    assert [number for number, _ in bad] == [2, 3, 4, 6]


def test_gzip(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl.gz"
    file.write_bytes(gzip.compress(json.dumps(line("a")).encode()))
    assert [one.text for one in read(file, lambda number, why: None)] == ["a"]


def test_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no log"):
        list(read(tmp_path / "none.jsonl", lambda number, why: None))

"""Checks of answers: what passes, what is said of what does not, and how much of it can stay."""

from __future__ import annotations

import ast
import codeop
import json
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprue.errors import InputError
from sprue.fleet import checks, schema
from sprue.fleet.checks import Check, good, partial, read
from sprue.fleet.json_text import DEEPEST, Prefix, places

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)
TEXTS = st.builds(
    json.dumps,
    VALUES,
    ensure_ascii=st.booleans(),
    indent=st.sampled_from([None, 0, 2]),
    separators=st.sampled_from([None, (",", ":"), (" ,\r\n", "\t: ")]),
)
SIGNS = st.sampled_from("[]{},:\"\\ \n\t-+.eE0179aftrulnNI\x00'é") | st.characters()
SCHEMA = {
    "type": "object",
    "required": ["name"],
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]+$"},
        "parts": {"type": "array", "items": {"$ref": "#/$defs/part"}, "maxItems": 3},
    },
    "additionalProperties": False,
    "$defs": {"part": {"type": "object", "properties": {"count": {"minimum": 1}}}},
}


def one(told: object, folder: Path = Path()) -> Check:
    (found,) = read([told], folder)
    return found


def held(folder: Path, told: object) -> Check:
    pytest.importorskip("jsonschema", reason="the extra fleet is not installed")
    (folder / "s.json").write_text(json.dumps(told))
    return one({"json": "s.json"}, folder)


def strict(text: str) -> bool:
    """Whether `json.loads` takes it, without what is no JSON."""

    def refuse(word: str) -> None:
        raise ValueError(word)

    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


def whole(text: str) -> bool:
    prefix = Prefix()
    return prefix.read(text) == len(text) and prefix.whole


@given(TEXTS)
def test_every_prefix_of_json_is_taken(text: str) -> None:
    growing = Prefix()
    for char in text:
        assert growing.read(char) == 1
    assert growing.whole
    assert growing.length == len(text)
    assert one("json")(text) is None


@given(TEXTS, st.data())
def test_json_with_an_error_is_taken_only_where_loads_takes_it(text: str, data: Any) -> None:
    at = data.draw(st.integers(0, len(text)))
    cut = data.draw(st.integers(0, 2))  # one in, one for another, one for two
    changed = text[:at] + data.draw(SIGNS) + text[at + cut :]
    assert whole(changed) == strict(changed)
    assert (one("json")(changed) is None) == strict(changed)


@given(st.text(SIGNS, max_size=12))
def test_any_text_is_taken_only_where_loads_takes_it(text: str) -> None:
    assert whole(text) == strict(text)


ENDINGS = {
    "text": '"',
    "name": '":0',
    "colon": ":0",
    "value": "0",
    "first value": "",
    "first name": "",
    "next name": '"":0',
    "end": "",
    "-": "0",
    ".": "0",
    "e": "0",
    "e+": "0",
}
WORDS = ("true", "false", "null")


def ended(prefix: Prefix) -> str:
    """What makes a JSON text of what was read."""
    state, text = prefix._state, ""
    if " u" in state:
        text, state = "0" * (4 - int(state[-1])), state[:4]
    elif state.endswith(" escape"):
        text, state = "n", state[:4]
    word = next((word[len(state) :] for word in WORDS if word.startswith(state)), None)
    text += ENDINGS.get(state, "") if word is None else word
    return text + "".join("]" if b == "[" else "}" for b in reversed(prefix._open))


@given(st.text(SIGNS, max_size=12) | TEXTS, SIGNS)
def test_what_was_taken_can_be_continued_and_what_was_not_can_not(text: str, sign: str) -> None:
    text += sign
    prefix = Prefix()
    taken = prefix.read(text)
    assert strict(text[:taken] + ended(prefix))
    if taken < len(text):
        for rest in ("", "0", '"', "1]", "]", "}", '":1}', "e1", "rue", 'u0041"', " ,1]"):
            assert not strict(text[: taken + 1] + rest)


@pytest.mark.parametrize(
    ("text", "stays", "said"),
    [
        ("", 0, "expected a value, got the end of the text at line 1, character 1"),
        ("[1,\n 2,]", 7, "expected a value, got ']' at line 2, character 4"),
        (
            "{'a': 1}",
            1,
            "expected a name in double quotes or '}', got \"'\" at line 1, character 2",
        ),
        ('{"a" 1}', 5, "expected ':', got '1'"),
        ('{"a": 1 "b"', 8, "expected ',' or '}', got '\"'"),
        ("[01]", 2, "expected ',' or ']', got '1'"),
        ("[1.]", 3, "expected the rest of a number, got ']'"),
        ("nulk", 3, "expected the rest of nul, got 'k'"),
        ('"a\nb"', 2, r"expected the rest of a string, got '\n'"),
        (r'"\x"', 2, "expected the rest of an escape, got 'x'"),
        ("[NaN]", 1, "expected a value or ']', got 'N'"),
        ("1 2", 2, "expected nothing more, got '2'"),
        ("\ufeff1", 0, "expected a value"),
        ("[" * 1000, DEEPEST, f"expected at most {DEEPEST} levels, got '['"),
    ],
)
def test_json_says_what_was_expected_and_where(text: str, stays: int, said: str) -> None:
    check = one("json")
    reason = check(text)
    assert reason is not None
    assert said in reason
    assert good(check, text) == stays
    assert (partial(check, text) is None) == (stays == len(text))


def test_an_unfinished_answer_fails_only_at_its_end() -> None:
    check = one("json")
    for text in ("", "[1, tr", '{"a": "b', "-"):
        assert partial(check, text) is None
        assert check(text) is not None
        assert good(check, text) == len(text)


def test_nesting_is_taken_as_deep_as_is_said() -> None:
    deepest = "[" * DEEPEST + "]" * DEEPEST
    assert one("json")(deepest) is None
    assert one("json")(f"[{deepest}]") is not None


@given(VALUES)
def test_places_are_where_the_values_are(value: object) -> None:
    text = json.dumps(value, indent=1)
    found = list(places(text))
    assert [start for _, start in found] == sorted({start for _, start in found})
    for keys, start in found:
        inner: Any = value
        for key in keys:
            inner = inner[key]
        assert json.JSONDecoder().raw_decode(text, start)[0] == inner


@pytest.mark.parametrize(
    ("text", "stays", "said"),
    [
        ('{"name": "A"}', '{"name": ', r"s.json says at \$.name, got: 'A' does not match"),
        ('{"name": "a", "parts": [{}, {"count": 0}]}', '{"name": "a", "parts": [{}, {"count": ',
         r"at \$.parts\[1\].count, got: 0 is less than"),
        ('{"parts": [1], "name": 2}', '{"parts": [', "is not of type"),
        (' {"more": 1, "name": "a"}', " ", r"at \$, got: Additional properties"),
        ("[]", "", "not of type 'object'"),
        ('{"name": tru3}', '{"name": tru', "JSON: expected the rest of tru, got '3'"),
        ('{"name": "a"', '{"name": "a"', "JSON: expected ',' or '}', got the end"),
    ],
)  # fmt: skip
def test_json_held_against_a_schema(tmp_path: Path, text: str, stays: str, said: str) -> None:
    check = held(tmp_path, SCHEMA)
    assert check('{"name": "a", "parts": [{"count": 2}, {}]}') is None
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(check(text))
    assert text[: good(check, text)] == stays


def test_of_a_schema_only_json_is_known_before_the_end(tmp_path: Path) -> None:
    check = held(tmp_path, SCHEMA)
    assert partial(check, '{"name": 1') is None
    assert partial(check, '{"name": 1]') is not None


def test_numbers_that_python_can_not_hold_fail(tmp_path: Path) -> None:
    check = held(tmp_path, {"items": {"multipleOf": 0.1}})
    for text in (f"[{'1' * 5000}]", "[1e999]"):
        assert "held against s.json" in str(check(text))
        assert good(check, text) == 0


def test_reasons_are_short(tmp_path: Path) -> None:
    text = json.dumps("x" * 5000)
    assert len(str(held(tmp_path, {"type": "integer"})(text))) < 300
    assert len(str(one({"regex": "a"})(text))) < 300


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"type": "strin"}, r"no JSON Schema: at \$.type: 'strin'"),
        ({"items": {"pattern": "("}}, "no JSON Schema"),
        ([1], "no JSON Schema"),
        ({"items": {"$ref": "#/$defs/no"}}, "there is no '#/\\$defs/no'"),
        ({"$ref": "https://example.com/x"}, "there is no 'https://example.com/x'"),
        ({"$ref": "#"}, "leads back to itself"),
        ({"$schema": "https://example.com/x"}, "published draft"),
        ({"$schema": 3}, "published draft"),
    ],
)
def test_schemas_that_can_not_be_used(tmp_path: Path, told: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        held(tmp_path, told)


def test_schemas_of_any_draft(tmp_path: Path) -> None:
    draft = "http://json-schema.org/draft-07/schema#"
    told = {"$schema": draft, "definitions": {"a": {"const": 1}}, "$ref": "#/definitions/a"}
    assert held(tmp_path, told)("1") is None
    assert held(tmp_path, told)("2") is not None
    assert held(tmp_path, False)("1") is not None
    assert held(tmp_path, {"const": {"$ref": "no reference"}})('{"$ref": "no reference"}') is None


@pytest.mark.parametrize("content", [None, b"{", b"\xff", b"[" * 10_000])
def test_files_that_are_no_schema(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "s.json").write_bytes(content)
    with pytest.raises(InputError, match="expected a JSON Schema"):
        read([{"json": "s.json"}], tmp_path)


def test_a_schema_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jsonschema.validators", None)
    with pytest.raises(InputError, match=r"pip install 'sprue\[fleet\]'"):
        held(tmp_path, {})
    assert one("json")("1") is None  # and the others go without


@pytest.mark.parametrize(
    ("text", "stays", "said"),
    [
        ("x = = 1", "", "an error at line 1: invalid syntax"),
        ("if a:\n  b = = 1\n", "if a:\n", "an error at line 2"),
        ("a b\n\n\n'no end", "", "an error at line 1"),  # Python says line 4
        ("x\r\ny\rz = = 1", "x\r\ny\r", "an error at line 3"),
        ("x\n(1,\n2\ny = 3\n", "x\n", r"an error at line 2: '\(' was never closed"),
        ("x\ntry:\n  y\nz\n", "x\ntry:\n  y\n", "an error at line 4"),
        ("x\ny = 'a", "x\n", "unterminated string"),
        ("x\n  y", "x\n", "unexpected indent"),
        ("x\n\0", "x\n", r"an error at line 2: U\+0000"),
        ("x\n'\ud800'", "x\n", r"an error at line 2: U\+D800"),
        ("x\n" + "-" * 100_000 + "1", "", "an error: what is nested too deeply"),
        ("x" + ".x" * 100_000, "", "nested too deeply"),
        ("1" * 5000, "", "4300 digits"),
        ("```python\nx\ny = = 2\n```", "```python\nx\n", "an error at line 3"),
        ("```python\nx\n```\nHere's it", "```python\nx\n", "an error at line 3"),
        ("Here it is:\n```python\nx\n```", "", "an error at line 1"),
        ("```python\nx\n", "```python\nx\n", "closed ``` fence, got the end of the text"),
        ("```json\nx\n```", "", "an error at line 1"),
    ],
)
def test_python_that_is_none(text: str, stays: str, said: str) -> None:
    check = one("python")
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(check(text))
    assert text[: good(check, text)] == stays


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x = 1",
        "```python\nx = 1\n```",
        "\n```py\r\nif x:\r\n  y\r\n```\n",
        "```\n'''\n```\n'''\n```",
        "````python3\nx = '''\n```\n'''\n````",
        "'''\n```python\n= =\n```\n'''\n",  # a fence in a string is no fence
        "raise SystemExit",  # it is not run
    ],
)
def test_python(text: str) -> None:
    check = one("python")
    assert check(text) is None
    assert good(check, text) == len(text)


def test_warnings_of_an_answer_stay_with_it() -> None:
    with pytest.raises(SyntaxError, match="invalid escape"):  # warnings are errors here
        ast.parse(r"'\d'")
    before = list(warnings.filters)
    assert one("python")("'\\d'\n1 is 1\nassert (x, 'y')\n") is None
    assert warnings.filters == before


def test_one_thread_at_a_time_changes_how_warnings_are_treated(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before, inside, most = list(warnings.filters), 0, 0
    ignore = warnings.simplefilter

    def slow(action: Any) -> None:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.001)  # lets others in, if they can come
        ignore(action)
        inside -= 1

    monkeypatch.setattr(warnings, "simplefilter", slow)
    found: list[str | None] = []
    work = [
        threading.Thread(target=lambda: found.extend(one("python")(r"'\d'") for _ in range(10)))
        for _ in range(4)
    ]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    assert found == [None] * 40
    assert most == 1
    assert warnings.filters == before


@pytest.mark.parametrize("wrong", ["= =\n", "a b\n", "x = $\n", "else else\n"])
def test_lines_before_a_wrong_one_stay(wrong: str) -> None:
    text = Path(checks.__file__).read_text(encoding="utf-8")
    lines = text.splitlines(keepends=True)
    starts = [node.lineno - 1 for node in ast.parse(text).body][1::3]
    for k in starts:
        broken = "".join([*lines[:k], wrong, *lines[k:], "'no end"])
        assert broken[: good(one("python"), broken)] == "".join(lines[:k])


def test_python_is_judged_at_its_end_alone() -> None:
    for start, end in (("x = 'a", "'"), ("x = \\\n", "1")):
        ast.parse(start + end)
        with pytest.raises(SyntaxError):  # which is why it can't tell early
            codeop.compile_command(start, symbol="exec")
        assert partial(one("python"), start) is None
    assert vars(codeop)["PyCF_ALLOW_INCOMPLETE_INPUT"] == checks._INCOMPLETE


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [1", "line 1, character 6"),
        ("a: 1\nb: c: d", "not allowed here at line 2, character 5"),
        ("a: 2020-13-45", "month must be in 1..12"),
        ("!!bool x", "can't be read"),
        ("!!int ''", "can't be read"),
        ("!!timestamp x", "can't be read"),
        ("!!python/object:os.system x", "could not determine a constructor"),
        ("a\n---\nb", "another document"),
        ("\0", "#x0000"),
        ("[" * 1000, "nested too deeply"),
    ],
)
def test_yaml_that_is_none(text: str, said: str) -> None:
    with pytest.raises(AssertionError, match=said):
        raise AssertionError(one("yaml")(text))
    assert good(one("yaml"), text) == 0
    assert partial(one("yaml"), text) is None


@given(st.text(st.sampled_from("!&*:-?[]{}#|>%'\"<= \n\t.019aTbx_+") | st.characters()))
def test_no_text_breaks_a_check(text: str) -> None:
    for check in read(["yaml", "python", "json"], Path()):
        passes = check(text) is None
        assert 0 <= good(check, text) <= len(text)
        assert not passes or (good(check, text) == len(text) and partial(check, text) is None)


def test_yaml_and_patterns_that_pass() -> None:
    assert one("yaml")("a: [1, 2]\nb: &x c\nd: *x\n") is None
    letters = one({"regex": "[A-Z]{3}"})
    assert letters("ABC") is None
    assert good(letters, "ABC") == 3
    for text in ("ABCD", "ABC\n", "xABC", ""):
        assert "'[A-Z]{3}' matches in full" in str(letters(text))
        assert good(letters, text) == 0
    assert partial(letters, "abc") is None


def test_several_checks_keep_their_order(tmp_path: Path) -> None:
    held(tmp_path, True)
    told = ["python", {"json": "s.json"}, {"regex": ".*"}, "yaml", "json"]
    names = [check.name for check in read(told, tmp_path)]
    assert names == ["python", "json", "regex", "yaml", "json"]
    assert read([], tmp_path) == ()


@pytest.mark.parametrize(
    ("told", "said"),
    [
        (None, "checks as a list of json, python"),
        ("python", "checks as a list"),
        ({"json": "s.json"}, "checks as a list"),
        (["numbers"], "expected a check as json, python, .* got 'numbers'"),
        (["regex"], "expected a check as"),
        ([{"python": "x"}], "expected a check as"),
        ([{"json": "s.json", "regex": "x"}], "expected a check as"),
        ([{}], "expected a check as"),
        ([["json"]], "expected a check as"),
        ([3], "expected a check as"),
        ([{"json": None}], "the file of a JSON Schema for the check 'json', got None"),
        ([{"json": ""}], "the file of a JSON Schema"),
        ([{"regex": 3}], "a pattern in quotes for the check 'regex', got 3"),
        ([{"regex": "("}], r"a regular expression, got '\('"),
        ([{"regex": "a{99999999999999999999}"}], "a regular expression"),
    ],
)
def test_what_is_no_check(told: object, said: str) -> None:
    with pytest.raises(InputError, match=said):
        read(told, Path())


def test_a_reason_of_another_library_is_one_short_line() -> None:
    assert schema.said("a\n  b") == "a b"
    assert len(schema.said("x" * 500)) == 200

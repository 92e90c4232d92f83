"""Checks of a specialist's answer that need no model: whether it is JSON, Python, YAML, or matches.

Nothing of an answer is ever run. A file of a fleet names them: `checks: [python]`,
`checks: [{json: schema.json}]`, `checks: [{regex: '[A-Z]{3}'}]`. Where an answer fails one, the
full model can write on from where it was still good.
"""

from __future__ import annotations

import ast
import re
import threading
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from sprue.errors import InputError
from sprue.fleet.json_text import Prefix, fault
from sprue.fleet.schema import Schema, said

_FORMS = "json, python, yaml, {json: SCHEMA.json} or {regex: PATTERN}"
_SHOWN = 60  # characters of an answer in a reason
_INCOMPLETE = 0x4000  # the compiler's flag PyCF_ALLOW_INCOMPLETE_INPUT, as `codeop` has it
_DEEP = "what is nested too deeply"
_BREAK = re.compile(r"\r\n|\r|\n")  # what ends a line of Python
_FENCE = re.compile(r"[ \t\r\n]*(`{3,})[ \t]*(?:python3?|py)?[ \t]*(?:\r\n|\r|\n)", re.IGNORECASE)
_STRANGE = re.compile(r"[\0\ud800-\udfff]")  # Python's source can't hold them
_WARNINGS = threading.Lock()  # how warnings are treated is the whole process's


@dataclass(frozen=True)
class Check:
    """Calling it with a finished answer gives None, or a short reason why it fails.

    Attributes:
        name: its kind.
    """

    name: str
    _fault: Callable[[str], str | None] = field(repr=False)
    _partial: Callable[[str], str | None] = field(repr=False, default=lambda text: None)
    _good: Callable[[str], int] = field(repr=False, default=lambda text: 0)

    def __call__(self, text: str) -> str | None:
        return self._fault(text)


def partial(check: Check, text: str) -> str | None:
    """Why no answer that begins so can pass; None: one may, or that is not known.

    It is known of JSON alone; of a schema, only that JSON is asked for. Of Python it is not:
    `codeop` refuses `x = 'a`, which may become `x = 'a'`. `json_text.Prefix` says the same of a
    growing answer without reading it anew.
    """
    return check._partial(text)


def good(check: Check, text: str) -> int:
    """How many characters of an answer can stay.

    Of one that passes all; of JSON the longest beginning of a JSON text, or what comes before the
    first value that the schema refuses; of Python the lines before the first that is wrong; of
    others none.
    """
    return len(text) if check(text) is None else check._good(text)


def read(told: object, folder: Path) -> tuple[Check, ...]:
    """The checks that a fleet's file names.

    Args:
        told: the list from YAML.
        folder: that the names of schemas start in.

    Raises:
        InputError: not a list of such names, a schema or a pattern that can't be used, or
            jsonschema is missing.
    """
    if not isinstance(told, list):
        raise InputError(f"expected checks as a list of {_FORMS}, got {told!r}")
    return tuple(_read(one, folder) for one in told)


def _read(told: object, folder: Path) -> Check:
    if isinstance(told, str) and told in _NAMED:
        return _NAMED[told]
    if isinstance(told, dict) and list(told) in (["json"], ["regex"]):
        ((kind, given),) = told.items()
        if not isinstance(given, str) or not given:
            what = "the file of a JSON Schema" if kind == "json" else "a pattern in quotes"
            raise InputError(f"expected {what} for the check {kind!r}, got {given!r}")
        return _schema(folder / given) if kind == "json" else _regex(given)
    raise InputError(f"expected a check as {_FORMS}, got {told!r}")


def _json(text: str) -> str | None:
    found = fault(text)
    return f"JSON: {found}" if found else None


def _json_partial(text: str) -> str | None:
    found = fault(text, finished=False)
    return f"JSON: {found}" if found else None


def _json_good(text: str) -> int:
    return Prefix().read(text)


def _schema(file: Path) -> Check:
    schema = Schema.load(file)
    return Check(
        "json",
        lambda text: _json(text) or schema.fault(text),
        _json_partial,
        lambda text: _json_good(text) if _json(text) else schema.good(text),
    )


@dataclass(frozen=True)
class _Wrong:
    """An error in a text of Python.

    Attributes:
        line: from 1; 0: nobody knows.
        what: it is.
    """

    line: int
    what: str


def _python(text: str) -> str | None:
    code, closed = _code(text)
    wrong = _first(code)
    if wrong is not None:
        at = f" at line {wrong.line}" if wrong.line else ""
        return f"expected Python, got an error{at}: {wrong.what}"
    return None if closed else "expected Python in a closed ``` fence, got the end of the text"


def _python_good(text: str) -> int:
    wrong = _first(_code(text)[0])
    return len(text) if wrong is None else _start(text, wrong.line)


def _code(text: str) -> tuple[str, bool]:
    """Without a fence around all of it, on the same lines; whether that is closed."""
    opened = _FENCE.match(text)
    if opened is None:
        return text, True
    body = text[opened.end() :]
    closing = re.search(rf"(?:\A|(?<=[\r\n]))[ \t]*{opened[1]}[ \t\r\n]*\Z", body)
    blank = "\n" * len(_BREAK.findall(opened[0]))
    return blank + (body[: closing.start()] if closing else body), closing is not None


def _first(code: str) -> _Wrong | None:
    """The first error: a string that does not end is told before what is wrong above it."""
    found = _wrong(code, 0)
    while found is not None:
        earlier = _wrong(code[: _start(code, found.line)], _INCOMPLETE)
        if earlier is None or earlier.line >= found.line:
            break
        found = earlier
    return found


def _wrong(code: str, flags: int) -> _Wrong | None:
    """What Python says about it; with the flag, not that it should go on."""
    strange = _STRANGE.search(code)
    if strange is not None:
        line = len(_BREAK.findall(code, 0, strange.start())) + 1
        return _Wrong(line, f"U+{ord(strange[0]):04X}")
    try:
        with _WARNINGS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # As `ast.parse`, which does not take this flag.
            compile(code, "<answer>", "exec", ast.PyCF_ONLY_AST | flags, dont_inherit=True)
    except SyntaxError as error:
        more = bool(flags) and error.msg == "incomplete input"
        return None if more else _Wrong(error.lineno or 0, said(error.msg))
    except (RecursionError, MemoryError):
        return _Wrong(0, _DEEP)
    return None


def _start(text: str, line: int) -> int:
    """The character that a line of Python starts at."""
    starts = [0, *(found.end() for found in _BREAK.finditer(text))]
    return starts[max(line, 1) - 1] if line <= len(starts) else len(text)


def _yaml(text: str) -> str | None:
    try:
        yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark
        at = f" at line {mark.line + 1}, character {mark.column + 1}" if mark else ""
        return f"expected YAML, got: {said(error.problem or str(error))}{at}"
    except RecursionError:
        return f"expected YAML, got {_DEEP}"
    except (yaml.YAMLError, ValueError, LookupError, AttributeError) as error:
        # The last three: PyYAML does not look whether a year has that month, or a tag's value fits.
        return f"expected YAML, got what can't be read: {said(str(error))}"
    return None


def _regex(pattern: str) -> Check:
    try:
        whole = re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InputError(f"expected a regular expression, got {pattern!r}: {error}") from error

    def told(text: str) -> str | None:
        if whole.fullmatch(text):
            return None
        some = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
        return f"expected a text that {pattern!r} matches in full, got {some!r}"

    return Check("regex", told)


_NAMED = {
    "json": Check("json", _json, _json_partial, _json_good),
    "python": Check("python", _python, _good=_python_good),
    "yaml": Check("yaml", _yaml),
}

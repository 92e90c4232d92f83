"""JSON that is still being written: which character may come next (RFC 8259).

A pushdown automaton reads one character after the other. What it has taken can always be continued
to a JSON text, and what it has refused can't, so an answer that went wrong is known at once. NaN
and Infinity, which `json.loads` takes, are no JSON; nesting has a limit, as section 9 allows.
"""

from __future__ import annotations

import json
import re
from collections.abc import Generator

DEEPEST = 128  # levels: readers that call themselves reach that many from any depth of calls

Keys = tuple[str | int, ...]  # names and places from the whole value down to one in it

_SPACE = " \t\n\r"
_DIGITS = "0123456789"
_HEX = "0123456789abcdefABCDEF"
_PLAIN = re.compile(r'[^"\\\x00-\x1f]*')  # what a string holds as it is
_BLANK = re.compile(rf"[{_SPACE}]*")
_STRINGS = ("name", "text")
_NUMBERS = ("0", "1", ".1", "e1")  # states at which a number may end
_AFTER_COMMA = {"[": "value", "{": "next name"}
_EMPTY = {"[": "first value", "{": "first name"}
_PAIRS = ("[]", "{}")
_EXPECTED = {
    "value": "a value",
    "first value": "a value or ']'",
    "next name": "a name in double quotes",
    "first name": "a name in double quotes or '}'",
    "colon": "':'",
    "name": "the rest of a name",
    "text": "the rest of a string",
}
_AFTER_VALUE = {"": "nothing more", "[": "',' or ']'", "{": "',' or '}'"}


def _string(state: str, after: str) -> dict[str, dict[str, str]]:
    """In a string: what is not plain, and the rest of an escape."""
    escape, digits = f"{state} escape", [f"{state} u{i}" for i in range(4)]
    steps = {
        state: {'"': after, "\\": escape},
        escape: dict.fromkeys('"\\/bfnrt', state) | {"u": digits[0]},
    }
    for one, following in zip(digits, [*digits[1:], state], strict=True):
        steps[one] = dict.fromkeys(_HEX, following)
    return steps


def _words() -> dict[str, dict[str, str]]:
    """The rest of true, false and null; a state is what was read of it."""
    return {
        word[:i]: {word[i]: word[: i + 1] if i + 1 < len(word) else "end"}
        for word in ("true", "false", "null")
        for i in range(1, len(word))
    }


def _numbers() -> dict[str, dict[str, str]]:
    """The rest of a number; a state is named after the shortest that leads there."""
    exponent = dict.fromkeys("eE", "e")
    return {
        "-": {"0": "0"} | dict.fromkeys(_DIGITS[1:], "1"),
        "0": {".": "."} | exponent,
        "1": dict.fromkeys(_DIGITS, "1") | {".": "."} | exponent,
        ".": dict.fromkeys(_DIGITS, ".1"),
        ".1": dict.fromkeys(_DIGITS, ".1") | exponent,
        "e": dict.fromkeys("+-", "e+") | dict.fromkeys(_DIGITS, "e1"),
        "e+": dict.fromkeys(_DIGITS, "e1"),
        "e1": dict.fromkeys(_DIGITS, "e1"),
    }


def _steps() -> dict[str, dict[str, str]]:
    """State -> character -> state, but for what opens, parts and closes lists and objects."""
    value = {'"': "text", "t": "t", "f": "f", "n": "n"} | _numbers()["-"] | {"-": "-"}
    steps = {
        "value": value,
        "first value": dict(value),
        "first name": {'"': "name"},
        "next name": {'"': "name"},
        "colon": {":": "value"},
        "end": {},
    }
    for state, own in steps.items():
        own.update(dict.fromkeys(_SPACE, state))
    return steps | _string("name", "colon") | _string("text", "end") | _words() | _numbers()


_STEPS = _steps()


class Prefix:
    """What was read of a JSON text.

    Attributes:
        length: characters read so far.
    """

    def __init__(self) -> None:
        self.length = 0
        self._state = "value"
        self._open: list[str] = []  # brackets that are not closed yet

    def read(self, text: str) -> int:
        """Read on.

        Returns:
            How many of the characters can follow; where they are not all, no JSON text goes on
            with the next one, and it was not read.
        """
        at = 0
        while at < len(text):
            if self._state in _STRINGS:
                at += len(_plain(text, at))
                if at == len(text):
                    break
            if not self._take(text[at]):
                break
            at += 1
        self.length += at
        return at

    def _take(self, char: str) -> bool:
        state = self._ended(char)
        nests = char in "[]{}," and state not in _STRINGS
        after = self._nested(state, char) if nests else _STEPS[state].get(char)
        if after is None:
            return False
        self._state = after
        return True

    def _ended(self, char: str) -> str:
        """The state; only what follows a number tells that it has ended."""
        if self._state in _NUMBERS and char not in _STEPS[self._state]:
            return "end"
        return self._state

    def _nested(self, state: str, char: str) -> str | None:
        """The state after a bracket or a comma, if it can stand here."""
        if char in "[{":
            if state not in ("value", "first value") or len(self._open) >= DEEPEST:
                return None
            self._open.append(char)
            return _EMPTY[char]
        inside = self._inside
        if char == ",":
            return _AFTER_COMMA.get(inside) if state == "end" else None
        if inside + char not in _PAIRS or state not in ("end", _EMPTY[inside]):
            return None
        self._open.pop()
        return "end"

    @property
    def _inside(self) -> str:
        return self._open[-1] if self._open else ""

    @property
    def whole(self) -> bool:
        """Whether it is one JSON value already, whatever may follow."""
        return not self._open and self._state in ("end", *_NUMBERS)

    @property
    def expected(self) -> str:
        """What can follow, in words."""
        state = self._state
        if state in ("end", *_NUMBERS):
            return _AFTER_VALUE[self._inside]
        if state in _EXPECTED:
            return _EXPECTED[state]
        if state.startswith(_STRINGS):
            return "the rest of an escape"
        return f"the rest of {state}" if state[0] in "tfn" else "the rest of a number"


def fault(text: str, finished: bool = True) -> str | None:
    """Why a text is no JSON; None: it is.

    Args:
        text: all of it, or how it begins.
        finished: False: whether no text that begins so can be JSON.
    """
    prefix = Prefix()
    good = prefix.read(text)
    if good < len(text):
        expected = prefix.expected
        if text[good] in "[{" and prefix._state in ("value", "first value"):
            expected = f"at most {DEEPEST} levels"
        return f"expected {expected}, got {text[good]!r} at {where(text, good)}"
    if finished and not prefix.whole:
        return f"expected {prefix.expected}, got the end of the text at {where(text, good)}"
    return None


def where(text: str, at: int) -> str:
    """Line and character, from 1."""
    return f"line {text.count(chr(10), 0, at) + 1}, character {at - text.rfind(chr(10), 0, at)}"


def places(text: str) -> Generator[tuple[Keys, int], None, int]:
    """Every value of a JSON text and the character that it begins at, in order of the text.

    Args:
        text: one in which `fault` finds none.
    """
    return _places(text, _after_space(text, 0), ())


def _places(text: str, at: int, keys: Keys) -> Generator[tuple[Keys, int], None, int]:
    """Returns where the value ends."""
    yield keys, at
    if text[at] not in "[{":
        return _value(text, at)[1]
    named, count = text[at] == "{", 0
    at = _after_space(text, at + 1)
    while text[at] not in "]}":
        key: str | int = count
        if named:
            name, at = _value(text, at)
            key, at = str(name), _after_space(text, _after_space(text, at) + 1)  # after the colon
        at = _after_space(text, (yield from _places(text, at, (*keys, key))))
        if text[at] == ",":
            at = _after_space(text, at + 1)
        count += 1
    return at + 1


def _value(text: str, at: int) -> tuple[object, int]:
    """A string, number or word, and where it ends; integers stay text, however long they are."""
    found: tuple[object, int] = _DECODER.raw_decode(text, at)
    return found


_DECODER = json.JSONDecoder(parse_int=str)


def _plain(text: str, at: int) -> str:
    found = _PLAIN.match(text, at)
    return found[0] if found else ""


def _after_space(text: str, at: int) -> int:
    found = _BLANK.match(text, at)
    return found.end() if found else at

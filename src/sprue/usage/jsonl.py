"""Logs as OpenAI's chat completions leave them, one JSON object on a line.

Lines may be a request with its answer in one object (`model`, `messages`, `usage`, `created`,
`user`), a pair under `request` and `response`, or lines of a batch: `custom_id` with `body` is a
request and with `response` its answer, which are joined by that name.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, cast

from sprue.usage.record import Record

WHOLE, ASKED, ANSWERED = "whole", "asked", "answered"
CHARACTERS = 2512  # of a text that are read: a bit more than is looked at, so that keys stay whole

_LONGEST = 64 << 20  # bytes of a line
_ROWS = 20_000  # that are put away at once
_MILLISECONDS = 1e11  # seconds that lie three thousand years ahead: such a time counts thousandths
_BAD = 400  # HTTP status from which a request failed

_Json = Mapping[str, Any]


class ForeignError(Exception):
    """A line that is none of these; the words say why."""


@dataclass(frozen=True)
class Line:
    """What a line says.

    Attributes:
        kind: WHOLE, ASKED or ANSWERED; of the last two, `record.request` names the other half.
        record: with what is known.
    """

    kind: str
    record: Record


def convert(
    file: Path, put: Callable[[str, list[Record]], None], skip: Callable[[int, str], None]
) -> int:
    """Read a file line by line.

    Args:
        file: .jsonl, or the same in gzip.
        put: called with a kind and some records of it.
        skip: called with the number of a line that cannot be read, and why.

    Returns:
        lines that were read.

    Raises:
        OSError: the file cannot be opened.
    """
    waiting: dict[str, list[Record]] = {WHOLE: [], ASKED: [], ANSWERED: []}
    count = 0
    for number, text in lines(file, skip):
        try:
            line = parse(text)
        except ForeignError as error:
            skip(number, str(error))
            continue
        count += 1
        some = waiting[line.kind]
        some.append(line.record)
        if len(some) >= _ROWS:
            put(line.kind, some)
            some.clear()
    for kind, some in waiting.items():
        if some:
            put(kind, some)
    return count


def parse(text: bytes) -> Line:
    """One line.

    Raises:
        ForeignError: it is no such line, or a request that failed.
    """
    return line_of(loaded(text))


def loaded(text: bytes) -> _Json:
    """The object of one line.

    Raises:
        ForeignError: it is none.
    """
    try:
        found = json.loads(text.decode())
    except UnicodeDecodeError:
        raise ForeignError("not UTF-8") from None
    except RecursionError:
        raise ForeignError("JSON that is nested too deeply") from None
    except ValueError as error:
        raise ForeignError(f"no JSON: {getattr(error, 'msg', error)}") from None
    if not isinstance(found, dict):
        raise ForeignError(f"expected an object, got a {type(found).__name__}")
    return found


def line_of(found: _Json) -> Line:
    """What such an object says.

    Raises:
        ForeignError: it is no such line, or a request that failed.
    """
    try:
        return _line(found)
    except OverflowError:
        raise ForeignError("a number that is too large") from None


def _line(found: _Json) -> Line:
    name = found.get("custom_id")
    request, response = _object(found, "request"), _object(found, "response")
    if name is not None and response is None:
        body = _object(found, "body")
        if body is None:
            raise _failed(found) or ForeignError("custom_id with neither a body nor a response")
        return Line(ASKED, _record({**found, **body}, body, {}, str(name)))
    if request is None and response is None:
        return Line(WHOLE, _record(found, found, found, str(found.get("id") or "")))
    error = _failed(found) or _failed(response or {})
    if error is not None:
        raise error
    asked = (request or {}).get("body", request) or {}
    answer = (response or {}).get("body", response) or {}
    if not isinstance(asked, dict) or not isinstance(answer, dict):
        raise ForeignError("expected objects as request and response")
    kind = WHOLE if request is not None or name is None else ANSWERED
    told = {**found, **asked, **answer}
    label = name if name is not None else told.get("id") or ""
    return Line(kind, _record(told, asked, answer, str(label)))


def _failed(found: _Json) -> ForeignError | None:
    """An answer that is an error: it answered nothing."""
    status, error = found.get("status_code"), found.get("error")
    body = found.get("body")
    if error is None and isinstance(body, dict):
        error = body.get("error")
    if error or (isinstance(status, int) and status >= _BAD):
        code = error.get("code") if isinstance(error, dict) else None
        return ForeignError(f"a request that failed ({code or status or 'error'})")
    return None


def _record(told: _Json, asked: _Json, answer: _Json, request: str) -> Record:
    """From all that is told, from the request's side and from the answer's."""
    usage = _object(answer, "usage") or {}
    if not (answer.get("usage") or answer.get("choices") or _has_text(asked)):
        raise ForeignError("neither messages nor usage in it: no chat completion")
    if not usage and told.get("error"):
        raise _failed(told) or ForeignError("a request that failed")
    model = answer.get("model") or asked.get("model")
    metadata = _object(told, "metadata") or {}
    tenant = _first(told, "user", "tenant", "safety_identifier") or metadata.get("tenant")
    capability = told.get("capability") or metadata.get("capability")
    return Record(
        time=_time(told),
        model=str(model or ""),
        request=request,
        tenant=str(tenant or ""),
        capability=str(capability) if isinstance(capability, str) and capability else None,
        tokens_in=_whole(_first(usage, "prompt_tokens", "input_tokens")),
        tokens_out=_whole(_first(usage, "completion_tokens", "output_tokens")),
        text=_text(asked),
    )


def _has_text(asked: _Json) -> bool:
    return any(isinstance(asked.get(k), str | list) for k in ("messages", "prompt", "input"))


def _text(asked: _Json) -> str | None:
    """What the user said last."""
    messages = asked.get("messages")
    if not isinstance(messages, list):
        messages = next((m for k in ("input", "prompt") if (m := asked.get(k)) is not None), None)
    if isinstance(messages, str):
        return messages[:CHARACTERS]
    for message in reversed(messages if isinstance(messages, list) else []):
        if isinstance(message, str):
            return message[:CHARACTERS]
        if isinstance(message, dict) and message.get("role") == "user":
            return _content(message.get("content"))
    return None


def _content(content: Any) -> str | None:
    """A text, or the texts among several parts."""
    if isinstance(content, str):
        return content[:CHARACTERS]
    parts = content if isinstance(content, list) else []
    texts = [part["text"] for part in parts if isinstance(part, dict) and _is_text(part)]
    return "\n".join(text[:CHARACTERS] for text in texts)[:CHARACTERS] if texts else None


def _is_text(part: _Json) -> bool:
    return isinstance(part.get("text"), str)


def _time(told: _Json) -> float:
    """Seconds since 1970; NaN where no time is told."""
    value = _first(told, "created", "created_at", "timestamp", "time")
    if isinstance(value, str):
        with suppress(ValueError):
            moment = datetime.fromisoformat(value)
            return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
        with suppress(ValueError):
            value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    return value / 1000 if abs(value) > _MILLISECONDS else float(value)


def _first(found: _Json, *names: str) -> Any:
    for name in names:
        if (value := found.get(name)) is not None:
            return value
    return None


def _object(found: _Json, name: str) -> _Json | None:
    value = found.get(name)
    return value if isinstance(value, dict) else None


def _whole(value: Any) -> int | None:
    """A count of tokens; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return int(value)


def lines(file: Path, skip: Callable[[int, str], object]) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers."""
    number, stream = 0, _open(file)
    try:
        while text := stream.readline(_LONGEST):
            number += 1
            if len(text) == _LONGEST and not text.endswith(b"\n"):
                skip(number, f"longer than {_LONGEST >> 20} MB")
                while (rest := stream.readline(_LONGEST)) and not rest.endswith(b"\n"):
                    pass
                continue
            text = text.removeprefix(b"\xef\xbb\xbf") if number == 1 else text
            if text.strip():
                yield number, text
    except (OSError, EOFError, zlib.error) as error:
        skip(number + 1, f"the rest cannot be read: {error}")
    finally:
        stream.close()


def _open(file: Path) -> IO[bytes]:
    with file.open("rb") as stream:
        packed = stream.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(file, "rb") if packed else file.open("rb"))

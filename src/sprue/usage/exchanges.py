"""Requests with their answers, as a log of JSON lines holds them: what a replay asks again.

A request with several needs has several parts in its last message, and its answer as many. Who only
looks at texts (routers) sees them joined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sprue.errors import InputError
from sprue.usage import jsonl

JOINT = "\n\n"  # between the parts of a request, and of an answer


@dataclass(frozen=True)
class Exchange:
    """A request and its answer.

    Attributes:
        request: its name.
        tenant: whose it is; "" where nobody said.
        capability: that it is truly of, where someone has looked (`label` in its metadata), or else
            that the log says; of several parts "a+b"; None: nothing is said.
        asked: the parts of what was asked, one at least.
        answered: the part of the answer for each; empty where the log holds none.
        conversation: its name; "" where it belongs to none.
        named: the capability that the caller itself named, so that nothing need be routed; None: it
            named none.
    """

    request: str
    tenant: str
    capability: str | None
    asked: tuple[str, ...]
    answered: tuple[str, ...]
    conversation: str = ""
    named: str | None = None

    @property
    def text(self) -> str:
        """All that was asked."""
        return JOINT.join(self.asked)


def read(file: Path, skip: Callable[[int, str], object]) -> Iterator[Exchange]:
    """The exchanges of a .jsonl file, plain or in gzip, line by line.

    Args:
        file: OpenAI-style lines that hold a request and its answer.
        skip: called with the number of a line that cannot be used, and why.

    Raises:
        InputError: there is no such file.
    """
    if not file.is_file():
        raise InputError(f"there is no log {file}: expected a .jsonl file")
    for number, line in jsonl.lines(file, skip):
        try:
            yield parse(jsonl.loaded(line))
        except jsonl.ForeignError as error:
            skip(number, str(error))


def parse(found: Mapping[str, Any]) -> Exchange:
    """One line.

    Raises:
        ForeignError: no request in it, or parts that do not fit those of the answer.
    """
    record = jsonl.line_of(found).record
    request, response = (found.get(name) for name in ("request", "response"))
    asked = _body(request) if isinstance(request, dict) else found
    answer = _body(response) if isinstance(response, dict) else found
    parts, answered = _asked(asked), _answered(answer)
    if not parts:
        raise jsonl.ForeignError("no text was asked")
    if answered and len(answered) != len(parts):
        joined = JOINT.join(answered)
        parts, answered = (JOINT.join(parts),), (joined,)
    metadata = found.get("metadata")
    told = metadata if isinstance(metadata, dict) else {}
    conversation = told.get("conversation") or found.get("conversation") or ""
    label = told.get("label")
    return Exchange(
        record.request,
        record.tenant,
        str(label) if label else record.capability,
        parts,
        answered,
        str(conversation),
        record.capability if told.get("named") else None,
    )


def _body(told: Mapping[str, Any]) -> Mapping[str, Any]:
    body = told.get("body")
    return body if isinstance(body, dict) else told


def _asked(told: Mapping[str, Any]) -> tuple[str, ...]:
    """Parts of what the user said last."""
    messages: Any = told.get("messages")
    for message in reversed(messages) if isinstance(messages, list) else ():
        if isinstance(message, dict) and message.get("role") == "user":
            return _parts(message.get("content"))
    given = told.get("prompt", told.get("input"))
    return _parts(given)


def _answered(told: Mapping[str, Any]) -> tuple[str, ...]:
    choices = told.get("choices")
    first = choices[0] if isinstance(choices, list) and choices else None
    if not isinstance(first, dict):
        return ()
    message = first.get("message")
    return _parts(message.get("content") if isinstance(message, dict) else first.get("text"))


def _parts(content: Any) -> tuple[str, ...]:
    """The texts of a message, blank ones left out."""
    if isinstance(content, str):
        return (content,) if content.strip() else ()
    found: Sequence[Any] = content if isinstance(content, list) else ()
    texts = [part.get("text") if isinstance(part, dict) else part for part in found]
    return tuple(text for text in texts if isinstance(text, str) and text.strip())

"""JSON held against a JSON Schema, by `jsonschema`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sprue.errors import InputError
from sprue.extras import needed
from sprue.fleet.json_text import places

_SAID = 200  # characters of a reason


@dataclass(frozen=True)
class Schema:
    """A JSON Schema from a file; of draft 2020-12 where it does not say of which.

    Attributes:
        name: of the file.
    """

    name: str
    _validator: Any = field(repr=False)

    @classmethod
    def load(cls, path: str | Path) -> Schema:
        """Read a file; nothing that it refers to is fetched.

        Raises:
            InputError: missing, no JSON, no JSON Schema, references to what is not in it, or
                jsonschema is missing.
        """
        file = Path(path)
        schema = _contents(file)
        kind = _kind(schema, file)
        known = _library("jsonschema_specifications").REGISTRY
        _check_references(schema, known, file)
        validator = kind(schema, registry=known)
        try:
            validator.is_valid(None)
        except RecursionError as error:
            raise InputError(f"{file}: a '$ref' leads back to itself without end") from error
        return cls(file.name, validator)

    def fault(self, text: str) -> str | None:
        """Why a JSON text is not what the schema says; None: it is."""
        try:
            error = next(self._errors(text), None)
        except (ValueError, ArithmeticError, RecursionError) as bad:
            return f"expected what can be held against {self.name}, got {said(str(bad))}"
        if error is None:
            return None
        return f"expected what {self.name} says at {error.json_path}, got: {said(error.message)}"

    def good(self, text: str) -> int:
        """How many characters of a JSON text come before the first value that is refused."""
        try:
            wrong = {tuple(error.absolute_path) for error in self._errors(text)}
        except (ValueError, ArithmeticError, RecursionError):
            return 0
        return next((start for keys, start in places(text) if keys in wrong), 0)

    def _errors(self, text: str) -> Iterator[Any]:
        """Raises what Python can't do: integers of too many digits, sums with infinity."""
        found: Iterator[Any] = self._validator.iter_errors(json.loads(text))
        return found


def said(message: str) -> str:
    """What another library says, in one line that is not too long."""
    line = " ".join(message.split())
    return line if len(line) <= _SAID else f"{line[: _SAID - 3]}..."


def _contents(file: Path) -> Any:
    if not file.is_file():
        raise InputError(f"there is no {file}: expected a JSON Schema")
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"{file}: expected a JSON Schema, got no JSON ({error})") from error


def _kind(schema: Any, file: Path) -> Any:
    """The validator of the draft that a schema is of."""
    validators = _library("jsonschema.validators")
    kind = validators.Draft202012Validator
    if isinstance(schema, dict) and "$schema" in schema:
        draft = schema["$schema"]
        kind = validators.validator_for(schema, default=None) if isinstance(draft, str) else None
        if kind is None:
            raise InputError(f"{file}: expected a published draft for '$schema', got {draft!r}")
    try:
        kind.check_schema(schema)
    except _library("jsonschema.exceptions").SchemaError as error:
        raise InputError(
            f"{file} is no JSON Schema: at {error.json_path}: {said(error.message)}"
        ) from error
    return kind


def _check_references(schema: Any, known: Any, file: Path) -> None:
    drafts = _library("referencing.jsonschema")
    missing = _library("referencing.exceptions").Unresolvable
    whole = drafts.Resource.from_contents(schema, default_specification=drafts.DRAFT202012)
    left = [(whole, known.resolver_with_root(whole))]
    while left:
        part, resolver = left.pop()
        told = part.contents if isinstance(part.contents, dict) else {}
        for key in ("$ref", "$dynamicRef"):
            try:
                if key in told:
                    resolver.lookup(told[key])
            except missing as error:
                raise InputError(
                    f"{file}: there is no {told[key]!r}, which a {key!r} names: expected a part "
                    "of this file, such as '#/$defs/name'"
                ) from error
        left += [(sub, resolver.in_subresource(sub)) for sub in part.subresources()]


def _library(part: str) -> Any:
    return needed(part, "fleet", "holding answers against a JSON Schema")

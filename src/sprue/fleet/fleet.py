"""Which models there are: the full one, specialists by capability, and the router before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from sprue.errors import InputError
from sprue.fleet.checks import Check
from sprue.fleet.checks import read as read_checks
from sprue.fleet.reserve import Reserve
from sprue.fleet.router import Decision, Router, Span

FULL = "full"
_KEYS = ("full", "router", "specialists")
_OF_ONE = ("model", "reserve", "checks")


@dataclass(frozen=True)
class Fleet:
    """A file that says which models there are.

    Attributes:
        full: the model that knows everything.
        router: file of the router.
        specialists: capability -> its model.
        reserves: capability -> when the full model takes over; of those that the file says.
        checks: capability -> checks of its finished answers.
    """

    full: Path
    router: Path
    specialists: Mapping[str, Path]
    reserves: Mapping[str, Reserve] = field(default_factory=dict)
    checks: Mapping[str, tuple[Check, ...]] = field(default_factory=dict)

    @classmethod
    def load(cls, path: str | Path) -> Fleet:
        """Read a YAML file; paths in it start where it lies.

        Raises:
            InputError: missing, no such YAML, or models that are not there.
        """
        file = Path(path)
        told = _read(file)
        full, router = (_path(file, told, key) for key in ("full", "router"))
        given = told.get("specialists")
        if not isinstance(given, dict) or not given:
            raise InputError(
                f"{file}: expected 'specialists' with a model for each capability, got {given!r}"
            )
        specialists = {str(name): _path(file, given, name) for name in given}
        more = {str(name): one for name, one in given.items() if isinstance(one, dict)}
        reserves = {
            n: _reserve(file, n, one["reserve"]) for n, one in more.items() if "reserve" in one
        }
        checks = {
            n: read_checks(one["checks"], file.parent) for n, one in more.items() if "checks" in one
        }
        return cls(full, router, specialists, reserves, checks)

    def model_of(self, decision: Decision) -> str:
        """The name of the model for a decision: its capability, or FULL."""
        name = decision.capability
        return name if name in self.specialists and name is not None else FULL


@dataclass(frozen=True)
class Step:
    """A part of a request, and the model that answers it.

    Attributes:
        span: what is asked, and the decision about it.
        model: name of a specialist, or FULL.
    """

    span: Span
    model: str


def steps(text: str, fleet: Fleet, router: Router, capability: str | None = None) -> list[Step]:
    """Who answers what of a request, in order.

    Args:
        text: the request.
        fleet: the models.
        router: what decides.
        capability: that the caller names; then the text is not looked at.

    Raises:
        InputError: an empty request, or a capability that is not known.
    """
    if not text.strip():
        raise InputError("expected a request, got an empty text")
    if capability is not None:
        span = Span(0, len(text), router.route(text, capability))
        return [Step(span, fleet.model_of(span.decision))]
    found = [Step(span, fleet.model_of(span.decision)) for span in router.split(text)]
    if all(step.model == FULL for step in found):  # it need not be taken apart for the full model
        return [Step(Span(0, len(text), router.route(text)), FULL)]
    return found


def ends(text: str, parts: Sequence[Step]) -> list[int]:
    """Where what each part is asked ends: at the next one's start, joining words included."""
    return [*(part.span.start for part in parts[1:]), len(text)]


def prompts(text: str, parts: Sequence[Step]) -> list[str]:
    """What each part is asked; a request that is one part is asked as it came."""
    if len(parts) == 1:
        return [text]
    pairs = zip(parts, ends(text, parts), strict=True)
    return [text[part.span.start : end].rstrip() for part, end in pairs]


def router_of(fleet: Fleet, file: str | Path) -> Router:
    """The router of a fleet.

    Args:
        fleet: the models.
        file: that it was read from, for messages.

    Raises:
        InputError: it cannot be read, or has never heard of a specialist.
    """
    found = Router.load(fleet.router)
    missing = sorted(set(fleet.specialists) - set(found.capabilities))
    if missing:
        raise InputError(
            f"{file}: the router knows nothing of {', '.join(missing)}: expected specialists for "
            f"{', '.join(found.capabilities)}, or a router that is trained on more"
        )
    return found


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise InputError(f"there is no fleet {file}: expected a YAML file")
    try:
        told = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = str(error).splitlines()[0]
        raise InputError(f"{file} is no YAML that can be read: {line}") from error
    if not isinstance(told, dict):
        raise InputError(f"{file}: expected {', '.join(_KEYS)}, got {type(told).__name__}")
    strange = [str(key) for key in told if key not in _KEYS]
    if strange:
        raise InputError(f"{file}: expected {', '.join(_KEYS)}, got {', '.join(strange)} too")
    return told


def _reserve(file: Path, name: str, told: Any) -> Reserve:
    """As `Reserve` takes it; what is not said is as it is there."""
    known = [one.name for one in fields(Reserve)]
    if not isinstance(told, dict) or "threshold" not in told or set(told) - set(known):
        raise InputError(
            f"{file}: expected 'reserve' of {name!r} with a threshold, and of {', '.join(known)} "
            f"no more than these, got {told!r}"
        )
    try:
        if isinstance(told["threshold"], bool):
            raise TypeError(f"expected a number as threshold, got {told['threshold']}")
        return Reserve(**{**told, "threshold": float(told["threshold"])})
    except (TypeError, ValueError) as error:
        raise InputError(f"{file}: the reserve of {name!r} cannot be used: {error}") from error


def _path(file: Path, told: Mapping[Any, Any], key: Any) -> Path:
    given = told.get(key)
    if isinstance(given, dict):
        strange = [str(one) for one in given if one not in _OF_ONE]
        if strange:
            raise InputError(
                f"{file}: expected {', '.join(_OF_ONE)} of {str(key)!r}, got {', '.join(strange)}"
            )
        given = given.get("model")
    if not isinstance(given, str) or not given:
        raise InputError(f"{file}: expected a path for {str(key)!r}, got {given!r}")
    found = file.parent / given
    if not found.exists():
        raise InputError(f"{file}: there is no {found}, which {str(key)!r} names")
    return found

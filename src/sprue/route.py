"""The verb `route`: show who would answer a request, and train what decides it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sprue.data.labelled import read_rows
from sprue.errors import InputError
from sprue.fleet.answering import Written, joined
from sprue.fleet.answering import answer as answered
from sprue.fleet.fleet import FULL, Fleet, Step, router_of, steps
from sprue.fleet.router import SPILLED, Router
from sprue.fleet.served import Served
from sprue.models.nets import TEXTS


@dataclass(frozen=True)
class Routing:
    """Who answers what of a request.

    Attributes:
        text: the request.
        steps: its parts in order.
    """

    text: str
    steps: tuple[Step, ...]

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        return {
            "text": self.text,
            "steps": [
                {
                    "start": step.span.start,
                    "end": step.span.end,
                    "text": self.text[step.span.start : step.span.end],
                    "model": step.model,
                    "capability": step.span.decision.capability,
                    "unknown": step.span.decision.unknown,
                    "how": step.span.decision.how,
                    "threshold": step.span.decision.threshold,
                    "scores": dict(step.span.decision.scores),
                }
                for step in self.steps
            ],
        }

    def table(self, shown: int = 3) -> str:
        """For a terminal: each part, its model, and the best scores."""
        lines = []
        for step in self.steps:
            decision = step.span.decision
            ordered = sorted(decision.scores.items(), key=lambda pair: (-pair[1], pair[0]))
            scores = ", ".join(f"{name} {score:.3f}" for name, score in ordered[:shown])
            why = f"{decision.how}: {scores}" if scores else decision.how
            if decision.unknown:
                why += f"; none reaches {min(decision.threshold, 1.0):.3f}"
            lines.append(f"{self.text[step.span.start : step.span.end]!r}")
            lines.append(f"  -> {step.model} ({why})")
        return "\n".join(lines)


def route(text: str, fleet: str | Path, capability: str | None = None) -> Routing:
    """Who of a fleet answers a request.

    Raises:
        InputError: an empty request, a fleet or router that cannot be read, a capability that is
            not known.
    """
    models = Fleet.load(fleet)
    router = router_of(models, fleet)
    return Routing(text, tuple(steps(text, models, router, capability)))


@dataclass(frozen=True)
class Answered:
    """What a fleet answers.

    Attributes:
        answers: of each need, in order.
    """

    answers: tuple[Written, ...]

    def as_dict(self) -> dict[str, Any]:
        """For a program."""
        return {
            "text": joined(self.answers),
            "needs": [
                {
                    "asked": one.asked,
                    "text": one.text,
                    "pieces": [asdict(piece) for piece in one.pieces],
                    "failed": list(one.failed),
                }
                for one in self.answers
            ],
        }

    def table(self) -> str:
        """For a terminal: who wrote what."""
        lines = []
        for one in self.answers:
            lines.append(f"{one.asked!r}")
            for piece in one.pieces:
                why = f" ({piece.why})" if piece.why else ""
                lines.append(f"  {piece.model}{why}: {piece.text!r}")
            lines += [f"  still wrong: {why}" for why in one.failed]
        return "\n".join(lines)


def answer(text: str, fleet: str | Path, tokens: int, capability: str | None = None) -> Answered:
    """Let a fleet answer a request; models are loaded as they are needed.

    Args:
        text: the request.
        fleet: YAML file.
        tokens: of the answer to each need, at most.
        capability: that the caller names.

    Raises:
        InputError: as for `route`, or a model that cannot be loaded.
    """
    models = Fleet.load(fleet)
    parts = steps(text, models, router_of(models, fleet), capability)
    loaded = {
        name: Served.load(name, models.full if name == FULL else models.specialists[name])
        for name in sorted({FULL, *(part.model for part in parts)})
    }
    return Answered(tuple(answered(text, parts, models, loaded, tokens)))


def train(
    files: Sequence[str | Path],
    out: str | Path,
    unknown: Sequence[str | Path] = (),
    seed: int = 0,
    spilled: float | None = None,
) -> Router:
    """A router from labelled texts, written to a file.

    Args:
        files: labelled texts as `data.labelled` reads them; labels are capabilities.
        out: file to write; must not exist.
        unknown: texts that need none of them; what they are labelled with does not matter.
        seed: of what is drawn.
        spilled: share of known texts that may be called unknown, where no unknown ones are shown;
            None: `fleet.router.SPILLED`.

    Raises:
        InputError: files that cannot be read, too few texts, or a file that is there already.
    """
    if Path(out).exists():
        raise InputError(f"{out} exists: remove it or name another file")
    examples = [*_labelled(files), *((text, None) for text in _texts(unknown))]
    found = Router.train(examples, seed, SPILLED if spilled is None else spilled)
    found.save(out)
    return found


def _labelled(files: Sequence[str | Path]) -> list[tuple[str, str]]:
    found = []
    for file in files:
        rows = read_rows(file, TEXTS)
        if rows.truth is None:
            raise InputError(f"{file} has no labels: expected a column with capabilities")
        names = rows.classes
        found += [
            (str(text), str(label) if names is None else names[label])
            for text, label in zip(rows.first, rows.truth, strict=True)
        ]
    return found


def _texts(files: Sequence[str | Path]) -> list[str]:
    return [str(text) for file in files for text in read_rows(file, TEXTS).first]

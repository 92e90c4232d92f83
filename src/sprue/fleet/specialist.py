"""What a specialist is admitted by, and what is told of it."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.errors import InputError
from sprue.fleet.scoring import Need, encoded, read
from sprue.proof import intervals
from sprue.proof.form import asked as form_asked
from sprue.proof.form import percent
from sprue.proof.intervals import CONFIDENCE, Estimate

FILE = "specialist.json"
_VERSION = 1


@dataclass(frozen=True)
class Compared:
    """Full model and specialist on the same answers of one text.

    Attributes:
        name: of the text.
        needs: answers that were compared.
        full, specialist: perplexity, over the tokens of the full model.
        ratio: specialist's over the full model's.
        at_most: upper bound of the ratio, one-sided, 95%.
    """

    name: str
    needs: int
    full: float
    specialist: float
    ratio: Estimate
    at_most: float

    @property
    def at_least(self) -> float:
        """Of the quality that is kept, the lower bound."""
        return 1 / self.at_most

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {
            "name": self.name,
            "needs": self.needs,
            "perplexity": {"full": self.full, "specialist": self.specialist},
            "ratio": {"value": self.ratio.value, "low": self.ratio.low, "high": self.ratio.high},
            "kept_at_least": self.at_least,
        }


@dataclass(frozen=True)
class Talker:
    """A model with its tokenizer.

    Attributes:
        model: causal, of `transformers`, in eval mode.
        tokenizer: of `transformers`.
        context: tokens that it reads at once, at most; None: any number.
    """

    model: Any
    tokenizer: Any
    context: int | None = None


def costs(talker: Talker, needs: Sequence[Need]) -> NDArray[np.float64]:
    """Nats of each answer, all of it, float64 [needs]."""
    tokens = [encoded(talker.tokenizer, need, talker.context) for need in needs]
    return np.array([float(one.nats.sum()) for one in read(talker.model, tokens)])


def compared(name: str, full: Talker, specialist: Talker, needs: Sequence[Need]) -> Compared:
    """Both on the same answers.

    Raises:
        InputError: fewer than two answers.
    """
    if len(needs) < 2:
        raise InputError(
            f"{name} gives {len(needs)} passages to compare by, and an interval needs two: give "
            "more text"
        )
    counts = np.array([len(encoded(full.tokenizer, need, full.context).answer) for need in needs])
    theirs, mine = (costs(one, needs) / counts for one in (full, specialist))
    worse = intervals.mean([mine - theirs])
    return Compared(
        name,
        len(needs),
        math.exp(theirs.mean()),
        math.exp(mine.mean()),
        worse.interval().through(math.exp),
        math.exp(worse.at_most()),
    )


@dataclass(frozen=True)
class SpecialistReport:
    """What came of cutting a specialist.

    Attributes:
        out: the folder.
        capability: what it is for.
        model: the full model, as it was named.
        keep: share of the full model's quality that was asked for.
        own: on text of its capability that nothing else has seen.
        forgotten: on other texts.
        nbytes: of all tensors, full model and specialist.
        flops: for a token of an answer, full model and specialist.
        shape: of both, what there is of each kind: layers, heads, neurons, vocabulary.
        outside: share of the capability's tokens that were spelled in smaller ones.
        looks: share of the quality kept on held text over the training; JSON-able.
        losses: of every step of the training, nats.
        seconds: that it took.
        told: what else specialist.json holds.
    """

    out: Path
    capability: str
    model: str
    keep: float
    own: Compared
    forgotten: tuple[Compared, ...]
    nbytes: tuple[int, int]
    flops: tuple[int, int]
    shape: Mapping[str, tuple[int, int]]
    outside: float
    looks: tuple[Mapping[str, float], ...]
    losses: tuple[float, ...]
    seconds: float
    told: Mapping[str, Any] = field(default_factory=dict)

    @property
    def admitted(self) -> bool:
        """Whether it is not worse than the full model by more than was allowed."""
        return self.own.at_least >= self.keep

    @property
    def statement(self) -> str:
        """One sentence."""
        found = (
            f"perplexity on {self.capability} {self.own.full:.3f} for the full model, "
            f"{self.own.specialist:.3f} for the specialist: at least "
            f"{percent(self.own.at_least)} kept with {100 * CONFIDENCE:.0f}% confidence"
        )
        if self.admitted:
            return f"admitted: {found}, {form_asked(self.keep)} asked for"
        return f"NOT admitted: {found}, less than the {form_asked(self.keep)} asked for"

    def as_dict(self, full: bool = False) -> dict[str, Any]:
        """JSON-able; with `full` the losses of all steps too."""
        return {
            "version": _VERSION,
            "out": str(self.out),
            "capability": self.capability,
            "model": self.model,
            "admitted": self.admitted,
            "statement": self.statement,
            "keep": self.keep,
            "own": self.own.as_dict(),
            "forgotten": [one.as_dict() for one in self.forgotten],
            "bytes": {"full": self.nbytes[0], "specialist": self.nbytes[1]},
            "flops": {"full": self.flops[0], "specialist": self.flops[1]},
            "shape": {k: {"full": a, "specialist": b} for k, (a, b) in self.shape.items()},
            "outside": self.outside,
            "looks": [dict(look) for look in self.looks],
            **({"losses": list(self.losses)} if full else {}),
            "seconds": self.seconds,
            **self.told,
        }

    def table(self) -> str:
        """For a terminal."""
        a, b = self.nbytes
        f, s = self.flops
        lines = [
            self.statement,
            f"{self.out}: {b:,} bytes of tensors, {100 * b / a:.1f}% of {a:,}; "
            f"{100 * s / f:.1f}% of the FLOPs of a token",
            "; ".join(f"{name} {x:,} -> {y:,}" for name, (x, y) in self.shape.items()),
        ]
        for one in self.forgotten:
            lines.append(
                f"  {one.name:<24} perplexity {one.full:9.2f} -> {one.specialist:9.2f}  "
                f"({one.ratio.value:.2f} times)"
            )
        if self.forgotten:
            lines.insert(3, "what it has forgotten:")
        return "\n".join(lines)

    def html(self) -> str:
        """One page with everything in it."""
        from sprue.fleet import specialist_page

        return specialist_page.render(self)


def told_of(folder: Path) -> dict[str, Any]:
    """specialist.json of a folder; empty where there is none.

    Raises:
        InputError: it is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(
            f"{file} is no readable JSON ({error}): make the specialist again"
        ) from error
    if not isinstance(found, dict):
        raise InputError(f"{file}: expected a JSON object, got {type(found).__name__}")
    return found

"""Which capability a request needs, with the scores that say so."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from sprue.errors import InputError
from sprue.fleet import split
from sprue.fleet.features import grams
from sprue.fleet.linear import F32, Linear, Vocabulary, fit, folds
from sprue.fleet.split import Prices, Splitter

_FORMAT = "sprue router 1"
SPILLED = 0.05  # of known texts that may be called unknown, where no unknown ones are shown
_PART = 0.25  # of that, for spans: what is short is less sure
_SURE = 0.9  # a probability that is known, however sure the others are
_LEAST = 2  # texts of a capability

NAMED, CLASSIFIED, UNKNOWN = "named", "classified", "unknown"


@dataclass(frozen=True)
class Decision:
    """Where a request goes.

    Attributes:
        capability: what it needs; None: nothing that is known, so the full model answers.
        scores: capability -> probability that it is needed, each by itself; empty where the caller
            named one.
        unknown: whether nothing that is known is needed.
        how: NAMED by the caller, CLASSIFIED, or UNKNOWN.
        threshold: below which the best score means unknown.
    """

    capability: str | None
    scores: Mapping[str, float]
    unknown: bool
    how: str
    threshold: float


@dataclass(frozen=True)
class Span:
    """A part of a request, and where it goes.

    Attributes:
        start, end: characters of the request.
        decision: for them alone.
    """

    start: int
    end: int
    decision: Decision


@dataclass(frozen=True)
class Router:
    """Trained on texts of known capabilities.

    Attributes:
        capabilities: names.
        threshold: of the best probability, below which a text is unknown.
        part: the same for a span, which says less than a whole text.
    """

    capabilities: tuple[str, ...]
    threshold: float
    part: float
    _linear: Linear = field(repr=False)
    _splitter: Splitter = field(repr=False)

    @classmethod
    def train(
        cls,
        examples: Iterable[tuple[str, str | Sequence[str] | None]],
        seed: int = 0,
        spilled: float = SPILLED,
    ) -> Router:
        """From texts and what each needs: a capability, several, or None for none of them.

        Args:
            examples: at least two texts of each capability, and two that do not need it.
            seed: of the folds that probabilities and the threshold are found on.
            spilled: share of the texts of known capabilities that may be called unknown. Where some
                examples need none, the threshold tells both apart as well as it can instead.

        Raises:
            InputError: too few examples, what is no text, or scikit-learn is missing.
        """
        texts, needs = _read(examples)
        names = tuple(sorted({name for some in needs for name in some}))
        truth = np.array([[name in some for name in names] for some in needs], bool)
        _check(names, truth.reshape(len(texts), len(names)))
        linear, outside = fit(texts, truth, folds(truth, seed))
        best, known = outside.max(1), np.asarray(truth.any(1))
        threshold = _threshold(best, known, spilled)
        part = min(threshold, _spilling(best[known], spilled * _PART))
        return cls(names, threshold, part, linear, split.train(texts, truth, linear.words, seed))

    def route(self, text: str, capability: str | None = None) -> Decision:
        """What a text needs; a capability that the caller names is believed.

        Raises:
            InputError: a capability that is not known.
        """
        if capability is not None:
            if capability not in self.capabilities:
                raise InputError(
                    f"no capability {capability!r} here: expected one of "
                    f"{', '.join(self.capabilities)}, or none, so that the text decides"
                )
            return Decision(capability, {}, False, NAMED, self.threshold)
        return self._decided(text, self.threshold)

    def _decided(self, text: str, threshold: float) -> Decision:
        found = self.probabilities(text)
        best = int(found.argmax())
        unknown = bool(found[best] < threshold)
        scores = dict(zip(self.capabilities, map(float, found), strict=True))
        name = None if unknown else self.capabilities[best]
        return Decision(name, scores, unknown, UNKNOWN if unknown else CLASSIFIED, threshold)

    def split(self, text: str) -> tuple[Span, ...]:
        """The parts of a text that need one capability each, in order; one: all of it."""
        ends = self._splitter.split(text)
        if len(ends) == 1:
            return (Span(0, len(text), self.route(text)),)
        return tuple(Span(a, b, self._decided(text[a:b], self.part)) for a, b in ends)

    def probabilities(self, text: str) -> F32:
        """Of each capability, float32 [capabilities]."""
        return self._linear.probabilities(text)

    def flops(self, text: str) -> int:
        """Of splitting and routing a text, at most: each n-gram is weighed for each class twice."""
        return 8 * grams(text).count * len(self.capabilities)

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, whole or not at all."""
        target = Path(path)
        told = {
            "format": _FORMAT,
            "capabilities": self.capabilities,
            "threshold": self.threshold,
            "part": self.part,
            "prices": asdict(self._splitter.prices),
            "unseen": self._linear.words.unseen,
        }
        tensors = {
            "buckets": self._linear.words.buckets,
            "rarity": self._linear.words.rarity,
            "weights": self._linear.weights,
            "bias": self._linear.bias,
            "curve": self._linear.curve,
            "part.weights": self._splitter.linear.weights,
            "part.bias": self._splitter.linear.bias,
            "part.curve": self._splitter.linear.curve,
        }
        whole = target.with_name(f".{target.name}.partial")
        save_file(
            {n: np.ascontiguousarray(t) for n, t in tensors.items()},
            whole,
            {"router": json.dumps(told)},
        )
        whole.replace(target)

    @classmethod
    def load(cls, path: str | Path) -> Router:
        """What `save` wrote.

        Raises:
            InputError: missing, damaged, or something else.
        """
        if not Path(path).is_file():
            raise InputError(f"there is no router {path}: train one with `sprue route --train`")
        try:
            with safe_open(path, "np") as file:
                told = json.loads((file.metadata() or {}).get("router", "{}"))
                if told.get("format") != _FORMAT:
                    raise InputError(f"{path} is no router of this version: train it anew")
                names = file.keys()
                tensors = {name: file.get_tensor(name) for name in names}
            words = Vocabulary(tensors["buckets"], tensors["rarity"], float(told["unseen"]))
            whole, parts = (
                Linear(words, *(tensors[f"{of}{name}"] for name in ("weights", "bias", "curve")))
                for of in ("", "part.")
            )
            found = cls(
                tuple(map(str, told["capabilities"])),
                float(told["threshold"]),
                float(told["part"]),
                whole,
                Splitter(parts, Prices(**told["prices"])),
            )
        except (SafetensorError, AttributeError, KeyError, TypeError, ValueError, OSError) as error:
            raise InputError(f"{path} is damaged ({error}): train the router anew") from error
        found._checked(path)
        return found

    def _checked(self, path: str | Path) -> None:
        columns, classes = len(self._linear.words.buckets), len(self.capabilities)
        for one in (self._linear, self._splitter.linear):
            shapes = one.weights.shape, one.bias.shape, one.curve.shape
            if shapes != ((columns, classes), (classes,), (2, classes)) or not (
                np.isfinite(one.weights).all() and np.isfinite(one.bias).all()
            ):
                raise InputError(f"{path} is damaged: its sizes do not match; train it anew")


def _read(
    examples: Iterable[tuple[str, str | Sequence[str] | None]],
) -> tuple[list[str], list[tuple[str, ...]]]:
    texts, needs = [], []
    for i, (text, need) in enumerate(examples):
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"example {i}: expected a text, got {text!r}")
        texts.append(text)
        needs.append(() if need is None else (need,) if isinstance(need, str) else tuple(need))
    return texts, needs


def _check(names: Sequence[str], truth: NDArray[np.bool_]) -> None:
    if not names:
        raise InputError("expected examples of at least one capability, got none")
    for name, mine in zip(names, truth.T, strict=True):
        if mine.sum() < _LEAST:
            raise InputError(
                f"expected at least {_LEAST} texts of {name!r}, got {mine.sum()}: give more, or "
                "leave it out"
            )
        if (~mine).sum() < _LEAST:
            raise InputError(
                f"every text needs {name!r}: give texts of other capabilities, or of none (None)"
            )


def _threshold(best: F32, known: NDArray[np.bool_], spilled: float) -> float:
    """Below which a text is unknown, by probabilities of texts that were not trained on."""
    return _spilling(best, spilled) if known.all() else _between(best, known)


def _spilling(best: F32, share: float) -> float:
    """Below which this share of the texts lies, or fewer: what is as sure as that is known."""
    quantile = float(np.sort(best)[min(math.floor(share * len(best)), len(best) - 1)])
    return min(quantile, _SURE)


def _between(best: F32, known: NDArray[np.bool_]) -> float:
    """Where known and unknown texts are told apart best, each kind counting as much."""
    order = np.argsort(best, kind="stable")
    ours = np.concatenate(([0.0], np.cumsum(known[order]))) / known.sum()
    theirs = np.concatenate(([0.0], np.cumsum(~known[order]))) / (~known).sum()
    cut = int(np.argmax(theirs - ours))
    values = np.concatenate(([0.0], best[order], [1.0]))
    return float((values[cut] + values[cut + 1]) / 2)

"""Answers to questions: F1 and exact match (SQuAD: Rajpurkar et al. 2016, section 6.1)."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.proof.scores.paired import Means

_LONGEST = 30  # tokens of an answer


@dataclass(frozen=True)
class Spans(Means):
    """The mean over questions of the best score against any answer that counts as right.

    Attributes:
        score: (given, true) -> 0 to 1.
        name: of the metric.
    """

    score: Callable[[str, str], float]
    name: str

    def read(self, outputs: NDArray[Any], truth: Any) -> NDArray[np.float64]:
        """Of each example; logits [examples, tokens, 2] for start and end."""
        # whether a question may be left unanswered is asked of all of them: the truth of one must
        # not tell its answer
        nullable = any(not answer.texts for answer in truth)
        said = [spoken(o, t, nullable) for o, t in zip(outputs, truth, strict=True)]
        return np.array([self._best(g, t) for g, t in zip(said, truth, strict=True)])

    def _best(self, given: str, answer: Any) -> float:
        if not answer.texts:
            return float(not given)
        return max(self.score(given, text) for text in answer.texts)


def spoken(logits: NDArray[Any], answer: Any, nullable: bool = False) -> str:
    """The likeliest span of the context, as text.

    "" where there is no context, or, if `nullable`, where the first token, as start and end, is
    likelier than any span (SQuAD 2.0: Rajpurkar, Jia and Liang 2018; Devlin et al. 2019, section
    4.3).
    """
    inside = np.flatnonzero(answer.offsets[:, 0] >= 0)
    if not len(inside):
        return ""
    start, end = logits[inside, 0], logits[inside, 1]
    sums = start[:, None] + end[None, :]
    first, last = np.meshgrid(inside, inside, indexing="ij")
    sums[(last < first) | (last - first >= _LONGEST)] = -np.inf
    i, j = np.unravel_index(int(sums.argmax()), sums.shape)
    if nullable and logits[0].sum() > sums[i, j]:
        return ""
    found: str = answer.between(int(inside[i]), int(inside[j]))
    return found


def exact(given: str, true: str) -> float:
    """1 where both are the same once articles, case and punctuation are gone."""
    return float(normal(given) == normal(true))


def overlap(given: str, true: str) -> float:
    """F1 over words."""
    a, b = normal(given).split(), normal(true).split()
    if not a or not b:
        return float(a == b)
    shared = sum((Counter(a) & Counter(b)).values())
    return 2 * shared / (len(a) + len(b))


def normal(text: str) -> str:
    """As SQuAD compares: lower case, without punctuation and articles."""
    bare = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def metrics() -> Sequence[Spans]:
    """F1, then exact match."""
    return (Spans(overlap, "F1"), Spans(exact, "exact match"))

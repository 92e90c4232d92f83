"""New needs: what is asked for often, and no capability is known of."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from sprue.extras import needed
from sprue.usage.clusters import LOOKED, MARK, Groups, cluster
from sprue.usage.jsonl import CHARACTERS
from sprue.usage.redact import redact
from sprue.usage.totals import Total, added

LEAST = 10  # texts of a need at least, where nobody says otherwise
SHARE = 0.004  # of the sample, at least

_WORDS, _EXAMPLES, _SHOWN = 5, 3, 200  # of a need; characters of an example
_IN = 0.15  # of a need's texts that hold a word which tells of it
_PRIOR = 10  # texts that what is known of all texts counts for
_WORD = re.compile(r"[^\W\d_][\w'’]{1,29}")


@dataclass(frozen=True)
class Need:
    """Texts that ask for much the same.

    Attributes:
        words: that tell it from all other texts, the most telling first.
        texts: how many of the sample.
        total: over their requests.
        examples: three of them, the most typical first, redacted and cut to 200 characters.
    """

    words: tuple[str, ...]
    texts: int
    total: Total
    examples: tuple[str, ...]


@dataclass(frozen=True)
class Needs:
    """What was found in a sample of texts.

    Attributes:
        found: by their number of texts, the largest first.
        sample: texts that were looked at.
        of: texts that there are.
        without: requests without a text, of which nothing can be said.
        least: texts of a need, at least.
        scattered: texts of the sample that belong to none.
    """

    found: tuple[Need, ...]
    sample: int
    of: int
    without: int
    least: int
    scattered: int

    @property
    def scale(self) -> float:
        """Requests that a text of the sample stands for."""
        return self.of / (self.sample or 1)


def least_of(sample: int, of: int, asked: int | None) -> int:
    """Texts of a sample that a need must have.

    Args:
        sample, of: texts that are looked at, of how many.
        asked: requests of the whole log that a need must have; None: LEAST, and SHARE of it.
    """
    if asked is None:
        return max(LEAST, round(SHARE * sample))
    return max(2, -(-asked * sample // max(of, 1)))


def find(
    texts: Sequence[str],
    totals: Sequence[Total],
    of: int,
    without: int = 0,
    asked: int | None = None,
    seed: int = 0,
) -> Needs:
    """Group a sample by its wording, and say what the groups ask for.

    Args:
        texts: the sample.
        totals: of each text's request.
        of: texts that the sample was drawn from.
        without: requests without a text.
        asked: as `least_of` takes it.
        seed: of the clusters.

    Raises:
        InputError: scikit-learn is not installed.
    """
    least = least_of(len(texts), of, asked)
    clean = [redact(text[:CHARACTERS]) for text in texts]
    groups = cluster(clean, least, seed)
    holds = [words(text) for text in clean]
    found = [_need(clean, totals, holds, groups, group) for group in range(groups.count)]
    found.sort(key=lambda need: (-need.texts, need.words, need.examples))
    scattered = int((groups.of < 0).sum())
    return Needs(tuple(found), len(texts), of, without, least, scattered)


def words(text: str) -> frozenset[str]:
    """The words of a text, in small letters."""
    return frozenset(word.lower() for word in _WORD.findall(MARK.sub(" ", text[:LOOKED])))


def telling(inside: Sequence[Iterable[str]], whole: Sequence[Iterable[str]]) -> tuple[str, ...]:
    """The words that tell some texts from all others, the most telling first.

    By the log-odds of the texts that hold a word, with all texts as the prior, over its standard
    deviation (Monroe, Colaresi and Quinn 2008, section 3.5.1). Words such as "the" count only where
    there are no others.

    Args:
        inside: words of each of these texts.
        whole: of all texts, these included.
    """
    ours, all_of_it = _counts(inside), _counts(whole)
    n, m = len(inside), len(whole) - len(inside)
    scores = {}
    for word, count in ours.items():
        if count >= _IN * n:
            prior = _PRIOR * (all_of_it[word] + 1) / (len(whole) + 2)
            a, b = count + prior, all_of_it[word] - count + prior
            odds = math.log(a / (n + _PRIOR - a)) - math.log(b / (m + _PRIOR - b))
            scores[word] = odds / math.sqrt(1 / a + 1 / b)
    best = [w for w in sorted(scores, key=lambda w: (-scores[w], w)) if scores[w] > 0]
    text = needed("sklearn.feature_extraction.text", "usage", "finding new needs")
    dull = text.ENGLISH_STOP_WORDS
    return tuple([word for word in best if word not in dull] or best)[:_WORDS]


def _counts(texts: Sequence[Iterable[str]]) -> Counter[str]:
    """Texts that hold a word, by word."""
    counts: Counter[str] = Counter()
    for one in texts:
        counts.update(set(one))
    return counts


def _need(
    texts: Sequence[str],
    totals: Sequence[Total],
    holds: Sequence[frozenset[str]],
    groups: Groups,
    group: int,
) -> Need:
    own = np.flatnonzero(groups.of == group)
    near = groups.places[own] @ groups.places[own].mean(0)
    typical = own[np.argsort(-near.round(9), kind="stable")].tolist()
    shown = dict.fromkeys(_short(texts[i]) for i in typical)
    return Need(
        words=telling([holds[i] for i in own.tolist()], holds),
        texts=len(own),
        total=added(totals[i] for i in own.tolist()),
        examples=tuple(shown)[:_EXAMPLES],
    )


def _short(text: str) -> str:
    one_line = " ".join(text[: 4 * _SHOWN].split())
    return one_line if len(one_line) <= _SHOWN else f"{one_line[: _SHOWN - 1]}…"

"""Texts that ask for much the same, found by their wording.

Texts that differ become counts of hashed character n-grams, weighed by TF-IDF and brought to 128
dimensions by a seeded randomized SVD (latent semantic analysis, Deerwester et al. 1990). HDBSCAN
(Campello et al. 2015) then finds what lies densely, the leaves of its tree: they hold where one
dense group would otherwise swallow its neighbors. Leaves that point the same way become one group,
texts nearby join, and a group whose texts share next to nothing, as noise does, is none.

The same text again adds to the size of a group, not to its density: of a text that comes a hundred
times, a spike would be left that splits what is around it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sprue.extras import needed

LOOKED = 1000  # characters of a text that count
MARK = re.compile(r"\[[a-z]+\]")  # of what was redacted

_BUCKETS, _GRAMS = 1 << 16, (3, 4)  # that n-grams are hashed into; characters of an n-gram
_DIMENSIONS, _TEXTS = 128, 4  # at most, and texts for each of them: in more nothing lies densely
_NEIGHBORS = 5  # that make a place dense
_ALIKE = 0.6  # cosine of two groups that are one
_NEAR = 0.1, 0.8  # a text joins a group that reaches this share of this quantile of its own cosines
_SHARED = 0.05  # mean cosine of two texts of a group, by their n-grams
_WHAT = "finding new needs"

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Groups:
    """Where texts lie, and together with which.

    Attributes:
        places: [n, d], of unit length, or zeros where a text shares nothing with any other.
        of: the group of every text, 0 and up; -1: none.
        count: of groups.
    """

    places: Floats
    of: Ints
    count: int


def cluster(texts: Sequence[str], least: int, seed: int = 0) -> Groups:
    """Group texts.

    Args:
        texts: of which the first 1,000 characters count.
        least: texts of a group.
        seed: of the SVD.

    Raises:
        InputError: scikit-learn is not installed.
    """
    place: dict[str, int] = {}
    which = np.array([place.setdefault(_same(t), len(place)) for t in texts], np.int64)
    if len(texts) < least:
        return Groups(np.zeros((len(texts), 1)), np.full(len(texts), -1), 0)
    weighed, sizes = weigh(list(place)), np.bincount(which)
    places = embed(weighed, seed)
    # Between as many different texts as there may be texts at all, and the same share of them.
    fewest = max(_NEIGHBORS, round(least * math.sqrt(len(place) / len(texts))))
    labels = _repeated(_dense(places, fewest), sizes, least)
    labels = _joined(places, _merged(places, labels))
    labels = _large(weighed, labels, sizes, least)
    return Groups(places[which], labels[which], _count(labels))


def _same(text: str) -> str:
    """What two texts share that differ in capitals and blanks alone."""
    return " ".join(text[:LOOKED].casefold().split())


def weigh(texts: Sequence[str]) -> Any:
    """TF-IDF of n-grams that two texts or more hold, sparse [n, n-grams].

    Rows would have unit length if the other n-grams were among them.
    """
    text = needed("sklearn.feature_extraction.text", "usage", _WHAT)
    vectorizer = text.HashingVectorizer(
        analyzer="char_wb",
        ngram_range=_GRAMS,
        n_features=_BUCKETS,
        norm=None,
        alternate_sign=False,
        dtype=np.float32,
    )
    counts = vectorizer.transform(MARK.sub(" ", one[:LOOKED]) for one in texts)
    weighed = text.TfidfTransformer(sublinear_tf=True).fit_transform(counts)
    # What one text alone holds brings no two together; most n-grams are such.
    return weighed[:, np.bincount(counts.indices, minlength=_BUCKETS) > 1]


def embed(weighed: Any, seed: int = 0) -> Floats:
    """Rows in few dimensions, [n, at most 128], of unit length or zeros."""
    texts, grams = weighed.shape
    dimensions = min(_DIMENSIONS, max(2, texts // _TEXTS))
    if grams <= dimensions:
        return _unit(weighed.toarray().astype(np.float64))
    decomposition = needed("sklearn.decomposition", "usage", _WHAT)
    svd = decomposition.TruncatedSVD(dimensions, random_state=seed)
    with np.errstate(invalid="ignore", divide="ignore"):  # explained variance where there is none
        return _unit(np.asarray(svd.fit_transform(weighed), np.float64))


def _dense(places: Floats, least: int) -> Ints:
    """Groups by density."""
    model = needed("sklearn.cluster", "usage", _WHAT).HDBSCAN(
        min_cluster_size=least,
        min_samples=min(_NEIGHBORS, least),
        cluster_selection_method="leaf",
        copy=True,
    )
    labels = np.full(len(places), -1)
    somewhere = np.flatnonzero(np.any(places != 0, axis=1))
    if len(somewhere) >= max(least, 2 * _NEIGHBORS):
        with np.errstate(divide="ignore", invalid="ignore"):  # the density of equal texts
            labels[somewhere] = model.fit_predict(places[somewhere])
    return labels


def _repeated(labels: Ints, sizes: Ints, least: int) -> Ints:
    """A text that comes often enough is a group of its own, where it belongs to none."""
    own = np.flatnonzero((labels < 0) & (sizes >= least))
    labels = labels.copy()
    labels[own] = _count(labels) + np.arange(len(own))
    return labels


def _merged(places: Floats, labels: Ints) -> Ints:
    """Groups whose centers point the same way become one, the most alike first."""
    while (count := _count(labels)) > 1:
        centers = _centers(places, labels, count)
        alike = centers @ centers.T
        np.fill_diagonal(alike, -1)
        a, b = sorted(divmod(int(alike.argmax()), count))
        if alike[a, b] < _ALIKE:
            break
        labels = np.where(labels == b, a, labels)
        labels = np.where(labels > b, labels - 1, labels)
    return labels


def _joined(places: Floats, labels: Ints) -> Ints:
    """Texts of no group join the nearest, if they lie about as near as the farthest of its own."""
    count = _count(labels)
    if not count:
        return labels
    near = places @ _centers(places, labels, count).T
    quantile, share = _NEAR
    limits = np.array([share * np.quantile(near[labels == c, c], quantile) for c in range(count)])
    own, nearest = near.argmax(1), near.max(1)
    joins = (labels < 0) & (nearest >= limits[own]) & (nearest > 0)
    return np.where(joins, own, labels)


def _large(weighed: Any, labels: Ints, sizes: Ints, least: int) -> Ints:
    """The groups of enough texts that share something, and do not only lie together by the SVD."""
    every = [labels == group for group in range(_count(labels))]
    enough = [sizes[own].sum() >= least for own in every]
    alike = [own.sum() == 1 or _mean_cosine(weighed[own]) >= _SHARED for own in every]
    kept = np.flatnonzero(np.array(enough, bool) & np.array(alike, bool))
    names = np.full(len(every) + 1, -1)
    names[kept] = np.arange(len(kept))
    return names[labels]  # the last name is that of -1


def _mean_cosine(rows: Any) -> float:
    """Of every two different rows, if they have unit length."""
    whole = np.asarray(rows.sum(axis=0)).ravel()
    own = float(rows.multiply(rows).sum())
    count = rows.shape[0]
    return float((float(whole @ whole) - own) / max(count * (count - 1), 1))


def _count(labels: Ints) -> int:
    return int(labels.max(initial=-1)) + 1


def _centers(places: Floats, labels: Ints, count: int) -> Floats:
    return _unit(np.stack([places[labels == c].mean(0) for c in range(count)]))


def _unit(vectors: Floats) -> Floats:
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(norms > 0, norms, 1)

"""A specialist writes, the full model in reserve."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sprue.errors import InputError
from sprue.fleet.reserve import DOUBTS, Reserve, answer, calibrated, entropy, margin

VOCABULARY = 12


class Chain:
    """A model whose next token depends on the last one; it counts what it reads."""

    def __init__(self, logits: Tensor) -> None:
        self.logits, self.done, self.tokens = logits, 0, 0

    def read(self, ids: Sequence[int]) -> Tensor:
        new = ids[min(self.done, len(ids) - 1) :]
        self.done, self.tokens = len(ids), self.tokens + len(new)
        return torch.stack([self.logits[token] for token in new])

    def forget(self) -> None:
        self.done = 0


def models() -> tuple[Chain, Chain]:
    """A full model, and one that knows the first half of its tokens and guesses after the rest."""
    generator = torch.Generator().manual_seed(0)
    full = 5 * torch.randn(VOCABULARY, VOCABULARY, generator=generator)
    known = full.clone()
    known[VOCABULARY // 2 :] = 0.3 * torch.randn(VOCABULARY // 2, VOCABULARY, generator=generator)
    return Chain(full), Chain(known)


def own(model: Chain, start: int, count: int) -> list[int]:
    found = [start]
    for _ in range(count):
        found.append(int(model.logits[found[-1]].argmax()))
    return found[1:]


@pytest.mark.parametrize("doubt", list(DOUBTS))
def test_doubt_is_least_where_all_lies_on_one_token(doubt: str) -> None:
    logits = torch.zeros(3, 8)
    logits[0, 2], logits[1, 2] = 60.0, 1.0
    sure, less, none = DOUBTS[doubt](logits).tolist()
    assert sure == pytest.approx(0, abs=1e-6)
    assert none == pytest.approx(1)
    assert sure < less < none


def test_doubts_by_hand() -> None:
    logits = torch.log(torch.tensor([0.5, 0.25, 0.25]))
    assert float(margin(logits)) == pytest.approx(0.75)
    expected = (0.5 * math.log(2) + 0.5 * math.log(4)) / math.log(3)
    assert float(entropy(logits)) == pytest.approx(expected)


@pytest.mark.parametrize("start", range(VOCABULARY))
def test_the_ends_are_the_two_models_themselves(start: int) -> None:
    full, specialist = models()
    always = answer(full, specialist, [start], 10, Reserve(-math.inf))
    assert list(always.ids) == own(full, start, 10)
    assert all(always.escalated)
    full, specialist = models()
    never = answer(full, specialist, [start], 10, Reserve(math.inf))
    assert list(never.ids) == own(specialist, start, 10)
    assert not any(never.escalated)
    assert (never.calls, full.tokens) == (0, 0)


def test_a_doubt_that_changes_nothing_is_not_weighed() -> None:
    seen: list[float] = []
    logits = torch.zeros(VOCABULARY)
    assert Reserve(math.inf).unsure(logits, seen) is None
    assert not seen
    assert Reserve(1.0).unsure(logits, seen) is None  # as high as a doubt can be, and not above it
    assert Reserve(0.9).unsure(logits, seen) == pytest.approx(1)
    assert seen == [pytest.approx(1)] * 2


@pytest.mark.parametrize("start", range(VOCABULARY))
def test_only_the_steps_that_it_does_not_know_go_up(start: int) -> None:
    full, specialist = models()
    found = answer(full, specialist, [start], 20, Reserve(0.8))
    assert list(found.ids) == own(full, start, 20)
    context = [start, *found.ids[:-1]]
    assert list(found.escalated) == [token >= VOCABULARY // 2 for token in context]
    assert found.calls == sum(found.escalated)


def test_the_full_model_may_hold_on_for_a_while() -> None:
    start = VOCABULARY - 1
    for hold, calls in ((3, None), (None, 1)):
        full, specialist = models()
        found = answer(full, specialist, [start], 12, Reserve(0.8, hold=hold))
        runs = "".join("f" if up else "s" for up in found.escalated)
        assert runs.startswith("fff")
        if calls is not None:
            assert (runs, found.calls) == ("f" * 12, calls)


def test_an_end_token_ends_it() -> None:
    full, specialist = models()
    whole = answer(full, specialist, [0], 12, Reserve(0.8)).ids
    full, specialist = models()
    cut = answer(full, specialist, [0], 12, Reserve(0.8), stop=frozenset((whole[4],)))
    assert cut.ids == whole[: whole.index(whole[4])]


def test_the_threshold_lets_as_few_steps_differ_as_was_asked() -> None:
    full, specialist = models()
    generator = torch.Generator().manual_seed(1)
    texts = torch.randint(VOCABULARY, (40, 30), generator=generator).tolist()
    reserve = calibrated(full, specialist, texts, 0.02)
    assert 0 < reserve.threshold < 1
    new = torch.randint(VOCABULARY, (4000,), generator=generator)
    doubts = margin(specialist.logits[new])
    wrong = specialist.logits[new].argmax(-1) != full.logits[new].argmax(-1)
    taken = doubts <= reserve.threshold
    assert float((taken & wrong).double().mean()) <= 0.025
    assert float(taken.double().mean()) > 0.4  # half of the tokens are known
    assert calibrated(full, specialist, texts, 1.0).threshold == math.inf


def test_what_makes_no_sense() -> None:
    full, specialist = models()
    for ids, count in (([], 3), ([1], 0)):
        with pytest.raises(InputError, match="expected at least one token"):
            answer(full, specialist, ids, count, Reserve(0.5))
    for wrong in ({"doubt": "mood"}, {"hold": 0}):
        with pytest.raises(InputError, match="expected"):
            Reserve(0.5, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="NaN"):
        Reserve(math.nan)
    with pytest.raises(InputError, match="none"):
        calibrated(full, specialist, [[1]], 0.1)
    with pytest.raises(InputError, match="'mood'"):
        calibrated(full, specialist, [[1, 2]], 0.1, doubt="mood")

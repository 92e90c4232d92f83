"""Conversations stay with their model, and move only upward."""

from __future__ import annotations

import math
import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sprue.errors import InputError
from sprue.fleet.conversation import Conversations
from sprue.fleet.fleet import FULL

MODELS = st.sampled_from(["law", "code", FULL])
ACTS = st.lists(
    st.tuples(st.sampled_from("abc"), st.none() | MODELS, st.integers(0, 6)), max_size=30
)  # conversation, proposed or None: escalated, seconds before


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_conversation_keeps_the_model_that_it_began_with() -> None:
    known = Conversations()
    assert [known.model("a", "law") for _ in range(3)] == ["law"] * 3
    assert known.model("b", "code") == "code"
    assert known.model("c", FULL) == FULL


@pytest.mark.parametrize("other", ["code", FULL])
def test_whatever_else_is_proposed_leads_to_the_full_model_for_good(other: str) -> None:
    known = Conversations()
    known.model("a", "law")
    known.model("b", "law")
    assert known.model("a", other) == FULL
    assert [known.model("a", name) for name in ("law", "code", FULL)] == [FULL] * 3
    assert known.model("b", "law") == "law"


def test_what_was_escalated_stays_with_the_full_model() -> None:
    known = Conversations()
    known.model("a", "law")
    known.escalated("a")
    known.escalated("new")
    assert known.model("a", "law") == FULL
    assert known.model("new", "law") == FULL


def test_no_conversation() -> None:
    known = Conversations()
    known.escalated("")
    assert [known.model("", name) for name in ("law", "code", "law")] == ["law", "code", "law"]
    assert len(known) == 0


def test_an_idle_one_is_forgotten() -> None:
    clock = Clock()
    known = Conversations(seconds=10, clock=clock)
    known.model("a", FULL)
    known.model("b", FULL)
    clock.now = 9.5
    assert known.model("a", "law") == FULL  # and used again
    clock.now = 10.0
    assert len(known) == 1
    assert known.model("b", "law") == "law"
    clock.now = 19.0
    known.escalated("a")
    clock.now = 28.5
    assert known.model("a", "law") == FULL


def test_those_used_last_are_remembered() -> None:
    known = Conversations(limit=2)
    known.model("a", FULL)
    known.model("b", FULL)
    known.model("a", "law")
    known.model("c", "law")
    assert len(known) == 2
    assert known.model("a", "law") == FULL
    assert known.model("b", "law") == "law"


@given(ACTS)
def test_never_downward(acts: list[tuple[str, str | None, int]]) -> None:
    clock = Clock()
    known = Conversations(seconds=math.inf, clock=clock)
    had: dict[str, str] = {}
    for name, proposed, seconds in acts:
        clock.now += seconds
        if proposed is None:
            known.escalated(name)
            had[name] = FULL
            continue
        model = known.model(name, proposed)
        assert model in (FULL, had.get(name, proposed))
        assert had.get(name) != FULL or model == FULL
        had[name] = model


@given(ACTS, st.integers(1, 3), st.integers(1, 8))
def test_against_a_list(acts: list[tuple[str, str | None, int]], limit: int, seconds: int) -> None:
    clock = Clock()
    known = Conversations(limit, seconds, clock)
    rows: list[tuple[str, str, float]] = []  # those used last are last
    for name, proposed, passed in acts:
        clock.now += passed
        rows = [row for row in rows if clock.now - row[2] < seconds]
        has = next((model for other, model, _ in rows if other == name), proposed)
        expected = proposed if proposed is not None and has == proposed else FULL
        if proposed is None:
            known.escalated(name)
        else:
            assert known.model(name, proposed) == expected
        rows = [*(row for row in rows if row[0] != name), (name, expected, clock.now)][-limit:]
        assert len(known) == len(rows)


def test_one_thread_at_a_time() -> None:
    inside, most = 0, 0

    def clock() -> float:
        nonlocal inside, most
        inside += 1
        most = max(most, inside)
        time.sleep(0.0005)  # lets others in, if they can come
        inside -= 1
        return 0.0

    known = Conversations(limit=5, clock=clock)

    def work(own: int) -> None:
        for i in range(10):
            known.model(f"{(own + i) % 7}", "law")
            known.escalated(f"{i % 3}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert len(known) == 5


@pytest.mark.parametrize(("limit", "seconds"), [(0, 1.0), (1, 0.0), (1, -1.0), (1, math.nan)])
def test_what_makes_no_sense(limit: int, seconds: float) -> None:
    with pytest.raises(InputError, match="expected at least one conversation"):
        Conversations(limit, seconds)

"""Which trials are proven, and in which order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from sprue.degating.picks import Limits, Trial, chain
from sprue.degating.trials import Search, Stage
from sprue.errors import BudgetError
from sprue.plan.sparing import ladder


def trial(name: str, kept: float, latency: float, size: float = 0.3, energy: float = 0.5) -> Trial:
    return Trial(name, 0.5, "int8", 0, 0.0, 1, 1, kept, kept - 0.005, latency, energy, size)


NEAR = trial("n", 0.9875, 0.25)  # the search may have been unlucky
SAFE, MIDDLE, FAST = trial("a", 1.0, 0.5), trial("b", 0.998, 0.4), trial("c", 0.996, 0.3)
BAD, WORSE = trial("d", 0.9, 0.2), trial("e", 0.997, 0.6)
WHOLE = trial("original", 1.0, 1.0, 1.0, 1.0)


def test_from_the_safest_to_the_fastest() -> None:
    every = [FAST, BAD, WHOLE, SAFE, WORSE, MIDDLE]
    assert chain(every, 0.99, Limits()) == [SAFE, MIDDLE, FAST]
    assert chain(every, 0.99, Limits(), looks=2) == [SAFE, FAST]


def test_what_may_be_good_enough_comes_last() -> None:
    assert chain([NEAR, SAFE], 0.99, Limits()) == [SAFE, NEAR]
    assert chain([trial("m", 0.98, 0.25), SAFE], 0.99, Limits()) == [SAFE]


def test_what_is_no_smaller_and_no_faster_is_no_result() -> None:
    assert chain([WHOLE], 0.99, Limits()) == []


def test_within_a_budget_the_best_that_is_left() -> None:
    every = [FAST, SAFE, MIDDLE]
    assert chain(every, 0.99, Limits(latency=0.45)) == [MIDDLE]
    assert chain(every, 0.99, Limits(latency=0.35, size=0.3)) == [FAST]


def test_where_nothing_is_good_enough_the_nearest() -> None:
    assert chain([BAD, trial("f", 0.95, 0.3)], 0.99, Limits())[0].file == "f"
    assert chain([FAST, SAFE], 0.99, Limits(latency=0.2)) == [FAST]


def test_limits_say_by_how_much_they_are_broken() -> None:
    limits = Limits(latency=0.4, size=0.2)
    assert limits.broken(0.5, 0.3, 9.0) == {"latency": (0.5, 0.4), "size": (0.3, 0.2)}
    assert limits.excess(trial("g", 1.0, 0.5, 0.3)) == pytest.approx(0.5)
    assert Limits().excess(FAST) == 0


def test_never_more_than_half_of_the_layers_are_spared() -> None:
    assert list(ladder(20)) == [1, 2, 4, 8]
    assert list(ladder(1)) == []


class Notes:
    """A workshop that remembers nothing."""

    def noted(self, name: str) -> Any:
        return None

    def note(self, name: str, told: Any) -> None:
        return None


class Told(Search):
    """A search in which what is kept follows from share and training."""

    def __init__(
        self, gain: float = 0.0, least: float = 0.0, lost: float | None = None, **limits: float
    ) -> None:
        more: dict[str, Any] = dict.fromkeys(("net", "calibration", "make"))
        super().__init__(
            workshop=Notes(),  # type: ignore[arg-type]
            bench=SimpleNamespace(engine="openvino"),  # type: ignore[arg-type]
            keep=0.99,
            portable=False,
            precisions=("int8",),
            transformer=False,
            limits=Limits(**limits),
            hard=lost is not None,
            **more,
        )
        self.gain, self.least, self.lost = gain, least, lost or 0.0
        self.seen: list[tuple[float, float, float]] = []
        self.stages: list[Stage] = []

    def _stage(self, stage: Stage, kinds: Sequence[str]) -> None:
        if stage.share < self.least:
            raise BudgetError(f"{stage.share} is too little")
        self.seen.append((stage.share, stage.seconds, stage.own))
        self.stages.append(stage)
        kept = 1 - 0.2 * (1 - stage.share) + (self.gain if stage.seconds else 0)
        kept -= self.lost if stage.hard else 0
        latency = stage.share * (0.6 if stage.hard else 1)
        nbytes = 1e6 * stage.share - 0.9 * stage.saved  # text that comes along takes a tenth
        for kind in kinds:
            name = f"{stage.name}-{kind}-0.xml"
            size = nbytes / 2e6
            one = trial(name, kept, latency * (0.5 if kind != "fp32" else 1), size)
            self.trials.append(replace(one, precision=kind, nbytes=round(nbytes)))


def test_training_goes_where_the_network_comes_back_from_and_then_on() -> None:
    search = Told(gain=0.09)
    search.run((0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3), 100)
    repaired = [share for share, seconds, _ in search.seen if not seconds]
    assert repaired == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]  # 0.91 may come back, 0.9 may not
    assert (0.6, 40, 40) in search.seen
    assert search.seen[-1] == (0.3, 100, 60)  # with what was learned it reaches further


def test_training_that_was_not_enough_goes_on_where_it_is() -> None:
    search = Told(gain=0.01)
    search.run((0.9, 0.8, 0.7, 0.6, 0.5), 100)
    assert search.seen[-2:] == [(0.6, 40, 40), (0.6, 100, 60)]


def test_what_cannot_be_cut_further_is_trained_to_the_end() -> None:
    search = Told(gain=0.09, least=0.55)
    search.run((0.9, 0.8, 0.7, 0.6, 0.5, 0.4), 100)
    assert search.seen[-1] == (0.6, 100, 60)
    assert search.fallbacks == ["0.5 is too little", "0.5 is too little"]
    with pytest.raises(BudgetError):  # it was asked for
        Told(gain=0.09, least=0.55).run((0.5,), 100)


def test_all_of_the_training_goes_to_a_share_that_was_asked_for() -> None:
    search = Told(gain=0.09)
    search.run((0.3,), 100)
    assert search.seen == [(1.0, 0, 0), (0.3, 0, 0), (0.3, 100, 100)]


def test_other_activations_come_first_where_they_are_worth_it() -> None:
    good, bad = Told(lost=0.005), Told(lost=0.02)
    for search in (good, bad):
        search.run((0.98, 0.9), 0)
        assert search.stages[1] == Stage(1.0, hard=True)
    assert good.stages[2] == Stage(0.98, 0.0, Stage(1.0, hard=True), hard=True)
    assert bad.stages[2] == Stage(0.98)


def test_other_activations_that_training_may_bring_back_are_trained() -> None:
    search = Told(gain=0.05, lost=0.05)
    search.run((0.9, 0.6), 100)
    assert all(stage.hard for stage in search.stages[1:])
    assert search.stages[-1].own == 60


def test_weights_become_coarser_until_the_file_is_small_enough() -> None:
    search = Told(size=0.4)
    search.run((), 0)
    saved = [stage.saved for stage in search.stages if stage.saved]
    assert 1 < len(saved) <= 3  # each makes up for the text that the one before had added
    assert saved[0] == pytest.approx(200_000, rel=0.03)
    last = search.trials[-1]
    assert last.precision == "int8-w4"
    assert last.size == pytest.approx(0.4, rel=1e-2)
    assert chain(search.trials, 0.99, search.limits) == [last]


def test_coarser_weights_are_not_tried_without_need() -> None:
    for search in (Told(), Told(size=0.6), Told(size=0.4, latency=0.4)):
        search.run((), 0)
        assert not any(stage.saved for stage in search.stages)

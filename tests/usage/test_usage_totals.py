"""Which measure can rank."""

from __future__ import annotations

import pytest

from sprue.errors import InputError
from sprue.usage.asked import Asked
from sprue.usage.totals import COMPUTE, REQUESTS, TOKENS, Total, added, settle

WHOLE = Total(requests=100, tokens_in=600, tokens_out=400, flops=10**12)


def test_what_is_known_ranks() -> None:
    for measure in (COMPUTE, TOKENS, REQUESTS):
        assert settle(measure, WHOLE) == (measure, None)


def changed(**changes: int) -> Total:
    from dataclasses import replace

    return replace(WHOLE, **changes)


@pytest.mark.parametrize(
    ("whole", "measure", "why"),
    [
        (changed(tokens_without_flops=10, without_flops=1), COMPUTE, None),  # one in a hundred
        (changed(tokens_without_flops=11), TOKENS, "FLOPs are not known of 1.1% of the tokens"),
        (changed(flops=0, tokens_without_flops=1000), TOKENS, "FLOPs .* any of the tokens"),
        (changed(flops=0), TOKENS, "FLOPs .* any of the tokens"),  # all are told, and all are zero
        (
            changed(tokens_in=0, tokens_out=0, without_tokens=100, without_flops=2),
            REQUESTS,
            "2% of the requests, and tokens are not known of any of the requests",
        ),
        (changed(tokens_in=0, tokens_out=0, without_tokens=100, without_flops=1), COMPUTE, None),
        (
            changed(tokens_without_flops=500, without_tokens=2),
            REQUESTS,
            "50% of the tokens, and tokens are not known of 2% of the requests",
        ),
    ],
)
def test_what_is_not_known_leaves_the_next(whole: Total, measure: str, why: str | None) -> None:
    import re

    found, told = settle(COMPUTE, whole)
    assert found == measure
    assert (told is None) == (why is None)
    assert why is None or re.search(why, told or "")


def test_totals_are_added_and_shared() -> None:
    assert added([]) == Total()
    both = added([WHOLE, Total(requests=1, tokens_in=1, cpu_microseconds=1_500_000)])
    assert (both.requests, both.tokens, both.cpu_seconds) == (101, 1001, 1.5)
    assert WHOLE.share(both, TOKENS) == 1000 / 1001
    assert WHOLE.share(Total(), COMPUTE) == 10**12  # never divides by nothing
    assert Total().share(Total(), COMPUTE) == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"by": "money"}, "compute, tokens, requests"),
        ({"since": 2.0, "until": 2.0}, "before --until"),
        ({"flops": {"m": 0.0}}, "above 0"),
        ({"flops": {"m": float("nan")}}, "above 0"),
        ({"top": 0}, "--top must be 1 or more"),
        ({"min_cluster": 1}, "--min-cluster must be 2 or more"),
        ({"sample": -1}, "--sample must be 0 or more"),
    ],
)
def test_what_cannot_be_asked_for(wrong: dict[str, object], says: str) -> None:
    with pytest.raises(InputError, match=says):
        Asked(**wrong)  # type: ignore[arg-type]

"""Traffic made from texts: requests whose answers are what truly follows in the text."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sprue.errors import InputError
from sprue.fleet.scoring import Need

START = 1_790_000_000.0  # of the first request, seconds since 1970
_EVERY = 30.0  # seconds, in the mean
_TENANTS = ("acme", "birch", "cobalt")


@dataclass(frozen=True)
class Mix:
    """What is asked for.

    Attributes:
        shares: name of a text -> its share of the needs.
        several: share of the requests with two needs, of different texts.
        named: share of those with one need whose caller names the capability.
        nameable: the texts that a caller can name.
    """

    shares: Mapping[str, float]
    several: float
    named: float
    nameable: frozenset[str]


def write(
    file: Path,
    needs: Mapping[str, Sequence[Need]],
    count: int,
    mix: Mix,
    tokens: tuple[int, int],
    seed: int,
) -> None:
    """A log of so many requests; no passage is asked twice.

    Args:
        file: to write, JSON lines.
        needs: name of a text -> its passages.
        count: of requests.
        mix: of what.
        tokens: of prompt and answer, for the log.
        seed: of the order.

    Raises:
        InputError: too few passages for that many requests.
    """
    rng = np.random.default_rng(seed)
    wanted = _wanted(count, mix, rng)
    names = [name for request in wanted for name in request]
    for name in mix.shares:
        if names.count(name) > len(needs[name]):
            raise InputError(
                f"{names.count(name)} passages of {name} are needed for {count} requests, and its "
                f"text gives {len(needs[name])}: ask for fewer requests, or give more text"
            )
    left = {name: iter(rng.permutation(len(some)).tolist()) for name, some in needs.items()}
    time, lines = START, []
    for number, request in enumerate(wanted):
        time += float(rng.exponential(_EVERY))
        some = [needs[name][next(left[name])] for name in request]
        named = len(request) == 1 and request[0] in mix.nameable and rng.random() < mix.named
        lines.append(json.dumps(_line(number, time, request, some, named, tokens, rng)))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _wanted(count: int, mix: Mix, rng: np.random.Generator) -> list[tuple[str, ...]]:
    names = list(mix.shares)
    p = np.array([mix.shares[name] for name in names])
    found = []
    for _ in range(count):
        k = 2 if rng.random() < mix.several else 1
        picked = rng.choice(len(names), k, replace=False, p=p / p.sum())
        found.append(tuple(names[i] for i in picked))
    return found


def _line(
    number: int,
    time: float,
    names: Sequence[str],
    needs: Sequence[Need],
    named: bool,
    tokens: tuple[int, int],
    rng: np.random.Generator,
) -> dict[str, object]:
    """As OpenAI's chat completions are logged; `label` is what the texts are truly of."""
    metadata: dict[str, object] = {
        "tenant": _TENANTS[int(rng.integers(len(_TENANTS)))],
        "label": "+".join(names),
    }
    if named:
        metadata |= {"capability": names[0], "named": True}
    prompt, answer = tokens[0] * len(needs), tokens[1] * len(needs)
    return {
        "id": f"r{number:05d}",
        "model": "full",
        "created": round(time, 3),
        "messages": [{"role": "user", "content": _content([need.prompt for need in needs])}],
        "choices": [
            {"message": {"role": "assistant", "content": _content([n.answer for n in needs])}}
        ],
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        },
        "metadata": metadata,
    }


def _content(texts: Sequence[str]) -> object:
    if len(texts) == 1:
        return texts[0]
    return [{"type": "text", "text": text} for text in texts]

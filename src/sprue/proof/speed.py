"""Tokens per second of two models, timed in turns: A B A B.

A machine that others use, or that gets warm, changes while it is measured. Both models of a round
meet the same conditions, so every round gives a ratio, and the median of the ratios is reported
with its interval.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprue.proof import intervals
from sprue.proof.energy import Counter
from sprue.proof.intervals import Estimate

ROUNDS = 7  # the range of seven ratios is a 98% interval of their median; five would not reach 95%
SECONDS = 20.0  # what all rounds may take; slow models read and write fewer tokens
_WARM = 4  # tokens written in the round that does not count
_LEAST = 16, 4  # tokens read and written at least, however slow the models are


@dataclass(frozen=True)
class Pace:
    """One model; medians over the rounds.

    Attributes:
        prefill_tokens_per_second: reading the prompt.
        tokens_per_second: writing one token after another (batch 1, greedy, key-value cache).
        prefill_cpu_seconds: for a token of the prompt, over all cores.
        cpu_seconds: for a token that is written, over all cores.
        joules: for a token that is written; None without a counter.
    """

    prefill_tokens_per_second: float
    tokens_per_second: float
    prefill_cpu_seconds: float
    cpu_seconds: float
    joules: float | None


@dataclass(frozen=True)
class Speed:
    """Both models.

    Attributes:
        prompt_tokens, new_tokens, rounds: how it was measured.
        original, result: their paces.
        prefill_ratio, ratio: result over original, median of the rounds; above 1 is faster.
        cpu_ratio: CPU seconds for a written token, result over original; below 1 is cheaper.
    """

    prompt_tokens: int
    new_tokens: int
    rounds: int
    original: Pace
    result: Pace
    prefill_ratio: Estimate
    ratio: Estimate
    cpu_ratio: Estimate


@dataclass(frozen=True)
class _Cost:
    """Of one phase, for a token."""

    seconds: float
    cpu_seconds: float
    joules: float | None


def measure(
    original: Any,
    result: Any,
    prompt: Tensor,
    new_tokens: int,
    *,
    rounds: int = ROUNDS,
    seconds: float = SECONDS,
    counter: Counter | None = None,
    advance: Callable[[int], object] | None = None,
) -> Speed:
    """Time both models of `transformers` in turns, after one round that does not count.

    Args:
        original, result: the models, in evaluation mode.
        prompt: [1, tokens] int64 on their device; its start is read where the models are slow.
        new_tokens: to write in every round; fewer where the models are slow.
        rounds: of both models.
        seconds: that all rounds may take, about.
        counter: of energy.
        advance: called with 1 after each round.
    """
    models = (original, result)
    advance = advance or (lambda done: None)
    warm = [_round(model, prompt, min(_WARM, new_tokens), None) for model in models]
    read, write = _affordable(warm, prompt.shape[1], new_tokens, seconds / rounds)
    prompt = prompt[:, :read]
    advance(1)
    table: list[list[tuple[_Cost, _Cost]]] = []  # [rounds][models] -> prefill, writing
    for _ in range(rounds):
        table.append([_round(model, prompt, write, counter) for model in models])
        advance(1)
    a, b = ([costs[which] for costs in table] for which in (0, 1))
    return Speed(
        prompt_tokens=read,
        new_tokens=write,
        rounds=rounds,
        original=_pace(a),
        result=_pace(b),
        prefill_ratio=_ratio(_seconds(a, 0), _seconds(b, 0)),
        ratio=_ratio(_seconds(a, 1), _seconds(b, 1)),
        cpu_ratio=_ratio([w.cpu_seconds for _, w in b], [w.cpu_seconds for _, w in a]),
    )


def _affordable(
    warm: Sequence[tuple[_Cost, _Cost]], prompt: int, new_tokens: int, seconds: float
) -> tuple[int, int]:
    """Tokens that both models together can read, and write, in half of `seconds` each."""
    asked = (prompt, new_tokens)
    slow = [sum(both[phase].seconds for both in warm) for phase in (0, 1)]
    found = [
        int(seconds / 2 / each) if each else most for each, most in zip(slow, asked, strict=True)
    ]
    read, write = (
        min(most, max(least, n)) for n, least, most in zip(found, _LEAST, asked, strict=True)
    )
    return read, write


def _round(
    model: Any, prompt: Tensor, new_tokens: int, counter: Counter | None
) -> tuple[_Cost, _Cost]:
    state: dict[str, Any] = {}

    def run(ids: Tensor) -> None:
        output = model(ids, past_key_values=state.get("cache"), use_cache=True)
        state["cache"] = output.past_key_values
        state["next"] = output.logits[:, -1:].argmax(-1)

    def write() -> None:
        for _ in range(new_tokens):
            run(state["next"])

    with torch.inference_mode():
        prefill = _cost(lambda: run(prompt), prompt.shape[1], prompt.device, counter)
        return prefill, _cost(write, new_tokens, prompt.device, counter)


def _cost(
    work: Callable[[], None], tokens: int, device: torch.device, counter: Counter | None
) -> _Cost:
    _finish(device)
    joules = counter.joules() if counter else 0.0
    cpu, begin = time.process_time(), time.perf_counter()
    work()
    _finish(device)
    seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
    used = (counter.joules() - joules) / tokens if counter else None
    return _Cost(seconds / tokens, cpu / tokens, used)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _pace(costs: Sequence[tuple[_Cost, _Cost]]) -> Pace:
    joules = [writing.joules for _, writing in costs if writing.joules is not None]
    return Pace(
        prefill_tokens_per_second=1 / _middle(_seconds(costs, 0)),
        tokens_per_second=1 / _middle(_seconds(costs, 1)),
        prefill_cpu_seconds=_middle([reading.cpu_seconds for reading, _ in costs]),
        cpu_seconds=_middle([writing.cpu_seconds for _, writing in costs]),
        joules=_middle(joules) if joules else None,
    )


def _seconds(costs: Sequence[tuple[_Cost, _Cost]], phase: int) -> list[float]:
    return [both[phase].seconds for both in costs]


def _ratio(over: Sequence[float], under: Sequence[float]) -> Estimate:
    return intervals.median(np.asarray(over) / np.asarray(under))


def _middle(values: Sequence[float]) -> float:
    return float(np.median(values))

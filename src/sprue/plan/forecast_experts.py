"""What a conversion to experts and a distillation take, said before anything is spent."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import psutil

from sprue.models import Source
from sprue.plan.convert import SAMPLE
from sprue.plan.distill import Schedule
from sprue.plan.forecast import Forecast, flops_per_second
from sprue.plan.keeping import INTERVAL
from sprue.plan.lesson import HELD, LOOKS
from sprue.plan.room import RESIDENT
from sprue.plan.split import feed_forward

_PASSES = 12  # of a block over the calibration windows, with its groups and regressions
_SAMPLES = 6  # arrays of the size of the neurons over tokens, at the same time
_LEARNED = 12  # bytes of a parameter that learns: gradient and two moments
_LOGITS = 5  # arrays of the size of the logits
_BUFFERS = 128 << 20  # what the libraries take once they compute
_ACTIVATIONS = 1 << 30  # bytes of a forward and backward at once, where one window needs no more


def forecast(
    source: Source, ids: Sequence[int], schedule: Schedule | None, learned: int | None = None
) -> Forecast:
    """What converting `source` will take.

    Args:
        source: the original.
        ids: (windows, context) of the statistics.
        schedule: of the distillation; None: none.
        learned: parameters that learn; None: all.
    """
    windows, context = ids
    width = int(source.config.hidden_size)
    weights = sum(prod(source.shape(name)) for name in source.entries)
    block, neurons = _block(source), _neurons(source)
    activations = 4 * windows * context * width
    regression = 28 * neurons**2  # a Gram matrix in single precision, copies in double
    inside = 2 * 4 * block + max(
        regression, _SAMPLES * min(SAMPLE, 4 * neurons * windows * context)
    )
    added = inside + 4 * min(activations, RESIDENT) + _BUFFERS
    disk = source.nbytes + 4 * source.blocks * block + 4 * max(0, activations - RESIDENT)
    seconds = 2.0 * _PASSES * block * source.blocks * windows * context / flops_per_second()
    if seconds > INTERVAL:
        disk += 2 * activations
    if schedule is not None:
        learned = weights if learned is None else learned
        lesson = 8 * weights + _LEARNED * learned + at_once(source, context)[1] + _BUFFERS
        added, disk = max(added, lesson), disk + _LEARNED * learned
        seconds += _lesson_seconds(weights, schedule, context)
    return Forecast(psutil.Process().memory_info().rss + added, added, disk, seconds)


def forecast_drop(source: Source, ids: Sequence[int]) -> Forecast:
    """What dropping experts of `source` will take; the arguments are those of `forecast`."""
    windows, context = ids
    prefixes = [f"{source.family.block(i)}." for i in range(source.blocks)]
    largest = max(
        sum(prod(source.shape(n)) for n in source.entries if n.startswith(p)) for p in prefixes
    )
    activations = 4 * windows * context * int(source.config.hidden_size)
    # a block as it runs, and one tensor of all its experts as it is put together
    added = 2 * 4 * largest + min(activations, RESIDENT) + _BUFFERS
    seconds = 2.0 * 2 * largest * source.blocks * windows * context / flops_per_second()
    disk = source.nbytes + max(0, activations - RESIDENT)
    return Forecast(psutil.Process().memory_info().rss + added, added, disk, seconds)


def at_once(source: Source, context: int) -> tuple[int, int]:
    """Windows in one forward and backward of a distillation, and the bytes that they take."""
    config = source.config
    vocabulary = source.shape(f"{source.family.embedding}.weight")[0]
    heads = int(config.num_attention_heads)
    token = 4 * (source.blocks * (16 * int(config.hidden_size) + 4 * _neurons(source)))
    token += 4 * source.blocks * heads * context + 4 * _LOGITS * vocabulary
    window = token * context
    count = max(1, _ACTIVATIONS // window)
    return count, count * window


def _block(source: Source) -> int:
    """Weights of a block."""
    prefix = f"{source.family.block(0)}."
    return sum(prod(source.shape(name)) for name in source.entries if name.startswith(prefix))


def _neurons(source: Source) -> int:
    part = feed_forward(source)
    shape = source.shape(f"{source.family.block(0)}.{part.module}.{part.down}.weight")
    return shape[0] if source.family.transposed else shape[1]


def _lesson_seconds(weights: int, schedule: Schedule, context: int) -> float:
    if schedule.seconds is not None:
        return schedule.seconds
    steps = schedule.steps or 0
    # forward of the teacher, forward and backward of the student; looks go forward with both
    learning = 8.0 * weights * schedule.tokens * steps
    looking = 4.0 * weights * HELD * context * (1 + min(steps, LOOKS))
    return (learning + looking) / flops_per_second()

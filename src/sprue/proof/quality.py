"""How well a result predicts the text that its original predicts, window by window.

For every predicted token, with p the original's distribution and q the result's:
nll = -ln p(token) and -ln q(token), the divergence KL(p || q) = sum p (ln p - ln q) in nats, and
whether both put the same token first. A window counts with the mean over its tokens, a file with
the mean over its windows, and several files with the mean over the files.

perplexity = exp(mean nll); excess = perplexity of the result / that of the original - 1;
kept = 1 / (1 + excess). All three are monotone in the mean paired difference of nll, and so are
their intervals.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import PreTrainedModel

from sprue.errors import InputError
from sprue.proof import intervals
from sprue.proof.intervals import CONFIDENCE, Estimate

# From ids [batch, context] to logits [batch, context, vocab], or to an object that has `logits`.
Model = Callable[[Tensor], Any]

_LOGITS = 64 << 20  # logits of one model in memory at a time
_ROWS = 4 << 20  # elements of what is derived from them in memory at a time


@dataclass(frozen=True)
class Sample:
    """What both models made of the windows of one file; all arrays are [windows] float64.

    Attributes:
        name: of the file.
        original: negative log likelihood of the original, nats per token.
        result: the same of the result.
        kl: divergence of the result from the original, nats per token.
        agreement: share of the tokens for which both put the same token first.
    """

    name: str
    original: NDArray[np.float64]
    result: NDArray[np.float64]
    kl: NDArray[np.float64]
    agreement: NDArray[np.float64]

    @property
    def difference(self) -> NDArray[np.float64]:
        """nll of the result minus that of the original, nats per token."""
        return self.result - self.original


@dataclass(frozen=True)
class Quality:
    """The figures of one file, or of several as their mean; every interval has 95%.

    Attributes:
        perplexity_original, perplexity_result: exp(mean nll).
        excess: perplexity ratio - 1.
        kept: original perplexity / result perplexity.
        kl_nats: nats per token.
        top1_agreement: share of tokens.
        kept_at_least: one-sided lower bound of `kept`, with 95% confidence.
    """

    perplexity_original: Estimate
    perplexity_result: Estimate
    excess: Estimate
    kept: Estimate
    kl_nats: Estimate
    top1_agreement: Estimate
    kept_at_least: float


@dataclass(frozen=True)
class Verdict:
    """A statement of non-inferiority.

    Attributes:
        keep: the share of quality that was asked for; None asks for nothing.
        kept_at_least: one-sided lower bound of what was kept.
        confidence: of the bound.
        passed: whether the bound reaches `keep`; True where nothing was asked for.
    """

    keep: float | None
    kept_at_least: float
    confidence: float
    passed: bool


def compare(
    original: Model,
    result: Model,
    ids: Tensor,
    *,
    name: str = "",
    batch: int = 8,
    advance: Callable[[int], object] | None = None,
) -> Sample:
    """Both models on the same windows.

    Models of `transformers` go through a window in several steps, with their key-value cache, where
    the logits of all of it would be too large; the logits of two such steps are in memory at a
    time. Any other callable is asked for a batch of whole windows.

    Args:
        original, result: the models.
        ids: the windows, [windows, context] int64, on the models' device.
        name: of the file that the windows come from.
        batch: windows run at once.
        advance: called with the number of windows done, after each batch.

    Raises:
        InputError: logits that are not finite, or of different vocabularies.
    """
    columns = []
    with torch.inference_mode():
        for some in torch.split(ids, batch):
            columns.append(_compare(original, result, some))
            if advance is not None:
                advance(len(some))
    table = torch.cat(columns, dim=1).cpu()
    for row, model in enumerate(("original", "result", "result")):
        _check_finite(table[row], model, name)
    return Sample(name, *table.numpy())


def summarize(samples: Sequence[Sample]) -> Quality:
    """The figures of one file, or the mean over several.

    Args:
        samples: one for each file, with at least two windows each.

    Raises:
        InputError: a file with one window only.
    """
    short = [s.name for s in samples if len(s.original) < 2]
    if short:
        raise InputError(
            f"{short[0]} gives one window only, and an interval needs two: give more text or a "
            "smaller context"
        )
    worse = intervals.mean([s.difference for s in samples])
    kl = intervals.mean([s.kl for s in samples])
    agreement = intervals.mean([s.agreement for s in samples])
    return Quality(
        perplexity_original=_perplexity([s.original for s in samples]),
        perplexity_result=_perplexity([s.result for s in samples]),
        excess=worse.interval().through(math.expm1),
        kept=worse.interval().through(lambda x: math.exp(-x)),
        kl_nats=kl.interval().within(0, math.inf),
        top1_agreement=agreement.interval().within(0, 1),
        kept_at_least=math.exp(-worse.at_most()),
    )


def judge(quality: Quality, keep: float | None) -> Verdict:
    """Whether at least `keep` of the quality was kept, as far as the data can tell.

    Passes when the one-sided 95% lower bound of `kept` reaches the margin: were less kept in truth,
    data like these would let it pass at most once in twenty times.
    """
    return _judged(quality.kept_at_least, keep, CONFIDENCE)


def judge_at(samples: Sequence[Sample], keep: float, confidence: float) -> Verdict:
    """The same at another confidence, for one of several looks at the same text."""
    worse = intervals.mean([s.difference for s in samples])
    return _judged(math.exp(-worse.at_most(confidence)), keep, confidence)


def _judged(least: float, keep: float | None, confidence: float) -> Verdict:
    return Verdict(keep, least, confidence, keep is None or least >= keep)


def _perplexity(strata: Sequence[NDArray[np.float64]]) -> Estimate:
    return intervals.mean(strata).interval().through(math.exp)


def _compare(original: Model, result: Model, ids: Tensor) -> Tensor:
    """[4, windows] float64: nll of both, divergence, agreement; means over the tokens."""
    step = _step((original, result), ids)
    total = torch.zeros(4, len(ids), dtype=torch.float64, device=ids.device)
    start = 1
    for a, b in zip(_steps(original, ids, step), _steps(result, ids, step), strict=True):
        if a.shape[-1] != b.shape[-1]:
            raise InputError(
                f"the original has a vocabulary of {a.shape[-1]} tokens, the result one of "
                f"{b.shape[-1]}: they cannot be compared"
            )
        # The last logits of a window predict a token that is not there: no target, left out.
        for window, targets in enumerate(ids[:, start : start + a.shape[1]]):
            total[:, window] += _figures(a[window], b[window], targets)
        start += a.shape[1]
    return total / (ids.shape[1] - 1)


def _step(models: Sequence[Model], ids: Tensor) -> int:
    """How many tokens of a window to run at once; all, where the models cannot go on later."""
    if not all(isinstance(model, PreTrainedModel) for model in models):
        return ids.shape[1]
    configs: list[Any] = [model.config for model in models]  # type: ignore[attr-defined]
    vocabulary: int = max(config.get_text_config().vocab_size for config in configs)
    return max(1, min(ids.shape[1], _LOGITS // (vocabulary * len(ids))))


def _steps(model: Model, ids: Tensor, step: int) -> Iterator[Tensor]:
    """The logits of `ids`, `step` tokens at a time."""
    if step == ids.shape[1]:
        output = model(ids)
        yield output if isinstance(output, Tensor) else output.logits
        return
    run: Any = model
    cache = None
    for part in torch.split(ids, step, dim=1):
        output = run(part, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        yield output.logits


def _figures(a: Tensor, b: Tensor, targets: Tensor) -> Tensor:
    """[4] sums over the tokens of one window, from logits [tokens or one more, vocab]."""
    rows = max(1, _ROWS // a.shape[-1])
    total = torch.zeros(4, dtype=torch.float64, device=a.device)
    for first in range(0, len(targets), rows):
        last = min(first + rows, len(targets))
        total += _sums(a[first:last], b[first:last], targets[first:last])
    return total


def _sums(a: Tensor, b: Tensor, targets: Tensor) -> Tensor:
    p, q = (logits.float().log_softmax(-1) for logits in (a, b))
    nll = [-x.gather(-1, targets[:, None])[:, 0] for x in (p, q)]
    share = p.exp()
    # A token that the original rules out adds nothing, even where ln p - ln q is inf - inf.
    kl = torch.where(share > 0, share * (p - q), 0.0).sum(-1)
    agreement = a.argmax(-1) == b.argmax(-1)
    return torch.stack([x.double().sum() for x in (*nll, kl, agreement)])


def _check_finite(column: Tensor, model: str, name: str) -> None:
    broken = (~torch.isfinite(column)).nonzero()
    if len(broken):
        raise InputError(
            f"the {model} gives logits that are not finite, first in window {int(broken[0])} of "
            f"{name or 'the data'}: its weights are damaged, or too large for its dtype"
        )

"""How likely models find the same answers: what specialists and the full model are compared by.

A need is a prompt and the text that truly follows it. Both are made tokens one by one, so that
models with different vocabularies are asked for the same text; nats are of the answer alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from sprue.data.text import Document
from sprue.errors import InputError

_BATCH_TOKENS = 4096  # of a forward pass


@dataclass(frozen=True)
class Need:
    """What is asked, and what truly follows.

    Attributes:
        prompt: not empty.
        answer: not empty.
    """

    prompt: str
    answer: str


@dataclass(frozen=True)
class Tokens:
    """A need in the tokens of one model.

    Attributes:
        prompt, answer: ids, at least one each.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        """All of it."""
        return self.prompt + self.answer


def encoded(tokenizer: Any, need: Need, most: int | None = None) -> Tokens:
    """A need in tokens; of a prompt that is too long its end.

    Args:
        tokenizer: of `transformers`.
        need: what is asked.
        most: tokens of prompt and answer together; None: any number.

    Raises:
        InputError: the answer alone is longer than that, or one of the two gives no token.
    """
    prompt, answer = (
        tuple(tokenizer(text, add_special_tokens=False, verbose=False).input_ids)
        for text in (need.prompt, need.answer)
    )
    begin = () if tokenizer.bos_token_id is None else (tokenizer.bos_token_id,)
    alone = tokenizer("").input_ids
    begin = begin if alone and (alone[0],) == begin else ()
    if not answer or not (prompt or begin):
        raise InputError("a prompt and an answer of at least one token each are needed")
    if most is not None:
        room = most - len(answer) - len(begin)
        if room < 1:
            raise InputError(
                f"the answer has {len(answer)} tokens, and the model reads at most {most} at once"
            )
        prompt = prompt[-room:]
    return Tokens(begin + prompt, answer)


@dataclass(frozen=True)
class Read:
    """What a model makes of an answer.

    Attributes:
        nats: minus the log likelihood of every token, float64 [tokens].
        entropy: in nats, before every token, float64 [tokens].
        margin: lead of the likeliest token over the next, in probability, float64 [tokens].
    """

    nats: Tensor
    entropy: Tensor
    margin: Tensor


@torch.inference_mode()
def read(
    model: Any,
    needs: Sequence[Tokens],
    advance: Callable[[int], object] = lambda count: None,
) -> list[Read]:
    """What a model makes of each answer.

    Args:
        model: causal, of `transformers`, in eval mode.
        needs: in its tokens.
        advance: called with how many were read, after each batch.

    Raises:
        InputError: logits that are not finite.
    """
    counts = [len(need.answer) for need in needs]
    # In one piece, made first: small tensors that stay, made in turns with large ones that go,
    # leave holes that none of the next fits into, and memory grows by most of what went.
    whole = torch.empty(3, sum(counts), dtype=torch.float64)
    found = [Read(*one) for one in torch.split(whole, counts, 1)]
    for some in _batches([len(need.ids) for need in needs]):
        logits = _logits(model, [needs[i].ids for i in some])
        for row, i in zip(logits, some, strict=True):
            need = needs[i]
            _read(row[len(need.prompt) - 1 : len(need.ids) - 1], need.answer, found[i])
        advance(len(some))
    return found


def _read(logits: Tensor, answer: Sequence[int], into: Read) -> None:
    p = logits.double().log_softmax(-1).cpu()
    into.nats.copy_(-p.gather(-1, torch.tensor(answer)[:, None])[:, 0])
    if not torch.isfinite(into.nats).all():
        raise InputError("the model gives logits that are not finite: its weights are damaged")
    share = p.exp()
    best = share.topk(2, -1).values
    into.margin.copy_(best[:, 0] - best[:, 1])
    into.entropy.copy_(-(share * p).sum(-1))


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Places of needs about as long as one another."""
    order = sorted(range(len(lengths)), key=lambda i: (lengths[i], i))
    some: list[int] = []
    for i in order:
        if some and (len(some) + 1) * lengths[i] > _BATCH_TOKENS:
            yield some
            some = []
        some.append(i)
    if some:
        yield some


def _logits(model: Any, rows: Sequence[Sequence[int]]) -> Tensor:
    """Of texts side by side; what stands behind a text changes nothing before it."""
    longest = max(map(len, rows))
    ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows])
    found: Tensor = model(ids.to(model.device), use_cache=False).logits.float()
    return found


def needs_of(
    tokenizer: Any,
    documents: Sequence[Document],
    prompt: int,
    answer: int,
    count: int | None = None,
    seed: int = 0,
) -> list[Need]:
    """Passages of documents, each cut into a prompt and what follows.

    Args:
        tokenizer: a fast one, whose tokens are counted.
        documents: that the passages are cut from, one after another.
        prompt, answer: tokens of each, about.
        count: at most so many, drawn with the seed; None: all.

    Raises:
        InputError: no document is long enough.
    """
    found: list[Need] = []
    for document in documents:
        offsets = tokenizer(
            document.text, add_special_tokens=False, verbose=False, return_offsets_mapping=True
        ).offset_mapping
        begins = [begin for begin, _ in offsets] + [len(document.text)]
        for start in range(0, len(offsets) - prompt - answer + 1, prompt + answer):
            a, b, c = (begins[start + n] for n in (0, prompt, prompt + answer))
            need = Need(document.text[a:b], document.text[b:c])
            if need.prompt.strip() and need.answer.strip():
                found.append(need)
    if not found:
        raise InputError(
            f"no document has {prompt + answer} tokens on end to ask for: give longer texts"
        )
    if count is None or count >= len(found):
        return found
    picked = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[i] for i in sorted(picked.tolist())]

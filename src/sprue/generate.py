"""The verb `generate`: a person tries a compressed model, and its original beside it."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from sprue.errors import InputError
from sprue.models import locate
from sprue.runtime.load import load


@dataclass(frozen=True)
class Sample:
    """What one model said.

    Attributes:
        model: the folder or name as it was given.
        text: the continuation, without the prompt.
        tokens: how many were added.
        seconds: wall-clock time for them, reading the prompt included.
    """

    model: str
    text: str
    tokens: int
    seconds: float

    @property
    def tokens_per_second(self) -> float:
        """New tokens over seconds."""
        return self.tokens / self.seconds if self.seconds else 0.0


class Samples(list[Sample]):
    """A sample per model, in the order in which the models were given."""

    def table(self) -> str:
        """For a terminal: each model with its speed, then its text."""
        return "\n\n".join(
            f"{s.model}  ({s.tokens} tokens, {s.tokens_per_second:.1f} tokens/s)\n"
            + textwrap.indent(s.text, "  ")
            for s in self
        )


def generate(
    model_dir: str | Path,
    prompt: str,
    *,
    beside: str | Path | None = None,
    max_new_tokens: int = 60,
    seed: int = 0,
    temperature: float = 0.0,
    device: str = "cpu",
) -> Samples:
    """Continues `prompt` with a model, then with another; one of them is in memory at a time.

    Args:
        model_dir: a folder that `compress` made, or any model folder or hub name.
        prompt: the text to continue.
        beside: another model, usually the original.
        max_new_tokens: at most so many; a model stops earlier at its end token and where its
            context ends.
        seed: of the sampling; the global random state is not touched.
        temperature: 0 takes the likeliest token, larger values vary more.
        device: where the models run.

    Raises:
        ArtifactError: a damaged artifact.
        InputError: no such model, no tokenizer, an empty or too long prompt, a bad argument.
    """
    if max_new_tokens < 1 or not temperature >= 0:
        raise InputError(
            "expected at least 1 token and a temperature of 0 or more, "
            f"received {max_new_tokens} and {temperature}"
        )
    models = [str(model) for model in (model_dir, beside) if model is not None]
    return Samples(
        _sample(model, prompt, max_new_tokens, _picker(temperature, seed), device)
        for model in models
    )


def _sample(
    name: str, prompt: str, count: int, pick: Callable[[Tensor], int], device: str
) -> Sample:
    folder = locate.folder(name)
    model = load(folder, device=device)  # first, as it finds out whether any file was changed
    tokenizer = _tokenizer(folder)
    ids: list[int] = tokenizer(prompt).input_ids
    room = _room(model, name, len(ids))
    begin = time.perf_counter()
    new = _continue(model, ids, min(count, room), pick)
    seconds = time.perf_counter() - begin
    # A token alone may decode differently than after others: take what the new ones add.
    before, after = (tokenizer.decode(i, skip_special_tokens=True) for i in (ids, ids + new))
    return Sample(name, after[len(before) :], len(new), seconds)


def _continue(model: Any, ids: list[int], count: int, pick: Callable[[Tensor], int]) -> list[int]:
    """Up to `count` new ids; the end token ends them and is not among them."""
    ends = model.generation_config.eos_token_id
    stop = set(ends) if isinstance(ends, list) else {ends}
    new: list[int] = []
    step, cache = ids, None
    with torch.inference_mode():
        while len(new) < count:
            out = model(
                torch.tensor([step], device=model.device), past_key_values=cache, use_cache=True
            )
            chosen = pick(out.logits[0, -1].float().cpu())
            if chosen in stop:
                break
            new.append(chosen)
            step, cache = [chosen], out.past_key_values
    return new


def _picker(temperature: float, seed: int) -> Callable[[Tensor], int]:
    if temperature == 0:
        return lambda logits: int(logits.argmax())
    generator = torch.Generator().manual_seed(seed)
    return lambda logits: int(
        torch.multinomial(torch.softmax(logits / temperature, -1), 1, generator=generator)
    )


def _tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} has no tokenizer that can be loaded ({error}): copy the original's "
            "tokenizer files there"
        ) from error


def _room(model: Any, name: str, used: int) -> int:
    """How many tokens the context still takes."""
    if not used:
        raise InputError("the prompt is empty: give at least one word to continue")
    limit = getattr(model.config, "max_position_embeddings", None)
    if limit is not None and used >= limit:
        raise InputError(
            f"the prompt has {used} tokens; {name} has a context of {limit}: shorten the prompt"
        )
    return limit - used if limit is not None else 1 << 30

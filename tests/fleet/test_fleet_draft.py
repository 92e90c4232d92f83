"""Drafts of a specialist that the full model checks: exactly what the full model alone gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from scipy import stats
from torch import Tensor

from sprue.errors import InputError
from sprue.fleet.draft import Cached, continued

VOCABULARY = 5


class Chain:
    """A model whose next token depends on the last two."""

    def __init__(self, seed: int, like: Chain | None = None, mixed: float = 0.0) -> None:
        generator = torch.Generator().manual_seed(seed)
        shape = (VOCABULARY, VOCABULARY, VOCABULARY)
        own = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.logits = own if like is None else (1 - mixed) * like.logits + mixed * own
        self.done = 0

    def read(self, ids: Sequence[int]) -> Tensor:
        new = range(min(self.done, len(ids) - 1), len(ids))
        self.done = len(ids)
        return torch.stack([self.logits[ids[i - 1] if i else 0, ids[i]] for i in new])

    def forget(self) -> None:
        self.done = 0

    def joint(self, ids: Sequence[int], temperature: float) -> dict[tuple[int, ...], float]:
        """Probability of every continuation of three tokens."""
        found = {(): 1.0}
        for _ in range(3):
            found = {
                (*tail, token): mass * float(spread[token])
                for tail, mass in found.items()
                for spread in [self._spread([*ids, *tail], temperature)]
                for token in range(VOCABULARY)
            }
        return found

    def _spread(self, ids: Sequence[int], temperature: float) -> Tensor:
        return torch.softmax(self.logits[ids[-2], ids[-1]] / temperature, -1)


@pytest.mark.parametrize(("mixed", "temperature"), [(0.0, 1.0), (0.3, 1.0), (1.0, 1.0), (1.0, 0.5)])
def test_samples_are_the_full_models_own(mixed: float, temperature: float) -> None:
    """Chi-square of all continuations of three tokens against the full model's probabilities."""
    full = Chain(0)
    specialist = Chain(1, full, mixed)
    seen: Counter[tuple[int, ...]] = Counter()
    count = 3000
    for seed in range(count):
        full.done = specialist.done = 0
        found = continued(full, specialist, [0, 1], 3, temperature=temperature, seed=seed)
        seen[found.ids] += 1
    expected = full.joint([0, 1], temperature)
    rare = {tail for tail, mass in expected.items() if count * mass < 5}
    groups = [(seen[t], count * m) for t, m in expected.items() if t not in rare]
    groups.append((sum(seen[t] for t in rare), count * sum(expected[t] for t in rare)))
    p = stats.chisquare(*zip(*groups, strict=True)).pvalue
    assert p > 1e-3
    drafts = specialist.joint([0, 1], temperature)
    others = stats.chisquare(
        [a for a, _ in groups],
        [
            *(count * drafts[t] for t in expected if t not in rare),
            count * sum(drafts[t] for t in rare),
        ],
    ).pvalue
    assert mixed < 0.2 or others < 1e-6  # the specialist's own would be told apart


def tiny(seed: int) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


def plain(model: Any, ids: list[int], count: int, stop: frozenset[int]) -> list[int]:
    """Token by token, everything computed anew each time."""
    new: list[int] = []
    with torch.inference_mode():
        while len(new) < count:
            token = int(model(torch.tensor([ids + new])).logits[0, -1].argmax())
            if token in stop:
                break
            new.append(token)
    return new


@pytest.mark.parametrize("kind", ["same", "near", "other"])
def test_without_sampling_it_is_the_full_models_own_text(kind: str) -> None:
    full, specialist = tiny(0), tiny(0 if kind != "other" else 1)
    if kind == "near":
        with torch.no_grad():
            for parameter in specialist.parameters():
                generator = torch.Generator().manual_seed(2)
                parameter.add_(0.004 * torch.randn(parameter.shape, generator=generator))
    generator = torch.Generator().manual_seed(3)
    accepted = drafted = 0
    for length in (1, 2, 5, 9, 30):
        ids = torch.randint(64, (length,), generator=generator).tolist()
        stop = frozenset((7,)) if length % 2 else frozenset[int]()
        reads = Cached(full), Cached(specialist)
        found = continued(*reads, ids, 24, stop=stop)
        assert list(found.ids) == plain(full, ids, 24, stop)
        accepted, drafted = accepted + found.accepted, drafted + found.drafted
        assert found.passes <= len(found.ids) + 1
    if kind == "same":
        assert accepted == drafted > 0


def test_a_good_draft_saves_passes() -> None:
    full = tiny(0)
    found = continued(Cached(full), Cached(full), [1, 2, 3], 40)
    assert found.passes <= 8
    assert len(found.ids) == 40


def test_what_was_read_is_not_computed_again() -> None:
    model = tiny(0)
    reader = Cached(model)
    first = reader.read([1, 2, 3, 4])
    assert len(first) == 4
    assert len(reader.read([1, 2, 3, 4, 5, 6])) == 2
    back = reader.read([1, 2, 9])  # another way from the third token
    assert len(back) == 1
    assert reader.tokens == 7
    with torch.inference_mode():
        expected = model(torch.tensor([[1, 2, 9]])).logits[0, -1]
    assert torch.allclose(back[0], expected, atol=1e-5)


def test_the_same_seed_gives_the_same_text() -> None:
    full, other = tiny(0), tiny(1)
    a, b, c = (
        continued(Cached(full), Cached(other), [1], 20, temperature=1.0, seed=seed).ids
        for seed in (5, 5, 6)
    )
    assert a == b != c


def test_wrong_arguments() -> None:
    full = Chain(0)
    for ids, count, temperature in (([], 3, 0.0), ([1], 0, 0.0), ([1], 3, -1.0)):
        with pytest.raises(InputError, match="expected at least one token"):
            continued(full, full, ids, count, temperature=temperature)
    wide = Chain(1)
    wide.logits = torch.randn(VOCABULARY, VOCABULARY, VOCABULARY + 1)
    with pytest.raises(InputError, match="one vocabulary"):
        continued(full, wide, [0, 1], 4, temperature=1.0)

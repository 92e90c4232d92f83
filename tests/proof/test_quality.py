"""Figures of quality against a plain float64 reference, and what they must be at the ends."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import AutoModelForCausalLM, Gemma2Config, GPT2Config, LlamaConfig, MistralConfig

from sprue.errors import InputError
from sprue.proof import quality
from sprue.proof.quality import Sample, compare, judge, summarize

VOCAB = 50


def random_ids(windows: int, context: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(VOCAB, (windows, context), generator=generator)


def table_model(seed: int, scale: float = 1.0) -> Any:
    """A model that knows how often one token follows another: ids -> rows of a random table."""
    table = scale * torch.randn(VOCAB, VOCAB, generator=torch.Generator().manual_seed(seed))
    return lambda ids: table[ids]


def noisy(model: Any, size: float, seed: int = 9) -> Any:
    noise = table_model(seed, size)
    return lambda ids: model(ids) + noise(ids)


def reference(a: Any, b: Any, ids: Tensor) -> np.ndarray:
    """[4, windows] as the definitions say, token by token in float64."""
    rows = []
    for window in ids:
        p, q = (torch.softmax(m(window[None])[0].double(), -1).numpy() for m in (a, b))
        tokens = []
        for t in range(len(window) - 1):
            target = int(window[t + 1])
            kl = sum(x * math.log(x / y) for x, y in zip(p[t], q[t], strict=True))
            same = p[t].argmax() == q[t].argmax()
            tokens.append([-math.log(p[t][target]), -math.log(q[t][target]), kl, same])
        rows.append(np.mean(tokens, axis=0))
    return np.array(rows).T


def arrays(sample: Sample) -> np.ndarray:
    return np.stack([sample.original, sample.result, sample.kl, sample.agreement])


def test_every_figure_equals_the_slow_reference() -> None:
    a, b = table_model(1), noisy(table_model(1), 0.3)
    ids = random_ids(5, 17)
    got = arrays(compare(a, b, ids, batch=2))
    # float32 log-softmax over 50 entries: about 50 rounding errors of 6e-8.
    np.testing.assert_allclose(got, reference(a, b, ids), rtol=1e-5, atol=1e-6)


def test_the_batch_and_the_chunks_of_rows_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, ids = table_model(1), table_model(2), random_ids(5, 17)
    whole = arrays(compare(a, b, ids, batch=5))
    monkeypatch.setattr(quality, "_ROWS", 3 * VOCAB)
    np.testing.assert_allclose(arrays(compare(a, b, ids, batch=3)), whole, rtol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.floats(0.01, 30))
def test_a_model_against_itself_loses_nothing(seed: int, scale: float) -> None:
    model = table_model(seed, scale)
    sample = compare(model, model, random_ids(3, 9, seed))
    figures = summarize([sample, sample])
    for figure, expected in (
        (figures.excess, 0),
        (figures.kl_nats, 0),
        (figures.top1_agreement, 1),
        (figures.kept, 1),
    ):
        assert (figure.value, figure.low, figure.high) == (expected,) * 3
    assert figures.perplexity_original == figures.perplexity_result
    assert judge(figures, 1.0).passed


def test_noise_is_seen_and_fails_a_tight_margin() -> None:
    # The original knows its text: the text is drawn from it.
    a = table_model(1, 2.0)
    ids = drawn(a, windows=60, context=64)
    figures = summarize([compare(a, noisy(a, 0.5), ids)])
    assert 0 < figures.excess.low < figures.excess.value < figures.excess.high
    assert figures.kept.value == pytest.approx(1 / (1 + figures.excess.value))
    assert figures.kl_nats.low > 0
    assert figures.top1_agreement.high < 1
    verdict = judge(figures, 0.999)
    assert not verdict.passed
    assert verdict.kept_at_least < figures.kept.value
    assert judge(figures, verdict.kept_at_least).passed
    assert judge(figures, None).passed


def drawn(model: Any, windows: int, context: int) -> Tensor:
    """Text that `model` wrote."""
    generator = torch.Generator().manual_seed(3)
    ids = random_ids(windows, 1)
    while ids.shape[1] < context:
        share = torch.softmax(model(ids[:, -1]), -1)
        ids = torch.cat([ids, torch.multinomial(share, 1, generator=generator)], 1)
    return ids


def test_nll_on_text_of_the_original_differs_by_the_divergence() -> None:
    """E[ln p - ln q] over text drawn from p is KL(p || q): two ways to the same figure."""
    a = table_model(1, 2.0)
    sample = compare(a, noisy(a, 1.0), drawn(a, windows=200, context=128))
    figures = summarize([sample])
    worse = math.log1p(figures.excess.low), math.log1p(figures.excess.high)
    assert worse[0] < figures.kl_nats.value < worse[1]


def test_files_weigh_the_same_whatever_their_length() -> None:
    a, b = table_model(1), table_model(2)
    long, short = compare(a, b, random_ids(30, 9)), compare(a, b, random_ids(3, 9, seed=5))
    both = summarize([long, short])
    assert math.log(both.perplexity_result.value) == pytest.approx(
        (long.result.mean() + short.result.mean()) / 2
    )
    assert both.kl_nats.value == pytest.approx((long.kl.mean() + short.kl.mean()) / 2)


def tiny(config: type, seed: int, **more: Any) -> Any:
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "max_position_embeddings": 64,
    }
    if config is GPT2Config:
        sizes = {"vocab_size": VOCAB, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 64}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config(**sizes, **more)).eval()


@pytest.mark.parametrize(
    ("config", "more"),
    [
        (LlamaConfig, {}),
        (GPT2Config, {}),
        (MistralConfig, {"sliding_window": 6}),
        (Gemma2Config, {"sliding_window": 6, "query_pre_attn_scalar": 8}),
    ],
)
def test_windows_run_in_steps_give_the_same_figures(
    monkeypatch: pytest.MonkeyPatch, config: type, more: dict[str, Any]
) -> None:
    a, b = (tiny(config, seed, **more) for seed in (0, 1))
    ids = random_ids(3, 20)
    whole = arrays(compare(a, b, ids))
    np.testing.assert_allclose(whole, reference(_logits(a), _logits(b), ids), rtol=1e-4, atol=1e-6)
    seen = []
    a.register_forward_hook(lambda _, __, output: seen.append(output.logits.numel()))
    monkeypatch.setattr(quality, "_LOGITS", 3 * 7 * VOCAB)
    np.testing.assert_allclose(arrays(compare(a, b, ids)), whole, rtol=1e-4, atol=1e-6)
    assert seen == [3 * 7 * VOCAB, 3 * 7 * VOCAB, 3 * 6 * VOCAB]


def _logits(model: Any) -> Any:
    def run(ids: Tensor) -> Tensor:
        with torch.inference_mode():
            return model(ids).logits

    return run


def test_a_token_that_is_ruled_out_costs_nothing() -> None:
    def masked(ids: Tensor) -> Tensor:
        logits = table_model(1)(ids).clone()
        logits[..., 40:] = -math.inf
        return logits

    ids = random_ids(2, 9) % 40
    assert np.all(compare(masked, masked, ids).kl == 0)
    assert np.all(compare(masked, table_model(1), ids).kl > 0)


@pytest.mark.parametrize("broken", ["original", "result"])
def test_a_broken_model_is_named(broken: str) -> None:
    def nan(ids: Tensor) -> Tensor:
        return torch.where(ids[..., None] == 7, math.nan, table_model(1)(ids))

    ids = random_ids(4, 9) % 7
    ids[2, 3] = 7
    pair = (nan, table_model(1)) if broken == "original" else (table_model(1), nan)
    with pytest.raises(InputError, match=f"the {broken} gives .* in window 2 of law.txt"):
        compare(*pair, ids, name="law.txt")


def test_different_vocabularies_are_refused() -> None:
    with pytest.raises(InputError, match="vocabulary of 50 tokens, the result one of 49"):
        compare(table_model(1), lambda ids: table_model(1)(ids)[..., :49], random_ids(2, 9))


def test_one_window_has_no_interval() -> None:
    sample = compare(table_model(1), table_model(2), random_ids(1, 9), name="law.txt")
    with pytest.raises(InputError, match=r"law.txt gives one window only"):
        summarize([sample])


def test_progress_is_told_in_windows() -> None:
    done: list[int] = []
    compare(table_model(1), table_model(1), random_ids(7, 5), batch=3, advance=done.append)
    assert done == [3, 3, 1]

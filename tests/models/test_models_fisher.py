"""Streamed Fisher information equals plain autograd, and predicts the divergence in nats."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sprue import models
from sprue.models import Stream
from sprue.models import fisher as module
from sprue.models.fisher import Fisher, fisher, sample

Folder = Callable[..., Path]
SEED = 11


def load(path: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()


def embedding_scale(name: str) -> float:
    """Gemma multiplies inside its embedding module, by the root of the width."""
    return 32**0.5 if name.startswith("gemma") else 1.0


def plain(path: Path, ids: Tensor, names: list[str], scale: float) -> Fisher:
    """The same with the whole model in memory and one backward pass over all windows."""
    model = load(path)
    table = model.get_input_embeddings()
    outputs: dict[nn.Module, Tensor] = {}
    modules = {name: model.get_submodule(name) for name in names}
    for linear in (*modules.values(), table):
        linear.register_forward_hook(lambda m, _, y: outputs.setdefault(m, y))
    logits = model(ids, use_cache=False).logits
    labels = sample(logits.detach(), torch.Generator().manual_seed(SEED))
    log_p = logits.log_softmax(-1).gather(-1, labels.unsqueeze(-1))
    watched = [*modules.values(), table]
    gradients = torch.autograd.grad(-log_p.sum(), [outputs[m] for m in watched], retain_graph=True)
    squares = {m: g.double().square() for m, g in zip(watched, gradients, strict=True)}
    # the head's is expected over labels: each logit depends on its own output alone
    (slope,) = torch.autograd.grad(logits.sum(), outputs[modules[names[-1]]])
    p = logits.detach().double().softmax(-1)
    squares[modules[names[-1]]] = slope.double().square() * p * (1 - p)
    per_token = squares[table].mean(-1).flatten() * scale**2 / ids.numel()
    return Fisher(
        rows={name: squares[m].flatten(0, -2).mean(0) for name, m in modules.items()},
        embedding=torch.zeros(table.num_embeddings, dtype=torch.float64).index_add_(
            0, ids.flatten(), per_token
        ),
        tokens=ids.numel(),
    )


def assert_same(a: Fisher, b: Fisher, rtol: float) -> None:
    """Equal up to rounding, which is relative to the larger entries of a sum."""
    assert list(a.rows) == list(b.rows)
    assert a.tokens == b.tokens
    for got, want in [(a.rows[n], b.rows[n]) for n in b.rows] + [(a.embedding, b.embedding)]:
        assert got.dtype == torch.float64
        torch.testing.assert_close(got, want, rtol=rtol, atol=rtol * float(want.mean()))


def test_the_stream_equals_plain_autograd(tiny: str, folder: Folder, ids: Tensor) -> None:
    source = models.open(folder(tiny))
    family = source.family
    linears = family.linears(source.config)
    names = [f"{family.block(i)}.{n}" for i in range(3) for n in linears] + [family.head]
    want = plain(folder(tiny), ids, names, embedding_scale(tiny))
    assert_same(fisher(Stream(source, ids, batch=2), seed=SEED), want, rtol=1e-4)
    assert float(want.rows[names[0]].sum()) > 0.0


@pytest.mark.parametrize("name", ["llama", "gpt2", "opt-narrow"])
def test_batches_and_files_change_nothing(
    name: str, folder: Folder, ids: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = models.open(folder(name))
    want = fisher(Stream(source, ids, batch=5), seed=SEED)
    outside = Stream(source, ids, batch=5, resident=0, scratch=tmp_path)
    got = fisher(outside, seed=SEED)
    assert all(torch.equal(got.rows[n], want.rows[n]) for n in want.rows)
    monkeypatch.setattr(module, "_LOGITS", 96 * 7)  # the windows have 24 tokens
    assert_same(fisher(Stream(source, ids, batch=1), seed=SEED), want, rtol=1e-4)


def test_the_seed_decides_and_the_global_state_is_untouched(folder: Folder, ids: Tensor) -> None:
    stream = Stream(models.open(folder("qwen3")), ids, batch=2)
    before = torch.random.get_rng_state()
    with torch.no_grad():  # the caller's grad mode does not matter
        first = fisher(stream, seed=SEED)
    second, other = fisher(stream, seed=SEED), fisher(stream, seed=SEED + 1)
    assert torch.equal(torch.random.get_rng_state(), before)
    for name in first.rows:
        assert torch.equal(first.rows[name], second.rows[name])
        if name == stream.source.family.head:  # expected over labels, not drawn
            torch.testing.assert_close(first.rows[name], other.rows[name], rtol=1e-4, atol=0)
        else:
            assert not torch.equal(first.rows[name], other.rows[name])
    assert torch.equal(first.embedding, second.embedding)


def test_rows_of_the_embedding_that_no_token_reads_cost_nothing(
    folder: Folder, ids: Tensor
) -> None:
    embedding = fisher(Stream(models.open(folder("gemma2")), ids), seed=SEED).embedding
    assert torch.equal(embedding > 0, torch.bincount(ids.flatten(), minlength=96) > 0)


def test_one_block_at_a_time_and_no_parameter_has_a_gradient(
    folder: Folder, ids: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = Stream(models.open(folder("phi")), ids, batch=2)
    live: weakref.WeakSet[nn.Module] = weakref.WeakSet()
    load_block, most, done = stream.load, [], []

    def watched(i: int) -> nn.Module:
        most.append(len(live))
        block = load_block(i)
        live.add(block)
        assert not any(p.requires_grad for p in block.parameters())
        return block

    monkeypatch.setattr(stream, "load", watched)
    fisher(stream, seed=SEED, progress=done.append)
    assert most == [0] * 6
    assert done == [1, 2, 3, 4, 5, 6]
    assert all(p.grad is None and not p.requires_grad for p in stream._model.parameters())
    held = [n for n, p in stream._model.named_parameters() if not p.is_meta and p.ndim == 2]
    assert not held
    assert not stream.head._forward_hooks


def test_labels_follow_the_model_and_not_the_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(7, generator=generator)
    logits[2] = -torch.inf
    many = logits.expand(4, 20000, 7)
    labels = sample(many, torch.Generator().manual_seed(1))
    assert labels.shape == (4, 20000)
    share = torch.bincount(labels.flatten(), minlength=7) / labels.numel()
    # four standard errors of a share
    assert float((share - logits.softmax(-1)).abs().max()) < 4 * (0.25 / labels.numel()) ** 0.5
    assert share[2] == 0
    pieces = torch.Generator().manual_seed(1)
    again = torch.cat([sample(part, pieces) for part in many.reshape(-1, 7).split(123)])
    assert torch.equal(labels.flatten(), again)


# 1/2 sum_r G_r (D H D^T)_rr against the divergence itself

Errs = Callable[[Tensor, Tensor], Tensor]  # (input, output) of a module -> its output with an error


def windows(count: int) -> Tensor:
    return torch.randint(96, (count, 24), generator=torch.Generator().manual_seed(5))


def average(source: models.Source, ids: Tensor) -> Fisher:
    """Over several labels for each token."""
    stream = Stream(source, ids, batch=len(ids))
    each = [fisher(stream, seed=seed) for seed in range(6)]
    return Fisher(
        rows={name: torch.stack([f.rows[name] for f in each]).mean(0) for name in each[0].rows},
        embedding=torch.stack([f.embedding for f in each]).mean(0),
        tokens=ids.numel(),
    )


@torch.no_grad()
def log_probabilities(model: Any, ids: Tensor) -> Tensor:
    return model(ids, use_cache=False).logits.double().log_softmax(-1)


def divergence(model: Any, ids: Tensor, p: Tensor, part: nn.Module, errs: Errs) -> float:
    """KL(p || model with an error in `part`), in nats per token."""
    with part.register_forward_hook(lambda _, x, y: errs(x[0], y)):
        q = log_probabilities(model, ids)
    return float((p.exp() * (p - q)).sum(-1).mean())


def ratio(model: Any, ids: Tensor, name: str, G: Tensor, *, signs: bool) -> float:
    """Divergence over prediction, mean over several errors D of one linear.

    With `signs` the error of each token has a random one, as if tokens erred independently.
    """
    linear, seen = model.get_submodule(name), []
    with linear.register_forward_pre_hook(lambda _, x: seen.append(x[0].flatten(0, -2).double())):
        p = log_probabilities(model, ids)
    H = seen[0].T @ seen[0] / len(seen[0])
    generator, found = torch.Generator().manual_seed(9), []
    for _ in range(5):
        D = 1e-2 * torch.randn(len(G), len(H), generator=generator)
        flips = torch.randint(2, (ids.numel(), 1), generator=generator) * 2.0 - 1.0
        per_token = flips if signs else torch.ones_like(flips)
        exact = divergence(
            model,
            ids,
            p,
            linear,
            lambda x, y, D=D, s=per_token: y + x @ D.T * s.view(*x.shape[:-1], 1),
        )
        found.append(exact / float(0.5 * G @ (D.double() @ H @ D.double().T).diagonal()))
    return sum(found) / len(found)


@pytest.mark.parametrize("name", ["gpt2", "gemma2", "opt-narrow"])
def test_it_predicts_the_divergence_of_a_small_error(name: str, folder: Folder) -> None:
    ids, source = windows(16), models.open(folder(name))
    model, found = load(folder(name)), average(source, ids)
    family = source.family
    block = [f"{family.block(1)}.{local}" for local in family.linears(source.config)]
    for full in (*block, family.head):
        assert 0.67 < ratio(model, ids, full, found.rows[full], signs=True) < 1.5, full
        # attention mixes the keys and values of many tokens, to which one D does alike: such terms
        # between tokens are no part of G
        if not full.endswith(("c_attn", "k_proj", "v_proj")):
            assert 0.5 < ratio(model, ids, full, found.rows[full], signs=False) < 2.0, full


@pytest.mark.parametrize("name", ["gemma2", "granite"])
def test_it_predicts_the_divergence_of_a_small_error_of_the_embedding(
    name: str, folder: Folder
) -> None:
    ids, source = windows(16), models.open(folder(name))
    model, found = load(folder(name)), average(source, ids)
    p, table = log_probabilities(model, ids), model.get_input_embeddings()
    generator, ratios = torch.Generator().manual_seed(9), []
    for _ in range(5):
        D = 1e-2 * torch.randn(table.weight.shape, generator=generator)
        change = D * embedding_scale(name)
        exact = divergence(model, ids, p, table, lambda ids, y, c=change: y + c[ids])
        ratios.append(exact / float(0.5 * found.embedding @ D.double().square().sum(1)))
    assert 0.5 < sum(ratios) / len(ratios) < 2.0, ratios

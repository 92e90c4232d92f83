"""A school: whom it asks, what it learns from, and that the best is kept."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from sprue.fleet.imagined import Imagined, imagined
from sprue.fleet.schooling import School, rate_for
from sprue.models import Writer
from sprue.plan.distill import Schedule
from sprue.plan.lesson import Look
from sprue.plan.sketch import spread
from sprue.plan.teach import UNKNOWN
from sprue.plan.written import written
from sprue.proof import load

TOKENS = 16


@pytest.fixture
def full(speaking: Callable[..., Path]) -> Any:
    return load.model(speaking("llama", num_hidden_layers=2), "cpu")


def stream(full: Any, tokens: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randint(5, full.config.vocab_size, (tokens,), generator=g)


def taught(full: Any, folder: Path, steps: int, **changes: Any) -> tuple[Any, list[Look], int]:
    """A student that was disturbed, what was measured, and how many texts the full model read."""
    student = copy.deepcopy(full)
    with torch.no_grad():
        student.model.layers[1].mlp.down_proj.weight.mul_(-3)
    asked = [0]
    hook = full.register_forward_hook(
        lambda module, args, out: asked.__setitem__(0, asked[0] + len(args[0]))
    )
    held = stream(full, 4 * TOKENS, 1).view(4, TOKENS)
    with Writer(folder) as writer:
        school = School(
            full,
            student,
            None,
            [stream(full, 3 * TOKENS, 0)],
            held,
            Schedule(steps=steps, rate=3e-3, tokens=4 * TOKENS),
            writer,
            **changes,
        )
        looks = school.run(None)
    hook.remove()
    return student, looks, asked[0]


def test_the_full_model_reads_every_passage_once(full: Any, tmp_path: Path) -> None:
    _, looks, asked = taught(full, tmp_path / "w", 40)
    places = 1 + (3 * TOKENS - TOKENS) // (TOKENS // 2)
    assert asked == places + 4 * len(looks)


def test_what_it_wrote_it_is_not_asked_about(full: Any, tmp_path: Path) -> None:
    prompts = stream(full, 8 * 2, 3).view(8, 2)
    texts = Imagined(*written(full, prompts, TOKENS))
    student, looks, asked = taught(full, tmp_path / "w", 40, imagined=texts)
    places = 1 + (3 * TOKENS - TOKENS) // (TOKENS // 2)
    assert asked <= places + 4 * len(looks)
    assert looks[-1].kl_nats < looks[0].kl_nats
    assert not any(p.requires_grad for p in student.parameters())


def test_the_best_is_kept(full: Any, tmp_path: Path) -> None:
    student, looks, _ = taught(full, tmp_path / "w", 24)
    ids = stream(full, 4 * TOKENS, 1).view(4, TOKENS)
    with torch.no_grad():
        costs = [
            float(
                -model(ids[:, :-1])
                .logits.log_softmax(-1)
                .gather(-1, ids[:, 1:, None])
                .double()
                .mean()
            )
            for model in (full, student)
        ]
    best = max(look.kept for look in looks)
    assert float(torch.tensor(costs[0] - costs[1]).exp()) == pytest.approx(best, rel=1e-4)


@pytest.mark.parametrize("kept", [None, torch.arange(3, 20)])
def test_what_is_written_is_drawn_from_what_is_said(full: Any, kept: Tensor | None) -> None:
    prompts = torch.tensor([[4, 6], [7, 9]])
    ids, said = written(full, prompts, 9, seed=1, allowed=kept)
    again, _ = written(full, prompts, 9, seed=1, allowed=kept)
    assert torch.equal(ids, again)
    assert torch.equal(ids[:, :2], prompts)
    assert said.classes.shape[:2] == (2, 8)
    whole = ids if kept is None else kept[ids]
    with torch.no_grad():
        logits = full(whole[:, :-1]).logits
    logits = logits if kept is None else logits[..., kept]
    expected = logits.log_softmax(-1).gather(-1, said.classes.long())
    assert torch.allclose(said.logs.float(), expected, atol=2e-2)


def test_tokens_are_drawn_as_likely_as_they_are() -> None:
    p = torch.tensor([0.5, 0.0, 0.2, 0.3, 0.0]).expand(50_000, 5)
    found = spread(p, 1, torch.Generator().manual_seed(0))
    assert found.shape == (50_000, 1)
    shares = torch.bincount(found[:, 0], minlength=5) / len(p)
    assert torch.allclose(shares, p[0], atol=0.01)
    assert float(shares[1]) == float(shares[4]) == 0  # what cannot be is not drawn


def test_three_of_four_passages_are_imagined_and_say_so(full: Any, tmp_path: Path) -> None:
    texts = Imagined(*written(full, stream(full, 16, 3).view(8, 2), TOKENS))
    with Writer(tmp_path / "w") as writer:
        true = stream(full, 3 * TOKENS, 0)
        schedule = Schedule(steps=1, tokens=8 * TOKENS)
        held = true[None, :TOKENS]
        school = School(full, full, None, [true], held, schedule, writer, texts)
        (lines,) = school._lines(TOKENS, 8)(0)
    assert lines.true.tolist() == [True] * 2 + [False] * 6
    assert torch.equal(lines.truth[:2], lines.ids[:2, 1:])
    assert (lines.truth[2:] == UNKNOWN).all()
    among = {tuple(row.tolist()) for row in texts.ids}
    assert all(tuple(row.tolist()) in among for row in lines.ids[2:])


def test_what_is_written_fits_into_memory(full: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    text, schedule = stream(full, 40 * TOKENS, 0), Schedule(steps=100)
    many = imagined(full, text, TOKENS, schedule)
    assert len(many.ids) == 200  # two for each step
    monkeypatch.setattr("sprue.fleet.imagined._MOST", 30_000)
    few = imagined(full, text, TOKENS, schedule)
    assert 0 < len(few.ids) < 10
    assert few.ids.nbytes + few.said.nbytes <= 30_000


def test_wide_models_learn_slowly() -> None:
    assert rate_for(1024) < rate_for(256) == rate_for(256)
    assert rate_for(1) == rate_for(2)

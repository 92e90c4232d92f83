"""How likely a model finds an answer."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from sprue.data.text import Document
from sprue.errors import InputError
from sprue.fleet.flops import flops_of
from sprue.fleet.scoring import Need, Tokens, encoded, needs_of, read
from sprue.proof import load


@pytest.fixture(scope="module")
def talker(speaking: Callable[..., Path]) -> tuple[Any, Any]:
    path = speaking("llama")
    return load.model(path, "cpu"), load.tokenizer(path, path)


NEEDS = [
    Need("the court", " shall have"),
    Need("a model", " of the weight that was"),
    Need("x", "y"),
]


def test_nats_are_those_of_each_answer_alone(talker: tuple[Any, Any]) -> None:
    model, tokenizer = talker
    tokens = [encoded(tokenizer, need) for need in NEEDS]
    for need, found in zip(tokens, read(model, tokens), strict=True):
        logits = model(torch.tensor([need.ids])).logits[0].double().log_softmax(-1)
        rows = logits[len(need.prompt) - 1 : -1]
        expected = -rows.gather(-1, torch.tensor(need.answer)[:, None])[:, 0]
        torch.testing.assert_close(found.nats, expected, atol=1e-5, rtol=1e-5)
        entropy = -(rows.exp() * rows).sum(-1)
        torch.testing.assert_close(found.entropy, entropy, atol=1e-5, rtol=1e-5)
        best = rows.exp().sort(-1, descending=True).values
        torch.testing.assert_close(found.margin, best[:, 0] - best[:, 1], atol=1e-5, rtol=1e-5)


def test_answers_longer_and_longer_take_no_more_memory() -> None:
    """What stays of each must not lie between what goes, so that the next one fits there again."""
    said = torch.rand(1, 160, 4096)

    def model(ids: torch.Tensor, use_cache: bool) -> SimpleNamespace:
        return SimpleNamespace(logits=said[:, : ids.shape[1]].expand(len(ids), -1, -1))

    model.device = torch.device("cpu")  # type: ignore[attr-defined]
    needs = [Tokens((1,) * 48, (2,) * (16 + i // 4)) for i in range(320)]
    read(model, needs[-8:])
    before = _resident()
    found = read(model, needs)
    assert _resident() - before < 100e6  # in pieces of their own: 8 times as much
    kept = [one for each in found for one in (each.nats, each.entropy, each.margin)]
    assert len({one.untyped_storage().data_ptr() for one in kept}) == 1


def _resident() -> int:
    """Bytes of this process that are in memory; 0 where the system does not say."""
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") if file.exists() else 0


def test_a_prompt_that_is_too_long_keeps_its_end(talker: tuple[Any, Any]) -> None:
    _, tokenizer = talker
    whole = encoded(tokenizer, NEEDS[1])
    short = encoded(tokenizer, NEEDS[1], len(whole.answer) + 2)
    assert short == Tokens(whole.prompt[-2:], whole.answer)
    with pytest.raises(InputError, match="reads at most"):
        encoded(tokenizer, NEEDS[1], len(whole.answer))


def test_damaged_weights_are_told(talker: tuple[Any, Any]) -> None:
    import copy

    model = copy.deepcopy(talker[0])
    with torch.no_grad():
        model.model.norm.weight[0] = math.nan
    with pytest.raises(InputError, match="not finite"):
        read(model, [encoded(talker[1], NEEDS[0])])


def test_passages_follow_one_another_in_the_text(talker: tuple[Any, Any]) -> None:
    text = "the court shall have power to hear a model of the weight that was lost in return " * 4
    found = needs_of(talker[1], [Document(text, "f"), Document("too short", "f")], 5, 7)
    assert (
        "".join(need.prompt + need.answer for need in found)
        == text[: len("".join(need.prompt + need.answer for need in found))]
    )
    sizes = {len(talker[1](need.answer, add_special_tokens=False).input_ids) for need in found}
    assert sizes <= {6, 7, 8}  # cut out of its text, a token can become two
    assert needs_of(talker[1], [Document(text, "f")], 5, 7, 3, seed=1) == needs_of(
        talker[1], [Document(text, "f")], 5, 7, 3, seed=1
    )
    with pytest.raises(InputError, match="no document has 5000 tokens"):
        needs_of(talker[1], [Document(text, "f")], 2500, 2500)


def test_flops_of_a_model_by_hand(tiny: str, folder: Callable[..., Path]) -> None:
    """Of every family: what its matrices multiply, counted as it runs."""
    model = load.model(folder(tiny), "cpu")
    done: dict[str, int] = {}

    def count(name: str) -> Callable[..., None]:
        def ran(module: Any, args: Any, output: Any) -> None:
            weight = module.weight
            done[name] = 2 * weight.numel() * output.numel() // output.shape[-1]

        return ran

    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if weight is not None and weight.dim() == 2 and not isinstance(module, torch.nn.Embedding):
            module.register_forward_hook(count(name))
    model(torch.tensor([[5]]))
    found = flops_of(model)
    head = sum(value for name, value in done.items() if name in ("lm_head", "embed_out"))
    outside = sum(value for name, value in done.items() if "project_" in name)
    assert found.head == head
    assert found.body == sum(done.values()) - head - outside

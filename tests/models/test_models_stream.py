"""Streaming block by block equals the ordinary forward, for every family."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from sprue import models
from sprue.errors import InputError
from sprue.models import Stream

Folder = Callable[..., Path]


def whole(path: Path, ids: Tensor) -> Tensor:
    """Logits of the model as `transformers` loads and runs it."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(ids, use_cache=False).logits


def walk(stream: Stream) -> Tensor:
    """Logits of the stream's windows."""
    hidden = stream.embed()
    for i in range(stream.blocks):
        stream.run(stream.load(i), i, hidden, out=hidden)
    return stream.logits(hidden)


def test_the_stream_equals_the_forward(tiny: str, folder: Folder, ids: Tensor) -> None:
    source = models.open(folder(tiny))
    torch.testing.assert_close(
        walk(Stream(source, ids, batch=2)), whole(folder(tiny), ids), atol=1e-5, rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_sources_run_in_float32(
    dtype: torch.dtype, folder: Folder, ids: Tensor
) -> None:
    path = folder("gemma3_text", dtype)
    source = models.open(path)
    assert source.dtype("model.norm.weight") == dtype
    torch.testing.assert_close(
        walk(Stream(source, ids, batch=5)), whole(path, ids), atol=1e-5, rtol=1e-5
    )


def test_groups_name_every_linear_and_share_its_input(
    tiny: str, folder: Folder, ids: Tensor
) -> None:
    from transformers.pytorch_utils import Conv1D

    source = models.open(folder(tiny))
    stream = Stream(source, ids)
    block = stream.load(1)
    linears = {n for n, m in block.named_modules() if isinstance(m, nn.Linear | Conv1D)}
    groups = source.family.groups(source.config)
    assert sorted(source.family.linears(source.config)) == sorted(linears)

    seen: list[tuple[str, Tensor]] = []
    taps = {n: (lambda x, n=n: seen.append((n, x.clone()))) for n in linears}
    stream.run(block, 1, stream.embed(), taps)
    inputs = dict(seen)
    for group in groups:
        first = inputs[group.linears[0]]
        assert first.shape == (ids.numel(), models.get_weight(block, group.linears[0]).shape[1])
        assert all(torch.equal(inputs[n], first) for n in group.linears)
    order = [n for n, _ in seen]
    firsts = [min(order.index(n) for n in group.linears) for group in groups]
    assert firsts == sorted(firsts)


def test_observe_serves_the_same_inputs_and_stops_early(folder: Folder, ids: Tensor) -> None:
    stream = Stream(models.open(folder("llama")), ids, batch=2)
    block, hidden = stream.load(0), stream.embed()
    full: list[Tensor] = []
    early: list[Tensor] = []
    ran: list[int] = []
    stream.run(block, 0, hidden, {"mlp.up_proj": lambda x: full.append(x.clone())})
    block.get_submodule("mlp.down_proj").register_forward_pre_hook(lambda *_: ran.append(1))
    stream.observe(block, 0, hidden, {"mlp.up_proj": lambda x: early.append(x.clone())})
    assert len(early) == 3
    assert torch.equal(torch.cat(full), torch.cat(early))
    assert not ran


def test_taps_end_with_the_run(folder: Folder, ids: Tensor) -> None:
    stream = Stream(models.open(folder("gpt2")), ids)
    block, hidden = stream.load(0), stream.embed()
    calls: list[int] = []
    stream.run(block, 0, hidden, {"mlp.c_fc": lambda x: calls.append(len(x))})
    stream.run(block, 0, hidden)
    assert calls == [ids.numel()]


@pytest.mark.parametrize(("name", "local"), [("gpt2", "attn.c_attn"), ("phi", "mlp.fc1")])
def test_a_matrix_is_out_by_in_and_can_be_replaced(
    name: str, local: str, folder: Folder, ids: Tensor
) -> None:
    source = models.open(folder(name))
    stream = Stream(source, ids)
    block = stream.load(0)
    W = models.get_weight(block, local)
    assert W.shape[1] == 32
    assert torch.equal(W, source.weight(f"{source.family.block(0)}.{local}"))
    got: list[Tensor] = []
    linear = block.get_submodule(local)
    linear.register_forward_hook(lambda m, x, y: got.append((x[0], y)))  # type: ignore[arg-type]
    stream.run(block, 0, stream.embed())
    models.set_weight(block, local, 2 * W)
    stream.run(block, 0, stream.embed())
    (x, before), (_, after) = got[0], got[1]
    torch.testing.assert_close(after - before, x @ W.t(), atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="expected a matrix"):
        models.set_weight(block, local, W.t())


def test_in_place_and_new_results_agree(folder: Folder, ids: Tensor) -> None:
    stream = Stream(models.open(folder("mistral")), ids, batch=3)
    block, hidden = stream.load(0), stream.embed()
    before = hidden.clone()
    new = stream.run(block, 0, hidden)
    assert torch.equal(hidden, before)
    assert stream.run(block, 0, hidden, out=hidden) is hidden
    assert torch.equal(hidden, new)


def test_activations_in_a_file_change_nothing(folder: Folder, ids: Tensor, tmp_path: Path) -> None:
    source = models.open(folder("qwen2"))
    inside = walk(Stream(source, ids, batch=2))
    outside = walk(Stream(source, ids, batch=2, resident=0, scratch=tmp_path))
    assert torch.equal(inside, outside)
    assert not list(tmp_path.iterdir())


def test_replaced_embedding_reaches_both_ends(folder: Folder, ids: Tensor) -> None:
    source = models.open(folder("llama"))
    name = "model.embed_tokens.weight"
    table = source.tensor(name) * 1.5
    stream = Stream(source, ids, replaced={name: table})
    torch.testing.assert_close(stream.embed(), 1.5 * Stream(source, ids).embed())
    plain = Stream(source, ids)
    hidden = plain.embed()
    torch.testing.assert_close(stream.logits(hidden), 1.5 * plain.logits(hidden))


def test_weights_come_and_go(folder: Folder, ids: Tensor) -> None:
    stream = Stream(models.open(folder("phi")), ids)
    hidden = stream.hidden
    first = stream.logits(hidden)
    big = [n for n, p in stream._model.named_parameters() if not p.is_meta and p.ndim == 2]
    assert big == ["lm_head.weight"]
    stream.release()
    assert not [n for n, p in stream._model.named_parameters() if not p.is_meta and p.ndim == 2]
    assert torch.equal(stream.logits(hidden), first)


def test_the_global_random_state_is_untouched(folder: Folder, ids: Tensor) -> None:
    before = torch.random.get_rng_state()
    walk(Stream(models.open(folder("gemma3_text")), ids))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_config_of_the_source_is_untouched(folder: Folder, ids: Tensor) -> None:
    source = models.open(folder("gemma2"))
    before = source.config.to_dict()
    walk(Stream(source, ids))
    assert source.config.to_dict() == before


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (torch.full((2, 8), 96), "another model"),
        (torch.full((2, 8), -1), "another model"),
        (torch.zeros(0, 8, dtype=torch.long), "windows, context"),
        (torch.zeros(1, 65, dtype=torch.long), "learned 64 positions"),
    ],
)
def test_unusable_windows_are_refused(wrong: Tensor, message: str, folder: Folder) -> None:
    with pytest.raises(InputError, match=message):
        Stream(models.open(folder("gpt2")), wrong)

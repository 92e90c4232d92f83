"""Networks whose fat is known, and what is found of it."""

from __future__ import annotations

import copy
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from sprue.data.examples import Examples
from sprue.errors import InputError
from sprue.models import nets
from sprue.plan.inspect import changes, inspect
from sprue.plan.meaning import answers_of
from sprue.structure import findings, matrices
from sprue.structure.findings import Findings, LayerFindings


class Net(nn.Module):
    """Inner channels of which four repeat others and two never fire; a head of rank two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.each = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.up, self.down = nn.Conv2d(8, 12, 1), nn.Conv2d(12, 8, 1)
        self.middle, self.head = nn.Linear(8, 16), nn.Linear(16, 6)
        self.never = nn.Linear(5, 5)
        with torch.no_grad():
            self.up.weight[6:10] = 2 * self.up.weight[:4]
            self.up.bias[6:10] = 2 * self.up.bias[:4]  # type: ignore[index]
            self.up.bias[10:] = -100  # type: ignore[index]
            self.middle.weight[:] = self.middle.weight[:, :2] @ self.middle.weight[:2]
            self.head.weight[:, :3] = 0

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x + self.each(x)
        x = x + self.down(torch.relu(self.up(x)))
        return 4 * self.head(torch.tanh(self.middle(x.mean((2, 3)))))


@pytest.fixture(scope="module")
def net() -> nets.Net:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Net().eval()
    return nets.Net(module, nets.IMAGES, ("x",), (torch.zeros(2, 3, 8, 8),), Path("x"), ((0,),))


@pytest.fixture(scope="module")
def images() -> Examples:
    x = torch.randn(96, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    return Examples((x + x.mean((2, 3), keepdim=True) * 8,), None, "")


@pytest.fixture(scope="module")
def found(net: nets.Net, images: Examples) -> Findings:
    return inspect(net, images)


def layer(found: Findings, name: str) -> LayerFindings:
    return next(x for x in found.layers if x.name == name)


def test_every_layer_is_there_with_its_size(found: Findings, net: nets.Net) -> None:
    assert [x.name for x in found.layers] == ["stem", "each", "up", "down", "middle", "head"]
    assert found.idle == (("never", 30),)
    assert (layer(found, "stem").out, layer(found, "stem").width) == (8, 27)
    assert layer(found, "each").kind == "Conv2d, depthwise"
    assert layer(found, "up").macs == 64 * 96
    assert found.macs == 64 * (8 * 27 + 8 * 9 + 2 * 96) + 8 * 16 + 16 * 6
    assert found.seen == 8 * 27 + 72 + 192 + 128 + 96
    assert found.parameters == net.parameters
    assert found.examples == (48, 48)


def test_what_was_put_there_is_found(found: Findings) -> None:
    down, up, middle, head = (layer(found, n) for n in ("down", "up", "middle", "head"))
    assert down.dead_inputs == 2
    assert down.repeated_inputs is not None
    assert down.repeated_inputs >= 4
    assert down.spare_inputs is not None
    assert down.spare_inputs >= 6
    assert down.spare_kind == findings.INPUTS
    assert up.dead_outputs == 2
    assert up.repeated_outputs is not None
    assert up.repeated_outputs >= 4
    assert middle.rank == 2
    assert (middle.spare, middle.spare_kind) == (128 - 2 * 24, findings.DIRECTIONS)
    assert middle.dead_outputs == 3
    assert head.dead_inputs == 3
    assert head.dead_connections is not None
    assert head.dead_connections >= 18
    assert layer(found, "stem").spare < 0.4 * layer(found, "stem").parameters
    assert found.spare >= 30 + 80 + 48


def test_contributions_are_counted(found: Findings) -> None:
    for x in found.layers:
        assert sum(x.contributions) == x.parameters
    below = sum(layer(found, "head").contributions[:16])  # a thousandth of the output
    assert below == layer(found, "head").dead_connections


def test_repeated_features_need_positions(net: nets.Net, images: Examples) -> None:
    few = inspect(net, images.some(range(20)), positions=24)
    assert layer(few, "middle").repeated_outputs is None  # 16 outputs, 10 positions in each half
    assert layer(few, "middle").repeated_inputs is not None
    assert layer(few, "down").repeated_inputs is None  # 12 of each half


def measured(net: nets.Net, name: str, D: Tensor, images: Examples) -> float:
    other = copy.deepcopy(net.module)
    module: Any = other.get_submodule(name)
    with torch.no_grad():
        module.weight += matrices.shaped(module, D)
        a, b = (m(*images.inputs).double() for m in (net.module, other))
    return answers_of(net).apart(a, b)


def test_damages_come_true(found: Findings, net: nets.Net, images: Examples) -> None:
    """Those that are small, on the examples that they are predicted for."""
    predicted = {(o.layer, o.technique): o for x in found.layers for o in x.options}
    held = images.some(range(1, 96, 2))
    seen = 0
    for name, change in changes(net, images):
        option = predicted.pop((name, change.technique))
        assert option.nbytes == change.nbytes
        truth = measured(net, name, change.D, held)
        if 1e-6 < truth < 0.02:
            assert option.nats == pytest.approx(truth, rel=0.3, abs=4 * option.spread)
            seen += 1
    assert not predicted
    assert seen > 15


def test_more_draws_say_it_more_surely(net: nets.Net, images: Examples) -> None:
    one, many = (inspect(net, images, draws=n).everywhere(findings.INT4) for n in (1, 16))
    assert many.spread < 0.5 * one.spread
    assert one.nats == pytest.approx(many.nats, abs=4 * one.spread)


def test_options_are_sorted_by_what_they_are_worth(found: Findings) -> None:
    worth = [o.nbytes / max(o.nats, 1e-12) for o in found.options]
    assert worth == sorted(worth, reverse=True)
    assert all(o.nbytes > 0 for o in found.options)
    whole = found.everywhere(findings.INT8)
    mine = [o for x in found.layers for o in x.options if o.technique == findings.INT8]
    assert len(mine) == len(found.layers)
    assert whole.nbytes == sum(o.nbytes for o in mine)
    assert whole.nats == pytest.approx(sum(o.nats for o in mine))
    assert whole.nats < found.everywhere(findings.INT4).nats
    assert findings.RANK in found.offered()


def test_the_same_seed_finds_the_same_and_changes_nothing(net: nets.Net, images: Examples) -> None:
    before = copy.deepcopy(net.module.state_dict())
    state = torch.random.get_rng_state()
    a, b = (
        inspect(net, images.some(range(16)), seed=3),
        inspect(net, images.some(range(16)), seed=3),
    )
    assert a == b
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(before[k], v) for k, v in net.module.state_dict().items())
    assert all(p.requires_grad for p in net.module.parameters())
    c = inspect(net, images.some(range(16)), seed=4)
    assert a.everywhere(findings.INT8).nats != c.everywhere(findings.INT8).nats


def test_chunks_and_batches_change_next_to_nothing(
    net: nets.Net, images: Examples, found: Findings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sprue.plan.inspect._HELD", 1)
    words: list[str] = []
    apart = inspect(net, images, progress=words.append)
    assert sum("what they read" in w or "layers read" in w for w in words) == len(found.layers)
    for a, b in zip(apart.layers, found.layers, strict=True):
        assert a == b
    fixed = replace(net, varying=((),), example=(torch.zeros(1, 3, 8, 8),))
    single = inspect(fixed, images)
    for x, y in zip(single.layers, found.layers, strict=True):
        assert (x.spare, x.rank, x.dead_outputs) == (y.spare, y.rank, y.dead_outputs)


def test_vectors_and_very_wide_layers(
    net: nets.Net, images: Examples, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sprue.plan.look.WIDEST", 10)
    monkeypatch.setattr("sprue.plan.inspect.WIDEST", 10)
    found = inspect(replace(net, task=nets.SENTENCES), images.some(range(20)))
    wide = layer(found, "head")
    assert (wide.spare_inputs, wide.rank, wide.spare_by_inputs) == (None, None, 0)
    assert wide.dead_inputs == 3
    assert layer(found, "middle").rank == 2
    assert found.everywhere(findings.INT8).nats > 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"error": 0}, "error must be a share above 0 and below 1, got 0"),
        ({"share": 1.0}, "share must be a share above 0 and below 1, got 1"),
        ({"r2": float("nan")}, "r2 must be a share above 0 and below 1, got nan"),
    ],
)
def test_shares_out_of_range_are_refused(
    options: dict[str, Any], message: str, net: nets.Net, images: Examples
) -> None:
    with pytest.raises(InputError, match=message):
        inspect(net, images, **options)


def test_examples_that_cannot_be_used_are_refused(net: nets.Net, images: Examples) -> None:
    with pytest.raises(InputError, match=r"expected two examples or more, .* got 1"):
        inspect(net, images.some([0]))
    bad = images.some(range(4))
    bad.inputs[0][2, 0, 0, 0] = torch.nan
    with pytest.raises(InputError, match="the examples hold NaN or Inf"):
        inspect(net, bad)
    bare = replace(net, module=nn.Flatten().eval())
    with pytest.raises(InputError, match="no layer of this network is known"):
        inspect(bare, images.some(range(4)))


class Causal(nn.Module):
    """A language model as a network: logits of every token."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, ids: Tensor) -> Tensor:
        logits: Tensor = self.model(input_ids=ids).logits
        return logits


@pytest.fixture(scope="module", params=[True, False])
def llama(request: Any) -> nets.Net:
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=48,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=32,
        tie_word_embeddings=request.param,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).eval()
        for parameter in model.parameters():
            parameter.data.mul_(8) if parameter.dim() > 1 else None
    return nets.Net(
        Causal(model), nets.TOKENS, ("ids",), (torch.ones(2, 12, dtype=torch.int64),), Path("x")
    )


def test_a_language_model_is_a_network_too(llama: nets.Net) -> None:
    ids = torch.randint(48, (24, 12), generator=torch.Generator().manual_seed(1))
    examples = Examples((ids,), None, "")
    found = inspect(llama, examples, draws=16)
    names = [x.name for x in found.layers]
    tied = llama.module.model.config.tie_word_embeddings  # type: ignore[union-attr]
    assert len(names) == 14 + (1 if tied else 2)
    assert found.seen == sum(p.numel() for p in llama.module.parameters() if p.dim() > 1)
    assert ("model.model.embed_tokens" in names) is not tied
    assert layer(found, "model.lm_head").macs == 12 * 48 * 16
    predicted = {(o.layer, o.technique): o for x in found.layers for o in x.options}
    held, seen = examples.some(range(1, 24, 2)), 0
    for name, change in changes(llama, examples):
        truth = measured(llama, name, change.D, held)
        if 1e-6 < truth < 0.05:
            option = predicted[name, change.technique]
            assert option.nats == pytest.approx(truth, rel=0.4, abs=4 * option.spread)
            seen += 1
    assert seen >= 10


def test_padding_counts_for_nothing() -> None:
    """A text with more padding has the same figures."""

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.head = nn.Embedding(9, 4), nn.Linear(4, 3)

        def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
            out: Tensor = self.head(self.words(ids) * 3)
            return out

    with torch.random.fork_rng():
        torch.manual_seed(0)
        module = Reader().eval()
    ids = torch.randint(1, 9, (8, 6), generator=torch.Generator().manual_seed(2))
    figures = []
    for padding in (0, 3):
        x = nn.functional.pad(ids, (0, padding))
        mask = nn.functional.pad(torch.ones_like(ids), (0, padding))
        net = nets.Net(
            module, nets.TOKENS, ("input_ids", "attention_mask"), (x[:2], mask[:2]), Path("x")
        )
        found = inspect(net, Examples((x, mask), None, ""), draws=200)
        figures.append(found)
    for a, b in zip(*(f.layers for f in figures), strict=True):
        assert a.positions == b.positions
        assert a.contributions == b.contributions
        assert a.rank == b.rank
        for c, d in zip(a.options, b.options, strict=True):
            assert c.nats == pytest.approx(d.nats, abs=5 * (c.spread + d.spread))


def test_base6m_from_the_assets() -> None:
    folder = Path(os.environ.get("SPRUE_ASSETS", "")) / "models/base6m"
    if not (folder / "config.json").is_file():
        pytest.skip("SPRUE_ASSETS names no folder with models/base6m")
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from sprue import data

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    text = data.read([folder.parents[1] / "text/stories/valid.txt"])
    ids = data.windows(AutoTokenizer.from_pretrained(folder), text, 64, 8, 0)
    net = nets.Net(Causal(model), nets.TOKENS, ("ids",), (ids[:2],), folder)
    found = inspect(net, Examples((ids.to(torch.int64),), None, ""), draws=1, positions=256)
    assert len(found.layers) == 43
    assert found.seen > 0.99 * found.parameters
    whole = {t: found.everywhere(t).nats for t in found.offered()}
    assert 0 < whole[findings.INT8] < 0.05 * whole[findings.INT4]
    assert whole[findings.INT4] < whole[findings.SPARSE]

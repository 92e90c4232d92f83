"""Dropping experts, on tiny instances of the real classes; the results need no sprue."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from sprue import cli, models
from sprue.errors import ArtifactError, InputError
from sprue.experts import drop
from sprue.runtime import artifact
from sprue.verify import verify

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False}


def run(path: Path, ids: Tensor) -> Tensor:
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: Tensor = model(ids, use_cache=False).logits
    return logits.log_softmax(-1)


@pytest.fixture(scope="module")
def ids(speaking: Folder, corpus: Folder) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(speaking("olmoe"))
    return torch.tensor(tokenizer(corpus(9).read_text()[:120]).input_ids).reshape(5, 24)


def by_hand(source: Path, calibration: Tensor, block: str) -> list[float]:
    """REAP's importance in the slow way, from hooks on the whole model."""
    model: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    model.requires_grad_(False)
    experts, seen = model.get_submodule(f"{block}.mlp.experts"), []
    experts.register_forward_pre_hook(lambda m, inputs: seen.append(inputs))
    with torch.no_grad():
        for window in calibration:
            model(window[None], use_cache=False)
    total, count = [0.0] * 4, [0] * 4
    for x, chosen, gates in seen:
        for token, picks, weights in zip(x, chosen.tolist(), gates.tolist(), strict=True):
            for e, weight in zip(picks, weights, strict=True):
                gate, up = (experts.gate_up_proj[e] @ token).chunk(2)
                out = experts.down_proj[e] @ (experts.act_fn(gate) * up)
                total[e], count[e] = total[e] + weight * float(out.norm()), count[e] + 1
    return [t / max(c, 1) for t, c in zip(total, count, strict=True)]


def test_every_kind(
    mixture: str, speaking: Folder, corpus: Folder, ids: Tensor, tmp_path: Path
) -> None:
    source = speaking(mixture)
    report = drop(source, tmp_path / "out", 0.5, calibrate=[corpus()], **QUICK)
    told = artifact.check(report.out)
    sparse = [i for i in range(3) if not (mixture == "qwen2_moe" and i == 1)]
    assert [b.module for b in report.blocks] == [f"model.layers.{i}" for i in sparse]
    assert told["drop"] == {"share": 0.5, "experts": 4, "kept": 2}
    model: Any = AutoModelForCausalLM.from_pretrained(report.out, dtype=torch.float32)
    original: Any = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    for block in report.blocks:
        mine, theirs = (m.get_submodule(f"{block.module}.mlp") for m in (model, original))
        assert torch.equal(mine.gate.weight, theirs.gate.weight[block.kept])
        assert torch.equal(mine.experts.down_proj, theirs.experts.down_proj[block.kept])
        assert torch.equal(mine.experts.gate_up_proj, theirs.experts.gate_up_proj[block.kept])
        order = sorted(range(4), key=lambda e, b=block: -b.importance[e])  # type: ignore[misc]
        assert block.kept == sorted(order[:2])
    assert torch.isfinite(run(report.out, ids)).all()
    assert told["bytes"] == sum(p.nbytes for p in model.parameters())


@pytest.mark.parametrize("name", ["mixtral", "qwen2_moe"])
def test_importance_is_reap(name: str, speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    from sprue.plan import calibration

    source = speaking(name)
    report = drop(source, tmp_path / "out", 0.25, calibrate=[corpus()], **QUICK)
    texts = calibration.read(models.open(source, models.MIXTURES), [corpus()], 8, 32, 0)
    for block in (report.blocks[0], report.blocks[-1]):
        expected = by_hand(source, texts.ids, block.module)
        assert block.importance == pytest.approx(expected, rel=1e-4)


def unequal(source: Path, out: Path) -> Path:
    """A copy in which two experts of every block get nearly all the weight that the router gives.

    Their rows are large and opposite: whatever a token is like, one of the two has a high score.
    """
    shutil.copytree(source, out)
    tensors = load_file(out / "model.safetensors")
    for block, (a, b) in enumerate(((0, 1), (1, 3), (0, 2))):
        rows = tensors[f"model.layers.{block}.mlp.gate.weight"]
        rows[a] *= 20
        rows[b] = -rows[a]
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_it_beats_dropping_at_random(
    speaking: Folder, corpus: Folder, ids: Tensor, tmp_path: Path
) -> None:
    source = unequal(speaking("olmoe"), tmp_path / "source")
    p, lost = run(source, ids), {}
    for name, criterion, seed in (("reap", "reap", 0), ("r0", "random", 0), ("r1", "random", 1)):
        out = tmp_path / name
        drop(source, out, 0.5, criterion=criterion, seed=seed, calibrate=[corpus()], **QUICK)
        lost[name] = float((p.exp() * (p - run(out, ids))).sum(-1).mean())
    assert lost["reap"] < 0.2 * min(lost["r0"], lost["r1"])


def test_it_loads_without_sprue(speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    out = drop(speaking("mixtral"), tmp_path / "out", 0.5, calibrate=[corpus()], **QUICK).out
    code = (
        "import sys; from transformers import AutoModelForCausalLM as A; "
        f"m, told = A.from_pretrained({str(out)!r}, output_loading_info=True); "
        "assert not any(told.values()), told; assert 'sprue' not in sys.modules; "
        "assert m.config.num_local_experts == 2"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=120)


def test_the_same_bytes_twice(speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    before = torch.random.get_rng_state()
    for name in ("a", "b"):
        drop(speaking("qwen3_moe"), tmp_path / name, 0.5, calibrate=[corpus()], **QUICK)
    a, b = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in "ab")
    assert a == b
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    speaking: Folder, corpus: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    how: dict[str, Any] = {"calibrate": [corpus()], **QUICK}
    drop(speaking("olmoe"), tmp_path / "whole", 0.5, **how)
    monkeypatch.setattr("sprue.plan.drop.INTERVAL", 0.0)
    load = models.Stream.load

    def dies(self: models.Stream, i: int) -> nn.Module:
        if i == 2:
            raise KeyboardInterrupt
        return load(self, i)

    with monkeypatch.context() as patch:
        patch.setattr(models.Stream, "load", dies)
        with pytest.raises(KeyboardInterrupt, match="goes on from here"):
            drop(speaking("olmoe"), tmp_path / "out", 0.5, **how)
    drop(speaking("olmoe"), tmp_path / "out", 0.5, **how)
    a, b = ({f.name: f.read_bytes() for f in (tmp_path / n).iterdir()} for n in ("whole", "out"))
    assert a == b


def test_verify_measures_it_and_notices_damage(
    speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    source = speaking("olmoe")
    out = drop(source, tmp_path / "out", 0.25, calibrate=[corpus()], **QUICK).out
    how: dict[str, Any] = {"context": 32, "costs": False, "progress": False}
    report = verify(source, out, [corpus(9)], **how)
    assert 0 < report.quality.kept.value < 1.2
    assert report.nbytes[1] < report.nbytes[0]
    shard = out / "model-model-layers-0.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(ArtifactError, match="changed or damaged"):
        verify(source, out, [corpus(9)], **how)


def test_bad_input_leaves_nothing(speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    how: dict[str, Any] = {"calibrate": [corpus()], **QUICK}
    out = tmp_path / "out"
    with pytest.raises(InputError, match="a token computes 2: drop 50% at most"):
        drop(speaking("mixtral"), out, 0.75, **how)
    with pytest.raises(InputError, match="less than one"):
        drop(speaking("mixtral"), out, 0.1, **how)
    with pytest.raises(InputError, match="Only models that have experts"):
        drop(speaking("llama"), out, 0.5, **how)
    assert not [*tmp_path.iterdir()]


def test_experts_that_are_missing_or_of_another_shape(
    speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    key = "model.layers.0.mlp.experts.2.up_proj.weight"
    for change, message in (
        (lambda tensors: tensors.pop(key), "lacks 1 of"),
        (lambda tensors: tensors.update({key: tensors[key][:-1].clone()}), "asks for"),
        (lambda tensors: tensors[key].fill_(float("nan")), "NaN or infinite"),
    ):
        source = tmp_path / "source"
        shutil.copytree(speaking("olmoe"), source)
        tensors = load_file(source / "model.safetensors")
        change(tensors)
        save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(InputError, match=message):
            drop(source, tmp_path / "out", 0.5, calibrate=[corpus()], **QUICK)
        shutil.rmtree(source)
        assert not [*tmp_path.iterdir()]


def test_command_line(
    speaking: Folder, corpus: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["experts", speaking("mixtral"), "--out", tmp_path / "out", "--drop", "50%"]
    words += ["--calibrate", corpus(), "--windows", 4, "--context", 32, "--quiet", "--json"]
    assert cli.main([*map(str, words)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [len(block["kept"]) for block in told["layers"]] == [2, 2, 2]

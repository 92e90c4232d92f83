"""The verb `experts`, end to end, on tiny instances of every family that it knows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from sprue import cli, models
from sprue.errors import ArtifactError, InputError, ResourceError, SprueError
from sprue.experts import ExpertsReport, experts
from sprue.plan import forecast, lesson
from sprue.plan.split import Split
from sprue.runtime import artifact
from sprue.runtime.experts import Experts
from sprue.verify import verify

Folder = Callable[..., Path]
QUICK: dict[str, Any] = {"windows": 8, "context": 32, "progress": False}
HALF = Split(experts=4, active=2)
KNOWN = ("llama", "ministral", "gemma3_text", "phi", "phi3", "gpt2", "gpt_neox", "stablelm")
REFUSED = ("opt", "opt-narrow")


def run(path: Path, ids: Tensor) -> Tensor:
    """Logits of a folder as a user loads it, less their mean, which means nothing."""
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        logits: Tensor = model(ids, use_cache=False).logits
    return logits - logits.mean(-1, keepdim=True)


def divergence(original: Tensor, result: Tensor) -> float:
    """KL in nats per token."""
    p, q = original.log_softmax(-1), result.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def contents(path: Path) -> dict[str, bytes]:
    """Every file but those that tell the time."""
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.fixture(scope="module")
def ids(speaking: Folder, corpus: Folder) -> Tensor:
    """Windows of a text like the calibration text, but another one."""
    tokenizer = AutoTokenizer.from_pretrained(speaking("gpt2", num_hidden_layers=2))
    return torch.tensor(tokenizer(corpus(9).read_text()[:120]).input_ids).reshape(5, 24)


@pytest.fixture(scope="module")
def made(
    speaking: Folder, corpus: Folder, tmp_path_factory: pytest.TempPathFactory
) -> ExpertsReport:
    """Half of a tiny Llama's experts; read only."""
    out = tmp_path_factory.mktemp("made") / "out"
    return experts(speaking("llama", num_hidden_layers=2), out, HALF, calibrate=[corpus()], **QUICK)


@pytest.mark.parametrize("name", KNOWN)
def test_every_family(
    name: str, speaking: Folder, corpus: Folder, ids: Tensor, tmp_path: Path
) -> None:
    source = speaking(name, num_hidden_layers=3 if name in ("ministral", "gemma3_text") else 2)
    whole = experts(source, tmp_path / "whole", Split(4, 4), calibrate=[corpus()], **QUICK)
    before = run(source, ids)
    # all experts of all compute: nothing is lost but rounding
    assert divergence(before, run(whole.out, ids)) < 1e-6
    half = experts(source, tmp_path / "half", HALF, calibrate=[corpus()], **QUICK)
    assert 0 < divergence(before, run(half.out, ids)) < 0.5
    check(half, source)


def check(report: ExpertsReport, source: Path) -> None:
    """What holds for every result: its figures are those of its files."""
    told, original = artifact.check(report.out), models.open(source)
    assert json.loads(json.dumps({k: v for k, v in told.items() if k != "files"})) == json.loads(
        json.dumps(report.artifact)
    )
    model = AutoModelForCausalLM.from_pretrained(report.out)
    assert told["parameters"]["total"] == sum(p.numel() for p in model.parameters())
    layers = [m for m in model.modules() if isinstance(m, Experts)]
    assert len(layers) == original.blocks
    idle = sum(
        sum(sorted(sum(p.numel() for p in e.parameters()) for e in m.experts)[: -m.active])
        for m in layers
    )
    assert told["parameters"]["active"] == told["parameters"]["total"] - idle
    assert told["feed_forward"]["share"] == pytest.approx(share_of(layers), abs=1e-9)
    weights = sum(prod(original.shape(name)) for name in original.entries)
    assert weights <= told["parameters"]["total"] < 1.3 * weights


def share_of(layers: list[Experts]) -> float:
    """Entries of the matrices that a token is multiplied with, over those of all experts."""
    now = dense = 0.0
    for layer in layers:
        each = [sum(p.numel() for p in e.parameters() if p.ndim > 1) for e in layer.experts]
        always = 0
        if layer.shared is not None:
            always = sum(p.numel() for p in layer.shared.parameters() if p.ndim > 1)
        now += always + sum(sorted(each)[-layer.active :]) + layer.router.weight.numel()
        dense += always + sum(each)
    return now / dense


@pytest.mark.parametrize("name", REFUSED)
def test_layers_that_are_no_modules_are_refused(
    name: str, speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="no modules of their own"):
        experts(speaking(name), tmp_path / "out", HALF, calibrate=[corpus()], **QUICK)
    assert not [*tmp_path.iterdir()]


def test_every_family_is_known_or_refused(tiny_types: set[str]) -> None:
    lacking = {t for f in models.FAMILIES if f.feed_forward is None for t in f.model_types}
    assert lacking == {"opt"}


def test_it_beats_chance_and_repair_helps(
    speaking: Folder, corpus: Folder, ids: Tensor, tmp_path: Path
) -> None:
    source = speaking("llama", num_hidden_layers=2)
    before, lost = run(source, ids), {}
    for name, split in {
        "chance": Split(4, 2, grouping="random", router="random", repair=False),
        "unrepaired": Split(4, 2, repair=False),
        "repaired": Split(4, 2),
    }.items():
        out = tmp_path / name
        experts(source, out, split, calibrate=[corpus()], **(QUICK | {"windows": 64}))
        lost[name] = divergence(before, run(out, ids))
    assert lost["unrepaired"] < 0.8 * lost["chance"]
    assert lost["repaired"] < 0.8 * lost["unrepaired"]


def test_shared_experts_always_compute(speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    source = speaking("gpt2", num_hidden_layers=2)
    report = experts(source, tmp_path / "out", Split(4, 2, shared=1), calibrate=[corpus()], **QUICK)
    layout = report.layers[0].layout
    assert (layout["shared"], layout["routed"], layout["active"]) == (32, [32, 32, 32], 1)
    check(report, source)
    assert all(sum(layer.load) == pytest.approx(1) for layer in report.layers)


def test_the_same_bytes_twice_and_no_global_generator(
    speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    source, before = speaking("llama", num_hidden_layers=2), torch.random.get_rng_state()
    for name in ("a", "b"):
        experts(source, tmp_path / name, HALF, steps=2, calibrate=[corpus()], **QUICK)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")
    assert torch.equal(before, torch.random.get_rng_state())
    experts(source, tmp_path / "c", HALF, steps=2, calibrate=[corpus(1)], **QUICK)
    shard = "model-model-layers-0.safetensors"
    assert contents(tmp_path / "a")[shard] != contents(tmp_path / "c")[shard]


def test_distillation_brings_the_student_nearer(
    speaking: Folder, corpus: Folder, ids: Tensor, tmp_path: Path
) -> None:
    source = speaking("llama", num_hidden_layers=2)
    before = run(source, ids)
    plain = experts(source, tmp_path / "plain", HALF, calibrate=[corpus()], **QUICK)
    taught = experts(source, tmp_path / "taught", HALF, steps=30, calibrate=[corpus()], **QUICK)
    assert taught.looks[-1].kl_nats < 0.7 * taught.looks[0].kl_nats
    assert divergence(before, run(taught.out, ids)) < divergence(before, run(plain.out, ids))
    assert [look.step for look in taught.looks][::12] == [0, 30]
    assert len(taught.losses) == 30


def test_minutes_end(speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    source = speaking("llama", num_hidden_layers=2)
    report = experts(source, tmp_path / "out", HALF, tune=1e-4, calibrate=[corpus()], **QUICK)
    assert report.looks[-1].step == len(report.losses) >= 1


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    speaking: Folder, corpus: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = speaking("llama", num_hidden_layers=2)
    how: dict[str, Any] = {"calibrate": [corpus()], **QUICK}
    whole = experts(source, tmp_path / "whole", HALF, steps=6, **how)
    monkeypatch.setattr("sprue.plan.convert.INTERVAL", 0.0)
    monkeypatch.setattr(lesson, "INTERVAL", 0.0)
    for limit in (1, 3):  # dies after the first block, then after three steps
        with monkeypatch.context() as patch:
            die_after(patch, limit)
            with pytest.raises(KeyboardInterrupt, match="goes on from here"):
                experts(source, tmp_path / "out", HALF, steps=6, **how)
    assert not (tmp_path / "out").exists()
    resumed = experts(source, tmp_path / "out", HALF, steps=6, **how)
    assert resumed.losses == whole.losses
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def die_after(patch: pytest.MonkeyPatch, limit: int) -> None:
    """Ctrl-C at the second block, or at the fourth step."""
    from sprue.models import Stream
    from sprue.plan.distill import Distillation

    load, advance = Stream.load, Distillation.advance

    def loading(self: Stream, i: int) -> nn.Module:
        if limit == 1 and i == 1:
            raise KeyboardInterrupt
        return load(self, i)

    def advancing(self: Distillation[Any]) -> float:
        if self.step == limit:
            raise KeyboardInterrupt
        return advance(self)

    patch.setattr(Stream, "load", loading)
    patch.setattr(Distillation, "advance", advancing)


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ({"experts": 1}, "expected 2 experts or more"),
        ({"active": 9}, "1 to all of them active"),
        ({"active": 0}, "1 to all of them active"),
        ({"shared": 2}, "fewer shared experts than active"),
        ({"shared": -1}, "fewer shared experts than active"),
        ({"grouping": "luck"}, "expected a grouping of"),
    ],
)
def test_splits_that_make_no_sense(split: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Split(**split)


def test_bad_input_leaves_nothing(
    speaking: Folder, corpus: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, out = speaking("llama", num_hidden_layers=2), tmp_path / "there" / "out"
    how: dict[str, Any] = {"calibrate": [corpus()], **QUICK}
    with pytest.raises(InputError, match="have 48 neurons"):
        experts(source, out, Split(64, 2), **how)
    with pytest.raises(InputError, match="steps and"):
        experts(source, out, HALF, steps=2, tune=1.0, **how)
    with pytest.raises(InputError, match="cannot write"):
        experts(source, out, HALF, report=tmp_path / "none" / "r.html", **how)
    with pytest.raises(InputError, match="--drop"):
        experts(speaking("mixtral"), out, HALF, **how)
    with pytest.raises(SprueError, match="no such data file"):
        experts(source, out, HALF, calibrate=[tmp_path / "none.txt"], **QUICK)
    monkeypatch.setattr(forecast.psutil, "virtual_memory", lambda: _Available())
    with pytest.raises(ResourceError, match="more memory"):
        experts(source, out, HALF, **how)
    assert not [*tmp_path.iterdir()]


class _Available:
    available = 1000


def test_damaged_weights_are_refused(speaking: Folder, corpus: Folder, tmp_path: Path) -> None:
    source = Path(shutil.copytree(speaking("llama", num_hidden_layers=2), tmp_path / "source"))
    tensors = load_file(source / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match="NaN or infinite"):
        experts(source, tmp_path / "out", HALF, calibrate=[corpus()], **QUICK)
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_tampering_and_missing_tensors_are_refused(made: ExpertsReport, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(made.out, tmp_path / "copy"))
    shard = copy / "model-model-layers-0.safetensors"
    sound = shard.read_bytes()
    shard.write_bytes(sound[:-1] + bytes([sound[-1] ^ 1]))
    with pytest.raises(ArtifactError, match="changed or damaged"):
        AutoModelForCausalLM.from_pretrained(copy)
    tensors = load_file(made.out / shard.name)
    del tensors["model.layers.0.mlp.experts.1.up.weight"]
    save_file(tensors, shard, metadata={"format": "pt"})
    artifact.seal(copy)
    with pytest.raises(ArtifactError, match=r"experts\.1\.up\.weight is in none"):
        AutoModelForCausalLM.from_pretrained(copy)


def test_a_layout_that_the_model_does_not_have_is_refused(
    made: ExpertsReport, tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(made.out, tmp_path / "copy"))
    config = json.loads((copy / "config.json").read_text())
    listed = config["quantization_config"]["experts"]
    listed["model.layers.7.mlp"] = listed.pop("model.layers.1.mlp")
    (copy / "config.json").write_text(json.dumps(config))
    artifact.seal(copy)
    with pytest.raises(ArtifactError, match=r"model\.layers\.7\.mlp"):
        AutoModelForCausalLM.from_pretrained(copy)


def test_saved_again_it_loads_again(made: ExpertsReport, ids: Tensor, tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(made.out, dtype=torch.float32)
    model.save_pretrained(tmp_path / "again")
    artifact.seal(tmp_path / "again", like=made.out)
    assert torch.equal(run(tmp_path / "again", ids), run(made.out, ids))


def test_verify_measures_it(
    made: ExpertsReport, speaking: Folder, corpus: Folder, tmp_path: Path
) -> None:
    source = speaking("llama", num_hidden_layers=2)
    page = tmp_path / "report.html"
    report = verify(
        source, made.out, [corpus(9)], context=32, costs=False, report=page, progress=False
    )
    assert 0 < report.quality.kept.value < 1.2
    assert json.loads((made.out / "sprue.json").read_text())["verdict"] is not None
    assert "No matrix of the result is packed" in page.read_text()


def test_command_line_and_page(
    speaking: Folder, corpus: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, page = speaking("llama", num_hidden_layers=2), tmp_path / "page.html"
    words = ["experts", source, "--out", tmp_path / "out", "--experts", 4, "--active", 2]
    words += ["--steps", 2, "--calibrate", corpus(), "--windows", 8, "--context", 32, "--quiet"]
    assert cli.main([*map(str, words), "--json", "--report", str(page)]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [look["step"] for look in told["looks"]] == [0, 1, 2]
    assert told["split"]["active"] == 2
    html = page.read_text()
    assert html.count("<svg") == 4 + 2
    assert "http" not in html.replace("http://www.w3.org/2000/svg", "").replace("http-equiv", "")
    for layer in told["layers"]:
        assert layer["module"] in html


def test_the_command_line_says_what_is_wrong(
    speaking: Folder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = str(speaking("llama", num_hidden_layers=2)), str(tmp_path / "out")
    assert cli.main(["experts", source, "--out", out, "--active", "9"]) == 2
    assert cli.main(["experts", source, "--out", out, "--drop", "50%", "--active", "2"]) == 2
    assert "--active beside --drop" in capsys.readouterr().err
    for words in (["--tune", "0"], ["--steps", "0"], ["--tune", "1", "--steps", "1"]):
        with pytest.raises(SystemExit) as stopped:
            cli.main(["experts", source, "--out", out, *words])
        assert stopped.value.code == 2

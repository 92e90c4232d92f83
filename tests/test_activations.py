"""`sprue activations` from end to end on tiny models of the real classes."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from sprue import cli, data, demo, models
from sprue.activations import activations
from sprue.errors import BudgetError, InputError
from sprue.models import Stream, Writer
from sprue.plan import artifact, calibration, keeping, zeros
from sprue.plan.zeros_walk import ZerosWalk
from sprue.proof import load, quality
from sprue.runtime.zeros import counted
from sprue.verify import verify
from sprue.weights import kernels

SMALL: dict[str, Any] = {"windows": 12, "context": 24, "progress": False}
FAMILIES = ("llama", "gpt2", "qwen2", "gemma2", "opt", "gpt_neox", "phi3")


@pytest.fixture(scope="module")
def made(
    speaking: Callable[..., Path],
    corpus: Callable[..., Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[..., Path]:
    """family, dtype -> an artifact with half of its activations zero; made once."""
    kept: dict[tuple[str, torch.dtype], Path] = {}

    def make(family: str, dtype: torch.dtype = torch.float32) -> Path:
        if (family, dtype) not in kept:
            out = tmp_path_factory.mktemp(family) / "out"
            activations(speaking(family, dtype), out, zeros=0.5, calibrate=[corpus()], **SMALL)
            kept[family, dtype] = out
        return kept[family, dtype]

    return make


def _told(out: Path) -> dict[str, Any]:
    told: dict[str, Any] = json.loads((out / "sprue.json").read_text(encoding="utf-8"))
    return told


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_loads_and_does_what_it_says(
    family: str, made: Callable[..., Path], speaking: Callable[..., Path], ids: torch.Tensor
) -> None:
    out = made(family)
    told = _told(out)
    assert told["activations"]["met"] == pytest.approx(0.5, abs=0.03)
    model = AutoModelForCausalLM.from_pretrained(out).eval()
    reference = AutoModelForCausalLM.from_pretrained(speaking(family)).eval()
    for name, row in told["tensors"].items():
        module, old = model.get_submodule(name), reference.get_submodule(name)
        W = module.dense()
        old.weight.data = W.T.contiguous() if family == "gpt2" else W
        old.register_forward_pre_hook(
            lambda _, x, t=row["threshold"]: (torch.where(x[0].abs() <= t, 0.0, x[0]),)
        )
    with torch.no_grad():
        expected = reference(ids).logits
        torch.testing.assert_close(model(ids).logits, expected, rtol=1e-3, atol=1e-3)
        # one token at a time: the columns that meet a zero are not read
        cache, steps = None, []
        for token in ids[:1].split(1, dim=1):
            step = model(token, past_key_values=cache, use_cache=True)
            cache = step.past_key_values
            steps.append(step.logits)
    torch.testing.assert_close(torch.cat(steps, 1), expected[:1], rtol=1e-3, atol=1e-3)


def test_the_dtype_stays(made: Callable[..., Path]) -> None:
    out = made("llama", torch.bfloat16)
    tensors = {k: v for shard in out.glob("*.safetensors") for k, v in load_file(shard).items()}
    assert {t.dtype for t in tensors.values()} == {torch.bfloat16}
    modules = json.loads((out / "config.json").read_text())["quantization_config"]["modules"]
    layout = modules["model.layers.0.mlp.down_proj"]
    assert layout["grid"] == "columns"
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (48, 32)
    assert 0 <= layout["threshold"]["zeros"] < 1


def test_the_figures_agree_with_one_another(made: Callable[..., Path]) -> None:
    told = _told(made("llama"))
    rows, found = told["tensors"].values(), told["activations"]
    skipped = sum(row["zeros"] * row["weights"] for row in rows)
    assert found["met"] == pytest.approx(skipped / sum(row["weights"] for row in rows))
    weights = sum(row["weights"] for row in rows)
    head = 259 * 32
    assert found["flops"]["original"] == 2 * (weights + head)
    assert found["flops"]["result"] == pytest.approx(
        2 * (weights * (1 - found["met"]) + head), abs=99
    )
    assert [row["zeros"] for row in found["curve"]] == sorted(
        row["zeros"] for row in found["curve"]
    )
    assert all(row["shared_out"] <= row["even"] + 1e-12 for row in found["curve"])


def test_same_seed_same_bytes_and_the_global_generators_stay(
    speaking: Callable[..., Path],
    corpus: Callable[..., Path],
    made: Callable[..., Path],
    tmp_path: Path,
) -> None:
    before = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    activations(speaking("llama"), tmp_path / "a", zeros=0.5, calibrate=[corpus()], **SMALL)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.get_state()[1]).all()
    assert before[2] == random.getstate()
    assert _hashes(tmp_path / "a") == _hashes(made("llama"))
    activations(speaking("llama"), tmp_path / "b", zeros=0.5, calibrate=[corpus(1)], **SMALL)
    assert _hashes(tmp_path / "b") != _hashes(tmp_path / "a")


def test_without_kernels_a_fallback_is_told_and_the_bytes_stay(
    speaking: Callable[..., Path],
    corpus: Callable[..., Path],
    made: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(kernels, "library", lambda: None)
    out = tmp_path / "out"
    report = activations(speaking("llama"), out, zeros=0.5, calibrate=[corpus()], **SMALL)
    assert "note: the C kernels were not built" in report.table()
    first, second = _hashes(out), _hashes(made("llama"))
    first.pop("sprue.json"), second.pop("sprue.json")
    assert first == second


def _hashes(out: Path) -> dict[str, str]:
    files = [f for f in out.iterdir() if f.name != "README.md"]
    return {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_more_is_kept_than_with_the_same_share_everywhere(base6m: Path, tmp_path: Path) -> None:
    """On the embedded model; with so few tokens that a fit has to hold back."""
    files = demo.calibration_files()
    source = models.open(str(base6m))
    ids = calibration.read(source, files, 8, 64, 0).ids
    levels = zeros.share_out(zeros.measure(Stream(source, ids, 8), 0), 0.5)
    ways = {
        "ours": ({name: level.share for name, level in levels.items()}, True),
        "unaimed": ({name: level.share for name, level in levels.items()}, False),
        "even": (dict.fromkeys(levels, 0.5), False),
    }
    original = load.model(base6m, "cpu")
    tokenizer = load.tokenizer(base6m, base6m)
    windows = data.windows(tokenizer, data.read(demo.test_files()), 64, 8, 0)
    kl = {}
    for name, (shares, shift) in ways.items():
        with Writer(tmp_path / name) as writer:
            records = ZerosWalk(source, ids, shares, writer, shift=shift).run()
            artifact.seal(writer, source, records, {})
        result = load.model(tmp_path / name, "cpu")
        kl[name] = float(quality.compare(original, result, windows).kl.mean())
    assert kl["ours"] < kl["unaimed"] < 0.75 * kl["even"]


def test_zeros_are_counted_where_a_model_runs(made: Callable[..., Path], ids: torch.Tensor) -> None:
    model = AutoModelForCausalLM.from_pretrained(made("llama")).eval()
    with counted(model) as found, torch.no_grad():
        assert found.share is None
        model(ids)
    assert found.share is not None
    assert set(found.shares) == set(_told(made("llama"))["tensors"])
    seen = dict(found.seen)
    with torch.no_grad():
        model(ids)
    assert found.seen == seen  # no longer counted
    name = "model.layers.0.self_attn.q_proj"
    inputs: list[torch.Tensor] = []
    model.get_submodule(name).register_forward_pre_hook(lambda _, x: inputs.append(x[0]))
    with torch.no_grad():
        model(ids)
    limit = model.get_submodule(name).layout["threshold"]["value"]
    assert found.shares[name] == float((inputs[0].abs() <= limit).double().mean())


def test_the_command_line_and_its_page(
    speaking: Callable[..., Path],
    corpus: Callable[..., Path],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = tmp_path / "zeros.html"
    words = ["activations", str(speaking("gpt2")), "--out", str(tmp_path / "out"), "--zeros", "40%"]
    words += ["--calibrate", str(corpus()), "--windows", "6", "--context", "24", "--quiet"]
    assert cli.main([*words, "--report", str(page), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(page.with_suffix(".json").read_text(encoding="utf-8"))
    html = page.read_text(encoding="utf-8")
    assert html.count("<svg") >= 4
    assert "http://" not in html.replace("http://www.w3.org/2000/svg", "")
    assert "https://" not in html
    for row in printed["tensors"].values():
        assert f"{100 * row['zeros']:.1f}%" in html
    verified = verify(
        speaking("gpt2"), tmp_path / "out", [corpus(2)], context=24, costs=False, progress=False
    ).as_dict()
    assert 0.2 < verified["zeros"]["share"] < 0.6
    assert set(verified["zeros"]["shares"]) == set(printed["tensors"])


@pytest.mark.parametrize("share", ["0%", "100%", "101%", "-5%", "half", "nan"])
def test_impossible_shares_are_refused(share: str, base6m: Path, tmp_path: Path) -> None:
    words = ["activations", str(base6m), "--out", str(tmp_path / "out"), f"--zeros={share}"]
    try:
        code = cli.main(words)
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    assert code == 2
    assert not any(tmp_path.iterdir())


def test_more_zeros_than_are_tried_are_refused(
    speaking: Callable[..., Path], corpus: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(BudgetError, match=r"at most at 97.5%, received 99%"):
        activations(speaking("llama"), tmp_path / "out", zeros=0.99, calibrate=[corpus()], **SMALL)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("report", ["missing/zeros.html", "zeros.json", "."])
def test_a_page_that_cannot_be_written_is_refused_first(
    report: str, base6m: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="expected the name of an HTML file"):
        activations(base6m, tmp_path / "out", zeros=0.5, report=tmp_path / report)
    assert not any(tmp_path.iterdir())


def _damaged(source: Path, out: Path, change: Callable[[torch.Tensor], None]) -> Path:
    out.mkdir()
    for file in source.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    tensors = load_file(out / "model.safetensors")
    change(tensors["model.layers.1.mlp.up_proj.weight"])
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


@pytest.mark.parametrize(("value", "message"), [(float("nan"), "NaN"), (1e38, "not finite")])
def test_weights_that_cannot_be_measured_are_refused(
    value: float,
    message: str,
    speaking: Callable[..., Path],
    corpus: Callable[..., Path],
    tmp_path: Path,
) -> None:
    model = _damaged(speaking("llama"), tmp_path / "bad", lambda W: W.fill_(value))
    with pytest.raises(InputError, match=message):
        activations(model, tmp_path / "out", zeros=0.5, calibrate=[corpus()], **SMALL)
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_refused(base6m: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        activations(base6m, tmp_path, zeros=0.5)


def test_an_artifact_cannot_be_made_of_an_artifact(
    made: Callable[..., Path], corpus: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(InputError):
        activations(made("llama"), tmp_path / "out", zeros=0.5, calibrate=[corpus()], **SMALL)


@pytest.mark.parametrize("block", [0, 2])
def test_a_run_that_was_interrupted_goes_on_and_ends_with_the_same_bytes(
    block: int,
    made: Callable[..., Path],
    speaking: Callable[..., Path],
    corpus: Callable[..., Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keeping, "OVERHEAD", float("inf"))
    out, real = tmp_path / "out", ZerosWalk._block

    def stop(self: ZerosWalk, stream: Stream, i: int, *rest: Any) -> None:
        if i == block:
            raise KeyboardInterrupt
        real(self, stream, i, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(ZerosWalk, "_block", stop)
        with pytest.raises(KeyboardInterrupt, match="give the same command again"):
            activations(speaking("llama"), out, zeros=0.5, calibrate=[corpus()], **SMALL)
    assert not out.exists()
    monkeypatch.setattr("sprue.activations.measure", lambda *_: pytest.fail("measured again"))
    activations(speaking("llama"), out, zeros=0.5, calibrate=[corpus()], **SMALL)
    assert _hashes(out) == _hashes(made("llama"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

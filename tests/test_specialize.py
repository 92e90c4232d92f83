"""A specialist, from text or a log to a folder that is admitted or not."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from sprue.cli import main
from sprue.errors import BudgetError, InputError
from sprue.fleet.served import Served
from sprue.fleet.specialist import told_of
from sprue.plan.distill import Distillation
from sprue.proof import load
from sprue.specialize import Asked, specialize

SAID = "the court shall hear what a tenant owes under the lease and what is due to the owner"
WORDS = SAID.split()


def text(documents: int, words: int, seed: int) -> str:
    rng = np.random.default_rng(seed)
    return "<|endoftext|>".join(" ".join(rng.choice(WORDS, words)) for _ in range(documents))


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, speaking: Callable[..., Path]
) -> SimpleNamespace:
    """A specialist of half the FLOPs, made by the command; attributes: files, report, code."""
    folder = tmp_path_factory.mktemp("specialist")
    data, other = folder / "law.txt", folder / "other.txt"
    data.write_text(text(40, 60, 0), encoding="utf-8")
    other.write_text(text(3, 60, 1)[::-1], encoding="utf-8")
    out, figures, page = folder / "law", folder / "law.json", folder / "law.html"
    words = [
        "specialize",
        str(speaking("llama", num_hidden_layers=2)),
        "--capability",
        "law/leases",  # any name, not only one of a file
        "--data",
        str(data),
    ]
    words += ["--out", str(out), "--flops", "50%", "--size", "60%", "--steps", "12", "--quiet"]
    words += ["--beside", str(other), "--figures", str(figures), "--report", str(page)]
    code = main([*words, "--context", "32", "--keep", "1%"])
    return SimpleNamespace(
        folder=folder,
        data=data,
        out=out,
        page=page,
        code=code,
        figures=json.loads(figures.read_text(encoding="utf-8")),
        words=words,
    )


def test_what_is_asked_for_is_met_and_told(made: SimpleNamespace) -> None:
    told = made.figures
    assert made.code == 0
    assert told["admitted"]
    assert told["flops"]["specialist"] <= 0.5 * told["flops"]["full"]
    assert told["bytes"]["specialist"] <= 0.6 * told["bytes"]["full"]
    assert told["own"]["needs"] >= 2
    assert told["forgotten"][0]["name"] == "other"
    assert len(told["losses"]) == 12
    assert told["losses"][-1] < told["losses"][0]
    assert told["looks"][0]["step"] == 0
    assert told["looks"][-1]["step"] == 12
    assert told_of(made.out)["statement"] == told["statement"]
    assert "law" in made.page.read_text(encoding="utf-8")


def test_the_figures_are_those_of_the_folder(made: SimpleNamespace) -> None:
    told, model = made.figures, load.model(made.out, "cpu")
    assert load.nbytes(load.stored(made.out)) == told["bytes"]["specialist"]
    config = model.config
    assert told["shape"]["neurons"]["specialist"] == config.intermediate_size
    assert told["shape"]["layers"]["specialist"] == config.num_hidden_layers == len(told["layers"])
    logits = model(torch.tensor([[5, 6, 7]])).logits
    assert torch.isfinite(logits).all()
    assert logits.shape[-1] == config.vocab_size


def test_it_learned(made: SimpleNamespace) -> None:
    kept = [look["kept"] for look in made.figures["looks"]]
    assert max(kept) > kept[0]


def test_what_is_not_good_enough_is_kept_and_said(
    made: SimpleNamespace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "strict"
    words = list(made.words)
    words[words.index("--out") + 1] = str(out)
    words[words.index("--steps") + 1] = "0"
    code = main([*words[:-4], "--context", "32", "--keep", "100%"])
    assert code == 1
    assert "NOT admitted" in capsys.readouterr().out
    assert told_of(out)["admitted"] is False
    assert not list(tmp_path.glob(".*"))  # nothing half-made is left


def test_the_same_bytes_twice(
    tmp_path: Path, made: SimpleNamespace, speaking: Callable[..., Path]
) -> None:
    asked = Asked("law", size="60%", flops=0.6, keep=0.01, steps=3, context=32)
    state, found = torch.get_rng_state(), []
    for name in ("a", "b"):
        specialize(
            speaking("llama", num_hidden_layers=2),
            [made.data],
            tmp_path / name,
            asked,
            beside=[made.data],
        )
        found.append(dict(load.model(tmp_path / name, "cpu").state_dict().items()))
    assert torch.equal(state, torch.get_rng_state())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path,
    made: SimpleNamespace,
    speaking: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = Asked("law", size="60%", flops=0.6, keep=0.01, steps=6, context=32)
    how: dict[str, Any] = {"beside": [made.data], "resume": True}
    model = speaking("llama", num_hidden_layers=2)
    whole = specialize(model, [made.data], tmp_path / "whole", asked, **how)
    monkeypatch.setattr("sprue.plan.lesson.INTERVAL", 0.0)
    with monkeypatch.context() as patch:
        watched(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            specialize(model, [made.data], tmp_path / "out", asked, **how)
    other = replace(asked, steps=7)
    with pytest.raises(InputError, match="another budget"):
        specialize(model, [made.data], tmp_path / "out", other, **how)
    steps = watched(monkeypatch)
    again = specialize(model, [made.data], tmp_path / "out", asked, **how)
    assert steps == [3, 4, 5]
    assert again.losses == whole.losses
    a, b = (load.model(tmp_path / name, "cpu").state_dict() for name in ("out", "whole"))
    assert all(torch.equal(a[name], b[name]) for name in b)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "whole"]


def watched(patch: pytest.MonkeyPatch, limit: int | None = None) -> list[int]:
    """The steps of teaching that are taken from now on; Ctrl-C before step `limit`."""
    advance, steps = Distillation.advance, list[int]()

    def advancing(self: Distillation[Any]) -> float:
        if self.step == limit:
            raise KeyboardInterrupt
        steps.append(self.step)
        return advance(self)

    patch.setattr(Distillation, "advance", advancing)
    return steps


def test_requests_of_a_log_are_its_text(
    tmp_path: Path, made: SimpleNamespace, speaking: Callable[..., Path]
) -> None:
    rows = []
    for i in range(40):
        content = {"role": "user", "content": text(1, 50, i)}
        answer = {"message": {"role": "assistant", "content": text(1, 20, 100 + i)}}
        told = {"capability": "law" if i % 2 else "code"}
        rows.append({"model": "m", "messages": [content], "choices": [answer], "metadata": told})
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, rows)) + "\n{\n", encoding="utf-8")
    asked = Asked("law", size="60%", flops=0.9, keep=0.01, steps=0, context=32)
    out = tmp_path / "law"
    found = specialize(
        speaking("llama", num_hidden_layers=2), [log], out, asked, beside=[made.data]
    ).as_dict()
    assert sum(found["documents"].values()) in (20, 21)  # one may be cut for the proof
    assert found["skipped_lines"] == 1
    with pytest.raises(InputError, match="no text of 'cooking'"):
        specialize(speaking("llama", num_hidden_layers=2), [log], tmp_path / "no", Asked("cooking"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keep": 0.0}, "a share to keep"),
        ({"flops": 1.5}, "a share of FLOPs"),
        ({"minutes": 1.0, "steps": 3}, "state one"),
        ({"steps": -1}, "below 0"),
        ({"capability": "  "}, "name of a capability"),
    ],
)
def test_what_cannot_be_asked_for(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Asked(**{"capability": "law", **changes})


def test_what_cannot_be_done_leaves_nothing(
    tmp_path: Path, made: SimpleNamespace, speaking: Callable[..., Path]
) -> None:
    model, out = speaking("llama", num_hidden_layers=2), tmp_path / "out"
    with pytest.raises(BudgetError, match="cannot be met"):
        specialize(model, [made.data], out, Asked("law", flops=0.001, context=32))
    with pytest.raises(InputError, match="no text given"):
        specialize(model, [], out, Asked("law"))
    with pytest.raises(InputError, match="no such data file"):
        specialize(model, [tmp_path / "none.txt"], out, Asked("law"))
    with pytest.raises(InputError, match="context of 16 to 64"):
        specialize(model, [made.data], out, Asked("law", context=4096))
    (tmp_path / "short.txt").write_text("too short", encoding="utf-8")
    with pytest.raises(InputError):
        specialize(model, [tmp_path / "short.txt"], out, Asked("law", context=32, steps=1))
    with pytest.raises(InputError, match="cannot write"):
        specialize(model, [made.data], out, Asked("law"), report=tmp_path / "no" / "r.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["short.txt"]


def test_the_light_kind_is_a_part_over_a_shared_base(
    tmp_path: Path, made: SimpleNamespace, speaking: Callable[..., Path]
) -> None:
    base, found = tmp_path / "base", []
    for name, seed in (("law", 0), ("lease", 1)):
        asked = Asked(
            name, size="60%", keep=0.01, steps=8, context=32, seed=seed, base=str(base), rank=4
        )
        out = tmp_path / name
        found.append(
            specialize(
                speaking("llama", num_hidden_layers=2), [made.data], out, asked, beside=[made.data]
            )
        )
    assert found[0].as_dict()["base_bytes"] == load.nbytes(load.stored(base))
    assert found[0].nbytes[1] < found[0].as_dict()["base_bytes"]
    assert max(look["kept"] for look in found[0].looks) > found[0].looks[0]["kept"]
    law, lease = (Served.load(name, tmp_path / name) for name in ("law", "lease"))
    weights = [
        one.model.get_submodule("model.layers.0.mlp.up_proj").base.weight for one in (law, lease)
    ]
    assert weights[0].data_ptr() == weights[1].data_ptr()  # one base in memory
    ids = torch.tensor([[5, 6, 7, 8]])
    assert not torch.equal(law.model(ids).logits, lease.model(ids).logits)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of peft itself
def test_peft_reads_such_a_part(
    tmp_path: Path, made: SimpleNamespace, speaking: Callable[..., Path]
) -> None:
    peft = pytest.importorskip("peft", reason="peft is not installed")
    base = speaking("llama", num_hidden_layers=2)
    asked = Asked("law", keep=0.01, steps=4, context=32, base=str(base), rank=4)
    specialize(base, [made.data], tmp_path / "law", asked, beside=[made.data])
    law, ids = Served.load("law", tmp_path / "law"), torch.tensor([[5, 6, 7, 8]])
    over = peft.PeftModel.from_pretrained(load.model(base, "cpu"), tmp_path / "law")
    assert not torch.equal(law.model(ids).logits, load.model(base, "cpu")(ids).logits)
    torch.testing.assert_close(over(ids).logits, law.model(ids).logits, atol=1e-4, rtol=1e-4)


def test_adapters_of_another_base_or_damaged_ones_are_refused(
    tmp_path: Path, made: SimpleNamespace, speaking: Callable[..., Path]
) -> None:
    base, out = speaking("llama", num_hidden_layers=2), tmp_path / "law"
    asked = Asked("law", keep=0.01, steps=0, context=32, base=str(base), rank=2)
    specialize(base, [made.data], out, asked, beside=[made.data])
    told = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    other = speaking("llama", num_hidden_layers=1)
    (out / "adapter_config.json").write_text(
        json.dumps({**told, "base_model_name_or_path": str(other)}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="adapter of another model"):
        Served.load("law", out)
    (out / "adapter_config.json").write_text("{}", encoding="utf-8")
    with pytest.raises(InputError, match="names no base"):
        Served.load("law", out)
    (out / "adapter_config.json").write_text(
        json.dumps(told | {"base_model_name_or_path": "../nowhere"}), encoding="utf-8"
    )
    with pytest.raises(InputError, match="which is not there"):
        Served.load("law", out)
    (out / "adapter_config.json").write_text(json.dumps(told), encoding="utf-8")
    (out / "adapter_model.safetensors").write_bytes(b"none")
    with pytest.raises(InputError, match="cannot be read"):
        Served.load("law", out)

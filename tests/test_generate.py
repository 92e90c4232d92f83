"""The verb generate, on the embedded model packed to 8 bits."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from sprue import runtime
from sprue.errors import ArtifactError, InputError
from sprue.generate import Sample, Samples, generate
from sprue.runtime.load import load
from sprue.runtime.quantizer import replace
from sprue.weights import packed
from sprue.weights.grids import integer

PROMPT = "Once upon a time there was a"


@pytest.fixture(scope="module")
def small(base6m: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    model, modules = load(base6m), {}
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Embedding) and name != "lm_head":
            stored = integer.round_to_nearest(module.weight.detach(), 8, 64, True, search=False)
            shape = (module.weight.shape[0], module.weight.shape[1])
            modules[name] = packed.Packed(shape, *stored, 0.0)
    layouts = {name: packed.layout(stored) for name, stored in modules.items()}
    replace(model, layouts)
    for name, stored in modules.items():
        model.get_submodule(name).load_state_dict(stored.tensors, assign=True)
    model.config.quantization_config = runtime.quantization_config(layouts)
    folder = tmp_path_factory.mktemp("generate") / "small"
    model.save_pretrained(folder)
    for file in base6m.glob("tokenizer*"):
        shutil.copy(file, folder)
    runtime.seal(folder)
    return folder


def test_both_models_side_by_side(small: Path, base6m: Path) -> None:
    samples = generate(small, PROMPT, beside=base6m, max_new_tokens=12)
    assert [sample.model for sample in samples] == [str(small), str(base6m)]
    for sample in samples:
        assert 0 < sample.tokens <= 12
        assert sample.text
        assert not sample.text.startswith(PROMPT)
        assert sample.tokens_per_second == sample.tokens / sample.seconds > 0
    table = samples.table()
    assert f"{small}  ({samples[0].tokens} tokens, " in table
    assert f"{base6m}  ({samples[1].tokens} tokens, " in table


def test_greedy_is_what_transformers_says(base6m: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(base6m), load(base6m)
    ids = tokenizer(PROMPT, return_tensors="pt").input_ids
    whole = model.generate(ids, max_new_tokens=15, do_sample=False)[0]
    expected = tokenizer.decode(whole, skip_special_tokens=True)
    assert PROMPT + generate(base6m, PROMPT, max_new_tokens=15)[0].text == expected


def test_sampling_follows_the_seed_and_touches_no_global_state(small: Path) -> None:
    state = torch.get_rng_state()
    texts = [
        generate(small, PROMPT, max_new_tokens=20, temperature=1.5, seed=seed)[0].text
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_it_stops_where_the_context_ends(base6m: Path) -> None:
    prompt = "a " * 240
    sample = generate(base6m, prompt, max_new_tokens=50, temperature=1.0)[0]
    assert sample.tokens < 50
    with pytest.raises(InputError, match="has a context of 256: shorten the prompt"):
        generate(base6m, "a " * 300)


def test_what_cannot_be_run_is_said(small: Path, base6m: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the prompt is empty"):
        generate(base6m, "")
    with pytest.raises(InputError, match=r"at least 1 token .* received 0 and 0"):
        generate(base6m, PROMPT, max_new_tokens=0)
    with pytest.raises(InputError, match="received 5 and nan"):
        generate(base6m, PROMPT, max_new_tokens=5, temperature=float("nan"))
    with pytest.raises(InputError, match="no such folder"):
        generate(tmp_path / "nothing", PROMPT)
    shutil.copytree(base6m, tmp_path / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
    with pytest.raises(InputError, match="has no tokenizer that can be loaded"):
        generate(tmp_path / "mute", PROMPT)
    broken = shutil.copytree(small, tmp_path / "broken")
    (broken / "sprue.json").unlink()
    with pytest.raises(ArtifactError, match=r"sprue\.json is missing"):
        generate(broken, PROMPT)


def test_no_time_is_no_speed() -> None:
    assert Samples([Sample("m", "", 0, 0.0)])[0].tokens_per_second == 0

"""On every layer of a real model, methods order as theory says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer

from sprue import demo
from sprue.plan import presets
from sprue.weights import packed
from sprue.weights.decompose import decompose
from sprue.weights.problem import relative_error

WINDOWS, CONTEXT = 2, 256
LAYERS = [
    f"{block}.{local}"
    for block in range(6)
    for local in (
        *(f"self_attn.{n}_proj" for n in "qkvo"),
        *(f"mlp.{n}_proj" for n in ("gate", "up", "down")),
    )
]

Layers = dict[str, tuple[Tensor, Tensor]]


@pytest.fixture(scope="module")
def layers() -> Layers:
    """Weights and second moment of the inputs of every linear: a plain forward, with hooks."""
    model = AutoModelForCausalLM.from_pretrained(demo.model_path(), dtype=torch.float32)
    moments: dict[str, Tensor] = {}
    linears = {n: m for n, m in model.model.layers.named_modules() if isinstance(m, nn.Linear)}
    for name, linear in linears.items():

        def add(_: nn.Module, inputs: tuple[Tensor, ...], name: str = name) -> None:
            x = inputs[0].flatten(0, -2)
            moments[name] = moments.get(name, torch.zeros(())) + x.T @ x / (CONTEXT * WINDOWS * 4)

        linear.register_forward_pre_hook(add)
    with torch.no_grad():
        model(_windows(demo.calibration_files()))
    return {n: (m.weight.detach(), moments[n]) for n, m in linears.items()}


def _windows(files: tuple[Path, ...]) -> Tensor:
    tokenizer = AutoTokenizer.from_pretrained(demo.model_path())
    count = WINDOWS * CONTEXT
    texts = [tokenizer(file.read_text()[: 20 * count])["input_ids"][:count] for file in files]
    return torch.tensor(texts).view(-1, CONTEXT)


def _errors(W: Tensor, H: Tensor, bits: float) -> dict[str, float]:
    """Relative errors by preset; each has at most as many bits as the one before."""
    errors, shape = {}, (W.shape[0], W.shape[1])
    for preset in ("rtn", "gptq", "caldera"):
        choice = presets.choices(preset, {"W": shape}, bits)["W"]
        # an eighth of the states, in an eighth of the time: the order holds with 5% to spare less
        found = decompose(W, H, replace(choice, state_bits=9))
        assert found.bits_per_weight <= bits
        errors[preset], bits = found.error, found.bits_per_weight
    return errors


def test_every_layer_is_met(layers: Layers) -> None:
    assert sorted(layers) == sorted(LAYERS)


@pytest.mark.parametrize(
    ("name", "bits"), [(n, 2.6) for n in LAYERS] + [(n, 4.3) for n in LAYERS[::14]]
)
def test_rounding_then_gptq_then_caldera(layers: Layers, name: str, bits: float) -> None:
    error = _errors(*layers[name], bits)
    # measured 0.35 to 0.70 and 0.30 to 0.55: 10% of room for another processor's rounding
    assert error["gptq"] < 0.77 * error["rtn"]
    assert error["caldera"] < 0.62 * error["gptq"]


def test_calibration_is_used(layers: Layers) -> None:
    """A layer packed under the inputs of another block serves its own inputs worse."""
    for local in ("self_attn.q_proj", "mlp.up_proj"):
        (W, H), (_, other) = layers[f"1.{local}"], layers[f"4.{local}"]
        for preset in ("gptq", "caldera"):
            choice = presets.choices(preset, {"W": (W.shape[0], W.shape[1])}, 2.6)["W"]
            choice = replace(choice, state_bits=9)
            theirs, own = decompose(W, other, choice), decompose(W, H, choice)
            W_hat = packed.dense(theirs.meta, theirs.tensors)
            assert own.error < 0.9 * relative_error(W, W_hat, H)
